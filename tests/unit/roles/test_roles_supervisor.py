"""The supervisor with toy children: restarts, backs off, stops in order, and ends what does not end itself."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ingestd.roles.lifecycle import RoleState
from ingestd.roles.signals import signal_queue
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.roles.supervisor import RoleSpec, Supervisor

#: A child that waits for its stop descriptor; "deaf" ones never look.
OBEYS = "import select,sys; p=select.poll(); p.register(int(sys.argv[1]),1); p.poll()"
DEAF = "import signal,time; signal.pthread_sigmask(signal.SIG_BLOCK,[signal.SIGTERM]); time.sleep(60)"
DIES = "import sys; sys.exit(3)"


class Toys:
    """Toy roles, and what happened to them."""

    def __init__(self, programs, **options):
        self.status = StatusBlock.create(StatusLayout(tuple(programs)))
        self.spawned = {name: [] for name in programs}
        self.deaths = []
        self.specs = [
            self._spec(name, program, **options.get(name, {})) for name, program in programs.items()
        ]

    def _spec(self, name, program, **options):
        def spawn(stop_fd):
            # Deaf to SIGHUP from its first moment: these are ready before they run.
            popen = subprocess.Popen(
                [sys.executable, "-S", "-c", program, str(stop_fd)],
                pass_fds=(stop_fd,),
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # noqa: PLW1509 - it takes no lock
            )
            self.spawned[name].append(popen.pid)
            return popen

        return RoleSpec(
            name,
            spawn=spawn,
            ready=lambda _pid: True,
            watch=self.status.watch[name],
            on_death=lambda pid, code: self.deaths.append((name, pid, code)),
            **options,
        )

    def state(self, name):
        return RoleState(self.status.watch[name].get(Slot.WATCH_STATE))

    def restarts(self, name):
        return self.status.watch[name].get(Slot.WATCH_RESTARTS)


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def supervise(toys, scenario, **hooks):
    """Run the supervisor in this (main) thread while `scenario` runs beside it; SIGTERM at its end."""
    errors = []

    def play():
        try:
            scenario()
        except BaseException as error:
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with signal_queue([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]) as signals:
        thread = threading.Thread(target=play)
        thread.start()
        code = Supervisor(toys.specs, signals, **hooks).run()
        thread.join(10)
    if errors:
        raise errors[0]
    return code


def test_it_says_ready_once_and_stops_cleanly():
    toys, ready = Toys({"a": OBEYS, "b": OBEYS}), []
    code = supervise(toys, lambda: wait_until(lambda: ready), on_ready=lambda: ready.append(1))
    assert code == 0
    assert ready == [1]
    assert sorted(name for name, _, code in toys.deaths if code == 0) == ["a", "b"]
    assert toys.state("a") is RoleState.STOPPED


@pytest.mark.quiet
def test_a_killed_child_is_back_at_once_and_the_others_are_left_alone():
    toys = Toys({"a": OBEYS, "b": OBEYS})
    took_s = []

    def scenario():
        wait_until(lambda: toys.state("a") is RoleState.RUNNING and toys.state("b") is RoleState.RUNNING)
        began = time.monotonic()
        os.kill(toys.spawned["a"][0], signal.SIGKILL)
        wait_until(lambda: len(toys.spawned["a"]) == 2)
        took_s.append(time.monotonic() - began)

    assert supervise(toys, scenario) == 0
    assert took_s[0] < 0.5
    assert ("a", toys.spawned["a"][0], -signal.SIGKILL) in toys.deaths
    assert len(toys.spawned["b"]) == 1
    assert toys.restarts("a") == 1


def test_a_crash_loop_backs_off_and_goes_on():
    toys = Toys({"a": DIES, "b": OBEYS})

    def scenario():
        wait_until(lambda: toys.restarts("a") >= 4)

    began = time.monotonic()
    supervise(toys, scenario)
    assert time.monotonic() - began >= 0.1 + 0.2, "the second and third restart waited"
    assert len(toys.spawned["b"]) == 1


def test_roles_stop_in_their_order():
    toys = Toys(
        {"last": OBEYS, "first": OBEYS, "middle": OBEYS},
        last={"stop_order": 2}, first={"stop_order": 0}, middle={"stop_order": 1},
    )  # fmt: skip
    supervise(toys, lambda: wait_until(lambda: all(toys.state(n) is RoleState.RUNNING for n in toys.spawned)))
    assert [name for name, _, _ in toys.deaths] == ["first", "middle", "last"]


def test_a_deaf_child_is_killed_after_its_time():
    toys = Toys({"a": DEAF}, a={"stop_timeout_s": 0.2})
    began = time.monotonic()
    code = supervise(toys, lambda: wait_until(lambda: toys.state("a") is RoleState.RUNNING))
    assert code == 1
    assert time.monotonic() - began < 5
    assert toys.deaths[0][2] == -signal.SIGKILL


def test_a_second_signal_kills():
    toys = Toys({"a": DEAF}, a={"stop_timeout_s": 60.0})

    def scenario():
        wait_until(lambda: toys.state("a") is RoleState.RUNNING)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: toys.state("a") is RoleState.STOPPING)

    began = time.monotonic()
    assert supervise(toys, scenario) == 1
    assert time.monotonic() - began < 5


def hang_up_when(toys):
    wait_until(lambda: all(toys.state(name) is RoleState.RUNNING for name in toys.spawned))
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_reload_renews_every_role_in_the_order_of_a_stop_and_counts_no_restart():
    toys = Toys(
        {"last": OBEYS, "first": OBEYS, "middle": OBEYS},
        last={"stop_order": 2}, first={"stop_order": 0}, middle={"stop_order": 1},
    )  # fmt: skip
    over = []

    def scenario():
        hang_up_when(toys)
        wait_until(lambda: over)

    assert supervise(toys, scenario, on_reload=lambda: True, on_reloaded=over.append) == 0
    assert over == [True]
    assert [name for name, _, _ in toys.deaths][:3] == ["first", "middle", "last"]
    assert all(len(pids) == 2 for pids in toys.spawned.values())
    assert all(toys.restarts(name) == 0 for name in toys.spawned)


def test_a_reload_without_other_settings_leaves_the_roles_alone():
    toys, over = Toys({"a": OBEYS}), []

    def scenario():
        hang_up_when(toys)
        wait_until(lambda: over)

    supervise(toys, scenario, on_reload=lambda: False, on_reloaded=over.append)
    assert over == [True]
    assert len(toys.spawned["a"]) == 1


def test_a_deaf_role_is_killed_by_a_reload():
    toys, over = Toys({"a": DEAF}, a={"stop_timeout_s": 0.1}), []

    def scenario():
        hang_up_when(toys)
        wait_until(lambda: over)

    supervise(toys, scenario, on_reload=lambda: True, on_reloaded=over.append)
    assert over == [True]
    assert toys.deaths[0][2] == -signal.SIGKILL


def test_a_reload_that_does_not_end_is_said_to_be_unfinished(monkeypatch):
    monkeypatch.setattr("ingestd.roles.supervisor._RELOAD_S", 0.2)
    toys, over = Toys({"a": OBEYS, "b": OBEYS}, b={"stop_order": 1}), []
    program = {"is_broken": False}
    spec = toys.specs[0]
    toys.specs[0] = dataclasses.replace(spec, ready=lambda _pid: not program["is_broken"])

    def scenario():
        wait_until(lambda: all(toys.state(name) is RoleState.RUNNING for name in toys.spawned))
        program["is_broken"] = True
        os.kill(os.getpid(), signal.SIGHUP)
        wait_until(lambda: over)
        wait_until(lambda: len(toys.spawned["b"]) == 2)

    supervise(toys, scenario, on_reload=lambda: True, on_reloaded=over.append)
    assert over == [False]


def test_a_stop_in_the_middle_of_a_reload_stops():
    toys, begun = Toys({"a": DEAF}, a={"stop_timeout_s": 0.3}), []

    def scenario():
        hang_up_when(toys)
        wait_until(lambda: begun)

    began = time.monotonic()
    supervise(toys, scenario, on_reload=lambda: begun.append(1) or True)
    assert time.monotonic() - began < 5
    assert toys.state("a") is RoleState.STOPPED


def test_a_supervisor_that_fails_leaves_no_orphan():
    toys = Toys({"a": DEAF})

    def broken():
        raise RuntimeError("bug")

    with signal_queue([signal.SIGTERM, signal.SIGCHLD]) as signals, pytest.raises(RuntimeError):
        Supervisor(toys.specs, signals, on_ready=broken).run()
    pid = toys.spawned["a"][0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
