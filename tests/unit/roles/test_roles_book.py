"""The receiver's book: nothing that goes wrong in the catalog is lost, and nothing is confirmed that is not in it."""

import os
import sqlite3
from pathlib import Path

import pytest

from ingestd.catalog import Catalog, create
from ingestd.config import load
from ingestd.errors import FrameError
from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.formats.frame import Origin
from ingestd.roles import book as book_module
from ingestd.roles.book import Book, Refused, catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.status import NodeSlot, Slot, StatusBlock, StatusLayout
from ingestd.spool import EntryName, StagedEntry
from ingestd.testing.frames import T0_NS, noise

NOW_NS = T0_NS + 10**9


@pytest.fixture
def context(tmp_path):
    registry = [{"name": "kiwi-graz", "websdr_id": 3}]
    settings = load(overrides={"state_directory": str(tmp_path), "nodes": registry}, environ={})
    status = StatusBlock.create(StatusLayout(("receiver",), ("kiwi-graz",)))
    create(catalog_path(str(tmp_path)))
    return RoleContext("receiver", settings, status, -1)


@pytest.fixture
def path(tmp_path):
    return catalog_path(str(tmp_path))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(book_module.time, "monotonic", lambda: now[0])
    return now


def accept(book, number=0, *, now_ns=NOW_NS, **fields):
    one = noise(
        fields.pop("task_id", f"t{number}"), fields.pop("websdr_id", 1), n_samples=4, seed=number, **fields
    )
    frame = wire.encode(one)
    name = EntryName(NOW_NS + number, number, crc32c(frame))
    book.note_accepted(StagedEntry(name, memoryview(frame)), one, now_ns)
    return str(name)


def numbered(book, seq, node="n", epoch=7, **fields):
    return accept(book, fields.pop("number", seq), node=node, epoch=epoch, seq=seq, **fields)


def refuse(book, seq=None, reason="range"):
    origin = None if seq is None else Origin("n", 7, seq)
    error = FrameError(reason, "gain_db", 1e9, "less")
    book.note_rejected(Refused(NOW_NS, "10.0.0.1", 100, error, origin, "sample.bin"))


def confirm(path, node="n", epoch=7):
    with Catalog.open(path) as opened:
        return opened.confirm(node, epoch)


def totals(path):
    with Catalog.open(path) as opened:
        return opened.totals()


