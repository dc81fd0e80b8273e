"""The scrub: the catalog's word held to the store all the time, slowly; it tells and never repairs.

A thread of the responder. It asks by HEAD, one pair after the other at a bounded rate, and begins anew at the end.
What it finds is in `health` under `scrub` and in the log; `ingestd verify` looks closer and repairs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from ingestd.config import Settings
from ingestd.errors import CatalogError, StoreError
from ingestd.formats import timestamps
from ingestd.logs import RateLimit

if TYPE_CHECKING:
    from ingestd.catalog import Catalog
    from ingestd.storage.port import ObjectStore

__all__ = ["Scrub", "start_scrub"]

log = structlog.get_logger(__name__)

#: Pause after a pass, and after store or catalog could not be asked [s].
PAUSE_S = 60.0

#: Longest wait for the thread at a stop [s]; one that hangs in the store ends with the process.
_JOIN_S = 1.0


class Scrub:
    """Goes over all stored rows; `progress` is of the pass under way, or of the last one until the next begins.

    Parameters
    ----------
    pairs_per_s
        Rate [1/s].
    open_catalog, open_store
        Called in the thread.
    tell
        Called with `progress` after every pair.
    stop
        Ends it.
    """

    def __init__(
        self,
        pairs_per_s: float,
        open_catalog: Callable[[], Catalog],
        open_store: Callable[[], ObjectStore],
        tell: Callable[[Mapping[str, Any]], None],
        stop: threading.Event,
    ) -> None:
        self._pause_s = 1 / pairs_per_s
        self._open_catalog = open_catalog
        self._open_store = open_store
        self._tell = tell
        self._stop = stop
        self._position = 0
        self._last_pass_utc: str | None = None
        self._counts = _no_counts()
        self._limit = RateLimit(per_s=0.1, burst=10, clock=time.monotonic)
        tell(self.progress)

    @property
    def progress(self) -> Mapping[str, Any]:
        """What `health` shows."""
        return {**self._counts, "last_pass_utc": self._last_pass_utc}

    def run(self) -> None:
        """Pass after pass until stopped; what cannot be asked now is asked again later, from there on."""
        while not self._stop.is_set():
            try:
                self.one_pass()
            except (StoreError, CatalogError) as error:
                allowed, suppressed = self._limit.admit()
                if allowed:
                    log.warning("scrub_waits", error=str(error), suppressed=suppressed)
            self._stop.wait(PAUSE_S)

    def one_pass(self) -> None:
        """Go on from where the last one stopped, to the end.

        Raises
        ------
        StoreError
            The store cannot be asked.
        CatalogError
            The catalog cannot be read.
        """
        with contextlib.closing(self._open_store()) as store, self._open_catalog() as catalog:
            store.probe(make_bucket=False)
            if self._position == 0:
                self._counts = _no_counts()
            self._counts["of"] = catalog.stored_count()
            for row in catalog.stored_rows(after=self._position):
                began_s = time.monotonic()
                self._check(store, catalog, row)
                self._position = row.position
                self._tell(self.progress)
                # A store that takes longer than the pause is asked less often, never more.
                if self._stop.wait(max(0.0, self._pause_s - (time.monotonic() - began_s))):
                    return
        self._position = 0
        self._last_pass_utc = timestamps.format_utc(time.time_ns())
        self._tell(self.progress)

    def _check(self, store: ObjectStore, catalog: Catalog, row: Any) -> None:
        from ingestd.roles.verification import check_row  # noqa: PLC0415 - see start_scrub

        for finding in check_row(store, catalog, row):
            self._counts[_COUNTER[finding.damage]] += 1
            allowed, suppressed = self._limit.admit()
            if allowed:
                log.error(
                    "scrub_found",
                    key=finding.key,
                    damage=str(finding.damage),
                    detail=finding.detail,
                    entry=row.name,
                    suppressed=suppressed,
                )
        self._counts["checked"] += 1


#: Counter of each damage.
_COUNTER = {"missing": "missing", "differs": "differing", "unreadable": "unreadable"}


def _no_counts() -> dict[str, int]:
    return {"checked": 0, "of": 0, "missing": 0, "differing": 0, "unreadable": 0}


@contextlib.contextmanager
def start_scrub(
    settings: Settings,
    open_catalog: Callable[[Settings], Catalog],
    open_store: Callable[[Settings], ObjectStore],
    tell: Callable[[Mapping[str, Any]], None],
) -> Iterator[None]:
    """Run the scrub in a thread for the length of a `with` block, where it is on.

    What takes long to load (catalog, store) is loaded in the thread: `health` must not wait for it.
    """
    if not settings.scrub.pairs_per_s:
        yield
        return
    stop = threading.Event()
    scrub = Scrub(
        settings.scrub.pairs_per_s, lambda: open_catalog(settings), lambda: open_store(settings), tell, stop
    )
    thread = threading.Thread(target=scrub.run, name="scrub", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_JOIN_S)
