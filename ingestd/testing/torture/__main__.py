"""`scripts/torture`: rounds of torture until so many kills were made, with a closing table."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestd.testing.minio_server import find_minio
from ingestd.testing.torture.report import Round, append, markdown, read, table
from ingestd.testing.torture.rounds import RoundPlan, run_round


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="end after so many SIGKILLs (default 50)")
    parser.add_argument("--minutes", type=float, default=60.0, help="or after so long (default 60)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first round; each further one has the next"
    )
    parser.add_argument("--round-kills", type=int, default=250, help="kills before a drain and a count")
    parser.add_argument("--json", metavar="FILE", help="append the results to FILE")
    parser.add_argument("--keep", metavar="DIR", help="keep everything of a round that went wrong in DIR")
    parser.add_argument("--show", action="store_true", help="only print the table of --json FILE")
    parser.add_argument("--markdown", action="store_true", help="print that as docs/guarantees.md shows it")
    return parser.parse_args()


def _say(console: Console, one: Round) -> None:
    console.print(
        f"seed {one.seed}: {one.kills} kills, {one.issued} issued, {one.stored} stored, {one.resent} resent, "
        f"lost {one.lost}, torn {one.torn}, {one.elapsed_s:.0f} s: {'clean' if one.clean else 'NOT CLEAN'}",
        highlight=False,
    )
    for trouble in one.troubles:
        console.print(f"  {trouble}", markup=False, highlight=False)


def _run(given: argparse.Namespace, binary: str, console: Console) -> list[Round]:
    rounds: list[Round] = []
    deadline_s = time.monotonic() + given.minutes * 60.0
    columns = (TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("kills", total=given.kills)
        made = 0
        while made < given.kills and time.monotonic() < deadline_s:
            wanted = RoundPlan(
                seed=given.seed + len(rounds),
                kills=min(given.round_kills, given.kills - made),
                limit_s=deadline_s - time.monotonic(),
            )
            directory = tempfile.mkdtemp(prefix="ingestd-torture-")
            try:
                before = made
                one = run_round(
                    wanted,
                    binary,
                    directory,
                    lambda kills, before=before: progress.update(bar, completed=before + kills),  # type: ignore[misc]
                )
                rounds.append(one)
                made += one.kills
                _say(console, one)
                if given.json:
                    append(given.json, [replace(one, troubles=[trouble[:500] for trouble in one.troubles])])
                if given.keep and not one.clean:
                    shutil.copytree(
                        directory, os.path.join(given.keep, f"seed-{wanted.seed}"), dirs_exist_ok=True
                    )
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    return rounds


def main() -> int:
    """Run what was asked for; 1 where anything went wrong."""
    given = _arguments()
    # The way out of every `with` block is what ends the daemon, the store and the nodes.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    console = Console()
    if given.markdown:
        sys.stdout.write(markdown(read(given.json)))
        return 0
    if given.show:
        rounds = read(given.json)
        console.print(table(rounds, "torture, all rounds so far"))
        return 0 if all(one.clean for one in rounds) else 1
    binary = find_minio()
    if binary is None:
        sys.stderr.write("no MinIO server: run this as scripts/torture, which builds it\n")
        return 69
    rounds = _run(given, binary, console)
    console.print(table(rounds, "torture"))
    return 0 if rounds and all(one.clean for one in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
