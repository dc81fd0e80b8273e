"""`scripts/answers`: how long an answer of the query socket takes while something is broken.

A real daemon receives frames all the time; a client asks `ping` twenty times a second from outside. Each trouble lasts
for some seconds and is over before the next one. A question that gets no answer in time is counted, not left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from ingestd.client import Client
from ingestd.errors import IngestdError
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.fault_proxy import Fault, FaultProxy
from ingestd.testing.fill_drain import on_small_disk
from ingestd.testing.load import SteadyLoad
from ingestd.testing.minio_server import MinioServer, find_minio
from ingestd.testing.small_disk import DiskRefused, SmallDisk
from ingestd.testing.torture.prober import Prober
from ingestd.testing.torture.report import quantile
from ingestd.testing.torture.victims import role_pids
from ingestd.testing.waiting import wait_until

__all__ = ["Answers", "AnswersPlan", "run"]

#: Demanded of the p99 of every trouble [ms].
_DEMANDED_MS = 100.0

#: Between two kills of a role [s]: it is seldom away for longer than it runs.
_KILL_EVERY_S = 1.0

#: Longest wait for a trouble to be over [s].
_PATIENCE_S = 120.0

#: Share of requests that each fault of the proxy gets.
_SHARE = 0.1

#: Size of the disk that is filled [bytes].
_DISK_BYTES = 24 * 2**20

#: Bytes that are no frame.
_GARBAGE = b"\xc1" * 1000


@dataclass(frozen=True, slots=True)
class AnswersPlan:
    """How long each trouble lasts [s], and the load meanwhile: frames/s of so many samples."""

    seconds: float = 20.0
    frames_per_s: float = 20.0
    n_samples: int = 125_000


@dataclass(frozen=True, slots=True)
class Answers:
    """What was seen during one trouble."""

    trouble: str
    answered: int
    unanswered: int
    p50_ms: float
    p99_ms: float
    longest_ms: float

    @property
    def good(self) -> bool:
        """Whether every question was answered, and 99 of 100 in time."""
        return not self.unanswered and self.p99_ms < _DEMANDED_MS


@dataclass(frozen=True, slots=True)
class _Rig:
    """What a trouble can lay hands on."""

    daemon: DaemonProcess
    minio: MinioServer


def _table(found: list[Answers]) -> Table:
    out = Table("trouble", "answered", "unanswered", "p50", "p99", "longest", title="answers to `ping`")
    for one in found:
        times = (f"{ms:.1f} ms" for ms in (one.p50_ms, one.p99_ms, one.longest_ms))
        out.add_row(one.trouble, str(one.answered), str(one.unanswered), *times)
    return out


@contextlib.contextmanager
def _repeated(act: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do something again and again in a thread, for the length of a `with` block."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every_s):
            act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_PATIENCE_S)


@contextlib.contextmanager
def _nothing(_rig: _Rig) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _hanging_store(rig: _Rig) -> Iterator[None]:
    rig.minio.pause()
    try:
        yield
    finally:
        rig.minio.resume()


@contextlib.contextmanager
def _dead_store(rig: _Rig) -> Iterator[None]:
    rig.minio.stop()
    try:
        yield
    finally:
        rig.minio.start()


def _killed(role: str) -> Callable[[_Rig], AbstractContextManager[None]]:
    def kill(rig: _Rig) -> None:
        pid = role_pids(rig.daemon.pid).get(role)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return lambda rig: _repeated(lambda: kill(rig), _KILL_EVERY_S)


@contextlib.contextmanager
def _broken_catalog(rig: _Rig) -> Iterator[None]:
    path = os.path.join(rig.daemon.state_directory, "catalog.sqlite3")

    def break_it() -> None:
        with open(path, "r+b") as file:
            file.write(b"no catalog any more" * 300)

    break_it()
    with _repeated(break_it, 2.0):
        yield


@contextlib.contextmanager
def _garbage(rig: _Rig) -> Iterator[None]:
    with pusher(rig.daemon.ingest_endpoint) as socket:

        def send() -> None:
            for _ in range(20):
                socket.send(_GARBAGE)

        with _repeated(send, 0.01):
            yield


@contextlib.contextmanager
def _questions(rig: _Rig) -> Iterator[None]:
    """Listings without a pause, from four clients."""

    def ask(client: Client) -> None:
        with contextlib.suppress(IngestdError):
            client.measurements(limit=1000)

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(rig.daemon.client())
            stack.enter_context(_repeated(lambda client=client: ask(client), 0.0))  # type: ignore[misc]
        yield


_TROUBLES: dict[str, Callable[[_Rig], AbstractContextManager[None]]] = {
    "none": _nothing,
    "store hangs": _hanging_store,
    "store is down": _dead_store,
    "an uploader is killed every second": _killed("uploader-0"),
    "the receiver is killed every second": _killed("receiver"),
    "the catalog is broken every two seconds": _broken_catalog,
    "2,000 frames/s of garbage": _garbage,
    "four clients list without a pause": _questions,
}


def run(wanted: AnswersPlan, minio_binary: str, directory: str, say: Callable[[str], None]) -> list[Answers]:
    """Make one trouble after the other.

    Parameters
    ----------
    wanted
        How long and how much.
    minio_binary
        Path of the server.
    directory
        Empty, for everything.
    say
        Told what begins, and what was left out.
    """
    found = []
    minio_directory = os.path.join(directory, "minio")
    os.makedirs(minio_directory)
    with MinioServer(minio_directory, minio_binary) as minio:
        environ = minio.environment()
        daemon = DaemonProcess(os.path.join(directory, "daemon"), {"spool": {"min_free_bytes": 0}}, environ)
        with daemon:
            for name, trouble in _TROUBLES.items():
                say(name)
                found.append(_during(name, wanted, daemon, trouble(_Rig(daemon, minio))))
                daemon.wait_settled(_PATIENCE_S)
        found.append(_through_proxy(wanted, minio, directory, say))
        found.append(_in_sync(wanted, environ, directory, say))
        try:
            found.append(_on_full_disk(wanted, environ, directory, say))
        except DiskRefused as error:
            say(f"left out, the full disk: {error}")
    return found


def _through_proxy(
    wanted: AnswersPlan, minio: MinioServer, directory: str, say: Callable[[str], None]
) -> Answers:
    name = "nine faults of the store, each at a tenth of the requests"
    say(name)
    # Hangs and drips take a thread for its whole deadline: with more of them nothing but waiting would go on.
    rates = {fault: _SHARE / 10 if fault in (Fault.HANG, Fault.DRIP) else _SHARE for fault in Fault}
    with FaultProxy(minio.port, 1, rates=rates) as proxy:
        environ = minio.environment() | {"MINIO_URL": proxy.url}
        with DaemonProcess(
            os.path.join(directory, "proxied"), {"spool": {"min_free_bytes": 0}}, environ
        ) as daemon:
            return _during(name, wanted, daemon, contextlib.nullcontext())


def _in_sync(
    wanted: AnswersPlan, environ: dict[str, str], directory: str, say: Callable[[str], None]
) -> Answers:
    name = "the receiver hangs in its sync"
    say(name)
    armed = environ | {"INGESTD_FAULT": "accept.written:hang@20"}
    daemon = DaemonProcess(os.path.join(directory, "hung"), {"spool": {"min_free_bytes": 0}}, armed)
    with daemon:
        return _during(name, wanted, daemon, _ended_at_last(daemon))


@contextlib.contextmanager
def _ended_at_last(daemon: DaemonProcess) -> Iterator[None]:
    """What hangs does not stop when told to."""
    try:
        yield
    finally:
        pid = role_pids(daemon.pid).get("receiver")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def _on_full_disk(
    wanted: AnswersPlan, environ: dict[str, str], directory: str, say: Callable[[str], None]
) -> Answers:
    name = "the disk is full, the catalog's too"
    with SmallDisk(os.path.join(directory, "disk"), _DISK_BYTES) as disk:
        say(name)
        daemon = on_small_disk(disk, os.path.join(directory, "small"), environ=environ)
        with daemon:
            found = _during(name, wanted, daemon, disk.kept_full())
            wait_until(lambda: daemon.health()["spool"]["accepting"], _PATIENCE_S, "room on the disk")
            return found


def _during(
    name: str, wanted: AnswersPlan, daemon: DaemonProcess, trouble: AbstractContextManager[None]
) -> Answers:
    """Ask all the time under load and trouble."""
    load = SteadyLoad(daemon, "load", wanted.frames_per_s, wanted.n_samples)
    # The load ends last: it may have to wait for the trouble to be over.
    with load, trouble, Prober(daemon.query_endpoint) as prober:
        threading.Event().wait(wanted.seconds)
    latencies_ms = sorted(prober.latencies_ms)
    return Answers(
        name,
        len(latencies_ms),
        prober.unanswered_count,
        round(quantile(latencies_ms, 0.5), 2),
        round(quantile(latencies_ms, 0.99), 2),
        round(latencies_ms[-1], 2),
    )


def main() -> int:
    """Run all troubles; 1 where a demand is not met."""
    defaults = AnswersPlan()
    parser = argparse.ArgumentParser(prog="scripts/answers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="length of each trouble")
    parser.add_argument("--rate", type=float, default=defaults.frames_per_s, help="frames/s of 1 MB")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    given = parser.parse_args()
    binary = find_minio()
    if binary is None:
        sys.stderr.write("no MinIO server: run this as scripts/answers, which builds it\n")
        return 69
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ingestd-answers-") as directory:
        wanted = AnswersPlan(given.seconds, given.rate)
        found = run(wanted, binary, directory, lambda text: console.print(text, highlight=False))
    console.print(_table(found))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"plan": asdict(wanted), "answers": [asdict(one) for one in found]}, file, indent=1)
    return 0 if all(one.good for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
