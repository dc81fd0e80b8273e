"""The REP socket: one request in, one reply out to whoever asked.

It is a ROUTER that speaks the envelope of REQ and REP (guide, "The Request-Reply Mechanisms"): a REP socket answers in
strict turn, so that a catalog query would hold up everybody, and a client that dies between its request and the reply
could wedge it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from ingestd.formats.protocol import MAX_REQUEST_BYTES
from ingestd.roles.keyring import Keyring
from ingestd.roles.listening import listen

__all__ = ["QuerySocket", "Question", "open_query_socket"]

#: Requests that wait per peer [count]: each may be 64 KiB.
QUERY_RCVHWM = 32

#: Replies that wait per peer [count]; libzmq drops what is beyond. It learns in steps of half of this what was sent,
#: so a peer may have at least 128 requests under way and gets every reply; a REQ client has one.
_SNDHWM = 256

#: Large replies that a peer has not taken yet [bytes]: with more it gets no further one.
_MAX_UNTAKEN_BYTES = 4 * 2**20

#: From here on replies are counted as large [bytes]: what libzmq is done with is told by pyzmq from this size on.
_LARGE_BYTES = 64 * 2**10

#: Clients at the same time [count].
MAX_CONNECTIONS = 64

#: Parts before the empty delimiter [count]: our peer's identity, and one for each proxy on the way.
_MAX_ENVELOPE = 8


@dataclass(frozen=True, slots=True)
class Question:
    """One message; `envelope` goes in front of the reply and is empty where there can be none (no delimiter, no key).

    `body` is the first part after the delimiter, `n_parts` how many there were; a request has one. `only_name` is the node
    that the sender's key is bound to, where it may not speak of others.
    """

    envelope: tuple[bytes, ...]
    body: bytes
    n_parts: int
    only_name: str | None = None


class QuerySocket:
    """Bound ROUTER socket; nothing blocks."""

    def __init__(self, socket: zmq.Socket[bytes], keyring: Keyring | None = None) -> None:
        self._socket = socket
        self._keyring = keyring
        self._untaken: deque[tuple[bytes, int, zmq.MessageTracker]] = deque()

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For polling only."""
        return self._socket

    def receive(self) -> Question | None:
        """Take the next message; None where none is waiting."""
        envelope: list[bytes] = []
        body, n_parts, delimited, is_known = b"", 0, False, True
        key: str | None = None
        try:
            while True:
                # Parts of one message arrive together, so only the first of them can be missing.
                if self._keyring is None:
                    part = self._socket.recv(zmq.NOBLOCK)
                else:
                    message = self._socket.recv(zmq.NOBLOCK, copy=False)
                    part, key = message.bytes, _key_of(message)
                    is_known = key is not None and self._keyring.name_of(key) is not None
                if delimited:
                    body = body if n_parts else part
                    n_parts += 1
                elif len(envelope) <= _MAX_ENVELOPE:
                    envelope.append(part)
                    delimited = part == b"" and len(envelope) > 1
                if not self._socket.getsockopt(zmq.RCVMORE):
                    only_name = self._only_name(key)
                    # One that was taken off the list gets no answer any more.
                    return Question(
                        tuple(envelope) if delimited and is_known else (), body, n_parts, only_name
                    )
        except zmq.Again:
            return None

    def _only_name(self, key: str | None) -> str | None:
        return None if self._keyring is None or key is None else self._keyring.only_name_of(key)

    def reply(self, envelope: tuple[bytes, ...], body: bytes) -> None:
        """Send a reply; one whose client is gone, or does not read, is dropped."""
        # Without ROUTER_MANDATORY libzmq drops what it cannot route or queue, and raises nothing.
        for part in envelope:
            self._socket.send(part, zmq.SNDMORE)
        if len(body) < _LARGE_BYTES:
            self._socket.send(body)
        else:
            tracker = self._socket.send(body, copy=False, track=True)
            self._untaken.append((envelope[0], len(body), tracker))

    def takes_replies(self, envelope: tuple[bytes, ...]) -> bool:
        """Whether a peer has taken its large replies so far; what it leaves in our memory must be bounded."""
        self._untaken = deque(one for one in self._untaken if not one[2].done)
        untaken_bytes = sum(size_bytes for peer, size_bytes, _ in self._untaken if peer == envelope[0])
        return untaken_bytes < _MAX_UNTAKEN_BYTES


def _key_of(message: zmq.Frame) -> str | None:
    """Public key of the sender; None where the connection is gone."""
    try:
        return str(message["User-Id"])
    except (KeyError, zmq.ZMQError):
        return None


@contextlib.contextmanager
def open_query_socket(
    endpoint: str, *, max_per_address: int | None = None, keyring: Keyring | None = None
) -> Iterator[QuerySocket]:
    """Bind the socket for the length of a `with` block.

    Raises
    ------
    ConfigError
        The endpoint cannot be bound.
    """
    with listen(
        zmq.ROUTER,
        endpoint,
        "query",
        max_message_bytes=MAX_REQUEST_BYTES,
        max_connections=MAX_CONNECTIONS,
        max_per_address=max_per_address,
        marks={zmq.SNDHWM: _SNDHWM, zmq.RCVHWM: QUERY_RCVHWM},
        keyring=keyring,
    ) as socket:
        yield QuerySocket(socket, keyring)
