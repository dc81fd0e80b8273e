"""Quality figures of a buffer: level, clipping, noise, SNR and frequency offset, by the definition in docs/quality.md.

One definition, so that two receivers get the same figure for the same signal. The time-domain figures are here, the
spectral ones rest on `spectrum`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingestd.formats.measurement import Measurement
from ingestd.formats.npy import Samples
from ingestd.formats.spectrum import (
    MIN_SAMPLES,
    SINGLE_PRECISION_RANGE,
    Passband,
    Spectrum,
    estimate,
    excess_db,
    find_passband,
    quantisation_step,
    tone_bin,
)

__all__ = ["Calibration", "Figures", "Receiver", "measure"]

#: Aligned block whose mean power is that of a burst [samples].
_BURST_BLOCK = 64
#: Samples squared at once: a whole number of burst blocks, and the squares stay in the second-level cache.
_CHUNK = 512 * _BURST_BLOCK

#: Row in which samples are summed [samples]: at most 64 of them are added up in single precision.
_ROW = 512

#: Powers of a largest sample between which squares are summed in float32 as they are; other samples are scaled by a power
#: of two before.
_SAFE_POWER = (2.0**-40, 2.0**40)

#: A float sample this close to the rail counts as clipped: drivers differ in what they divide by.
_FLOAT_RAIL = 0.995

#: Source codes on a rail, by datatype: (NumPy type, at most, at least).
_RAILS: dict[str, tuple[str, int, int]] = {
    "cu8": ("u1", 0, 255),
    "ci8": ("i1", -127, 127),
    "ci16_le": ("<i2", -32767, 32767),
}

#: Digits that are kept of levels [dB], ratios [dB], widths and offsets [Hz].
_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """Level calibration of one band: power_dbm = power_dbfs + `offset_db`.

    Parameters
    ----------
    min_hz, max_hz
        Centre frequencies it holds for, `max_hz` excluded [Hz].
    offset_db
        dBm of a tone of full scale.
    gain_db
        Only for measurements at exactly this gain; None = any.
    """

    min_hz: float
    max_hz: float
    offset_db: float
    gain_db: float | None = None

    def applies(self, frequency_hz: float | None, gain_db: float | None) -> bool:
        """Whether a measurement at this centre frequency [Hz] and gain is calibrated by this entry."""
        if frequency_hz is None or not self.min_hz <= frequency_hz < self.max_hz:
            return False
        return self.gain_db is None or self.gain_db == gain_db


@dataclass(frozen=True, slots=True)
class Receiver:
    """What the registry knows of a receiver: `calibration` (the first entry that applies counts) and passband [Hz]."""

    calibration: tuple[Calibration, ...]
    bandwidth_hz: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Quality figures of one measurement; None where undefined or not asked for.

    dB and Hz are rounded to 0.01; a level of 0 dBFS is a tone of magnitude 1. `bandwidth_hz` is the width of the
    passband that noise and SNR were taken in, `bandwidth_source` where it came from.
    """

    nonfinite_count: int
    power_dbfs: float | None = None
    peak_dbfs: float | None = None
    dc_offset_dbfs: float | None = None
    clipped_fraction: float | None = None
    power_dbm: float | None = None
    noise_dbfs_hz: float | None = None
    bandwidth_hz: float | None = None
    bandwidth_source: str | None = None
    snr_db: float | None = None
    burst_snr_db: float | None = None
    frequency_offset_hz: float | None = None


class _Signal(NamedTuple):
    # Finite samples, not silent, scaled so that squares are safe in float32; 2**exponent times them is what was given.
    # Then mean, largest and largest block mean (0 where there is no whole block) of their I^2 + Q^2, and the power of
    # their mean.
    samples: Samples
    exponent: int
    mean: float
    peak: float
    burst: float
    dc: float

    def dbfs(self, power: float) -> float:
        return _db(power) + _db(4.0**self.exponent)


class _Spectral(NamedTuple):
    noise_dbfs_hz: float | None = None
    bandwidth_hz: float | None = None
    bandwidth_source: str | None = None
    snr_db: float | None = None
    burst_snr_db: float | None = None
    frequency_offset_hz: float | None = None


class _Scaled:
    """Samples times 2**-exponent, slice by slice."""

    def __init__(self, samples: Samples, exponent: int) -> None:
        self._samples = samples
        self._exponent = exponent

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.complex64]:
        scaled = np.ldexp(self._samples[part].view(np.float32), -self._exponent)
        return scaled.view(np.complex64)


