"""A process dies, fails, writes short or stalls at each fault point of a real daemon: nothing accepted is lost.

Every test asserts that its fault happened, and the first one has a row for each point of the registry: a point that is
never reached fails.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from ingestd import faults
from ingestd.errors import IngestdError, Unavailable
from ingestd.formats.measurement import Identity, object_keys
from ingestd.node import Node
from ingestd.spool import EntryName
from ingestd.storage.minio import MinioStore
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.minio_server import MinioServer
from ingestd.testing.waiting import wait_until

pytestmark = pytest.mark.slow

SETTINGS = {
    "spool": {"min_free_bytes": 0},
    "uploader": {"count": 1, "threads": 2},
    "storage": {"on_conflict": "reject"},
}
N_FRAMES = 6

#: Reached in `ingestd requeue`, not in the daemon.
BY_HAND = {"requeue.renamed"}

#: Reached while the daemon starts, before any role does.
AT_START = {name for name in faults.POINTS if name.startswith("recover.")}

#: What brings a daemon to a point that nothing else does, before the fault itself.
ON_THE_WAY = {
    "give_back.renamed": "directory.write:EIO@1",
    "return.renamed": "claim.read:kill@1",
}

#: A body is sent in parts only where it goes over the network.
ON_S3 = {"upload.body"}


def fired(daemon):
    """Faults that happened, as the log has them."""
    lines = Path(daemon.log_path).read_text(errors="replace").splitlines()
    return [line.removeprefix("INGESTD_FAULT ") for line in lines if line.startswith("INGESTD_FAULT ")]


def frames(n_samples=2000, first=0, count=N_FRAMES):
    # Frames of one length: files are written over by no others.
    return [noise(f"point-{i:03d}", n_samples=n_samples, seed=i) for i in range(first, first + count)]


class Sender:
    """A confirmed node in a thread; `finish` raises what troubled it."""

    def __init__(self, daemon, measurements, pause_s=0.0):
        self.daemon, self.measurements, self.pause_s, self.trouble = daemon, measurements, pause_s, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            with Node(
                self.daemon.ingest_endpoint,
                websdr_id=1,
                name="n1",
                query_endpoint=self.daemon.query_endpoint,
                timeout_s=60,
            ) as node:
                for measurement in self.measurements:
                    node.send_measurement(measurement)
                    time.sleep(self.pause_s)
        except IngestdError as error:
            self.trouble = error

    def finish(self):
        self.thread.join(90)
        assert not self.thread.is_alive()
        assert self.trouble is None, self.trouble


def start_again_where_it_died(daemon):
    """The service manager's part: a supervisor that died is started again, without faults."""
    if daemon.popen is None or daemon.popen.poll() is not None:
        daemon._forget()
        daemon._environ.pop(faults.VARIABLE, None)
        daemon.start(wait=False)


def settle(daemon, sender):
    """Wait until everything is confirmed and nothing waits; restarts the daemon where it died."""
    deadline = time.monotonic() + 90
    while sender.thread.is_alive() and time.monotonic() < deadline:
        start_again_where_it_died(daemon)
        sender.thread.join(0.1)
    sender.finish()
    deadline = time.monotonic() + 60
    while True:
        start_again_where_it_died(daemon)
        try:
            daemon.wait_ready()
            return daemon.wait_settled(20.0)
        except (IngestdError, TimeoutError):
            # It may die at this very moment, with everything confirmed.
            if time.monotonic() > deadline:
                raise


def assert_all_stored(daemon, measurements, extra=0):
    """Exactly the pairs of these measurements, byte for byte, and nothing half done is left behind."""
    bucket = Path(daemon.state_directory, "objects", "heimdall-raw-iq")
    found = {str(p.relative_to(bucket)) for p in bucket.rglob("*") if p.is_file() and ".tmp" not in p.parts}
    keys = {m.task_id: object_keys(Identity(m.task_id, m.websdr_id, None)) for m in measurements}
    assert {key for pair in keys.values() for key in pair} <= found
    assert len(found) == 2 * (len(measurements) + extra)
    for m in measurements:
        assert np.load(bucket / keys[m.task_id].npy).tobytes() == bytes(m.samples)
        assert json.loads((bucket / keys[m.task_id].metadata).read_text())["timestamp_ns"] == m.timestamp_ns


