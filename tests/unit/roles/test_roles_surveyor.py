"""The surveyor counts what moves, and lets lie what lies still."""

import os

import pytest

from ingestd.config import load
from ingestd.roles import surveyor as module
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.roles.surveyor import Surveyor
from ingestd.spool import EntryName, SpoolLayout


@pytest.fixture
def layout(tmp_path):
    made = SpoolLayout(str(tmp_path))
    made.make()
    return made


@pytest.fixture
def surveyor(layout, tmp_path):
    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    status = StatusBlock.create(StatusLayout(("receiver",)))
    return Surveyor(RoleContext("receiver", settings, status, -1), layout)


@pytest.fixture
def looks(monkeypatch):
    """How often the whole spool was looked through."""
    seen = []
    really = module.survey
    monkeypatch.setattr(module, "survey", lambda layout: seen.append(1) or really(layout))
    return seen


def entry(layout, number, size_bytes=10):
    path = os.path.join(layout.new, str(EntryName(10**18 + number, number, 0)))
    with open(path, "wb") as file:
        file.write(bytes(size_bytes))
    return path


def age(layout, by_s=10):
    """Let the last change of every directory be long ago."""
    for directory, _, _ in os.walk(layout.root):
        at_ns = os.stat(directory).st_mtime_ns - by_s * 10**9
        os.utime(directory, ns=(at_ns, at_ns))


def counted(surveyor):
    surveyor._count()
    row = surveyor._row
    return row.get(Slot.SPOOL_ENTRIES), row.get(Slot.SPOOL_BYTES)


def test_a_spool_that_lies_still_is_looked_through_once(layout, surveyor, looks):
    entry(layout, 1)
    age(layout)
    assert [counted(surveyor) for _ in range(4)] == [(1, 10)] * 4
    assert len(looks) == 1


def test_what_comes_and_goes_is_counted_at_the_next_look(layout, surveyor, looks):
    first = entry(layout, 1)
    age(layout)
    assert counted(surveyor) == (1, 10)
    entry(layout, 2, 20)
    assert counted(surveyor) == (2, 30)
    os.unlink(first)
    assert counted(surveyor) == (1, 20)
    assert len(looks) == 3


def test_a_change_that_leaves_the_same_time_stamp_is_not_missed(layout, surveyor):
    entry(layout, 1)
    assert counted(surveyor) == (1, 10)
    stamps = {d: os.stat(d).st_mtime_ns for d, _, _ in os.walk(layout.root)}
    entry(layout, 2)
    for directory, at_ns in stamps.items():
        os.utime(directory, ns=(at_ns, at_ns))
    assert counted(surveyor) == (2, 20)


def test_an_entry_that_is_claimed_still_counts(layout, surveyor):
    path = entry(layout, 1)
    age(layout)
    assert counted(surveyor) == (1, 10)
    mine = layout.uploader("uploader-0")
    os.makedirs(mine)
    os.rename(path, os.path.join(mine, os.path.basename(path)))
    assert counted(surveyor) == (1, 10)


def test_the_free_room_of_a_spool_that_lies_still_is_looked_at_all_the_same(layout, surveyor, monkeypatch):
    age(layout)
    counted(surveyor)
    monkeypatch.setattr(module, "free_bytes", lambda _path: 12345)
    counted(surveyor)
    assert surveyor._row.get(Slot.SPOOL_FREE_BYTES) == 12345
