"""What a node still owes its frames: which are confirmed, which to send again, which to give up. Pure.

`Unconfirmed` keeps every numbered frame until an answer to `confirm` settles it. Time is an argument; the decisions
come back as a `Verdict`, and `ingestd.node` carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from ingestd.errors import QueryError

__all__ = ["MAX_RESENDS", "RESEND_AFTER_S", "Unconfirmed", "Verdict"]

#: A frame that is still missing after this many resends is parked: something else is wrong with it.
MAX_RESENDS = 5

#: A frame that is not accepted this long after it was sent is sent again [s], while the daemon accepts. Frames that
#: were overtaken by an accepted one are sent again at once: a connection delivers in order, so they are lost.
RESEND_AFTER_S = 5.0

_F = TypeVar("_F")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a node needs of an answer to `confirm`, all of it or an error."""

    accepted_upto: int
    ranges: list[tuple[int, int]]
    rejected: list[tuple[int, str]]
    seq_reused: int
    accepting: bool
    boot: str

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Self:
        try:
            return cls(
                int(reply["accepted_upto"]),
                [(int(first), int(end)) for first, end in reply["ranges"]],
                [(int(row["seq"]), str(row["reason"])) for row in reply["rejected"]],
                int(reply["seq_reused"]),
                bool(reply["accepting"]),
                str(reply["boot"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise QueryError("internal", "the answer is not what `confirm` answers in version 1") from error


@dataclass(slots=True)
class _Pending(Generic[_F]):
    frame: _F
    size_bytes: int
    sent_s: float
    n_resends: int = 0


@dataclass(slots=True)
class Verdict:
    """What one answer means.

    Numbers to send again, to park now, and rejected ones with their reasons; `new_epoch` says that the numbers of this
    epoch were used before and everything is to be numbered anew.
    """

    resend: list[int] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    new_epoch: bool = False


class Unconfirmed(Generic[_F]):
    """Frames of one epoch that are not confirmed yet."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending[_F]] = {}
        self._boot: str | None = None
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, seq: int, frame: _F, size_bytes: int, now_s: float) -> None:
        """Keep a frame that is being sent."""
        self._pending[seq] = _Pending(frame, size_bytes, now_s)
        self.size_bytes += size_bytes

    def frame(self, seq: int) -> _F:
        """Frame of a number that is kept."""
        return self._pending[seq].frame

    def __contains__(self, seq: int) -> bool:
        return seq in self._pending

    def numbers(self) -> list[int]:
        """Numbers of all that are kept, ascending."""
        return sorted(self._pending)

    def drop(self, seq: int) -> None:
        """Keep a frame no longer."""
        pending = self._pending.pop(seq, None)
        if pending is not None:
            self.size_bytes -= pending.size_bytes

    def resent(self, seq: int, now_s: float) -> None:
        """Take note that a frame was sent again."""
        pending = self._pending.get(seq)
        if pending is not None:
            pending.n_resends += 1
            pending.sent_s = now_s

    def settle(self, reply: Mapping[str, Any], now_s: float) -> Verdict:
        """Take an answer to `confirm`.

        Parameters
        ----------
        reply
            Its `data`.
        now_s
            Monotonic time [s].

        Raises
        ------
        QueryError
            `internal`: the answer is not one of the protocol; nothing was changed.
        """
        answer = _Answer.of(reply)
        verdict = Verdict()
        if answer.seq_reused:
            verdict.new_epoch = True
            return verdict
        for seq, reason in answer.rejected:
            if seq in self._pending:
                verdict.rejected.append((seq, reason))
                self.drop(seq)
        newest = max([answer.accepted_upto, *(end for _, end in answer.ranges)])
        self._drop_accepted(answer)
        # Another boot forgot what only the old one knew: everything that it does not confirm is sent again.
        forgotten = self._boot is not None and answer.boot != self._boot
        self._boot = answer.boot
        if answer.accepting:
            self._choose(verdict, newest, now_s, forgotten=forgotten)
        else:
            # What waits in the sockets is not late: it is read before anything that would be sent now.
            for pending in self._pending.values():
                pending.sent_s = now_s
        return verdict

    def _drop_accepted(self, answer: _Answer) -> None:
        for seq in list(self._pending):
            if seq < answer.accepted_upto or any(first <= seq < end for first, end in answer.ranges):
                self.drop(seq)

    def _choose(self, verdict: Verdict, newest: int, now_s: float, *, forgotten: bool) -> None:
        for seq, pending in sorted(self._pending.items()):
            overtaken = seq < newest and pending.n_resends == 0
            if not (overtaken or forgotten or now_s - pending.sent_s >= RESEND_AFTER_S):
                continue
            if pending.n_resends >= MAX_RESENDS:
                verdict.parked.append(seq)
            else:
                verdict.resend.append(seq)
