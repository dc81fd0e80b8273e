"""The metadata document: strict JSON beside every .npy object, and its commit marker.

It is a pure function of frame, samples and settings: no upload time, host, version or attempt goes in, so that a
repeated upload writes the same bytes. Every key is always there, null where nothing is known.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from ingestd.errors import StoreCorrupt, bounded
from ingestd.formats import timestamps
from ingestd.formats.measurement import Measurement

if TYPE_CHECKING:
    from ingestd.formats.npy import NpyObject
    from ingestd.formats.quality import Figures

__all__ = [
    "FORMAT_VERSION",
    "KEYS",
    "MAX_DOCUMENT_BYTES",
    "accepted_document",
    "content",
    "decode",
    "document",
    "encode",
]

FORMAT_VERSION = 1

#: Longest document that is read back [bytes]: extras and metrics are below 4 KiB of msgpack each, escaping makes at
#: most six characters of one, and the rest is below 2 KiB.
MAX_DOCUMENT_BYTES = 128 * 1024

#: Every key in the order in which it is written; `sha256` follows where the setting asks for it.
KEYS: tuple[str, ...] = (
    "websdr_id", "frequency_mhz", "sample_rate_khz", "samples_count", "timestamp_utc", "metrics",
    "task_id", "timestamp_ns", "frequency_hz", "sample_rate_hz", "datatype", "source_datatype", "size_bytes", "crc32c",
    "power_dbfs", "peak_dbfs", "dc_offset_dbfs", "clipped_fraction", "nonfinite_count", "noise_dbfs_hz",
    "bandwidth_hz", "bandwidth_source", "burst_snr_db", "metrics_source",
    "clock_source", "timestamp_sigma_ns", "clock_age_s", "gain_db", "geolocation",
    "node", "epoch", "seq", "chunk", "sample_index", "expected", "extras", "format_version",
)  # fmt: skip

#: The three figures that the user's guide names in `metrics`.
_NAMED_FIGURES = ("snr_db", "frequency_offset_hz", "power_dbm")
_FIGURES = (
    "power_dbfs", "peak_dbfs", "dc_offset_dbfs", "clipped_fraction", "nonfinite_count",
    "noise_dbfs_hz", "bandwidth_hz", "bandwidth_source", "burst_snr_db",
)  # fmt: skip
_AS_SENT = (
    "websdr_id", "task_id", "timestamp_ns", "frequency_hz", "frequency_mhz", "sample_rate_hz", "sample_rate_khz",
    "clock_source", "timestamp_sigma_ns", "clock_age_s", "gain_db", "geolocation",
    "node", "epoch", "seq", "chunk", "sample_index", "expected", "extras",
)  # fmt: skip


def accepted_document(measurement: Measurement) -> dict[str, Any]:
    """Document of a frame that is accepted but not encoded yet: the same keys, figures and checksum null."""
    return _document(measurement, None, None)


def document(
    measurement: Measurement, npy: NpyObject, figures: Figures | None, sha256: str | None = None
) -> dict[str, Any]:
    """Metadata document of a measurement.

    Parameters
    ----------
    measurement
        As parsed.
    npy
        Its object.
    figures
        What was computed of the samples; None where nothing was.
    sha256
        Of the .npy object, hex; None leaves the key out.
    """
    made = _document(measurement, npy, figures)
    if sha256 is not None:
        made["sha256"] = sha256
    return made


def _document(measurement: Measurement, npy: NpyObject | None, figures: Figures | None) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(measurement, name) for name in _AS_SENT}
    stamp_ns = measurement.timestamp_ns
    values |= {
        "samples_count": measurement.n_samples,
        "timestamp_utc": None if stamp_ns is None else timestamps.format_utc(stamp_ns),
        "datatype": "cf32_le",
        "source_datatype": measurement.datatype,
        "size_bytes": None if npy is None else npy.size_bytes,
        "crc32c": None if npy is None else _base64_crc32c(npy.crc32c),
        "format_version": FORMAT_VERSION,
    }
    values |= {name: None if figures is None else getattr(figures, name) for name in _FIGURES}
    if values["bandwidth_hz"] is None and measurement.bandwidth_hz is not None:
        # No spectrum was needed, or could be made: what the node says of its passband is kept all the same.
        values["bandwidth_hz"], values["bandwidth_source"] = measurement.bandwidth_hz, "frame"
    values["metrics"], values["metrics_source"] = _metrics(measurement, figures)
    return {key: values[key] for key in KEYS}


def _metrics(
    measurement: Measurement, figures: Figures | None
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The three named figures first: the node's where it sent one, else ours; then whatever else the node sent."""
    metrics: dict[str, Any] = {}
    source: dict[str, str | None] = {}
    for name in _NAMED_FIGURES:
        sent = measurement.metrics.get(name)
        computed = None if figures is None else getattr(figures, name)
        metrics[name] = computed if sent is None else sent
        source[name] = "node" if sent is not None else None if computed is None else "ingestd"
    return metrics | {k: v for k, v in measurement.metrics.items() if k not in metrics}, source


