"""What must not confuse the catalog: late records, foreign documents, hostile names, pages at a full size."""

import base64
import json
import multiprocessing
import sqlite3
import statistics
import threading
import time
from types import SimpleNamespace

import pytest

from ingestd.catalog import (
    AcceptedBatch,
    AcceptedEntry,
    Catalog,
    FailedEntry,
    LedgerState,
    NodeSeen,
    Rejection,
    StoredEntry,
    create,
)
from ingestd.catalog import writer as writer_module
from ingestd.catalog.rebuild import RebuildReport, mark_lost, refill
from ingestd.errors import CatalogBusy, CatalogCorrupt, QueryError
from ingestd.formats import metadata
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.testing.frames import noise
from ingestd.testing.stores import MemoryStore

NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def path(tmp_path):
    made = str(tmp_path / "catalog.sqlite3")
    create(made)
    return made


@pytest.fixture
def catalog(path):
    with Catalog.open(path, bucket="b") as opened:
        yield opened


def name_of(number):
    return f"{NOW_NS + number:020d}-{number:08d}-{number:08x}.v1"


def accept(catalog, number, one):
    entry = AcceptedEntry(name_of(number), NOW_NS + number, 100, metadata.accepted_document(one))
    catalog.record_accepted(AcceptedBatch(entries=[entry]))


def store(catalog, number, one, stored_at_ns=None):
    pair, document = encode_pair(one, figures="none")
    at_ns = NOW_NS + number if stored_at_ns is None else stored_at_ns
    entry = StoredEntry(
        name_of(number), document, object_keys(one.identity), None, pair.content_crc, "e", at_ns, NOW_NS + number, 100
    )  # fmt: skip
    return catalog.record_stored([entry])


def fail(catalog, number, one=None):
    document = None if one is None else metadata.accepted_document(one)
    catalog.record_failed(FailedEntry(name_of(number), document, "poison", "died", NOW_NS, NOW_NS, 100))


def counted(catalog):
    totals = catalog.totals()
    ends = ("stored", "duplicates", "superseded", "failed", "lost", "pending")
    assert totals["accepted"] == sum(totals[end] for end in ends)
    return {end: totals[end] for end in ends if totals[end]}


class TestLateRecords:
    def test_a_name_in_the_store_has_one_row_whichever_record_comes_first(self, catalog):
        older, newer = noise("t", n_samples=2, seed=0), noise("t", n_samples=2, seed=1)
        store(catalog, 2, newer)
        store(catalog, 1, older)
        assert counted(catalog) == {"stored": 1, "superseded": 1}
        assert catalog.measurement("t", 1)["timestamp_ns"] == newer.timestamp_ns
        accept(catalog, 1, older)
        store(catalog, 1, older)
        assert counted(catalog) == {"stored": 1, "superseded": 1}

    def test_what_was_superseded_is_counted_once_however_often_it_is_told(self, catalog):
        for number, seed in ((1, 0), (2, 1), (1, 0), (2, 1)):
            accept(catalog, number, noise("t", n_samples=2, seed=seed))
            store(catalog, number, noise("t", n_samples=2, seed=seed))
        catalog.record_duplicate(name_of(1))
        assert counted(catalog) == {"stored": 1, "superseded": 1}

    def test_an_ended_entry_does_not_take_the_name_from_its_holder(self, catalog):
        store(catalog, 1, noise("t", n_samples=2))
        catalog.record_duplicate(name_of(2))
        assert store(catalog, 2, noise("t", n_samples=2, seed=1)) == [name_of(2)]
        assert counted(catalog) == {"stored": 1, "duplicates": 1}
        assert catalog.newest_stored_entry(Identity("t", 1, None)) == name_of(1)

    def test_an_unreadable_entry_gets_its_session_from_whoever_can_read_it(self, catalog):
        fail(catalog, 1)
        assert catalog.sessions(10)["sessions"] == []
        accept(catalog, 1, noise("t", n_samples=2))
        assert catalog.session("t", NOW_NS, 60)["failed"] == 1
        catalog.record_requeued(name_of(1))
        store(catalog, 1, noise("t", n_samples=2))
        (session,) = catalog.sessions(10)["sessions"]
        assert (session["task_id"], session["stored"], session["failed"]) == ("t", 1, 0)

    def test_an_unreadable_entry_that_was_stored_after_all_weighs_once(self, catalog):
        fail(catalog, 1)
        store(catalog, 1, noise("t", n_samples=2))
        (session,) = catalog.sessions(10)["sessions"]
        assert (session["measurements_count"], session["stored"], session["failed"]) == (1, 1, 0)


