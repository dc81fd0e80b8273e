"""Measurements to send: noise that differs from frame to frame and is the same at every run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingestd.formats.measurement import Measurement

__all__ = ["RATE_HZ", "T0_NS", "noise"]

#: Stamp of the first frame [ns since 1970]: 2026-09-21T14:13:20.123456789Z, all nine digits in use.
T0_NS = 1_790_000_000_123_456_789

#: A real KiwiSDR's sample rate [Hz].
RATE_HZ = 12001.1321


def noise(
    task_id: str, websdr_id: int = 1, *, n_samples: int = 1000, seed: int = 0, **fields: Any
) -> Measurement:
    """A measurement of complex white noise at -17 dBFS.

    Parameters
    ----------
    task_id, websdr_id
        Identity.
    n_samples
        Length [samples].
    seed
        Chooses the samples, and moves the stamp by as many nanoseconds.
    fields
        Other fields of the measurement.
    """
    rng = np.random.default_rng([seed, websdr_id])
    iq = (rng.standard_normal(n_samples) + 1j * rng.standard_normal(n_samples)).astype("<c8") * np.float32(
        0.1
    )
    values = {"timestamp_ns": T0_NS + seed, "frequency_hz": 77500.0, "sample_rate_hz": RATE_HZ} | fields
    values.setdefault("frequency_mhz", values["frequency_hz"] / 1e6)
    values.setdefault("sample_rate_khz", values["sample_rate_hz"] / 1e3)
    return Measurement(task_id=task_id, websdr_id=websdr_id, samples=iq.tobytes(), **values)
