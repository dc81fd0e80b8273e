"""Tables and indexes. Every listing query has an index in its order, so that a page never scans."""

from __future__ import annotations

__all__ = ["NO_CHUNK", "NO_COPY", "NO_STAMP_NS", "SCHEMA", "VERSION"]

#: Of this layout; a file of another version is set aside and rebuilt.
VERSION = 1

#: Stand for null in columns that are compared and indexed.
NO_CHUNK = -1
NO_COPY = ""
NO_STAMP_NS = -(2**63)

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('accepted', 'stored', 'failed', 'lost')),
    task_id TEXT NOT NULL,
    websdr_id INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    copy TEXT NOT NULL,
    content_crc INTEGER,
    timestamp_ns INTEGER NOT NULL,
    frequency_hz REAL,
    snr_db REAL,
    node TEXT,
    epoch INTEGER,
    seq INTEGER,
    expected INTEGER,
    samples_count INTEGER,
    size_bytes INTEGER,
    frame_bytes INTEGER NOT NULL,
    etag TEXT,
    accepted_at_ns INTEGER NOT NULL,
    stored_at_ns INTEGER,
    reason TEXT,
    error TEXT,
    document TEXT NOT NULL
);
-- Frequency and SNR ride along: a filter that few rows pass walks this index without touching the rows.
CREATE INDEX entries_stamp ON entries (timestamp_ns, id, frequency_hz, snr_db);
CREATE INDEX entries_task ON entries (task_id, timestamp_ns, id);
CREATE INDEX entries_receiver ON entries (websdr_id, timestamp_ns, id);
CREATE INDEX entries_node ON entries (node, timestamp_ns, id) WHERE node IS NOT NULL;
CREATE INDEX entries_state ON entries (state, timestamp_ns, id) WHERE state != 'stored';
CREATE INDEX entries_identity ON entries (task_id, websdr_id, chunk, copy);
CREATE INDEX entries_seq ON entries (node, epoch, seq) WHERE epoch IS NOT NULL;
CREATE INDEX entries_waiting ON entries (node, epoch, seq) WHERE epoch IS NOT NULL AND state != 'stored';
CREATE INDEX entries_pending ON entries (name) WHERE state = 'accepted';

CREATE TABLE sessions (
    task_id TEXT PRIMARY KEY,
    measurements_count INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    expected INTEGER,
    first_timestamp_ns INTEGER,
    frequency_hz REAL,
    last_accepted_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_latest ON sessions (last_accepted_ns, task_id);

CREATE TABLE ledgers (
    node TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (node, epoch)
) WITHOUT ROWID;
CREATE INDEX ledgers_updated ON ledgers (updated);

CREATE TABLE nodes (
    node TEXT PRIMARY KEY,
    websdr_id INTEGER,
    received INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    gaps INTEGER NOT NULL DEFAULT 0,
    samples_lost INTEGER NOT NULL DEFAULT 0,
    last_seen_ns INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER,
    seq INTEGER,
    lag_s REAL,
    snr_db REAL
) WITHOUT ROWID;

CREATE TABLE rejected (
    id INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    peer TEXT NOT NULL,
    node TEXT,
    epoch INTEGER,
    seq INTEGER,
    reason TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    sample TEXT
);

-- Entries that ended without objects of their own: they are counted, have no row, and get none any more.
CREATE TABLE ended (name TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX ended_id ON ended (id);

CREATE TABLE totals (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
