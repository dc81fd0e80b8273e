"""The doorkeeper of a ZeroMQ context: a ZAP handler (RFC 27) that says who comes in.

Without a ZAP handler libzmq takes a peer's first bytes for a ZMTP 1.0 message where they look like one: an HTTP GET on
the port is *delivered*. With a handler and a ZAP domain such peers are turned away in the handshake. So there always
is one; with CURVE it also asks whether the peer's key is on the list.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from ingestd import curve
from ingestd.formats.peers import PeerReason
from ingestd.logs import RateLimit
from ingestd.roles.connections import Connections, is_loopback
from ingestd.roles.keyring import Keyring
from ingestd.roles.memory import give_freed_memory_back
from ingestd.roles.refusals import Refusals, refusal_counter

__all__ = ["Doorkeeper", "start_zap"]

log = structlog.get_logger(__name__)

#: Where libzmq looks for a handler (RFC 27).
_ADDRESS = "inproc://zeromq.zap.01"

#: The thread looks this often whether it must stop, or read keys again [ms].
_POLL_MS = 200

_WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)

#: What a peer that is turned away, or the log, is told of the reason.
_WORDS = {
    PeerReason.UNKNOWN_KEY: "unknown key",
    PeerReason.TOO_MANY: "too many connections",
    PeerReason.TOO_MANY_FROM_ADDRESS: "too many connections from this address",
}

#: From the end of a connection to the look at what it leaves behind [s]: libzmq has to clean up first.
_CLEAN_UP_S = 0.3

#: Connections from one address where the settings do not say [count]; this machine itself is not bounded then.
_MAX_PER_ADDRESS = 16


class Doorkeeper:
    """Counts the connections of one socket and answers the handshakes of its context.

    Parameters
    ----------
    context
        Whose sockets set ZAP_DOMAIN.
    max_connections
        Connections at the same time; more are turned away, and their peers try again later by themselves.
    max_per_address
        Of them from one address; None = 16, and any number from this machine.
    keyring
        Whose keys come in; None = everybody (no CURVE).
    counter
        Is told why a connection gets no session; None = who counts in this process.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        max_connections: int,
        max_per_address: int | None = None,
        keyring: Keyring | None = None,
        counter: Callable[[PeerReason], None] | None = None,
    ) -> None:
        self._refusals = Refusals(counter or refusal_counter(), with_keys=keyring is not None)
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._keyring = keyring
        self._handler = context.socket(zmq.REP)
        self._handler.set(zmq.LINGER, 0)
        self._handler.bind(_ADDRESS)
        self._monitor: zmq.Socket[bytes] | None = None
        self._watched: zmq.Socket[bytes] | None = None
        self._connections = Connections(time.monotonic)
        self._limit = RateLimit(per_s=0.1, burst=3, clock=time.monotonic)
        self._shed_limit = RateLimit(per_s=0.1, burst=1, clock=time.monotonic)
        #: When to look whether a connection that ended leaves memory behind; None = none has ended.
        self._clean_up_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="zap", daemon=True)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the connections of this socket, and begin to answer; to be called once, before it is bound."""
        self._watched = socket
        self._monitor = socket.get_monitor_socket(_WATCHED)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        if self._watched is not None:
            with contextlib.suppress(zmq.ZMQError):
                self._watched.disable_monitor()
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._handler.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._handler, zmq.POLLIN)
        assert self._monitor is not None
        poller.register(self._monitor, zmq.POLLIN)
        while not self._stop.is_set():
            try:
                ready = dict(poller.poll(_POLL_MS))
                if self._keyring is not None:
                    self._keyring.reload_if_asked()
                # What happened before a handshake is counted before it is answered.
                self._count()
                if self._handler in ready:
                    self._answer()
                self._clean_up()
            except zmq.ZMQError:
                # The context is being destroyed: nobody can connect any more.
                return

    def _count(self) -> None:
        assert self._monitor is not None
        shed_count = self._connections.shed_count
        while True:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(event["event"], event["value"])
        if not self._connections.n_unfinished:
            self._refusals.nobody_is_left()
        for _ in range(self._connections.shed_count - shed_count):
            self._refusals.told(PeerReason.CROWD)
        if self._connections.shed_count > shed_count and self._shed_limit.admit()[0]:
            log.warning("silent_peers_closed", total=self._connections.shed_count)

    def _take(self, kind: int, value: int) -> None:
        """One event of the monitor; what comes with it is a descriptor, or a code."""
        if kind == zmq.EVENT_ACCEPTED:
            self._connections.accepted(value)
        elif kind == zmq.EVENT_DISCONNECTED:
            ended = self._connections.closed(value)
            self._refusals.ended(ended.unfinished_age_s, was_shed=ended.was_shed)
            self._clean_up_s = self._clean_up_s or time.monotonic() + _CLEAN_UP_S
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connections.finished_one()
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._refusals.failed_untold()
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refusals.failed_by_zap()
        else:
            self._refusals.failed_by_protocol(value)

    def _clean_up(self) -> None:
        if self._clean_up_s is not None and time.monotonic() >= self._clean_up_s:
            self._clean_up_s = None
            give_freed_memory_back()

    def _answer(self) -> None:
        request = [*self._handler.recv_multipart(), *[b""] * 7]
        version, request_id, _, address, _, mechanism, credential = request[:7]
        peer = address.decode("ascii", "replace")
        key = curve.text_of(credential) if mechanism == b"CURVE" else ""
        why = self._refusal(peer, key)
        if why is None:
            # The key, not its name: what a connection may do follows the list as it is when a message comes.
            reply = [b"200", b"OK", key.encode("ascii"), b""]
        else:
            # 300 = temporary. On a 400 a peer's library would give up for good, and a key that is put on the list
            # later would need a restart of its node.
            reply = [b"300", _WORDS[why].encode("ascii"), b"", b""]
            self._refusals.told(why)
            self._tell(peer, key, _WORDS[why])
        self._handler.send_multipart([version, request_id, *reply])

    def _refusal(self, peer: str, key: str) -> PeerReason | None:
        """Why a peer cannot come in; None where it can."""
        if self._keyring is not None and self._keyring.name_of(key) is None:
            return PeerReason.UNKNOWN_KEY
        if self._connections.n_done >= self._max_connections:
            return PeerReason.TOO_MANY
        limit = self._max_per_address
        if limit is None and not is_loopback(peer):
            limit = _MAX_PER_ADDRESS
        if limit is not None and self._connections.n_done_from(peer) >= limit:
            return PeerReason.TOO_MANY_FROM_ADDRESS
        return None

    def _tell(self, peer: str, key: str, why: str) -> None:
        allowed, suppressed = self._limit.admit()
        if allowed:
            log.warning(
                "peer_turned_away",
                peer=peer,
                why=why,
                public_key=key,
                connections=self._connections.n_done,
                suppressed=suppressed,
            )


@contextlib.contextmanager
def start_zap(
    context: zmq.Context[zmq.Socket[bytes]],
    *,
    max_connections: int,
    max_per_address: int | None = None,
    keyring: Keyring | None = None,
    counter: Callable[[PeerReason], None] | None = None,
) -> Iterator[Doorkeeper]:
    """Have a doorkeeper for the length of a `with` block; `watch` the socket before binding it."""
    doorkeeper = Doorkeeper(context, max_connections, max_per_address, keyring, counter)
    try:
        yield doorkeeper
    finally:
        doorkeeper.close()
