"""Claim, release, give back, fail: an entry in the hands of an uploader.

A claim is a rename out of `new/`; whoever loses the race gets ENOENT and takes another. A suspect (an entry whose
uploader died) is claimed into a directory of its own, and only while the uploader holds nothing else, so that the
next death tells which entry did it.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ingestd import faults
from ingestd.formats.checksum import crc32c
from ingestd.spool.layout import MAX_DEATHS_ALONE, SpoolLayout, entry_files, fail_entry, spool_errors
from ingestd.spool.names import EntryName

__all__ = ["Claim", "Claims"]

#: Names read from one listing of `new/`: enough to keep a pool busy until the next one, however long the backlog.
LISTING_MAX_COUNT = 2000


@dataclass(slots=True)
class Claim:
    """An entry that this uploader holds, as a `with` block: leaving it without `release` or `fail` gives it back."""

    layout: SpoolLayout
    name: str
    path: str
    give_back_to: str
    size_bytes: int
    open: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.open:
            self.give_back()

    @property
    def receive_ns(self) -> int:
        """When the frame came in [ns since 1970]."""
        return self._parsed.receive_ns

    @property
    def crc32c(self) -> int:
        """Checksum of the frame when it was accepted."""
        return self._parsed.crc32c

    @property
    def _parsed(self) -> EntryName:
        name = EntryName.parse(self.name)
        assert name is not None
        return name

    @property
    def is_suspect(self) -> bool:
        """Whether an uploader died with it before."""
        return self.give_back_to != self.layout.new

    def read(self) -> bytes:
        """Read the frame; whole or not at all."""
        with spool_errors(f"reading {self.name}"), open(self.path, "rb", buffering=0) as file:
            return file.readall()

    def intact(self, frame: bytes) -> bool:
        """Whether the frame is what was accepted (the checksum is in the name)."""
        name = EntryName.parse(self.name)
        return name is not None and crc32c(frame) == name.crc32c

    def release(self, *, retain: bool, spare: bool = False) -> None:
        """The entry is stored: remove it, or keep it in retained/, or leave its file for another entry.

        What was alone with its uploader is removed in any case: nobody syncs its directory.
        """
        with spool_errors(f"releasing {self.name}"):
            if retain:
                target = os.path.join(self.layout.retained, self.name)
                os.rename(self.path, target)
                faults.point("release.retained")
                # Retention counts from now, not from when the frame was written.
                os.utime(target)
            elif spare and not self.is_suspect:
                os.rename(self.path, os.path.join(self.layout.spare, self.name))
                faults.point("release.spared")
            else:
                os.unlink(self.path)
                faults.point("release.unlinked")
        self.open = False

    def give_back(self) -> None:
        """Return the entry to where it came from; another uploader may take it at once."""
        with spool_errors(f"giving {self.name} back"):
            os.rename(self.path, os.path.join(self.give_back_to, self.name))
            faults.point("give_back.renamed")
        self.open = False

    def fail(self, reason: str, error: str) -> None:
        """Move the entry to failed/ with a reason document; it stays there until it is requeued."""
        with spool_errors(f"failing {self.name}"):
            fail_entry(self.layout, self.path, reason, error)
        self.open = False


class Claims:
    """What one uploader process does with `new/`.

    Parameters
    ----------
    layout
        Of the spool.
    uploader
        Name of the uploader; its claims are in claimed/NAME/.
    """

    def __init__(self, layout: SpoolLayout, uploader: str) -> None:
        self._layout = layout
        self._uploader = uploader
        self._mine = layout.uploader(uploader)
        with spool_errors(f"making {self._mine}"):
            os.makedirs(self._mine, exist_ok=True)
            for deaths in range(MAX_DEATHS_ALONE):
                os.makedirs(layout.alone(uploader, deaths), exist_ok=True)

    def take(self, name: str) -> Claim | None:
        """Claim an entry by name; None where somebody else has it."""
        return self._move(name, self._layout.new, self._mine)

    def take_suspect(self) -> Claim | None:
        """Claim the oldest suspect, most suspected last; the caller must hold nothing else until it is done."""
        for deaths in range(MAX_DEATHS_ALONE):
            source = self._layout.suspects(deaths)
            for name in sorted(entry.name for entry in entry_files(source)):
                claim = self._move(name, source, self._layout.alone(self._uploader, deaths))
                if claim is not None:
                    return claim
        return None

    def return_abandoned(self, held: Collection[str]) -> int:
        """Give back what lies among the claims of this uploader but is in nobody's hands.

        A disk error between two steps of a claim leaves such an entry: it was moved here and nobody was told, or could
        not be moved back.

        Parameters
        ----------
        held
            Names of the entries that are in somebody's hands.

        Returns
        -------
        int
            How many were returned.
        """
        returned = 0
        rungs = range(MAX_DEATHS_ALONE)
        places = [(self._mine, self._layout.new)]
        places += [(self._layout.alone(self._uploader, n), self._layout.suspects(n)) for n in rungs]
        with spool_errors("returning abandoned claims"):
            for source, target in places:
                for entry in entry_files(source):
                    if entry.name not in held:
                        os.rename(entry.path, os.path.join(target, entry.name))
                        returned += 1
            # A spool that is moved away looks empty, and what is in it is to be returned when it is back.
            os.stat(self._mine)
        return returned

    def has_suspects(self) -> bool:
        """Whether any entry waits for being taken alone."""
        with spool_errors("looking for suspects"):
            return any(entry_files(self._layout.suspects(deaths)) for deaths in range(MAX_DEATHS_ALONE))

    def listing(self) -> list[str]:
        """Names in `new/`, oldest first, at most `LISTING_MAX_COUNT`."""
        with spool_errors("listing new/"):
            names = (entry.name for entry in entry_files(self._layout.new))
            return heapq.nsmallest(LISTING_MAX_COUNT, names)

    def _move(self, name: str, source: str, target_directory: str) -> Claim | None:
        target = os.path.join(target_directory, name)
        with spool_errors(f"claiming {name}"):
            try:
                os.rename(os.path.join(source, name), target)
            except FileNotFoundError:
                return None
            faults.point("claim.renamed")
            return Claim(self._layout, name, target, source, os.stat(target).st_size)


def remove_expired(layout: SpoolLayout, retain_s: float, keep_bytes: int | None = None) -> int:
    """Remove retained entries that are older than `retain_s`, and the oldest ones until at most `keep_bytes` remain.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    with spool_errors("removing retained entries"):
        entries = sorted(
            (entry.stat().st_mtime, entry.stat().st_size, entry.path)
            for entry in entry_files(layout.retained)
        )
        total_bytes = sum(size for _, size, _ in entries)
        horizon = time.time() - retain_s
        for modified_s, size_bytes, path in entries:
            if modified_s > horizon and (keep_bytes is None or total_bytes <= keep_bytes):
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total_bytes -= size_bytes
            removed += 1
    return removed
