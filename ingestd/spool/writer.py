"""Accept: how a frame becomes an entry that survives power loss.

Steps, in this order, each of which may be the last before a crash:

1. write the frame to `tmp/`, over a spare file of its length or to a new one (a crash leaves a file that recovery
   discards);
2. fdatasync the file: its bytes and length are on the disk;
3. rename it into `new/`: uploaders may see it from now on;
4. fsync `new/`: the name is on the disk. Only now is the entry *accepted*.

Steps 2 to 4 are made for a group of entries at once. After an error of write or fdatasync the same file is never
synced again (the kernel may have dropped the dirty pages and report success the second time); the frame is written
once more, from memory, to a new file. What is not promised: a disk that acknowledges a flush it did not do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ingestd import faults
from ingestd.disk import sync_directory
from ingestd.errors import SpoolBroken, SpoolFull
from ingestd.formats.checksum import crc32c
from ingestd.spool.layout import SpoolLayout, is_full
from ingestd.spool.names import EntryName
from ingestd.spool.spares import SpareFiles

__all__ = ["SpoolWriter", "StagedEntry", "Step"]

#: What the writer is doing, for whoever watches the disk.
Step = Literal["writing", "fsync"]

#: Frames are written in pieces so that a short write costs at most one of them again [bytes].
_WRITE_BYTES = 8 * 2**20


@dataclass(slots=True)
class StagedEntry:
    """A frame on its way to acceptance; `frame` is kept until then, for a second try after an I/O error."""

    name: EntryName
    frame: memoryview
    fd: int = -1

    @property
    def size_bytes(self) -> int:
        """Size of the frame [bytes]."""
        return len(self.frame)


class SpoolWriter:
    """Writes entries in group commits. One thread, one process (the receiver).

    Parameters
    ----------
    layout
        Of the spool.
    durability
        "disk": accepted survives power loss. "process": accepted survives the death of every process.
    now_ns
        Wall clock, for names only.
    on_phase
        Told what the disk is being asked for, before it is asked.
    """

    def __init__(
        self,
        layout: SpoolLayout,
        durability: Literal["disk", "process"],
        now_ns: Callable[[], int],
        on_phase: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        self._layout = layout
        self._sync = durability == "disk"
        self._now_ns = now_ns
        self._on_phase = on_phase
        self._last_ns = 0
        self._counter = 0
        self._staged: list[StagedEntry] = []
        self._spares = SpareFiles(layout, time.monotonic, sync=self._sync)

    @property
    def staged(self) -> list[StagedEntry]:
        """Entries that wait for the next `commit`."""
        return self._staged

    @property
    def staged_bytes(self) -> int:
        """Their size [bytes]."""
        return sum(entry.size_bytes for entry in self._staged)

    def add(self, frame: memoryview) -> StagedEntry:
        """Name a frame and remember it for the next `commit`; nothing is written yet."""
        # A wall clock that steps back must not reorder what this receiver took: names only ever ascend.
        self._last_ns = max(self._last_ns + 1, self._now_ns())
        self._counter = (self._counter + 1) % 10**8
        entry = StagedEntry(EntryName(self._last_ns, self._counter, crc32c(frame)), frame)
        self._staged.append(entry)
        return entry

    def write(self, entry: StagedEntry) -> None:
        """Write a staged entry to `tmp/` ahead of its commit, so that the disk can start early.

        Errors wait for `commit`, which writes again what is not there.
        """
        self._on_phase("writing")
        with contextlib.suppress(OSError):
            entry.fd = self._write(entry, anew=False)

    def look_for_spares(self, *, at_once: bool = False) -> None:
        """Between two groups: find out which released files may be written over, where it is time (or `at_once`).

        An error costs the saving alone.
        """
        with contextlib.suppress(OSError):
            if at_once:
                self._spares.look()
            else:
                self._spares.look_if_due()

    def drop_spares(self) -> int:
        """Remove the released files, for room on the disk; returns how many."""
        return self._spares.drop()

    def commit(self) -> list[StagedEntry]:
        """Accept everything staged; returns the accepted entries in order of arrival.

        Raises
        ------
        SpoolFull
            No room (also no inodes, no descriptors). Nothing of the group is accepted; everything stays staged.
        SpoolBroken
            The disk failed twice for one frame. Nothing of the group is accepted; everything stays staged.
        """
        if not self._staged:
            return []
        try:
            for entry in self._staged:
                self._make_durable(entry)
            self._on_phase("fsync")
            self._publish()
        except OSError as error:
            self._rollback()
            kind = SpoolFull if is_full(error) else SpoolBroken
            raise kind(f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror or error}") from error
        accepted, self._staged = self._staged, []
        for entry in accepted:
            _close(entry)
        return accepted

    def abandon(self) -> None:
        """Drop what is staged and not accepted (only when stopping on a broken disk)."""
        self._rollback()
        self._staged = []

    def _path(self, entry: StagedEntry) -> str:
        return os.path.join(self._layout.tmp, str(entry.name))

    def _open(self, entry: StagedEntry, *, anew: bool) -> int:
        faults.point("accept.begin")
        path = self._path(entry)
        fd = None if anew else self._spares.take(entry.size_bytes, path)
        return (
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640) if fd is None else fd
        )

    def _write(self, entry: StagedEntry, *, anew: bool) -> int:
        fd = -1
        try:
            fd = self._open(entry, anew=anew)
            rest = entry.frame
            while rest:
                faults.point("accept.write")
                n_bytes = os.write(fd, faults.shortened("accept.write", rest[:_WRITE_BYTES]))
                if n_bytes == 0:
                    raise OSError(errno.EIO, "write made no progress")  # noqa: TRY301 - the descriptor is closed below
                rest = rest[n_bytes:]
        except BaseException:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._unlink(entry)
            raise
        return fd

    def _make_durable(self, entry: StagedEntry) -> None:
        """Bring the bytes of one entry to the disk, with a second file where the first one failed."""
        for attempt in (1, 2):
            try:
                if entry.fd < 0:
                    self._on_phase("writing")
                    # After an error, a file that nobody has used before.
                    entry.fd = self._write(entry, anew=attempt > 1)
                faults.point("accept.written")
                if self._sync:
                    self._on_phase("fsync")
                    os.fdatasync(entry.fd)
                faults.point("accept.synced")
                return
            except OSError as error:
                self._discard(entry)
                if attempt == 2 or is_full(error):
                    raise
                self._name_anew(entry)

    def _publish(self) -> None:
        for entry in self._staged:
            os.rename(self._path(entry), os.path.join(self._layout.new, str(entry.name)))
        faults.point("accept.renamed")
        if self._sync:
            sync_directory(self._layout.new)

    def _discard(self, entry: StagedEntry) -> None:
        _close(entry)
        self._unlink(entry)

    def _unlink(self, entry: StagedEntry) -> None:
        # Best effort: what stays in tmp/ is discarded at the next start.
        with contextlib.suppress(OSError):
            os.unlink(self._path(entry))

    def _rollback(self) -> None:
        """Take the group back from disk; frames stay in memory.

        An entry that is in new/ already may be in an uploader's hands by now. Then it is stored once more later,
        under the same identity and content: a duplicate, which is harmless. Nobody was told that it is accepted.
        """
        for entry in self._staged:
            self._discard(entry)
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._layout.new, str(entry.name)))
            self._name_anew(entry)

    def _name_anew(self, entry: StagedEntry) -> None:
        """A new file needs a new name: the old one may still be there, with lost pages, where it cannot be removed."""
        self._counter = (self._counter + 1) % 10**8
        entry.name = entry.name._replace(counter=self._counter)


def _close(entry: StagedEntry) -> None:
    """Its bytes are synced, or the file is given up: an error of close says nothing about either, and frees the fd."""
    fd, entry.fd = entry.fd, -1
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)
