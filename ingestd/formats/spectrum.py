"""Spectrum, noise floor, passband and SNR of a buffer, by the definition in docs/quality.md.

Everything is kept as power per bin (full scale 1.0) instead of power per hertz, so that no figure but those in hertz
depends on the sample rate, and none overflows with it: the density of a bin is its power times `n_bins / rate`.
Bins ascend in frequency; bin `n_bins // 2` is the centre frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.formats.medians import SegmentMedians, median
from ingestd.formats.npy import Samples

__all__ = [
    "MIN_SAMPLES",
    "SINGLE_PRECISION_RANGE",
    "Passband",
    "Spectrum",
    "estimate",
    "excess_db",
    "find_passband",
    "quantisation_step",
    "tone_bin",
]

#: Fewer samples than seven segments of 64 tell no noise floor [samples].
MIN_SAMPLES = 448

#: Noise in a bin over mean power in a bin that float32 is good for: it rounds at about -150 dB of the whole power, which
#: moves noise at -60 dB by at most 0.002 dB.
SINGLE_PRECISION_RANGE = 1e-6

#: Longest segment [samples]: 0.5 kHz a bin at 2 MHz, and 29 of them in a buffer of a megabyte.
_MAX_SEGMENT = 4096
#: A median over fewer segments jumps by more than the 0.05 dB that two implementations may differ by.
_MIN_SEGMENTS = 7
#: More segments cost time and no longer move the figures; odd, so that the median is one of them.
_MAX_SEGMENTS = 63

#: Added to each row of powers [float32]: rows a power of two apart all lie in the same few sets of a cache, and walking
#: down a column then takes three times as long.
_PADDING = 16
#: NumPy before 2.0 has no output argument, and always transforms in double precision.
_TRANSFORMS_IN_PLACE = int(np.__version__.split(".")[0]) >= 2

#: The median of an exponential distribution is ln 2 times its mean: unbiased for white noise.
_MEDIAN_OF_NOISE = math.log(2.0)

#: Sub-bands in which a channel filter is looked for; the shortest segment has one bin in each.
_N_SUBBANDS = 64
#: Rank of the sub-band that stands for the floor: a tenth of the band is enough to see it.
_FLOOR_RANK = 7
#: A floor within 6 dB of rounding noise is that of the converter and not of the air.
_ROUNDING_MARGIN = 4.0
#: A passband stands out by 20 dB; less is a slope.
_PASSBAND_RISE = 100.0

#: Pin must exceed the noise by 5 %, or the difference is mostly estimation error.
_MIN_EXCESS = 1.05
#: A carrier stands 6 dB over the noise density in its bin: noise alone does not, over seven segments and more.
_CARRIER_RISE = 4.0
#: Bins on each side of a carrier that its energy may leak into (Hann window).
_CARRIER_REACH = 2

#: Samples looked at to tell the step of a float recording.
_STEP_SAMPLES = 4096
#: Largest distance from the 127.5 lattice [steps]: float32 division leaves 1e-5, other data is far off.
_STEP_TOLERANCE = 1e-3
#: Values looked at before all of them.
_STEP_GLANCE = 8
#: Lattices of float recordings in the order they are tried: steps per unit, shift [steps], tolerance [steps].
_LATTICES = ((128.0, 0.0, 0.0), (32768.0, 0.0, 0.0), (127.5, 0.5, _STEP_TOLERANCE))
_STEPS = {"ci16_le": 1 / 32768, "ci8": 1 / 128, "cu8": 1 / 127.5}


@dataclass(frozen=True, slots=True)
class Passband:
    """Bins `first` to `stop` - 1 of a spectrum, and where they came from: frame, detected, registry or full."""

    first: int
    stop: int
    source: str

    @property
    def n_bins(self) -> int:
        """Number of bins inside."""
        return self.stop - self.first

    @property
    def bins(self) -> slice:
        """Index of the bins inside."""
        return slice(self.first, self.stop)


class Spectrum:
    """Two estimates of the power in each bin (full scale 1.0), shape `(n_bins,)`, float64, frequency ascending.

    Parameters
    ----------
    mean
        Average over the segments: holds all energy.
    floor
        Median over the segments over ln 2: holds what is there most of the time. Given as such, or as the medians and
        what they are to be multiplied by: then it is found only when it is asked for.
    """

    def __init__(
        self, mean: npt.NDArray[np.float64], floor: npt.NDArray[np.float64] | tuple[SegmentMedians, float]
    ) -> None:
        self.mean = mean
        self._floor = floor

    @property
    def floor(self) -> npt.NDArray[np.float64]:
        """Median over the segments over ln 2."""
        if isinstance(self._floor, tuple):
            medians, unit = self._floor
            self._floor = _ascending(medians.of_every_bin(), unit)
        return self._floor

    @property
    def n_bins(self) -> int:
        """Number of bins; each is the sample rate over this wide."""
        return len(self.mean)

    def noise_in(self, passband: Passband) -> float:
        """Noise power in one bin: the median of `floor` over the passband."""
        if isinstance(self._floor, tuple) and passband.n_bins == self.n_bins:
            medians, unit = self._floor
            return medians.median() * unit
        return float(median(self.floor[passband.bins]))


@lru_cache(maxsize=8)
def _window(n_bins: int) -> tuple[npt.NDArray[np.float64], float]:
    # Periodic Hann, each value twice, so that I and Q are weighted in one real multiplication.
    weights = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_bins) / n_bins)
    pairs = np.repeat(weights, 2)
    pairs.flags.writeable = False
    return pairs, float(np.square(weights).sum())


def _segment_length(n_samples: int) -> int:
    length = _MAX_SEGMENT
    while n_samples < _MIN_SEGMENTS * length:
        length //= 2
    return length


def estimate(samples: Samples, precision: type[np.floating] = np.float32) -> Spectrum:
    """Estimate the spectrum from up to 63 segments spread evenly over the buffer.

    Parameters
    ----------
    samples
        At least `MIN_SAMPLES`, finite, within about 2**20 of full scale (squares of
        sums are taken in `precision`).
    precision
        What everything is computed in: np.float32 holds a floor down to `SINGLE_PRECISION_RANGE`, np.float64 any.
    """
    n_bins = _segment_length(len(samples))
    n_segments = min(len(samples) // n_bins, _MAX_SEGMENTS)
    n_segments -= 1 - n_segments % 2
    starts = [i * (len(samples) - n_bins) // (n_segments - 1) for i in range(n_segments)]
    weights, energy = _window(n_bins)
    window = weights.astype(precision)
    # One block for both: several of nearly its size are given back to the kernel by an allocator as it comes, and faulting
    # them in again for each buffer costs more than the transforms.
    block = np.empty((3 * n_segments, n_bins + _PADDING), precision)
    power = block[:n_segments, :n_bins]
    weighted = block[n_segments:].reshape(n_segments, -1)[:, : 2 * n_bins]
    _weigh(samples, starts, window, weighted)
    transformed = _transform(weighted.view(np.result_type(precision, np.complex64)))
    parts = transformed.view(transformed.real.dtype)
    np.square(parts, out=parts)
    np.add(parts[:, 0::2], parts[:, 1::2], out=power)
    return Spectrum(
        _ascending(power.sum(axis=0), 1.0 / (energy * n_segments)),
        (SegmentMedians(power), 1.0 / (energy * _MEDIAN_OF_NOISE)),
    )


def _weigh(
    samples: Samples,
    starts: list[int],
    window: npt.NDArray[np.floating],
    weighted: npt.NDArray[np.floating],
) -> None:
    """Multiply segments that begin at `starts` by the window."""
    step = starts[1] - starts[0]
    if isinstance(samples, np.ndarray) and starts[-1] == step * (len(starts) - 1):
        # Evenly spaced, as in a buffer of 125,000: one call instead of one for each, half the time.
        values = samples.view(np.float32)
        shape, strides = weighted.shape, (2 * step * values.itemsize, values.itemsize)
        np.multiply(
            np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False), window, out=weighted
        )
        return
    for row, start in zip(weighted, starts, strict=True):
        np.multiply(samples[start : start + len(row) // 2].view(np.float32), window, out=row)


def _transform(segments: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complexfloating]:
    # Without a scale NumPy 2 transforms complex64 in double precision (its integer 1 picks the first loop there is); with
    # one it takes half the time.
    place: dict[str, Any] = {"out": segments} if _TRANSFORMS_IN_PLACE else {}
    return np.fft.fft(segments, axis=1, norm="ortho", **place)


def _ascending(power: npt.NDArray[np.floating], unit: float) -> npt.NDArray[np.float64]:
    # From the order of the transform to ascending frequency: np.fft.fftshift, conversion and unit without copies between.
    half = len(power) // 2
    shifted = np.empty(len(power))
    shifted[:half] = power[half:]
    shifted[half:] = power[:half]
    shifted *= unit
    return shifted


def quantisation_step(samples: Samples, datatype: str) -> float:
    """Step of the converter that the samples came from, full scale 1.0; 0.0 where it cannot be told.

    Parameters
    ----------
    samples
        Finite; only the first 4096 are looked at, and only for `cf32_le`.
    datatype
        Out of `measurement.DATATYPES`.
    """
    if datatype in _STEPS:
        return _STEPS[datatype]
    looked_at = samples[:_STEP_SAMPLES].view(np.float32)
    first = looked_at[:_STEP_GLANCE].tolist()
    for per_unit, shift, tolerance in _LATTICES:
        # The first few values tell nearly always that samples lie on no lattice, in a tenth of the time.
        if all(abs(math.remainder(value * per_unit - shift, 1.0)) <= tolerance for value in first):
            codes = looked_at * np.float64(per_unit) - shift
            if (np.abs(codes - np.rint(codes)) <= tolerance).all():
                return 1.0 / per_unit
    return 0.0


def find_passband(
    spectrum: Spectrum, step: float, rate_hz: float | None, frame_hz: float | None, registry_hz: float | None
) -> Passband:
    """Choose the passband: that of the frame, else a detected one, else that of the registry, else the full band.

    Parameters
    ----------
    spectrum
        Of the buffer.
    step
        `quantisation_step`, in the units of the spectrum.
    rate_hz
        Sample rate [Hz]; where it is None a width in hertz cannot be placed and is passed over.
    frame_hz, registry_hz
        Widths, centred, as sent with the frame and as registered for the node [Hz], or None.
    """
    if frame_hz is not None and rate_hz is not None:
        return _centred(spectrum.n_bins, frame_hz / rate_hz, "frame")
    detected = _detect(spectrum, step)
    if detected is not None:
        return detected
    if registry_hz is not None and rate_hz is not None:
        return _centred(spectrum.n_bins, registry_hz / rate_hz, "registry")
    return Passband(0, spectrum.n_bins, "full")


def _centred(n_bins: int, share: float, source: str) -> Passband:
    centre = n_bins // 2
    reach = int(min(share, 1.0) * centre)
    return Passband(centre - reach, min(centre + reach + 1, n_bins), source)


def _detect(spectrum: Spectrum, step: float) -> Passband | None:
    if step <= 0.0:
        return None
    levels = median(spectrum.floor.reshape(_N_SUBBANDS, -1))
    floor = float(np.partition(levels, _FLOOR_RANK - 1)[_FLOOR_RANK - 1])
    highest = float(levels.max())
    # Rounding to steps of I and of Q is noise of step**2 / 6, spread evenly over the bins.
    rounding = step * step / (6.0 * spectrum.n_bins)
    if highest <= 0.0 or floor > _ROUNDING_MARGIN * rounding or highest < _PASSBAND_RISE * floor:
        return None
    inside = levels > math.sqrt(floor) * math.sqrt(highest)
    first = stop = int(levels.argmax())
    while first > 0 and inside[first - 1]:
        first -= 1
    while stop < _N_SUBBANDS and inside[stop]:
        stop += 1
    width = spectrum.n_bins // _N_SUBBANDS
    return Passband(first * width, stop * width, "detected")


def excess_db(power: float, noise: float) -> float | None:
    """SNR [dB] of a power that includes the noise; None where there is no noise or hardly more than noise."""
    if noise <= 0.0 or power <= _MIN_EXCESS * noise:
        return None
    return 10.0 * math.log10((power - noise) / noise)


def tone_bin(spectrum: Spectrum, passband: Passband, noise: float, signal: float) -> float | None:
    """Find the carrier: its distance from the centre frequency [bins], None where no one carrier holds the signal.

    Parameters
    ----------
    spectrum
        Of the buffer.
    passband
        Where to look; the neighbours of its edge bins may lie outside, and wrap around at the ends of the band.
    noise
        Noise power in one bin.
    signal
        Power of the whole signal, without noise; a burst or a modulated one has less than half of it in five bins.
    """
    mean = spectrum.mean
    peak = passband.first + int(mean[passband.bins].argmax())
    if mean[peak] <= 0.0 or mean[peak] < _CARRIER_RISE * noise:
        return None
    around = mean.take(range(peak - _CARRIER_REACH, peak + _CARRIER_REACH + 1), mode="wrap")
    if around.sum() - len(around) * noise < 0.5 * signal:
        return None
    return peak - spectrum.n_bins // 2 + _vertex(*around[_CARRIER_REACH - 1 : _CARRIER_REACH + 2].tolist())


def _vertex(before: float, middle: float, after: float) -> float:
    # On the logarithm, where the main lobe of the window is close to a parabola. A neighbour of exactly zero (an ideal
    # tone of a few bins) counts as very low.
    lowest = middle * 1e-30
    if lowest == 0.0:
        return 0.0
    left = math.log(max(before, lowest) / middle)
    right = math.log(max(after, lowest) / middle)
    if left + right >= 0.0:
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (left - right) / (left + right)))
