"""The surveyor: a thread of the receiver that counts the spool and knows whether more fits in."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Self

import structlog

from ingestd.errors import SpoolBroken
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Slot
from ingestd.spool import Bounds, SpoolLayout, SpoolSurvey, survey
from ingestd.spool.claims import remove_expired
from ingestd.spool.survey import free_bytes, marks_ns

__all__ = ["Surveyor"]

log = structlog.get_logger(__name__)

#: Pause between two counts [s] ...
INTERVAL_S = 1.0

#: ... but never more than this share of the time is spent counting: a spool of 100,000 entries takes a while.
_SHARE = 0.05

#: Directories that were not changed for this long before a look [ns] have a time stamp that a change will differ from.
_STILL_NS = 10**9


class Surveyor:
    """Keeps the spool's figures in the status block, as a `with` block.

    Between two counts, what was accepted since is added and what was released is not taken off: the bound of the
    spool is never exceeded, and room that uploads made is found within a second.

    Parameters
    ----------
    context
        Of the receiver.
    layout
        Of the spool.
    """

    def __init__(self, context: RoleContext, layout: SpoolLayout) -> None:
        self._row = context.row
        self._layout = layout
        spool = context.settings.spool
        self._bounds = Bounds(spool.max_bytes, spool.min_free_bytes)
        self._retain_s = spool.retain_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._last: SpoolSurvey | None = None
        self._marks: tuple[int, ...] = ()
        self._is_still = False
        self._accepted_bytes = 0
        self._accepted_count = 0
        self._foreign: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._loop, name="surveyor", daemon=True)

    def __enter__(self) -> Self:
        self._count()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._hurry.set()
        self._thread.join(2.0)

    def note_accepted(self, count: int, size_bytes: int) -> None:
        """Entries were accepted since the last count."""
        with self._lock:
            self._accepted_count += count
            self._accepted_bytes += size_bytes

    def refusal(self, next_bytes: int) -> str:
        """Why a group of `next_bytes` does not fit now; "" where it does."""
        with self._lock:
            spool_bytes = (self._last.bytes if self._last else 0) + self._accepted_bytes
        try:
            free = free_bytes(self._layout.root)
        except OSError as error:
            return f"disk_error: {self._layout.root}: {error.strerror}"
        refusal = self._bounds.refusal(spool_bytes, free, next_bytes)
        if refusal:
            self._hurry.set()
        return refusal

    def _loop(self) -> None:
        while not self._stop.is_set():
            took_s = self._count()
            # While the spool refuses, the caller hurries the count; the share still bounds its cost.
            self._stop.wait(max(0.1, took_s / _SHARE))
            self._hurry.wait(INTERVAL_S)
            self._hurry.clear()

    def _count(self) -> float:
        """Count once; returns how long it took [s]."""
        began_s = time.monotonic()
        with self._lock:
            before_count, before_bytes = self._accepted_count, self._accepted_bytes
        try:
            self._keep_retention()
            seen = self._survey()
        except SpoolBroken as error:
            log.error("survey_failed", error=str(error))  # noqa: TRY400 - an expected error has no traceback
            return time.monotonic() - began_s
        with self._lock:
            self._accepted_count -= before_count
            self._accepted_bytes -= before_bytes
            self._last = seen
            extra_bytes = self._accepted_bytes
        self._publish(seen, extra_bytes)
        return time.monotonic() - began_s

    def _survey(self) -> SpoolSurvey:
        """Look through the spool, or, where nothing moved since the last look, at the disk alone.

        A backlog of an outage is a hundred thousand files that lie still.
        """
        marks, now_ns = marks_ns(self._layout), time.time_ns()
        if self._last is not None and self._is_still and marks == self._marks:
            return replace(self._last, free_bytes=free_bytes(self._layout.root))
        seen = survey(self._layout)
        self._marks = marks
        # What moves again within the granularity of a time stamp leaves the same one.
        self._is_still = max(marks) < now_ns - _STILL_NS
        return seen

    def _keep_retention(self) -> None:
        """Remove retained entries that are too old, or in the way of acceptance."""
        last = self._last
        keep_bytes = None
        if last is not None and last.retained_bytes:
            short_bytes = self._bounds.min_free_bytes + last.retained_bytes // 10 - last.free_bytes
            if short_bytes > 0:
                keep_bytes = max(0, last.retained_bytes - short_bytes)
        remove_expired(self._layout, self._retain_s, keep_bytes)

    def _publish(self, seen: SpoolSurvey, extra_bytes: int) -> None:
        row = self._row
        row.set(Slot.SPOOL_ENTRIES, seen.entries)
        row.set(Slot.SPOOL_BYTES, seen.bytes)
        row.set(Slot.SPOOL_FAILED, seen.failed)
        row.set(Slot.SPOOL_FOREIGN, seen.foreign_count)
        row.set(Slot.SPOOL_OLDEST_UTC_NS, seen.oldest_ns)
        row.set(Slot.SPOOL_FREE_BYTES, seen.free_bytes)
        row.set(Slot.SPOOL_CREDIT_BYTES, self._bounds.credit_bytes(seen.bytes + extra_bytes, seen.free_bytes))
        for name in seen.foreign:
            if name not in self._foreign:
                log.warning("spool_foreign_file", path=name)
        self._foreign = seen.foreign
