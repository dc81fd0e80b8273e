"""Entry of a role's process: `python -m ingestd.roles.child NAME PARCEL_FD`.

Children are spawned, never forked: a process forked after a ZeroMQ context exists aborts or steals replies. What a
role needs comes as JSON through an inherited memfd, so that no secret is on a command line or in an environment.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import ingestd
from ingestd import faults
from ingestd.config import Settings
from ingestd.errors import ExitCode, IngestdError
from ingestd.roles.context import RoleContext
from ingestd.roles.signals import Mark, ring
from ingestd.roles.stacks import show_stacks
from ingestd.roles.status import Phase, Slot, StatusBlock, StatusLayout

__all__ = ["Parcel", "spawn"]

_PR_SET_PDEATHSIG = 1

#: Module that runs a role, by the beginning of its name; each has `run(context) -> int`.
_MODULES = {
    "receiver": "ingestd.roles.receiver",
    "responder": "ingestd.roles.responder",
    "uploader": "ingestd.roles.uploader",
}


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the supervisor hands over; descriptors are numbers that the child inherits."""

    settings: str
    roles: tuple[str, ...]
    nodes: tuple[str, ...]
    status_fd: int
    doorbell_fds: tuple[int, ...]
    start_id: int


def spawn(name: str, parcel: Parcel, stop_fd: int, *, armed: bool) -> subprocess.Popen[bytes]:
    """Start a role.

    Parameters
    ----------
    name
        Of the role.
    parcel
        What it is given.
    stop_fd
        Eventfd that asks it to stop.
    armed
        Whether the faults of the environment (`ingestd.faults`) are for this process; a role that is started again has none.
    """
    environ = {key: value for key, value in os.environ.items() if armed or key != faults.VARIABLE}
    # Looking for plugins of pydantic, which we have none of, takes 12 ms of every restart.
    environ["PYDANTIC_DISABLE_PLUGINS"] = "1"
    fd = os.memfd_create(f"ingestd-{name}", os.MFD_CLOEXEC)
    try:
        os.write(fd, json.dumps(asdict(parcel) | {"stop_fd": stop_fd, "parent_pid": os.getpid()}).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*_interpreter(), "-m", "ingestd.roles.child", name, str(fd)],
            stdin=subprocess.DEVNULL,
            env=environ,
            pass_fds=(fd, stop_fd, parcel.status_fd, *parcel.doorbell_fds),
        )
    finally:
        os.close(fd)


def _interpreter() -> list[str]:
    """Have a role import the package of its supervisor: `-m` alone looks into the current directory first."""
    package_root = os.path.dirname(os.path.dirname(os.path.abspath(ingestd.__file__)))
    return [sys.executable] if package_root == os.getcwd() else [sys.executable, "-P"]


def _die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the supervisor dies; it may be dead already, so look afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(ExitCode.FAILURE)


def main(argv: Sequence[str]) -> int:
    """Run one role; returns its exit code."""
    name, fd = argv[1], int(argv[2])
    with os.fdopen(fd, "rb") as file:
        parcel = json.load(file)
    _die_with_parent(parcel["parent_pid"])
    # Where a role hangs, the supervisor asks for its stacks.
    show_stacks()
    stop_fd = parcel["stop_fd"]
    # Ctrl-C reaches the whole foreground group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reload = Mark()
    signal.signal(signal.SIGHUP, lambda _number, _frame: reload.set())
    signal.signal(signal.SIGTERM, lambda _number, _frame: ring(stop_fd))
    settings = Settings.from_bytes(parcel["settings"].encode())
    # structlog draws tracebacks with rich where it finds it; ours are plain, and loading it takes 25 ms of every restart.
    sys.modules["rich"] = None  # type: ignore[assignment]

    from ingestd import logs  # noqa: PLC0415 - after PDEATHSIG, as everything that takes time
    from ingestd.roles import refusals  # noqa: PLC0415 - as above

    logs.configure(name, settings.log.level, settings.log.format, for_good=True)
    status = StatusBlock(parcel["status_fd"], StatusLayout(tuple(parcel["roles"]), tuple(parcel["nodes"])))
    context = RoleContext(
        name, settings, status, stop_fd, tuple(parcel["doorbell_fds"]), parcel["start_id"], reload
    )
    context.row.set(Slot.PID, os.getpid())
    context.row.set(Slot.STARTED_NS, time.monotonic_ns())
    context.row.set(Slot.DISK_SINCE_NS, 0)
    refusals.count_refusals(context.row.refuse_peer)
    context.row.phase(Phase.STARTING, time.monotonic_ns())
    return _run(name, context)


def _run(name: str, context: RoleContext) -> int:
    import structlog  # noqa: PLC0415 - see main

    log = structlog.get_logger(__name__)
    from ingestd.spool import SpoolLayout, SpoolLock  # noqa: PLC0415 - see main

    try:
        # Held until this process is gone: a new supervisor waits for it before it recovers the spool.
        SpoolLock(SpoolLayout(context.settings.state_directory)).share()
        module = importlib.import_module(_MODULES[name.partition("-")[0]])
        return int(module.run(context))
    except IngestdError as error:
        log.error("role_failed", error=str(error))  # noqa: TRY400 - an expected error has no traceback
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
