"""A measurement: one validated frame, its identity, and the names of its objects.

Values come in validated (by `frame.parse` for the wire, by `tasks` for the guide's interface); this module holds
what is true of every measurement, wherever it came from.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import google_crc32c

__all__ = [
    "DATATYPES",
    "Datatype",
    "Identity",
    "KeyKind",
    "Measurement",
    "ObjectKeys",
    "content_crc",
    "object_keys",
    "parse_key",
    "session_prefix",
]

#: Every object of a session lives under this prefix (layout of the user's guide; must not change).
_SESSIONS = "sessions"


@dataclass(frozen=True, slots=True)
class Datatype:
    """How samples are laid out on the wire (SigMF name) and how they become complex64.

    Parameters
    ----------
    name
        SigMF datatype.
    sample_bytes
        Size of one complex sample [bytes].
    """

    name: str
    sample_bytes: int


#: Accepted wire datatypes; everything else is refused by name.
DATATYPES: dict[str, Datatype] = {
    "cf32_le": Datatype("cf32_le", 8),
    "ci16_le": Datatype("ci16_le", 4),
    "ci8": Datatype("ci8", 2),
    "cu8": Datatype("cu8", 2),
}


class Identity(NamedTuple):
    """What makes two frames the same measurement; `chunk` is None outside a continuous capture."""

    task_id: str
    websdr_id: int
    chunk: int | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One validated frame.

    `samples` holds the payload exactly as sent, little endian, interleaved I and Q, of `datatype`;
    shape after conversion `(n_samples,)`, dtype complex64, full scale 1.0.
    `timestamp_ns` [ns since 1970, UTC] and the rates are None only on the guide's interface
    (`tasks.acquire_iq`), never from the wire. Both units of frequency and rate are kept: the one that was sent to the
    bit, the other one float64 operation away.
    """

    task_id: str
    websdr_id: int
    samples: bytes | memoryview
    datatype: str = "cf32_le"
    timestamp_ns: int | None = None
    frequency_hz: float | None = None
    frequency_mhz: float | None = None
    sample_rate_hz: float | None = None
    sample_rate_khz: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    node: str | None = None
    epoch: int | None = None
    seq: int | None = None
    chunk: int | None = None
    sample_index: int | None = None
    expected: int | None = None
    clock_source: str | None = None
    timestamp_sigma_ns: float | None = None
    clock_age_s: float | None = None
    gain_db: float | None = None
    bandwidth_hz: float | None = None
    geolocation: dict[str, Any] | None = None
    extras: dict[str, Any] | None = None

    @property
    def identity(self) -> Identity:
        """Identity of the measurement (design: task, receiver, chunk)."""
        return Identity(self.task_id, self.websdr_id, self.chunk)

    @property
    def n_samples(self) -> int:
        """Number of complex samples."""
        return len(self.samples) // DATATYPES[self.datatype].sample_bytes

    @property
    def duration_s(self) -> float | None:
        """Length of the buffer [s], None where the rate is not known."""
        return self.n_samples / self.sample_rate_hz if self.sample_rate_hz else None


class ObjectKeys(NamedTuple):
    """The two object keys of a measurement."""

    npy: str
    metadata: str


class KeyKind(NamedTuple):
    """What an object key names; `copy` is the 8 hex digits of a kept conflict."""

    identity: Identity
    copy: str | None
    is_metadata: bool


def session_prefix(task_id: str) -> str:
    """Key prefix under which all objects of a session are, with its trailing slash."""
    return f"{_SESSIONS}/{task_id}/"


def object_keys(identity: Identity, copy: str | None = None) -> ObjectKeys:
    """Object keys of a measurement.

    Parameters
    ----------
    identity
        Of the measurement.
    copy
        8 lower-case hex digits of `content_crc` for a kept conflict, else None.
    """
    stem = f"{session_prefix(identity.task_id)}websdr_{identity.websdr_id}"
    if identity.chunk is not None:
        stem += f"_{identity.chunk:06d}"
    if copy is not None:
        stem += f".{copy}"
    return ObjectKeys(f"{stem}.npy", f"{stem}_metadata.json")


_KEY = re.compile(
    rf"{_SESSIONS}/(?P<task_id>[A-Za-z0-9_-][A-Za-z0-9._-]{{0,127}})/"
    r"websdr_(?P<websdr_id>0|[1-9][0-9]{0,9})(?:_(?P<chunk>[0-9]{6}))?(?:\.(?P<copy>[0-9a-f]{8}))?"
    r"(?P<suffix>\.npy|_metadata\.json)"
)


def parse_key(key: str) -> KeyKind | None:
    """Read an object key back; None where it is not one of ours.

    Parameters
    ----------
    key
        As listed by a store.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    chunk, websdr_id = match["chunk"], int(match["websdr_id"])
    if websdr_id >= 2**31:
        return None
    identity = Identity(match["task_id"], websdr_id, None if chunk is None else int(chunk))
    return KeyKind(identity, match["copy"], match["suffix"] != ".npy")


#: Stands for "no timestamp" in the content checksum: the smallest int64, which no validated stamp can be.
_NO_TIMESTAMP_NS = -(2**63)


def content_crc(
    npy_crc32c: int, timestamp_ns: int | None, frequency_hz: float | None, sample_rate_hz: float | None
) -> int:
    """CRC32C that tells two contents of one identity apart.

    The checksum of the .npy object continued over struct '<qdd' of stamp, frequency and rate, because silence with
    another stamp is another measurement.

    Parameters
    ----------
    npy_crc32c
        CRC32C of the whole .npy object.
    timestamp_ns
        [ns]; None (guide's interface only) counts as -2**63.
    frequency_hz, sample_rate_hz
        [Hz]; None (guide's interface only) counts as NaN.
    """
    nan = float("nan")
    packed = struct.pack(
        "<qdd",
        _NO_TIMESTAMP_NS if timestamp_ns is None else timestamp_ns,
        nan if frequency_hz is None else frequency_hz,
        nan if sample_rate_hz is None else sample_rate_hz,
    )
    return int(google_crc32c.extend(npy_crc32c, packed))
