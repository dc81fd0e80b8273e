"""An uploader looks after its own threads, and after a store that nobody uses."""

import os
import threading
import time

import pytest

from ingestd.config import load
from ingestd.roles import uploader
from ingestd.roles.context import RoleContext
from ingestd.roles.pulse import DISK_PATIENCE_S
from ingestd.roles.source import WorkSource
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.roles.uploader import Uploader
from ingestd.spool import Claims, SpoolLayout
from ingestd.testing.stores import MemoryStore


class Ended(Exception):
    """The process would be gone."""


@pytest.fixture
def one(tmp_path, monkeypatch):
    """An uploader over an empty spool, whose end is an exception."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    status = StatusBlock.create(StatusLayout(("receiver", "uploader-0")))
    context = RoleContext("uploader-0", settings, status, -1)
    source = WorkSource(Claims(layout, "uploader-0"), None, 0.0)
    return Uploader(context, layout, MemoryStore(), source)


def later(monkeypatch, by_s):
    now_s = time.monotonic()
    monkeypatch.setattr(uploader.time, "monotonic", lambda: now_s + by_s)


def test_a_thread_within_its_deadlines_is_let_be(one, monkeypatch):
    one._look_after_threads()
    one._allow(0)
    later(monkeypatch, DISK_PATIENCE_S + 299.0)
    one._look_after_threads()


def test_a_thread_past_every_deadline_ends_the_process(one, monkeypatch):
    one._allow(0)
    later(monkeypatch, DISK_PATIENCE_S + 301.0)
    with pytest.raises(Ended, match="1"):
        one._look_after_threads()


def test_one_hanging_thread_is_not_hidden_by_others_that_work(one, monkeypatch):
    hanging = threading.Thread(target=one._allow, args=(0,))
    hanging.start()
    hanging.join()
    later(monkeypatch, DISK_PATIENCE_S + 301.0)
    one._allow(0)
    with pytest.raises(Ended):
        one._look_after_threads()


def test_a_large_entry_has_more_time(one, monkeypatch):
    one._allow(64 * 2**20)
    later(monkeypatch, DISK_PATIENCE_S + 301.0)
    one._look_after_threads()


def test_a_store_that_nobody_uses_is_asked_for_life_by_one_thread_at_a_time(one, monkeypatch):
    asked = []
    monkeypatch.setattr(one._store, "check", lambda: asked.append(1))
    one._ask_for_life()
    assert asked == []
    later(monkeypatch, uploader.IDLE_CHECK_S + 1)
    one._ask_for_life()
    one._ask_for_life()
    assert asked == [1]


def test_a_store_in_use_needs_no_sign_of_life(one, monkeypatch):
    asked = []
    monkeypatch.setattr(one._store, "check", lambda: asked.append(1))
    later(monkeypatch, uploader.IDLE_CHECK_S + 1)
    one._row.add(Slot.BUSY_THREADS)
    one._ask_for_life()
    assert asked == []
