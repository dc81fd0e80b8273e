"""UTC timestamps as text and as int64 nanoseconds, without a float or a `datetime` in between.

Both lose what is measured here: `datetime` ends at microseconds (1 us is 300 m of TDoA) and a float of epoch seconds
has steps of 238 ns. Days are counted in the proleptic Gregorian calendar, POSIX style: every day has 86,400 s.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ingestd.errors import FrameError

__all__ = ["EARLIEST_NS", "LATEST_NS", "agrees", "format_utc", "in_range", "parse_utc"]

_NS_PER_S = 10**9
_S_PER_DAY = 86_400
#: 1970-01-01 counted in days from 0000-03-01, the start of the calendar's 400-year cycle used below.
_EPOCH_DAY = 719_468
_DAYS_PER_400_YEARS = 146_097
_DAYS_OF_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

#: Years whose every nanosecond fits into an int64 and after the start of GPS time.
_FIRST_YEAR, _LAST_YEAR = 1980, 2261

#: ISO 8601 extended calendar format to the second, upper case, full stop before the fraction: one spelling, so that
#: every reader finds the same digits. ASCII digits only (`\d` would take other scripts').
_UTC = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|\+00:00)?"
)

_ALLOWED = (
    "ISO 8601 in UTC like 2017-11-27T10:41:56.123456789Z: T and Z upper case, Z or +00:00 or none, "
    "0 to 9 fraction digits, 1980-01-06 to 2261, seconds 00 to 59"
)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01; the year is taken to begin in March, so that the leap day comes last."""
    year -= month < 3
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - _EPOCH_DAY


#: First stamp taken [ns]: GPS time begins; a receiver whose clock was never set says 1970 or 1980-01-01.
EARLIEST_NS = _days(1980, 1, 6) * _S_PER_DAY * _NS_PER_S
#: Last stamp taken [ns]: the last whole year of int64 nanoseconds ends.
LATEST_NS = _days(_LAST_YEAR + 1, 1, 1) * _S_PER_DAY * _NS_PER_S - 1


def in_range(timestamp_ns: int) -> bool:
    """Whether a stamp [ns] lies between 1980-01-06 and the end of 2261."""
    return EARLIEST_NS <= timestamp_ns <= LATEST_NS


def _refuse(text: str) -> NoReturn:
    raise FrameError("timestamp", "timestamp_utc", text, _ALLOWED)


def _days_of_month(year: int, month: int) -> int:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _DAYS_OF_MONTH[month - 1] + leap


def parse_utc(text: str) -> tuple[int, int]:
    """Read a UTC timestamp, all digits kept.

    Parameters
    ----------
    text
        `YYYY-MM-DDThh:mm:ss[.fraction]` and `Z`, `+00:00` or nothing.

    Returns
    -------
    tuple of int
        Nanoseconds since 1970, and the number of fraction digits given.

    Raises
    ------
    FrameError
        `timestamp`: another form or offset, an impossible date, second 60, or out of range.
    """
    match = _UTC.fullmatch(text)
    if match is None:
        _refuse(text)
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= month <= 12):
        _refuse(text)
    if not 1 <= day <= _days_of_month(year, month):
        _refuse(text)
    # Second 60 has no POSIX stamp of its own; taking it would give two instants one name.
    if hour > 23 or minute > 59 or second > 59:
        _refuse(text)
    fraction = match[7] or ""
    seconds = _days(year, month, day) * _S_PER_DAY + hour * 3600 + minute * 60 + second
    timestamp_ns = seconds * _NS_PER_S + int(fraction.ljust(9, "0"))
    if not in_range(timestamp_ns):
        _refuse(text)
    return timestamp_ns, len(fraction)


def format_utc(timestamp_ns: int) -> str:
    """Write a stamp [ns since 1970] as `YYYY-MM-DDThh:mm:ss.fffffffffZ`, always 9 digits."""
    seconds, fraction_ns = divmod(timestamp_ns, _NS_PER_S)
    days, second_of_day = divmod(seconds, _S_PER_DAY)
    # Civil date from a day count, within one 400-year cycle of years that begin in March.
    cycle, day = divmod(days + _EPOCH_DAY, _DAYS_PER_400_YEARS)
    year = (day - day // 1460 + day // 36524 - day // 146_096) // 365
    day_of_year = day - (365 * year + year // 4 - year // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day_of_month = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = (shifted_month + 2) % 12 + 1
    year += 400 * cycle + (month < 3)
    minutes, second = divmod(second_of_day, 60)
    date = f"{year:04d}-{month:02d}-{day_of_month:02d}"
    return f"{date}T{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{fraction_ns:09d}Z"


def agrees(timestamp_ns: int, utc_ns: int, n_digits: int) -> bool:
    """Whether a stamp is what a text with `n_digits` fraction digits says, truncated or rounded to them.

    Parameters
    ----------
    timestamp_ns
        The full stamp [ns].
    utc_ns
        What the text says [ns].
    n_digits
        Fraction digits that the text has, 0 to 9.
    """
    step_ns: int = 10 ** (9 - n_digits)
    rest_ns = timestamp_ns % step_ns
    truncated_ns = timestamp_ns - rest_ns
    # An exact half is rounded either way by different writers; truncation covers the lower one.
    return utc_ns == truncated_ns or (2 * rest_ns >= step_ns > 1 and utc_ns == truncated_ns + step_ns)
