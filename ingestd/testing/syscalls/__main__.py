"""`scripts/syscalls`: everything that can be done to every system call of the durable path, with a closing table."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestd.testing.syscalls.enumeration import Driver, plan, run
from ingestd.testing.syscalls.oracle import Verdict
from ingestd.testing.syscalls.plan import SCENARIOS, Case
from ingestd.testing.syscalls.report import Report, table, write

#: Chooses the sample of `--every`.
_SEED = 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/syscalls", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time (default: cores)"
    )
    parser.add_argument(
        "--scenario", metavar="NAME", choices=[one.name for one in SCENARIOS], help="only this one"
    )
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only a sample of one in K cases")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    parser.add_argument("--keep", metavar="DIR", default="", help="keep the state of violating cases in DIR")
    return parser.parse_args()


def _planned(given: argparse.Namespace, directory: str) -> list[Case]:
    with Driver() as driver:
        todo = [
            case
            for scenario in SCENARIOS
            if given.scenario in (None, scenario.name)
            for case in plan(driver, scenario, directory)
        ]
    return random.Random(_SEED).sample(todo, -(-len(todo) // given.every))  # noqa: S311 - a sample, not a secret


def _run(given: argparse.Namespace, directory: str, console: Console) -> list[Verdict]:
    todo = _planned(given, directory)
    columns = (TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("cases", total=len(todo))

        def done(verdict: Verdict) -> None:
            progress.advance(bar)
            if verdict.violations:
                console.print(f"{verdict.case}", markup=False, highlight=False)
            for violation in verdict.violations:
                console.print(f"  {violation}", markup=False, highlight=False)

        return run(todo, directory, given.jobs, done, given.keep)


def main() -> int:
    """Run what was asked for; 1 where anything went wrong, 69 where strace cannot work."""
    given = _arguments()
    if shutil.which("strace") is None:
        sys.stderr.write("no strace: apt-get install strace\n")
        return 69
    console = Console()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ingestd-syscalls-") as directory:
        verdicts = _run(given, directory, console)
    report = Report(verdicts, time.monotonic() - began_s, given.every)
    console.print(table(report))
    for verdict in report.missed:
        console.print(f"never struck: {verdict.case}", markup=False, highlight=False)
    if given.json:
        write(given.json, report)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
