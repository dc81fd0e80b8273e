"""The finisher: records and releases what the threads of an uploader have stored, several at once.

A record is a transaction of the catalog, which costs as much for ten entries as for three. So stored entries wait a
moment for others; they stay claimed until they are recorded and released, and whoever dies meanwhile leaves entries
whose objects are found again, equal, by the next try. The objects are in the store all the while: nobody who reads the
bucket waits for this.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from ingestd.roles.storing import Stored
from ingestd.spool import Claim

__all__ = ["Finished", "Finisher"]

#: How long a stored entry waits for others [s]: answers may be a second old.
LINGER_S = 0.05

#: Entries that are recorded at once, at the most [count].
BATCH_MAX_COUNT = 64

#: Longest time for the last batch at a stop [s].
_JOIN_S = 0.8


class Finished(NamedTuple):
    """A claim whose pair is stored, when its upload began [s, monotonic], and whether it waits for no others."""

    claim: Claim
    stored: Stored
    began_s: float
    at_once: bool = False


class Finisher:
    """A thread that finishes entries in batches, as a `with` block that finishes the last ones at its end.

    Parameters
    ----------
    finish
        Records and releases a batch; must not raise.
    """

    def __init__(self, finish: Callable[[Sequence[Finished]], None]) -> None:
        self._finish = finish
        self._waiting: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join(_JOIN_S)

    def add(self, finished: Finished) -> None:
        """Hand over a claim whose pair is stored."""
        self._waiting.put(finished)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            batch, goes_on = self._batch()
            if batch:
                self._finish(batch)

    def _batch(self) -> tuple[list[Finished], bool]:
        """What came within a moment of the first; whether there may be more."""
        batch: list[Finished] = []
        one = self._waiting.get()
        until_s = time.monotonic() + LINGER_S
        while one is not None:
            batch.append(one)
            if one.at_once or len(batch) >= BATCH_MAX_COUNT:
                return batch, True
            try:
                one = self._waiting.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False
