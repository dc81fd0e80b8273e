"""Why a connection got no session, by what the monitor of a real socket tells."""

import contextlib
import os
import re
import socket
import struct
import time
from collections import Counter
from pathlib import Path

import pytest
import zmq

from ingestd import curve
from ingestd.formats.peers import PeerReason
from ingestd.roles.keyring import Keyring
from ingestd.roles.listening import listen
from ingestd.roles.refusals import Refusals
from ingestd.roles.signals import Mark
from ingestd.testing.keys import Keys
from ingestd.testing.secured.raw import GREETING, connected, is_closed, ready_peer
from ingestd.testing.waiting import free_port, wait_until


@contextlib.contextmanager
def listening(keyring=None, **given):
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    counts = Counter()
    options = {"max_connections": 8, "max_message_bytes": 1000, "marks": {}} | given
    with listen(
        zmq.PULL,
        endpoint,
        "ingest",
        keyring=keyring,
        counter=lambda reason: counts.update([reason]),
        **options,
    ):
        yield endpoint, counts


@contextlib.contextmanager
def peer(endpoint, kind=zmq.PUSH, keys=None):
    """A libzmq socket that tries once."""
    with zmq.Context() as context, context.socket(kind) as made:
        made.linger = 0
        made.reconnect_ivl = -1
        made.immediate = True
        for option, value in (curve.ClientKeys.read(**keys).options() if keys else {}).items():
            made.set(option, value)
        made.connect(endpoint)
        yield made


@pytest.fixture
def keys(tmp_path):
    made = Keys(tmp_path)
    for name in ("north", "stranger"):
        made.make(name)
    made.allow("north")
    return made


