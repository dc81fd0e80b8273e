"""One lock per identity between all threads and processes of a daemon: flock on one of 256 files.

Needed where a store cannot check and write in one request (HEAD, then PUT), and where objects may be replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterator

from ingestd.errors import StoreBusy
from ingestd.formats.measurement import Identity

__all__ = ["IdentityLocks"]

#: Files: few enough to make none per identity, many enough that two uploads rarely share one.
_COUNT = 256

#: Longest wait [s]: as long as the longest upload in front may take, then the entry is tried again later.
TIMEOUT_S = 60.0

#: Between two looks [s].
_PAUSE_S = 0.005


class IdentityLocks:
    """Locks in a directory.

    Parameters
    ----------
    directory
        Made if absent; must be local.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def make(self) -> None:
        """Make all files ahead: a disk without room or inodes has none for a lock, and must be drained all the same.

        Raises
        ------
        OSError
            There is no room for them now; each is tried again when it is needed.
        """
        os.makedirs(self._directory, exist_ok=True)
        for number in range(_COUNT):
            os.close(self._open(number))

    @contextlib.contextmanager
    def hold(self, identity: Identity) -> Iterator[None]:
        """Hold the lock of an identity for the length of a `with` block.

        Raises
        ------
        StoreBusy
            Somebody else held it all the time, or the lock file cannot be made.
        """
        number = zlib.crc32(repr(tuple(identity)).encode()) % _COUNT
        try:
            os.makedirs(self._directory, exist_ok=True)
            fd = self._open(number)
        except OSError as error:
            raise StoreBusy(f"lock of the identity in {self._directory}: {error.strerror}") from error
        try:
            _wait(fd)
            yield
        finally:
            os.close(fd)

    def _open(self, number: int) -> int:
        """Descriptor of its own for each holder: flock belongs to the open file, so threads exclude each other too."""
        path = os.path.join(self._directory, f"{number:02x}")
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _wait(fd: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise StoreBusy(f"another upload has held this identity for {TIMEOUT_S:g} s") from error
            time.sleep(_PAUSE_S)
        except OSError as error:
            raise StoreBusy(f"lock of the identity: {error.strerror}") from error
        else:
            return
