"""The leanest PUT that Python can write: signed beforehand, body by sendfile, the reply read for its status only.

Without a checksum, a condition or a name that is looked at: what these cost is part of what is measured.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
from urllib.parse import SplitResult

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

from ingestd.errors import IngestdError
from ingestd.testing.bench.rivals.order import store_address

__all__ = ["Connection", "signed_head"]


def signed_head(key: str, n_bytes: int) -> bytes:
    """Request line and headers of a PUT, good for a quarter of an hour."""
    host, port = store_address()
    netloc, path = f"{host}:{port}", f"/{os.environ['MINIO_BUCKET_RAW_IQ']}/{key}"
    now = dt.datetime.now(dt.UTC)
    headers = sign_v4_s3(
        method="PUT",
        url=SplitResult("http", netloc, path, "", ""),
        region="us-east-1",
        headers={
            "Host": netloc,
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        },
        credentials=Credentials(os.environ["MINIO_ACCESS_KEY"], os.environ["MINIO_SECRET_KEY"]),
        content_sha256="UNSIGNED-PAYLOAD",
        date=now,
    )
    lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join([*lines, f"Content-Length: {n_bytes}"]) + "\r\n\r\n").encode()


class Connection:
    """A kept connection to the store."""

    def __init__(self) -> None:
        self._socket = socket.create_connection(store_address(), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def put_file(self, head: bytes, fd: int, offset: int, n_bytes: int, before: bytes = b"") -> None:
        """PUT `before` and a part of a file."""
        self._socket.sendmsg([head, before], [], socket.MSG_MORE)
        end = offset + n_bytes
        while offset < end:
            offset += os.sendfile(self._socket.fileno(), fd, offset, end - offset)
        self._expect_success()

    def put(self, head: bytes, body: bytes) -> None:
        """PUT a small body."""
        self._socket.sendall(head + body)
        self._expect_success()

    def _expect_success(self) -> None:
        reply = self._socket.recv(4096)
        while b"\r\n\r\n" not in reply:
            got = self._socket.recv(4096)
            if not got:
                break
            reply += got
        if not reply.startswith(b"HTTP/1.1 200"):
            raise IngestdError(f"the store said {reply[:300]!r}")
