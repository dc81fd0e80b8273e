"""One attack on a real daemon, looked at from outside: did it do harm, how much memory did it take, how long until all is well."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import zmq

from ingestd.client import Client
from ingestd.errors import IngestdError, NotFound, QueryError, Unavailable
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Identity, object_keys
from ingestd.testing import process_tree
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.secured.attacks import Attack
from ingestd.testing.waiting import wait_until

__all__ = ["PeakMemory", "Trial", "attacked_daemon", "try_attack"]

#: Good frames that are accepted before the attacks, and must be there after them: a page of `measurements`.
_KEPT = tuple(f"kept-{number:03d}" for number in range(300))

#: Between two looks at the memory [s]; a look takes a millisecond for each 100 MB.
_LOOK_S = 0.02

#: A probe that was not accepted within this is sent anew [s]: whoever is replaced loses what it had not accepted.
_PROBE_S = 0.25

#: Longest recovery that is waited for [s].
_PATIENCE_S = 30.0

#: A bucket by default; the directory store has one directory for each.
_BUCKET = "heimdall-raw-iq"


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one case.

    Parameters
    ----------
    group, name
        Of the attack.
    why
        What was harmed; "" = nothing.
    rest_mb, peak_mb
        Memory of the process tree before the attack, and the most that was seen [MB].
    recovery_ms
        From the end of the attack to the acceptance of the next good frame [ms].
    """

    group: str
    name: str
    why: str
    rest_mb: float = 0.0
    peak_mb: float = 0.0
    recovery_ms: float = 0.0

    @property
    def harmless(self) -> bool:
        """Whether nothing was harmed."""
        return not self.why


class PeakMemory:
    """Looks at the memory of a tree from a thread, as a `with` block.

    Parameters
    ----------
    pid
        Root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak-memory", daemon=True)
        #: The most that was seen [bytes].
        self.bytes = process_tree.resident_bytes(pid)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.bytes = max(self.bytes, process_tree.resident_bytes(self._pid))


@contextlib.contextmanager
def attacked_daemon(directory: str) -> Iterator[DaemonProcess]:
    """A daemon with its defaults and a directory store, which has accepted and stored some frames.

    Raises
    ------
    IngestdError
        At the end of the block something that was accepted is neither stored nor on its way.
    """
    with DaemonProcess(directory, {"spool": {"min_free_bytes": 0}}) as daemon:
        _fill(daemon)
        yield daemon
        _demand_alive(daemon)
        daemon.wait_settled(120.0)
        missing = _missing(daemon)
        if missing:
            raise IngestdError(f"{len(missing)} of {len(_KEPT)} accepted frames are gone; see {directory}")


def _demand_alive(daemon: DaemonProcess) -> None:
    if daemon.popen is None or daemon.popen.poll() is not None:
        raise IngestdError("the supervisor died")


def _fill(daemon: DaemonProcess) -> None:
    """Have some frames accepted, over a connection that is not closed before they are, and stored."""
    with pusher(daemon.ingest_endpoint) as peer:
        for task_id in _KEPT:
            peer.send(wire.encode(noise(task_id, n_samples=100)))
        # By the objects themselves: what is counted as what is the daemon's own word.
        wait_until(lambda: not _missing(daemon) or None, 60.0, f"the objects of {len(_KEPT)} frames")


def _missing(daemon: DaemonProcess) -> list[str]:
    """Frames of `_fill` whose objects are not there."""
    return [task_id for task_id in _KEPT if not _is_stored(daemon, task_id)]


def _is_stored(daemon: DaemonProcess, task_id: str) -> bool:
    """Whether both objects are where they belong."""
    keys = object_keys(Identity(task_id, 1, None))
    bucket = os.path.join(daemon.state_directory, "objects", _BUCKET)
    return all(os.path.isfile(os.path.join(bucket, key)) for key in (keys.npy, keys.metadata))


def try_attack(attack: Attack, daemon: DaemonProcess, seconds: float, number: int) -> Trial:
    """Attack a daemon once.

    Parameters
    ----------
    attack
        What is done.
    daemon
        To whom; it goes on afterwards.
    seconds
        How long, where that is a matter of time [s].
    number
        Tells the probes of several trials apart.
    """
    pid = daemon.pid
    before = _stats(daemon)
    memory = PeakMemory(pid)
    rest_bytes = memory.bytes
    try:
        with memory:
            seen = attack.act(daemon, seconds)
            ended_ns = time.time_ns()
            task_id, accepted_ns = _probe(daemon, f"probe-{number}")
        wait_until(
            lambda: _is_stored(daemon, task_id) or None, _PATIENCE_S, "the next good frame to be stored"
        )
        is_seen = _until_seen(lambda: attack.is_seen(before, _stats(daemon), seen))
    except (TimeoutError, OSError, IngestdError, zmq.ZMQError) as error:
        # A finding, not the end of the run.
        return Trial(attack.group, attack.name, f"{type(error).__name__}: {error}")
    why = "" if is_seen else "it was not refused, or that cannot be seen"
    if daemon.pid != pid:
        why = "the supervisor is another"
    recovery_ms = max(0.0, (accepted_ns - ended_ns) / 1e6)
    return Trial(attack.group, attack.name, why, rest_bytes / 1e6, memory.bytes / 1e6, round(recovery_ms, 2))


def _probe(daemon: DaemonProcess, name: str) -> tuple[str, int]:
    """Send a good frame until one is accepted; returns its task id and when that was [ns since 1970]."""
    end_s = time.monotonic() + _PATIENCE_S
    with pusher(daemon.ingest_endpoint) as peer:
        peer.set(zmq.LINGER, 0)
        sent: list[str] = []
        while time.monotonic() < end_s:
            _demand_alive(daemon)
            sent.append(f"{name}-{len(sent)}")
            peer.send(wire.encode(noise(sent[-1], n_samples=100)))
            with contextlib.suppress(TimeoutError):
                return wait_until(lambda: _first_accepted(daemon, sent), _PROBE_S)
    raise TimeoutError(f"no good frame was accepted within {_PATIENCE_S} s of the attack")


def _first_accepted(daemon: DaemonProcess, task_ids: list[str]) -> tuple[str, int] | None:
    """Which of the probes is in the book, the oldest first; nobody may answer yet."""
    with daemon.client(timeout_s=0.5, retries=0) as client, contextlib.suppress(Unavailable, QueryError):
        for task_id in task_ids:
            if (at_ns := _accepted_ns(client, task_id)) is not None:
                return task_id, at_ns
    return None


def _accepted_ns(client: Client, task_id: str) -> int | None:
    with contextlib.suppress(NotFound):
        return int(client.measurement(task_id, 1)["accepted_at_ns"])
    return None


def _stats(daemon: DaemonProcess) -> dict[str, Any]:
    """Answer of `stats`, as soon as somebody answers again."""

    def asked() -> dict[str, Any] | None:
        with contextlib.suppress(Unavailable, QueryError):
            return daemon.stats()
        return None

    return wait_until(asked, _PATIENCE_S, "an answer of `stats`")


def _until_seen(is_seen: Callable[[], bool]) -> bool:
    """Counts may come a moment later than the frame behind them."""
    with contextlib.suppress(TimeoutError):
        return wait_until(lambda: is_seen() or None, 5.0)
    return False
