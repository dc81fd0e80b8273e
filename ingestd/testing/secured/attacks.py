"""Attacks that aim at the daemon's memory. Each case says what of it must be seen afterwards, besides that it did no harm."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq

from ingestd.formats import frame as wire
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.secured.raw import GREETING, connected, is_closed, part, ready_peer

__all__ = ["Attack", "Seen", "attacks"]

#: Answers of `stats` before and after.
_Stats = dict[str, Any]

#: Frames of this much are what "megabytes of" means [bytes].
_MANY = 8 * 2**20

#: A message that grows part by part ends here [bytes]: a quarter more than the process may take that receives it.
_ENDLESS_INGEST, _ENDLESS_QUERY = 3 * 2**30, 3 * 2**29

_N_IDLE, _N_FLOODERS = 5000, 8

#: Of the daemon's 64 places: the probe needs one of them.
_N_PEERS = 40

_GOOD = {
    "task_id": "t", "websdr_id": 1, "frequency_hz": 77500.0, "sample_rate_hz": 12000.0, "iq_data": bytes(80),
    "timestamp_utc": "2026-11-23T12:00:00Z",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """What an attacker saw: `closed` = a connection of its own was ended by the daemon."""

    closed: bool = False


@dataclass(frozen=True, slots=True)
class Attack:
    """One case.

    Parameters
    ----------
    group, name
        What it is called in tables, and which variant.
    act
        Does it to a daemon, for so long [s] where it is a matter of time.
    is_seen
        Whether it was refused and that can be seen, by the answers of `stats` before and after and the attacker.
    """

    group: str
    name: str
    act: Callable[[DaemonProcess, float], Seen]
    is_seen: Callable[[_Stats, _Stats, Seen], bool]


def _rejected(*reasons: str) -> Callable[[_Stats, _Stats, Seen], bool]:
    """Counted under each of these reasons."""

    def is_seen(before: _Stats, after: _Stats, _seen: Seen) -> bool:
        old, new = before["rejected"], after["rejected"]
        return all(new.get(reason, 0) > old.get(reason, 0) for reason in reasons)

    return is_seen


def _closed(_before: _Stats, _after: _Stats, seen: Seen) -> bool:
    return seen.closed


def _crowded_out(port: str) -> Callable[[_Stats, _Stats, Seen], bool]:
    """Closed, and counted as what it was."""

    def is_seen(before: _Stats, after: _Stats, seen: Seen) -> bool:
        old, new = (one["peers_refused"][port].get("crowd", 0) for one in (before, after))
        return bool(seen.closed and new > old)

    return is_seen


def _answered_badly(before: _Stats, after: _Stats, _seen: Seen) -> bool:
    return bool(after["query_errors"] > before["query_errors"])


def _taken(before: _Stats, after: _Stats, _seen: Seen) -> bool:
    """Nothing is wrong with these frames but that they are many: they are accepted like others."""
    return bool(after["accepted"] > before["accepted"] + 2 * _N_FLOODERS)


def _with_extras(encoded: bytes) -> bytes:
    """A good frame, and a key `extras` that holds these bytes."""
    return b"\x87" + bytes(msgpack.packb(_GOOD))[1:] + b"\xa6extras" + encoded


def _frames(group: str, name: str, reason: str, *frames: bytes) -> Attack:
    """Send frames that are refused with one reason."""

    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        with pusher(daemon.ingest_endpoint) as peer:
            for frame in frames:
                peer.send(frame)
        return Seen()

    return Attack(group, name, act, _rejected(reason))


def _endless_parts(port: str, part_bytes: int, limit_bytes: int) -> Attack:
    kind = b"PUSH" if port == "ingest" else b"DEALER"

    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        one = part(bytes(part_bytes), more=True)
        # Many small parts at once: it is the other side whose cost is looked at.
        batch = one * max(1, 2**20 // len(one))
        with ready_peer(_endpoint(daemon, port), kind) as peer:
            try:
                for _ in range(limit_bytes // len(batch)):
                    peer.sendall(batch)
            except (ConnectionError, TimeoutError):
                return Seen(closed=True)
            return Seen(is_closed(peer, 1.0))

    name = f"{port}, {part_bytes:,} bytes each"
    return Attack("endless parts", name, act, _closed)


def _endpoint(daemon: DaemonProcess, port: str) -> str:
    return daemon.ingest_endpoint if port == "ingest" else daemon.query_endpoint


def _claimed(port: str, claimed_bytes: int, n_peers: int) -> Attack:
    """Headers of parts that never come; libzmq makes room for what it is told."""
    kind = b"PUSH" if port == "ingest" else b"REQ"

    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        header = part(bytes(1000), claimed=claimed_bytes)
        with ExitStack() as stack:
            peers = []
            for _ in range(n_peers):
                peer = stack.enter_context(ready_peer(_endpoint(daemon, port), kind))
                # One that is cut off at once may be so before it has said everything.
                with contextlib.suppress(ConnectionError):
                    peer.sendall(header)
                peers.append(peer)
            return Seen(any(is_closed(peer, 0.2) for peer in peers))

    name = f"{port}, {n_peers} headers of {claimed_bytes:,} bytes"
    return Attack("claims of more than there is", name, act, _closed)


def _within_limit(attack: Attack) -> Attack:
    """A claim that is allowed: nobody is closed for it, and it must cost nothing but the room that is claimed."""
    return Attack(attack.group, attack.name, attack.act, lambda _before, _after, _seen: True)


def _query(name: str, *bodies: bytes, parts: int = 1) -> Attack:
    """Ask something large that is answered by an error."""

    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.set(zmq.LINGER, 0)
            peer.connect(daemon.query_endpoint)
            for body in bodies:
                peer.send_multipart([b"", *[body] * parts])
            for _ in bodies:
                if not peer.poll(5000, zmq.POLLIN):
                    break
                peer.recv_multipart()
        return Seen()

    return Attack("huge queries", name, act, _answered_badly)


def _too_long_query(daemon: DaemonProcess, _seconds: float) -> Seen:
    with ready_peer(daemon.query_endpoint, b"DEALER") as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(part(b"", more=True) + part(bytes(2**16 + 1)))
        return Seen(is_closed(peer, 2.0))


def _pipelined_queries(daemon: DaemonProcess, _seconds: float) -> Seen:
    """Every place taken by somebody who sends questions of full length and reads nothing."""
    question = part(b"", more=True) + part(b"x" * 2**16)
    with ExitStack() as stack:
        _send_until_full(_clients(daemon, stack), question, 64)
    return Seen()


def _clients(daemon: DaemonProcess, stack: ExitStack) -> list[socket.socket]:
    """As many clients as want to be there, or as there is place for: those of an attack before may be leaving yet."""
    peers: list[socket.socket] = []
    with contextlib.suppress(ConnectionError, TimeoutError):
        while len(peers) < _N_PEERS:
            peers.append(stack.enter_context(ready_peer(daemon.query_endpoint, b"DEALER")))
    return peers


def _send_until_full(peers: list[socket.socket], message: bytes, count: int) -> None:
    """Send so many of a message to each peer, or as many as are taken: TCP holds the rest back."""

    def send(peer: socket.socket) -> None:
        peer.settimeout(1.0)
        with contextlib.suppress(OSError):
            for _ in range(count):
                peer.sendall(message)

    threads = [threading.Thread(target=send, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _idle(port: str, said: bytes) -> Attack:
    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        with ExitStack() as stack:
            stack.enter_context(_open_files(_N_IDLE + 500))
            peers = []
            for _ in range(_N_IDLE):
                peer = stack.enter_context(connected(_endpoint(daemon, port)))
                with contextlib.suppress(ConnectionError):
                    peer.sendall(said)
                peers.append(peer)
            # The oldest are the first to go.
            return Seen(is_closed(peers[0], 2.0))

    name = f"{port}, {'a greeting and no more' if said else 'silent'}"
    return Attack(f"{_N_IDLE:,} idle connections", name, act, _crowded_out(port))


@contextlib.contextmanager
def _open_files(count: int) -> Iterator[None]:
    """Let this process have so many files open; the limit of other processes stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _flooders(name: str, content: bytes, is_seen: Callable[[_Stats, _Stats, Seen], bool]) -> Attack:
    def act(daemon: DaemonProcess, seconds: float) -> Seen:
        end_s = time.monotonic() + seconds

        def flood() -> None:
            with pusher(daemon.ingest_endpoint, 0.2) as peer:
                peer.set(zmq.LINGER, 0)
                while time.monotonic() < end_s:
                    with contextlib.suppress(zmq.Again):
                        peer.send(content)

        threads = [threading.Thread(target=flood) for _ in range(_N_FLOODERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Seen()

    return Attack("eight flooders", name, act, is_seen)


def _unread_replies(command: str, args: dict[str, Any]) -> Attack:
    """Ask without a pause and read nothing: replies stay with the daemon, or are not made."""
    body = json.dumps({"v": 1, "id": 1, "cmd": command, "args": args}).encode()
    question = part(b"", more=True) + part(body)

    def act(daemon: DaemonProcess, _seconds: float) -> Seen:
        with ExitStack() as stack:
            peers = _clients(daemon, stack)
            for peer in peers:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            _send_until_full(peers, question, 500)
            # What is under way is answered, or refused, within this.
            threading.Event().wait(1.0)
        return Seen()

    return Attack("replies that nobody reads", f"`{command}`", act, _answered_badly)


def _array(one: bytes, total_bytes: int) -> bytes:
    return _with_extras(
        b"\xdd" + struct.pack(">I", total_bytes // len(one)) + one * (total_bytes // len(one))
    )


def attacks() -> Iterator[Attack]:
    """Every case, in the order of the table."""
    yield _endless_parts("ingest", 2**20 - 100, _ENDLESS_INGEST)
    yield _endless_parts("ingest", 2**14, _ENDLESS_INGEST)
    yield _endless_parts("query", 60_000, _ENDLESS_QUERY)
    yield _endless_parts("query", 1000, _ENDLESS_QUERY)
    for name, one in (
        ("maps", b"\x80"),
        ("arrays", b"\x90"),
        ("texts", b"\xa0"),
        ("maps of one", b"\x81\xa1a\xc0"),
    ):
        yield _frames("8 MiB of empty maps", name, "limits", _array(one, _MANY))
    for name, encoded in (
        ("1,000 arrays", b"\x91" * 1000 + b"\xc0"),
        ("100,000 arrays", b"\x91" * 100_000 + b"\xc0"),
        ("8 MiB of arrays", b"\x91" * _MANY + b"\xc0"),
        ("100,000 maps", b"\x81\xa1a" * 100_000 + b"\xc0"),
    ):
        yield _frames("depth bombs", name, "depth", _with_extras(encoded))
    for name, encoded in (
        ("array", b"\xdd\xff\xff\xff\xff"), ("map", b"\xdf\xff\xff\xff\xff"), ("binary", b"\xc6\xff\xff\xff\xff"),
        ("text", b"\xdb\xff\xff\xff\xff"), ("extension", b"\xc9\xff\xff\xff\xff\x01"),
    ):  # fmt: skip
        yield _frames(
            "claims of more than there is", f"{name} of 4 GiB", "msgpack", encoded, _with_extras(encoded)
        )
    yield _claimed("ingest", 2**62, 1)
    yield _claimed("query", 2**62, 1)
    yield _within_limit(_claimed("ingest", 60 * 10**6, _N_PEERS))
    yield _query("64 KiB of garbage", *[os.urandom(2**16)] * 20)
    yield _query("64 KiB of brackets", *[b"[" * 2**16] * 20)
    yield _query("64 KiB of empty maps", *[b"\xdd\x00\x00\xff\x00" + b"\x80" * 65_280] * 20)
    yield _query("300 parts of 60,000 bytes", bytes(60_000), parts=300)
    yield Attack("huge queries", "64 KiB and a byte", _too_long_query, _closed)
    yield Attack("huge queries", "40 clients, 64 of 64 KiB each", _pipelined_queries, _answered_badly)
    yield _idle("ingest", b"")
    yield _idle("query", b"")
    yield _idle("ingest", GREETING)
    good = wire.encode(noise("flood", n_samples=12_500))
    yield _flooders("good frames of 0.1 MB", good, _taken)
    yield _flooders("good frames of 1 MB", wire.encode(noise("flood-large", n_samples=125_000)), _taken)
    yield _flooders("garbage of 1 MB", b"\xc1" * 10**6, _rejected("msgpack"))
    yield _unread_replies("help", {})
    yield _unread_replies("measurements", {"limit": 1000})
