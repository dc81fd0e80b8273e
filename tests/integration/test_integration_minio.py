"""The daemon before a real MinIO: real recordings, outages, wrong credentials."""

import base64
import contextlib
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from ingestd.formats.measurement import Identity, object_keys
from ingestd.node import Node
from ingestd.storage.minio import MinioStore
from ingestd.testing import tdoa
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.minio_server import MinioServer
from ingestd.testing.recordings import load, measurement
from ingestd.testing.waiting import free_port, wait_until

pytestmark = pytest.mark.minio

BUCKET = "heimdall-raw-iq"

#: Receivers of each event, and the time differences of ../shared/iq/README.md [ms].
EVENTS = {
    "dcf77-2017": ("20171127T104156Z", ("DF0KL", "F1JEK", "HB9RYZ")),
    "dcf77-2020": ("20200813T065220Z", ("HB9ODP", "JO51xl", "pa0rdt")),
}
TDOA_MS = {
    ("DF0KL", "F1JEK"): -1.229,
    ("DF0KL", "HB9RYZ"): +0.292,
    ("F1JEK", "HB9RYZ"): +1.521,
    ("HB9ODP", "JO51xl"): +0.438,
    ("HB9ODP", "pa0rdt"): -0.083,
    ("JO51xl", "pa0rdt"): -0.521,
}

#: ../shared/quality.md and README.md: snr_db, power_dbfs, peak_dbfs; with a time of their own where none was recorded.
OTHERS = {
    "adsb_modes1": (3.67, -14.19, 3.01),
    "adsb_test_1641427457780": (-0.98, -23.02, 1.51),
    "wmbus_868_625_S1": (11.53, -12.47, 0.38),
    "wmbus_868_95_T1": (6.27, -12.88, 3.01),
}


def settings(**spool):
    return {"uploader": {"count": 2}, "spool": {"min_free_bytes": 0} | spool}


@contextlib.contextmanager
def store_of(server):
    store = MinioStore(server.url, server.access_key, server.secret_key, BUCKET)
    with contextlib.closing(store):
        store.probe()
        yield store


def read_pair(store, task_id, websdr_id):
    keys = object_keys(Identity(task_id, websdr_id, None))
    npy, document = store.get(keys.npy, 2**26), store.get(keys.metadata, 2**20)
    assert npy is not None
    assert document is not None
    return np.frombuffer(npy, "<c8", offset=128), json.loads(document)


def all_keys(store):
    return [info.key for info in store.list("sessions/")]


@pytest.fixture(scope="module")
def trip(minio_binary, recordings, tmp_path_factory):
    """All ten, sent by confirmed nodes and read back from the store."""
    directory = tmp_path_factory.mktemp("trip")
    sent = {}
    with MinioServer(directory / "minio", minio_binary) as server:
        with DaemonProcess(directory / "daemon", settings(), server.environment()) as daemon:
            for task_id, (when, receivers) in EVENTS.items():
                for i, receiver in enumerate(receivers):
                    recording = load(recordings, f"dcf77_{when}_{receiver}")
                    sent[task_id, i] = measurement(recording, task_id, i)
            for i, name in enumerate(OTHERS):
                sent[name, i] = measurement(
                    load(recordings, name), name, i, timestamp_ns=1_641_427_457_780_000_000
                )
            for (_, websdr_id), one in sent.items():
                with Node(
                    daemon.ingest_endpoint,
                    websdr_id=websdr_id,
                    name=f"rx-{websdr_id}",
                    query_endpoint=daemon.query_endpoint,
                ) as node:
                    node.send_measurement(one)
            totals = daemon.wait_settled()
            with daemon.client() as client:
                sessions = {task_id: client.session(task_id) for task_id in EVENTS}
        with store_of(server) as store:
            stored = {key: read_pair(store, *key) for key in sent}
    return sent, stored, sessions, totals


