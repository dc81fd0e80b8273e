"""What the doctor finds, and that each complaint comes with advice and nothing stays behind."""

import os
import socket
import tempfile
import time

import pytest

from ingestd.config import load
from ingestd.errors import StoreDenied, StoreMisconfigured, StoreUnreachable
from ingestd.roles import doctor
from ingestd.roles.doctor import CHECKS, Finding, Level, examine, key_file
from ingestd.spool import SpoolLayout, SpoolLock
from ingestd.testing.stores import MemoryStore, WeakStore
from ingestd.testing.waiting import free_port


def settings_of(directory, **overrides):
    ports = {
        "ingest.endpoint": f"tcp://127.0.0.1:{free_port()}",
        "query.endpoint": f"tcp://127.0.0.1:{free_port()}",
        "http.endpoint": f"127.0.0.1:{free_port()}",
    }
    given = {"state_directory": str(directory), "spool.min_free_bytes": 0, **ports, **overrides}
    return load(overrides=given, environ={})


def found(check, settings):
    return [Finding(check, *one) for one in CHECKS[check](settings)]


def levels(findings):
    return [finding.level for finding in findings]


def files_below(directory):
    return sorted(os.path.join(path, name) for path, _, names in os.walk(directory) for name in names)


def test_a_fresh_machine_has_no_problem_and_keeps_nothing_of_the_examination(tmp_path):
    findings = list(examine(settings_of(tmp_path)))
    assert [finding for finding in findings if finding.level is Level.PROBLEM] == []
    assert {finding.check for finding in findings} >= set(CHECKS)
    assert files_below(tmp_path) == []


def test_whatever_is_not_well_comes_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "clock_state", lambda: (False, 0.5))
    monkeypatch.setattr(doctor, "_flush_s", lambda _directory: 3.0)
    settings = settings_of(tmp_path, **{"spool.min_free_bytes": 2**60, "ingest.max_connections": 65535})
    bad = [finding for finding in examine(settings) if finding.level is not Level.OK]
    assert {finding.check for finding in bad} >= {"clock", "disk", "limits"}
    assert all(finding.advice for finding in bad)


def test_a_thing_that_cannot_be_looked_at_hides_no_other(tmp_path, monkeypatch):
    def denied(_settings):
        raise PermissionError(13, "Permission denied", "/var/lib/ingestd/spool/lock")
        yield

    monkeypatch.setitem(CHECKS, "spool", denied)
    findings = list(examine(settings_of(tmp_path)))
    (problem,) = [finding for finding in findings if finding.level is Level.PROBLEM]
    assert problem.text == "/var/lib/ingestd/spool/lock cannot be looked at: Permission denied"
    assert "store" in {finding.check for finding in findings}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_root_looks_with_the_rights_of_the_daemons_user_and_is_root_again():
    # Not below pytest's directories, which are root's alone.
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, 12345, 12345)
        findings = [(finding, os.geteuid(), os.getegid()) for finding in examine(settings_of(directory))]
    assert {(user, group) for _, user, group in findings} == {(12345, 12345)}
    assert [finding for finding, _, _ in findings if finding.level is Level.PROBLEM] == []
    assert (os.geteuid(), os.getegid()) == (0, 0)


# -- sockets ------------------------------------------------------------------------------------------------------


def test_free_ports_are_well(tmp_path):
    assert levels(found("sockets", settings_of(tmp_path))) == [Level.OK] * 3


def test_a_port_of_another_program_is_a_problem(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = settings_of(tmp_path, **{"ingest.endpoint": f"tcp://127.0.0.1:{other.getsockname()[1]}"})
        problem, *rest = found("sockets", settings)
    assert problem.level is Level.PROBLEM
    assert "another program" in problem.advice
    assert levels(rest) == [Level.OK] * 2


def test_an_address_of_another_machine_is_a_problem(tmp_path):
    settings = settings_of(tmp_path, **{"http.endpoint": "192.0.2.1:9108"})
    assert "no address of this machine" in found("sockets", settings)[2].advice


def test_a_running_daemon_must_answer_on_its_ports(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    with socket.create_server(("127.0.0.1", 0)) as ours, SpoolLock(layout):
        settings = settings_of(tmp_path, **{"ingest.endpoint": f"tcp://127.0.0.1:{ours.getsockname()[1]}"})
        assert levels(found("sockets", settings)) == [Level.OK, Level.PROBLEM, Level.PROBLEM]


def test_an_ipc_socket_needs_a_directory_that_takes_it(tmp_path):
    good = settings_of(tmp_path, **{"ingest.endpoint": f"ipc://{tmp_path}/in"})
    assert found("sockets", good)[0].level is Level.OK
    bad = settings_of(tmp_path, **{"ingest.endpoint": "ipc:///nowhere/in"})
    assert found("sockets", bad)[0].level is Level.PROBLEM


# -- disk and spool -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flush_s", "level"), [(0.004, Level.OK), (0.2, Level.WARNING), (1.5, Level.PROBLEM)]
)
def test_the_time_of_a_flush_is_judged(tmp_path, monkeypatch, flush_s, level):
    monkeypatch.setattr(doctor, "_flush_s", lambda _directory: flush_s)
    finding = found("disk", settings_of(tmp_path))[-1]
    assert finding.level is level
    assert f"{flush_s * 1000:.1f} ms" in finding.text


def test_a_disk_that_cannot_be_written_to_is_a_problem(tmp_path, monkeypatch):
    def fails(_directory):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor, "_flush_s", fails)
    assert found("disk", settings_of(tmp_path))[-1].level is Level.PROBLEM


