"""The auditor: a thread of the first uploader that makes the catalog agree with spool and bucket.

Once per start, and again when the receiver had to replace a broken catalog. It begins after the store was probed, so
nothing waits for it: every entry gets a row, an empty or replaced catalog is filled again from the bucket, and accepted
rows with neither entry nor objects are named lost.
"""

from __future__ import annotations

import os
import threading
import time

import structlog

from ingestd.catalog import Catalog
from ingestd.catalog.rebuild import RebuildReport, mark_lost, reconcile, refill
from ingestd.errors import CatalogError, SpoolError, StoreError
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Text
from ingestd.spool import SpoolLayout
from ingestd.spool.contents import contains, spool_files
from ingestd.storage.port import ObjectStore

__all__ = ["FILLED", "Auditor"]

log = structlog.get_logger(__name__)

#: Word of the catalog that says that it knows everything the bucket held.
FILLED = "filled"

#: Pause before an audit that failed (store down, catalog busy) is tried again, and between two looks for a replaced
#: catalog [s].
_RETRY_S = 10.0


class Auditor:
    """Audits every catalog that it finds once, in a thread of its own.

    Parameters
    ----------
    context
        Of an uploader; only `uploader-0` audits.
    layout
        Of the spool.
    store
        Client of the object store.
    stop
        Set when the role stops.
    """

    def __init__(
        self, context: RoleContext, layout: SpoolLayout, store: ObjectStore, stop: threading.Event
    ) -> None:
        self._layout = layout
        self._store = store
        self._stop = stop
        self._thread: threading.Thread | None = None
        self._is_auditor = context.name == "uploader-0"
        self._path = catalog_path(context.settings.state_directory)
        #: Inode of the catalog that was audited: a replaced one has another.
        self._audited = 0
        self._due_s = 0.0
        self._row = context.row
        #: What was being read when an earlier process of this role died: its uploader is to find out, not we again.
        self._suspect = self._row.get_text(Text.ENTRY)

    def advance(self) -> None:
        """Begin, or begin again after a failure or with another catalog; returns at once."""
        if not self._is_auditor or self._stop.is_set() or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _RETRY_S
        if self._inode() != self._audited and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._audit, name="auditor", daemon=True)
            self._thread.start()

    def _inode(self) -> int:
        try:
            return os.stat(self._path).st_ino
        except OSError:
            # Missing: the receiver makes a new one, and opening it says so until then.
            return -1

    def join(self, timeout_s: float) -> None:
        """Wait for the end of what is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _may_read(self, name: str) -> bool:
        """Leave word in the status block, which outlives this process, before an entry is read that may end it."""
        if name == self._suspect:
            return False
        self._row.set_text(Text.ENTRY, name)
        return True

    def _audit(self) -> None:
        began_s, began_ns, inode = time.monotonic(), time.time_ns(), self._inode()
        try:
            with Catalog.open(self._path, bucket=self._store.bucket, busy_timeout_s=5.0) as opened:
                files = spool_files(self._layout)
                n_added = reconcile(opened, files, self._stop.is_set, self._may_read)
                self._row.set_text(Text.ENTRY, "")
                report = RebuildReport()
                if opened.marked(FILLED) is None:
                    refill(opened, self._store, report, self._stop.is_set)
                    if not self._stop.is_set():
                        opened.mark(FILLED, str(began_ns))
                lost = mark_lost(
                    opened,
                    self._store,
                    lambda name: contains(self._layout, name),
                    began_ns,
                    self._stop.is_set,
                )
        except (CatalogError, StoreError, SpoolError) as error:
            log.warning("audit_put_off", error=str(error), kind=type(error).__name__, wait_s=_RETRY_S)
            return
        for name in lost:
            log.error("entry_lost", entry=name)
        if not self._stop.is_set():
            self._audited = inode
        log.info(
            "audited",
            rows_added=n_added,
            found_in_bucket=report.stored,
            lost=len(lost),
            elapsed_s=time.monotonic() - began_s,
        )
