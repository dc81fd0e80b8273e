"""Answers of the catalog: dictionaries as the query protocol sends them. Reads never scan: every order has its index."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ingestd.catalog.connection import CatalogConnection
from ingestd.catalog.cursors import decode_cursor, encode_cursor
from ingestd.catalog.database import decoded, trusting_rows
from ingestd.catalog.schema import NO_CHUNK, NO_COPY
from ingestd.errors import NotFound
from ingestd.formats.confirmation import EpochLedger
from ingestd.formats.measurement import Identity, object_keys
from ingestd.formats.timestamps import format_utc

__all__ = ["CatalogReader", "Registered"]

#: Rows in the lists of a session document (design 8).
_SESSION_ROWS = 1000

#: Filters of `measurements` that compare one column.
_FILTERS = {
    "task_id": "task_id = ?",
    "websdr_id": "websdr_id = ?",
    "node": "node = ?",
    # The second half names the partial index; the planner cannot know that the parameter implies it.
    "state": "state = ? AND state != 'stored'",
    "since": "timestamp_ns >= ?",
    "until": "timestamp_ns < ?",
    "min_frequency_hz": "frequency_hz >= ?",
    "max_frequency_hz": "frequency_hz <= ?",
    "min_snr_db": "snr_db >= ?",
}


class Registered(Protocol):
    """What is asked of a registered node."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def websdr_id(self) -> int | None:
        """Its receiver id."""
        ...