def test_too_little_room_is_a_problem_and_hardly_enough_a_warning(tmp_path):
    free = os.statvfs(tmp_path)
    free_bytes = free.f_bavail * free.f_frsize
    for min_free_bytes, level in ((free_bytes * 2, Level.PROBLEM), (int(free_bytes * 0.7), Level.WARNING)):
        settings = settings_of(tmp_path, **{"spool.min_free_bytes": min_free_bytes})
        assert found("disk", settings)[0].level is level


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no tmpfs here")
def test_a_disk_that_forgets_is_named(monkeypatch):
    finding = next(one for one in found("disk", settings_of("/dev/shm")) if "tmpfs" in one.text)
    assert finding.level is Level.WARNING


def test_entries_that_were_given_up_are_counted(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    with open(os.path.join(layout.failed, "one.v1"), "wb"):
        pass
    assert "1 entries were given up" in found("spool", settings_of(tmp_path))[-1].text


# -- keys, clock, limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "is_secret", "level"),
    [
        (0o400, True, Level.OK), (0o640, True, Level.OK), (0o644, True, Level.PROBLEM), (0o660, True, Level.PROBLEM),
        (0o644, False, Level.OK),
    ],
)  # fmt: skip
def test_a_secret_key_is_for_the_daemon_alone(tmp_path, mode, is_secret, level):
    path = tmp_path / "key"
    path.write_text("key")
    path.chmod(mode)
    assert key_file("security.secret_key_file", str(path), is_secret=is_secret)[0] is level


def test_a_missing_key_is_a_problem(tmp_path):
    assert key_file("security.nodes_file", str(tmp_path / "none"), is_secret=False)[0] is Level.PROBLEM
    assert key_file("security.nodes_file", str(tmp_path), is_secret=False)[0] is Level.PROBLEM


def test_the_kernel_tells_the_state_of_its_clock():
    is_synchronised, error_s = doctor.clock_state()
    assert isinstance(is_synchronised, bool)
    assert 0 <= error_s < 1000


@pytest.mark.parametrize(("is_synchronised", "level"), [(True, Level.OK), (False, Level.WARNING)])
def test_a_clock_that_drifts_is_named(tmp_path, monkeypatch, is_synchronised, level):
    monkeypatch.setattr(doctor, "clock_state", lambda: (is_synchronised, 0.012))
    assert levels(found("clock", settings_of(tmp_path))) == [level]


def test_a_clock_that_was_never_set_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    assert levels(found("clock", settings_of(tmp_path))) == [Level.PROBLEM]


def test_more_connections_than_descriptors_are_named(tmp_path):
    settings = settings_of(tmp_path, **{"ingest.max_connections": 65535})
    assert found("limits", settings)[0].level is Level.WARNING


# -- store --------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_store(tmp_path, monkeypatch):
    """Findings about a store that is given."""

    def examine_store(store):
        monkeypatch.setattr(doctor, "open_store", lambda _settings: store)
        (tmp_path / "objects/heimdall-raw-iq").mkdir(parents=True, exist_ok=True)
        return found("store", settings_of(tmp_path))

    return examine_store


def test_a_store_that_does_all_it_should_is_well_and_empty_afterwards(of_store):
    store = MemoryStore()
    assert levels(of_store(store)) == [Level.OK]
    assert list(store.list(".ingestd/doctor")) == []


def test_a_store_that_supports_less_is_named(of_store):
    assert Level.WARNING in levels(of_store(WeakStore()))


def test_a_store_that_is_too_far_away_for_the_uploads_at_a_time_is_named(of_store, monkeypatch):
    # Four threads, two objects a frame: from 40 ms a put on it is fewer than 50 frames/s.
    store = MemoryStore()
    put = store.put

    def slow_put(key, body):
        time.sleep(0.05)
        return put(key, body)

    monkeypatch.setattr(store, "put", slow_put)
    well, far = of_store(store)
    assert (well.level, far.level) == (Level.OK, Level.WARNING)
    assert "4 uploads at a time are at most" in far.text
    assert "uploader.threads" in far.advice


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (StoreUnreachable("refused"), "start the store"),
        (StoreDenied("403"), "minio.access_key"),
        (StoreMisconfigured("no bucket"), "minio.bucket_raw_iq"),
    ],
)
def test_a_store_that_fails_is_a_problem_with_its_advice(of_store, monkeypatch, error, advice):
    store = MemoryStore()

    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(store, "probe", fails)
    (finding,) = of_store(store)
    assert finding.level is Level.PROBLEM
    assert advice in finding.advice


def test_a_store_that_gives_back_something_else_is_a_problem_and_nothing_is_left(of_store, monkeypatch):
    store = MemoryStore()
    monkeypatch.setattr(store, "get", lambda _key, _max_bytes: b"other")
    (finding,) = of_store(store)
    assert "not what was put" in finding.text
    assert list(store.list(".ingestd/doctor")) == []


def test_a_directory_store_that_was_never_used_is_left_to_the_daemon(tmp_path):
    (finding,) = found("store", settings_of(tmp_path))
    assert finding.level is Level.OK
    assert not (tmp_path / "objects").exists()