@pytest.fixture
def ring(keys):
    return Keyring(curve.read_secret_key(keys.settings()["secret_key_file"]), [keys.nodes_file], Mark())


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A handshake has a third of a second."""
    monkeypatch.setattr("ingestd.roles.listening._HANDSHAKE_MS", 300)
    monkeypatch.setattr("ingestd.roles.refusals._TIMED_OUT_S", 0.25)


def only(counts, reason):
    """One is counted, under this reason and no other, also when the time for its handshake is over."""
    wait_until(lambda: sum(counts.values()), 8, f"{reason}")
    time.sleep(0.4)
    assert counts == {reason: 1}


OPENINGS = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100ca010000c60303") + bytes(200),
    "zmtp1": b"\x01\x00\x01\x01\x06\x00hello",
    "zeros": bytes(4096),
    "random": b"\x55" + os.urandom(4095),
}


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("with_keys", [False, True])
def test_what_does_not_speak_zeromq_is_a_matter_of_protocol(opening, with_keys, request):
    keyring = request.getfixturevalue("ring") if with_keys else None
    with listening(keyring) as (endpoint, counts), connected(endpoint) as stranger:
        stranger.sendall(OPENINGS[opening])
        assert is_closed(stranger, 2.0)
        only(counts, PeerReason.PROTOCOL)


@pytest.mark.parametrize("kind", [b"PUB", b"DEALER", b"REQ", b"PULL"])
def test_a_socket_of_the_wrong_kind_is_a_matter_of_protocol(kind):
    with listening() as (endpoint, counts):
        # Closed in the handshake, or right behind it.
        with contextlib.suppress(ConnectionError), ready_peer(endpoint, kind) as stranger:
            assert is_closed(stranger, 2.0)
        only(counts, PeerReason.PROTOCOL)


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.DEALER, zmq.REQ])
def test_one_that_notices_itself_that_it_is_of_the_wrong_kind_may_leave_before_it_is_told(kind):
    with listening() as (endpoint, counts), peer(endpoint, kind):
        wait_until(lambda: sum(counts.values()) == 1, 8, "one")
        assert set(counts) <= {PeerReason.PROTOCOL, PeerReason.HANDSHAKE}


def test_who_speaks_without_a_key_where_one_is_needed_has_none(ring):
    with listening(ring) as (endpoint, counts), connected(endpoint) as stranger:
        stranger.sendall(GREETING)
        assert is_closed(stranger, 2.0)
        only(counts, PeerReason.NO_KEY)


@pytest.mark.parametrize(
    ("who", "server", "reason"),
    [
        ("stranger", "daemon", PeerReason.UNKNOWN_KEY),
        ("north", "other", PeerReason.SERVER_KEY),
    ],
)
def test_keys_that_do_not_fit_are_told_apart(keys, ring, who, server, reason):
    given = keys.files(who)
    if server == "other":
        given["server_key_file"] = os.path.join(keys.directory, "other.pub")
        with open(given["server_key_file"], "w") as file:
            file.write(keys.make("other"))
    with listening(ring) as (endpoint, counts), peer(endpoint, keys=given):
        only(counts, reason)


def test_curve_on_a_socket_without_is_a_handshake_that_failed(keys):
    with listening() as (endpoint, counts), peer(endpoint, keys=keys.files("north")):
        only(counts, PeerReason.HANDSHAKE)


def test_more_than_are_allowed_are_counted_whichever_the_bound():
    with listening(max_connections=1) as (endpoint, counts), peer(endpoint) as one:
        assert one.poll(3000, zmq.POLLOUT)

        def tried():
            with contextlib.suppress(ConnectionError), ready_peer(endpoint, b"PUSH"):
                pass
            return sum(counts.values())

        # The first to try may be in before the other one's handshake is over on this side, too.
        wait_until(tried, 5, "one that is turned away")
        assert set(counts) == {PeerReason.TOO_MANY}
    with listening(max_per_address=0) as (endpoint, counts), peer(endpoint):
        only(counts, PeerReason.TOO_MANY_FROM_ADDRESS)


@pytest.mark.parametrize("said", [b"", GREETING], ids=["silent", "greeted"])
def test_a_handshake_that_is_not_finished_in_time(said):
    with listening() as (endpoint, counts), connected(endpoint) as slow:
        slow.sendall(said)
        only(counts, PeerReason.TIMEOUT)


def test_whoever_leaves_in_the_middle_is_a_handshake_that_failed():
    with listening() as (endpoint, counts):
        with connected(endpoint) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        only(counts, PeerReason.HANDSHAKE)


def test_a_crowd_of_silent_ones_is_counted_where_it_is_shut_down(monkeypatch):
    monkeypatch.setattr("ingestd.roles.connections.MAX_SILENT", 4)
    with listening() as (endpoint, counts), contextlib.ExitStack() as stack:
        made = [stack.enter_context(connected(endpoint)) for _ in range(7)]
        wait_until(lambda: counts[PeerReason.CROWD] == 3, 4, "three of them")
        assert all(is_closed(one, 2.0) for one in made[:3])
        assert counts == {PeerReason.CROWD: 3}


def test_who_is_let_in_and_leaves_is_not_counted(keys, ring):
    for keyring, given in ((None, None), (ring, keys.files("north"))):
        with listening(keyring) as (endpoint, counts):
            with peer(endpoint, keys=given) as good:
                assert good.poll(3000, zmq.POLLOUT)
            with connected(endpoint) as last:
                # What comes behind it was looked at after it.
                last.sendall(OPENINGS["http"])
                only(counts, PeerReason.PROTOCOL)


@pytest.fixture
def told():
    counts = Counter()
    refusals = Refusals(lambda reason: counts.update([reason]), with_keys=False)
    return refusals, counts


def test_what_was_told_of_is_taken_off_once_and_forgotten_where_nobody_is_left(told):
    refusals, counts = told
    refusals.failed_by_zap()
    refusals.ended(0.1)
    assert not counts
    refusals.ended(0.1)
    assert counts == {PeerReason.PROTOCOL: 1}
    refusals.failed_by_zap()
    refusals.nobody_is_left()
    refusals.ended(0.1)
    assert counts == {PeerReason.PROTOCOL: 2}


def test_one_that_was_taken_for_done_is_counted_and_the_other_in_its_place_is_not(told):
    refusals, counts = told
    refusals.failed_untold()
    refusals.ended(None)
    refusals.ended(3.0)
    refusals.ended(None)
    assert counts == {PeerReason.HANDSHAKE: 1}


def test_one_that_was_shut_down_here_takes_its_failure_with_it(told):
    refusals, counts = told
    refusals.failed_untold()
    refusals.ended(None, was_shed=True)
    refusals.ended(None)
    assert not counts


def test_every_reason_is_explained_and_no_other():
    text = (Path(__file__).resolve().parents[3] / "docs" / "queries.md").read_text()
    table = text.partition("`peers_refused` counts")[2].partition("`received_bytes`")[0]
    told = [
        word
        for line in table.splitlines()
        for word in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    ]
    assert sorted(told) == sorted(PeerReason)
