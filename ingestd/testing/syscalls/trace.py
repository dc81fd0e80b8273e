"""What `strace -y` wrote, as records. Pure."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TRACED", "Call", "Place", "parse", "place_of"]

#: Calls that change what is on the disk or in a descriptor table, and `sendto`, by which a subject tells.
TRACED = (
    "openat", "write", "pwrite64", "writev", "ftruncate", "fdatasync", "fsync", "rename", "renameat", "renameat2",
    "link", "linkat", "unlink", "unlinkat", "mkdir", "utimensat", "close", "sendto",
)  # fmt: skip

#: Where a call goes: into the spool, the bucket, to whoever is told, or elsewhere (catalog, log, library).
Place = str

_LINE = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+|\?)(?P<rest>.*)")
_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_RETURNED = re.compile(r"^<([^>]*)>")
_ERRNO = re.compile(r"^ ?([A-Z][A-Z0-9]+) \(")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `ordinal` counts the calls of its name from 1, as `when=` of strace does.

    `paths` are those in its arguments, of descriptors too; `text` is the first string of a call that has a buffer.
    `result` is None where the process was killed in the call, `error` the name of an errno or "".
    """

    name: str
    ordinal: int
    paths: tuple[str, ...]
    text: str
    flags: str
    result: int | None
    error: str
    injected: bool

    @property
    def done(self) -> bool:
        """Whether it took effect."""
        return self.result is not None and self.result >= 0


def parse(lines: Iterable[str]) -> list[Call]:
    """Read the output of one traced thread; signals and exits are left out.

    Raises
    ------
    ValueError
        A line is neither: the oracle must not be fed with guesses.
    """
    calls, counts = [], Counter[str]()
    for line in lines:
        if not line.strip() or line.startswith(("---", "+++")):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"not a line of strace: {line[:200]!r}")
        counts[match["name"]] += 1
        calls.append(_call(match, counts[match["name"]]))
    return calls


def _call(match: re.Match[str], ordinal: int) -> Call:
    name, arguments, rest = match["name"], match["arguments"], match["rest"]
    descriptor = _DESCRIPTOR.match(arguments)
    quoted = [text for text in _QUOTED.findall(arguments) if text]
    has_buffer = name in ("write", "pwrite64", "writev", "sendto")
    paths = [descriptor[1]] if descriptor else []
    if not has_buffer:
        paths += quoted
    if name == "openat" and (returned := _RETURNED.match(rest)):
        paths[-1] = returned[1]
        rest = rest[returned.end() :]
    error = _ERRNO.match(rest)
    return Call(
        name,
        ordinal,
        tuple(path.removesuffix(_DELETED) for path in paths),
        quoted[0] if has_buffer and quoted else "",
        arguments if name == "openat" else "",
        None if match["result"] == "?" else int(match["result"]),
        error[1] if error else "",
        rest.endswith(("(INJECTED)", "(DELAYED)")),
    )


def place_of(call: Call, state_directory: str) -> Place:
    """Which part of a state directory a call is about: `tmp`, `new`, `claimed`, ..., `objects`, `told`, or ""."""
    if call.name == "sendto":
        return "told"
    spool = os.path.join(state_directory, "spool", "")
    objects = os.path.join(state_directory, "objects", "")
    for path in reversed(call.paths):
        if path.startswith(spool):
            return path[len(spool) :].partition("/")[0]
        if path.startswith(objects):
            return "objects"
    return ""
