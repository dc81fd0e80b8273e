"""A node before a daemon that loses, refuses, forgets and lies: what it sends again, what it says, and that it ends."""

import contextlib
import json
import threading
import time

import numpy as np
import pytest
import zmq

from ingestd.errors import FrameError, Unavailable, UsageError
from ingestd.formats import frame as wire
from ingestd.formats.confirmation import EpochLedger
from ingestd.node import Node
from ingestd.testing.frames import noise
from ingestd.testing.waiting import free_port, wait_until


class FakeDaemon:
    """PULL and REP in a thread, with a ledger per epoch; `lose(seq, copy)` and `refuse(seq)` decide on faults."""

    def __init__(self, lose=lambda _seq, _copy: False, refuse=lambda _seq: None):
        self.lose, self.refuse = lose, refuse
        self.ingest = f"tcp://127.0.0.1:{free_port()}"
        self.query = f"tcp://127.0.0.1:{free_port()}"
        self.boot, self.accepting, self.max_frame_bytes, self.silent = "boot-1", True, 2**20, False
        self.reused = set()
        self.ledgers, self.copies, self.frames = {}, {}, {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self._thread.join(10)

    def forget(self):
        """As if the catalog were lost: another boot that knows nothing."""
        self.ledgers, self.boot = {}, self.boot + "x"

    def _serve(self):
        with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.ROUTER) as rep:
            pull.linger = rep.linger = 0
            pull.bind(self.ingest)
            rep.bind(self.query)
            while not self._stop.is_set():
                if pull.poll(5):
                    self._take(wire.parse(pull.recv()))
                if rep.poll(0):
                    identity, empty, request = rep.recv_multipart()
                    if not self.silent:
                        rep.send_multipart([identity, empty, self._answer(json.loads(request))])

    def _take(self, one):
        key = (one.node, one.epoch)
        self.copies[key, one.seq] = self.copies.get((key, one.seq), 0) + 1
        if one.seq is None or self.lose(one.seq, self.copies[key, one.seq]):
            return
        ledger = self.ledgers.setdefault(key, EpochLedger())
        reason = self.refuse(one.seq)
        if reason:
            ledger.note_rejected(one.seq, reason)
        else:
            ledger.note_accepted(one.seq, one.seq)
            self.frames[one.task_id] = one

    def _answer(self, request):
        args = request["args"]
        data = self.ledgers.get((args["node"], args["epoch"]), EpochLedger()).reply() | {
            "boot": self.boot, "accepting": self.accepting, "credit_bytes": 1, "max_frame_bytes": self.max_frame_bytes,
            "stored_upto": 0,
        }  # fmt: skip
        data["seq_reused"] = int(args["epoch"] in self.reused)
        return json.dumps({"v": 1, "id": request["id"], "ok": True, "data": data}).encode()


def node_of(daemon, **options):
    return Node(
        daemon.ingest, websdr_id=1, name="n", query_endpoint=daemon.query, **({"timeout_s": 20.0} | options)
    )


def test_frames_that_are_lost_on_the_way_are_sent_again_until_all_are_there():
    with FakeDaemon(lose=lambda seq, copy: seq % 3 == 0 and copy == 1) as daemon:
        with node_of(daemon) as node:
            for i in range(40):
                assert node.send_measurement(noise(f"t{i}", n_samples=10)) == i
        assert node.unconfirmed_count == 0
        assert set(daemon.frames) == {f"t{i}" for i in range(40)}


def test_a_daemon_that_forgot_gets_what_it_does_not_confirm():
    with FakeDaemon() as daemon:
        with node_of(daemon) as node:
            node.send_measurement(noise("first", n_samples=10))
            wait_until(lambda: node.unconfirmed_count == 0, what="the first confirmation")
            daemon.lose = lambda _seq, copy: copy == 1
            node.send_measurement(noise("second", n_samples=10))
            daemon.forget()
        assert "second" in daemon.frames


def test_a_rejected_frame_is_raised_to_its_sender_with_the_reason():
    with FakeDaemon(refuse=lambda seq: "identity" if seq == 1 else None) as daemon:
        with pytest.raises(FrameError) as caught, node_of(daemon) as node:
            for i in range(3):
                node.send_measurement(noise(f"t{i}", n_samples=10))
            node.wait(10)
        assert caught.value.reason == "identity"
        assert "1" in str(caught.value)


def test_a_frame_that_never_arrives_is_parked_after_five_resends(monkeypatch):
    from ingestd.formats import resending

    monkeypatch.setattr(resending, "RESEND_AFTER_S", 0.05)
    with FakeDaemon(lose=lambda seq, _copy: seq == 0) as daemon:
        node = node_of(daemon)
        with pytest.raises(Unavailable, match="still missing after 5 resends"), node:
            node.send_measurement(noise("doomed", n_samples=10))
            node.send_measurement(noise("fine", n_samples=10))
            node.wait(15)
        assert [one.task_id for one in node.parked] == ["doomed"]
        assert daemon.copies[("n", node.epoch), 0] == 6


def test_a_reused_epoch_is_left_and_everything_owed_is_numbered_anew():
    with FakeDaemon(lose=lambda seq, copy: False) as daemon:
        node = node_of(daemon)
        daemon.reused.add(node.epoch)
        old = node.epoch
        with node:
            for i in range(3):
                node.send_measurement(noise(f"t{i}", n_samples=10))
            wait_until(lambda: node.epoch != old, what="another epoch")
        assert daemon.ledgers["n", node.epoch].upto == 3
        assert set(daemon.frames) == {"t0", "t1", "t2"}


