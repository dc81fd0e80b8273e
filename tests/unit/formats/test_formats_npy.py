"""The .npy object: opened by NumPy, converted exactly, refused when it is anything else."""

import io
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import StoreCorrupt
from ingestd.formats import npy
from ingestd.formats.measurement import Measurement


def encoded(samples, datatype="cf32_le"):
    made = npy.encode(Measurement("t", 1, samples, datatype=datatype))
    whole = made.header + bytes(made.payload)
    assert made.crc32c == google_crc32c.value(whole)
    assert made.size_bytes == len(whole)
    return whole


@given(st.binary(min_size=8, max_size=800).map(lambda b: b[: len(b) // 8 * 8]))
def test_complex_samples_are_kept_to_the_bit_and_numpy_opens_them(raw):
    whole = encoded(raw)
    assert whole[: npy.HEADER_BYTES] == npy.header(len(raw) // 8)
    loaded = np.load(io.BytesIO(whole), allow_pickle=False)
    assert loaded.dtype == np.dtype("<c8")
    assert loaded.tobytes() == raw
    assert npy.decode(whole).tobytes() == raw


@pytest.mark.parametrize("n_samples", [1, 9, 10, 125_000, 10**7, 10**12])
def test_the_header_is_numpys_own_at_every_length(n_samples):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<c8", "fortran_order": False, "shape": (n_samples,)}
    )
    assert npy.header(n_samples) == stream.getvalue()
    assert len(npy.header(n_samples)) == npy.HEADER_BYTES


@pytest.mark.parametrize(
    ("datatype", "codes", "middle", "divisor"),
    [
        ("ci8", np.arange(-128, 128, dtype="i1"), 0.0, 128.0),
        ("cu8", np.arange(256, dtype="u1"), 127.5, 127.5),
        ("ci16_le", np.arange(-32768, 32768, dtype="<i2"), 0.0, 32768.0),
    ],
)
def test_every_integer_becomes_the_nearest_float32(datatype, codes, middle, divisor):
    samples = np.load(io.BytesIO(encoded(codes.tobytes(), datatype)), allow_pickle=False)
    expected = ((codes.astype(np.float64) - middle) / divisor).astype("<f4")
    assert samples.view("<f4").tobytes() == expected.tobytes()
    assert np.abs(samples.view("<f4")).max() <= 1.0


def test_what_is_no_such_object_is_corrupt():
    whole = encoded(bytes(80))
    stream = io.BytesIO()
    np.save(stream, np.zeros(10))
    for broken in (b"", whole[:-1], whole + b"\0", whole[:127], b"\0" + whole[1:], stream.getvalue()):
        with pytest.raises(StoreCorrupt):
            npy.decode(broken)


LATE = {"ci8": "i1", "cu8": "u1", "ci16_le": "<i2"}


@pytest.fixture(params=LATE)
def long_frame(request):
    """Integer samples whose complex64 is longer than what is made at once; no whole number of blocks."""
    kind = np.dtype(LATE[request.param])
    info = np.iinfo(kind)
    n_values = npy.WHOLE_MAX_BYTES // 4 + 2 * 12_345
    codes = np.random.default_rng(1).integers(info.min, info.max, n_values, dtype=kind, endpoint=True)
    return Measurement("t", 1, codes.tobytes(), datatype=request.param)


def test_long_integer_samples_come_in_blocks_and_are_the_same_bytes_each_time(long_frame):
    made = npy.encode(long_frame)
    assert isinstance(made.payload, npy.Converted)
    whole = npy.to_complex64(long_frame.samples, long_frame.datatype)
    for _ in range(2):
        assert b"".join(map(bytes, made.payload)) == whole.tobytes()
    assert made.samples()[:].tobytes() == whole.tobytes()
    assert made.samples()[40_000:70_001].tobytes() == whole[40_000:70_001].tobytes()
    assert len(made.samples()) == len(whole)
    assert made.crc32c == google_crc32c.value(made.header + whole.tobytes())
    assert made.size_bytes == len(made.header) + whole.nbytes


def test_who_goes_through_long_integer_samples_holds_one_block(long_frame):
    made = npy.encode(long_frame)
    tracemalloc.start()
    try:
        assert sum(map(len, made.payload)) == len(made.payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The block, and the indices that NumPy makes of 8-bit codes in between.
    assert peak < 2**20


def test_short_integer_samples_are_converted_once():
    assert isinstance(npy.encode(Measurement("t", 1, bytes(2000), datatype="cu8")).payload, memoryview)
    longest = npy.WHOLE_MAX_BYTES // 4
    assert isinstance(npy.encode(Measurement("t", 1, bytes(longest), datatype="cu8")).payload, memoryview)
    assert isinstance(
        npy.encode(Measurement("t", 1, bytes(longest + 2), datatype="cu8")).payload, npy.Converted
    )


def test_complex_samples_are_never_converted():
    raw = bytes(2 * npy.WHOLE_MAX_BYTES)
    made = npy.encode(Measurement("t", 1, raw))
    assert made.payload.obj is raw
