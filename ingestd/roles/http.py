"""/healthz, /readyz and /metrics: one thread, bounded in connections, bytes and time.

Not `http.server`, whose thread for each connection lets a few slow clients shut out the one that matters. Here a client
that is one too many replaces the oldest, and no client is waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from ingestd.config.values import host_port
from ingestd.errors import ConfigError
from ingestd.roles.monitor import Kept, Monitor

__all__ = ["HttpServer", "Response", "answer", "routes", "serve_http"]

log = structlog.get_logger(__name__)

#: Connections at the same time [count]; the oldest goes when one more comes.
MAX_CONNECTIONS = 16

#: From the connection to the end of the reply [s]: a scraper on the same network needs a hundredth.
DEADLINE_S = 2.0

#: Request line and header fields together [bytes].
MAX_HEAD_BYTES = 8192

_RECEIVE_BYTES = 16384

#: Connections that the kernel keeps for us [count]; what is beyond waits a second for its next try.
_BACKLOG = 128

#: How long a stop waits for the thread [s].
_JOIN_S = 1.0

_TEXT = "text/plain; charset=utf-8"

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

#: RFC 9112, section 3; targets are our three paths, so anything longer is none of them.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]{0,1023}) HTTP/([0-9])\.[0-9]")


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back; `fields` are further header lines without their line ends."""

    status: int
    body: bytes
    content_type: str = _TEXT
    fields: tuple[str, ...] = ()

    def encode(self, *, with_body: bool) -> bytes:
        """Write the message; the connection is closed after it."""
        lines = (
            f"HTTP/1.1 {self.status} {_PHRASES[self.status]}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *self.fields,
        )
        head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
        return head + self.body if with_body else head


#: Path to what answers it.
Routes = Mapping[str, Callable[[], Response]]


def routes(monitor: Monitor) -> Routes:
    """Make the three paths.

    Parameters
    ----------
    monitor
        What is answered from.
    """
    # After the query socket is bound: the library takes 0.1 s to load, and `health` must be back sooner.
    from ingestd.roles.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415 - see above

    metrics = Kept(lambda: exposition(monitor))

    def healthz() -> Response:
        # The store may be down and the spool full: restarting this daemon mends neither.
        verdict = monitor.verdict()
        return Response(200 if verdict.alive else 503, f"{verdict.status}\n".encode("ascii"))

    def readyz() -> Response:
        is_accepting = monitor.verdict().accepting
        return Response(200, b"accepting\n") if is_accepting else Response(503, b"not accepting\n")

    return {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": lambda: Response(200, metrics.get(), CONTENT_TYPE),
    }


def answer(head: bytes, known: Routes) -> bytes:
    """Make the reply to a request.

    Parameters
    ----------
    head
        Request line and header fields.
    known
        Paths that there are.
    """
    match = _REQUEST_LINE.fullmatch(head.partition(b"\n")[0].rstrip(b"\r"))
    if match is None:
        return Response(400, b"bad request\n").encode(with_body=True)
    method = match[1].decode("ascii")
    return _respond(method, match[2].partition(b"?")[0].decode("ascii"), match[3], known).encode(
        with_body=method != "HEAD"
    )


def _respond(method: str, path: str, major_version: bytes, known: Routes) -> Response:
    if major_version != b"1":
        return Response(505, b"HTTP/1.1 or HTTP/1.0\n")
    route = known.get(path)
    if route is None:
        return Response(404, b"not found: /healthz, /readyz or /metrics\n")
    if method not in ("GET", "HEAD"):
        return Response(405, b"GET or HEAD\n", fields=("Allow: GET, HEAD",))
    try:
        return route()
    except Exception:
        # A bug in one answer must cost one reply, not the thread; what it was is nobody's business but the log's.
        log.exception("http_bug", path=path)
        return Response(500, b"internal error\n")


