"""Both objects of a measurement: long integer samples are measured and sent block by block, and never held whole."""

import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from ingestd.formats import npy, quality
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Measurement
from ingestd.roles import memory
from ingestd.storage.encoding import encode_pair
from ingestd.storage.port import crc32c_base64


def frame(n_samples, datatype="cu8", seed=1):
    codes = np.random.default_rng(seed).integers(0, 256, 2 * n_samples, dtype="u1")
    return Measurement(
        "t", 1, codes.tobytes(), datatype=datatype, sample_rate_hz=2.4e6, sample_rate_khz=2400.0,
        frequency_hz=1e8, frequency_mhz=100.0, timestamp_ns=1,
    )  # fmt: skip


LONG = npy.WHOLE_MAX_BYTES // 8 + 1000


def test_a_long_frame_gets_the_figures_checksum_and_digest_of_its_whole_samples():
    pair, document = encode_pair(frame(LONG), sha256=True)
    samples = npy.to_complex64(frame(LONG).samples, "cu8")
    whole = npy.header(LONG) + samples.tobytes()
    assert isinstance(pair.npy.parts[1], npy.Converted)
    assert b"".join(map(bytes, pair.npy.blocks())) == whole
    figures = quality.measure(frame(LONG), samples, None, spectral=True)
    assert document["clipped_fraction"] == figures.clipped_fraction > 0
    assert quality.measure(frame(LONG), pair.npy.parts[1].samples(), None, spectral=True) == figures
    assert document["metrics"]["snr_db"] == figures.snr_db
    assert document["crc32c"] == crc32c_base64(crc32c(whole))
    assert document["sha256"] == hashlib.sha256(whole).hexdigest()


def traced(work):
    """What is held after `work`, and the peak meanwhile [bytes]; NumPy tells where its memory comes from."""
    tracemalloc.start()
    try:
        kept = work()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept is not None
    return held, peak


def codes_on_the_rails(n_samples):
    return np.random.default_rng(1).integers(0, 256, 2 * n_samples, dtype="u1").tobytes()


CONTENTS = {
    "on both rails": (codes_on_the_rails, "cu8"),
    "16 bits": (
        lambda n: np.random.default_rng(1).integers(-999, 999, 2 * n, dtype="<i2").tobytes(),
        "ci16_le",
    ),
    "silence": (lambda n: bytes(2 * n), "ci8"),
    "floats on a rail": (lambda n: np.tile(np.float32([0.1, 1.0]), n).tobytes(), "cf32_le"),
    "floats far below": (lambda n: np.tile(np.float32([1e-30, 2e-30]), n).tobytes(), "cf32_le"),
    "floats of 90 dB": (
        lambda n: (np.random.default_rng(1).standard_normal(2 * n) * 1e-5 + 0.7).astype("<f4").tobytes(),
        "cf32_le",
    ),
    "not a number": (lambda n: np.full(2 * n, np.nan, "<f4").tobytes(), "cf32_le"),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_no_frame_is_held_a_second_time_while_it_is_measured_and_encoded(content):
    make, datatype = CONTENTS[content]
    for n_samples in (LONG, 8 * LONG):
        given = replace(frame(0), samples=make(n_samples), datatype=datatype)
        held, peak = traced(lambda given=given: encode_pair(given, sha256=True))
        assert held < 2**20
        # The bound that the reckoning of memory promises, whatever the length.
        assert peak < memory.MEASURED_BYTES


def test_without_figures_a_long_frame_takes_one_block():
    given = frame(4 * LONG)
    _, peak = traced(lambda: encode_pair(given, figures="none", sha256=True))
    assert peak < 2**20
