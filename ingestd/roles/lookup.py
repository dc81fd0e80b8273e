"""Catalog queries in a thread of their own: bounded in number and time, so that a slow disk delays nobody else.

A query is in one place at a time: waiting, running, or answered. It is answered once: by the thread, or by the deadline,
whichever comes first; what the other one brings later is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from ingestd.errors import QueryError
from ingestd.formats.protocol import ErrorCode, Request

__all__ = ["DEADLINE_S", "Lookups", "Ticket", "start_lookups"]

log = structlog.get_logger(__name__)

#: A query that has no answer by then gets `unavailable` [s].
DEADLINE_S = 2.0

#: Queries that wait or run at the same time [count]: at 20 ms for the slowest page the last one still makes its deadline.
MAX_PENDING = 64

#: A thread that has been in one place for this long is taken for hanging [s]: an interrupt was sent by then.
_HANGING_S = DEADLINE_S + 0.5

#: The chore is done this often [s].
_CHORE_S = 1.0

#: How long a stop waits for the thread [s]; it is a daemon thread, so one that hangs holds nobody up.
_JOIN_S = 0.5


@dataclass(slots=True, eq=False)
class Ticket:
    """One query on its way; `outcome` is None until it is answered."""

    envelope: tuple[bytes, ...]
    request: Request
    deadline_s: float
    outcome: bytes | QueryError | None = field(default=None, init=False)


class Lookups:
    """Queue and thread. `submit`, `answered` and `expire` are for one thread, the owner's.

    Parameters
    ----------
    answer
        Makes the reply of a request in the thread; raises QueryError where that is the answer.
    chore
        Done in the thread about once a second.
    interrupt
        Ends what the thread is waiting for in the catalog; called by the owner, must not block.
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        answer: Callable[[Request], bytes],
        chore: Callable[[], None],
        interrupt: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer = answer
        self._chore = chore
        self._interrupt = interrupt
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._pending: deque[Ticket] = deque()
        self._finished: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._busy_since_s: float | None = None
        self._closing = False
        self._chore_at_s = clock()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.thread = threading.Thread(target=self._work, name="catalog", daemon=True)

    def submit(self, envelope: tuple[bytes, ...], request: Request) -> None:
        """Take a query.

        Raises
        ------
        QueryError
            `busy`: too many are pending. `unavailable`: the thread hangs, and this one would too.
        """
        now_s = self._clock()
        with self._changed:
            if self._busy_since_s is not None and now_s - self._busy_since_s > _HANGING_S:
                raise ErrorCode.UNAVAILABLE.error("the catalog does not answer; the disk may hang")
            if len(self._pending) >= MAX_PENDING:
                raise ErrorCode.BUSY.error(f"{MAX_PENDING} queries are pending; ask again")
            ticket = Ticket(envelope, request, now_s + DEADLINE_S)
            self._waiting.append(ticket)
            self._pending.append(ticket)
            self._changed.notify()

    def answered(self) -> list[Ticket]:
        """Queries that the thread answered since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        with self._changed:
            finished = list(self._finished)
            self._finished.clear()
        return finished

    def expire(self) -> list[Ticket]:
        """Queries whose deadline has passed since the last call; what they wait for is interrupted."""
        now_s = self._clock()
        expired: list[Ticket] = []
        with self._changed:
            # All have the same allowance, so the oldest is the first to be late.
            while self._pending and self._pending[0].deadline_s <= now_s:
                ticket = self._pending.popleft()
                ticket.outcome = ErrorCode.UNAVAILABLE.error(
                    f"the catalog did not answer within {DEADLINE_S:g} s"
                )
                expired.append(ticket)
                with contextlib.suppress(ValueError):
                    self._waiting.remove(ticket)
            is_stuck = bool(expired) and (self._running is None or self._running in expired)
        if is_stuck:
            self._interrupt()
        return expired

    def wait_s(self) -> float | None:
        """How long until the next deadline [s]; None where nothing is pending."""
        with self._changed:
            return max(0.0, self._pending[0].deadline_s - self._clock()) if self._pending else None

    def close(self) -> None:
        """Stop the thread, waiting a moment for it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._interrupt()
        if self.thread.ident is not None:
            self.thread.join(_JOIN_S)
        if not self.thread.is_alive():
            os.close(self.fd)

    def _work(self) -> None:
        while not self._closing:
            with self._changed:
                now_s = self._clock()
                if not self._waiting and now_s < self._chore_at_s:
                    self._changed.wait(self._chore_at_s - now_s)
                    continue
                self._busy_since_s = now_s
                is_due = now_s >= self._chore_at_s
                ticket = self._running = None if is_due else self._waiting.popleft()
            if ticket is None:
                self._do_chore()
            else:
                self._finish(ticket, self._outcome(ticket.request))
            with self._changed:
                self._running = self._busy_since_s = None

    def _do_chore(self) -> None:
        try:
            self._chore()
        except Exception:
            # Without the thread there would be no answers at all.
            log.exception("chore_bug")
        self._chore_at_s = self._clock() + _CHORE_S

    def _outcome(self, request: Request) -> bytes | QueryError:
        try:
            return self._answer(request)
        except QueryError as error:
            return error
        except Exception:
            # A bug in one query must cost one reply, not the role.
            log.exception("query_bug", command=request.command.name)
            return ErrorCode.INTERNAL.error("a bug in ingestd; its log says more")

    def _finish(self, ticket: Ticket, outcome: bytes | QueryError) -> None:
        with self._changed:
            if ticket.outcome is not None:
                return
            ticket.outcome = outcome
            self._pending.remove(ticket)
            self._finished.append(ticket)
        os.eventfd_write(self.fd, 1)


@contextlib.contextmanager
def start_lookups(
    answer: Callable[[Request], bytes], chore: Callable[[], None], interrupt: Callable[[], None]
) -> Iterator[Lookups]:
    """Run the thread for the length of a `with` block; parameters as of `Lookups`."""
    lookups = Lookups(answer, chore, interrupt)
    lookups.thread.start()
    try:
        yield lookups
    finally:
        lookups.close()
