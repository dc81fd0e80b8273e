"""ZMTP 3.1 by hand: libzmq as a sender keeps a message back until its last part, so that it cannot be hostile with parts."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator

__all__ = ["GREETING", "address_of", "connected", "is_closed", "part", "ready_peer"]

#: Begins like ZMTP 3.1 with the mechanism NULL (RFC 23 and 37).
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31)

_MORE, _LONG, _COMMAND = 1, 2, 4

#: Longest wait for the other side [s]; whoever takes nothing for so long has cut the peer off, or hangs.
_TIMEOUT_S = 5.0


def address_of(endpoint: str) -> tuple[str, int]:
    """Host and port of a TCP endpoint."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def connected(endpoint: str) -> Iterator[socket.socket]:
    """A TCP connection that says nothing yet."""
    with socket.create_connection(address_of(endpoint), timeout=_TIMEOUT_S) as peer:
        yield peer


@contextlib.contextmanager
def ready_peer(endpoint: str, kind: bytes) -> Iterator[socket.socket]:
    """A peer that has its handshake behind it.

    Parameters
    ----------
    endpoint
        Of the daemon.
    kind
        Socket type that it claims to be, e.g. b"PUSH".
    """
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    with connected(endpoint) as peer:
        peer.sendall(GREETING + bytes([_COMMAND, len(ready)]) + ready)
        heard = b""
        # The other side has greeted and is ready: its greeting, and a command of at least its own name.
        while len(heard) < len(GREETING) + 8:
            got = peer.recv(4096)
            if not got:
                raise ConnectionError("closed in the handshake")
            heard += got
        yield peer


def part(body: bytes, *, more: bool = False, claimed: int | None = None) -> bytes:
    """A message part as it goes over the wire.

    Parameters
    ----------
    body
        What it holds.
    more
        Whether another part of the same message follows.
    claimed
        Length that the header tells; None = the true one.
    """
    return (
        struct.pack(">BQ", _LONG | (_MORE if more else 0), len(body) if claimed is None else claimed) + body
    )


def is_closed(peer: socket.socket, timeout_s: float) -> bool:
    """Whether the other side ends a connection in time; what it says before that is read."""
    while select.select([peer], [], [], timeout_s)[0]:
        try:
            if not peer.recv(2**16):
                return True
        except ConnectionError:
            return True
    return False
