"""The composition root: the only module that knows every part. `ingestd run` ends here."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import structlog

from ingestd import __version__, catalog, logs
from ingestd.config import Settings
from ingestd.errors import CatalogError, SpoolError
from ingestd.roles import child
from ingestd.roles.book import catalog_path
from ingestd.roles.current import Current
from ingestd.roles.pulse import standstill
from ingestd.roles.signals import signal_queue
from ingestd.roles.stacks import show_stacks
from ingestd.roles.status import Phase, Slot, StatusBlock, StatusLayout
from ingestd.roles.supervisor import RoleSpec, Supervisor
from ingestd.roles.systemd import Service, watchdog_s
from ingestd.spool import SpoolLayout, SpoolLock
from ingestd.storage.locks import IdentityLocks

__all__ = ["run"]

log = structlog.get_logger(__name__)

#: Stop times [s]; with the receiver first, then the uploaders, then the responder, they add up to less than 10.
_STOP_RECEIVER_S = 3.0
_STOP_UPLOADERS_S = 4.5
_STOP_RESPONDER_S = 1.5

#: Deaths by these signals are the process's own doing; SIGKILL and SIGTERM come from outside.
_CRASH_SIGNALS = frozenset({-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE})


def run(settings: Settings, read_settings: Callable[[], Settings] | None = None) -> int:
    """Run the daemon until it is told to stop.

    Parameters
    ----------
    settings
        Validated.
    read_settings
        Reads them again, at SIGHUP; without it they stay as they are.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    SpoolLocked
        Another daemon uses this state directory.
    SpoolBroken
        The state directory cannot be made or put in order.
    """
    logs.configure("supervisor", settings.log.level, settings.log.format)
    show_stacks()
    status = StatusBlock.create(_layout(settings))
    service = Service(watchdog_s(os.environ, os.getpid()), on_hang=lambda name: _ask_for_stacks(status, name))
    service.step("taking over the spool")
    layout = SpoolLayout(settings.state_directory)
    layout.make()
    with SpoolLock(layout):
        _recover(layout, service)
        _prepare_catalog(settings)
        _prepare_locks(settings)
        log.info(
            "starting",
            version=__version__,
            state_directory=os.path.abspath(settings.state_directory),
            ingest=settings.ingest.endpoint,
            query=settings.query.endpoint,
            http=settings.http.endpoint,
            storage=settings.storage.kind,
            storage_origin=settings.storage_origin,
        )
        return _supervise(Current(settings, read_settings, status), layout, service)


def _ask_for_stacks(status: StatusBlock, name: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(status.watch[name].get(Slot.WATCH_PID), signal.SIGUSR1)


def _recover(layout: SpoolLayout, service: Service) -> None:
    report = layout.recover(lambda: service.step("putting the spool in order"))
    service.step("putting the catalog in order")
    log.info("spool_recovered", discarded=report.discarded, returned=report.returned)
    for name in report.foreign:
        log.warning("spool_foreign_file", path=name)


def _prepare_catalog(settings: Settings) -> None:
    """Have a usable catalog; a broken one is set aside and filled again by the auditor.

    Where the disk lets nobody write, the daemon starts without: it drains what it holds, and the receiver makes the
    catalog when it can.
    """
    path = catalog_path(settings.state_directory)
    try:
        if catalog.create(path):
            log.info("catalog_created", path=path)
    except CatalogError as error:
        log.error("catalog_unusable", error=str(error))  # noqa: TRY400 - an expected error has no traceback


def _prepare_locks(settings: Settings) -> None:
    try:
        IdentityLocks(os.path.join(settings.state_directory, "locks")).make()
    except OSError as error:
        log.warning("locks_not_made", error=str(error))


def _layout(settings: Settings) -> StatusLayout:
    uploaders = tuple(f"uploader-{i}" for i in range(settings.uploader.count))
    return StatusLayout(("receiver", *uploaders, "responder"), tuple(node.name for node in settings.nodes))


def _supervise(current: Current, layout: SpoolLayout, service: Service) -> int:
    status = current.status
    names, nodes = status.layout.roles, status.layout.nodes
    uploaders = tuple(name for name in names if name.startswith("uploader"))
    bells = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in uploaders]
    fds = {
        "receiver": tuple(sender.fileno() for sender, _ in bells),
        **{name: (bell.fileno(),) for name, (_, bell) in zip(uploaders, bells, strict=True)},
    }
    start_id = secrets.randbits(64)
    started: set[str] = set()

    def spawn(name: str, stop_fd: int) -> subprocess.Popen[bytes]:
        if name in uploaders:
            current.forget_other_store()
        parcel = child.Parcel(current.text, names, nodes, status.fd, fds.get(name, ()), start_id)
        is_first = name not in started
        started.add(name)
        return child.spawn(name, parcel, stop_fd, armed=is_first)

    def spec(name: str) -> RoleSpec:
        is_uploader = name in uploaders
        return RoleSpec(
            name,
            spawn=lambda stop_fd: spawn(name, stop_fd),
            ready=lambda pid: _ready(status, name, pid),
            watch=status.watch[name],
            on_death=_claims_returner(layout, status, name) if is_uploader else lambda _pid, _code: None,
            stop_order=0 if name == "receiver" else 1 if is_uploader else 2,
            stop_timeout_s=_stop_timeout_s(name, is_uploader=is_uploader),
        )

    def reload() -> bool:
        service.reloading()
        return current.renew()

    def announce() -> None:
        service.ready(current.line())
        log.info("ready", ingest=current.settings.ingest.endpoint, query=current.settings.query.endpoint)

    def announce_reload(complete: bool) -> None:
        service.ready(current.line())
        log.info("reloaded", complete=complete)

    def tick() -> None:
        still = standstill(status, time.monotonic_ns(), service.patience_s)
        service.tick(still, *current.state())

    with signal_queue([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]) as signals:
        supervisor = Supervisor(
            [spec(name) for name in names],
            signals,
            on_ready=announce,
            on_tick=tick,
            on_stopping=service.stopping,
            on_reload=reload,
            on_reloaded=announce_reload,
        )
        code = supervisor.run()
    log.info("stopped", code=code)
    return code


def _stop_timeout_s(name: str, *, is_uploader: bool) -> float:
    if is_uploader:
        return _STOP_UPLOADERS_S
    return _STOP_RECEIVER_S if name == "receiver" else _STOP_RESPONDER_S


def _ready(status: StatusBlock, name: str, pid: int) -> bool:
    row = status.roles[name]
    return row.get(Slot.PID) == pid and row.get(Slot.PHASE) != Phase.STARTING


def _claims_returner(layout: SpoolLayout, status: StatusBlock, name: str) -> Callable[[int, int], None]:
    row = status.roles[name]

    def give_back(_pid: int, code: int) -> None:
        # A SIGKILL that struck while the uploader waited for the store says nothing about the entry.
        counts = code in _CRASH_SIGNALS or code > 0 or row.get(Slot.PHASE) == Phase.ENCODING
        row.set(Slot.BUSY_THREADS, 0)
        try:
            returned, poisoned = layout.return_claims(name, counts=counts)
        except SpoolError as error:
            # The uploader gives them back itself when it starts; the supervisor must outlive a sick disk.
            log.error("claims_not_returned", uploader=name, error=str(error))  # noqa: TRY400 - expected, no traceback
            row.phase(Phase.STARTING, time.monotonic_ns())
            return
        if returned:
            log.warning("claims_returned", uploader=name, count=returned)
        for entry in poisoned:
            row.add(Slot.FAILED)
            log.error("entry_poisoned", entry=entry, uploader=name)
        row.phase(Phase.STARTING, time.monotonic_ns())

    return give_back
