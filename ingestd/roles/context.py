"""What the supervisor hands to each role."""

from __future__ import annotations

import select
from dataclasses import dataclass, field

from ingestd.config import Settings
from ingestd.roles.signals import Mark
from ingestd.roles.status import Row, StatusBlock

__all__ = ["RoleContext"]


@dataclass(frozen=True, slots=True)
class RoleContext:
    """Everything a role may know of the daemon.

    Parameters
    ----------
    name
        Of this role: "receiver", "responder" or "uploader-K".
    settings
        Validated, secrets included.
    status
        The shared status block; only this role's own row may be written.
    stop_fd
        Becomes readable (and stays so) when the role must stop; SIGTERM to the role does the same.
    doorbell_fds
        Receiver: the sending ends, one per uploader. Uploader: its own receiving end. Others: none.
    start_id
        64 random bits of this start of the daemon; the same for every role, however often it is started again.
    reload
        Set by SIGHUP: the lists of keys are to be read again.
    """

    name: str
    settings: Settings
    status: StatusBlock
    stop_fd: int
    doorbell_fds: tuple[int, ...] = ()
    start_id: int = 0
    reload: Mark = field(default_factory=Mark, compare=False)

    @property
    def row(self) -> Row:
        """The role's own row of the status block."""
        return self.status.roles[self.name]

    def stopping(self, wait_s: float = 0.0) -> bool:
        """Whether the role must stop; waits at most `wait_s` for it."""
        poll = select.poll()
        poll.register(self.stop_fd, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))
