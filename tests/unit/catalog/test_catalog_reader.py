"""Answers of the catalog: statuses, filters, cursors that hold while frames arrive, and an index for every order."""

import sqlite3
import statistics
import time

import pytest

from ingestd.catalog import (
    AcceptedBatch,
    AcceptedEntry,
    Catalog,
    FailedEntry,
    LedgerState,
    StoredEntry,
    create,
)
from ingestd.errors import NotFound, QueryError
from ingestd.formats import metadata
from ingestd.formats.confirmation import EpochLedger
from ingestd.formats.measurement import object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.testing.frames import T0_NS, noise

NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def catalog(tmp_path):
    path = str(tmp_path / "catalog.sqlite3")
    create(path)
    with Catalog.open(path, bucket="heimdall-raw-iq") as opened:
        yield opened


def name_of(number):
    return f"{NOW_NS + number:020d}-{number:08d}-00000000.v1"


def accept(catalog, number, measurement, at_ns=None):
    document = metadata.accepted_document(measurement)
    entry = AcceptedEntry(name_of(number), NOW_NS + number if at_ns is None else at_ns, 100, document)
    catalog.record_accepted(AcceptedBatch(entries=[entry]))


def store(catalog, number, measurement, *, copy=False, at_ns=None):
    pair, document = encode_pair(measurement, figures="none")
    digits = f"{pair.content_crc:08x}" if copy else None
    accepted_ns = NOW_NS + number if at_ns is None else at_ns
    catalog.record_stored([
        StoredEntry(name_of(number), document, object_keys(measurement.identity, digits), digits, pair.content_crc, "e",
                    accepted_ns + 1, accepted_ns, 100)
    ])  # fmt: skip
    return digits


def fail(catalog, number, measurement):
    document = metadata.accepted_document(measurement)
    catalog.record_failed(
        FailedEntry(name_of(number), document, "poison", "why", NOW_NS, NOW_NS + number, 100)
    )


def status(catalog, waited_s=0.0):
    return catalog.session("t", NOW_NS + int(waited_s * 1e9) + 1000, timeout_s=60)["status"]


class TestSession:
    def test_unknown_is_not_found(self, catalog):
        with pytest.raises(NotFound, match="no session t"):
            catalog.session("t", NOW_NS, 60)

    def test_statuses_follow_what_waits_is_stored_and_failed(self, catalog):
        accept(catalog, 1, noise("t", 1))
        assert status(catalog) == "PENDING"
        store(catalog, 1, noise("t", 1))
        assert status(catalog) == "SUCCESS"
        fail(catalog, 2, noise("t", 2))
        assert status(catalog) == "PARTIAL_FAILURE"
        fail(catalog, 3, noise("u", 2))
        assert catalog.session("u", NOW_NS, 60)["status"] == "FAILED"

    def test_expected_receivers_are_awaited_until_the_timeout(self, catalog):
        store(catalog, 1, noise("t", 1, expected=2))
        assert status(catalog, 59) == "PENDING"
        document = catalog.session("t", NOW_NS, 60)
        assert (document["expected"], document["missing"]) == (2, 1)
        assert status(catalog, 61) == "PARTIAL_FAILURE"
        store(catalog, 2, noise("t", 2, expected=2))
        assert status(catalog) == "SUCCESS"

    def test_chunks_count_copies_do_not_and_receivers_are_not_chunks(self, catalog):
        store(catalog, 1, noise("t", 1, chunk=0, expected=2))
        store(catalog, 2, noise("t", 1, chunk=1, seed=1, expected=2))
        store(catalog, 3, noise("t", 1, chunk=1, seed=2, expected=2), copy=True)
        document = catalog.session("t", NOW_NS, 60)
        assert (document["measurements_count"], document["successful"], document["missing"]) == (2, 2, 1)
        assert [row["chunk"] for row in document["stored_measurements"]] == [0, 1]
        assert document["stored_measurements"][1]["s3_path"].endswith("sessions/t/websdr_1_000001.npy")

    def test_long_lists_say_that_they_are_cut(self, catalog):
        for i in range(1001):
            accept(catalog, i, noise("t", i, n_samples=1))
            store(catalog, i, noise("t", i, n_samples=1))
        document = catalog.session("t", NOW_NS, 60)
        assert document["successful"] == 1001
        assert len(document["stored_measurements"]) == 1000
        assert document["truncated"] is True


