"""Node against a daemon that drops, forgets and refuses: nothing is lost in silence, and every wait ends."""

import json
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest
import zmq

from ingestd import node as node_module
from ingestd.errors import FrameError, QueryError, Unavailable, UsageError
from ingestd.formats import frame as wire
from ingestd.formats import resending
from ingestd.formats.checksum import crc32c
from ingestd.formats.confirmation import EpochLedger
from ingestd.node import Node
from ingestd.testing.waiting import free_port, wait_until

IQ = np.exp(2j * np.pi * np.arange(100) / 12).astype("c8")
T0_NS = 1_790_000_000_123_456_789


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Ask and resend twenty times as often as in the field."""
    monkeypatch.setattr(node_module, "_CONFIRM_INTERVAL_S", 0.01)
    monkeypatch.setattr(node_module, "_CONFIRM_TIMEOUT_S", 0.5)
    monkeypatch.setattr(resending, "RESEND_AFTER_S", 0.25)


class Daemon:
    """PULL and REP in a thread; `drop`, `reject`, `answer` decide what goes wrong."""

    def __init__(self):
        self.accepted = []
        self.received = Counter()
        self.ledgers = {}
        self.boot = "one"
        self.accepting = True
        self.max_frame_bytes = 64 * 2**20
        self.drop = lambda measurement: False
        self.reject = lambda measurement: None
        self.answer = lambda reply: reply
        self.lock = threading.Lock()
        self.ingest = f"tcp://127.0.0.1:{free_port()}"
        self.query = f"tcp://127.0.0.1:{free_port()}"
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self):
        with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.REP) as rep:
            pull.linger = rep.linger = 0
            pull.rcvhwm = 1
            pull.bind(self.ingest)
            rep.bind(self.query)
            self._ready.set()
            while not self._stop.is_set():
                pull.poll(5)
                with self.lock:
                    while self.accepting and pull.poll(0):
                        self._receive(pull.recv())
                    if rep.poll(0):
                        rep.send(self._reply(json.loads(rep.recv())))

    def ledger(self, node, epoch):
        return self.ledgers.setdefault((node, epoch), EpochLedger())

    def _receive(self, frame):
        measurement = wire.parse(frame)
        self.received[measurement.seq] += 1
        if self.drop(measurement):
            return
        numbered = measurement.seq is not None
        ledger = self.ledger(measurement.node, measurement.epoch) if numbered else EpochLedger()
        reason = self.reject(measurement)
        if reason is not None:
            ledger.note_rejected(measurement.seq, reason)
            return
        if numbered:
            ledger.note_accepted(measurement.seq, crc32c(frame))
        self.accepted.append(measurement)

    def _reply(self, request):
        args = request["args"]
        ledger = self.ledgers.get((args["node"], args["epoch"]), EpochLedger())
        data = ledger.reply() | {
            "boot": self.boot,
            "accepting": self.accepting,
            "max_frame_bytes": self.max_frame_bytes,
            "stored_upto": 0,
            "credit_bytes": 1,
        }
        document = self.answer({"v": 1, "id": request["id"], "ok": True, "data": data})
        return json.dumps(document).encode()

    def forget(self, boot):
        """A start after confirmation state was lost."""
        with self.lock:
            self.ledgers.clear()
            self.boot = boot

    def chunks(self):
        with self.lock:
            return Counter(measurement.chunk for measurement in self.accepted)


@pytest.fixture
def daemon():
    with Daemon() as running:
        yield running


def confirmed(daemon, **options):
    options = {"timeout_s": 20.0, "name": "dl0abc", "query_endpoint": daemon.query} | options
    return Node(daemon.ingest, websdr_id=3, **options)


def send(node, chunk=0, iq=IQ, **fields):
    fields = {"frequency_hz": 77500.0, "sample_rate_hz": 12001.1321, "timestamp_ns": T0_NS} | fields
    return node.send(iq, task_id="dcf77", chunk=chunk, **fields)


class TestFrames:
    def test_a_frame_is_what_was_given(self, daemon):
        with confirmed(daemon) as node:
            seq = send(node, chunk=7, metrics={"snr_db": 12.5}, extras={"mode": "iq"}, sample_index=10**12)
        (got,) = daemon.accepted
        assert seq == 0
        assert (got.task_id, got.websdr_id, got.chunk, got.node) == ("dcf77", 3, 7, "dl0abc")
        assert (got.epoch, got.seq) == (node.epoch, 0)
        assert (got.frequency_hz, got.sample_rate_hz, got.timestamp_ns) == (77500.0, 12001.1321, T0_NS)
        assert (got.metrics, got.extras, got.sample_index) == ({"snr_db": 12.5}, {"mode": "iq"}, 10**12)
        assert np.array_equal(np.frombuffer(got.samples, "<c8"), IQ)

    def test_both_spellings_of_rates_and_stamp_are_taken_to_the_last_digit(self, daemon):
        with confirmed(daemon) as node:
            send(
                node, frequency_hz=None, frequency_mhz=7.1, sample_rate_hz=None, sample_rate_khz=12.0011321,
                timestamp_ns=None, timestamp_utc="2026-09-21T14:13:20.123456789Z",
            )  # fmt: skip
        (got,) = daemon.accepted
        assert (got.frequency_mhz, got.sample_rate_khz, got.timestamp_ns) == (7.1, 12.0011321, T0_NS)

    @pytest.mark.parametrize("dtype", ["c8", "c16", ">c8"])
    def test_every_complex_array_is_sent_as_complex64(self, daemon, dtype):
        with confirmed(daemon) as node:
            send(node, iq=np.repeat(IQ, 2).astype(dtype)[::2])
        assert np.array_equal(np.frombuffer(daemon.accepted[0].samples, "<c8"), IQ)

    def test_raw_bytes_are_sent_as_they_are(self, daemon):
        with confirmed(daemon) as node:
            send(node, iq=b"\x00\x01\x80\xff", datatype="ci16_le")
        assert bytes(daemon.accepted[0].samples) == b"\x00\x01\x80\xff"

    @pytest.mark.parametrize(
        ("fields", "error", "text"),
        [
            ({"iq": IQ.reshape(10, 10)}, UsageError, r"shape \(10, 10\)"),
            ({"iq": IQ.real}, UsageError, "float32"),
            ({"iq": IQ, "datatype": "ci8"}, UsageError, "ci8"),
            ({"iq": IQ[:0]}, FrameError, "iq_data"),
            ({"iq": b"123"}, FrameError, "iq_data"),
            ({"frequency_hz": None}, UsageError, "frequency_mhz"),
            ({"sample_rate_hz": None}, UsageError, "sample_rate_khz"),
            ({"timestamp_ns": None}, UsageError, "timestamp_utc"),
            ({"timestamp_utc": "2026-01-01T00:00:00Z"}, UsageError, "timestamp_utc"),
            ({"timestamp_ns": 0}, FrameError, "timestamp_ns"),
            ({"frequency_hz": float("nan")}, FrameError, "frequency"),
            ({"chunk": -1}, FrameError, "chunk"),
            ({"metrics": {"snr_db": "high"}}, FrameError, "metrics"),
        ],
        ids=repr,
    )
    def test_what_the_daemon_would_refuse_is_refused_here_and_uses_no_number(
        self, daemon, fields, error, text
    ):
        with confirmed(daemon) as node:
            with pytest.raises(error, match=text):
                send(node, **fields)
            assert send(node) == 0
        assert len(daemon.accepted) == 1

    def test_a_frame_over_the_daemons_limit_is_refused_naming_the_limit_and_the_way_out(self, daemon):
        daemon.max_frame_bytes = 1000
        with confirmed(daemon) as node:
            send(node, iq=IQ[:10])
            node.wait(10)
            with pytest.raises(
                FrameError, match=r"at most 1000 bytes \(ingest.max_frame_bytes\).*`chunk`"
            ) as caught:
                send(node, chunk=1, iq=np.tile(IQ, 2))
            assert caught.value.reason == "size"
            assert send(node, chunk=1, iq=IQ[:10]) == 1
        assert daemon.chunks() == {0: 1, 1: 1}


class TestConfirmation:
    @pytest.mark.parametrize("seed", range(4))
    def test_random_drops_lose_nothing(self, daemon, seed):
        dice = random.Random(seed)
        daemon.drop = lambda _measurement: dice.random() < 0.4
        with confirmed(daemon) as node:
            for chunk in range(60):
                send(node, chunk)
        assert node.unconfirmed_count == 0
        assert node.parked == []
        assert set(daemon.chunks()) == set(range(60))
        assert sum(daemon.received.values()) > 60, "some were sent again"

    def test_a_frame_that_was_overtaken_is_sent_again_at_once(self, daemon, monkeypatch):
        monkeypatch.setattr(resending, "RESEND_AFTER_S", 1000.0)
        dropped = []
        daemon.drop = lambda m: m.seq == 1 and not dropped and not dropped.append(m.seq)
        with confirmed(daemon) as node:
            for chunk in range(3):
                send(node, chunk)
        assert daemon.received == {0: 1, 1: 2, 2: 1}

    def test_nothing_that_was_confirmed_is_sent_again(self, daemon):
        with confirmed(daemon) as node:
            for chunk in range(10):
                send(node, chunk)
            node.wait(10)
            daemon.forget("two")
            send(node, 10)
        assert set(daemon.received.values()) == {1}

    def test_another_boot_makes_it_send_what_the_new_one_does_not_confirm(self, daemon, monkeypatch):
        monkeypatch.setattr(resending, "RESEND_AFTER_S", 1000.0)
        daemon.drop = lambda _measurement: daemon.boot == "one"
        with confirmed(daemon) as node:
            for chunk in range(5):
                send(node, chunk)
            wait_until(lambda: sum(daemon.received.values()) == 5)
            wait_until(lambda: node._asked)
            daemon.forget("two")
        assert daemon.received == dict.fromkeys(range(5), 2)
        assert set(daemon.chunks()) == set(range(5))

    def test_nothing_is_sent_again_while_the_daemon_does_not_accept(self, daemon):
        daemon.accepting = False
        with confirmed(daemon) as node:
            send(node)
            wait_until(lambda: node._asked)
            held_s = time.monotonic() + 3 * resending.RESEND_AFTER_S
            wait_until(lambda: time.monotonic() > held_s)
            daemon.accepting = True
        assert daemon.received == {0: 1}

    def test_a_rejected_frame_is_raised_to_the_caller_with_its_reason(self, daemon):
        daemon.reject = lambda m: "timestamp" if m.seq == 1 else None
        with confirmed(daemon) as node:
            for chunk in range(3):
                send(node, chunk)
            with pytest.raises(FrameError, match="timestamp: seq=1") as caught:
                node.wait(10)
            assert caught.value.reason == "timestamp"
            send(node, 3)
        assert set(daemon.chunks()) == {0, 2, 3}, "the others are not held up by it"

    def test_a_frame_that_never_arrives_is_parked_after_five_resends_and_said(self, daemon):
        daemon.drop = lambda m: m.seq == 1
        with confirmed(daemon) as node:
            for chunk in range(3):
                send(node, chunk)
            with pytest.raises(Unavailable, match=r"frame 1 .* after 5 resends"):
                node.wait(20)
            assert [measurement.chunk for measurement in node.parked] == [1]
            assert node.unconfirmed_count == 0
        assert daemon.received[1] == 6

    def test_told_that_its_numbers_were_used_it_takes_a_new_epoch_and_sends_all_that_is_owed(self, daemon):
        with confirmed(daemon) as node:
            send(node, 0)
            node.wait(10)
            first = node.epoch
            with daemon.lock:
                daemon.drop = lambda m: m.epoch == first
                daemon.ledger("dl0abc", first).note_reused()
            for chunk in range(1, 5):
                send(node, chunk)
            node.wait(20)
            assert node.epoch != first
            assert send(node, 5) is not None
        assert set(daemon.chunks()) == set(range(6))
        renumbered = {m.chunk: m.seq for m in daemon.accepted if m.epoch == node.epoch}
        assert sorted(renumbered.values()) == list(range(len(renumbered))), "from 0, without gaps"

    def test_epochs_are_drawn_at_random_for_each_node(self):
        epochs = {Node(websdr_id=1, name="a").epoch for _ in range(20)}
        assert len(epochs) == 20
        assert all(0 <= epoch < 2**53 for epoch in epochs)
        assert max(epochs) > 2**48, "over the whole range, not a small counter or a clock in seconds"

    def test_send_waits_while_too_much_is_unconfirmed(self, daemon):
        daemon.drop = lambda _measurement: True
        with confirmed(daemon, max_unconfirmed_bytes=2 * IQ.nbytes, timeout_s=0.3) as node:
            send(node, 0)
            send(node, 1)
            with pytest.raises(Unavailable, match=f"max_unconfirmed_bytes is {2 * IQ.nbytes}"):
                send(node, 2)
            assert node.unconfirmed_count == 2
            with daemon.lock:
                daemon.drop = lambda _measurement: False
            node._timeout_s = 20
            assert send(node, 2) == 2
        assert set(daemon.chunks()) == {0, 1, 2}

    def test_one_frame_may_be_larger_than_what_may_be_unconfirmed(self, daemon):
        with confirmed(daemon, max_unconfirmed_bytes=10) as node:
            send(node, 0)
            send(node, 1)
        assert set(daemon.chunks()) == {0, 1}

    def test_an_answer_that_is_none_is_raised_once_and_not_forgotten_frames(self, daemon):
        daemon.answer = lambda reply: reply | {"data": {"accepted_upto": 1}}
        with confirmed(daemon) as node:
            send(node)
            with pytest.raises(QueryError, match="not what `confirm` answers"):
                node.wait(10)
            assert len(node._troubles) <= 1
            assert node.unconfirmed_count == 1
            with daemon.lock:
                daemon.answer = lambda reply: reply
            wait_until(lambda: not node.unconfirmed_count)
            node._troubles.clear()
        assert daemon.chunks() == {0: 1}

    def test_a_busy_daemon_is_asked_again(self, daemon):
        busy = {"ok": False, "error": {"code": "busy", "message": "", "retryable": True}}
        answers = [busy] * 3
        daemon.answer = lambda reply: reply | answers.pop() if answers else reply
        with confirmed(daemon) as node:
            send(node)
        assert answers == []

    def test_a_refusal_of_the_question_is_raised(self, daemon):
        daemon.answer = lambda reply: {
            "v": 1, "id": reply["id"], "ok": False,
            "error": {"code": "unsupported_version", "message": "too old", "retryable": False},
        }  # fmt: skip
        with pytest.raises(QueryError, match="unsupported_version"), confirmed(daemon) as node:
            send(node)


class TestEnds:
    """Every wait ends, and what is left behind is said."""

    def test_without_a_daemon_sending_ends_in_an_error(self):
        node = Node(f"tcp://127.0.0.1:{free_port()}", websdr_id=1, timeout_s=0.3)
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="nobody listens there"), node:
            send(node)
        assert time.monotonic() - began_s < 5

    def test_a_confirmed_node_whose_questions_nobody_answers_says_so_in_time(self, daemon):
        node = confirmed(daemon, query_endpoint=f"tcp://127.0.0.1:{free_port()}", timeout_s=0.5)
        began_s = time.monotonic()
        with (
            pytest.raises(Unavailable, match=r"1 frames are not confirmed after 0.5 s .*no answer from it"),
            node,
        ):
            send(node)
        assert time.monotonic() - began_s < 8

    def test_a_daemon_that_goes_away_makes_it_end_in_an_error_in_time(self):
        with Daemon() as daemon:
            node = confirmed(daemon, timeout_s=1.0)
            node.__enter__()
            send(node)
            node.wait(10)
            daemon.drop = lambda _measurement: True
            send(node, 1)
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="not confirmed"):
            node.__exit__(None, None, None)
        assert time.monotonic() - began_s < 8
        assert not node._thread.is_alive()

    def test_a_query_socket_that_says_nothing_does_not_hold_the_sender_up(self, daemon):
        silent = f"tcp://127.0.0.1:{free_port()}"
        with pytest.raises(Unavailable), confirmed(daemon, query_endpoint=silent, timeout_s=0.5) as node:
            began_s = time.monotonic()
            for chunk in range(10):
                send(node, chunk)
            assert time.monotonic() - began_s < 2
        wait_until(lambda: len(daemon.accepted) == 10)

    def test_an_error_of_the_caller_is_what_comes_out_at_once(self, daemon):
        daemon.drop = lambda _measurement: True
        began_s = time.monotonic()
        with pytest.raises(ZeroDivisionError), confirmed(daemon) as node:
            send(node)
            raise ZeroDivisionError
        assert time.monotonic() - began_s < 5

    def test_a_daemon_that_takes_nothing_holds_send_back_until_the_timeout(self, daemon):
        daemon.accepting = False
        large = np.tile(IQ, 30_000)
        node = Node(daemon.ingest, websdr_id=1, timeout_s=0.5)
        with pytest.raises(Unavailable, match=r"took nothing for 0.5 s"), node:
            for chunk in range(50):
                send(node, chunk, iq=large)

    def test_an_unconfirmed_node_delivers_all_before_it_ends(self, daemon):
        with Node(daemon.ingest, websdr_id=1, timeout_s=10) as node:
            for chunk in range(30):
                assert send(node, chunk) is None
            assert node.unconfirmed_count == 0
        wait_until(lambda: len(daemon.accepted) == 30)
        assert {m.node for m in daemon.accepted} == {None}

    def test_a_name_alone_is_sent_without_numbers(self, daemon):
        with Node(daemon.ingest, websdr_id=1, name="dl0abc") as node:
            send(node)
        wait_until(lambda: daemon.accepted)
        assert (daemon.accepted[0].node, daemon.accepted[0].seq) == ("dl0abc", None)

    def test_an_unconfirmed_node_says_that_the_connection_was_gone_at_the_end(self):
        with Daemon() as daemon:
            node = Node(daemon.ingest, websdr_id=1, timeout_s=0.5)
            node.__enter__()
            send(node)
        wait_until(lambda: not node._link._look())
        with pytest.raises(Unavailable, match="may not have arrived"):
            node.__exit__(None, None, None)

    def test_confirmation_needs_a_name(self):
        with pytest.raises(UsageError, match="needs a name"):
            Node(websdr_id=1, query_endpoint="tcp://127.0.0.1:5556")

    def test_an_endpoint_that_is_none_is_the_callers_error(self):
        with pytest.raises(UsageError, match="cannot use endpoint 'gateway'"), Node("gateway", websdr_id=1):
            pass

    def test_a_query_endpoint_that_is_none_is_raised_to_the_caller(self, daemon):
        with (
            pytest.raises(UsageError, match="cannot use endpoint"),
            confirmed(daemon, query_endpoint="gateway") as node,
        ):
            send(node)
