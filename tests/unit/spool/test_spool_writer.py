"""Accept: nothing is visible before it is durable, and nothing that was staged is forgotten."""

import errno
import os
from pathlib import Path

import pytest

from ingestd.errors import SpoolBroken, SpoolFull
from ingestd.formats.checksum import crc32c
from ingestd.spool import EntryName, SpoolLayout, SpoolWriter


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    return layout


def writer_for(layout, **options):
    return SpoolWriter(
        layout, options.pop("durability", "disk"), options.pop("now_ns", lambda: 1_700_000_000 * 10**9)
    )


def stage(writer, *frames):
    return [writer.add(memoryview(frame)) for frame in frames]


def names_in(directory):
    return sorted(os.listdir(directory))


def test_an_accepted_entry_is_the_frame_as_received_under_a_name_with_its_checksum(layout):
    writer = writer_for(layout)
    stage(writer, b"first frame", b"second")
    accepted = writer.commit()
    assert [str(entry.name) for entry in accepted] == names_in(layout.new)
    for entry, frame in zip(accepted, (b"first frame", b"second"), strict=True):
        assert Path(os.path.join(layout.new, str(entry.name))).read_bytes() == frame
        assert entry.name.crc32c == crc32c(frame)
    assert names_in(layout.tmp) == []
    assert writer.staged == []


def test_names_ascend_even_when_the_wall_clock_steps_back(layout):
    clock = iter([1000, 500, 500, 2000])
    writer = writer_for(layout, now_ns=lambda: next(clock))
    names = [str(entry.name) for entry in stage(writer, b"a", b"b", b"c", b"d")]
    assert names == sorted(names)
    assert len(set(names)) == 4


class Calls:
    """Records the order of the durable calls of `os`, and fails the nth one of a kind."""

    def __init__(self, monkeypatch, failures=()):
        self.order = []
        self.failures = dict(failures)
        self.counts = {}
        for name in ("write", "fdatasync", "rename", "fsync"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(*args, **kwargs):
            self.order.append(name)
            self.counts[name] = self.counts.get(name, 0) + 1
            error = self.failures.get((name, self.counts[name]))
            if isinstance(error, int):
                raise OSError(error, os.strerror(error))
            if error == "short":
                return real(args[0], bytes(args[1])[:1])
            return real(*args, **kwargs)

        return call


def test_every_file_is_synced_before_any_name_appears_and_the_directory_last(layout, monkeypatch):
    writer = writer_for(layout)
    stage(writer, b"a", b"b")
    calls = Calls(monkeypatch)
    writer.commit()
    assert calls.order == ["write", "fdatasync", "write", "fdatasync", "rename", "rename", "fsync"]


def test_process_durability_syncs_nothing(layout, monkeypatch):
    writer = writer_for(layout, durability="process")
    stage(writer, b"a")
    calls = Calls(monkeypatch)
    writer.commit()
    assert calls.order == ["write", "rename"]


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_one_io_error_is_answered_with_a_new_file_from_memory(layout, monkeypatch, call):
    writer = writer_for(layout)
    (entry,) = stage(writer, b"frame")
    before = str(entry.name)
    calls = Calls(monkeypatch, {(call, 1): errno.EIO})
    (accepted,) = writer.commit()
    assert calls.counts["write"] == 2
    assert calls.counts["fdatasync"] == (2 if call == "fdatasync" else 1), (
        "never a second sync of the same file"
    )
    assert str(accepted.name) != before
    assert names_in(layout.new) == [str(accepted.name)]
    assert names_in(layout.tmp) == []


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_second_io_error_accepts_nothing_and_keeps_everything_staged(layout, monkeypatch, call):
    writer = writer_for(layout)
    stage(writer, b"good", b"bad")
    with monkeypatch.context() as patch:
        Calls(patch, {(call, 2): errno.EIO, (call, 3): errno.EIO})
        with pytest.raises(SpoolBroken, match="EIO"):
            writer.commit()
    assert names_in(layout.new) == []
    assert names_in(layout.tmp) == []
    assert len(writer.commit()) == 2, "the disk is back: the same frames are accepted from memory"


@pytest.mark.parametrize("call", ["write", "fdatasync", "rename", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so_and_accepts_later(layout, monkeypatch, call, code):
    writer = writer_for(layout)
    stage(writer, b"a", b"b")
    with monkeypatch.context() as patch:
        Calls(patch, {(call, 1): code})
        with pytest.raises(SpoolFull):
            writer.commit()
    assert names_in(layout.new) == []
    assert [bytes(entry.frame) for entry in writer.commit()] == [b"a", b"b"]
    assert len(names_in(layout.new)) == 2


def test_a_failing_directory_sync_takes_the_names_back(layout, monkeypatch):
    writer = writer_for(layout)
    stage(writer, b"a")
    with monkeypatch.context() as patch:
        Calls(patch, {("fsync", 1): errno.EIO})
        with pytest.raises(SpoolBroken):
            writer.commit()
    assert names_in(layout.new) == []
    assert len(writer.commit()) == 1


def test_a_short_write_is_finished(layout, monkeypatch):
    writer = writer_for(layout)
    stage(writer, b"a longer frame")
    Calls(monkeypatch, {("write", 1): "short"})
    (accepted,) = writer.commit()
    assert Path(os.path.join(layout.new, str(accepted.name))).read_bytes() == b"a longer frame"


def test_a_frame_written_ahead_is_not_written_twice(layout, monkeypatch):
    writer = writer_for(layout)
    calls = Calls(monkeypatch)
    (entry,) = stage(writer, b"a")
    writer.write(entry)
    writer.commit()
    assert calls.counts["write"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "00000000000000000001-00000001-0000000g.v1",
        "00000000000000000001-00000001-00000000.v2",
        "1-1-1.v1",
    ],
)
def test_what_is_not_named_as_an_entry_is_none(name):
    assert EntryName.parse(name) is None


def test_entry_names_read_back():
    name = EntryName(1_700_000_000_123_456_789, 42, 0xDEADBEEF)
    assert str(name) == "01700000000123456789-00000042-deadbeef.v1"
    assert EntryName.parse(str(name)) == name


def test_an_error_of_close_undoes_no_acceptance(layout, monkeypatch):
    """Some network file systems tell of a full disk at close; these bytes are synced already."""
    real = os.close

    def close(fd):
        real(fd)
        raise OSError(errno.EIO, "close")

    # Without syncs, so that the entry's own descriptor is the only one that is closed.
    writer = writer_for(layout, durability="process")
    stage(writer, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        accepted = writer.commit()
    assert names_in(layout.new) == [str(entry.name) for entry in accepted]
    assert len(accepted) == 1
    assert writer.staged == []
