"""What of a node's frames is accepted: the state behind `confirm`, and the counting of gaps. Pure.

A node that wants to be sure numbers its frames (`node, epoch, seq`), keeps them until they are confirmed, and sends
the missing ones again. One `EpochLedger` holds what is known of one start of one node. It is bounded: what does not
fit is not confirmed, so the node sends it again, and deterministic identity makes that harmless.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from typing import Any, Literal

__all__ = ["MAX_RANGES", "MAX_REJECTED", "REPLY_RANGES", "EpochLedger"]

#: Ranges of accepted numbers above `accepted_upto` that are kept; beyond, the highest are forgotten (not confirmed).
MAX_RANGES = 1024

#: Ranges in one reply (design 8).
REPLY_RANGES = 64

#: Rejected numbers with their reasons that are kept; older ones stay rejected, and are counted in `rejected_lost`.
MAX_REJECTED = 1000

#: Accepted numbers whose frame checksum is remembered, to tell a repeat from a number used again.
_MAX_CHECKSUMS = 1024

#: A longer jump of the sample clock is a clock that was set anew, not a loss [samples]: 30 hours at 10 MHz. A jump of
#: the frame number counts as at most this many, so that no sender can make the sums outgrow an int64.
_MAX_JUMP = 2**40

_Seen = Literal["new", "repeated", "reused", "unknown"]


class EpochLedger:
    """Accepted and rejected sequence numbers of one start of one node.

    Parameters
    ----------
    state
        As `state()` returned it, or None for a node's start that was not seen yet.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        given = state or {}
        #: Every number below is accepted or rejected.
        self.upto: int = given.get("upto", 0)
        # Settled ranges above `upto`, ascending, neither touching nor overlapping.
        self._settled: list[list[int]] = [list(pair) for pair in given.get("settled", [])]
        self._rejected: deque[tuple[int, str]] = deque((s, r) for s, r in given.get("rejected", []))
        self.rejected_lost: int = given.get("rejected_lost", 0)
        self.seq_reused: int = given.get("seq_reused", 0)
        #: Numbers skipped so far that have not come since; counted from the first number seen.
        self.gaps: int = given.get("gaps", 0)
        self.samples_lost: int = given.get("samples_lost", 0)
        self._first: int | None = given.get("first")
        self._last: int | None = given.get("last")
        self._next_sample: int | None = given.get("next_sample")
        self._checksums: OrderedDict[int, int] = OrderedDict()

    def state(self) -> dict[str, Any]:
        """Everything as JSON-able values, bounded."""
        return {
            "upto": self.upto,
            "settled": self._settled,
            "rejected": list(self._rejected),
            "rejected_lost": self.rejected_lost,
            "seq_reused": self.seq_reused,
            "gaps": self.gaps,
            "samples_lost": self.samples_lost,
            "first": self._first,
            "last": self._last,
            "next_sample": self._next_sample,
        }

    def absorb(self, state: dict[str, Any]) -> None:
        """Add what was kept of the same epoch before this ledger began, as `state()` returned it."""
        before = EpochLedger(state)
        merged: list[list[int]] = []
        for first, end in sorted([[0, before.upto], [0, self.upto], *before._settled, *self._settled]):
            if merged and first <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([first, end])
        self.upto, self._settled = merged[0][1], merged[1 : 1 + MAX_RANGES]
        self._rejected.extendleft(reversed(before._rejected))
        self.rejected_lost += before.rejected_lost
        self._trim_rejected()
        self.seq_reused += before.seq_reused
        self.gaps += before.gaps
        self.samples_lost += before.samples_lost
        if before._last is not None:
            if self._first is not None and self._first > before._last:
                self.gaps += min(self._first - before._last - 1, _MAX_JUMP)
            self._first = before._first
            self._last = before._last if self._last is None else max(self._last, before._last)

    def note_accepted(
        self, seq: int, crc32c: int, sample_index: int | None = None, n_samples: int = 0
    ) -> _Seen:
        """Take note of an accepted frame.

        Parameters
        ----------
        seq
            Its number.
        crc32c
            Of the whole frame.
        sample_index, n_samples
            The receiver's sample clock at its start, and its length [samples].

        Returns
        -------
        str
            `new`, `repeated` (the same frame again), `reused` (another frame under the number), or `unknown`: the
            number was settled long ago, and somebody else must tell which of the two it is (`note_reused`).
        """
        known = self._checksums.get(seq)
        self._checksums[seq] = crc32c
        while len(self._checksums) > _MAX_CHECKSUMS:
            self._checksums.popitem(last=False)
        if known is not None and known != crc32c:
            self.note_reused()
            return "reused"
        is_new = self._settle(seq)
        if known is not None:
            return "repeated"
        if not is_new:
            return "unknown"
        self._count_gap(seq)
        self._count_samples(seq, sample_index, n_samples)
        return "new"

    def note_reused(self) -> None:
        """A number was used for another frame: this epoch's confirmations cannot be believed."""
        self.seq_reused += 1

    def note_rejected(self, seq: int, reason: str) -> None:
        """Take note of a rejected frame."""
        if seq in self._checksums:
            # Accepted before, so another frame has the number: the node must not take this one for confirmed.
            self.note_reused()
            return
        if not self._settle(seq):
            return
        self._count_gap(seq)
        self._rejected.append((seq, reason))
        self._trim_rejected()

    def _trim_rejected(self) -> None:
        while len(self._rejected) > MAX_REJECTED:
            self._rejected.popleft()
            self.rejected_lost += 1

    def reply(self) -> dict[str, Any]:
        """The ledger's part of the answer to `confirm`; `ranges` holds accepted numbers only."""
        rejected = sorted(seq for seq, _ in self._rejected)
        ranges: list[list[int]] = []
        for first, end in self._settled:
            ranges += _without(first, end, rejected)
            if len(ranges) >= REPLY_RANGES:
                break
        return {
            "accepted_upto": self.upto,
            "ranges": ranges[:REPLY_RANGES],
            "rejected": [{"seq": seq, "reason": reason} for seq, reason in self._rejected],
            "rejected_lost": self.rejected_lost,
            "seq_reused": self.seq_reused,
        }

    def _settle(self, seq: int) -> bool:
        """Add one number to the settled ones; whether it was not among them."""
        if seq < self.upto:
            return False
        at = bisect_right(self._settled, seq, key=lambda pair: pair[0])
        if at and self._settled[at - 1][1] > seq:
            return False
        self._insert(at, seq)
        if self._settled and self._settled[0][0] <= self.upto:
            self.upto = max(self.upto, self._settled.pop(0)[1])
        del self._settled[MAX_RANGES:]
        return True

    def _insert(self, at: int, seq: int) -> None:
        joins_left = at > 0 and self._settled[at - 1][1] == seq
        joins_right = at < len(self._settled) and self._settled[at][0] == seq + 1
        if joins_left and joins_right:
            self._settled[at - 1][1] = self._settled.pop(at)[1]
        elif joins_left:
            self._settled[at - 1][1] = seq + 1
        elif joins_right:
            self._settled[at][0] = seq
        else:
            self._settled.insert(at, [seq, seq + 1])

    def _count_gap(self, seq: int) -> None:
        if self._first is None or self._last is None:
            self._first = self._last = seq
        elif seq > self._last:
            self.gaps += min(seq - self._last - 1, _MAX_JUMP)
            self._last = seq
        elif seq > self._first:
            # It came after all, late or sent again.
            self.gaps = max(0, self.gaps - 1)

    def _count_samples(self, seq: int, sample_index: int | None, n_samples: int) -> None:
        if sample_index is None or seq != self._last:
            return
        if self._next_sample is not None and 0 < sample_index - self._next_sample <= _MAX_JUMP:
            self.samples_lost += sample_index - self._next_sample
        self._next_sample = sample_index + n_samples


def _without(first: int, end: int, rejected: list[int]) -> list[list[int]]:
    """A range without some of its numbers, which come in ascending order."""
    ranges = []
    for seq in rejected[bisect_left(rejected, first) : bisect_left(rejected, end)]:
        if seq > first:
            ranges.append([first, seq])
        first = seq + 1
    if first < end:
        ranges.append([first, end])
    return ranges