class CatalogReader(CatalogConnection):
    """The reading half of the catalog."""

    @trusting_rows
    def boot(self) -> str:
        """Current `boot`."""
        with self._read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
            return "" if row is None else str(row["value"])

    @trusting_rows
    def totals(self) -> dict[str, Any]:
        """Counters for the life of the state directory, those of `stats`; `rejected` by reason."""
        with self._read() as connection:
            counts = {row["key"]: row["value"] for row in connection.execute("SELECT key, value FROM totals")}
        names = (
            "received",
            "accepted",
            "stored",
            "duplicates",
            "superseded",
            "conflicts",
            "failed",
            "lost",
            "pending",
        )
        document: dict[str, Any] = {
            name: counts.get(name, 0) for name in (*names, "received_bytes", "stored_bytes")
        }
        document["rejected"] = {
            key.removeprefix("rejected:"): value
            for key, value in counts.items()
            if key.startswith("rejected:")
        }
        return document

    def pending_count(self) -> int:
        """Rows that wait to be stored."""
        return int(self.totals()["pending"])

    @trusting_rows
    def sessions(self, limit: int, cursor: str | None = None) -> dict[str, Any]:
        """Sessions, latest acceptance first.

        A session that gets a new frame while a client pages through moves to the front, where that client has been
        already; so after the last page come the sessions that moved since the first one.
        """
        with self._read() as connection:
            if cursor is None:
                newest = connection.execute("SELECT max(last_accepted_ns) FROM sessions").fetchone()[0] or 0
                place = [newest + 1, "", newest, 0]
            else:
                place = decode_cursor(cursor, "sessions", (int, str, int, int))
            rows, next_place = _session_page(connection, place, limit)
        return {
            "sessions": [_session_row(row) for row in rows],
            "next_cursor": None if next_place is None else encode_cursor("sessions", next_place),
        }

    @trusting_rows
    def session(self, task_id: str, now_ns: int, timeout_s: float) -> dict[str, Any]:
        """Result document of one session.

        Raises
        ------
        NotFound
            No frame of it was ever accepted.
        """
        with self._read() as connection:
            session = connection.execute("SELECT * FROM sessions WHERE task_id = ?", (task_id,)).fetchone()
            if session is None or not session["measurements_count"]:
                raise NotFound(f"no session {task_id}")
            n_receivers = connection.execute(
                "SELECT count(DISTINCT websdr_id) FROM entries WHERE task_id = ? AND copy = ? AND state = 'stored'",
                (task_id, NO_COPY),
            ).fetchone()[0]
            stored = _session_entries(connection, task_id, ("stored", "stored"))
            failed = _session_entries(connection, task_id, ("failed", "lost"))
        expected = session["expected"]
        missing = None if expected is None else max(0, expected - n_receivers)
        waited_s = (now_ns - session["last_accepted_ns"]) / 1e9
        status = _session_status(session, missing, waited_s, timeout_s)
        return {
            "task_id": task_id,
            "status": status,
            "message": _session_message(session, missing, status),
            "measurements_count": session["measurements_count"],
            "successful": session["stored"],
            "failed": session["failed"],
            "pending": session["pending"],
            "expected": expected,
            "missing": missing,
            "stored_measurements": [self._stored_row(row) for row in stored[:_SESSION_ROWS]],
            "failed_measurements": [_failed_row(row) for row in failed[:_SESSION_ROWS]],
            "truncated": len(stored) > _SESSION_ROWS or len(failed) > _SESSION_ROWS,
        }

    def _stored_row(self, row: sqlite3.Row) -> dict[str, Any]:
        return {
            "websdr_id": row["websdr_id"],
            "chunk": _chunk(row),
            "s3_path": self._s3_paths(row)[0],
            "samples_count": row["samples_count"],
            "status": "SUCCESS",
        }

    @trusting_rows
    def measurements(
        self, filters: Mapping[str, Any], limit: int, cursor: str | None = None
    ) -> dict[str, Any]:
        """Measurements that pass all filters, newest stamp first."""
        given = {name: value for name, value in filters.items() if value is not None}
        conditions = [_FILTERS[name] for name in given]
        values = list(given.values())
        if given.get("state") == "stored":
            conditions[list(given).index("state")] = "state = ?"
        if cursor is not None:
            conditions.append("(timestamp_ns, id) < (?, ?)")
            values += decode_cursor(cursor, "measurements", (int, int))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT * FROM entries{_index(given)}{where} ORDER BY timestamp_ns DESC, id DESC LIMIT ?",  # noqa: S608 - texts of ours
                (*values, limit + 1),
            ).fetchall()
        page = rows[:limit]
        more = len(rows) > limit
        return {
            "measurements": [self._measurement_row(row) for row in page],
            "next_cursor": encode_cursor("measurements", (page[-1]["timestamp_ns"], page[-1]["id"]))
            if more
            else None,
        }

    @trusting_rows
    def measurement(
        self, task_id: str, websdr_id: int, chunk: int | None = None, copy: str | None = None
    ) -> dict[str, Any]:
        """One row with the kept conflicts of its identity.

        Raises
        ------
        NotFound
            There is none.
        """
        place = (task_id, websdr_id, NO_CHUNK if chunk is None else chunk)
        with self._read() as connection:
            rows = connection.execute(
                "SELECT * FROM entries WHERE task_id = ? AND websdr_id = ? AND chunk = ? ORDER BY id LIMIT ?",
                (*place, _SESSION_ROWS),
            ).fetchall()
        chosen = [row for row in rows if row["copy"] == (copy or NO_COPY)]
        if not chosen:
            which = f"{task_id} websdr_{websdr_id}" + ("" if chunk is None else f" chunk {chunk}")
            raise NotFound(f"no measurement {which}" + ("" if copy is None else f" copy {copy}"))
        # What is stored tells more than what waits behind it with the same identity.
        best = min(chosen, key=lambda row: ("stored", "accepted", "failed", "lost").index(row["state"]))
        copies = sorted({row["copy"] for row in rows if row["copy"] != NO_COPY})
        return self._measurement_row(best) | {"copies": copies}

    def _measurement_row(self, row: sqlite3.Row) -> dict[str, Any]:
        iq_path, metadata_path = self._s3_paths(row)
        is_stored = row["state"] == "stored"
        document: dict[str, Any] = decoded(row["document"])
        return document | {
            "state": row["state"],
            "copy": row["copy"] or None,
            "entry": row["name"],
            "s3_path": iq_path if is_stored else None,
            "metadata_s3_path": metadata_path if is_stored else None,
            "etag": row["etag"],
            "accepted_at_ns": row["accepted_at_ns"],
            "stored_at_ns": row["stored_at_ns"],
            "reason": row["reason"],
            "error": row["error"],
        }

    def _s3_paths(self, row: sqlite3.Row) -> tuple[str, str]:
        keys = object_keys(Identity(row["task_id"], row["websdr_id"], _chunk(row)), row["copy"] or None)
        return f"s3://{self._bucket}/{keys.npy}", f"s3://{self._bucket}/{keys.metadata}"

    @trusting_rows
    def nodes(self, registered: Sequence[Registered] = ()) -> dict[str, Any]:
        """A row for every registered or seen node."""
        with self._read() as connection:
            seen = {
                row["node"]: dict(row)
                for row in connection.execute("SELECT * FROM nodes ORDER BY node LIMIT 10000")
            }
        # Frames without a node name were booked under the receiver id, unless the registry knew it.
        rows = [_node_row(seen.pop(node.name, _never_seen(node)), registered=True) for node in registered]
        rows += [_node_row(row, registered=False) for row in seen.values()]
        return {"nodes": rows}

    @trusting_rows
    def failed(self, limit: int, cursor: str | None = None) -> dict[str, Any]:
        """Entries in failed/, newest stamp first."""
        page = self.measurements({"state": "failed"}, limit, cursor)
        return {
            "failed": [_failed_entry(row) for row in page["measurements"]],
            "next_cursor": page["next_cursor"],
        }

    @trusting_rows
    def rejected(self, limit: int, cursor: str | None = None) -> dict[str, Any]:
        """Rejected frames, newest first."""
        before = 2**63 - 1 if cursor is None else decode_cursor(cursor, "rejected", (int,))[0]
        with self._read() as connection:
            rows = connection.execute(
                "SELECT * FROM rejected WHERE id < ? ORDER BY id DESC LIMIT ?", (before, limit + 1)
            ).fetchall()
        page = rows[:limit]
        return {
            "rejected": [
                {"at_utc": format_utc(row["at_ns"])}
                | {k: row[k] for k in row.keys() if k not in ("id", "at_ns")}  # noqa: SIM118 - sqlite3.Row iterates over values
                for row in page
            ],
            "next_cursor": encode_cursor("rejected", (page[-1]["id"],)) if len(rows) > limit else None,
        }

    @trusting_rows
    def confirm(self, node: str, epoch: int, start_id: int = 0) -> dict[str, Any]:
        """What of one start of one node is accepted and stored; zeros where it was not seen yet.

        Parameters
        ----------
        node, epoch
            Whose.
        start_id
            64 random bits of this start of the daemon. `boot` is new with each (the catalog may have lost what a power
            cut took), without a write, for which a full disk has no room; and whenever ledgers are lost.
        """
        with self._read() as connection:
            kept = connection.execute(
                "SELECT state FROM ledgers WHERE node = ? AND epoch = ?", (node, epoch)
            ).fetchone()
            ledger = EpochLedger(None if kept is None else decoded(kept["state"]))
            waiting = connection.execute(
                "SELECT min(seq) FROM entries WHERE node = ? AND epoch = ? AND state != 'stored'",
                (node, epoch),
            ).fetchone()[0]
            boot = connection.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()["value"]
        reply = ledger.reply()
        reply["stored_upto"] = ledger.upto if waiting is None else min(ledger.upto, waiting)
        return reply | {"boot": f"{int(boot, 16) ^ start_id:016x}"}


