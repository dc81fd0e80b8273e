"""Bucket and spool alone give the catalog back; what is nowhere is named lost."""

import pytest

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, StoredEntry, create
from ingestd.catalog.rebuild import RebuildReport, mark_lost, reconcile, refill
from ingestd.formats import frame as wire
from ingestd.formats import metadata
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.spool import Claims, EntryName, SpoolLayout, requeue
from ingestd.spool.contents import contains, spool_files
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.testing.frames import noise
from ingestd.testing.stores import MemoryStore

NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def catalog(tmp_path):
    path = str(tmp_path / "catalog.sqlite3")
    create(path)
    with Catalog.open(path, bucket="heimdall-raw-iq") as opened:
        yield opened


@pytest.fixture
def layout(tmp_path):
    made = SpoolLayout(str(tmp_path / "state"))
    made.make()
    return made


def put(store, one):
    store_pair(store, encode_pair(one, figures="none")[0], "keep_both")


def spool(layout, number, one, directory=None):
    frame = wire.encode(one)
    name = str(EntryName(NOW_NS + number, number, crc32c(frame)))
    with open(f"{directory or layout.new}/{name}", "wb") as file:
        file.write(frame)
    return name


def accept(catalog, name, one):
    entry = AcceptedEntry(name, NOW_NS, 10, metadata.accepted_document(one))
    catalog.record_accepted(AcceptedBatch(entries=[entry]))


def test_every_pair_gets_a_row_and_what_is_none_is_counted(catalog):
    store = MemoryStore()
    for i in range(5):
        put(store, noise("t", i))
    put(store, noise("t", 0, seed=9))
    put(store, noise("u", 1, chunk=3))
    lonely = encode_pair(noise("v"), figures="none")[0]
    store.put_new("sessions/v/websdr_1.npy", lonely.npy)
    store.put_new("sessions/v/notes.txt", Body((b"x",), crc32c(b"x")))
    store.put_new("sessions/w/websdr_1_metadata.json", Body((b"{}",), crc32c(b"{}")))
    report = refill(catalog, store, RebuildReport())
    assert (report.stored, report.conflicts, report.without_metadata, report.foreign, report.unreadable) == (
        7,
        1,
        1,
        1,
        1,
    )
    assert catalog.totals()["stored"] == 7
    assert catalog.session("t", NOW_NS, 60)["successful"] == 5
    assert catalog.measurement("t", 0)["copies"]
    refill(catalog, store, RebuildReport())
    assert catalog.totals()["stored"] == 7, "once is enough"


def test_every_entry_gets_a_row_with_its_state(catalog, layout):
    waiting = spool(layout, 1, noise("t", 1))
    bad = spool(layout, 2, noise("t", 2))
    claim = Claims(layout, "uploader-0").take(bad)
    claim.fail("conflict", "other content")
    with open(f"{layout.new}/{EntryName(NOW_NS, 3, 0)}", "wb") as file:
        file.write(b"no frame")
    assert reconcile(catalog, spool_files(layout)) == 3
    assert catalog.measurement("t", 1)["state"] == "accepted"
    assert catalog.measurement("t", 1)["entry"] == waiting
    assert catalog.measurement("t", 2)["state"] == "failed"
    assert reconcile(catalog, spool_files(layout)) <= 1, "rows are there now; what is no frame has none"


def test_rows_follow_entries_that_failed_or_came_back_unrecorded(catalog, layout):
    one = noise("t", 1)
    name = spool(layout, 1, one)
    accept(catalog, name, one)
    Claims(layout, "uploader-0").take(name).fail("poison", "three deaths")
    reconcile(catalog, spool_files(layout))
    assert catalog.measurement("t", 1)["state"] == "failed"
    assert requeue(layout.root.rsplit("/spool", 1)[0], None) == [name]
    reconcile(catalog, spool_files(layout))
    assert catalog.measurement("t", 1)["state"] == "accepted"


def test_an_entry_that_fails_while_the_spool_is_looked_through_stays_failed(catalog, layout):
    one = noise("t", 1)
    name = spool(layout, 1, one)
    accept(catalog, name, one)
    listed = list(spool_files(layout))
    Claims(layout, "uploader-0").take(name).fail("unreadable", "rot")
    reconcile(catalog, spool_files(layout))
    reconcile(catalog, listed)
    assert catalog.measurement("t", 1)["state"] == "failed"


