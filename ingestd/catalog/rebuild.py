"""The catalog made again, or made whole, from what is true: the bucket and the spool.

`reconcile` gives a row to every entry of the spool that has none; `refill` one to every pair in the bucket;
`mark_lost` finds accepted rows that have neither. All three may run beside a working daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ingestd.catalog.records import FOUND, AcceptedBatch, AcceptedEntry, FailedEntry, StoredEntry
from ingestd.catalog.store import Catalog
from ingestd.errors import FrameError, StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.formats.measurement import Identity, KeyKind, content_crc, object_keys, parse_key
from ingestd.spool.contents import SpoolFile
from ingestd.spool.layout import POISON
from ingestd.storage.port import ObjectInfo, ObjectStore

__all__ = ["RebuildReport", "mark_lost", "reconcile", "refill"]

#: Rows in one transaction: a writer beside us waits for a few milliseconds at most.
_BATCH_COUNT = 100

#: Fields of a document that become columns of whole numbers.
_WHOLE_COLUMNS = ("epoch", "seq", "expected", "samples_count", "size_bytes")


@dataclass(slots=True)
class RebuildReport:
    """What was found."""

    stored: int = 0
    conflicts: int = 0
    without_metadata: int = 0
    unreadable: int = 0
    foreign: int = 0
    waiting: int = 0
    failed: int = 0

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        return [
            f"{self.stored} measurements found in the bucket, {self.conflicts} of them kept conflicts",
            f"{self.waiting} entries wait in the spool, {self.failed} lie in failed/",
            f"{self.without_metadata} .npy objects have no metadata (not stored: their entry will complete them)",
            f"{self.unreadable} metadata objects cannot be read, {self.foreign} objects are not ours",
        ]


def reconcile(
    catalog: Catalog,
    files: Iterable[SpoolFile],
    stop: Callable[[], bool] = lambda: False,
    may_read: Callable[[str], bool] = lambda _name: True,
) -> int:
    """Give a row to every entry of the spool that has none; returns how many had none.

    Parameters
    ----------
    catalog
        Where to.
    files
        Entries of the spool.
    stop
        Asked at every entry whether to end early.
    may_read
        Asked, by name, before an entry is read; one that is not read gets its row when it is stored or fails.
    """
    n_added = 0
    for file in files:
        if stop():
            break
        state = catalog.state_of(file.name)
        if state is not None:
            _correct(catalog, file, state)
            continue
        if file.failed_reason == POISON:
            # What killed its uploaders is not read again by anybody who is needed.
            document, frame_bytes = None, _size_bytes(file.path)
        elif may_read(file.name):
            document, frame_bytes = _document(file.path)
        else:
            continue
        if document is None and frame_bytes == 0:
            continue
        if file.failed_reason is not None:
            catalog.record_failed(
                FailedEntry(
                    file.name, document, file.failed_reason, file.failed_error, file.receive_ns, file.receive_ns,
                    frame_bytes,
                )
            )  # fmt: skip
        elif document is not None:
            entry = AcceptedEntry(file.name, file.receive_ns, frame_bytes, document)
            catalog.record_accepted(AcceptedBatch(entries=(entry,)))
        n_added += 1
    return n_added


def _correct(catalog: Catalog, file: SpoolFile, state: str) -> None:
    """Let a row say where its entry lies: it may have failed, or been requeued, while nobody could record it."""
    if file.failed_reason is None:
        # It may have failed since it was listed: whoever records that has moved it before.
        if state in ("failed", "lost") and os.path.lexists(file.path):
            catalog.record_requeued(file.name)
    elif state in ("accepted", "lost"):
        catalog.record_failed(
            FailedEntry(
                file.name, None, file.failed_reason, file.failed_error, file.receive_ns, file.receive_ns, 0
            )
        )


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _document(path: str) -> tuple[dict[str, Any] | None, int]:
    """Document and length of an entry; (None, 0) where it is gone, (None, n) where it cannot be read as a frame."""
    try:
        with open(path, "rb") as file:
            frame = file.read()
    except OSError:
        # Claimed, released or failed since it was listed: whoever did that records it.
        return None, 0
    try:
        return metadata.accepted_document(wire.parse(frame)), len(frame)
    except FrameError:
        return None, len(frame)


def refill(
    catalog: Catalog,
    store: ObjectStore,
    report: RebuildReport,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[RebuildReport], None] = lambda _report: None,
) -> RebuildReport:
    """Give a row to every pair in the bucket that has none; times come from Last-Modified.

    Parameters
    ----------
    catalog, store
        Where to and where from.
    report
        Counts are added to it.
    stop
        Asked at every object whether to end early.
    tell
        Called with the report at every object.

    Raises
    ------
    StoreError
        The bucket cannot be listed or read; what was found so far is kept, and the next run goes on.
    """
    batch: list[StoredEntry] = []
    for info, kind, npy in _metadata_objects(store, report):
        if stop():
            break
        tell(report)
        if npy is not None and _is_awaited(catalog, store, info, kind):
            # Published a moment ago: its uploader writes the record, under the name of the entry.
            report.stored += 1
            continue
        entry = None if npy is None else _stored(catalog, store, info, npy, kind)
        if entry is None:
            report.unreadable += 1
            continue
        report.stored += 1
        report.conflicts += kind.copy is not None
        batch.append(entry)
        if len(batch) >= _BATCH_COUNT:
            catalog.record_stored(batch)
            batch.clear()
    catalog.record_stored(batch)
    return report


def _metadata_objects(
    store: ObjectStore, report: RebuildReport
) -> Iterator[tuple[ObjectInfo, KeyKind, ObjectInfo | None]]:
    """Metadata objects of the bucket, each with its .npy if that is there: it sorts before them, stem by stem.

    `websdr_1.npy` < `websdr_1_metadata.json` ('.' < '_'), but `websdr_1.0a1b2c3d.npy` and `websdr_1_000000.npy` lie
    between or after; so the .npy objects of one session are remembered, which is bounded by the session.
    """
    task_id = ""
    waiting: dict[str, ObjectInfo] = {}
    for info in store.list("sessions/"):
        kind = parse_key(info.key)
        if kind is None:
            report.foreign += 1
            continue
        if kind.identity.task_id != task_id:
            report.without_metadata += len(waiting)
            task_id, waiting = kind.identity.task_id, {}
        if kind.is_metadata:
            yield info, kind, waiting.pop(object_keys(kind.identity, kind.copy).npy, None)
        else:
            waiting[info.key] = info
    report.without_metadata += len(waiting)


def _is_awaited(catalog: Catalog, store: ObjectStore, info: ObjectInfo, kind: KeyKind) -> bool:
    """Whether an accepted row waits for the record of this pair. Asked first: rows only go from there to stored."""
    if not catalog.is_awaited(kind.identity):
        return False
    try:
        document = metadata.decode(store.get(info.key, metadata.MAX_DOCUMENT_BYTES) or b"")
    except StoreCorrupt:
        return False
    return catalog.is_awaited(kind.identity, document.get("timestamp_ns"))


def _stored(
    catalog: Catalog, store: ObjectStore, info: ObjectInfo, npy: ObjectInfo, kind: KeyKind
) -> StoredEntry | None:
    """Record of a pair; None where its metadata object is not one of ours."""
    if info.size_bytes > metadata.MAX_DOCUMENT_BYTES:
        return None
    encoded = store.get(info.key, metadata.MAX_DOCUMENT_BYTES)
    if encoded is None:
        return None
    try:
        document = metadata.decode(encoded)
        content = metadata.content(document)
        crc = _crc32c(document)
    except StoreCorrupt:
        return None
    identity = kind.identity
    if _named_identity(document) != identity or crc is None or not _fits(document):
        return None
    whole = content_crc(crc, *content)
    known = catalog.stored_entry_of(identity, whole)
    keys = object_keys(identity, kind.copy)
    return StoredEntry(
        known or _bucket_name(info, keys.npy),
        document,
        keys,
        kind.copy,
        whole,
        npy.etag,
        info.last_modified_ns,
        info.last_modified_ns,
        0,
    )


def _bucket_name(info: ObjectInfo, key: str) -> str:
    """Row name of a pair whose entry is not known; by its time it sorts among entries, older before newer."""
    return f"{max(0, info.last_modified_ns):020d}{FOUND}{key}"


def _named_identity(document: dict[str, Any]) -> tuple[Any, ...]:
    """Identity that a document claims; `True` and `1.0` are no numbers of a receiver or chunk."""
    named = tuple(document.get(key) for key in ("task_id", "websdr_id", "chunk"))
    return tuple(None if isinstance(value, bool | float) else value for value in named)


def _fits(document: dict[str, Any]) -> bool:
    """Whether everything that becomes a column is of the column's kind, or null; a foreign document may hold anything."""
    metrics = document.get("metrics")
    if not isinstance(metrics, dict | None) or not isinstance(document.get("node"), str | None):
        return False
    snr_db = (metrics or {}).get("snr_db")
    numbers = [document.get(name) for name in _WHOLE_COLUMNS]
    return (snr_db is None or type(snr_db) is float or _is_int64(snr_db)) and all(
        number is None or _is_int64(number) for number in numbers
    )