def measure(
    measurement: Measurement, samples: Samples, receiver: Receiver | None, *, spectral: bool
) -> Figures:
    """Measure the quality of a buffer.

    Any content is measured without an exception or a warning; what is undefined is None.

    Parameters
    ----------
    measurement
        Where the samples came from; its payload holds the source integers that clipping is counted on.
    samples
        The same samples as complex64, full scale 1.0; looked at in slices and not written to, so that nothing is held that
        grows with them.
    receiver
        Of the registered node, or None.
    spectral
        Whether noise, SNR and frequency offset are wanted; they cost three quarters of the time.

    Returns
    -------
    Figures
        With `nonfinite_count` > 0 nothing else is defined. Silence has no level.
    """
    if isinstance(samples, np.ndarray):
        samples = np.ascontiguousarray(samples)
    # NaN sets floating-point flags on some processors and NumPy releases; it is looked for in the results instead.
    with np.errstate(all="ignore"):
        with_spectrum = spectral and len(samples) >= MIN_SAMPLES
        signal = _signal(samples, 0)
        if signal is None:
            largest = _largest_component(samples)
            if not math.isfinite(largest):
                return Figures(sum(int(np.count_nonzero(~np.isfinite(part))) for part in _parts(samples)))
            if not len(samples):
                return Figures(0)
            if largest == 0.0:
                return Figures(0, clipped_fraction=_clipped_count(measurement, samples, 0.0) / len(samples))
            exponent = math.frexp(largest)[1]
            signal = _signal(_Scaled(samples, exponent), exponent)
            assert signal is not None
        clipped = _clipped_count(measurement, samples, signal.peak * 4.0**signal.exponent) / len(samples)
        found = _Spectral()
        if with_spectrum:
            step = quantisation_step(samples, measurement.datatype)
            found = _measure_spectrum(measurement, receiver, signal, math.ldexp(step, -signal.exponent))
    power_dbfs = signal.dbfs(signal.mean)
    return Figures(
        nonfinite_count=0,
        power_dbfs=_rounded(power_dbfs),
        peak_dbfs=_rounded(signal.dbfs(signal.peak)),
        dc_offset_dbfs=_rounded(signal.dbfs(signal.dc)) if signal.dc > 0.0 else None,
        clipped_fraction=clipped,
        power_dbm=_power_dbm(measurement, receiver, power_dbfs),
        **found._asdict(),
    )


def _measure_spectrum(
    measurement: Measurement, receiver: Receiver | None, signal: _Signal, step: float
) -> _Spectral:
    rate_hz = measurement.sample_rate_hz
    spectrum, passband, noise_of_bin = _find_noise(measurement, receiver, signal, step)
    noise = noise_of_bin * passband.n_bins
    total = float(spectrum.mean.sum())
    # Segments with gaps between them may all miss a short burst.
    share = float(spectrum.mean[passband.bins].sum()) / total if total > 0.0 else 0.0
    offset_bins = tone_bin(spectrum, passband, noise_of_bin, signal.mean * share - noise)
    found = _Spectral(
        bandwidth_source=passband.source,
        snr_db=_rounded(excess_db(signal.mean * share, noise)),
        burst_snr_db=_rounded(excess_db(signal.burst * share, noise)),
    )
    bin_hz = 0.0 if rate_hz is None else rate_hz / spectrum.n_bins
    if not bin_hz:
        return found
    return found._replace(
        noise_dbfs_hz=_rounded(signal.dbfs(noise_of_bin) - _db(bin_hz)) if noise_of_bin > 0.0 else None,
        bandwidth_hz=_rounded(passband.n_bins * bin_hz),
        frequency_offset_hz=None if offset_bins is None else _rounded(offset_bins * bin_hz),
    )


def _find_noise(
    measurement: Measurement, receiver: Receiver | None, signal: _Signal, step: float
) -> tuple[Spectrum, Passband, float]:
    # Double precision takes twice the time, and few signals stand so far above their noise that it is needed.
    registry_hz = None if receiver is None else receiver.bandwidth_hz
    for precision in (np.float32, np.float64):
        spectrum = estimate(signal.samples, precision)
        passband = find_passband(
            spectrum, step, measurement.sample_rate_hz, measurement.bandwidth_hz, registry_hz
        )
        noise_of_bin = spectrum.noise_in(passband)
        if noise_of_bin >= SINGLE_PRECISION_RANGE * float(spectrum.mean.mean()):
            break
    return spectrum, passband, noise_of_bin


