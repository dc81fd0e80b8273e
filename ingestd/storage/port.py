"""The port: the few things the daemon asks of an object store.

Implementations: `directory.DirectoryStore`, `minio.MinioStore`, `ingestd.testing.MemoryStore`, and doubles around
them. tests/contract/ holds the cases that each must pass. Every method raises only `ingestd.errors.StoreError`s.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = [
    "Blocks",
    "Body",
    "ObjectInfo",
    "ObjectStore",
    "Part",
    "PutResult",
    "StoreProfile",
    "crc32c_base64",
]


def crc32c_base64(crc32c: int) -> str:
    """CRC32C as S3 writes it: base64 of the four bytes, big endian."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode("ascii")


class Blocks(Protocol):
    """A part that is made while somebody goes through it, again each time; `len` is known before."""

    def __len__(self) -> int:
        """Length of all blocks together [bytes]."""
        ...

    def __iter__(self) -> Iterator[memoryview]:
        """Yield consecutive blocks; each is good until the next one is asked for."""
        ...


#: A piece of a body.
Part = bytes | memoryview | Blocks


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes to store, in parts so that nothing is copied.

    Parameters
    ----------
    parts
        Consecutive pieces of the object; what is not there is made block by block.
    crc32c
        Of all parts together.
    content_type
        MIME type.
    meanwhile
        Work that a store may do while it waits for the reply to this body: never needed, cheap to ask for twice.
    """

    parts: tuple[Part, ...]
    crc32c: int
    content_type: str = "application/octet-stream"
    meanwhile: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """Length of the whole object [bytes]."""
        return sum(len(part) for part in self.parts)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Go through all bytes; each block is good until the next one is asked for."""
        for part in self.parts:
            if isinstance(part, (bytes, memoryview)):
                yield part
            else:
                yield from part


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about an object.

    `etag` is without quotes; `crc32c` is None where the store does not keep one; `last_modified_ns` [ns since 1970].
    """

    key: str
    size_bytes: int
    etag: str
    crc32c: int | None
    last_modified_ns: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """Outcome of a conditional PUT: ours was `created`, or the name was taken and nothing was changed.

    `etag` is that of what is now under the key; "" where the name was taken and telling would cost a read.
    """

    created: bool
    etag: str


@dataclass(frozen=True, slots=True)
class StoreProfile:
    """What the probe found the store to support; shown in `health`.

    `needs_identity_lock`: the conflict check is HEAD, then PUT, so one identity must be held from HEAD to metadata,
    and more than one daemon on this bucket is not supported.
    """

    kind: Literal["directory", "minio", "memory"]
    checksum: Literal["crc32c", "content-md5", "fdatasync", "none"]
    conflict_check: Literal["if-none-match", "head-first", "link"]

    @property
    def needs_identity_lock(self) -> bool:
        """Whether the caller must hold the lock of the identity around a pair."""
        return self.conflict_check == "head-first"


class ObjectStore(Protocol):
    """Object store as the daemon needs it. Thread-safe; not shared between processes."""

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        ...

    @property
    def endpoint(self) -> str:
        """Where it is, for people: a URL or a directory; never with credentials."""
        ...

    @property
    def profile(self) -> StoreProfile:
        """What the last `probe` found; before it, the weakest assumption that is safe."""
        ...

    def probe(self, *, make_bucket: bool = True) -> StoreProfile:
        """Make the bucket if absent (where `make_bucket`) and find out what the store enforces."""
        ...

    def check(self) -> None:
        """Cheap reachability and rights check (HEAD of the bucket); raises where uploads could not work."""
        ...

    def put_new(self, key: str, body: Body) -> PutResult:
        """Store `body` under `key` unless something is there; verified before it returns `created`."""
        ...

    def put(self, key: str, body: Body) -> str:
        """Store `body` under `key`, replacing what is there; returns the verified ETag."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """What is under `key`; None where nothing is. Every store fills `crc32c` where it can at all."""
        ...

    def same(self, info: ObjectInfo, body: Body) -> bool:
        """Whether the object described by `info` holds exactly the bytes of `body` (size and checksum or ETag)."""
        ...

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """Read a whole object of at most `max_bytes`; None where nothing is; `StoreCorrupt` where it is longer."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; no error where nothing is."""
        ...

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, ascending by key, after `start_after`."""
        ...

    def url(self, key: str, expires_s: int) -> str:
        """URL under which a client without credentials can GET `key` for `expires_s` seconds; file:// for a directory."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...
