"""A real MinIO behind the proxy that breaks requests: every fault, and a pair that is stored once in the end."""

import contextlib
import time

import pytest

from ingestd.errors import StoreError
from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.storage.http import Timing
from ingestd.storage.minio import MinioStore
from ingestd.storage.pair import PairResult, store_pair
from ingestd.testing.fault_proxy import RATES, Fault, FaultProxy, Schedule
from ingestd.testing.frames import noise
from ingestd.testing.http_relay import Reply
from ingestd.testing.minio_server import MinioServer

BUCKET = "heimdall-raw-iq"

#: Quick enough for a test: what hangs and drips is given up after a second.
TIMING = Timing(base_s=3.0, progress_s=1.0, connect_s=1.0, early_s=0.5, continue_s=0.5)


def pair_of(measurement):
    pair, _ = encode_pair(measurement, None, figures="none", sha256=False)
    return pair


@pytest.fixture(scope="module")
def server(minio_binary, tmp_path_factory):
    with MinioServer(tmp_path_factory.mktemp("minio"), minio_binary) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server):
    with FaultProxy(server.port, seed=1, rates={}) as proxy:
        yield proxy


@contextlib.contextmanager
def store_at(server, url):
    with contextlib.closing(
        MinioStore(url, server.access_key, server.secret_key, BUCKET, timing=TIMING)
    ) as store:
        store.probe()
        yield store


def store_patiently(store, pair):
    """As an uploader does: again after every error; returns the result and the errors on the way."""
    errors = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return store_pair(store, pair, "keep_both").result, errors
        except StoreError as error:
            errors.append(error)
    pytest.fail(f"never stored: {errors}")


@pytest.mark.minio
class TestNamedFaults:
    @pytest.mark.parametrize("fault", Fault)
    def test_a_pair_whose_requests_break_is_stored_once_with_its_bytes(self, server, proxy, fault):
        measurement = noise(f"first-fault-{fault}", n_samples=20_000)
        with store_at(server, proxy.url) as broken, store_at(server, server.url) as straight:
            result, errors = store_patiently(broken, pair_of(measurement))
            assert result in (PairResult.STORED, PairResult.REPEATED)
            if fault is not Fault.SLOW:
                assert errors, "the fault was felt"
            keys = [info.key for info in straight.list(f"sessions/{measurement.task_id}/")]
            assert sorted(keys) == sorted(object_keys(Identity(measurement.task_id, 1, None)))
            assert straight.get(keys[0], 2**20)[128:] == bytes(measurement.samples)

    @pytest.mark.parametrize("fault", Fault)
    def test_a_pair_that_is_there_already_is_never_taken_for_a_conflict(self, server, proxy, fault):
        """Not even where the reply to HEAD names another checksum: only bytes prove a conflict."""
        measurement = noise(f"again-fault-{fault}", n_samples=2_000)
        with store_at(server, proxy.url) as broken, store_at(server, server.url) as straight:
            assert store_pair(straight, pair_of(measurement), "keep_both").result is PairResult.STORED
            result, _ = store_patiently(broken, pair_of(measurement))
            assert result is PairResult.REPEATED
            assert len(list(straight.list(f"sessions/{measurement.task_id}/"))) == 2


class TestSchedule:
    def test_the_same_seed_breaks_the_same_requests(self):
        def decisions(seed):
            schedule = Schedule(seed, RATES, 0.0, storms=True)
            return [schedule.fault(f"/k{i}", i * 0.01) for i in range(5000)]

        assert decisions(1) == decisions(1) != decisions(2)
        assert set(decisions(1)) - {None} == set(Fault), "all of them come"
        n_broken = sum(fault is not None for fault in decisions(1))
        assert 0.05 < n_broken / 5000 < 0.6

    def test_a_named_fault_comes_twice_and_then_lets_the_key_through(self):
        schedule = Schedule(1, {}, 0.0, storms=False)
        assert [schedule.fault("/b/fault-cut/x", 0.0) for _ in range(4)] == [Fault.CUT, Fault.CUT, None, None]
        assert schedule.fault("/b/fault-cut/y", 0.0) is Fault.CUT
        assert schedule.fault("/b/plain", 0.0) is None

    def test_nothing_breaks_after_it_was_told_to_be_calm(self):
        schedule = Schedule(1, dict.fromkeys(Fault, 0.1), 0.0, storms=True)
        schedule.calm = True
        assert {schedule.fault("/fault-hang", float(i)) for i in range(100)} == {None}


def test_other_checksums_are_never_the_same_ones():
    head = b'HTTP/1.1 200 OK\r\nETag: "0123456789abcdef"\r\nx-amz-checksum-crc32c: AAAAAA==\r\n\r\n'
    changed = Reply(head, b"", 200, "PUT", keeps_alive=True).with_other_checksums()
    assert len(changed) == len(head)
    assert b'"0123456789abcdef"' not in changed
    assert b"AAAAAA==" not in changed
