"""The bounded reader takes what msgpack says, in every encoding of it, and no more than the limits."""

import math
import struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.errors import FrameError
from ingestd.formats.msgpack_scan import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_OBJECTS,
    MAX_TEXT_BYTES,
    salvage,
    scan,
    shown,
)


def one(encoded):
    """Frame with one key and the value given encoded."""
    return b"\x81\xa1k" + encoded


def value_of(encoded):
    return scan(one(encoded)).values["k"]


def refusal(data):
    with pytest.raises(FrameError) as caught:
        scan(data)
    return caught.value


#: Encoded and value, at both ends of every format of the specification.
ENCODINGS = [
    *((bytes([n]), n) for n in (0x00, 0x7F)),
    *((bytes([n]), n - 256) for n in (0xE0, 0xFF)),
    (b"\xc0", None),
    (b"\xc2", False),
    (b"\xc3", True),
    (b"\xcc\x00", 0),
    (b"\xcc\xff", 255),
    (b"\xcd\xff\xff", 2**16 - 1),
    (b"\xce\xff\xff\xff\xff", 2**32 - 1),
    (b"\xcf" + b"\xff" * 8, 2**64 - 1),
    (b"\xd0\x80", -128),
    (b"\xd1\x80\x00", -(2**15)),
    (b"\xd2\x80\x00\x00\x00", -(2**31)),
    (b"\xd3\x80" + b"\0" * 7, -(2**63)),
    (b"\xd3\x7f" + b"\xff" * 7, 2**63 - 1),
    (b"\xca\x3f\x80\x00\x00", 1.0),
    (b"\xca\x00\x00\x00\x01", 2.0**-149),
    (b"\xcb" + struct.pack(">d", 12001.1321), 12001.1321),
    (b"\xcb" + struct.pack(">d", math.inf), math.inf),
    (b"\xa0", ""),
    (b"\xbf" + b"x" * 31, "x" * 31),
    (b"\xd9\x02\xc3\xbc", "ü"),
    (b"\xda\x00\x01x", "x"),
    (b"\xdb\x00\x00\x00\x01x", "x"),
    (b"\xc4\x00", b""),
    (b"\xc4\x02\x01\x02", b"\x01\x02"),
    (b"\xc5\x00\x01\x01", b"\x01"),
    (b"\xc6\x00\x00\x00\x01\x01", b"\x01"),
    (b"\x90", []),
    (b"\x9f" + b"\xc0" * 15, [None] * 15),
    (b"\xdc\x00\x02\x01\x02", [1, 2]),
    (b"\xdd\x00\x00\x00\x01\x91\x05", [[5]]),
    (b"\x80", {}),
    (b"\x81\xa1a\x01", {"a": 1}),
    (b"\xde\x00\x01\xa1a\x81\xa1b\x02", {"a": {"b": 2}}),
    (b"\xdf\x00\x00\x00\x01\xa1a\x90", {"a": []}),
]


@pytest.mark.parametrize(("encoded", "value"), ENCODINGS, ids=[e[:6].hex() for e, _ in ENCODINGS])
def test_every_format_of_msgpack_is_read(encoded, value):
    got = value_of(encoded)
    assert got == value
    assert type(got) is (memoryview if isinstance(value, bytes) else type(value))


@pytest.mark.parametrize("encoded", [e for e, _ in ENCODINGS], ids=[e[:6].hex() for e, _ in ENCODINGS])
def test_every_format_cut_anywhere_is_damage(encoded):
    data = one(encoded)
    for n_bytes in range(len(data)):
        assert refusal(data[:n_bytes]).reason == "msgpack"


def test_nan_keeps_being_nan():
    assert math.isnan(value_of(b"\xcb\x7f\xf8" + b"\0" * 6))


