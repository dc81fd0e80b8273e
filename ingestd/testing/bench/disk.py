"""What the disk itself can take, and what the daemon puts on it while the store is down."""

from __future__ import annotations

import glob
import os
import time

from ingestd.errors import IngestdError
from ingestd.spool import SpoolLayout
from ingestd.testing.bench.contenders import Contender, Running
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.bench.runs import Values, open_pusher
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.waiting import free_port

__all__ = ["ingest_with_store_down", "nobody", "sequential_limit", "start_to_first_accepted", "wait_entries"]

#: A group commit at its largest [bytes].
_GROUP_BYTES = 16 * 2**20

_PATIENCE_S = 120.0

#: Between two looks at the spool [s].
_LOOK_S = 0.005


def sequential_limit(directory: str, n_bytes: int) -> Values:
    """Write one file in groups, fdatasync after each: what group commits could reach if they cost nothing else."""
    os.makedirs(directory, exist_ok=True)
    group, path = memoryview(os.urandom(_GROUP_BYTES)), os.path.join(directory, "limit")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        began_s, written = time.monotonic(), 0
        while written < n_bytes:
            written += os.write(fd, group)
            os.fdatasync(fd)
        elapsed_s = time.monotonic() - began_s
    finally:
        os.close(fd)
        os.unlink(path)
    return {"mb_per_s": written / elapsed_s / 1e6}


def nobody() -> dict[str, str]:
    """A store that nobody listens for."""
    return {
        "MINIO_URL": f"http://127.0.0.1:{free_port()}",
        "MINIO_ACCESS_KEY": "bench",
        "MINIO_SECRET_KEY": "bench-secret",
    }


def ingest_with_store_down(contender: Contender, plan: FramePlan, n_frames: int, directory: str) -> Values:
    """From the first push to the last entry in the spool, while nobody answers for the store."""
    n_warm = plan.nodes * 4
    with (
        contender.running(plan, 0, directory, nobody()) as running,
        open_pusher(plan, contender, running) as pushing,
    ):
        assert running.daemon is not None
        pushing.begin(0, n_warm)
        pushing.end()
        wait_entries(running.daemon, n_warm)
        pushing.begin(n_warm, n_frames)
        reached_ns = wait_entries(running.daemon, n_warm + n_frames)
        pushed_ns = pushing.end()
    elapsed_s = (reached_ns - pushed_ns[0]) / 1e9
    return {"mb_per_s": n_frames * plan.n_samples * 8 / elapsed_s / 1e6, "frames_per_s": n_frames / elapsed_s}


def wait_entries(daemon: DaemonProcess, count: int) -> int:
    """Wait until so many entries are in the spool; returns when they were [ns since 1970]."""
    layout = SpoolLayout(daemon.state_directory)
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s:
        if _n_entries(layout) >= count:
            return time.time_ns()
        time.sleep(_LOOK_S)
    raise IngestdError(f"the spool has {_n_entries(layout)} entries, not {count}:\n{daemon.log_tail()}")


def _n_entries(layout: SpoolLayout) -> int:
    """Entries accepted so far: waiting, or held by an uploader."""
    waiting = glob.glob(os.path.join(layout.new, "*.v1"))
    return len(waiting) + len(glob.glob(os.path.join(layout.root, "claimed", "*", "*.v1")))


def start_to_first_accepted(contender: Contender, plan: FramePlan, directory: str) -> Values:
    """From the start of the process to an entry in the spool; the node knocks from the beginning."""
    os.makedirs(directory, exist_ok=True)
    daemon = DaemonProcess(directory, contender.settings, nobody())
    layout = SpoolLayout(daemon.state_directory)
    # The pusher is there first, as a node would be: its own start is not measured.
    with open_pusher(plan, contender, Running(0, [daemon.ingest_endpoint], directory)) as pushing:
        pushing.begin(0, 1)
        began_s = time.monotonic()
        daemon.start(wait=False)
        try:
            while not (os.path.isdir(layout.new) and _n_entries(layout)):
                if time.monotonic() - began_s > _PATIENCE_S:
                    raise IngestdError(f"nothing was accepted:\n{daemon.log_tail()}")
                time.sleep(_LOOK_S)
            elapsed_s = time.monotonic() - began_s
        finally:
            daemon.stop()
    return {"start_s": elapsed_s}
