"""Which faults there are to make: every call of a scenario times everything that can be done to it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ingestd.testing.syscalls.trace import Call, place_of

__all__ = ["CONTROL", "KILL", "SCENARIOS", "Case", "Fault", "Scenario", "cases", "points"]

#: SIGKILL in front of the call, which then does not happen.
KILL = "KILL"

#: How a fault goes on after the first call: not at all, once more (the second try fails too), a few more, for ever.
Lasting = Literal["once", "twice", "burst", "forever"]

#: Calls that a burst spoils: more than the tries of one commit.
_BURST_COUNT = 5

#: What an enumerated call can meet. ENOSPC and EDQUOT from a sync are real: allocation is delayed.
_ACTIONS: dict[str, tuple[tuple[str, Lasting], ...]] = {
    "openat": (("EIO", "once"), ("ENOSPC", "once"), ("EMFILE", "burst"), ("EINTR", "once"), ("EIO", "forever")),
    "write": (
        ("EIO", "once"), ("EIO", "burst"), ("EIO", "forever"), ("ENOSPC", "once"), ("ENOSPC", "burst"),
        ("EDQUOT", "burst"), ("EINTR", "once"),
    ),
    "fdatasync": (
        ("EIO", "once"), ("EIO", "twice"), ("EIO", "forever"), ("ENOSPC", "once"), ("EDQUOT", "once"),
        ("ENOSPC", "forever"), ("EINTR", "once"), ("DELAY", "once"),
    ),
    "fsync": (
        ("EIO", "once"), ("EIO", "twice"), ("EIO", "forever"), ("ENOSPC", "once"), ("EDQUOT", "once"),
        ("EINTR", "once"), ("DELAY", "once"),
    ),
    "rename": (
        ("EIO", "once"), ("EIO", "twice"), ("EIO", "forever"), ("ENOSPC", "once"), ("EDQUOT", "once"), ("DELAY", "once"),
    ),
    "linkat": (("EIO", "once"), ("EIO", "forever"), ("ENOSPC", "once"), ("EDQUOT", "once")),
    "link": (("EIO", "once"), ("EIO", "forever"), ("ENOSPC", "once"), ("EDQUOT", "once")),
    "mkdir": (("EIO", "once"), ("ENOSPC", "once"), ("EDQUOT", "once")),
    "unlink": (("EIO", "once"), ("EIO", "forever"), ("ENOSPC", "once"), ("EROFS", "once")),
    "close": (("EIO", "once"), ("EINTR", "once"), ("ENOSPC", "once"), ("EDQUOT", "once")),
    "sendto": (),
}  # fmt: skip

#: Real short writes: how much of one is done, or `limit` (RLIMIT_FSIZE, then EFBIG).
_SHORT = ("one", "half", "most", "limit")

#: A subject whose disk never recovers is asked to stop after this long [s].
_FOREVER_STOP_S = 0.4

#: How long a delayed call takes [us].
_DELAY_US = 20_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at the `at`-th call of a name (of strace), or, for `short-*`, at the `at`-th write to the disk."""

    name: str
    action: str
    at: int
    lasting: Lasting = "once"

    def __str__(self) -> str:
        return f"{self.name}@{self.at}:{self.action}" + ("" if self.lasting == "once" else f":{self.lasting}")

    @property
    def is_short(self) -> bool:
        """Whether it is made in the subject, not by strace."""
        return self.action.startswith("short-")

    def expression(self) -> str:
        """As an argument of strace's `-e`."""
        last = {
            "once": "",
            "twice": f"..{self.at + 1}",
            "burst": f"..{self.at + _BURST_COUNT - 1}",
            "forever": "+",
        }
        what = {KILL: "signal=KILL", "DELAY": f"delay_enter={_DELAY_US}"}.get(
            self.action, f"error={self.action}"
        )
        return f"inject={self.name}:{what}:when={self.at}{last[self.lasting]}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A subject, its script, and what is wrong already (`base`) while each call is enumerated.

    `base` faults are named by place: the `at`-th call of that name in `place`. `all_actions` is False where only
    deaths and I/O errors are of interest.
    """

    name: str
    subject: str
    groups: tuple[int, ...]
    base: tuple[tuple[str, Fault], ...] = ()
    all_actions: bool = True


#: Everything that is enumerated. The second faults strike while the first one is being cleaned up.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("receiver", "receiver", (1, 3, 4)),
    Scenario("receiver, fdatasync fails", "receiver", (1, 3), (("tmp", Fault("fdatasync", "EIO", 3)),), all_actions=False),
    Scenario(
        "receiver, fdatasync fails twice", "receiver", (1, 3), (("tmp", Fault("fdatasync", "EIO", 3, "twice")),),
        all_actions=False,
    ),
    Scenario("receiver, fdatasync: disk full", "receiver", (1, 3), (("tmp", Fault("fdatasync", "ENOSPC", 3)),), all_actions=False),
    Scenario("receiver, rename fails", "receiver", (1, 3), (("new", Fault("rename", "EIO", 3)),), all_actions=False),
    Scenario("receiver, fsync of new/ fails", "receiver", (1, 3), (("new", Fault("fsync", "EIO", 2)),), all_actions=False),
    Scenario("receiver, short write", "receiver", (1, 3), (("tmp", Fault("write", "short-half", 3)),), all_actions=False),
    Scenario("receiver, written over", "receiver-over", (1, 3, 2)),
    Scenario(
        "receiver, written over, fdatasync fails", "receiver-over", (1, 3), (("tmp", Fault("fdatasync", "EIO", 3)),),
        all_actions=False,
    ),
    Scenario("uploader", "uploader", (3,)),
    Scenario("uploader, fdatasync fails", "uploader", (2,), (("objects", Fault("fdatasync", "EIO", 2)),), all_actions=False),
    Scenario("uploader, fsync fails", "uploader", (2,), (("objects", Fault("fsync", "EIO", 3)),), all_actions=False),
)  # fmt: skip


#: Must be found out at every entry that it tells: its receiver syncs nothing.
CONTROL = Scenario("control: receiver without syncs", "receiver-unsynced", (1, 2))


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a scenario with one more fault (or none: the rehearsal)."""

    scenario: Scenario
    base: tuple[Fault, ...] = ()
    fault: Fault | None = None
    place: str = ""

    def __str__(self) -> str:
        return f"{self.scenario.name}: {self.place} {self.fault or 'rehearsal'}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All of them."""
        return self.base + ((self.fault,) if self.fault else ())

    @property
    def short(self) -> tuple[int, str] | None:
        """The short write that the subject is to make."""
        return next(((f.at, f.action.removeprefix("short-")) for f in self.faults if f.is_short), None)

    @property
    def stop_after_s(self) -> float | None:
        """When the subject is asked to stop though it is not done [s]."""
        return _FOREVER_STOP_S if any(f.lasting == "forever" for f in self.faults) else None


