"""`ingestd verify` beside a real daemon: what went from its store is found, and put back from kept entries."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from ingestd.formats.measurement import object_keys
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until

BUCKET = "heimdall-raw-iq"

#: Larger than what MinIO keeps inside its own metadata file: these samples are a file of their own.
N_SAMPLES = 50_000

SENT = [noise("kept", i, n_samples=N_SAMPLES) for i in range(5)]
KEYS = [object_keys(one.identity) for one in SENT]


def verify(daemon, *arguments, environ=None):
    """Exit code, findings by key, and stderr."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "ingestd", "verify", "--json", "--config", daemon.config_path, *arguments],
        capture_output=True, timeout=120, check=False, env=clean | (environ or {}), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {one["key"]: one for one in found}, done.stderr.decode()


def damage(found):
    return {key: one["damage"] for key, one in found.items()}


@contextlib.contextmanager
def filled(tmp_path, retain_s, environ=None):
    """A daemon that has stored everything, still running."""
    settings = {"uploader": {"count": 1}, "spool": {"min_free_bytes": 0, "retain_s": retain_s}}
    with DaemonProcess(tmp_path / "daemon", settings, environ) as daemon:
        daemon.push(*SENT)
        assert daemon.wait_settled()["stored"] == len(SENT)
        yield daemon


class DirectoryBucket:
    """The objects of the directory store, as files."""

    def __init__(self, daemon):
        self._base = Path(daemon.state_directory, "objects", BUCKET)

    def path(self, key):
        return self._base / key

    def flip(self, key):
        content = bytearray(self.path(key).read_bytes())
        content[-1] ^= 1
        self.path(key).write_bytes(content)

    def contents(self):
        return {key: self.path(key).read_bytes() for keys in KEYS for key in keys}


EXPECTED = {KEYS[0].npy: "missing", KEYS[1].npy: "differs", KEYS[2].metadata: "missing"}


def spoil(bucket):
    bucket.path(KEYS[0].npy).unlink()
    bucket.flip(KEYS[1].npy)
    bucket.path(KEYS[2].metadata).unlink()


def test_what_went_is_found_and_put_back_to_the_byte_while_the_daemon_runs(tmp_path):
    with filled(tmp_path, retain_s=3600) as daemon:
        bucket = DirectoryBucket(daemon)
        before = bucket.contents()
        assert verify(daemon, "--deep")[:2] == (0, {})
        spoil(bucket)
        code, found, said = verify(daemon, "--deep")
        assert (code, damage(found)) == (1, EXPECTED)
        assert "5 pairs checked: 2 objects missing, 1 different, 0 unreadable; 0 repaired" in said
        code, found, _ = verify(daemon, "--repair", "--deep")
        assert (code, damage(found)) == (0, EXPECTED)
        assert all(one["repaired"] for one in found.values())
        assert bucket.contents() == before
        assert verify(daemon, "--deep")[:2] == (0, {})
        assert daemon.health()["status"] == "healthy"


def test_without_kept_entries_the_samples_stay_lost_and_it_says_why(tmp_path):
    with filled(tmp_path, retain_s=0) as daemon:
        bucket = DirectoryBucket(daemon)
        spoil(bucket)
        code, found, _ = verify(daemon, "--repair", "--deep")
        assert (code, damage(found)) == (1, EXPECTED)
        for key in (KEYS[0].npy, KEYS[1].npy):
            assert found[key]["repaired"] is False
            assert "spool.retain_s" in found[key]["why_not"]
        assert found[KEYS[2].metadata]["repaired"], "metadata is made from its row"
        left = {KEYS[0].npy: "missing", KEYS[1].npy: "differs"}
        assert damage(verify(daemon, "--deep")[1]) == left


def test_a_daemon_that_is_stopped_and_a_later_since(tmp_path):
    with filled(tmp_path, retain_s=3600) as daemon:
        bucket = DirectoryBucket(daemon)
    before = bucket.contents()
    spoil(bucket)
    assert verify(daemon, "--since", "2200-01-01T00:00:00Z")[:2] == (0, {})
    assert verify(daemon, "--since", "2020-01-01T00:00:00Z")[0] == 1
    assert verify(daemon, "--repair")[0] == 0
    assert bucket.contents() == before


def test_the_scrub_shows_in_health_what_it_finds(tmp_path):
    with filled(tmp_path, 3600) as daemon:
        assert daemon.health()["scrub"] is None
        bucket = DirectoryBucket(daemon)
    spoil(bucket)
    settings = {"uploader": {"count": 1}, "spool": {"min_free_bytes": 0}, "scrub": {"pairs_per_s": 50}}
    with DaemonProcess(tmp_path / "daemon", settings) as daemon:
        progress = wait_until(
            lambda: (s := daemon.health()["scrub"])["last_pass_utc"] and s, what="the first pass"
        )
        del progress["last_pass_utc"]
        assert progress == {"checked": 5, "of": 5, "missing": 2, "differing": 1, "unreadable": 0}
        assert daemon.health()["status"] == "healthy"
        assert daemon.log_tail(10**6).count("scrub_found") == 3
    assert not bucket.path(KEYS[0].npy).exists()


@pytest.mark.minio
def test_the_same_on_a_real_minio(own_minio, tmp_path):
    environ = own_minio.environment()
    sdk = Minio(f"127.0.0.1:{own_minio.port}", own_minio.access_key, own_minio.secret_key, secure=False)

    def contents():
        return {key: sdk.get_object(BUCKET, key).data for keys in KEYS for key in keys}

    with filled(tmp_path, 3600, environ) as daemon:
        before = contents()
        assert verify(daemon, "--deep", environ=environ)[:2] == (0, {})
        sdk.remove_object(BUCKET, KEYS[0].npy)
        rot(own_minio, KEYS[1].npy)
        sdk.remove_object(BUCKET, KEYS[2].metadata)
        code, found, _ = verify(daemon, environ=environ)
        assert (code, set(found)) == (1, {KEYS[0].npy, KEYS[2].metadata}), "HEAD does not read the bytes"
        code, found, said = verify(daemon, "--deep", environ=environ)
        assert code == 1, said
        assert damage(found) == EXPECTED | {KEYS[1].npy: "unreadable"}
        assert "5 pairs checked" in said
        code, found, said = verify(daemon, "--deep", "--repair", environ=environ)
        assert code == 0, said + repr(found)
        assert contents() == before
        assert verify(daemon, "--deep", environ=environ)[:2] == (0, {})


def rot(server, key):
    """Let a byte of an object's file rot under the server."""
    (part,) = Path(server.directory).glob(f"**/{BUCKET}/{key}/*/part.1")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


@pytest.mark.minio
def test_a_minio_that_is_down_is_an_error_and_no_finding(own_minio, tmp_path):
    environ = own_minio.environment()
    with filled(tmp_path, 0, environ) as daemon:
        own_minio.stop(kill=True)
        code, found, said = verify(daemon, "--repair", environ=environ)
        assert (code, found) == (75, {}), said
