"""What keys, TLS and a flood of questions cost: the same run with and without, one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ingestd.client import Client
from ingestd.errors import IngestdError
from ingestd.testing import process_tree
from ingestd.testing.bench import contenders, runs
from ingestd.testing.bench.child import Child
from ingestd.testing.bench.contenders import Contender, Running
from ingestd.testing.bench.disk import nobody, wait_entries
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.bench.groups import Case
from ingestd.testing.bench.runs import Values, open_pusher, plan_of
from ingestd.testing.bench.statistics import quantile
from ingestd.testing.bench.targets import Target
from ingestd.testing.keys import Keys
from ingestd.testing.secured.place import quick_place
from ingestd.testing.waiting import free_port, wait_until

__all__ = ["GROUPS", "Setting", "ingest"]

_FLOOD = "ingestd.testing.secured.flood"

#: Questions/s that are asked in a flood [count/s]: five times what is answered.
_FLOOD_PER_S = 10_000.0

#: Frames of a run that are accepted only, and of one that stores them [count]: a second or more of each.
_N_ACCEPTED, _N_STORED = 1600, 400

#: Rate at which the time to acceptance is measured [frames/s]: what two cores take with room.
_PACED_PER_S = 50.0

#: What is in flight when a flood begins or ends does not count [s].
_SETTLE_S = 0.3

_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What the runs share.

    Parameters
    ----------
    plain, tls
        The same store, over http and over https.
    ca_file
        Authority of the second.
    keys
        Of nodes and of `admin`.
    short
        Whether the runs are short.
    """

    plain: Target
    tls: Target
    ca_file: str
    keys: Keys
    short: bool = False

    def frames(self, full: int) -> int:
        """Frames of a run [count]."""
        return full // 8 if self.short else full


def ingest(
    contender: Contender,
    plan: FramePlan,
    directory: str,
    n_frames: int,
    beside: Callable[[Running, str], contextlib.AbstractContextManager[Values]],
) -> Values:
    """Accept as fast as it goes, then at a rate, while nobody answers for the store: acceptance alone.

    Parameters
    ----------
    contender, plan
        Who takes what.
    directory
        Empty.
    n_frames
        Pushed as fast as they are taken, an eighth of it at a rate [count].
    beside
        What goes on meanwhile; what it adds to the values is there at its end.
    """
    n_warm, n_paced = plan.nodes * 4, n_frames // 8
    n_fast, n_all = n_warm + n_frames, n_warm + n_frames + n_paced
    with (
        contender.running(plan, 0, directory, nobody()) as running,
        open_pusher(plan, contender, running) as pushing,
    ):
        assert running.daemon is not None
        pushing.begin(0, n_warm)
        pushing.end()
        wait_entries(running.daemon, n_warm)
        with beside(running, directory) as values:
            time.sleep(_SETTLE_S)
            cpu_s = process_tree.cpu_s(running.pid)
            pushing.begin(n_warm, n_frames)
            pushed_ns = pushing.end()
            wait_entries(running.daemon, n_fast)
            cpu_s = process_tree.cpu_s(running.pid) - cpu_s
            pushing.begin(n_fast, n_paced, gap_s=1 / _PACED_PER_S)
            due_ns = pushing.end()
            wait_entries(running.daemon, n_all)
        with running.daemon.client() as client:
            accepted_ns = wait_until(lambda: _all_accepted(client, plan, n_all), _PATIENCE_S, "every row")
    fast_s = (max(accepted_ns[n_warm:n_fast]) - pushed_ns[0]) / 1e9
    took_ms = sorted((end - due) / 1e6 for end, due in zip(accepted_ns[n_fast:], due_ns, strict=True))
    return {
        "frames_per_s": n_frames / fast_s,
        "cpu_ms": cpu_s * 1e3 / n_frames,
        "p50_ms": quantile(took_ms, 0.5),
        "p99_ms": quantile(took_ms, 0.99),
        **values,
    }


def _all_accepted(client: Client, plan: FramePlan, n_all: int) -> list[int] | None:
    """When each frame was accepted, by the daemon's own book [ns since 1970]; None while the book is behind."""
    found: dict[tuple[str, int], int] = {}
    cursor = None
    while True:
        page = client.measurements(limit=1000, cursor=cursor)
        for row in page["measurements"]:
            found[row["task_id"], row["websdr_id"]] = row["accepted_at_ns"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    wanted = [(plan.task_id(k), k % plan.nodes + 1) for k in range(n_all)]
    return [found[one] for one in wanted] if all(one in found for one in wanted) else None


@contextlib.contextmanager
def _nothing(_running: Running, _directory: str) -> Iterator[Values]:
    yield {}


@contextlib.contextmanager
def _asked(endpoint: str, directory: str) -> Iterator[Values]:
    """Flood an endpoint with questions for the length of a `with` block."""
    values: Values = {}
    order = {"endpoint": endpoint, "rate_per_s": _FLOOD_PER_S}
    with Child(_FLOOD, order, os.path.join(directory, "flood.log")) as child:
        child.tell({"do": "begin"})
        yield values
        child.tell({"do": "end"})
        values |= json.loads(child.line(_PATIENCE_S))
    if not values["replies_per_s"]:
        raise IngestdError("the flood got no answer")


@contextlib.contextmanager
def _flooded(running: Running, directory: str) -> Iterator[Values]:
    """Questions to the daemon."""
    assert running.daemon is not None
    with _asked(running.daemon.query_endpoint, directory) as values:
        yield values


@contextlib.contextmanager
def _echoed(_running: Running, directory: str) -> Iterator[Values]:
    """The same questions to a server that only sends them back, on the same cores."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    order = {"endpoint": endpoint, "echo": True}
    with Child(_FLOOD, order, os.path.join(directory, "echo.log")), _asked(endpoint, directory) as values:
        yield values


def _curve(setting: Setting) -> Iterator[Case]:
    for name, keys in (("without", None), ("with", setting.keys)):
        contender = Contender(name, keys=keys)
        yield Case(name, _ingest_run(setting, contender, _nothing))


def _tls(setting: Setting) -> Iterator[Case]:
    trusting: dict[str, dict[str, str]] = {"minio": {"ca_file": setting.ca_file}}
    for name, target, settings in (("without", setting.plain, {}), ("with", setting.tls, trusting)):
        yield Case(name, _stored_run(setting, target, settings))


def _questions(setting: Setting) -> Iterator[Case]:
    for name, beside in (("quiet", _nothing), ("flood", _flooded), ("echo", _echoed)):
        yield Case(name, _ingest_run(setting, contenders.ours(), beside))


def _ingest_run(
    setting: Setting,
    contender: Contender,
    beside: Callable[[Running, str], contextlib.AbstractContextManager[Values]],
) -> Callable[[str], Values]:
    def run(directory: str) -> Values:
        with tempfile.TemporaryDirectory(prefix="ingestd-secured-", dir=quick_place(directory)) as where:
            return ingest(contender, plan_of(), where, setting.frames(_N_ACCEPTED), beside)

    return run


def _stored_run(
    setting: Setting, target: Target, settings: Mapping[str, Mapping[str, object]]
) -> Callable[[str], Values]:
    def run(directory: str) -> Values:
        n_frames = setting.frames(_N_STORED)
        contender = Contender("ours", settings=settings)
        n_warm = n_frames // 4
        return runs.throughput(contender, target, plan_of(), directory, n_warm=n_warm, n_frames=n_frames)

    return run


#: By name, in the order in which they run.
GROUPS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "curve": _curve,
    "tls": _tls,
    "questions": _questions,
}