def plant_rot(daemon):
    """An entry that is not what was accepted: it is what takes the way to failed/."""
    name = EntryName(1_790_000_000_000_000_000, 1, 0x12345678)
    new = Path(daemon.state_directory, "spool", "new")
    new.mkdir(parents=True, exist_ok=True)
    (new / str(name)).write_bytes(b"rotten")


def plant_no_room_for_spares(daemon):
    """Released entries are removed, because spare/ is full of what nobody there makes."""
    spare = Path(daemon.state_directory, "spool", "spare")
    for number in range(128):
        (spare / f"in-the-way-{number}").mkdir(parents=True)


def settings_for(armed):
    retain = {"retain_s": 3600} if armed.startswith("release.retained") else {}
    return SETTINGS | {"spool": SETTINGS["spool"] | retain}


def rows(of_the_receiver, of_others):
    """Faults of two processes at a time: each daemon takes a second to start, and they do not meet each other."""
    return list(zip_longest(of_the_receiver, of_others, fillvalue=""))


DEATHS = rows(
    [f"{name}:kill@1" for name in faults.POINTS if name.startswith(("accept.", "spare."))],
    [
        f"{ON_THE_WAY[name]},{name}:kill@1" if name in ON_THE_WAY else f"{name}:kill@1"
        for name in faults.POINTS
        if not name.startswith(("accept.", "spare.")) and name not in BY_HAND | ON_S3
    ],
)


@pytest.mark.parametrize(("receivers", "others"), DEATHS)
def test_a_process_that_dies_at_any_point_loses_nothing(tmp_path, receivers, others):
    daemon, measurements, totals = ordeal(tmp_path, receivers, others)
    with ended(daemon):
        rots = "fail." in others
        assert_all_stored(daemon, measurements)
        assert (totals["stored"], totals["failed"], totals["lost"]) == (len(measurements), int(rots), 0)
        assert_no_process_is_left_in_its_way(daemon, rots)


def ordeal(tmp_path, receivers, others):
    """Run a daemon whose processes meet these faults until everything is stored; all of them must have happened."""
    armed = [fault for fault in f"{receivers},{others}".split(",") if fault]
    daemon = DaemonProcess(tmp_path, settings_for(others), {faults.VARIABLE: ",".join(armed)})
    if "fail." in others:
        plant_rot(daemon)
    if "release.unlinked" in others:
        plant_no_room_for_spares(daemon)
    measurements = frames()
    daemon.start(wait=False)
    try:
        totals = settle(daemon, Sender(daemon, measurements))
        # Files are written over when some were released, and are looked for four times a second.
        while "spare." in receivers and receivers not in fired(daemon) and len(measurements) < 200:
            more = frames(first=len(measurements))
            measurements += more
            totals = settle(daemon, Sender(daemon, more, 0.05))
        # A supervisor that dies at its start, or takes its roles along, ends the others' faults with it.
        if others.startswith(("recover.", "claim.read:kill@1,return.")):
            armed = [fault for fault in armed if fault not in receivers]
        assert set(armed) <= set(fired(daemon))
    except BaseException:
        daemon.stop()
        raise
    return daemon, measurements, totals


@contextlib.contextmanager
def ended(daemon):
    try:
        yield
    finally:
        daemon.stop()


def assert_no_process_is_left_in_its_way(daemon, rots):
    spool = Path(daemon.state_directory, "spool")
    assert [p for d in ("tmp", "new", "claimed") for p in (spool / d).rglob("*") if p.is_file()] == []
    failed = sorted(p.suffix for p in (spool / "failed").iterdir() if not p.name.startswith("."))
    assert failed == ([".json", ".v1"] if rots else [])