def _is_int64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _crc32c(document: dict[str, Any]) -> int | None:
    """Checksum of the .npy as its metadata gives it."""
    import base64  # noqa: PLC0415 - the one place that reads it

    encoded = document.get("crc32c")
    if not isinstance(encoded, str):
        return None
    with contextlib.suppress(ValueError):
        decoded = base64.b64decode(encoded, validate=True)
        return int.from_bytes(decoded, "big") if len(decoded) == 4 else None
    return None


def mark_lost(
    catalog: Catalog,
    store: ObjectStore,
    in_spool: Callable[[str], bool],
    before_ns: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Find accepted rows that have neither an entry nor a metadata object, and mark them lost; returns their names.

    A row whose pair is in the store after all becomes stored.

    Parameters
    ----------
    in_spool
        Whether an entry of this name is anywhere in the spool now.
    before_ns
        Only rows accepted before this moment: younger ones are on their way.
    """
    lost: list[str] = []
    for name in _pending(catalog):
        if stop():
            break
        if _accepted_ns(name) >= before_ns or in_spool(name):
            continue
        document = catalog.document_of(name)
        # Looked at again after the row: it may have been claimed, stored and released in between.
        if document is None or in_spool(name):
            continue
        found = _find_pair(catalog, store, document)
        if found is None:
            lost.append(name)
        else:
            catalog.record_stored([_named(found, name)])
    catalog.record_lost(lost)
    return lost


def _find_pair(catalog: Catalog, store: ObjectStore, document: dict[str, Any]) -> StoredEntry | None:
    """The pair in the bucket with the content of an accepted document, be it a kept conflict."""
    identity = Identity(document["task_id"], document["websdr_id"], document.get("chunk"))
    stem = object_keys(identity).npy.removesuffix("npy")
    info = store.head(object_keys(identity).metadata)
    # Kept conflicts share the stem and its dot; other receivers and chunks do not.
    candidates = [] if info is None else [info]
    candidates += [found for found in store.list(stem) if found.key.endswith("_metadata.json")]
    for candidate in candidates:
        kind = parse_key(candidate.key)
        if kind is None:
            continue
        npy = store.head(object_keys(kind.identity, kind.copy).npy)
        entry = None if npy is None else _stored(catalog, store, candidate, npy, kind)
        if entry is not None and metadata.content(dict(entry.document)) == metadata.content(document):
            return entry
    return None


def _named(entry: StoredEntry, name: str) -> StoredEntry:
    return StoredEntry(
        name, entry.document, entry.keys, entry.copy, entry.content_crc, entry.etag, entry.stored_at_ns,
        _accepted_ns(name), entry.frame_bytes,
    )  # fmt: skip


def _pending(catalog: Catalog) -> Iterator[str]:
    after = ""
    while names := catalog.pending_names(after):
        yield from names
        after = names[-1]


def _accepted_ns(name: str) -> int:
    """Moment in an entry's name."""
    digits = os.path.basename(name).partition("-")[0]
    return int(digits) if digits.isdigit() else 0
