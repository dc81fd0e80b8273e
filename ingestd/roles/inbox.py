"""The PULL socket: one ZeroMQ message in, one frame or one refusal out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zmq

from ingestd.errors import ConfigError
from ingestd.roles.zap import start_zap

__all__ = ["Inbox", "Received", "open_inbox"]

#: Messages that wait per peer [count]: high-water marks count messages, and a message may be tens of megabytes.
_RCVHWM = 4

#: A peer that has not finished its handshake by then is dropped [ms].
_HANDSHAKE_MS = 5000

#: TCP keepalive instead of ZMTP heartbeats, whose time-out kills large frames on slow links [s, s, count].
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 60, 15, 4


@dataclass(frozen=True, slots=True)
class Received:
    """One message. `n_parts` is 1 for a frame; of a multipart message only the first part is kept."""

    frame: memoryview
    peer: str
    n_parts: int


class Inbox:
    """Bound PULL socket; non-blocking reads."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        self._socket = socket
        self._endpoint = endpoint

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
    context = zmq.Context(io_threads=1)
    socket = context.socket(zmq.PULL)
    try:
        with start_zap(context, max_connections=max_connections) as doorkeeper:
            doorkeeper.watch(socket)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVHWM, _RCVHWM)
            socket.set(zmq.MAXMSGSIZE, max_frame_bytes)
            socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
            socket.set(zmq.ZAP_DOMAIN, b"ingest")
            socket.set(zmq.TCP_KEEPALIVE, 1)
            socket.set(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S)
            socket.set(zmq.TCP_KEEPALIVE_INTVL, _KEEPALIVE_INTERVAL_S)
            socket.set(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_COUNT)
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise ConfigError(
                    f"ingest.endpoint: cannot bind {endpoint}: {error.strerror or error}"
                ) from error
            yield Inbox(socket, endpoint)
            socket.close()
    finally:
        socket.close()
        context.destroy(linger=0)
