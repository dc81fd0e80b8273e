"""The catalog's word held to the directory store, and what differs put right from kept copies."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from ingestd.catalog import Catalog, StoredEntry, create
from ingestd.config import load
from ingestd.errors import CatalogCorrupt, StoreBusy, StoreMisconfigured, StoreUnreachable
from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.roles import verification
from ingestd.roles.book import catalog_path
from ingestd.roles.verification import claimed_pair, verify
from ingestd.spool import EntryName, SpoolLayout
from ingestd.storage.directory import DirectoryStore
from ingestd.storage.encoding import encode_pair
from ingestd.storage.factory import open_store
from ingestd.storage.pair import store_pair
from ingestd.storage.verify import Damage
from ingestd.testing.frames import noise

T_NS = 1_790_000_000 * 10**9


class Kept:
    """A state directory as a daemon leaves it, with the entries of what is stored in retained/."""

    def __init__(self, directory):
        self.settings = load(overrides={"state_directory": str(directory)}, environ={})
        self.layout = SpoolLayout(str(directory))
        self.layout.make()
        self.catalog_path = catalog_path(str(directory))
        create(self.catalog_path)
        self.store = open_store(self.settings)
        self.store.probe()
        self._numbers = iter(range(1, 1000))
        self.found = []

    def add(self, one, policy="keep_both", *, record=True):
        """Store a measurement; returns its keys and the path of its kept entry."""
        frame, number = wire.encode(one), next(self._numbers)
        name = str(EntryName(T_NS + number, number, crc32c(frame)))
        kept = Path(self.layout.retained, name)
        kept.write_bytes(frame)
        pair, document = encode_pair(wire.parse(frame), figures="none")
        outcome = store_pair(self.store, pair, policy)
        at_ns = T_NS + number
        if record:
            with Catalog.open(self.catalog_path) as catalog:
                catalog.record_stored(
                    [
                        StoredEntry(
                            name, document, outcome.keys, outcome.copy, pair.content_crc, outcome.etag, at_ns, at_ns, 9
                        )
                    ]
                )  # fmt: skip
        return outcome.keys, kept

    def path(self, key):
        return Path(self.settings.storage.directory, self.store.bucket, key)

    def verify(self, **options):
        self.found = []
        return verify(self.settings, tell=self.found.append, **options)

    def why_not(self):
        return {checked.finding.key: checked.why_not for checked in self.found if not checked.repaired}

    def damage(self):
        return {checked.finding.key: checked.finding.damage for checked in self.found}

    def change_rows(self, **columns):
        with sqlite3.connect(self.catalog_path) as connection:
            for column, value in columns.items():
                connection.execute(f"UPDATE entries SET {column} = ?", (value,))
        connection.close()


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(verification, "_BUSY_PAUSE_S", 0.0)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_store_that_holds_what_is_said_has_nothing_to_report(kept):
    for i in range(4):
        kept.add(noise("t", i))
    kept.add(noise("t", 0, seed=5))
    report = kept.verify(deep=True, repair=True)
    assert (report.checked, report.of, report.found, report.left) == (5, 5, 0, 0)
    assert kept.found == []


def test_missing_and_different_objects_are_named_and_nothing_else(kept):
    keys = [kept.add(noise("t", i))[0] for i in range(4)]
    kept.path(keys[0].npy).unlink()
    flip(kept.path(keys[1].npy))
    kept.path(keys[2].metadata).unlink()
    report = kept.verify()
    assert kept.damage() == {
        keys[0].npy: Damage.MISSING,
        keys[1].npy: Damage.DIFFERS,
        keys[2].metadata: Damage.MISSING,
    }
    assert (report.missing, report.differing, report.repaired, report.left) == (2, 1, 0, 3)
    assert all(checked.repaired is None for checked in kept.found)


@pytest.mark.parametrize("spoil", [Path.unlink, flip, lambda path: path.write_bytes(b"")])
def test_repair_brings_every_byte_back_of_a_pair_and_of_a_kept_conflict(kept, spoil):
    pairs = [kept.add(noise("t", 1))[0], kept.add(noise("t", 1, seed=9, chunk=4))[0]]
    pairs.append(kept.add(noise("t", 1, seed=7))[0])
    paths = [kept.path(key) for keys in pairs for key in keys]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        spoil(path)
    report = kept.verify(repair=True)
    assert (report.found, report.repaired, report.left) == (6, 6, 0)
    assert [path.read_bytes() for path in paths] == before
    assert kept.verify(deep=True).found == 0


def test_without_a_kept_copy_the_samples_stay_lost_and_it_says_why(kept):
    keys, entry = kept.add(noise("t"))
    entry.unlink()
    for key in keys:
        kept.path(key).unlink()
    report = kept.verify(repair=True)
    assert (report.missing, report.repaired, report.left) == (2, 0, 2)
    assert "spool.retain_s" in kept.why_not()[keys.npy]
    assert kept.why_not()[keys.metadata] == "its .npy cannot be repaired"
    assert not kept.path(keys.metadata).exists(), "metadata alone would say that the samples are there"


def test_a_lost_metadata_object_needs_no_kept_copy(kept):
    keys, entry = kept.add(noise("t"))
    entry.unlink()
    before = kept.path(keys.metadata).read_bytes()
    kept.path(keys.metadata).unlink()
    assert kept.verify(repair=True).left == 0
    assert kept.path(keys.metadata).read_bytes() == before


def test_a_kept_copy_that_is_damaged_itself_repairs_nothing(kept):
    keys, entry = kept.add(noise("t"))
    flip(entry)
    kept.path(keys.npy).unlink()
    assert kept.verify(repair=True).left == 1
    assert kept.why_not() == {keys.npy: "the kept copy of its entry is damaged itself"}
    assert not kept.path(keys.npy).exists()


def test_a_row_made_from_the_bucket_has_no_entry_to_repair_from(kept):
    keys, _ = kept.add(noise("t"))
    kept.change_rows(name="00000000000000000001-bucket:x")
    kept.path(keys.npy).unlink()
    assert kept.verify(repair=True).left == 1
    assert "made from the bucket" in kept.why_not()[keys.npy]


def test_a_kept_copy_with_other_samples_repairs_nothing(kept):
    keys, entry = kept.add(noise("t"))
    _, other = kept.add(noise("u"))
    frame = wire.encode(noise("t", seed=4))
    name = str(EntryName(T_NS, 99, crc32c(frame)))
    entry.with_name(name).write_bytes(frame)
    other.unlink()
    with sqlite3.connect(kept.catalog_path) as connection:
        connection.execute("UPDATE entries SET name = ? WHERE task_id = 't'", (name,))
    connection.close()
    kept.path(keys.npy).unlink()
    assert kept.verify(repair=True).left == 1
    assert kept.why_not() == {keys.npy: "the kept copy of its entry has other samples"}


def test_another_measurement_that_took_the_name_is_reported_and_not_overwritten(kept):
    keys, _ = kept.add(noise("t"))
    kept.add(noise("t", seed=3), policy="overwrite", record=False)
    newer = [kept.path(key).read_bytes() for key in keys]
    report = kept.verify(repair=True)
    assert (report.differing, report.repaired, report.left) == (2, 0, 2)
    assert set(kept.why_not().values()) == {"another measurement has the name"}
    assert [kept.path(key).read_bytes() for key in keys] == newer


def test_an_object_that_takes_the_name_during_the_repair_is_not_overwritten_and_not_called_repaired(
    kept, monkeypatch
):
    keys, _ = kept.add(noise("t"))
    kept.path(keys.npy).unlink()
    put_new = DirectoryStore.put_new

    def late(store, key, body):
        kept.path(key).write_bytes(b"somebody else's")
        return put_new(store, key, body)

    monkeypatch.setattr(DirectoryStore, "put_new", late)
    assert kept.verify(repair=True).left == 1
    assert kept.why_not() == {keys.npy: "something else has the name by now"}
    assert kept.path(keys.npy).read_bytes() == b"somebody else's"


def test_what_was_superseded_since_its_row_was_read_is_no_finding(kept, monkeypatch):
    kept.add(noise("t"))
    check_pair = verification.check_pair

    def late(store, pair, **options):
        if len(list(Path(kept.layout.retained).iterdir())) == 1:
            kept.add(noise("t", seed=3), policy="overwrite")
        return check_pair(store, pair, **options)

    monkeypatch.setattr(verification, "check_pair", late)
    assert kept.verify(repair=True).found == 0


def test_only_what_was_stored_since_is_looked_at(kept):
    keys = [kept.add(noise("t", i))[0] for i in range(3)]
    for one in keys:
        kept.path(one.npy).unlink()
    report = kept.verify(since_ns=T_NS + 2)
    assert (report.checked, report.of) == (2, 2)
    assert set(kept.damage()) == {keys[1].npy, keys[2].npy}


def test_one_object_that_cannot_be_read_does_not_end_the_search(kept):
    keys = [kept.add(noise("t", i))[0] for i in range(2)]
    kept.path(keys[0].npy).unlink()
    kept.path(keys[0].npy).mkdir()
    kept.path(keys[1].npy).unlink()
    report = kept.verify()
    assert kept.damage() == {keys[0].npy: Damage.UNREADABLE, keys[1].npy: Damage.MISSING}
    assert (report.unreadable, report.missing) == (1, 1)


def test_a_busy_store_is_asked_again_before_an_object_is_called_unreadable(kept, monkeypatch):
    kept.add(noise("t"))
    errors = [StoreBusy("later")] * 3
    head = DirectoryStore.head

    def busy(store, key):
        if errors:
            raise errors.pop()
        return head(store, key)

    monkeypatch.setattr(DirectoryStore, "head", busy)
    assert kept.verify().found == 0
    assert not errors


def test_a_store_that_is_down_is_an_error_and_no_finding(kept, monkeypatch):
    kept.add(noise("t"))

    def down(*_):
        raise StoreUnreachable("down")

    monkeypatch.setattr(DirectoryStore, "head", down)
    monkeypatch.setattr(verification, "open_store", lambda _settings: kept.store)
    monkeypatch.setattr(DirectoryStore, "probe", lambda *_, **__: None)
    monkeypatch.setattr(DirectoryStore, "check", down)
    with pytest.raises(StoreUnreachable):
        kept.verify(repair=True)
    assert kept.found == []


def test_a_bucket_that_is_gone_is_an_error_and_is_not_made_again(kept):
    kept.add(noise("t"))
    bucket = kept.path("x").parent
    os.rename(bucket, f"{bucket}-away")
    with pytest.raises(StoreMisconfigured):
        kept.verify(repair=True)
    assert not bucket.exists()


def test_a_missing_catalog_is_an_error_that_names_it(kept):
    os.unlink(kept.catalog_path)
    with pytest.raises(CatalogCorrupt, match=r"catalog\.sqlite3: not there"):
        kept.verify()


WRONG_DOCUMENTS = [
    {"size_bytes": None},
    {"size_bytes": True},
    {"size_bytes": "8"},
    {"crc32c": None},
    {"crc32c": "é"},
    {"crc32c": "AAAA"},
    {"crc32c": "!"},
    {"snr_db": float("nan")},
]


@pytest.mark.parametrize("change", WRONG_DOCUMENTS, ids=str)
def test_a_row_that_does_not_say_what_should_be_there_is_a_finding(kept, change):
    one = noise("t")
    keys, _ = kept.add(one)
    _, document = encode_pair(one, figures="none")
    kept.change_rows(document=json.dumps(document | change))
    with Catalog.open(kept.catalog_path) as catalog:
        (row,) = catalog.stored_rows()
    assert claimed_pair(row) is None
    report = kept.verify(repair=True)
    assert (report.unreadable, report.repaired, report.left) == (1, 0, 1)
    assert kept.damage() == {object_keys(one.identity).npy: Damage.UNREADABLE}
    assert kept.path(keys.npy).exists()


def test_progress_is_told_after_every_pair(kept):
    for i in range(3):
        kept.add(noise("t", i))
    told = []
    kept.verify(progress=lambda report: told.append((report.checked, report.of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
