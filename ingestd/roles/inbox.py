"""The PULL socket: one ZeroMQ message in, one frame or one refusal out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zmq

from ingestd.roles.listening import listen

__all__ = ["Inbox", "Received", "open_inbox"]

#: Messages that wait per peer [count]: high-water marks count messages, and a message may be tens of megabytes.
_RCVHWM = 4


@dataclass(frozen=True, slots=True)
class Received:
    """One message. `n_parts` is 1 for a frame; of a multipart message only the first part is kept."""

    frame: memoryview
    peer: str
    n_parts: int


class Inbox:
    """Bound PULL socket; non-blocking reads."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For polling only."""
        return self._socket

    def receive(self) -> Received | None:
        """Take the next message; None where none is waiting."""
        try:
            first = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        n_parts, more = 1, first.more
        # Parts of one message arrive together, so this ends with the message; a hostile one is bounded by RLIMIT_AS.
        while more:
            part = self._socket.recv(copy=False)
            n_parts, more = n_parts + 1, part.more
        return Received(first.buffer, _peer(first), n_parts)

    def refuse_new_peers(self) -> None:
        """Take no further connection; connected peers still deliver."""
        with contextlib.suppress(zmq.ZMQError):
            endpoint: Any = self._socket.last_endpoint
            self._socket.unbind(endpoint)


def _peer(message: zmq.Frame) -> str:
    try:
        return str(message["Peer-Address"])
    except (KeyError, zmq.ZMQError):
        return "unknown"


@contextlib.contextmanager
def open_inbox(endpoint: str, max_frame_bytes: int, max_connections: int) -> Iterator[Inbox]:
    """Bind the PULL socket for the length of a `with` block.

    Raises
    ------
    ConfigError
        The endpoint cannot be bound.
    """
    with listen(
        zmq.PULL,
        endpoint,
        "ingest",
        max_message_bytes=max_frame_bytes,
        max_connections=max_connections,
        marks={zmq.RCVHWM: _RCVHWM},
    ) as socket:
        yield Inbox(socket)
