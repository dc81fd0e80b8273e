"""Stamps as text and as int64 nanoseconds: every digit is kept, and an instant has one name."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.errors import FrameError
from ingestd.formats.timestamps import EARLIEST_NS, LATEST_NS, agrees, format_utc, in_range, parse_utc

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STAMPS_NS = st.integers(EARLIEST_NS, LATEST_NS)

#: Text, nanoseconds since 1970, fraction digits. From `date -u -d TEXT +%s%N`.
TAKEN = [
    ("1980-01-06T00:00:00Z", 315_964_800_000_000_000, 0),
    ("2000-02-29T00:00:00Z", 951_782_400_000_000_000, 0),
    ("2000-03-01T00:00:00+00:00", 951_868_800_000_000_000, 0),
    ("2017-11-27T10:41:56.123456789Z", 1_511_779_316_123_456_789, 9),
    ("2017-11-27T10:41:56.000000001Z", 1_511_779_316_000_000_001, 9),
    ("2017-11-27T10:41:56.1", 1_511_779_316_100_000_000, 1),
    ("2017-11-27T10:41:56.120Z", 1_511_779_316_120_000_000, 3),
    ("2016-12-31T23:59:59.999999999Z", 1_483_228_799_999_999_999, 9),
    ("2038-01-19T03:14:08Z", 2_147_483_648_000_000_000, 0),
    ("2100-02-28T23:59:59Z", 4_107_542_399_000_000_000, 0),
    ("2261-12-31T23:59:59.999999999Z", 9_214_646_399_999_999_999, 9),
]

REFUSED = [
    "",
    "now",
    "2017-11-27",
    "2017-11-27T10:41Z",
    "2017-11-27 10:41:56Z",
    "2017-11-27t10:41:56Z",
    "2017-11-27T10:41:56z",
    "2017-11-27T10:41:56,5Z",
    "2017-11-27T10:41:56.Z",
    "2017-11-27T10:41:56.1234567890Z",
    "2017-11-27T10:41:56 Z",
    " 2017-11-27T10:41:56Z",
    "2017-11-27T10:41:56Z\n",
    "2017-11-27T10:41:56Z\0",
    "20171127T104156Z",
    "2017-331T10:41:56Z",
    "2017-W48-1T10:41:56Z",
    "17-11-27T10:41:56Z",
    "+2017-11-27T10:41:56Z",
    "2017-1-27T10:41:56Z",
    "\u0662\u0660\u0661\u0667-11-27T10:41:56Z",
    "2017-11-27T10:41:56+01:00",
    "2017-11-27T10:41:56-00:00",
    "2017-11-27T10:41:56+0000",
    "2017-11-27T10:41:56+00",
    "2017-11-27T10:41:56 UTC",
    "2017-11-27T24:00:00Z",
    "2017-11-27T10:60:00Z",
    "2017-11-27T10:41:60Z",
    "2016-12-31T23:59:60Z",
    "2017-00-27T10:41:56Z",
    "2017-13-27T10:41:56Z",
    "2017-11-00T10:41:56Z",
    "2017-11-31T10:41:56Z",
    "2017-02-29T10:41:56Z",
    "2100-02-29T10:41:56Z",
    "0000-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    "1980-01-05T23:59:59.999999999Z",
    "2262-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "1511779316",
    "2017-11-27T10:41:56." + "1" * 10_000,
]


@pytest.mark.parametrize(("text", "timestamp_ns", "n_digits"), TAKEN)
def test_a_stamp_is_read_with_all_its_digits(text, timestamp_ns, n_digits):
    assert parse_utc(text) == (timestamp_ns, n_digits)


@pytest.mark.parametrize("text", REFUSED)
def test_any_other_form_offset_or_date_is_refused(text):
    with pytest.raises(FrameError) as caught:
        parse_utc(text)
    assert (caught.value.reason, caught.value.field) == ("timestamp", "timestamp_utc")
    assert "ISO 8601" in caught.value.allowed
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("text", "timestamp_ns", "n_digits"), TAKEN)
def test_a_stamp_is_written_with_z_and_nine_digits(text, timestamp_ns, n_digits):
    date, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    assert format_utc(timestamp_ns) == f"{date}.{fraction.ljust(9, '0')}Z"


@given(timestamp_ns=STAMPS_NS)
def test_writing_and_reading_keeps_every_nanosecond(timestamp_ns):
    assert parse_utc(format_utc(timestamp_ns)) == (timestamp_ns, 9)


@given(timestamp_ns=st.integers(-62_135_596_800 * 10**9, 253_402_300_799_999_999_999))
def test_a_written_stamp_is_the_date_that_datetime_counts(timestamp_ns):
    moment = EPOCH + timedelta(microseconds=timestamp_ns // 1000)
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds")
    assert format_utc(timestamp_ns) == f"{text}{timestamp_ns % 1000:03d}Z"


def test_every_day_of_the_range_is_read_and_written():
    day_ns = 86_400 * 10**9
    for n_days in range((LATEST_NS - EARLIEST_NS) // day_ns + 1):
        text = (datetime(1980, 1, 6, tzinfo=UTC) + timedelta(days=n_days)).strftime("%Y-%m-%dT%H:%M:%S")
        assert parse_utc(text) == (EARLIEST_NS + n_days * day_ns, 0)
        assert format_utc(EARLIEST_NS + n_days * day_ns) == f"{text}.000000000Z"


@pytest.mark.parametrize(
    ("timestamp_ns", "is_in"),
    [
        (EARLIEST_NS - 1, False),
        (EARLIEST_NS, True),
        (LATEST_NS, True),
        (LATEST_NS + 1, False),
        (0, False),
        (-1, False),
        (2**63 - 1, False),
        (2**70, False),
    ],
)
def test_the_range_is_from_the_start_of_gps_time_to_the_last_whole_year_of_int64(timestamp_ns, is_in):
    assert in_range(timestamp_ns) is is_in


def test_every_stamp_of_the_range_is_an_int64():
    assert LATEST_NS < 2**63


@settings(deadline=None)
@given(timestamp_ns=STAMPS_NS, n_digits=st.integers(0, 9), away=st.integers(-2, 2))
def test_a_text_agrees_exactly_where_it_is_the_stamp_truncated_or_rounded(timestamp_ns, n_digits, away):
    step_ns = 10 ** (9 - n_digits)
    utc_ns = (timestamp_ns // step_ns + away) * step_ns
    error = Fraction(utc_ns - timestamp_ns, step_ns)
    is_truncated, is_rounded = -1 < error <= 0, abs(error) <= Fraction(1, 2)
    assert agrees(timestamp_ns, utc_ns, n_digits) is (is_truncated or is_rounded)


@pytest.mark.parametrize("n_digits", range(9))
def test_an_exact_half_agrees_rounded_up_and_truncated(n_digits):
    step_ns = 10 ** (9 - n_digits)
    below_ns = 1_511_779_316 * 10**9
    half_ns = below_ns + step_ns // 2
    assert agrees(half_ns, below_ns, n_digits)
    assert agrees(half_ns, below_ns + step_ns, n_digits)
    assert not agrees(half_ns - 1, below_ns + step_ns, n_digits)


@given(text=st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        timestamp_ns, n_digits = parse_utc(text)
    except FrameError:
        return
    assert in_range(timestamp_ns)
    assert 0 <= n_digits <= 9
