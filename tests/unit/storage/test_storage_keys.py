"""Names: what one store takes the others take, and none leads out of its bucket."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import StoreMisconfigured, StoreRefused
from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.keys import MAX_KEY_BYTES, MAX_PART_BYTES, PROBE_KEY, check_bucket, check_key


@pytest.mark.parametrize("bucket", ["abc", "heimdall-raw-iq", "a.b-c", "0-0", "a" * 63])
def test_a_bucket_name_of_s3_is_taken(bucket):
    assert check_bucket(bucket) == bucket


@pytest.mark.parametrize(
    "bucket",
    ["", "ab", "a" * 64, "Abc", "-abc", "abc-", ".abc", "abc.", "a..b", "a.-b", "a/b", "a_b", "abc\n", "bücket", "..", "../"],
)  # fmt: skip
def test_any_other_bucket_name_is_an_alarm_that_names_it(bucket):
    with pytest.raises(StoreMisconfigured, match=r"bucket .* is not a bucket name"):
        check_bucket(bucket)


@pytest.mark.parametrize(
    "key",
    [PROBE_KEY, "a", "sessions/t/websdr_1.npy", "sessions/a b/ü.npy", "a" * MAX_PART_BYTES, "...", "a..b/.c",
     ("a" * 127 + "/") * 7 + "a" * 128],
)  # fmt: skip
def test_a_key_is_returned_as_it_is(key):
    assert check_key(key) == key


@pytest.mark.parametrize("identity", [Identity("t", 1, None), Identity("t" * 64, 2**31 - 1, 999_999)])
def test_every_key_of_a_measurement_is_a_key(identity):
    for copy in (None, "0a1b2c3d"):
        for key in object_keys(identity, copy):
            assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/../b", "a/./b", "a/..", "a\nb", "a\x00b", "a\x7fb", "a\u2028b",
     "\ud800", "a" * (MAX_PART_BYTES + 1), "ü" * 128, ("a" * 127 + "/") * 8 + "a"],
    ids=lambda key: ascii(key[:12]),
)  # fmt: skip
def test_what_is_no_key_is_refused(key):
    with pytest.raises(StoreRefused, match="key "):
        check_key(key)


@given(st.text(alphabet=st.sampled_from("a./\\\x00\nü\ud800~ "), max_size=12))
def test_no_key_that_is_taken_leads_out_of_its_directory(key):
    try:
        check_key(key)
    except StoreRefused:
        return
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert os.path.normpath(os.path.join("/bucket", key)) == "/bucket/" + key
