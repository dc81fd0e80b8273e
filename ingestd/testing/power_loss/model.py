"""The disk: what is safe, what is not yet, and what a loss of power may make of the latter.

The rules and why they are these: `ingestd.testing.power_loss`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingestd.testing.power_loss.operations import (
    Name,
    Operation,
    SyncDirectory,
    SyncFile,
    Truncate,
    Write,
    parent_of,
)

__all__ = ["PAGE_BYTES", "SECTOR_BYTES", "Disk", "Image", "crashed_file"]

#: What a drive writes whole or not at all.
SECTOR_BYTES = 512

#: What a kernel writes back at a time.
PAGE_BYTES = 4096

#: A disk after a crash: the contents of each file by its path; None is a directory.
Image = dict[str, bytes | None]

#: How likely an unsafe step reached the disk; one is chosen for each crash, so that all shades come up.
_SHARES = (0.0, 0.15, 0.5, 0.85, 1.0)


@dataclass(slots=True)
class _File:
    """Bytes that are safe, bytes as programs see them, and the shortest that the file was since its sync."""

    safe: bytes = b""
    seen: bytes = b""
    shortest: int = 0

    @property
    def is_safe(self) -> bool:
        return self.safe == self.seen and self.shortest == len(self.seen)


@dataclass(slots=True)
class _Step:
    """A change of names that waits, and the steps that must be on the disk before it."""

    name: Name
    needs: frozenset[int]


@dataclass(slots=True)
class Disk:
    """A disk in operation. Apply a log, step by step, and ask after any of them what a crash would leave."""

    _files: dict[int, _File] = field(default_factory=dict)
    _tree: dict[str, int] = field(default_factory=dict)
    _waiting: dict[int, _Step] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def apply(self, operation: Operation) -> None:
        """Do one step of a log."""
        match operation:
            case Write(inode, offset, data):
                file = self._files[inode]
                old = file.seen.ljust(offset, b"\0")
                file.seen = old[:offset] + data + old[offset + len(data) :]
            case Truncate(inode, length):
                file = self._files[inode]
                file.seen = file.seen[:length].ljust(length, b"\0")
                file.shortest = min(file.shortest, length)
            case SyncFile(inode):
                file = self._files[inode]
                file.safe, file.shortest = file.seen, len(file.seen)
            case SyncDirectory(path):
                touching = (n for n, step in self._waiting.items() if path in map(parent_of, step.name.names))
                self._save(self._with_needs(touching))
            case Name():
                self._wait(operation)

    @property
    def waiting(self) -> list[int]:
        """Numbers of the changes of names that are not safe, in order."""
        return list(self._waiting)

    def _wait(self, name: Name) -> None:
        self._count += 1
        if name.kind == "create":
            self._files[name.inode] = _File()
        touched = {*name.names, *map(parent_of, name.names)}
        if name.kind == "rmdir":
            # An empty directory goes only after everything that was in it.
            touched.update(other for other in self._last if parent_of(other) == name.path)
        needs = {self._last[one] for one in touched if one in self._last} & self._waiting.keys()
        self._waiting[self._count] = _Step(name, frozenset(needs))
        for one in name.names:
            self._last[one] = self._count

    def _with_needs(self, chosen: Iterable[int]) -> set[int]:
        """The chosen steps and all that they need, directly or not."""
        found: set[int] = set()
        todo = list(chosen)
        while todo:
            number = todo.pop()
            if number not in found and number in self._waiting:
                found.add(number)
                todo.extend(self._waiting[number].needs)
        return found

    def _possible(self, chosen: set[int]) -> set[int]:
        """The chosen steps without those that need one that is missing."""
        kept: set[int] = set()
        for number in self._waiting:
            if number in chosen and all(
                n in kept or n not in self._waiting for n in self._waiting[number].needs
            ):
                kept.add(number)
        return kept

    def _save(self, chosen: set[int]) -> None:
        for number in sorted(chosen):
            _change(self._tree, self._waiting.pop(number).name)

    def _chosen(self, rng: random.Random) -> set[int]:
        """Steps that reached the disk although nobody waited for them."""
        share = rng.choice(_SHARES)
        drawn = {number for number in self._waiting if rng.random() < share}
        return self._with_needs(drawn) if rng.random() < 0.5 else self._possible(drawn)

    def crash(self, rng: random.Random) -> Image:
        """One disk that a loss of power now may leave."""
        return self.image(self._chosen(rng), rng)

    def image(self, chosen: set[int], rng: random.Random) -> Image:
        """The disk with exactly these unsafe changes of names; unsafe bytes are drawn.

        Parameters
        ----------
        chosen
            Of `waiting`; what they need must be among them.
        rng
            Draws what becomes of the bytes.
        """
        tree = dict(self._tree)
        for number in sorted(chosen):
            _change(tree, self._waiting[number].name)
        share = rng.choice(_SHARES)
        contents: dict[int, bytes] = {}
        image: Image = {}
        for path, inode in tree.items():
            if inode and inode not in contents:
                file = self._files[inode]
                # Two names of one file show the same bytes.
                contents[inode] = file.safe if file.is_safe else _crashed(file, share, rng)
            image[path] = contents[inode] if inode else None
        return image


def crashed_file(safe: bytes, seen: bytes, shortest: int, share: float, rng: random.Random) -> bytes:
    """Bytes of a file that was not synced.

    Parameters
    ----------
    safe, seen
        The bytes at the last sync, and now.
    shortest
        Its least length since then [bytes].
    share
        How likely a page, or a sector of a torn page, is new.
    rng
        Draws.
    """
    length = _crashed_length(min(shortest, len(safe), len(seen)), max(len(safe), len(seen)), len(seen), rng)
    old, new = safe[:length].ljust(length, b"\0"), seen[:length].ljust(length, b"\0")
    out = bytearray(old)
    for page in range(0, length, PAGE_BYTES):
        end = min(page + PAGE_BYTES, length)
        is_torn = rng.random() < 0.4
        page_is_new = rng.random() < share
        for sector in range(page, end, SECTOR_BYTES):
            if rng.random() < share if is_torn else page_is_new:
                stop = min(sector + SECTOR_BYTES, end)
                out[sector:stop] = new[sector:stop]
    return bytes(out)


def _crashed(file: _File, share: float, rng: random.Random) -> bytes:
    return crashed_file(file.safe, file.seen, file.shortest, share, rng)


def _crashed_length(low: int, high: int, now: int, rng: random.Random) -> int:
    """The length as it is now (bytes may still be missing), none yet, a whole number of sectors, or any at all."""
    drawn = rng.random()
    if drawn < 0.4:
        return now
    if drawn < 0.5:
        return low
    length = rng.randint(low, high)
    return max(low, length - length % SECTOR_BYTES) if drawn < 0.8 else length


def _change(tree: dict[str, int], name: Name) -> None:
    if name.kind == "rename":
        tree.pop(name.source)
    if name.kind in ("unlink", "rmdir"):
        tree.pop(name.path)
    else:
        tree[name.path] = name.inode
