"""Descriptions of recordings: file names and SigMF metadata as wire datatypes, segments and exact time stamps. Pure.

SigMF is read as version 1.2.5 of its specification has it (https://sigmf.org): global, captures, and `core:dataset`
for samples that lie in a file of another name. Annotations are not read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NoReturn

from ingestd.errors import FrameError, UsageError, bounded
from ingestd.formats.measurement import DATATYPES
from ingestd.formats.timestamps import parse_utc

__all__ = [
    "LOOSE_SUFFIXES",
    "MAX_SIGMF_BYTES",
    "RAW_SUFFIXES",
    "Segment",
    "SigMF",
    "chunk_timestamp_ns",
    "parse_sigmf",
    "wire_datatype",
]

#: Longest .sigmf-meta that is read [bytes]: a hundred thousand annotations fit.
MAX_SIGMF_BYTES = 32 * 2**20

#: File names that say how their samples are laid out.
RAW_SUFFIXES: dict[str, str] = {
    ".cf32": "cf32_le",
    ".fc32": "cf32_le",
    ".cs16": "ci16_le",
    ".ci16": "ci16_le",
    ".sc16": "ci16_le",
    ".cs8": "ci8",
    ".ci8": "ci8",
    ".sc8": "ci8",
    ".cu8": "cu8",
}

#: File names that only suggest it: GNU Radio writes .cfile as cf32; .iq is anybody's, cf32 the most frequent.
LOOSE_SUFFIXES: dict[str, str] = {".cfile": "cf32_le", ".iq": "cf32_le"}

#: Other spellings of the wire datatypes: the file suffixes, and SigMF names of what is little endian here.
_ALIASES = {suffix[1:]: datatype for suffix, datatype in RAW_SUFFIXES.items()}

_NS_PER_S = 10**9


def wire_datatype(name: str, where: str = "--datatype") -> str:
    """Datatype of the wire that a name stands for.

    Parameters
    ----------
    name
        A SigMF datatype, or a suffix without its dot.
    where
        Where the name was found, for the error.

    Raises
    ------
    UsageError
        Nothing on the wire is laid out so (`ci16_be`, `rf32_le`, ...).
    """
    datatype = _ALIASES.get(name, name)
    if datatype not in DATATYPES:
        _refuse(where, name, f"{', '.join(DATATYPES)}; convert anything else first")
    return datatype


def chunk_timestamp_ns(t0_ns: int, sample_offset: int, sample_rate_hz: float) -> int:
    """Stamp of the sample `sample_offset` after the one of stamp `t0_ns`, in exact arithmetic.

    Never summed up over chunks: the error stays within half a nanosecond however long the capture is. An exact half
    goes to the even nanosecond.

    Parameters
    ----------
    t0_ns
        Stamp of sample 0 [ns since 1970].
    sample_offset
        Samples in between.
    sample_rate_hz
        [Hz]; taken as the exact value of the float64, which is what goes over the wire.
    """
    return t0_ns + round(Fraction(sample_offset * _NS_PER_S) / Fraction(sample_rate_hz))


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of samples without a gap, at one frequency; None where the recording does not say.

    Parameters
    ----------
    start_sample
        First sample, counted from the first of the recording.
    n_samples
        Length; None = to the end.
    frequency_hz
        Centre frequency [Hz].
    timestamp_ns
        Stamp of the first sample [ns since 1970].
    sample_index
        The receiver's sample clock at the first sample (`core:global_index`).
    geolocation
        GeoJSON Point.
    """

    start_sample: int = 0
    n_samples: int | None = None
    frequency_hz: float | None = None
    timestamp_ns: int | None = None
    sample_index: int | None = None
    geolocation: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SigMF:
    """What a .sigmf-meta file says of its samples.

    Parameters
    ----------
    datatype
        Out of `measurement.DATATYPES`.
    sample_rate_hz
        [Hz], None where it is not said.
    dataset
        Name of the file of samples beside the metadata, None = the same stem with .sigmf-data.
    header_bytes, trailing_bytes
        Length of what is no samples at the ends of that file [bytes].
    segments
        At least one, in order, without a gap, the first from sample 0, the last to the end.
    """

    datatype: str
    sample_rate_hz: float | None
    dataset: str | None
    header_bytes: int
    trailing_bytes: int
    segments: tuple[Segment, ...]


