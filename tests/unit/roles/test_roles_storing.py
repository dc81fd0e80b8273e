"""From a claim to a stored pair, and what the catalog hears of it: each outcome counted once, whoever tells it late."""

import contextlib
import sqlite3

import pytest

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, create
from ingestd.config import load
from ingestd.errors import ConflictError, FrameError, StoreUnreachable
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.formats.measurement import Identity, object_keys
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.recorder import Recorder
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.roles.storing import Storing
from ingestd.spool import Claims, EntryName, SpoolLayout, SpoolWriter
from ingestd.storage.pair import PairResult
from ingestd.testing.frames import noise
from ingestd.testing.stores import FaultyStore, MemoryStore


class Uploader:
    """One uploader over a spool, a store and a catalog."""

    def __init__(self, directory, store=None, policy="keep_both", name="uploader-0"):
        overrides = {"state_directory": str(directory), "storage": {"on_conflict": policy}}
        settings = load(overrides=overrides, environ={})
        self.path = catalog_path(str(directory))
        create(self.path)
        self.layout = SpoolLayout(str(directory))
        self.layout.make()
        status = StatusBlock.create(StatusLayout(("receiver", name)))
        self.context = RoleContext(name, settings, status, -1)
        self.store = store or MemoryStore()
        self.recorder = Recorder(self.context)
        self.storing = Storing(self.context, self.store, self.recorder)
        self._clock = iter(range(1_790_000_000 * 10**9, 2**63, 10**9))
        self._writer = SpoolWriter(self.layout, "process", lambda: next(self._clock))

    def accept(self, one, *, recorded=True):
        self._writer.add(memoryview(wire.encode(one)))
        (entry,) = self._writer.commit()
        if recorded:
            document = metadata.accepted_document(one)
            accepted = AcceptedEntry(str(entry.name), entry.name.receive_ns, entry.size_bytes, document)
            with Catalog.open(self.path) as opened:
                opened.record_accepted(AcceptedBatch(entries=[accepted]))
        return str(entry.name)

    def take(self, name):
        claim = Claims(self.layout, self.context.name).take(name)
        assert claim is not None
        return claim

    def upload(self, name, *, release=True):
        with self.take(name) as claim:
            stored = self.storing.store(claim)
            self.storing.record([stored])
            if release:
                claim.release(retain=False)
        return stored.result

    def totals(self):
        with Catalog.open(self.path) as opened:
            counted = opened.totals()
        ends = ("stored", "duplicates", "superseded", "failed", "lost", "pending")
        assert counted["accepted"] == sum(counted[end] for end in ends)
        return {name: counted[name] for name in (*ends, "conflicts", "stored_bytes") if counted[name]}

    def slots(self):
        names = ("STORED", "DUPLICATES", "CONFLICTS", "STORED_BYTES", "CATALOG_SKIPPED")
        counted = {name: self.context.row.get(Slot[name]) for name in names}
        return {name: value for name, value in counted.items() if value}


@pytest.fixture
def uploader(tmp_path):
    return Uploader(tmp_path)


def one(seed=0, **fields):
    return noise("t", n_samples=10, seed=seed, **fields)


SIZE = 128 + 80


