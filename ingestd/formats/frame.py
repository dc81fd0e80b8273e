"""The wire format, version 1: one ZeroMQ message is one msgpack map, and becomes one `Measurement`.

The checks run in a fixed order and the first that fails decides the reason: `multipart` and `size` (the receiver's),
then `msgpack limits depth key utf8 ext duplicate` (`msgpack_scan`), then version, unknown keys, missing keys and
types, then the rule of each value in the order of `fields.FIELDS`, and last what takes more than one key or the inside
of a map: payload, stamp, rates, metrics, extras, geolocation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from ingestd.errors import FrameError
from ingestd.formats import timestamps
from ingestd.formats.fields import (
    FIELDS,
    FIELDS_BY_NAME,
    MAX_MAP_BYTES,
    MAX_METRICS,
    NAMED_FIGURES,
    PYTHON_TYPES,
    VERSION,
)
from ingestd.formats.measurement import DATATYPES, Measurement
from ingestd.formats.msgpack_scan import Scan, salvage, scan, shown

__all__ = ["REASONS", "Origin", "encode", "origin", "parse"]

#: Every slug a frame can be rejected with; `multipart`, `size` and `identity` are the receiver's. The order is that
#: of the status block's counters.
REASONS: tuple[str, ...] = (
    "msgpack",
    "limits",
    "depth",
    "key",
    "unknown",
    "duplicate",
    "ext",
    "utf8",
    "missing",
    "type",
    "range",
    "disagree",
    "task_id",
    "timestamp",
    "payload",
    "datatype",
    "metrics",
    "extras",
    "version",
    "multipart",
    "size",
    "identity",
)

#: One of each pair is required.
_ALTERNATIVES = (
    ("frequency_mhz", "frequency_hz"),
    ("sample_rate_khz", "sample_rate_hz"),
    ("timestamp_utc", "timestamp_ns"),
)
#: The confirmation triple: each needs the others, but `node` may stand alone.
_REQUIRES = (("epoch", ("node", "seq")), ("seq", ("node", "epoch")))
_REQUIRED = tuple(field.name for field in FIELDS if field.required)
#: In the order of the checks.
_CHECKED = tuple((field.name, field, PYTHON_TYPES[field.type]) for field in FIELDS)

#: Two spellings of one rate may differ by this much (relative): decimal rounding passes, another rate does not.
_AGREE_RELATIVE = 1e-12

_DEFAULT_DATATYPE = "cf32_le"
#: The two spellings of each rate, and how many of the second make one of the first.
_RATES = (("frequency_mhz", "frequency_hz", 1e6), ("sample_rate_khz", "sample_rate_hz", 1000.0))
_NUMBERS = tuple(field.name for field in FIELDS if field.type == "number")
#: Fields that need no more than their own line of the table; they go to the measurement as they are.
_PLAIN = (
    "node",
    "epoch",
    "seq",
    "chunk",
    "sample_index",
    "expected",
    "clock_source",
    "timestamp_sigma_ns",
    "clock_age_s",
    "gain_db",
    "bandwidth_hz",
    "extras",
)


class Origin(NamedTuple):
    """Who sent a frame: the confirmation triple."""

    node: str
    epoch: int
    seq: int


def parse(frame: bytes | memoryview) -> Measurement:
    """Parse and validate one frame.

    Parameters
    ----------
    frame
        The whole message. `samples` of the result is a read-only view into it; everything else is a copy.

    Raises
    ------
    FrameError
        With the reason of the first check that fails.
    """
    scanned = scan(frame)
    values = scanned.values
    _check_keys(values)
    _check_types(values)
    _check_rules(values)
    samples, datatype = _payload(values)
    timestamp_ns = _timestamp_ns(values)
    (frequency_mhz, frequency_hz), (sample_rate_khz, sample_rate_hz) = (
        _rate(values, *pair) for pair in _RATES
    )
    _check_metrics(scanned)
    _check_extras(scanned)
    return Measurement(
        task_id=values["task_id"],
        websdr_id=values["websdr_id"],
        samples=samples,
        datatype=datatype,
        timestamp_ns=timestamp_ns,
        frequency_hz=frequency_hz,
        frequency_mhz=frequency_mhz,
        sample_rate_hz=sample_rate_hz,
        sample_rate_khz=sample_rate_khz,
        metrics=values.get("metrics", {}),
        geolocation=_geolocation(values),
        **{name: values[name] for name in _PLAIN if name in values},
    )


def _check_keys(values: dict[str, Any]) -> None:
    version = values.get("v", VERSION)
    if type(version) is int and version != VERSION:
        raise _breach("v", version)
    for name in values:
        if name not in FIELDS_BY_NAME:
            raise FrameError("unknown", shown(name), name, f"keys {', '.join(FIELDS_BY_NAME)}")
    _check_missing(values)


def _check_missing(values: dict[str, Any]) -> None:
    for name in _REQUIRED:
        if name not in values:
            raise _missing(name)
    for one, other in _ALTERNATIVES:
        if one not in values and other not in values:
            raise _missing(one, f"{one} or {other}")
    for name, others in _REQUIRES:
        if name in values:
            for other in others:
                if other not in values:
                    raise _missing(other, f"{other} wherever {name} is sent")


def _check_types(values: dict[str, Any]) -> None:
    for name, field, types in _CHECKED:
        if name in values and type(values[name]) not in types:
            raise FrameError("type", name, values[name], field.type)


def _check_rules(values: dict[str, Any]) -> None:
    for name, field, _ in _CHECKED:
        if name in values and not field.accepts(values[name]):
            raise _breach(name, values[name])
    for name in _NUMBERS:
        if name in values:
            values[name] = float(values[name])


def _breach(name: str, value: object, inside: str = "") -> FrameError:
    """Error of a value (of the entry `inside` a map) that breaks the rule of the field `name`."""
    field = FIELDS_BY_NAME[name]
    return FrameError(field.reason, f"{name}.{shown(inside)}" if inside else name, value, field.allowed)


def _missing(name: str, allowed: str = "") -> FrameError:
    return FrameError("missing", name, None, allowed or f"a frame with {name}")


def _payload(values: dict[str, Any]) -> tuple[memoryview, str]:
    samples: memoryview = values["iq_data"]
    datatype: str = values.get("datatype", _DEFAULT_DATATYPE)
    n_samples, rest = divmod(len(samples), DATATYPES[datatype].sample_bytes)
    if rest or not n_samples:
        raise _breach("iq_data", f"{len(samples)} bytes of {datatype}")
    if values.get("samples_count", n_samples) != n_samples:
        raise FrameError("disagree", "samples_count", values["samples_count"], f"{n_samples} as in iq_data")
    return samples, datatype


def _timestamp_ns(values: dict[str, Any]) -> int:
    timestamp_ns: int | None = values.get("timestamp_ns")
    text: str | None = values.get("timestamp_utc")
    if timestamp_ns is not None and text is None:
        return timestamp_ns
    assert text is not None
    utc_ns, n_digits = timestamps.parse_utc(text)
    if timestamp_ns is None:
        return utc_ns
    if not timestamps.agrees(timestamp_ns, utc_ns, n_digits):
        allowed = f"timestamp_ns, {timestamps.format_utc(timestamp_ns)}, truncated or rounded to its digits"
        raise FrameError("disagree", "timestamp_utc", text, allowed)
    return timestamp_ns


def _rate(values: dict[str, Any], scaled_name: str, hz_name: str, factor: float) -> tuple[float, float]:
    """Both spellings of a rate: what was sent to the bit, the other one float64 operation away."""
    scaled: float | None = values.get(scaled_name)
    hz: float | None = values.get(hz_name)
    if scaled is None:
        assert hz is not None
        return hz / factor, hz
    if hz is None:
        return scaled, scaled * factor
    if not math.isclose(scaled * factor, hz, rel_tol=_AGREE_RELATIVE):
        raise FrameError("disagree", hz_name, hz, f"{scaled * factor!r} as {scaled_name} says")
    return scaled, hz


def _check_metrics(scanned: Scan) -> None:
    metrics: dict[str, Any] = scanned.values.get("metrics", {})
    if len(metrics) > MAX_METRICS:
        raise _breach("metrics", metrics)
    _check_size("metrics", scanned)
    for name, value in metrics.items():
        if isinstance(value, float):
            accepted = math.isfinite(value)
        elif isinstance(value, str | bool):
            accepted = name not in NAMED_FIGURES
        else:
            accepted = value is None or isinstance(value, int)
        if not accepted:
            raise _breach("metrics", value, name)


def _check_extras(scanned: Scan) -> None:
    _check_size("extras", scanned)
    for value in _leaves(scanned.values.get("extras", {})):
        if isinstance(value, memoryview) or (isinstance(value, float) and not math.isfinite(value)):
            raise _breach("extras", value)


def _check_size(name: str, scanned: Scan) -> None:
    size_bytes = scanned.sizes_bytes.get(name, 0)
    if size_bytes >= MAX_MAP_BYTES:
        raise _breach(name, f"{size_bytes} bytes")


def _leaves(value: Any) -> Iterator[Any]:
    """Walk everything below a map or list that is neither, without recursion."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        else:
            yield value