def points(calls: Sequence[Call], state_directory: str) -> list[tuple[Call, str]]:
    """Calls of a rehearsal that are about the spool or the bucket, or tell of it, with their place."""
    placed = ((call, place_of(call, state_directory)) for call in calls)
    return [
        (call, place)
        for call, place in placed
        if place and place != "log" and not (place != "told" and _only_looks(call))
    ]


def _only_looks(call: Call) -> bool:
    """Listings and reads change nothing: opening and closing them is no step of the durable path."""
    return call.name == "openat" and "O_RDONLY" in call.flags and "O_DIRECTORY" not in call.flags


def cases(scenario: Scenario, base: tuple[Fault, ...], found: Sequence[tuple[Call, str]]) -> Iterator[Case]:
    """Everything that can be done to each point.

    A call name that `base` spoils already is left to deaths of other calls: strace has one rule for each name.
    """
    taken = {fault.name for fault in base if not fault.is_short}
    has_short = any(fault.is_short for fault in base)
    n_writes = 0
    for call, place in found:
        if call.injected:
            continue
        if call.name == "write":
            n_writes += 1
            if scenario.all_actions and not has_short:
                yield from (
                    Case(scenario, base, Fault("write", f"short-{how}", n_writes), place) for how in _SHORT
                )
        if call.name in taken:
            continue
        yield Case(scenario, base, Fault(call.name, KILL, call.ordinal), place)
        for action, lasting in _ACTIONS[call.name]:
            # What cannot be removed after a first fault must not be taken for the new file that the second try needs.
            stays = call.name == "unlink" and lasting == "forever"
            if scenario.all_actions or stays or (action, lasting) == ("EIO", "once"):
                yield Case(scenario, base, Fault(call.name, action, call.ordinal, lasting), place)
