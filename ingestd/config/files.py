"""Small files of the operator: read whole, bounded, and refused where others could read a secret in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ingestd.config.keys import nearest
from ingestd.errors import ConfigError, bounded

__all__ = ["is_world_readable", "near_file", "read_text", "refuse_world_readable", "shown_path"]


def near_file(path: str) -> str:
    """Say which file beside a missing one was probably meant; "" where none looks like it."""
    directory, name = os.path.split(path)
    try:
        near = nearest(name, os.listdir(directory or "."))
    except OSError:
        return ", nor does its directory"
    return f"; did you mean {shown_path(os.path.join(directory, near))}?" if near else ""


def read_text(path: str, max_bytes: int, what: str) -> str:
    """Read a small regular file as UTF-8."""
    shown = shown_path(path)
    try:
        # O_NONBLOCK: a FIFO must be refused below, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{what} {shown}: not a regular file")
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{what} {shown}: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise ConfigError(f"{what} {shown}: longer than {max_bytes} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {shown}: not UTF-8 (byte {error.start})") from None


def refuse_world_readable(path: str, what: str) -> None:
    """Refuse a file that every user of the machine can really read: its mode and that of all directories above."""
    if is_world_readable(path):
        raise ConfigError(f"{what}: every user of this machine can read {shown_path(path)}; chmod 0400 it")


def is_world_readable(path: str) -> bool:
    """Whether mode bits let everyone read a file, counting the directories on the way."""
    path = os.path.realpath(path)
    return bool(os.stat(path).st_mode & 0o004) and all(os.stat(d).st_mode & 0o001 for d in _parents(path))


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def shown_path(path: str) -> str:
    """Path for a message: as it is where it is printable, else escaped."""
    return path if path and path.isprintable() and path.isascii() and len(path) <= 200 else bounded(path, 200)
