"""Whether a request that a busy store turned down is sent again at once, or left to the backoff of its entry.

A store that refuses now and then costs least if the same request simply goes again after a moment; one that refuses
everything must not be asked three times as often for it. So retries are paid from a budget that successes fill
(as in gRPC's A6, "retry throttling"): while about half of the requests succeed there are some, in an outage none.
"""

from __future__ import annotations

import random
import threading

__all__ = ["RetryBudget"]

#: Sent so often at the most, the first time included [count].
TRIES = 3

#: Full jitter before the first retry is below this [s], before the next below twice as much. The thread waits, and with
#: it a quarter of what goes to the store; that a busy store is not asked more often for it is the budget's part.
_CEILING_S = 0.005

#: Most tokens, what a refusal costs, what a success brings; retries are sent while more than half of the most are left.
_MAX_TOKENS = 10.0
_REFUSAL_TOKENS = 1.0
_SUCCESS_TOKENS = 1.0

#: A request that may do better in a moment.
_BUSY = frozenset({429, 500, 502, 503, 504})


class RetryBudget:
    """Of one client of a store. Thread-safe."""

    def __init__(self) -> None:
        self._tokens = _MAX_TOKENS
        self._lock = threading.Lock()

    def pause_s(self, n_sent: int, status: int, *, hinted: bool) -> float | None:
        """How long to wait before the request goes again [s]; None where its reply is to be taken.

        Parameters
        ----------
        n_sent
            How often it was sent by now.
        status
            Of the reply.
        hinted
            Whether the reply names a time of its own: then that is for the caller to keep.
        """
        refused = status in _BUSY
        with self._lock:
            change = -_REFUSAL_TOKENS if refused else _SUCCESS_TOKENS
            self._tokens = max(0.0, min(_MAX_TOKENS, self._tokens + change))
            affordable = self._tokens > _MAX_TOKENS / 2
        if not refused or hinted or not affordable or n_sent >= TRIES:
            return None
        return random.uniform(0.0, _CEILING_S * n_sent)  # noqa: S311 - jitter, not a secret
