"""Frames, the null store and the rivals: what is measured does what it says, with few frames."""

import http.client
import io
import json
import mmap
import os

import numpy as np
import pytest

from ingestd.errors import StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.storage.minio import MinioStore
from ingestd.storage.port import Body
from ingestd.testing.bench import contenders
from ingestd.testing.bench.catalog import CatalogBench
from ingestd.testing.bench.frames import FrameMaker, npy_object
from ingestd.testing.bench.inotify import Appearances
from ingestd.testing.bench.machine import about
from ingestd.testing.bench.runs import burst, latency, plan_of, throughput
from ingestd.testing.bench.targets import MinioTarget, NullTarget
from ingestd.testing.process_tree import minor_faults
from ingestd.testing.waiting import wait_until


@pytest.fixture(scope="module")
def null(tmp_path_factory):
    with NullTarget(str(tmp_path_factory.mktemp("null") / "log")) as target:
        yield target


@pytest.fixture
def null_store(null):
    store = MinioStore(f"http://127.0.0.1:{null.port}", "key", "secret", "some-bucket")
    store.probe()
    yield store
    store.close()


def body_of(content):
    return Body((content,), crc32c(content))


@pytest.mark.parametrize("k", [0, 6, 7, 699_999])
def test_a_patched_frame_is_a_frame_of_its_node(k):
    plan = plan_of(1000)
    maker = FrameMaker(plan, epoch=2**52 + 5)
    buffer = maker.buffer(k % 7)
    maker.patch(buffer, 3 * 7 + k % 7)
    maker.patch(buffer, k)
    parsed = wire.parse(bytes(buffer))
    assert (parsed.task_id, parsed.websdr_id) == (plan.task_id(k), k % 7 + 1)
    assert (parsed.node, parsed.epoch, parsed.seq) == (f"node-{k % 7 + 1}", 2**52 + 5, k // 7)
    assert bytes(parsed.samples) == plan.samples()
    assert set(parsed.metrics) == {"snr_db", "frequency_offset_hz", "power_dbm"}


def test_frames_without_figures_have_no_metrics():
    buffer = FrameMaker(plan_of(100, figures=False), 2**52).buffer(0)
    assert wire.parse(bytes(buffer)).metrics == {}


def test_the_daemons_probe_finds_a_store_that_checks_and_refuses(null_store):
    assert null_store.profile.checksum == "crc32c"
    assert null_store.profile.conflict_check == "if-none-match"


def test_the_null_store_takes_large_bodies_and_keeps_names(null, null_store):
    content = bytes(3_000_000)
    assert null_store.put_new("sessions/large.npy", body_of(content)).created
    assert not null_store.put_new("sessions/large.npy", body_of(content)).created
    assert "sessions/large.npy" in null.listed("")
    assert null_store.head("sessions/not-there.npy") is None


def test_the_null_store_refuses_a_small_body_with_a_wrong_checksum(null_store):
    with pytest.raises(StoreCorrupt):
        null_store.put("sessions/wrong.npy", Body((b"small",), crc32c(b"small") ^ 1))


def test_the_null_store_answers_requests_that_come_in_one_piece(null):
    connection = http.client.HTTPConnection("127.0.0.1", null.port, timeout=10)
    for number in range(3):
        connection.request("PUT", f"/bucket/sessions/piece-{number}", body=b"x" * 5000)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200
    connection.close()


def test_what_appears_in_a_directory_is_seen_with_its_time(tmp_path):
    with Appearances([str(tmp_path)]) as appearances:
        (tmp_path / "one").mkdir()
        (tmp_path / "elsewhere").write_bytes(b"")
        wait_until(lambda: len(appearances.times_ns) == 2)
    assert set(appearances.times_ns) == {str(tmp_path / "one"), str(tmp_path / "elsewhere")}


@pytest.mark.parametrize(
    "contender", [contenders.naive(1), contenders.ceiling(2, 2), contenders.guide()], ids=lambda one: one.name
)
@pytest.mark.minio
def test_a_rival_stores_the_right_pairs_on_minio(contender, minio_server, tmp_path):
    pytest.importorskip("boto3")
    plan, target = plan_of(1000), MinioTarget(minio_server)
    values = throughput(contender, target, plan, str(tmp_path), n_warm=7, n_frames=14)
    assert values["missing_objects"] == 0
    store = target.store(plan.run)
    for k in range(21):
        npy_key, metadata_key = plan.keys(k)
        assert store.get(npy_key, 10**6) == npy_object(plan.samples())
        json.loads(store.get(metadata_key, 10**6))
    store.close()


@pytest.mark.parametrize(
    "contender", [contenders.plain_floor(), contenders.naive(1), contenders.ours()], ids=lambda one: one.name
)
def test_a_run_on_the_null_store_counts_every_pair(contender, null, tmp_path):
    values = throughput(contender, null, plan_of(20_000), str(tmp_path), n_warm=7, n_frames=14)
    assert values["missing_objects"] == 0
    assert values["frames_per_s"] > 0


@pytest.mark.minio
def test_the_floor_stores_the_right_bytes(minio_server, tmp_path):
    plan, target = plan_of(1000), MinioTarget(minio_server)
    throughput(contenders.plain_floor(), target, plan, str(tmp_path), n_warm=7, n_frames=7)
    store = target.store(plan.run)
    found = np.load(io.BytesIO(store.get(plan.keys(13)[0], 10**6)))
    store.close()
    assert found.tobytes() == plan.samples()


def test_latency_and_burst_are_from_push_to_the_second_object(null, tmp_path):
    paced = latency(contenders.plain_floor(), null, plan_of(1000), str(tmp_path / "a"), rate=200, n_frames=28)
    assert 0 < paced["p50_ms"] <= paced["p99_ms"] <= paced["max_ms"] < 5000
    together = burst(
        contenders.plain_floor(), null, plan_of(1000), str(tmp_path / "b"), n_bursts=3, gap_s=0.05
    )
    assert 0 < together["p50_ms"] <= together["max_ms"] < 5000


def test_a_catalog_that_was_filled_by_sql_is_answered_from(tmp_path):
    values = CatalogBench(str(tmp_path), 7000).ask()
    assert 0 < values["session_p50_ms"] <= values["p99_ms"]


def test_first_touches_of_memory_are_counted_as_minor_faults():
    before = minor_faults(os.getpid())
    with mmap.mmap(-1, 400 * mmap.PAGESIZE) as pages:
        # No huge pages: one touch each.
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1
    assert minor_faults(os.getpid()) >= before + 400


def test_what_ran_where_is_written_down(tmp_path, minio_binary):
    binary = tmp_path / "minio"
    binary.write_bytes(
        b"\0path\tgithub.com/minio/minio\nmod\tgithub.com/minio/minio\tv0.0.0-2025-abc\th1:x\n"
    )
    assert about(str(tmp_path), str(binary), 1, short=True)["versions"]["minio server"] == "v0.0.0-2025-abc"
    found = about(str(tmp_path), minio_binary, 3, short=False)
    assert found["versions"]["pyzmq"]
    assert found["machine"]["file_system"]
    assert (found["rounds"], found["short"]) == (3, False)
