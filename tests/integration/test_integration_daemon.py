"""The daemon as its users meet it: a subprocess, real sockets, real signals, the directory store."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq

from ingestd.errors import Unavailable
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Identity, object_keys
from ingestd.node import Node
from ingestd.testing import process_tree
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import RATE_HZ, T0_NS, noise
from ingestd.testing.waiting import wait_until


def bucket(daemon):
    return Path(daemon.state_directory, "objects", "heimdall-raw-iq")


def pairs_on_disk(daemon):
    """Objects by key, and the check that none is half of a pair."""
    root = bucket(daemon)
    found = {str(path.relative_to(root)): path for path in (root / "sessions").rglob("*") if path.is_file()}
    for key in found:
        if key.endswith("_metadata.json"):
            assert key.removesuffix("_metadata.json") + ".npy" in found, f"metadata without its .npy: {key}"
    return found


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path, {"uploader": {"count": 2}, "spool": {"min_free_bytes": 0}}) as running:
        yield running


def test_a_frame_becomes_a_pair_of_objects_with_every_digit_kept(daemon):
    sent = noise(
        "first", 7, node="kiwi-1", epoch=1, seq=0, extras={"antenna": "loop"}, metrics={"snr_db": 12.25}
    )
    daemon.push(sent)
    daemon.wait_stored(1)
    npy = np.load(bucket(daemon) / "sessions/first/websdr_7.npy", allow_pickle=False)
    assert npy.dtype == np.dtype("<c8")
    assert npy.tobytes() == bytes(sent.samples)
    document = json.loads((bucket(daemon) / "sessions/first/websdr_7_metadata.json").read_bytes())
    assert document["timestamp_ns"] == T0_NS
    assert document["timestamp_utc"] == "2026-09-21T14:13:20.123456789Z"
    assert document["sample_rate_hz"] == RATE_HZ
    assert document["metrics"]["snr_db"] == 12.25
    assert document["metrics_source"]["snr_db"] == "node"
    assert document["extras"] == {"antenna": "loop"}


def test_health_session_and_stats_tell_the_same_story(daemon):
    daemon.push(*(noise("story", i, expected=3) for i in range(2)))
    daemon.wait_stored(2)
    with daemon.client() as client:
        assert client.session("story")["status"] == "PENDING"
        daemon.push(noise("story", 2, expected=3))
        wait_until(lambda: client.session("story")["status"] == "SUCCESS", what="the third receiver")
        # Every answer is at most a second old, each for itself.
        daemon.wait_stored(3)
        session, health, figures = client.session("story"), client.health(), client.stats()
    assert [row["websdr_id"] for row in session["stored_measurements"]] == [0, 1, 2]
    assert health["status"] == "healthy"
    assert health["bucket"] == "heimdall-raw-iq"
    assert (figures["received"], figures["accepted"], figures["stored"]) == (3, 3, 3)
    assert {role["name"] for role in health["roles"]} == {"receiver", "responder", "uploader-0", "uploader-1"}


def test_a_bad_frame_is_counted_logged_and_sampled_and_the_next_good_one_goes_through(daemon):
    with pusher(daemon.ingest_endpoint) as socket:
        socket.send(b"\xc1")
        socket.send_multipart([b"two", b"parts"])
        socket.send(wire.encode(noise("good")))
    daemon.wait_stored(1)
    assert daemon.stats()["rejected"] == {"msgpack": 1, "multipart": 1}
    assert len(list(Path(daemon.state_directory, "spool", "rejected").iterdir())) == 2
    assert "frame_rejected" in daemon.log_tail()
    with daemon.client() as client:
        assert {row["reason"] for row in client.rejected()["rejected"]} == {"msgpack", "multipart"}


def test_the_same_frame_twice_is_stored_once_and_another_content_is_kept_beside_it(daemon):
    first, other = noise("twice", seed=1), noise("twice", seed=2)
    daemon.push(first)
    daemon.wait_stored(1)
    daemon.push(first, other)
    wait_until(
        lambda: daemon.stats()["duplicates"] == 1 and daemon.stats()["conflicts"] == 1,
        what="duplicate and conflict",
    )
    found = pairs_on_disk(daemon)
    assert len(found) == 4
    primary = found[object_keys(Identity("twice", 1, None)).npy]
    assert np.load(primary).tobytes() == bytes(first.samples), "never silently overwritten"


def restart_s(daemon, role):
    """Kill a role; time until another process does its work, as a client sees it [s]."""
    pid = daemon.role_pids()[role]
    began_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def replaced():
        with contextlib.suppress(Exception), daemon.client(timeout_s=0.2, retries=0) as client:
            roles = {row["name"]: row for row in client.health()["roles"]}
            return roles[role]["pid"] != pid and roles[role]["state"] == "running"
        return False

    wait_until(replaced, 10.0, f"{role} to be back")
    return time.monotonic() - began_s


@pytest.mark.parametrize("role", ["receiver", "uploader-0", "responder"])
@pytest.mark.quiet
def test_a_killed_role_is_back_in_under_a_second(daemon, role):
    daemon.push(noise("before"))
    daemon.wait_stored(1)
    took_s = restart_s(daemon, role)
    if took_s >= 1.0:
        # A busy machine only adds to it: once more, after the ten seconds in which a second death would be a crash loop.
        threading.Event().wait(11.0)
        took_s = min(took_s, restart_s(daemon, role))
    assert took_s < 1.0
    daemon.push(noise("after"))
    daemon.wait_stored(2)


def test_boot_is_new_at_a_start_of_the_daemon_and_not_at_one_of_the_receiver(daemon):
    def boot():
        with daemon.client() as client:
            return client.confirm("n", 1)["boot"]

    first = boot()
    restart_s(daemon, "receiver")
    restart_s(daemon, "responder")
    assert boot() == first
    daemon.stop()
    daemon.start()
    assert boot() != first


def test_seven_nodes_lose_nothing_while_uploaders_and_receiver_are_killed(daemon):
    """Every frame that a confirmed node sent is there once, with its bytes, and no metadata is without its .npy."""
    n_nodes, n_frames = 7, 200
    sent = {
        (f"flood-{i:03d}", websdr_id): noise(f"flood-{i:03d}", websdr_id, n_samples=2000, seed=i)
        for websdr_id in range(n_nodes)
        for i in range(n_frames)
    }
    troubles = []

    def run_node(websdr_id):
        try:
            with Node(
                daemon.ingest_endpoint,
                websdr_id=websdr_id,
                name=f"n{websdr_id}",
                query_endpoint=daemon.query_endpoint,
                timeout_s=60,
            ) as node:
                for i in range(n_frames):
                    node.send_measurement(sent[f"flood-{i:03d}", websdr_id])
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=run_node, args=(i,)) for i in range(n_nodes)]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    victims = ["receiver", "uploader-0", "uploader-1"]
    n_kills = 0
    while any(thread.is_alive() for thread in threads):
        if n_kills < 9:
            with contextlib.suppress(Unavailable, ProcessLookupError):
                os.kill(daemon.role_pids()[victims[n_kills % 3]], signal.SIGKILL)
                n_kills += 1
        deadline = time.monotonic() + rng.uniform(0.1, 0.5)
        while time.monotonic() < deadline and any(thread.is_alive() for thread in threads):
            threads[0].join(0.02)
    assert not troubles
    assert n_kills >= 3
    daemon.wait_settled(60.0)
    found = pairs_on_disk(daemon)
    assert set(found) == {key for task_id, i in sent for key in object_keys(Identity(task_id, i, None))}
    for (task_id, websdr_id), one in sent.items():
        stored = np.load(found[object_keys(Identity(task_id, websdr_id, None)).npy])
        assert stored.tobytes() == bytes(one.samples)
    totals = daemon.stats()["total"]
    assert (totals["stored"], totals["failed"], totals["lost"], totals["pending"]) == (
        n_nodes * n_frames,
        0,
        0,
        0,
    )


def alive(pid):
    """Whether a process runs; one that only waits to be reaped by a slow init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.quiet
