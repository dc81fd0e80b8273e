"""Where daemons that are measured keep their files."""

from __future__ import annotations

import os

__all__ = ["quick_place"]

#: A file system in memory, and what must be free there: what floods bring, in the spool and as objects [bytes].
_MEMORY, _ROOM_BYTES = "/dev/shm", 6 * 2**30  # noqa: S108 - only directories of mkdtemp are made in it


def quick_place(directory: str) -> str:
    """Memory where there is room, so that a disk's swings do not hide what is compared; else the given directory."""
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return directory
    return _MEMORY if found.f_bavail * found.f_frsize > _ROOM_BYTES else directory
