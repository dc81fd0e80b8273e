"""CRC32C of a part of a buffer, reckoned from that of the whole."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.formats import npy
from ingestd.formats.checksum import Summed, crc32c, crc32c_rehead
from ingestd.formats.measurement import Measurement


def summed(buffer):
    return Summed(buffer, google_crc32c.value(buffer))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=140))
def test_a_part_under_another_head_has_the_checksum_of_its_own_bytes(before, part, after, head):
    whole = summed(before + part + after)
    view = memoryview(whole.buffer)[len(before) : len(before) + len(part)]
    assert crc32c_rehead(head, view, whole) == google_crc32c.value(head + part)


def test_the_checksum_is_that_of_what_was_summed_not_of_what_is_in_memory():
    accepted, read = bytes(1000), bytes(999) + b"\x01"
    view = memoryview(read)[100:]
    assert crc32c_rehead(b"", view, Summed(read, crc32c(accepted))) == crc32c(accepted[100:])


def test_a_view_of_another_buffer_is_refused():
    whole = summed(bytes(1000))
    with pytest.raises(ValueError, match="no view"):
        crc32c_rehead(b"", memoryview(bytes(1000))[10:], whole)


@pytest.mark.parametrize("tail", [b"", b"behind"])
@pytest.mark.parametrize("n_samples", [100, 125_000])
def test_an_object_has_the_same_checksum_with_the_frame_and_without(n_samples, tail):
    samples = bytes(range(8)) * n_samples
    whole = b"in front" + samples + tail
    view = memoryview(whole)[8 : 8 + len(samples)]
    measurement = Measurement("t", 1, view)
    assert npy.encode(measurement, summed(whole)).crc32c == npy.encode(measurement).crc32c


def test_converted_samples_are_summed_themselves():
    codes = bytes(range(256)) * 4000
    measurement = Measurement("t", 1, memoryview(codes), datatype="cu8")
    assert npy.encode(measurement, summed(codes)).crc32c == npy.encode(measurement).crc32c