def test_a_frame_that_is_too_long_is_refused_here_with_limit_and_way_out():
    with FakeDaemon() as daemon:
        daemon.max_frame_bytes = 5000
        with node_of(daemon) as node:
            node.send_measurement(noise("short", n_samples=10))
            wait_until(lambda: node.max_frame_bytes == 5000, what="the daemon's limit")
            with pytest.raises(FrameError, match=r"5000 bytes.*`chunk`"):
                node.send_measurement(noise("long", n_samples=1000))
            assert node.send_measurement(noise("next", n_samples=10)) == 1, "the number was not used"


def test_a_node_waits_while_too_much_is_unconfirmed_and_says_so_in_the_end():
    with FakeDaemon(lose=lambda _seq, _copy: True) as daemon:
        node = node_of(daemon, timeout_s=0.6, max_unconfirmed_bytes=200)
        with pytest.raises(Unavailable, match="wait for confirmation"), node:
            node.send_measurement(noise("a", n_samples=20))
            node.send_measurement(noise("b", n_samples=20))


def test_leaving_the_block_without_confirmation_is_an_error_and_ends_in_time():
    with FakeDaemon(lose=lambda _seq, _copy: True) as daemon:
        began_s = time.monotonic()
        with (
            pytest.raises(Unavailable, match="1 frames are not confirmed"),
            node_of(daemon, timeout_s=0.5) as node,
        ):
            node.send_measurement(noise("lost", n_samples=10))
        assert time.monotonic() - began_s < 8


def test_nobody_listening_is_said_at_the_first_frame():
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    for query in (None, f"tcp://127.0.0.1:{free_port()}"):
        with (
            pytest.raises(Unavailable, match="nobody listens there"),
            Node(endpoint, websdr_id=1, name="n", query_endpoint=query, timeout_s=0.3) as node,
        ):
            node.send_measurement(noise("t", n_samples=10))


def test_an_error_inside_the_block_is_the_one_that_comes_out():
    with pytest.raises(ZeroDivisionError), Node(f"tcp://127.0.0.1:{free_port()}", websdr_id=1):
        raise ZeroDivisionError


def test_plain_nodes_number_nothing():
    with FakeDaemon() as daemon:
        received = []
        daemon._take = received.append
        with Node(daemon.ingest, websdr_id=4, name="plain") as node:
            assert node.send_measurement(noise("t", n_samples=10)) is None
        wait_until(lambda: received, what="the frame")
        assert (received[0].node, received[0].epoch, received[0].seq) == ("plain", None, None)


def test_arrays_and_raw_bytes_become_frames():
    with FakeDaemon() as daemon:
        common = {
            "frequency_mhz": 7.1,
            "sample_rate_khz": 12.0,
            "timestamp_utc": "2026-11-23T12:00:00.123456789Z",
        }
        with node_of(daemon) as node:
            node.send(np.array([1 + 1j, 2], dtype=np.complex128), task_id="array", **common, gain_db=3.0)
            node.send(b"\x00\xff", task_id="bytes", datatype="cu8", **common)
        assert bytes(daemon.frames["array"].samples) == np.array([1 + 1j, 2], "<c8").tobytes()
        assert daemon.frames["array"].frequency_mhz == 7.1
        assert daemon.frames["array"].gain_db == 3.0
        assert daemon.frames["bytes"].datatype == "cu8"
        assert daemon.frames["bytes"].timestamp_ns % 10**9 == 123_456_789


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"frequency_hz": None}, "frequency_hz"),
        ({"sample_rate_hz": None}, "sample_rate_khz"),
        ({"timestamp_ns": None}, "timestamp_ns"),
        ({"timestamp_utc": "2026-11-23T12:00:00Z"}, "timestamp_utc"),
        ({"iq_data": np.ones((2, 2), complex)}, "shape"),
        ({"iq_data": np.ones(4)}, "float64"),
        ({"task_id": "../x"}, "task_id"),
        ({"iq_data": b"1234567"}, "iq_data"),
    ],
)
def test_what_the_daemon_would_refuse_is_refused_here_by_name(changes, named):
    values = {
        "iq_data": np.ones(4, complex),
        "task_id": "t",
        "frequency_hz": 1.0,
        "sample_rate_hz": 1.0,
        "timestamp_ns": 10**18,
    }
    values |= changes
    with FakeDaemon() as daemon, Node(daemon.ingest, websdr_id=1) as node:
        with pytest.raises((FrameError, UsageError), match=named):
            node.send(**values)
        # Wait for the connection, so that closing finds it.
        node.send(np.ones(1, complex), task_id="t", frequency_hz=1.0, sample_rate_hz=1.0, timestamp_ns=10**18)


def test_a_confirmed_node_needs_a_name_and_a_usable_endpoint():
    with pytest.raises(UsageError, match="name"):
        Node("tcp://127.0.0.1:1", websdr_id=1, query_endpoint="tcp://127.0.0.1:2")
    with pytest.raises(UsageError, match="endpoint"), Node("nonsense", websdr_id=1):
        pass


def test_epochs_are_drawn_at_random():
    epochs = {Node("tcp://127.0.0.1:1", websdr_id=1).epoch for _ in range(20)}
    assert len(epochs) == 20
    assert all(0 <= epoch < 2**53 for epoch in epochs)


def test_a_query_socket_that_says_nothing_does_not_hold_the_sender_up():
    with FakeDaemon() as daemon:
        daemon.silent = True
        with contextlib.suppress(Unavailable), node_of(daemon, timeout_s=0.5) as node:
            began_s = time.monotonic()
            for i in range(10):
                node.send_measurement(noise(f"t{i}", n_samples=10))
            assert time.monotonic() - began_s < 2
        wait_until(lambda: len(daemon.frames) == 10, what="the frames")
