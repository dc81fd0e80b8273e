"""/metrics: the status block in the text format of Prometheus. Labels are our own words, never a client's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ingestd import __version__
from ingestd.formats.frame import REASONS
from ingestd.formats.peers import PeerReason
from ingestd.formats.snapshot import Latency, Snapshot
from ingestd.formats.symptoms import accessible
from ingestd.formats.verdict import ReasonCode, Severity, Verdict
from ingestd.roles.monitor import Monitor
from ingestd.roles.status import HISTOGRAM_BOUNDS_S

__all__ = ["CONTENT_TYPE", "StatusCollector", "exposition"]

#: The text format that every Prometheus reads (exposition format 0.0.4).
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Counters without labels: field of `Counts`, name without `_total`, meaning.
_COUNTERS = (
    ("accepted", "ingestd_frames_accepted", "Frames that are on disk."),
    ("stored", "ingestd_frames_stored", "Frames whose objects are in the store and verified."),
    ("duplicates", "ingestd_frames_duplicate", "Frames whose measurement was stored already."),
    ("conflicts", "ingestd_frames_conflict", "Frames whose identity held other content."),
    ("failed", "ingestd_frames_failed", "Accepted frames that went to spool/failed."),
    ("received_bytes", "ingestd_received_bytes", "Received frames [bytes]."),
    ("accepted_bytes", "ingestd_accepted_bytes", "Accepted frames [bytes]."),
    ("stored_bytes", "ingestd_stored_bytes", "Stored .npy objects [bytes]."),
    ("seq_reused", "ingestd_sequence_reused", "Numbers that were used again for another frame."),
    (
        "timestamp_implausible",
        "ingestd_timestamps_implausible",
        "Accepted frames with a stamp in the future.",
    ),
    ("fsync_slow", "ingestd_commits_slow", "Group commits that took longer than a second."),
    ("catalog_skipped", "ingestd_catalog_skipped", "Catalog writes that were left to be put right later."),
    ("log_suppressed", "ingestd_log_lines_suppressed", "Log lines held back."),
    ("queries", "ingestd_queries", "Requests on the query socket."),
    ("query_errors", "ingestd_query_errors", "Requests that got an error, or nothing."),
)

#: Label `result` of `ingestd_uploads_total`, by field of `Counts`. A refused object is an error as well.
_RESULTS = {
    "stored": "stored",
    "duplicate": "duplicates",
    "failed": "failed",
    "error": "upload_errors",
}


def exposition(monitor: Monitor) -> bytes:
    """Write all metrics as they are now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(monitor))
    return generate_latest(registry)


class StatusCollector(Collector):
    """Makes every metric from one snapshot.

    Parameters
    ----------
    monitor
        What is looked at.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def describe(self) -> list[Metric]:
        """Nothing: `collect` of a registry that is made for one exposition is description enough."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        now, verdict = self._monitor.snapshot(), self._monitor.verdict()
        yield from _counters(now)
        yield from _latencies(now)
        yield from _spool(now)
        yield from _nodes(now)
        yield from _roles(now)
        yield from _verdict(now, verdict)
        yield from _scrub(self._monitor.scrub)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counters(now: Snapshot) -> Iterator[Metric]:
    for field, name, text in _COUNTERS:
        yield CounterMetricFamily(name, text, value=getattr(now.counts, field))
    rejected = {reason: now.rejected.get(reason, 0) for reason in REASONS}
    yield _labelled("ingestd_frames_rejected", "Frames refused before acceptance.", "reason", rejected)
    refused = CounterMetricFamily(
        "ingestd_peers_refused", "Connections that got no session.", labels=["socket", "reason"]
    )
    for socket, counts in now.peers_refused.items():
        for reason in PeerReason:
            refused.add_metric([socket, str(reason)], counts.get(reason, 0))
    yield refused
    results = {result: getattr(now.counts, field) for result, field in _RESULTS.items()}
    yield _labelled("ingestd_uploads", "Uploads by how they ended.", "result", results)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _latencies(now: Snapshot) -> Iterator[Metric]:
    yield _histogram("ingestd_upload_duration_seconds", "From claim to stored [s].", now.upload)
    text = "From acceptance to stored [s]."
    yield _histogram("ingestd_accepted_to_stored_seconds", text, now.accepted_to_stored)
    yield _histogram(
        "ingestd_commit_duration_seconds", "From written to durable, for a group [s].", now.commit
    )


