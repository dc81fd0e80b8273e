"""`ingestd` and `ingestctl` as subprocesses against a real daemon, as a person or a script would call them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import free_port, wait_until

BIN = Path(sys.executable).parent


def run(*arguments, stdin=None, environ=None, timeout=60):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
    return subprocess.run(
        [BIN / arguments[0], *map(str, arguments[1:])],
        input=stdin, capture_output=True, timeout=timeout, check=False, env=clean | (environ or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def daemon(minio_binary, tmp_path_factory):
    """One daemon on a real MinIO for all that only asks and sends."""
    from ingestd.testing.minio_server import MinioServer

    directory = tmp_path_factory.mktemp("commands")
    with MinioServer(directory / "minio", minio_binary) as server:
        settings = {
            "uploader": {"count": 1},
            "spool": {"min_free_bytes": 0},
            "ingest": {"max_frame_bytes": 2**20},
        }
        with DaemonProcess(directory / "daemon", settings, server.environment()) as running:
            yield running


def ctl(daemon, *arguments, **kwargs):
    return run("ingestctl", "--endpoint", daemon.query_endpoint, *arguments, **kwargs)


def push(daemon, *arguments, **kwargs):
    return ctl(daemon, "push", "--ingest", daemon.ingest_endpoint, *arguments, **kwargs)


def as_json(done):
    assert done.returncode in (0, 75), done.stderr
    return json.loads(done.stdout)


@pytest.mark.minio
class TestIngestctl:
    def test_a_test_tone_ends_in_stored_as(self, daemon):
        done = push(daemon, "--test-tone", "--task-id", "tone")
        assert done.returncode == 0, done.stderr
        assert b"stored as s3://heimdall-raw-iq/sessions/tone/" in done.stdout

    def test_a_test_tone_without_a_daemon_ends_in_no_answer(self):
        done = run(
            "ingestctl", "--endpoint", f"tcp://127.0.0.1:{free_port()}", "--timeout", "1",
            "push", "--test-tone", "--ingest", f"tcp://127.0.0.1:{free_port()}",
        )  # fmt: skip
        assert done.returncode == 69
        assert b"no answer from tcp://127.0.0.1:" in done.stderr

    def test_bytes_of_rtl_sdr_come_in_over_standard_input(self, daemon):
        raw = np.random.default_rng(1).integers(0, 256, 2 * 10_000, dtype=np.uint8)
        done = push(
            daemon, "-", "--datatype", "cu8", "--task-id", "stdin", "--websdr-id", 5, "--frequency-mhz", 868.95,
            "--sample-rate-hz", 1_600_000, "--time", "2026-11-23T12:00:00.123456789Z", stdin=raw.tobytes(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        row = as_json(ctl(daemon, "--json", "measurement", "stdin", 5))
        assert row["source_datatype"] == "cu8"
        assert row["timestamp_ns"] % 10**9 == 123_456_789
        assert row["frequency_mhz"] == 868.95

    def test_a_long_recording_is_sent_in_chunks_with_exact_stamps(self, daemon, recordings):
        done = push(
            daemon,
            recordings / "dcf77_20171127T104156Z_DF0KL.sigmf-meta",
            "--task-id",
            "long",
            "--websdr-id",
            2,
        )
        assert done.returncode == 0, done.stderr
        rows = as_json(ctl(daemon, "--json", "measurements", "--task-id", "long"))["measurements"]
        rows.sort(key=lambda row: row["chunk"])
        assert [row["chunk"] for row in rows] == list(range(len(rows)))
        assert len(rows) >= 3
        assert sum(row["samples_count"] for row in rows) == 351_744
        first_ns, n_before = rows[0]["timestamp_ns"], 0
        for row in rows:
            assert abs(row["timestamp_ns"] - first_ns - n_before * 1e9 / row["sample_rate_hz"]) <= 0.51
            n_before += row["samples_count"]

    def test_what_is_missing_is_a_usage_error_that_names_it(self, daemon):
        done = push(daemon, "-", "--datatype", "cu8", "--task-id", "t", "--websdr-id", 1, stdin=b"\x00\x01")
        assert done.returncode == 2
        for name in (b"--frequency-hz", b"--sample-rate-hz", b"--time"):
            assert name in done.stderr

    def test_big_endian_samples_are_refused_by_name(self, daemon):
        done = push(
            daemon, "-", "--datatype", "ci16_be", "--task-id", "t", "--websdr-id", 1, "--frequency-hz", 1, "--time", "now",
            "--sample-rate-hz", 1, stdin=b"\x00" * 8,
        )  # fmt: skip
        assert done.returncode == 2
        assert b"ci16_be" in done.stderr
        assert b"ci16_le" in done.stderr

    def test_get_brings_samples_and_metadata_back(self, daemon, tmp_path):
        sent = noise("fetched", 7, n_samples=5000)
        daemon.push(sent)
        wait_until(lambda: ctl(daemon, "measurement", "fetched", 7).returncode == 0, what="the measurement")
        wait_until(
            lambda: as_json(ctl(daemon, "--json", "measurement", "fetched", 7))["state"] == "stored",
            what="stored",
        )
        assert ctl(daemon, "get", "fetched", 7, "-o", tmp_path / "iq.npy").returncode == 0
        assert np.load(tmp_path / "iq.npy", allow_pickle=False).tobytes() == bytes(sent.samples)
        metadata = ctl(daemon, "get", "fetched", 7, "--metadata", "-o", "-")
        assert json.loads(metadata.stdout)["timestamp_ns"] == sent.timestamp_ns
        assert ctl(daemon, "get", "nothing", 7).returncode == 3

    @pytest.mark.parametrize(
        "command", ["health", "stats", "sessions", "measurements", "nodes", "failed", "rejected"]
    )
    def test_every_listing_speaks_json_and_tables(self, daemon, command):
        assert isinstance(as_json(ctl(daemon, "--json", command)), dict)
        assert ctl(daemon, command).returncode in (0, 75)

    def test_confirm_and_url_answer(self, daemon):
        assert as_json(ctl(daemon, "--json", "confirm", "nobody", 1))["accepted_upto"] == 0
        assert push(daemon, "--test-tone", "--task-id", "answered").returncode == 0
        (stored,) = as_json(ctl(daemon, "--json", "session", "answered"))["stored_measurements"]
        url = ctl(daemon, "url", "answered", stored["websdr_id"])
        assert url.stdout.startswith(b"http://127.0.0.1:")

    def test_health_of_nobody_is_69(self):
        done = run("ingestctl", "--endpoint", f"tcp://127.0.0.1:{free_port()}", "--timeout", "0.5", "health")
        assert done.returncode == 69


class TestIngestd:
    def test_a_failed_entry_is_requeued_beside_the_live_daemon(self, tmp_path):
        daemon = DaemonProcess(
            tmp_path,
            {"storage": {"on_conflict": "reject"}, "spool": {"min_free_bytes": 0}, "uploader": {"count": 1}},
        )
        with daemon:
            daemon.push(noise("r", seed=1))
            daemon.wait_stored(1)
            daemon.push(noise("r", seed=2))
            failed = wait_until(
                lambda: as_json(ctl(daemon, "--json", "failed"))["failed"], what="the conflict to fail"
            )
            assert failed[0]["reason"] == "conflict"
            wait_until(
                lambda: ctl(daemon, "health").returncode == 75, what="health to say so (a second at most)"
            )
            objects = Path(daemon.state_directory, "objects", "heimdall-raw-iq", "sessions", "r")
            for path in objects.iterdir():
                path.unlink()
            done = run("ingestd", "requeue", "--all", "--config", daemon.config_path)
            assert done.stdout.decode().split() == [failed[0]["entry"]]
            wait_until(lambda: len(list(objects.iterdir())) == 2, what="the requeued entry to be stored")
            wait_until(lambda: ctl(daemon, "health").returncode == 0, what="health to be good again")

    def test_rebuild_catalog_needs_the_daemon_stopped_and_answers_the_same(self, tmp_path):
        daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}, "uploader": {"count": 1}})
        with daemon:
            daemon.push(*(noise(f"s-{i % 3}", i, seed=i) for i in range(12)), noise("s-0", 0, seed=99))
            daemon.wait_settled()
            before = answers(daemon)
            live = run("ingestd", "rebuild-catalog", "--config", daemon.config_path)
            assert live.returncode == 1
            assert b"stopped" in live.stderr
        Path(daemon.state_directory, "catalog.sqlite3").write_bytes(b"no database")
        done = run("ingestd", "rebuild-catalog", "--config", daemon.config_path)
        assert done.returncode == 0, done.stderr
        assert b"13 measurements" in done.stdout
        with daemon:
            assert answers(daemon) == before

    def test_a_second_signal_kills(self, tmp_path):
        daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}})
        daemon.start()
        popen = daemon.popen
        popen.send_signal(signal.SIGTERM)
        popen.send_signal(signal.SIGINT)
        assert popen.wait(10) != 78
        daemon.stop()

    @pytest.mark.parametrize(
        ("environ", "arguments", "named"),
        [
            ({"INGESTD_MINIO__URI": "http://x:1"}, (), b"INGESTD_MINIO__URL"),
            ({}, ("--config", "/nowhere/config.yaml"), b"/nowhere/config.yaml"),
            ({}, ("--set", "spool.durabilty=disk"), b"spool.durability"),
        ],
        ids=["unknown variable", "missing file", "unknown key"],
    )
    def test_the_three_silent_traps_are_exit_78_with_the_right_name(self, environ, arguments, named):
        done = run("ingestd", "check-config", *arguments, environ=environ)
        assert done.returncode == 78
        assert named in done.stderr


def answers(daemon):
    """What the catalog says of its measurements, without what only the first acceptance knows."""
    with daemon.client() as client:
        rows = client.measurements(limit=1000)["measurements"]
        sessions = client.sessions(limit=1000)["sessions"]
    forgotten = ("accepted_at_ns", "stored_at_ns", "entry", "etag")
    return (
        sorted(
            json.dumps({k: v for k, v in row.items() if k not in forgotten}, sort_keys=True) for row in rows
        ),
        {
            s["task_id"]: (s["measurements_count"], s["stored"], s["size_bytes"], s["first_timestamp_utc"])
            for s in sessions
        },
    )


def test_the_demo_ends_with_what_was_stored_and_its_time_differences(tmp_path):
    """scripts/run without its setting up: every session whole, measured differences beside the true ones, exit 0."""
    demo = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
    done = subprocess.run(
        [sys.executable, demo, "--seconds", "3", "--interval", "1", "--directory", tmp_path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False, env=clean,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 of 3") == 3
    assert "sim-1 - sim-2" in done.stdout
    assert "everything that was accepted is stored" in done.stdout
