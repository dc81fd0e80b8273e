"""Holds what is said to be in a store to what is there: one pair at a time, by checksum or by its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ingestd.errors import StoreCorrupt, StoreError, StoreMisconfigured, StoreRefused
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import ObjectKeys
from ingestd.storage.port import ObjectInfo, ObjectStore

__all__ = ["ClaimedObject", "ClaimedPair", "Damage", "Finding", "check_pair"]


class Damage(StrEnum):
    """What is wrong with an object."""

    MISSING = "missing"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ClaimedObject:
    """An object as it is said to be; `etag` is "" where none was written down."""

    key: str
    size_bytes: int
    crc32c: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedPair:
    """The two objects of a measurement as they are said to be; `document` is the metadata object's content."""

    keys: ObjectKeys
    npy: ClaimedObject
    metadata: ClaimedObject
    document: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One object that is not what it is said to be."""

    key: str
    damage: Damage
    detail: str


def check_pair(store: ObjectStore, pair: ClaimedPair, *, deep: bool, insist: bool = False) -> list[Finding]:
    """Compare both objects of a pair with what is said of them.

    Parameters
    ----------
    store
        Where they are.
    pair
        What is said.
    deep
        Whether to read the bytes; otherwise the store's word for size and checksum is taken, and the bytes are read
        only where it has no word that proves them.
    insist
        Whether an object that the store does not give out is a finding, whatever the error; for a caller who knows that
        the store itself is well. A store may answer for a rotten object as it does when it is busy.

    Raises
    ------
    StoreError
        Nothing can be said at all: the store is down, denies, or the whole bucket is gone.
    """
    return [
        finding
        for claimed in (pair.npy, pair.metadata)
        for finding in _check(store, claimed, deep=deep, insist=insist)
    ]


def _check(store: ObjectStore, claimed: ClaimedObject, *, deep: bool, insist: bool) -> Iterator[Finding]:
    try:
        info = store.head(claimed.key)
        if info is None:
            yield Finding(claimed.key, Damage.MISSING, "no such object")
            return
        detail = _difference(info, claimed)
        if not detail and (deep or not _is_proven(info, claimed)):
            detail = _difference_of_bytes(store, claimed)
    except StoreMisconfigured:
        raise
    except StoreError as error:
        # Those two are about this object; others are about the store until somebody has seen that it is well.
        if not insist and not isinstance(error, StoreCorrupt | StoreRefused):
            raise
        yield Finding(claimed.key, Damage.UNREADABLE, str(error))
        return
    if detail:
        yield Finding(claimed.key, Damage.DIFFERS, detail)


def _difference(info: ObjectInfo, claimed: ClaimedObject) -> str:
    """What the store's word differs in; "" where it agrees, or says too little."""
    if info.size_bytes != claimed.size_bytes:
        return f"{info.size_bytes} bytes, not {claimed.size_bytes}"
    if info.crc32c is not None and info.crc32c != claimed.crc32c:
        return f"crc32c {info.crc32c:08x}, not {claimed.crc32c:08x}"
    return ""


def _is_proven(info: ObjectInfo, claimed: ClaimedObject) -> bool:
    """Whether the store's word is enough. Another ETag proves no difference: a copied or encrypted object has one."""
    return info.crc32c is not None or (bool(claimed.etag) and info.etag == claimed.etag)


def _difference_of_bytes(store: ObjectStore, claimed: ClaimedObject) -> str:
    content = store.get(claimed.key, claimed.size_bytes)
    if content is None:
        return "gone while it was read"
    found = crc32c(content)
    if len(content) == claimed.size_bytes and found == claimed.crc32c:
        return ""
    return f"{len(content)} bytes with crc32c {found:08x}, not {claimed.size_bytes} with {claimed.crc32c:08x}"
