"""HTTP/1.1 client connections for the hot path: plain sockets, kept open, with an end to every wait.

The general clients cost more CPU than the upload itself, take a reply cut at `HTTP/1.1 200 O` for a success, and
cannot read a reply that comes before the body is sent. This one does one thing: send a request whose body is in
memory, read one small reply. It follows no redirect and retries nothing, but for one case: a kept connection that the
server had closed meanwhile is replaced once.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ingestd import faults
from ingestd.errors import ConfigError, StoreCorrupt, StoreError, StoreMisconfigured, StoreUnreachable
from ingestd.storage.port import Part
from ingestd.storage.reply import MAX_ERROR_BYTES, Reply, ReplyParser

__all__ = ["Endpoint", "HttpClient", "Request", "Timing"]

#: Most kept connections: more than uploader threads in one process.
MAX_IDLE = 32

#: Most addresses of one name that are tried.
MAX_ADDRESSES = 8

#: One read from a connection [bytes].
READ_BYTES = 64 * 1024

#: One write through TLS [bytes]: small enough that progress is seen.
TLS_WRITE_BYTES = 256 * 1024

#: Most parts in one sendmsg; Linux takes 1024.
MAX_PARTS = 64

#: Makes close() send RST at once: the server then knows that a half-sent body is not coming, and unlocks its key.
_LINGER_RESET = struct.pack("ii", 1, 0)

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


@dataclass(frozen=True, slots=True)
class Timing:
    """When a request is given up; all [s] but for the rate.

    Parameters
    ----------
    base_s, rate_bytes_per_s
        A request may take `base_s` and the time that its body needs at `rate_bytes_per_s`: the slowest uplink that
        a node's store is expected on.
    progress_s
        Without a byte in either direction for this long the connection is dead.
    connect_s
        TCP and TLS handshakes together.
    early_s
        How long the reply is waited for that came before the body was sent.
    continue_s
        How long `100 Continue` is waited for before the body is sent all the same (RFC 9110, 10.1.1).
    idle_s
        A connection unused for this long is closed: servers do so after 30 s and more.
    """

    base_s: float = 30.0
    rate_bytes_per_s: float = 64 * 1024
    progress_s: float = 20.0
    connect_s: float = 10.0
    early_s: float = 1.0
    continue_s: float = 1.0
    idle_s: float = 15.0


_URL = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)

#: Host name as the resolver takes it: labels of 1 to 63 (RFC 1123), underscores as container networks have them.
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is.

    Parameters
    ----------
    host
        Name or address; IPv6 without brackets.
    port
        TCP port.
    tls
        Whether to speak HTTPS.
    """

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://HOST[:PORT]`, `https://HOST[:PORT]` or `HOST:PORT` (= http).

        Raises
        ------
        ConfigError
            It is none of these. The URL is not repeated: it may hold a password.
        """
        match = _URL.fullmatch(url)
        port = int(match["port"]) if match and match["port"] else 0
        named = match is not None and (match["scheme"] or port) and _is_host(match["host"])
        if match is None or not named or port > 65535 or (match["port"] and not port):
            raise ConfigError(
                "minio.url cannot be read (allowed: http://HOST[:PORT], https://HOST[:PORT], HOST:PORT; "
                "no user, password, path or query)"
            )
        tls = match["scheme"] == "https"
        return cls(match["host"].strip("[]"), port or (443 if tls else 80), tls)

    @property
    def netloc(self) -> str:
        """Value of the Host header: without the port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.netloc}"


