"""What the recorder is asked before an upload is decided: whose pair is there, and which entry is newer."""

import pytest

from ingestd.catalog import Catalog, create
from ingestd.catalog.rebuild import RebuildReport, refill
from ingestd.config import load
from ingestd.formats.measurement import Identity
from ingestd.roles.book import catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.recorder import Recorder
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.spool import EntryName, SpoolLayout
from ingestd.spool.contents import failed_files
from ingestd.spool.layout import fail_entry
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.testing.frames import noise
from ingestd.testing.stores import MemoryStore

IDENTITY = Identity("t", 1, None)


@pytest.fixture
def path(tmp_path):
    made = catalog_path(str(tmp_path))
    create(made)
    return made


@pytest.fixture
def recorder(tmp_path):
    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    status = StatusBlock.create(StatusLayout(("receiver", "uploader-0")))
    return Recorder(RoleContext("uploader-0", settings, status, -1))


def test_where_nothing_is_known_every_pair_is_ours_and_every_entry_is_newer(path, recorder):
    assert recorder.was_ours("name", IDENTITY, 1)
    assert recorder.is_newer("name", IDENTITY)


def test_without_a_catalog_a_repeat_is_a_duplicate_and_every_entry_is_newer(recorder):
    assert not recorder.was_ours("name", IDENTITY, 1)
    assert recorder.is_newer("name", IDENTITY)
    assert recorder._row.get(Slot.CATALOG_SKIPPED) == 2


def test_after_a_rebuild_entries_that_come_are_newer_than_what_the_bucket_holds(path, recorder):
    """The rows of a rebuilt catalog know the bucket's times and no entries; overwriting must go on."""
    store = MemoryStore()
    pair, _ = encode_pair(noise("t", n_samples=2))
    store_pair(store, pair, "keep_both")
    stored_ns = store.head("sessions/t/websdr_1.npy").last_modified_ns
    with Catalog.open(path) as opened:
        refill(opened, store, RebuildReport())
    assert recorder.is_newer(str(EntryName(stored_ns + 10**9, 0, 0)), IDENTITY)
    assert not recorder.is_newer(str(EntryName(stored_ns - 10**9, 0, 0)), IDENTITY)
    assert not recorder.was_ours("name", IDENTITY, pair.content_crc)


def test_entries_that_killed_their_uploader_are_recorded_from_where_they_lie(path, recorder, tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    name = str(EntryName(5, 0, 0))
    with open(f"{layout.new}/{name}", "wb") as file:
        file.write(b"poison")
    fail_entry(layout, f"{layout.new}/{name}", "poison", "its uploader died 3 times alone with it")
    recorder.found_failed(failed_files(layout))
    recorder.found_failed(failed_files(layout))
    with Catalog.open(path) as opened:
        (row,) = opened.failed(10)["failed"]
        assert (row["entry"], row["reason"]) == (name, "poison")
        assert opened.totals()["failed"] == 1
