"""Simulated captures hold the time differences that their scene says, and nothing about them is left to chance."""

import dataclasses
import io
import sys
import threading
import time
import types

import numpy as np
import pytest
from rich.console import Console

from ingestd.errors import FrameError, IngestdError, Unavailable, UsageError
from ingestd.formats import frame
from ingestd.testing.nodes import SimulatedNodes
from ingestd.testing.simulation import SPEED_OF_LIGHT_M_S, Position, Row, Scene, render, report, ring, table
from ingestd.testing.tdoa import Capture
from ingestd.testing.waiting import wait_until

START_NS = 1_700_000_000_123_456_789


def captures(scene, k=0, **options):
    return [Capture.from_measurement(m) for m in scene.session(k, START_NS, **options)]


@pytest.mark.parametrize("seed", range(1, 9))
def test_measured_differences_are_the_true_ones(seed):
    scene = Scene(seed=seed)
    rows = report(scene, captures(scene, k=7 * seed))
    assert [(row.a, row.b) for row in rows] == [("sim-1", "sim-2"), ("sim-1", "sim-3"), ("sim-2", "sim-3")]
    assert max(abs(row.error_s) for row in rows) < 2e-6
    # The scene must not be one in which doing nothing is accurate.
    assert min(abs(row.true_s) for row in rows) > 20e-6


@pytest.mark.parametrize(
    ("change", "n_samples"),
    [
        ({"sample_rate_hz": 12_000.0, "bandwidth_hz": 2_000.0}, 12_000),
        ({"snr_db": 0.0}, 48_000),
        ({"rate_spread_ppm": 2_000.0}, 48_000),
        ({"receivers": ring(Position(-33.0, 151.0), 4), "transmitter": Position(-33.2, 151.9)}, 48_000),
    ],
    ids=["12 kHz", "0 dB", "rates 0.2 % off", "south"],
)
def test_other_scenes_measure_true_as_well(change, n_samples):
    scene = Scene(**change)
    rows = report(scene, captures(scene, n_samples=n_samples))
    assert max(abs(row.error_s) for row in rows) < 10e-6


def test_a_stamp_one_millisecond_off_is_seen_by_that_much():
    scene = Scene()
    first, second, third = captures(scene)
    wrong = dataclasses.replace(second, timestamp_ns=second.timestamp_ns + 1_000_000)
    errors_us = [row.error_s * 1e6 for row in report(scene, [first, wrong, third])]
    assert errors_us == pytest.approx([-1000.0, 0.0, 1000.0], abs=2.0)


def test_a_nominal_rate_instead_of_the_true_one_is_seen():
    scene = Scene(rate_spread_ppm=100.0, seed=3)
    first, second, third = captures(scene)
    nominal = dataclasses.replace(first, sample_rate_hz=scene.sample_rate_hz)
    assert abs(report(scene, [nominal, second, third])[0].error_s) > 2e-6


def test_a_session_is_the_same_every_time_and_alone():
    scene = Scene(seed=11)
    session = scene.session(4, START_NS, n_samples=1_000)
    assert session == Scene(seed=11).session(4, START_NS, n_samples=1_000)
    assert session[2] == scene.measurement(4, START_NS, 2, n_samples=1_000)


@pytest.mark.parametrize(("seed", "k"), [(12, 4), (11, 5)])
def test_another_seed_or_session_is_another_signal(seed, k):
    ours = Scene(seed=11).measurement(4, START_NS, 0, n_samples=1_000)
    assert Scene(seed=seed).measurement(k, START_NS, 0, n_samples=1_000).samples != ours.samples


def test_a_longer_capture_begins_with_the_shorter_one():
    short, long = (Scene(snr_db=300.0).measurement(1, START_NS, 1, n_samples=n).samples for n in (500, 900))
    assert long[: len(short)] == short


