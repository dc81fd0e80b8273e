"""What the roles write: acceptance by the receiver, the end of every entry by the uploaders.

Either may come first, so every write is an upsert on the entry's name, and states only move forward:
accepted -> stored | failed | lost; requeue is the only way back. `totals` and `sessions` are kept in the same
transactions, so that at any moment accepted = stored + duplicates + superseded + failed + lost + pending.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingestd.catalog.connection import CatalogConnection
from ingestd.catalog.database import decoded, trusting_rows
from ingestd.catalog.records import (
    FOUND,
    AcceptedBatch,
    AcceptedEntry,
    FailedEntry,
    LedgerState,
    NodeSeen,
    Rejection,
    StoredEntry,
)
from ingestd.catalog.schema import NO_CHUNK, NO_COPY, NO_STAMP_NS
from ingestd.catalog.transaction import Transaction
from ingestd.formats.confirmation import EpochLedger
from ingestd.formats.measurement import Identity

__all__ = ["CatalogWriter"]

#: Rejected frames that are kept (design 8).
_MAX_REJECTED = 1000

#: Ledgers that are kept; the ones unchanged for longest go first, with a new boot, so that nodes ask again.
_MAX_LEDGERS = 10_000

#: Nodes that are kept; the ones that were silent for longest go first. A network has tens.
_MAX_NODES = 10_000

#: Names in `ended` that are kept: a receiver's next flush is seconds away, and so is a second end of the same entry.
_MAX_ENDED = 10_000

#: Total of each state; `accepted` in a row means pending.
_STATE_TOTAL = {"accepted": "pending", "stored": "stored", "failed": "failed", "lost": "lost"}

_COLUMNS = (
    "name", "state", "task_id", "websdr_id", "chunk", "copy", "content_crc", "timestamp_ns", "frequency_hz", "snr_db",
    "node", "epoch", "seq", "expected", "samples_count", "size_bytes", "frame_bytes", "etag", "accepted_at_ns",
    "stored_at_ns", "reason", "error", "document",
)  # fmt: skip
_INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (name) DO NOTHING"  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Weight:
    """What a row adds to its session."""

    task_id: str
    state: str
    copy: str
    size_bytes: int


class CatalogWriter(CatalogConnection):
    """The writing half of the catalog."""

    @contextlib.contextmanager
    def _change(self) -> Iterator[Transaction]:
        """One transaction, and with it the totals."""
        with self._write() as connection:
            transaction = Transaction(connection)
            yield transaction
            transaction.write_sums()

    def record_accepted(self, batch: AcceptedBatch) -> None:
        """Record a group commit with everything that belongs to it."""
        with self._change() as connection:
            connection.look_up_ended(entry.name for entry in batch.entries)
            for entry in batch.entries:
                _accept(connection, entry)
            for ledger in batch.ledgers:
                _keep_ledger(connection, ledger)
            for node in batch.nodes:
                _see_node(connection, node)
            _keep_rejections(connection, batch.rejections)
            for key, value in batch.counters.items():
                connection.count(key, value)
            _trim(connection, batch)

    def record_stored(self, entries: Sequence[StoredEntry]) -> list[str]:
        """Record pairs that are in the store and verified.

        Two equal frames may be uploaded at the same moment, and neither uploader can know of the other: the second
        one to be recorded is the duplicate. A row that an audit made of the pair, because it was in the bucket before its
        entry was in the catalog, gives way to the entry. Only one content can have an identity's own name: whatever was stored
        under it before is superseded, even where its record comes late.

        Returns
        -------
        list of str
            Names of entries that were recorded as duplicates, because another entry stored the same content, and of
            those that had ended already: what an entry ended as, it stays.
        """
        duplicates: list[str] = []
        with self._change() as connection:
            connection.look_up_ended(entry.name for entry in entries)
            for entry in entries:
                if connection.has_ended(entry.name):
                    duplicates.append(entry.name)
                    continue
                others = _without_found(connection, entry, _others(connection, entry))
                if any(row["content_crc"] == entry.content_crc for row in others):
                    _end(connection, entry.name, "duplicates")
                    duplicates.append(entry.name)
                    continue
                is_new = True
                if _takes_name(connection, entry, others):
                    is_new = _store(connection, entry)
                else:
                    # Stored it was, and its bytes count, though another pair has the name by now.
                    _end(connection, entry.name, "superseded")
                for key, value in entry.counters.items() if is_new else ():
                    connection.count(key, value)
        return duplicates

    def record_duplicate(self, name: str, counter: str = "duplicates") -> None:
        """Record that an entry ended without objects of its own; its row goes.

        Parameters
        ----------
        name
            Of the entry.
        counter
            `duplicates`, or `superseded` for an older entry under the policy `overwrite`.
        """
        with self._change() as connection:
            _end(connection, name, counter)

    def record_failed(self, entry: FailedEntry) -> None:
        """Record that an entry went to failed/."""
        with self._change() as connection:
            _fail(connection, entry)

    def record_requeued(self, name: str) -> None:
        """Record that a failed entry waits again."""
        with self._change() as connection:
            row = _row(connection, name)
            if row is not None and row["state"] in ("failed", "lost"):
                _change(connection, row, state="accepted", reason=None, error=None)

    def record_lost(self, names: Iterable[str]) -> int:
        """Record entries that are neither in the spool nor in the store; returns how many were waiting."""
        n_lost = 0
        with self._change() as connection:
            for name in names:
                row = _row(connection, name)
                if row is not None and row["state"] == "accepted":
                    _change(connection, row, state="lost", error="neither in the spool nor in the store")
                    n_lost += 1
        return n_lost

    def stored_entry_of(self, identity: Identity, content_crc: int) -> str | None:
        """Name of the entry that stored this content under this identity, if it is known."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT name FROM entries WHERE task_id = ? AND websdr_id = ? AND chunk = ? AND state = 'stored'"
                " AND content_crc = ?",
                (*_place(identity), content_crc),
            ).fetchone()
        return None if row is None else str(row["name"])

    def newest_stored_entry(self, identity: Identity) -> str | None:
        """Name of the entry that has the identity's own name in the store, if it is known."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT name FROM entries WHERE task_id = ? AND websdr_id = ? AND chunk = ? AND copy = ?"
                " AND state = 'stored' ORDER BY name DESC LIMIT 1",
                (*_place(identity), NO_COPY),
            ).fetchone()
        return None if row is None else str(row["name"])

    @trusting_rows
    def ledger(self, node: str, epoch: int) -> dict[str, Any] | None:
        """Kept state of a ledger."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT state FROM ledgers WHERE node = ? AND epoch = ?", (node, epoch)
            ).fetchone()
        state: dict[str, Any] | None = None if row is None else decoded(row["state"])
        # Built once here, so that a broken one is the catalog's fault and not the receiver's.
        EpochLedger(state)
        return state

    def entry_of_seq(self, node: str, epoch: int, seq: int) -> str | None:
        """Name of an entry with this triple, if one is known."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT name FROM entries WHERE node = ? AND epoch = ? AND seq = ? LIMIT 1",
                (node, epoch, seq),
            ).fetchone()
        return None if row is None else str(row["name"])

    def pending_names(self, after: str = "", limit: int = 1000) -> list[str]:
        """Names of accepted rows, ascending, a page at a time."""
        with self._read() as connection:
            rows = connection.execute(
                "SELECT name FROM entries WHERE state = 'accepted' AND name > ? ORDER BY name LIMIT ?",
                (after, limit),
            )
            return [row["name"] for row in rows]

    def state_of(self, name: str) -> str | None:
        """State of an entry's row; None where it has none."""
        with self._read() as connection:
            row = _row(connection, name)
        return None if row is None else str(row["state"])

    def document_of(self, name: str) -> dict[str, Any] | None:
        """Metadata document of an entry as far as it is known."""
        with self._read() as connection:
            row = _row(connection, name)
        return None if row is None else decoded(row["document"])

    def mark(self, key: str, value: str) -> None:
        """Write one word of meta."""
        with self._change() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def marked(self, key: str) -> str | None:
        """Read one word of meta."""
        with self._read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])


