"""From a measurement to its two objects, ready for the store: the same for the daemon and for the guide's interface."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from ingestd.formats import metadata, npy, quality
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Measurement
from ingestd.formats.npy import NpyObject
from ingestd.formats.quality import Receiver
from ingestd.storage.pair import Pair

__all__ = ["encode_pair"]


def encode_pair(
    measurement: Measurement,
    receiver: Receiver | None = None,
    *,
    figures: Literal["missing", "none"] = "missing",
    sha256: bool = False,
) -> tuple[Pair, dict[str, Any]]:
    """Make both objects of a measurement; a pure function of its arguments.

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

    Returns
    -------
    tuple
        The pair, and its metadata document.
    """
    encoded = npy.encode(measurement)
    computed = None
    if figures == "missing":
        sent = measurement.metrics
        spectral = sent.get("snr_db") is None or sent.get("frequency_offset_hz") is None
        computed = quality.measure(measurement, encoded.samples(), receiver, spectral=spectral)
    digest = _sha256(encoded) if sha256 else None
    document = metadata.document(measurement, encoded, computed, digest)
    document_bytes = metadata.encode(document)
    return Pair.of(measurement.identity, encoded, document, document_bytes, crc32c(document_bytes)), document


def _sha256(encoded: NpyObject) -> str:
    digest = hashlib.sha256(encoded.header)
    digest.update(encoded.payload)
    return digest.hexdigest()