def _geolocation(values: dict[str, Any]) -> dict[str, Any] | None:
    point: dict[str, Any] | None = values.get("geolocation")
    if point is None:
        return None
    if point.keys() != {"type", "coordinates"} or point["type"] != "Point":
        raise _breach("geolocation", point)
    coordinates = point["coordinates"]
    if type(coordinates) is not list or not all(type(degrees) in (int, float) for degrees in coordinates):
        raise FrameError(
            "type", "geolocation.coordinates", coordinates, FIELDS_BY_NAME["geolocation"].allowed
        )
    if len(coordinates) not in (2, 3):
        raise _breach("geolocation", coordinates, "coordinates")
    longitude, latitude, *altitude = map(float, coordinates)
    if not (abs(longitude) <= 180 and abs(latitude) <= 90 and all(map(math.isfinite, altitude))):
        raise _breach("geolocation", tuple(coordinates), "coordinates")
    return {"type": "Point", "coordinates": [longitude, latitude, *altitude]}


def origin(frame: bytes | memoryview) -> Origin | None:
    """Read the confirmation triple of a frame that was rejected, as far as it can be read; never raises.

    Parameters
    ----------
    frame
        As received, whatever it is.

    Returns
    -------
    Origin or None
        None unless all three are there and keep their rules.
    """
    values = salvage(frame)
    for name in Origin._fields:
        field = FIELDS_BY_NAME[name]
        if type(values.get(name)) not in PYTHON_TYPES[field.type] or not field.accepts(values[name]):
            return None
    return Origin(values["node"], values["epoch"], values["seq"])