def _session_page(
    connection: sqlite3.Connection, place: Sequence[Any], limit: int
) -> tuple[list[sqlite3.Row], list[Any] | None]:
    """Rows of one page, and where the next one begins.

    A place is (last_accepted_ns, task_id, until_ns, half): half 0 goes down from the newest (`until_ns`: the newest at
    the first page), half 1 goes up through what moved since (`until_ns`: where it ends).
    """
    at_ns, task_id, until_ns, half = place
    rows: list[sqlite3.Row] = []
    if half == 0:
        rows = connection.execute(
            "SELECT * FROM sessions WHERE (last_accepted_ns, task_id) < (?, ?)"
            " ORDER BY last_accepted_ns DESC, task_id DESC LIMIT ?",
            (at_ns, task_id, limit + 1),
        ).fetchall()
        if len(rows) > limit:
            last = rows[limit - 1]
            return rows[:limit], [last["last_accepted_ns"], last["task_id"], until_ns, 0]
        # "~" sorts after every task_id. What moves from now on is not waited for: a client would page for ever while frames arrive.
        at_ns, task_id = until_ns, "~"
        until_ns = connection.execute("SELECT max(last_accepted_ns) FROM sessions").fetchone()[0] or 0
    room = limit - len(rows)
    moved = connection.execute(
        "SELECT * FROM sessions WHERE (last_accepted_ns, task_id) > (?, ?) AND last_accepted_ns <= ?"
        " ORDER BY last_accepted_ns, task_id LIMIT ?",
        (at_ns, task_id, until_ns, room + 1),
    ).fetchall()
    rows += moved[:room]
    if len(moved) <= room:
        return rows, None
    if room:
        at_ns, task_id = moved[room - 1]["last_accepted_ns"], moved[room - 1]["task_id"]
    return rows, [at_ns, task_id, until_ns, 1]


