"""Connections counted by descriptor: whose handshake is over, and who has to go when there are too many."""

import contextlib
import socket

import pytest

from ingestd.roles import connections as module
from ingestd.roles.connections import Connections, is_loopback
from ingestd.testing.waiting import wait_until


class Peers:
    """Pairs of connected TCP sockets: ours is what libzmq would have accepted."""

    def __init__(self, stack):
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))

    def connect(self, sends=b"", source="127.0.0.1"):
        theirs = self._stack.enter_context(socket.socket())
        theirs.bind((source, 0))
        theirs.connect(self._listener.getsockname())
        ours, _ = self._listener.accept()
        self._stack.enter_context(ours)
        if sends:
            theirs.sendall(sends)
            wait_until(lambda: module._bytes_received(ours.fileno()) == len(sends), 5, "the bytes")
        theirs.settimeout(5)
        return ours, theirs


@pytest.fixture
def peers():
    with contextlib.ExitStack() as stack:
        yield Peers(stack)


@pytest.fixture
def clock():
    class Clock:
        now_s = 100.0

        def __call__(self):
            return self.now_s

    return Clock()


@pytest.fixture
def counted(clock):
    return Connections(clock)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "MAX_SILENT", 4)
    monkeypatch.setattr(module, "MAX_UNFINISHED", 6)


GREETING = bytes(64)


def is_shut(theirs):
    theirs.setblocking(False)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_connection_counts_from_its_handshake_to_its_end(counted, peers):
    ours, _ = peers.connect(GREETING)
    counted.accepted(ours.fileno())
    assert counted.n_done == 0
    counted.finished_one()
    assert (counted.n_done, counted.n_done_from("127.0.0.1"), counted.n_done_from("127.0.0.2")) == (1, 1, 0)
    counted.closed(ours.fileno())
    assert counted.n_done == 0


def test_a_handshake_is_the_newest_one_that_has_greeted(counted, peers):
    older, _ = peers.connect(GREETING, "127.0.0.2")
    greeted, _ = peers.connect(GREETING, "127.0.0.3")
    silent, _ = peers.connect(b"", "127.0.0.4")
    for ours in (older, greeted, silent):
        counted.accepted(ours.fileno())
    counted.finished_one()
    assert [counted.n_done_from(f"127.0.0.{i}") for i in (2, 3, 4)] == [0, 1, 0]


def test_whoever_is_still_there_after_the_time_for_a_handshake_has_had_one(counted, peers, clock):
    ours, _ = peers.connect()
    counted.accepted(ours.fileno())
    clock.now_s += 6.1
    assert counted.n_done == 1


def test_beyond_the_bound_the_oldest_silent_one_is_shut_down(small, counted, peers):
    made = [peers.connect() for _ in range(6)]
    for ours, _ in made:
        counted.accepted(ours.fileno())
    assert [is_shut(theirs) for _, theirs in made] == [True, True, False, False, False, False]
    assert counted.shed_count == 2


def test_who_has_greeted_or_is_done_is_not_shut_down_for_the_silent_ones(small, counted, peers):
    done = peers.connect(GREETING)
    counted.accepted(done[0].fileno())
    counted.finished_one()
    greeted = peers.connect(GREETING)
    silent = [peers.connect() for _ in range(5)]
    for ours, _ in (greeted, *silent):
        counted.accepted(ours.fileno())
    assert not is_shut(done[1])
    assert not is_shut(greeted[1])
    assert [is_shut(theirs) for _, theirs in silent] == [True, True, False, False, False]


def test_beyond_the_second_bound_the_oldest_goes_whatever_it_has_sent(small, counted, peers):
    made = [peers.connect(GREETING) for _ in range(7)]
    for ours, _ in made:
        counted.accepted(ours.fileno())
    assert [is_shut(theirs) for _, theirs in made] == [True] + [False] * 6


def test_a_crowd_that_has_greeted_is_asked_for_it_once(monkeypatch, counted):
    asked = []
    monkeypatch.setattr(module, "_bytes_received", lambda fd: asked.append(fd) or 64)
    monkeypatch.setattr(module, "_shut_down", lambda _fd: None)
    for fd in range(10**6, 10**6 + 2000):
        counted.accepted(fd)
    assert counted.shed_count == 2000 - module.MAX_UNFINISHED
    # Asking all of them each time would be half a million.
    assert len(asked) <= 2000


def test_the_most_numerous_address_pays(small, counted, peers):
    quiet = peers.connect(source="127.0.0.2")
    crowd = [peers.connect() for _ in range(5)]
    for ours, _ in (quiet, *crowd):
        counted.accepted(ours.fileno())
    assert not is_shut(quiet[1])
    assert sum(is_shut(theirs) for _, theirs in crowd) == 2


def test_a_descriptor_that_is_gone_or_no_tcp_costs_nothing(small, counted):
    counted.accepted(10**6)
    left, right = socket.socketpair()
    with left, right:
        counted.accepted(left.fileno())
        counted.finished_one()
        assert counted.n_done_from("") == 1


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("::ffff:127.0.0.1", True), ("", True),
        ("192.168.1.2", False), ("::ffff:10.0.0.1", False), ("fe80::1", False),
    ],
)  # fmt: skip
def test_this_machine_is_known(address, here):
    assert is_loopback(address) is here