class TestOutcomes:
    def test_a_new_pair_is_stored_and_recorded(self, uploader):
        assert uploader.upload(uploader.accept(one())) is PairResult.STORED
        assert uploader.totals() == {"stored": 1, "stored_bytes": SIZE}
        assert uploader.slots() == {"STORED": 1, "STORED_BYTES": SIZE}
        with Catalog.open(uploader.path, bucket="b") as opened:
            row = opened.measurement("t", 1)
        document = metadata.decode(uploader.store.get(object_keys(Identity("t", 1, None)).metadata, 10**6))
        assert {key: row[key] for key in document} == document
        assert row["etag"] == uploader.store.head(object_keys(Identity("t", 1, None)).npy).etag

    def test_the_uploader_may_be_quicker_than_the_receivers_record(self, uploader):
        uploader.upload(uploader.accept(one(), recorded=False))
        assert uploader.totals() == {"stored": 1, "stored_bytes": SIZE}

    def test_the_same_frame_again_is_a_duplicate(self, uploader):
        uploader.upload(uploader.accept(one()))
        assert uploader.upload(uploader.accept(one())) is PairResult.REPEATED
        assert uploader.totals() == {"stored": 1, "duplicates": 1, "stored_bytes": SIZE}
        assert uploader.slots() == {"STORED": 1, "STORED_BYTES": SIZE, "DUPLICATES": 1}

    def test_an_entry_whose_end_nobody_recorded_is_stored_and_no_duplicate(self, uploader):
        """Killed between the second 200 and the record: the next try finds its own objects."""
        name = uploader.accept(one())
        quiet = Storing(uploader.context, uploader.store, _Deaf(uploader.context))
        with uploader.take(name) as claim:
            quiet.store(claim)
            claim.give_back()
        assert uploader.totals() == {"pending": 1}
        assert uploader.upload(name) is PairResult.REPEATED
        assert uploader.totals() == {"stored": 1, "stored_bytes": SIZE}

    def test_an_entry_that_was_recorded_and_not_released_stays_counted_once(self, uploader):
        name = uploader.accept(one())
        uploader.upload(name, release=False)
        assert uploader.upload(name) is PairResult.REPEATED
        assert uploader.totals() == {"stored": 1, "stored_bytes": SIZE}
        assert "DUPLICATES" not in uploader.slots()

    def test_other_content_is_kept_beside_and_counted_as_a_conflict(self, uploader):
        uploader.upload(uploader.accept(one(0)))
        assert uploader.upload(uploader.accept(one(1))) is PairResult.CONFLICT_STORED
        assert uploader.upload(uploader.accept(one(1))) is PairResult.CONFLICT_REPEATED
        assert uploader.totals() == {
            "stored": 2, "duplicates": 1, "conflicts": 1, "stored_bytes": 2 * SIZE,
        }  # fmt: skip
        with Catalog.open(uploader.path) as opened:
            (copy,) = opened.measurement("t", 1)["copies"]
            assert opened.measurement("t", 1, copy=copy)["timestamp_ns"] == one(1).timestamp_ns
            assert opened.session("t", 0, 60)["measurements_count"] == 1

    def test_the_policy_reject_leaves_the_entry_to_failed(self, tmp_path):
        uploader = Uploader(tmp_path, policy="reject")
        uploader.upload(uploader.accept(one(0)))
        with uploader.take(uploader.accept(one(1))) as claim, pytest.raises(ConflictError):
            uploader.storing.store(claim)
        assert uploader.totals() == {"stored": 1, "pending": 1, "stored_bytes": SIZE}

    def test_the_policy_overwrite_goes_by_the_order_of_entries(self, tmp_path):
        uploader = Uploader(tmp_path, policy="overwrite")
        older, newer = uploader.accept(one(0)), uploader.accept(one(1))
        uploader.upload(newer)
        assert uploader.upload(older) is PairResult.SUPERSEDED
        assert uploader.upload(uploader.accept(one(2))) is PairResult.OVERWRITTEN
        assert uploader.totals() == {"stored": 1, "superseded": 2, "conflicts": 1, "stored_bytes": 2 * SIZE}
        document = metadata.decode(uploader.store.get(object_keys(Identity("t", 1, None)).metadata, 10**6))
        assert document["timestamp_ns"] == one(2).timestamp_ns
        with Catalog.open(uploader.path) as opened:
            assert opened.measurement("t", 1)["timestamp_ns"] == one(2).timestamp_ns


class _Deaf(Recorder):
    """A recorder that dies before it says anything."""

    def stored(self, *_args):
        return True