def test_a_stop_under_load_loses_nothing_that_was_accepted(tmp_path):
    daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}})
    stop = threading.Event()
    with daemon:

        def load():
            with pusher(daemon.ingest_endpoint) as socket:
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.SNDTIMEO, 200)
                i = 0
                while not stop.is_set():
                    with contextlib.suppress(zmq.Again):
                        socket.send(wire.encode(noise(f"load-{i:05d}", n_samples=20_000, seed=i)))
                        i += 1

        thread = threading.Thread(target=load)
        thread.start()
        wait_until(lambda: daemon.stats()["accepted"] >= 50, what="some load")
        began = time.monotonic()
        code = daemon.stop()
        took_s = time.monotonic() - began
        stop.set()
        thread.join(10)
    assert code == 0
    assert took_s < 10
    with daemon:
        daemon.wait_settled(60.0)
        totals = daemon.stats()["total"]
    assert totals["accepted"] == totals["stored"] + totals["duplicates"]
    npys = [key for key in pairs_on_disk(daemon) if key.endswith(".npy")]
    assert totals["stored"] == len(npys)


def test_a_killed_supervisor_leaves_no_orphan_and_a_restart_carries_on(tmp_path):
    daemon = DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}})
    with daemon:
        daemon.push(*(noise(f"s-{i}") for i in range(20)))
        wait_until(lambda: daemon.stats()["accepted"] == 20, what="acceptance")
        pids = list(daemon.role_pids().values())
        daemon.kill()

        def gone():
            return not any(alive(pid) for pid in pids)

        wait_until(gone, 1.0, "the roles to be gone")
        daemon.start()
        daemon.wait_settled(30.0)
        assert len(pairs_on_disk(daemon)) == 40


