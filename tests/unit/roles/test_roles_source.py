"""Which entry comes next: arrivals and backlog in turn, suspects alone, nothing forgotten."""

import errno
import os
import socket
import threading
import time
from collections import Counter

import pytest

from ingestd.errors import SpoolBroken
from ingestd.roles.source import WorkSource
from ingestd.spool import Claims, SpoolLayout, SpoolWriter
from ingestd.testing.waiting import wait_until


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    return layout


@pytest.fixture
def bells():
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        yield sender, receiver


class Frames:
    """Accepts frames one after another, names ascending."""

    def __init__(self, layout):
        self._writer = SpoolWriter(layout, "process", time.time_ns)

    def accept(self, count):
        for i in range(count):
            self._writer.add(memoryview(f"frame {i}".encode()))
        return [str(entry.name) for entry in self._writer.commit()]


def raising(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def take_all(source, count, timeout_s=5.0):
    taken = []
    deadline = time.monotonic() + timeout_s
    while len(taken) < count and time.monotonic() < deadline:
        claim = source.take(0.1)
        if claim is not None:
            taken.append(claim.name)
            claim.release(retain=False)
            source.done(claim)
    return taken


def test_a_rung_name_is_taken_without_a_listing(layout, bells):
    sender, receiver = bells
    source = WorkSource(Claims(layout, "uploader-0"), receiver, 0.0)
    assert source.take(0.0) is None
    (name,) = Frames(layout).accept(1)
    sender.send(name.encode())
    began = time.monotonic()
    assert source.take(5.0).name == name
    assert time.monotonic() - began < 0.4, "the doorbell, not the listing, found it"


def test_without_a_doorbell_the_directory_is_found_within_its_interval(layout, bells):
    source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
    assert source.take(0.0) is None
    names = Frames(layout).accept(5)
    assert sorted(take_all(source, 5)) == names


def test_new_arrivals_and_backlog_are_taken_in_turn(layout, bells):
    sender, receiver = bells
    frames = Frames(layout)
    backlog = frames.accept(6)
    source = WorkSource(Claims(layout, "uploader-0"), receiver, 0.0)
    first = take_all(source, 1)
    fresh = frames.accept(3)
    for name in fresh:
        sender.send(name.encode())
    order = first + take_all(source, 8)
    assert sorted(order) == sorted(backlog + fresh)
    positions = [order.index(name) for name in fresh]
    assert max(positions) <= 6, f"arrivals starved behind the backlog: {positions}"
    assert any(order.index(name) < max(positions) for name in backlog[1:]), "the backlog starved"


def test_names_that_others_took_or_that_are_nonsense_cost_nothing(layout, bells):
    sender, receiver = bells
    source = WorkSource(Claims(layout, "uploader-0"), receiver, 0.0)
    sender.send(b"../../etc/passwd")
    sender.send(b"00000000000000000001-00000001-00000000.v1")
    (name,) = Frames(layout).accept(1)
    sender.send(name.encode())
    assert take_all(source, 1) == [name]


def test_a_deferred_entry_waits_while_others_go(layout, bells):
    source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
    bad, good = Frames(layout).accept(2)
    source.defer(bad, 60.0)
    assert take_all(source, 2, timeout_s=1.5) == [good]
    assert bad in os.listdir(layout.new)


def test_a_suspect_is_taken_only_when_nothing_else_is_held_and_then_alone(layout, bells):
    frames = Frames(layout)
    (suspect,) = frames.accept(1)
    Claims(layout, "uploader-9").take(suspect)
    layout.return_claims("uploader-9", counts=True)
    source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
    alone = source.take(5.0)
    assert alone.name == suspect
    frames.accept(2)
    assert source.take(0.7) is None, "nothing beside a suspect"
    alone.release(retain=False)
    source.done(alone)
    assert source.take(5.0) is not None


def test_suspects_are_not_starved_by_a_busy_uploader(layout, bells):
    frames = Frames(layout)
    names = frames.accept(4)
    source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
    held = source.take(5.0)
    (suspect,) = set(names) & {Claims(layout, "uploader-9").take(name).name for name in names[3:]}
    layout.return_claims("uploader-9", counts=True)
    # Long enough for the next look at the suspects: from then on nothing new is begun.
    deadline = time.monotonic() + 5
    while (claim := source.take(0.1)) is not None and time.monotonic() < deadline:
        source.done(claim)
    held.release(retain=False)
    source.done(held)
    for _ in range(10):
        claim = source.take(0.5)
        if claim is not None and claim.name == suspect:
            return
        if claim is not None:
            claim.release(retain=False)
            source.done(claim)
    pytest.fail("the suspect was never taken")


def test_what_came_together_is_taken_in_order(layout, bells):
    # The newest first, and under load the oldest is overtaken for as long as it lasts.
    sender, receiver = bells
    source = WorkSource(Claims(layout, "uploader-0"), receiver, 0.0)
    assert source.take(0.0) is None
    frames = Frames(layout)
    names = frames.accept(8)
    for name in names[:6]:
        sender.send(name.encode())
    taken = [source.take(1.0).name for _ in range(2)]
    for name in names[6:]:
        sender.send(name.encode())
    taken += [source.take(1.0).name for _ in range(6)]
    assert taken == names


def test_a_new_arrival_does_not_wait_for_what_an_outage_left(layout, bells):
    """All of them were rung; whoever comes now is among the next two, and the oldest is not forgotten either."""
    sender, receiver = bells
    frames = Frames(layout)
    old = frames.accept(50)
    for name in old:
        sender.send(name.encode())
    source = WorkSource(Claims(layout, "uploader-0"), receiver, 0.0)
    first = source.take(1.0)
    (new,) = frames.accept(1)
    sender.send(new.encode())
    taken = [first.name, *(source.take(1.0).name for _ in range(4))]
    assert new in taken[1:3]
    assert old[0] in taken


class TestThreads:
    """Several threads on one source: each ring wakes one, and no name waits for somebody who sleeps."""

    @pytest.fixture
    def source(self, layout, bells):
        source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
        assert source.take(0.0) is None
        return source

    def test_a_burst_that_one_thread_read_reaches_the_others_at_once(self, layout, bells, source):
        # Nobody releases what he has: each of the four must come for himself, with one ring for all.
        taken_s = []

        def take():
            assert source.take(5.0) is not None
            taken_s.append(time.monotonic())

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: source._n_waiting == 4)
        names = Frames(layout).accept(4)
        # In the hands of the source before the ring, as if a thread had drained the doorbell.
        source._arrivals.extend(names[1:])
        began_s = time.monotonic()
        bells[0].send(names[0].encode())
        for thread in threads:
            thread.join(10)
        assert len(taken_s) == 4
        assert max(taken_s) - began_s < 0.3, "not by the listing, and not at the end of somebody's sleep"

    def test_one_thread_does_what_one_thread_can_do(self, layout, bells, source):
        took = Counter()
        stop = threading.Event()

        def work():
            while not stop.is_set():
                claim = source.take(0.1)
                if claim is not None:
                    claim.release(retain=False)
                    source.done(claim)
                    took[threading.get_ident()] += 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        frames = Frames(layout)
        for _ in range(50):
            (name,) = frames.accept(1)
            bells[0].send(name.encode())
            wait_until(lambda: name not in os.listdir(layout.new))  # noqa: B023 - asked within the turn
            # All of them listen again; the last of it is a call of the kernel that nobody can see.
            wait_until(lambda: source._n_waiting == 4)
            time.sleep(0.005)
        stop.set()
        for thread in threads:
            thread.join(10)
        assert sum(took.values()) == 50
        assert max(took.values()) >= 30, f"it goes round: {took}"

    def test_who_waits_for_the_end_of_a_suspect_sleeps_though_it_rings(self, layout, bells, source):
        frames = Frames(layout)
        (suspect,) = frames.accept(1)
        Claims(layout, "uploader-9").take(suspect)
        layout.return_claims("uploader-9", counts=True)
        wait_until(lambda: source.take(0.1) is not None)
        for name in frames.accept(20):
            bells[0].send(name.encode())
        used_s = time.thread_time()
        assert source.take(0.5) is None
        assert time.thread_time() - used_s < 0.1


