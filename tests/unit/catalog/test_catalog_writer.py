"""What the catalog records: the books balance whatever comes first, and states only move forward."""

import contextlib
import sqlite3
import threading
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
)  # fmt: skip
from ingestd.errors import CatalogBusy
from ingestd.formats import metadata
from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.testing.frames import noise

NOW_NS = 1_790_000_000 * 10**9


def name_of(number):
    return f"{NOW_NS + number:020d}-{number:08d}-{number:08x}.v1"


def accepted(number, measurement):
    return AcceptedEntry(name_of(number), NOW_NS + number, 100, metadata.accepted_document(measurement))


def stored(number, measurement, copy=None):
    pair, document = encode_pair(measurement, figures="none")
    copy_digits = f"{pair.content_crc:08x}" if copy else None
    return StoredEntry(
        name_of(number), document, object_keys(measurement.identity, copy_digits), copy_digits, pair.content_crc, "etag",
        NOW_NS + number + 5, NOW_NS + number, 100,
    )  # fmt: skip


def failed(number, measurement):
    document = None if measurement is None else metadata.accepted_document(measurement)
    return FailedEntry(name_of(number), document, "conflict", "other content", NOW_NS, NOW_NS + number, 100)


def accept(catalog, number, measurement):
    catalog.record_accepted(AcceptedBatch(entries=[accepted(number, measurement)]))


def balance(totals):
    ends = ("stored", "duplicates", "superseded", "failed", "lost", "pending")
    return totals["accepted"] == sum(totals[end] for end in ends)


@pytest.fixture
def catalog(tmp_path):
    path = str(tmp_path / "catalog.sqlite3")
    assert create(path)
    with Catalog.open(path, bucket="heimdall-raw-iq") as opened:
        yield opened


class TestOrder:
    def test_stored_may_come_before_accepted(self, catalog):
        one = noise("t")
        catalog.record_stored([stored(1, one)])
        accept(catalog, 1, one)
        assert catalog.measurement("t", 1)["state"] == "stored"
        totals = catalog.totals()
        assert (totals["accepted"], totals["stored"], totals["pending"]) == (1, 1, 0)

    def test_a_duplicate_that_ends_before_it_is_recorded_is_counted_once(self, catalog):
        accept(catalog, 1, noise("t"))
        catalog.record_stored([stored(1, noise("t"))])
        catalog.record_duplicate(name_of(2))
        accept(catalog, 2, noise("t"))
        catalog.record_duplicate(name_of(2))
        totals = catalog.totals()
        assert (totals["accepted"], totals["stored"], totals["duplicates"]) == (2, 1, 1)
        assert len(catalog.measurements({}, 10)["measurements"]) == 1

    def test_two_equal_frames_recorded_as_stored_are_one_and_a_duplicate(self, catalog):
        assert catalog.record_stored([stored(1, noise("t"))]) == []
        assert catalog.record_stored([replace(stored(2, noise("t")), counters={"stored_bytes": 9})]) == [
            name_of(2)
        ]
        totals = catalog.totals()
        assert (totals["stored"], totals["duplicates"], totals["stored_bytes"]) == (1, 1, 0)
        assert balance(totals)

    def test_stored_is_the_end_whatever_is_said_later(self, catalog):
        catalog.record_stored([stored(1, noise("t"))])
        catalog.record_failed(failed(1, noise("t")))
        catalog.record_lost([name_of(1)])
        catalog.record_requeued(name_of(1))
        assert catalog.measurement("t", 1)["state"] == "stored"

    def test_requeue_is_the_only_way_back(self, catalog):
        accept(catalog, 1, noise("t"))
        catalog.record_failed(failed(1, None))
        accept(catalog, 1, noise("t"))
        assert catalog.measurement("t", 1)["state"] == "failed"
        assert catalog.failed(10)["failed"][0]["reason"] == "conflict"
        catalog.record_requeued(name_of(1))
        assert catalog.measurement("t", 1)["state"] == "accepted"
        catalog.record_stored([stored(1, noise("t"))])
        assert catalog.totals()["stored"] == 1
        assert balance(catalog.totals())

    def test_an_entry_that_cannot_be_read_has_a_place_too(self, catalog):
        catalog.record_failed(failed(1, None))
        assert catalog.totals()["failed"] == 1
        assert catalog.failed(10)["failed"][0]["entry"] == name_of(1)
        assert balance(catalog.totals())

    def test_overwriting_supersedes_the_older_row(self, catalog):
        catalog.record_stored([stored(1, noise("t", seed=1))])
        catalog.record_stored([stored(2, noise("t", seed=2))])
        totals = catalog.totals()
        assert (totals["stored"], totals["superseded"]) == (1, 1)
        assert balance(totals)
        assert catalog.newest_stored_entry(Identity("t", 1, None)) == name_of(2)


