"""CRC32C of any buffer without a copy."""

from __future__ import annotations

import google_crc32c

__all__ = ["crc32c", "crc32c_extend"]


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
