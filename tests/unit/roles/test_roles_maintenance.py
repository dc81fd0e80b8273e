"""Commands of an operator: a catalog made again answers the same; failed entries come back, whoever runs."""

import os
from pathlib import Path

import pytest

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, FailedEntry, StoredEntry, create
from ingestd.config import load
from ingestd.errors import NotFound, SpoolLocked, StoreError, UsageError
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.formats.measurement import object_keys
from ingestd.roles.auditor import FILLED
from ingestd.roles.book import catalog_path
from ingestd.roles.maintenance import rebuild_catalog, requeue
from ingestd.spool import SpoolLayout, SpoolLock, SpoolWriter
from ingestd.spool.layout import fail_entry
from ingestd.storage.encoding import encode_pair
from ingestd.storage.factory import open_store
from ingestd.storage.pair import store_pair
from ingestd.testing.frames import noise


@pytest.fixture
def settings(tmp_path):
    return load(overrides={"state_directory": str(tmp_path)}, environ={})


@pytest.fixture
def layout(settings):
    made = SpoolLayout(str(settings.state_directory))
    made.make()
    return made


@pytest.fixture
def path(settings):
    return catalog_path(str(settings.state_directory))


_CLOCK = iter(range(1, 10**6))


def accept(layout, one):
    writer = SpoolWriter(layout, "process", lambda: 1_790_000_000 * 10**9 + next(_CLOCK))
    writer.add(memoryview(wire.encode(one)))
    (entry,) = writer.commit()
    return str(entry.name)


def fail(layout, name, reason="conflict"):
    fail_entry(layout, os.path.join(layout.new, name), reason, "other content")


def fill(settings, layout, path):
    """A state directory as a daemon leaves it: stored pairs, a kept conflict, one waiting, one failed."""
    create(path)
    store = open_store(settings)
    store.probe()
    with Catalog.open(path, bucket=store.bucket) as catalog:
        for i, one in enumerate(
            [noise("a", 1), noise("a", 2, expected=2), noise("a", 1, seed=5), noise("b", 1, chunk=7)]
        ):
            pair, document = encode_pair(one)
            outcome = store_pair(store, pair, "keep_both")
            catalog.record_stored(
                [
                    StoredEntry(
                        f"entry-{i}", document, object_keys(one.identity, outcome.copy), outcome.copy, pair.content_crc,
                        outcome.etag, 1, 1, 100,
                    )
                ]
            )  # fmt: skip
        for one, failed in ((noise("a", 3), False), (noise("c", 1), True)):
            name = accept(layout, one)
            document = metadata.accepted_document(one)
            catalog.record_accepted(AcceptedBatch(entries=[AcceptedEntry(name, 1, 100, document)]))
            if failed:
                fail(layout, name)
                catalog.record_failed(FailedEntry(name, None, "conflict", "other content", 1, 1, 100))
    store.close()


#: What only the first acceptance knows, and what a directory does not tell in a listing.
_TIMES = ("accepted_at_ns", "stored_at_ns", "entry", "etag")


def answers(path):
    with Catalog.open(path, bucket="heimdall-raw-iq") as catalog:
        rows = catalog.measurements({}, 100)["measurements"]
        return {
            "rows": sorted(
                str({key: value for key, value in row.items() if key not in _TIMES}) for row in rows
            ),
            "sessions": [catalog.session(task_id, 2**62, 60) for task_id in "abc"],
            "copies": catalog.measurement("a", 1)["copies"],
            "totals": {k: catalog.totals()[k] for k in ("accepted", "stored", "failed", "pending", "lost")},
            "failed": [(row["entry"], row["reason"], row["error"]) for row in catalog.failed(10)["failed"]],
        }


