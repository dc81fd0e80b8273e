"""The .npy object: NumPy format 1.0, `<c8`, shape `(n_samples,)`, a header of exactly 128 bytes.

Written by hand because the header must be known before the samples are touched: complex64 samples go from the spool
file to the store as they came off the wire, uncopied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingestd.errors import StoreCorrupt
from ingestd.formats.checksum import crc32c, crc32c_extend
from ingestd.formats.measurement import Measurement

__all__ = ["HEADER_BYTES", "NpyObject", "decode", "encode", "header", "to_complex64"]

#: Length of the header [bytes]: NumPy pads to a multiple of 64, and this dictionary needs two of them.
HEADER_BYTES = 128

_MAGIC = b"\x93NUMPY\x01\x00"
_SAMPLE_BYTES = 8

#: Values converted at once [count]: source, indices and result stay in the second-level cache.
_BLOCK = 32 * 1024

#: How source integers become full scale 1.0: (NumPy type, what is subtracted, divisor).
_SCALES: dict[str, tuple[str, float, float]] = {
    "ci16_le": ("<i2", 0.0, 32768.0),
    "ci8": ("i1", 0.0, 128.0),
    "cu8": ("u1", 127.5, 127.5),
}


def header(n_samples: int) -> bytes:
    """Header of an array of `n_samples` complex64 samples; 128 bytes, as `np.save` writes them."""
    text = f"{{'descr': '<c8', 'fortran_order': False, 'shape': ({n_samples},), }}"
    padded = text.ljust(HEADER_BYTES - len(_MAGIC) - 3) + "\n"
    return _MAGIC + len(padded).to_bytes(2, "little") + padded.encode("ascii")


@dataclass(frozen=True, slots=True)
class NpyObject:
    """A .npy object in two pieces.

    `payload` holds the samples, `<c8` of shape `(n_samples,)`; `crc32c` is that of header and payload together.
    """

    header: bytes
    payload: memoryview
    crc32c: int

    @property
    def size_bytes(self) -> int:
        """Length of the whole object [bytes]."""
        return len(self.header) + len(self.payload)

    def samples(self) -> npt.NDArray[np.complex64]:
        """View of the samples, shape `(n_samples,)`, dtype complex64, full scale 1.0; read-only."""
        return np.frombuffer(self.payload, dtype="<c8")


def encode(measurement: Measurement) -> NpyObject:
    """Make the .npy object of a measurement.

    Integer samples are converted to complex64 with full scale 1.0; `cf32_le` is taken as it is, to the bit (NaN
    payloads included), and not copied.
    """
    payload = memoryview(measurement.samples).cast("B")
    if measurement.datatype != "cf32_le":
        payload = to_complex64(payload, measurement.datatype).data.cast("B").toreadonly()
    head = header(len(payload) // _SAMPLE_BYTES)
    return NpyObject(head, payload, crc32c_extend(crc32c(head), payload))


def to_complex64(payload: bytes | memoryview, datatype: str) -> npt.NDArray[np.complex64]:
    """Convert interleaved samples of a wire datatype to complex64.

    Parameters
    ----------
    payload
        Whole samples, little endian.
    datatype
        Out of `measurement.DATATYPES`.

    Returns
    -------
    ndarray
        Shape `(n_samples,)`, full scale 1.0: `ci16_le` / 32768, `ci8` / 128, `cu8` (x - 127.5) / 127.5.
    """
    if datatype == "cf32_le":
        return np.frombuffer(payload, dtype="<c8")
    source, middle, divisor = _SCALES[datatype]
    # float64 for the division, then one rounding: the nearest float32 to the exact quotient, on every machine.
    # A table is quicker for 8 bits: there are only 256 quotients.
    if np.dtype(source).itemsize == 1:
        codes = np.arange(256, dtype="u1").view(source).astype(np.float64)
        table = ((codes - middle) / divisor).astype("<f4")
        sent = np.frombuffer(payload, dtype="u1")
    else:
        table = None
        sent = np.frombuffer(payload, dtype=source)
    values = np.empty(len(sent), dtype="<f4")
    # In blocks, straight into the result: what NumPy makes in between (indices of 8 bytes out of codes of one) stays
    # small and in the cache, which takes half the time.
    for start in range(0, len(sent), _BLOCK):
        block, into = sent[start : start + _BLOCK], values[start : start + _BLOCK]
        if table is not None:
            np.take(table, block, out=into, mode="clip")
        else:
            # A power of two divides exactly in float32.
            np.multiply(block, np.float32(1.0 / divisor), out=into)
    return values.view("<c8")


def decode(npy: bytes) -> npt.NDArray[np.complex64]:
    """Read a .npy object back.

    Returns
    -------
    ndarray
        Shape `(n_samples,)`, complex64, read-only view.

    Raises
    ------
    StoreCorrupt
        It is not format 1.0, one-dimensional `<c8`, or not whole.
    """
    n_samples, rest = divmod(len(npy) - HEADER_BYTES, _SAMPLE_BYTES)
    if n_samples < 0 or rest or npy[:HEADER_BYTES] != header(n_samples):
        raise StoreCorrupt(
            "not a .npy object of this layout: format 1.0, '<c8', shape (n,), 128-byte header, whole"
        )
    return np.frombuffer(npy, dtype="<c8", offset=HEADER_BYTES)
