"""The auditor makes the catalog agree with spool and bucket: at a start, and whenever it was replaced."""

import threading
from pathlib import Path

import pytest
import structlog

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, create
from ingestd.config import load
from ingestd.errors import StoreUnreachable
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.roles import auditor as auditor_module
from ingestd.roles.auditor import FILLED, Auditor
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.status import StatusBlock, StatusLayout
from ingestd.spool import EntryName, SpoolLayout, SpoolWriter
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.testing.frames import noise
from ingestd.testing.stores import FaultyStore


class Scene:
    """A state directory with a bucket beside it."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.path = catalog_path(self.directory)
        create(self.path)
        self.layout = SpoolLayout(self.directory)
        self.layout.make()
        self.store = FaultyStore()
        self.stop = threading.Event()
        self.clock = 0

    def auditor(self, name="uploader-0"):
        settings = load(overrides={"state_directory": self.directory}, environ={})
        status = StatusBlock.create(StatusLayout(("receiver", name)))
        return Auditor(RoleContext(name, settings, status, -1), self.layout, self.store, self.stop)

    def put(self, one):
        store_pair(self.store, encode_pair(one, figures="none")[0], "keep_both")

    def accept(self, one):
        self.clock += 1
        writer = SpoolWriter(self.layout, "process", lambda: self.clock)
        writer.add(memoryview(wire.encode(one)))
        (entry,) = writer.commit()
        return str(entry.name)

    def record(self, name, one):
        entry = AcceptedEntry(name, EntryName.parse(name).receive_ns, 1, metadata.accepted_document(one))
        with Catalog.open(self.path) as opened:
            opened.record_accepted(AcceptedBatch(entries=[entry]))

    def totals(self):
        with Catalog.open(self.path) as opened:
            counted = opened.totals()
        return {
            key: counted[key] for key in ("stored", "pending", "lost", "failed", "duplicates") if counted[key]
        }

    def replace(self):
        for side in ("", "-wal", "-shm"):
            Path(self.path + side).unlink(missing_ok=True)
        create(self.path)


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(auditor_module.time, "monotonic", lambda: now[0])
    return now


def audit(auditor):
    auditor.advance()
    auditor.join(30)
    assert auditor._thread is None or not auditor._thread.is_alive()


def test_an_empty_catalog_is_filled_from_bucket_and_spool(scene):
    for i in range(3):
        scene.put(noise(f"stored-{i}", n_samples=2))
    scene.accept(noise("waiting", n_samples=2))
    audit(scene.auditor())
    assert scene.totals() == {"stored": 3, "pending": 1}


def test_a_row_with_neither_entry_nor_objects_is_lost_and_alarmed_once(scene, clock):
    name = str(EntryName(1, 0, 0))
    scene.record(name, noise("gone", n_samples=2))
    auditor = scene.auditor()
    with structlog.testing.capture_logs() as logs:
        audit(auditor)
        clock[0] += 1000
        audit(auditor)
    assert scene.totals() == {"lost": 1}
    assert [line["entry"] for line in logs if line["event"] == "entry_lost"] == [name]
    assert [line["event"] for line in logs].count("audited") == 1, "one catalog, one audit"


def test_a_store_that_fails_puts_the_audit_off_and_it_is_made_later(scene, clock):
    scene.put(noise("stored", n_samples=2))
    scene.store.before["get"] = [StoreUnreachable("down")]
    auditor = scene.auditor()
    audit(auditor)
    assert scene.totals() == {}
    with Catalog.open(scene.path) as opened:
        assert opened.marked(FILLED) is None, "what is not whole does not say so"
    audit(auditor)
    assert scene.totals() == {}, "not at once"
    clock[0] += 11
    audit(auditor)
    assert scene.totals() == {"stored": 1}


def test_a_catalog_that_was_replaced_is_filled_again(scene, clock):
    scene.put(noise("stored", n_samples=2))
    auditor = scene.auditor()
    audit(auditor)
    with Catalog.open(scene.path):  # as other roles do; the inode of an open file is not used again
        scene.replace()
        clock[0] += 5
        audit(auditor)
        assert scene.totals() == {}, "looked for now and then only"
        clock[0] += 6
        audit(auditor)
    assert scene.totals() == {"stored": 1}


def test_a_missing_catalog_is_waited_for(scene, clock):
    scene.put(noise("stored", n_samples=2))
    auditor = scene.auditor()
    Path(scene.path).unlink()
    audit(auditor)
    assert not Path(scene.path).exists(), "only the receiver makes one"
    create(scene.path)
    clock[0] += 11
    audit(auditor)
    assert scene.totals() == {"stored": 1}


def test_a_filled_catalog_does_not_list_the_bucket_again(scene):
    audit(scene.auditor())
    scene.put(noise("by-somebody-else", n_samples=2))
    audit(scene.auditor())
    assert scene.totals() == {}


def test_the_bucket_is_read_while_entries_are_stored_and_each_is_counted_once(scene):
    """An entry whose pair is in the bucket already, and whose record nobody made."""
    one = noise("t", n_samples=2)
    name = scene.accept(one)
    scene.record(name, one)
    scene.put(one)
    Path(scene.layout.new, name).unlink()
    audit(scene.auditor())
    assert scene.totals().get("lost") is None
    assert scene.totals().get("pending") is None
    assert scene.totals()["stored"] == 1


def test_only_the_first_uploader_audits(scene):
    scene.put(noise("stored", n_samples=2))
    audit(scene.auditor("uploader-1"))
    assert scene.totals() == {}


def test_a_stopping_role_begins_no_audit(scene):
    scene.stop.set()
    scene.put(noise("stored", n_samples=2))
    audit(scene.auditor())
    assert scene.totals() == {}
