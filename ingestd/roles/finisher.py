"""The finisher: records and releases what the threads of an uploader have stored, several at once.

A record is a transaction of the catalog, which costs as much for ten entries as for three. So stored entries wait a
moment for others; they stay claimed until they are recorded and released, and whoever dies meanwhile leaves entries
whose objects are found again, equal, by the next try. The objects are in the store all the while: nobody who reads the
bucket waits for this.
"""

from __future__ import annotations

import threading
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
        self._lock = threading.Lock()
        self._waiting: list[Finished] = []
        self._ends = False
        # The thread is woken for the first entry of a batch, and early for one that must not wait: not for every one.
        self._begun = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ends = True
            self._begun.set()
            self._due.set()
        self._thread.join(_JOIN_S)

    def add(self, finished: Finished) -> None:
        """Hand over a claim whose pair is stored."""
        with self._lock:
            self._waiting.append(finished)
            if len(self._waiting) == 1:
                self._begun.set()
            if finished.at_once or len(self._waiting) >= BATCH_MAX_COUNT:
                self._due.set()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            waiting, goes_on = self._batch()
            for start in range(0, len(waiting), BATCH_MAX_COUNT):
                self._finish(waiting[start : start + BATCH_MAX_COUNT])

    def _batch(self) -> tuple[list[Finished], bool]:
        """What came within a moment of the first; whether there may be more."""
        self._begun.wait()
        self._due.wait(LINGER_S)
        with self._lock:
            waiting, self._waiting = self._waiting, []
            if not self._ends:
                self._begun.clear()
                self._due.clear()
            return waiting, not self._ends