#: Errors that the disk may give at a point; what is behind an OS call that can fail.
ERRORS = rows(
    [
        "accept.begin:EIO@2",
        "accept.begin:ENOSPC@1",
        "accept.begin:EMFILE@1",
        "accept.write:EIO@1",
        "accept.write:ENOSPC@2",
        "accept.write:EINTR@1",
        "accept.write:short@1",
        "accept.written:EIO@1",
        "accept.written:EIO@1,accept.written:EIO@2",
        "accept.written:ENOSPC@1",
        "accept.written:EDQUOT@1",
        "accept.synced:EIO@1",
        "accept.written:delay@1",
        "accept.renamed:EIO@1",
        "accept.renamed:ENOSPC@1",
        "accept.renamed:EROFS@1",
        "spare.listed:EIO@1",
        "spare.synced:EIO@1",
        "spare.taken:EIO@1",
        "spare.taken:EMFILE@2",
    ],
    [
        "claim.renamed:EIO@1",
        "claim.renamed:EMFILE@1",
        "release.spared:EIO@1",
        "release.spared:EROFS@2",
        "release.unlinked:EIO@1",
        "release.unlinked:EROFS@2",
        "release.retained:EIO@1",
        "directory.write:EIO@1,give_back.renamed:EIO@1",
        "claim.read:kill@1,return.renamed:EIO@1",
        "fail.documented:EIO@1",
        "fail.renamed:ENOSPC@1",
        "directory.write:EIO@1",
        "directory.write:ENOSPC@2",
        "directory.write:short@1",
        "directory.written:EIO@1",
        "directory.synced:EIO@1",
        "directory.linked:EIO@1",
        "directory.named:EIO@1",
    ],
)


@pytest.mark.parametrize(("receivers", "others"), ERRORS)
def test_an_error_of_the_disk_at_any_point_loses_nothing(tmp_path, receivers, others):
    daemon, measurements, totals = ordeal(tmp_path, receivers, others)
    with ended(daemon):
        assert_all_stored(daemon, measurements)
        failed = int("fail." in others)
        assert (totals["stored"], totals["failed"], totals["lost"]) == (len(measurements), failed, 0)
        health = wait_until(lambda: accepting(daemon), what="accepting again")
        deaths = {role["name"] for role in health["roles"] if role["restarts"]}
        assert deaths == ({"uploader-0"} if "kill" in others else set()), "no role died of an error"


def accepting(daemon):
    health = daemon.health()
    return health if health["spool"]["accepting"] else None


@pytest.mark.parametrize("point", sorted(AT_START))
def test_a_start_that_meets_a_disk_error_says_so_and_the_next_one_carries_on(tmp_path, point):
    daemon = DaemonProcess(tmp_path, SETTINGS)
    with daemon:
        daemon.push(noise("before"))
        daemon.wait_settled()
    daemon._environ[faults.VARIABLE] = f"{point}:EIO@1"
    daemon.start(wait=False)
    assert daemon.popen.wait(20) == 1
    assert "EIO" in daemon.log_tail()
    daemon._forget()
    del daemon._environ[faults.VARIABLE]
    with daemon:
        daemon.push(noise("after"))
        daemon.wait_settled()
        assert_all_stored(daemon, [noise("before"), noise("after")])


