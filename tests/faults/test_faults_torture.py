"""Torture in short, and that what counts there would find a loss."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.testing.frames import noise
from ingestd.testing.stores import MemoryStore
from ingestd.testing.torture.blows import Kind, plan
from ingestd.testing.torture.oracle import compare
from ingestd.testing.torture.report import Round, append, read, table
from ingestd.testing.torture.rounds import RoundPlan, run_round
from ingestd.testing.torture.sender import Issued
from ingestd.testing.torture.victims import role_pids
from ingestd.testing.waiting import wait_until


@pytest.mark.minio
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fifty_kills_under_load_behind_a_breaking_proxy_lose_nothing(tmp_path, minio_binary):
    one = run_round(RoundPlan(seed=4, kills=50, limit_s=180.0), minio_binary, str(tmp_path))
    assert one.clean, one
    assert one.kills >= 50
    assert one.issued == one.accepted == one.stored > 100
    assert one.resent > 0, "frames died on their way and were sent again"
    assert sum(n for name, n in one.faults.items() if name != "passed") > 10
    assert one.rep_longest_gap_s < 30.0


class TestOracle:
    """Every way to go wrong is seen; nothing else is."""

    @pytest.fixture
    def issued(self):
        return [self.entry(noise(f"s-{i}", seed=i)) for i in range(3)]

    @pytest.fixture
    def store(self):
        store = MemoryStore()
        for i in range(3):
            self.put(store, noise(f"s-{i}", seed=i))
        return store

    @staticmethod
    def entry(m):
        digest = hashlib.sha256(m.samples).hexdigest()
        return Issued(m.task_id, m.websdr_id, digest, m.timestamp_ns, m.sample_rate_hz)

    @staticmethod
    def put(store, measurement):
        pair, _ = encode_pair(measurement, None, figures="none", sha256=False)
        store_pair(store, pair, "keep_both")

    def test_a_whole_bucket_is_clean(self, issued, store):
        findings = compare(issued, store)
        assert findings.clean
        assert findings.n_stored == 3

    def test_a_missing_pair_is_lost(self, issued, store):
        for key in object_keys(Identity("s-1", 1, None)):
            store.delete(key)
        assert compare(issued, store).lost == ["sessions/s-1/websdr_1.npy"]

    def test_metadata_alone_is_lonely_and_lost(self, issued, store):
        store.delete("sessions/s-1/websdr_1.npy")
        findings = compare(issued, store)
        assert findings.lonely == ["sessions/s-1/websdr_1_metadata.json"]
        assert findings.lost == ["sessions/s-1/websdr_1.npy"]

    def test_an_npy_alone_is_lost(self, issued, store):
        store.delete("sessions/s-1/websdr_1_metadata.json")
        assert compare(issued, store).lost == ["sessions/s-1/websdr_1.npy"]

    @pytest.mark.parametrize(
        "damage", [lambda b: b[:-8], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""]
    )
    def test_other_bytes_are_torn(self, issued, store, damage):
        key = "sessions/s-2/websdr_1.npy"
        self.overwrite(store, key, damage(store.get(key, 2**20)))
        assert compare(issued, store).torn

    def test_metadata_with_another_stamp_is_torn(self, issued, store):
        key = "sessions/s-2/websdr_1_metadata.json"
        document = json.loads(store.get(key, 2**20)) | {"timestamp_ns": 1}
        self.overwrite(store, key, json.dumps(document).encode())
        (torn,) = compare(issued, store).torn
        assert key in torn

    def test_a_second_content_is_conflicting(self, issued, store):
        self.put(store, noise("s-0", seed=99))
        assert len(compare(issued, store).conflicting) == 2

    def test_what_nobody_issued_is_unknown(self, issued, store):
        self.put(store, noise("somebody-else"))
        assert len(compare(issued, store).unknown) == 2

    @staticmethod
    def overwrite(store, key, content):
        from ingestd.formats.checksum import crc32c

        store.put(key, Body((content,), crc32c(content)))


class TestPlan:
    def test_the_same_seed_hits_the_same(self):
        first, again, other = (list(itertools.islice(plan(seed, 2, 0.5), 500)) for seed in (1, 1, 2))
        assert first == again != other

    def test_everybody_is_hit(self):
        blows = list(itertools.islice(plan(3, 2, 0.5), 2000))
        killed = {blow.target for blow in blows if blow.kind is Kind.KILL}
        roles = {"receiver", "uploader-0", "uploader-1", "responder"}
        assert killed == roles | {"supervisor", "minio"}
        assert {blow.target for blow in blows if blow.kind is Kind.PAUSE} == roles | {"supervisor", "minio"}
        assert 0.4 < sum(blow.after_s for blow in blows) / 2000 < 0.6


ROUND = Round(
    seed=1, date="2026-01-01", version="0", elapsed_s=1.0, kills=2, blows={"kill receiver": 2},
    faults={"passed": 5, "cut": 1}, issued=10, accepted=10, resent=1, stored=10, lost=0, torn=0,
    lonely_metadata=0, conflicting=0, unknown_objects=0, failed_entries=0, books_balanced=True,
    probe_stored=True, drain_s=1.0, rep_longest_gap_s=1.0, rep_p50_ms=1.0, rep_p99_ms=2.0,
)  # fmt: skip


class TestReport:
    @pytest.mark.parametrize(
        "wrong",
        [{"lost": 1}, {"torn": 1}, {"lonely_metadata": 1}, {"conflicting": 1}, {"unknown_objects": 1},
         {"failed_entries": 1}, {"books_balanced": False}, {"probe_stored": False}, {"troubles": ("x",)}],
    )  # fmt: skip
    def test_a_round_is_clean_only_if_nothing_at_all_is_wrong(self, wrong):
        assert ROUND.clean
        assert not replace(ROUND, **wrong).clean

    def test_rounds_add_up_over_runs(self, tmp_path):
        path = str(tmp_path / "rounds.json")
        append(path, [ROUND])
        append(path, [replace(ROUND, seed=2, kills=3)])
        rounds = read(path)
        assert [one.kills for one in rounds] == [2, 3]
        assert rounds[0] == replace(ROUND, troubles=[])
        rows = dict(zip(*[column._cells for column in table(rounds, "all").columns], strict=True))
        assert rows["kills (SIGKILL)"] == "5"
        assert rows["requests broken by the proxy"] == "2"
        assert rows["resent"] == "2 (10.00 %)"


def test_roles_are_found_by_the_kernels_word():
    code = "import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, "ingestd.roles.child", "receiver"])
    try:
        wait_until(lambda: role_pids(os.getpid()) == {"receiver": child.pid}, what="the child to be seen")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(5)
