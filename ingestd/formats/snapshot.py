"""What the daemon looked like at one moment: plain numbers and names, no shared memory behind them. Pure.

`ingestd.roles.snapshot` fills these in; `health`, `stats` and the metrics are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = [
    "Counts",
    "Latency",
    "NodeState",
    "RoleState",
    "Snapshot",
    "SpoolState",
    "StoreState",
    "Trouble",
    "earlier",
]


class Trouble(IntEnum):
    """Kind of a store's failure, as uploaders write it to the status block; ordered by who must act."""

    NONE = 0
    UNREACHABLE = 1
    BUSY = 2
    DENIED = 3
    MISCONFIGURED = 4
    CORRUPT = 5


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters since the daemon's start; kept once a second, for rates and for "in the last minutes".

    `monotonic_ns` orders and measures; `utc_ns` names the moment to people.
    """

    utc_ns: int
    monotonic_ns: int
    received: int = 0
    received_bytes: int = 0
    accepted: int = 0
    accepted_bytes: int = 0
    rejected: int = 0
    stored: int = 0
    stored_bytes: int = 0
    duplicates: int = 0
    conflicts: int = 0
    failed: int = 0
    upload_errors: int = 0
    refused: int = 0
    seq_gaps: int = 0
    seq_reused: int = 0
    timestamp_implausible: int = 0
    fsync_slow: int = 0
    catalog_skipped: int = 0
    log_suppressed: int = 0
    queries: int = 0
    query_errors: int = 0
    spool_bytes: int = 0
    spool_failed: int = 0
    restarts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleState:
    """One role; `state` is a word of `lifecycle.RoleState`, `phase` one of `status.Phase`, both in lower case."""

    name: str
    pid: int
    state: str
    state_age_s: float
    restarts: int
    phase: str
    phase_age_s: float
    progress_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreState:
    """The object store as one uploader sees it; `profile` is what its probe found, empty before."""

    ok: bool = False
    trouble: Trouble = Trouble.NONE
    failing_since_utc_ns: int = 0
    failures: int = 0
    next_retry_utc_ns: int = 0
    refused_utc_ns: int = 0
    last_error: str = ""
    profile: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeState:
    """Counters of one registered node, or of "other"."""

    name: str
    received: int = 0
    accepted: int = 0
    rejected: int = 0
    gaps: int = 0
    samples_lost: int = 0
    last_frame_utc_ns: int = 0


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The spool as the receiver last counted it; `refusing` says why nothing is accepted, "" where it is."""

    entries: int = 0
    bytes: int = 0
    failed: int = 0
    foreign: int = 0
    oldest_utc_ns: int = 0
    free_bytes: int = 0
    credit_bytes: int = 0
    accepting: bool = False
    refusing: str = ""
    refusing_since_utc_ns: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Histogram of durations: observations per bucket (the last one is open), and their sum [s]."""

    counts: tuple[int, ...]
    sum_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the status block says, at one moment."""

    counts: Counts
    uptime_s: float
    roles: tuple[RoleState, ...]
    stores: tuple[StoreState, ...]
    nodes: tuple[NodeState, ...]
    spool: SpoolState
    rejected: dict[str, int]
    upload: Latency
    accepted_to_stored: Latency
    last_frame_utc_ns: int = 0
    last_accepted_utc_ns: int = 0
    timestamp_implausible_utc_ns: int = 0
    commit: Latency = Latency((), 0.0)
    #: Connections without a session: socket, reason, how many; only those that occurred.
    peers_refused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def earlier(history: Sequence[Counts], now: Counts, age_s: float) -> Counts:
    """Find the oldest of the kept counts that is not older than `age_s`; `now` where there is none."""
    horizon_ns = now.monotonic_ns - int(age_s * 1e9)
    return next((counts for counts in history if counts.monotonic_ns >= horizon_ns), now)
