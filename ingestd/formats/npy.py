"""The .npy object: NumPy format 1.0, `<c8`, shape `(n_samples,)`, a header of exactly 128 bytes.

Written by hand because the header must be known before the samples are touched: complex64 samples go from the spool
file to the store as they came off the wire, uncopied. Integer samples become up to four times as long; of a long frame
they are converted block by block, each time that somebody goes through them, and are never held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingestd.errors import StoreCorrupt
from ingestd.formats.checksum import Summed, crc32c, crc32c_extend, crc32c_rehead
from ingestd.formats.measurement import Measurement

__all__ = [
    "HEADER_BYTES",
    "WHOLE_MAX_BYTES",
    "Converted",
    "NpyObject",
    "Samples",
    "decode",
    "encode",
    "header",
    "to_complex64",
]

#: Length of the header [bytes]: NumPy pads to a multiple of 64, and this dictionary needs two of them.
HEADER_BYTES = 128

_MAGIC = b"\x93NUMPY\x01\x00"
_SAMPLE_BYTES = 8

#: Longer results of a conversion are made block by block [bytes]; up to here once is quicker than twice.
WHOLE_MAX_BYTES = 4 * 2**20

#: From so many bytes of samples on their checksum is taken from that of the frame: a pass over fewer is as quick.
_DERIVED_BYTES = 256 * 1024

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


class Samples(Protocol):
    """complex64 samples of full scale 1.0 that are looked at in slices: an array, or what makes them when asked."""

    def __len__(self) -> int:
        """Count them."""

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.complex64]:
        """Return consecutive samples, contiguous."""


class _Converting:
    """Integer samples that are converted slice by slice."""

    def __init__(self, source: memoryview, datatype: str) -> None:
        self._source = source
        self._datatype = datatype
        self._sample_bytes = 2 * np.dtype(_SCALES[datatype][0]).itemsize

    def __len__(self) -> int:
        return len(self._source) // self._sample_bytes

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.complex64]:
        start, stop, _ = part.indices(len(self))
        return to_complex64(
            self._source[start * self._sample_bytes : stop * self._sample_bytes], self._datatype
        )


class Converted:
    """Integer samples as the bytes of complex64 ones, made while somebody goes through them.

    Parameters
    ----------
    source
        Whole samples as they were sent.
    datatype
        Of them; not `cf32_le`.
    """

    def __init__(self, source: memoryview, datatype: str) -> None:
        self._source = source
        self._datatype = datatype
        self._value_bytes = np.dtype(_SCALES[datatype][0]).itemsize

    def __len__(self) -> int:
        """Length of the converted bytes."""
        return len(self._source) // self._value_bytes * 4

    def __iter__(self) -> Iterator[memoryview]:
        """Yield consecutive blocks; each is good until the next one is asked for."""
        convert = _converter(self._datatype)
        step = _BLOCK * self._value_bytes
        values = np.empty(min(_BLOCK, len(self._source) // self._value_bytes), dtype="<f4")
        for start in range(0, len(self._source), step):
            sent = self._source[start : start + step]
            into = values[: len(sent) // self._value_bytes]
            convert(sent, into)
            yield into.data.cast("B").toreadonly()

    def samples(self) -> Samples:
        """Return what converts those that are looked at."""
        return _Converting(self._source, self._datatype)


@dataclass(frozen=True, slots=True)
class NpyObject:
    """A .npy object in two pieces.

    `payload` holds the samples, `<c8` of shape `(n_samples,)`, or makes them; `crc32c` is that of header and payload
    together.
    """

    header: bytes
    payload: memoryview | Converted
    crc32c: int

    @property
    def size_bytes(self) -> int:
        """Length of the whole object [bytes]."""
        return len(self.header) + len(self.payload)

    def samples(self) -> Samples:
        """Samples, to be looked at in slices; read-only."""
        if isinstance(self.payload, Converted):
            return self.payload.samples()
        return np.frombuffer(self.payload, dtype="<c8")

    def parts(self) -> tuple[bytes, memoryview | Converted]:
        """Header and payload, as a store takes them."""
        return self.header, self.payload


def encode(measurement: Measurement, frame: Summed | None = None) -> NpyObject:
    """Make the .npy object of a measurement.

    Integer samples are converted to complex64 with full scale 1.0; `cf32_le` is taken as it is, to the bit (NaN
    payloads included), and not copied.

    Parameters
    ----------
    measurement
        What is encoded.
    frame
        That it was parsed from; with it the checksum of long `cf32_le` samples is that of the frame, reckoned over. Whoever
        checks the object against it then checks what was accepted, not what this process has read.
    """
    sent = memoryview(measurement.samples).cast("B")
    payload = _payload(sent, measurement.datatype)
    head = header(len(payload) // _SAMPLE_BYTES)
    if frame is not None and payload is sent and len(sent) >= _DERIVED_BYTES:
        return NpyObject(head, payload, crc32c_rehead(head, sent, frame))
    crc = crc32c(head)
    for block in (payload,) if isinstance(payload, memoryview) else payload:
        crc = crc32c_extend(crc, block)
    return NpyObject(head, payload, crc)


def _payload(source: memoryview, datatype: str) -> memoryview | Converted:
    if datatype == "cf32_le":
        return source
    converted = Converted(source, datatype)
    if len(converted) > WHOLE_MAX_BYTES:
        return converted
    return to_complex64(source, datatype).data.cast("B").toreadonly()


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
    convert = _converter(datatype)
    value_bytes = np.dtype(_SCALES[datatype][0]).itemsize
    sent = memoryview(payload)
    values = np.empty(len(sent) // value_bytes, dtype="<f4")
    # In blocks, straight into the result: what NumPy makes in between (indices of 8 bytes out of codes of one) stays
    # small and in the cache, which takes half the time.
    for start in range(0, len(values), _BLOCK):
        into = values[start : start + _BLOCK]
        convert(sent[start * value_bytes : (start + len(into)) * value_bytes], into)
    return values.view("<c8")


def _converter(datatype: str) -> Callable[[memoryview, npt.NDArray[np.float32]], object]:
    """What converts one block of values into floats of full scale 1.0."""
    source, middle, divisor = _SCALES[datatype]
    if np.dtype(source).itemsize > 1:
        # A power of two divides exactly in float32.
        factor = np.float32(1.0 / divisor)
        return lambda sent, into: np.multiply(np.frombuffer(sent, dtype=source), factor, out=into)
    # float64 for the division, then one rounding: the nearest float32 to the exact quotient, on every machine.
    # A table is quicker for 8 bits: there are only 256 quotients.
    codes = np.arange(256, dtype="u1").view(source).astype(np.float64)
    table = ((codes - middle) / divisor).astype("<f4")
    return lambda sent, into: np.take(table, np.frombuffer(sent, dtype="u1"), out=into, mode="clip")


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
