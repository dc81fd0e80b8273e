"""The open connections of one ZeroMQ socket, as its monitor tells of them, and which of them have to go.

libzmq accepts whoever comes and drops a silent peer after five seconds: thousands of them would take every descriptor
of the process until then. What is too much is shut down here, by descriptor, the oldest of the most numerous address
first, so that whoever is in the middle of an honest handshake, which takes milliseconds, is not touched.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Connections", "Ended", "is_loopback"]

#: A connection that is older than this has its handshake behind it [s]: libzmq drops the others (`listening`: 5 s).
_HANDSHAKE_OVER_S = 6.0

#: Connections whose handshake is not over [count]: with more, the oldest that has not even greeted is shut down ...
MAX_SILENT = 256

#: ... and with more than this the oldest of all, whatever it said.
MAX_UNFINISHED = 512

#: A ZMTP greeting [bytes] (RFC 23); who has sent less is certainly not done with the handshake.
_GREETING_BYTES = 64

#: Where `tcpi_bytes_received` is in `struct tcp_info` (linux/tcp.h) [bytes].
_BYTES_RECEIVED_AT = 128


@dataclass(frozen=True, slots=True)
class _Open:
    accepted_s: float
    address: str


class Ended(NamedTuple):
    """A connection that ended: its age where its handshake was not over [s], and whether it was shut down here."""

    unfinished_age_s: float | None
    was_shed: bool


class Connections:
    """Counts connections by descriptor.

    Parameters
    ----------
    clock
        Monotonic [s].
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By descriptor, the oldest first; kept apart, because a crowd comes faster than all of them can be looked at.
        self._unfinished: dict[int, _Open] = {}
        self._done: dict[int, _Open] = {}
        #: Of the unfinished ones, those that are not known to have greeted: whoever has is not asked for again.
        self._silent: dict[int, str] = {}
        #: How many unfinished ones an address has.
        self._crowd: Counter[str] = Counter()
        #: Connections that were shut down before their handshake was over.
        self.shed_count = 0
        self._shed_fds: set[int] = set()

    def accepted(self, fd: int) -> None:
        """A peer was let into the handshake; another one may have to leave it."""
        self.closed(fd)
        one = self._unfinished[fd] = _Open(self._clock(), _address(fd))
        self._silent[fd] = one.address
        self._crowd[one.address] += 1
        if len(self._unfinished) > MAX_SILENT:
            self._age()
            self._shed()

    def closed(self, fd: int) -> Ended:
        """A connection ended; says which it was."""
        was_shed = fd in self._shed_fds
        self._shed_fds.discard(fd)
        if self._done.pop(fd, None) is not None:
            return Ended(None, was_shed)
        one = self._take_unfinished(fd)
        return Ended(None if one is None else self._clock() - one.accepted_s, was_shed)

    def finished_one(self) -> None:
        """A handshake succeeded; libzmq does not say whose.

        It takes a millisecond where a silent peer takes until it is dropped, so it is the newest one's that has sent a
        greeting. A wrong guess mends itself: whoever is still there after the time for a handshake has had one.
        """
        for fd in reversed(self._unfinished):
            # None: not a TCP connection; a peer on this machine is believed.
            if (received := _bytes_received(fd)) is None or received >= _GREETING_BYTES:
                self._finish(fd)
                return

    @property
    def n_unfinished(self) -> int:
        """Connections whose handshake is not over."""
        return len(self._unfinished)

    @property
    def n_done(self) -> int:
        """Connections whose handshake is over."""
        self._age()
        return len(self._done)

    def n_done_from(self, address: str) -> int:
        """Those of them that come from one address."""
        self._age()
        return sum(one.address == address for one in self._done.values())

    def _age(self) -> None:
        """Whoever is still there after the time for a handshake has had one."""
        horizon_s = self._clock() - _HANDSHAKE_OVER_S
        while self._unfinished:
            fd, oldest = next(iter(self._unfinished.items()))
            if oldest.accepted_s >= horizon_s:
                return
            self._finish(fd)

    def _finish(self, fd: int) -> None:
        one = self._take_unfinished(fd)
        assert one is not None, "it was looked up"
        self._done[fd] = one

    def _take_unfinished(self, fd: int) -> _Open | None:
        one = self._unfinished.pop(fd, None)
        self._silent.pop(fd, None)
        if one is not None:
            self._crowd[one.address] -= 1
            if not self._crowd[one.address]:
                del self._crowd[one.address]
        return one

    def _silent_victim(self, most: int) -> int | None:
        """The oldest that has not greeted, of the most numerous addresses."""
        greeted = []
        victim = None
        for fd, address in self._silent.items():
            if self._crowd[address] != most:
                continue
            if (_bytes_received(fd) or 0) < _GREETING_BYTES:
                victim = fd
                break
            greeted.append(fd)
        for fd in greeted:
            del self._silent[fd]
        return victim

    def _shed(self) -> None:
        n_unfinished = len(self._unfinished)
        if n_unfinished <= MAX_SILENT:
            return
        most = max(self._crowd.values())
        victim = self._silent_victim(most)
        if victim is None and n_unfinished > MAX_UNFINISHED:
            victim = next(fd for fd, one in self._unfinished.items() if self._crowd[one.address] == most)
        if victim is not None:
            # libzmq finds the end of the stream and closes it; the descriptor stays its own until then.
            _shut_down(victim)
            self._take_unfinished(victim)
            self._shed_fds.add(victim)
            self.shed_count += 1


def is_loopback(address: str) -> bool:
    """Whether a peer is on this machine; a local socket has no address."""
    try:
        return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return True


def _socket_of(fd: int) -> socket.socket:
    """A socket object of its own for a descriptor that belongs to libzmq."""
    duplicate = os.dup(fd)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _address(fd: int) -> str:
    """IP address of the peer, as ZAP writes it; "" where there is none, or where it is gone already."""
    with contextlib.suppress(OSError), _socket_of(fd) as peer:
        name = peer.getpeername()
        return str(name[0]) if isinstance(name, tuple) else ""
    return ""


def _bytes_received(fd: int) -> int | None:
    """What came in over a TCP connection so far [bytes]; None where the kernel does not tell."""
    try:
        with _socket_of(fd) as peer:
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
    except OSError:
        return None
    return (
        int(struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)[0]) if len(info) > _BYTES_RECEIVED_AT else None
    )


def _shut_down(fd: int) -> None:
    # A descriptor that was closed and is somebody else's by now: no socket, and this is an error; or a peer's, which
    # connects again.
    with contextlib.suppress(OSError), _socket_of(fd) as peer:
        peer.shutdown(socket.SHUT_RDWR)
