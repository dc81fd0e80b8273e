"""A proxy before an S3 server that breaks what it carries: by a seeded schedule, or where an object's key asks for it.

It runs in a process of its own (`FaultProxy`), so that what it does to sockets cannot stop its caller. Which request
is broken how is decided by `Schedule`, which knows neither sockets nor clocks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from ingestd.errors import Unavailable
from ingestd.testing.http_relay import Reply, Request, read_reply, read_request
from ingestd.testing.waiting import free_port, wait_until

__all__ = ["RATES", "Fault", "FaultProxy", "Schedule"]


class Fault(StrEnum):
    """What can happen to a request; each is the name that a key asks for it by, as in `fault-hang`."""

    #: The connection is closed before anything is read.
    REFUSE = "refuse"
    #: RST in the middle of the body; the server has got half of it.
    RESET = "reset"
    #: The request is taken, nothing is answered.
    HANG = "hang"
    #: The reply comes byte by byte.
    DRIP = "drip"
    #: The reply ends in the middle of its head.
    CUT = "cut"
    #: The body goes through slowly.
    SLOW = "slow"
    #: 503 SlowDown, with a Retry-After now and then.
    BUSY = "busy"
    #: The store did it, but the reply names another ETag and checksum.
    ETAG = "etag"
    #: The store did it, but the reply is a 200 with an <Error> body.
    ERROR_BODY = "error-body"


#: Share of requests that each fault gets. What costs an uploader its whole deadline is rare.
RATES: Mapping[Fault, float] = {
    Fault.REFUSE: 0.01,
    Fault.RESET: 0.02,
    Fault.HANG: 0.001,
    Fault.DRIP: 0.002,
    Fault.CUT: 0.02,
    Fault.SLOW: 0.02,
    Fault.BUSY: 0.02,
    Fault.ETAG: 0.01,
    Fault.ERROR_BODY: 0.01,
}

#: For so long on average nothing storms [s], and so long does a storm last [s].
_CALM_S = 15.0
_STORM_S = (0.5, 3.0)

#: What comes in storms.
_STORMS = (Fault.REFUSE, Fault.BUSY, Fault.RESET)

#: A key that names a fault gets it at so many requests, then goes through. The client itself sends a busy request
#: three times before it says so.
_NAMED_TIMES: Mapping[Fault, int] = dict.fromkeys(Fault, 2) | {Fault.BUSY: 4}

#: Keys remembered for that [count].
_NAMED_MAX_COUNT = 1000

#: Pace of a dripped reply [s for each byte] and of a slow body [bytes/s].
_DRIP_S = 0.2
_SLOW_BYTES_S = 512 * 2**10

#: Nothing takes longer than this [s]: whoever waits has long given up.
_LIMIT_S = 90.0


class Schedule:
    """Which request gets which fault.

    Parameters
    ----------
    seed
        Of everything random.
    rates
        Share of each fault among ordinary requests.
    now_s
        Start of the schedule, monotonic [s].
    storms
        Whether now and then every request gets the same fault for a while.
    """

    def __init__(self, seed: int, rates: Mapping[Fault, float], now_s: float, *, storms: bool) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a reproducible schedule, not a secret
        self._rates = dict(rates)
        self._named: OrderedDict[str, int] = OrderedDict()
        self._storms = storms
        self._storm: Fault | None = None
        self._turns_s = now_s + self._rng.expovariate(1.0 / _CALM_S)
        self.calm = False

    def fault(self, path: str, now_s: float) -> Fault | None:
        """Fault of the next request, for an object's path; None where it goes through."""
        if self.calm:
            return None
        named = self._named_fault(path)
        if named is not None:
            return named
        self._turn(now_s)
        if self._storm is not None:
            return self._storm
        lot = self._rng.random()
        for fault, rate in self._rates.items():
            lot -= rate
            if lot < 0:
                return fault
        return None

    def share(self) -> float:
        """How far into a body something happens, 0 to 1."""
        return self._rng.random()

    def _named_fault(self, path: str) -> Fault | None:
        for fault in Fault:
            if f"fault-{fault}" in path:
                count = self._named[path] = self._named.pop(path, 0) + 1
                while len(self._named) > _NAMED_MAX_COUNT:
                    self._named.popitem(last=False)
                return fault if count <= _NAMED_TIMES[fault] else None
        return None

    def _turn(self, now_s: float) -> None:
        """Begin or end a storm when its time has come."""
        if now_s < self._turns_s or not self._storms:
            return
        self._storm = None if self._storm else self._rng.choice(_STORMS)
        lasts_s = self._rng.uniform(*_STORM_S) if self._storm else self._rng.expovariate(1.0 / _CALM_S)
        self._turns_s = now_s + lasts_s


