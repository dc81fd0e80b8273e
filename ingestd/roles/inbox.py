"""The PULL socket: one ZeroMQ message in, one frame or one refusal out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zmq

from ingestd.config.sections import IngestSettings
from ingestd.roles.keyring import Keyring
from ingestd.roles.listening import listen

__all__ = ["Inbox", "Received", "open_inbox"]

#: Messages that wait per peer [count]: high-water marks count messages, and a message may be tens of megabytes.
RCVHWM = 4


@dataclass(frozen=True, slots=True)
class Received:
    """One message.

    Parameters
    ----------
    frame, n_parts
        `n_parts` is 1 for a frame; of a multipart message only the first part is kept.
    peer
        Its address.
    owner
        Name that the sender's key is bound to: "" where the key was taken off the list, None without CURVE.
    """

    frame: memoryview
    peer: str
    n_parts: int
    owner: str | None = None

    def may_be_from(self, node: str | None) -> bool:
        """Whether the sender may use this name, or none, in a frame."""
        return self.owner is None or (self.owner != "" and node in (None, self.owner))


class Inbox:
    """Bound PULL socket; non-blocking reads."""

    def __init__(self, socket: zmq.Socket[bytes], keyring: Keyring | None = None) -> None:
        self._socket = socket
        self._keyring = keyring

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
        owner = (
            None if self._keyring is None else self._keyring.name_of(_property(first, "User-Id", "")) or ""
        )
        return Received(first.buffer, _property(first, "Peer-Address", "unknown"), n_parts, owner)

    def refuse_new_peers(self) -> None:
        """Take no further connection; connected peers still deliver."""
        with contextlib.suppress(zmq.ZMQError):
            endpoint: Any = self._socket.last_endpoint
            self._socket.unbind(endpoint)


def _property(message: zmq.Frame, name: str, absent: str) -> str:
    """Property of the connection that a message came over."""
    try:
        return str(message[name])
    except (KeyError, zmq.ZMQError):
        return absent


@contextlib.contextmanager
def open_inbox(settings: IngestSettings, keyring: Keyring | None) -> Iterator[Inbox]:
    """Bind the PULL socket for the length of a `with` block.

    Raises
    ------
    ConfigError
        The endpoint cannot be bound.
    """
    with listen(
        zmq.PULL,
        settings.endpoint,
        "ingest",
        max_message_bytes=settings.max_frame_bytes,
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
        marks={zmq.RCVHWM: RCVHWM},
        keyring=keyring,
    ) as socket:
        yield Inbox(socket, keyring)
