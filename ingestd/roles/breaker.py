"""When to try the store again: a pure decision on failures, hints and time.

CLOSED: everybody uploads. OPEN: nobody does until `retry_at_s`. HALF_OPEN: one thread tries, the rest wait for what
it finds. Full jitter (uniform between 0 and the ceiling) keeps uploaders of one store from coming back in step;
see "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "Breaker"]

#: Ceiling after the first failure [s].
FIRST_CEILING_S = 0.5

#: Ceiling at the most [s]: a store that is back is found within this time, and one probe in it costs nothing.
MAX_CEILING_S = 15.0

#: A try on the word of another process comes this long after the last failure [s]: it may be our own way that is broken.
HURRY_S = 1.0

#: So many tolerable failures in a row open the breaker [count]: at one refusal in three, that is once in 6,000 requests.
TOLERATED_COUNT = 8

#: A store's Retry-After is believed up to here [s].
MAX_HINT_S = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full-jitter backoff.

    Parameters
    ----------
    uniform
        `uniform(low, high)`, e.g. `random.uniform`.
    """

    uniform: Callable[[float, float], float]

    def delay_s(self, n_failures: int, hint_s: float | None = None) -> float:
        """How long to wait after the `n_failures`-th failure in a row (from 1) [s]."""
        ceiling_s = min(MAX_CEILING_S, FIRST_CEILING_S * 2.0 ** min(n_failures - 1, 16))
        delay_s = self.uniform(0.0, ceiling_s)
        return delay_s if hint_s is None else max(delay_s, min(hint_s, MAX_HINT_S))


@dataclass(slots=True)
class Breaker:
    """State of one store as one uploader process sees it. Callers hold a lock around every method."""

    backoff: Backoff
    n_failures: int = 0
    retry_at_s: float = 0.0
    probing: bool = False
    #: Earliest try on the word of somebody else that the store is back [s].
    hurried_at_s: float = 0.0
    #: Tolerable failures since the last success.
    n_tolerated: int = 0

    @property
    def closed(self) -> bool:
        """Whether the last thing heard of the store was good."""
        return self.n_failures == 0

    def admit(self, now_s: float) -> float:
        """How long the calling thread has to wait before it may use the store [s]; 0 = now.

        While it is not closed, only one caller at a time is admitted; that one must report `success`, `failure` or
        `withdraw`.
        """
        if self.closed:
            return 0.0
        if self.probing:
            return max(0.05, self.retry_at_s - now_s)
        if now_s < self.retry_at_s:
            return self.retry_at_s - now_s
        self.probing = True
        return 0.0

    def success(self) -> bool:
        """The store works; returns whether that is news."""
        news = not self.closed
        self.n_failures, self.n_tolerated, self.probing = 0, 0, False
        return news

    def failure(self, now_s: float, hint_s: float | None = None, *, tolerable: bool = False) -> float:
        """The store failed; returns the wait before the next try [s], 0 where the breaker stays closed.

        Failures of requests that were under way when the breaker opened are one failure, not many. A tolerable one (a
        busy store turned one request down) opens it only where nothing succeeds in between: a store that refuses every
        third request stores the other two.
        """
        if tolerable and self.closed:
            self.n_tolerated += 1
            if self.n_tolerated < TOLERATED_COUNT:
                return 0.0
        if self.closed or self.probing:
            self.n_failures += 1
            self.retry_at_s = now_s + self.backoff.delay_s(self.n_failures, hint_s)
            # A store that names a time means it for everybody.
            self.hurried_at_s = self.retry_at_s if hint_s is not None else now_s + HURRY_S
        self.probing = False
        return self.retry_at_s - now_s

    def hurry(self) -> None:
        """Another process finds the store good: try soon, not when the backoff of a long outage ends."""
        self.retry_at_s = min(self.retry_at_s, self.hurried_at_s)

    def withdraw(self) -> None:
        """An admitted caller had nothing to send, or failed for a reason that says nothing about the store."""
        self.probing = False
