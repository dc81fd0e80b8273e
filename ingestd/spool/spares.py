"""Spare files: released entries whose files are written over by new ones, instead of being removed and made anew.

Making a file and removing it cost more than writing a megabyte into one that is there: an inode has to be found, pages
and blocks allocated, and all of it given back. What makes it safe is an order:

1. an uploader moves an entry that is stored from claimed/ to spare/ (instead of removing it);
2. the receiver lists spare/, and syncs it and claimed/: from now on no loss of power brings the old name back;
3. only then it moves a listed file to tmp/ and writes a frame of the same length over it;
4. from there on it is a file like any other: fdatasync, rename into new/, fsync of new/.

Between 1 and 3 nothing has changed in the file. A file is used only where it has exactly the length of the frame, so
that no length has to be made durable, and one name, so that nothing else is written over. Recovery removes what is in
spare/: a disk that lost power may know a file there that has become an entry since.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from ingestd import faults
from ingestd.disk import sync_directory
from ingestd.spool.layout import SpoolLayout, entry_files
from ingestd.spool.survey import free_bytes

__all__ = ["SpareFiles", "spare_room"]

#: Files that are kept, at the most [count], and together of about this size [bytes]: a quarter of a second at 500
#: frames/s, after which the next ones are there.
_MAX_COUNT, _MAX_BYTES = 128, 128 * 2**20

#: Free space beyond `spool.min_free_bytes` below which no file is kept [bytes]: on a small disk they would be in the way.
_MIN_BEYOND_BYTES = 4 * _MAX_BYTES

#: spare/ is looked at again when fewer than this are left and so many were wanted since the last look, or so many were
#: wanted in vain [count], and that was so long ago [s].
_FEW_COUNT = 16
_INTERVAL_S = 0.25

#: Each look costs a sync of a few directories; for so many files [count] it is worth it after this already [s], and a
#: store that takes 600 frames/s releases them in that time. Otherwise they are counted again after so long [s].
_WORTH_COUNT, _SHORT_S = 40, 0.08
_COUNT_AGAIN_S = 0.02


def spare_room(layout: SpoolLayout, size_bytes: int, min_free_bytes: int) -> int:
    """How many released entries of a size are kept now instead of being removed [count].

    Parameters
    ----------
    layout
        Of the spool.
    size_bytes
        Of an entry.
    min_free_bytes
        What stays free on the file system in any case.
    """
    try:
        if free_bytes(layout.root) - min_free_bytes < _MIN_BEYOND_BYTES:
            return 0
        there = len(os.listdir(layout.spare))
    except OSError:
        # Whatever it is, the release itself will meet it and say so.
        return 0
    return max(0, min(_MAX_COUNT, _MAX_BYTES // max(1, size_bytes)) - there)


class SpareFiles:
    """The receiver's hand on spare/. One thread.

    Parameters
    ----------
    layout
        Of the spool.
    sync
        Whether entries must survive a loss of power.
    clock_s
        Monotonic clock.
    """

    def __init__(self, layout: SpoolLayout, clock_s: Callable[[], float], *, sync: bool) -> None:
        self._layout = layout
        self._sync = sync
        self._clock_s = clock_s
        self._looked_s = -_INTERVAL_S
        #: When files that are there may be counted [s].
        self._count_at_s = 0.0
        self._count = 0
        self._wanted, self._missed = _FEW_COUNT, 0
        self._safe: dict[int, list[str]] = {}
        #: Lengths that were taken since the last look.
        self._taken: set[int] = set()

    def look_if_due(self) -> None:
        """Find out which files may be written over, where few are left or their lengths are no longer wanted.

        Raises
        ------
        OSError
            The disk refuses to list or to sync; then none may be.
        """
        is_short = self._count < _FEW_COUNT and self._wanted >= _FEW_COUNT
        if (is_short or self._missed >= _FEW_COUNT) and self._is_due(self._clock_s()):
            self.look()

    def _is_due(self, now_s: float) -> bool:
        since_s = now_s - self._looked_s
        if since_s >= _INTERVAL_S:
            return True
        if since_s < _SHORT_S or now_s < self._count_at_s:
            return False
        self._count_at_s = now_s + _COUNT_AGAIN_S
        return len(os.listdir(self._layout.spare)) - self._count >= _WORTH_COUNT

    def look(self) -> None:
        """Find out which files may be written over.

        Raises
        ------
        OSError
            The disk refuses to list or to sync; then none may be.
        """
        self._looked_s = self._clock_s()
        self._remove_unwanted()
        self._forget()
        found = [(entry.stat(follow_symlinks=False).st_size, entry.path) for entry in self._listing()]
        if not found:
            return
        faults.point("spare.listed")
        if self._sync:
            # A rename touches two directories. Journals save both with either; other file systems need not.
            for directory in (self._layout.spare, *self._holders()):
                sync_directory(directory)
            faults.point("spare.synced")
        for size_bytes, path in found:
            self._safe.setdefault(size_bytes, []).append(path)
        self._count, self._wanted, self._missed = len(found), 0, 0

    def take(self, size_bytes: int, target: str) -> int | None:
        """Move a file of exactly this length to `target` and open it for writing; None where there is none.

        Raises
        ------
        OSError
            The disk refuses; `target` may be there.
        """
        self._wanted += 1
        paths = self._safe.get(size_bytes, [])
        while paths:
            path = paths.pop()
            self._count -= 1
            self._taken.add(size_bytes)
            try:
                os.rename(path, target)
            except FileNotFoundError:
                continue
            faults.point("spare.taken")
            fd = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if _is_ours_alone(fd, size_bytes):
                return fd
            os.close(fd)
            os.unlink(target)
        self._missed += 1
        return None

    def drop(self) -> int:
        """Remove all of them, for room on the disk; returns how many."""
        self._forget()
        dropped = 0
        with contextlib.suppress(OSError):
            for entry in self._listing():
                os.unlink(entry.path)
                dropped += 1
        return dropped

    def _remove_unwanted(self) -> None:
        """Files of a length that nobody sent since the last look are in the way of those that are sent now."""
        if self._missed < _FEW_COUNT:
            return
        for size_bytes, paths in self._safe.items():
            for path in () if size_bytes in self._taken else paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _forget(self) -> None:
        self._safe.clear()
        self._taken.clear()
        self._count = 0

    def _listing(self) -> list[os.DirEntry[str]]:
        return entry_files(self._layout.spare)

    def _holders(self) -> list[str]:
        """Directories that entries are released from."""
        with os.scandir(self._layout.claimed) as listing:
            return [
                entry.path
                for entry in listing
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith("suspect-")
                and ".alone-" not in entry.name
            ]


def _is_ours_alone(fd: int, size_bytes: int) -> bool:
    about = os.fstat(fd)
    return stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and about.st_size == size_bytes
