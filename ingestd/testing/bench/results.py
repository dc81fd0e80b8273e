"""What a benchmark measured, and what is asked of it: one table of figures with their demands."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

from ingestd.testing.bench.statistics import Spread, spread

__all__ = ["FIGURES", "Figure", "Measured", "Results", "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Raw values of one run of one case; `error` says why there are none."""

    group: str
    case: str
    round: int
    values: Mapping[str, float]
    error: str = ""


class Measured(NamedTuple):
    """A figure over all rounds, and whether it is within its gate (None: it has none, or was not measured)."""

    spread: Spread | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is demanded.

    Parameters
    ----------
    name
        For people.
    group, metric, case
        What is measured.
    sense
        `>=`: more is better.
    must, aim
        Demanded of an idle machine of the reference kind, and aimed at.
    gate
        Below (or above) which `--short` fails; None: not gated. Looser than `must`: it has to hold on any machine.
    against
        Case that it is set against; None: the value itself.
    how
        `ratio`: divided by it; `difference`: it taken off.
    unit
        Of the value.
    """

    name: str
    group: str
    metric: str
    case: str
    sense: Literal[">=", "<="]
    must: float
    aim: float
    gate: float | None
    against: str | None = None
    how: Literal["ratio", "difference"] = "ratio"
    unit: str = "x"

    def measured(self, results: Results) -> Measured:
        """Median and range over the rounds that have everything; each round is set against itself."""
        values = [value for value in map(self._of, results.by_round(self.group)) if value is not None]
        if not values:
            return Measured(None, None)
        found = spread(values)
        return Measured(found, None if self.gate is None else self.meets(found.median, self.gate))

    def meets(self, value: float, demand: float) -> bool:
        """Whether a value is on the right side of a demand."""
        return value >= demand if self.sense == ">=" else value <= demand

    def _of(self, cases: Mapping[str, Mapping[str, float]]) -> float | None:
        own = cases.get(self.case, {}).get(self.metric)
        if self.against is None or own is None:
            return own
        other = cases.get(self.against, {}).get(self.metric)
        if other is None or (self.how == "ratio" and not other):
            return None
        return own / other if self.how == "ratio" else own - other


class Results:
    """Samples of all rounds."""

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self.samples = list(samples)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Samples of a document that was written."""
        with open(path, encoding="utf-8") as file:
            return cls([Sample(**one) for one in json.load(file)["samples"]])

    def by_round(self, group: str) -> list[dict[str, Mapping[str, float]]]:
        """For each round: the values of each case that has any."""
        rounds: dict[int, dict[str, Mapping[str, float]]] = {}
        for one in self.samples:
            if one.group == group and not one.error:
                rounds.setdefault(one.round, {})[one.case] = one.values
        return [rounds[number] for number in sorted(rounds)]

    def spreads(self) -> dict[str, dict[str, dict[str, Spread]]]:
        """Group, case, metric: median and range; in the order of the first round."""
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for one in self.samples:
            metrics = found.setdefault(one.group, {}).setdefault(one.case, {})
            for metric, value in one.values.items():
                metrics.setdefault(metric, []).append(value)
        return {
            group: {
                case: {metric: spread(values) for metric, values in metrics.items()}
                for case, metrics in cases.items()
            }
            for group, cases in found.items()
        }

    def errors(self) -> list[str]:
        """What did not come to an end, and what lost objects."""
        failed = [
            f"{one.group}, {one.case}, round {one.round}: {one.error}" for one in self.samples if one.error
        ]
        lossy = [
            f"{one.group}, {one.case}, round {one.round}: {missing:.0f} objects are missing"
            for one in self.samples
            if (missing := one.values.get("missing_objects"))
        ]
        return failed + lossy

    def document(self) -> dict[str, Any]:
        """For JSON: raw values, medians and ranges, figures with their demands."""
        figures = []
        for figure in FIGURES:
            found = figure.measured(self)
            figures.append(
                asdict(figure) | {"measured": found.spread and found.spread._asdict(), "passed": found.passed}
            )
        summary = {
            group: {case: {m: s._asdict() for m, s in metrics.items()} for case, metrics in cases.items()}
            for group, cases in self.spreads().items()
        }
        return {"samples": [asdict(one) for one in self.samples], "summary": summary, "figures": figures}


#: 1 MB frames, 7 nodes, two cores, defaults. Gates are at three quarters of what was measured, or at the demand where that is
#: looser. Milliseconds of latency beside a store on the same disk are no ratio, and are not gated.
FIGURES: tuple[Figure, ...] = (
    Figure("frames/s, MinIO: ours / naive", "minio", "frames_per_s", "ours", ">=", 1.3, 1.7, 0.93, "naive"),
    Figure("frames/s, MinIO: ours / the store's ceiling", "minio", "frames_per_s", "ours", ">=", 0.78, 0.92, 0.6, "ceiling"),
    Figure("CPU a frame, MinIO: naive / ours", "minio", "cpu_ms", "naive", ">=", 2.5, 4.5, 1.15, "ours"),
    Figure("CPU a frame, null store: ours / floor", "null", "cpu_ms", "ours", "<=", 6.5, 4.0, 8.7, "floor"),
    Figure("frames/s, null store: ours / naive", "null", "frames_per_s", "ours", ">=", 3.0, 4.5, 1.25, "naive"),
    Figure("frames/s, null store: disk / process", "durability", "frames_per_s", "disk", ">=", 0.8, 0.9, 0.65, "process"),
    Figure("CPU a frame, null store: disk / process", "durability", "cpu_ms", "disk", "<=", 1.3, 1.1, 1.4, "process"),
    Figure("minor page faults a frame, MinIO", "minio", "minor_faults", "ours", "<=", 80, 30, 80, unit=""),
    Figure("p50 at 100 frames/s above the store's own", "latency", "p50_ms", "ours 100/s", "<=", 3, 2, None, "ceiling 100/s", "difference", "ms"),
    Figure("p99 at 100 frames/s above the store's own", "latency", "p99_ms", "ours 100/s", "<=", 10, 5, None, "ceiling 100/s", "difference", "ms"),
    Figure("burst of 7 all stored, MinIO, p50", "burst", "p50_ms", "ours", "<=", 80, 40, None, unit="ms"),
    Figure("store down: ingest / the disk's limit", "down", "mb_per_s", "ours", ">=", 0.4, 0.8, 0.4, "disk limit"),
    Figure("quality figures of every frame, CPU at 200 frames/s", "quality", "cpu_ms", "computed, 200/s", "<=", 0.8, 0.4, 1.25, "given, 200/s", "difference", "ms"),
    Figure("resident, whole tree, MinIO", "minio", "resident_mb", "ours", "<=", 400, 250, 400, unit="MB"),
    Figure("catalog of 1,000,000, slowest query's p99", "catalog", "p99_ms", "slowest", "<=", 20, 5, None, unit="ms"),
    Figure("start to the first accepted frame", "start", "start_s", "ours", "<=", 2, 1, 2, unit="s"),
)  # fmt: skip
