"""Answers that need the catalog: from a checked request to the `data` of its reply. Runs in the catalog's thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from ingestd.config import Settings
from ingestd.errors import CatalogError, NotFound, StoreError
from ingestd.formats.measurement import Identity, object_keys
from ingestd.formats.protocol import ErrorCode, Request, encode_data
from ingestd.formats.timestamps import format_utc
from ingestd.roles.monitor import Monitor
from ingestd.storage.port import ObjectStore

if TYPE_CHECKING:
    from ingestd.catalog import Catalog

__all__ = ["CatalogAnswers"]

log = structlog.get_logger(__name__)

#: Keys of a request that are no filters.
_PAGE_KEYS = ("limit", "cursor")


class CatalogAnswers:
    """The catalog's and the store's part of the answers.

    Parameters
    ----------
    settings
        Path of the catalog, registry, limits.
    monitor
        For what `confirm` says of the present; is told the totals.
    open_catalog
        Opens the catalog for reading, here in the thread: a module that takes long to load must not delay `health`.
    open_store
        Makes the client that signs URLs.
    start_id
        64 random bits of this start of the daemon.
    """

    def __init__(
        self,
        settings: Settings,
        monitor: Monitor,
        open_catalog: Callable[[Settings], Catalog],
        open_store: Callable[[Settings], ObjectStore],
        start_id: int = 0,
    ) -> None:
        self._settings = settings
        self._monitor = monitor
        self._open_catalog = open_catalog
        self._open_store = open_store
        self._start_id = start_id
        self._reader: Catalog | None = None
        # Between `interrupt` and the closing of the reader; never held while the disk is waited for by opening.
        self._lock = threading.Lock()
        self._store: ObjectStore | None = None

    def answer(self, request: Request) -> bytes:
        """Make the whole reply of a request that looks something up.

        Raises
        ------
        QueryError
            That is the answer.
        """
        try:
            data = _ANSWERS[request.command.name](self, self._catalog(), request.args)
        except NotFound as error:
            raise ErrorCode.NOT_FOUND.error(str(error)) from error
        except CatalogError as error:
            self._let_go()
            raise ErrorCode.UNAVAILABLE.error(f"the catalog cannot be read now: {error}") from error
        return encode_data(request.encoding, request.id, data)

    def refresh_totals(self) -> None:
        """Read the counters that `stats` shows under `total`; what was read last stays where that fails."""
        try:
            self._monitor.total = self._catalog().totals()
        except CatalogError as error:
            self._let_go()
            log.debug("totals_unavailable", error=str(error))

    def interrupt(self) -> None:
        """End a running query, from another thread; does nothing while the reader is being closed."""
        if self._lock.acquire(blocking=False):
            try:
                if self._reader is not None:
                    self._reader.interrupt()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Close catalog and store."""
        self._let_go()
        if self._store is not None:
            self._store.close()

    def _catalog(self) -> Catalog:
        if self._reader is None:
            reader = self._open_catalog(self._settings)
            with self._lock:
                self._reader = reader
        return self._reader

    def _let_go(self) -> None:
        """Close the catalog: what made it fail may be gone with the next look."""
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                with contextlib.suppress(CatalogError):
                    reader.close()

    def _sessions(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.sessions(args["limit"], args.get("cursor"))

    def _session(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.session(args["task_id"], time.time_ns(), self._settings.session.timeout_s)

    def _measurements(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        filters = {name: value for name, value in args.items() if name not in _PAGE_KEYS}
        return catalog.measurements(filters, args["limit"], args.get("cursor"))

    def _measurement(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.measurement(args["task_id"], args["websdr_id"], args.get("chunk"), args.get("copy"))

    def _url(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        state = self._measurement(catalog, args).get("state")
        if state != "stored":
            raise ErrorCode.NOT_FOUND.error(f"the measurement is {state}, not stored", state=state)
        keys = object_keys(Identity(args["task_id"], args["websdr_id"], args.get("chunk")), args.get("copy"))
        key = keys.metadata if args["what"] == "metadata" else keys.npy
        if self._store is None:
            self._store = self._open_store(self._settings)
        now_ns = time.time_ns()
        try:
            url = self._store.url(key, args["expires_s"])
        except StoreError as error:
            raise ErrorCode.UNAVAILABLE.error(f"the store gives no URL: {error}") from error
        # A file:// URL lasts as long as the file.
        lasts = url.startswith("file://")
        expires_utc = None if lasts else format_utc(now_ns + args["expires_s"] * 10**9)
        return {"url": url, "bucket": self._store.bucket, "key": key, "expires_utc": expires_utc}

    def _confirm(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **catalog.confirm(args["node"], args["epoch"], self._start_id),
            "accepting": self._monitor.verdict().accepting,
            "credit_bytes": self._monitor.snapshot().spool.credit_bytes,
            "max_frame_bytes": self._settings.ingest.max_frame_bytes,
        }

    def _nodes(self, catalog: Catalog, _args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.nodes(self._settings.nodes)

    def _failed(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.failed(args["limit"], args.get("cursor"))

    def _rejected(self, catalog: Catalog, args: Mapping[str, Any]) -> dict[str, Any]:
        return catalog.rejected(args["limit"], args.get("cursor"))


#: By command; exactly those of the table of commands that look something up.
_ANSWERS: dict[str, Callable[[CatalogAnswers, Catalog, Mapping[str, Any]], dict[str, Any]]] = {
    "sessions": CatalogAnswers._sessions,  # noqa: SLF001 - the table stands beside its class
    "session": CatalogAnswers._session,  # noqa: SLF001 - as above
    "measurements": CatalogAnswers._measurements,  # noqa: SLF001 - as above
    "measurement": CatalogAnswers._measurement,  # noqa: SLF001 - as above
    "url": CatalogAnswers._url,  # noqa: SLF001 - as above
    "confirm": CatalogAnswers._confirm,  # noqa: SLF001 - as above
    "nodes": CatalogAnswers._nodes,  # noqa: SLF001 - as above
    "failed": CatalogAnswers._failed,  # noqa: SLF001 - as above
    "rejected": CatalogAnswers._rejected,  # noqa: SLF001 - as above
}