class _Side(NamedTuple):
    """One of the two ends of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Proxy:
    """Connections on both sides."""

    def __init__(self, upstream_port: int, schedule: Schedule) -> None:
        self._upstream_port = upstream_port
        self._schedule = schedule
        self.counts: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry requests of one connection until one side ends it."""
        upstream: asyncio.StreamWriter | None = None
        try:
            # What the store, the client or the end of the proxy breaks off ends this connection and nothing else.
            with contextlib.suppress(
                OSError, EOFError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError
            ):
                up_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
                _quick(writer)
                _quick(upstream)
                async with asyncio.timeout(None) as limit:
                    while await self._exchange(_Side(reader, writer), _Side(up_reader, upstream)):
                        limit.reschedule(asyncio.get_running_loop().time() + _LIMIT_S)
        finally:
            for one in (writer, upstream):
                if one is not None:
                    one.transport.abort()

    async def _exchange(self, client: _Side, store: _Side) -> bool:
        """One request and its reply; whether the connection may carry another."""
        request = await read_request(client.reader)
        if request is None:
            return False
        fault = self._schedule.fault(request.path, time.monotonic())
        self.counts[fault or "passed"] += 1
        match fault:
            case Fault.REFUSE:
                return False
            case Fault.RESET:
                await self._reset(request, client, store)
                return False
            case Fault.HANG:
                await asyncio.sleep(_LIMIT_S)
                return False
            case Fault.BUSY:
                return await self._busy(request, client)
        rate = _SLOW_BYTES_S if fault is Fault.SLOW else None
        reply = await _forward(request, client, store, rate)
        return await _answer(reply, fault, client.writer)

    async def _reset(self, request: Request, client: _Side, store: _Side) -> None:
        store.writer.write(request.head)
        if not request.expects_continue:
            await _pump(client.reader, store.writer, int(request.length_bytes * self._schedule.share()), None)
        # SO_LINGER with 0 s: what is closed sends RST.
        connection = client.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _busy(self, request: Request, client: _Side) -> bool:
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        hint = b"Retry-After: 1\r\n" if self._schedule.share() < 0.3 else b""
        if not request.expects_continue:
            await _pump(client.reader, None, request.length_bytes, None)
        if request.method == "HEAD":
            body = b""
        client.writer.write(
            b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n%bContent-Length: %d\r\n\r\n%b"
            % (hint, len(body), body)
        )
        await client.writer.drain()
        return not request.expects_continue


async def _forward(request: Request, client: _Side, store: _Side, rate_bytes_s: float | None) -> Reply:
    """Carry a request to the store, and its interim replies back; returns the final one."""
    store.writer.write(request.head)
    body = asyncio.create_task(_pump(client.reader, store.writer, request.length_bytes, rate_bytes_s))
    try:
        while True:
            reply = await read_reply(store.reader, request.method)
            if reply.status != 100:
                break
            client.writer.write(reply.head)
            await client.writer.drain()
        # An answer before the end of the body ends the connection: nobody knows what of it is still to come.
        return reply if body.done() or not request.length_bytes else reply.last()
    finally:
        body.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
            await body


async def _answer(reply: Reply, fault: Fault | None, writer: asyncio.StreamWriter) -> bool:
    """Give a reply to the client, whole or broken."""
    whole = reply.head + reply.body
    if fault is Fault.CUT:
        writer.write(reply.head[: len(reply.head) // 2])
        await writer.drain()
        return False
    if fault is Fault.DRIP:
        for i in range(len(whole)):
            writer.write(whole[i : i + 1])
            await writer.drain()
            await asyncio.sleep(_DRIP_S)
        return False
    if fault is Fault.ETAG:
        whole = reply.with_other_checksums() + reply.body
    elif fault is Fault.ERROR_BODY and reply.status == 200 and reply.method == "PUT":
        body = (
            b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
        )
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
    writer.write(whole)
    await writer.drain()
    return reply.keeps_alive


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter | None,
    n_bytes: int,
    rate_bytes_s: float | None,
) -> None:
    """Carry a body, or throw it away; at most at a rate."""
    while n_bytes > 0:
        chunk = await reader.read(min(n_bytes, 64 * 2**10))
        if not chunk:
            raise EOFError("the client ended its body early")
        n_bytes -= len(chunk)
        if writer is not None:
            writer.write(chunk)
            await writer.drain()
        if rate_bytes_s is not None:
            await asyncio.sleep(len(chunk) / rate_bytes_s)


def _quick(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class FaultProxy:
    """The proxy in a process of its own, as a `with` block that ends it.

    Parameters
    ----------
    upstream_port
        Of the store, on loopback.
    seed
        Of the schedule.
    rates
        Share of requests that each fault gets; keys that name a fault get it in any case.
    storms
        Whether faults also come in storms.
    """

    def __init__(
        self, upstream_port: int, seed: int, *, rates: Mapping[Fault, float] = RATES, storms: bool = False
    ) -> None:
        self.port = free_port()
        self._arguments = [
            str(self.port),
            str(upstream_port),
            str(seed),
            json.dumps(dict(rates)),
            str(int(storms)),
        ]
        self._popen: subprocess.Popen[bytes] | None = None
        #: What happened to how many requests; known after the end.
        self.counts: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "ingestd.testing.fault_proxy", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        wait_until(self._listens, 15.0, "the fault proxy to listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._popen is not None
        try:
            # End of file on its standard input is what ends it.
            told, _ = self._popen.communicate(timeout=10)
            self.counts = json.loads(told or b"{}")
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate(timeout=5)

    def calm(self) -> None:
        """From now on everything goes through."""
        assert self._popen is not None
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"calm\n")
        self._popen.stdin.flush()

    def _listens(self) -> bool:
        if self._popen is None or self._popen.poll() is not None:
            raise Unavailable("the fault proxy ended")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


async def _run(port: int, proxy: _Proxy, schedule: Schedule) -> None:
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=2**17)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        schedule.calm = line.strip() == b"calm"
    # Connections that hang end with the loop; waiting for them would take as long as they hang.
    server.close()


def main() -> None:
    """Serve until standard input ends, then say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("upstream_port", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("rates", type=json.loads, help="JSON: share of requests of each fault")
    parser.add_argument("storms", type=int)
    given = parser.parse_args()
    rates = {Fault(name): float(rate) for name, rate in given.rates.items()}
    schedule = Schedule(given.seed, rates, time.monotonic(), storms=bool(given.storms))
    proxy = _Proxy(given.upstream_port, schedule)
    asyncio.run(_run(given.port, proxy, schedule))
    sys.stdout.write(json.dumps(proxy.counts))


if __name__ == "__main__":
    main()
