"""Rejected frames, kept for a look: few, short, and never in the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ingestd.spool.layout import SpoolLayout

__all__ = ["RejectedSamples"]

#: Samples kept; the oldest gives way.
SAMPLES_MAX_COUNT = 100

#: Kept of one frame [bytes]: the map's keys and the first samples are in it.
SAMPLE_MAX_BYTES = 64 * 2**10

#: At most one sample of a reason in this time [ns], so that a flood costs no disk.
_MIN_INTERVAL_NS = 10**9


class RejectedSamples:
    """Writes samples of rejected frames to `rejected/`.

    Parameters
    ----------
    layout
        Of the spool.
    monotonic_ns
        Clock for the rate.
    """

    def __init__(self, layout: SpoolLayout, monotonic_ns: Callable[[], int]) -> None:
        self._directory = layout.rejected
        self._monotonic_ns = monotonic_ns
        self._last_ns: dict[str, int] = {}
        self._names = sorted(name for name in os.listdir(self._directory) if name.endswith(".frame"))

    def keep(self, frame: memoryview | bytes, reason: str, at_ns: int) -> str | None:
        """Keep the beginning of a frame; returns the file's name, or None where none was written.

        A disk error costs the sample, not the receiver.
        """
        now_ns = self._monotonic_ns()
        if now_ns - self._last_ns.get(reason, now_ns - _MIN_INTERVAL_NS) < _MIN_INTERVAL_NS:
            return None
        self._last_ns[reason] = now_ns
        name = f"{at_ns:020d}-{reason}.frame"
        try:
            with open(os.path.join(self._directory, name), "wb") as file:
                file.write(frame[:SAMPLE_MAX_BYTES])
        except OSError:
            return None
        self._names.append(name)
        while len(self._names) > SAMPLES_MAX_COUNT:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, self._names.pop(0)))
        return name
