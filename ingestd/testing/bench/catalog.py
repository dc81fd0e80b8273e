"""A catalog of a million measurements, and how long a real responder takes to answer from it."""

from __future__ import annotations

import os
import time
from typing import Any

from ingestd import catalog
from ingestd.catalog import Catalog, StoredEntry
from ingestd.errors import IngestdError
from ingestd.formats.measurement import content_crc, object_keys
from ingestd.roles.book import catalog_path
from ingestd.storage.encoding import encode_pair
from ingestd.testing.bench.disk import nobody
from ingestd.testing.bench.runs import Values
from ingestd.testing.bench.statistics import quantile
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise

__all__ = ["CatalogBench", "fill"]

#: Rows [count] and receivers of a session.
N_ROWS, _RECEIVERS = 1_000_000, 7

#: Rows of one transaction: its log stays small.
_BATCH = 50_000

#: Questions of each kind in a run [count].
_N_ASKED = 300

#: What differs from row to row; everything else is as the writer wrote the first one.
_VARIED = {
    "id": "NULL",
    "name": "printf('%020d-%08d-%08x.v1', t.accepted_at_ns + n.i * 1000000, n.i % 100000000, n.i)",
    "task_id": "printf('million-%08d', n.i / 7)",
    "websdr_id": "n.i % 7 + 1",
    "content_crc": "n.i",
    "timestamp_ns": "t.timestamp_ns + n.i / 7 * 1000000000",
    "frequency_hz": "t.frequency_hz + n.i / 7 % 100 * 1000",
    "snr_db": "(n.i * 7919) % 4000 / 100.0",
    "seq": "n.i / 7",
    "accepted_at_ns": "t.accepted_at_ns + n.i * 1000000",
    "stored_at_ns": "t.stored_at_ns + n.i * 1000000",
    "document": "json_set(t.document, '$.task_id', printf('million-%08d', n.i / 7), '$.websdr_id', n.i % 7 + 1,"
    " '$.timestamp_ns', t.timestamp_ns + n.i / 7 * 1000000000)",
}

_SESSIONS = """
INSERT OR REPLACE INTO sessions
SELECT task_id, count(*), count(*), 0, 0, sum(size_bytes), max(expected), min(timestamp_ns), min(frequency_hz),
       max(accepted_at_ns)
FROM entries GROUP BY task_id
"""


def fill(path: str, n_rows: int = N_ROWS) -> None:
    """Make a catalog: the first row by the real writer, the others by SQL after its pattern."""
    catalog.create(path)
    with Catalog.open(path, bucket="heimdall-raw-iq", busy_timeout_s=10.0) as opened:
        opened.record_stored([_first()])
        for first in range(1, n_rows, _BATCH):
            with opened._write() as connection:  # noqa: SLF001 - a million calls of the writer take minutes
                names = [
                    row[0] for row in connection.execute("SELECT name FROM pragma_table_info('entries')")
                ]
                values = ", ".join(_VARIED.get(name, f"t.{name}") for name in names)
                connection.execute(
                    f"WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)"  # noqa: S608 - our own columns
                    f" INSERT INTO entries ({', '.join(names)}) SELECT {values} FROM n,"
                    " (SELECT * FROM entries WHERE id = 1) t",
                    (first, min(n_rows, first + _BATCH)),
                )
        with opened._write() as connection:  # noqa: SLF001 - the same
            connection.execute(_SESSIONS)
            connection.execute("UPDATE totals SET value = ? WHERE key IN ('accepted', 'stored')", (n_rows,))


def _first() -> StoredEntry:
    metrics = {"snr_db": 12.0, "frequency_offset_hz": 0.5, "power_dbm": -70.0}
    measurement = noise(
        "million-00000000",
        1,
        n_samples=100,
        node="node-1",
        epoch=1,
        seq=0,
        metrics=metrics,
        expected=_RECEIVERS,
    )
    pair, document = encode_pair(measurement)
    now_ns = time.time_ns()
    return StoredEntry(
        name=f"{now_ns:020d}-{0:08d}-{0:08x}.v1",
        document=document,
        keys=object_keys(measurement.identity),
        copy=None,
        content_crc=content_crc(pair.npy.crc32c, *pair.content),
        etag="d41d8cd98f00b204e9800998ecf8427e",
        stored_at_ns=now_ns,
        accepted_at_ns=now_ns,
        frame_bytes=1200,
    )


class CatalogBench:
    """The catalog, made at the first question and kept for all rounds.

    Parameters
    ----------
    directory
        Its own; made when needed.
    n_rows
        Of the catalog.
    """

    def __init__(self, directory: str, n_rows: int = N_ROWS) -> None:
        self._directory, self._n_rows = directory, n_rows

    def ask(self) -> Values:
        """Ask a real daemon; p50 and p99 of each kind [ms], and the largest of the p99."""
        daemon = DaemonProcess(self._directory, None, nobody())
        path = catalog_path(daemon.state_directory)
        if not os.path.exists(path):
            os.makedirs(daemon.state_directory, exist_ok=True)
            fill(path, self._n_rows)
        values: Values = {}
        with daemon, daemon.client() as client:
            for kind in ("session", "measurements", "sessions"):
                took_ms = []
                for number in range(_N_ASKED):
                    args = self._args(kind, number)
                    began_s = time.perf_counter()
                    answer = client.query(kind, **args)
                    took_ms.append((time.perf_counter() - began_s) * 1e3)
                    if kind == "session" and answer["successful"] != _RECEIVERS:
                        raise IngestdError(
                            f"{args} has {answer['successful']} measurements, not {_RECEIVERS}"
                        )
                took_ms.sort()
                values[f"{kind}_p50_ms"] = quantile(took_ms, 0.5)
                values[f"{kind}_p99_ms"] = quantile(took_ms, 0.99)
        values["p99_ms"] = max(value for name, value in values.items() if name.endswith("_p99_ms"))
        return values

    def _args(self, kind: str, number: int) -> dict[str, Any]:
        """Another question of its kind each time, all over the catalog."""
        session = number * 7919 % (self._n_rows // _RECEIVERS)
        if kind == "session":
            return {"task_id": f"million-{session:08d}"}
        if kind == "sessions":
            return {"limit": 50}
        since_ns = noise("x", n_samples=1).timestamp_ns or 0
        filters: dict[str, Any] = {"since": since_ns + session * 10**9, "min_snr_db": 20.0, "limit": 50}
        return filters | ({"node": "node-1"} if number % 2 else {"min_frequency_hz": 100_000.0})
