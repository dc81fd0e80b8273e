"""CURVE on both sockets of a real daemon: who comes in, as whom, and what a new list of keys changes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from ingestd import curve
from ingestd.client import Client
from ingestd.errors import Unavailable
from ingestd.formats import frame as wire
from ingestd.node import Node
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until


class Keys:
    """Key files of a daemon, its nodes and its clients."""

    def __init__(self, directory):
        self.directory = directory
        self.nodes_file, self.clients_file = directory / "nodes", directory / "clients"
        self.server = self.make("daemon")
        (directory / "daemon.pub").write_text(self.server)

    def make(self, name):
        return curve.write_secret_key(str(self.directory / f"{name}.key"))

    def files(self, name):
        return {
            "secret_key_file": str(self.directory / f"{name}.key"),
            "server_key_file": str(self.directory / "daemon.pub"),
        }

    def allow(self, *names, file=None):
        path = self.nodes_file if file is None else file
        lines = [
            f"{name} {curve.public_key_of(curve.read_secret_key(self.files(name)['secret_key_file']))}\n"
            for name in names
        ]
        path.write_text("# allowed\n" + "".join(lines))


@pytest.fixture
def keys(tmp_path):
    made = Keys(tmp_path)
    for name in ("north", "south", "admin", "stranger"):
        made.make(name)
    made.allow("north", "south")
    made.allow("admin", file=made.clients_file)
    return made


@pytest.fixture
def daemon(tmp_path, keys):
    settings = {
        "uploader": {"count": 1},
        "spool": {"min_free_bytes": 0},
        "security": {
            "secret_key_file": str(tmp_path / "daemon.key"),
            "nodes_file": str(keys.nodes_file),
            "clients_file": str(keys.clients_file),
        },
    }
    admin = keys.files("admin")
    with DaemonProcess(
        tmp_path / "daemon", settings, client_keys=(admin["secret_key_file"], admin["server_key_file"])
    ) as running:
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
        node.send_measurement(noise("curve-1"))
    daemon.wait_stored(1)
    assert node.unconfirmed_count == 0
    assert rejected(daemon) == 0


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
        socket.send(wire.encode(noise("next-good-frame")))
        wait_until(lambda: daemon.stats()["received"] == received + 1, what="the next good frame")


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
    with raw_pusher(daemon, keys.files("north")) as socket:
        assert socket.poll(5000, zmq.POLLOUT)
        socket.send(wire.encode(noise("forged", node="south", epoch=epoch, seq=0)))
        # Refused for another reason: what it says of its sender is believed no more than in a good frame.
        socket.send(
            wire.encode(noise("forged", node="south", epoch=epoch, seq=1)).replace(b"forged", b"../../")
        )
        socket.send(wire.encode(noise("own-name", node="north")))
        socket.send(wire.encode(noise("no-name", node=None)))
        wait_until(lambda: daemon.stats()["received"] == 4, what="all four")
    wait_until(lambda: daemon.stats()["stored"] == 2, what="both good ones")
    assert daemon.stats()["rejected"] == {**daemon.stats()["rejected"], "identity": 1, "task_id": 1}
    with daemon.client() as client:
        row = next(row for row in client.rejected()["rejected"] if row["reason"] == "identity")
        assert (row["field"], row["value"]) == ("node", "'south'")
        assert client.confirm("south", epoch)["rejected"] == []


def test_a_key_that_is_put_on_the_list_comes_in_after_sighup_and_nobody_else_is_dropped(daemon, keys):
    with (
        raw_pusher(daemon, keys.files("north")) as north,
        raw_pusher(daemon, keys.files("stranger")) as stranger,
    ):
        assert north.poll(5000, zmq.POLLOUT)
        with north.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            assert not stranger.poll(500, zmq.POLLOUT)
            keys.allow("north", "south", "stranger")
            reload(daemon)
            assert stranger.poll(8000, zmq.POLLOUT), "the library of the peer connects again by itself"
            stranger.send(wire.encode(noise("new", node="stranger")))
            north.send(wire.encode(noise("old", node="north")))
            daemon.wait_stored(2)
            assert not monitor.poll(0), "a connected node was dropped"
            north.disable_monitor()


def test_a_key_that_is_taken_off_the_list_is_refused_at_once_on_the_connection_it_has(daemon, keys):
    with (
        raw_pusher(daemon, keys.files("south")) as south,
        Client(daemon.query_endpoint, timeout_s=1.0, retries=0, **keys.files("south")) as client,
    ):
        assert south.poll(5000, zmq.POLLOUT)
        assert client.ping()["pong"]
        keys.allow("north")
        reload(daemon)
        south.send(wire.encode(noise("late", node="south")))
        wait_until(lambda: rejected(daemon) == 1, what="the rejection")
        with pytest.raises(Unavailable):
            client.ping()


def test_a_list_that_is_wrong_changes_nothing_and_says_so(daemon, keys):
    keys.nodes_file.write_text("north\n")
    reload(daemon, "keys_not_reloaded")
    assert f"{keys.nodes_file}:1: must be NAME PUBLIC_KEY" in daemon.log_tail()
    with raw_pusher(daemon, keys.files("north")) as socket:
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
