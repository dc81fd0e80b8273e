"""What a process and all its descendants cost, as the kernel counts it: CPU time, page faults, memory."""

from __future__ import annotations

import contextlib
import os

__all__ = ["cpu_s", "minor_faults", "resident_bytes", "tree"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

#: Fields of /proc/PID/stat after the name: utime, stime, and those of children that were waited for.
_UTIME, _STIME, _CUTIME, _CSTIME = 11, 12, 13, 14
#: Page faults that needed no disk, and those of children that were waited for.
_MINFLT, _CMINFLT = 7, 8


def tree(pid: int) -> list[int]:
    """The process and its descendants that live now."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        with contextlib.suppress(OSError), open(f"/proc/{one}/task/{one}/children", encoding="ascii") as file:
            waiting += map(int, file.read().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far [s], that of ended children included."""
    return _sum(pid, (_UTIME, _STIME, _CUTIME, _CSTIME)) / _TICKS_PER_S


def minor_faults(pid: int) -> int:
    """Page faults of the tree so far that needed no disk, those of ended children included."""
    return _sum(pid, (_MINFLT, _CMINFLT))


def _sum(pid: int, wanted: tuple[int, ...]) -> int:
    """Fields of the stat file, added up over the tree."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError), open(f"/proc/{one}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            total += sum(int(fields[i]) for i in wanted)
    return total


def resident_bytes(pid: int, *, alone: bool = False) -> int:
    """Memory of the tree [bytes], with what processes share counted once (proportional set size).

    Parameters
    ----------
    pid
        Its root.
    alone
        Only the root: where its children are other matters, as a server that a test session keeps.
    """
    total = 0
    for one in [pid] if alone else tree(pid):
        with contextlib.suppress(OSError), open(f"/proc/{one}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return total
