"""Measurements out of loose dictionaries: the interface of the user's guide, under the rules of the wire.

Everything that a frame may say is checked by the frame's own parser. Two things are looser: sample rate, frequency and
time may be missing (null in the metadata), and a key that no frame knows goes to `extras`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from ingestd.errors import FrameError
from ingestd.formats import frame as wire
from ingestd.formats.fields import FIELDS_BY_NAME, NAMED_FIGURES
from ingestd.formats.measurement import Measurement

__all__ = ["measurement_of", "samples_of"]

#: Keys that the caller gives apart, or that make no sense here.
_APART = frozenset({"task_id", "websdr_id", "iq_data", "v", "datatype"})

#: What a frame must say and a dictionary need not: the spellings, and what stands in while the rest is checked.
_OPTIONAL: tuple[tuple[tuple[str, ...], dict[str, Any], dict[str, None]], ...] = (
    (
        ("frequency_mhz", "frequency_hz"),
        {"frequency_hz": 1.0},
        {"frequency_hz": None, "frequency_mhz": None},
    ),
    (
        ("sample_rate_khz", "sample_rate_hz"),
        {"sample_rate_hz": 1.0},
        {"sample_rate_hz": None, "sample_rate_khz": None},
    ),
    (("timestamp_utc", "timestamp_ns"), {"timestamp_ns": 10**18}, {"timestamp_ns": None}),
)


def measurement_of(
    iq_data: object, task_id: object, websdr_id: object, metadata: Mapping[str, Any] | None
) -> Measurement:
    """Make a measurement of samples and a dictionary.

    Parameters
    ----------
    iq_data
        See `samples_of`.
    task_id, websdr_id
        Identity.
    metadata
        Keys of a frame; a top-level `snr_db`, `frequency_offset_hz` or `power_dbm` goes to `metrics`, other keys go to
        `extras`; None values count as missing.

    Raises
    ------
    FrameError
        As for a frame: the field, its value, what is allowed.
    """
    samples = samples_of(iq_data)
    values = _wire_values(metadata)
    blanks: dict[str, Any] = {}
    for spellings, stand_in, blank in _OPTIONAL:
        if not any(name in values for name in spellings):
            values |= stand_in
            blanks |= blank
    values |= {"task_id": task_id, "websdr_id": _plain(websdr_id), "iq_data": samples.tobytes()}
    try:
        frame = msgpack.packb(values, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(
            "type", "metadata", str(error), "numbers, texts, booleans, None, lists and dictionaries"
        ) from error
    return replace(wire.parse(frame), **blanks)


def _wire_values(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sort the keys of a dictionary into those of a frame."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise FrameError("type", "metadata", metadata, "a dictionary, or None")
    values: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    for name, raw in metadata.items():
        value = _plain(raw)
        if value is None or name in _APART:
            continue
        if name in NAMED_FIGURES:
            metrics[name] = value
        elif name in FIELDS_BY_NAME:
            values[name] = value
        else:
            extras[str(name)] = value
    for name, found in (("metrics", metrics), ("extras", extras)):
        given = values.get(name, {})
        if found and isinstance(given, dict):
            # What stands inside `metrics` or `extras` was put there on purpose.
            values[name] = found | given
    return values


def _plain(value: Any) -> Any:
    """Python's own number for NumPy's, at every depth of dictionaries and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return [_plain(element) for element in value.tolist()]
    if isinstance(value, Mapping):
        return {key: _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


def samples_of(iq_data: object) -> npt.NDArray[np.complex64]:
    """Samples in whatever form the guide's users have them.

    Parameters
    ----------
    iq_data
        A complex array of shape `(n_samples,)`; a real array of shape `(n_samples, 2)`; bytes of complex64; a list of
        complex numbers, or of [re, im] pairs.

    Returns
    -------
    ndarray
        Shape `(n_samples,)`, `<c8`.

    Raises
    ------
    FrameError
        `payload`: none of these, or empty.
    """
    allowed = (
        "a complex array of one dimension, a real one of shape (n, 2), bytes of complex64, "
        "a list of complex numbers or of [re, im] pairs; not empty"
    )
    if isinstance(iq_data, bytes | bytearray | memoryview):
        if not len(iq_data) or len(iq_data) % 8:
            raise FrameError("payload", "iq_data", f"{len(iq_data)} bytes", allowed)
        return np.frombuffer(iq_data, dtype="<c8")
    try:
        array = np.asarray(iq_data)
    except (ValueError, TypeError) as error:
        raise FrameError("payload", "iq_data", iq_data, allowed) from error
    if array.dtype.kind in "fiu" and array.ndim == 2 and array.shape[1] == 2:
        array = np.ascontiguousarray(array, dtype="<f4").view("<c8")[:, 0]
    if array.dtype.kind != "c" or array.ndim != 1 or not array.size:
        raise FrameError("payload", "iq_data", f"{array.dtype} of shape {array.shape}", allowed)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype="<c8")
