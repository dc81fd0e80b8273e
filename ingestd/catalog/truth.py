"""What the catalog claims about the store: asked by whoever holds the claims to the objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ingestd.catalog.connection import CatalogConnection
from ingestd.catalog.database import decoded, trusting_rows
from ingestd.catalog.schema import NO_CHUNK, NO_COPY
from ingestd.formats.measurement import Identity

__all__ = ["CatalogTruth", "StoredRow"]

#: Rows read at a time: a reader that goes through a million of them keeps no transaction open for long.
_PAGE_COUNT = 200


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row that says `stored`.

    `position` ascends over all rows; `copy` is the suffix of a kept conflict, or None.
    """

    position: int
    name: str
    identity: Identity
    copy: str | None
    etag: str
    stored_at_ns: int
    document: dict[str, Any]


class CatalogTruth(CatalogConnection):
    """The part of the catalog that is compared with the store."""

    def stored_rows(self, after: int = 0, since_ns: int = 0) -> Iterator[StoredRow]:
        """Every stored row behind a position, in order; rows that change meanwhile are seen as they are then.

        Parameters
        ----------
        after
            `position` of the last row that was seen.
        since_ns
            Only rows stored at this time or later [ns since 1970].
        """
        while True:
            page = self._stored_page(after, since_ns)
            yield from page
            if len(page) < _PAGE_COUNT:
                return
            after = page[-1].position

    @trusting_rows
    def _stored_page(self, after: int, since_ns: int) -> list[StoredRow]:
        with self._read() as connection:
            rows = connection.execute(
                "SELECT id, name, task_id, websdr_id, chunk, copy, etag, stored_at_ns, document FROM entries"
                " WHERE id > ? AND state = 'stored' AND stored_at_ns >= ? ORDER BY id LIMIT ?",
                (after, since_ns, _PAGE_COUNT),
            ).fetchall()
        return [
            StoredRow(
                row["id"],
                row["name"],
                Identity(
                    row["task_id"], row["websdr_id"], None if row["chunk"] == NO_CHUNK else row["chunk"]
                ),
                None if row["copy"] == NO_COPY else row["copy"],
                row["etag"] or "",
                row["stored_at_ns"],
                _object(decoded(row["document"])),
            )
            for row in rows
        ]

    def is_still_stored(self, row: StoredRow) -> bool:
        """Whether a row says what it said when it was read: it may have been superseded meanwhile."""
        with self._read() as connection:
            found = connection.execute(
                "SELECT 1 FROM entries WHERE id = ? AND name = ? AND state = 'stored' AND stored_at_ns = ?",
                (row.position, row.name, row.stored_at_ns),
            ).fetchone()
        return found is not None

    def stored_count(self, since_ns: int = 0) -> int:
        """How many rows say `stored`."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT count(*) AS n FROM entries WHERE state = 'stored' AND stored_at_ns >= ?", (since_ns,)
            ).fetchone()
        return int(row["n"])

    def is_awaited(self, identity: Identity, timestamp_ns: object = None) -> bool:
        """Whether an accepted entry of this identity, and of this stamp where one is given, is on its way."""
        chunk = NO_CHUNK if identity.chunk is None else identity.chunk
        # A document may hold anything; what is no stamp is that of no entry.
        stamp_ns = timestamp_ns if timestamp_ns is None or type(timestamp_ns) is int else -1
        with self._read() as connection:
            row = connection.execute(
                "SELECT 1 FROM entries WHERE task_id = ? AND websdr_id = ? AND chunk = ? AND state = 'accepted'"
                " AND timestamp_ns = coalesce(?, timestamp_ns) LIMIT 1",
                (identity.task_id, identity.websdr_id, chunk, stamp_ns),
            ).fetchone()
        return row is not None


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise TypeError("the document of a row is no JSON object")
    return document