class Books(RuleBasedStateMachine):
    """Records in any order and any number of times; sessions must equal a recount of the rows."""

    numbers = st.integers(0, 5)

    @initialize()
    def make(self):
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        path = f"{self.directory.name}/catalog.sqlite3"
        create(path)
        self.catalog = Catalog.open(path, bucket="b")

    @staticmethod
    def measurement(number):
        # Entries 0 and 1 are the same frame; 2 has other content under the same identity.
        identities = {
            0: ("s", 1, 0),
            1: ("s", 1, 0),
            2: ("s", 1, 1),
            3: ("s", 2, 0),
            4: ("r", 1, 0),
            5: ("r", 2, 0),
        }
        task_id, websdr_id, seed = identities[number]
        return noise(task_id, websdr_id, seed=seed, n_samples=4, expected=2 if number > 2 else None)

    @rule(number=numbers)
    def accept(self, number):
        accept(self.catalog, number, self.measurement(number))

    @rule(number=numbers)
    def store(self, number):
        self.catalog.record_stored([stored(number, self.measurement(number), copy=number == 2)])

    @rule(number=numbers)
    def overwrite(self, number):
        self.catalog.record_stored([stored(number, self.measurement(number))])

    @rule(number=numbers, counter=st.sampled_from(["duplicates", "superseded"]))
    def end(self, number, counter):
        self.catalog.record_duplicate(name_of(number), counter)

    @rule(number=numbers)
    def fail(self, number):
        self.catalog.record_failed(failed(number, self.measurement(number)))

    @rule(number=numbers)
    def requeue(self, number):
        self.catalog.record_requeued(name_of(number))

    @rule(number=numbers)
    def lose(self, number):
        self.catalog.record_lost([name_of(number)])

    @invariant()
    def books_balance_and_sessions_equal_a_recount(self):
        if not hasattr(self, "catalog"):
            return
        totals = self.catalog.totals()
        assert balance(totals)
        assert all(value >= 0 for key, value in totals.items() if isinstance(value, int))
        rows = self.catalog.measurements({}, 100)["measurements"]
        states = Counter(row["state"] for row in rows)
        assert (states["stored"], states["failed"], states["lost"], states["accepted"]) == (
            totals["stored"], totals["failed"], totals["lost"], totals["pending"],
        )  # fmt: skip
        for session in self.catalog.sessions(100)["sessions"]:
            own = [r for r in rows if r["task_id"] == session["task_id"] and r["copy"] is None]
            counted = Counter(row["state"] for row in own)
            assert session["measurements_count"] == len(own)
            assert session["stored"] == counted["stored"]
            assert session["pending"] == counted["accepted"]
            assert session["failed"] == counted["failed"] + counted["lost"]
            assert session["size_bytes"] == sum(r["size_bytes"] for r in own if r["state"] == "stored")

    def teardown(self):
        if hasattr(self, "catalog"):
            self.catalog.close()
            self.directory.cleanup()


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBooks = Books.TestCase


