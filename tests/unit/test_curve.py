"""Key files: what is taken, what is refused and how, and that a secret is never shown."""

import os

import pytest
import zmq

from ingestd import curve
from ingestd.client import Client
from ingestd.curve import ClientKeys
from ingestd.errors import ConfigError, UsageError
from ingestd.node import Node


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "own.key"
    curve.write_secret_key(str(path))
    return path


def a_key():
    return zmq.curve_keypair()[0].decode()


def refusal(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return str(caught.value)


def test_a_written_key_is_read_again_and_its_public_half_belongs_to_it(tmp_path):
    path = str(tmp_path / "own.key")
    public = curve.write_secret_key(path)
    assert curve.public_key_of(curve.read_secret_key(path)) == public


def test_comments_and_white_space_around_a_key_are_none_of_it(tmp_path):
    key = a_key()
    path = tmp_path / "daemon.pub"
    path.write_text(f"# of the daemon\n#\n\n  {key}  \n")
    assert curve.read_public_key(str(path)) == key


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o602, 0o644, 0o601])
def test_a_secret_key_that_others_reach_is_refused(secret, mode):
    secret.chmod(mode)
    message = refusal(curve.read_secret_key, str(secret))
    assert "chmod 0400" in message
    assert secret.read_text().splitlines()[-1] not in message


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_the_owner_and_a_group_of_services_may_read_it(secret, mode):
    secret.chmod(mode)
    assert curve.read_secret_key(str(secret))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "x" * 39,
        "x" * 41,
        "#" * 40,
        "word {key}",
        "{key}\n{key}\n",
        "{key}\nword\n",
        "{key} word",
    ],
)
def test_a_file_that_does_not_hold_one_key_alone_is_refused_without_showing_it(secret, text):
    key = a_key()
    secret.write_text(text.format(key=key))
    message = refusal(curve.read_secret_key, str(secret))
    assert "must hold one secret key" in message
    assert key not in message


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"x" * (2**20 + 1)], ids=["not ASCII", "long"])
def test_other_bytes_are_refused(secret, raw):
    secret.write_bytes(raw)
    refusal(curve.read_secret_key, str(secret))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "regular" in refusal(curve.read_secret_key, str(tmp_path / "fifo"))
    assert "No such file" in refusal(curve.read_secret_key, str(tmp_path / "none"))


def test_a_list_binds_names_to_keys_and_a_name_may_have_two(tmp_path):
    path, keys = tmp_path / "nodes", [a_key() for _ in range(3)]
    path.write_text(f"# nodes\n\nnorth {keys[0]}\n  south\t{keys[1]}\nnorth {keys[2]}\n")
    assert curve.read_allowlist(str(path)) == {keys[0]: "north", keys[1]: "south", keys[2]: "north"}


@pytest.mark.parametrize(
    "line",
    [
        "north",
        "north {key} more",
        "{key}",
        ".north {key}",
        "no/rth {key}",
        "north {key}x",
        "north " + "#" * 40,
        "n" * 129 + " {key}",
    ],
)
def test_a_wrong_line_of_a_list_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "nodes"
    path.write_text("# one\n" + line.format(key=a_key()) + "\n")
    assert refusal(curve.read_allowlist, str(path)).startswith(f"{path}:2: must be NAME PUBLIC_KEY")


def test_a_key_has_one_name(tmp_path):
    path, key = tmp_path / "nodes", a_key()
    path.write_text(f"north {key}\nsouth {key}\n")
    assert "the one of north already" in refusal(curve.read_allowlist, str(path))


def test_a_list_that_others_can_write_is_refused(tmp_path):
    path = tmp_path / "nodes"
    path.write_text("")
    path.chmod(0o646)
    assert "others may write" in refusal(curve.read_allowlist, str(path))


def test_own_key_and_the_daemons_go_together(secret):
    assert ClientKeys.read(None, None) is None
    for pair in ((str(secret), None), (None, str(secret))):
        with pytest.raises(UsageError, match="go together"):
            ClientKeys.read(*pair)


@pytest.mark.parametrize("make", [Client, lambda **keys: Node(websdr_id=1, **keys)], ids=["Client", "Node"])
def test_whoever_connects_refuses_a_key_file_that_others_can_read(secret, tmp_path, make):
    server = tmp_path / "daemon.pub"
    server.write_text(a_key())
    make(secret_key_file=str(secret), server_key_file=str(server))
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0400"):
        make(secret_key_file=str(secret), server_key_file=str(server))


def test_a_secret_key_is_not_in_the_repr_of_what_holds_it(secret, tmp_path):
    server = tmp_path / "daemon.pub"
    server.write_text(a_key())
    keys = ClientKeys.read(str(secret), str(server))
    assert keys.secret_key not in repr(keys)
