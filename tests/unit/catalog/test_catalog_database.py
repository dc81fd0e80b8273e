"""A catalog that is missing, cut, flipped or replaced: a clear error or a right answer, and a new one in its place."""

import contextlib
import random
import sqlite3

import pytest

from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, create
from ingestd.errors import CatalogCorrupt, CatalogError
from ingestd.formats import metadata
from ingestd.testing.frames import noise


def fill(path, n=200):
    create(path)
    with Catalog.open(path) as catalog:
        for i in range(n):
            entry = AcceptedEntry(
                f"{i:020d}-00000000-00000000.v1", i, 1, metadata.accepted_document(noise("t", i, n_samples=1))
            )
            catalog.record_accepted(AcceptedBatch(entries=[entry]))


def ask_everything(catalog):
    catalog.sessions(100)
    catalog.measurements({}, 1000)
    catalog.confirm("n", 1)
    catalog.nodes()
    catalog.rejected(10)
    catalog.totals()
    catalog.session("t", 0, 60)


def test_a_new_catalog_is_made_once(tmp_path):
    path = str(tmp_path / "c")
    assert create(path) is True
    assert create(path) is False
    with Catalog.open(path) as catalog:
        boot = catalog.boot()
    assert create(path) is False
    with Catalog.open(path) as catalog:
        assert catalog.boot() == boot


def test_none_is_corrupt_to_a_reader_and_made_by_create(tmp_path):
    with pytest.raises(CatalogCorrupt):
        Catalog.open(str(tmp_path / "none"))


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_catalog_is_set_aside(tmp_path, content):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(CatalogCorrupt):
        ask_everything(Catalog.open(str(path)))
    assert create(str(path)) is True
    assert (tmp_path / "c.corrupt").read_bytes() == content
    with Catalog.open(str(path)) as catalog:
        assert catalog.totals()["accepted"] == 0


def test_another_version_is_set_aside(tmp_path):
    path = str(tmp_path / "c")
    fill(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert create(path) is True


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_or_flipped_file_gives_a_catalog_error_or_an_answer_and_nothing_else(tmp_path, seed):
    path = tmp_path / "c"
    fill(str(path), 60)
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = bytearray(path.read_bytes())
    rng = random.Random(seed)
    if seed % 2:
        del whole[rng.randrange(len(whole)) :]
    else:
        for _ in range(40):
            whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(whole)
    for side in ("-wal", "-shm"):
        (tmp_path / f"c{side}").unlink(missing_ok=True)
    # Anything but a CatalogError ends this test.
    with contextlib.suppress(CatalogError), Catalog.open(str(path)) as catalog:
        ask_everything(catalog)
    create(str(path))
    with Catalog.open(str(path)) as catalog:
        assert catalog.boot()


def test_an_open_catalog_notices_that_the_file_was_replaced(tmp_path):
    path = str(tmp_path / "c")
    fill(path, 3)
    with Catalog.open(path) as catalog:
        boot = catalog.boot()
        (tmp_path / "c").write_bytes(b"broken")
        assert create(path) is True
        assert catalog.boot() != boot
        assert catalog.totals()["accepted"] == 0


def test_a_reader_cannot_write(tmp_path):
    path = str(tmp_path / "c")
    fill(path, 1)
    with Catalog.open(path, readonly=True) as catalog, pytest.raises(CatalogError):
        catalog.record_accepted(AcceptedBatch(counters={"received": 1}))
