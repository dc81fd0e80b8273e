"""Words of the verdict: severities, reason codes, reasons, and the case that rules look at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ingestd.formats.snapshot import Counts, Snapshot, earlier
from ingestd.formats.timestamps import format_utc

__all__ = ["Case", "HealthSettings", "Reason", "ReasonCode", "Severity", "Verdict"]


class Severity(StrEnum):
    """Status of the whole, and what a single reason makes of it."""

    HEALTHY = "healthy"
    #: Works; look at it.
    DEGRADED = "degraded"
    #: Accepts nothing.
    UNHEALTHY = "unhealthy"


class ReasonCode(StrEnum):
    """What can be wrong; the closed list."""

    STORE_UNREACHABLE = "store_unreachable"
    STORE_AUTH = "store_auth"
    STORE_REJECTS = "store_rejects"
    SPOOL_FULL = "spool_full"
    DISK_LOW = "disk_low"
    FSYNC_SLOW = "fsync_slow"
    ROLE_CRASH_LOOP = "role_crash_loop"
    NODE_SILENT = "node_silent"
    SEQ_GAPS = "seq_gaps"
    TIMESTAMP_IMPLAUSIBLE = "timestamp_implausible"
    REJECTED_RATE = "rejected_rate"
    FAILED_ENTRIES = "failed_entries"


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """What the verdict needs of the settings.

    Parameters
    ----------
    endpoint, bucket, store_kind
        Of the object store, for people; never with credentials.
    expected_nodes
        (name, expect_every_s) of the nodes whose silence matters.
    version
        Of ingestd.
    """

    endpoint: str
    bucket: str
    store_kind: str
    expected_nodes: tuple[tuple[str, float], ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, since when, and what to do about it."""

    code: ReasonCode
    since_utc_ns: int
    severity: Severity
    text: str
    action: str

    def document(self) -> dict[str, Any]:
        """As in the reply."""
        return {
            "code": str(self.code),
            "since_utc": format_utc(self.since_utc_ns),
            "severity": str(self.severity),
            "text": self.text,
            "action": self.action,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Status, whether frames are accepted now, whether the roles live, and what is wrong."""

    status: Severity
    accepting: bool
    alive: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule looks at: the present, the counts of the last minutes (oldest first), and the settings."""

    history: Sequence[Counts]
    now: Snapshot
    settings: HealthSettings

    @property
    def utc_ns(self) -> int:
        """The present [ns since 1970]."""
        return self.now.counts.utc_ns

    def ago_utc_ns(self, age_s: float) -> int:
        """Name the moment `age_s` before the present [ns since 1970]."""
        return self.utc_ns - int(age_s * 1e9)

    def rise(self, read: Callable[[Counts], int], window_s: float) -> tuple[int, int]:
        """How much a counter rose within the window, and when it was first seen higher [ns since 1970].

        Counters are zero at the daemon's start, so a younger daemon needs no history for it.
        """
        young = self.now.uptime_s <= window_s
        base = 0 if young else read(earlier(self.history, self.now.counts, window_s))
        since = next((counts for counts in self.history if read(counts) > base), self.now.counts)
        return read(self.now.counts) - base, since.utc_ns
