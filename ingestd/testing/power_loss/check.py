"""Every prefix of a log, times many disks that a crash there may leave, each of them recovered and judged."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ingestd.testing.power_loss.controls import CONTROLS
from ingestd.testing.power_loss.model import Disk, Image
from ingestd.testing.power_loss.operations import Mark, Operation
from ingestd.testing.power_loss.oracle import Promises, Recovery, digest, is_intact, judge
from ingestd.testing.power_loss.workload import STATE, record

__all__ = ["Findings", "check", "check_log"]

#: Disks checked for one recorded life, at least: below that another life would say less than another disk of this one.
_STATES_PER_LIFE = 4_000

#: One in so many disks is not only recovered but lived on with, until its spool is empty.
_LIVE_ON_EVERY = 200

#: Disks a moment, from which on two of them are the ends of what is possible.
_COUNT_WITH_ENDS = 4

#: Violations that are described in full [count].
_EXAMPLES_MAX_COUNT = 10

_TMP = f"{STATE}/spool/tmp/"


@dataclass(slots=True)
class Findings:
    """What a check counted.

    Attributes
    ----------
    operations
        In all recorded lives.
    prefixes
        Moments at which the power was cut.
    states
        Disks that were checked.
    images
        Digests of those that differ.
    recoveries
        Runs of the real recovery: once for each spool that differs.
    lived_on
        Disks on which everything was then stored.
    torn
        Disks with a torn file in tmp/: that many times the tearing mattered.
    violations
        What was wrong, and on how many disks.
    examples
        The first ones, with what it takes to see them again.
    """

    operations: int = 0
    prefixes: int = 0
    states: int = 0
    images: set[bytes] = field(default_factory=set)
    recoveries: int = 0
    lived_on: int = 0
    torn: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def check(
    states: int,
    seed: int,
    control: str | None = None,
    progress: Callable[[int], None] = lambda _states: None,
) -> Findings:
    """Record lives of the real code and check so many disks.

    Parameters
    ----------
    states
        Disks in all, at least.
    seed
        Of the first life; each further one has the next.
    control
        Name of a control, which is applied to each log.
    progress
        Told how many disks were checked so far.
    """
    findings = Findings()
    lives = max(1, states // _STATES_PER_LIFE)
    for number in range(lives):
        log = record(seed + number)
        log = CONTROLS[control](log) if control else log
        wanted = states * (number + 1) // lives - findings.states
        check_log(log, wanted, seed + number, findings)
        progress(findings.states)
    return findings


def check_log(log: Sequence[Operation], states: int, seed: int, findings: Findings) -> None:
    """Check at least so many disks of one log, as many after each step.

    Parameters
    ----------
    log
        Of a recorder.
    states
        How many.
    seed
        Draws the disks.
    findings
        What is counted is added here.
    """
    rng = random.Random(seed)  # noqa: S311 - draws disks, no secrets
    disk, promises = Disk(), Promises()
    moments = sum(map(_is_moment, log))
    per_moment = -(-states // moments)
    findings.operations += sum(not isinstance(one, Mark) for one in log)
    findings.prefixes += moments
    with tempfile.TemporaryDirectory(prefix="ingestd-power-loss-", dir=_memory()) as directory:
        recovery = Recovery(directory)
        for number, operation in enumerate(log):
            if isinstance(operation, Mark):
                promises.add(operation)
            else:
                disk.apply(operation)
            if _is_moment(operation):
                for image in _disks(disk, per_moment, rng):
                    where = f"seed {seed}, after step {number} ({str(operation)[:160]})"
                    _check_image(image, promises, recovery, findings, where)
        findings.recoveries += recovery.runs


def _disks(disk: Disk, count: int, rng: random.Random) -> Iterator[Image]:
    """Nothing unsafe reached the disk; all of it did; and, for the rest, whatever is drawn."""
    # Where few are wanted, draws see more than the same two ends at every moment.
    ends: list[set[int]] = [set(), set(disk.waiting)] if count >= _COUNT_WITH_ENDS else []
    for chosen in ends:
        yield disk.image(chosen, rng)
    for _ in range(count - len(ends)):
        yield disk.crash(rng)


def _check_image(
    image: Image, promises: Promises, recovery: Recovery, findings: Findings, where: str
) -> None:
    findings.states += 1
    findings.images.add(digest(image))
    findings.torn += any(
        content is not None and path.startswith(_TMP) and not is_intact(path, content)
        for path, content in image.items()
    )
    wrongs = judge(image, recovery.recovered(image), promises)
    # A disk that is wrong already would only say so again.
    if not wrongs and findings.states % _LIVE_ON_EVERY == 0:
        wrongs = list(recovery.live_on(image))
        findings.lived_on += 1
    findings.violations.update(set(wrongs))
    if wrongs and len(findings.examples) < _EXAMPLES_MAX_COUNT:
        findings.examples.append(f"{where}: {'; '.join(wrongs)}")


def _is_moment(operation: Operation) -> bool:
    """Whether a crash right after it differs from one before: the announcement of a step changes nothing yet."""
    return not (isinstance(operation, Mark) and operation.kind in ("issued", "putting", "requeueing"))


def _memory() -> str | None:
    """A directory in memory, where the machine has one: a hundred thousand recoveries sync for nothing."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a private directory is made in it
