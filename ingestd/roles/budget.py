"""How much memory the settings let each role take at the worst, and whether the machine has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ingestd.config import Settings
from ingestd.errors import ConfigError
from ingestd.formats.protocol import MAX_REQUEST_BYTES
from ingestd.roles.inbox import RCVHWM
from ingestd.roles.memory import (
    CONVERTED_BYTES,
    MEASURED_BYTES,
    RESPONDER_BEYOND_BYTES,
    receiver_beyond_bytes,
)
from ingestd.roles.query_socket import MAX_CONNECTIONS, QUERY_RCVHWM

__all__ = ["Share", "advice", "available_bytes", "refuse_what_cannot_work", "shares", "size_text"]

#: A role that has nothing to do [bytes]: the interpreter, NumPy, the libraries; measured 56 to 64 MiB.
_IDLE_BYTES = 80 * 2**20

#: A group commit beside the frames that make it [bytes]; see `receiver.GROUP_MAX_BYTES`.
_GROUP_BYTES = 16 * 2**20

#: Copies of one frame that must fit, or nothing works [count]: it waits in the socket, is received again by whoever
#: sends next, is written by the receiver, and an uploader holds it.
_COPIES = 4

#: Control group files with a limit of memory, version 2 and 1; the limit of the root is the machine.
_CGROUP_ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Share:
    """What one kind of role may take at the worst."""

    role: str
    size_bytes: int
    reckoning: str


def shares(settings: Settings) -> list[Share]:
    """Worst case of every role, all at once.

    Parameters
    ----------
    settings
        In force.
    """
    frame_bytes = settings.ingest.max_frame_bytes
    n_senders, n_uploaders = settings.ingest.max_connections, settings.uploader.count
    n_uploads = n_uploaders * settings.uploader.threads
    waiting_bytes = n_senders * (RCVHWM + 1) * frame_bytes + frame_bytes + _GROUP_BYTES
    limit_bytes = receiver_beyond_bytes(frame_bytes)
    questions_bytes = MAX_CONNECTIONS * (QUERY_RCVHWM + 1) * MAX_REQUEST_BYTES
    return [
        Share("supervisor", _IDLE_BYTES, "no frame passes through it"),
        Share(
            "receiver",
            _IDLE_BYTES + min(waiting_bytes, limit_bytes),
            f"{n_senders} senders x {RCVHWM + 1} frames of {size_text(frame_bytes)} is {size_text(waiting_bytes)}, "
            f"but RLIMIT_AS ends it at {size_text(limit_bytes)}"
            if waiting_bytes > limit_bytes
            else f"{n_senders} senders x {RCVHWM + 1} frames of {size_text(frame_bytes)}, and a group commit",
        ),
        Share(
            "uploaders",
            n_uploaders * _IDLE_BYTES + n_uploads * (frame_bytes + CONVERTED_BYTES + MEASURED_BYTES),
            f"{n_uploaders} x {settings.uploader.threads} uploads of a frame as sent, with "
            f"{size_text(CONVERTED_BYTES)} of converted samples and {size_text(MEASURED_BYTES)} of a spectrum",
        ),
        Share(
            "responder",
            _IDLE_BYTES + min(questions_bytes, RESPONDER_BEYOND_BYTES),
            f"{MAX_CONNECTIONS} clients x {QUERY_RCVHWM + 1} questions of {size_text(MAX_REQUEST_BYTES)}",
        ),
    ]


def available_bytes(cgroup_root: str = _CGROUP_ROOT, proc: str = "/proc") -> int:
    """Memory that this process may have at all [bytes]: that of the machine, or of the smallest control group."""
    return min(_limits(cgroup_root, proc))


def _limits(cgroup_root: str, proc: str) -> Iterator[int]:
    try:
        with open(f"{proc}/meminfo", "rb") as file:
            # The first line, in kB: proc(5).
            yield int(file.readline().split()[1]) * 1024
    except OSError:
        # The unit's ProcSubset=pid hides it.
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (
        contextlib.suppress(OSError),
        open(f"{proc}/self/cgroup", encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if controllers == "":
                yield from _limits_above(cgroup_root, group, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits_above(f"{cgroup_root}/memory", group, "memory.limit_in_bytes")


def _limits_above(root: str, group: str, name: str) -> Iterator[int]:
    """Limits of a control group and of all around it; inside a container the root has one too."""
    while True:
        with (
            contextlib.suppress(OSError, ValueError),
            open(os.path.join(root, group.strip("/"), name), "rb") as file,
        ):
            # "max" is no number: no limit.
            yield int(file.read(64))
        if group in ("/", ""):
            return
        group = os.path.dirname(group)


def advice(settings: Settings, available: int) -> list[str]:
    """Say where the worst case is more than there is; one sentence, the key first."""
    total = sum(share.size_bytes for share in shares(settings))
    if total <= available:
        return []
    text = (
        f"ingest.max_frame_bytes: at the worst these settings take {size_text(total)} of memory, and this machine (or "
        f"control group) has {size_text(available)}; lower it, uploader.threads or uploader.count"
    )
    return [text]


def refuse_what_cannot_work(settings: Settings, available: int) -> None:
    """Refuse frames of a size that the machine cannot have in memory as often as one frame is.

    Raises
    ------
    ConfigError
        One frame four times over is more than there is.
    """
    frame_bytes = settings.ingest.max_frame_bytes
    if _COPIES * frame_bytes > available:
        raise ConfigError(
            f"ingest.max_frame_bytes = {frame_bytes} ({settings.origin('ingest.max_frame_bytes')}): one such frame is in "
            f"memory {_COPIES} times over, and this machine (or control group) has {size_text(available)}"
        )


def size_text(size_bytes: int) -> str:
    """A size for people: "2.5 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}".replace(".0 ", " ")
    return f"{size_bytes / 1024:.1f} KiB".replace(".0 ", " ")