class TestMeasurements:
    def test_filters_keep_what_they_say(self, catalog):
        rows = [
            noise("a", 1, seed=0),
            noise("a", 2, seed=10, frequency_hz=1e6),
            noise("b", 1, seed=20, node="n"),
        ]
        for i, one in enumerate(rows):
            store(catalog, i, one)
        accept(catalog, 9, noise("c", 3, seed=30, metrics={"snr_db": 12.0}))

        def found(**filters):
            return sorted(
                (r["task_id"], r["websdr_id"]) for r in catalog.measurements(filters, 10)["measurements"]
            )

        assert found(task_id="a") == [("a", 1), ("a", 2)]
        assert found(websdr_id=1) == [("a", 1), ("b", 1)]
        assert found(node="n") == [("b", 1)]
        assert found(state="accepted") == [("c", 3)]
        assert found(state="stored", websdr_id=1) == [("a", 1), ("b", 1)]
        assert found(state="failed") == []
        assert found(since=T0_NS + 10, until=T0_NS + 20) == [("a", 2)]
        assert found(min_frequency_hz=1e6) == [("a", 2)]
        assert found(max_frequency_hz=77500.0) == [("a", 1), ("b", 1), ("c", 3)]
        assert found(min_snr_db=12.0) == [("c", 3)]

    def test_a_row_is_the_document_and_where_it_is(self, catalog):
        store(catalog, 1, noise("t", 7))
        digits = store(catalog, 2, noise("t", 7, seed=2), copy=True)
        row = catalog.measurement("t", 7)
        assert set(metadata.KEYS) <= set(row)
        assert row["s3_path"] == "s3://heimdall-raw-iq/sessions/t/websdr_7.npy"
        assert row["metadata_s3_path"] == "s3://heimdall-raw-iq/sessions/t/websdr_7_metadata.json"
        assert row["copies"] == [digits]
        assert catalog.measurement("t", 7, copy=digits)["s3_path"].endswith(f"websdr_7.{digits}.npy")
        with pytest.raises(NotFound):
            catalog.measurement("t", 7, chunk=0)


def walk(turn, read, key, between=lambda: None):
    seen, cursor = [], None
    while True:
        page = turn(cursor)
        seen += [row[key] for row in page[read]]
        cursor = page["next_cursor"]
        if cursor is None:
            return seen
        between()


class TestCursors:
    def test_a_listing_holds_while_measurements_arrive(self, catalog):
        for i in range(50):
            store(catalog, i, noise("old", i, seed=i % 7))
        fresh = iter(range(100, 1000))

        def arrive():
            for _ in range(3):
                i = next(fresh)
                accept(catalog, i, noise("new", i, seed=i % 9))

        seen = walk(lambda c: catalog.measurements({}, 7, c), "measurements", "entry", arrive)
        assert len(seen) == len(set(seen))
        assert {name_of(i) for i in range(50)} <= set(seen)

    def test_a_session_that_moves_while_a_client_pages_is_not_missed(self, catalog):
        for i in range(20):
            accept(catalog, i, noise(f"s{i:02d}", n_samples=1))
        numbers = iter(range(100, 200))

        def move():
            i = next(numbers)
            accept(catalog, i, noise("s00", i, n_samples=1), at_ns=NOW_NS + i)

        seen = walk(lambda c: catalog.sessions(4, c), "sessions", "task_id", move)
        assert set(seen) == {f"s{i:02d}" for i in range(20)}

    @pytest.mark.parametrize("limit", [1, 2, 5, 10, 20])
    def test_pages_that_end_where_the_sessions_end_lead_on_to_what_moved(self, catalog, limit):
        for i in range(20):
            accept(catalog, i, noise(f"s{i:02d}", n_samples=1))
        first = catalog.sessions(limit)
        accept(catalog, 100, noise("s00", 100, n_samples=1), at_ns=NOW_NS + 100)
        rest = iter([first])
        seen = walk(lambda c: next(rest) if c is None else catalog.sessions(limit, c), "sessions", "task_id")
        assert set(seen) == {f"s{i:02d}" for i in range(20)}

    def test_sessions_come_latest_acceptance_first(self, catalog):
        for i in (3, 1, 2):
            accept(catalog, i, noise(f"s{i}", n_samples=1))
        assert [row["task_id"] for row in catalog.sessions(10)["sessions"]] == ["s3", "s2", "s1"]

    @pytest.mark.parametrize(
        "cursor",
        ["", "x", "bm9uc2Vuc2U", "WyJzZXNzaW9ucyIsMV0", "W1tbW1tb", "WyJtZWFzdXJlbWVudHMiLCIxIiwyXQ"],
    )
    def test_a_forged_cursor_is_an_invalid_argument(self, catalog, cursor):
        for ask in (
            catalog.sessions,
            catalog.rejected,
            catalog.failed,
            lambda limit, c: catalog.measurements({}, limit, c),
        ):
            with pytest.raises(QueryError) as caught:
                ask(10, cursor)
            assert caught.value.code == "invalid_argument"

    def test_a_cursor_of_another_listing_is_refused(self, catalog):
        for i in range(3):
            accept(catalog, i, noise(f"s{i}", n_samples=1))
        cursor = catalog.sessions(1)["next_cursor"]
        with pytest.raises(QueryError):
            catalog.measurements({}, 1, cursor)


