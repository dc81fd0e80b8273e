"""A store that keeps nothing: the part of S3 that uploads need, with bodies discarded inside the kernel.

It shows what a client costs where the store costs nothing. Names are remembered, with the time at which each object was
there, so that If-None-Match is honoured and a run can be counted; the contents are not, but for the probe's. A wrong
checksum is refused for small bodies: that is what the probe tries.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping

from ingestd.formats.checksum import crc32c

__all__ = ["NullStore", "main"]

#: Bodies up to this are read and checked where a checksum came with them [bytes]; the probe's has 70.
_SMALL_BYTES = 256

#: One read of a request's head [bytes]: small, because what it takes of the body is copied.
_HEAD_BYTES = 2048

_MAX_HEAD_BYTES = 16 * 1024

#: The kernel discards this much in one call [bytes].
_DISCARD_BYTES = 64 * 2**20

_ETAG = b'ETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + _ETAG + b"\r\n"
_EMPTY_LIST = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'


class NullStore:
    """The server; a thread for each connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        #: Keys in order of arrival, with the time of each [ns since 1970].
        self.arrivals: list[tuple[str, int]] = []
        self._known: set[str] = set()
        # Never written to: with MSG_TRUNC the kernel counts bytes and copies none.
        self._void = bytearray(_DISCARD_BYTES)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Serve for ever."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        try:
            while True:
                while (end := received.find(b"\r\n\r\n")) < 0:
                    got = connection.recv(_HEAD_BYTES)
                    if not got or len(received) > _MAX_HEAD_BYTES:
                        return
                    received += got
                received = self._request(connection, received[:end], received[end + 4 :])
        except OSError:
            return
        finally:
            connection.close()

    def _request(self, connection: socket.socket, head: bytes, rest: bytes) -> bytes:
        """Answer one request; returns what was read of the next."""
        line, *lines = head.split(b"\r\n")
        method, target, _ = line.split(b" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (one.partition(b":") for one in lines)
        }
        length = int(headers.get(b"content-length", b"0"))
        if b"expect" in headers and not rest:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, rest = rest[:length], rest[length:]
        body = self._take(connection, body, length)
        if method == b"GET" and target.startswith(b"/-/arrivals"):
            first = int(target.rpartition(b"=")[2])
            connection.sendall(_document(json.dumps(self.arrivals[first:]).encode()))
            return rest
        path = target.partition(b"?")[0].decode()
        _, _, key = path[1:].partition("/")
        connection.sendall(self._answer(method, key, target, headers, body))
        return rest

    def _take(self, connection: socket.socket, body: bytes, length: int) -> bytes:
        """Read a small body; of a larger one only what came with the head."""
        left = length - len(body)
        while left and length <= _SMALL_BYTES:
            got = connection.recv(left)
            if not got:
                raise ConnectionError
            body, left = body + got, left - len(got)
        while left:
            n = connection.recv_into(
                self._void, min(left, _DISCARD_BYTES), socket.MSG_TRUNC | socket.MSG_WAITALL
            )
            if not n:
                raise ConnectionError
            left -= n
        return body

    def _answer(
        self, method: bytes, key: str, target: bytes, headers: Mapping[bytes, bytes], body: bytes
    ) -> bytes:
        if not key:
            return _OK if method in (b"HEAD", b"PUT") else _document(_EMPTY_LIST)
        if method == b"PUT":
            return self._put(key, headers, body)
        if method == b"DELETE":
            self._known.discard(key)
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        if key not in self._known or b"list-type" in target:
            # The reply to a HEAD announces a body and has none.
            reply = _error(404, "NoSuchKey")
            return reply.partition(b"<Error>")[0] if method == b"HEAD" else reply
        return _OK

    def _put(self, key: str, headers: Mapping[bytes, bytes], body: bytes) -> bytes:
        wanted = headers.get(b"x-amz-checksum-crc32c")
        if wanted is not None and int(headers[b"content-length"]) <= _SMALL_BYTES:
            actual = base64.b64encode(crc32c(body).to_bytes(4, "big"))
            if wanted != actual:
                return _error(400, "XAmzContentChecksumMismatch")
        if b"if-none-match" in headers and key in self._known:
            return b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n" + _ETAG + b"\r\n"
        self._known.add(key)
        self.arrivals.append((key, time.time_ns()))
        return _OK


def _document(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _error(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    return b"HTTP/1.1 %d Error\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def main() -> int:
    """Serve; the port goes to standard output."""
    sys.stdin.readline()
    store = NullStore()
    sys.stdout.write(f"{store.port}\n")
    sys.stdout.flush()
    store.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
