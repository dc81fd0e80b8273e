"""Identity, object keys and content checksum of a measurement."""

import dataclasses
import math
import pickle
import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.formats.measurement import (
    DATATYPES,
    Identity,
    Measurement,
    content_crc,
    object_keys,
    parse_key,
    session_prefix,
)

TASK_IDS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", fullmatch=True)
IDENTITIES = st.builds(Identity, TASK_IDS, st.integers(0, 2**31 - 1), st.none() | st.integers(0, 999_999))
COPIES = st.none() | st.from_regex(r"[0-9a-f]{8}", fullmatch=True)

#: Identity, copy, and the stem of both keys; the layout of the user's guide.
KEYS = [
    (("storm-7", 3, None), None, "sessions/storm-7/websdr_3"),
    (("storm-7", 0, 0), None, "sessions/storm-7/websdr_0_000000"),
    (("a.b", 2**31 - 1, 999_999), None, "sessions/a.b/websdr_2147483647_999999"),
    (("x", 3, None), "00ab12ef", "sessions/x/websdr_3.00ab12ef"),
    (("x", 3, 17), "00ab12ef", "sessions/x/websdr_3_000017.00ab12ef"),
]


@pytest.mark.parametrize(("identity", "copy", "stem"), KEYS)
def test_the_keys_are_those_of_the_layout(identity, copy, stem):
    assert object_keys(Identity(*identity), copy) == (f"{stem}.npy", f"{stem}_metadata.json")


@given(identity=IDENTITIES, copy=COPIES)
def test_a_key_is_read_back_as_what_it_names(identity, copy):
    keys = object_keys(identity, copy)
    assert parse_key(keys.npy) == (identity, copy, False)
    assert parse_key(keys.metadata) == (identity, copy, True)
    assert all(key.startswith(session_prefix(identity.task_id)) for key in keys)


@given(one=st.tuples(IDENTITIES, COPIES), other=st.tuples(IDENTITIES, COPIES))
def test_no_two_measurements_share_a_key(one, other):
    assert (set(object_keys(*one)) & set(object_keys(*other)) == set()) == (one != other)


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".ingestd/probe",
        "sessions/x/websdr_3",
        "sessions/x/websdr_3.npy.tmp",
        "sessions/x/websdr_03.npy",
        "sessions/x/websdr_-1.npy",
        "sessions/x/websdr_3_17.npy",
        "sessions/x/websdr_3_0000017.npy",
        "sessions/x/websdr_3.00AB12EF.npy",
        "sessions/x/websdr_3.npy\n",
        "sessions/x/y/websdr_3.npy",
        "sessions/../websdr_3.npy",
        "sessions/.hidden/websdr_3.npy",
        "/sessions/x/websdr_3.npy",
        "other/x/websdr_3.npy",
        "sessions/" + "x" * 129 + "/websdr_3.npy",
        "sessions/x/websdr_\u0663.npy",
    ],
)
def test_a_key_that_is_not_ours_is_none(key):
    assert parse_key(key) is None


def _measurement(**changes):
    return Measurement(**{"task_id": "x", "websdr_id": 3, "samples": bytes(16), **changes})


def test_identity_is_task_receiver_and_chunk_alone():
    one = _measurement(node="a", epoch=1, seq=2, metrics={"snr_db": 1.0}, timestamp_ns=5)
    assert one.identity == _measurement().identity == ("x", 3, None)
    assert _measurement(chunk=0).identity != one.identity


def test_a_measurement_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _measurement().task_id = "y"


def test_a_measurement_of_bytes_can_go_to_another_interpreter():
    assert pickle.loads(pickle.dumps(_measurement())) == _measurement()


@pytest.mark.parametrize(("name", "sample_bytes"), [("cf32_le", 8), ("ci16_le", 4), ("ci8", 2), ("cu8", 2)])
def test_samples_are_counted_by_the_size_of_their_datatype(name, sample_bytes):
    assert DATATYPES[name].sample_bytes == sample_bytes
    assert _measurement(samples=bytes(24), datatype=name).n_samples == 24 // sample_bytes


def test_the_duration_is_known_where_the_rate_is():
    assert _measurement().duration_s is None
    assert _measurement(sample_rate_hz=0.5).duration_s == 4.0


def test_there_are_four_datatypes_under_their_own_names():
    assert {name: datatype.name for name, datatype in DATATYPES.items()} == dict(
        zip(DATATYPES, DATATYPES, strict=True)
    )
    assert len(DATATYPES) == 4


STAMP = (1_511_779_316_123_456_789, 77500.0, 12001.1321)


def test_the_content_checksum_is_that_of_object_and_values_in_one_piece():
    npy = b"the whole .npy object"
    whole = google_crc32c.value(npy + struct.pack("<qdd", *STAMP))
    assert content_crc(google_crc32c.value(npy), *STAMP) == whole


@pytest.mark.parametrize("i", range(3))
def test_silence_with_another_stamp_frequency_or_rate_is_other_content(i):
    changed = list(STAMP)
    changed[i] = STAMP[i] + 1 if i == 0 else math.nextafter(STAMP[i], math.inf)
    assert content_crc(0x1234, *changed) != content_crc(0x1234, *STAMP)
    changed[i] = None
    assert content_crc(0x1234, *changed) != content_crc(0x1234, *STAMP)


def test_other_samples_are_other_content():
    assert content_crc(0x1234, *STAMP) != content_crc(0x1235, *STAMP)


def test_what_is_not_known_counts_as_the_smallest_int64_and_nan():
    packed = struct.pack("<qdd", -(2**63), math.nan, math.nan)
    assert content_crc(7, None, None, None) == google_crc32c.extend(7, packed)