@pytest.fixture
def writer(path):
    """Another process in the middle of a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.close()


class TestTelling:
    def test_a_flush_tells_entries_counters_ledgers_nodes_and_rejections_at_once(self, context, path):
        with Book(context) as book:
            numbered(book, 0)
            refuse(book, seq=1)
            refuse(book)
            assert totals(path)["accepted"] == 0, "not before the flush"
            book.flush()
        counted = totals(path)
        assert (counted["received"], counted["accepted"], counted["pending"]) == (3, 1, 1)
        assert counted["rejected"] == {"range": 2}
        reply = confirm(path)
        assert (reply["accepted_upto"], reply["rejected"]) == (2, [{"seq": 1, "reason": "range"}])
        with Catalog.open(path) as opened:
            assert [row["node"] for row in opened.rejected(10)["rejected"]] == [None, "n"]
            (node,) = opened.nodes()["nodes"]
            assert (node["received"], node["accepted"], node["rejected"], node["seq"]) == (2, 1, 1, 1)

    def test_a_busy_catalog_is_told_later_and_confirms_nothing_before(self, context, path, writer):
        with Book(context) as book:
            numbered(book, 0)
            book.flush()
            assert context.row.get(Slot.CATALOG_SKIPPED) == 1
            assert confirm(path)["accepted_upto"] == 0
            numbered(book, 1)
            writer.execute("ROLLBACK")
            book.flush()
        assert confirm(path)["accepted_upto"] == 2
        assert totals(path)["accepted"] == 2, "each once"

    def test_what_came_without_a_group_commit_is_told_soon(self, context, path, clock):
        with Book(context) as book:
            refuse(book)
            book.flush()
            refuse(book)
            book.flush_if_due()
            assert totals(path)["rejected"] == {"range": 1}
            clock[0] += 0.6
            book.flush_if_due()
        assert totals(path)["rejected"] == {"range": 2}

    def test_what_waits_is_bounded(self, context, path, writer, monkeypatch):
        monkeypatch.setattr(book_module, "_MAX_WAITING", 5)
        with Book(context) as book:
            for i in range(20):
                accept(book, i, node=f"node{i}")
                refuse(book)
            writer.execute("ROLLBACK")
            book.flush()
        counted = totals(path)
        assert counted["accepted"] == 5, "the others are found in the spool"
        assert counted["received"] == 40, "counters cost nothing to keep"
        with Catalog.open(path) as opened:
            assert len(opened.nodes()["nodes"]) == 5
            assert len(opened.rejected(100)["rejected"]) == 5


class TestNodes:
    def test_a_registered_receiver_goes_by_its_registered_name(self, context, path):
        with Book(context) as book:
            accept(book, 0, websdr_id=3)
            accept(book, 1, websdr_id=3, node="other-name")
            accept(book, 2, websdr_id=4)
            accept(book, 3, websdr_id=5, node="dl0abc")
            book.flush()
        with Catalog.open(path) as opened:
            rows = {row["node"]: row["accepted"] for row in opened.nodes(context.settings.nodes)["nodes"]}
        assert rows == {"kiwi-graz": 2, "websdr:4": 1, "dl0abc": 1}

    def test_lag_is_acceptance_minus_stamp_minus_duration(self, context, path):
        with Book(context) as book:
            accept(book, 0, sample_rate_hz=4.0, now_ns=T0_NS + 3 * 10**9)
            book.flush()
        with Catalog.open(path) as opened:
            assert opened.nodes()["nodes"][0]["lag_s"] == pytest.approx(2.0)

    def test_gaps_and_lost_samples_are_counted_for_the_node_and_gaps_close_again(self, context, path):
        with Book(context) as book:
            numbered(book, 0, websdr_id=3, sample_index=0)
            numbered(book, 3, websdr_id=3, sample_index=104)
            assert context.row.get(Slot.SEQ_GAPS) == 2
            assert context.status.get_node("kiwi-graz", NodeSlot.SAMPLES_LOST) == 100
            book.flush()
            numbered(book, 1, websdr_id=3)
            book.flush()
        assert context.row.get(Slot.SEQ_GAPS) == 1
        with Catalog.open(path) as opened:
            (node,) = opened.nodes()["nodes"]
            assert (node["gaps"], node["samples_lost"]) == (1, 100)

    def test_no_sample_clock_makes_the_counters_overflow(self, context, path):
        with Book(context) as book:
            for i in range(0, 60, 2):
                numbered(book, 0, epoch=i, number=i, sample_index=0)
                numbered(book, 1, epoch=i, number=i + 1, sample_index=2**40)
            numbered(book, 2, epoch=0, number=99, sample_index=2**63 - 1)
            context.status.set_node("", NodeSlot.SAMPLES_LOST, 2**63 - 5)
            numbered(book, 0, epoch=1000, number=100, sample_index=0)
            numbered(book, 1, epoch=1000, number=101, sample_index=2**39)
            book.flush()
        with Catalog.open(path) as opened:
            assert opened.nodes()["nodes"][0]["samples_lost"] == 30 * (2**40 - 4)


class TestLedgers:
    def test_a_restarted_receiver_goes_on_where_it_was(self, context, path):
        for seq in range(3):
            with Book(context) as book:
                numbered(book, seq)
                book.flush()
        assert confirm(path)["accepted_upto"] == 3

    def test_a_number_used_again_is_counted_also_after_a_restart(self, context, path):
        with Book(context) as book:
            numbered(book, 0)
            book.flush()
        with Book(context) as book:
            numbered(book, 0, number=0)
            book.flush()
            assert confirm(path)["seq_reused"] == 0, "the same frame again"
        with Book(context) as book:
            numbered(book, 0, number=55)
            book.flush()
        assert confirm(path)["seq_reused"] == 1
        assert context.row.get(Slot.SEQ_REUSED) == 1

    def test_what_was_confirmed_stays_so_where_the_ledger_could_not_be_read(self, context, path, monkeypatch):
        with Book(context) as book:
            for seq in range(5):
                numbered(book, seq)
            refuse(book, seq=5)
            book.flush()
        boot = confirm(path)["boot"]
        with Book(context) as book:
            away = f"{path}.away"
            os.rename(path, away)
            numbered(book, 6)
            numbered(book, 8)
            os.rename(away, path)
            book.flush()
        reply = confirm(path)
        assert (reply["accepted_upto"], reply["ranges"], reply["boot"]) == (7, [[8, 9]], boot)
        assert reply["rejected"] == [{"seq": 5, "reason": "range"}]

    def test_made_up_epochs_do_not_fill_the_memory_while_the_catalog_is_stuck(
        self, context, path, writer, monkeypatch
    ):
        monkeypatch.setattr(book_module, "_MAX_LEDGERS", 10)
        monkeypatch.setattr(book_module, "_MAX_UNTOLD_LEDGERS", 40)
        with Book(context) as book:
            for epoch in range(100):
                numbered(book, 0, epoch=epoch, number=epoch)
            assert len(book._ledgers) == 40
            writer.execute("ROLLBACK")
            book.flush()
            numbered(book, 0, epoch=100, number=100)
            assert len(book._ledgers) <= 41
        assert confirm(path, epoch=99)["accepted_upto"] == 1
        assert confirm(path, epoch=0)["accepted_upto"] == 0, "forgotten is not confirmed"

    def test_ledgers_that_were_told_leave_the_memory_and_come_back(self, context, path, monkeypatch):
        monkeypatch.setattr(book_module, "_MAX_LEDGERS", 2)
        with Book(context) as book:
            for seq in range(2):
                for epoch in range(5):
                    numbered(book, seq, epoch=epoch, number=10 * seq + epoch)
                    book.flush()
                    assert len(book._ledgers) <= 2
        assert [confirm(path, epoch=epoch)["accepted_upto"] for epoch in range(5)] == [2] * 5


class TestReplacing:
    @pytest.mark.parametrize("broken", [None, b"", b"no database" * 1000])
    def test_a_broken_or_missing_catalog_is_replaced_and_gets_what_memory_knows(self, context, path, broken):
        with Book(context) as book:
            for seq in range(3):
                numbered(book, seq)
            book.flush()
            boot = confirm(path)["boot"]
            for side in ("", "-wal", "-shm"):
                Path(path + side).unlink(missing_ok=True)
            if broken is not None:
                Path(path).write_bytes(broken)
            numbered(book, 3)
            book.flush()
            book.flush()
        reply = confirm(path)
        assert reply["accepted_upto"] == 4
        assert reply["boot"] != boot
        assert totals(path)["accepted"] == 1, "the auditor finds the others"

    def test_damage_that_no_first_look_shows_is_believed_when_it_is_met(self, context, path):
        with Book(context) as book:
            for i in range(300):
                accept(book, i)
            book.flush()
            boot = confirm(path)["boot"]
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            (root,) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'entries_stamp'"
            ).fetchone()
        connection.close()
        with open(path, "r+b") as file:
            file.seek((root - 1) * page_bytes)
            file.write(b"\xa5" * page_bytes)
        assert create(path) is False, "a first look does not show it"
        with Book(context) as book:
            accept(book, 1000)
            book.flush()
            book.flush()
        assert confirm(path)["boot"] != boot
        assert totals(path)["accepted"] == 1

    def test_a_missing_catalog_is_replaced_though_nobody_sends(self, context, path, clock):
        with Book(context) as book:
            accept(book)
            book.flush()
            os.unlink(path)
            book.flush_if_due()
            assert not os.path.exists(path)
            clock[0] += 11
            book.flush_if_due()
            assert totals(path)["accepted"] == 0

    def test_a_catalog_that_breaks_again_at_once_is_left_alone_for_a_while(self, context, path, clock):
        with Book(context) as book:
            for _ in range(5):
                Path(path).write_bytes(b"broken")
                accept(book)
                book.flush()
            aside = Path(f"{path}.corrupt")
            assert aside.read_bytes() == b"broken"
            assert Path(path).read_bytes() == b"broken"
            clock[0] += 11
            book.flush()
            book.flush()
        assert totals(path)["accepted"] == 1


def test_acceptances_are_recorded_at_once_and_those_that_follow_closely_together(context, path, clock):
    with Book(context) as book:
        assert book.due_in_s == float("inf")
        numbered(book, 0)
        assert book.due_in_s == 0.0
        assert book.flush_if_due()
        for seq in (1, 2, 3):
            numbered(book, seq)
            assert not book.flush_if_due()
        assert 0.0 < book.due_in_s <= 0.05
        assert confirm(path)["accepted_upto"] == 1
        clock[0] += 0.06
        assert book.flush_if_due()
        assert not book.flush_if_due()
    assert confirm(path)["accepted_upto"] == 4


def test_a_catalog_that_refuses_is_not_asked_more_often_for_what_comes_meanwhile(context, clock, writer):
    with Book(context) as book:
        numbered(book, 0)
        assert not book.flush_if_due()
        numbered(book, 1)
        clock[0] += 0.06
        assert book.due_in_s > 0.3
        writer.execute("ROLLBACK")
        clock[0] += 0.5
        assert book.flush_if_due()
