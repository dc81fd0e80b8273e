"""A store that is down: for six hours on a clock of our own, and for real in short."""

import gc
import os
import time as real_time
from types import SimpleNamespace

import pytest
import structlog

from ingestd.catalog import create
from ingestd.config import load
from ingestd.errors import StoreUnreachable
from ingestd.formats import frame as wire
from ingestd.roles import source as source_module
from ingestd.roles import uploader as uploader_module
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.source import WorkSource
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.roles.uploader import Uploader
from ingestd.spool import Claims, SpoolLayout, SpoolWriter
from ingestd.testing.frames import noise
from ingestd.testing.outage import OutagePlan, run
from ingestd.testing.process_tree import resident_bytes
from ingestd.testing.stores import MemoryStore

HOURS = 6
GAP_S = 4.0


class Clock:
    """Time that passes only where somebody waits; load arrives as it does."""

    def __init__(self):
        self.now_s = 1000.0
        self.frame_due_s = self.now_s
        self.on_frame = lambda: None

    def advance(self, seconds):
        self.now_s += seconds
        while self.frame_due_s <= self.now_s:
            self.frame_due_s += GAP_S
            self.on_frame()

    def module(self):
        """What stands for `time` in a module under test."""
        return SimpleNamespace(
            monotonic=lambda: self.now_s,
            monotonic_ns=lambda: int(self.now_s * 1e9),
            time_ns=lambda: 1_790_000_000 * 10**9 + int(self.now_s * 1e9),
            time=real_time.time,
            sleep=self.advance,
        )


class Stop:
    """The uploader's stop event: waiting is passing time."""

    def __init__(self, clock):
        self._clock = clock

    def is_set(self):
        return False

    def wait(self, seconds):
        self._clock.advance(seconds)
        return False


class DeadStore(MemoryStore):
    """Down until `up`; counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.up = False
        self.asked = 0
        self.order = []

    def _ask(self):
        self.asked += 1
        if not self.up:
            raise StoreUnreachable("memory: cannot connect (Connection refused)")

    def probe(self, *, make_bucket=True):
        self._ask()
        return super().probe(make_bucket=make_bucket)

    def check(self):
        self._ask()

    def put_new(self, key, body):
        self._ask()
        if key.endswith(".npy"):
            self.order.append(key.split("/")[1])
        return super().put_new(key, body)


@pytest.fixture
def outage(tmp_path, monkeypatch):
    """The real uploader's loop in one thread, on a clock of our own, over a real spool."""
    clock, store = Clock(), DeadStore()
    monkeypatch.setattr(uploader_module, "time", clock.module())
    monkeypatch.setattr(source_module, "time", clock.module())
    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    create(catalog_path(str(tmp_path)))
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    context = RoleContext(
        "uploader-0", settings, StatusBlock.create(StatusLayout(("receiver", "uploader-0"))), -1
    )
    uploader = Uploader(context, layout, store, WorkSource(Claims(layout, "uploader-0"), None, 0.0))
    uploader._stop = Stop(clock)
    writer = SpoolWriter(layout, "process", real_time.time_ns)

    def accept(task_id):
        writer.add(memoryview(wire.encode(noise(task_id, n_samples=16))))
        writer.commit()

    return SimpleNamespace(
        clock=clock, store=store, uploader=uploader, accept=accept, layout=layout, row=context.row
    )


@pytest.mark.slow
def test_six_hours_down_under_load_cost_one_probe_a_period_and_a_dozen_lines(outage):
    clock, store, uploader = outage.clock, outage.store, outage.uploader
    count = iter(range(10**6))
    clock.on_frame = lambda: outage.accept(f"night-{next(count):06d}")
    began_s = clock.now_s
    with structlog.testing.capture_logs() as lines:
        # The first hour warms up what grows once.
        while clock.now_s < began_s + 3600:
            uploader._turn()
        gc.collect()
        before_bytes = resident_bytes(os.getpid(), alone=True)
        while clock.now_s < began_s + HOURS * 3600:
            uploader._turn()
        gc.collect()
        drift_bytes = resident_bytes(os.getpid(), alone=True) - before_bytes
    n_waiting = len(os.listdir(outage.layout.new))
    assert n_waiting == next(count) == pytest.approx(HOURS * 3600 / GAP_S, abs=2), "everything waits"
    # Full jitter under a ceiling of 15 s is 7.5 s on average: one request in each of those periods, whatever the load.
    assert store.asked == pytest.approx(HOURS * 3600 / 7.5, rel=0.1)
    assert 5 < len(lines) < 20, [line["event"] for line in lines]
    assert drift_bytes < 50 * 2**20
    assert outage.row.get(Slot.STORE_FAILURES) == store.asked
    assert outage.row.get(Slot.STORE_OK) == 0


@pytest.mark.slow
def test_after_the_outage_new_frames_are_stored_among_the_first_and_the_backlog_oldest_first(outage):
    clock, store, uploader = outage.clock, outage.store, outage.uploader
    for i in range(300):
        outage.accept(f"night-{i:06d}")
    began_s = clock.now_s
    while clock.now_s < began_s + 600:
        uploader._turn()
    store.up = True
    while not store.order:
        uploader._turn()
    assert clock.now_s < began_s + 600 + 16, "found again within one period"
    for i in range(20):
        outage.accept(f"new-{i:06d}")
    while len(store.order) < 320:
        uploader._turn()
    night = [name for name in store.order if name.startswith("night")]
    assert night == sorted(night)
    assert os.listdir(outage.layout.new) == []
    assert outage.row.get(Slot.STORE_OK) == 1


@pytest.mark.minio
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.quiet
def test_a_real_store_that_is_down_costs_next_to_nothing_and_the_backlog_drains(tmp_path, minio_binary):
    """In short; `scripts/outage` does it for minutes and holds it to the whole demand."""
    wanted = OutagePlan(outage_s=12.0, idle_s=8.0, clean_count=400)
    told = []
    result = run(wanted, minio_binary, str(tmp_path), told.append)
    assert result.missing_count == 0
    assert result.backlog_count > 150
    assert result.new_before_backlog_count > 0, "new frames are not starved"
    assert result.new_latency_p50_s < 2.0
    assert result.found_again_s < 20.0
    assert result.drain_share > 0.5, "a short run on a busy machine: the figure comes from scripts/outage"
    assert result.resident_drift_bytes < 50 * 2**20
    assert result.idle_cpu_share < 0.05
    assert result.rep_p99_ms < 250.0
    assert result.time_left_shown
    assert len(told) == 3