def _db(power: float) -> float:
    return 10.0 * math.log10(power)


def _rounded(value: float | None) -> float | None:
    # Adding zero turns -0.0, which not every JSON reader keeps apart, into 0.0.
    return None if value is None else round(value, _DIGITS) + 0.0


def _parts(samples: Samples) -> Iterator[npt.NDArray[np.complex64]]:
    for start in range(0, len(samples), _CHUNK):
        yield samples[start : start + _CHUNK]


def _largest_component(samples: Samples) -> float:
    # Largest |I| or |Q|; NaN and infinity come through, so one pass also tells whether all is finite.
    largest = 0.0
    for part in _parts(samples):
        values = part.view(np.float32)
        high, low = float(values.max()), float(values.min())
        if math.isnan(high + low):
            return math.nan
        largest = max(largest, high, -low)
    return largest


def _signal(samples: Samples, exponent: int) -> _Signal | None:
    """Power, in one pass over the samples; None where their squares are not finite or not safe in float32."""
    squares = np.empty(2 * min(len(samples), _CHUNK), np.float32)
    powers = np.empty(len(squares) // 2, np.float32)
    total, peak, burst, sums = 0.0, 0.0, 0.0, 0j
    for part in _parts(samples):
        square = np.square(part.view(np.float32), out=squares[: 2 * len(part)])
        power = np.add(square[0::2], square[1::2], out=powers[: len(part)])
        highest = float(np.maximum.reduce(power))
        if not highest <= _SAFE_POWER[1]:
            return None
        peak = max(peak, highest)
        sums += _sum(part)
        n_whole = len(power) - len(power) % _BURST_BLOCK
        # einsum adds up the short rows of blocks in a third of the time of sum.
        blocks = np.einsum("ij->i", power[:n_whole].reshape(-1, _BURST_BLOCK))
        total += float(np.add.reduce(blocks, dtype=np.float64))
        if n_whole < len(power):
            total += float(np.add.reduce(power[n_whole:], dtype=np.float64))
        burst = max(burst, float(np.maximum.reduce(blocks, initial=0.0)))
    if peak < _SAFE_POWER[0]:
        return None
    n_samples = len(samples)
    return _Signal(
        samples, exponent, total / n_samples, peak, burst / _BURST_BLOCK, abs(sums / n_samples) ** 2
    )


def _sum(part: npt.NDArray[np.complex64]) -> complex:
    """Sum of the samples: rows are added to rows first, which is quicker than pair by pair."""
    n_whole = len(part) - len(part) % _ROW
    rows = np.add.reduce(part[:n_whole].view(np.float32).reshape(-1, 2 * _ROW), axis=0)
    rest = np.add.reduce(part[n_whole:], dtype=np.complex128)
    return complex(np.add.reduce(rows.view(np.complex64), dtype=np.complex128) + rest)


def _clipped_count(measurement: Measurement, samples: Samples, peak: float) -> int:
    if measurement.datatype not in _RAILS:
        # No component is larger than the magnitude; the rounding of a square is far below the margin.
        if peak < (_FLOAT_RAIL - 0.001) ** 2:
            return 0
        rail = np.float32(_FLOAT_RAIL)
        return sum(_count_either(np.abs(part.view(np.float32)) >= rail) for part in _parts(samples))
    kind, low, high = _RAILS[measurement.datatype]
    codes = np.frombuffer(measurement.samples, dtype=kind)
    if codes.min() > low and codes.max() < high:
        return 0
    parts = (codes[start : start + 2 * _CHUNK] for start in range(0, len(codes), 2 * _CHUNK))
    return sum(_count_either((part <= low) | (part >= high)) for part in parts)


def _count_either(on_rail: npt.NDArray[np.bool_]) -> int:
    # I and Q lie side by side: a pair of bools that is not 0 as a 16-bit integer has at least one on a rail.
    return int(np.count_nonzero(on_rail.view(np.uint16)))


def _power_dbm(measurement: Measurement, receiver: Receiver | None, power_dbfs: float) -> float | None:
    for entry in () if receiver is None else receiver.calibration:
        if entry.applies(measurement.frequency_hz, measurement.gain_db):
            return _rounded(power_dbfs + entry.offset_db)
    return None
