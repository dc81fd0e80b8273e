"""One write transaction: its statements, and the totals that it adds to."""

from __future__ import annotations

import sqlite3

__all__ = ["Transaction"]


class Transaction:
    """A connection inside its transaction, with what it adds to the totals: they are written once, at its end.

    Parameters
    ----------
    connection
        Inside a transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.added: dict[str, int] = {}

    def count(self, key: str, value: int) -> None:
        """Add to a total."""
        self.added[key] = self.added.get(key, 0) + value

    def write_totals(self) -> None:
        """Write what was added."""
        added = [pair for key, value in self.added.items() if value for pair in (key, value)]
        if added:
            self.execute(
                f"INSERT INTO totals VALUES {', '.join(['(?, ?)'] * (len(added) // 2))}"  # noqa: S608 - only marks
                " ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
                added,
            )