def _base64_crc32c(crc: int) -> str:
    """CRC32C as S3 writes it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")


def encode(document: dict[str, Any]) -> bytes:
    """Write a document as UTF-8 JSON: two spaces of indentation, a line end, no NaN.

    The same document is the same bytes: keys keep their order, floats are written with the digits that read back to
    the bit.
    """
    return f"{_json(document, 0)}\n".encode()


def _json(value: Any, depth: int) -> str:
    """Write a value that begins `depth` levels in as `json.dumps` indents it.

    Indentation takes the encoder of the standard library that is written in Python; the quick one writes members which
    hold no others, here one a line.
    """
    if not isinstance(value, dict | list) or not value:
        return _encoder(depth).encode(value)
    inside, outside = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    members = _members(value, depth + 1) if isinstance(value, dict) else _items(value, depth + 1)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{inside}{f',{inside}'.join(members)}{outside}{closing}"


def _members(values: dict[str, Any], depth: int) -> Iterator[str]:
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(value, dict | list):
            plain[key] = value
            continue
        if plain:
            yield _encoder(depth).encode(plain)[1:-1]
            plain = {}
        yield f"{_encoder(depth).encode(key)}: {_json(value, depth)}"
    if plain:
        yield _encoder(depth).encode(plain)[1:-1]


def _items(values: list[Any], depth: int) -> Iterator[str]:
    if any(isinstance(value, dict | list) for value in values):
        return (_json(value, depth) for value in values)
    return iter([_encoder(depth).encode(values)[1:-1]])


@cache
def _encoder(depth: int) -> json.JSONEncoder:
    """Encoder whose members stand one a line, `depth` levels in; a frame has a few levels."""
    return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",\n" + "  " * depth, ": "))


def decode(encoded: bytes) -> dict[str, Any]:
    """Read a document back.

    Raises
    ------
    StoreCorrupt
        It is no strict JSON object, too long, or has no usable content fields.
    """
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise StoreCorrupt(f"the metadata has {len(encoded)} bytes (allowed: {MAX_DOCUMENT_BYTES})")
    try:
        # As text: json would take UTF-16 and a byte order mark for granted.
        document = json.loads(encoded.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"the metadata is not strict JSON: {bounded(encoded[:40])}") from error
    if not isinstance(document, dict):
        raise StoreCorrupt(f"the metadata is no JSON object: {bounded(encoded[:40])}")
    content(document)
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def content(document: dict[str, Any]) -> tuple[int | None, float | None, float | None]:
    """The part of a measurement's content that is not in its .npy: `timestamp_ns, frequency_hz, sample_rate_hz`.

    Raises
    ------
    StoreCorrupt
        One of them is neither a number of its kind nor null.
    """
    stamp_ns = document.get("timestamp_ns")
    if stamp_ns is not None and (type(stamp_ns) is not int or not -(2**63) <= stamp_ns < 2**63):
        raise StoreCorrupt(f"the metadata's timestamp_ns is {bounded(stamp_ns)}")
    return stamp_ns, _rate(document, "frequency_hz"), _rate(document, "sample_rate_hz")


def _rate(document: dict[str, Any], name: str) -> float | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not -sys.float_info.max <= value <= sys.float_info.max:
        raise StoreCorrupt(f"the metadata's {name} is {bounded(value)}")
    return float(value)