def test_what_is_neither_in_the_spool_nor_in_the_store_is_lost(catalog, layout):
    store = MemoryStore()
    rows = {i: noise("t", i, seed=i) for i in range(4)}
    names = {}
    for i, one in rows.items():
        names[i] = spool(layout, i, one) if i == 0 else str(EntryName(NOW_NS + i, i, 0))
        accept(catalog, names[i], one)
    put(store, rows[1])
    put(store, noise("t", 2, seed=99))
    put(store, rows[2])
    lost = mark_lost(catalog, store, lambda name: contains(layout, name), NOW_NS + 10)
    assert lost == [names[3]]
    states = {i: catalog.measurement("t", i)["state"] for i in (0, 1, 3)}
    assert states == {0: "accepted", 1: "stored", 3: "lost"}
    kept = catalog.measurements({"websdr_id": 2}, 10)["measurements"]
    assert [(row["state"], row["copy"] is not None) for row in kept] == [("stored", True)]
    totals = catalog.totals()
    assert totals["accepted"] == totals["stored"] + totals["lost"] + totals["pending"]


def test_young_rows_are_left_alone(catalog, layout):
    name = str(EntryName(NOW_NS + 100, 1, 0))
    accept(catalog, name, noise("t"))
    assert mark_lost(catalog, MemoryStore(), lambda _name: False, NOW_NS) == []


def test_a_pair_whose_entry_is_on_its_way_is_left_to_its_uploader(catalog, layout):
    store, one = MemoryStore(), noise("t", 1)
    name = spool(layout, 1, one)
    accept(catalog, name, one)
    put(store, one)
    assert refill(catalog, store, RebuildReport()).stored == 1
    assert catalog.measurement("t", 1)["state"] == "accepted"
    assert catalog.measurement("t", 1)["entry"] == name
    assert catalog.totals()["stored"] == 0


def test_a_pair_with_another_stamp_than_the_entry_on_its_way_gets_its_row(catalog, layout):
    store, waiting = MemoryStore(), noise("t", 1, seed=1)
    name = spool(layout, 1, waiting)
    accept(catalog, name, waiting)
    put(store, noise("t", 1))
    assert refill(catalog, store, RebuildReport()).stored == 1
    assert catalog.totals()["stored"] == 1
    states = [row["state"] for row in catalog.measurements({"task_id": "t"}, 10)["measurements"]]
    assert sorted(states) == ["accepted", "stored"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"timestamp_ns": 1.5}', b"{}" + b" " * 2**21])
def test_a_metadata_object_that_is_none_is_unreadable_though_its_identity_is_awaited(
    catalog, layout, content
):
    store, one = MemoryStore(), noise("t", 1)
    accept(catalog, spool(layout, 1, one), one)
    put(store, one)
    store.put("sessions/t/websdr_1_metadata.json", Body((content,), crc32c(content)))
    report = refill(catalog, store, RebuildReport())
    assert (report.stored, report.unreadable) == (0, 1)
    assert catalog.measurement("t", 1)["state"] == "accepted"


def test_an_entry_that_is_stored_already_is_not_on_its_way(catalog, layout):
    store, one = MemoryStore(), noise("t", 1)
    name = spool(layout, 1, one)
    accept(catalog, name, one)
    put(store, one)
    refill(catalog, store, RebuildReport())
    assert mark_lost(catalog, store, lambda _name: False, 2**62) == []
    assert refill(catalog, store, RebuildReport()).stored == 1
    assert catalog.totals()["stored"] == 1
    assert catalog.measurement("t", 1)["entry"] == name


def record_of(name, one):
    pair, document = encode_pair(one, figures="none")
    return StoredEntry(
        name, document, object_keys(pair.identity), None, pair.content_crc, "etag", NOW_NS, NOW_NS, 10,
        {"stored_bytes": 5},
    )  # fmt: skip


@pytest.mark.parametrize("accepted", ["before the record", "after the record", "never"])
def test_a_pair_that_an_audit_found_before_its_entry_was_recorded_is_that_entry(catalog, layout, accepted):
    store, one = MemoryStore(), noise("t", 0)
    name = str(EntryName(NOW_NS, 1, 7))
    put(store, one)
    refill(catalog, store, RebuildReport())
    if accepted == "before the record":
        accept(catalog, name, one)
    assert catalog.record_stored([record_of(name, one)]) == []
    if accepted == "after the record":
        accept(catalog, name, one)
    totals = catalog.totals()
    assert [totals[key] for key in ("accepted", "stored", "duplicates", "pending", "stored_bytes")] == [
        1,
        1,
        0,
        0,
        5,
    ]
    session = catalog.session("t", NOW_NS, 60)
    assert (session["successful"], session["pending"]) == (1, 0)
    assert catalog.state_of(name) == "stored"
    assert catalog.record_stored([record_of(name, one)]) == []
    refill(catalog, store, RebuildReport())
    assert catalog.totals()["stored"] == 1


def test_an_entry_of_the_same_content_as_another_entry_is_still_a_duplicate(catalog):
    one = noise("t", 0)
    first, second = (str(EntryName(NOW_NS + i, i, 7)) for i in (1, 2))
    catalog.record_stored([record_of(first, one)])
    assert catalog.record_stored([record_of(second, one)]) == [second]
    assert (catalog.totals()["stored"], catalog.totals()["duplicates"]) == (1, 1)
