"""One write transaction: its statements, and what is summed up until its end.

Several entries of one batch have the same session, the same node and the same totals: what they change there is added up
and written once, so a batch costs little more than its own rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["SessionChange", "Transaction"]


@dataclass(slots=True)
class SessionChange:
    """What entries change in their session: counts are differences, of the rest the least, the most or the first counts."""

    measurements_count: int = 0
    stored: int = 0
    pending: int = 0
    failed: int = 0
    size_bytes: int = 0
    expected: int | None = None
    first_timestamp_ns: int | None = None
    frequency_hz: float | None = None
    last_accepted_ns: int = 0

    def tell(
        self, expected: int | None, timestamp_ns: int | None, frequency_hz: float | None, accepted_at_ns: int
    ) -> None:
        """Take in what one entry says of the session."""
        if expected is not None:
            self.expected = expected if self.expected is None else max(self.expected, expected)
        if timestamp_ns is not None:
            first_ns = self.first_timestamp_ns
            self.first_timestamp_ns = timestamp_ns if first_ns is None else min(first_ns, timestamp_ns)
        if self.frequency_hz is None:
            self.frequency_hz = frequency_hz
        self.last_accepted_ns = max(self.last_accepted_ns, accepted_at_ns)


_CHANGE_SESSION = (
    "INSERT INTO sessions (task_id, measurements_count, stored, pending, failed, size_bytes, expected,"
    " first_timestamp_ns, frequency_hz, last_accepted_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id) DO UPDATE SET"
    " measurements_count = measurements_count + excluded.measurements_count, stored = stored + excluded.stored,"
    " pending = pending + excluded.pending, failed = failed + excluded.failed,"
    " size_bytes = size_bytes + excluded.size_bytes,"
    # max() and min() of SQLite are null where one of their arguments is.
    " expected = coalesce(max(expected, excluded.expected), expected, excluded.expected),"
    " first_timestamp_ns = coalesce(min(first_timestamp_ns, excluded.first_timestamp_ns), first_timestamp_ns,"
    " excluded.first_timestamp_ns),"
    " frequency_hz = coalesce(frequency_hz, excluded.frequency_hz),"
    " last_accepted_ns = max(last_accepted_ns, excluded.last_accepted_ns)"
)


@dataclass(slots=True)
class _Sums:
    totals: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, SessionChange] = field(default_factory=dict)
    snr_db: dict[tuple[str, int], float] = field(default_factory=dict)


class Transaction:
    """A connection inside its transaction, with what it adds to totals, sessions and nodes.

    Parameters
    ----------
    connection
        Inside a transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._sums = _Sums()
        self._ended: dict[str, bool] = {}

    def count(self, key: str, value: int) -> None:
        """Add to a total."""
        totals = self._sums.totals
        totals[key] = totals.get(key, 0) + value

    def session(self, task_id: str) -> SessionChange:
        """What is changed in a session, to be added to."""
        sessions = self._sums.sessions
        change = sessions.get(task_id)
        if change is None:
            change = sessions[task_id] = SessionChange()
        return change

    def see_snr(self, node: str, websdr_id: int, snr_db: float) -> None:
        """Let a node's row show this figure, unless a later one comes."""
        # Last in the order of writing: two names of one receiver are one row.
        self._sums.snr_db.pop((node, websdr_id), None)
        self._sums.snr_db[node, websdr_id] = snr_db

    def look_up_ended(self, names: Iterable[str]) -> None:
        """Find out at once which of these entries have ended without objects of their own."""
        wanted = dict.fromkeys(names, False)
        rows = self.execute(
            "SELECT name FROM ended WHERE name IN (SELECT value FROM json_each(?))",
            (json.dumps(list(wanted)),),
        )
        self._ended |= wanted | dict.fromkeys((row["name"] for row in rows), True)

    def has_ended(self, name: str) -> bool:
        """Whether an entry has ended without objects of its own."""
        if name not in self._ended:
            self.look_up_ended([name])
        return self._ended[name]

    def remember_end(self, name: str) -> None:
        """Remember that an entry has ended without objects of its own."""
        self.execute(
            "INSERT OR IGNORE INTO ended VALUES (?, (SELECT coalesce(max(id), 0) + 1 FROM ended))", (name,)
        )
        self._ended[name] = True

    def write_sums(self) -> None:
        """Write what was added up."""
        self._write_totals()
        self.executemany(_CHANGE_SESSION, [_session_row(*item) for item in self._sums.sessions.items()])
        for (node, websdr_id), snr_db in self._sums.snr_db.items():
            # The registry may have given the node another name than the frame.
            if not self.execute("UPDATE nodes SET snr_db = ? WHERE node = ?", (snr_db, node)).rowcount:
                self.execute("UPDATE nodes SET snr_db = ? WHERE websdr_id = ?", (snr_db, websdr_id))

    def _write_totals(self) -> None:
        added = [pair for key, value in self._sums.totals.items() if value for pair in (key, value)]
        if added:
            self.execute(
                f"INSERT INTO totals VALUES {', '.join(['(?, ?)'] * (len(added) // 2))}"  # noqa: S608 - only marks
                " ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
                added,
            )


def _session_row(task_id: str, change: SessionChange) -> tuple[object, ...]:
    return (
        task_id, change.measurements_count, change.stored, change.pending, change.failed, change.size_bytes,
        change.expected, change.first_timestamp_ns, change.frequency_hz, change.last_accepted_ns,
    )  # fmt: skip
