"""The disk is full, read-only, out of inodes or gone, or no descriptor is left: nothing is accepted, everybody is told.

And it goes on by itself when the trouble is over. What is asserted of frames is asserted of the objects in the bucket.
"""

import contextlib
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from ingestd.formats import frame as wire
from ingestd.node import Node
from ingestd.storage.minio import MinioStore
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.fill_drain import (
    FillDrainPlan,
    FillDrainResult,
    drained,
    lost_of,
    objects_in,
    on_small_disk,
    restarts_of,
    run,
)
from ingestd.testing.frames import noise
from ingestd.testing.small_disk import DiskRefused, SmallDisk
from ingestd.testing.waiting import wait_until

MIB = 2**20

#: Long enough that the pages a catalog leaves do not hold one.
N_SAMPLES = 20_000

CYCLES = int(os.environ.get("INGESTD_FILL_DRAIN_CYCLES", "20"))


def refused(error):
    """Who may mount in CI must be able to; elsewhere these tests are for whoever can."""
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{error}, and CI as root must be able to", pytrace=False)
    pytest.skip(str(error))


@contextlib.contextmanager
def mounted(path, size_bytes=16 * MIB, **options):
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk(path, size_bytes, **options))
        except DiskRefused as error:
            refused(error)
        yield disk


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk") as one:
        yield one


def frames(first, count, n_samples=N_SAMPLES):
    return [
        noise("disk", 1 + number, n_samples=n_samples, seed=number) for number in range(first, first + count)
    ]


def send(socket, measurements):
    for measurement in measurements:
        socket.send(wire.encode(measurement))


def refusing(daemon):
    """Health while nothing is accepted, once it says why."""
    health = daemon.health()
    return health if not health["spool"]["accepting"] and health["reasons"] else None


def wait_refusing(daemon, code, word):
    """Nothing is accepted, health is unhealthy and says why, and so does the log."""
    health = wait_until(lambda: refusing(daemon), what="nothing to be accepted")
    assert health["status"] == "unhealthy"
    texts = [
        reason["text"]
        for reason in health["reasons"]
        if reason["code"] == code and reason["severity"] == "unhealthy"
    ]
    assert texts, health["reasons"]
    assert any(word in text for text in texts), texts
    assert "not_accepting" in Path(daemon.log_path).read_text(errors="replace")


def wait_accepting(daemon):
    wait_until(lambda: daemon.health()["spool"]["accepting"], what="frames to be accepted again")


def assert_stored_once(daemon, sent):
    """Each of these frames is in the bucket with its bytes, and nothing else; the books agree."""
    totals = daemon.wait_settled()
    assert lost_of(daemon.directory, sent) == []
    assert len(objects_in(daemon.directory)) == 2 * len(sent)
    assert (totals["accepted"], totals["stored"], totals["lost"]) == (len(sent), len(sent), 0)


@pytest.mark.minio
@pytest.mark.parametrize("min_free_bytes", [0, MIB])
def test_a_full_disk_stops_acceptance_and_never_the_drain(tmp_path, disk, own_minio, min_free_bytes):
    """Spool and catalog are on the full disk; the backlog of an outage goes to a real MinIO all the same."""
    daemon = on_small_disk(disk, tmp_path / "daemon", min_free_bytes, environ=own_minio.environment())
    del daemon._settings["storage"]
    backlog, held = frames(0, 8), frames(8, 3)
    with daemon, pusher(daemon.ingest_endpoint) as socket:
        own_minio.pause()
        send(socket, backlog)
        wait_until(lambda: daemon.stats()["accepted"] == len(backlog), what="the backlog to be accepted")
        assert not drained(daemon)
        with disk.kept_full():
            send(socket, held)
            wait_refusing(daemon, "disk_low", f"spool.min_free_bytes is {min_free_bytes}")
            own_minio.resume()
            wait_until(lambda: daemon.stats()["stored"] >= len(backlog), what="the backlog to be stored")
            wait_until(lambda: drained(daemon), what="the backlog to be released")
        wait_accepting(daemon)
        totals = daemon.wait_settled()
        assert restarts_of(daemon) == 0
    assert "catalog_skipped" in Path(daemon.log_path).read_text(errors="replace"), "the catalog was full, too"
    assert (totals["accepted"], totals["stored"], totals["lost"]) == (11, 11, 0)
    assert in_minio(own_minio) == (11, {bytes(m.samples) for m in backlog + held})


