"""The estimator finds the differences that were measured by hand on real DCF77 captures, to 25 us."""

import dataclasses
import functools
import os

import numpy as np
import pytest

from ingestd.errors import StoreCorrupt, UsageError
from ingestd.formats import metadata, npy
from ingestd.formats.timestamps import format_utc
from ingestd.testing import recordings, tdoa
from ingestd.testing.tdoa import Capture, tdoa_s

#: Pair of nodes -> measured difference [ms], as listed beside the recordings (one grid step is 20.8 us).
DCF77 = {
    "dcf77_20171127T104156Z": {
        ("DF0KL", "F1JEK"): -1.229,
        ("DF0KL", "HB9RYZ"): 0.292,
        ("F1JEK", "HB9RYZ"): 1.521,
    },
    "dcf77_20200813T065220Z": {
        ("HB9ODP", "JO51xl"): 0.438,
        ("HB9ODP", "pa0rdt"): -0.083,
        ("JO51xl", "pa0rdt"): -0.521,
    },
}
PAIRS = [(event, a, b, ms) for event, pairs in DCF77.items() for (a, b), ms in pairs.items()]

START_NS = 1_700_000_000_123_456_789


@pytest.fixture(scope="module")
def shared_iq():
    directory = recordings.shared_iq()
    if directory is None:
        message = "no ../shared/iq beside the checkout: the off-air recordings are not here"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return directory


@functools.cache
def dcf77(directory, event, node):
    recording = recordings.load(directory, f"{event}_{node}")
    return Capture.from_measurement(
        dataclasses.replace(recordings.measurement(recording, event, 1), node=node)
    )


@pytest.mark.recordings
@pytest.mark.parametrize(("event", "a", "b", "expected_ms"), PAIRS, ids=[f"{a}-{b}" for _, a, b, _ in PAIRS])
def test_difference_of_real_captures_is_the_one_measured_by_hand(shared_iq, event, a, b, expected_ms):
    measured_s = tdoa_s(dcf77(shared_iq, event, a), dcf77(shared_iq, event, b))
    assert measured_s * 1e3 == pytest.approx(expected_ms, abs=0.025)


@pytest.mark.recordings
def test_a_rounded_rate_is_seen_in_a_real_difference(shared_iq):
    """12001.0843 Hz taken for 12001 Hz is 7.0 ppm: 36 us in the middle of ten seconds."""
    a = dcf77(shared_iq, "dcf77_20200813T065220Z", "HB9ODP")
    b = dcf77(shared_iq, "dcf77_20200813T065220Z", "pa0rdt")
    rounded = dataclasses.replace(a, sample_rate_hz=12_001.0)
    assert abs(tdoa_s(rounded, b) - tdoa_s(a, b)) > 20e-6


@pytest.mark.recordings
def test_sidecar_time_and_place_are_read_exactly(shared_iq):
    recording = recordings.load(shared_iq, "dcf77_20171127T104156Z_HB9RYZ")
    assert format_utc(recording.timestamp_ns) == "2017-11-27T10:41:55.952796990Z"
    assert recording.sample_rate_hz == 12001.1321
    assert (recording.frequency_hz, recording.datatype) == (77_500.0, "cf32_le")
    assert (recording.samples.shape, recording.samples.dtype) == ((353_792,), np.complex64)
    assert recording.geolocation["type"] == "Point"


@pytest.mark.recordings
def test_recording_without_a_time_takes_the_given_one(shared_iq):
    recording = recordings.load(shared_iq, "wmbus_868_625_S1")
    assert recording.timestamp_ns is None
    assert recordings.measurement(recording, "t", 3, timestamp_ns=START_NS).timestamp_ns == START_NS
    with pytest.raises(UsageError, match="timestamp_ns is required"):
        recordings.measurement(recording, "t", 3)


@pytest.mark.recordings
def test_recording_that_has_a_time_keeps_it(shared_iq):
    recording = recordings.load(shared_iq, "dcf77_20171127T104156Z_DF0KL")
    made = recordings.measurement(recording, "t", 3, timestamp_ns=START_NS)
    assert made.timestamp_ns == recording.timestamp_ns != START_NS
    assert bytes(made.samples) == (shared_iq / "dcf77_20171127T104156Z_DF0KL.cf32").read_bytes()


@pytest.mark.recordings
def test_unknown_recording_is_answered_with_those_that_exist(shared_iq):
    with pytest.raises(UsageError, match="adsb_modes1"):
        recordings.load(shared_iq, "nothing")


def tones(
    arrival_s, *, stamp_ns=START_NS, rate_hz=12_001.0256, frequency_hz=77_500.0, n_samples=24_000, seed=5
):
    """60 random tones within 600 Hz of 77.5 kHz, heard `arrival_s` late by a receiver that begins at `stamp_ns`."""
    random = np.random.default_rng(seed)
    t = (stamp_ns - START_NS) / 1e9 - arrival_s + np.arange(n_samples) / rate_hz
    samples = np.zeros(n_samples, dtype=complex)
    for tone_hz, turn in zip(random.uniform(-600, 600, 60), random.uniform(0, 1, 60), strict=True):
        samples += np.exp(2j * np.pi * ((tone_hz + 77_500.0 - frequency_hz) * t + turn)) / 60
    return Capture(f"at {arrival_s}", samples.astype(np.complex64), stamp_ns, rate_hz, frequency_hz)