class TestNodes:
    def see(self, catalog, *nodes):
        catalog.record_accepted(AcceptedBatch(nodes=nodes))

    def test_made_up_names_do_not_fill_the_disk(self, catalog, monkeypatch):
        monkeypatch.setattr(writer_module, "_MAX_NODES", 100)
        for i in range(500):
            self.see(catalog, NodeSeen(f"made-up-{i}", 1, received=1, last_seen_ns=i))
            assert len(catalog.nodes()["nodes"]) <= 100
        assert "made-up-499" in {row["node"] for row in catalog.nodes()["nodes"]}

    def test_a_gap_that_closes_in_a_new_catalog_leaves_no_negative_count(self, catalog):
        self.see(catalog, NodeSeen("n", 1, gaps=-3))
        assert catalog.nodes()["nodes"][0]["gaps"] == 0
        self.see(catalog, NodeSeen("n", 1, gaps=5))
        self.see(catalog, NodeSeen("n", 1, gaps=-2))
        assert catalog.nodes()["nodes"][0]["gaps"] == 3

    @pytest.mark.parametrize(
        ("row", "node"), [("n", "n"), ("websdr:1", None), ("registered", "n"), ("registered", None)]
    )
    def test_the_newest_snr_is_shown_under_the_name_that_the_node_goes_by(self, catalog, row, node):
        self.see(catalog, NodeSeen(row, 1))
        store(catalog, 1, noise("t", n_samples=2, node=node, metrics={"snr_db": 12.5}))
        assert catalog.nodes()["nodes"][0]["snr_db"] == 12.5


class TestRefill:
    def put(self, store_, one, **changes):
        """A pair whose metadata says something else than it should."""
        pair, document = encode_pair(one, figures="none")
        encoded = json.dumps(document | changes).encode()
        body = Body((encoded,), crc32c(encoded))
        other = SimpleNamespace(
            identity=pair.identity,
            npy=pair.npy,
            metadata=body,
            content=pair.content,
            content_crc=pair.content_crc,
        )
        store_pair(store_, other, "keep_both")

    @pytest.mark.parametrize(
        "changes",
        [
            {"metrics": "text"},
            {"metrics": [1]},
            {"metrics": {"snr_db": "loud"}},
            {"metrics": {"snr_db": {}}},
            {"metrics": {"snr_db": 10**30}},
            {"node": 7},
            {"node": {}},
            {"epoch": 2**70},
            {"seq": "1"},
            {"expected": [2]},
            {"samples_count": 1.5},
            {"size_bytes": "many"},
            {"size_bytes": True},
            {"timestamp_ns": 2**63},
            {"timestamp_ns": "now"},
            {"frequency_hz": 10**400},
            {"frequency_hz": []},
            {"sample_rate_hz": float("inf")},
            {"task_id": "another"},
            {"websdr_id": True},
            {"chunk": 5},
            {"crc32c": "AAAA"},
            {"crc32c": 5},
            {"extras": "x" * 200_000},
        ],
        ids=lambda changes: str(changes)[:40],
    )
    def test_a_foreign_document_is_counted_and_the_rest_is_found(self, catalog, changes):
        bucket = MemoryStore()
        self.put(bucket, noise("a", 1, n_samples=2), **changes)
        self.put(bucket, noise("b", 1, n_samples=2))
        report = refill(catalog, bucket, RebuildReport())
        assert (report.unreadable, report.stored) == (1, 1)
        assert [row["task_id"] for row in catalog.measurements({}, 10)["measurements"]] == ["b"]
        assert len(catalog.sessions(10)["sessions"]) == 1

    def test_the_etag_of_a_row_is_that_of_the_npy(self, catalog):
        bucket = MemoryStore()
        self.put(bucket, noise("a", 1, n_samples=2))
        refill(catalog, bucket, RebuildReport())
        row = catalog.measurement("a", 1)
        assert row["etag"] == bucket.head("sessions/a/websdr_1.npy").etag
        assert row["etag"] != bucket.head("sessions/a/websdr_1_metadata.json").etag

    def test_filling_twice_changes_nothing(self, catalog):
        bucket = MemoryStore()
        for seed in range(3):
            self.put(bucket, noise("a", 1, n_samples=2, seed=seed))
        refill(catalog, bucket, RebuildReport())
        before = catalog.measurements({}, 10), catalog.totals()
        assert len(before[0]["measurements"]) == 3
        refill(catalog, bucket, RebuildReport())
        assert (catalog.measurements({}, 10), catalog.totals()) == before

    def test_metadata_without_its_npy_does_not_save_a_row_from_being_lost(self, catalog):
        bucket = MemoryStore()
        one = noise("a", 1, n_samples=2)
        self.put(bucket, one)
        bucket.delete("sessions/a/websdr_1.npy")
        accept(catalog, 1, one)
        assert mark_lost(catalog, bucket, lambda _name: False, NOW_NS + 10) == [name_of(1)]


