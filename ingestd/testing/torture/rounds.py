"""One round: start everything, send and hit, let it drain without faults, count."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ingestd
from ingestd.client import Client
from ingestd.errors import IngestdError, NotFound
from ingestd.storage.minio import MinioStore
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.fault_proxy import FaultProxy
from ingestd.testing.frames import noise
from ingestd.testing.minio_server import MinioServer
from ingestd.testing.torture.blows import plan
from ingestd.testing.torture.oracle import Findings, compare
from ingestd.testing.torture.prober import Prober
from ingestd.testing.torture.report import Round, quantile
from ingestd.testing.torture.sender import Issued, Sender, SenderReport, read_ledger
from ingestd.testing.torture.victims import Victims
from ingestd.testing.waiting import wait_until

__all__ = ["RoundPlan", "run_round"]

#: A backlog of the longest storm, after a daemon that was hit to its last moment, drains within this time [s].
_DRAIN_TIMEOUT_S = 180.0

#: A frame that is sent when all is well again is stored within this time [s].
_PROBE_TIMEOUT_S = 20.0

#: At most so many troubles are told of one round [count].
_TROUBLES_MAX_COUNT = 20


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What one round is.

    Parameters
    ----------
    seed
        Of blows, frames and faults.
    kills
        SIGKILLs after which it ends ...
    limit_s
        ... or this time [s], whichever comes first.
    mean_gap_s
        Between two blows on average [s].
    n_nodes, frames_per_s, n_uploaders
        Load and size of the daemon.
    """

    seed: int
    kills: int
    limit_s: float
    mean_gap_s: float = 0.35
    n_nodes: int = 5
    frames_per_s: float = 25.0
    n_uploaders: int = 2


@dataclass(slots=True)
class _Course:
    """How the drain went."""

    totals: dict[str, Any] = field(default_factory=dict)
    drain_s: float = 0.0
    probe_stored: bool = False
    troubles: list[str] = field(default_factory=list)


def run_round(
    wanted: RoundPlan,
    minio_binary: str,
    directory: str,
    on_progress: Callable[[int], None] = lambda _kills: None,
) -> Round:
    """Run one round.

    Parameters
    ----------
    wanted
        The plan.
    minio_binary
        Path of the server.
    directory
        Empty, for everything.
    on_progress
        Told how many kills there were so far.
    """
    began_s = time.monotonic()
    ledger = os.path.join(directory, "ledger.jsonl")
    minio_directory = os.path.join(directory, "minio")
    os.makedirs(minio_directory)
    with MinioServer(minio_directory, minio_binary) as minio:
        with FaultProxy(minio.port, wanted.seed, storms=True) as proxy:
            daemon = DaemonProcess(
                os.path.join(directory, "daemon"),
                {
                    "spool": {"min_free_bytes": 0},
                    "uploader": {"count": wanted.n_uploaders},
                    "log": {"format": "json"},
                },
                minio.environment() | {"MINIO_URL": proxy.url},
            )
            with daemon, Prober(daemon.query_endpoint) as prober, Victims(daemon, minio) as victims:
                sender = _torment(wanted, daemon, victims, proxy, ledger=ledger, on_progress=on_progress)
                course = _drain(wanted, daemon)
        issued = read_ledger(ledger)
        findings = _count(minio, issued)
    latencies_ms = sorted(prober.latencies_ms)
    return Round(
        seed=wanted.seed,
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        version=ingestd.__version__,
        elapsed_s=round(time.monotonic() - began_s, 1),
        kills=victims.kills,
        blows=dict(victims.counts),
        faults=proxy.counts,
        issued=len(issued),
        accepted=sender.confirmed,
        resent=sender.resent,
        stored=findings.n_stored,
        lost=len(findings.lost),
        torn=len(findings.torn),
        lonely_metadata=len(findings.lonely),
        conflicting=len(findings.conflicting),
        unknown_objects=len(findings.unknown),
        failed_entries=int(course.totals.get("failed", -1)),
        books_balanced=_balanced(course.totals, findings.n_stored),
        probe_stored=course.probe_stored,
        drain_s=round(course.drain_s, 1),
        rep_longest_gap_s=round(prober.longest_gap_s, 2),
        rep_p50_ms=round(quantile(latencies_ms, 0.5), 2),
        rep_p99_ms=round(quantile(latencies_ms, 0.99), 2),
        troubles=(course.troubles + _named(findings) + list(sender.errors))[:_TROUBLES_MAX_COUNT],
    )


