"""Bytes that are no frames on the ports of a real daemon: the next good frame always goes through."""

import contextlib
import json
import math
import os
import pickle
import re
import resource
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import msgpack
import pytest
import zmq

from ingestd.errors import NotFound, Unavailable
from ingestd.formats import frame as wire
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.secured.raw import part, ready_peer
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
    # Null until the catalog was read for the first time (docs/queries.md), which the first tests here may be ahead of.
    before = wait_until(lambda: daemon.stats()["total"], what="the catalog to be read")["accepted"]
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
    before = daemon.stats()["rejected"]
    with pusher(daemon.ingest_endpoint) as peer:
        for changes in bad.values():
            peer.send(changed(**changes))
        peer.send(changed())

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


def test_silent_and_dripping_peers_are_dropped_when_the_time_for_a_handshake_is_over(daemon):
    stop = threading.Event()

    def drip(peer):
        for byte in GREETING + HALF_READY:
            with contextlib.suppress(OSError):
                peer.sendall(bytes([byte]))
            if stop.wait(0.5):
                return

    with contextlib.ExitStack() as stack:
        peers, threads = {}, []
        for endpoint in (daemon.ingest_endpoint, daemon.query_endpoint):
            for name in ("silent", "dripping", "half a handshake"):
                peer = stack.enter_context(socket.create_connection(address(endpoint), timeout=10))
                peers[endpoint, name] = peer
                if name == "dripping":
                    threads.append(threading.Thread(target=drip, args=(peer,)))
                    threads[-1].start()
                elif name == "half a handshake":
                    peer.sendall(GREETING + HALF_READY)
        try:
            deadline = time.monotonic() + 9.0
            for name, peer in peers.items():
                assert is_closed(peer, max(0.5, deadline - time.monotonic())), name
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    next_good_frame_goes_through(daemon, "after-drip")


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
@pytest.mark.quiet
def test_five_thousand_idle_connections_shut_nobody_out(daemon, port):
    endpoint = address(getattr(daemon, f"{port}_endpoint"))
    pids = daemon.role_pids()
    with contextlib.ExitStack() as stack, open_files(5200):
        for _ in range(5000):
            stack.enter_context(socket.create_connection(endpoint, timeout=10))
        # The best of three: what a busy machine adds is no property of the daemon.
        assert min(milliseconds_to_accept(daemon, f"beside-idle-{port}-{i}") for i in range(3)) < 500
        assert daemon.health()["status"] in {"healthy", "degraded"}
        assert len(os.listdir(f"/proc/{pids['receiver']}/fd")) < 700
        assert len(os.listdir(f"/proc/{pids['responder']}/fd")) < 700
    assert daemon.role_pids() == pids, "a role died"


GOOD = {
    "task_id": "t", "websdr_id": 1, "frequency_hz": 77500.0, "sample_rate_hz": 12000.0, "iq_data": bytes(80),
    "timestamp_utc": "2026-11-23T12:00:00Z",
}  # fmt: skip


def changed(**changes):
    return msgpack.packb(GOOD | changes)


def with_extras(encoded):
    """The good frame and a key `extras` that holds these bytes."""
    return b"\x87" + msgpack.packb(GOOD)[1:] + b"\xa6extras" + encoded


def many(reason, *frames):
    return [(reason, frame) for frame in frames]


#: Reason and bytes: what anyone who reaches the port, and a node that is authorised and broken, may send.
HOSTILE_FRAMES = [
    *many(
        "msgpack", b"", b"\xc1", msgpack.packb(GOOD)[:-1], msgpack.packb(GOOD) + b"\0", b"\x90", b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff", with_extras(b"\xc6\xff\xff\xff\xff"), with_extras(b"\xdb\xff\xff\xff\xff"),
        with_extras(b"\xc9\xff\xff\xff\xff\x01"), pickle.dumps(GOOD), json.dumps({"task_id": "t"}).encode(),
        b"GET / HTTP/1.1\r\n\r\n",
    ),
    *many("limits", with_extras(b"\xdd" + struct.pack(">I", 900_000) + b"\x80" * 900_000)),
    *many("depth", with_extras(b"\x91" * 1000 + b"\xc0"), with_extras(b"\x91" * 100_000 + b"\xc0")),
    *many("key", msgpack.packb({5: 1, **GOOD})),
    *many("unknown", changed(surprise=1)),
    *many("duplicate", b"\x87" + msgpack.packb(GOOD)[1:] + msgpack.packb("websdr_id") + b"\x02"),
    *many("ext", with_extras(b"\xd6\xff\0\0\0\0")),
    *many("utf8", with_extras(b"\x81\xa1t\xa2\xff\xfe")),
    *many("payload", changed(iq_data=b""), changed(iq_data=bytes(7))),
    *many("disagree", changed(samples_count=11)),
    *many("range", changed(samples_count=2**63), changed(websdr_id=-1)),
    *many("datatype", *(changed(datatype=name) for name in ("O", "<c16", ">c8", "x" * 10_000))),
    *many("range", *(changed(sample_rate_hz=rate) for rate in (math.nan, math.inf, 0, -1.0, 1e300))),
    *many("type", changed(sample_rate_hz="12000"), changed(frequency_hz=True), changed(websdr_id=1.0)),
    *many(
        "task_id",
        *(
            changed(task_id=name)
            for name in (
                "../../etc", "a/../b", "/lead", "a//b", ".", "..", "a\0b", "a\nb", "a\x1b[2J", "x" * 129, "x" * 1_000_000,
                "\u00fc",
            )
        ),
    ),
]  # fmt: skip