class TestCursors:
    @pytest.mark.parametrize(
        "values", [[1, "\ud800", 1, 0], [1, "é", 1, 0], [2**63, "", 1, 0], [True, "", 1, 0]]
    )
    def test_a_forged_one_with_what_sqlite_cannot_take_is_an_invalid_argument(self, catalog, values):
        forged = base64.urlsafe_b64encode(json.dumps(["sessions", *values]).encode()).decode()
        with pytest.raises(QueryError, match="invalid_argument"):
            catalog.sessions(10, forged)

    @pytest.mark.parametrize("listing", ["rejected", "failed"])
    def test_rejected_and_failed_hold_while_rows_are_added(self, catalog, listing):
        def add(number):
            if listing == "failed":
                fail(catalog, number, noise("t", number, n_samples=2, seed=number))
            else:
                rejection = Rejection(NOW_NS + number, "", None, None, number, "range", "gain_db", "1", None)
                catalog.record_accepted(AcceptedBatch(rejections=[rejection]))

        for number in range(1, 20):
            add(number)
        seen, cursor = [], None
        for page_number in range(100):
            page = getattr(catalog, listing)(3, cursor)
            seen += [row["seq"] if listing == "rejected" else row["websdr_id"] for row in page[listing]]
            add(100 + page_number)
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == list(range(19, 0, -1))


def _write(path, first, count):
    with Catalog.open(path, busy_timeout_s=20.0) as catalog:
        for number in range(first, first + count):
            accept(catalog, number, noise(f"t{number}", n_samples=2))
            store(catalog, number, noise(f"t{number}", n_samples=2))


def test_two_processes_that_write_at_once_lose_nothing(path, catalog):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, 1000 * i, 40)) for i in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    assert counted(catalog) == {"stored": 80}
    assert len(catalog.sessions(100)["sessions"]) == 80


def test_an_interrupted_query_is_busy_and_the_next_one_works(catalog):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    interrupter = threading.Timer(0.1, catalog.interrupt)
    interrupter.start()
    with pytest.raises(CatalogBusy), catalog._read() as connection:
        connection.execute(endless).fetchone()
    interrupter.join(10)
    assert catalog.totals()["accepted"] == 0


