"""What is in the spool, and whether more fits in."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from ingestd.spool.layout import SpoolLayout, entry_files, spool_errors
from ingestd.spool.names import EntryName

__all__ = ["Bounds", "SpoolSurvey", "free_bytes", "marks_ns", "survey"]

#: Foreign files named in an alarm at most.
_FOREIGN_MAX_COUNT = 10


@dataclass(frozen=True, slots=True)
class SpoolSurvey:
    """Contents of the spool at one moment; sizes [bytes], `oldest_ns` [ns since 1970] or 0 where nothing waits.

    `entries` wait or are claimed; `failed` and `retained_bytes` are beside them. `bytes` counts all that a bound of the
    spool is about: waiting, claimed and failed entries, and the retained ones apart in `retained_bytes`.
    """

    entries: int
    bytes: int
    oldest_ns: int
    failed: int
    retained_bytes: int
    free_bytes: int
    foreign: tuple[str, ...]
    foreign_count: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the spool.

    Parameters
    ----------
    max_bytes
        Waiting, claimed and failed entries together; None = no limit.
    min_free_bytes
        What stays free on the file system.
    """

    max_bytes: int | None
    min_free_bytes: int

    def credit_bytes(self, spool_bytes: int, free_bytes: int) -> int:
        """How much the spool still takes [bytes]; not below 0."""
        credit = free_bytes - self.min_free_bytes
        if self.max_bytes is not None:
            credit = min(credit, self.max_bytes - spool_bytes)
        return max(0, credit)

    def refusal(self, spool_bytes: int, free_bytes: int, next_bytes: int) -> str:
        """Why a group of `next_bytes` does not fit now; "" where it does."""
        if self.max_bytes is not None and spool_bytes + next_bytes > self.max_bytes:
            return f"spool_full: {spool_bytes} of {self.max_bytes} bytes (spool.max_bytes) are in use"
        if free_bytes - next_bytes < self.min_free_bytes:
            return f"disk_low: {free_bytes} bytes are free, spool.min_free_bytes is {self.min_free_bytes}"
        return ""


def free_bytes(path: str) -> int:
    """Bytes that this user may still write on the file system of `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _waiting(layout: SpoolLayout) -> list[str]:
    """Directories with entries that wait or are claimed."""
    return [layout.new, *(e.path for e in os.scandir(layout.claimed) if e.is_dir(follow_symlinks=False))]


def marks_ns(layout: SpoolLayout) -> tuple[int, ...]:
    """When each directory of the spool was changed last [ns since 1970]: as long as none is, a survey stays true."""
    with spool_errors("looking at the spool"):
        directories = [*_waiting(layout), layout.claimed, layout.failed, layout.retained]
        return tuple(os.stat(directory).st_mtime_ns for directory in directories)


def survey(layout: SpoolLayout) -> SpoolSurvey:
    """Count what is in the spool. Entries that move meanwhile may be counted in either place or, rarely, in none."""
    with spool_errors("looking through the spool"):
        entries = total_bytes = foreign_count = 0
        oldest_ns = 0
        foreign: list[str] = []
        for directory in _waiting(layout):
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as listing:
                for entry in listing:
                    name = EntryName.parse(entry.name)
                    if name is None or not entry.is_file(follow_symlinks=False):
                        foreign_count += 1
                        if len(foreign) < _FOREIGN_MAX_COUNT:
                            foreign.append(os.path.relpath(entry.path, layout.root))
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        total_bytes += entry.stat(follow_symlinks=False).st_size
                        entries += 1
                        oldest_ns = min(oldest_ns or name.receive_ns, name.receive_ns)
        failed = entry_files(layout.failed)
        return SpoolSurvey(
            entries=entries,
            bytes=total_bytes + _size_bytes(failed),
            oldest_ns=oldest_ns,
            failed=len(failed),
            retained_bytes=_size_bytes(entry_files(layout.retained)),
            free_bytes=free_bytes(layout.root),
            foreign=tuple(foreign),
            foreign_count=foreign_count,
        )


def _size_bytes(entries: list[os.DirEntry[str]]) -> int:
    total = 0
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat(follow_symlinks=False).st_size
    return total
