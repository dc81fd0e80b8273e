"""The supervisor: starts the roles, watches them, restarts and stops them. No ZeroMQ, no parsing, no disk.

It gets its roles as arguments (`RoleSpec`), so that toy children can test it. All waiting happens in one place, on
the descriptors of children (pidfd) and signals, with a time-out for the next thing that is due.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from ingestd.roles.lifecycle import Event, RoleLife, RoleState
from ingestd.roles.signals import SignalQueue, ring
from ingestd.roles.status import Row, Slot

__all__ = ["RoleSpec", "Supervisor"]

log = structlog.get_logger(__name__)

#: How often the readiness of starting roles is looked at [s].
_READY_POLL_S = 0.02

#: Longest sleep of the loop [s]: the state in the status block is never older.
_TICK_S = 1.0

#: A reload that has not brought every role back by then is over, and said to be unfinished [s]: twice what the stops
#: and starts of all roles take at the longest.
_RELOAD_S = 30.0


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """How to run one role.

    Parameters
    ----------
    name
        Of the role.
    spawn
        Starts the process; is given the eventfd that asks it to stop.
    ready
        Whether the process of that pid has reached its loop.
    on_death
        Called with pid and return code before the role is started again.
    stop_order
        Roles of the lowest number are stopped first, and together.
    stop_timeout_s
        After this the process is killed.
    """

    name: str
    spawn: Callable[[int], subprocess.Popen[bytes]]
    ready: Callable[[int], bool]
    watch: Row
    on_death: Callable[[int, int], None] = lambda _pid, _code: None
    stop_order: int = 0
    stop_timeout_s: float = 3.0


@dataclass(slots=True, eq=False)
class _Role:
    spec: RoleSpec
    life: RoleLife
    popen: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    stop_fd: int = -1
    stop_by_s: float = field(default=float("inf"))


class Supervisor:
    """Runs roles until it is told to stop.

    Parameters
    ----------
    specs
        The roles; unique names.
    signals
        Source of SIGTERM, SIGINT and SIGHUP.
    on_ready
        Called once, when every role has been ready for the first time.
    on_tick
        Called at least once a second with nothing else to do.
    on_stopping
        Called when a stop begins.
    on_reload
        Called at SIGHUP; whether there are other settings, so that the roles are to be started again with them.
    on_reloaded
        Called when a reload is over; with whether every role runs again.
    """

    def __init__(
        self,
        specs: Sequence[RoleSpec],
        signals: SignalQueue,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
        on_reload: Callable[[], bool] = lambda: False,
        on_reloaded: Callable[[bool], None] = lambda _complete: None,
    ) -> None:
        self._roles = [_Role(spec, RoleLife(spec.name)) for spec in specs]
        self._signals = signals
        self._on_ready = on_ready
        self._on_tick = on_tick
        self._on_stopping = on_stopping
        self._on_reload = on_reload
        self._on_reloaded = on_reloaded
        #: Roles that are yet to be renewed; None = no reload is under way. Its last step waits until all run again.
        self._to_renew: list[_Role] | None = None
        self._renew_by_s = float("inf")
        self._reload_again = False
        self._announced = False
        self._stopping = False
        self._killed = False

    def run(self) -> int:
        """Supervise until stopped by a signal; returns 0, or 1 where a role had to be killed."""
        try:
            while not self._finished():
                self._wait()
                self._take_signals()
                self._reap()
                self._advance()
                self._on_tick()
            return 1 if self._killed else 0
        finally:
            self._kill_all()

    def _finished(self) -> bool:
        return self._stopping and all(role.life.state is RoleState.STOPPED for role in self._roles)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        for role in self._roles:
            if role.pidfd >= 0:
                poll.register(role.pidfd, select.POLLIN)
        poll.poll(self._timeout_s() * 1000)

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        timeout_s = _TICK_S
        for role in self._roles:
            if role.life.state is RoleState.STARTING:
                timeout_s = min(timeout_s, _READY_POLL_S)
            elif role.life.state is RoleState.BACKING_OFF:
                timeout_s = min(timeout_s, role.life.due_s - now_s)
            elif role.life.state in (RoleState.STOPPING, RoleState.RESTARTING):
                timeout_s = min(timeout_s, role.stop_by_s - now_s)
        return max(0.0, timeout_s)

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                # Lists of keys are read again in place; other settings need roles that are started with them.
                self._pass_on(number)
                self._reload_again = True
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            if self._stopping:
                log.warning("second_signal", signal=number.name)
                self._killed = True
                self._kill_all()
            else:
                log.info("stopping", signal=number.name)
                self._stopping = True
                self._on_stopping()

    def _pass_on(self, number: signal.Signals) -> None:
        """Give a signal to every role that runs; one that still starts has no handler yet, and reads all anew."""
        for role in self._roles:
            if role.popen is not None and role.life.state is RoleState.RUNNING:
                role.popen.send_signal(number)

    def _reap(self) -> None:
        for role in self._roles:
            if role.popen is None or (code := role.popen.poll()) is None:
                continue
            pid = role.popen.pid
            self._forget(role)
            expected = role.life.state in (RoleState.STOPPING, RoleState.RESTARTING)
            state = self._apply(role, Event.DIED)
            if not expected:
                log.error(
                    "role_died", role_name=role.spec.name, role_pid=pid, code=code, next_state=state.name
                )
            role.spec.on_death(pid, code)

    def _advance(self) -> None:
        now_s = time.monotonic()
        for role in self._roles:
            if role.life.state is RoleState.STARTING and role.popen and role.spec.ready(role.popen.pid):
                self._apply(role, Event.READY)
                log.info("role_ready", role_name=role.spec.name, role_pid=role.popen.pid)
            if role.life.state is RoleState.BACKING_OFF and not self._stopping and now_s >= role.life.due_s:
                self._spawn(role)
            is_ending = role.life.state in (RoleState.STOPPING, RoleState.RESTARTING)
            if is_ending and now_s >= role.stop_by_s and role.popen:
                log.error(
                    "role_killed",
                    role_name=role.spec.name,
                    role_pid=role.popen.pid,
                    after_s=role.spec.stop_timeout_s,
                )
                role.popen.kill()
                role.stop_by_s = float("inf")
                self._killed = self._killed or role.life.state is RoleState.STOPPING
        if self._stopping:
            self._stop_next()
        elif not self._announced:
            if self._all_run():
                self._announced = True
                self._on_ready()
        elif self._to_renew is not None:
            self._renew_next()
        elif self._reload_again:
            self._reload()

    def _all_run(self) -> bool:
        return all(role.life.state is RoleState.RUNNING for role in self._roles)

    def _reload(self) -> None:
        """Begin a reload; a signal that comes meanwhile begins another one after it."""
        self._reload_again = False
        if not self._on_reload():
            self._on_reloaded(True)
            return
        self._to_renew = list(self._roles)
        self._renew_by_s = time.monotonic() + _RELOAD_S
        self._renew_next()

    def _renew_next(self) -> None:
        """Renew the next group, in the order of a stop, once every role that was renewed before runs again."""
        waiting = self._to_renew or []
        if time.monotonic() > self._renew_by_s:
            log.error("reload_unfinished", after_s=_RELOAD_S)
            # Those that are left must not go on with the settings of before.
            self._renew(waiting)
            self._to_renew = None
            self._on_reloaded(False)
        elif all(role.life.state is RoleState.RUNNING for role in self._roles if role not in waiting):
            if not waiting:
                self._to_renew = None
                self._on_reloaded(True)
                return
            order = min(role.spec.stop_order for role in waiting)
            self._renew([role for role in waiting if role.spec.stop_order == order])
            self._to_renew = [role for role in waiting if role.spec.stop_order != order]

    def _renew(self, roles: Sequence[_Role]) -> None:
        for role in roles:
            if self._apply(role, Event.RENEW) is RoleState.RESTARTING:
                role.stop_by_s = time.monotonic() + role.spec.stop_timeout_s
                ring(role.stop_fd)

    def _stop_next(self) -> None:
        """Ask the next group of roles to stop once every earlier group is gone."""
        alive = [role for role in self._roles if role.life.state is not RoleState.STOPPED]
        if not alive:
            return
        order = min(role.spec.stop_order for role in alive)
        for role in alive:
            if role.spec.stop_order != order or role.life.state is RoleState.STOPPING:
                continue
            if self._apply(role, Event.STOP) is RoleState.STOPPING:
                role.stop_by_s = time.monotonic() + role.spec.stop_timeout_s
                ring(role.stop_fd)

    def _spawn(self, role: _Role) -> None:
        role.stop_by_s = float("inf")
        role.stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        role.popen = role.spec.spawn(role.stop_fd)
        role.pidfd = os.pidfd_open(role.popen.pid)
        self._apply(role, Event.SPAWNED)
        role.spec.watch.set(Slot.WATCH_PID, role.popen.pid)

    def _apply(self, role: _Role, event: Event) -> RoleState:
        state = role.life.apply(event, time.monotonic())
        role.spec.watch.set(Slot.WATCH_SINCE_NS, time.monotonic_ns())
        role.spec.watch.set(Slot.WATCH_RESTARTS, role.life.restarts)
        role.spec.watch.set(Slot.WATCH_STATE, state)
        return state

    def _forget(self, role: _Role) -> None:
        os.close(role.pidfd)
        os.close(role.stop_fd)
        role.popen, role.pidfd, role.stop_fd = None, -1, -1

    def _kill_all(self) -> None:
        for role in self._roles:
            if role.popen is not None:
                role.popen.kill()
        for role in self._roles:
            if role.popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    role.popen.wait(2.0)