class TestRecordings:
    """The ten real recordings through a real daemon into a real MinIO."""

    def test_bytes_nanoseconds_and_rates_come_back_identical(self, trip):
        sent, stored, _, totals = trip
        assert totals["stored"] == len(sent) == 10
        for key, one in sent.items():
            samples, document = stored[key]
            assert samples.tobytes() == bytes(one.samples)
            assert document["timestamp_ns"] == one.timestamp_ns
            assert document["sample_rate_hz"] == one.sample_rate_hz
            assert document["frequency_hz"] == one.frequency_hz
            assert document["samples_count"] == one.n_samples

    def test_the_sessions_are_successes(self, trip):
        for session in trip[2].values():
            assert session["status"] == "SUCCESS"
            assert session["successful"] == 3

    @pytest.mark.parametrize(("a", "b"), TDOA_MS)
    def test_tdoa_of_the_stored_objects_is_that_of_the_recordings(self, trip, a, b):
        _, stored, _, _ = trip
        task_id, (_, receivers) = next((k, v) for k, v in EVENTS.items() if a in v[1])
        one, other = (tdoa.Capture.from_objects(*stored[task_id, receivers.index(name)]) for name in (a, b))
        assert tdoa.tdoa_s(one, other) == pytest.approx(TDOA_MS[a, b] / 1e3, abs=25e-6)

    @pytest.mark.parametrize("name", OTHERS)
    def test_figures_of_the_other_recordings_are_the_reference_values(self, trip, name):
        _, stored, _, _ = trip
        snr_db, power_dbfs, peak_dbfs = OTHERS[name]
        samples, document = stored[name, list(OTHERS).index(name)]
        assert document["metrics"]["snr_db"] == pytest.approx(snr_db, abs=0.05)
        assert document["metrics"]["frequency_offset_hz"] is None
        assert document["metrics_source"]["snr_db"] == "ingestd"
        assert document["power_dbfs"] == pytest.approx(power_dbfs, abs=0.05)
        assert document["peak_dbfs"] == pytest.approx(peak_dbfs, abs=0.05)
        rails = np.maximum(np.abs(samples.real), np.abs(samples.imag)) >= 0.995
        assert document["clipped_fraction"] == pytest.approx(rails.mean(), abs=1e-6)


@pytest.mark.quiet
def test_minio_stopped_for_a_while_loses_nothing_and_health_says_so(own_minio, tmp_path):
    """30 s without the store, its server killed and started again."""
    with DaemonProcess(tmp_path / "daemon", settings(), own_minio.environment()) as daemon:
        daemon.push(*(noise(f"before-{i}") for i in range(5)))
        daemon.wait_stored(5)
        own_minio.stop(kill=True)
        stopped_s = time.monotonic()
        daemon.push(*(noise(f"meanwhile-{i}") for i in range(20)))
        wait_until(lambda: not daemon.health()["accessible"], what="health to notice")
        slowest_s = 0.0
        with daemon.client() as client:
            while time.monotonic() - stopped_s < 30:
                began_s = time.monotonic()
                health = client.health()
                slowest_s = max(slowest_s, time.monotonic() - began_s)
                assert health["status"] == "degraded"
                assert "store_unreachable" in {reason["code"] for reason in health["reasons"]}
                assert health["spool"]["accepting"]
                threading.Event().wait(0.1)
        assert slowest_s < 0.1
        assert daemon.stats()["accepted"] == 25
        own_minio.start()
        assert daemon.wait_settled()["stored"] == 25
        wait_until(lambda: daemon.health()["status"] == "healthy", what="healthy again")
    with store_of(own_minio) as store:
        keys = all_keys(store)
    assert len(keys) == 50
    assert not without_npy(keys)


def without_npy(keys):
    """Metadata whose .npy is not there."""
    return [key for key in keys if key.endswith("_metadata.json") and key[:-14] + ".npy" not in keys]


def test_minio_started_only_after_the_daemon(minio_binary, tmp_path):
    server = MinioServer(tmp_path / "minio", minio_binary, port=free_port())
    (tmp_path / "minio").mkdir()
    with DaemonProcess(tmp_path / "daemon", settings(), server.environment()) as daemon:
        daemon.push(*(noise(f"early-{i}") for i in range(10)))
        wait_until(lambda: daemon.stats()["accepted"] == 10, what="acceptance without a store")
        health = daemon.health()
        assert not health["accessible"]
        assert health["status"] == "degraded"
        with server:
            assert daemon.wait_settled()["stored"] == 10
            profile = wait_until(lambda: daemon.health()["store"], what="the profile")
            assert (profile["kind"], profile["checksum"], profile["conflict_check"]) == (
                "minio",
                "crc32c",
                "if-none-match",
            )


def test_wrong_credentials_are_named_and_mended_without_a_loss(own_minio, tmp_path):
    wrong = own_minio.environment() | {"MINIO_SECRET_KEY": "not-the-secret-at-all"}
    daemon = DaemonProcess(tmp_path / "daemon", settings(), wrong)
    with daemon:
        daemon.push(*(noise(f"locked-out-{i}") for i in range(10)))
        wait_until(lambda: daemon.stats()["accepted"] == 10, what="acceptance with wrong credentials")
        health = wait_until(
            lambda: next((h for h in [daemon.health()] if h["reasons"]), None), what="health to say so"
        )
        assert {reason["code"] for reason in health["reasons"]} == {"store_auth"}
        assert "not-the-secret-at-all" not in json.dumps(health)
        assert "not-the-secret-at-all" not in daemon.log_tail(10**6)
    mended = DaemonProcess(tmp_path / "daemon", settings(), own_minio.environment())
    with mended:
        assert mended.wait_settled()["stored"] == 10


