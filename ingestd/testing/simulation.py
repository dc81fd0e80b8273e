"""Simulated receivers around a simulated transmitter, whose time differences are known exactly.

The transmitted phase is a function that can be evaluated at any time (a cubic B-spline through pseudo-random values on
a slowly wandering carrier). Each receiver evaluates it at the moments its own samples left the transmitter, so that
delays, rates and stamps are never rounded to a sample.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table

from ingestd.errors import UsageError, bounded
from ingestd.formats.measurement import Measurement
from ingestd.testing.tdoa import MAX_LAG_S, Capture, tdoa_s

__all__ = ["SPEED_OF_LIGHT_M_S", "Position", "Row", "Scene", "render", "report", "ring", "table"]

#: In vacuum [m/s], exact by the definition of the metre; air is 0.03 % slower, which no receiver here resolves.
SPEED_OF_LIGHT_M_S = 299_792_458.0

#: WGS 84 ellipsoid: semi-major axis [m] and flattening.
_SEMI_MAJOR_M = 6_378_137.0
_FLATTENING = 1.0 / 298.257223563

#: Angle between neighbours of `ring` [rad]: the golden angle, so that any number of receivers is spread evenly.
_GOLDEN_ANGLE_RAD = math.pi * (3.0 - math.sqrt(5.0))

#: Amplitude of the carrier, full scale 1.0 (-12 dBFS): 12 dB of headroom for noise.
_AMPLITUDE = 0.25
#: Standard deviation of the phase values [rad]: most of the power is in the modulation, little in the carrier.
_DEVIATION_RAD = 2.0
#: One cycle of the wander, in sessions: slow enough to see a line move over a waterfall.
_WANDER_PERIOD_SESSIONS = 60
#: Receivers start within this time of each other [ns], as ones triggered over a network do.
_START_SPREAD_NS = 5_000_000
#: One sigma that a GNSS receiver claims for its stamps [ns].
_SIGMA_NS = 50.0

_NS_PER_S = 10**9

#: What a random stream is for; part of its key, so that streams never share values.
_MODULATION, _NOISE, _START, _RATE = range(4)


class Position(NamedTuple):
    """A place on the WGS 84 ellipsoid [degrees]."""

    latitude_deg: float
    longitude_deg: float


def ring(centre: Position, n_receivers: int) -> tuple[Position, ...]:
    """Spread receivers around a place at 12 to 40 km, no two alike.

    Parameters
    ----------
    centre
        Usually the transmitter.
    n_receivers
        How many.
    """
    metres_per_deg = math.radians(_SEMI_MAJOR_M)
    positions = []
    for index in range(n_receivers):
        distance_m = 12_000.0 + 7_000.0 * (index % 5)
        north_deg = distance_m * math.cos(index * _GOLDEN_ANGLE_RAD) / metres_per_deg
        east_deg = distance_m * math.sin(index * _GOLDEN_ANGLE_RAD) / metres_per_deg
        positions.append(
            Position(
                centre.latitude_deg + north_deg,
                centre.longitude_deg + east_deg / math.cos(math.radians(centre.latitude_deg)),
            )
        )
    return tuple(positions)


_CENTRE = Position(45.0, 9.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A transmitter and receivers around it; everything follows from these values, reproducibly.

    Parameters
    ----------
    transmitter, receivers
        Where they are; receiver `i` is node `sim-{i + 1}` with receiver id `i + 1`.
    frequency_hz
        Centre frequency of all receivers, where the carrier is [Hz].
    sample_rate_hz, rate_spread_ppm
        Nominal rate [Hz]; the true one of each receiver is up to that much off.
    snr_db
        Of the signal over the noise in the whole of the sampled bandwidth [dB].
    seed
        Of everything random.
    bandwidth_hz
        To both sides of the carrier, where the modulation's spectrum has its first null [Hz].
    wander_hz
        How far the carrier moves from the centre in the course of 60 sessions [Hz].
    name
        Begins the name of every node and session.

    Raises
    ------
    UsageError
        In construction: no receivers, or a bandwidth that the sample rate cannot hold.
    """

    transmitter: Position = _CENTRE
    receivers: tuple[Position, ...] = ring(_CENTRE, 3)
    frequency_hz: float = 145_500_000.0
    sample_rate_hz: float = 48_000.0
    rate_spread_ppm: float = 20.0
    snr_db: float = 20.0
    seed: int = 1
    bandwidth_hz: float = 3_000.0
    wander_hz: float = 5.0
    name: str = "sim"

    def __post_init__(self) -> None:
        if not self.receivers:
            raise UsageError("receivers=() (allowed: one or more)")
        if not 0.0 < self.bandwidth_hz <= 0.4 * self.sample_rate_hz:
            raise UsageError(f"bandwidth_hz={self.bandwidth_hz} (allowed: > 0, <= 0.4 times the sample rate)")

    def node(self, index: int) -> str:
        """Name of the node at receiver `index` (from 0)."""
        return f"{self.name}-{index + 1}"

    def delay_s(self, index: int) -> float:
        """Time from the transmitter to receiver `index` along the straight line [s]."""
        return _distance_m(self.transmitter, self.receivers[index]) / SPEED_OF_LIGHT_M_S

    def rate_hz(self, index: int) -> float:
        """True sample rate of receiver `index` [Hz]."""
        ppm = float(self._random(_RATE, index).uniform(-self.rate_spread_ppm, self.rate_spread_ppm))
        return self.sample_rate_hz * (1.0 + 1e-6 * ppm)

    def true_tdoa_s(self, a: int, b: int) -> float:
        """How much later the signal arrives at receiver `a` than at `b` [s]."""
        return self.delay_s(a) - self.delay_s(b)

    def session(self, k: int, start_ns: int, *, n_samples: int = 48_000) -> tuple[Measurement, ...]:
        """Session `k` as all receivers see it.

        Parameters
        ----------
        k
            Number of the session: another modulation and noise for each.
        start_ns
            When it begins [ns since 1970, UTC]; each receiver begins up to 5 ms later, and says so in its stamp.
        n_samples
            Of each receiver.
        """
        return tuple(
            self.measurement(k, start_ns, index, n_samples=n_samples) for index in range(len(self.receivers))
        )

    def measurement(self, k: int, start_ns: int, index: int, *, n_samples: int = 48_000) -> Measurement:
        """Session `k` as receiver `index` sees it: that member of `session`, to the bit."""
        after_ns = int(self._random(_START, k, index).integers(_START_SPREAD_NS))
        rate_hz = self.rate_hz(index)
        position = self.receivers[index]
        return Measurement(
            task_id=f"{self.name}-{start_ns}-{k}",
            websdr_id=index + 1,
            samples=self._samples(k, index, after_ns, n_samples).tobytes(),
            timestamp_ns=start_ns + after_ns,
            frequency_hz=self.frequency_hz,
            frequency_mhz=self.frequency_hz / 1e6,
            sample_rate_hz=rate_hz,
            sample_rate_khz=rate_hz / 1000.0,
            node=self.node(index),
            expected=len(self.receivers),
            clock_source="gnss",
            timestamp_sigma_ns=_SIGMA_NS,
            geolocation={"type": "Point", "coordinates": [position.longitude_deg, position.latitude_deg]},
        )

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _samples(self, k: int, index: int, after_ns: int, n_samples: int) -> npt.NDArray[np.complex64]:
        """Signal and noise, shape `(n_samples,)`, dtype `<c8`."""
        left_s = after_ns / _NS_PER_S - self.delay_s(index) + np.arange(n_samples) / self.rate_hz(index)
        phase = self._modulation_rad(k, left_s) + self._wander_rad(k, left_s)
        # The receiver mixes with its own clock, so that a later arrival is an earlier phase of the carrier.
        phase -= 2.0 * math.pi * math.fmod(self.frequency_hz * self.delay_s(index), 1.0)
        samples = np.empty((n_samples, 2), dtype="<f4")
        rail = _AMPLITUDE * 10.0 ** (-self.snr_db / 20.0) / math.sqrt(2.0)
        self._random(_NOISE, k, index).standard_normal(out=samples, dtype=np.float32)
        samples *= np.float32(rail)
        samples[:, 0] += _AMPLITUDE * np.cos(phase)
        samples[:, 1] += _AMPLITUDE * np.sin(phase)
        return samples.view("<c8")[:, 0]

    def _modulation_rad(self, k: int, left_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Uniform cubic B-spline: smooth to the second derivative, its spectrum falls with the fourth power."""
        # Earlier than 0 by the longest delay of all receivers: the same values must meet all of them.
        longest_s = max(self.delay_s(index) for index in range(len(self.receivers)))
        position = left_s * self.bandwidth_hz + math.ceil(longest_s * self.bandwidth_hz)
        base = position.astype(np.int64)
        t = position - base
        values = self._random(_MODULATION, k).normal(0.0, _DEVIATION_RAD, int(base[-1]) + 4)
        u = 1.0 - t
        spline: npt.NDArray[np.float64] = values[base] * (u * u * u)
        spline += values[base + 1] * (4.0 + 3.0 * t * t * (t - 2.0))
        spline += values[base + 2] * (4.0 + 3.0 * u * u * (u - 2.0))
        spline += values[base + 3] * (t * t * t)
        return spline / 6.0

    def _wander_rad(self, k: int, left_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        turn = 2.0 * math.pi / _WANDER_PERIOD_SESSIONS
        offset_hz = self.wander_hz * math.sin(turn * (k % _WANDER_PERIOD_SESSIONS))
        return 2.0 * math.pi * offset_hz * left_s


class Row(NamedTuple):
    """A pair of nodes of one session: how much later the signal arrives at `a` than at `b`."""

    a: str
    b: str
    true_s: float
    measured_s: float

    @property
    def error_s(self) -> float:
        """Measured minus true [s]."""
        return self.measured_s - self.true_s


def report(scene: Scene, captures: Iterable[Capture], *, max_lag_s: float = MAX_LAG_S) -> list[Row]:
    """Measure the time difference of each pair of nodes and put the true one beside it.

    Parameters
    ----------
    scene
        That the captures are of.
    captures
        Of one session, at most one per node, named by node; for example out of stored objects.
    max_lag_s
        Largest difference looked for [s].

    Raises
    ------
    UsageError
        A capture is of no node of the scene, or cannot be correlated.
    """
    index_of = {scene.node(index): index for index in range(len(scene.receivers))}
    given = list(captures)
    for capture in given:
        if capture.name not in index_of:
            known = f"{scene.node(0)} to {scene.node(len(index_of) - 1)}"
            raise UsageError(f"capture of {bounded(capture.name)} (allowed: {known})")
    given.sort(key=lambda capture: index_of[capture.name])
    return [
        Row(
            a.name,
            b.name,
            scene.true_tdoa_s(index_of[a.name], index_of[b.name]),
            tdoa_s(a, b, band_hz=scene.bandwidth_hz, max_lag_s=max_lag_s),
        )
        for a, b in itertools.combinations(given, 2)
    ]


_COLUMNS = ("pair", "true us", "measured us", "error us")


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.true_s, row.measured_s, row.error_s)
    return (f"{row.a} - {row.b}", *(f"{1e6 * value:+.3f}" for value in numbers))


def render(rows: Iterable[Row]) -> str:
    """Write rows as a plain-text table, one line each after the heading [us]."""
    lines = [_COLUMNS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def table(rows: Iterable[Row], title: str = "time difference of arrival") -> Table:
    """Make a table of rows for a rich console [us]."""
    made = Table(title=title)
    for name in _COLUMNS:
        made.add_column(name, justify="left" if name == _COLUMNS[0] else "right")
    for row in rows:
        made.add_row(*_cells(row))
    return made


@functools.lru_cache(maxsize=1024)
def _distance_m(a: Position, b: Position) -> float:
    """Length of the straight line between two places on the ellipsoid [m]."""
    return math.dist(_geocentric_m(a), _geocentric_m(b))


def _geocentric_m(position: Position) -> tuple[float, float, float]:
    """Earth-centred, earth-fixed coordinates at height 0 [m] (WGS 84; NIMA TR8350.2, section 4)."""
    latitude, longitude = math.radians(position.latitude_deg), math.radians(position.longitude_deg)
    eccentricity2 = _FLATTENING * (2.0 - _FLATTENING)
    normal_m = _SEMI_MAJOR_M / math.sqrt(1.0 - eccentricity2 * math.sin(latitude) ** 2)
    equatorial_m = normal_m * math.cos(latitude)
    return (
        equatorial_m * math.cos(longitude),
        equatorial_m * math.sin(longitude),
        normal_m * (1.0 - eccentricity2) * math.sin(latitude),
    )
