"""Whether every role makes progress, read off the status block: what the watchdog of systemd is told. No disk, no clock.

A role says "progress" at every turn of its main loop and at every step of its work. One that waits for the disk makes
none, and still does not hang: a restart mends no disk, and would take away the only answers that tell of it. So the
disk gets far more patience, but not for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingestd.roles.lifecycle import RoleState
from ingestd.roles.status import Phase, Row, Slot, StatusBlock

__all__ = ["DISK_PATIENCE_S", "Standstill", "standstill"]

#: A wait for the disk that takes longer hangs [s]: multipath and network block devices give up after 600 s at the
#: latest (dev_loss_tmo), and then the wait ends in an error.
DISK_PATIENCE_S = 600.0

#: Phases of the receiver in which only the disk can keep it waiting.
_DISK_PHASES = frozenset({Phase.WRITING, Phase.FSYNC, Phase.CATALOG})


@dataclass(frozen=True, slots=True)
class Standstill:
    """A role that makes no progress, in which phase, and for how long [s]."""

    role: str
    phase: str
    age_s: float


def standstill(status: StatusBlock, now_ns: int, patience_s: float) -> Standstill | None:
    """Find the role that has been standing still for longest; None where all make progress.

    Parameters
    ----------
    status
        The block.
    now_ns
        CLOCK_MONOTONIC [ns].
    patience_s
        How long a running role may show no progress while it does not wait for the disk [s].
    """
    found = [
        still
        for name in status.layout.roles
        if (still := _of_role(name, status.roles[name], status.watch[name], now_ns, patience_s)) is not None
    ]
    return max(found, key=lambda still: still.age_s, default=None)


def _of_role(name: str, row: Row, watch: Row, now_ns: int, patience_s: float) -> Standstill | None:
    state, since_ns = watch.get(Slot.WATCH_STATE), watch.get(Slot.WATCH_SINCE_NS)
    if state == RoleState.STARTING:
        # Opens the catalog and counts the spool: that is the disk's time.
        last_ns, patience_s = since_ns, DISK_PATIENCE_S
    elif state == RoleState.RUNNING:
        # The row is that of the predecessor until the new process writes to it.
        last_ns = max(since_ns, row.get(Slot.PROGRESS_NS))
        patience_s = DISK_PATIENCE_S if _waits_for_disk(name, row) else patience_s
    else:
        # The supervisor itself bounds what is left: backoff and stopping.
        return None
    age_s = (now_ns - last_ns) / 1e9
    return Standstill(name, Phase(row.get(Slot.PHASE)).name.lower(), age_s) if age_s > patience_s else None


def _waits_for_disk(name: str, row: Row) -> bool:
    # The phase of an uploader is that of its threads; its main loop says by the other word that it waits.
    return bool(row.get(Slot.DISK_SINCE_NS)) or (name == "receiver" and row.get(Slot.PHASE) in _DISK_PHASES)