def test_a_second_daemon_on_one_state_directory_is_refused_and_touches_nothing(daemon, tmp_path):
    second = DaemonProcess(tmp_path / "second", {"state_directory": daemon.state_directory})
    second.start(wait=False)
    assert second.popen.wait(15) == 1
    assert "in use by another ingestd" in second.log_tail()
    second.stop()
    daemon.push(noise("still-here"))
    daemon.wait_stored(1)


def test_a_full_spool_holds_the_nodes_back_and_resumes_by_itself(tmp_path):
    # A store that cannot be reached: the spool fills up. 80 kB frames, 1 MiB of spool.
    settings = {
        "ingest": {"max_frame_bytes": 2**20},
        "spool": {"max_bytes": 2**20, "min_free_bytes": 0},
        "storage": {"directory": str(tmp_path / "elsewhere")},
    }
    (tmp_path / "elsewhere").write_text("a file where a directory is wanted")
    with DaemonProcess(tmp_path / "d", settings) as daemon:
        done = threading.Event()

        def send():
            daemon.push(*(noise(f"full-{i:02d}", n_samples=10_000, seed=i) for i in range(40)))
            done.set()

        thread = threading.Thread(target=send)
        thread.start()
        with daemon.client() as client:
            wait_until(lambda: client.health()["status"] == "unhealthy", what="unhealthy")
            health = client.health()
            codes = {reason["code"] for reason in health["reasons"]}
            assert "spool_full" in codes
            assert health["spool"]["bytes"] <= 2**20
            assert not health["accessible"]
            assert health["spool"]["accepting"] is False
        (tmp_path / "elsewhere").unlink()
        thread.join(40)
        assert done.is_set()
        daemon.wait_settled(40.0)
        daemon.wait_stored(40)


def test_frames_find_the_memory_of_those_before_them(daemon):
    """Page faults of receiver and uploader after a few frames of a megabyte: a new block would be 256 of them."""
    frames = [noise("faults", number, n_samples=125_000) for number in range(20)]
    n_frames, found = 0, {}
    with pusher(daemon.ingest_endpoint) as socket:
        for turn in range(12):
            for number, frame in enumerate(frames):
                socket.send(wire.encode(replace(frame, task_id=f"faults-{turn}-{number}")))
            n_frames += len(frames)
            daemon.wait_stored(n_frames)
            if turn == 3:
                n_before = n_frames
                found = {name: process_tree.minor_faults(pid) for name, pid in daemon.role_pids().items()}
    for name in ("receiver", "uploader-0"):
        faults = process_tree.minor_faults(daemon.role_pids()[name]) - found[name]
        assert faults / (n_frames - n_before) < 20, name