@pytest.mark.quiet
def test_every_hostile_frame_is_counted_under_its_reason_and_the_next_good_one_goes_through(daemon):
    pids = daemon.role_pids()
    before = daemon.stats()["rejected"]
    with pusher(daemon.ingest_endpoint) as peer:
        for _, frame in HOSTILE_FRAMES:
            peer.send(frame)
    expected = Counter(reason for reason, _ in HOSTILE_FRAMES)

    def counted():
        after = daemon.stats()["rejected"]
        return {reason: after.get(reason, 0) - before.get(reason, 0) for reason in expected} == dict(expected)

    wait_until(counted, 20, f"{dict(expected)}")
    assert min(milliseconds_to_accept(daemon, f"after-hostile-frames-{i}") for i in range(3)) < 500
    assert daemon.role_pids() == pids, "a role died"
    top = Path(daemon.directory)
    assert {path.name for path in top.iterdir()} == {"state", "config.yaml", "ingestd.log"}
    assert b"\x1b" not in Path(daemon.log_path).read_bytes()


def test_every_role_that_reads_what_others_wrote_has_an_end_to_its_memory(daemon):
    for role, pid in daemon.role_pids().items():
        limit = re.search(r"Max address space +(\w+)", Path(f"/proc/{pid}/limits").read_text())[1]
        assert limit.isdecimal(), role
        assert int(limit) < 8 * 2**30, role


def test_nan_infinity_and_denormals_are_stored_to_the_bit_and_the_metadata_stays_strict_json(daemon):
    # A signalling NaN, infinities, the smallest denormal, minus zero.
    raw = struct.pack(
        "<8I", 0x7F800001, 0xFF800000, 0x7F800000, 1, 0x80000001, 0x80000000, 0x7FC00000, 0x3F800000
    )
    with pusher(daemon.ingest_endpoint) as peer:
        peer.send(changed(task_id="strange-samples", iq_data=raw))
    objects = Path(daemon.state_directory, "objects", "heimdall-raw-iq", "sessions", "strange-samples")
    document = wait_until(
        lambda: (
            (objects / "websdr_1_metadata.json").exists() and (objects / "websdr_1_metadata.json").read_text()
        ),
        20,
    )

    def refuse(name):
        raise AssertionError(name)

    metadata = json.loads(document, parse_constant=refuse)
    assert (objects / "websdr_1.npy").read_bytes()[128:] == raw
    assert metadata["nonfinite_count"] == 3
    assert metadata["metrics"]["snr_db"] is None


@pytest.mark.parametrize("port", ["ingest", "query"])
def test_a_header_that_claims_2_62_bytes_closes_its_connection_and_takes_no_memory(daemon, port):
    kind = b"PUSH" if port == "ingest" else b"REQ"
    properties = b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    ready = b"\x05READY" + properties
    with socket.create_connection(address(getattr(daemon, f"{port}_endpoint")), timeout=10) as peer:
        peer.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
        # The other side has greeted and is ready: 64 bytes and a command.
        heard = b""
        while len(heard) < 64 + 8:
            heard += peer.recv(4096)
        peer.sendall(b"\x02" + struct.pack(">Q", 2**62) + bytes(1000))
        assert is_closed(peer, 5)
    next_good_frame_goes_through(daemon, f"after-2-62-{port}")


def test_endless_parts_of_a_question_cost_the_responder_at_most(daemon):
    supervisor = daemon.pid
    accepted = daemon.stats()["received"]
    # By hand: libzmq as a sender keeps a message back until its last part. More than the responder may have; it cuts the
    # peer off, or ends and is back.
    with ready_peer(daemon.query_endpoint, b"DEALER") as peer:
        one = part(bytes(60_000), more=True)
        with pytest.raises(OSError, match=r"reset|pipe|timed out"):
            for _ in range(25_000):
                peer.sendall(one)
    daemon.push(noise("beside-endless-parts"))
    wait_until(
        lambda: answers(daemon) and daemon.stats()["received"] > accepted, 20, "an answer, and the frame"
    )
    assert daemon.pid == supervisor
    assert daemon.popen.poll() is None


def answers(daemon):
    with daemon.client(timeout_s=1.0, retries=0) as client, contextlib.suppress(Unavailable):
        return client.ping()["pong"]
    return False


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
@pytest.mark.quiet
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
