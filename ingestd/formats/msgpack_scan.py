"""A bounded msgpack reader for one map: no recursion, no trust in any length, binary payloads never touched.

A library's `unpackb` takes 8 MiB of empty maps (270 MiB of objects), keeps the last of two equal keys and copies the
samples. Here every count is checked before anything is made, values are small copies, and a bin is a view into the
frame. Format: https://github.com/msgpack/msgpack/blob/master/spec.md

Faults are decided in a fixed order, not in the order of the bytes: the scan goes on past a wrong key, string,
extension type or duplicate, because damage further on weighs more. It ends at once where bytes are missing or a limit
is exceeded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ingestd.errors import FrameError, bounded

__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "MAX_OBJECTS", "MAX_TEXT_BYTES", "Scan", "salvage", "scan", "shown"]

#: Entries of one map or array: `metrics` and `extras` are under 4 KiB each and an entry takes at least a byte.
MAX_ENTRIES = 4096
#: Objects of a frame, keys included: `extras` as above, and room for the rest (a valid frame has 28 keys, and 64 more
#: in `metrics`). Refusing one that has more takes about 2 ms.
MAX_OBJECTS = 5120
#: Maps and arrays inside each other, the frame being the first: far deeper than notes on a recording go, and far
#: from where `repr` and JSON writers run out of stack.
MAX_DEPTH = 16
#: All strings of a frame together [bytes]: bounds what decoding costs; a valid frame has under 10 KiB of them.
MAX_TEXT_BYTES = 16 * 2**20

_Kind = Literal["value", "text", "bin", "array", "map", "ext", "reserved"]


class _Head(NamedTuple):
    """What a first byte says: the `argument` (value, length or count) is in it, or `read` from the bytes after it."""

    kind: _Kind
    size_bytes: int
    argument: Any
    read: Callable[[bytes | memoryview, int], tuple[Any, ...]] | None


#: First byte, kind, struct codes of the arguments of it and the next ones, bytes between argument and payload.
_SIZED: tuple[tuple[int, _Kind, str, int], ...] = (
    (0xC4, "bin", "BHI", 0),
    (0xC7, "ext", "BHI", 1),
    (0xCA, "value", "fd", 0),
    (0xCC, "value", "BHIQ", 0),
    (0xD0, "value", "bhiq", 0),
    (0xD9, "text", "BHI", 0),
    (0xDC, "array", "HI", 0),
    (0xDE, "map", "HI", 0),
)


def _heads() -> tuple[_Head, ...]:
    heads = [_Head("reserved", 1, None, None)] * 256
    heads[0x00:0x80] = [_Head("value", 1, n, None) for n in range(0x80)]
    heads[0x80:0x90] = [_Head("map", 1, n, None) for n in range(0x10)]
    heads[0x90:0xA0] = [_Head("array", 1, n, None) for n in range(0x10)]
    heads[0xA0:0xC0] = [_Head("text", 1, n, None) for n in range(0x20)]
    heads[0xE0:0x100] = [_Head("value", 1, n, None) for n in range(-0x20, 0)]
    for first, value in ((0xC0, None), (0xC2, False), (0xC3, True)):
        heads[first] = _Head("value", 1, value, None)
    # One byte of type precedes the payload of an extension; it is skipped together with it.
    for first, n_payload in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16)):
        heads[first] = _Head("ext", 2, n_payload, None)
    for first, kind, formats, n_more in _SIZED:
        for offset, code in enumerate(formats):
            layout = struct.Struct(f">{code}")
            heads[first + offset] = _Head(kind, 1 + layout.size + n_more, None, layout.unpack_from)
    return tuple(heads)


_HEADS = _heads()
#: Deferred faults, first of them decides (order of the design); `msgpack`, `limits` and `depth` end the scan.
_DEFERRED = ("key", "utf8", "ext", "duplicate")
_ALLOWED = {
    "limits": f"{MAX_ENTRIES} entries in a map or array, {MAX_OBJECTS} objects, {MAX_TEXT_BYTES} bytes of strings",
    "depth": f"{MAX_DEPTH} maps and arrays inside each other, the frame included",
    "key": "strings as keys",
    "utf8": "strings of valid UTF-8",
    "ext": "no extension types",
    "duplicate": "each key once",
}


@dataclass(slots=True)
class Scan:
    """What is in the frame's map.

    Parameters
    ----------
    values
        By key in the order of the frame: str, int, float, bool, None, list, dict, and memoryview for a bin; of
        duplicate keys the first.
    sizes_bytes
        Encoded size of each value that is a map or an array with anything in it [bytes].
    faults
        First fault of each deferred reason.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sizes_bytes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, FrameError] = field(default_factory=dict)


class _Level:
    """A map or array that is being read; `left` counts its objects still to come (two for each entry of a map)."""

    __slots__ = ("at", "container", "depth", "key", "left", "parent")

    def __init__(self, container: Any, left: int, parent: _Level | None, at: int) -> None:
        self.container = container
        self.left = left
        self.parent = parent
        self.at = at
        self.depth: int = 1 if parent is None else parent.depth + 1
        self.key: str | None = None