def _session_row(row: sqlite3.Row) -> dict[str, Any]:
    first_ns, frequency_hz = row["first_timestamp_ns"], row["frequency_hz"]
    return {
        "task_id": row["task_id"],
        "measurements_count": row["measurements_count"],
        "stored": row["stored"],
        "pending": row["pending"],
        "failed": row["failed"],
        "size_bytes": row["size_bytes"],
        "first_timestamp_utc": None if first_ns is None else format_utc(first_ns),
        "frequency_mhz": None if frequency_hz is None else frequency_hz / 1e6,
        "last_accepted_utc": format_utc(row["last_accepted_ns"]),
    }


def _session_entries(
    connection: sqlite3.Connection, task_id: str, states: tuple[str, str]
) -> list[sqlite3.Row]:
    return connection.execute(
        "SELECT task_id, websdr_id, chunk, copy, samples_count, state, reason, error FROM entries"
        " WHERE task_id = ? AND copy = ? AND state IN (?, ?)"
        " ORDER BY websdr_id, chunk LIMIT ?",
        (task_id, NO_COPY, *states, _SESSION_ROWS + 1),
    ).fetchall()


def _session_status(session: sqlite3.Row, missing: int | None, waited_s: float, timeout_s: float) -> str:
    """Status of a session: PENDING while anything may still come that was announced."""
    if session["pending"] or (missing and waited_s < timeout_s):
        return "PENDING"
    if not session["stored"]:
        return "FAILED"
    return "PARTIAL_FAILURE" if session["failed"] or missing else "SUCCESS"


def _session_message(session: sqlite3.Row, missing: int | None, status: str) -> str:
    parts = [f"{session['stored']} of {session['measurements_count']} measurements stored"]
    if session["pending"]:
        parts.append(f"{session['pending']} waiting")
    if session["failed"]:
        parts.append(f"{session['failed']} failed")
    if missing:
        parts.append(
            f"{missing} of {session['expected']} receivers {'awaited' if status == 'PENDING' else 'missing'}"
        )
    return ", ".join(parts)


def _failed_row(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "websdr_id": row["websdr_id"],
        "chunk": _chunk(row),
        "status": "LOST" if row["state"] == "lost" else "FAILED",
        "reason": row["reason"],
        "error": row["error"],
    }


def _failed_entry(row: dict[str, Any]) -> dict[str, Any]:
    names = ("entry", "task_id", "websdr_id", "chunk", "node", "timestamp_utc")
    accepted_utc = format_utc(row["accepted_at_ns"])
    return {name: row.get(name) for name in names} | {
        "accepted_at_utc": accepted_utc,
        "reason": row["reason"],
        "error": row["error"],
    }


def _chunk(row: sqlite3.Row) -> int | None:
    return None if row["chunk"] == NO_CHUNK else int(row["chunk"])


def _index(filters: Mapping[str, Any]) -> str:
    """Index that narrows most; without a word SQLite may take the one of the order and scan."""
    if "task_id" in filters:
        return " INDEXED BY entries_task"
    if filters.get("state", "stored") != "stored":
        # A partial index is only taken where the statement repeats its condition; the planner finds it by itself.
        return ""
    if "node" in filters:
        return " INDEXED BY entries_node"
    if "websdr_id" in filters:
        return " INDEXED BY entries_receiver"
    return " INDEXED BY entries_stamp"


def _never_seen(node: Registered) -> dict[str, Any]:
    return {
        "node": node.name, "websdr_id": node.websdr_id, "received": 0, "accepted": 0, "rejected": 0, "gaps": 0,
        "samples_lost": 0, "last_seen_ns": 0, "epoch": None, "seq": None, "lag_s": None, "snr_db": None,
    }  # fmt: skip


def _node_row(row: dict[str, Any], *, registered: bool) -> dict[str, Any]:
    last_ns = row["last_seen_ns"]
    names = (
        "received", "accepted", "rejected", "gaps", "samples_lost", "epoch", "seq", "snr_db", "lag_s", "websdr_id",
    )  # fmt: skip
    return {
        "node": row["node"],
        "last_seen_utc": format_utc(last_ns) if last_ns else None,
        **{name: row[name] for name in names},
        "registered": registered,
    }
