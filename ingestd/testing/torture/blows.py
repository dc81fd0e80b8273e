"""What is done to whom, and when: a seeded plan. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Blow", "Kind", "plan"]


class Kind(StrEnum):
    """What a blow is."""

    #: SIGKILL.
    KILL = "kill"
    #: SIGSTOP, and SIGCONT after a while.
    PAUSE = "pause"
    #: SIGTERM, and a start once it has ended.
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Blow:
    """One blow.

    Parameters
    ----------
    after_s
        Since the one before [s].
    kind, target
        What happens to whom: a role's name, `supervisor` or `minio`.
    lasts_s
        How long a pause lasts, or how long who was killed stays away where nobody restarts it by itself [s].
    """

    after_s: float
    kind: Kind
    target: str
    lasts_s: float


#: Weight, kind and target; `uploader` is any of them. Kills of the roles on the way of a frame are the most frequent.
_WEIGHTS: tuple[tuple[int, Kind, str], ...] = (
    (20, Kind.KILL, "receiver"),
    (40, Kind.KILL, "uploader"),
    (15, Kind.KILL, "responder"),
    (6, Kind.KILL, "supervisor"),
    (5, Kind.KILL, "minio"),
    (2, Kind.STOP, "supervisor"),
    (4, Kind.PAUSE, "receiver"),
    (4, Kind.PAUSE, "uploader"),
    (3, Kind.PAUSE, "responder"),
    (2, Kind.PAUSE, "supervisor"),
    (3, Kind.PAUSE, "minio"),
)

#: Never less than this between two blows [s]: a plan of pure chance would hit processes that do not exist yet.
_MIN_GAP_S = 0.02


def plan(seed: int, n_uploaders: int, mean_gap_s: float) -> Iterator[Blow]:
    """Blows without end, the same for the same arguments."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not a secret
    weights = [weight for weight, _, _ in _WEIGHTS]
    while True:
        _, kind, target = rng.choices(_WEIGHTS, weights)[0]
        if target == "uploader":
            target = f"uploader-{rng.randrange(n_uploaders)}"
        lasts_s = rng.uniform(0.0, 1.0) if kind is Kind.KILL else rng.choice((0.1, 0.5, 1.0, 3.0))
        yield Blow(_MIN_GAP_S + rng.expovariate(1.0 / mean_gap_s), kind, target, lasts_s)
