"""HTTP/1.1 replies: bytes in, one strict and bounded `Reply` out (RFC 9112). No socket, no clock.

Anything that could be read in two ways is refused: a reply that is not understood to the last byte proves nothing
about what the store did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingestd.errors import StoreCorrupt, StoreMisconfigured, bounded

__all__ = ["Reply", "ReplyParser"]

#: Longest status line and headers [bytes]: S3 replies have about 1 KiB, nginx and Go refuse beyond 8 to 16 KiB.
MAX_HEAD_BYTES = 16 * 1024

#: Most header lines: S3 replies have about 20.
MAX_HEADERS = 100

#: Most 1xx replies before the real one: a store sends none or one.
MAX_INTERIM = 8

#: Longest error document that is read [bytes]: S3's have 400; the rest of a longer one is not fetched.
MAX_ERROR_BYTES = 64 * 1024

#: Longest line that gives the size of a chunk, extensions included [bytes].
MAX_CHUNK_LINE_BYTES = 256

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
#: Header names as they came, with what they are in lower case; at most `MAX_HEADERS`.
_known_names: dict[bytes, str] = {}
_LENGTH = re.compile(r"[0-9]{1,18}")
_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """A final reply.

    Parameters
    ----------
    status
        200 to 599.
    headers
        Values by lower-case name; a name that came twice has both values, joined by ", ".
    body
        At most the limit of the request.
    complete
        False where the body of an error was longer than the limit and is cut.
    keep_alive
        Whether the connection may serve another request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    complete: bool = True
    keep_alive: bool = False


