"""`scripts/outage`: a store that is down for minutes under load, and what that costs.

Three phases on a real daemon and a real MinIO: as many frames as go through (the clean rate); the store stopped while
frames keep coming; the store back, the backlog draining while new frames arrive. What is measured is measured from
outside: the kernel's counters of the process tree, the daemon's answers, its log, its spool.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.load import SteadyLoad
from ingestd.testing.minio_server import MinioServer, find_minio
from ingestd.testing.process_tree import cpu_s, resident_bytes
from ingestd.testing.torture.prober import Prober
from ingestd.testing.torture.report import quantile
from ingestd.testing.waiting import wait_until

__all__ = ["OutagePlan", "OutageResult", "run"]

#: Longest time that a phase may take beyond its own [s].
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class OutagePlan:
    """How long and how much.

    Parameters
    ----------
    outage_s
        How long the store is down under load [s].
    idle_s
        How long it stays down without load, for the idle CPU [s].
    frames_per_s
        Load during the outage.
    new_per_s
        Load during the drain.
    n_samples
        Of a frame.
    clean_count
        Frames of the clean phase.
    """

    outage_s: float = 300.0
    idle_s: float = 60.0
    frames_per_s: float = 20.0
    new_per_s: float = 5.0
    n_samples: int = 125_000
    clean_count: int = 1500


@dataclass(frozen=True, slots=True)
class OutageResult:
    """What it cost; rates in frames/s, memory of the whole tree."""

    clean_rate: float
    drain_rate: float
    backlog_count: int
    found_again_s: float
    resident_drift_bytes: int
    idle_cpu_share: float
    log_lines_per_min: float
    rep_p99_ms: float
    time_left_shown: bool
    new_before_backlog_count: int
    new_latency_p50_s: float
    stored_count: int
    missing_count: int

    @property
    def drain_share(self) -> float:
        """Of the clean rate."""
        return self.drain_rate / self.clean_rate

    @property
    def good(self) -> bool:
        """Whether every demand is met."""
        return all(met for _, _, _, met in self._rows())

    def _rows(self) -> list[tuple[str, str, str, bool]]:
        drift_mib = self.resident_drift_bytes / 2**20
        return [
            ("clean rate", f"{self.clean_rate:.1f} frames/s", "", True),
            ("backlog", f"{self.backlog_count} entries", "", True),
            ("store found again after", f"{self.found_again_s:.1f} s", "<= 16 s", self.found_again_s <= 16),
            ("drain rate, new frames included", f"{self.drain_rate:.1f} frames/s", "", True),
            ("of the clean rate", f"{100 * self.drain_share:.0f} %", ">= 80 %", self.drain_share >= 0.8),
            ("memory drift over the outage", f"{drift_mib:+.1f} MiB", "< 50 MiB", drift_mib < 50),
            ("CPU while idle and down", f"{100 * self.idle_cpu_share:.2f} % of a core", "< 2 %", self.idle_cpu_share < 0.02),
            ("log lines while down", f"{self.log_lines_per_min:.1f} a minute", "< 60", self.log_lines_per_min < 60),
            ("REP p99 while down", f"{self.rep_p99_ms:.1f} ms", "< 100 ms", self.rep_p99_ms < 100),
            ("health shows the time left", str(self.time_left_shown), "True", self.time_left_shown),
            ("new frames stored before the backlog was", f"{self.new_before_backlog_count}", "> 0", self.new_before_backlog_count > 0),
            ("new frames, accepted to stored, p50", f"{self.new_latency_p50_s:.2f} s", "", True),
            ("stored", f"{self.stored_count}", "", True),
            ("missing", f"{self.missing_count}", "0", not self.missing_count),
        ]  # fmt: skip

    def table(self) -> Table:
        """For people."""
        out = Table("", "measured", "demanded", title="a store that is down")
        for name, value, demand, met in self._rows():
            out.add_row(name, value, demand + ("" if met else "  NOT MET"))
        return out


@dataclass(slots=True)
class _Down:
    """What was seen while the store was down."""

    drift_bytes: int
    idle_cpu_share: float
    log_lines_per_min: float
    rep_p99_ms: float
    time_left_shown: bool
    backlog_count: int


def run(wanted: OutagePlan, minio_binary: str, directory: str, say: Callable[[str], None]) -> OutageResult:
    """Run the three phases.

    Parameters
    ----------
    wanted
        How long and how much.
    minio_binary
        Path of the server.
    directory
        Empty, for everything; holds the whole backlog.
    say
        Told what begins.
    """
    minio_directory = os.path.join(directory, "minio")
    os.makedirs(minio_directory)
    with MinioServer(minio_directory, minio_binary) as minio:
        daemon = DaemonProcess(
            os.path.join(directory, "daemon"),
            {"spool": {"min_free_bytes": 0}, "log": {"format": "json"}},
            minio.environment(),
        )
        with daemon:
            say(f"{wanted.clean_count} frames as fast as they go")
            with SteadyLoad(daemon, "clean", 1e6, wanted.n_samples) as load:
                wait_until(lambda: load.sent_count >= wanted.clean_count, _PATIENCE_S, "the clean phase")
            clean_count = load.sent_count
            daemon.wait_stored(clean_count, _PATIENCE_S)
            minio.stop()
            say(f"store stopped; {wanted.frames_per_s:g} frames/s for {wanted.outage_s:g} s, then idle")
            down = _down(wanted, daemon)
            say(f"store back, {down.backlog_count} entries wait; {wanted.new_per_s:g} new frames/s")
            minio.start()
            back_ns = time.time_ns()
            with SteadyLoad(daemon, "new", wanted.new_per_s, wanted.n_samples) as load:
                daemon.wait_stored(clean_count + down.backlog_count, _PATIENCE_S)
            daemon.wait_settled(_PATIENCE_S)
            rows = list(_stored_rows(daemon))
    return _result(rows, down, clean_count + down.backlog_count + load.sent_count, back_ns)


def _down(wanted: OutagePlan, daemon: DaemonProcess) -> _Down:
    lines_before, began_s = _line_count(daemon.log_path), time.monotonic()
    with (
        SteadyLoad(daemon, "backlog", wanted.frames_per_s, wanted.n_samples) as load,
        Prober(daemon.query_endpoint) as prober,
    ):
        # The first frames warm up what grows once: buffers, caches.
        wait_until(lambda: time.monotonic() - began_s > wanted.outage_s * 0.1, wanted.outage_s + 60)
        before_bytes = resident_bytes(daemon.pid)
        wait_until(lambda: time.monotonic() - began_s > wanted.outage_s, wanted.outage_s + 60)
        drift_bytes = resident_bytes(daemon.pid) - before_bytes
        health = daemon.health()
    wait_until(
        lambda: daemon.health()["spool"]["entries"] == load.sent_count, 60, "the backlog to be counted"
    )
    cpu_before_s, idle_s = cpu_s(daemon.pid), time.monotonic()
    wait_until(lambda: time.monotonic() - idle_s > wanted.idle_s, wanted.idle_s + 60)
    idle_share = (cpu_s(daemon.pid) - cpu_before_s) / (time.monotonic() - idle_s)
    minutes = (time.monotonic() - began_s) / 60.0
    return _Down(
        drift_bytes,
        idle_share,
        (_line_count(daemon.log_path) - lines_before) / minutes,
        quantile(sorted(prober.latencies_ms), 0.99),
        isinstance(health["spool"]["time_left_s"], float | int),
        load.sent_count,
    )


def _result(rows: list[tuple[str, int, int]], down: _Down, sent_count: int, back_ns: int) -> OutageResult:
    """Figures from the rows of the catalog: task id, acceptance and storing of each [ns]."""
    by_phase: dict[str, list[tuple[int, int]]] = {"clean": [], "backlog": [], "new": []}
    for task_id, accepted_ns, stored_ns in rows:
        by_phase[task_id.partition("-")[0]].append((accepted_ns, stored_ns))
    backlog_ns = [stored_ns for _, stored_ns in by_phase["backlog"]]
    found_ns, until_ns = min(backlog_ns), max(backlog_ns)
    new_meanwhile = [(begin, end) for begin, end in by_phase["new"] if end < until_ns]
    # What came before the store was found again waited for that, which is a figure of its own.
    new_latencies_s = sorted((end - begin) / 1e9 for begin, end in new_meanwhile if begin > found_ns)
    drain_s = (until_ns - found_ns) / 1e9
    clean_s = (max(end for _, end in by_phase["clean"]) - min(start for start, _ in by_phase["clean"])) / 1e9
    return OutageResult(
        clean_rate=round(len(by_phase["clean"]) / clean_s, 1),
        drain_rate=round((len(backlog_ns) + len(new_meanwhile)) / drain_s, 1),
        backlog_count=down.backlog_count,
        found_again_s=round((found_ns - back_ns) / 1e9, 1),
        resident_drift_bytes=down.drift_bytes,
        idle_cpu_share=round(down.idle_cpu_share, 4),
        log_lines_per_min=round(down.log_lines_per_min, 1),
        rep_p99_ms=round(down.rep_p99_ms, 1),
        time_left_shown=down.time_left_shown,
        new_before_backlog_count=len(new_latencies_s),
        new_latency_p50_s=round(quantile(new_latencies_s, 0.5), 2),
        stored_count=len(rows),
        missing_count=sent_count - len(rows),
    )


def _stored_rows(daemon: DaemonProcess) -> Iterator[tuple[str, int, int]]:
    """Task id, acceptance and storing [ns] of everything that is stored, page by page."""
    with daemon.client() as client:
        cursor = None
        while True:
            page = client.measurements(state="stored", limit=1000, cursor=cursor)
            for row in page["measurements"]:
                yield row["task_id"], row["accepted_at_ns"], row["stored_at_ns"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _line_count(path: str) -> int:
    """Lines of a log, of every level."""
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def main() -> int:
    """Run what was asked for; 1 where a demand is not met."""
    defaults = OutagePlan()
    parser = argparse.ArgumentParser(prog="scripts/outage", description=__doc__)
    parser.add_argument("--minutes", type=float, default=defaults.outage_s / 60, help="store down under load")
    parser.add_argument("--idle-seconds", type=float, default=defaults.idle_s, help="store down without load")
    parser.add_argument(
        "--rate", type=float, default=defaults.frames_per_s, help="frames/s of 1 MB meanwhile"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    given = parser.parse_args()
    binary = find_minio()
    if binary is None:
        sys.stderr.write("no MinIO server: run this as scripts/outage, which builds it\n")
        return 69
    console = Console()
    wanted = OutagePlan(given.minutes * 60, given.idle_seconds, given.rate)
    with tempfile.TemporaryDirectory(prefix="ingestd-outage-") as directory:
        result = run(wanted, binary, directory, lambda text: console.print(text, highlight=False))
    console.print(result.table())
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"plan": asdict(wanted), "result": asdict(result)}, file, indent=1)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