@dataclass(frozen=True, slots=True)
class Request:
    """One request with its body in memory.

    Parameters
    ----------
    method, target
        E.g. "PUT", "/bucket/key"; the target percent-encoded.
    headers
        All of them but Content-Length and Expect.
    parts
        Body, in pieces; not copied. What is made block by block is made again for a second try.
    max_body_bytes
        Longest body of a success; errors are cut at `MAX_ERROR_BYTES`.
    expect_continue
        Ask before sending the body.
    meanwhile
        Done once the body is sent, before the reply is waited for; None = nothing.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    parts: Sequence[Part] = ()
    max_body_bytes: int = MAX_ERROR_BYTES
    expect_continue: bool = False
    meanwhile: Callable[[], None] | None = None

    @property
    def size_bytes(self) -> int:
        """Length of the body [bytes]."""
        return sum(map(len, self.parts))

    def head(self) -> bytes:
        """Request line and headers as sent."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.method in ("PUT", "POST"):
            lines.append(f"Content-Length: {self.size_bytes}")
        if self.expect_continue:
            lines.append("Expect: 100-continue")
        text = "\r\n".join(lines)
        # A line end in a value would be a header, or a request, of somebody else's making.
        if text.count("\n") != len(lines) - 1 or not text.isascii():
            raise ConfigError("a request header has a line end or a character outside ASCII")
        return text.encode("ascii") + b"\r\n\r\n"


class _Stale(Exception):
    """A kept connection ended before a byte of the reply came."""


class _Limit:
    """What is left of a request's time."""

    def __init__(self, timing: Timing, size_bytes: int) -> None:
        self._timing = timing
        self._moved_s = time.monotonic()
        self._end_s = self._moved_s + timing.base_s + size_bytes / timing.rate_bytes_per_s
        self._total_s = self._end_s - self._moved_s

    def moved(self) -> None:
        """A byte went or came."""
        self._moved_s = time.monotonic()

    def extend(self, size_bytes: int) -> None:
        """A body of this length is announced."""
        self._end_s += size_bytes / self._timing.rate_bytes_per_s

    def cut(self, left_s: float) -> None:
        """End in `left_s` at the latest."""
        self._end_s = min(self._end_s, time.monotonic() + left_s)

    def left_s(self, cap_s: float = float("inf")) -> float:
        """How long the next wait may take; raises StoreUnreachable when the time is up."""
        now_s = time.monotonic()
        quiet_s = self._moved_s + self._timing.progress_s - now_s
        end_s = self._end_s - now_s
        if end_s <= 0:
            raise StoreUnreachable(f"not done within {self._total_s:.1f} s")
        if quiet_s <= 0:
            raise StoreUnreachable(f"no byte for {self._timing.progress_s:g} s")
        return min(quiet_s, end_s, cap_s)


