"""What an operator does by hand: rebuild the catalog, bring failed entries back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ingestd import catalog
from ingestd.catalog import Catalog
from ingestd.catalog.rebuild import RebuildReport, reconcile, refill
from ingestd.config import Settings
from ingestd.errors import CatalogError, SpoolLocked
from ingestd.roles.auditor import FILLED
from ingestd.roles.book import catalog_path
from ingestd.spool import SpoolLayout, SpoolLock
from ingestd.spool import requeue as requeue_entries
from ingestd.spool.contents import spool_files
from ingestd.storage.factory import open_store

__all__ = ["rebuild_catalog", "requeue"]


def rebuild_catalog(
    settings: Settings, tell: Callable[[RebuildReport], None] = lambda _report: None
) -> RebuildReport:
    """Make a whole new catalog out of bucket and spool.

    Parameters
    ----------
    settings
        Of the daemon.
    tell
        Called with what was found so far, at every object.

    Raises
    ------
    SpoolLocked
        A daemon is running on this state directory: stop it first (it also rebuilds by itself when its catalog is
        missing or broken).
    StoreError
        The bucket cannot be read; the catalog that was there is still there.
    """
    layout = SpoolLayout(settings.state_directory)
    layout.make()
    path = catalog_path(settings.state_directory)
    scratch = f"{path}.rebuild"
    try:
        lock = SpoolLock(layout)
        with lock, contextlib.closing(open_store(settings)) as store:
            _remove(scratch)
            catalog.create(scratch)
            report = RebuildReport()
            with Catalog.open(scratch, bucket=store.bucket, busy_timeout_s=5.0) as opened:
                refill(opened, store, report, tell=tell)
                files = list(spool_files(layout))
                reconcile(opened, files)
                report.waiting = sum(file.failed_reason is None for file in files)
                report.failed = len(files) - report.waiting
                opened.mark(FILLED, "rebuild-catalog")
            _replace(scratch, path)
    except SpoolLocked as error:
        raise SpoolLocked(f"rebuild-catalog needs the daemon stopped: {error}") from error
    return report


def _replace(scratch: str, path: str) -> None:
    try:
        # The old file's log goes first: SQLite would replay it into the new one.
        for side in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + side)
        os.rename(scratch, path)
    except OSError as error:
        raise CatalogError(f"catalog {path}: {error.strerror}") from error


def _remove(path: str) -> None:
    for side in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + side)


def requeue(settings: Settings, names: Sequence[str] | None) -> list[str]:
    """Bring failed entries back to new/, beside a running daemon or without one.

    Parameters
    ----------
    settings
        Of the daemon.
    names
        Entry names, or None for all.

    Returns
    -------
    list of str
        What was brought back.
    """
    layout = SpoolLayout(settings.state_directory)
    if not os.path.isdir(layout.failed):
        return []
    brought = requeue_entries(settings.state_directory, names)
    # The catalog is a cache: what it is not told now, the next audit tells it.
    with (
        contextlib.suppress(CatalogError),
        Catalog.open(catalog_path(settings.state_directory), busy_timeout_s=5.0) as opened,
    ):
        for name in brought:
            opened.record_requeued(name)
    return brought
