"""What can be wrong with a daemon: one rule for each symptom, from the case to the reasons it gives. Pure.

A reason names its code, since when, how bad it is, what it means, and what to do. Rules keep no state: a restarted
responder finds the same reasons again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ingestd.formats.snapshot import Counts, RoleState, StoreState, Trouble, earlier
from ingestd.formats.verdict import Case, Reason, ReasonCode, Severity

__all__ = [
    "RECENT_S",
    "RULES",
    "STALLED_S",
    "accessible",
    "is_accepting",
    "is_down",
    "receiver_down",
    "stalled_s",
    "time_left_s",
    "worst",
]

#: Events (gaps, slow syncs, rejections) are named in health for this long [s]: longer than the pause between two
#: looks of a monitoring system, short enough that what is over goes away by itself.
RECENT_S = 300.0

#: Growth of the spool is measured over this long [s]: bursts and group commits are shorter.
_GROWTH_WINDOW_S = 60.0

#: Growth over less than this is a burst, not a trend [s].
_MIN_GROWTH_WINDOW_S = 5.0

#: A spool that will be full within this time at a steady rate is worth a word [s].
_FULL_SOON_S = 3600.0

#: An uploader tries a refused object again at least every 300 s, so that it shows without a break [s].
_REFUSED_S = 600.0

#: A sync that takes longer is worth a word [s]; a healthy disk needs 0.1 s ...
STALLED_S = 1.0

#: ... and one that takes this long counts as not accepting [s].
_NOT_ACCEPTING_STALL_S = 10.0

#: A restart takes less than this [s] (receiver: 0.5 s), and is no news ...
_RESTART_S = 2.0

#: ... but a role that is not up for this long has a problem [s].
_DOWN_S = 5.0

#: This many restarts within this time [s] are a crash loop: the first two may be somebody's kill.
_CRASH_LOOP_COUNT = 3
_CRASH_LOOP_WINDOW_S = 60.0

#: Nodes may take this long after the daemon's start to show up [s].
_NODE_GRACE_S = 60.0

#: Share of rejected frames within a time [s] that is worth a word, and their least number: single strays are normal.
_REJECTED_SHARE = 0.01
_REJECTED_COUNT = 10
_REJECTED_WINDOW_S = 60.0

#: Phases in which the receiver waits for nothing but the disk; the catalog is on the same one.
_DISK_PHASES = frozenset({"writing", "fsync", "catalog"})

_LOOK_AT_DISK = "see what else writes to the disk of the spool, and the kernel's log"


def time_left_s(case: Case) -> float | None:
    """How long the spool lasts at the rate at which it has grown lately [s]; None while it does not grow."""
    spool, now = case.now.spool, case.now.counts
    if spool.refusing and not spool.accepting:
        return 0.0
    elapsed_s, first = _watched(case)
    grown_bytes = now.spool_bytes - first.spool_bytes
    if elapsed_s < _MIN_GROWTH_WINDOW_S or grown_bytes <= 0:
        return None
    return round(spool.credit_bytes * elapsed_s / grown_bytes, 1)


def _watched(case: Case) -> tuple[float, Counts]:
    """How long the growth of the spool has been watched [s], at most its window, and the counts at the beginning."""
    first = earlier(case.history, case.now.counts, _GROWTH_WINDOW_S)
    return (case.now.counts.monotonic_ns - first.monotonic_ns) / 1e9, first


def accessible(stores: Sequence[StoreState]) -> bool:
    """Whether the store works: some uploader's newest word says so, and no uploader's says the opposite.

    One that fails tries again by itself within seconds, busy or not, so a view never stays worse than the store is.
    """
    return any(store.ok for store in stores) and all(store.trouble is Trouble.NONE for store in stores)


#: What to show where uploaders disagree: what the operator must mend comes before what passes by itself.
_BY_URGENCY = (
    Trouble.DENIED,
    Trouble.MISCONFIGURED,
    Trouble.CORRUPT,
    Trouble.UNREACHABLE,
    Trouble.BUSY,
    Trouble.NONE,
)


def worst(stores: Sequence[StoreState]) -> StoreState:
    """Pick the view that says most about what is wrong with the store."""
    return min(stores, key=lambda store: _BY_URGENCY.index(store.trouble), default=StoreState())


def stalled_s(role: RoleState) -> float:
    """How long the receiver has been waiting for the disk [s]; 0 where it has not."""
    is_waiting = role.name == "receiver" and role.state == "running" and role.phase in _DISK_PHASES
    return role.phase_age_s if is_waiting else 0.0


def is_down(case: Case, role: RoleState) -> bool:
    """Whether a role does not run, restarts apart."""
    if role.state == "running":
        return False
    if role.state == "restarting":
        # At a reload it ends what it was doing first.
        return role.state_age_s > _DOWN_S
    return role.state in ("stopping", "stopped") or role.state_age_s > _RESTART_S or _is_looping(case, role)


def is_accepting(case: Case) -> bool:
    """Whether frames are accepted now."""
    receiver = _receiver(case)
    if receiver is None or is_down(case, receiver):
        return False
    return case.now.spool.accepting and stalled_s(receiver) <= _NOT_ACCEPTING_STALL_S


def receiver_down(case: Case) -> Reason:
    """Give the reason for not accepting where no rule has a better one."""
    receiver = _receiver(case)
    state, age_s = (receiver.state, receiver.state_age_s) if receiver else ("missing", case.now.uptime_s)
    return Reason(
        ReasonCode.ROLE_CRASH_LOOP,
        case.ago_utc_ns(age_s),
        Severity.UNHEALTHY,
        f"the receiver does not accept frames yet or any more (it is {state})",
        "wait a few seconds while it starts; else see the log of the role receiver",
    )


def _receiver(case: Case) -> RoleState | None:
    return next((role for role in case.now.roles if role.name == "receiver"), None)


def _restarts_of(case: Case, role: RoleState) -> Callable[[Counts], int]:
    i = case.now.roles.index(role)
    return lambda counts: counts.restarts[i] if i < len(counts.restarts) else 0


def _is_looping(case: Case, role: RoleState) -> bool:
    return case.rise(_restarts_of(case, role), _CRASH_LOOP_WINDOW_S)[0] >= _CRASH_LOOP_COUNT


_TROUBLES = {
    Trouble.UNREACHABLE: (
        ReasonCode.STORE_UNREACHABLE,
        "the store cannot be reached",
        "start it, or mend the way to it",
    ),
    Trouble.BUSY: (
        ReasonCode.STORE_UNREACHABLE,
        "the store asks to come back later",
        "relieve it, or give it more room",
    ),
    Trouble.DENIED: (
        ReasonCode.STORE_AUTH,
        "the store denies access",
        "check minio.access_key, minio.secret_key and their rights",
    ),
    Trouble.MISCONFIGURED: (
        ReasonCode.STORE_REJECTS,
        "the store cannot be used as configured",
        "check minio.url, minio.bucket_raw_iq and TLS (or storage.directory)",
    ),
    Trouble.CORRUPT: (
        ReasonCode.STORE_REJECTS,
        "the store does not prove that it has what it was sent",
        "check the store and what is between it and this machine",
    ),
}


def _store(case: Case) -> Iterator[Reason]:
    stores = case.now.stores
    shown = worst(stores)
    if shown.trouble is Trouble.NONE or accessible(stores):
        return
    since_ns = min(
        (one.failing_since_utc_ns for one in stores if one.failing_since_utc_ns), default=case.utc_ns
    )
    code, what, action = _TROUBLES[shown.trouble]
    left_s = time_left_s(case)
    left = "" if left_s is None else f"; at the present rate the spool is full in {_duration(left_s)}"
    error = f": {shown.last_error}" if shown.last_error else ""
    text = f"{what}{error}; entries wait in the spool{left}"
    yield Reason(code, since_ns, Severity.DEGRADED, text, f"{action}; uploads resume by themselves")


def _store_refused(case: Case) -> Iterator[Reason]:
    refused_ns = max((store.refused_utc_ns for store in case.now.stores), default=0)
    if refused_ns and case.utc_ns - refused_ns < _REFUSED_S * 1e9:
        text = "the store refuses single objects while others go through; their entries wait"
        action = "see entry_refused in the log for what the store says"
        yield Reason(ReasonCode.STORE_REJECTS, refused_ns, Severity.DEGRADED, text, action)


#: By the word before the colon of what the receiver says; any other word is a failing disk.
_REFUSALS = {
    "spool_full": (
        ReasonCode.SPOOL_FULL,
        "the spool is full",
        "see why uploads lag, or raise spool.max_bytes",
    ),
    "disk_low": (
        ReasonCode.DISK_LOW,
        "too little space is left on the disk of the spool",
        "free space, or lower spool.min_free_bytes",
    ),
    "disk_error": (
        ReasonCode.FSYNC_SLOW,
        "the disk of the spool fails",
        "see the kernel's log; check mount, rights and disk",
    ),
}


def _spool(case: Case) -> Iterator[Reason]:
    spool = case.now.spool
    if spool.accepting or not spool.refusing:
        yield from _full_soon(case)
        return
    kind, _, why = spool.refusing.partition(":")
    code, what, action = _REFUSALS.get(kind, _REFUSALS["disk_error"])
    text = f"{what} ({why.strip() or kind}); nothing is accepted, nodes have to wait"
    yield Reason(code, spool.refusing_since_utc_ns or case.utc_ns, Severity.UNHEALTHY, text, action)


def _full_soon(case: Case) -> Iterator[Reason]:
    watched_s, _ = _watched(case)
    left_s = time_left_s(case)
    if left_s is not None and left_s < _FULL_SOON_S and watched_s > 0.9 * _GROWTH_WINDOW_S:
        text = f"at the rate of the last minute the spool is full in {_duration(left_s)}"
        yield Reason(ReasonCode.SPOOL_FULL, case.utc_ns, Severity.DEGRADED, text, "see why uploads lag")


def _fsync(case: Case) -> Iterator[Reason]:
    receiver = _receiver(case)
    waiting_s = stalled_s(receiver) if receiver else 0.0
    if waiting_s > STALLED_S:
        severity = Severity.UNHEALTHY if waiting_s > _NOT_ACCEPTING_STALL_S else Severity.DEGRADED
        text = f"the receiver is stalled: it has waited for the disk for {waiting_s:.1f} s, and accepts nothing meanwhile"
        yield Reason(ReasonCode.FSYNC_SLOW, case.ago_utc_ns(waiting_s), severity, text, _LOOK_AT_DISK)
        return
    n_slow, since_ns = case.rise(lambda counts: counts.fsync_slow, RECENT_S)
    if n_slow > 0:
        text = f"{n_slow} group commits within {RECENT_S:.0f} s took longer than {STALLED_S:g} s"
        yield Reason(ReasonCode.FSYNC_SLOW, since_ns, Severity.DEGRADED, text, _LOOK_AT_DISK)


def _roles(case: Case) -> Iterator[Reason]:
    for role in case.now.roles:
        looping = _is_looping(case, role)
        if not looping and not (
            role.state in ("starting", "backing_off", "restarting") and role.state_age_s > _DOWN_S
        ):
            continue
        since_ns = (
            case.rise(_restarts_of(case, role), RECENT_S)[1] if looping else case.ago_utc_ns(role.state_age_s)
        )
        fatal = role.name == "receiver" and is_down(case, role)
        what = (
            f"was restarted {_CRASH_LOOP_COUNT} times or more within a minute"
            if looping
            else f"is {role.state}"
        )
        yield Reason(
            ReasonCode.ROLE_CRASH_LOOP,
            since_ns,
            Severity.UNHEALTHY if fatal else Severity.DEGRADED,
            f"the role {role.name} {what} ({role.restarts} restarts in all)",
            f"see the log of the role {role.name}",
        )


def _nodes(case: Case) -> Iterator[Reason]:
    if case.now.uptime_s < _NODE_GRACE_S:
        return
    last_ns = {node.name: node.last_frame_utc_ns for node in case.now.nodes}
    started_ns = case.ago_utc_ns(case.now.uptime_s)
    for name, every_s in case.settings.expected_nodes:
        seen_ns = last_ns.get(name, 0)
        due_ns = max(seen_ns, started_ns) + int(every_s * 1e9)
        if case.utc_ns > due_ns:
            since = f"for {_duration((case.utc_ns - seen_ns) / 1e9)}" if seen_ns else "since the start"
            text = f"node {name} has sent nothing {since} (expected every {every_s:g} s)"
            action = f"see whether {name} runs and reaches ingest.endpoint"
            yield Reason(ReasonCode.NODE_SILENT, due_ns, Severity.DEGRADED, text, action)


def _gaps(case: Case) -> Iterator[Reason]:
    n_gaps, since_ns = case.rise(lambda counts: counts.seq_gaps, RECENT_S)
    if n_gaps > 0:
        text = f"{n_gaps} gaps in the numbering of frames within {RECENT_S:.0f} s"
        action = "see `nodes` for whose; a node that asks for confirmation sends again what is missing"
        yield Reason(ReasonCode.SEQ_GAPS, since_ns, Severity.DEGRADED, text, action)


def _timestamps(case: Case) -> Iterator[Reason]:
    last_ns = case.now.timestamp_implausible_utc_ns
    if last_ns and case.utc_ns - last_ns < RECENT_S * 1e9:
        n_recent, since_ns = case.rise(lambda counts: counts.timestamp_implausible, RECENT_S)
        text = f"{max(n_recent, 1)} frames within {RECENT_S:.0f} s have a time stamp in the future; they are accepted"
        action = "check the clocks of the nodes, and of this machine"
        first_ns = since_ns if n_recent > 0 else last_ns
        yield Reason(ReasonCode.TIMESTAMP_IMPLAUSIBLE, first_ns, Severity.DEGRADED, text, action)


def _rejected(case: Case) -> Iterator[Reason]:
    n_rejected, since_ns = case.rise(lambda counts: counts.rejected, _REJECTED_WINDOW_S)
    n_received, _ = case.rise(lambda counts: counts.received, _REJECTED_WINDOW_S)
    if n_rejected >= _REJECTED_COUNT and n_rejected > _REJECTED_SHARE * n_received:
        text = f"{n_rejected} of {max(n_received, n_rejected)} frames of the last minute were rejected"
        action = "see `rejected` for peers, fields and values"
        yield Reason(ReasonCode.REJECTED_RATE, since_ns, Severity.DEGRADED, text, action)


def _failed(case: Case) -> Iterator[Reason]:
    n_failed = case.now.spool.failed
    if n_failed > 0:
        since = next((counts for counts in case.history if counts.spool_failed > 0), case.now.counts)
        text = f"{n_failed} accepted entries could not be stored; they are kept in spool/failed"
        action = "see `failed` for reasons; `ingestd requeue` tries them again"
        yield Reason(ReasonCode.FAILED_ENTRIES, since.utc_ns, Severity.DEGRADED, text, action)


#: In the order in which reasons are listed: what stops acceptance first.
RULES: tuple[Callable[[Case], Iterator[Reason]], ...] = (
    _spool,
    _fsync,
    _roles,
    _store,
    _store_refused,
    _nodes,
    _gaps,
    _timestamps,
    _rejected,
    _failed,
)


def _duration(duration_s: float) -> str:
    """Write a duration for people."""
    for unit, size_s in (("h", 3600.0), ("min", 60.0)):
        if duration_s >= 2 * size_s:
            return f"{duration_s / size_s:.1f} {unit}"
    return f"{duration_s:.0f} s"