class _Scanner:
    """One pass over one frame."""

    __slots__ = ("_data", "_level", "_n_bytes", "_n_objects", "_n_text_bytes", "_root", "_view", "result")

    def __init__(self, frame: bytes | memoryview) -> None:
        self._view = memoryview(frame).cast("B").toreadonly()
        # Indexing bytes is twice as fast as indexing a view of them.
        self._data = frame if isinstance(frame, bytes) else self._view
        self._n_bytes = len(self._view)
        self._n_objects = 0
        self._n_text_bytes = 0
        self.result = Scan()
        self._root: _Level | None = None
        self._level: _Level | None = None

    def run(self) -> None:
        """Read the frame; raises FrameError with the reason that decides."""
        data, at = self._data, 0
        level: _Level | None = None
        while True:
            start = at
            try:
                kind, size_bytes, argument, read = _HEADS[data[at]]
                if read is not None:
                    (argument,) = read(data, at + 1)
            except (IndexError, struct.error):
                raise self._broken("truncated", at) from None
            at += size_bytes
            if level is None:
                level = self._root = self._frame(kind, argument, at)
            elif kind == "value":
                self._put(level, kind, argument)
            elif kind == "map" or kind == "array":  # noqa: PLR1714  # a set or tuple costs a build or a call each
                level = self._open(level, kind, argument, start, at)
            else:
                at = self._leaf(level, kind, argument, at)
            while not level.left:
                if level.parent is None:
                    self._end(at)
                    return
                level = self._close(level, level.parent, at)

    def _frame(self, kind: _Kind, count: Any, at: int) -> _Level:
        if kind != "map":
            raise self._broken("not a map", 0)
        self._count(2 * count, count, at)
        return _Level(self.result.values, 2 * count, None, 0)

    def _end(self, at: int) -> None:
        if at != self._n_bytes:
            raise self._broken("trailing bytes", at)
        for reason in _DEFERRED:
            if reason in self.result.faults:
                raise self.result.faults[reason]

    def _open(self, level: _Level, kind: _Kind, count: int, start: int, at: int) -> _Level:
        n_objects = 2 * count if kind == "map" else count
        if level.depth >= MAX_DEPTH:
            raise self._fault("depth", level.depth + 1)
        container: dict[str, Any] | list[Any] = {} if kind == "map" else []
        if not count:
            self._put(level, kind, container)
            return level
        self._count(n_objects, count, at)
        self._put(level, kind, container)
        self._level = _Level(container, n_objects, level, start)
        return self._level

    def _close(self, level: _Level, parent: _Level, at: int) -> _Level:
        if parent is self._root and parent.key is not None:
            self.result.sizes_bytes[parent.key] = at - level.at
        self._level = parent
        return parent

    def _count(self, n_objects: int, n_entries: int, at: int) -> None:
        # Each object takes a byte: a count that cannot be true is damage, not size, and nothing was made for it.
        if n_objects > self._n_bytes - at:
            raise self._broken("truncated", at)
        self._n_objects += n_objects
        if n_entries > MAX_ENTRIES or self._n_objects > MAX_OBJECTS:
            raise self._fault("limits", n_objects)

    def _leaf(self, level: _Level, kind: _Kind, n_bytes: int, at: int) -> int:
        if kind == "reserved":
            raise self._broken("byte 0xc1, which msgpack never uses,", at - 1)
        end = at + n_bytes
        if end > self._n_bytes:
            raise self._broken("truncated", at)
        if kind == "text":
            self._put(level, kind, self._text(at, end))
        elif kind == "bin":
            self._put(level, kind, self._view[at:end])
        else:
            self._note("ext", self._data[at - 1])
            self._put(level, kind, None)
        return end

    def _text(self, at: int, end: int) -> str | None:
        self._n_text_bytes += end - at
        if self._n_text_bytes > MAX_TEXT_BYTES:
            raise self._fault("limits", self._n_text_bytes)
        try:
            return str(self._view[at:end], "utf-8")
        except UnicodeDecodeError:
            self._note("utf8", bytes(self._view[at:end][:80]))
            return None

    def _put(self, level: _Level, kind: _Kind, value: Any) -> None:
        level.left -= 1
        container = level.container
        if type(container) is list:
            container.append(value)
        elif not level.left & 1:
            if level.key is not None:
                container[level.key] = value
        elif kind != "text":
            level.key = None
            self._note("key", value)
        elif value in container:
            level.key = None
            self._note("duplicate", value)
        else:
            level.key = value

    def _note(self, reason: str, value: object) -> None:
        """Keep the first fault of a reason that does not end the scan."""
        if reason not in self.result.faults:
            self.result.faults[reason] = self._fault(reason, value)

    def _fault(self, reason: str, value: object) -> FrameError:
        field = self._where()
        if not field and isinstance(value, str):
            field = shown(value)
        return FrameError(reason, field, value, _ALLOWED[reason])

    def _broken(self, what: str, at: int) -> FrameError:
        allowed = f"one msgpack map and nothing after it; {what} at byte {at} of {self._n_bytes}"
        return FrameError("msgpack", self._where(), bytes(self._view[:16]), allowed)

    def _where(self) -> str:
        """Top-level key whose value is being read, "" elsewhere."""
        root = self._root
        if root is None or root.key is None:
            return ""
        # The value of a key counts as read as soon as it is opened; below it the key still is the place.
        return shown(root.key) if root.left & 1 or self._level not in (None, root) else ""


def shown(key: str) -> str:
    """Foreign key as the name of a field: as it is where it is a plain word, else bounded and escaped."""
    return key if len(key) <= 64 and key.isascii() and key.isidentifier() else bounded(key)


def scan(frame: bytes | memoryview) -> Scan:
    """Read the map of a frame.

    Parameters
    ----------
    frame
        The whole message.

    Raises
    ------
    FrameError
        The first that applies of `msgpack`, `limits`, `depth`, `key`, `utf8`, `ext`, `duplicate`.
    """
    scanner = _Scanner(frame)
    scanner.run()
    return scanner.result


def salvage(frame: bytes | memoryview) -> dict[str, Any]:
    """Read what can be read of a frame that was refused; never raises FrameError."""
    scanner = _Scanner(frame)
    try:
        scanner.run()
    except FrameError:
        # The caller knows already that the frame is wrong; this is about the rest of it.
        return scanner.result.values
    return scanner.result.values
