"""Bytes that are no frames on the ports of a real daemon: the next good frame always goes through."""

import contextlib
import json
import os
import resource
import socket
import threading
import time
from pathlib import Path

import msgpack
import pytest
import zmq

from ingestd.errors import NotFound
from ingestd.formats import frame as wire
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    settings = {
        "uploader": {"count": 1},
        "spool": {"min_free_bytes": 0},
        "ingest": {"max_frame_bytes": 2**20, "max_connections": 8},
    }
    with DaemonProcess(tmp_path_factory.mktemp("hostile"), settings) as running:
        yield running


def address(endpoint):
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def next_good_frame_goes_through(daemon, name):
    before = daemon.stats()["total"]["accepted"]
    daemon.push(noise(name))
    wait_until(lambda: daemon.stats()["total"]["accepted"] > before, 10.0, "the next good frame")


def milliseconds_to_accept(daemon, name):
    """From a new connection to the disk, by the clock that the daemon books the acceptance with."""
    began_ns = time.time_ns()
    daemon.push(noise(name, 1, n_samples=100))

    def accepted():
        with daemon.client() as client, contextlib.suppress(NotFound):
            return client.measurement(name, 1)

    return (wait_until(accepted, 10.0, name)["accepted_at_ns"] - began_ns) / 1e6


def is_closed(peer, timeout_s):
    """Whether the other side closes a connection in time; what it says before that is read."""
    peer.settimeout(0.5)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if not peer.recv(4096):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


HOSTILE_BYTES = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100ca010000c60303") + bytes(200),
    "zmtp1": b"\x01\x00\x01\x01\x06\x00hello",
    "zeros": bytes(4096),
    "random": os.urandom(4096),
}


@pytest.mark.parametrize("name", HOSTILE_BYTES)
@pytest.mark.parametrize("port", ["ingest", "query"])
def test_a_peer_that_does_not_speak_zeromq_is_closed_and_delivers_nothing(daemon, name, port):
    received = daemon.stats()["received"]
    endpoint = daemon.ingest_endpoint if port == "ingest" else daemon.query_endpoint
    with socket.create_connection(address(endpoint), timeout=10) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(HOSTILE_BYTES[name])
        # libzmq answers with its greeting and then closes; a peer that it waits for is dropped after 5 s.
        deadline = time.monotonic() + 8
        with contextlib.suppress(ConnectionError):
            while peer.recv(4096):
                assert time.monotonic() < deadline, "the connection was not closed"
    assert daemon.stats()["received"] == received
    next_good_frame_goes_through(daemon, f"after-{name}-{port}")


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.DEALER, zmq.REQ], ids=["PUB", "DEALER", "REQ"])
def test_peers_of_another_kind_are_refused(daemon, kind):
    received = daemon.stats()["received"]
    with zmq.Context() as context, context.socket(kind) as peer:
        peer.linger = 0
        peer.sndtimeo = 300
        peer.connect(daemon.ingest_endpoint)
        with contextlib.suppress(zmq.Again):
            peer.send(wire.encode(noise("never")))
            peer.poll(300)
    assert daemon.stats()["received"] == received
    next_good_frame_goes_through(daemon, f"after-kind-{kind}")


def test_a_frame_over_the_limit_closes_its_connection_and_nothing_is_kept(daemon):
    received = daemon.stats()["received"]
    with pusher(daemon.ingest_endpoint) as peer:
        peer.linger = 0
        peer.send(bytes(2**20 + 1))
        next_good_frame_goes_through(daemon, "after-too-long")
    assert daemon.stats()["received"] <= received + 1


def test_rejected_frames_are_sampled_counted_and_told_with_their_field(daemon):
    bad = {
        "task_id": {"task_id": "../../etc/passwd"},
        "range": {"sample_rate_hz": float("nan")},
        "payload": {"iq_data": b"1234567"},
        "unknown": {"surprise": 1},
        "datatype": {"datatype": "ci16_be"},
        "timestamp": {"timestamp_utc": "2026-11-23T12:00:00+01:00"},
    }
    good = {
        "task_id": "t", "websdr_id": 1, "frequency_hz": 77500.0, "sample_rate_hz": 12000.0, "iq_data": bytes(80),
        "timestamp_utc": "2026-11-23T12:00:00Z",
    }  # fmt: skip
    before = daemon.stats()["rejected"]
    with pusher(daemon.ingest_endpoint) as peer:
        for changes in bad.values():
            peer.send(msgpack.packb(good | changes))
        peer.send(msgpack.packb(good))

    def counted():
        after = daemon.stats()["rejected"]
        return all(after.get(reason, 0) == before.get(reason, 0) + 1 for reason in bad)

    wait_until(counted, what="every reason to be counted")
    with daemon.client() as client:
        rows = wait_until(
            lambda: (
                (found := client.rejected(limit=len(bad))["rejected"]) and len(found) == len(bad) and found
            ),
            what="the rejections",
        )
    assert {row["reason"] for row in rows} == set(bad)
    fields = {row["reason"]: row["field"] for row in rows}
    assert fields["task_id"] == "task_id"
    assert fields["payload"] == "iq_data"
    samples = Path(daemon.state_directory, "spool", "rejected")
    assert all((samples / row["sample"]).is_file() for row in rows)
    assert not (Path(daemon.state_directory).parent / "etc").exists()


