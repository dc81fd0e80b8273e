"""What was checked and what was found, as a table and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.table import Table

from ingestd.testing.power_loss.check import Findings

__all__ = ["Report", "table", "write"]


@dataclass(frozen=True, slots=True)
class Report:
    """Findings of a run.

    Parameters
    ----------
    findings
        Of the real code, or of a control where that was asked for.
    elapsed_s
        How long it took.
    seed
        Of the first life.
    controls
        Violations that each control came to, by its name; all must have some.
    """

    findings: Findings
    elapsed_s: float
    seed: int
    controls: Mapping[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong, and every control was caught."""
        return not self.findings.violations and all(self.controls.values())


def _rows(report: Report) -> list[tuple[str, str]]:
    findings = report.findings
    rows = [
        ("operations recorded", f"{findings.operations}"),
        ("moments of power loss (prefixes)", f"{findings.prefixes}"),
        ("states checked", f"{findings.states}"),
        ("  distinct disks among them", f"{len(findings.images)}"),
        ("  with a torn file in tmp/", f"{findings.torn}"),
        ("  lived on with until all was stored", f"{findings.lived_on}"),
        ("runs of the real recovery", f"{findings.recoveries}"),
        ("violations", f"{findings.violations.total()}"),
        *((f"  {wrong}", f"{count}") for wrong, count in sorted(findings.violations.items())),
    ]
    if report.controls:
        caught = sum(map(bool, report.controls.values()))
        rows.append(("controls caught", f"{caught} of {len(report.controls)}"))
        rows += [(f"  {name}", f"{count} violations") for name, count in report.controls.items()]
    return [*rows, ("seconds", f"{report.elapsed_s:.1f}")]


def table(report: Report, title: str) -> Table:
    """Everything counted."""
    out = Table(title=title, show_header=False)
    out.add_column(style="bold")
    out.add_column(justify="right")
    for name, value in _rows(report):
        out.add_row(name, value)
    return out


def write(path: str, report: Report) -> None:
    """Write a report to a file, whole or not at all."""
    findings = report.findings
    document = {
        "seed": report.seed,
        "operations": findings.operations,
        "prefixes": findings.prefixes,
        "states": findings.states,
        "distinct": len(findings.images),
        "torn": findings.torn,
        "lived_on": findings.lived_on,
        "recoveries": findings.recoveries,
        "violations": dict(sorted(findings.violations.items())),
        "examples": findings.examples,
        "controls": dict(report.controls),
        "elapsed_s": round(report.elapsed_s, 1),
    }
    scratch = f"{path}.new"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    os.replace(scratch, path)
