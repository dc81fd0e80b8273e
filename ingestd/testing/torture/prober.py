"""Asks the query socket all the time, from outside: how long the answers were away, and how long each took."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from ingestd.client import Client
from ingestd.errors import IngestdError

__all__ = ["Prober"]

#: Between two questions [s].
_INTERVAL_S = 0.05

#: Patience for one answer [s]; the next question goes to a new socket.
_TIMEOUT_S = 0.5


class Prober:
    """Pings in a thread, as a `with` block.

    Parameters
    ----------
    endpoint
        Of the query socket.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        #: Of each answered question [ms].
        self.latencies_ms: list[float] = []
        #: Questions without an answer in time.
        self.unanswered_count = 0
        #: Longest time from one answer to the next [s].
        self.longest_gap_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        answered_s = time.monotonic()
        with Client(self._endpoint, timeout_s=_TIMEOUT_S, retries=0) as client:
            while not self._stop.wait(_INTERVAL_S):
                asked_s = time.monotonic()
                try:
                    client.ping()
                except IngestdError:
                    self.unanswered_count += 1
                    continue
                now_s = time.monotonic()
                self.latencies_ms.append((now_s - asked_s) * 1e3)
                self.longest_gap_s = max(self.longest_gap_s, now_s - answered_s)
                answered_s = now_s
