"""Fault points: named places between two steps where a test makes a process die, fail, stop short or hang.

`INGESTD_FAULT=NAME:ACTION@N[,NAME:ACTION@N...]` arms them: the N-th time (from 1) that a process comes by, the action
happens, once. Actions: `kill` (SIGKILL to itself), the name of an errno (`EIO`, `ENOSPC`, ...: the OSError is raised),
`short` (a write is cut in half), `delay` (0.5 s), `hang` (until somebody kills it). A role that is started again
starts without faults. Not set, a point is a call of an empty function.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ingestd.errors import UsageError, bounded

__all__ = ["POINTS", "VARIABLE", "WRITES", "Fault", "parse", "point", "shortened"]

#: Environment variable that arms faults; for tests, never for a service.
VARIABLE = "INGESTD_FAULT"

#: Every point, and what lies on its two sides. A test fails unless each of them was hit.
POINTS: Mapping[str, str] = {
    "accept.begin": "frame parsed | before its file is made",
    "accept.write": "in front of a write to the file in tmp/",
    "spare.listed": "released files listed | before their names are synced",
    "spare.synced": "names synced | before one of the files is taken",
    "spare.taken": "file renamed into tmp/ | before it is opened and written over",
    "accept.written": "file written | before fdatasync",
    "accept.synced": "fdatasync | before the rename into new/",
    "accept.renamed": "renamed into new/ | before fsync of new/",
    "accept.named": "fsync of new/, accepted | before the doorbell",
    "accept.recorded": "in the catalog, confirmable | before the next frame",
    "claim.renamed": "renamed into claimed/ | before anything is read",
    "claim.read": "entry read and checked | before it is encoded",
    "upload.encoded": "pair encoded | before the first request",
    "upload.body": "a part of the body is sent | before the rest",
    "upload.npy": ".npy sent | before it is known whether it was new or another's",
    "verify.npy": ".npy verified | before metadata",
    "upload.metadata": "metadata sent | before it is known whether it was new or another's",
    "verify.pair": "pair verified | before the record",
    "record.stored": "in the catalog | before the release",
    "release.unlinked": "entry removed from the spool | before anything else",
    "release.spared": "entry moved to spare/ | before anything else",
    "release.retained": "entry moved to retained/ | before anything else",
    "give_back.renamed": "claim given back to new/ | before anything else",
    "fail.documented": "reason document written | before the entry moves to failed/",
    "fail.renamed": "entry moved to failed/ | before fsync of failed/",
    "return.renamed": "one claim of a dead uploader returned | before the next",
    "requeue.renamed": "failed entry back in new/ | before its reason document goes",
    "recover.discarded": "tmp/ emptied | before claims are returned",
    "recover.returned": "claims returned | before fsync of new/",
    "recover.synced": "spool in order | before any role starts",
    "directory.write": "in front of a write to the directory store's scratch file",
    "directory.written": "scratch file written | before fdatasync",
    "directory.synced": "fdatasync | before link()",
    "directory.linked": "linked to its name | before fsync of the directory",
    "directory.named": "fsync of the directory, object there | before success is said",
}

#: Points in front of a write: the only ones that can be cut short.
WRITES = frozenset({"accept.write", "directory.write"})

#: How long `delay` takes [s], and `hang` [s]: longer than anybody waits, and still an end.
_DELAY_S = 0.5
_HANG_S = 3600.0


@dataclass(slots=True)
class Fault:
    """One armed fault; it happens at the `at`-th passage."""

    name: str
    action: str
    at: int
    _passages: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def due(self) -> bool:
        """Count a passage; whether this is the one. Atomic under threads."""
        return next(self._passages) == self.at


def parse(text: str) -> list[Fault]:
    """Read what arms faults.

    Raises
    ------
    UsageError
        A name, action or number that is none; the daemon does not start with it.
    """
    return [_parse_one(part) for part in text.split(",") if part]


def _parse_one(text: str) -> Fault:
    name, _, rest = text.partition(":")
    action, _, at = rest.partition("@")
    at = at or "1"
    known = action in ("kill", "short", "delay", "hang") or action in errno.errorcode.values()
    if name not in POINTS or not known or not at.isdecimal() or int(at) < 1:
        raise UsageError(
            f"{VARIABLE}: {bounded(text)} (allowed: NAME:ACTION@N with a NAME of ingestd/faults.py and an ACTION "
            "out of kill, short, delay, hang or the name of an errno)"
        )
    if action == "short" and name not in WRITES:
        raise UsageError(f"{VARIABLE}: {bounded(text)} (allowed for short: {', '.join(sorted(WRITES))})")
    return Fault(name, action, int(at))


def _happen(fault: Fault) -> None:
    # Said on the raw descriptor: the process may be gone before a buffer is written out.
    os.write(sys.stderr.fileno(), f"{VARIABLE} {fault.name}:{fault.action}@{fault.at}\n".encode())
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "delay":
        time.sleep(_DELAY_S)
    elif fault.action == "hang":
        time.sleep(_HANG_S)
    elif fault.action != "short":
        number = getattr(errno, fault.action)
        raise OSError(number, os.strerror(number))


def _armed_point(armed: list[Fault]) -> Callable[[str], None]:
    def point(name: str) -> None:
        for fault in armed:
            if fault.name == name and fault.action != "short" and fault.due():
                _happen(fault)

    return point


def _armed_shortened(armed: list[Fault]) -> Callable[[str, memoryview], memoryview]:
    def shortened(name: str, view: memoryview) -> memoryview:
        for fault in armed:
            if fault.name == name and fault.action == "short" and fault.due():
                _happen(fault)
                return view[: max(1, len(view) // 2)]
        return view

    return shortened


def _no_point(_name: str) -> None:
    """Nothing is armed."""


def _whole(_name: str, view: memoryview) -> memoryview:
    """Nothing is armed."""
    return view


_ARMED = parse(os.environ.get(VARIABLE, ""))

#: Come by a point; raises OSError where an errno is armed there.
point: Callable[[str], None] = _armed_point(_ARMED) if _ARMED else _no_point

#: What of a buffer to write at a point; all of it unless `short` is armed there.
shortened: Callable[[str, memoryview], memoryview] = _armed_shortened(_ARMED) if _ARMED else _whole