class ReplyParser:
    """Puts one reply together from whatever pieces arrive.

    Parameters
    ----------
    is_head
        Whether the request was a HEAD, whose reply never has a body.
    max_body_bytes
        Longest body of a success; errors are cut at `MAX_ERROR_BYTES`, however little was asked for.
    """

    def __init__(self, *, is_head: bool, max_body_bytes: int) -> None:
        self._is_head = is_head
        self._max_body_bytes = max_body_bytes
        self._limit_bytes = max_body_bytes
        self._buffer = bytearray()
        self._body = bytearray()
        self._step: Callable[[], bool] = self._read_head
        self._n_interim = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._keep_alive = False
        self._left_bytes = 0
        #: Whether a `100 Continue` came.
        self.continued = False
        #: Whether a byte of the final reply, or of what may become it, came.
        self.started = False
        #: Whether the head of the final reply is there; what may still become a `100 Continue` does not count.
        self.answered = False
        #: Length of the body as announced, as far as it is read [bytes]; 0 where it is not announced.
        self.announced_bytes = 0
        #: The reply once it is there.
        self.reply: Reply | None = None

    @property
    def reusable(self) -> bool:
        """Whether the connection is in step: a whole reply, nothing after it, and the peer keeps it open."""
        return self.reply is not None and self.reply.keep_alive and not self._buffer

    def feed(self, received: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        StoreCorrupt
            They are no reply that can be understood, or a success has a longer body than asked for.
        StoreMisconfigured
            The peer does not speak HTTP.
        """
        self.started = True
        self._buffer += received
        while self.reply is None and self._step():
            pass

    def close(self) -> None:
        """Take the end of the connection.

        Raises
        ------
        StoreCorrupt
            It came in the middle of a reply, or it alone marks the end of a success.
        """
        if self.reply is not None or not self.started:
            return
        if self._step == self._read_to_close and self._status >= 300:
            self._finish()
            return
        raise StoreCorrupt(
            f"the reply is cut off after {bounded(bytes(self._buffer[:40]) or bytes(self._body[:40]))}"
        )

    def _read_head(self) -> bool:
        end = self._buffer.find(_HEAD_END, 0, MAX_HEAD_BYTES)
        if not b"HTTP/1.".startswith(self._buffer[:7]):
            raise StoreMisconfigured(f"not an HTTP server: it said {bounded(bytes(self._buffer[:40]))}")
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise StoreCorrupt(f"the reply's headers are over {MAX_HEAD_BYTES} bytes")
            return False
        status_line, *lines = bytes(self._buffer[:end]).split(_LINE_END)
        del self._buffer[: end + len(_HEAD_END)]
        match = _STATUS_LINE.fullmatch(status_line)
        if match is None:
            raise StoreCorrupt(f"the reply's status line is {bounded(status_line)}")
        self._status = int(match[2])
        self._headers = _headers(lines)
        if self._status < 200:
            return self._interim()
        self.answered = True
        self._limit_bytes = self._max_body_bytes if self._status < 300 else MAX_ERROR_BYTES
        tokens = self._headers.get("connection", "").lower()
        self._keep_alive = "close" not in tokens and (match[1] == b"1" or "keep-alive" in tokens)
        self._step = self._frame()
        return True

    def _interim(self) -> bool:
        self._n_interim += 1
        if self._status == 101 or self._n_interim > MAX_INTERIM:
            raise StoreCorrupt(f"the store keeps saying {self._status} instead of a reply")
        self.continued = self.continued or self._status == 100
        # A 100 alone is no reply: if the connection ends now, nothing was answered.
        self.started = bool(self._buffer)
        return self.started

    def _frame(self) -> Callable[[], bool]:
        """Decide how the body ends (RFC 9112, 6.3)."""
        coding = self._headers.get("transfer-encoding")
        length = self._headers.get("content-length")
        if coding is not None and (coding.lower() != "chunked" or length is not None):
            raise StoreCorrupt(
                f"the reply's transfer-encoding is {bounded(coding)}, content-length {bounded(length)}"
            )
        if length is not None and not _LENGTH.fullmatch(length):
            raise StoreCorrupt(f"the reply's content-length is {bounded(length)}")
        if self._is_head or self._status in (204, 304):
            return self._finish
        if coding is not None:
            return self._read_chunk_size
        if length is not None:
            self._left_bytes = int(length)
            if self._left_bytes > self._limit_bytes:
                self._check_success_fits()
            self.announced_bytes = min(self._left_bytes, self._limit_bytes)
            return self._read_counted
        return self._read_to_close

    def _read_counted(self) -> bool:
        self._left_bytes -= self._take(self._left_bytes)
        if not self._left_bytes:
            return self._finish()
        return self._cut_when_full()

    def _read_to_close(self) -> bool:
        # Where only the end of the connection ends the body, a cut reply looks like a whole one.
        if self._status < 300:
            raise StoreCorrupt("the reply has neither content-length nor chunks")
        self._keep_alive = False
        self._take(len(self._buffer))
        return self._cut_when_full()

    def _read_chunk_size(self) -> bool:
        line = self._read_line()
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise StoreCorrupt(f"the reply has a chunk size {bounded(line)}")
        self._left_bytes = int(match[1], 16)
        self._step = self._read_chunk if self._left_bytes else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._left_bytes -= self._take(self._left_bytes)
        if self._left_bytes:
            return self._cut_when_full()
        if len(self._buffer) < len(_LINE_END):
            return False
        if not self._buffer.startswith(_LINE_END):
            raise StoreCorrupt("a chunk of the reply is longer than its size")
        del self._buffer[: len(_LINE_END)]
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._read_line()
        if line:
            self._n_interim += 1
            if self._n_interim > MAX_HEADERS:
                raise StoreCorrupt(f"the reply has over {MAX_HEADERS} trailers")
            return True
        return False if line is None else self._finish()

    def _read_line(self) -> bytes | None:
        end = self._buffer.find(_LINE_END, 0, MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_CHUNK_LINE_BYTES:
                raise StoreCorrupt(f"the reply has a chunk line over {MAX_CHUNK_LINE_BYTES} bytes")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(_LINE_END)]
        return line

    def _take(self, wanted_bytes: int) -> int:
        """Move body bytes over, up to the limit; returns how many."""
        n = min(wanted_bytes, len(self._buffer), self._limit_bytes - len(self._body))
        with memoryview(self._buffer) as view:
            self._body += view[:n]
        del self._buffer[:n]
        return n

    def _cut_when_full(self) -> bool:
        """Whether to go on: no, until more arrives, unless the limit is reached and there is more."""
        if not self._buffer or len(self._body) < self._limit_bytes:
            return False
        self._check_success_fits()
        return self._finish(complete=False)

    def _check_success_fits(self) -> None:
        if self._status < 300:
            raise StoreCorrupt(f"the reply's body is over {self._max_body_bytes} bytes")

    def _finish(self, *, complete: bool = True) -> bool:
        keep_alive = self._keep_alive and complete
        self.reply = Reply(self._status, self._headers, bytes(self._body), complete, keep_alive)
        return False


def _headers(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise StoreCorrupt(f"the reply has over {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _known_header(line) or _any_header(line)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _known_header(line: bytes) -> tuple[str, str] | None:
    """A header whose name was seen before and whose value is plain: nearly all are, at a third of the cost."""
    raw, _, value = line.partition(b": ")
    name = _known_names.get(raw)
    if name is None or not value.isascii():
        return None
    text = value.decode("ascii")
    return (name, text.strip(" ")) if text.isprintable() else None


def _any_header(line: bytes) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise StoreCorrupt(f"the reply has a header {bounded(line)}")
    name = match[1].decode("ascii").lower()
    if len(_known_names) < MAX_HEADERS:
        _known_names[match[1]] = name
    return name, match[2].decode("latin-1").rstrip(" \t")
