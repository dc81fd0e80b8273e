"""Locks of identities: exclusive between threads and processes, with an end to every wait."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from ingestd.errors import StoreBusy
from ingestd.formats.measurement import Identity
from ingestd.storage import locks as module
from ingestd.storage.locks import IdentityLocks

ONE = Identity("t", 1, None)


def other_than(identity):
    """An identity on another lock file."""
    with_number = {
        module.zlib.crc32(repr(tuple(i)).encode()) % 256: i for i in (Identity("t", n, None) for n in (2, 3))
    }
    with_number.pop(module.zlib.crc32(repr(tuple(identity)).encode()) % 256, None)
    return next(iter(with_number.values()))


@pytest.fixture
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    return IdentityLocks(str(tmp_path / "made" / "when needed"))


def test_a_second_holder_waits_and_is_told_in_the_end(locks):
    with locks.hold(ONE):
        with pytest.raises(StoreBusy, match="has held this identity"):
            with locks.hold(ONE):
                pytest.fail("held twice")
    with locks.hold(ONE):
        pass


def test_files_made_ahead_need_no_inode_and_no_writable_disk_when_held(locks, tmp_path, monkeypatch):
    locks.make()
    assert len(list((tmp_path / "made" / "when needed").iterdir())) == 256
    wanted, really_open = [], module.os.open

    def note(path, flags, *mode):
        wanted.append(flags)
        return really_open(path, flags, *mode)

    monkeypatch.setattr(module.os, "open", note)
    with locks.hold(ONE):
        pass
    assert wanted
    assert not any(flags & (module.os.O_CREAT | module.os.O_RDWR | module.os.O_WRONLY) for flags in wanted)


def test_it_is_let_go_when_the_holder_fails(locks):
    with contextlib.suppress(RuntimeError):
        with locks.hold(ONE):
            raise RuntimeError
    with locks.hold(ONE):
        pass


def test_other_identities_do_not_wait(locks):
    with locks.hold(ONE), locks.hold(other_than(ONE)):
        pass


def test_two_objects_on_one_directory_exclude_each_other(locks, tmp_path):
    with locks.hold(ONE):
        with pytest.raises(StoreBusy), IdentityLocks(str(tmp_path / "made" / "when needed")).hold(ONE):
            pytest.fail("held twice")


def test_eight_threads_are_inside_one_at_a_time(tmp_path):
    locks = IdentityLocks(str(tmp_path))
    inside, most = [], []

    def run():
        for _ in range(5):
            with locks.hold(ONE):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 40


def test_a_killed_process_lets_go(tmp_path):
    code = (
        "import sys; from ingestd.storage.locks import IdentityLocks; from ingestd.formats.measurement import Identity\n"
        "with IdentityLocks(sys.argv[1]).hold(Identity('t', 1, None)): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        fd = os.open(tmp_path / os.listdir(tmp_path)[0], os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait(10)
        with IdentityLocks(str(tmp_path)).hold(ONE):
            pass
        os.close(fd)


def test_a_directory_that_cannot_be_made_is_no_error_of_its_own_kind(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreBusy, match="lock of the identity"):
        with IdentityLocks(str(tmp_path / "file" / "locks")).hold(ONE):
            pytest.fail("held")


def test_a_file_system_without_locks_is_no_error_of_its_own_kind(locks, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreBusy, match="No locks available"):
        with locks.hold(ONE):
            pytest.fail("held")


def test_no_descriptor_is_left_open(locks):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with locks.hold(ONE), contextlib.suppress(StoreBusy), locks.hold(ONE):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
