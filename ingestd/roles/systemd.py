"""What systemd is told (sd_notify(3)): one datagram to the socket that it names, and nothing that is not so.

`Service` holds the rules: READY when every role runs, WATCHDOG only while the supervisor's loop turns and every role
makes progress, EXTEND_TIMEOUT only when a step of the start was done, STATUS out of the same verdict as `health`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

from ingestd.roles.pulse import DISK_PATIENCE_S, Standstill

__all__ = ["Service", "notify", "watchdog_s"]

log = structlog.get_logger(__name__)

#: A start that goes on asks for this much more time [s] ...
_EXTEND_S = 60.0

#: ... at most this often [s].
_EXTEND_EVERY_S = 5.0

#: Figures alone change the status line this often [s]; a change of what it says is told at once.
_STATUS_EVERY_S = 5.0

#: The watchdog is fed this many times in its period, so that one late turn is none too many [count].
_FEEDS = 4

#: A role may be silent for this share of the watchdog's period before the feeding stops.
_PATIENCE = 0.5

#: Tells the outside world; `notify` or what a test puts in its place.
Send = Callable[..., object]


def notify(*assignments: str) -> bool:
    """Tell systemd something, e.g. `notify("READY=1", "STATUS=...")`.

    Returns
    -------
    bool
        Whether there was anyone to tell. A failing datagram is dropped: systemd's own timeouts cover it.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.settimeout(1.0)
        sender.sendto("\n".join(assignments).encode(), address)
        return True
    return False


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Period of the watchdog of this very process [s]; None where it has none (sd_watchdog_enabled(3))."""
    usec, for_pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (for_pid and for_pid != str(pid)):
        return None
    return int(usec) / 1e6


class Service:
    """The daemon as systemd sees it.

    Parameters
    ----------
    period_s
        Of the watchdog [s]; None = there is none.
    send
        Tells systemd.
    clock
        Monotonic time [s].
    on_hang
        Called once with the name of a role that hangs.
    """

    def __init__(
        self,
        period_s: float | None,
        send: Send = notify,
        clock: Callable[[], float] = time.monotonic,
        on_hang: Callable[[str], None] = lambda _role: None,
    ) -> None:
        self._period_s = period_s
        self._on_hang = on_hang
        self._send = send
        self._clock = clock
        self._is_ready = False
        self._is_stopping = False
        self._extended_s = float("-inf")
        self._fed_s = float("-inf")
        self._told_s = float("-inf")
        self._told = ("", "")
        self._still: str | None = None

    @property
    def patience_s(self) -> float:
        """How long a role may show no progress [s]."""
        return DISK_PATIENCE_S if self._period_s is None else self._period_s * _PATIENCE

    def step(self, what: str) -> None:
        """A step of the start was done: say which, and ask for more time."""
        now_s = self._clock()
        if now_s - self._extended_s >= _EXTEND_EVERY_S:
            self._extended_s = now_s
            self._send(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_S * 1e6)}", f"STATUS=starting: {what}")

    def ready(self, line: str) -> None:
        """Every role runs (for the first time, or again after a reload)."""
        self._is_ready = True
        self._send("READY=1", f"STATUS={line}")

    def reloading(self) -> None:
        """SIGHUP was taken; `ready` ends it. systemd wants to know when that was, on CLOCK_MONOTONIC."""
        self._send(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",
            "STATUS=reloading the settings",
        )

    def stopping(self) -> None:
        """A stop begins."""
        self._is_stopping = True
        self._send(
            "STOPPING=1", "STATUS=stopping: what was received is accepted, uploads are finished or given back"
        )

    def tick(self, still: Standstill | None, state: str, figures: str) -> None:
        """The supervisor's loop has turned.

        Parameters
        ----------
        still
            A role that makes no progress.
        state, figures
            The status line: what changes rarely and is told at once, and numbers, which are told now and then.
        """
        if still is not None:
            self._starve(still)
            return
        if self._still is not None:
            log.info("role_moves_again", role_name=self._still)
            self._still = None
        self._feed()
        if not self._is_ready:
            self.step("waiting for the roles")
        elif not self._is_stopping:
            self._tell(state, figures)

    def _feed(self) -> None:
        if self._period_s is None:
            return
        now_s = self._clock()
        if now_s - self._fed_s >= self._period_s / _FEEDS:
            self._fed_s = now_s
            self._send("WATCHDOG=1")

    def _starve(self, still: Standstill) -> None:
        """A role hangs: no feed, no more time, and a line that says why systemd will act."""
        if self._still == still.role:
            return
        self._still = still.role
        log.error("role_hangs", role_name=still.role, phase=still.phase, age_s=round(still.age_s, 3))
        self._told = ("", "")
        self._send(f"STATUS={still.role} hangs ({still.phase}); the watchdog is not fed")
        self._on_hang(still.role)

    def _tell(self, state: str, figures: str) -> None:
        now_s = self._clock()
        if self._told == (state, figures) or (
            self._told[0] == state and now_s - self._told_s < _STATUS_EVERY_S
        ):
            return
        self._told, self._told_s = (state, figures), now_s
        self._send(f"STATUS={state}, {figures}")
