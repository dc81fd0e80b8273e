"""Life of a role as the supervisor sees it: a table of states, and when the next start is due. Pure.

STARTING -> RUNNING -> (dies) BACKING_OFF -> STARTING ...; at a reload RESTARTING -> BACKING_OFF, due at once; at the end
STOPPING -> STOPPED.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

__all__ = ["Event", "RoleLife", "RoleState"]

#: Deaths within this time of each other count as one crash loop [s].
CRASH_LOOP_WINDOW_S = 10.0

#: Second restart within the window waits this long [s], each further one twice as long ...
FIRST_BACKOFF_S = 0.1

#: ... but never longer than this [s]: a role that recovers must be back before anyone has to look.
MAX_BACKOFF_S = 5.0


class RoleState(IntEnum):
    """States of a role; the numbers are written to the status block."""

    STARTING = 0
    RUNNING = 1
    BACKING_OFF = 2
    STOPPING = 3
    STOPPED = 4
    #: Asked to end, to be started again with other settings.
    RESTARTING = 5


class Event(Enum):
    """What can happen to a role."""

    SPAWNED = auto()
    READY = auto()
    DIED = auto()
    STOP = auto()
    #: Start again with other settings.
    RENEW = auto()


#: A missing pair is a mistake of the supervisor and raises KeyError.
TRANSITIONS: dict[tuple[RoleState, Event], RoleState] = {
    (RoleState.STARTING, Event.READY): RoleState.RUNNING,
    (RoleState.STARTING, Event.DIED): RoleState.BACKING_OFF,
    (RoleState.STARTING, Event.STOP): RoleState.STOPPING,
    (RoleState.STARTING, Event.RENEW): RoleState.RESTARTING,
    (RoleState.RUNNING, Event.DIED): RoleState.BACKING_OFF,
    (RoleState.RUNNING, Event.STOP): RoleState.STOPPING,
    (RoleState.RUNNING, Event.RENEW): RoleState.RESTARTING,
    (RoleState.RESTARTING, Event.READY): RoleState.RESTARTING,
    (RoleState.RESTARTING, Event.DIED): RoleState.BACKING_OFF,
    (RoleState.RESTARTING, Event.STOP): RoleState.STOPPING,
    (RoleState.BACKING_OFF, Event.SPAWNED): RoleState.STARTING,
    (RoleState.BACKING_OFF, Event.STOP): RoleState.STOPPED,
    (RoleState.BACKING_OFF, Event.RENEW): RoleState.BACKING_OFF,
    (RoleState.STOPPING, Event.READY): RoleState.STOPPING,
    (RoleState.STOPPING, Event.DIED): RoleState.STOPPED,
}


@dataclass(slots=True)
class RoleLife:
    """State, restarts and next start of one role.

    A new role backs off for 0 s: its first start is due at once.
    """

    name: str
    state: RoleState = RoleState.BACKING_OFF
    restarts: int = 0
    due_s: float = 0.0
    _deaths_s: list[float] = field(default_factory=list)

    def apply(self, event: Event, now_s: float) -> RoleState:
        """Take one event at monotonic time `now_s`; returns the new state."""
        before, self.state = self.state, TRANSITIONS[self.state, event]
        if before is RoleState.RESTARTING or event is Event.RENEW:
            # It was asked to, so this is no death.
            self.due_s = now_s
        elif event is Event.DIED and self.state is RoleState.BACKING_OFF:
            self._deaths_s = [at for at in self._deaths_s if now_s - at < CRASH_LOOP_WINDOW_S] + [now_s]
            self.due_s = now_s + self._backoff_s()
            self.restarts += 1
        return self.state

    @property
    def crash_looping(self) -> bool:
        """Whether it died at least three times within the window."""
        return len(self._deaths_s) >= 3 and self.state is not RoleState.STOPPED

    def _backoff_s(self) -> float:
        n_deaths = len(self._deaths_s)
        return 0.0 if n_deaths <= 1 else float(min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (n_deaths - 2)))
