"""Which entry an uploader takes next: new arrivals and backlog in turn, suspects alone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque

from ingestd.spool import Claim, Claims

__all__ = ["WorkSource"]

#: `new/` is listed when nothing came in for this long [s] ...
IDLE_LISTING_S = 0.5

#: ... and otherwise at most this often [s].
LISTING_INTERVAL_S = 1.0

#: Rung names that wait in memory; what does not fit is found by a listing.
_ARRIVALS_MAX_COUNT = 10_000

#: Rung names up to which they are taken in order [count]: what a network sends in a third of a second.
_IN_ORDER_COUNT = 32

#: Longest name in a doorbell datagram [bytes].
_BELL_MAX_BYTES = 256


class WorkSource:
    """Hands claims to the threads of one uploader.

    The doorbell is a hint, the directory is the truth: names that were lost, rung twice or taken by others cost an
    ENOENT each and nothing else.

    Parameters
    ----------
    claims
        Of this uploader.
    doorbell
        Receiving end, or None.
    offset
        Where in a listing this uploader starts, as a fraction, so that uploaders do not race for the same names.
    """

    def __init__(self, claims: Claims, doorbell: socket.socket | None, offset: float) -> None:
        self._claims = claims
        self._doorbell = doorbell
        if doorbell is not None:
            # Non-blocking for good: with a timeout Python waits before every recv, MSG_DONTWAIT or not.
            doorbell.setblocking(False)
        self._offset = offset
        self._lock = threading.Lock()
        self._n_waiting = 0
        # Rung by a thread that leaves names behind, for one that waits.
        self._more = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ears = threading.local()
        self._arrivals: deque[str] = deque(maxlen=_ARRIVALS_MAX_COUNT)
        self._backlog: deque[str] = deque()
        self._listed_s = -LISTING_INTERVAL_S
        self._looked_for_suspects_s = -LISTING_INTERVAL_S
        self._suspects_wait = False
        self._deferred: dict[str, float] = {}
        self._oldest_turn = False
        self._held: set[str] = set()
        self._alone = False
        self._abandoned = False

    def take(self, timeout_s: float) -> Claim | None:
        """Claim the next entry; None where there is none within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        has_waited = False
        while True:
            with self._lock:
                self._n_waiting -= has_waited
                now_s = time.monotonic()
                claim = self._next(now_s)
                has_waited = claim is None and now_s < deadline_s
                self._n_waiting += has_waited
                leaves_some = bool(self._arrivals or self._backlog)
                calls = claim is not None and leaves_some and self._n_waiting > 0
            if calls:
                os.eventfd_write(self._more, 1)
            if not has_waited:
                return claim
            self._listen(min(deadline_s - now_s, IDLE_LISTING_S))

    def close(self) -> None:
        """Close what threads call each other with; nobody takes from here any more."""
        os.close(self._more)

    @property
    def is_alone(self) -> bool:
        """Whether a suspect is held, for whose end everything else waits."""
        return self._alone

    def done(self, claim: Claim) -> None:
        """The claim that `take` returned is released, failed, given back or, by a disk error, none of these."""
        with self._lock:
            self._held.discard(claim.name)
            self._alone = False
            # Not returned by a look that another thread took meanwhile: until now it was held.
            self._abandoned = self._abandoned or claim.open

    def has_abandoned(self) -> None:
        """A disk error may have left an entry in claimed/ that nobody holds: return it before anything else."""
        with self._lock:
            self._abandoned = True

    def defer(self, name: str, delay_s: float) -> None:
        """Leave this one entry alone for a while: the store refuses it, and others go through."""
        with self._lock:
            now_s = time.monotonic()
            self._deferred = {n: at for n, at in self._deferred.items() if at > now_s}
            self._deferred[name] = now_s + delay_s

    def _listen(self, timeout_s: float) -> None:
        if self._doorbell is None:
            time.sleep(min(timeout_s, 0.05))
            return
        for fd, _ in self._ear(self._doorbell).poll(timeout_s):
            if fd == self._more:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)

    def _ear(self, doorbell: socket.socket) -> select.epoll:
        """Return what this thread listens with.

        The kernel gives a ring to one of those who wait, and to the one that began to listen first, if it waits: with
        little to do one thread does it all, and what it works with stays in the caches.
        """
        ear: select.epoll | None = getattr(self._ears, "epoll", None)
        if ear is None:
            ear = self._ears.epoll = select.epoll()
            for fd in (doorbell.fileno(), self._more):
                ear.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        return ear

    def _next(self, now_s: float) -> Claim | None:
        # Also where nothing is to be taken now: what is left in the doorbell would keep waking whoever listens.
        self._drain_doorbell()
        if self._alone:
            return None
        if self._abandoned:
            self._claims.return_abandoned(self._held)
            self._abandoned = False
        suspect = self._suspect(now_s)
        if suspect is not None:
            return self._count(suspect)
        if self._suspects_wait:
            # Nothing new is begun until what is under way is done: only then can a suspect be taken alone.
            return None
        if not self._backlog and self._may_list(now_s):
            self._list(now_s)
        while self._arrivals or self._backlog:
            claim = self._claim_one(now_s)
            if claim is not None:
                return self._count(claim)
        return None

    def _claim_one(self, now_s: float) -> Claim | None:
        self._oldest_turn = not self._oldest_turn
        # What was rung during an outage is a backlog by now: whoever comes new does not wait for all of it, and the oldest is
        # not forgotten. A short queue is that of a moment, and goes in order: nobody is overtaken again and again.
        has_backlog = bool(self._backlog) or len(self._arrivals) > _IN_ORDER_COUNT
        if self._backlog and (self._oldest_turn or not self._arrivals):
            name = self._backlog.popleft()
        elif has_backlog and not self._oldest_turn:
            name = self._arrivals.pop()
        else:
            name = self._arrivals.popleft()
        if self._deferred.get(name, 0.0) > now_s:
            return None
        return self._claims.take(name)

    def _count(self, claim: Claim) -> Claim:
        self._held.add(claim.name)
        return claim

    def _suspect(self, now_s: float) -> Claim | None:
        """A suspect, if nothing else is held; it is then alone until `done`."""
        if not self._suspects_wait:
            if now_s - self._looked_for_suspects_s < LISTING_INTERVAL_S:
                return None
            self._looked_for_suspects_s = now_s
            self._suspects_wait = self._claims.has_suspects()
        if not self._suspects_wait or self._held:
            return None
        claim = self._claims.take_suspect()
        self._suspects_wait = claim is not None
        self._alone = claim is not None
        return claim

    def _may_list(self, now_s: float) -> bool:
        interval_s = LISTING_INTERVAL_S if self._arrivals else IDLE_LISTING_S
        return now_s - self._listed_s >= interval_s

    def _list(self, now_s: float) -> None:
        names = [name for name in self._claims.listing() if self._deferred.get(name, 0.0) <= now_s]
        start = int(len(names) * self._offset)
        self._backlog = deque(names[start:] + names[:start])
        self._listed_s = now_s

    def _drain_doorbell(self) -> None:
        if self._doorbell is None:
            return
        for _ in range(64):
            try:
                name = self._doorbell.recv(_BELL_MAX_BYTES)
            except BlockingIOError:
                return
            self._arrivals.append(name.decode("ascii", "replace"))
