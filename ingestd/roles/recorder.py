"""The uploader's word to the catalog: best effort, because the objects are what counts.

An entry is released whether or not its record could be written: a full disk would otherwise never empty. What did not
get through waits in memory, and what is lost with the process is put right by the next audit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import structlog

from ingestd.catalog import Catalog, FailedEntry, StoredEntry
from ingestd.catalog.rebuild import reconcile
from ingestd.errors import CatalogError, FrameError, SpoolError
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.formats.measurement import Identity
from ingestd.logs import RateLimit
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Slot
from ingestd.spool import Claim
from ingestd.spool.contents import SpoolFile

__all__ = ["Recorder"]

log = structlog.get_logger(__name__)

#: Records that wait in memory [count]; the oldest are given up first, and found again by the next audit.
_MAX_WAITING = 5000

_Write = Callable[[Catalog], None]


class Recorder:
    """Writes records of one uploader. Thread-safe.

    Parameters
    ----------
    context
        Of the uploader.
    """

    def __init__(self, context: RoleContext) -> None:
        self._row = context.row
        self._settings = context.settings
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._waiting: list[_Write] = []
        self._limit = RateLimit(per_s=0.1, burst=3, clock=time.monotonic)

    def stored(self, entries: Sequence[StoredEntry]) -> Collection[str]:
        """Record pairs that are in the store; returns the names of those whose content another entry has stored."""
        duplicates: list[str] = []
        if entries:
            self._write(lambda opened: duplicates.extend(opened.record_stored(entries)))
        return duplicates

    def ended(self, name: str, counter: str) -> None:
        """Record that an entry ended without objects of its own (`duplicates`, `superseded`)."""
        log.info("entry_repeated", entry=name, counted_as=counter)
        self._write(lambda opened: opened.record_duplicate(name, counter))

    def fail(self, claim: Claim, reason: str, error: str) -> None:
        """Move an entry to failed/, and record it.

        In this order: an audit that meets the record of a failure looks whether the entry is back, and takes one that is
        still on its way for one that was requeued.

        Raises
        ------
        SpoolBroken
            It cannot be moved; nothing is recorded.
        """
        entry = FailedEntry(
            claim.name, _document(claim), reason, error, time.time_ns(), claim.receive_ns, claim.size_bytes
        )  # fmt: skip
        claim.fail(reason, error)
        self._write(lambda opened: opened.record_failed(entry))

    def found_failed(self, files: Iterable[SpoolFile]) -> None:
        """Record entries that went to failed/ without an uploader: those that killed one."""
        listed = list(files)
        if listed:
            self._write(lambda opened: _reconcile(opened, listed))

    def was_ours(self, name: str, identity: Identity, content_crc: int) -> bool:
        """Whether what is in the store was put there for this very entry, by a try whose end nobody saw.

        Where the catalog does not know, the first to ask for an unrecorded pair is taken for its owner: then one of
        several equal frames is counted as stored and the others as duplicates.
        """
        try:
            owner = self._open().stored_entry_of(identity, content_crc)
        except CatalogError as error:
            self._skipped(error)
            return False
        return owner is None or owner == name

    def is_newer(self, name: str, identity: Identity) -> bool:
        """Whether an entry was accepted after the one whose objects have the name now (policy `overwrite`)."""
        try:
            holder = self._open().newest_stored_entry(identity)
        except CatalogError as error:
            self._skipped(error)
            return True
        return holder is None or name > holder

    def flush(self) -> None:
        """Try again what the catalog did not take."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for i, write in enumerate(waiting):
            try:
                write(self._open())
            except CatalogError as error:
                with self._lock:
                    self._waiting = waiting[i:] + self._waiting
                self._skipped(error)
                return

    def _write(self, write: _Write) -> None:
        try:
            write(self._open())
        except CatalogError as error:
            with self._lock:
                self._waiting.append(write)
                del self._waiting[:-_MAX_WAITING]
            self._skipped(error)

    def _open(self) -> Catalog:
        with self._lock:
            if self._catalog is None:
                path = catalog_path(self._settings.state_directory)
                self._catalog = Catalog.open(path, bucket=self._settings.minio.bucket_raw_iq)
            return self._catalog

    def _skipped(self, error: CatalogError) -> None:
        self._row.add(Slot.CATALOG_SKIPPED)
        allowed, suppressed = self._limit.admit()
        if allowed:
            log.warning(
                "catalog_skipped", error=str(error), waiting=len(self._waiting), suppressed=suppressed
            )


def _reconcile(opened: Catalog, files: list[SpoolFile]) -> None:
    reconcile(opened, files)


def _document(claim: Claim) -> dict[str, Any] | None:
    """What can be read of a frame that failed."""
    try:
        return metadata.accepted_document(wire.parse(claim.read()))
    except (FrameError, SpoolError):
        return None
