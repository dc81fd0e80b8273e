"""`scripts/bench`: ours against the rest, in one interleaved run."""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestd.errors import IngestdError
from ingestd.testing.bench.catalog import CatalogBench
from ingestd.testing.bench.contenders import CEILING_LEVELS, ceiling, redpanda_binary
from ingestd.testing.bench.groups import GROUPS, SHORT_GROUPS, Case, Setting
from ingestd.testing.bench.machine import about
from ingestd.testing.bench.report import figure_table, markdown, not_compared, samples_table, written
from ingestd.testing.bench.results import FIGURES, Figure, Results, Sample
from ingestd.testing.bench.runs import plan_of, throughput
from ingestd.testing.bench.targets import MinioTarget, NullTarget
from ingestd.testing.minio_server import MinioServer, find_minio

#: Rounds where nothing else is asked for; short ones are for gates that leave room.
_ROUNDS, _SHORT_ROUNDS = 3, 2

#: Further rounds of a group in which a gate failed.
_AGAIN_ROUNDS = 3

#: A short run takes no longer, the tables included [s]: on a slow machine it has fewer rounds.
_SHORT_S = 165.0

#: Directories of cases begin with this.
_CASE = "case-"

#: Free space that a case may need [bytes]: with less, what earlier ones left is removed before it.
_ROOM_BYTES = 4 * 2**30

#: Pause after files were removed [s]: for so long ext4 without a journal looks through them for every new file.
_FORGET_S = 60.0

#: Groups in which the ceiling takes part.
_WITH_CEILING = {"minio", "latency", "burst"}


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="gates only, under three minutes; 1 where one fails"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"of everything (default {_ROUNDS}, short {_SHORT_ROUNDS})"
    )
    parser.add_argument("--only", metavar="GROUP,...", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--compare", action="store_true", help="the slow rivals too: guide, redpanda-connect")
    parser.add_argument("--json", metavar="FILE", help="write everything to FILE")
    parser.add_argument("--plot", metavar="FILE.png", help="draw what was measured (needs the extra `plot`)")
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        help="only print the tables of a JSON FILE as docs/performance.md shows them",
    )
    given = parser.parse_args(argv)
    given.groups = given.only.split(",") if given.only else list(SHORT_GROUPS if given.short else GROUPS)
    unknown = [name for name in given.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)} (allowed: {', '.join(GROUPS)})")
    given.rounds = given.rounds or (_SHORT_ROUNDS if given.short else _ROUNDS)
    return given


def _best_level(setting: Setting, directory: str, console: Console) -> tuple[int, int]:
    """Processes and threads with which the ceiling is highest here and now."""
    rates: dict[tuple[int, int], float] = {}
    for level in CEILING_LEVELS:
        where = tempfile.mkdtemp(prefix=_CASE, dir=directory)
        values = throughput(ceiling(*level), setting.minio, plan_of(), where, n_warm=28, n_frames=200)
        rates[level] = values["frames_per_s"]
    said = ", ".join(f"{p}x{t}: {written(rate)}" for (p, t), rate in rates.items())
    console.print(f"ceiling, processes x threads: {said} frames/s; the best is taken", highlight=False)
    return max(rates, key=lambda level: rates[level])


