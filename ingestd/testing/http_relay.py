"""Just enough of HTTP/1.1 to carry requests and replies of an S3 store through a proxy, byte for byte."""

from __future__ import annotations

import asyncio
import re
import string
from dataclasses import dataclass, replace
from typing import Self

__all__ = ["Reply", "Request", "read_reply", "read_request"]

_ALPHABET = (string.digits + string.ascii_letters).encode()

_CHECKSUMS = re.compile(rb"(?im)^(etag|x-amz-checksum-crc32c): *([^\r\n]*)")


@dataclass(frozen=True, slots=True)
class Request:
    """Head of a request, as it came."""

    head: bytes
    method: str
    path: str
    length_bytes: int
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as it came; an interim one has no body."""

    head: bytes
    body: bytes
    status: int
    method: str
    keeps_alive: bool

    def last(self) -> Self:
        """The same reply, after which the connection ends."""
        return replace(self, keeps_alive=False)

    def with_other_checksums(self) -> bytes:
        """The head with an ETag and a checksum of something else."""
        return _CHECKSUMS.sub(lambda match: match[1] + b": " + _other(match[2]), self.head)


def _other(value: bytes) -> bytes:
    """A value of the same form that is another one: every letter and digit is the next."""
    return value.translate(bytes.maketrans(_ALPHABET, _ALPHABET[1:] + _ALPHABET[:1]))


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the head of a request; None where the client has no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    return Request(
        head,
        method,
        path,
        int(_header(head, b"content-length") or 0),
        _header(head, b"expect").lower() == b"100-continue",
    )


async def read_reply(reader: asyncio.StreamReader, method: str) -> Reply:
    """Read one reply with its body, interim replies included."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    keeps_alive = _header(head, b"connection").lower() != b"close"
    if status < 200 or status in (204, 304) or method == "HEAD":
        return Reply(head, b"", status, method, keeps_alive)
    if _header(head, b"transfer-encoding").lower() == b"chunked":
        return Reply(head, await _chunks(reader), status, method, keeps_alive)
    body = await reader.readexactly(int(_header(head, b"content-length") or 0))
    return Reply(head, body, status, method, keeps_alive)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it came, with the sizes of its chunks."""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        n_bytes = int(line.split(b";")[0], 16)
        chunk = await reader.readexactly(n_bytes + 2)
        body += line + chunk
        if n_bytes == 0:
            return body


def _header(head: bytes, name: bytes) -> bytes:
    match = re.search(rb"(?im)^" + re.escape(name) + rb": *([^\r\n]*)", head)
    return b"" if match is None else match[1].strip()
