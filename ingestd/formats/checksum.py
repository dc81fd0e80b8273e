"""CRC32C of any buffer without a copy, and of part of a buffer without another pass over it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import google_crc32c

__all__ = ["Summed", "crc32c", "crc32c_extend", "crc32c_rehead"]

#: Castagnoli's polynomial, bit-reversed as the checksum is: bit 31 stands for 1, bit 30 for x.
_POLYNOMIAL = 0x82F63B78
_ONE, _X = 1 << 31, 1 << 30
#: x to this power is 1.
_PERIOD = 2**31 - 1

#: Distances whose powers are remembered: a network sends a few lengths of frames.
_MAX_DISTANCES = 64


class Summed(NamedTuple):
    """A buffer and its CRC32C."""

    buffer: bytes
    crc32c: int


def crc32c(buffer: bytes | memoryview) -> int:
    """CRC32C (Castagnoli) of a buffer."""
    return crc32c_extend(0, buffer)


def crc32c_extend(crc: int, buffer: bytes | memoryview) -> int:
    """Continue a CRC32C over one more buffer.

    google_crc32c takes `bytes` and NumPy arrays but refuses a memoryview; an array over the same memory costs nothing.
    """
    if isinstance(buffer, bytes) or not len(buffer):
        return int(google_crc32c.extend(crc, bytes(buffer)))
    # Here, because processes that never see a frame start 60 ms sooner without it.
    import numpy as np  # noqa: PLC0415

    return int(google_crc32c.extend(crc, np.frombuffer(buffer, np.uint8)))


def crc32c_rehead(head: bytes, part: memoryview, whole: Summed) -> int:
    """CRC32C of `head` followed by `part`, from that of a buffer that has the part in it.

    A checksum is linear in the bytes: what stands before the part is taken out and `head` put in its place, for a few
    microseconds, however long the part is.

    Parameters
    ----------
    head
        What is to stand before the part.
    part
        A view into the buffer of `whole`, of bytes.
    whole
        The other buffer.

    Raises
    ------
    ValueError
        The part is not in `whole`.
    """
    view, n_bytes = memoryview(whole.buffer), len(whole.buffer)
    start = _address(part) - _address(view) if len(part) else 0
    stop = start + len(part)
    if not 0 <= start <= stop <= n_bytes:
        raise ValueError("the part is no view into the whole")
    without_rest = whole.crc32c
    if stop < n_bytes:
        without_rest = _times(without_rest ^ crc32c(view[stop:]), _shift(stop - n_bytes))
    return without_rest ^ _times(crc32c(view[:start]) ^ crc32c(head), _shift(len(part)))


def _address(buffer: memoryview) -> int:
    import numpy as np  # noqa: PLC0415 - as above

    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


@lru_cache(maxsize=_MAX_DISTANCES)
def _shift(n_bytes: int) -> int:
    """Return what so many bytes behind it (negative: taken off its end) do to a checksum: x ** (8 * n_bytes)."""
    exponent = 8 * n_bytes % _PERIOD
    power, square = _ONE, _X
    while exponent:
        if exponent & 1:
            power = _times(power, square)
        square = _times(square, square)
        exponent >>= 1
    return power


def _times(a: int, b: int) -> int:
    """Product of two polynomials modulo Castagnoli's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product