class TestTroubles:
    def test_an_entry_that_is_not_what_was_accepted_is_refused_before_the_store(self, uploader):
        name = uploader.accept(one())
        with open(f"{uploader.layout.new}/{name}", "r+b") as file:
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        with uploader.take(name) as claim, pytest.raises(FrameError, match="checksum in the name"):
            uploader.storing.store(claim)
        assert list(uploader.store.list("")) == []

    def test_a_store_that_fails_leaves_the_entry_pending(self, tmp_path):
        store = FaultyStore()
        uploader = Uploader(tmp_path, store)
        name = uploader.accept(one())
        for faults in (store.before, store.after):
            faults["put_new"] = [StoreUnreachable("cut")]
            with uploader.take(name) as claim, pytest.raises(StoreUnreachable):
                uploader.storing.store(claim)
        assert uploader.totals() == {"pending": 1}
        uploader.upload(name)
        assert uploader.totals() == {"stored": 1, "stored_bytes": SIZE}

    def test_a_busy_catalog_holds_nothing_up_and_hears_it_later(self, uploader):
        names = [uploader.accept(one(seed), recorded=False) for seed in range(3)]
        with contextlib.closing(sqlite3.connect(uploader.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for name in names:
                uploader.upload(name)
            uploader.recorder.flush()
            other.execute("ROLLBACK")
        assert uploader.slots()["CATALOG_SKIPPED"] == 4
        assert uploader.totals() == {}
        uploader.recorder.flush()
        uploader.recorder.flush()
        assert uploader.totals() == {"stored": 3, "conflicts": 2, "stored_bytes": 3 * SIZE}

    def test_a_record_of_an_overwritten_pair_that_comes_late_does_not_bring_it_back(self, tmp_path):
        first, second = (Uploader(tmp_path, policy="overwrite", name=f"uploader-{i}") for i in range(2))
        second.store = first.store
        second.storing = Storing(second.context, first.store, second.recorder)
        older, newer = first.accept(one(0)), first.accept(one(1))
        with contextlib.closing(sqlite3.connect(first.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            first.upload(older)
            other.execute("ROLLBACK")
        assert second.upload(newer) is PairResult.OVERWRITTEN
        first.recorder.flush()
        assert first.totals() == {"stored": 1, "superseded": 1, "conflicts": 1, "stored_bytes": 2 * SIZE}
        with Catalog.open(first.path) as opened:
            assert opened.measurement("t", 1)["timestamp_ns"] == one(1).timestamp_ns
            assert opened.session("t", 0, 60)["measurements_count"] == 1

    def test_what_waits_for_the_catalog_is_bounded(self, uploader, monkeypatch):
        from ingestd.roles import recorder as recorder_module

        monkeypatch.setattr(recorder_module, "_MAX_WAITING", 5)
        with contextlib.closing(sqlite3.connect(uploader.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for i in range(8):
                uploader.recorder.ended(f"name-{i}", "duplicates")
            other.execute("ROLLBACK")
        uploader.recorder.flush()
        assert uploader.totals() == {"duplicates": 5}

    def test_a_failed_entry_is_recorded_with_what_can_be_read_of_it(self, uploader):
        with uploader.take(uploader.accept(one(), recorded=False)) as claim:
            uploader.recorder.fail(claim, "conflict", "other content")
        torn = str(EntryName(1, 1, 1))
        with open(f"{uploader.layout.new}/{torn}", "wb") as file:
            file.write(b"torn")
        with uploader.take(torn) as claim:
            uploader.recorder.fail(claim, "msgpack", "not what was accepted")
        assert uploader.totals() == {"failed": 2}
        with Catalog.open(uploader.path) as opened:
            rows = opened.failed(10)["failed"]
            assert [(row["task_id"], row["reason"]) for row in rows] == [("t", "conflict"), ("", "msgpack")]
            assert [row["task_id"] for row in opened.sessions(10)["sessions"]] == ["t"]