class TestConfirm:
    def test_zeros_for_a_node_that_was_not_seen(self, catalog):
        reply = catalog.confirm("n", 1)
        assert (reply["accepted_upto"], reply["ranges"], reply["stored_upto"], reply["rejected"]) == (
            0,
            [],
            0,
            [],
        )
        assert reply["boot"] == catalog.boot()

    def test_boot_is_another_at_another_start_of_the_daemon_and_the_same_within_one(self, catalog):
        first, second = (catalog.confirm("n", 1, start_id)["boot"] for start_id in (2**64 - 1, 1))
        assert first != second
        assert len(first) == len(second) == 16
        assert catalog.confirm("m", 1, 1)["boot"] == second

    def test_stored_upto_ends_at_the_first_that_waits(self, catalog):
        ledger = EpochLedger()
        for seq in range(4):
            one = noise("t", seq, node="n", epoch=5, seq=seq)
            ledger.note_accepted(seq, seq)
            accept(catalog, seq, one)
            if seq != 2:
                store(catalog, seq, one)
        catalog.record_accepted(AcceptedBatch(ledgers=[LedgerState("n", 5, ledger.state())]))
        reply = catalog.confirm("n", 5)
        assert (reply["accepted_upto"], reply["stored_upto"]) == (4, 2)
        store(catalog, 2, noise("t", 2, node="n", epoch=5, seq=2))
        assert catalog.confirm("n", 5)["stored_upto"] == 4


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """50,000 rows in 500 sessions."""
    path = str(tmp_path_factory.mktemp("large") / "catalog.sqlite3")
    create(path)
    with Catalog.open(path, bucket="b") as opened:
        document = metadata.accepted_document(noise("t", n_samples=1))
        for batch in range(50):
            entries = [
                AcceptedEntry(
                    name_of(n := batch * 1000 + i), NOW_NS + n, 100,
                    document | {"task_id": f"s{n % 500}", "websdr_id": n // 500, "timestamp_ns": T0_NS + n, "node": f"n{n % 5}"},
                )
                for i in range(1000)
            ]  # fmt: skip
            opened.record_accepted(AcceptedBatch(entries=entries))
        yield opened


class TestSpeed:
    @pytest.mark.parametrize(
        "filters",
        [{}, {"task_id": "s3"}, {"websdr_id": 7}, {"node": "n1"}, {"state": "accepted"}, {"state": "failed"},
         {"since": T0_NS + 40_000}, {"task_id": "s3", "node": "n3"}],
        ids=str,
    )  # fmt: skip
    @pytest.mark.quiet
    def test_a_page_of_measurements_reads_an_index_and_never_sorts(self, large, filters, monkeypatch):
        statements = []
        connection = large._current()
        connection.set_trace_callback(statements.append)
        large.measurements(filters, 100)
        connection.set_trace_callback(None)
        select = next(text for text in statements if text.startswith("SELECT"))
        plan = " ".join(
            row[3] for row in sqlite3.connect(large._path).execute(f"EXPLAIN QUERY PLAN {select}")
        )
        assert "USING INDEX" in plan
        assert "TEMP B-TREE" not in plan
        took_s = []
        for _ in range(9):
            began_s = time.perf_counter()
            large.measurements(filters, 100)
            took_s.append(time.perf_counter() - began_s)
        assert statistics.median(took_s) < 0.02

    @pytest.mark.quiet
    def test_sessions_and_confirm_are_looked_up(self, large):
        for ask in (
            lambda: large.sessions(100),
            lambda: large.session("s3", NOW_NS, 60),
            lambda: large.confirm("n1", 1),
        ):
            took_s = []
            for _ in range(9):
                began_s = time.perf_counter()
                ask()
                took_s.append(time.perf_counter() - began_s)
            assert statistics.median(took_s) < 0.02