def test_objects_carry_the_checksum_that_the_server_verified(own_minio, tmp_path):
    with DaemonProcess(tmp_path / "daemon", settings(), own_minio.environment()) as daemon:
        daemon.push(noise("checked"))
        daemon.wait_stored(1)
        with daemon.client() as client:
            row = client.measurement("checked", 1)
    with store_of(own_minio) as store:
        info = store.head(object_keys(Identity("checked", 1, None)).npy)
    assert info is not None
    assert base64.b64encode(info.crc32c.to_bytes(4, "big")).decode() == row["crc32c"]
    assert row["etag"] == info.etag
    assert row["s3_path"] == f"s3://{BUCKET}/sessions/checked/websdr_1.npy"


def test_a_lost_catalog_is_filled_again_from_the_bucket_while_the_daemon_runs(own_minio, tmp_path):
    daemon = DaemonProcess(tmp_path / "daemon", settings(), own_minio.environment())
    with daemon:
        daemon.push(*(noise(f"kept-{i}") for i in range(5)))
        daemon.wait_settled()
    for side in ("", "-wal", "-shm"):
        path = tmp_path / "daemon" / "state" / f"catalog.sqlite3{side}"
        path.unlink(missing_ok=True)
    with daemon:
        with daemon.client() as client:
            wait_until(
                lambda: len(client.measurements(state="stored")["measurements"]) == 5,
                what="the catalog to be filled",
            )
            assert client.session("kept-0")["status"] == "SUCCESS"
        daemon.push(noise("kept-0"))
        wait_until(lambda: daemon.stats()["duplicates"] == 1, what="a repeat to be known as one")


def policy(*actions):
    """An S3 policy for the bucket."""
    resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    statement = {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": resources}
    return {"Version": "2012-10-17", "Statement": [statement]}


def test_missing_rights_are_named_and_mended_while_the_daemon_runs(own_minio, tmp_path):
    admin = MinioAdmin(
        endpoint=f"127.0.0.1:{own_minio.port}",
        credentials=StaticProvider(own_minio.access_key, own_minio.secret_key),
        secure=False,
    )
    with store_of(own_minio) as store:
        store.check()
    admin.user_add("node-gateway", "a-secret-of-the-gateway")
    admin.policy_add("gateway", policy=policy("GetObject", "ListBucket"))
    admin.policy_set("gateway", user="node-gateway")
    environ = own_minio.environment() | {
        "MINIO_ACCESS_KEY": "node-gateway",
        "MINIO_SECRET_KEY": "a-secret-of-the-gateway",
    }
    with DaemonProcess(tmp_path / "daemon", settings(), environ) as daemon:
        daemon.push(*(noise(f"no-right-{i}") for i in range(5)))
        reasons = wait_until(lambda: daemon.health()["reasons"], what="health to say so")
        assert [reason["code"] for reason in reasons] == ["store_auth"]
        assert "s3:PutObject" in daemon.health()["error"]
        wait_until(lambda: daemon.stats()["accepted"] == 5, what="acceptance without rights")
        admin.policy_add("gateway", policy=policy("GetObject", "ListBucket", "PutObject", "DeleteObject"))
        assert daemon.wait_settled()["stored"] == 5
        wait_until(lambda: daemon.health()["status"] == "healthy", what="healthy again")


def test_a_bucket_that_vanishes_is_an_alarm_and_is_not_made_again_behind_the_operators_back(
    own_minio, tmp_path
):
    sdk = Minio(f"127.0.0.1:{own_minio.port}", own_minio.access_key, own_minio.secret_key, secure=False)
    with DaemonProcess(tmp_path / "daemon", settings(), own_minio.environment()) as daemon:
        wait_until(lambda: sdk.bucket_exists(BUCKET), what="the bucket to be made at the start")
        wait_until(lambda: daemon.health()["store"]["checksum"], what="the probe")
        sdk.remove_object(BUCKET, ".ingestd/probe")
        sdk.remove_bucket(BUCKET)
        os.kill(daemon.role_pids()["uploader-0"], signal.SIGKILL)
        daemon.push(*(noise(f"homeless-{i}") for i in range(5)))
        health = wait_until(lambda: (h := daemon.health()) and h["error"] and h, what="health to say so")
        assert "bucket" in health["error"].lower()
        assert not health["accessible"]
        assert not sdk.bucket_exists(BUCKET)
        sdk.make_bucket(BUCKET)
        assert daemon.wait_settled()["stored"] == 5
