"""`scripts/restarts`: how long nobody accepts after a SIGKILL, of the receiver alone and of the whole daemon.

Measured from outside, from the kill to the moment at which a frame that was sent after it lies in the spool. The store
is one that is not there, so that the spool keeps what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import zmq
from rich.console import Console
from rich.table import Table

from ingestd.formats import frame as wire
from ingestd.spool import SpoolLayout, SpoolWriter
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.torture.report import quantile
from ingestd.testing.torture.victims import role_pids
from ingestd.testing.waiting import free_port

__all__ = ["RestartPlan", "RestartResult", "run"]

#: Demanded of the receiver's p99 [ms], and of the daemon [s]: this and as much again for each 10,000 entries.
_RECEIVER_MS = 500.0
_DAEMON_S = 1.0
_ENTRIES_PER_S = 10_000

#: Between two looks at the spool [s]: an error of this size is in each figure.
_LOOK_S = 0.002

#: Whoever has not accepted by then never will [s].
_PATIENCE_S = 60.0

#: Between two kills [s]: a second death within ten seconds is no longer restarted at once, by design.
_REST_S = 10.5


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """How often and how much.

    Parameters
    ----------
    receiver_kills, daemon_kills
        Kills of each kind [count].
    entries
        In the spool when the daemon is killed [count].
    """

    receiver_kills: int = 20
    daemon_kills: int = 5
    entries: int = 10_000


@dataclass(frozen=True, slots=True)
class RestartResult:
    """Times from a SIGKILL to the next accepted frame, sorted: receiver [ms], daemon [s]."""

    receiver_ms: list[float]
    daemon_s: list[float]
    entries: int

    @property
    def daemon_limit_s(self) -> float:
        """What the daemon may take with so many entries [s]."""
        return _DAEMON_S + self.entries / _ENTRIES_PER_S

    @property
    def good(self) -> bool:
        """Whether both demands are met."""
        return quantile(self.receiver_ms, 0.99) < _RECEIVER_MS and self.daemon_s[-1] < self.daemon_limit_s

    def table(self) -> Table:
        """For people."""
        out = Table("from SIGKILL to the next accepted frame", "p50", "p99", "demanded")
        receiver = [f"{quantile(self.receiver_ms, q):.0f} ms" for q in (0.5, 0.99)]
        out.add_row(f"receiver, {len(self.receiver_ms)} kills", *receiver, f"p99 < {_RECEIVER_MS:.0f} ms")
        daemon = [f"{quantile(self.daemon_s, q):.2f} s" for q in (0.5, 0.99)]
        what = f"daemon, {self.entries} entries in the spool, {len(self.daemon_s)} kills"
        out.add_row(what, *daemon, f"< {self.daemon_limit_s:.2f} s")
        return out


def run(wanted: RestartPlan, directory: str, say: Callable[[str], None]) -> RestartResult:
    """Kill and measure.

    Parameters
    ----------
    wanted
        How often.
    directory
        Empty, for everything.
    say
        Told what begins.

    Raises
    ------
    TimeoutError
        Nothing was accepted any more.
    """
    # Nobody listens there: everything stays in the spool.
    environ = {
        "MINIO_URL": f"http://127.0.0.1:{free_port()}",
        "MINIO_ACCESS_KEY": "x",
        "MINIO_SECRET_KEY": "y",
    }
    settings: dict[str, Any] = {"spool": {"min_free_bytes": 0}}
    daemon = DaemonProcess(os.path.join(directory, "daemon"), settings, environ)
    with daemon, pusher(daemon.ingest_endpoint) as socket:
        say(f"{wanted.receiver_kills} kills of the receiver, {_REST_S} s apart")
        receiver_ms = [_receiver(daemon, socket, i) * 1e3 for i in range(wanted.receiver_kills)]
    say(f"{wanted.entries} entries")
    _fill(daemon.state_directory, wanted.entries)
    with daemon, pusher(daemon.ingest_endpoint) as socket:
        say(f"{wanted.daemon_kills} kills of the daemon")
        daemon_s = [_daemon(daemon, socket, i) for i in range(wanted.daemon_kills)]
    return RestartResult(sorted(receiver_ms), sorted(daemon_s), wanted.entries)


def _receiver(daemon: DaemonProcess, socket: zmq.Socket[bytes], number: int) -> float:
    time.sleep(_REST_S if number else 0.0)
    return _until_accepted(
        daemon,
        socket,
        f"receiver-{number}",
        lambda: os.kill(role_pids(daemon.pid)["receiver"], signal.SIGKILL),
    )


def _daemon(daemon: DaemonProcess, socket: zmq.Socket[bytes], number: int) -> float:
    def kill() -> None:
        daemon.kill()
        daemon.start(wait=False)

    seconds = _until_accepted(daemon, socket, f"daemon-{number}", kill)
    daemon.wait_ready()
    return seconds


def _until_accepted(
    daemon: DaemonProcess, socket: zmq.Socket[bytes], task_id: str, kill: Callable[[], None]
) -> float:
    """Seconds from before the kill to an entry that was sent after it.

    One frame may die in the socket of who was killed, so it is sent until it is there. Entries that are claimed or given back
    meanwhile have names that were seen before.
    """
    new = SpoolLayout(daemon.state_directory).new
    before = {name for _, _, names in os.walk(SpoolLayout(daemon.state_directory).root) for name in names}
    began_s = time.monotonic()
    kill()
    content = wire.encode(noise(task_id))
    sent_s = 0.0
    while (now_s := time.monotonic()) - began_s < _PATIENCE_S:
        if now_s - sent_s > 10 * _LOOK_S:
            sent_s = now_s
            # A full pipe holds enough frames already.
            with contextlib.suppress(zmq.Again):
                socket.send(content, zmq.NOBLOCK)
        if not before.issuperset(os.listdir(new)):
            return time.monotonic() - began_s
        time.sleep(_LOOK_S)
    raise TimeoutError(f"nothing accepted within {_PATIENCE_S} s after {task_id}:\n{daemon.log_tail()}")


def _fill(state_directory: str, n_entries: int) -> None:
    """Put entries into the spool, by the code that the receiver uses."""
    writer = SpoolWriter(SpoolLayout(state_directory), "process", time.time_ns)
    for number in range(n_entries):
        writer.add(memoryview(wire.encode(noise(f"waiting-{number:06d}", n_samples=100))))
        if len(writer.staged) == 16:
            writer.commit()
    writer.commit()


def main() -> int:
    """Run what was asked for; 1 where a demand is not met."""
    parser = argparse.ArgumentParser(prog="scripts/restarts", description=__doc__)
    parser.add_argument("--receiver-kills", type=int, default=20)
    parser.add_argument("--daemon-kills", type=int, default=5)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE")
    given = parser.parse_args()
    console = Console()
    directory = tempfile.mkdtemp(prefix="ingestd-restarts-")
    try:
        wanted = RestartPlan(given.receiver_kills, given.daemon_kills, given.entries)
        result = run(wanted, directory, lambda text: console.print(text, highlight=False))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    console.print(result.table())
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(asdict(result), file)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
