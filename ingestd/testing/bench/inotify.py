"""Names that appear in directories, with the moment at which they do (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Iterable
from typing import Self

__all__ = ["Appearances"]

_IN_MOVED_TO, _IN_CREATE = 0x80, 0x100
_EVENT = struct.Struct("iIII")


class Appearances:
    """Watches directories from a thread, as a `with` block.

    Parameters
    ----------
    directories
        That exist already.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        #: When each path appeared last [ns since 1970].
        self.times_ns: dict[str, int] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._directories = {
            _checked(libc.inotify_add_watch(self._fd, path.encode(), _IN_MOVED_TO | _IN_CREATE)): path
            for path in directories
        }
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(target=self._read, name="appearances", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._stop_w)
        self._thread.join(5)
        os.close(self._fd)
        os.close(self._stop_r)

    def _read(self) -> None:
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        waiting.register(self._stop_r, select.POLLHUP)
        while True:
            ready = waiting.poll()
            if any(fd == self._stop_r for fd, _ in ready):
                return
            self._take(os.read(self._fd, 2**16), time.time_ns())

    def _take(self, events: bytes, now_ns: int) -> None:
        at = 0
        while at < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, at)
            name = events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
            if watch in self._directories:
                self.times_ns[f"{self._directories[watch]}/{name}"] = now_ns
            at += _EVENT.size + length


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"inotify: {os.strerror(number)}")
    return result
