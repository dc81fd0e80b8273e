"""The pool of connections under the SDK, made to read no more than a reply may hold.

The SDK reads every body whole, errors too, and urllib3 unpacks what claims to be gzip on the way: a hostile or broken
store could fill the memory with either.
"""

from __future__ import annotations

import io
from typing import Any

import urllib3

__all__ = ["MAX_REPLY_BYTES", "BoundedPool"]

#: Longest reply that the SDK gets [bytes]: a page of a listing, 1,000 keys of 1 KiB with all about them, is a quarter.
MAX_REPLY_BYTES = 8 * 2**20


class BoundedPool(urllib3.PoolManager):
    """Connections that follow no redirect, unpack nothing, and end a reply that does not."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = False, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and read its reply.

        Raises
        ------
        urllib3.exceptions.HTTPError
            The reply is longer than `MAX_REPLY_BYTES`, or what urllib3 itself raises.
        """
        del redirect  # credentials go to the server that was named, and to no other
        preload = kw.pop("preload_content", True)
        reply = super().urlopen(
            method, url, redirect=False, preload_content=False, decode_content=False, **kw
        )
        if not preload and reply.status < 300:
            return reply
        # As a loop: a read may return less than was asked for.
        body = b""
        while len(body) <= MAX_REPLY_BYTES and (part := reply.read(MAX_REPLY_BYTES + 1 - len(body))):
            body += part
        if len(body) > MAX_REPLY_BYTES:
            reply.close()
            raise urllib3.exceptions.HTTPError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        reply.release_conn()
        return urllib3.HTTPResponse(
            body=io.BytesIO(body),
            headers=reply.headers,
            status=reply.status,
            version=reply.version,
            reason=reply.reason,
            preload_content=True,
            decode_content=False,
            request_method=method,
        )
