"""The doctor beside a running daemon and a real MinIO."""

import json
import subprocess
import sys

import pytest

from ingestd.testing.daemon_process import DaemonProcess


def doctor(config_path, **environ):
    argv = [sys.executable, "-m", "ingestd", "doctor", "--json", "--config", config_path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environ or None)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def of(findings, check):
    return [finding for finding in findings if finding["check"] == check]


@pytest.mark.minio
def test_a_running_daemon_and_its_store_are_well_and_a_wrong_secret_is_a_problem(
    tmp_path, minio_server, bucket
):
    minio = {
        "url": minio_server.url, "access_key": minio_server.access_key, "secret_key": minio_server.secret_key,
        "bucket_raw_iq": bucket,
    }  # fmt: skip
    with DaemonProcess(tmp_path, {"minio": minio, "spool": {"min_free_bytes": 0}}) as daemon:
        daemon.health()
        code, findings = doctor(daemon.config_path)
        # The bucket is made by the daemon's first contact, which may be later than its answer.
        if code:
            daemon.wait_settled()
            code, findings = doctor(daemon.config_path)
        assert code == 0, findings
        assert all("answers" in finding["text"] for finding in of(findings, "sockets"))
        # A second finding there may be on a slow disk: that a put takes long.
        store, *_ = of(findings, "store")
        assert "checksum crc32c, conflict check if-none-match" in store["text"]
    daemon = DaemonProcess(tmp_path / "wrong", {"minio": {**minio, "secret_key": "not-the-secret"}})
    daemon.start(wait=False)
    daemon.stop()
    code, findings = doctor(daemon.config_path)
    assert code == 1
    (store,) = of(findings, "store")
    assert store["level"] == "problem"
    assert "minio.secret_key" in store["advice"]
    assert "not-the-secret" not in json.dumps(findings)
