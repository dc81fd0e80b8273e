"""What lies in the spool, entry by entry: for audits and rebuilds, never for the hot path."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ingestd.spool.layout import SpoolLayout, entry_files, spool_errors
from ingestd.spool.names import EntryName

__all__ = ["SpoolFile", "contains", "failed_files", "spool_files"]

#: Longest reason document that is read [bytes].
_MAX_REASON_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """An entry where it lies; `failed_reason` is None unless that is failed/."""

    name: str
    path: str
    receive_ns: int
    failed_reason: str | None = None
    failed_error: str = ""


def spool_files(layout: SpoolLayout) -> Iterator[SpoolFile]:
    """Every entry that waits, is claimed or failed; one that moves meanwhile may be named twice, or not at all."""
    with spool_errors("looking through the spool"):
        for directory in _directories(layout):
            for entry in entry_files(directory):
                name = EntryName.parse(entry.name)
                if name is not None:
                    yield SpoolFile(entry.name, entry.path, name.receive_ns)
    yield from failed_files(layout)


def failed_files(layout: SpoolLayout) -> Iterator[SpoolFile]:
    """Every entry in failed/ with its reason."""
    with spool_errors("looking through failed/"):
        for entry in entry_files(layout.failed):
            name = EntryName.parse(entry.name)
            if name is not None:
                reason, error = _reason(entry.path)
                yield SpoolFile(entry.name, entry.path, name.receive_ns, reason, error)


def contains(layout: SpoolLayout, name: str) -> bool:
    """Whether an entry of this name is anywhere in the spool but retained/."""
    directories = [*_directories(layout), layout.failed]
    # An entry that moves between two looks was claimed or given back: the second round finds it.
    return any(os.path.lexists(os.path.join(directory, name)) for _ in range(2) for directory in directories)


def _directories(layout: SpoolLayout) -> list[str]:
    """new/ and every directory below claimed/."""
    with spool_errors("listing claimed/"):
        claimed = [entry.path for entry in os.scandir(layout.claimed) if entry.is_dir(follow_symlinks=False)]
    return [layout.new, *claimed]


def _reason(path: str) -> tuple[str, str]:
    try:
        with open(f"{path}.json", "rb") as file:
            document = json.loads(file.read(_MAX_REASON_BYTES))
        return str(document["reason"]), str(document["error"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown", "the reason document cannot be read"
