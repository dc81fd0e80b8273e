"""Verdicts counted: by system call and by what was done to it, as a table and as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ingestd.testing.syscalls.oracle import Verdict
from ingestd.testing.syscalls.plan import KILL, Fault

__all__ = ["Report", "kind_of", "table", "write"]

#: Columns of the table: what can be done to a call.
_KINDS = ("killed", "failed", "delayed", "cut short")


def kind_of(fault: Fault) -> str:
    """Column of a fault."""
    if fault.is_short:
        return "cut short"
    return {KILL: "killed", "DELAY": "delayed"}.get(fault.action, "failed")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that an enumeration found.

    Parameters
    ----------
    verdicts
        One for each case.
    elapsed_s
        How long it took.
    every
        Of how many cases one was run.
    """

    verdicts: Sequence[Verdict]
    elapsed_s: float
    every: int

    @property
    def points(self) -> int:
        """Calls of scenarios that something was done to."""
        return len(
            {
                (v.case.scenario.name, v.case.fault.name, v.case.fault.at)
                for v in self.verdicts
                if v.case.fault and not v.case.fault.is_short
            }
        )

    @property
    def wrong(self) -> list[Verdict]:
        """Cases with violations."""
        return [verdict for verdict in self.verdicts if verdict.violations]

    @property
    def missed(self) -> list[Verdict]:
        """Cases whose fault never struck: they prove nothing."""
        return [verdict for verdict in self.verdicts if not verdict.injected]

    @property
    def clean(self) -> bool:
        """Whether every fault struck and nothing is wrong."""
        return bool(self.verdicts) and not self.wrong and not self.missed

    def counts(self) -> dict[str, Counter[str]]:
        """Cases by call and kind, and violating ones as `violations`."""
        found: dict[str, Counter[str]] = {}
        for verdict in self.verdicts:
            fault = verdict.case.fault
            if fault is not None:
                of_call = found.setdefault(fault.name, Counter())
                of_call[kind_of(fault)] += 1
                of_call["violations"] += bool(verdict.violations)
        return dict(sorted(found.items()))

    def document(self) -> dict[str, Any]:
        """As JSON."""
        actions = Counter(
            f"{verdict.case.fault.name} {verdict.case.fault.action}:{verdict.case.fault.lasting}"
            for verdict in self.verdicts
            if verdict.case.fault
        )
        return {
            "points": self.points,
            "cases": len(self.verdicts),
            "violations": len(self.wrong),
            "missed": [str(verdict.case) for verdict in self.missed],
            "told": sum(verdict.told for verdict in self.verdicts),
            "elapsed_s": round(self.elapsed_s, 1),
            "every": self.every,
            "scenarios": dict(Counter(verdict.case.scenario.name for verdict in self.verdicts)),
            "calls": self.counts(),
            "actions": dict(sorted(actions.items())),
            "wrong": {str(verdict.case): list(verdict.violations) for verdict in self.wrong},
        }


def table(report: Report) -> Table:
    """One row a call, and the sums."""
    out = Table(title="every system call of the durable path")
    out.add_column("call")
    for name in (*_KINDS, "violations"):
        out.add_column(name, justify="right")
    sums: Counter[str] = Counter()
    for name, of_call in report.counts().items():
        out.add_row(name, *(f"{of_call[kind]}" for kind in (*_KINDS, "violations")))
        sums += of_call
    out.add_section()
    out.add_row("all", *(f"{sums[kind]}" for kind in (*_KINDS, "violations")), style="bold")
    out.caption = (
        f"points {report.points}, cases {len(report.verdicts)}, violations {len(report.wrong)}, "
        f"missed {len(report.missed)}, {report.elapsed_s:.0f} s"
    )
    return out


def write(path: str, report: Report) -> None:
    """Write the JSON, whole or not at all."""
    scratch = f"{path}.new"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(report.document(), file, indent=1)
        file.write("\n")
    os.replace(scratch, path)
