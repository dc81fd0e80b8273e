"""The main job on this machine: a daemon, three simulated nodes, and what can be asked of it. Started by scripts/run."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import shlex
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ingestd.client import Client
from ingestd.errors import IngestdError
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.minio_server import MinioServer, find_minio
from ingestd.testing.nodes import SimulatedNodes
from ingestd.testing.simulation import Position, Row, Scene, report, ring
from ingestd.testing.tdoa import Capture
from ingestd.testing.waiting import free_port

#: Ports of a daemon as it comes; others are taken where these are in use.
_PORTS = (5555, 5556, 9108)

#: The transmitter of the simulated scene: DCF77, Mainflingen.
_TRANSMITTER = Position(50.0152, 9.0112)

_N_NODES = 3

#: Sessions whose objects are correlated at the end, at most: the latest ones.
_CORRELATED_MAX_COUNT = 10

#: How long nodes may take for what they still have to send [s].
_NODES_TIMEOUT_S = 30.0

#: One log line in this time where the output is no terminal [s].
_LINE_INTERVAL_S = 5.0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/run", description="Run ingestd with simulated nodes.")
    parser.add_argument("--seconds", type=float, help="send for so long, drain, show what was stored, end")
    parser.add_argument(
        "--interval", type=float, default=2.0, help="from session to session [s] (default: 2)"
    )
    parser.add_argument("--minio", action="store_true", help="store into a real MinIO server of its own")
    parser.add_argument(
        "--directory", default="run-state", help="for state, objects and logs (default: run-state)"
    )
    given = parser.parse_args()
    if given.interval <= 0 or (given.seconds is not None and given.seconds <= 0):
        parser.error("--interval and --seconds must be positive")
    return given


def port(usual: int) -> int:
    """The usual port where nobody has it, else a free one."""
    with socket.socket() as probe:
        # As ZeroMQ binds: a port whose last connections are still winding up is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", usual))
            return usual
    return free_port()


@contextlib.contextmanager
def store(given: argparse.Namespace) -> Iterator[tuple[dict[str, str], str]]:
    """The store: environment for the daemon, and where the objects are, for people."""
    if not given.minio:
        yield {}, os.path.join(os.path.abspath(given.directory), "state", "objects", "heimdall-raw-iq")
        return
    binary = find_minio()
    if binary is None:
        raise IngestdError("no MinIO server: scripts/run --minio builds one")
    os.makedirs(os.path.join(given.directory, "minio"), exist_ok=True)
    with MinioServer(os.path.join(given.directory, "minio"), binary) as server:
        yield (
            server.environment(),
            f"{server.url}/heimdall-raw-iq (access key {server.access_key}, a demo server)",
        )


def introduce(console: Console, daemon: DaemonProcess, where: str, given: argparse.Namespace) -> None:
    """Say where everything is and what to try."""
    ask = ["ingestctl", "--endpoint", daemon.query_endpoint]
    bin_directory = os.path.relpath(os.path.dirname(sys.executable))
    console.print(f"ingestd listens on {daemon.ingest_endpoint}, answers on {daemon.query_endpoint},")
    console.print(f"metrics and probes: http://{daemon.http_endpoint}/metrics")
    console.print(f"objects: {where}", soft_wrap=True)
    console.print(f"log:     {daemon.log_path}", soft_wrap=True)
    console.print("try, in another terminal:")
    tone = ["push", "--test-tone", "--ingest", daemon.ingest_endpoint]
    for command in (["health"], ["sessions"], ["nodes"], ["stats"], tone):
        console.print(
            f"  {shlex.join([os.path.join(bin_directory, ask[0]), *ask[1:], *command])}", soft_wrap=True
        )
    if given.seconds is None:
        console.print("Ctrl-C stops.")


def status_line(client: Client, nodes: SimulatedNodes) -> str:
    """One line of what happens."""
    stats = client.stats()
    sent = sum(counts.sent_count for counts in nodes.counts())
    health = client.health()
    return (
        f"sent {sent}, received {stats['received']}, accepted {stats['accepted']}, stored {stats['stored']}, "
        f"waiting {health['spool']['entries']}, {stats['stored_bytes'] / 1e6:.1f} MB; {health['status']}"
    )


def watch(
    console: Console, daemon: DaemonProcess, nodes: SimulatedNodes, stop: threading.Event, end_s: float
) -> None:
    """Show the line until the time is up or a stop is asked for."""
    printed_s = 0.0
    live = (
        Live("", console=console, refresh_per_second=4) if console.is_terminal else contextlib.nullcontext()
    )
    with live as shown, daemon.client() as client:
        while not stop.is_set() and time.monotonic() < end_s:
            line = status_line(client, nodes)
            if isinstance(shown, Live):
                shown.update(line)
            elif time.monotonic() - printed_s >= _LINE_INTERVAL_S:
                printed_s = time.monotonic()
                console.print(line, soft_wrap=True)
            stop.wait(min(0.5, max(0.0, end_s - time.monotonic())))


def captures(client: Client, task_id: str) -> list[Capture]:
    """Read a session back the way a client without credentials would."""
    found = []
    for row in client.measurements(task_id=task_id)["measurements"]:
        url = client.url(task_id, row["websdr_id"])
        with urllib.request.urlopen(url, timeout=10.0) as reply:  # noqa: S310 - a URL of our own daemon
            samples = np.load(io.BytesIO(reply.read()), allow_pickle=False)
        found.append(Capture.from_objects(samples, row))
    return found


def closing(console: Console, client: Client, scene: Scene, first_ns: int, n_cut: int) -> bool:
    """Show the sessions of this run and the time differences of their stored objects; whether all is well.

    `n_cut` sessions, at most, may lack nodes: those that a Ctrl-C cut in half.
    """
    sessions = [
        session
        for session in client.sessions(limit=1000)["sessions"]
        if session["task_id"].startswith("sim-") and int(session["task_id"].split("-")[1]) >= first_ns
    ]
    shown = Table("session", "stored", "MB", "first sample (UTC)", title="sessions stored, latest first")
    for session in sessions[:_CORRELATED_MAX_COUNT]:
        shown.add_row(
            session["task_id"],
            f"{session['stored']} of {session['measurements_count']}",
            f"{session['size_bytes'] / 1e6:.2f}",
            session["first_timestamp_utc"],
        )
    console.print(shown)
    if len(sessions) > _CORRELATED_MAX_COUNT:
        console.print(f"... and {len(sessions) - _CORRELATED_MAX_COUNT} more")
    whole = [session["task_id"] for session in sessions if session["stored"] == _N_NODES]
    rows = [
        row for task_id in whole[:_CORRELATED_MAX_COUNT] for row in report(scene, captures(client, task_id))
    ]
    console.print(differences(rows))
    return bool(whole) and len(sessions) - len(whole) <= n_cut


def differences(rows: list[Row]) -> Table:
    """Table of the pairs over all sessions that were correlated."""
    n_sessions = len(rows) // max(1, len(list(itertools.combinations(range(_N_NODES), 2))))
    made = Table(
        "pair", "true us", "measured us", "worst error us",
        title=f"time difference of arrival, from the stored objects of {n_sessions} sessions",
    )  # fmt: skip
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row.a, row.b), []).append(row)
    for (a, b), of_pair in sorted(pairs.items()):
        mean_s = sum(row.measured_s for row in of_pair) / len(of_pair)
        worst: Any = max(abs(row.error_s) for row in of_pair)
        made.add_row(
            f"{a} - {b}", f"{1e6 * of_pair[0].true_s:+.2f}", f"{1e6 * mean_s:+.2f}", f"{1e6 * worst:.2f}"
        )
    return made


def main() -> int:
    """Run; returns the exit code."""
    given = arguments()
    console = Console(highlight=False)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    scene = Scene(transmitter=_TRANSMITTER, receivers=ring(_TRANSMITTER, _N_NODES))
    ports = {
        name: port(usual)
        for name, usual in zip(("ingest_port", "query_port", "http_port"), _PORTS, strict=True)
    }
    started_ns = time.time_ns()
    with store(given) as (environ, where):
        daemon = DaemonProcess(given.directory, {}, environ, **ports)
        with daemon:
            introduce(console, daemon, where, given)
            end_s = float("inf") if given.seconds is None else time.monotonic() + given.seconds
            nodes = SimulatedNodes(
                daemon.ingest_endpoint,
                scene,
                interval_s=given.interval,
                confirmed=True,
                query_endpoint=daemon.query_endpoint,
                # As many as begin within the time: every node sends every session, and none is cut in half.
                n_sessions=None if given.seconds is None else math.ceil(given.seconds / given.interval),
            )
            with nodes:
                watch(console, daemon, nodes, stop, end_s)
                if not stop.is_set():
                    nodes.wait(_NODES_TIMEOUT_S)
            console.print("draining ...")
            daemon.wait_settled()
            with daemon.client() as client:
                # Captures began up to their own length before the start.
                fine = closing(console, client, scene, started_ns - 60 * 10**9, n_cut=int(stop.is_set()))
        console.print("stopped; everything that was accepted is stored" if fine else "stopped; see the log")
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (IngestdError, TimeoutError) as error:
        print(f"scripts/run: {error}", file=sys.stderr)
        sys.exit(1)