def encode(measurement: Measurement) -> bytes:
    """Write the canonical frame of a measurement: the keys in the order of the table, nothing said twice.

    `parse(encode(measurement)) == measurement` for everything that `parse` returns.

    Parameters
    ----------
    measurement
        As `parse` would return it.

    Raises
    ------
    FrameError
        Where `parse` would refuse the frame, so that no sender finds out from the other side.
    """
    parts: list[bytes | memoryview] = []
    n_keys = 0
    packer = msgpack.Packer()
    for name, value in _wire_values(measurement):
        n_keys += 1
        parts.append(packer.pack(name))
        if name == "iq_data":
            parts += [_bin_header(len(value)), value]
        else:
            parts.append(_packed(packer, name, value))
    frame = b"".join([packer.pack_map_header(n_keys), *parts])
    parse(frame)
    return frame


def _wire_values(measurement: Measurement) -> Iterator[tuple[str, Any]]:
    """Keys and values of a frame in the order of the table; what is not known is left out."""
    absent = _told_by_others(measurement)
    for field in FIELDS:
        if field.name == "iq_data":
            yield field.name, memoryview(measurement.samples).cast("B")
        elif field.name == "v":
            yield field.name, VERSION
        elif field.name not in absent:
            value = getattr(measurement, field.name)
            if value is not None:
                yield field.name, value


def _told_by_others(measurement: Measurement) -> set[str]:
    """Keys that would repeat what another key or a default says to the bit."""
    absent = {"timestamp_utc", "samples_count"}
    if not measurement.metrics:
        absent.add("metrics")
    if measurement.datatype == _DEFAULT_DATATYPE:
        absent.add("datatype")
    for scaled_name, hz_name, factor in _RATES:
        scaled, hz = getattr(measurement, scaled_name), getattr(measurement, hz_name)
        if scaled is not None and hz is not None:
            if scaled * factor == hz:
                absent.add(hz_name)
            elif hz / factor == scaled:
                absent.add(scaled_name)
    return absent


def _bin_header(n_bytes: int) -> bytes:
    """Header of a bin of any length in its shortest form; the payload itself is joined in without a copy."""
    for first, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
        if n_bytes < 1 << 8 * width:
            return bytes([first]) + n_bytes.to_bytes(width, "big")
    raise FrameError("payload", "iq_data", f"{n_bytes} bytes", "under 4 GiB")


def _packed(packer: Any, name: str, value: object) -> bytes:
    try:
        return bytes(packer.pack(value))
    except UnicodeEncodeError as error:
        raise FrameError("utf8", name, value, "strings without lone surrogates") from error
    except OverflowError as error:
        raise FrameError("range", name, value, "integers of at most 64 bits") from error
    except TypeError as error:
        raise FrameError("type", name, value, "str, int, float, bool, None, list and dict") from error
    except ValueError as error:
        raise FrameError("depth", name, value, "a few levels of nesting") from error