def test_senders_beyond_max_connections_wait_and_the_others_are_served(daemon):
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        peers = []
        for _ in range(8):
            peer = stack.enter_context(context.socket(zmq.PUSH))
            peer.linger = 0
            peer.immediate = True
            peer.connect(daemon.ingest_endpoint)
            peers.append(peer)
        wait_until(lambda: all(peer.poll(0, zmq.POLLOUT) for peer in peers), 5.0, "eight connections")
        ninth = stack.enter_context(context.socket(zmq.PUSH))
        ninth.linger = 0
        ninth.immediate = True
        ninth.connect(daemon.ingest_endpoint)
        assert not ninth.poll(700, zmq.POLLOUT)
        peers[0].send(wire.encode(noise("one-of-eight")))
        wait_until(
            lambda: daemon.health()["ingest"]["last_frame_age_s"] < 5, what="a frame of a connected sender"
        )
        peers[1].close()
        assert ninth.poll(5000, zmq.POLLOUT), "a place that got free is taken"


#: What begins like ZMTP 3.1 with the mechanism NULL, and its READY command, cut in the middle.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31)
HALF_READY = b"\x04\x19\x05READY\x0bSocket-"


@pytest.mark.parametrize("port", ["ingest", "query"])
def test_silent_and_dripping_peers_are_dropped_when_the_time_for_a_handshake_is_over(daemon, port):
    endpoint = address(getattr(daemon, f"{port}_endpoint"))
    stop = threading.Event()

    def drip(peer):
        for byte in GREETING + HALF_READY:
            with contextlib.suppress(OSError):
                peer.sendall(bytes([byte]))
            if stop.wait(0.5):
                return

    with contextlib.ExitStack() as stack:
        peers = {
            name: stack.enter_context(socket.create_connection(endpoint, timeout=10))
            for name in ("silent", "dripping", "half a handshake")
        }
        peers["half a handshake"].sendall(GREETING + HALF_READY)
        thread = threading.Thread(target=drip, args=(peers["dripping"],))
        thread.start()
        try:
            assert {name: is_closed(peer, 9.0) for name, peer in peers.items()} == dict.fromkeys(peers, True)
        finally:
            stop.set()
            thread.join()
    next_good_frame_goes_through(daemon, f"after-drip-{port}")


@contextlib.contextmanager
def open_files(count):
    """Let this process have so many files open; the limit of other processes stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("port", ["ingest", "query"])
def test_five_thousand_idle_connections_shut_nobody_out(daemon, port):
    endpoint = address(getattr(daemon, f"{port}_endpoint"))
    pids = daemon.role_pids()
    with contextlib.ExitStack() as stack, open_files(5200):
        for _ in range(5000):
            stack.enter_context(socket.create_connection(endpoint, timeout=10))
        assert milliseconds_to_accept(daemon, f"beside-idle-{port}") < 500
        assert daemon.health()["status"] in {"healthy", "degraded"}
        assert len(os.listdir(f"/proc/{pids['receiver']}/fd")) < 700
        assert len(os.listdir(f"/proc/{pids['responder']}/fd")) < 700
    assert daemon.role_pids() == pids, "a role died"


@pytest.mark.parametrize("parts", [2, 300])
def test_a_message_of_several_parts_is_rejected_once_and_drained(daemon, parts):
    before = daemon.stats()["rejected"].get("multipart", 0)
    with pusher(daemon.ingest_endpoint) as peer:
        peer.send_multipart([wire.encode(noise("parts"))] * parts)
        peer.send(wire.encode(noise(f"after-{parts}-parts")))
        wait_until(lambda: daemon.stats()["rejected"].get("multipart", 0) == before + 1, what="the rejection")
    next_good_frame_goes_through(daemon, f"next-after-{parts}-parts")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"garbage",
        b"\xc1",
        b"{}",
        b'{"cmd": 5}',
        b'{"cmd": "no-such"}',
        b'{"cmd": "sessions", "args": {"limit": 1e9}}',
    ],
    ids=["empty", "garbage", "c1", "no cmd", "number", "unknown", "limit"],
)
def test_a_bad_query_gets_an_error_and_the_next_client_an_answer(daemon, request_bytes):
    with zmq.Context() as context, context.socket(zmq.REQ) as peer:
        peer.linger = 0
        peer.connect(daemon.query_endpoint)
        peer.send(request_bytes)
        assert peer.poll(2000), "no reply"
        reply = json.loads(peer.recv())
        assert reply["ok"] is False
        assert reply["error"]["code"] in {"bad_request", "unknown_command", "invalid_argument"}
    began = time.monotonic()
    assert daemon.health()["status"] in {"healthy", "degraded"}
    assert time.monotonic() - began < 0.5
