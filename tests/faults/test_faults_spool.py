"""A spool as a crash, an operator or another version left it (F11, F12, F31), and floods of it (F26, F32)."""

import contextlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Identity, object_keys
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.process_tree import resident_bytes
from ingestd.testing.secured.raw import part, ready_peer
from ingestd.testing.secured.trial import PeakMemory
from ingestd.testing.torture.report import quantile
from ingestd.testing.waiting import wait_until

SETTINGS = {"spool": {"min_free_bytes": 0}, "log": {"format": "json"}}

#: Checksum in the name of an entry of format 1 that holds the first of tests/golden/frames.json.
GOLDEN_CRC = "b9f708f1"


def objects_of(daemon):
    root = Path(daemon.state_directory, "objects", "heimdall-raw-iq")
    return {str(path.relative_to(root)): path for path in root.glob("sessions/*/*")}


def spool_of(daemon):
    spool = Path(daemon.state_directory, "spool")
    for name in ("tmp", "new", "claimed", "failed"):
        (spool / name).mkdir(parents=True, exist_ok=True)
    return spool


def log_events(daemon, event):
    lines = Path(daemon.log_path).read_text().splitlines()
    return [json.loads(line) for line in lines if f'"{event}"' in line]


def name_of(content, counter=1):
    return f"01790000000123456789-{counter:08d}-{crc32c(content):08x}.v1"


def test_entries_cut_at_any_byte_go_to_failed_are_counted_and_the_rest_flows(tmp_path):
    daemon = DaemonProcess(tmp_path, SETTINGS)
    spool = spool_of(daemon)
    whole = wire.encode(noise("whole", n_samples=60))
    torn = wire.encode(noise("torn", n_samples=60))
    cuts = [0, 1, *range(37, len(torn), 37), len(torn) - 1]
    for counter, n_bytes in enumerate(cuts):
        (spool / "new" / name_of(torn, counter)).write_bytes(torn[:n_bytes])
        (spool / "tmp" / name_of(torn, counter)).write_bytes(torn[:n_bytes])
    (spool / "new" / name_of(whole, 99)).write_bytes(whole)
    with daemon:
        daemon.push(noise("after", n_samples=60))
        totals = daemon.wait_settled()
        assert (totals["failed"], totals["stored"], totals["lost"]) == (len(cuts), 2, 0)
        assert set(objects_of(daemon)) == {
            key for task in ("whole", "after") for key in object_keys(Identity(task, 1, None))
        }
    reasons = [json.loads(path.read_text())["reason"] for path in (spool / "failed").glob("*.json")]
    assert len(reasons) == len(cuts)
    assert not list((spool / "tmp").iterdir())


def test_what_is_no_entry_is_named_left_alone_and_stops_nothing(tmp_path):
    daemon = DaemonProcess(tmp_path, SETTINGS)
    spool = spool_of(daemon)
    new = spool / "new"
    entry = wire.encode(noise("good", n_samples=60))
    outside = tmp_path / "outside"
    outside.write_bytes(entry)
    (new / "README").write_text("an operator's note")
    (new / "directory.v1").mkdir()
    (new / name_of(entry, 2)).symlink_to(outside)
    (new / name_of(entry, 3).replace(".v1", ".v2")).write_bytes(b"of a version to come")
    (new / name_of(entry, 4)).write_bytes(entry)
    foreign = {"README", "directory.v1", name_of(entry, 2), name_of(entry, 3).replace(".v1", ".v2")}
    with daemon:
        daemon.push(noise("after", n_samples=60))
        wait_until(lambda: daemon.stats()["total"]["stored"] == 2, what="the two good ones")
        assert {path.name for path in new.iterdir()} == foreign
        named = {Path(event["path"]).name for event in log_events(daemon, "spool_foreign_file")}
        assert named == foreign
        assert all(role["restarts"] == 0 for role in daemon.health()["roles"])
    assert outside.read_bytes() == entry
    assert {path.name for path in new.iterdir()} == foreign


