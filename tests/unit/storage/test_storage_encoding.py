"""Both objects of a measurement: long integer samples are measured whole, one at a time, and then made block by block."""

import hashlib
import threading
import time
import tracemalloc

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
    assert document["metrics"]["snr_db"] == figures.snr_db
    assert document["clipped_fraction"] == figures.clipped_fraction > 0
    assert document["crc32c"] == crc32c_base64(crc32c(whole))
    assert document["sha256"] == hashlib.sha256(whole).hexdigest()


def test_what_is_ready_to_be_stored_holds_no_converted_samples():
    given = frame(4 * LONG)
    tracemalloc.start()
    try:
        pair, _ = encode_pair(given)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2**20
    # The bound that the reckoning of memory promises: see `memory.MEASURED_PARTS`, and a little for the spectrum.
    assert peak < memory.MEASURED_PARTS * len(given.samples) + 16 * 2**20
    assert pair.npy.size_bytes > 4 * len(given.samples)


@pytest.mark.parametrize(("n_samples", "at_once"), [(LONG, 1), (1000, 2)])
def test_long_frames_are_measured_one_at_a_time_and_short_ones_beside_each_other(
    monkeypatch, n_samples, at_once
):
    now, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def measure(*args, measure=quality.measure, **given):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if at_once == 2:
            both.wait(10)
        else:
            time.sleep(0.05)
        try:
            return measure(*args, **given)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(quality, "measure", measure)
    threads = [threading.Thread(target=encode_pair, args=(frame(n_samples, seed=seed),)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == at_once


def test_without_figures_a_long_frame_is_never_whole():
    given = frame(4 * LONG)
    tracemalloc.start()
    try:
        encode_pair(given, figures="none", sha256=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
