"""`scripts/power-loss`: disks that a loss of power may leave, each recovered by the real code, with a closing table."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestd.testing.power_loss.check import Findings, check
from ingestd.testing.power_loss.controls import CONTROLS
from ingestd.testing.power_loss.report import Report, table, write

#: Disks that a control is given to be caught on: some are wrong for one moment an entry only.
_CONTROL_STATES = 2500


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/power-loss", description=__doc__)
    parser.add_argument("--states", type=int, default=100_000, help="check so many (default 100000)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first life; each further one has the next"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    parser.add_argument(
        "--control", metavar="NAME", choices=sorted(CONTROLS), help=f"break the code: {', '.join(CONTROLS)}"
    )
    return parser.parse_args()


def _run(given: argparse.Namespace, console: Console) -> Findings:
    columns = (TextColumn("states"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("states", total=given.states)
        return check(
            given.states, given.seed, given.control, lambda states: progress.update(bar, completed=states)
        )


def main() -> int:
    """Run what was asked for; 1 where a promise was broken or a control was not caught."""
    given = _arguments()
    console = Console()
    began_s = time.monotonic()
    findings = _run(given, console)
    controls: dict[str, int] = {}
    if given.control is None:
        controls = {name: check(_CONTROL_STATES, given.seed, name).violations.total() for name in CONTROLS}
    report = Report(findings, time.monotonic() - began_s, given.seed, controls)
    console.print(table(report, f"power loss{f' ({given.control})' if given.control else ''}"))
    for example in findings.examples:
        console.print(example, markup=False, highlight=False)
    if given.json:
        write(given.json, report)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