@dataclass(slots=True, eq=False)
class _Connection:
    """One client: its request is read, then `reply` is sent, then what it still sends is thrown away."""

    socket: socket.socket
    deadline_s: float
    received: bytearray = field(default_factory=bytearray)
    reply: memoryview = field(default_factory=lambda: memoryview(b""))
    is_sent: bool = False


class HttpServer:
    """Serves one bound socket in one thread.

    Parameters
    ----------
    listener
        Bound and listening, non-blocking.
    known
        Paths and what answers them.
    """

    def __init__(self, listener: socket.socket, known: Routes) -> None:
        self._listener = listener
        self._known = known
        self._selector = selectors.DefaultSelector()
        #: Oldest first.
        self._connections: dict[_Connection, None] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close every connection."""
        self._stop.set()
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            return
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        os.close(self._wake_fd)

    def _serve(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(self._wait_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._connections:
                    self._advance(key.data)
            now_s = time.monotonic()
            for connection in [one for one in self._connections if one.deadline_s <= now_s]:
                self._drop(connection)

    def _wait_s(self) -> float | None:
        oldest = next(iter(self._connections), None)
        return None if oldest is None else max(0.0, oldest.deadline_s - time.monotonic())

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors, or the client is gone: the listener stays readable, so do not turn in circles.
            self._stop.wait(0.05)
            return
        client.setblocking(False)
        while len(self._connections) >= MAX_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        connection = _Connection(client, time.monotonic() + DEADLINE_S)
        self._connections[connection] = None
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _advance(self, connection: _Connection) -> None:
        try:
            if connection.reply:
                self._send(connection)
            else:
                self._receive(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    def _receive(self, connection: _Connection) -> None:
        piece = connection.socket.recv(_RECEIVE_BYTES)
        if not piece:
            self._drop(connection)
            return
        if connection.is_sent:
            return
        received = connection.received
        received += piece
        end = _end_of_head(received)
        if end is None and len(received) <= MAX_HEAD_BYTES:
            if _is_hopeless(received):
                self._begin(connection, Response(400, b"bad request\n").encode(with_body=True))
        elif end is None or end > MAX_HEAD_BYTES:
            self._begin(connection, Response(431, b"request header too large\n").encode(with_body=True))
        else:
            self._begin(connection, answer(bytes(received[:end]), self._known))

    def _begin(self, connection: _Connection, reply: bytes) -> None:
        connection.received.clear()
        connection.reply = memoryview(reply)
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        connection.reply = connection.reply[connection.socket.send(connection.reply) :]
        if not connection.reply:
            # Closed with bytes unread, TCP resets the connection and the client may lose the reply: let it go first.
            connection.is_sent = True
            connection.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        connection.socket.close()


def _end_of_head(received: bytearray) -> int | None:
    """Where the head ends: at an empty line; bare line feeds are taken as well (RFC 9112, section 2.2)."""
    ends = [end for end in (received.find(b"\r\n\r\n"), received.find(b"\n\n")) if end >= 0]
    return min(ends, default=None)


def _is_hopeless(received: bytearray) -> bool:
    """Whether this is no HTTP: a TLS hello, ZMTP, zeros. A request begins with the capitals of its method."""
    return not received[:1].isupper()


def _listen(endpoint: str) -> socket.socket:
    address = host_port(endpoint)
    if address is None:
        raise ConfigError(f"http.endpoint: {endpoint!r} is not ADDRESS:PORT")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"http.endpoint: cannot bind {endpoint}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"http.endpoint: cannot bind {endpoint}: {error.strerror or error}") from error
    return listener


@contextlib.contextmanager
def serve_http(endpoint: str, monitor: Monitor) -> Iterator[HttpServer | None]:
    """Serve metrics and probes for the length of a `with` block.

    Parameters
    ----------
    endpoint
        ADDRESS:PORT; empty = off.
    monitor
        What is answered from.

    Raises
    ------
    ConfigError
        The endpoint cannot be bound.
    """
    if not endpoint:
        yield None
        return
    with _listen(endpoint) as listener:
        server = HttpServer(listener, routes(monitor))
        server.start()
        try:
            yield server
        finally:
            server.close()
