"""Nodes behind a network that breaks (F33): what they confirm is stored once, with its bytes."""

import threading

import numpy as np
import pytest

from ingestd.formats.measurement import Identity, object_keys
from ingestd.node import Node
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.network_proxy import NetworkProxy, Weather
from ingestd.testing.waiting import wait_until

N_NODES, N_FRAMES = 5, 120


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_confirmed_nodes_lose_nothing_through_resets_slices_silence_and_garbled_frames(tmp_path, seed):
    troubles = []
    done = []

    def send(proxy, daemon, websdr_id):
        try:
            with Node(
                proxy.endpoint,
                websdr_id=websdr_id,
                name=f"n{websdr_id}",
                query_endpoint=daemon.query_endpoint,
                timeout_s=90,
            ) as node:
                for i in range(N_FRAMES):
                    node.send_measurement(noise(f"storm-{i:03d}", websdr_id, n_samples=4000, seed=i))
            done.append(node.resent_count)
        except Exception as error:
            troubles.append(error)

    with DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}}) as daemon:
        with NetworkProxy(int(daemon.ingest_endpoint.rpartition(":")[2]), seed) as proxy:
            threads = [threading.Thread(target=send, args=(proxy, daemon, i)) for i in range(1, N_NODES + 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(110)
        assert not troubles
        assert len(done) == N_NODES
        totals = daemon.wait_settled()
        assert totals["stored"] == N_NODES * N_FRAMES
        assert (totals["failed"], totals["lost"], totals["conflicts"]) == (0, 0, 0)
        restarts = {role["name"]: role["restarts"] for role in daemon.health()["roles"]}
    # A wrong length may make the receiver's library end it; then it is back, and nothing is lost.
    assert all(n == 0 for name, n in restarts.items() if name != "receiver"), restarts
    assert sum(done) > 0, "frames were lost on the way and sent again"
    struck = {weather for weather in Weather if proxy.counts[weather]}
    assert struck == set(Weather), struck
    bucket = tmp_path / "state" / "objects" / "heimdall-raw-iq"
    for websdr_id in range(1, N_NODES + 1):
        for i in range(N_FRAMES):
            key = object_keys(Identity(f"storm-{i:03d}", websdr_id, None)).npy
            sent = noise(f"storm-{i:03d}", websdr_id, n_samples=4000, seed=i)
            assert np.load(bucket / key).tobytes() == bytes(sent.samples)


def test_a_silent_connection_does_not_keep_the_others_from_their_daemon(tmp_path):
    """Half-open: the peer is gone and nobody was told; the next node is served all the same."""
    with DaemonProcess(tmp_path, {"spool": {"min_free_bytes": 0}}) as daemon:
        port = int(daemon.ingest_endpoint.rpartition(":")[2])
        with NetworkProxy(port, 3) as proxy:
            proxy.calm = True
            with Node(proxy.endpoint, websdr_id=1, name="gone", query_endpoint=daemon.query_endpoint) as node:
                node.send_measurement(noise("before"))
                node.wait(10)
        daemon.push(noise("after"))
        wait_until(lambda: daemon.stats()["stored"] == 2, what="both")
