"""Names of entries: sortable by arrival, unique, and with the checksum of the file."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

__all__ = ["SUFFIX", "EntryName"]

#: Format of an entry: the frame exactly as received. Another suffix is another version, which is left alone.
SUFFIX = ".v1"

_NAME = re.compile(r"([0-9]{20})-([0-9]{8})-([0-9a-f]{8})\.v1")


class EntryName(NamedTuple):
    """Name of an entry: `{receive_ns:020d}-{counter:08d}-{crc32c:08x}.v1`.

    `receive_ns` [ns since 1970] orders a listing and is never used as a time of the signal.
    """

    receive_ns: int
    counter: int
    crc32c: int

    def __str__(self) -> str:
        return f"{self.receive_ns:020d}-{self.counter:08d}-{self.crc32c:08x}{SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a file name; None where it is not that of an entry."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(int(match[1]), int(match[2]), int(match[3], 16))
