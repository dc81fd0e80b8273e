"""Runs real code on a real directory and writes down what it asks of the disk, call by call.

The functions of `os` are replaced while the block lasts; each does its work and adds to the log what it did. A file is
known by its number in the log, not by that of the file system, which gives the numbers of removed files away again.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from unittest import mock

from ingestd.testing.power_loss.operations import (
    Mark,
    Name,
    Operation,
    SyncDirectory,
    SyncFile,
    Truncate,
    Write,
)

__all__ = ["Killed", "Recorder"]


class Killed(BaseException):
    """The process is dead: no handler of errors and no clean-up has any effect on the disk."""


class Recorder:
    """Recording as a `with` block; not for threads.

    Parameters
    ----------
    root
        Directory that is recorded; what happens elsewhere is not.

    Attributes
    ----------
    log
        What happened so far.
    """

    def __init__(self, root: str) -> None:
        self.log: list[Operation] = []
        self._root = os.path.realpath(root)
        self._inodes: dict[str, int] = {}
        self._files: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._directories: dict[int, str] = {}
        self._last = 0
        self._calls_left: int | None = None
        self._stack = contextlib.ExitStack()
        self._real: dict[str, Callable[..., Any]] = {}

    def mark(self, mark: Mark) -> None:
        """Add a promise to the log."""
        self.log.append(mark)

    def die_after(self, calls: int) -> None:
        """Let so many further calls happen; each one after that raises `Killed` and does nothing."""
        self._calls_left = calls

    def revive(self) -> None:
        """Another process begins; the descriptors of the dead one are closed, as a kernel does."""
        self._calls_left = None
        for fd in [*self._files, *self._directories]:
            with contextlib.suppress(OSError):
                self._real["close"](fd)
        self._files.clear()
        self._directories.clear()

    def __enter__(self) -> Self:
        shims: dict[str, Callable[..., None]] = {
            "open": self._open, "close": self._close, "write": self._write, "fsync": self._fsync,
            "fdatasync": self._fsync, "ftruncate": self._ftruncate, "rename": self._rename, "link": self._link,
            "unlink": self._unlink, "mkdir": self._mkdir, "rmdir": self._rmdir,
        }  # fmt: skip
        for name, shim in shims.items():
            self._real[name] = getattr(os, name)
            self._stack.enter_context(mock.patch.object(os, name, self._shim(name, shim)))
        # Whatever else could change the disk unseen would make the model wrong in silence: it must not be called.
        for name in ("replace", "truncate", "pwrite", "writev", "symlink", "remove", "sync"):
            self._stack.enter_context(mock.patch.object(os, name, _unknown(name)))
        self._real["builtin"] = builtins.open
        self._stack.enter_context(mock.patch.object(builtins, "open", self._builtin_open))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _shim(self, name: str, note: Callable[..., None]) -> Callable[..., Any]:
        real = self._real[name]

        def called(*args: Any, **named: Any) -> Any:
            if self._calls_left is not None and name != "close":
                if not self._calls_left:
                    raise Killed
                self._calls_left -= 1
            is_new = name == "open" and not os.path.lexists(args[0])
            result = real(*args, **named)
            if name == "open":
                note(args[0], args[1], result, is_new)
            elif name == "write":
                note(args[0], args[1], result)
            else:
                note(*args)
            return result

        return called

    def _relative(self, path: Any) -> str | None:
        """Path below the root; None where it is elsewhere."""
        full = os.path.abspath(os.fspath(path))
        if full == self._root:
            return ""
        return full[len(self._root) + 1 :] if full.startswith(f"{self._root}/") else None

    def _open(self, path: Any, flags: int, fd: int, is_new: bool) -> None:
        name = self._relative(path)
        if name is None:
            self._close(fd)
            return
        if flags & os.O_DIRECTORY:
            self._directories[fd] = name
            return
        if is_new:
            self._last += 1
            self._inodes[name] = self._last
            self.log.append(Name("create", name, self._last))
        inode = self._inodes[name]
        if flags & os.O_TRUNC and not is_new:
            self.log.append(Truncate(inode, 0))
        self._files[fd], self._offsets[fd] = inode, 0

    def _builtin_open(self, path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if "w" not in mode or not isinstance(path, str) or self._relative(path) is None:
            return self._real["builtin"](path, mode, *args, **named)
        raw = io.BufferedWriter(_RawFile(path))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding=named.get("encoding") or "utf-8")

    def _close(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._directories.pop(fd, None)

    def _write(self, fd: int, data: Any, n_bytes: int) -> None:
        if fd in self._files:
            self.log.append(Write(self._files[fd], self._offsets[fd], bytes(memoryview(data)[:n_bytes])))
            self._offsets[fd] += n_bytes

    def _ftruncate(self, fd: int, length: int) -> None:
        if fd in self._files:
            self.log.append(Truncate(self._files[fd], length))

    def _fsync(self, fd: int) -> None:
        if fd in self._directories:
            self.log.append(SyncDirectory(self._directories[fd]))
        elif fd in self._files:
            self.log.append(SyncFile(self._files[fd]))

    def _rename(self, source: Any, target: Any) -> None:
        old, new = self._relative(source), self._relative(target)
        if old is not None and new is not None:
            inode = self._inodes[new] = self._inodes.pop(old)
            self.log.append(Name("rename", new, inode, old))

    def _link(self, source: Any, target: Any) -> None:
        old, new = self._relative(source), self._relative(target)
        if old is not None and new is not None:
            self._inodes[new] = self._inodes[old]
            self.log.append(Name("link", new, self._inodes[new]))

    def _unlink(self, path: Any) -> None:
        name = self._relative(path)
        if name is not None:
            self.log.append(Name("unlink", name, self._inodes.pop(name)))

    def _mkdir(self, path: Any, _mode: int = 0o777) -> None:
        name = self._relative(path)
        if name is not None:
            self.log.append(Name("mkdir", name, 0))

    def _rmdir(self, path: Any) -> None:
        name = self._relative(path)
        if name is not None:
            self.log.append(Name("rmdir", name, 0))


class _RawFile(io.FileIO):
    """A file whose bytes go through `os`, where they are seen."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "w", opener=_open_file)

    def write(self, data: Any, /) -> int:
        return os.write(self.fileno(), data)


def _open_file(path: str, _flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _unknown(name: str) -> Callable[..., Any]:
    def called(*_args: Any, **_named: Any) -> Any:
        raise AssertionError(f"os.{name} is called, which the recorder does not know")

    return called
