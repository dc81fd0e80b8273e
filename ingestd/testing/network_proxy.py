"""A network between nodes and daemon that resets, slices, falls silent and garbles: a TCP relay with a seeded plan.

What it never does is change the inside of a message: plain ZeroMQ has no checksum beyond TCP's own, so that nobody could
notice. It garbles what a broken middlebox or a port scanner garbles: the handshake, and the lengths of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from enum import StrEnum
from types import TracebackType
from typing import Self

from ingestd.errors import Unavailable
from ingestd.testing.waiting import free_port

__all__ = ["NetworkProxy", "Weather"]


class Weather(StrEnum):
    """What happens to a connection."""

    #: It is relayed as it is.
    FAIR = "fair"
    #: RST to both sides after some bytes.
    RESET = "reset"
    #: Everything comes in pieces of a few bytes, some of them late.
    SLICED = "sliced"
    #: After some bytes nothing more is relayed, and nobody is told.
    SILENT = "silent"
    #: A byte of the handshake is another one.
    BAD_HANDSHAKE = "bad-handshake"
    #: The length of a message is another one.
    BAD_LENGTH = "bad-length"


#: A connection of a node lives so long at most before its weather strikes [bytes].
_FATE_BYTES = 300_000

#: How long silence lasts before the relay gives up [s].
_SILENCE_S = 2.0

#: ZMTP 3: greeting, and the flag bits of a frame (RFC 23).
_GREETING_BYTES = 64
_LONG, _COMMAND = 2, 4


class NetworkProxy:
    """The relay, in a thread of its own, as a `with` block.

    Parameters
    ----------
    port
        Of the daemon, on loopback.
    seed
        Of everything random.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.port = free_port()
        self._upstream_port = port
        self._rng = random.Random(seed)  # noqa: S311 - a reproducible plan, not a secret
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._deck: list[Weather] = []
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        #: How many connections had which weather.
        self.counts: Counter[Weather] = Counter()
        self.calm = False

    @property
    def endpoint(self) -> str:
        """Where nodes connect to."""
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        # Told, not tried: a connection of our own would use up a weather.
        if not self._listening.wait(10.0):
            raise Unavailable("the network does not stand")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self._listening.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _weather(self) -> Weather:
        weather = Weather.FAIR if self.calm else self._drawn()
        self.counts[weather] += 1
        return weather

    def _drawn(self) -> Weather:
        """From a deck that is shuffled when it is empty: whoever connects as often as there are kinds meets them all."""
        if not self._deck:
            self._deck = self._rng.sample(list(Weather), len(Weather))
        return self._deck.pop()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        # Whatever breaks a connection ends this one; the next is another.
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                up_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
                inbound = _Inbound(self._weather(), self._rng)
                back = asyncio.create_task(_copy(up_reader, writer))
                try:
                    await inbound.carry(reader, upstream)
                finally:
                    back.cancel()
            finally:
                for one in (writer, upstream):
                    if one is not None:
                        _reset(one)


class _Inbound:
    """The way from a node to the daemon, under one weather."""

    def __init__(self, weather: Weather, rng: random.Random) -> None:
        self._weather = weather
        self._rng = rng
        self._fate_bytes = rng.randrange(1, _FATE_BYTES)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._greet(reader, writer)
        carried = 0
        while True:
            head, body_bytes = await _frame_head(reader)
            is_message = not head[0] & _COMMAND
            if self._weather is Weather.BAD_LENGTH and is_message and carried > self._fate_bytes:
                head = self._garbled(head)
            await self._give(writer, head)
            while body_bytes:
                piece = await reader.readexactly(min(body_bytes, 16_384))
                body_bytes -= len(piece)
                carried += len(piece)
                await self._give(writer, piece)
                if carried > self._fate_bytes and self._weather is Weather.RESET:
                    return
                if carried > self._fate_bytes and self._weather is Weather.SILENT:
                    await asyncio.sleep(_SILENCE_S)
                    return

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the greeting as it comes: each side sends the rest of it when it has seen the other's beginning."""
        bad_at = self._rng.randrange(_GREETING_BYTES) if self._weather is Weather.BAD_HANDSHAKE else -1
        greeted = 0
        while greeted < _GREETING_BYTES:
            piece = bytearray(await reader.read(_GREETING_BYTES - greeted))
            if not piece:
                raise EOFError("the node went away in its greeting")
            if 0 <= bad_at - greeted < len(piece):
                piece[bad_at - greeted] ^= 1 << self._rng.randrange(8)
            greeted += len(piece)
            await self._give(writer, bytes(piece))

    def _garbled(self, head: bytes) -> bytes:
        """The same head with one bit of the length changed."""
        changed = bytearray(head)
        changed[self._rng.randrange(1, len(head))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    async def _give(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        if self._weather is not Weather.SLICED:
            writer.write(content)
            await writer.drain()
            return
        while content:
            n_bytes = self._rng.randrange(1, 2_000)
            writer.write(content[:n_bytes])
            await writer.drain()
            content = content[n_bytes:]
            if self._rng.random() < 0.05:
                await asyncio.sleep(0.005)


async def _frame_head(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """Flags and length of the next ZMTP frame as they came, and the length read."""
    flags = await reader.readexactly(1)
    length = await reader.readexactly(8 if flags[0] & _LONG else 1)
    return flags + length, int.from_bytes(length, "big")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The way back, as it is."""
    while piece := await reader.read(16_384):
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what the other side has not read is gone."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()
