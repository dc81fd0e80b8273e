"""`scripts/fill-drain`: fill the disk of a real daemon to the last byte and empty it again, many times, then count.

Spool, catalog and locks are on one small disk; the objects are on another one. Each round sends frames before and
while the disk is full, and everything that was accepted has to be stored before there is room again.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import zmq
from rich.console import Console
from rich.table import Table

from ingestd.formats import frame as wire
from ingestd.formats.measurement import Identity, Measurement, object_keys
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.small_disk import SmallDisk
from ingestd.testing.waiting import wait_until

__all__ = [
    "FillDrainPlan",
    "FillDrainResult",
    "drained",
    "lost_of",
    "objects_in",
    "on_small_disk",
    "restarts_of",
    "run",
]

#: Room for state and spool [bytes]: little, so that it is filled quickly.
_DISK_BYTES = 16 * 2**20

#: Samples in a frame [count]: 64 kB, more than the daemon's own files may find in the last pages.
_N_SAMPLES = 8000

#: Frames that a round sends before the disk is full, and while it is [count]: as many as PUSH and PULL keep in memory.
_N_BEFORE, _N_DURING = 3, 3

#: Longest wait for one step of a round [s].
_PATIENCE_S = 30.0

_BUCKET = "heimdall-raw-iq"


@dataclass(frozen=True, slots=True)
class FillDrainPlan:
    """How often.

    Parameters
    ----------
    cycles
        Rounds of full and empty again [count].
    """

    cycles: int = 20


@dataclass(frozen=True, slots=True)
class FillDrainResult:
    """What was counted: rounds, frames sent, restarts of any role, frames not in the bucket as sent, objects too many."""

    cycles: int
    frames: int
    restarts: int
    lost: int
    surplus: int
    elapsed_s: float

    @property
    def good(self) -> bool:
        """Whether no role died, and every frame is stored once, as it was sent."""
        return (self.restarts, self.lost, self.surplus) == (0, 0, 0)

    def table(self) -> Table:
        """For people."""
        out = Table("cycles", "frames", "restarts", "lost", "surplus objects", "seconds")
        counts = (self.cycles, self.frames, self.restarts, self.lost, self.surplus)
        out.add_row(*(f"{count}" for count in counts), f"{self.elapsed_s:.0f}")
        return out


def on_small_disk(
    disk: SmallDisk, directory: str | os.PathLike[str], min_free_bytes: int = 0, **daemon: Any
) -> DaemonProcess:
    """A daemon whose state is on a small disk, and whose log and objects are in `directory`.

    Parameters
    ----------
    disk
        For the state directory.
    directory
        For everything else.
    min_free_bytes
        What the spool leaves free; with 0 it finds the disk's end by ENOSPC, and the catalog with it.
    daemon
        Further parameters of `DaemonProcess`.
    """
    objects = os.path.join(os.fspath(directory), "objects")
    state_directory = os.path.join(disk.path, "state")
    settings = {
        "state_directory": state_directory,
        "spool": {"min_free_bytes": min_free_bytes},
        "uploader": {"count": 1, "threads": 2},
        "storage": {"directory": objects},
    }
    made = DaemonProcess(directory, settings, **daemon)
    made.state_directory = state_directory
    return made


def objects_in(directory: str | os.PathLike[str]) -> set[str]:
    """Keys in the bucket of a daemon that `on_small_disk` made."""
    root = os.path.join(os.fspath(directory), "objects", _BUCKET)
    found = set()
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".tmp"]
        found |= {os.path.relpath(os.path.join(parent, name), root) for name in names}
    return found


def lost_of(directory: str | os.PathLike[str], sent: Sequence[Measurement]) -> list[str]:
    """Which of these frames are not in the bucket with their bytes and their metadata: their task ids."""
    root = os.path.join(os.fspath(directory), "objects", _BUCKET)
    lost = []
    for measurement in sent:
        keys = object_keys(Identity(measurement.task_id, measurement.websdr_id, measurement.chunk))
        try:
            with open(os.path.join(root, keys.npy), "rb") as npy:
                whole = npy.read().endswith(bytes(measurement.samples))
            with open(os.path.join(root, keys.metadata), "rb") as document:
                whole = whole and json.load(document)["timestamp_ns"] == measurement.timestamp_ns
        except FileNotFoundError:
            whole = False
        if not whole:
            lost.append(measurement.task_id)
    return lost


def drained(daemon: DaemonProcess) -> bool:
    """Whether nothing waits in the spool and nobody holds anything."""
    spool = os.path.join(daemon.state_directory, "spool")
    patterns = (os.path.join(spool, "new", "*.v1"), os.path.join(spool, "claimed", "*", "*.v1"))
    return not any(glob.glob(pattern) for pattern in patterns)


def restarts_of(daemon: DaemonProcess) -> int:
    """Restarts of all roles since the daemon's start."""
    return sum(role["restarts"] for role in daemon.health()["roles"])