@pytest.mark.parametrize("later_s", [0.0, 3.3e-6, -1.2345e-3, 7.77e-3])
def test_the_later_arrival_is_positive_at_a(later_s):
    """Finite tones cut differently at the ends leave a microsecond."""
    assert tdoa_s(tones(0.001 + later_s), tones(0.001)) == pytest.approx(later_s, abs=3e-6)


@pytest.mark.parametrize("stamp_ns", [START_NS - 400_000_001, START_NS + 1, START_NS + 123_456_789])
def test_stamps_and_rates_of_both_captures_count(stamp_ns):
    other = tones(0.002, stamp_ns=stamp_ns, rate_hz=12_345.678, n_samples=30_000)
    assert tdoa_s(tones(0.0015), other) == pytest.approx(-0.0005, abs=3e-6)


def test_nanoseconds_of_the_stamps_are_not_rounded():
    """Both stamps 40 ns later in a range where float64 has steps of 256 ns: nothing moves; one of them: 40 ns."""
    a, b = tones(0.001), tones(0.0005)
    later_a, later_b = (dataclasses.replace(c, timestamp_ns=c.timestamp_ns + 40) for c in (a, b))
    assert tdoa_s(later_a, later_b) == tdoa_s(a, b)
    assert tdoa_s(later_a, b) - tdoa_s(a, b) == pytest.approx(40e-9, abs=5e-9)


def test_captures_on_different_centre_frequencies_correlate():
    for frequency_hz in (78_321.5, 75_000.0):
        other = tones(0.002, frequency_hz=frequency_hz)
        assert tdoa_s(tones(0.0015), other) == pytest.approx(-0.0005, abs=3e-6)


def test_moving_to_another_centre_leaves_no_beat():
    """Half a bin (0.25 Hz here) would be a whole turn of phase over four seconds."""
    rate_hz, n_samples = 12_000.0, 24_000
    turns = np.arange(n_samples) / rate_hz
    samples = np.exp(2j * np.pi * 1_000.0 * turns).astype(np.complex64)
    capture = Capture("tone", samples, START_NS, rate_hz, 77_500.0)
    limited = tdoa._band_limited(capture, 77_500.0 + 900.25, 700.0, 0.0)
    moved = limited.samples[:: limited.factor] * limited.factor
    np.testing.assert_allclose(moved, np.exp(2j * np.pi * 99.75 * turns), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": np.zeros(24_000, np.complex64)}, "silent"),
        ({"samples": np.full(24_000, np.nan, np.complex64)}, "not finite"),
        ({"timestamp_ns": START_NS + 5 * 10**9}, "overlap by 0.000000 s"),
        ({"sample_rate_hz": 1_000.0}, "reaches beyond"),
        ({"frequency_hz": 145e6}, "reaches beyond"),
    ],
)
def test_captures_that_say_nothing_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        tdoa_s(tones(0.0), dataclasses.replace(tones(0.0), **change))


def test_a_grid_too_coarse_for_the_band_is_refused():
    with pytest.raises(UsageError, match="grid_hz"):
        tdoa_s(tones(0.0), tones(0.0), grid_hz=5_000.0)


def test_difference_beyond_the_largest_lag_is_refused_not_guessed():
    with pytest.raises(UsageError, match="do not correlate within max_lag_s"):
        tdoa_s(tones(0.0002), tones(0.0), max_lag_s=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp_ns": 1.7e18},
        {"timestamp_ns": True},
        {"sample_rate_hz": 0.0},
        {"sample_rate_hz": float("nan")},
        {"samples": np.zeros(0, np.complex64)},
        {"samples": np.zeros((2, 2), np.complex64)},
        {"samples": np.zeros(4, np.float32)},
    ],
)
def test_impossible_captures_cannot_be_made(change):
    with pytest.raises(UsageError, match="allowed"):
        dataclasses.replace(tones(0.0, n_samples=10), **change)


def test_capture_of_a_stored_pair_is_that_of_the_measurement():
    sent = Capture.from_measurement(stored := _measurement())
    made = npy.encode(stored)
    document = metadata.decode(metadata.encode(metadata.document(stored, made, None)))
    read = Capture.from_objects(npy.decode(made.header + bytes(made.payload)), document)
    assert (read.name, read.timestamp_ns, read.sample_rate_hz) == ("websdr_7", START_NS, 12_001.0256)
    assert read.frequency_hz == sent.frequency_hz
    assert read.samples.tobytes() == sent.samples.tobytes()


def test_stored_pair_without_a_stamp_is_refused():
    document = metadata.document(dataclasses.replace(_measurement(), timestamp_ns=None), None, None)
    with pytest.raises(StoreCorrupt, match="timestamp_ns"):
        Capture.from_objects(np.zeros(4, np.complex64), document)


def _measurement():
    capture = tones(0.0, n_samples=100)
    recording = recordings.Recording(
        "x", capture.samples, "cf32_le", capture.sample_rate_hz, capture.frequency_hz, START_NS, None
    )
    return recordings.measurement(recording, "t", 7)