class TestAbandoned:
    """What a disk error left in claimed/ in nobody's hands."""

    def test_an_entry_whose_claim_broke_is_taken_again_after_the_error(self, layout, bells, monkeypatch):
        (name,) = Frames(layout).accept(1)
        source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
        monkeypatch.setattr("ingestd.spool.claims.os.stat", raising(errno.EIO))
        with pytest.raises(SpoolBroken, match="EIO"):
            source.take(5.0)
        monkeypatch.undo()
        assert os.listdir(layout.new) == [], "it was moved, and nobody was told"
        source.has_abandoned()
        assert source.take(5.0).name == name

    def test_what_others_of_this_uploader_hold_stays_with_them(self, layout, bells):
        names = Frames(layout).accept(2)
        source = WorkSource(Claims(layout, "uploader-0"), bells[1], 0.0)
        first = source.take(5.0)
        source.has_abandoned()
        second = source.take(5.0)
        assert {first.name, second.name} == set(names)
        assert source.take(0.0) is None

    def test_a_suspect_goes_back_to_its_rung(self, layout, bells):
        (name,) = Frames(layout).accept(1)
        Claims(layout, "uploader-9").take(name)
        layout.return_claims("uploader-9", counts=True)
        claims = Claims(layout, "uploader-0")
        assert claims.take_suspect().name == name
        assert claims.return_abandoned(()) == 1
        assert os.listdir(layout.suspects(0)) == [name]

    def test_the_disk_may_go_on_refusing(self, layout, bells, monkeypatch):
        (name,) = Frames(layout).accept(1)
        claims = Claims(layout, "uploader-0")
        claims.take(name)
        source = WorkSource(claims, bells[1], 0.0)
        source.has_abandoned()
        monkeypatch.setattr("ingestd.spool.claims.os.rename", raising(errno.EROFS))
        for _ in range(3):
            with pytest.raises(SpoolBroken, match="EROFS"):
                source.take(0.0)
        monkeypatch.undo()
        assert source.take(5.0).name == name
