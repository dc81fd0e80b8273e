"""The examples of the user's guide as they stand, `src` replaced by `ingestd`, against a real MinIO."""

import datetime as dt
import os
import subprocess
import sys

import numpy as np
import pytest

from ingestd.catalog import Catalog, create
from ingestd.catalog.rebuild import RebuildReport, refill
from ingestd.formats import metadata as document_format
from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.minio_client import MinIOClient

pytestmark = pytest.mark.minio

#: As a user types it: settings from the environment, nothing else.
GUIDE = """
import numpy as np
from ingestd.config import settings
from ingestd.storage.minio_client import MinIOClient
from ingestd.tasks.acquire_iq import save_measurements_to_minio

client = MinIOClient(
    endpoint_url=settings.minio_url,
    access_key=settings.minio_access_key,
    secret_key=settings.minio_secret_key,
    bucket_name=settings.minio_bucket_raw_iq,
)
assert client.ensure_bucket_exists()

iq_data = (np.random.randn(125000) + 1j * np.random.randn(125000)).astype(np.complex64)
metadata = {
    "frequency_mhz": 145.5,
    "sample_rate_khz": 12.5,
    "samples_count": 125000,
    "timestamp_utc": "2026-11-23T12:00:00Z",
    "metrics": {"snr_db": 15.5, "frequency_offset_hz": -50.0, "power_dbm": -80.0},
}
success, s3_path = client.upload_iq_data(iq_data=iq_data, task_id="task-abc-123", websdr_id=1, metadata=metadata)
assert success, s3_path
assert s3_path == "s3://" + settings.minio_bucket_raw_iq + "/sessions/task-abc-123/websdr_1.npy", s3_path

success, loaded = client.download_iq_data(task_id="task-abc-123", websdr_id=1)
assert success, loaded
assert np.array_equal(loaded, iq_data)

measurements = client.get_session_measurements(task_id="task-abc-123")
assert measurements[1]["size_bytes"] == 1000128
assert measurements[1]["metadata_path"].endswith("/websdr_1_metadata.json")

health = client.health_check()
assert health["status"] == "healthy" and health["accessible"] and health["error"] is None

result = save_measurements_to_minio("task-def-456", [
    {"websdr_id": 1, "iq_data": iq_data, "frequency_mhz": 145.5, "sample_rate_khz": 12.5,
     "timestamp_utc": "2026-11-23T12:00:00Z", "snr_db": 12.0},
    {"websdr_id": 2, "iq_data": iq_data.tobytes(), "frequency_mhz": 145.5},
    {"websdr_id": 3, "iq_data": [1 + 1j, 0.5 - 0.5j]},
    {"websdr_id": 4, "iq_data": [[1.0, 2.0], [3.0, 4.0]], "operator": "dl0abc"},
    {"websdr_id": 5, "iq_data": "not samples"},
])
assert result["status"] == "PARTIAL_FAILURE", result
assert (result["measurements_count"], result["successful"], result["failed"]) == (5, 4, 1)
assert [row["websdr_id"] for row in result["stored_measurements"]] == [1, 2, 3, 4]
assert all(row["status"] == "SUCCESS" for row in result["stored_measurements"])
assert result["stored_measurements"][2]["samples_count"] == 2
assert "iq_data" in result["failed_measurements"][0]["error"]
client.close()
print("the guide holds")
"""


@pytest.fixture
def client(minio_server, bucket):
    made = MinIOClient(minio_server.url, minio_server.access_key, minio_server.secret_key, bucket_name=bucket)
    yield made
    made.close()


def stored_document(store, task_id, websdr_id):
    return document_format.decode(store.get(object_keys(Identity(task_id, websdr_id, None)).metadata, 2**20))