def _torment(
    wanted: RoundPlan,
    daemon: DaemonProcess,
    victims: Victims,
    proxy: FaultProxy,
    *,
    ledger: str,
    on_progress: Callable[[int], None],
) -> SenderReport:
    """Send and hit; at the end nothing is broken any more, and the nodes wait until all is confirmed."""
    with Sender(
        daemon.ingest_endpoint,
        daemon.query_endpoint,
        ledger,
        seed=wanted.seed,
        n_nodes=wanted.n_nodes,
        frames_per_s=wanted.frames_per_s,
    ) as sender:
        _hit(wanted, victims, on_progress)
        proxy.calm()
        victims.resume(float("inf"))
        return sender.finish()


def _drain(wanted: RoundPlan, daemon: DaemonProcess) -> _Course:
    """Wait until nothing waits any more, then see whether a fresh frame is stored."""
    course = _Course()
    began_s = time.monotonic()
    try:
        course.totals = daemon.wait_settled(_DRAIN_TIMEOUT_S)
        course.probe_stored = _probe(wanted, daemon)
    except (TimeoutError, IngestdError) as error:
        course.troubles = [f"{type(error).__name__}: {error}", daemon.log_tail(2000)]
    course.drain_s = time.monotonic() - began_s
    return course


def _hit(wanted: RoundPlan, victims: Victims, on_progress: Callable[[int], None]) -> None:
    deadline_s = time.monotonic() + wanted.limit_s
    for blow in itertools.takewhile(
        lambda _blow: victims.kills < wanted.kills and time.monotonic() < deadline_s,
        plan(wanted.seed, wanted.n_uploaders, wanted.mean_gap_s),
    ):
        due_s = time.monotonic() + blow.after_s
        while time.monotonic() < due_s:
            time.sleep(min(0.02, max(0.0, due_s - time.monotonic())))
            victims.resume(time.monotonic())
        victims.hit(blow)
        on_progress(victims.kills)


def _probe(wanted: RoundPlan, daemon: DaemonProcess) -> bool:
    """Whether a fresh frame, sent after everything, is stored at once."""
    task_id = f"fresh-{wanted.seed}"
    daemon.push(noise(task_id))
    with daemon.client() as client, contextlib.suppress(TimeoutError):
        return wait_until(lambda: _is_stored(client, task_id), _PROBE_TIMEOUT_S)
    return False


def _is_stored(client: Client, task_id: str) -> bool:
    try:
        return bool(client.session(task_id)["successful"] == 1)
    except NotFound:
        return False


def _count(minio: MinioServer, issued: list[Issued]) -> Findings:
    """Read the bucket past the proxy; the probe is nobody's loss."""
    with contextlib.closing(
        MinioStore(minio.url, minio.access_key, minio.secret_key, "heimdall-raw-iq")
    ) as store:
        store.probe()
        findings = compare(issued, store)
    findings.unknown = [key for key in findings.unknown if not key.startswith("sessions/fresh-")]
    return findings


def _balanced(totals: dict[str, Any], n_stored: int) -> bool:
    """Whether the daemon's own books agree with what the oracle counted."""
    return totals.get("stored") == n_stored and totals.get("lost") == 0 and totals.get("pending") == 0


def _named(findings: Findings) -> list[str]:
    return [
        f"{what}: {name}"
        for what in ("lost", "torn", "lonely", "conflicting", "unknown")
        for name in getattr(findings, what)
    ]
