"""sd_notify: real datagrams, and a service that says nothing that is not so."""

import socket
import time

import pytest

from ingestd.roles.pulse import Standstill
from ingestd.roles.systemd import Service, notify, watchdog_s


@pytest.fixture(params=["path", "abstract"])
def heard(request, tmp_path, monkeypatch):
    """The socket of systemd, as a path and in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        if request.param == "path":
            listener.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            listener.bind("")
            monkeypatch.setenv("NOTIFY_SOCKET", "@" + listener.getsockname()[1:].decode())
        yield listener


def test_assignments_arrive_as_one_datagram(heard):
    assert notify("READY=1", "STATUS=well")
    assert heard.recv(4096) == b"READY=1\nSTATUS=well"


def test_without_systemd_there_is_nobody_to_tell(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environ, period_s):
    assert watchdog_s(environ, 7) == period_s


class Systemd:
    """A service with a clock that a test moves, what it said, and which roles it found hanging."""

    def __init__(self, period_s=8.0):
        self.now_s, self.said, self.hung = 100.0, [], []
        self.service = Service(period_s, self._hear, lambda: self.now_s, self.hung.append)

    def _hear(self, *assignments):
        self.said.append(assignments)

    def tick(self, still=None, state="healthy, accepting", figures="0 entries wait"):
        """One turn of the supervisor's loop; what was said in it."""
        before = len(self.said)
        self.service.tick(still, state, figures)
        return [text for assignments in self.said[before:] for text in assignments]


@pytest.fixture
def systemd():
    return Systemd()


HANGS = Standstill("receiver", "idle", 5.0)


def test_ready_comes_with_its_line(systemd):
    systemd.service.ready("healthy")
    assert systemd.said == [("READY=1", "STATUS=healthy")]


def test_a_step_of_the_start_asks_for_more_time_but_not_all_the_time(systemd):
    for _ in range(1000):
        systemd.service.step("putting the spool in order")
    assert systemd.said == [("EXTEND_TIMEOUT_USEC=60000000", "STATUS=starting: putting the spool in order")]
    systemd.now_s += 5.0
    systemd.service.step("putting the spool in order")
    assert len(systemd.said) == 2


def test_waiting_for_roles_asks_for_more_time_unless_one_hangs(systemd):
    assert "EXTEND_TIMEOUT_USEC=60000000" in systemd.tick()
    systemd.now_s += 60.0
    assert not any("EXTEND" in text for text in systemd.tick(HANGS))


def test_a_ready_service_asks_for_no_more_time(systemd):
    systemd.service.ready("healthy")
    assert not any("EXTEND" in text for text in systemd.tick())


def test_the_watchdog_is_fed_a_few_times_in_its_period(systemd):
    systemd.service.ready("healthy")
    fed = 0
    for _ in range(80):
        fed += "WATCHDOG=1" in systemd.tick()
        systemd.now_s += 0.1
    assert fed == 4


def test_without_a_watchdog_nothing_is_fed():
    systemd = Systemd(None)
    systemd.service.ready("healthy")
    assert "WATCHDOG=1" not in systemd.tick()


def test_a_role_that_hangs_stops_the_feed_is_named_once_and_asked_for_its_stacks(systemd):
    systemd.service.ready("healthy")
    systemd.tick()
    systemd.now_s += 8.0
    assert systemd.tick(HANGS) == ["STATUS=receiver hangs (idle); the watchdog is not fed"]
    systemd.now_s += 8.0
    assert systemd.tick(HANGS) == []
    assert systemd.hung == ["receiver"]


def test_a_role_that_moves_again_is_fed_for_and_the_line_is_true_again(systemd):
    systemd.service.ready("healthy")
    systemd.tick()
    systemd.now_s += 8.0
    systemd.tick(HANGS)
    assert systemd.tick() == ["WATCHDOG=1", "STATUS=healthy, accepting, 0 entries wait"]


def test_a_changed_state_is_told_at_once_and_figures_now_and_then(systemd):
    systemd.service.ready("healthy")
    systemd.tick()
    assert systemd.tick(figures="1 entries wait") == []
    assert systemd.tick(state="degraded (fsync_slow), accepting") == [
        "STATUS=degraded (fsync_slow), accepting, 0 entries wait"
    ]
    systemd.now_s += 5.0
    assert "STATUS=degraded (fsync_slow), accepting, 2 entries wait" in systemd.tick(
        state="degraded (fsync_slow), accepting", figures="2 entries wait"
    )


def test_a_stop_keeps_its_line_and_is_fed(systemd):
    systemd.service.ready("healthy")
    systemd.service.stopping()
    assert systemd.said[-1][0] == "STOPPING=1"
    assert systemd.tick() == ["WATCHDOG=1"]


def test_reloading_names_the_moment_on_the_monotonic_clock(systemd):
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.service.reloading()
    (first, moment, _status) = systemd.said[-1]
    after_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert first == "RELOADING=1"
    assert before_us <= int(moment.removeprefix("MONOTONIC_USEC=")) <= after_us


def test_a_role_may_be_silent_for_half_of_the_period(systemd):
    assert systemd.service.patience_s == 4.0