def test_the_guides_examples_run_as_they_stand(minio_server, minio_store):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
    environ = clean | minio_server.environment() | {"MINIO_BUCKET_RAW_IQ": minio_store.bucket}
    done = subprocess.run(
        [sys.executable, "-c", GUIDE], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the guide holds"
    loose = stored_document(minio_store, "task-def-456", 1)
    assert tuple(loose) == document_format.KEYS
    assert loose["metrics"]["snr_db"] == 12.0
    assert loose["metrics_source"]["snr_db"] == "node"
    timeless = stored_document(minio_store, "task-def-456", 2)
    assert timeless["sample_rate_hz"] is None
    assert timeless["timestamp_utc"] is None
    assert timeless["frequency_hz"] == 145.5e6
    assert stored_document(minio_store, "task-def-456", 4)["extras"] == {"operator": "dl0abc"}


def test_no_metadata_still_writes_the_marker(client, minio_store):
    assert client.upload_iq_data(np.ones(4, np.complex64), "bare", 1, None) == (
        True, f"s3://{minio_store.bucket}/sessions/bare/websdr_1.npy",
    )  # fmt: skip
    assert stored_document(minio_store, "bare", 1)["samples_count"] == 4


def test_other_content_under_the_same_name_is_kept_beside_it_and_listed(client):
    one, other = np.ones(8, np.complex64), np.zeros(8, np.complex64)
    first = client.upload_iq_data(one, "twice", 1, {})
    assert client.upload_iq_data(one, "twice", 1, {}) == first
    success, path = client.upload_iq_data(other, "twice", 1, {})
    assert success
    assert path != first[1]
    assert client.upload_iq_data(one, "twice", 1, {"chunk": 3})[0]
    listed = client.get_session_measurements("twice")[1]
    assert listed["iq_data_path"] == first[1]
    assert [row["iq_data_path"] for row in listed["copies"]] == [path]
    assert listed["copies"][0]["metadata_path"].endswith("_metadata.json")
    assert [row["chunk"] for row in listed["chunks"]] == [3]
    copy = listed["copies"][0]["copy"]
    assert np.array_equal(client.download_iq_data("twice", 1, copy=copy)[1], other)
    assert np.array_equal(client.download_iq_data("twice", 1)[1], one)


def test_a_datetime_is_exact(client, minio_store):
    moment = dt.datetime(2026, 11, 23, 13, 0, 0, 123456, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert client.upload_iq_data(np.ones(1, np.complex64), "when", 1, {"timestamp_utc": moment})[0]
    assert stored_document(minio_store, "when", 1)["timestamp_utc"] == "2026-11-23T12:00:00.123456000Z"


@pytest.mark.parametrize(
    ("iq_data", "task_id", "websdr_id", "metadata", "named"),
    [
        (np.ones(4, np.complex64), "../etc", 1, {}, "task_id"),
        (np.ones(4, np.complex64), "t", -1, {}, "websdr_id"),
        (np.ones(4, np.complex64), "t", "1", {}, "websdr_id"),
        (np.ones(4, np.complex64), "t", 1, {"sample_rate_khz": 0}, "sample_rate_khz"),
        (np.ones(4, np.complex64), "t", 1, {"samples_count": 5}, "samples_count"),
        (np.ones(4, np.complex64), "t", 1, {"timestamp_utc": "yesterday"}, "timestamp_utc"),
        (np.ones(4, np.complex64), "t", 1, {"note": object()}, "metadata"),
        (np.ones(4, np.complex64), "t", 1, {"note": "x" * 5000}, "extras"),
        (np.ones((2, 3), np.complex64), "t", 1, {}, "iq_data"),
        ([], "t", 1, {}, "iq_data"),
        (b"1234567", "t", 1, {}, "iq_data"),
        (None, "t", 1, {}, "iq_data"),
        (np.ones(4, np.complex64), "t", 1, 5, "metadata"),
    ],
)
def test_wrong_input_comes_back_as_a_reason_that_names_the_field(
    client, iq_data, task_id, websdr_id, metadata, named
):
    success, reason = client.upload_iq_data(iq_data, task_id, websdr_id, metadata)
    assert success is False
    assert named in reason
    assert len(reason) < 1000


def test_a_store_that_refuses_is_a_reason_and_no_exception(minio_server, bucket):
    client = MinIOClient(minio_server.url, minio_server.access_key, "wrong-secret-key", bucket)
    success, reason = client.upload_iq_data(np.ones(4, np.complex64), "t", 1, {})
    assert success is False
    assert "SignatureDoesNotMatch" in reason
    assert "wrong-secret-key" not in reason
    assert client.ensure_bucket_exists() is False
    health = client.health_check()
    assert (health["status"], health["accessible"], health["bucket"]) == ("unhealthy", False, bucket)
    assert health["error"]
    assert client.download_iq_data("t", 1)[0] is False
    client.close()


def test_what_is_not_there_is_a_reason(client):
    client.ensure_bucket_exists()
    success, reason = client.download_iq_data("nowhere", 7)
    assert success is False
    assert "sessions/nowhere/websdr_7.npy does not exist" in reason
    assert client.get_session_measurements("nowhere") == {}


def test_a_daemons_rebuild_lists_what_the_guides_class_stored(client, minio_store, tmp_path):
    client.upload_iq_data(np.ones(100, np.complex64), "shared", 1, {"frequency_mhz": 1.0})
    path = str(tmp_path / "catalog.sqlite3")
    create(path)
    with Catalog.open(path, bucket=minio_store.bucket) as catalog:
        report = refill(catalog, minio_store, RebuildReport())
        assert report.stored == 1
        assert catalog.measurement("shared", 1)["samples_count"] == 100