def test_stamps_are_exact_and_differ_between_nodes():
    """The same session a nanosecond later is stamped a nanosecond later, with the same samples."""
    scene = Scene()
    now, later = (scene.session(9, start_ns, n_samples=100) for start_ns in (START_NS, START_NS + 1))
    stamps_ns = [m.timestamp_ns for m in now]
    assert all(type(stamp_ns) is int and 0 <= stamp_ns - START_NS < 5_000_000 for stamp_ns in stamps_ns)
    assert len(set(stamps_ns)) == 3
    assert [m.timestamp_ns for m in later] == [stamp_ns + 1 for stamp_ns in stamps_ns]
    assert [m.samples for m in later] == [m.samples for m in now]


def test_rates_are_real_ones():
    """None is nominal, none equals another, all are within the spread."""
    rates_hz = [m.sample_rate_hz for m in Scene().session(0, START_NS, n_samples=10)]
    assert len({*rates_hz, 48_000.0}) == 4
    assert all(abs(rate_hz / 48_000.0 - 1.0) <= 20e-6 for rate_hz in rates_hz)


def test_nodes_have_names_and_leave_epoch_and_seq_to_the_sender():
    session = Scene().session(0, START_NS, n_samples=10)
    assert [(m.node, m.websdr_id, m.expected) for m in session] == [
        ("sim-1", 1, 3),
        ("sim-2", 2, 3),
        ("sim-3", 3, 3),
    ]
    assert {(m.epoch, m.seq) for m in session} == {(None, None)}
    assert {m.task_id for m in session} == {f"sim-{START_NS}-0"}


def test_a_simulated_measurement_passes_as_a_frame():
    sent = Scene().measurement(3, START_NS, 2, n_samples=100)
    received = frame.parse(frame.encode(sent))
    for name in ("identity", "timestamp_ns", "sample_rate_hz", "frequency_hz", "node", "geolocation"):
        assert getattr(received, name) == getattr(sent, name)
    assert bytes(received.samples) == sent.samples


def test_delay_without_noise_is_a_shift_of_the_same_waveform():
    """Two receivers in one place see the same phase at the same instant, whatever their stamps and rates."""
    place = Position(45.1, 9.2)
    scene = Scene(receivers=(place, place), snr_db=300.0)
    assert abs(report(scene, captures(scene))[0].measured_s) < 1e-8


def test_signal_is_neither_clipped_nor_wider_than_it_says():
    scene = Scene()
    (samples, *_) = (capture.samples for capture in captures(scene))
    assert np.abs(samples).max() < 1.0
    power = np.abs(np.fft.fft(samples)) ** 2
    inside = np.abs(np.fft.fftfreq(len(samples), 1 / scene.rate_hz(0))) <= scene.bandwidth_hz
    assert power[inside].sum() / power.sum() > 0.97


def test_phase_has_no_corners_that_would_splatter():
    """Without noise, less than a ten-millionth of the power is beyond three times the bandwidth."""
    scene = Scene(snr_db=300.0)
    samples = captures(scene)[0].samples
    power = np.abs(np.fft.fft(samples * np.hanning(len(samples)))) ** 2
    outside = np.abs(np.fft.fftfreq(len(samples), 1 / scene.rate_hz(0))) > 3 * scene.bandwidth_hz
    assert power[outside].sum() / power.sum() < 1e-7


@pytest.mark.parametrize(("k", "offset_hz"), [(0, 0.0), (15, 5.0), (45, -5.0), (60, 0.0)])
def test_carrier_wanders_slowly_from_session_to_session(k, offset_hz):
    scene = Scene(snr_db=60.0)
    capture = captures(scene, k=k)[0]
    frequencies_hz = np.fft.fftfreq(len(capture.samples), 1 / capture.sample_rate_hz)
    power = np.abs(np.fft.fft(capture.samples * np.hanning(len(capture.samples)))) ** 2
    near = np.abs(frequencies_hz) < 20
    assert frequencies_hz[near][power[near].argmax()] == pytest.approx(offset_hz, abs=1.0)


