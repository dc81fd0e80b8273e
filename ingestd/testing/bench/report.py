"""The tables for a terminal, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from ingestd.testing.bench.results import FIGURES, Figure, Results
from ingestd.testing.bench.statistics import Spread

__all__ = ["figure_table", "markdown", "not_compared", "samples_table", "written"]


def written(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def samples_table(results: Results) -> Table:
    """Medians and ranges of everything that was measured."""
    out = Table("group", "case", "figure", "median", "range", title="measured from outside")
    for group, cases in results.spreads().items():
        for case, metrics in cases.items():
            for metric, found in _shown(metrics).items():
                out.add_row(
                    group,
                    case,
                    metric,
                    written(found.median),
                    f"{written(found.low)} to {written(found.high)}",
                )
        out.add_section()
    return out


def _shown(metrics: Mapping[str, Spread]) -> dict[str, Spread]:
    return {name: found for name, found in metrics.items() if name != "missing_objects" or found.high}


def figure_table(results: Results) -> Table:
    """What is demanded, beside what was measured."""
    out = Table("figure", "measured", "range", "must", "aim", "gate", title="demanded")
    for figure in FIGURES:
        found = figure.measured(results)
        if found.spread is None:
            continue
        median, low, high = found.spread
        gate = "" if figure.gate is None else f"{figure.sense} {written(figure.gate)}"
        out.add_row(
            figure.name,
            f"{written(median)} {figure.unit}{_mark(figure, median)}",
            f"{written(low)} to {written(high)}",
            f"{figure.sense} {written(figure.must)}",
            written(figure.aim),
            gate + ("  FAILED" if found.passed is False else ""),
        )
    return out


def _mark(figure: Figure, value: float) -> str:
    if figure.meets(value, figure.aim):
        return "  +"
    return "" if figure.meets(value, figure.must) else "  NOT MET"


def markdown(results: Results) -> str:
    """Both tables as docs/performance.md shows them."""
    lines = ["| figure | measured | range | must | aim | |", "|---|---|---|---|---|---|"]
    for figure in FIGURES:
        spread = figure.measured(results).spread
        if spread is None:
            continue
        verdict = "aim" if figure.meets(spread.median, figure.aim) else "must"
        if not figure.meets(spread.median, figure.must):
            verdict = "**not met**"
        demands = (f"{figure.sense} {written(figure.must)}", written(figure.aim), verdict)
        ranges = f"{written(spread.low)} to {written(spread.high)}"
        lines.append(
            f"| {figure.name} | {written(spread.median)} {figure.unit} | {ranges} | {' | '.join(demands)} |"
        )
    lines += ["", "| group | case | figure | median | range |", "|---|---|---|---|---|"]
    for group, cases in results.spreads().items():
        for case, metrics in cases.items():
            for metric, found in _shown(metrics).items():
                ranges = f"{written(found.low)} to {written(found.high)}"
                lines.append(f"| {group} | {case} | {metric} | {written(found.median)} | {ranges} |")
    return "\n".join(lines)


def not_compared(*, compare: bool, has_redpanda: bool) -> list[str]:
    """What these figures do not say."""
    said = [
        "naive and guide lose what they hold when they are killed, check nothing and overwrite: only their speed is compared.",
        "ceiling and floor send metadata that is the same for every frame, and neither parse nor sync: nobody can be that fast.",
        "floor takes one TCP connection instead of seven ZeroMQ ones.",
        "resident memory counts what processes share once (PSS).",
        "MinIO runs on the same cores and disk as everybody; over a network the figures are others.",
    ]
    if not compare:
        said.append("guide and redpanda-connect take part with --compare only: they are slow.")
    elif not has_redpanda:
        said.append("redpanda-connect is not on PATH.")
    return said
