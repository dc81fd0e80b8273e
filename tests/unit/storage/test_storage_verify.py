"""What is said to be in a store is held to what is there: missing, different, or not given out."""

from dataclasses import replace

import pytest

from ingestd.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.storage.verify import ClaimedObject, ClaimedPair, Damage, check_pair
from ingestd.testing.frames import noise
from ingestd.testing.stores import FaultyStore, MemoryStore

KEYS = object_keys(noise("t").identity)


class RottenStore(MemoryStore):
    """Its word stays what it was, whatever becomes of the bytes."""

    def __init__(self):
        super().__init__()
        self.rotten = {}

    def get(self, key, max_bytes):
        return self.rotten.get(key, super().get(key, max_bytes))


class WordlessStore(FaultyStore):
    """Keeps no checksum, and its ETags are its own affair, as with encrypted objects."""

    def head(self, key):
        info = super().head(key)
        return None if info is None else replace(info, crc32c=None, etag=f"e-{info.etag}")


def stored(store):
    pair, _ = encode_pair(noise("t"), figures="none")
    outcome = store_pair(store, pair, "keep_both")
    store.calls = []
    (document,) = pair.metadata.parts
    return ClaimedPair(
        KEYS,
        ClaimedObject(KEYS.npy, pair.npy.size_bytes, pair.npy.crc32c, outcome.etag),
        ClaimedObject(KEYS.metadata, len(document), pair.metadata.crc32c),
        document,
    )


def put(store, key, content):
    store.put(key, Body((content,), crc32c(content)))


def flipped(content):
    return bytes([*content[:-1], content[-1] ^ 1])


def found(store, pair, **options):
    return [(f.key, f.damage) for f in check_pair(store, pair, **{"deep": False} | options)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("make", [MemoryStore, RottenStore, WordlessStore])
def test_a_pair_that_is_what_it_is_said_to_be_has_no_findings(make, deep):
    store = make()
    assert found(store, stored(store), deep=deep) == []


@pytest.mark.parametrize("key", KEYS)
def test_a_deleted_object_is_missing(key):
    store = MemoryStore()
    pair = stored(store)
    store.delete(key)
    assert found(store, pair) == [(key, Damage.MISSING)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("change", [flipped, lambda content: content[:-1]], ids=["bit", "length"])
@pytest.mark.parametrize("make", [MemoryStore, WordlessStore])
def test_another_object_under_the_key_differs(make, change, key):
    store = make()
    pair = stored(store)
    put(store, key, change(store.get(key, 2**20)))
    assert found(store, pair) == [(key, Damage.DIFFERS)]


def test_rotten_bytes_under_a_good_word_are_found_by_reading_only():
    store = RottenStore()
    pair = stored(store)
    store.rotten[KEYS.npy] = flipped(store.get(KEYS.npy, 2**20))
    assert found(store, pair) == []
    assert found(store, pair, deep=True) == [(KEYS.npy, Damage.DIFFERS)]


def test_bytes_that_are_gone_when_they_are_read_are_a_difference():
    store = RottenStore()
    pair = stored(store)
    store.rotten[KEYS.npy] = None
    (finding,) = check_pair(store, pair, deep=True)
    assert (finding.key, finding.detail) == (KEYS.npy, "gone while it was read")


def test_another_etag_alone_is_no_difference_because_the_bytes_decide():
    store = WordlessStore()
    pair = stored(store)
    assert found(store, pair) == []
    assert ("get", KEYS.npy) in store.calls


def test_an_etag_that_is_the_same_spares_the_reading_of_the_samples():
    store = WordlessStore()
    pair = stored(store)
    pair = replace(pair, npy=replace(pair.npy, etag=f"e-{pair.npy.etag}"))
    assert found(store, pair) == []
    assert [key for name, key in store.calls if name == "get"] == [KEYS.metadata]


@pytest.mark.parametrize("error", [StoreCorrupt("cut"), StoreRefused("400")])
def test_an_object_that_the_store_does_not_give_out_is_unreadable_and_the_other_is_checked_too(error):
    store = FaultyStore()
    pair = stored(store)
    store.delete(KEYS.metadata)
    store.before["head"] = [error]
    assert found(store, pair) == [(KEYS.npy, Damage.UNREADABLE), (KEYS.metadata, Damage.MISSING)]


@pytest.mark.parametrize("kind", [StoreBusy, StoreUnreachable, StoreDenied])
def test_a_store_that_fails_says_nothing_about_an_object_unless_it_is_known_to_be_well(kind):
    store = FaultyStore()
    pair = stored(store)
    store.before["head"] = [kind("no")]
    with pytest.raises(kind):
        check_pair(store, pair, deep=False)
    store.before["head"] = [kind("no")]
    assert found(store, pair, insist=True) == [(KEYS.npy, Damage.UNREADABLE)]


def test_a_bucket_that_is_gone_is_never_a_missing_object():
    store = FaultyStore()
    pair = stored(store)
    store.before["head"] = [StoreMisconfigured("bucket gone")]
    with pytest.raises(StoreMisconfigured):
        check_pair(store, pair, deep=False, insist=True)