def run(wanted: FillDrainPlan, directory: str, say: Callable[[str], None]) -> FillDrainResult:
    """Go through all rounds with one daemon, which nobody restarts.

    Parameters
    ----------
    wanted
        How often.
    directory
        For disk, log and objects; must exist.
    say
        Told of the progress.

    Raises
    ------
    DiskRefused
        No small disk can be had here.
    TimeoutError
        The daemon did not stop accepting, did not drain or did not resume.
    """
    began_s = time.monotonic()
    with SmallDisk(os.path.join(directory, "disk"), _DISK_BYTES) as disk:
        daemon = on_small_disk(disk, directory)
        with daemon, pusher(daemon.ingest_endpoint) as socket:
            for cycle in range(wanted.cycles):
                _round(daemon, disk, socket, cycle)
                if (cycle + 1) % 50 == 0:
                    say(f"{cycle + 1} cycles, {time.monotonic() - began_s:.0f} s")
            daemon.wait_settled()
            restarts = restarts_of(daemon)
    sent = [_frame(number) for number in range(wanted.cycles * (_N_BEFORE + _N_DURING))]
    lost = lost_of(directory, sent)
    surplus = len(objects_in(directory)) - 2 * (len(sent) - len(lost))
    elapsed_s = time.monotonic() - began_s
    return FillDrainResult(wanted.cycles, len(sent), restarts, len(lost), surplus, elapsed_s)


def _frame(number: int) -> Measurement:
    return noise(f"fill-{number // 100}", 1 + number % 100, n_samples=_N_SAMPLES, seed=number)


def _round(daemon: DaemonProcess, disk: SmallDisk, socket: zmq.Socket[bytes], cycle: int) -> None:
    """Full and empty again; what was accepted is stored while it is full, the rest afterwards."""
    first = cycle * (_N_BEFORE + _N_DURING)
    for number in range(first, first + _N_BEFORE):
        socket.send(wire.encode(_frame(number)))
    with disk.kept_full():
        wait_until(lambda: drained(daemon), _PATIENCE_S, f"cycle {cycle}: to drain while the disk is full")
        # Room of the last released entries would take the next frames: that is taken first.
        disk.fill()
        for number in range(first + _N_BEFORE, first + _N_BEFORE + _N_DURING):
            socket.send(wire.encode(_frame(number)))
        wait_until(lambda: not _accepting(daemon), _PATIENCE_S, f"cycle {cycle}: to stop accepting")
    wait_until(lambda: _accepting(daemon), _PATIENCE_S, f"cycle {cycle}: to accept again")
    sent = first + _N_BEFORE + _N_DURING
    wait_until(lambda: daemon.stats()["stored"] >= sent, _PATIENCE_S, f"cycle {cycle}: {sent} stored")


def _accepting(daemon: DaemonProcess) -> bool:
    return bool(daemon.health()["spool"]["accepting"])


def main() -> int:
    """Run what was asked for; 1 where a frame was lost or a role died."""
    parser = argparse.ArgumentParser(prog="scripts/fill-drain", description=__doc__)
    parser.add_argument("--cycles", type=int, default=500, help="rounds (default 500)")
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE")
    given = parser.parse_args()
    console = Console()
    directory = tempfile.mkdtemp(prefix="ingestd-fill-drain-")
    try:
        result = run(
            FillDrainPlan(given.cycles), directory, lambda text: console.print(text, highlight=False)
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    console.print(result.table())
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(asdict(result), file)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