def _place(identity: Identity) -> tuple[str, int, int]:
    return identity.task_id, identity.websdr_id, NO_CHUNK if identity.chunk is None else identity.chunk


def _draw_boot(connection: Transaction) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (secrets.token_hex(8),))


def _row(connection: Transaction | sqlite3.Connection, name: str) -> sqlite3.Row | None:
    found: sqlite3.Row | None = connection.execute("SELECT * FROM entries WHERE name = ?", (name,)).fetchone()
    return found


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that a metadata document gives."""
    chunk, stamp_ns = document.get("chunk"), document.get("timestamp_ns")
    return {
        "task_id": document["task_id"],
        "websdr_id": document["websdr_id"],
        "chunk": NO_CHUNK if chunk is None else chunk,
        "timestamp_ns": NO_STAMP_NS if stamp_ns is None else stamp_ns,
        "frequency_hz": document.get("frequency_hz"),
        "snr_db": (document.get("metrics") or {}).get("snr_db"),
        "node": document.get("node"),
        "epoch": document.get("epoch"),
        "seq": document.get("seq"),
        "expected": document.get("expected"),
        "samples_count": document.get("samples_count"),
        "size_bytes": document.get("size_bytes"),
        "document": json.dumps(document, ensure_ascii=False, separators=(",", ":")),
    }


_BLANK: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"copy": NO_COPY, "frame_bytes": 0}


def _weight(row: Mapping[str, Any] | sqlite3.Row) -> _Weight:
    return _Weight(row["task_id"], row["state"], row["copy"], row["size_bytes"] or 0)


def _insert(connection: Transaction, values: Mapping[str, Any]) -> bool:
    """Make a row; False where the entry has one."""
    row = _BLANK | dict(values)
    if not connection.execute(_INSERT, tuple([row[column] for column in _COLUMNS])).rowcount:
        return False
    connection.count("accepted", 1)
    connection.count(_STATE_TOTAL[row["state"]], 1)
    _weigh(connection, row, None, _weight(row))
    return True


def _change(connection: Transaction, row: sqlite3.Row, **changes: Any) -> None:
    """Change a row, and with it what totals and sessions say."""
    after = {column: row[column] for column in _COLUMNS} | changes
    # Every index whose columns are named is written again, whether or not they differ.
    changed = [column for column, value in changes.items() if value != row[column]]
    if changed:
        connection.execute(
            f"UPDATE entries SET {', '.join([f'{column} = ?' for column in changed])} WHERE name = ?",  # noqa: S608 - our own names
            (*[after[column] for column in changed], row["name"]),
        )
    if row["state"] != after["state"]:
        connection.count(_STATE_TOTAL[row["state"]], -1)
        connection.count(_STATE_TOTAL[after["state"]], 1)
    _weigh(connection, after, _weight(row), _weight(after))


def _remove(connection: Transaction, row: sqlite3.Row, counter: str) -> None:
    connection.execute("DELETE FROM entries WHERE name = ?", (row["name"],))
    connection.remember_end(row["name"])
    connection.count(_STATE_TOTAL[row["state"]], -1)
    connection.count(counter, 1)
    _weigh(connection, row, _weight(row), None)


def _weigh(
    connection: Transaction,
    row: Mapping[str, Any] | sqlite3.Row,
    before: _Weight | None,
    after: _Weight | None,
) -> None:
    """Move what a row weighs in its session; kept conflicts weigh nothing.

    An entry whose frame cannot be read belongs to no session, until somebody can read it.
    """
    if before is not None and not before.task_id:
        before = None
    if before == after or not row["task_id"]:
        return
    session = connection.session(row["task_id"])
    for weight, sign in ((before, -1), (after, 1)):
        if weight is None or weight.copy != NO_COPY:
            continue
        session.measurements_count += sign
        if weight.state == "accepted":
            session.pending += sign
        elif weight.state == "stored":
            session.stored += sign
            session.size_bytes += sign * weight.size_bytes
        else:
            # A lost measurement failed, as far as its session is concerned.
            session.failed += sign
    stamp_ns = None if row["timestamp_ns"] == NO_STAMP_NS else row["timestamp_ns"]
    session.tell(row["expected"], stamp_ns, row["frequency_hz"], row["accepted_at_ns"])


def _accept(connection: Transaction, entry: AcceptedEntry) -> None:
    if connection.has_ended(entry.name):
        return
    values = _values(entry.document)
    is_new = _insert(
        connection,
        values
        | {
            "name": entry.name,
            "state": "accepted",
            "frame_bytes": entry.frame_bytes,
            "accepted_at_ns": entry.accepted_at_ns,
        },
    )
    row = None if is_new else _row(connection, entry.name)
    if row is not None and not row["task_id"]:
        _change(connection, row, **values)


def _store(connection: Transaction, entry: StoredEntry) -> bool:
    """Write that a pair is stored; whether that is news."""
    values = _values(entry.document) | {
        "name": entry.name,
        "state": "stored",
        "copy": entry.copy or NO_COPY,
        "content_crc": entry.content_crc,
        "etag": entry.etag,
        "frame_bytes": entry.frame_bytes,
        "accepted_at_ns": entry.accepted_at_ns,
        "stored_at_ns": entry.stored_at_ns,
        "reason": None,
        "error": None,
    }
    row = _row(connection, entry.name)
    if row is not None and row["state"] == "stored":
        return False
    if row is None:
        _insert(connection, values)
    else:
        _change(connection, row, **values)
    if values["snr_db"] is not None:
        node = values["node"] or f"websdr:{values['websdr_id']}"
        connection.see_snr(node, values["websdr_id"], values["snr_db"])
    return True


def _others(connection: Transaction, entry: StoredEntry) -> list[sqlite3.Row]:
    """Rows of other entries that are stored under the same identity."""
    document = entry.document
    return connection.execute(
        "SELECT * FROM entries WHERE task_id = ? AND websdr_id = ? AND chunk = ? AND state = 'stored' AND name != ?",
        (*_place(Identity(document["task_id"], document["websdr_id"], document.get("chunk"))), entry.name),
    ).fetchall()


def _without_found(
    connection: Transaction, entry: StoredEntry, others: Sequence[sqlite3.Row]
) -> list[sqlite3.Row]:
    """Rows but for those that were made of this very pair as it lay in the bucket: they were this entry all the time."""
    kept: list[sqlite3.Row] = []
    for row in others:
        if FOUND in row["name"] and FOUND not in entry.name and row["content_crc"] == entry.content_crc:
            connection.execute("DELETE FROM entries WHERE name = ?", (row["name"],))
            connection.count("accepted", -1)
            connection.count(_STATE_TOTAL[row["state"]], -1)
            _weigh(connection, row, _weight(row), None)
        else:
            kept.append(row)
    return kept


def _takes_name(connection: Transaction, entry: StoredEntry, others: Sequence[sqlite3.Row]) -> bool:
    """Whether a pair, if it is no kept conflict, was the last to be stored under its name; older ones are superseded."""
    if entry.copy is not None:
        return True
    rows = [row for row in others if row["copy"] == NO_COPY]
    if any(row["stored_at_ns"] > entry.stored_at_ns for row in rows):
        return False
    for row in rows:
        _remove(connection, row, "superseded")
    return True


def _end(connection: Transaction, name: str, counter: str) -> None:
    if connection.has_ended(name):
        return
    row = _row(connection, name)
    if row is not None and row["state"] == "stored":
        return
    if row is not None:
        _remove(connection, row, counter)
    else:
        connection.remember_end(name)
        # The receiver has not recorded it yet: it counts as accepted here, and is skipped there.
        connection.count("accepted", 1)
        connection.count(counter, 1)


def _fail(connection: Transaction, entry: FailedEntry) -> None:
    row = _row(connection, entry.name)
    changes = {"state": "failed", "reason": entry.reason, "error": entry.error}
    if row is not None:
        if row["state"] in ("accepted", "lost"):
            _change(connection, row, **changes)
        return
    if connection.has_ended(entry.name):
        return
    document = entry.document or {"task_id": "", "websdr_id": -1}
    _insert(
        connection,
        _values(document)
        | changes
        | {"name": entry.name, "frame_bytes": entry.frame_bytes, "accepted_at_ns": entry.accepted_at_ns},
    )


def _keep_ledger(connection: Transaction, ledger: LedgerState) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO ledgers VALUES (?, ?, ?, (SELECT coalesce(max(updated), 0) + 1 FROM ledgers))",
        (ledger.node, ledger.epoch, json.dumps(ledger.state, separators=(",", ":"))),
    )


def _see_node(connection: Transaction, seen: NodeSeen) -> None:
    connection.execute(
        "INSERT INTO nodes (node, websdr_id, received, accepted, rejected, gaps, samples_lost, last_seen_ns, epoch, seq,"
        " lag_s) VALUES (?1, ?2, ?3, ?4, ?5, max(0, ?6), ?7, ?8, ?9, ?10, ?11) ON CONFLICT (node) DO UPDATE SET"
        " websdr_id = coalesce(excluded.websdr_id, websdr_id), received = received + excluded.received,"
        " accepted = accepted + excluded.accepted, rejected = rejected + excluded.rejected,"
        # A gap may close that was counted in a row which is gone: nobody counts below zero.
        " gaps = max(0, gaps + ?6), samples_lost = samples_lost + excluded.samples_lost,"
        " last_seen_ns = max(last_seen_ns, excluded.last_seen_ns), epoch = coalesce(excluded.epoch, epoch),"
        " seq = coalesce(excluded.seq, seq), lag_s = coalesce(excluded.lag_s, lag_s)",
        (
            seen.node, seen.websdr_id, seen.received, seen.accepted, seen.rejected, seen.gaps, seen.samples_lost,
            seen.last_seen_ns, seen.epoch, seen.seq, seen.lag_s,
        ),
    )  # fmt: skip


def _keep_rejections(connection: Transaction, rejections: Sequence[Rejection]) -> None:
    connection.executemany(
        "INSERT INTO rejected (at_ns, peer, node, epoch, seq, reason, field, value, sample) VALUES (?,?,?,?,?,?,?,?,?)",
        [(r.at_ns, r.peer, r.node, r.epoch, r.seq, r.reason, r.field, r.value, r.sample) for r in rejections],
    )


def _trim(connection: Transaction, batch: AcceptedBatch) -> None:
    """Keep everything that clients can make grow within its bounds."""
    if batch.rejections:
        connection.execute(
            "DELETE FROM rejected WHERE id <= (SELECT max(id) FROM rejected) - ?", (_MAX_REJECTED,)
        )
    connection.execute("DELETE FROM ended WHERE id <= (SELECT max(id) FROM ended) - ?", (_MAX_ENDED,))
    n_nodes = connection.execute("SELECT count(*) FROM nodes").fetchone()[0] if batch.nodes else 0
    if n_nodes > _MAX_NODES:
        # A tenth at once: names that are made up to the end must not cost a sort each.
        connection.execute(
            "DELETE FROM nodes WHERE node IN (SELECT node FROM nodes ORDER BY last_seen_ns LIMIT ?)",
            (n_nodes - _MAX_NODES * 9 // 10,),
        )
    if batch.ledgers:
        # What is forgotten would be confirmed as zeros: a new boot tells every node that it must ask again.
        forgotten = connection.execute(
            "DELETE FROM ledgers WHERE updated <= (SELECT max(updated) FROM ledgers) - ?"
            " AND (SELECT count(*) FROM ledgers) > ?",
            (_MAX_LEDGERS, _MAX_LEDGERS),
        ).rowcount
        if forgotten:
            _draw_boot(connection)
