"""A small file system that can be filled, emptied and made read-only under a running daemon. Needs root."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Self

from ingestd.errors import IngestdError

__all__ = ["DiskRefused", "SmallDisk"]

#: Written at once while there is room [bytes]; halved where there is less.
_FILL_BYTES = 2**20

#: Between two looks for bytes that became free [s].
_TOP_UP_S = 0.005

#: A mount takes milliseconds [s].
_MOUNT_TIMEOUT_S = 20.0


class DiskRefused(IngestdError):
    """No file system may be mounted here: not root, or a container without the right to."""


class SmallDisk:
    """A tmpfs of its own, as a `with` block that unmounts it.

    Parameters
    ----------
    path
        Where it is mounted; made if absent.
    size_bytes
        Room [bytes].
    n_inodes
        Files and directories that fit [count].
    """

    def __init__(self, path: str | os.PathLike[str], size_bytes: int, n_inodes: int = 10_000) -> None:
        self.path = os.fspath(path)
        self._options = f"size={size_bytes},nr_inodes={n_inodes},mode=755"
        self._ballast = os.path.join(self.path, "ballast")
        self._crowd = os.path.join(self.path, "crowd")
        self._n_mounts = 0

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise DiskRefused("mounting a small disk needs root")
        os.makedirs(self.path, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", self._options, "ingestd-small-disk", self.path)
        self._n_mounts = 1
        # Its inode is taken now: a disk without inodes can still be filled.
        self.empty()
        os.makedirs(self._crowd)
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._n_mounts:
            self._unmount()

    def read_only(self, wanted: bool) -> None:
        """Refuse every change by name with EROFS, or let the disk be written again.

        The kernel refuses to remount a file system while files are open for writing, as the daemon's catalog is. So
        the same file system is laid over itself, and that mount is read-only: whoever goes there by a path meets it.
        """
        if wanted and self._n_mounts == 1:
            _run("mount", "--bind", self.path, self.path)
            self._n_mounts = 2
            _run("mount", "-o", "remount,bind,ro", self.path)
        elif not wanted and self._n_mounts == 2:
            self._unmount()

    def fill(self) -> int:
        """Take every free byte; returns how many were taken."""
        taken, n_bytes = 0, _FILL_BYTES
        fd = os.open(self._ballast, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            while n_bytes:
                try:
                    taken += os.write(fd, bytes(n_bytes))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    n_bytes //= 2
        finally:
            os.close(fd)
        return taken

    @contextlib.contextmanager
    def kept_full(self) -> Iterator[None]:
        """Fill the disk, and take what becomes free, for the length of a `with` block; then there is room again."""
        stop = threading.Event()

        def top_up() -> None:
            while not stop.wait(_TOP_UP_S):
                self.fill()

        self.fill()
        thread = threading.Thread(target=top_up, name="ballast", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.empty()

    def empty(self) -> None:
        """Give back what `fill` took."""
        with open(self._ballast, "wb"):
            pass

    def take_inodes(self) -> int:
        """Take every free inode; returns how many were taken."""
        taken = len(os.listdir(self._crowd))
        for number in itertools.count(taken):
            try:
                os.close(os.open(os.path.join(self._crowd, str(number)), os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return number - taken
        return 0

    def give_inodes(self) -> None:
        """Give back what `take_inodes` took."""
        for name in os.listdir(self._crowd):
            os.unlink(os.path.join(self._crowd, name))

    def _unmount(self) -> None:
        # Lazy: a daemon that a failed test left behind must not keep the mount for ever.
        self._n_mounts -= 1
        try:
            _run("umount", self.path)
        except DiskRefused:
            _run("umount", "--lazy", self.path)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_MOUNT_TIMEOUT_S)  # noqa: S603 - fixed words and our own path
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        raise DiskRefused(
            f"{' '.join(command)}: {said.decode('utf-8', 'replace').strip() or error}"
        ) from error
