"""Fuzz for as long as you like: `python -m ingestd.testing.fuzzing [TARGET]... [--runs N] [--seconds S] [--jobs J]`.

Needs atheris (the extra `fuzz`). What it finds is left in the working directory as `crash-...`, and is played again by
`python -m ingestd.testing.fuzzing --replay TARGET FILE`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time

from ingestd import __version__
from ingestd.testing.fuzzing.record import Result, add, markdown, read
from ingestd.testing.fuzzing.targets import TARGETS, seeds

__all__ = ["main"]

#: Longest input [bytes]: a frame with every key and a payload is a tenth of it.
_MAX_LENGTH = 4096

#: One execution longer than this is a finding [s].
_SLOW_S = 5

#: More resident memory than this is a finding [MiB].
_MEMORY_MIB = 2048

#: What is shown of a worker that found something [bytes].
_TAIL_BYTES = 20_000

#: Last words of a worker that came to its end, or was asked by SIGUSR1 to come to it.
_DONE = re.compile(rb"(?:Done |number_of_executed_units: *)(\d+)")


def _plant(name: str, directory: str, golden: str, corpus: str) -> None:
    """Put the seeds and the kept corpus where libFuzzer reads and writes."""
    kept = os.path.join(corpus, name)
    inputs = list(seeds(name, golden))
    for entry in os.scandir(kept) if os.path.isdir(kept) else ():
        with open(entry.path, "rb") as file:
            inputs.append(file.read())
    for data in inputs:
        with open(os.path.join(directory, hashlib.sha256(data).hexdigest()[:16]), "wb") as file:
            file.write(data)


def _fuzz(name: str, directory: str, given: argparse.Namespace) -> Result:
    options = [
        f"-max_len={_MAX_LENGTH}",
        f"-timeout={_SLOW_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        "-reload=1",
        "-print_final_stats=1",
    ]
    engine = "blind" if given.blind else "guided"
    if given.seconds:
        options.append(f"-max_total_time={given.seconds}")
    if given.runs:
        options.append(f"-runs={-(-given.runs // given.jobs)}")
    began_s, date = time.monotonic(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    executions = findings = 0
    with contextlib.ExitStack() as stack:
        workers = []
        for seed in range(given.seed, given.seed + given.jobs):
            # A file and no pipe: all of them write at once, and nobody reads before they end.
            said = stack.enter_context(tempfile.TemporaryFile())
            command = [sys.executable, "-m", f"ingestd.testing.fuzzing.{engine}", name, directory, *options]
            worker = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, f"-seed={seed}"], stderr=said, stdout=subprocess.DEVNULL
            )
            stack.callback(worker.kill)
            workers.append((worker, said))
        for worker, said in workers:
            worker.wait()
            said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = said.read()
            done = _DONE.search(tail)
            executions += int(done[1]) if done else 0
            if worker.returncode or done is None:
                findings += 1
                sys.stderr.buffer.write(tail)
    return Result(
        name,
        engine,
        executions,
        round(time.monotonic() - began_s, 1),
        len(os.listdir(directory)),
        findings,
        jobs=given.jobs,
        seed=given.seed,
        date=date,
        version=__version__,
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz whatever reads bytes of others.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all where none is named"
    )
    parser.add_argument(
        "--runs", type=int, default=0, metavar="N", help="executions of each target; 0 = no end by number"
    )
    parser.add_argument(
        "--seconds", type=int, default=0, metavar="S", help="time for each target [s]; 0 = no end by time"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes for each target")
    parser.add_argument(
        "--blind", action="store_true", help="change inputs at random, six times as many, without atheris"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first process")
    parser.add_argument("--golden", default="tests/golden", help="directory of the golden files")
    parser.add_argument("--corpus", default="tests/fuzz/corpus", help="directory of inputs that are kept")
    parser.add_argument(
        "--work", default=None, metavar="DIR", help="where new inputs go; else a directory that is removed"
    )
    parser.add_argument(
        "--json", default=None, metavar="FILE", help="add the results to those on record there"
    )
    parser.add_argument(
        "--markdown",
        default=None,
        metavar="FILE",
        help="only print the table of all runs on record in FILE, as docs/security.md shows it",
    )
    parser.add_argument(
        "--replay", default=None, metavar="FILE", help="run one input through one target, and nothing else"
    )
    given = parser.parse_args(argv)
    unknown = set(given.targets) - set(TARGETS)
    if unknown or given.jobs < 1 or (given.replay and len(given.targets) != 1):
        parser.error(f"targets are {', '.join(TARGETS)}; --jobs is 1 or more; --replay takes one target")
    return given


def main(argv: list[str]) -> int:
    """Fuzz the named targets one after another; returns the exit code."""
    given = _arguments(argv)
    if given.replay:
        with open(given.replay, "rb") as file:
            TARGETS[given.targets[0]](file.read())
        return 0
    if given.markdown:
        sys.stdout.write(f"{markdown(read(given.markdown))}\n")
        return 0
    results = []
    for name in given.targets or TARGETS:
        with tempfile.TemporaryDirectory(prefix="ingestd-fuzz-") as scratch:
            directory = os.path.join(given.work or scratch, name)
            os.makedirs(directory, exist_ok=True)
            _plant(name, directory, given.golden, given.corpus)
            result = _fuzz(name, directory, given)
        results.append(result)
        sys.stdout.write(
            f"{result.target}: {result.executions} executions in {result.seconds:.0f} s, "
            f"{result.inputs} inputs in the corpus, {result.findings} findings\n"
        )
        sys.stdout.flush()
    if given.json:
        add(given.json, results)
    return int(any(result.findings for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
