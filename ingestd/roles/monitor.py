"""What is known without asking the disk: the status block now and in the last minutes, and the answers made of it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ingestd import __version__
from ingestd.config import Settings
from ingestd.formats import health, stats
from ingestd.formats.snapshot import Counts, Snapshot
from ingestd.formats.verdict import HealthSettings, Verdict
from ingestd.roles.snapshot import take_snapshot
from ingestd.roles.status import HISTOGRAM_BOUNDS_S, Slot, StatusBlock

__all__ = ["SAMPLE_S", "Kept", "Monitor", "daemon_started_ns"]

#: Counts are kept once in this time [s] ...
SAMPLE_S = 1.0

#: ... for ten minutes [count]: twice the longest window of a rule in `formats.symptoms`.
_N_SAMPLES = 600

#: An answer is made anew after this time at the earliest [ns]: a flood of `health` costs one, and nobody sees the age.
_KEEP_NS = 100_000_000

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """A value that is made anew when it is older than a tenth of a second.

    Parameters
    ----------
    make
        Makes it.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._kept: tuple[int, _T] | None = None

    def get(self) -> _T:
        """Return the value; two threads at once may both make it, and the later one is kept."""
        now_ns = time.monotonic_ns()
        kept = self._kept
        if kept is None or now_ns - kept[0] > _KEEP_NS:
            self._kept = kept = (now_ns, self._make())
        return kept[1]


class Monitor:
    """Looks at the status block; thread-safe, touches neither disk nor store.

    Parameters
    ----------
    status
        The block.
    settings
        Names and expectations.
    started_ns
        CLOCK_MONOTONIC when the daemon started [ns].
    """

    def __init__(self, status: StatusBlock, settings: Settings, started_ns: int) -> None:
        self._status = status
        self._settings = _health_settings(settings)
        self._started_ns = started_ns
        self._lock = threading.Lock()
        self._history: deque[Counts] = deque(maxlen=_N_SAMPLES)
        #: Counters for the life of the state directory, once they are known; written by the catalog's thread.
        self.total: Mapping[str, Any] | None = None
        #: Progress of the scrub, None where it is off; written by its thread.
        self.scrub: Mapping[str, Any] | None = None
        self._snapshot = Kept(self._take)
        self._health: Kept[Mapping[str, Any]] = Kept(
            lambda: {**health.document(self._past(), self.snapshot(), self._settings), "scrub": self.scrub}
        )
        self._stats: Kept[Mapping[str, Any]] = Kept(
            lambda: stats.document(self._past(), self.snapshot(), HISTOGRAM_BOUNDS_S, self.total)
        )
        self._verdict = Kept(lambda: health.judge(self._past(), self.snapshot(), self._settings))

    def sample(self) -> None:
        """Keep the counts of this moment."""
        counts = self._take().counts
        with self._lock:
            self._history.append(counts)

    def snapshot(self) -> Snapshot:
        """Everything that the block says; at most a tenth of a second old."""
        return self._snapshot.get()

    def verdict(self) -> Verdict:
        """Judge the daemon; at most a tenth of a second old."""
        return self._verdict.get()

    def health(self) -> Mapping[str, Any]:
        """Answer `health`; at most a tenth of a second old, not to be changed."""
        return self._health.get()

    def stats(self) -> Mapping[str, Any]:
        """Answer `stats`; at most a tenth of a second old, not to be changed."""
        return self._stats.get()

    def _take(self) -> Snapshot:
        return take_snapshot(
            self._status,
            utc_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            started_ns=self._started_ns,
        )

    def _past(self) -> tuple[Counts, ...]:
        with self._lock:
            return tuple(self._history)


def _health_settings(settings: Settings) -> HealthSettings:
    is_directory = settings.storage.kind == "directory"
    return HealthSettings(
        endpoint=settings.storage.directory if is_directory else settings.minio_url or "",
        bucket=settings.minio.bucket_raw_iq,
        store_kind=settings.storage.kind,
        expected_nodes=tuple(
            (node.name, node.expect_every_s) for node in settings.nodes if node.expect_every_s is not None
        ),
        version=__version__,
    )


def daemon_started_ns(status: StatusBlock) -> int:
    """CLOCK_MONOTONIC when the daemon started [ns]: a restarted responder must not begin to count anew.

    The supervisor is this process's parent; where the kernel does not say when it began, the oldest role does.
    """
    now_ns = time.monotonic_ns()
    age_s = _process_age_s(os.getppid())
    if age_s is not None:
        return now_ns - int(age_s * 1e9)
    return min(
        (row.get(Slot.STARTED_NS) for row in status.roles.values() if row.get(Slot.STARTED_NS)),
        default=now_ns,
    )


def _process_age_s(pid: int) -> float | None:
    """Age of a process [s] from field 22 of its stat, in clock ticks since boot (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, field 2, may hold blanks and brackets; what follows its last bracket does not.
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return age_s if ticks > 0 and age_s >= 0 else None
