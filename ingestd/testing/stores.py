"""Store doubles: in memory, faulty on demand, and one that keeps none of the promises it could."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ingestd.errors import StoreCorrupt, StoreError
from ingestd.formats.checksum import crc32c, crc32c_extend
from ingestd.storage.keys import check_bucket, check_key
from ingestd.storage.port import Body, ObjectInfo, PutResult, StoreProfile

__all__ = ["FaultyStore", "MemoryStore", "WeakStore"]


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    crc32c: int
    last_modified_ns: int


class MemoryStore:
    """A bucket in memory that keeps the whole contract of the port."""

    def __init__(self, bucket: str = "heimdall-raw-iq") -> None:
        self._bucket = check_bucket(bucket)
        self._objects: dict[str, _Object] = {}
        self._lock = threading.Lock()

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._bucket

    @property
    def endpoint(self) -> str:
        """Not a place that anybody can go to."""
        return "memory"

    @property
    def profile(self) -> StoreProfile:
        """Always the same."""
        return StoreProfile("memory", "crc32c", "if-none-match")

    def probe(self, *, make_bucket: bool = True) -> StoreProfile:  # noqa: ARG002 - there always is one
        """Nothing to find out."""
        return self.profile

    def check(self) -> None:
        """Always there."""

    def put_new(self, key: str, body: Body) -> PutResult:
        """Store unless the name is taken."""
        made = _verified(check_key(key), body)
        with self._lock:
            there = self._objects.setdefault(key, made)
        return PutResult(created=there is made, etag=f"{there.crc32c:08x}")

    def put(self, key: str, body: Body) -> str:
        """Store, replacing what is there."""
        made = _verified(check_key(key), body)
        with self._lock:
            self._objects[key] = made
        return f"{made.crc32c:08x}"

    def head(self, key: str) -> ObjectInfo | None:
        """What is there."""
        found = self._objects.get(check_key(key))
        return None if found is None else _info(key, found)

    def same(self, info: ObjectInfo, body: Body) -> bool:
        """Compare size and checksum."""
        return info.size_bytes == body.size_bytes and info.crc32c == body.crc32c

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """The bytes."""
        found = self._objects.get(check_key(key))
        if found is not None and len(found.content) > max_bytes:
            raise StoreCorrupt(f"{key} has over {max_bytes} bytes")
        return None if found is None else found.content

    def delete(self, key: str) -> None:
        """Remove."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All keys in order."""
        with self._lock:
            found = sorted(self._objects.items(), key=lambda item: item[0].encode())
        for key, stored in found:
            if key.startswith(prefix) and key > start_after:
                yield _info(key, stored)

    def url(self, key: str, expires_s: int) -> str:
        """URL that tells what was asked for."""
        return f"memory://{self._bucket}/{check_key(key)}?expires_s={expires_s}"

    def close(self) -> None:
        """Nothing to close."""


def _verified(key: str, body: Body) -> _Object:
    content = b"".join(map(bytes, body.blocks()))
    if crc32c(content) != body.crc32c:
        raise StoreCorrupt(f"{key}: the bytes do not have the checksum that came with them")
    return _Object(content, body.crc32c, time.time_ns())


def _info(key: str, stored: _Object) -> ObjectInfo:
    return ObjectInfo(
        key, len(stored.content), f"{stored.crc32c:08x}", stored.crc32c, stored.last_modified_ns
    )


class WeakStore(MemoryStore):
    """Ignores If-None-Match and checksums, as some servers do: check and write are two steps, nothing is verified.

    Parameters
    ----------
    bucket
        Name of the bucket.
    between
        Called between the check and the write, to widen the race.
    """

    def __init__(self, bucket: str = "heimdall-raw-iq", between: Callable[[], None] = lambda: None) -> None:
        super().__init__(bucket)
        self._between = between

    @property
    def profile(self) -> StoreProfile:
        """What a probe of such a server finds."""
        return StoreProfile("memory", "none", "head-first")

    def put_new(self, key: str, body: Body) -> PutResult:
        """HEAD, then PUT."""
        info = self.head(key)
        if info is not None:
            return PutResult(created=False, etag=info.etag)
        self._between()
        return PutResult(created=True, etag=self.put(key, body))

    def put(self, key: str, body: Body) -> str:
        """Take whatever comes."""
        crc = 0
        for block in body.blocks():
            crc = crc32c_extend(crc, block)
        return super().put(key, Body(body.parts, crc, body.content_type))


class FaultyStore(MemoryStore):
    """Raises what it is told, before or after the request took effect.

    `before` and `after` map the name of a method to what its next calls raise, one each; None lets a call through.
    """

    def __init__(self, bucket: str = "heimdall-raw-iq") -> None:
        super().__init__(bucket)
        self.before: dict[str, list[StoreError | None]] = {}
        self.after: dict[str, list[StoreError | None]] = {}
        self.calls: list[tuple[str, str]] = []

    def put_new(self, key: str, body: Body) -> PutResult:
        """Store unless the name is taken, with faults."""
        self._strike("put_new", key, self.before)
        result = super().put_new(key, body)
        self._strike("put_new", "", self.after)
        return result

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """The bytes, with faults."""
        self._strike("get", key, self.before)
        return super().get(key, max_bytes)

    def head(self, key: str) -> ObjectInfo | None:
        """What is there, with faults."""
        self._strike("head", key, self.before)
        return super().head(key)

    def _strike(self, name: str, key: str, faults: dict[str, list[StoreError | None]]) -> None:
        if key:
            self.calls.append((name, key))
        waiting = faults.get(name)
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error
