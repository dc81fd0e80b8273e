"""A measurement's two objects and the rules of conflict: .npy first, metadata last, nothing overwritten in silence.

The metadata object is the commit marker. Whoever finds a name taken compares what is there with what it has: equal is
a duplicate or an earlier try of its own; anything else is a conflict, and the policy decides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from ingestd import faults
from ingestd.errors import ConflictError, StoreBusy, StoreCorrupt
from ingestd.formats import metadata
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Identity, ObjectKeys, content_crc, object_keys
from ingestd.formats.npy import NpyObject
from ingestd.storage.port import Body, ObjectStore, crc32c_base64

__all__ = ["Pair", "PairOutcome", "PairResult", "Policy", "store_pair"]

Policy = Literal["keep_both", "overwrite", "reject"]


class PairResult(StrEnum):
    """What became of a pair."""

    #: Both objects are there now, and were not before.
    STORED = "stored"
    #: The same content was there already.
    REPEATED = "repeated"
    #: Other content has the name; ours is kept beside it.
    CONFLICT_STORED = "conflict_stored"
    #: Other content has the name; ours was kept beside it already.
    CONFLICT_REPEATED = "conflict_repeated"
    #: Other content had the name; ours is newer and took its place.
    OVERWRITTEN = "overwritten"
    #: Other content has the name and is newer than ours, which is dropped by the policy.
    SUPERSEDED = "superseded"


class _Described:
    """Metadata that is made when it is first asked for.

    Apart from the pair: a body that refers to its pair would be a cycle, and keep a frame until it is collected.
    """

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe
        self._made: tuple[dict[str, Any], Body] | None = None

    def make(self) -> None:
        if self._made is None:
            document = self._describe()
            encoded = metadata.encode(document)
            self._made = document, Body((encoded,), crc32c(encoded), "application/json")

    @property
    def made(self) -> tuple[dict[str, Any], Body]:
        self.make()
        assert self._made is not None
        return self._made


class Pair:
    """The two objects of a measurement.

    The metadata is made when it is first asked for: figures take as long as a store takes for the samples, which can go
    ahead. One thread.

    Parameters
    ----------
    identity
        Of the measurement.
    npy
        Its samples.
    describe
        Makes the metadata document.
    """

    def __init__(self, identity: Identity, npy: NpyObject, describe: Callable[[], dict[str, Any]]) -> None:
        self._described = _Described(describe)
        self.identity = identity
        self.npy = Body(npy.parts(), npy.crc32c, meanwhile=self._described.make)

    @property
    def document(self) -> dict[str, Any]:
        """The metadata as a dictionary."""
        return self._described.made[0]

    @property
    def metadata(self) -> Body:
        """The metadata object."""
        return self._described.made[1]

    @property
    def content(self) -> tuple[int | None, float | None, float | None]:
        """What of the metadata tells contents of one identity apart."""
        return metadata.content(self.document)

    @property
    def content_crc(self) -> int:
        """Checksum that tells contents of one identity apart."""
        return content_crc(self.npy.crc32c, *self.content)


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """Result, the keys under which the content is, the 8 hex digits of a kept conflict, and the ETag of the .npy."""

    result: PairResult
    keys: ObjectKeys
    copy: str | None
    etag: str


def store_pair(
    store: ObjectStore,
    pair: Pair,
    policy: Policy,
    *,
    is_newer: Callable[[], bool] = lambda: True,
    lock: Callable[[Identity], AbstractContextManager[None]] | None = None,
) -> PairOutcome:
    """Store a pair under the rules of conflict.

    Parameters
    ----------
    store
        Where to.
    pair
        What.
    policy
        What to do when other content has the name.
    is_newer
        For `overwrite`: whether ours was accepted after what is there.
    lock
        Holds an identity; used where check and write are not one request.

    Raises
    ------
    ConflictError
        The policy is `reject`, or a kept conflict with the same 8 digits is something else.
    StoreError
        Not stored, or not proven to be.
    """
    needs_lock = store.profile.needs_identity_lock or policy == "overwrite"
    with lock(pair.identity) if lock is not None and needs_lock else nullcontext():
        keys = object_keys(pair.identity)
        outcome = _put_pair(store, pair, keys, None)
        if outcome is not None:
            return outcome
        if policy == "reject":
            raise ConflictError(f"{keys.npy} holds other content (storage.on_conflict is reject)")
        if policy == "overwrite":
            return _overwrite(store, pair, keys, is_newer)
        return _keep_beside(store, pair)


def _put_pair(store: ObjectStore, pair: Pair, keys: ObjectKeys, copy: str | None) -> PairOutcome | None:
    """Store both objects under these keys; None where other content has them."""
    put = store.put_new(keys.npy, pair.npy)
    faults.point("upload.npy")
    etag = put.etag
    if not put.created:
        info = store.head(keys.npy)
        if info is None:
            raise StoreBusy(f"{keys.npy} was there and is gone: somebody deletes objects; trying again")
        if not store.same(info, pair.npy):
            return None
        etag = info.etag
    stored, repeated = _results(copy)
    faults.point("verify.npy")
    is_new = store.put_new(keys.metadata, pair.metadata).created
    faults.point("upload.metadata")
    if is_new:
        return PairOutcome(stored, keys, copy, etag)
    there = _document(store, keys.metadata)
    # Metadata that names no checksum says nothing about which bytes it is for; it is not ours to replace.
    of_others = there is not None and there.get("crc32c") not in (None, crc32c_base64(pair.npy.crc32c))
    if there is not None and not of_others and metadata.content(there) == pair.content:
        return PairOutcome(stored if put.created else repeated, keys, copy, etag)
    if put.created or of_others:
        # Metadata without its .npy, which somebody removed: it describes nothing any more and would lie about ours.
        # Not created by this try, but ours to the bit: an earlier try died, or lost its reply, in between.
        store.put(keys.metadata, pair.metadata)
        return PairOutcome(stored, keys, copy, etag)
    return None


def _results(copy: str | None) -> tuple[PairResult, PairResult]:
    if copy is None:
        return PairResult.STORED, PairResult.REPEATED
    return PairResult.CONFLICT_STORED, PairResult.CONFLICT_REPEATED


def _document(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """The metadata that is there; None where it cannot be read."""
    try:
        encoded = store.get(key, metadata.MAX_DOCUMENT_BYTES)
    except StoreCorrupt:
        info = store.head(key)
        if info is None or info.size_bytes <= metadata.MAX_DOCUMENT_BYTES:
            raise
        return None
    if encoded is None:
        raise StoreBusy(f"{key} was there and is gone: somebody deletes objects; trying again")
    try:
        return metadata.decode(encoded)
    except StoreCorrupt:
        return None


def _keep_beside(store: ObjectStore, pair: Pair) -> PairOutcome:
    copy = f"{pair.content_crc:08x}"
    outcome = _put_pair(store, pair, object_keys(pair.identity, copy), copy)
    if outcome is None:
        raise ConflictError(f"two contents of {object_keys(pair.identity).npy} have the checksum {copy}")
    return outcome


def _overwrite(store: ObjectStore, pair: Pair, keys: ObjectKeys, is_newer: Callable[[], bool]) -> PairOutcome:
    if not is_newer():
        return PairOutcome(PairResult.SUPERSEDED, keys, None, "")
    # The marker goes first: a reader, or a crash in between, finds no pair rather than a wrong one.
    store.delete(keys.metadata)
    etag = store.put(keys.npy, pair.npy)
    store.put(keys.metadata, pair.metadata)
    return PairOutcome(PairResult.OVERWRITTEN, keys, None, etag)
