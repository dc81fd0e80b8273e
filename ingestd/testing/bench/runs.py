"""One run of one contender: push, see from outside when each pair is stored, read the kernel's counters."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from ingestd.errors import IngestdError
from ingestd.testing import process_tree
from ingestd.testing.bench.child import Child
from ingestd.testing.bench.contenders import Contender, Running
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.bench.statistics import quantile
from ingestd.testing.bench.targets import Target, Watch, wait_for

__all__ = ["Pushing", "Values", "burst", "latency", "open_pusher", "plan_of", "throughput"]

#: Figures of one run by name.
Values = dict[str, float]

#: A run that takes longer than this is given up, and what is missing is said [s].
_PATIENCE_S = 180.0

#: After the last pair: releasing and recording belong to the frames, idling does not [s].
_AFTER_S = 0.3


@dataclass(frozen=True, slots=True)
class Pushing:
    """A pusher that is connected."""

    child: Child

    def begin(self, first: int, count: int, *, gap_s: float = 0.0, together: int = 1) -> None:
        """Start pushing frames `first` to `first + count - 1`."""
        self.child.tell({"first": first, "count": count, "gap_s": gap_s, "together": together})

    def end(self, timeout_s: float = _PATIENCE_S) -> list[int]:
        """When each was pushed [ns since 1970]."""
        pushed: list[int] = json.loads(self.child.line(timeout_s))
        return pushed


@contextlib.contextmanager
def open_pusher(plan: FramePlan, contender: Contender, running: Running) -> Iterator[Pushing]:
    """Start the pusher for a contender."""
    order = {
        "plan": asdict(plan), "line": contender.line, "endpoints": running.endpoints,
        "epoch": 2**52 + secrets.randbelow(2**52), "keys_directory": contender.keys and contender.keys.directory,
    }  # fmt: skip
    log_path = os.path.join(running.directory, "pusher.log")
    with Child("ingestd.testing.bench.pusher", order, log_path) as child:
        yield Pushing(child)


def plan_of(n_samples: int = 125_000, nodes: int = 7, *, figures: bool = True) -> FramePlan:
    """A plan whose frames nobody has seen."""
    return FramePlan(f"bench-{secrets.token_hex(6)}", n_samples, nodes, figures)


@contextlib.contextmanager
def _set_up(
    contender: Contender, target: Target, plan: FramePlan, n_frames: int, directory: str
) -> Iterator[tuple[Running, Pushing, Watch]]:
    with (
        target.watch(plan, n_frames) as watch,
        contender.running(plan, n_frames, directory, target.environment()) as running,
        open_pusher(plan, contender, running) as pushing,
    ):
        yield running, pushing, watch


def _stored_ns(watch: Watch, plan: FramePlan, frames: Sequence[int], directory: str) -> list[int]:
    """When both objects of each frame were there."""
    wanted = [key for k in frames for key in plan.keys(k)]
    times, missing = wait_for(watch, wanted, _PATIENCE_S)
    if missing:
        raise IngestdError(f"{len(missing)} of {len(wanted)} objects did not come; see {directory}")
    return [max(times[key] for key in plan.keys(k)) for k in frames]


def throughput(
    contender: Contender,
    target: Target,
    plan: FramePlan,
    directory: str,
    *,
    n_warm: int,
    n_frames: int,
    rate: float | None = None,
) -> Values:
    """Frames/s, and what a frame costs between two moments of the same run.

    Parameters
    ----------
    contender, target, plan
        Who, where to, what.
    directory
        Empty.
    n_warm
        Frames before the first moment: starts, imports and first buffers are not counted [count].
    n_frames
        Frames between the two moments [count].
    rate
        Frames pushed a second [Hz]; None = as fast as it goes.
    """
    gap_s = 0.0 if rate is None else 1.0 / rate
    n_all = n_warm + n_frames
    with _set_up(contender, target, plan, n_all, directory) as (running, pushing, watch):
        pushing.begin(0, n_warm, gap_s=gap_s)
        pushing.end()
        _stored_ns(watch, plan, range(n_warm), directory)
        time.sleep(_AFTER_S)
        cpu_s, faults = process_tree.cpu_s(running.pid), process_tree.minor_faults(running.pid)
        pushing.begin(n_warm, n_frames, gap_s=gap_s)
        pushed_ns = pushing.end()
        # Everything that grows has grown, and frames are still under way.
        resident = process_tree.resident_bytes(running.pid)
        stored_ns = _stored_ns(watch, plan, range(n_warm, n_all), directory)
        time.sleep(_AFTER_S)
        cpu_s = process_tree.cpu_s(running.pid) - cpu_s
        faults = process_tree.minor_faults(running.pid) - faults
    listed = target.listed(plan.run)
    lost = sum(key not in listed for k in range(n_all) for key in plan.keys(k))
    elapsed_s = (max(stored_ns) - pushed_ns[0]) / 1e9
    return {
        "frames_per_s": n_frames / elapsed_s,
        "cpu_ms": cpu_s * 1e3 / n_frames,
        "minor_faults": faults / n_frames,
        "resident_mb": resident / 1e6,
        "missing_objects": float(lost),
    }


def latency(
    contender: Contender, target: Target, plan: FramePlan, directory: str, *, rate: float, n_frames: int
) -> Values:
    """At a rate: from the push of a frame to its second object."""
    n_warm = plan.nodes * 4
    with _set_up(contender, target, plan, n_warm + n_frames, directory) as (_, pushing, watch):
        pushing.begin(0, n_warm, gap_s=1 / rate)
        pushing.end()
        _stored_ns(watch, plan, range(n_warm), directory)
        pushing.begin(n_warm, n_frames, gap_s=1 / rate)
        pushed_ns = pushing.end()
        stored_ns = _stored_ns(watch, plan, range(n_warm, n_warm + n_frames), directory)
    took_ms = sorted((end - start) / 1e6 for start, end in zip(pushed_ns, stored_ns, strict=True))
    return {"p50_ms": quantile(took_ms, 0.5), "p99_ms": quantile(took_ms, 0.99), "max_ms": took_ms[-1]}


def burst(
    contender: Contender, target: Target, plan: FramePlan, directory: str, *, n_bursts: int, gap_s: float
) -> Values:
    """One frame of every node at the same moment, again and again: until all of them are stored."""
    size = plan.nodes
    with _set_up(contender, target, plan, size * (n_bursts + 2), directory) as (_, pushing, watch):
        pushing.begin(0, 2 * size, gap_s=gap_s, together=size)
        pushing.end()
        frames = range(2 * size, (n_bursts + 2) * size)
        pushing.begin(2 * size, len(frames), gap_s=gap_s, together=size)
        pushed_ns = pushing.end()
        stored_ns = _stored_ns(watch, plan, frames, directory)
    took_ms = sorted((max(stored_ns[i : i + size]) - pushed_ns[i]) / 1e6 for i in range(0, len(frames), size))
    return {"p50_ms": quantile(took_ms, 0.5), "max_ms": took_ms[-1]}