@pytest.mark.minio
@pytest.mark.parametrize(
    "armed",
    ["upload.body:kill@1", "upload.body:EIO@1", "upload.npy:kill@1", "verify.npy:kill@1",
     "upload.metadata:kill@1", "verify.pair:kill@1", "record.stored:kill@1"],
)  # fmt: skip
def test_an_upload_to_minio_that_breaks_at_any_point_converges(tmp_path, minio_binary, armed):
    """Bodies longer than a socket buffer, so that they are sent in parts."""
    measurements = frames(n_samples=600_000)
    (tmp_path / "minio").mkdir()
    with MinioServer(tmp_path / "minio", minio_binary) as server:
        environ = server.environment() | {faults.VARIABLE: armed}
        with DaemonProcess(tmp_path / "daemon", SETTINGS, environ) as daemon:
            totals = settle(daemon, Sender(daemon, measurements))
            assert fired(daemon) == [armed]
        store = MinioStore(server.url, server.access_key, server.secret_key, "heimdall-raw-iq")
        store.probe()
        assert len(list(store.list("sessions/"))) == 2 * N_FRAMES
        for m in measurements:
            keys = object_keys(Identity(m.task_id, m.websdr_id, None))
            assert store.get(keys.npy, 2**24)[128:] == bytes(m.samples)
            assert json.loads(store.get(keys.metadata, 2**20))["timestamp_ns"] == m.timestamp_ns
        store.close()
    assert (totals["stored"], totals["failed"], totals["lost"]) == (N_FRAMES, 0, 0)


@pytest.mark.parametrize("action", ["kill", "EIO"])
def test_a_requeue_that_ends_half_way_can_be_done_again(tmp_path, action):
    daemon = DaemonProcess(tmp_path, SETTINGS)
    with daemon:
        daemon.push(noise("twice", seed=1))
        daemon.wait_settled()
        daemon.push(noise("twice", seed=2))
        failed = Path(daemon.state_directory, "spool", "failed")
        (entry,) = wait_until(lambda: list(failed.glob("*.v1")), what="the conflict to fail")
        daemon.wait_settled()
    command = [sys.executable, "-m", "ingestd", "requeue", "--config", daemon.config_path, "--all"]
    first = subprocess.run(
        command,
        env=os.environ | {faults.VARIABLE: f"requeue.renamed:{action}"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert first.returncode == (-signal.SIGKILL if action == "kill" else 1), first.stderr
    assert b"INGESTD_FAULT requeue.renamed" in first.stderr
    new = Path(daemon.state_directory, "spool", "new")
    assert [p.name for p in new.iterdir()] == [entry.name], "back, whole, though nobody was told"
    again = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert again.returncode == 0, again.stderr
    with daemon:
        wait_until(lambda: list(failed.glob("*.v1")), what="the conflict to fail again")
        assert daemon.wait_settled()["failed"] == 1
        assert_all_stored(daemon, [noise("twice", seed=1)])


def test_a_receiver_that_hangs_before_its_sync_is_named_and_loses_nothing_when_it_is_ended(tmp_path):
    daemon = DaemonProcess(tmp_path, SETTINGS, {faults.VARIABLE: "accept.written:hang@2"})
    measurements = frames()
    with daemon:
        sender = Sender(daemon, measurements)
        try:
            reasons = wait_until(
                lambda: [r for r in daemon.health()["reasons"] if r["code"] == "fsync_slow"],
                30.0,
                "health to say that the disk hangs",
            )
            assert "receiver" in reasons[0]["text"] or "disk" in reasons[0]["text"]
            asked = time.monotonic()
            with daemon.client(timeout_s=1.0, retries=0) as client:
                for _ in range(50):
                    client.ping()
            assert (time.monotonic() - asked) / 50 < 0.1
            os.kill(daemon.role_pids()["receiver"], signal.SIGKILL)
        finally:
            totals = settle(daemon, sender)
        assert totals["stored"] == N_FRAMES
        assert_all_stored(daemon, measurements)


def test_the_registry_has_no_point_that_these_tests_leave_out():
    """`test_a_process_that_dies_at_any_point_loses_nothing` has the others, and asserts that each was reached."""
    assert set(faults.POINTS) >= BY_HAND | ON_S3
    assert set(ON_THE_WAY) <= set(faults.POINTS)


def test_an_unknown_fault_is_refused(tmp_path):
    daemon = DaemonProcess(tmp_path, SETTINGS, {faults.VARIABLE: "no.such:kill"})
    daemon.start(wait=False)
    assert daemon.popen.wait(20) != 0
    daemon._forget()
    with pytest.raises(Unavailable), daemon.client(timeout_s=0.2, retries=0) as client:
        client.ping()
