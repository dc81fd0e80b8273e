"""The doorkeeper of a ZeroMQ context: a ZAP handler that lets peers in up to a number of connections.

Without a ZAP handler libzmq takes a peer's first bytes for a ZMTP 1.0 message where they look like one: an HTTP GET on
the port is *delivered*. With a handler and a ZAP domain such peers are turned away in the handshake.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from ingestd.logs import RateLimit

__all__ = ["Doorkeeper", "start_zap"]

log = structlog.get_logger(__name__)

#: Where libzmq looks for a handler (RFC 27).
_ADDRESS = "inproc://zeromq.zap.01"

#: The thread looks this often whether it must stop [ms].
_POLL_MS = 200

_WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

#: A connection that is older than this has its handshake behind it [s]: libzmq drops the others (`listening`: 5 s).
_HANDSHAKE_OVER_S = 6.0


class Doorkeeper:
    """Counts the connections of one socket and answers the handshakes of its context.

    Parameters
    ----------
    context
        Whose sockets set ZAP_DOMAIN.
    max_connections
        Connections at the same time; more are turned away, and their peers try again later by themselves.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], max_connections: int) -> None:
        self._max_connections = max_connections
        self._handler = context.socket(zmq.REP)
        self._handler.set(zmq.LINGER, 0)
        self._handler.bind(_ADDRESS)
        self._monitor: zmq.Socket[bytes] | None = None
        self._watched: zmq.Socket[bytes] | None = None
        # Open connections by descriptor: when they were accepted, and whether their handshake is known to be over.
        self._open: dict[int, tuple[float, bool]] = {}
        self._limit = RateLimit(per_s=0.1, burst=3, clock=time.monotonic)
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
                # What happened before a handshake is counted before it is answered.
                self._count()
                if self._handler in ready:
                    self._answer()
            except zmq.ZMQError:
                # The context is being destroyed: nobody can connect any more.
                return

    def _count(self) -> None:
        assert self._monitor is not None
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            kind, descriptor = event["event"], event["value"]
            if kind == zmq.EVENT_ACCEPTED:
                self._open[descriptor] = (time.monotonic(), False)
            elif kind == zmq.EVENT_DISCONNECTED:
                self._open.pop(descriptor, None)
            else:
                self._label()

    def _label(self) -> None:
        """A handshake succeeded; libzmq does not say whose.

        It takes a millisecond where a silent peer takes until it is dropped, so it is the newest one's. A wrong guess
        mends itself: whoever is still there after the time for a handshake has had one.
        """
        waiting = [(accepted_s, fd) for fd, (accepted_s, done) in self._open.items() if not done]
        if waiting:
            accepted_s, newest = max(waiting)
            self._open[newest] = (accepted_s, True)

    @property
    def n_connected(self) -> int:
        """Connections whose handshake is over."""
        horizon_s = time.monotonic() - _HANDSHAKE_OVER_S
        return sum(done or accepted_s < horizon_s for accepted_s, done in self._open.values())

    def _answer(self) -> None:
        request = self._handler.recv_multipart()
        version, request_id, _, address = (*request, b"", b"", b"", b"")[:4]
        status, text = b"200", b"OK"
        if self.n_connected >= self._max_connections:
            # 300 = temporary: the peer's library connects again after its usual interval.
            status, text = b"300", b"too many connections"
            allowed, suppressed = self._limit.admit()
            if allowed:
                log.warning(
                    "peer_turned_away",
                    peer=address.decode("ascii", "replace"),
                    connections=self.n_connected,
                    suppressed=suppressed,
                )
        self._handler.send_multipart([version, request_id, status, text, b"", b""])


@contextlib.contextmanager
def start_zap(context: zmq.Context[zmq.Socket[bytes]], *, max_connections: int) -> Iterator[Doorkeeper]:
    """Have a doorkeeper for the length of a `with` block; `watch` the socket before binding it."""
    doorkeeper = Doorkeeper(context, max_connections)
    try:
        yield doorkeeper
    finally:
        doorkeeper.close()