@pytest.mark.parametrize(
    "encoded", [b"\xd4\x01\0", b"\xd5\x01" + b"\0" * 2, b"\xd6\xff" + b"\0" * 4, b"\xd7\xff" + b"\0" * 8,
                b"\xd8\x01" + b"\0" * 16, b"\xc7\x00\x01", b"\xc7\x0c\xff" + b"\0" * 12, b"\xc8\x00\x01\x01\0",
                b"\xc9\x00\x00\x00\x01\x01\0"],
)  # fmt: skip
def test_every_extension_type_is_refused_but_read_past(encoded):
    assert refusal(one(encoded)).reason == "ext"
    assert refusal(one(encoded)[:-1]).reason == "msgpack"
    assert salvage(b"\x82\xa1k" + encoded + b"\xa1z\x07")["z"] == 7


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, width=32)
    | st.text(max_size=40) | st.binary(max_size=40)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5),
    max_leaves=8,
)
FRAMES = st.dictionaries(st.text(max_size=8), VALUES, max_size=5)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return bytes(value) if isinstance(value, memoryview) else value


@settings(deadline=None)
@given(values=FRAMES, is_single=st.booleans())
def test_what_the_library_writes_is_read_as_the_library_reads_it(values, is_single):
    data = msgpack.packb(values, use_single_float=is_single)
    scanned = scan(data)
    assert _plain(scanned.values) == msgpack.unpackb(data)
    assert list(scanned.values) == list(values)
    assert scanned.sizes_bytes == {
        key: len(msgpack.packb(value, use_single_float=is_single))
        for key, value in values.items()
        if isinstance(value, list | dict) and value
    }


def _read_by_the_library(data):
    """What the library makes of a frame, or None where it refuses it (as we do for keys that are no strings)."""
    seen = []

    def unique(pairs):
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys) or not all(isinstance(key, str) for key in keys):
            seen.append(keys)
        return dict(pairs)

    try:
        value = msgpack.unpackb(data, object_pairs_hook=unique, ext_hook=lambda *_: seen.append("ext"))
    except (ValueError, msgpack.UnpackException, TypeError):
        return None
    return None if seen or not isinstance(value, dict) else value


@settings(deadline=None, max_examples=200)
@given(values=FRAMES, data=st.data())
def test_a_damaged_frame_is_taken_exactly_where_the_library_takes_it(values, data):
    damaged = bytearray(msgpack.packb(values))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    theirs = _read_by_the_library(bytes(damaged))
    try:
        ours = _plain(scan(damaged).values)
    except FrameError:
        ours = None
    assert repr(ours) == repr(theirs)


def test_bytes_and_views_of_any_kind_are_read_alike():
    data = msgpack.packb({"a": b"xyz", "b": [1, "ü"]})
    readings = [
        scan(kind).values for kind in (data, memoryview(data), bytearray(data), memoryview(bytearray(data)))
    ]
    assert all(_plain(reading) == _plain(readings[0]) for reading in readings)
    assert all(reading["a"].readonly for reading in readings)


# -- limits -------------------------------------------------------------------------------------------------------


def _array(n_elements, element=b"\xc0"):
    return b"\xdd" + struct.pack(">I", n_elements) + element * n_elements


def test_a_map_or_array_holds_so_many_entries_and_no_more():
    assert len(value_of(_array(MAX_ENTRIES))) == MAX_ENTRIES
    assert refusal(one(_array(MAX_ENTRIES + 1))).reason == "limits"


def test_a_frame_holds_so_many_objects_and_no_more():
    # The top map counts 2: key and value; each inner array one more than its elements.
    inner = _array(1000)
    n_left = MAX_OBJECTS - 2 - 5 - 4 * 1000
    assert len(value_of(b"\x95" + inner * 4 + _array(n_left))) == 5
    assert refusal(one(b"\x95" + inner * 4 + _array(n_left + 1))).reason == "limits"