def _run(
    given: argparse.Namespace, setting: Setting, directory: str, console: Console, results: Results
) -> None:
    """Add rounds of the wanted groups to results."""
    groups = {name: list(GROUPS[name](setting)) for name in given.groups}
    total = given.rounds * sum(map(len, groups.values()))
    first = 1 + max((one.round for one in results.samples), default=-1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("bench", total=total)
        began_s = time.monotonic()
        for number in range(first, first + given.rounds):
            n_done = number - first
            if given.short and n_done and not _has_time(time.monotonic() - began_s, n_done):
                console.print(f"no time for round {number}: this machine is slow or busy", highlight=False)
                break
            for name, cases in groups.items():
                # Whoever comes first finds the machine in another state than whoever comes last.
                shift = number % len(cases)
                for case in cases[shift:] + cases[:shift]:
                    progress.update(bar, description=f"{name}: {case.name}")
                    if shutil.disk_usage(directory).free < _ROOM_BYTES:
                        _make_room(setting, directory, console)
                    one = _sample(name, case, number, directory)
                    results.samples.append(one)
                    _say(console, one)
                    progress.advance(bar)
            if not given.short and number + 1 < first + given.rounds:
                _make_room(setting, directory, console)


def _make_room(setting: Setting, directory: str, console: Console) -> None:
    """Remove what cases left, and wait until the file system is as it was.

    Not after every case: who comes next would pay for what it did not write.
    """
    console.print(f"removing what was written, and waiting {_FORGET_S:g} s", highlight=False)
    setting.minio.clear()
    for path in glob.glob(os.path.join(directory, f"{_CASE}*")):
        shutil.rmtree(path, ignore_errors=True)
    os.sync()
    time.sleep(_FORGET_S)


def _failed(results: Results) -> list[Figure]:
    """Figures on the wrong side of their gate."""
    return [figure for figure in FIGURES if figure.measured(results).passed is False]


def _once_more(
    given: argparse.Namespace, setting: Setting, directory: str, console: Console, results: Results
) -> None:
    """Whatever else the machine did may have failed a gate: more rounds of its group, and the median of all decides."""
    groups = sorted({figure.group for figure in _failed(results)})
    if given.short and groups:
        console.print(f"a gate failed; once more: {', '.join(groups)}", highlight=False)
        again = argparse.Namespace(**{**vars(given), "groups": groups, "rounds": _AGAIN_ROUNDS})
        _run(again, setting, directory, console, results)


def _has_time(elapsed_s: float, n_rounds: int) -> bool:
    """Whether a further round as long as those before ends within what a short run may take."""
    return elapsed_s + elapsed_s / n_rounds <= _SHORT_S


def _sample(group: str, case: Case, number: int, directory: str) -> Sample:
    where = tempfile.mkdtemp(prefix=_CASE, dir=directory)
    # Nobody begins while the disk still writes what the one before has left.
    os.sync()
    try:
        values = case.run(where)
    except (IngestdError, OSError) as error:
        # One contender that fails is a result; the others are measured all the same.
        return Sample(group, case.name, number, {}, f"{type(error).__name__}: {error}")
    return Sample(group, case.name, number, values)


def _say(console: Console, one: Sample) -> None:
    values = ", ".join(f"{name} {written(value)}" for name, value in one.values.items())
    console.print(
        f"round {one.round}, {one.group}, {one.case}: {one.error or values}", highlight=False, markup=False
    )


def _close(given: argparse.Namespace, results: Results, head: dict[str, object], console: Console) -> int:
    """Tables, files and the exit code."""
    console.print(samples_table(results))
    console.print(figure_table(results))
    left_out = not_compared(compare=given.compare, has_redpanda=redpanda_binary() is not None)
    for line in [*results.errors(), *left_out]:
        console.print(f"- {line}", highlight=False, markup=False)
    document = head | results.document() | {"not_compared": left_out, "errors": results.errors()}
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
    if given.plot:
        from ingestd.testing.bench.plot import plot  # noqa: PLC0415 - matplotlib is an extra

        plot(results, given.plot)
    failed = [figure.name for figure in _failed(results)] if given.short else []
    for name in failed:
        console.print(f"gate failed: {name}", style="red", highlight=False)
    return 1 if results.errors() or failed else 0


def main() -> int:
    """Run what was asked for."""
    given = _arguments()
    if given.markdown:
        sys.stdout.write(f"{markdown(Results.read(given.markdown))}\n")
        return 0
    # The way out of every `with` block is what ends daemons, stores and pushers.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    # What is no terminal is a log, or a file: long lines stay whole, and tables are not squeezed.
    console = Console(width=None if sys.stdout.isatty() else 140)
    binary = find_minio()
    if binary is None:
        sys.stderr.write("no MinIO server: run this as scripts/bench, which builds it\n")
        return 69
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-", ignore_cleanup_errors=True) as directory:
        head = about(directory, binary, given.rounds, short=given.short)
        store_directory = os.path.join(directory, "minio")
        os.makedirs(store_directory)
        with (
            MinioServer(store_directory, binary) as server,
            NullTarget(os.path.join(directory, "null.log")) as null,
        ):
            cores = len(os.sched_getaffinity(0))
            catalog = CatalogBench(os.path.join(directory, "catalog"))
            setting = Setting(
                MinioTarget(server), null, catalog, cores, short=given.short, compare=given.compare
            )
            if _WITH_CEILING & set(given.groups) and not given.short:
                setting.level = _best_level(setting, directory, console)
            head["ceiling"] = {"processes": setting.level[0], "threads": setting.level[1]}
            results = Results()
            _run(given, setting, directory, console, results)
            _once_more(given, setting, directory, console, results)
        return _close(given, results, head, console)


if __name__ == "__main__":
    sys.exit(main())
