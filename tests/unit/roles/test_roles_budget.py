"""The memory that settings may take: what the machine has, what is warned of, and the little that is refused."""

import os
import resource

import pytest

from ingestd.config import load
from ingestd.errors import ConfigError
from ingestd.formats import npy
from ingestd.roles import budget, memory
from ingestd.roles.budget import advice, available_bytes, refuse_what_cannot_work, shares, size_text

MIB, GIB = 2**20, 2**30


def settings(**overrides):
    return load(overrides={key.replace("__", "."): value for key, value in overrides.items()}, environ={})


def share(role, **overrides):
    (found,) = (one for one in shares(settings(**overrides)) if one.role == role)
    return found


def test_every_sender_may_leave_so_many_frames_in_the_receiver_and_rlimit_as_ends_it():
    few = share("receiver", ingest__max_connections=2, ingest__max_frame_bytes="1 MiB")
    assert few.size_bytes == budget._IDLE_BYTES + 2 * 5 * MIB + MIB + 16 * MIB
    many = share("receiver", ingest__max_connections=65535)
    assert many.size_bytes == budget._IDLE_BYTES + memory.receiver_beyond_bytes(64 * MIB)
    assert "RLIMIT_AS ends it" in many.reckoning


def test_every_upload_may_hold_a_frame_and_what_converting_and_measuring_take_beside_it():
    found = share("uploaders", uploader__count=3, uploader__threads=2, ingest__max_frame_bytes="10 MiB")
    assert found.size_bytes == 3 * budget._IDLE_BYTES + 6 * (10 + 4 + 10) * MIB
    assert memory.CONVERTED_BYTES == npy.WHOLE_MAX_BYTES


def test_what_an_uploader_needs_is_below_its_limit():
    for frame_bytes in (4096, 64 * MIB, GIB):
        for n_threads in (1, 64):
            beyond_bytes = memory.uploader_beyond_bytes(frame_bytes, n_threads)
            assert beyond_bytes > n_threads * (frame_bytes + memory.CONVERTED_BYTES + memory.MEASURED_BYTES)


def test_the_worst_case_is_warned_of_where_the_machine_has_less_and_not_refused():
    given = settings(uploader__count=2)
    total = sum(one.size_bytes for one in shares(given))
    assert advice(given, total) == []
    (text,) = advice(given, total - 1)
    assert text.startswith("ingest.max_frame_bytes: at the worst")
    refuse_what_cannot_work(given, total - 1)


def test_a_frame_that_does_not_fit_four_times_is_refused():
    given = settings(ingest__max_frame_bytes="256 MiB")
    refuse_what_cannot_work(given, GIB)
    with pytest.raises(
        ConfigError, match=r"^ingest.max_frame_bytes = 268435456 \(command line\): .* 4 times over"
    ):
        refuse_what_cannot_work(given, GIB - 1)


@pytest.fixture
def machine(tmp_path):
    """A /proc and a /sys/fs/cgroup."""
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text("0::/system.slice/ingestd.service\n")
    (root / "system.slice" / "ingestd.service").mkdir(parents=True)
    return proc, root


def test_without_a_limit_the_machine_is_what_there_is(machine):
    proc, root = machine
    assert available_bytes(str(root), str(proc)) == 8 * GIB
    (root / "system.slice" / "ingestd.service" / "memory.max").write_text("max\n")
    assert available_bytes(str(root), str(proc)) == 8 * GIB
    (proc / "self" / "cgroup").unlink()
    assert available_bytes(str(root), str(proc)) == 8 * GIB


def test_in_the_sandbox_of_the_unit_the_kernel_says_how_much_there_is(machine):
    proc, root = machine
    (proc / "meminfo").unlink()
    assert available_bytes(str(root), str(proc)) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("where", ["system.slice/ingestd.service", "system.slice", "."])
def test_the_smallest_control_group_on_the_way_counts(machine, where):
    proc, root = machine
    (root / where / "memory.max").write_text(f"{GIB}\n")
    assert available_bytes(str(root), str(proc)) == GIB


def test_control_groups_of_version_1_count_too(machine):
    proc, root = machine
    (proc / "self" / "cgroup").write_text("5:cpu:/x\n4:memory:/docker/abc\n1:name=systemd:/x\n")
    (root / "memory" / "docker" / "abc").mkdir(parents=True)
    (root / "memory" / "docker" / "abc" / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert available_bytes(str(root), str(proc)) == 2 * GIB


def test_this_machine_can_be_asked():
    assert available_bytes() > 64 * MIB


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 KiB"), (65536, "64 KiB"), (MIB, "1 MiB"), (2.5 * GIB, "2.5 GiB"), (GIB, "1 GiB")],
)
def test_sizes_are_for_people(size, text):
    assert size_text(size) == text


def test_a_bound_is_never_above_the_hard_limit(monkeypatch):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, GIB))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, limits: given.append(limits))
    memory.bound_address_space(2**50)
    assert given == []
    monkeypatch.setattr(
        resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    memory.bound_address_space(GIB)
    assert len(given) == 1