def test_maps_and_arrays_are_so_deep_and_no_deeper():
    def nested(depth, opened, innermost):
        return one(opened * (depth - 2) + innermost)

    for opened, innermost in ((b"\x91", b"\x90"), (b"\x81\xa1a", b"\x80"), (b"\x91", b"\x91\xc0")):
        scan(nested(MAX_DEPTH, opened, innermost))
        assert refusal(nested(MAX_DEPTH + 1, opened, innermost)).reason == "depth"


def test_strings_together_are_so_long_and_no_longer():
    half = msgpack.packb("x" * (MAX_TEXT_BYTES // 2 - 8))
    tail = msgpack.packb("x" * 15)
    fits = b"\x82\xa0\x92" + half * 2 + b"\xa1a" + tail
    assert len(scan(fits).values) == 2
    assert refusal(fits[:1] + b"\xa1b" + fits[2:]).reason == "limits"


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf"])
@pytest.mark.parametrize("count", [1, 15, 2**16, 2**31, 2**32 - 1])
def test_a_count_that_cannot_be_true_is_damage_whatever_it_claims(header, count):
    assert refusal(one(header + struct.pack(">I", count))).reason == "msgpack"


# -- which fault decides ------------------------------------------------------------------------------------------

DEFERRED = {
    "key": b"\x01\x01",
    "utf8": b"\xa1\xff\x01",
    "ext": b"\xa1e\xd4\x01\x00",
    "duplicate": b"\xa1d\x01\xa1d\x01",
}


def _with(*reasons):
    parts = b"".join(DEFERRED[reason] for reason in reasons)
    n_entries = sum(2 if reason == "duplicate" else 1 for reason in reasons)
    return bytes([0x80 + n_entries]) + parts


@pytest.mark.parametrize(
    ("first", "later"), [(a, b) for i, a in enumerate(DEFERRED) for b in list(DEFERRED)[i + 1 :]]
)
def test_the_first_of_the_fixed_order_decides_wherever_it_is(first, later):
    for order in (
        (first, later),
        (later, first),
        (later, first, later) if later != "duplicate" else (later, first),
    ):
        assert refusal(_with(*order)).reason == first


def test_a_fault_names_the_field_it_is_in():
    inside = b"\x82\xa6extras\x81\xa1a\x82\xa1b\x01\xa1b\x02\xa1z\x01"
    assert refusal(inside).field == "extras"
    assert refusal(b"\x81\xa4node\xa1\xff").field == "node"
    assert refusal(b"\x82\xa4node\x01\xa4node\x01").field == "node"
    assert refusal(b"\x81\xa4node\xd4\x01\x00").field == "node"


def test_a_truncated_frame_says_where_it_ends():
    error = refusal(b"\x81\xa4node\xa5abc")
    assert "truncated at byte 7 of 10" in error.allowed


# -- salvage ------------------------------------------------------------------------------------------------------


def test_what_can_be_read_of_a_broken_frame_is_salvaged():
    assert salvage(b"\x83\xa1a\x01\xa1b\xa1x\xa1c\xc1") == {"a": 1, "b": "x"}
    assert salvage(b"\x83\xa1a\x01\x05\x06\xa1b\x02") == {"a": 1, "b": 2}
    assert salvage(b"\x82\xa1a\x01\xa1a\x02") == {"a": 1}, "of duplicates the first"


@given(data=st.binary(max_size=100))
def test_salvage_never_fails(data):
    assert isinstance(salvage(data), dict)
    assert isinstance(salvage(b"\x83" + data), dict)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("task_id", "task_id"),
        ("", "''"),
        ("a b", "'a b'"),
        ("a\x1b[2J", r"'a\x1b[2J'"),
        ("ü", r"'\xfc'"),
        ("x" * 64, "x" * 64),
    ],
)
def test_a_foreign_key_is_shown_plain_only_where_it_is_a_plain_word(key, text):
    assert shown(key) == text


def test_a_long_foreign_key_is_shown_bounded():
    assert len(shown("x" * 10**6)) <= 80