def test_carrier_arrives_with_the_phase_of_its_delay():
    """A quarter of a wavelength farther is a quarter of a turn back; the modulation does not notice 5 m."""
    quarter_wave_deg = 0.25 * SPEED_OF_LIGHT_M_S / 15e6 / 111_319.49
    centre, near, far = Position(0, 0), Position(0, 0.1), Position(0, 0.1 + quarter_wave_deg)
    scene = Scene(centre, (near, far), 15e6, snr_db=300.0, rate_spread_ppm=0.0)
    at_near, at_far = scene._samples(0, 0, 0, 1_000), scene._samples(0, 1, 0, 1_000)
    np.testing.assert_allclose(at_far, -1j * at_near, atol=1e-3)


def test_true_difference_is_distance_over_the_speed_of_light():
    """One degree of longitude on the equator is 111.319 km of arc on WGS 84; the chord is 1.4 m shorter."""
    scene = Scene(transmitter=Position(0, 0), receivers=(Position(0, 1), Position(0, 0)))
    assert scene.true_tdoa_s(0, 1) * SPEED_OF_LIGHT_M_S == pytest.approx(111_319.5 - 1.4, abs=0.1)
    assert scene.true_tdoa_s(1, 0) == -scene.true_tdoa_s(0, 1)


@pytest.mark.parametrize("change", [{"receivers": ()}, {"bandwidth_hz": 30_000.0}, {"bandwidth_hz": 0.0}])
def test_impossible_scenes_cannot_be_made(change):
    with pytest.raises(UsageError, match="allowed"):
        Scene(**change)


def test_report_refuses_a_capture_of_another_scene():
    with pytest.raises(UsageError, match=r"other-1.*allowed: sim-1 to sim-3"):
        report(Scene(), captures(Scene(name="other"), n_samples=100))


def test_rows_are_written_as_text_and_as_a_table():
    rows = [Row("sim-1", "sim-2", -23.438e-6, -23.484e-6), Row("sim-10", "sim-2", 1e-3, 2e-3)]
    heading, *lines = render(rows).splitlines()
    assert heading.split("  ")[0] == "pair"
    assert [line.split() for line in lines] == [
        ["sim-1", "-", "sim-2", "-23.438", "-23.484", "-0.046"],
        ["sim-10", "-", "sim-2", "+1000.000", "+2000.000", "+1000.000"],
    ]
    assert len({len(line) for line in (heading, *lines)}) == 1
    console = Console(width=80, file=io.StringIO())
    console.print(table(rows))
    assert "+1000.000" in console.file.getvalue()


class FakeNode:
    """Stands in for `ingestd.node.Node`; what it was told is in `made`, what it got in `sent`."""

    made: list[dict]
    sent: list
    refuse = False

    def __init__(self, endpoint, **options):
        type(self).made.append({"endpoint": endpoint, **options})

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def send_measurement(self, measurement):
        if self.refuse:
            raise FrameError("size")
        type(self).sent.append(measurement)


@pytest.fixture
def fake_node(monkeypatch):
    made = type("Fake", (FakeNode,), {"made": [], "sent": []})
    monkeypatch.setitem(sys.modules, "ingestd.node", types.SimpleNamespace(Node=made))
    return made


def test_simulated_nodes_send_every_session_of_a_common_schedule(fake_node):
    scene = Scene()
    nodes = SimulatedNodes("tcp://x", scene, interval_s=0.01, n_sessions=3, n_samples=50, start_ns=START_NS)
    with nodes:
        assert nodes.wait(20)
    assert [(c.sent_count, c.failed_count, c.skipped_count) for c in nodes.counts()] == [(3, 0, 0)] * 3
    wanted = [m for k in range(3) for m in scene.session(k, START_NS + k * 10_000_000, n_samples=50)]
    assert sorted(fake_node.sent, key=lambda m: m.identity) == sorted(wanted, key=lambda m: m.identity)
    assert {(m["endpoint"], m["query_endpoint"]) for m in fake_node.made} == {("tcp://x", None)}


