"""The keys of a frame, one line each: name, type, rule and reason.

The table drives the checks in `frame`, the order in which a frame is written, and the table of docs/wire-format.md.
A rule that concerns more than one key, or the inside of a map, is a function in `frame`; its words are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ingestd.formats.measurement import DATATYPES
from ingestd.formats.timestamps import in_range

__all__ = [
    "CLOCK_SOURCES",
    "FIELDS",
    "FIELDS_BY_NAME",
    "MAX_MAP_BYTES",
    "MAX_METRICS",
    "NAMED_FIGURES",
    "PYTHON_TYPES",
    "VERSION",
    "Field",
    "FieldType",
]

#: The only version of the wire format so far.
VERSION = 1

#: `metrics` and `extras`: each is shorter than this in the frame [bytes], so that the metadata stays a small object.
MAX_MAP_BYTES = 4096
#: Keys of `metrics`: they become columns for people, and nobody reads more.
MAX_METRICS = 64
#: Figures that every metadata document has; the node's value, else ours.
NAMED_FIGURES = ("snr_db", "frequency_offset_hz", "power_dbm")

#: Receiver ids are int32 elsewhere (databases, the guide's task).
_MAX_WEBSDR_ID = 2**31 - 1
#: [Hz] A terahertz is above every receiver; catches hertz sent as megahertz.
_MAX_FREQUENCY_HZ = 1e12
#: [Hz] Ten gigasamples a second are above every recorder; catches the same mistake.
_MAX_SAMPLE_RATE_HZ = 1e10
#: Counts and indices are kept in signed 64-bit columns; at the highest rate that is 29 years of samples.
_MAX_COUNT = 2**63 - 1
#: First integer that a float64 cannot tell from the next: JSON readers see `epoch` and `seq`.
_FLOAT_INTEGERS = 2**53
#: Object keys hold six digits.
_MAX_CHUNK = 999_999
#: Receivers of one session; a hundred times any that was ever built.
_MAX_EXPECTED = 10_000

#: What disciplines the node's clock, best first.
CLOCK_SOURCES = ("gnss", "ptp", "ntp", "host", "none")

#: The name becomes part of object keys, file names and URLs: no separator, no `..`, nothing to escape, not hidden.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NAME_ALLOWED = "1 to 128 of A-Z a-z 0-9 . _ -, no leading dot"

FieldType = Literal["str", "int", "number", "bin", "map"]

#: Exact Python types that the scan yields for a wire type; `bool` is none of them although it is an `int` to Python.
PYTHON_TYPES: dict[FieldType, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "number": (float, int),
    "bin": (memoryview,),
    "map": (dict,),
}


def _always(_value: Any) -> bool:
    return True


def _is_name(value: str) -> bool:
    return _NAME.fullmatch(value) is not None


def _between(low: float, high: float) -> Callable[[float], bool]:
    """Accept `low <= value <= high`; NaN is in no range."""
    return lambda value: low <= value <= high


def _positive(high: float) -> Callable[[float], bool]:
    return lambda value: 0 < value <= high


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def _finite_from_0(value: float) -> bool:
    return 0 <= value < float("inf")


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a frame.

    Parameters
    ----------
    name
        Key on the wire and, but for `iq_data`, attribute of `Measurement`.
    type
        Type on the wire; a `number` is a float or an int and becomes a float64.
    allowed
        The rule in words, for errors and docs.
    accepts
        The rule for the value alone.
    reason
        Slug of a breach.
    required
        Whether a frame without it is refused (the pairs, of which one is required, are in `frame`).
    """

    name: str
    type: FieldType
    allowed: str
    accepts: Callable[[Any], bool] = _always
    reason: str = "range"
    required: bool = False


#: In the order of the design, which is the order of the checks and of the frames that `frame.encode` writes.
FIELDS: tuple[Field, ...] = (
    Field("task_id", "str", _NAME_ALLOWED, _is_name, "task_id", required=True),
    Field("websdr_id", "int", "0 to 2147483647", _between(0, _MAX_WEBSDR_ID), required=True),
    Field("frequency_mhz", "number", "finite, > 0, at most 1e6 MHz", _positive(_MAX_FREQUENCY_HZ / 1e6)),
    Field("frequency_hz", "number", "finite, > 0, at most 1e12 Hz", _positive(_MAX_FREQUENCY_HZ)),
    Field("sample_rate_khz", "number", "finite, > 0, at most 1e7 kHz", _positive(_MAX_SAMPLE_RATE_HZ / 1e3)),
    Field("sample_rate_hz", "number", "finite, > 0, at most 1e10 Hz", _positive(_MAX_SAMPLE_RATE_HZ)),
    Field("iq_data", "bin", "> 0 bytes, a multiple of the sample size", reason="payload", required=True),
    Field(
        "timestamp_utc",
        "str",
        "ISO 8601, UTC, up to 9 fraction digits, 1980-01-06 to 2261",
        reason="timestamp",
    ),
    Field("timestamp_ns", "int", "ns since 1970, 1980-01-06 to 2261", in_range, "timestamp"),
    Field("samples_count", "int", "0 to 2**63-1; the number of samples in iq_data", _between(0, _MAX_COUNT)),
    Field(
        "metrics",
        "map",
        f"at most {MAX_METRICS} keys, under {MAX_MAP_BYTES} bytes; {', '.join(NAMED_FIGURES)}: finite number or "
        "null; others also str or bool",
        reason="metrics",
    ),
    Field("datatype", "str", ", ".join(DATATYPES), DATATYPES.__contains__, "datatype"),
    Field("node", "str", _NAME_ALLOWED, _is_name, "task_id"),
    Field("epoch", "int", "0 to 2**53-1, with node and seq", _between(0, _FLOAT_INTEGERS - 1)),
    Field("seq", "int", "0 to 2**53-1, with node and epoch", _between(0, _FLOAT_INTEGERS - 1)),
    Field("chunk", "int", f"0 to {_MAX_CHUNK}", _between(0, _MAX_CHUNK)),
    Field("sample_index", "int", "0 to 2**63-1", _between(0, _MAX_COUNT)),
    Field("expected", "int", f"1 to {_MAX_EXPECTED}", _between(1, _MAX_EXPECTED)),
    Field("clock_source", "str", ", ".join(CLOCK_SOURCES), CLOCK_SOURCES.__contains__),
    Field("timestamp_sigma_ns", "number", "finite, >= 0 ns", _finite_from_0),
    Field("clock_age_s", "number", "finite, >= 0 s", _finite_from_0),
    Field("gain_db", "number", "finite dB", _finite),
    Field("bandwidth_hz", "number", "finite, > 0, at most 1e10 Hz", _positive(_MAX_SAMPLE_RATE_HZ)),
    Field(
        "geolocation",
        "map",
        "GeoJSON Point: type and coordinates alone; longitude -180 to 180, latitude -90 to 90, finite altitude or none",
    ),
    Field(
        "extras",
        "map",
        f"under {MAX_MAP_BYTES} bytes; JSON values alone: no binary, no NaN or Infinity",
        reason="extras",
    ),
    Field("v", "int", f"{VERSION}", VERSION.__eq__, "version"),
)

FIELDS_BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