class TestDamage:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE entries SET document = x'ff'",
            "UPDATE entries SET document = '{\"a\":'",
            "UPDATE entries SET document = '[]'",
            "UPDATE entries SET websdr_id = 'x', accepted_at_ns = 'never', chunk = 'y'",
            "UPDATE sessions SET last_accepted_ns = 'never'",
            "UPDATE sessions SET first_timestamp_ns = 'never', frequency_hz = 'x'",
            "UPDATE ledgers SET state = '{\"settled\": 5}'",
            "UPDATE ledgers SET state = '[1]'",
            "DELETE FROM meta",
            "ALTER TABLE entries RENAME COLUMN reason TO because",
            "DROP TABLE totals",
            "UPDATE nodes SET last_seen_ns = 'x'",
        ],
    )
    def test_rows_that_nobody_wrote_are_answered_or_corrupt_and_nothing_else(self, path, statement):
        with Catalog.open(path) as catalog:
            accept(catalog, 1, noise("t", n_samples=2, node="n", epoch=1, seq=0))
            fail(catalog, 2, noise("t", 2, n_samples=2))
            catalog.record_accepted(
                AcceptedBatch(nodes=[NodeSeen("n", 1)], ledgers=[LedgerState("n", 1, {"upto": 1})])
            )
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
        connection.close()
        questions = {
            "sessions": lambda c: c.sessions(10),
            "session": lambda c: c.session("t", NOW_NS, 60),
            "measurements": lambda c: c.measurements({}, 10),
            "failed": lambda c: c.failed(10),
            "nodes": lambda c: c.nodes(),
            "confirm": lambda c: c.confirm("n", 1),
            "ledger": lambda c: c.ledger("n", 1),
            "totals": lambda c: c.totals(),
            "boot": lambda c: c.boot(),
        }
        n_corrupt = 0
        for question in questions.values():
            with Catalog.open(path) as catalog:
                try:
                    json.dumps(question(catalog))
                except CatalogCorrupt:
                    n_corrupt += 1
        assert n_corrupt < len(questions)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """200,000 stored rows of 40 receivers in 5,000 sessions, written as SQL."""
    path = str(tmp_path_factory.mktemp("large") / "c.sqlite3")
    create(path)
    with Catalog.open(path, bucket="b") as catalog:
        one = noise("t0", n_samples=2, metrics={"snr_db": 1.0}, node="n0", epoch=1, seq=0)
        store(catalog, 0, one)
    connection = sqlite3.connect(path)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(entries)")]
    changed = {
        "id": "i", "name": "printf('%020d', i)", "task_id": "'t' || (i / 40)", "websdr_id": "i % 40",
        "timestamp_ns": f"{NOW_NS} + i", "frequency_hz": "1e6 * (1 + i % 30)", "snr_db": "i % 50", "seq": "i",
        "node": "'n' || (i % 40)", "chunk": "-1", "accepted_at_ns": f"{NOW_NS} + i",
    }  # fmt: skip
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
        f" INSERT INTO entries ({', '.join(columns)})"
        f" SELECT {', '.join(changed.get(column, column) for column in columns)} FROM n, entries WHERE entries.id = 1"
    )
    connection.execute(
        "INSERT OR REPLACE INTO sessions SELECT task_id, count(*), count(*), 0, 0, 0, NULL, min(timestamp_ns), 1e6,"
        " max(accepted_at_ns) FROM entries GROUP BY task_id"
    )
    connection.commit()
    connection.close()
    with Catalog.open(path, bucket="b") as catalog:
        yield catalog


PAGES = {
    "newest": lambda c: c.measurements({}, 100),
    "of a session": lambda c: c.measurements({"task_id": "t2500"}, 100),
    "of a receiver": lambda c: c.measurements({"websdr_id": 7}, 100),
    "of a node": lambda c: c.measurements({"node": "n7"}, 100),
    "stored": lambda c: c.measurements({"state": "stored"}, 100),
    "failed, where there is none": lambda c: c.measurements({"state": "failed"}, 100),
    "of a time": lambda c: c.measurements({"since": NOW_NS + 5000, "until": NOW_NS + 5100}, 100),
    "above an SNR": lambda c: c.measurements({"min_snr_db": 40}, 100),
    "in a band": lambda c: c.measurements({"min_frequency_hz": 2e6, "max_frequency_hz": 3e6}, 100),
    "of an unknown receiver": lambda c: c.measurements({"websdr_id": 9999}, 100),
    "sessions": lambda c: c.sessions(100),
    "one session": lambda c: c.session("t2500", NOW_NS, 60),
    "one measurement": lambda c: c.measurement("t2500", 0),
    "confirm": lambda c: c.confirm("n7", 1),
    "totals": lambda c: c.totals(),
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.quiet
def test_a_page_of_two_hundred_thousand_rows_takes_less_than_20_ms(large, name):
    PAGES[name](large)
    took_s = []
    for _ in range(9):
        began_s = time.perf_counter()
        PAGES[name](large)
        took_s.append(time.perf_counter() - began_s)
    assert statistics.median(took_s) < 0.020


@pytest.mark.quiet
def test_a_page_in_the_middle_is_as_quick_as_the_first(large):
    cursor = None
    took_s = []
    for _ in range(20):
        began_s = time.perf_counter()
        cursor = large.measurements({}, 1000, cursor)["next_cursor"]
        took_s.append(time.perf_counter() - began_s)
    assert statistics.median(took_s[10:]) < 2 * statistics.median(took_s[:10]) + 0.005