@pytest.mark.slow
@pytest.mark.timeout(max(120, 3 * CYCLES))
def test_a_disk_that_fills_and_empties_again_and_again_costs_no_restart_and_no_frame(tmp_path):
    try:
        result = run(FillDrainPlan(CYCLES), str(tmp_path), lambda _text: None)
    except DiskRefused as error:
        refused(error)
    assert result.frames == 6 * CYCLES
    assert result.good, result


@pytest.mark.parametrize(("restarts", "lost", "surplus"), [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_restart_a_lost_frame_and_a_frame_stored_twice_are_no_good_result(restarts, lost, surplus):
    assert not FillDrainResult(1, 6, restarts, lost, surplus, 1.0).good


def confirmed_node(daemon):
    return Node(
        daemon.ingest_endpoint, websdr_id=1, name="n1", query_endpoint=daemon.query_endpoint, timeout_s=45
    )


def accepted_upto(daemon, node):
    with daemon.client() as client:
        return client.confirm("n1", node.epoch)["accepted_upto"]


def send_numbered(node, measurements):
    for measurement in measurements:
        node.send_measurement(measurement)


def assert_stays(condition, for_s):
    """The condition holds now and for a while."""
    until_s = time.monotonic() + for_s

    def over():
        assert condition()
        return time.monotonic() > until_s

    wait_until(over, for_s + 10.0)


def waits_unconfirmed(daemon, node, upto, count):
    return lambda: accepted_upto(daemon, node) == upto and node.unconfirmed_count == count


def test_a_read_only_disk_confirms_nothing_and_accepts_again_when_it_can_be_written(tmp_path, disk):
    """Told accepted is what lies in the spool, never what is only in memory."""
    daemon = on_small_disk(disk, tmp_path / "daemon")
    before, held = frames(0, 3), frames(3, 3)
    with daemon:
        with confirmed_node(daemon) as node:
            send_numbered(node, before)
            wait_until(lambda: node.unconfirmed_count == 0, what="the first frames to be confirmed")
            wait_until(lambda: drained(daemon), what="the first frames to be stored")
            disk.read_only(True)
            send_numbered(node, held)
            wait_refusing(daemon, "fsync_slow", "Read-only")
            assert_stays(waits_unconfirmed(daemon, node, len(before), len(held)), 1.5)
            assert len(objects_in(daemon.directory)) == 2 * len(before)
            disk.read_only(False)
        wait_accepting(daemon)
        assert_stored_once(daemon, before + held)
        assert restarts_of(daemon) == 0


def test_without_inodes_nothing_is_accepted_until_there_are_some_again(tmp_path):
    with mounted(tmp_path / "disk", n_inodes=400) as disk:
        daemon = on_small_disk(disk, tmp_path / "daemon")
        before, held = frames(0, 3), frames(3, 3)
        with daemon, pusher(daemon.ingest_endpoint) as socket:
            send(socket, before)
            wait_until(lambda: daemon.stats()["stored"] == len(before), what="the first frames to be stored")
            assert disk.take_inodes() > 0
            send(socket, held)
            wait_refusing(daemon, "spool_full", "ENOSPC")
            assert {role["state"] for role in daemon.health()["roles"]} == {"running"}, "degraded, not dead"
            disk.give_inodes()
            wait_accepting(daemon)
            assert_stored_once(daemon, before + held)
            assert restarts_of(daemon) == 0


def kill(daemon, *roles):
    """Kill these roles and wait for their successors."""
    before = daemon.role_pids()
    for role in roles:
        os.kill(before[role], signal.SIGKILL)
    wait_until(lambda: not set(roles_running(daemon).items()) & set(before.items()), what="successors")


def roles_running(daemon, of=("receiver", "uploader-0")):
    return {
        role["name"]: role["pid"]
        for role in daemon.health()["roles"]
        if role["name"] in of and role["state"] == "running"
    }


def test_roles_that_die_on_a_read_only_disk_come_back_and_go_on_when_it_can_be_written(tmp_path, disk):
    """Their successors open everything read-only, the catalog included, and must not stay like that."""
    daemon = on_small_disk(disk, tmp_path / "daemon")
    before, held = frames(0, 3), frames(3, 3)
    with daemon:
        with confirmed_node(daemon) as node:
            send_numbered(node, before)
            wait_until(lambda: node.unconfirmed_count == 0, what="the first frames to be confirmed")
            wait_until(lambda: drained(daemon), what="the first frames to be stored")
            disk.read_only(True)
            kill(daemon, "receiver", "uploader-0")
            send_numbered(node, held)
            wait_refusing(daemon, "fsync_slow", "Read-only")
            assert_stays(waits_unconfirmed(daemon, node, len(before), len(held)), 1.5)
            disk.read_only(False)
        wait_accepting(daemon)
        assert_stored_once(daemon, before + held)


def test_roles_that_die_on_a_full_disk_come_back_drain_it_and_go_on(tmp_path, disk):
    daemon = on_small_disk(disk, tmp_path / "daemon")
    before, held = frames(0, 6), frames(6, 3)
    with daemon:
        with confirmed_node(daemon) as node:
            send_numbered(node, before)
            wait_until(lambda: node.unconfirmed_count == 0, what="the first frames to be confirmed")
            with disk.kept_full():
                kill(daemon, "receiver", "uploader-0")
                send_numbered(node, held)
                wait_refusing(daemon, "disk_low", "0 bytes are free")
                wait_until(lambda: drained(daemon), what="the backlog to be released")
                assert lost_of(daemon.directory, before) == []
        wait_accepting(daemon)
        assert_stored_once(daemon, before + held)


@pytest.mark.minio
def test_a_daemon_that_starts_on_a_full_disk_drains_it_and_accepts_when_there_is_room(
    tmp_path, disk, own_minio
):
    daemon = on_small_disk(disk, tmp_path / "daemon", environ=own_minio.environment())
    del daemon._settings["storage"]
    backlog, held = frames(0, 6), frames(6, 3)
    own_minio.pause()
    with daemon:
        daemon.push(*backlog)
        wait_until(lambda: daemon.stats()["accepted"] == len(backlog), what="the backlog to be accepted")
    assert not drained(daemon)
    with disk.kept_full():
        daemon.start(wait=False)
        own_minio.resume()
        with ended_on_error(daemon):
            wait_until(lambda: drained_alive(daemon), 30.0, "the backlog to be released")
    with daemon_ended(daemon):
        wait_accepting(daemon)
        daemon.push(*held)
        totals = daemon.wait_settled()
    assert (totals["accepted"], totals["stored"], totals["lost"]) == (9, 9, 0)
    assert in_minio(own_minio) == (9, {bytes(m.samples) for m in backlog + held})


@pytest.mark.minio
def test_a_disk_that_becomes_read_only_under_an_upload_costs_nothing(tmp_path, disk, own_minio):
    """The objects are stored, and the entry cannot be released: it is, once the disk can be written."""
    daemon = on_small_disk(disk, tmp_path / "daemon", environ=own_minio.environment())
    del daemon._settings["storage"]
    sent = frames(0, 6)
    with daemon:
        wait_until(
            lambda: daemon.health()["store"]["checksum"], what="the probe, before which nothing is claimed"
        )
        own_minio.pause()
        daemon.push(*sent)
        wait_until(lambda: daemon.stats()["accepted"] == len(sent), what="the frames to be accepted")
        wait_until(lambda: claimed(daemon), what="uploads under way")
        disk.read_only(True)
        own_minio.resume()
        wait_until(lambda: in_minio(own_minio)[0] >= 2, what="what was under way to be stored")
        assert not drained(daemon)
        disk.read_only(False)
        totals = daemon.wait_settled(8.0)
        assert restarts_of(daemon) == 0
    assert (totals["accepted"], totals["lost"], totals["failed"]) == (len(sent), 0, 0)
    assert in_minio(own_minio) == (len(sent), {bytes(m.samples) for m in sent})


def drained_alive(daemon):
    assert daemon.popen.poll() is None, daemon.log_tail(500)
    return drained(daemon)


@contextlib.contextmanager
def ended_on_error(daemon):
    try:
        yield
    except BaseException:
        daemon.stop()
        raise


def claimed(daemon):
    return list(Path(daemon.state_directory, "spool", "claimed").glob("uploader-*/*.v1"))


@contextlib.contextmanager
def daemon_ended(daemon):
    try:
        yield
    finally:
        daemon.stop()


def in_minio(server):
    """How many pairs are in the bucket, and the samples of all of them."""
    store = MinioStore(server.url, server.access_key, server.secret_key, "heimdall-raw-iq")
    with contextlib.closing(store):
        store.probe()
        found = [info.key for info in store.list("sessions/")]
        bodies = {store.get(key, 2**24)[128:] for key in found if key.endswith(".npy")}
    return len(found) // 2, bodies


def lowest_free_descriptor(pid):
    """Under a limit of this many the process cannot open anything, wherever it has gaps."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(taken) + 1)) - taken)


def test_a_receiver_without_descriptors_accepts_again_when_it_has_some(tmp_path):
    """Senders that are connected and one that comes in the meantime; a restart is allowed, a loss is not."""
    daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}, "uploader": {"count": 1, "threads": 2}})
    before, held, late = frames(0, 3), frames(3, 3), frames(6, 2)
    with daemon, confirmed_node(daemon) as node:
        send_numbered(node, before)
        wait_until(lambda: node.unconfirmed_count == 0, what="the first frames to be confirmed")
        pid = daemon.role_pids()["receiver"]
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free_descriptor(pid), limits[1]))
        send_numbered(node, held)
        wait_refusing(daemon, "spool_full", "EMFILE")
        with confirmed_node(daemon) as latecomer:
            sender = threading.Thread(target=send_numbered, args=(latecomer, late), daemon=True)
            sender.start()
            assert_stays(waits_unconfirmed(daemon, node, len(before), len(held)), 1.5)
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            sender.join(45)
            assert not sender.is_alive()
        wait_until(lambda: node.unconfirmed_count == 0, 45.0, "everything to be confirmed")
        wait_accepting(daemon)
        daemon.wait_settled()
        assert stored_samples(daemon) == {bytes(m.samples) for m in before + held + late}


def stored_samples(daemon):
    bucket = Path(daemon.state_directory, "objects")
    return {path.read_bytes()[128:] for path in bucket.rglob("*.npy") if ".tmp" not in path.parts}


def test_a_spool_that_is_moved_away_is_missed_loudly_and_taken_up_again_when_it_is_back(tmp_path):
    """Nobody makes an empty spool in its place: what was accepted is in the other one."""
    daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}, "uploader": {"count": 1, "threads": 2}})
    spool = Path(daemon.state_directory, "spool")
    before, held = frames(0, 3), frames(3, 3)
    with daemon:
        with confirmed_node(daemon) as node:
            send_numbered(node, before)
            wait_until(lambda: node.unconfirmed_count == 0, what="the first frames to be confirmed")
            away = spool.rename(spool.with_name("spool.away"))
            send_numbered(node, held)
            wait_refusing(daemon, "fsync_slow", "No such file")
            assert_stays(waits_unconfirmed(daemon, node, len(before), len(held)), 1.5)
            assert not (spool / "new").exists()
            away.rename(spool)
        wait_accepting(daemon)
        assert daemon.wait_settled()["stored"] == len(before + held)
        assert stored_samples(daemon) == {bytes(m.samples) for m in before + held}
