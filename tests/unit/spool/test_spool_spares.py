"""Spare files: when a released file may be written over, when it is left alone, and that what is written is whole."""

import os

import pytest

from ingestd.formats.checksum import crc32c
from ingestd.spool import Claims, EntryName, SpoolLayout, SpoolWriter, spares
from ingestd.spool.spares import SpareFiles, spare_room

CLOCK = iter(range(1_790_000_000 * 10**9, 2**63, 10**9))


#: Open files: as long as they are, no other file gets their inodes.
PINNED = []


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    yield layout
    while PINNED:
        os.close(PINNED.pop())


def accept(writer, *frames):
    for one in frames:
        writer.add(memoryview(one))
    return [str(entry.name) for entry in writer.commit()]


def released(layout, writer, *frames, spare=True):
    """Inodes of entries that were accepted and released."""
    claims, inodes = Claims(layout, "uploader-0"), []
    for name in accept(writer, *frames):
        claim = claims.take(name)
        PINNED.append(os.open(claim.path, os.O_RDONLY))
        inodes.append(os.fstat(PINNED[-1]).st_ino)
        claim.release(retain=False, spare=spare)
    return inodes


def writer_of(layout, durability="disk"):
    return SpoolWriter(layout, durability, lambda: next(CLOCK))


def in_new(layout):
    return {name: os.stat(os.path.join(layout.new, name)).st_ino for name in os.listdir(layout.new)}


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_a_released_file_is_written_over_by_a_frame_of_its_length(layout, durability):
    writer = writer_of(layout, durability)
    (inode,) = released(layout, writer, b"a" * 5000)
    writer.look_for_spares()
    accept(writer, b"b" * 5000)
    assert list(in_new(layout).values()) == [inode]
    assert os.listdir(layout.spare) == []
    (name,) = os.listdir(layout.new)
    with open(os.path.join(layout.new, name), "rb") as file:
        content = file.read()
    assert content == b"b" * 5000
    assert EntryName.parse(name).crc32c == crc32c(content)


@pytest.mark.parametrize("length", [4999, 5001, 1, 0])
def test_a_frame_of_another_length_gets_a_new_file(layout, length):
    writer = writer_of(layout)
    (inode,) = released(layout, writer, b"a" * 5000)
    writer.look_for_spares()
    accept(writer, b"b" * length)
    assert inode not in in_new(layout).values()
    assert len(os.listdir(layout.spare)) == 1


def test_a_file_is_not_used_before_its_names_were_synced(layout):
    writer = writer_of(layout)
    writer.look_for_spares()
    (inode,) = released(layout, writer, b"a" * 100)
    accept(writer, b"b" * 100)
    assert inode not in in_new(layout).values()


def test_the_directories_of_both_names_are_synced(layout, monkeypatch):
    synced = []
    monkeypatch.setattr(spares, "sync_directory", synced.append)
    writer = writer_of(layout)
    released(layout, writer, b"a" * 100)
    os.makedirs(layout.uploader("uploader-1"))
    writer.look_for_spares()
    assert set(synced) == {layout.spare, layout.uploader("uploader-0"), layout.uploader("uploader-1")}


def test_without_a_successful_sync_no_file_is_used(layout, monkeypatch):
    def refuses(_path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(spares, "sync_directory", refuses)
    writer = writer_of(layout)
    (inode,) = released(layout, writer, b"a" * 100)
    writer.look_for_spares()
    accept(writer, b"b" * 100)
    assert inode not in in_new(layout).values()


@pytest.mark.parametrize("change", ["hard link", "longer", "shorter", "gone", "symlink"])
def test_a_file_that_is_no_longer_what_it_was_is_left_alone(layout, tmp_path, change):
    writer = writer_of(layout)
    (inode,) = released(layout, writer, b"a" * 100)
    writer.look_for_spares()
    (name,) = os.listdir(layout.spare)
    path, other = os.path.join(layout.spare, name), tmp_path / "other"
    if change == "hard link":
        os.link(path, other)
    elif change == "gone":
        os.unlink(path)
    elif change == "symlink":
        os.rename(path, other)
        os.symlink(other, path)
    else:
        os.truncate(path, 101 if change == "longer" else 99)
    if change == "symlink":
        # Opening it fails, and so does the first try; the second one takes a new file.
        writer.add(memoryview(b"b" * 100))
        writer.commit()
    else:
        accept(writer, b"b" * 100)
    assert inode not in in_new(layout).values()
    if other.exists():
        assert other.read_bytes() == b"a" * 100
    assert os.listdir(layout.tmp) == []


def test_a_retained_entry_and_a_suspect_are_not_written_over(layout):
    writer, claims = writer_of(layout), Claims(layout, "uploader-0")
    (name,) = accept(writer, b"a" * 100)
    claims.take(name).release(retain=True, spare=True)
    assert os.listdir(layout.retained) == [name]
    accept(writer, b"b" * 100)
    claims.take(next(iter(claims.listing())))
    layout.return_claims("uploader-0", counts=False)
    claims.take_suspect().release(retain=False, spare=True)
    assert os.listdir(layout.spare) == []


def test_after_an_error_the_frame_goes_to_a_file_that_nobody_used_before(layout, monkeypatch):
    writer = writer_of(layout)
    inodes = released(layout, writer, b"a" * 100, b"c" * 100)
    writer.look_for_spares()
    real, calls = os.fdatasync, []

    def fails_once(fd):
        calls.append(os.fstat(fd).st_ino)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fails_once)
    accept(writer, b"b" * 100)
    assert calls[0] in inodes
    assert calls[1] not in inodes
    assert list(in_new(layout).values()) == [calls[1]]


