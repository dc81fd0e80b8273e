"""Results of torture: one record for each round, added up over as many as there are, as a table and as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from rich.table import Table

__all__ = ["Round", "append", "markdown", "quantile", "read", "table"]


@dataclass(frozen=True, slots=True)
class Round:
    """One life of a state directory and a bucket, from an empty one to the drain and its count.

    Counts are of frames unless named otherwise. `resent` counts each time; `probe_stored` is the fresh frame after all.
    """

    seed: int
    date: str
    version: str
    elapsed_s: float
    kills: int
    blows: Mapping[str, int]
    faults: Mapping[str, int]
    issued: int
    accepted: int
    resent: int
    stored: int
    lost: int
    torn: int
    lonely_metadata: int
    conflicting: int
    unknown_objects: int
    failed_entries: int
    books_balanced: bool
    probe_stored: bool
    drain_s: float
    rep_longest_gap_s: float
    rep_p50_ms: float
    rep_p99_ms: float
    troubles: Sequence[str] = field(default=())

    @property
    def clean(self) -> bool:
        """Whether nothing at all went wrong."""
        wrong = self.lost + self.torn + self.lonely_metadata + self.conflicting + self.unknown_objects
        return (
            not (wrong or self.failed_entries or self.troubles) and self.books_balanced and self.probe_stored
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Record as it is in the JSON."""
        return cls(**values)


def read(path: str) -> list[Round]:
    """Rounds of a file; none where there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [Round.of(values) for values in json.load(file)["rounds"]]


def append(path: str, rounds: Sequence[Round]) -> None:
    """Add rounds to a file, whole or not at all."""
    every = [asdict(one) for one in [*read(path), *rounds]]
    scratch = f"{path}.new"
    with open(scratch, "w", encoding="utf-8") as file:
        # One line a round: a file that grows by a thousand of them stays readable, and so do its changes.
        lines = ",\n".join(json.dumps(one) for one in every)
        file.write(f'{{"rounds": [\n{lines}\n]}}\n')
    os.replace(scratch, path)


def table(rounds: Sequence[Round], title: str) -> Table:
    """Everything added up."""
    out = Table(title=title, show_header=False)
    out.add_column(style="bold")
    out.add_column(justify="right")
    for name, value in _rows(rounds):
        out.add_row(name, value)
    return out


def markdown(rounds: Sequence[Round]) -> str:
    """The same as a table of a document, whose test holds it to the results."""
    lines = [f"| {name.strip()} | {value} |" for name, value in _rows(rounds)]
    return "\n".join(["| figure | value |", "|---|---|", *lines]) + "\n"


def _rows(rounds: Sequence[Round]) -> list[tuple[str, str]]:
    blows: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for one in rounds:
        blows.update(one.blows)
        faults.update({name: n for name, n in one.faults.items() if name != "passed"})
    issued, resent = sum(one.issued for one in rounds), sum(one.resent for one in rounds)
    return [
        ("rounds, seeds", f"{len(rounds)}, {len({one.seed for one in rounds})}"),
        ("time", f"{sum(one.elapsed_s for one in rounds) / 3600:.2f} h"),
        ("kills (SIGKILL)", f"{sum(one.kills for one in rounds)}"),
        *((f"  {name}", f"{n}") for name, n in sorted(blows.items())),
        ("requests broken by the proxy", f"{sum(faults.values())}"),
        *((f"  {name}", f"{n}") for name, n in sorted(faults.items())),
        ("frames issued", f"{issued}"),
        ("accepted (confirmed)", f"{sum(one.accepted for one in rounds)}"),
        ("pairs stored", f"{sum(one.stored for one in rounds)}"),
        ("resent", f"{resent} ({100 * resent / max(1, issued):.2f} %)"),
        ("lost", f"{sum(one.lost for one in rounds)}"),
        ("torn", f"{sum(one.torn for one in rounds)}"),
        ("metadata without .npy", f"{sum(one.lonely_metadata for one in rounds)}"),
        ("conflicting contents", f"{sum(one.conflicting for one in rounds)}"),
        ("objects nobody issued", f"{sum(one.unknown_objects for one in rounds)}"),
        ("healthy entries in failed/", f"{sum(one.failed_entries for one in rounds)}"),
        ("rounds whose books balance", f"{sum(one.books_balanced for one in rounds)}"),
        ("rounds whose fresh probe was stored", f"{sum(one.probe_stored for one in rounds)}"),
        ("longest drain", f"{max(one.drain_s for one in rounds):.1f} s"),
        ("longest gap of the REP socket", f"{max(one.rep_longest_gap_s for one in rounds):.2f} s"),
        ("REP p99, worst round", f"{max(one.rep_p99_ms for one in rounds):.1f} ms"),
        ("rounds with troubles", f"{sum(bool(one.troubles) for one in rounds)}"),
    ]


def quantile(ascending: Sequence[float], share: float) -> float:
    """Value that `share` of all do not exceed; 0 where there are none."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0
