"""Runs of the fuzzer on record, and the table that docs/security.md shows of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Result", "add", "markdown", "read"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target in one run.

    Parameters
    ----------
    target, engine
        What was fuzzed, `guided` by coverage or `blind`.
    executions
        Inputs that were tried [count].
    seconds
        How long, by the clock [s]; `jobs` processes at the same time.
    inputs
        Of the corpus at the end [count].
    findings
        Processes that ended by one [count].
    jobs, seed
        Processes, and the seed of the first.
    date
        When it began, in UTC.
    version
        Of what was fuzzed.
    """

    target: str
    engine: str
    executions: int
    seconds: float
    inputs: int
    findings: int
    jobs: int = 1
    seed: int = 1
    date: str = ""
    version: str = ""


def read(path: str | os.PathLike[str]) -> list[Result]:
    """All runs on record, oldest first; none where there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [Result(**one) for one in json.load(file)]


def add(path: str | os.PathLike[str], results: Sequence[Result]) -> None:
    """Put runs on record behind those that are there; the file is replaced in one step."""
    found = [asdict(one) for one in (*read(path), *results)]
    scratch = f"{os.fspath(path)}.new"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    os.replace(scratch, path)


def markdown(results: Sequence[Result]) -> str:
    """A line for each target and engine, all runs added up."""
    lines = [
        "| target | engine | runs | executions | time | inputs in the corpus | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, engine in dict.fromkeys((one.target, one.engine) for one in results):
        rows = [one for one in results if (one.target, one.engine) == (target, engine)]
        cells = (
            f"`{target}`",
            engine,
            str(len(rows)),
            f"{sum(one.executions for one in rows):,}",
            _time(sum(one.seconds * one.jobs for one in rows)),
            str(max(one.inputs for one in rows)),
            str(sum(one.findings for one in rows)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, length_s in (("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"