class TestRebuild:
    def test_bucket_and_spool_alone_give_the_same_answers(self, settings, layout, path):
        fill(settings, layout, path)
        before = answers(path)
        assert before["totals"] == {"accepted": 6, "stored": 4, "failed": 1, "pending": 1, "lost": 0}
        for side in ("", "-wal", "-shm"):
            Path(path + side).unlink(missing_ok=True)
        told = []
        report = rebuild_catalog(settings, lambda found: told.append(found.stored))
        assert (report.stored, report.conflicts, report.waiting, report.failed) == (4, 1, 1, 1)
        assert told == [0, 1, 2, 3]
        assert answers(path) == before
        with Catalog.open(path) as catalog:
            assert catalog.marked(FILLED), "the auditor need not do it again"

    def test_a_catalog_that_was_broken_is_replaced_and_the_log_of_the_old_one_is_gone(
        self, settings, layout, path
    ):
        fill(settings, layout, path)
        with Catalog.open(path) as catalog:
            boot = catalog.boot()
        Path(path).write_bytes(b"no database")
        Path(f"{path}-wal").write_bytes(b"rubbish")
        rebuild_catalog(settings)
        with Catalog.open(path) as catalog:
            assert catalog.boot() != boot
            assert catalog.totals()["stored"] == 4

    def test_the_log_of_a_killed_daemon_is_not_replayed_into_the_new_catalog(self, settings, layout, path):
        fill(settings, layout, path)
        with Catalog.open(path) as catalog:
            catalog.record_requeued("entry-0")
            catalog.mark("from the old log", "yes")
            log = Path(f"{path}-wal").read_bytes()
            before = answers(path)
        Path(f"{path}-wal").write_bytes(log)
        rebuild_catalog(settings)
        assert not Path(f"{path}-wal").exists() or Path(f"{path}-wal").read_bytes() != log
        assert answers(path) == before
        with Catalog.open(path) as catalog:
            assert catalog.marked("from the old log") is None

    def test_under_a_running_daemon_nothing_is_touched(self, settings, layout, path):
        fill(settings, layout, path)
        before = answers(path)
        with SpoolLock(layout), pytest.raises(SpoolLocked, match="rebuild-catalog needs the daemon stopped"):
            rebuild_catalog(settings)
        assert answers(path) == before

    def test_a_bucket_that_cannot_be_read_leaves_the_catalog_as_it_was(
        self, settings, layout, path, monkeypatch
    ):
        fill(settings, layout, path)
        before = answers(path)
        store = open_store(settings)
        monkeypatch.setattr(type(store), "get", _down)
        with pytest.raises(StoreError):
            rebuild_catalog(settings)
        assert answers(path) == before
        monkeypatch.undo()
        rebuild_catalog(settings)
        assert answers(path) == before


def _down(*_args):
    raise StoreError("down")


class TestRequeue:
    def test_named_entries_come_back_and_the_catalog_follows(self, settings, layout, path):
        fill(settings, layout, path)
        (name,) = [name for name in os.listdir(layout.failed) if name.endswith(".v1")]
        assert requeue(settings, [name]) == [name]
        assert name in os.listdir(layout.new)
        assert os.listdir(layout.failed) == []
        with Catalog.open(path) as catalog:
            totals = catalog.totals()
            assert (totals["failed"], totals["pending"]) == (0, 2)

    def test_all_come_back_in_the_order_of_their_arrival(self, settings, layout):
        names = [accept(layout, noise(f"t{i}", n_samples=2)) for i in range(3)]
        for name in reversed(names):
            fail(layout, name)
        assert requeue(settings, None) == sorted(names)

    def test_a_missing_catalog_does_not_stop_it(self, settings, layout, path):
        name = accept(layout, noise("t", n_samples=2))
        fail(layout, name)
        assert not os.path.exists(path)
        assert requeue(settings, None) == [name]

    def test_without_a_spool_there_is_nothing(self, settings):
        assert requeue(settings, None) == []

    @pytest.mark.parametrize(
        ("name", "error"),
        [("../lock", UsageError), ("x.v1", UsageError), (f"{1:020d}-{0:08d}-{0:08x}.v1", NotFound)],
    )
    def test_what_is_no_failed_entry_is_said(self, settings, layout, name, error):
        with pytest.raises(error):
            requeue(settings, [name])
