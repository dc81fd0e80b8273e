"""What makes names durable: shared by the spool and the directory store. Raises OSError; its callers translate.

fdatasync makes the bytes of a file durable, not its name: that is in the directory, which needs a sync of its own, and
so does every directory above it that is new.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["make_directory", "sync_directory"]


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: str, mode: int) -> None:
    """Make a directory with its parents; each new name is synced in the directory that holds it."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directory(parent, mode)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    # Also where somebody else made it at this moment: their sync may come after our success.
    sync_directory(parent)
