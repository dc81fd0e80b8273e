"""The auditor: a thread of the first uploader that makes the catalog agree with spool and bucket, once per start.

It begins after the store was probed, so nothing waits for it: every entry gets a row, an empty or replaced catalog is
filled again from the bucket, and accepted rows with neither entry nor objects are named lost.
"""

from __future__ import annotations

import threading
import time

import structlog

from ingestd.catalog import Catalog
from ingestd.catalog.rebuild import RebuildReport, mark_lost, reconcile, refill
from ingestd.errors import CatalogError, SpoolError, StoreError
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.spool import SpoolLayout
from ingestd.spool.contents import contains, spool_files
from ingestd.storage.port import ObjectStore

__all__ = ["FILLED", "Auditor"]

log = structlog.get_logger(__name__)

#: Word of the catalog that says that it knows everything the bucket held.
FILLED = "filled"

#: Pause before an audit that failed (store down, catalog busy) is tried again [s].
_RETRY_S = 10.0


class Auditor:
    """Audits once, in a thread of its own.

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
        self._settings = context.settings
        self._layout = layout
        self._store = store
        self._stop = stop
        self._thread: threading.Thread | None = None
        self._done = context.name != "uploader-0"
        self._due_s = 0.0

    def advance(self) -> None:
        """Begin, or begin again after a failure; returns at once."""
        if self._done or self._stop.is_set() or time.monotonic() < self._due_s:
            return
        if self._thread is None or not self._thread.is_alive():
            self._due_s = time.monotonic() + _RETRY_S
            self._thread = threading.Thread(target=self._audit, name="auditor", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of what is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _audit(self) -> None:
        began_s, began_ns = time.monotonic(), time.time_ns()
        try:
            path = catalog_path(self._settings.state_directory)
            with Catalog.open(path, bucket=self._store.bucket, busy_timeout_s=5.0) as opened:
                n_added = reconcile(opened, spool_files(self._layout), self._stop.is_set)
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
        self._done = not self._stop.is_set()
        log.info(
            "audited",
            rows_added=n_added,
            found_in_bucket=report.stored,
            lost=len(lost),
            elapsed_s=time.monotonic() - began_s,
        )