def test_a_spool_of_an_earlier_release_is_read(tmp_path):
    """The bytes and the name are written down: a change of format has to leave this test as it is."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "frames.json").read_text())["frames"][0]
    content = bytes.fromhex(golden["hex"])
    daemon = DaemonProcess(tmp_path, SETTINGS)
    spool = spool_of(daemon)
    places = [spool / "new", spool / "claimed" / "uploader-0", spool / "claimed" / "suspect-1"]
    for counter, place in enumerate(places):
        place.mkdir(parents=True, exist_ok=True)
        (place / f"01790000000123456789-{counter:08d}-{GOLDEN_CRC}.v1").write_bytes(content)
    with daemon:
        totals = daemon.wait_settled()
        assert (totals["stored"], totals["duplicates"], totals["failed"]) == (1, 2, 0)
        npy = objects_of(daemon)["sessions/storm-7/websdr_3.npy"]
        assert np.load(npy).tobytes() == bytes.fromhex(golden["measurement"]["samples"])
        document = json.loads(objects_of(daemon)["sessions/storm-7/websdr_3_metadata.json"].read_bytes())
        assert document["timestamp_ns"] == golden["measurement"]["timestamp_ns"]


@pytest.mark.slow
@pytest.mark.quiet
def test_eight_flooders_do_not_hold_up_a_quiet_node(tmp_path):
    n_quiet = 60
    stop = threading.Event()
    content = wire.encode(noise("flood", n_samples=12_500))

    def flood(endpoint):
        with pusher(endpoint, 0.2) as socket:
            socket.set(zmq.LINGER, 0)
            while not stop.is_set():
                with contextlib.suppress(zmq.Again):
                    socket.send(content)

    with DaemonProcess(tmp_path, SETTINGS) as daemon:
        threads = [threading.Thread(target=flood, args=(daemon.ingest_endpoint,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: daemon.stats()["accepted"] > 100, what="the flood")
            with pusher(daemon.ingest_endpoint) as socket:
                for i in range(n_quiet):
                    # The stamp is when it was sent, by the clock that the daemon books the acceptance with.
                    one = noise(f"quiet-{i:03d}", 2, n_samples=100, timestamp_ns=time.time_ns(), node="quiet")
                    socket.send(wire.encode(one))
                    time.sleep(0.05)
            resident_mib = resident_bytes(daemon.pid) / 2**20
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
        with daemon.client() as client:
            rows = wait_until(lambda: quiet_rows(client, n_quiet), 60, "the quiet node's rows")
    latencies_ms = sorted((row["accepted_at_ns"] - row["timestamp_ns"]) / 1e6 for row in rows)
    assert quantile(latencies_ms, 0.99) < 500, latencies_ms[-5:]
    assert resident_mib < 600


def quiet_rows(client, n_wanted):
    rows = client.query("measurements", node="quiet", limit=1000)["measurements"]
    return rows if len(rows) == n_wanted else None


@pytest.mark.parametrize("part_bytes", [2**20 - 100, 2**14])
def test_a_message_of_endless_parts_costs_the_receiver_at_most_and_nothing_that_was_accepted(
    tmp_path, part_bytes
):
    settings = SETTINGS | {"ingest": {"max_frame_bytes": 2**20}}
    with DaemonProcess(tmp_path, settings) as daemon:
        daemon.push(noise("before", n_samples=60))
        wait_until(lambda: daemon.stats()["stored"] == 1, what="the first")
        supervisor = daemon.pid
        receiver = daemon.role_pids()["receiver"]
        # By hand: libzmq as a sender keeps a message back until its last part.
        with PeakMemory(supervisor) as memory, ready_peer(daemon.ingest_endpoint, b"PUSH") as peer:
            one = part(bytes(part_bytes), more=True)
            batch = one * max(1, 2**20 // len(one))
            # More than the receiver may have.
            with pytest.raises(OSError, match=r"reset|pipe|timed out"):
                for _ in range(3 * 2**30 // len(batch)):
                    peer.sendall(batch)
        daemon.push(noise("after", n_samples=60))
        wait_until(lambda: len(objects_of(daemon)) == 4, 60, "both pairs")
        assert daemon.pid == supervisor
        assert daemon.popen.poll() is None
        restarts = {role["name"]: role["restarts"] for role in daemon.health()["roles"]}
        assert {name for name, count in restarts.items() if count} <= {"receiver"}, restarts
        # What the attack took is given back, by the same process or with it.
        left = daemon.role_pids()["receiver"]
        wait_until(lambda: resident_bytes(left, alone=True) < 300 * 2**20, 10, "the memory to be given back")
        assert left == receiver or restarts["receiver"]
    assert 2**30 < memory.bytes < 3 * 2**30