def _histogram(name: str, text: str, latency: Latency) -> Metric:
    bounds = [*(f"{bound_s:.6g}" for bound_s in HISTOGRAM_BOUNDS_S), "+Inf"]
    buckets: list[tuple[str, float]] = []
    total = 0
    # No uploader, no counts: a histogram of zeros.
    for bound, count in zip(bounds, latency.counts or (0,) * len(bounds), strict=True):
        total += count
        buckets.append((bound, total))
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets, latency.sum_s)
    return family


def _spool(now: Snapshot) -> Iterator[Metric]:
    spool = now.spool
    oldest_s = max(0.0, (now.counts.utc_ns - spool.oldest_utc_ns) / 1e9) if spool.oldest_utc_ns else 0.0
    yield _gauge("ingestd_spool_bytes", "Accepted frames that wait [bytes].", spool.bytes)
    yield _gauge("ingestd_spool_entries", "Accepted frames that wait.", spool.entries)
    yield _gauge("ingestd_spool_oldest_seconds", "Age of the oldest waiting frame [s].", oldest_s)
    yield _gauge("ingestd_spool_free_bytes", "Free space of the file system [bytes].", spool.free_bytes)
    yield _gauge("ingestd_spool_credit_bytes", "What the spool still takes [bytes].", spool.credit_bytes)
    yield _gauge("ingestd_spool_failed_entries", "Entries in spool/failed.", spool.failed)


def _nodes(now: Snapshot) -> Iterator[Metric]:
    received = {node.name: node.received for node in now.nodes}
    yield _labelled("ingestd_frames_received", "Frames that arrived, by registered node.", "node", received)
    for word, text in (("accepted", "Accepted frames"), ("rejected", "Refused frames")):
        values = {node.name: getattr(node, word) for node in now.nodes}
        yield _labelled(f"ingestd_node_frames_{word}", f"{text}, by registered node.", "node", values)
    # A gauge: a gap closes when the node sends the frame again.
    gaps = GaugeMetricFamily(
        "ingestd_sequence_gaps", "Numbers missing between the frames of a node.", labels=["node"]
    )
    for node in now.nodes:
        gaps.add_metric([node.name], node.gaps)
    yield gaps
    lost = {node.name: node.samples_lost for node in now.nodes}
    yield _labelled("ingestd_node_samples_lost", "Samples missing between frames, by node.", "node", lost)
    last = GaugeMetricFamily(
        "ingestd_last_frame_timestamp_seconds", "When the latest frame came [s since 1970].", labels=["node"]
    )
    for node in now.nodes:
        last.add_metric([node.name], node.last_frame_utc_ns / 1e9)
    yield last


def _roles(now: Snapshot) -> Iterator[Metric]:
    restarts = {role.name: role.restarts for role in now.roles}
    yield _labelled("ingestd_role_restarts", "Restarts of a role.", "role", restarts)
    up = GaugeMetricFamily("ingestd_role_up", "Whether a role runs.", labels=["role"])
    for role in now.roles:
        up.add_metric([role.name], role.state == "running")
    yield up
    age = GaugeMetricFamily(
        "ingestd_role_progress_age_seconds", "Since a role last showed progress [s].", labels=["role"]
    )
    for role in now.roles:
        age.add_metric([role.name], role.progress_age_s)
    yield age


def _scrub(progress: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Nothing where the scrub is off: zeros would say that all is well."""
    if progress is None:
        return
    yield _gauge("ingestd_scrub_checked_pairs", "Pairs checked in the pass under way.", progress["checked"])
    yield _gauge("ingestd_scrub_pairs", "Pairs that the pass under way is to check.", progress["of"])
    wrong = GaugeMetricFamily(
        "ingestd_scrub_wrong_objects", "Objects found wrong in the pass under way.", labels=["damage"]
    )
    for damage in ("missing", "differing", "unreadable"):
        wrong.add_metric([damage], progress[damage])
    yield wrong


def _verdict(now: Snapshot, verdict: Verdict) -> Iterator[Metric]:
    yield _gauge("ingestd_accepting", "Whether frames are accepted.", verdict.accepting)
    yield _gauge("ingestd_store_accessible", "Whether the object store works.", accessible(now.stores))
    status = GaugeMetricFamily("ingestd_health", "Verdict of `health`; one of them is 1.", labels=["status"])
    for severity in Severity:
        status.add_metric([str(severity)], verdict.status is severity)
    yield status
    reasons = {reason.code for reason in verdict.reasons}
    active = GaugeMetricFamily("ingestd_health_reason", "What is wrong, by its code.", labels=["code"])
    for code in ReasonCode:
        active.add_metric([str(code)], code in reasons)
    yield active
    yield _gauge("ingestd_uptime_seconds", "Since the daemon's start [s].", now.uptime_s)
    info = GaugeMetricFamily("ingestd_build_info", "Version of the daemon.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info
