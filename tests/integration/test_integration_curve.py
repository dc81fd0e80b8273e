"""CURVE on both sockets of a real daemon: who comes in, as whom, and what a new list of keys changes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

from ingestd import curve
from ingestd.client import Client
from ingestd.errors import QueryError, Unavailable
from ingestd.formats import frame as wire
from ingestd.node import Node
from ingestd.roles.keyring import Keyring
from ingestd.roles.signals import Mark
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.keys import Keys
from ingestd.testing.waiting import wait_until


def make_keys(directory):
    made = Keys(directory)
    for name in ("north", "south", "admin", "stranger"):
        made.make(name)
    made.allow("north", "south")
    made.allow("admin", file=made.clients_file)
    return made


def start(keys):
    settings = {
        "uploader": {"count": 1},
        "spool": {"min_free_bytes": 0},
        "security": keys.settings(),
    }
    return DaemonProcess(
        Path(keys.directory, "daemon"), settings, client_keys=tuple(keys.files("admin").values())
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("curve"))


@pytest.fixture(scope="module")
def daemon(keys):
    with start(keys) as running:
        yield running


@pytest.fixture
def own_keys(tmp_path):
    """Keys whose lists a test may change."""
    return make_keys(tmp_path)


@pytest.fixture
def own_daemon(own_keys):
    with start(own_keys) as running:
        yield running


def rejected(daemon, reason="identity"):
    return daemon.stats()["rejected"].get(reason, 0)


def reload(daemon, word="keys_reloaded"):
    """SIGHUP, and wait until both sockets have read their lists."""
    before = daemon.log_tail(10**6).count(word)
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: daemon.log_tail(10**6).count(word) >= before + 2, 10, word)


@contextlib.contextmanager
def raw_pusher(daemon, keys=None):
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        socket.immediate = True
        for option, value in (curve.ClientKeys.read(**keys).options() if keys else {}).items():
            socket.set(option, value)
        socket.connect(daemon.ingest_endpoint)
        yield socket


def test_a_node_with_its_key_is_confirmed_and_stored(daemon, keys):
    with Node(
        daemon.ingest_endpoint,
        websdr_id=1,
        name="north",
        query_endpoint=daemon.query_endpoint,
        **keys.files("north"),
    ) as node:
        node.send_measurement(noise("confirmed"))
    assert node.unconfirmed_count == 0
    with daemon.client() as client:
        wait_until(lambda: client.measurement("confirmed", 1)["state"] == "stored", what="the object")


@pytest.mark.parametrize("who", ["no key", "unknown key", "wrong key of the daemon", "key of a client"])
def test_whoever_has_no_key_on_the_list_gets_no_session(daemon, keys, who, tmp_path):
    given = {
        "no key": None,
        "unknown key": keys.files("stranger"),
        "key of a client": keys.files("admin"),
    }.get(who, keys.files("north"))
    if who == "wrong key of the daemon":
        (tmp_path / "other.pub").write_text(keys.make("other"))
        given["server_key_file"] = str(tmp_path / "other.pub")
    received = daemon.stats()["received"]
    with raw_pusher(daemon, given) as socket:
        assert not socket.poll(700, zmq.POLLOUT), "it was let in"
    with (
        pytest.raises(Unavailable, match="does not let us in"),
        Node(daemon.ingest_endpoint, websdr_id=1, name="north", timeout_s=0.5, **(given or {})) as node,
    ):
        node.send_measurement(noise("never"))
    with raw_pusher(daemon, keys.files("south")) as socket:
        assert socket.poll(5000, zmq.POLLOUT)
        socket.send(wire.encode(noise(f"after-{who}".replace(" ", "-"))))
        wait_until(lambda: daemon.stats()["received"] == received + 1, what="the next good frame")


def test_whoever_is_not_let_in_is_counted_on_the_socket_that_it_came_to(daemon, keys):
    def refused(socket, reason):
        return daemon.stats()["peers_refused"][socket].get(reason, 0)

    before = refused("ingest", "unknown_key"), refused("query", "unknown_key")
    with raw_pusher(daemon, keys.files("stranger")):
        wait_until(lambda: refused("ingest", "unknown_key") > before[0], 5, "a count of the ingest socket")
    assert refused("query", "unknown_key") == before[1]
    stranger = Client(daemon.query_endpoint, timeout_s=0.7, retries=0, **keys.files("stranger"))
    with stranger, pytest.raises(Unavailable):
        stranger.ping()
    wait_until(lambda: refused("query", "unknown_key") > before[1], 5, "a count of the query socket")
    pid = daemon.role_pids()["receiver"]
    counted = refused("ingest", "unknown_key")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon.role_pids()["receiver"] != pid, 10, "another receiver")
    assert refused("ingest", "unknown_key") >= counted


def test_a_query_needs_a_key_of_a_client_or_a_node(daemon, keys):
    def answers(**given):
        with Client(daemon.query_endpoint, timeout_s=0.7, retries=0, **given) as client:
            with contextlib.suppress(Unavailable):
                return client.ping()["pong"]
        return False

    assert answers(**keys.files("admin"))
    assert answers(**keys.files("north"))
    assert not answers(**keys.files("stranger"))
    assert not answers()


def test_a_frame_under_another_name_is_rejected_identity_and_is_not_held_against_that_name(daemon, keys):
    epoch = 5
    before = daemon.stats()
    with raw_pusher(daemon, keys.files("north")) as socket:
        assert socket.poll(5000, zmq.POLLOUT)
        socket.send(wire.encode(noise("forged", node="south", epoch=epoch, seq=0)))
        # Refused for another reason: what it says of its sender is believed no more than in a good frame.
        socket.send(
            wire.encode(noise("forged", node="south", epoch=epoch, seq=1)).replace(b"forged", b"../../")
        )
        socket.send(wire.encode(noise("own-name", node="north")))
        socket.send(wire.encode(noise("no-name", node=None)))
        wait_until(lambda: daemon.stats()["received"] == before["received"] + 4, what="all four")
    wait_until(lambda: daemon.stats()["stored"] >= before["stored"] + 2, what="both good ones")
    after = daemon.stats()["rejected"]
    assert {
        reason: after[reason] - before["rejected"].get(reason, 0) for reason in ("identity", "task_id")
    } == {
        "identity": 1,
        "task_id": 1,
    }
    with daemon.client() as client:
        row = next(row for row in client.rejected()["rejected"] if row["reason"] == "identity")
        assert (row["field"], row["value"]) == ("node", "'south'")
        assert client.confirm("south", epoch)["rejected"] == []


def test_a_confirmed_node_under_another_name_than_its_keys_is_told_so_and_does_not_send_again(daemon, keys):
    began_s = time.monotonic()
    with (
        pytest.raises(QueryError, match=r"node='south' \(allowed: north, to which the key"),
        Node(
            daemon.ingest_endpoint,
            websdr_id=1,
            name="south",
            query_endpoint=daemon.query_endpoint,
            timeout_s=20.0,
            **keys.files("north"),
        ) as node,
    ):
        node.send_measurement(noise("wrong-name"))
    assert time.monotonic() - began_s < 10
    assert node.resent_count == 0
    assert node.unconfirmed_count == 1


def test_a_node_asks_for_confirmation_of_itself_and_a_client_of_everybody(daemon, keys, own_keys):
    def confirm(who, name):
        with Client(daemon.query_endpoint, **keys.files(who)) as client:
            return client.confirm(name, 7)["accepted_upto"]

    assert confirm("north", "north") == 0
    assert confirm("admin", "south") == 0
    with pytest.raises(QueryError, match="bound"):
        confirm("north", "south")
    # A key that is on both lists is a client's, too.
    lists = [own_keys.nodes_file, own_keys.clients_file]
    ring = Keyring("unused", lists, Mark(), bound_file=own_keys.nodes_file)
    north = curve.public_key_of(curve.read_secret_key(own_keys.files("north")["secret_key_file"]))
    assert ring.only_name_of(north) == "north"
    own_keys.allow("admin", "north", file=own_keys.clients_file)
    assert Keyring("unused", lists, Mark(), bound_file=own_keys.nodes_file).only_name_of(north) is None


#: ZMTP 3.1 with the mechanism CURVE, and a HELLO whose box nobody can open: it costs the other side a multiplication.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31)
HELLO = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72)


def quiet_rows(client):
    rows = client.measurements(node="north", limit=1000)["measurements"]
    return [row for row in rows if row["task_id"].startswith("quiet-")]


@pytest.mark.quiet
def test_handshakes_without_keys_hold_up_no_node_that_has_one(daemon, keys):
    stop = threading.Event()
    counts = {"hello": 0, "unknown": 0}
    host, _, port = daemon.ingest_endpoint.removeprefix("tcp://").rpartition(":")

    def hello():
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as peer:
                peer.sendall(GREETING + HELLO + os.urandom(32 + 8 + 80))
                counts["hello"] += 1

    def unknown():
        while not stop.is_set():
            with raw_pusher(daemon, keys.files("stranger")) as peer:
                peer.poll(20, zmq.POLLOUT)
                counts["unknown"] += 1

    threads = [threading.Thread(target=target) for target in (hello, hello, unknown)]
    for thread in threads:
        thread.start()
    try:
        with raw_pusher(daemon, keys.files("north")) as north:
            assert north.poll(5000, zmq.POLLOUT), "not let in beside them"
            wait_until(lambda: min(counts.values()) > 20, what="the bombs")
            for number in range(20):
                # The stamp is when it was sent, by the clock that the daemon books the acceptance with.
                north.send(
                    wire.encode(
                        noise(f"quiet-{number}", n_samples=100, timestamp_ns=time.time_ns(), node="north")
                    )
                )
                stop.wait(0.02)
            with daemon.client() as client:
                rows = wait_until(
                    lambda: len(found := quiet_rows(client)) == 20 and found,
                    30,
                    "all of them",
                )
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    latencies_ms = sorted((row["accepted_at_ns"] - row["timestamp_ns"]) / 1e6 for row in rows)
    # The 18th of 20: two may be what a busy machine adds.
    assert latencies_ms[-3] < 500, latencies_ms
    assert "peer_turned_away" in daemon.log_tail(10**6)


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x01\x00\x01\x01\x06\x00hello",
        bytes(4096),
    ],
    ids=["http", "tls", "zmtp1", "zeros"],
)
def test_what_does_not_speak_curve_is_closed_on_both_ports(daemon, opening):
    received = daemon.stats()["received"]
    for endpoint in (daemon.ingest_endpoint, daemon.query_endpoint):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=9) as peer,
            contextlib.suppress(ConnectionError),
        ):
            peer.sendall(opening)
            while peer.recv(4096):
                pass
    assert daemon.stats()["received"] == received


def test_a_key_that_is_put_on_the_list_comes_in_after_sighup_and_nobody_else_is_dropped(own_daemon, own_keys):
    with (
        raw_pusher(own_daemon, own_keys.files("north")) as north,
        raw_pusher(own_daemon, own_keys.files("stranger")) as stranger,
    ):
        assert north.poll(5000, zmq.POLLOUT)
        with north.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            assert not stranger.poll(500, zmq.POLLOUT)
            own_keys.allow("north", "south", "stranger")
            reload(own_daemon)
            assert stranger.poll(8000, zmq.POLLOUT), "the library of the peer connects again by itself"
            stranger.send(wire.encode(noise("new", node="stranger")))
            north.send(wire.encode(noise("old", node="north")))
            own_daemon.wait_stored(2)
            assert not monitor.poll(0), "a connected node was dropped"
            north.disable_monitor()


def test_a_key_that_is_taken_off_the_list_is_refused_at_once_on_the_connection_it_has(own_daemon, own_keys):
    with (
        raw_pusher(own_daemon, own_keys.files("south")) as south,
        Client(own_daemon.query_endpoint, timeout_s=1.0, retries=0, **own_keys.files("south")) as client,
    ):
        assert south.poll(5000, zmq.POLLOUT)
        assert client.ping()["pong"]
        own_keys.allow("north")
        reload(own_daemon)
        south.send(wire.encode(noise("late", node="south")))
        wait_until(lambda: rejected(own_daemon) == 1, what="the rejection")
        with pytest.raises(Unavailable):
            client.ping()


def test_a_list_that_is_wrong_changes_nothing_and_says_so(own_daemon, own_keys):
    Path(own_keys.nodes_file).write_text("north\n")
    reload(own_daemon, "keys_not_reloaded")
    assert f"{own_keys.nodes_file}:1: must be NAME PUBLIC_KEY" in own_daemon.log_tail()
    with raw_pusher(own_daemon, own_keys.files("north")) as socket:
        assert socket.poll(5000, zmq.POLLOUT)


def test_ingestctl_asks_and_pushes_with_keys(daemon, keys):
    given = keys.files("north")
    command = [
        sys.executable, "-m", "ingestd.cli.ingestctl", "--endpoint", daemon.query_endpoint,
        "--secret-key-file", given["secret_key_file"], "--server-key-file", given["server_key_file"],
        "push", "--test-tone", "--ingest", daemon.ingest_endpoint, "--node", "north",
    ]  # fmt: skip
    command[1:3] = ["-c", "import sys; from ingestd.cli.ingestctl import main; sys.exit(main())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "stored as" in done.stdout
    Path(given["secret_key_file"]).chmod(0o644)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "chmod 0400" in done.stderr
