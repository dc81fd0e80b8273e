"""What the durable path asks of a disk, as values: a log of these is all that the model knows of the real code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Mark", "Name", "Operation", "SyncDirectory", "SyncFile", "Truncate", "Write", "parent_of"]

#: What is promised to whom; the model ignores it, the oracle holds the disk to it.
MarkKind = Literal["issued", "accepted", "stored", "failed", "requeueing", "putting", "put"]


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes go to a file; safe only after a `SyncFile`."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file gets another length."""

    inode: int
    length: int


@dataclass(frozen=True, slots=True)
class SyncFile:
    """fdatasync or fsync of a file."""

    inode: int


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """fsync of a directory; the path is relative, "" is the root of all."""

    path: str


@dataclass(frozen=True, slots=True)
class Name:
    """One atomic change of names.

    Parameters
    ----------
    kind
        What was called.
    path
        The name that comes or goes; for a rename, the one that comes.
    inode
        What it names; 0 is a directory.
    source
        For a rename, the name that goes.
    """

    kind: Literal["create", "rename", "link", "unlink", "mkdir", "rmdir"]
    path: str
    inode: int
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it touches."""
        return (self.source, self.path) if self.kind == "rename" else (self.path,)


@dataclass(frozen=True, slots=True)
class Mark:
    """A promise made at this point: `subject` is an entry or a key, `crc32c` is of its bytes."""

    kind: MarkKind
    subject: str
    crc32c: int = 0


Operation = Write | Truncate | SyncFile | SyncDirectory | Name | Mark


def parent_of(path: str) -> str:
    """Directory of a relative path."""
    return path.rpartition("/")[0]
