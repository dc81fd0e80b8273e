"""Time difference of arrival between two captures: the measurement that all stored stamps and rates are kept for.

Pure NumPy. Each capture is band-limited and freed of its carrier in the frequency domain, interpolated onto one time
grid that both share, and cross-correlated; a parabola through the peak gives the fraction of a grid step.

Not done: resampling by the ratio of the rates. Real rates (12001.0256 Hz) are no ratio of small integers, so each grid
point gets its own position in the capture instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ingestd.errors import StoreCorrupt, UsageError, bounded
from ingestd.formats import metadata, npy
from ingestd.formats.measurement import Measurement

__all__ = ["Capture", "tdoa_s"]

#: Rate of the common time grid [Hz]; one step is 20.8 us.
GRID_HZ = 48_000.0
#: What is correlated: this far to both sides of the carrier [Hz].
BAND_HZ = 700.0
#: What is removed: a carrier correlates at every lag, so it would only flatten the peak [Hz].
CARRIER_HZ = 20.0
#: Largest difference looked for [s]: 3,000 km, more than the baseline of any two nodes of one network.
MAX_LAG_S = 0.010

_NS_PER_S = 10**9

#: Oversampling before cubic interpolation: at 24 samples per period of the highest frequency the interpolation is
#: wrong by less than 2e-4 of the amplitude, far below the noise of any capture.
_MIN_SAMPLES_PER_PERIOD = 24

#: Grid points correlated at a time: the FFT of one block takes 2 MiB.
_BLOCK_LENGTH = 131_072

#: The parabola needs a peak that is round on the scale of the grid: so many steps per period of the band's edge.
_MIN_STEPS_PER_PERIOD = 8


@dataclass(frozen=True, slots=True)
class Capture:
    """Samples of one receiver with what must be known of their time.

    Parameters
    ----------
    name
        Of the receiver, for tables and errors.
    samples
        Shape `(n_samples,)`, complex.
    timestamp_ns
        Stamp of sample 0 [ns since 1970, UTC], exact.
    sample_rate_hz
        True rate [Hz].
    frequency_hz
        Centre frequency [Hz].

    Raises
    ------
    UsageError
        In construction: no samples, a stamp that is no int, or a rate that is not positive and finite.
    """

    name: str
    samples: npt.NDArray[np.complexfloating[Any, Any]]
    timestamp_ns: int
    sample_rate_hz: float
    frequency_hz: float

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype.kind != "c" or not len(self.samples):
            shape = f"{self.samples.dtype} of shape {self.samples.shape}"
            raise UsageError(f"{self.name}: samples are {shape} (allowed: complex, one dimension, not empty)")
        # A float of epoch nanoseconds has steps of 256 ns; it is refused rather than rounded.
        if type(self.timestamp_ns) is not int:
            raise UsageError(f"{self.name}: timestamp_ns={bounded(self.timestamp_ns)} (allowed: int)")
        if not (math.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0):
            raise UsageError(
                f"{self.name}: sample_rate_hz={bounded(self.sample_rate_hz)} (allowed: finite, > 0)"
            )

    @property
    def duration_s(self) -> float:
        """Time from the first sample to the last [s]."""
        return (len(self.samples) - 1) / self.sample_rate_hz

    @classmethod
    def from_measurement(cls, measurement: Measurement) -> Self:
        """Take the capture out of a measurement that has stamp, rate and frequency.

        Raises
        ------
        UsageError
            One of them is None.
        """
        name = measurement.node or f"websdr_{measurement.websdr_id}"
        stamp_ns, rate_hz = measurement.timestamp_ns, measurement.sample_rate_hz
        if stamp_ns is None or rate_hz is None or measurement.frequency_hz is None:
            raise UsageError(f"{name}: a time difference needs timestamp_ns, sample_rate_hz and frequency_hz")
        return cls(name, npy.encode(measurement).samples()[:], stamp_ns, rate_hz, measurement.frequency_hz)

    @classmethod
    def from_objects(cls, samples: npt.NDArray[np.complex64], document: Mapping[str, Any]) -> Self:
        """Take the capture out of a stored pair: decoded .npy object and metadata document.

        Raises
        ------
        StoreCorrupt
            The document lacks stamp, rate or frequency.
        """
        stamp_ns, frequency_hz, rate_hz = metadata.content(dict(document))
        name = document.get("node") or f"websdr_{document.get('websdr_id')}"
        if stamp_ns is None or frequency_hz is None or rate_hz is None:
            raise StoreCorrupt(
                f"{bounded(name)}: the metadata lacks timestamp_ns, sample_rate_hz or frequency_hz"
            )
        return cls(str(name), samples, stamp_ns, rate_hz, frequency_hz)


def tdoa_s(
    a: Capture,
    b: Capture,
    *,
    band_hz: float = BAND_HZ,
    carrier_hz: float = CARRIER_HZ,
    grid_hz: float = GRID_HZ,
    max_lag_s: float = MAX_LAG_S,
) -> float:
    """Measure how much later the signal arrived at `a` than at `b` [s].

    Parameters
    ----------
    a, b
        Captures that overlap in time.
    band_hz
        Correlated to both sides of the centre frequency of `a` [Hz].
    carrier_hz
        Removed to both sides of it [Hz]; 0 removes nothing.
    grid_hz
        Rate of the common time grid [Hz].
    max_lag_s
        Largest difference looked for, either sign [s].

    Raises
    ------
    UsageError
        The band does not fit into a capture or the grid, the captures do not overlap by more than `max_lag_s`, one of
        them is silent or not finite in the band, or nothing correlates within `max_lag_s`.
    """
    if grid_hz < _MIN_STEPS_PER_PERIOD * band_hz:
        raise UsageError(f"grid_hz={grid_hz} (allowed: >= {_MIN_STEPS_PER_PERIOD} times band_hz={band_hz})")
    n_lags = math.ceil(max_lag_s * grid_hz)
    first_ns = max(a.timestamp_ns, b.timestamp_ns)
    end_s = min(_since_s(capture, first_ns) for capture in (a, b))
    n_points = math.floor(end_s * grid_hz)
    if n_points <= n_lags:
        raise UsageError(
            f"{a.name} and {b.name} overlap by {max(end_s, 0.0):.6f} s (allowed: > {max_lag_s} s)"
        )
    on_grid = [
        _OnGrid(capture, first_ns, grid_hz, _band_limited(capture, a.frequency_hz, band_hz, carrier_hz))
        for capture in (a, b)
    ]
    magnitude = np.abs(_correlation(on_grid[0], on_grid[1], n_points, n_lags))
    if not (np.isfinite(magnitude).all() and magnitude.any()):
        raise UsageError(f"{a.name} or {b.name} is silent or not finite within {band_hz} Hz of the carrier")
    top = int(magnitude.argmax())
    if top in (0, 2 * n_lags):
        raise UsageError(f"{a.name} and {b.name} do not correlate within max_lag_s={max_lag_s}")
    return (top + _rest(magnitude[top - 1 : top + 2]) - n_lags) / grid_hz


def _since_s(capture: Capture, first_ns: int) -> float:
    """Time from `first_ns` to the last sample [s]; the large numbers are subtracted as integers."""
    return (capture.timestamp_ns - first_ns) / _NS_PER_S + capture.duration_s


@dataclass(frozen=True, slots=True)
class _BandLimited:
    """Oversampled samples, shape `(n_samples * factor,)`, complex128."""

    samples: npt.NDArray[np.complex128]
    factor: int


def _band_limited(capture: Capture, centre_hz: float, band_hz: float, carrier_hz: float) -> _BandLimited:
    rate_hz = capture.sample_rate_hz
    offset_hz = centre_hz - capture.frequency_hz
    if abs(offset_hz) + band_hz > 0.5 * rate_hz:
        raise UsageError(
            f"{capture.name}: band_hz={band_hz} around {centre_hz} Hz reaches beyond its "
            f"{rate_hz} Hz around {capture.frequency_hz} Hz"
        )
    n_samples = len(capture.samples)
    factor = max(1, math.ceil(_MIN_SAMPLES_PER_PERIOD * band_hz / rate_hz))
    spectrum = np.fft.fft(capture.samples.astype(np.complex128))
    bins = np.fft.fftfreq(n_samples, 1.0 / n_samples).astype(np.int64)
    from_carrier_hz = np.abs(bins * (rate_hz / n_samples) - offset_hz)
    kept = (from_carrier_hz <= band_hz) & (from_carrier_hz >= carrier_hz)
    padded = np.zeros(n_samples * factor, dtype=np.complex128)
    # Negative bins index from the end, where the oversampled spectrum has them too. Moving to the common centre by
    # whole bins alone would leave up to half a bin of beat, so that the rest is turned back below.
    shift = round(offset_hz * n_samples / rate_hz)
    padded[bins[kept] - shift] = spectrum[kept]
    samples = np.fft.ifft(padded)
    rest_hz = offset_hz - shift * rate_hz / n_samples
    if rest_hz:
        samples *= np.exp(-2j * np.pi * rest_hz / (rate_hz * factor) * np.arange(len(samples)))
    return _BandLimited(samples, factor)


class _OnGrid:
    """A band-limited capture read at points of the common grid; silence outside of the capture."""

    def __init__(self, capture: Capture, first_ns: int, grid_hz: float, limited: _BandLimited) -> None:
        rate_hz = capture.sample_rate_hz * limited.factor
        self._samples = limited.samples
        self._origin = (first_ns - capture.timestamp_ns) / _NS_PER_S * rate_hz
        self._step = rate_hz / grid_hz

    def block(self, first: int, n_points: int) -> npt.NDArray[np.complex128]:
        """Values at grid points `first` to `first + n_points`, shape `(n_points,)`."""
        position = self._origin + self._step * np.arange(first, first + n_points, dtype=np.float64)
        base = np.floor(position).astype(np.int64)
        inside = (base >= 1) & (base < len(self._samples) - 2)
        base = np.where(inside, base, 1)
        values = _lagrange(self._samples, base, position - base)
        values[~inside] = 0.0
        return values


def _lagrange(
    samples: npt.NDArray[np.complex128], base: npt.NDArray[np.int64], t: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.complex128]:
    """Cubic through the four samples around `base + t`."""
    values: npt.NDArray[np.complex128] = samples[base - 1] * (-t * (t - 1.0) * (t - 2.0) / 6.0)
    values += samples[base] * ((t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0)
    values += samples[base + 1] * (-(t + 1.0) * t * (t - 2.0) / 2.0)
    values += samples[base + 2] * ((t + 1.0) * t * (t - 1.0) / 6.0)
    return values


def _correlation(a: _OnGrid, b: _OnGrid, n_points: int, n_lags: int) -> npt.NDArray[np.complex128]:
    """Cross-correlation at lags `-n_lags` to `n_lags`, shape `(2 * n_lags + 1,)`; a positive lag: `a` is later.

    Summed over blocks, because only a few milliseconds of lag are wanted of half a minute of signal: each block of `b`
    meets that of `a` with `n_lags` more points on both sides.
    """
    length = _BLOCK_LENGTH
    while length <= 4 * n_lags:
        length *= 2
    step = length - 2 * n_lags
    total = np.zeros(length, dtype=np.complex128)
    for first in range(0, n_points, step):
        n_block = min(step, n_points - first)
        wide = np.fft.fft(a.block(first - n_lags, n_block + 2 * n_lags), length)
        total += wide * np.conj(np.fft.fft(b.block(first, n_block), length))
    correlation: npt.NDArray[np.complex128] = np.fft.ifft(total)[: 2 * n_lags + 1]
    return correlation


def _rest(around: npt.NDArray[np.float64]) -> float:
    """Fraction of a step from the largest of three values to the top of the parabola through them."""
    before, at, after = (float(value) for value in around)
    curvature = before - 2.0 * at + after
    return 0.5 * (before - after) / curvature if curvature else 0.0
