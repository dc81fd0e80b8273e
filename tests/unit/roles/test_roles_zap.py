"""Who is let in: by number, by address, by key; and what is told of those who are not."""

import contextlib

import pytest
import structlog
import zmq

from ingestd import curve
from ingestd.errors import ConfigError
from ingestd.roles.keyring import Keyring
from ingestd.roles.listening import listen
from ingestd.roles.signals import Mark
from ingestd.testing.waiting import free_port, wait_until


@pytest.fixture
def endpoint():
    return f"tcp://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def listening(endpoint, **given):
    with listen(
        zmq.PULL, endpoint, "ingest", max_message_bytes=1000, marks={}, **{"max_connections": 8, **given}
    ) as socket:
        yield socket


@contextlib.contextmanager
def pushers(*addresses):
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        made = []
        for address in addresses:
            socket = stack.enter_context(context.socket(zmq.PUSH))
            socket.linger = 0
            socket.immediate = True
            socket.connect(address)
            made.append(socket)
        yield made


def is_in(socket, timeout_ms=3000):
    return bool(socket.poll(timeout_ms, zmq.POLLOUT))


def test_one_address_gets_so_many_connections_and_no_more(endpoint):
    # Before the semicolon: where a peer comes from.
    port = endpoint.rpartition(":")[2]
    same, other = endpoint, f"tcp://127.0.0.2:0;127.0.0.1:{port}"
    with structlog.testing.capture_logs() as said, listening(endpoint, max_per_address=2):
        with pushers(same, same) as two:
            assert all(map(is_in, two))
            with pushers(same, other) as (third, elsewhere):
                assert is_in(elsewhere)
                assert not is_in(third, 500)
    turned_away = [line for line in said if line["event"] == "peer_turned_away"]
    assert {line["why"] for line in turned_away} == {"too many connections from this address"}
    assert {line["peer"] for line in turned_away} == {"127.0.0.1"}


def test_this_machine_is_not_bounded_where_the_settings_do_not_say(endpoint):
    with listening(endpoint, max_connections=64), pushers(*[endpoint] * 20) as peers:
        assert all(map(is_in, peers))


def test_a_key_that_is_not_on_the_list_is_named_in_the_log(endpoint, tmp_path):
    for name in ("daemon", "north", "stranger"):
        curve.write_secret_key(str(tmp_path / f"{name}.key"))
    secret = curve.read_secret_key(str(tmp_path / "daemon.key"))
    (tmp_path / "daemon.pub").write_text(curve.public_key_of(secret))
    keys = {
        name: curve.ClientKeys.read(str(tmp_path / f"{name}.key"), str(tmp_path / "daemon.pub"))
        for name in ("north", "stranger")
    }
    public = {name: curve.public_key_of(one.secret_key) for name, one in keys.items()}
    (tmp_path / "nodes").write_text(f"north {public['north']}\n")
    ring = Keyring(secret, [str(tmp_path / "nodes")], Mark())
    with (
        structlog.testing.capture_logs() as said,
        listening(endpoint, keyring=ring) as server,
        pushers() as _,
    ):
        with zmq.Context() as context, contextlib.ExitStack() as stack:
            sockets = {}
            for name, one in keys.items():
                socket = sockets[name] = stack.enter_context(context.socket(zmq.PUSH))
                socket.linger, socket.immediate = 0, True
                for option, value in one.options().items():
                    socket.set(option, value)
                socket.connect(endpoint)
            assert is_in(sockets["north"])
            assert not is_in(sockets["stranger"], 500)
            sockets["north"].send(b"x")
            assert server.poll(3000)
            assert server.recv(copy=False)["User-Id"] == public["north"]
    turned_away = [line for line in said if line["event"] == "peer_turned_away"]
    assert {(line["why"], line["public_key"]) for line in turned_away} == {
        ("unknown key", public["stranger"])
    }


def test_keys_are_read_again_when_that_is_asked_for_and_kept_when_the_list_is_wrong(tmp_path):
    path, key = tmp_path / "nodes", zmq.curve_keypair()[0].decode()
    path.write_text("")
    mark = Mark()
    ring = Keyring("unused", [str(path)], mark)
    path.write_text(f"north {key}\n")
    ring.reload_if_asked()
    assert ring.name_of(key) is None, "nobody asked"
    mark.set()
    ring.reload_if_asked()
    assert ring.name_of(key) == "north"
    path.write_text("north\n")
    mark.set()
    with structlog.testing.capture_logs() as said:
        ring.reload_if_asked()
    assert [line["event"] for line in said] == ["keys_not_reloaded"]
    assert ring.name_of(key) == "north"
    assert not mark.take(), "asked for once"


def test_a_list_that_cannot_be_read_at_the_start_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Keyring("unused", [str(tmp_path / "none")], Mark())


def test_a_thousand_silent_connections_keep_nobody_out(endpoint):
    import socket as plain

    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with structlog.testing.capture_logs() as said, listening(endpoint) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(700):
                stack.enter_context(plain.create_connection((host, int(port)), timeout=5))
            with pushers(endpoint) as (one,):
                assert is_in(one)
                one.send(b"through")
                assert server.poll(3000)
            wait_until(
                lambda: any(line["event"] == "silent_peers_closed" for line in said), 5, "the log line"
            )
