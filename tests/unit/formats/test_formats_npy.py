"""The .npy object: opened by NumPy, converted exactly, refused when it is anything else."""

import io

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
