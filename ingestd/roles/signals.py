"""Signals as a queue: handlers only write one byte, the loop reads it when it is ready to act."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence

__all__ = ["Mark", "SignalQueue", "ring", "signal_queue"]


class SignalQueue:
    """Signals that arrived and were not yet taken; `fd` is readable while there are any."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    @property
    def fd(self) -> int:
        """Descriptor to wait on."""
        return self._receiver.fileno()

    def take(self) -> list[signal.Signals]:
        """All signals since the last call, in order."""
        try:
            return [signal.Signals(number) for number in self._receiver.recv(4096)]
        except BlockingIOError:
            return []


@contextlib.contextmanager
def signal_queue(numbers: Sequence[signal.Signals]) -> Iterator[SignalQueue]:
    """Take over the given signals for the length of a `with` block (main thread only)."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    before_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # The interpreter writes the number to the wakeup descriptor itself; the handler only has to exist.
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    try:
        yield SignalQueue(receiver)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        receiver.close()
        sender.close()


class Mark:
    """Something to be done, set by a signal handler: without a lock, which the next signal could find taken."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Ask for it."""
        self._is_set = True

    def take(self) -> bool:
        """Whether it was asked for since the last call; by one thread."""
        if not self._is_set:
            return False
        self._is_set = False
        return True


def ring(eventfd: int) -> None:
    """Make an eventfd readable for good (nobody reads it)."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(eventfd, 1)
