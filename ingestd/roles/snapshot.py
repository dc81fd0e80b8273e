"""What the status block says at this moment, as the plain records of `ingestd.formats.snapshot`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ingestd.formats.snapshot import (
    Counts,
    Latency,
    NodeState,
    RoleState,
    Snapshot,
    SpoolState,
    StoreState,
    Trouble,
)
from ingestd.roles import lifecycle
from ingestd.roles.status import Histogram, NodeSlot, Phase, Row, Slot, StatusBlock, Text

__all__ = ["take_snapshot"]

#: Counters that are summed over all roles, by their field of `Counts`.
_SUMS = {
    "received": Slot.RECEIVED,
    "received_bytes": Slot.RECEIVED_BYTES,
    "accepted": Slot.ACCEPTED,
    "accepted_bytes": Slot.ACCEPTED_BYTES,
    "rejected": Slot.REJECTED,
    "stored": Slot.STORED,
    "stored_bytes": Slot.STORED_BYTES,
    "duplicates": Slot.DUPLICATES,
    "conflicts": Slot.CONFLICTS,
    "failed": Slot.FAILED,
    "upload_errors": Slot.UPLOAD_ERRORS,
    "refused": Slot.STORE_REFUSED,
    "seq_gaps": Slot.SEQ_GAPS,
    "seq_reused": Slot.SEQ_REUSED,
    "timestamp_implausible": Slot.TIMESTAMP_IMPLAUSIBLE,
    "fsync_slow": Slot.FSYNC_SLOW,
    "catalog_skipped": Slot.CATALOG_SKIPPED,
    "log_suppressed": Slot.LOG_SUPPRESSED,
    "queries": Slot.QUERIES,
    "query_errors": Slot.QUERY_ERRORS,
    "spool_bytes": Slot.SPOOL_BYTES,
    "spool_failed": Slot.SPOOL_FAILED,
}


#: Role that listens on each socket.
_SOCKETS = {"ingest": "receiver", "query": "responder"}


def take_snapshot(status: StatusBlock, *, utc_ns: int, monotonic_ns: int, started_ns: int) -> Snapshot:
    """Read the whole status block.

    Parameters
    ----------
    status
        The block; its writers go on meanwhile, so words of different rows may be microseconds apart.
    utc_ns, monotonic_ns
        The present on both clocks [ns].
    started_ns
        CLOCK_MONOTONIC when the daemon started [ns].
    """
    receiver = status.roles["receiver"]
    return Snapshot(
        counts=_counts(status, utc_ns, monotonic_ns),
        uptime_s=max(0.0, (monotonic_ns - started_ns) / 1e9),
        roles=tuple(_role(status, name, monotonic_ns) for name in status.layout.roles),
        stores=tuple(_store(row) for row in status.uploaders()),
        nodes=tuple(_node(status, name) for name in status.node_names),
        spool=_spool(receiver),
        rejected=receiver.rejected(),
        upload=_latency(status.uploaders(), Histogram.UPLOAD_S),
        accepted_to_stored=_latency(status.uploaders(), Histogram.ACCEPTED_TO_STORED_S),
        last_frame_utc_ns=receiver.get(Slot.LAST_FRAME_UTC_NS),
        last_accepted_utc_ns=receiver.get(Slot.LAST_ACCEPTED_UTC_NS),
        timestamp_implausible_utc_ns=receiver.get(Slot.TIMESTAMP_IMPLAUSIBLE_UTC_NS),
        commit=_latency([receiver], Histogram.COMMIT_S),
        peers_refused={
            socket: status.roles[role].peers_refused()
            for socket, role in _SOCKETS.items()
            if role in status.roles
        },
    )


def _counts(status: StatusBlock, utc_ns: int, monotonic_ns: int) -> Counts:
    sums = {name: status.total(slot) for name, slot in _SUMS.items()}
    restarts = tuple(row.get(Slot.WATCH_RESTARTS) for row in status.watch.values())
    return Counts(utc_ns=utc_ns, monotonic_ns=monotonic_ns, restarts=restarts, **sums)


def _role(status: StatusBlock, name: str, monotonic_ns: int) -> RoleState:
    row, watch = status.roles[name], status.watch[name]
    return RoleState(
        name=name,
        pid=watch.get(Slot.WATCH_PID),
        state=lifecycle.RoleState(watch.get(Slot.WATCH_STATE)).name.lower(),
        state_age_s=_age_s(watch.get(Slot.WATCH_SINCE_NS), monotonic_ns),
        restarts=watch.get(Slot.WATCH_RESTARTS),
        phase=Phase(row.get(Slot.PHASE)).name.lower(),
        phase_age_s=_age_s(row.get(Slot.PHASE_SINCE_NS), monotonic_ns),
        progress_age_s=_age_s(row.get(Slot.PROGRESS_NS), monotonic_ns),
    )


def _age_s(since_ns: int, monotonic_ns: int) -> float:
    return max(0.0, (monotonic_ns - since_ns) / 1e9) if since_ns else 0.0


def _store(row: Row) -> StoreState:
    profile = _profile(row.get_text(Text.PROFILE))
    refused_ns = row.get(Slot.STORE_REFUSED_UTC_NS)
    # The words of a failure outlive an uploader that died of something else meanwhile: STORE_OK is the newest one.
    if row.get(Slot.STORE_OK) or not row.get(Slot.STORE_FAILING_SINCE_UTC_NS):
        return StoreState(ok=bool(row.get(Slot.STORE_OK)), refused_utc_ns=refused_ns, profile=profile)
    return StoreState(
        ok=False,
        trouble=_trouble(row.get(Slot.STORE_TROUBLE)),
        failing_since_utc_ns=row.get(Slot.STORE_FAILING_SINCE_UTC_NS),
        failures=row.get(Slot.STORE_FAILURES),
        next_retry_utc_ns=row.get(Slot.STORE_NEXT_RETRY_UTC_NS),
        refused_utc_ns=refused_ns,
        last_error=row.get_text(Text.LAST_ERROR),
        profile=profile,
    )


def _trouble(code: int) -> Trouble:
    # 0 beside "failing" is a success that is being written down: the next look says which.
    return Trouble(code) if code in (2, 3, 4, 5) else Trouble.UNREACHABLE


def _profile(text: str) -> dict[str, str]:
    try:
        profile = json.loads(text) if text else {}
    except ValueError:
        return {}
    return profile if isinstance(profile, dict) else {}


def _node(status: StatusBlock, name: str) -> NodeState:
    return NodeState(
        name=name,
        received=status.get_node(name, NodeSlot.RECEIVED),
        accepted=status.get_node(name, NodeSlot.ACCEPTED),
        rejected=status.get_node(name, NodeSlot.REJECTED),
        gaps=status.get_node(name, NodeSlot.GAPS),
        samples_lost=status.get_node(name, NodeSlot.SAMPLES_LOST),
        last_frame_utc_ns=status.get_node(name, NodeSlot.LAST_FRAME_UTC_NS),
    )


def _spool(receiver: Row) -> SpoolState:
    return SpoolState(
        entries=receiver.get(Slot.SPOOL_ENTRIES),
        bytes=receiver.get(Slot.SPOOL_BYTES),
        failed=receiver.get(Slot.SPOOL_FAILED),
        foreign=receiver.get(Slot.SPOOL_FOREIGN),
        oldest_utc_ns=receiver.get(Slot.SPOOL_OLDEST_UTC_NS),
        free_bytes=receiver.get(Slot.SPOOL_FREE_BYTES),
        credit_bytes=receiver.get(Slot.SPOOL_CREDIT_BYTES),
        accepting=bool(receiver.get(Slot.ACCEPTING)),
        refusing=receiver.get_text(Text.REFUSING),
        refusing_since_utc_ns=receiver.get(Slot.REFUSING_SINCE_UTC_NS),
    )


def _latency(rows: Sequence[Row], histogram: Histogram) -> Latency:
    found = [row.histogram(histogram) for row in rows]
    counts = tuple(sum(column) for column in zip(*(counts for counts, _ in found), strict=True))
    return Latency(counts, sum(sum_s for _, sum_s in found))