class _Connection:
    """One socket, in use by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._poll = select.poll()
        self.kept = False
        self.used_s = time.monotonic()

    def alive(self) -> bool:
        """Whether an idle connection is still good: a byte or an end waiting there both mean that it is not."""
        try:
            return self._read() is None
        except OSError:
            return False

    def exchange(self, request: Request, limit: _Limit, timing: Timing) -> tuple[Reply, bool]:
        """Send the request and read its reply; the second value tells whether the connection may be kept."""
        parser = ReplyParser(is_head=request.method == "HEAD", max_body_bytes=request.max_body_bytes)
        try:
            if request.expect_continue:
                sent = self._send([request.head()], parser, limit) and self._invited(
                    parser, limit, timing.continue_s
                )
                sent = sent and self._send(request.parts, parser, limit)
            else:
                sent = self._send([request.head(), *request.parts], parser, limit)
            if not sent:
                limit.cut(timing.early_s)
            elif request.meanwhile is not None:
                request.meanwhile()
            reply = self._reply(parser, limit)
        except OSError as error:
            if self.kept and not parser.started:
                raise _Stale from error
            raise StoreUnreachable(f"connection lost ({_reason(error)})") from error
        if not sent and reply.status < 300:
            raise StoreCorrupt(f"the store said {reply.status} before it had the whole body")
        return reply, sent and parser.reusable

    def close(self, *, reset: bool = False) -> None:
        """Close the socket; with `reset` the server is told at once that nothing more comes."""
        with contextlib.suppress(OSError):
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        with contextlib.suppress(OSError):
            self._sock.close()

    def _send(self, parts: Sequence[Part], parser: ReplyParser, limit: _Limit) -> bool:
        """Send all of it; False where the peer answered, or broke off, before that."""
        return all(self._send_views(views, parser, limit) for views in _batches(parts))

    def _send_views(self, views: list[memoryview], parser: ReplyParser, limit: _Limit) -> bool:
        while views:
            try:
                n_sent = self._write(views)
            except _WOULD_BLOCK as error:
                if self._wait(_wanted(error, select.POLLOUT), limit.left_s()) and self._answered(
                    parser, limit
                ):
                    return False
                continue
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return False
            limit.moved()
            _drop(views, n_sent)
            if views:
                faults.point("upload.body")
        return True

    def _answered(self, parser: ReplyParser, limit: _Limit) -> bool:
        """Whether something other than an interim reply came while the body was being sent."""
        try:
            received = self._read()
        except ConnectionResetError:
            return True
        if not received:
            return received is not None
        limit.moved()
        parser.feed(received)
        return parser.answered

    def _invited(self, parser: ReplyParser, limit: _Limit, continue_s: float) -> bool:
        """Wait for `100 Continue`; False where the real reply came instead."""
        end_s = time.monotonic() + continue_s
        while not parser.continued and not parser.answered and (left_s := end_s - time.monotonic()) > 0:
            received = self._read()
            if received is None:
                self._wait(select.POLLIN, limit.left_s(left_s))
            else:
                self._feed(received, parser, limit)
        return not parser.answered

    def _reply(self, parser: ReplyParser, limit: _Limit) -> Reply:
        while parser.reply is None:
            received = self._read()
            if received is None:
                self._wait(select.POLLIN, limit.left_s())
            else:
                # A peer that drips never makes the socket block: the deadline is looked at here too.
                limit.left_s()
                self._feed(received, parser, limit)
        return parser.reply

    def _feed(self, received: bytes, parser: ReplyParser, limit: _Limit) -> None:
        if not received:
            parser.close()
            if parser.reply is None:
                raise ConnectionResetError("closed without a reply")
            return
        announced_bytes = parser.announced_bytes
        limit.moved()
        parser.feed(received)
        limit.extend(parser.announced_bytes - announced_bytes)

    def _write(self, views: list[memoryview]) -> int:
        if self._tls:
            return self._sock.send(views[0][:TLS_WRITE_BYTES])
        return self._sock.sendmsg(views[:MAX_PARTS])

    def _read(self) -> bytes | None:
        """What is there now: None = nothing yet, b"" = the end."""
        try:
            return self._sock.recv(READ_BYTES)
        except _WOULD_BLOCK:
            return None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def _wait(self, events: int, left_s: float) -> bool:
        """Wait for the socket; whether there is something to read, be it an error."""
        self._poll.register(self._sock, events)
        # Rounded up: a poll of 0 ms in a row would be a busy wait.
        ready = self._poll.poll(left_s * 1000 + 1)
        return any(event & (select.POLLIN | _BROKEN) for _, event in ready)


class HttpClient:
    """A pool of connections to one server. Thread-safe; not shared between processes.

    Parameters
    ----------
    endpoint
        Of the server.
    ca_file
        PEM file with the certificate authority of the server; None = those of the system (and `$SSL_CERT_FILE`).
    timing
        When to give up.
    """

    def __init__(
        self, endpoint: Endpoint, *, ca_file: str | None = None, timing: Timing | None = None
    ) -> None:
        self.endpoint = endpoint
        self._timing = timing or Timing()
        self._context = _tls_context(ca_file) if endpoint.tls else None
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def request(self, request: Request) -> Reply:
        """Send one request and read its reply.

        Raises
        ------
        StoreUnreachable
            The transport failed or took too long; nothing is known about the request.
        StoreCorrupt
            The reply is cut, malformed, or came before the body was sent and claims a success.
        StoreMisconfigured
            TLS failed, or the peer does not speak HTTP.
        """
        with self._named():
            limit = _Limit(self._timing, request.size_bytes)
            connection = self._kept()
            if connection is not None:
                with contextlib.suppress(_Stale):
                    return self._exchange(connection, request, limit)
            return self._exchange(self._connect(limit), request, limit)

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(self, connection: _Connection, request: Request, limit: _Limit) -> Reply:
        keep = False
        try:
            reply, keep = connection.exchange(request, limit, self._timing)
            return reply
        finally:
            # Closed before anybody tries again: a half-sent conditional PUT keeps its key locked until then.
            if keep:
                self._keep(connection)
            else:
                connection.close(reset=True)

    def _keep(self, connection: _Connection) -> None:
        connection.kept, connection.used_s = True, time.monotonic()
        with self._lock:
            self._idle.append(connection)
            surplus = self._idle.pop(0) if len(self._idle) > MAX_IDLE else None
        if surplus is not None:
            surplus.close()

    def _kept(self) -> _Connection | None:
        """Take the connection that was used last; older ones get closed as they are found dead or idle too long."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return None
            if time.monotonic() - connection.used_s < self._timing.idle_s and connection.alive():
                return connection
            connection.close()

    def _connect(self, limit: _Limit) -> _Connection:
        left_s = limit.left_s(self._timing.connect_s)
        try:
            sock = _connect(self.endpoint, left_s)
        except OSError as error:
            raise StoreUnreachable(f"cannot connect ({_reason(error)})") from error
        if self._context is None:
            return _Connection(sock)
        try:
            return _Connection(self._context.wrap_socket(sock, server_hostname=self.endpoint.host))
        except (ssl.SSLError, ssl.CertificateError) as error:
            sock.close()
            raise StoreMisconfigured(f"TLS failed ({_reason(error)})") from error
        except OSError as error:
            sock.close()
            raise StoreUnreachable(f"no TLS handshake ({_reason(error)})") from error

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say which server it was."""
        try:
            yield
        except StoreError as error:
            error.args = (f"{self.endpoint}: {error}",)
            raise


def _is_host(host: str) -> bool:
    """Whether the resolver, or TLS, will take it; they raise errors of their own kinds where not."""
    if not host.startswith("["):
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True


def _connect(endpoint: Endpoint, left_s: float) -> socket.socket:
    """TCP connection to the first address that takes it, all tries together within `left_s`."""
    end_s = time.monotonic() + left_s
    failure: OSError = TimeoutError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    )[:MAX_ADDRESSES]:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, end_s - time.monotonic()))
            sock.connect(address)
            # Without it the last part of a body waits for the ACK of the one before (4,000 MB/s become 200).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(max(0.001, end_s - time.monotonic()))
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"the CA file cannot be used ({_reason(error)})") from error


def _wanted(error: OSError, otherwise: int) -> int:
    """Events to wait for; a reply is always one of them."""
    return select.POLLIN if isinstance(error, ssl.SSLWantReadError) else otherwise | select.POLLIN


def _batches(parts: Sequence[Part]) -> Iterator[list[memoryview]]:
    """What goes out together: all that is in memory, up to and with the first block of what is made now."""
    views: list[memoryview] = []
    for part in parts:
        if isinstance(part, (bytes, memoryview)):
            if len(part):
                views.append(memoryview(part))
            continue
        for block in part:
            yield [*views, block]
            views = []
    if views:
        yield views


def _drop(views: list[memoryview], n_sent: int) -> None:
    """Take the first `n_sent` bytes off."""
    while n_sent:
        if n_sent < len(views[0]):
            views[0] = views[0][n_sent:]
            return
        n_sent -= len(views.pop(0))


def _reason(error: OSError) -> str:
    """Why, in the system's words; addresses and file names stay out."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS error"
    return error.strerror or type(error).__name__ if not isinstance(error, TimeoutError) else "timed out"