def test_endless_simulated_nodes_end_at_once_when_stopped(fake_node):
    before = threading.active_count()
    with SimulatedNodes("tcp://x", Scene(), 2, interval_s=3600.0, n_samples=50):
        pass
    assert threading.active_count() == before
    assert {m.node for m in fake_node.sent} <= {"sim-1", "sim-2"}


@pytest.mark.parametrize("interval_s", [0.0, 0.02])
def test_captures_have_ended_when_they_are_sent(fake_node, interval_s):
    """A stamp ahead of the clock would be a fault of the node."""
    ahead_s = []
    fake_node.send_measurement = lambda self, m: ahead_s.append(
        m.timestamp_ns / 1e9 + m.n_samples / m.sample_rate_hz - time.time()
    )
    with SimulatedNodes("tcp://x", Scene(), interval_s=interval_s, n_sessions=4, n_samples=9_600) as nodes:
        assert nodes.wait(20)
    assert len(ahead_s) == 12
    assert max(ahead_s) < 0


def test_a_late_node_leaves_sessions_out_and_says_how_many(fake_node):
    sent = []

    def slow(self, measurement):
        sent.append(measurement.timestamp_ns - START_NS)
        time.sleep(0.05)

    fake_node.send_measurement = slow
    with SimulatedNodes("tcp://x", Scene(), 1, interval_s=0.02, n_samples=50, start_ns=START_NS) as nodes:
        wait_until(lambda: len(sent) >= 3)
    (counts,) = nodes.counts()
    assert counts.skipped_count >= 1
    assert counts.sent_count == len(sent)
    # Receivers start up to 5 ms after their session, which tells the session's number.
    assert sent[-1] // 20_000_000 >= counts.sent_count


def test_confirmed_nodes_ask_at_the_query_endpoint(fake_node):
    with SimulatedNodes(
        "tcp://x", Scene(), 1, confirmed=True, query_endpoint="tcp://y", n_sessions=1
    ) as nodes:
        assert nodes.wait(20)
    assert [m["query_endpoint"] for m in fake_node.made] == ["tcp://y"]


def test_refused_sends_are_counted_and_named(fake_node):
    fake_node.refuse = True
    with SimulatedNodes("tcp://x", Scene(), 1, 0.0, n_sessions=2, n_samples=50) as nodes:
        assert nodes.wait(20)
    (counts,) = nodes.counts()
    assert (counts.sent_count, counts.failed_count, counts.error) == (0, 2, "size:")


def test_a_node_that_cannot_close_in_order_counts_as_failed(fake_node):
    """That is where a confirmed sender says what never arrived."""

    def close(self, *exc):
        raise Unavailable("2 frames unconfirmed")

    fake_node.__exit__ = close
    with SimulatedNodes("tcp://x", Scene(), 1, 0.0, n_sessions=2, n_samples=50) as nodes:
        assert nodes.wait(20)
    (counts,) = nodes.counts()
    assert (counts.sent_count, counts.failed_count, counts.error) == (2, 1, "2 frames unconfirmed")


def test_a_node_that_hangs_is_named_when_it_does_not_stop(fake_node):
    released = threading.Event()
    fake_node.send_measurement = lambda self, measurement: released.wait(20)
    nodes = SimulatedNodes("tcp://x", Scene(), 1, n_samples=50)
    nodes.start()
    with pytest.raises(IngestdError, match="sim-1"):
        nodes.stop(timeout_s=0.05)
    released.set()
    nodes.stop()


@pytest.mark.parametrize(
    "change", [{"n_nodes": 4}, {"n_nodes": 0}, {"interval_s": -1.0}, {"confirmed": True}]
)
def test_impossible_simulated_nodes_cannot_be_made(change):
    with pytest.raises(UsageError):
        SimulatedNodes("tcp://x", Scene(), **change)
