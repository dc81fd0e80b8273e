"""Stored entries are finished together, in order, none twice, and the last ones before the end."""

import threading
import time

import pytest

from ingestd.roles import finisher as module
from ingestd.roles.finisher import Finished, Finisher
from ingestd.testing.waiting import wait_until


class Batches:
    """What was finished, batch by batch."""

    def __init__(self):
        self.seen = []
        self.gate = threading.Event()
        self.gate.set()

    def finish(self, batch):
        assert self.gate.wait(10)
        self.seen.append([one.claim for one in batch])

    @property
    def flat(self):
        return [claim for batch in self.seen for claim in batch]


@pytest.fixture
def batches():
    return Batches()


def one(number, **fields):
    return Finished(number, None, 0.0, **fields)


def test_what_comes_within_a_moment_is_one_batch(batches, monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 30.0)
    with Finisher(batches.finish) as finisher:
        for number in range(5):
            finisher.add(one(number))
    assert batches.seen == [[0, 1, 2, 3, 4]]


def test_a_single_entry_waits_no_longer_than_the_moment(batches):
    with Finisher(batches.finish) as finisher:
        began_s = time.monotonic()
        finisher.add(one(1))
        wait_until(lambda: batches.seen, 5.0)
        assert module.LINGER_S <= time.monotonic() - began_s < 2.0


def test_a_batch_is_bounded(batches, monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 30.0)
    monkeypatch.setattr(module, "BATCH_MAX_COUNT", 3)
    with Finisher(batches.finish) as finisher:
        for number in range(7):
            finisher.add(one(number))
    assert batches.seen == [[0, 1, 2], [3, 4, 5], [6]]


def test_what_everything_else_waits_for_does_not_wait_itself(batches, monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 30.0)
    with Finisher(batches.finish) as finisher:
        finisher.add(one(1, at_once=True))
        wait_until(lambda: batches.seen == [[1]], 5.0)


def test_what_comes_while_a_batch_is_finished_is_in_a_later_one(batches):
    batches.gate.clear()
    with Finisher(batches.finish) as finisher:
        for number in range(100):
            finisher.add(one(number))
        batches.gate.set()
    assert batches.flat == list(range(100))
