"""The catalog's claims: every stored row once, in order, and only those."""

import sqlite3

import pytest

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, FailedEntry, StoredEntry, create, truth
from ingestd.errors import CatalogCorrupt
from ingestd.formats import metadata
from ingestd.formats.measurement import object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.testing.frames import T0_NS, noise

T_NS = 1_790_000_000 * 10**9


@pytest.fixture
def path(tmp_path):
    made = str(tmp_path / "catalog.sqlite3")
    create(made)
    return made


@pytest.fixture
def catalog(path):
    with Catalog.open(path, bucket="heimdall-raw-iq") as opened:
        yield opened


def accept(catalog, name, one):
    entry = AcceptedEntry(name, T_NS, 10, metadata.accepted_document(one))
    catalog.record_accepted(AcceptedBatch(entries=[entry]))


def store(catalog, name, one, at_ns=T_NS, copy=None):
    pair, document = encode_pair(one, figures="none")
    keys = object_keys(one.identity, copy)
    entry = StoredEntry(name, document, keys, copy, pair.content_crc, "etag", at_ns, at_ns, 10)
    catalog.record_stored([entry])
    return document


def test_a_stored_row_tells_whose_it_is_where_it_lies_and_what_it_holds(catalog):
    document = store(catalog, "n", noise("t", 7, chunk=3), T_NS + 5)
    (row,) = catalog.stored_rows()
    assert (row.name, tuple(row.identity), row.copy) == ("n", ("t", 7, 3), None)
    assert (row.etag, row.stored_at_ns, row.document) == ("etag", T_NS + 5, document)


def test_a_kept_conflict_has_its_suffix_and_a_measurement_without_chunk_none(catalog):
    store(catalog, "a", noise("t"))
    store(catalog, "b", noise("t", seed=1), copy="0a1b2c3d")
    assert [(row.copy, row.identity.chunk) for row in catalog.stored_rows()] == [
        (None, None),
        ("0a1b2c3d", None),
    ]


def test_entries_that_wait_or_failed_are_no_claim(catalog):
    accept(catalog, "w", noise("w"))
    catalog.record_failed(
        FailedEntry("f", metadata.accepted_document(noise("f")), "conflict", "x", T_NS, T_NS, 1)
    )
    store(catalog, "s", noise("s"))
    assert [row.name for row in catalog.stored_rows()] == ["s"]
    assert catalog.stored_count() == 1


def test_pages_join_without_gap_or_repeat(catalog, monkeypatch):
    monkeypatch.setattr(truth, "_PAGE_COUNT", 3)
    for count in range(8):
        assert len({row.name for row in catalog.stored_rows()}) == len(list(catalog.stored_rows())) == count
        store(catalog, f"n{count}", noise("t", count))
    rows = list(catalog.stored_rows())
    assert [row.position for row in rows] == sorted({row.position for row in rows})
    assert [row.name for row in catalog.stored_rows(after=rows[4].position)] == ["n5", "n6", "n7"]


def test_since_takes_rows_of_that_moment_and_later(catalog):
    for i in range(3):
        store(catalog, f"n{i}", noise("t", i), T_NS + i)
    assert [row.name for row in catalog.stored_rows(since_ns=T_NS + 1)] == ["n1", "n2"]
    assert [catalog.stored_count(T_NS + i) for i in range(4)] == [3, 2, 1, 0]


def test_a_row_that_was_superseded_since_it_was_read_is_no_claim_any_more(catalog):
    store(catalog, "00000000000000000001-old", noise("t"))
    (row,) = catalog.stored_rows()
    assert catalog.is_still_stored(row)
    store(catalog, "00000000000000000002-new", noise("t", seed=1), T_NS + 1)
    assert not catalog.is_still_stored(row)
    assert len(list(catalog.stored_rows())) == 1


@pytest.mark.parametrize("text", ["[]", "{", "7"])
def test_a_document_that_is_none_is_a_broken_catalog(catalog, path, text):
    store(catalog, "n", noise("t"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET document = ?", (text,))
    connection.close()
    with pytest.raises(CatalogCorrupt):
        list(catalog.stored_rows())


def test_a_missing_catalog_is_named(tmp_path):
    path = str(tmp_path / "none.sqlite3")
    with pytest.raises(CatalogCorrupt, match=r"none\.sqlite3: not there"):
        Catalog.open(path, readonly=True)


def test_an_identity_is_awaited_while_an_entry_of_it_is_accepted(catalog):
    one = noise("t", chunk=3)
    assert not catalog.is_awaited(one.identity)
    accept(catalog, "n", one)
    assert catalog.is_awaited(one.identity)
    assert not catalog.is_awaited(noise("t").identity)
    store(catalog, "n", one)
    assert not catalog.is_awaited(one.identity)


@pytest.mark.parametrize(
    ("stamp_ns", "expected"),
    [(T0_NS, True), (None, True), (T0_NS + 1, False), ("x", False), (float(T0_NS), False), (True, False)],
)
def test_an_entry_is_awaited_under_its_own_stamp_only(catalog, stamp_ns, expected):
    accept(catalog, "n", noise("t"))
    assert catalog.is_awaited(noise("t").identity, stamp_ns) is expected
