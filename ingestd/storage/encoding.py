"""From a measurement to its two objects, ready for the store: the same for the daemon and for the guide's interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

from ingestd.formats import metadata, npy, quality
from ingestd.formats.checksum import Summed
from ingestd.formats.measurement import Measurement
from ingestd.formats.npy import NpyObject
from ingestd.formats.quality import Receiver
from ingestd.storage.pair import Pair

__all__ = ["encode_pair", "prepare_pair"]


def prepare_pair(
    measurement: Measurement,
    receiver: Receiver | None = None,
    *,
    figures: Literal["missing", "none"] = "missing",
    sha256: bool = False,
    tell: Callable[[bool], None] = lambda _begins: None,
    frame: Summed | None = None,
) -> Pair:
    """Make the .npy object of a measurement, and the metadata when it is asked for.

    Parameters
    ----------
    measurement
        As parsed.
    receiver
        What the registry knows of its receiver.
    figures
        `missing`: compute the quality figures, the spectral ones only where the node did not send them; `none`: compute
        none.
    sha256
        Whether to add the SHA-256 of the .npy object to the metadata.
    tell
        Told when the figures begin (True) and end (False).
    frame
        That the measurement was parsed from, as it was accepted.
    """
    encoded = npy.encode(measurement, frame)

    def describe() -> dict[str, Any]:
        tell(True)
        computed = None
        if figures == "missing":
            wants = _wants_spectrum(measurement)
            computed = quality.measure(measurement, encoded.samples(), receiver, spectral=wants)
        document = metadata.document(measurement, encoded, computed, _sha256(encoded) if sha256 else None)
        tell(False)
        return document

    return Pair(measurement.identity, encoded, describe)


def encode_pair(
    measurement: Measurement,
    receiver: Receiver | None = None,
    *,
    figures: Literal["missing", "none"] = "missing",
    sha256: bool = False,
) -> tuple[Pair, dict[str, Any]]:
    """Make both objects of a measurement at once; takes what `prepare_pair` takes, and is a pure function of it.

    Returns
    -------
    tuple
        The pair, and its metadata document.
    """
    pair = prepare_pair(measurement, receiver, figures=figures, sha256=sha256)
    return pair, pair.document


def _wants_spectrum(measurement: Measurement) -> bool:
    """Whether the node left out what only a spectrum tells."""
    sent = measurement.metrics
    return sent.get("snr_db") is None or sent.get("frequency_offset_hz") is None


def _sha256(encoded: NpyObject) -> str:
    digest = hashlib.sha256(encoded.header)
    if isinstance(encoded.payload, memoryview):
        digest.update(encoded.payload)
    else:
        for block in encoded.payload:
            digest.update(block)
    return digest.hexdigest()