def parse_sigmf(encoded: bytes) -> SigMF:
    """Read a .sigmf-meta document.

    Parameters
    ----------
    encoded
        The whole file.

    Raises
    ------
    UsageError
        No JSON object, a value that breaks its rule, or a recording that cannot be one frame or a row of chunks.
    """
    try:
        document = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"no SigMF metadata: not JSON ({bounded(encoded[:40])})") from error
    about = _map(document.get("global") if isinstance(document, dict) else None, "global")
    if "core:datatype" not in about:
        _refuse("core:datatype", None, ", ".join(DATATYPES))
    if about.get("core:metadata_only") is True:
        _refuse("core:metadata_only", True, "a recording with samples")
    if about.get("core:num_channels", 1) != 1:
        _refuse("core:num_channels", about["core:num_channels"], "1; split the channels into receivers first")
    captures = document.get("captures", [])
    if not isinstance(captures, list):
        _refuse("captures", captures, "an array of objects")
    captures = [_map(capture, f"captures[{i}]") for i, capture in enumerate(captures)] or [{}]
    return SigMF(
        datatype=wire_datatype(_text(about, "core:datatype"), "core:datatype"),
        sample_rate_hz=_positive(about, "core:sample_rate"),
        dataset=_dataset(about),
        header_bytes=_header_bytes(captures),
        trailing_bytes=_count(about, "core:trailing_bytes") or 0,
        segments=_segments(about, captures),
    )


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise UsageError(f"{name}={bounded(value)} (allowed: {allowed})")


def _map(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(name, value, "an object")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        _refuse(name, value, "text")
    return value


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**63:
        _refuse(name, value, "an integer from 0 to 2**63-1")
    return value


def _positive(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    # The upper bound is the frame's to judge; this one keeps float() from overflowing.
    if type(value) not in (int, float) or not 0 < value < 1e300 or not math.isfinite(value):
        _refuse(name, value, "a finite number above 0")
    return float(value)


def _dataset(about: dict[str, Any]) -> str | None:
    if about.get("core:dataset") is None:
        return None
    name = _text(about, "core:dataset")
    # Whoever wrote the metadata must not choose which file of this machine is sent.
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        _refuse("core:dataset", name, "the name of a file in the directory of the metadata")
    return name


def _header_bytes(captures: list[dict[str, Any]]) -> int:
    for i, capture in enumerate(captures[1:], 1):
        if _count(capture, "core:header_bytes"):
            _refuse(
                f"captures[{i}].core:header_bytes", capture["core:header_bytes"], "0 after the first capture"
            )
    return _count(captures[0], "core:header_bytes") or 0


def _segments(about: dict[str, Any], captures: list[dict[str, Any]]) -> tuple[Segment, ...]:
    first = _count(about, "core:offset") or 0
    starts = [
        (_count(capture, "core:sample_start") if "core:sample_start" in capture else first) or 0
        for capture in captures
    ]
    if starts[0] != first:
        _refuse("captures[0].core:sample_start", starts[0], f"{first}: every sample belongs to a capture")
    for i, (before, after) in enumerate(pairwise(starts), 1):
        if after <= before:
            _refuse(
                f"captures[{i}].core:sample_start", after, f"more than {before}, that of the capture before"
            )
    ends: list[int | None] = [*starts[1:], None]
    return tuple(
        Segment(
            start_sample=start - first,
            n_samples=None if end is None else end - start,
            frequency_hz=_positive(capture, "core:frequency"),
            timestamp_ns=_timestamp_ns(capture),
            sample_index=_count(capture, "core:global_index"),
            geolocation=_geolocation(capture, about),
        )
        for capture, start, end in zip(captures, starts, ends, strict=True)
    )


def _timestamp_ns(capture: dict[str, Any]) -> int | None:
    if capture.get("core:datetime") is None:
        return None
    text = _text(capture, "core:datetime")
    try:
        return parse_utc(text)[0]
    except FrameError as error:
        _refuse("core:datetime", text, error.allowed)


def _geolocation(capture: dict[str, Any], about: dict[str, Any]) -> dict[str, Any] | None:
    """GeoJSON Point of the capture, else of the recording; further members, which GeoJSON allows, are left out."""
    point = capture.get("core:geolocation", about.get("core:geolocation"))
    if point is None:
        return None
    fields = _map(point, "core:geolocation")
    return {name: fields[name] for name in ("type", "coordinates") if name in fields}
