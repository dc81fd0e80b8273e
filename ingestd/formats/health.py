"""The verdict on a snapshot, and the answer of `health`. Pure.

healthy; degraded = works, look at it; unhealthy = accepts nothing. The verdict is the worst severity among the
reasons that the rules of `symptoms` find, and "accepts nothing" is never without a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ingestd.formats import symptoms
from ingestd.formats.snapshot import Counts, RoleState, Snapshot, earlier
from ingestd.formats.timestamps import format_utc
from ingestd.formats.verdict import Case, HealthSettings, Severity, Verdict

__all__ = ["RATE_WINDOW_S", "HealthSettings", "Severity", "Verdict", "document", "growth", "judge"]

#: Rates are over this long [s]: short enough to follow, long enough to stand still.
RATE_WINDOW_S = 10.0

#: A rate over less than this says nothing [s].
_MIN_WINDOW_S = 0.5


def judge(history: Sequence[Counts], now: Snapshot, settings: HealthSettings) -> Verdict:
    """Make the verdict.

    Parameters
    ----------
    history
        Counts of the last `symptoms.RECENT_S`, oldest first, about one a second.
    now
        The present.
    settings
        Names and expectations.
    """
    case = Case(history, now, settings)
    reasons = [reason for rule in symptoms.RULES for reason in rule(case)]
    accepting = symptoms.is_accepting(case)
    if not accepting and all(reason.severity is not Severity.UNHEALTHY for reason in reasons):
        reasons.append(symptoms.receiver_down(case))
    found = {reason.severity for reason in reasons}
    status = next((s for s in (Severity.UNHEALTHY, Severity.DEGRADED) if s in found), Severity.HEALTHY)
    alive = not any(symptoms.is_down(case, role) for role in now.roles)
    return Verdict(status, accepting, alive, tuple(reasons))


def document(history: Sequence[Counts], now: Snapshot, settings: HealthSettings) -> dict[str, Any]:
    """Make the answer of `health`; parameters as of `judge`."""
    verdict = judge(history, now, settings)
    case = Case(history, now, settings)
    accessible = symptoms.accessible(now.stores)
    error = symptoms.worst(now.stores).last_error or "the store was not reached yet"
    return {
        "status": str(verdict.status),
        "endpoint": settings.endpoint,
        "bucket": settings.bucket,
        "accessible": accessible,
        "error": None if accessible else error,
        "reasons": [reason.document() for reason in verdict.reasons],
        "spool": {
            "entries": now.spool.entries,
            "bytes": now.spool.bytes,
            "oldest_age_s": _age_s(case, now.spool.oldest_utc_ns) or 0.0,
            "free_bytes": now.spool.free_bytes,
            "time_left_s": symptoms.time_left_s(case),
            "accepting": verdict.accepting,
        },
        "ingest": {
            "last_frame_age_s": _age_s(case, now.last_frame_utc_ns),
            "frames_per_s": growth(history, now.counts, lambda counts: counts.received),
        },
        "store": _store_document(case),
        "roles": [_role_document(role) for role in now.roles],
        "version": settings.version,
        "uptime_s": round(now.uptime_s, 3),
    }


def growth(history: Sequence[Counts], now: Counts, read: Callable[[Counts], int]) -> float | None:
    """Growth of a counter over the last `RATE_WINDOW_S` [1/s]; None where too little is known."""
    first = earlier(history, now, RATE_WINDOW_S)
    elapsed_s = (now.monotonic_ns - first.monotonic_ns) / 1e9
    return round((read(now) - read(first)) / elapsed_s, 3) if elapsed_s >= _MIN_WINDOW_S else None


def _role_document(role: RoleState) -> dict[str, Any]:
    state = "stalled" if symptoms.stalled_s(role) > symptoms.STALLED_S else role.state
    return {"name": role.name, "pid": role.pid, "state": state, "restarts": role.restarts}


def _store_document(case: Case) -> dict[str, Any]:
    stores = case.now.stores
    profile = next((store.profile for store in stores if store.profile), {})
    failing_ns = min(
        (store.failing_since_utc_ns for store in stores if store.failing_since_utc_ns), default=0
    )
    retry_ns = min((store.next_retry_utc_ns for store in stores if store.next_retry_utc_ns), default=0)
    conflict_check = profile.get("conflict_check")
    return {
        "kind": profile.get("kind", case.settings.store_kind),
        "checksum": profile.get("checksum"),
        "conflict_check": conflict_check,
        # Where the store has no conditional PUT, the lock of an identity is a file of this machine.
        "single_daemon_only": None if conflict_check is None else conflict_check == "head-first",
        "failing_since_utc": format_utc(failing_ns) if failing_ns else None,
        "consecutive_failures": max((store.failures for store in stores), default=0),
        "last_error": symptoms.worst(stores).last_error or None,
        "next_retry_s": max(0.0, round((retry_ns - case.utc_ns) / 1e9, 3)) if retry_ns else None,
    }


def _age_s(case: Case, then_utc_ns: int) -> float | None:
    """Age of an event on the wall clock [s], None for never; a clock that was set back makes it 0, not negative."""
    return max(0.0, round((case.utc_ns - then_utc_ns) / 1e9, 3)) if then_utc_ns else None
