"""What was measured, as docs/security.md shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ingestd.testing.bench.report import written
from ingestd.testing.bench.results import Results, Sample
from ingestd.testing.bench.statistics import Spread, spread
from ingestd.testing.secured.trial import Trial

__all__ = ["Secured", "markdown"]

#: Ingest may fall so much further under a flood of questions than beside an echo server on the same cores [points].
ALLOWED_POINTS = 10.0


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table of costs: a figure of two cases of a group, and the second against the first."""

    name: str
    group: str
    metric: str
    unit: str
    before: str
    after: str


_LINES = (
    _Line("CURVE: frames accepted", "curve", "frames_per_s", "/s", "without", "with"),
    _Line("CURVE: CPU of the daemon a frame", "curve", "cpu_ms", "ms", "without", "with"),
    _Line("CURVE: time to acceptance at 50 frames/s, p99", "curve", "p99_ms", "ms", "without", "with"),
    _Line("TLS to the store: frames stored", "tls", "frames_per_s", "/s", "without", "with"),
    _Line("TLS to the store: CPU of the daemon a frame", "tls", "cpu_ms", "ms", "without", "with"),
    _Line("flood of questions: frames accepted", "questions", "frames_per_s", "/s", "quiet", "flood"),
    _Line("the same flood to an echo server beside it", "questions", "frames_per_s", "/s", "quiet", "echo"),
    _Line("flood of questions: time to acceptance, p99", "questions", "p99_ms", "ms", "quiet", "flood"),
    _Line("beside the echo server: time to acceptance, p99", "questions", "p99_ms", "ms", "quiet", "echo"),
)


@dataclass(frozen=True, slots=True)
class Secured:
    """All runs: costs, and trials of attacks."""

    costs: Results
    trials: Sequence[Trial]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Secured:
        """Read a document that was written."""
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return cls(
            Results([Sample(**one) for one in found["samples"]]), [Trial(**one) for one in found["trials"]]
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "samples": [asdict(one) for one in self.costs.samples],
            "trials": [asdict(one) for one in self.trials],
        }

    def errors(self) -> list[str]:
        """What did not come to an end, lost something, or did harm."""
        harmed = [f"{one.group}, {one.name}: {one.why}" for one in self.trials if not one.harmless]
        return self.costs.errors() + harmed

    @property
    def points_beyond_echo(self) -> float | None:
        """How much further ingest falls under the flood than beside the echo server, in points of the quiet rate."""
        shares = [
            100
            * (cases["echo"]["frames_per_s"] - cases["flood"]["frames_per_s"])
            / cases["quiet"]["frames_per_s"]
            for cases in self.costs.by_round("questions")
            if {"quiet", "flood", "echo"} <= set(cases)
        ]
        return spread(shares).median if shares else None


def markdown(found: Secured) -> str:
    """Both tables, what stands between them, and what was not as it should be."""
    harm = [f"- {line}" for line in found.errors()]
    told = ["", "**Not as it should be:**", "", *harm] if harm else []
    return "\n".join([*_costs(found), "", *_sentences(found), "", *_trials(found.trials), *told])


def _costs(found: Secured) -> list[str]:
    lines = ["| figure | without | with | with / without | range |", "|---|---|---|---|---|"]
    spreads = found.costs.spreads()
    for line in _LINES:
        ratios = _ratios(found.costs.by_round(line.group), line)
        if not ratios:
            continue
        cases = spreads[line.group]
        before, after = (cases[case][line.metric].median for case in (line.before, line.after))
        ratio = spread(ratios)
        lines.append(
            f"| {line.name} | {written(before)} {line.unit} | {written(after)} {line.unit} "
            f"| {ratio.median:.2f} | {ratio.low:.2f} to {ratio.high:.2f} |"
        )
    return lines


def _ratios(rounds: Sequence[Mapping[str, Mapping[str, float]]], line: _Line) -> list[float]:
    """Each round against itself."""
    pairs = [
        (cases[line.before][line.metric], cases[line.after][line.metric])
        for cases in rounds
        if line.before in cases and line.after in cases
    ]
    return [after / before for before, after in pairs if before]


def _sentences(found: Secured) -> list[str]:
    cases = found.costs.spreads().get("questions", {})
    points = found.points_beyond_echo
    if points is None:
        return []
    flood = cases["flood"]
    verdict = "" if points <= ALLOWED_POINTS else " **This is not met.**"
    said = (
        f"The flood got {written(flood['replies_per_s'].median)} replies/s, {written(flood['busy_per_s'].median)} of them "
        f"`busy`; the echo server gave {written(cases['echo']['replies_per_s'].median)}. Ingest falls {points:.1f} points "
        f"further than beside the echo server; at most {ALLOWED_POINTS:.0f} are allowed.{verdict}"
    )
    return [said]


def _trials(trials: Sequence[Trial]) -> list[str]:
    lines = [
        "| attack on memory | tried | harmless | memory at rest | peak | next good frame after, median | longest |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(one.group for one in trials):
        rows = [one for one in trials if one.group == group]
        done = [one for one in rows if one.peak_mb]
        cells = [group, str(len(rows)), str(sum(one.harmless for one in rows)), *_cells(done)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(done: Sequence[Trial]) -> list[str]:
    if not done:
        return ["", "", "", ""]
    rest: Spread = spread([one.rest_mb for one in done])
    recovery = spread([one.recovery_ms for one in done])
    peak_mb = max(one.peak_mb for one in done)
    return [
        f"{rest.median:.0f} MB",
        f"{peak_mb:.0f} MB",
        f"{recovery.median:.0f} ms",
        f"{recovery.high:.0f} ms",
    ]