class TestConcurrency:
    def test_four_writers_at_once_lose_nothing(self, tmp_path):
        path = str(tmp_path / "c.sqlite3")
        create(path)
        troubles = []

        def write(first):
            try:
                with Catalog.open(path, busy_timeout_s=10.0) as own:
                    for i in range(first, first + 50):
                        accept(own, i, noise(f"t{i}", n_samples=2))
                        own.record_stored([stored(i, noise(f"t{i}", n_samples=2))])
            except Exception as error:
                troubles.append(error)

        threads = [threading.Thread(target=write, args=(1000 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not troubles
        with Catalog.open(path) as opened:
            assert opened.totals()["stored"] == 200
            assert opened.totals()["pending"] == 0

    def test_a_busy_catalog_is_given_up_after_a_moment(self, catalog, tmp_path):
        import sqlite3

        blocker = sqlite3.connect(tmp_path / "catalog.sqlite3", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(CatalogBusy):
                accept(catalog, 1, noise("t"))
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
        accept(catalog, 1, noise("t"))
        assert catalog.totals()["accepted"] == 1


class TestNodesAndRejections:
    def test_nodes_add_up_and_registered_ones_are_listed_unseen(self, catalog):
        for lag_s in (1.0, 2.0):
            catalog.record_accepted(
                AcceptedBatch(
                    nodes=[
                        NodeSeen(
                            "n",
                            3,
                            received=2,
                            accepted=1,
                            rejected=1,
                            gaps=1,
                            last_seen_ns=NOW_NS,
                            lag_s=lag_s,
                        )
                    ]
                )
            )
        registered = [type("Node", (), {"name": "silent", "websdr_id": 9})()]
        rows = {row["node"]: row for row in catalog.nodes(registered)["nodes"]}
        assert rows["silent"]["last_seen_utc"] is None
        assert (rows["n"]["received"], rows["n"]["gaps"], rows["n"]["lag_s"], rows["n"]["websdr_id"]) == (
            4,
            2,
            2.0,
            3,
        )

    def test_only_the_newest_thousand_rejections_are_kept(self, catalog):
        rejections = [
            Rejection(NOW_NS + i, "p", None, None, None, "type", "f", str(i), None) for i in range(1500)
        ]
        catalog.record_accepted(AcceptedBatch(rejections=rejections[:700]))
        catalog.record_accepted(AcceptedBatch(rejections=rejections[700:]))
        values, cursor = [], None
        while True:
            page = catalog.rejected(300, cursor)
            values += [row["value"] for row in page["rejected"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert values == [str(i) for i in range(1499, 499, -1)]

    def test_a_forgotten_ledger_brings_a_new_boot(self, catalog, monkeypatch):
        from ingestd.catalog import writer

        monkeypatch.setattr(writer, "_MAX_LEDGERS", 3)
        boot = catalog.boot()
        for epoch in range(3):
            catalog.record_accepted(AcceptedBatch(ledgers=[LedgerState("n", epoch, {"upto": 5})]))
        assert catalog.boot() == boot
        assert catalog.confirm("n", 0)["accepted_upto"] == 5
        catalog.record_accepted(AcceptedBatch(ledgers=[LedgerState("n", 3, {"upto": 5})]))
        assert catalog.boot() != boot
        assert catalog.confirm("n", 0)["accepted_upto"] == 0
        assert catalog.confirm("n", 3)["accepted_upto"] == 5


class TestBatches:
    """What a batch changes in sessions and nodes is the same as one entry after the other."""

    RECEIVERS = (
        {
            "websdr_id": 1,
            "node": "a",
            "expected": None,
            "timestamp_ns": NOW_NS + 7,
            "metrics": {"snr_db": 1.0},
        },
        {"websdr_id": 2, "node": "b", "expected": 9, "timestamp_ns": NOW_NS + 3, "metrics": {"snr_db": 2.0}},
        {"websdr_id": 3, "node": "c", "expected": 4, "timestamp_ns": NOW_NS + 5, "metrics": {}},
        {"websdr_id": 4, "node": "a", "expected": 4, "timestamp_ns": NOW_NS + 9, "metrics": {"snr_db": 3.0}},
    )
    NODES = (NodeSeen("a", 1), NodeSeen("b", 2), NodeSeen("c", 3))

    def tables(self, path, size):
        assert create(path)
        measurements = [replace(noise(task), **given) for task in ("s", "t") for given in self.RECEIVERS]
        numbers = range(len(measurements))
        with Catalog.open(path, bucket="b") as opened:
            opened.record_accepted(AcceptedBatch(nodes=self.NODES))
            opened.record_duplicate(name_of(6))
            for write, made in (
                (lambda batch: opened.record_accepted(AcceptedBatch(entries=batch)), accepted),
                (opened.record_stored, stored),
            ):
                batch = [made(number, measurements[number]) for number in numbers]
                for start in range(0, len(batch), size):
                    write(batch[start : start + size])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return {
                name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall())
                for name in ("sessions", "nodes", "totals", "ended")
            }

    def test_of_any_size_leave_the_same_books(self, tmp_path):
        one_by_one = self.tables(str(tmp_path / "one"), 1)
        assert [row[:4] for row in one_by_one["sessions"]] == [("s", 4, 4, 0), ("t", 3, 3, 0)]
        for size in (2, 3, 8):
            assert self.tables(str(tmp_path / str(size)), size) == one_by_one

    def test_of_two_names_of_one_receiver_the_last_figure_is_shown(self, tmp_path):
        path = str(tmp_path / "catalog")
        assert create(path)
        entries = [
            stored(i, replace(noise(f"t{i}"), websdr_id=5, node=node, metrics={"snr_db": float(i)}))
            for i, node in enumerate(("old", "new", "old"))
        ]
        with Catalog.open(path, bucket="b") as opened:
            opened.record_accepted(AcceptedBatch(nodes=[NodeSeen("registered", 5)]))
            opened.record_stored(entries)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT snr_db FROM nodes").fetchall() == [(2.0,)]