def test_recovery_removes_spare_files(layout):
    writer = writer_of(layout)
    released(layout, writer, b"a" * 100)
    layout.recover()
    assert os.listdir(layout.spare) == []
    # Whoever listed them before meets nothing, and makes a file.
    accept(writer, b"b" * 100)
    assert len(os.listdir(layout.new)) == 1


def test_a_look_costs_its_syncs_only_when_few_are_left_and_many_were_wanted(layout, monkeypatch):
    now_s, synced = [0.0], []
    monkeypatch.setattr(spares, "sync_directory", synced.append)
    writer = writer_of(layout)
    files = SpareFiles(layout, lambda: now_s[0], sync=True)

    def looks():
        before = len(synced)
        files.look_if_due()
        return len(synced) > before

    released(layout, writer, *[bytes(100)] * 20)
    assert looks()
    now_s[0] = 10.0
    assert not looks(), "there are plenty"
    taken = [files.take(100, os.path.join(layout.tmp, str(i))) for i in range(20)]
    for fd in taken:
        os.close(fd)
    released(layout, writer, *[bytes(100)] * 3)
    assert looks()
    assert not looks(), "hardly any was wanted since"
    for i in range(16):
        fd = files.take(100, os.path.join(layout.tmp, f"more-{i}"))
        if fd is not None:
            os.close(fd)
    released(layout, writer, bytes(100))
    assert not looks(), "the last look was a moment ago"
    now_s[0] = 10.3
    assert looks()


@pytest.mark.parametrize(
    ("n_files", "at_s", "is_soon"), [(40, 0.09, True), (39, 0.09, False), (60, 0.07, False)]
)
def test_many_files_are_worth_an_early_look(layout, monkeypatch, n_files, at_s, is_soon):
    now_s, synced, listed = [0.0], [], []
    monkeypatch.setattr(spares, "sync_directory", synced.append)
    files = SpareFiles(layout, lambda: now_s[0], sync=True)
    writer = writer_of(layout)
    released(layout, writer, bytes(100))
    files.look_if_due()
    os.close(files.take(100, os.path.join(layout.tmp, "first")))
    for number in range(16):
        assert files.take(100, os.path.join(layout.tmp, str(number))) is None
    synced.clear()
    released(layout, writer, *[bytes(100)] * n_files)
    monkeypatch.setattr(
        spares.os, "listdir", lambda path, listdir=os.listdir: listed.append(path) or listdir(path)
    )
    now_s[0] = at_s
    for _ in range(3):
        files.look_if_due()
    assert bool(synced) is is_soon
    assert len(listed) <= 1, "counted again at once"
    now_s[0] = 0.26
    files.look_if_due()
    assert synced


def test_files_of_a_length_that_nobody_sends_any_more_give_way(layout):
    """However many there are: they would be looked at never again, and keep others out."""
    now_s, writer = [0.0], writer_of(layout)
    files = SpareFiles(layout, lambda: now_s[0], sync=True)
    released(layout, writer, *[bytes(100)] * 20)
    files.look_if_due()
    released(layout, writer, *[bytes(200)] * 3)
    for number in range(16):
        assert files.take(200, os.path.join(layout.tmp, str(number))) is None
    files.look_if_due()
    assert len(os.listdir(layout.spare)) == 23, "the last look was a moment ago"
    now_s[0] = 1.0
    files.look_if_due()
    assert len(os.listdir(layout.spare)) == 3
    fd = files.take(200, os.path.join(layout.tmp, "taken"))
    assert fd is not None
    os.close(fd)


def test_files_of_a_length_that_is_sent_stay_when_others_are_missed(layout):
    now_s, writer = [0.0], writer_of(layout)
    files = SpareFiles(layout, lambda: now_s[0], sync=True)
    released(layout, writer, *[bytes(100)] * 20)
    files.look_if_due()
    os.close(files.take(100, os.path.join(layout.tmp, "taken")))
    for number in range(100):
        assert files.take(1000 + number, os.path.join(layout.tmp, str(number))) is None
    now_s[0] = 1.0
    files.look_if_due()
    assert len(os.listdir(layout.spare)) == 19
    assert set(files._safe) == {100}, "what was asked for in vain leaves nothing behind"


def test_room_is_bounded_in_files_and_bytes(layout, monkeypatch):
    monkeypatch.setattr(spares, "free_bytes", lambda _path: 2**40)
    assert spare_room(layout, 1000, 0) == 128
    assert spare_room(layout, 64 * 2**20, 0) == 2
    assert spare_room(layout, 200 * 2**20, 0) == 0
    released(layout, writer_of(layout), *[bytes(100)] * 5)
    assert spare_room(layout, 1000, 0) == 123


def test_there_is_no_room_where_the_disk_has_little(layout, monkeypatch):
    monkeypatch.setattr(spares, "free_bytes", lambda _path: 1536 * 2**20)
    assert spare_room(layout, 1000, 2**30) == 128
    assert spare_room(layout, 1000, 2**30 + 1) == 0


def test_dropped_files_are_gone(layout):
    writer = writer_of(layout)
    inodes = released(layout, writer, b"a" * 100, b"c" * 100)
    writer.look_for_spares()
    assert writer.drop_spares() == 2
    assert os.listdir(layout.spare) == []
    assert writer.drop_spares() == 0
    accept(writer, b"b" * 100)
    assert len(inodes) == 2
    assert len(os.listdir(layout.new)) == 1
