"""The rules of a pair: .npy first, metadata last, never a metadata object without the .npy it describes."""

import contextlib
import gc
import sys
import threading
import weakref

import pytest

from ingestd.errors import ConflictError, StoreBusy, StoreCorrupt, StoreUnreachable
from ingestd.formats import metadata
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys, parse_key
from ingestd.storage.encoding import encode_pair, prepare_pair
from ingestd.storage.pair import PairResult, store_pair
from ingestd.storage.port import Body, StoreProfile, crc32c_base64
from ingestd.testing.frames import T0_NS, noise
from ingestd.testing.stores import MemoryStore, WeakStore


def pair_of(seed=0, **fields):
    return encode_pair(noise("t", seed=seed, n_samples=16, **fields), figures="none")[0]


KEYS = object_keys(pair_of().identity)


def test_the_metadata_is_made_once_when_it_is_first_asked_for():
    told = []
    pair = prepare_pair(noise("t", n_samples=16), figures="none", tell=told.append)
    assert not told
    pair.npy.meanwhile()
    assert told == [True, False]
    pair.npy.meanwhile()
    assert (pair.metadata, pair.content_crc) == (pair_of().metadata, pair_of().content_crc)
    assert pair.document == encode_pair(noise("t", n_samples=16), figures="none")[1]
    assert told == [True, False]


def test_a_pair_is_gone_with_its_last_user():
    """Not when garbage is collected next: a dozen frames would be held until then."""
    gc.disable()
    try:
        measurement = noise("t", n_samples=16)
        samples = measurement.samples
        references = sys.getrefcount(samples)
        pair = prepare_pair(measurement)
        store_pair(MemoryStore(), pair, "keep_both")
        assert sys.getrefcount(samples) > references
        gone = weakref.ref(pair)
        del pair
        assert gone() is None
        assert sys.getrefcount(samples) == references
    finally:
        gc.enable()


def test_a_store_that_has_no_use_for_the_time_stores_the_same():
    store = MemoryStore()
    store_pair(store, prepare_pair(noise("t", n_samples=16), figures="none"), "keep_both")
    assert store.get(KEYS.metadata, 10**6) == bytes(pair_of().metadata.parts[0])


class Died(BaseException):
    """The uploader was killed."""


class WatchedStore(MemoryStore):
    """Notes every request, looks at the bucket after each, and kills its caller at the one it is told to."""

    def __init__(self, profile=None):
        super().__init__()
        self.calls = []
        self.kill_at, self.moment = None, "before"
        self.excused = set()
        self._profile = profile or StoreProfile("memory", "crc32c", "if-none-match")

    @property
    def profile(self):
        return self._profile

    def _request(self, name, key, act):
        number = len(self.calls)
        self.calls.append((name, key.rsplit("/")[-1]))
        if number == self.kill_at and self.moment == "before":
            raise Died
        result = act()
        self.look()
        if number == self.kill_at:
            raise Died
        return result

    def put_new(self, key, body):
        return self._request("put_new", key, lambda: super(WatchedStore, self).put_new(key, body))

    def put(self, key, body):
        return self._request("put", key, lambda: super(WatchedStore, self).put(key, body))

    def head(self, key):
        return self._request("head", key, lambda: super(WatchedStore, self).head(key))

    def get(self, key, max_bytes):
        return self._request("get", key, lambda: super(WatchedStore, self).get(key, max_bytes))

    def delete(self, key):
        return self._request("delete", key, lambda: super(WatchedStore, self).delete(key))

    def look(self):
        """No metadata is without its .npy, at any moment."""
        for key, stored in list(self._objects.items()):
            kind = parse_key(key)
            if kind is not None and kind.is_metadata and key not in self.excused:
                npy = self._objects.get(object_keys(kind.identity, kind.copy).npy)
                assert npy is not None, f"{key} without its .npy"
                assert metadata.decode(stored.content)["crc32c"] == crc32c_base64(npy.crc32c), f"{key} lies"

    def pairs(self):
        """Content checksum of every whole pair, by the name of its metadata."""
        self.excused = set()
        self.look()
        found = {}
        for key, stored in self._objects.items():
            kind = parse_key(key)
            if kind is not None and kind.is_metadata:
                document = metadata.decode(stored.content)
                found[key.rsplit("/")[-1]] = (document["crc32c"], metadata.content(document))
        return found


def of(pair):
    return crc32c_base64(pair.npy.crc32c), pair.content


class TestRequests:
    """Which requests are made, in which order: each of them is time of the store."""

    def test_a_new_pair_is_two_requests(self):
        store = WatchedStore()
        outcome = store_pair(store, pair_of(), "keep_both")
        assert store.calls == [("put_new", "websdr_1.npy"), ("put_new", "websdr_1_metadata.json")]
        assert (outcome.result, outcome.copy, outcome.keys) == (PairResult.STORED, None, KEYS)
        assert outcome.etag == store.head(KEYS.npy).etag

    def test_a_duplicate_is_compared_and_nothing_is_replaced(self):
        store = WatchedStore()
        store_pair(store, pair_of(), "keep_both")
        store.calls.clear()
        outcome = store_pair(store, pair_of(), "keep_both")
        assert [name for name, _ in store.calls] == ["put_new", "head", "put_new", "get"]
        assert outcome.result is PairResult.REPEATED
        assert outcome.etag == store.head(KEYS.npy).etag

    def test_a_conflict_goes_under_eight_digits_of_its_own_content(self):
        store = WatchedStore()
        store_pair(store, pair_of(1), "keep_both")
        store.calls.clear()
        other = pair_of(2)
        copy = f"{other.content_crc:08x}"
        assert store_pair(store, other, "keep_both").copy == copy
        assert store.calls == [
            ("put_new", "websdr_1.npy"), ("head", "websdr_1.npy"),
            ("put_new", f"websdr_1.{copy}.npy"), ("put_new", f"websdr_1.{copy}_metadata.json"),
        ]  # fmt: skip

    def test_overwriting_removes_the_marker_first_and_writes_it_last(self):
        store = WatchedStore()
        store_pair(store, pair_of(1), "overwrite")
        store.calls.clear()
        assert store_pair(store, pair_of(2), "overwrite").result is PairResult.OVERWRITTEN
        assert store.calls[2:] == [
            ("delete", "websdr_1_metadata.json"), ("put", "websdr_1.npy"), ("put", "websdr_1_metadata.json"),
        ]  # fmt: skip

    @pytest.mark.parametrize("policy", ["reject", "overwrite"])
    def test_what_loses_by_the_policy_changes_nothing(self, policy):
        store = WatchedStore()
        store_pair(store, pair_of(1), policy)
        before = dict(store._objects)
        with contextlib.suppress(ConflictError):
            store_pair(store, pair_of(2), policy, is_newer=lambda: False)
        assert store._objects == before

    @pytest.mark.parametrize(
        ("profile", "policy", "held"),
        [
            (StoreProfile("memory", "crc32c", "if-none-match"), "keep_both", False),
            (StoreProfile("memory", "fdatasync", "link"), "reject", False),
            (StoreProfile("memory", "none", "head-first"), "keep_both", True),
            (StoreProfile("memory", "crc32c", "if-none-match"), "overwrite", True),
        ],
    )
    def test_the_identity_is_held_where_check_and_write_are_two_requests(self, profile, policy, held):
        store, holds = WatchedStore(profile), []

        @contextlib.contextmanager
        def lock(identity):
            holds.append(identity)
            yield
            assert store.calls[-1] == ("put_new", "websdr_1_metadata.json")

        store_pair(store, pair_of(), policy, lock=lock)
        assert holds == [pair_of().identity] * held


def scenes():
    """What is in the bucket, the policy, and the pairs that must be there in the end."""
    mine, other = pair_of(1), pair_of(2)
    return {
        "free": ((), "keep_both", [mine]),
        "repeated": ((mine,), "keep_both", [mine]),
        "taken": ((other,), "keep_both", [other, mine]),
        "taken-twice": ((other, mine), "keep_both", [other, mine]),
        "overwrite": ((other,), "overwrite", [mine]),
        "overwrite-free": ((), "overwrite", [mine]),
    }


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("scene", scenes())
def test_an_uploader_killed_at_any_request_leaves_no_lie_and_the_next_one_finishes(scene, moment):
    there, policy, expected = scenes()[scene]
    for kill_at in range(8):
        store = WatchedStore()
        for pair in there:
            store_pair(store, pair, "keep_both")
        store.calls.clear()
        store.kill_at, store.moment = kill_at, moment
        with contextlib.suppress(Died):
            store_pair(store, pair_of(1), policy)
        died = len(store.calls) == kill_at + 1
        store.kill_at = None
        store_pair(store, pair_of(1), policy)
        assert sorted(store.pairs().values(), key=repr) == sorted(map(of, expected), key=repr), kill_at
    assert not died, "more requests than were killed at"


class TestRemovedNpy:
    """Somebody removes a .npy and leaves its metadata: it describes nothing, and must not come to describe ours."""

    @staticmethod
    def bucket():
        store = WatchedStore()
        store_pair(store, pair_of(1), "keep_both")
        store.excused = {KEYS.metadata}
        MemoryStore.delete(store, KEYS.npy)
        return store

    def test_other_content_brings_its_own_metadata(self):
        store = self.bucket()
        assert store_pair(store, pair_of(2), "keep_both").result is PairResult.STORED
        assert store.pairs() == {"websdr_1_metadata.json": of(pair_of(2))}

    def test_other_samples_with_the_same_stamp_do_too(self):
        store = self.bucket()
        other = pair_of(2, timestamp_ns=T0_NS + 1)
        assert other.content == pair_of(1).content
        store_pair(store, other, "keep_both")
        assert store.pairs() == {"websdr_1_metadata.json": of(other)}

    def test_the_same_content_heals_it(self):
        store = self.bucket()
        store_pair(store, pair_of(1), "keep_both")
        assert store.pairs() == {"websdr_1_metadata.json": of(pair_of(1))}

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_death_in_between_changes_nothing_of_that(self, moment):
        for kill_at in range(5):
            store = self.bucket()
            store.calls.clear()
            store.kill_at, store.moment = kill_at, moment
            with contextlib.suppress(Died):
                store_pair(store, pair_of(2), "keep_both")
            store.kill_at = None
            store_pair(store, pair_of(2), "keep_both")
            assert store.pairs() == {"websdr_1_metadata.json": of(pair_of(2))}, kill_at


class TestForeignMetadata:
    """A metadata object that is none of ours is kept as it is; ours goes beside it."""

    @pytest.mark.parametrize(
        "content",
        [b"", b"not json", b"[]", b'{"timestamp_ns": "soon"}', b'{"timestamp_ns": 1}', bytes(metadata.MAX_DOCUMENT_BYTES + 1)],
        ids=["empty", "text", "list", "wrong", "bare", "long"],
    )  # fmt: skip
    def test_it_blocks_nobody_and_is_not_replaced(self, content):
        store = MemoryStore()
        pair = pair_of()
        store.put_new(KEYS.npy, pair.npy)
        store.put_new(KEYS.metadata, Body((content,), crc32c(content)))
        assert store_pair(store, pair, "keep_both").result is PairResult.CONFLICT_STORED
        assert store.get(KEYS.metadata, 2**20) == content

    def test_a_document_of_the_same_measurement_without_a_checksum_is_a_duplicate(self):
        store, pair = MemoryStore(), pair_of()
        document = metadata.decode(bytes(pair.metadata.parts[0]))
        del document["crc32c"]
        content = metadata.encode(document)
        store.put_new(KEYS.npy, pair.npy)
        store.put_new(KEYS.metadata, Body((content,), crc32c(content)))
        assert store_pair(store, pair, "keep_both").result is PairResult.REPEATED
        assert store.get(KEYS.metadata, 2**20) == content

    def test_a_reply_that_was_cut_is_tried_again_and_makes_no_conflict(self):
        class Cut(MemoryStore):
            def get(self, key, max_bytes):
                raise StoreCorrupt("the reply is cut off")

        store = Cut()
        store_pair(store, pair_of(), "keep_both")
        with pytest.raises(StoreCorrupt, match="cut off"):
            store_pair(store, pair_of(), "keep_both")
        assert len(store._objects) == 2


def test_an_object_that_is_deleted_while_it_is_compared_is_tried_again():
    class Vanishing(MemoryStore):
        gone = ""

        def head(self, key):
            return None if key.endswith(self.gone) else super().head(key)

        def get(self, key, max_bytes):
            return None if key.endswith(self.gone) else super().get(key, max_bytes)

    store = Vanishing()
    store.gone = "nothing"
    store_pair(store, pair_of(), "keep_both")
    for store.gone in (".npy", ".json"):
        with pytest.raises(StoreBusy, match="somebody deletes"):
            store_pair(store, pair_of(), "keep_both")


def test_two_contents_with_the_same_digits_are_an_error_and_never_one_object():
    store, other = MemoryStore(), pair_of(2)
    store_pair(store, pair_of(1), "keep_both")
    keys = object_keys(other.identity, f"{other.content_crc:08x}")
    store.put_new(keys.npy, pair_of(3).npy)
    with pytest.raises(ConflictError, match="have the checksum"):
        store_pair(store, other, "keep_both")
    assert store.get(keys.npy, 2**20) == b"".join(map(bytes, pair_of(3).npy.parts))


@pytest.mark.parametrize("failing", ["head", "get"])
def test_a_comparison_that_fails_is_no_conflict(failing):
    class Failing(MemoryStore):
        def head(self, key):
            if failing == "head":
                raise StoreUnreachable("connection lost")
            return super().head(key)

        def get(self, key, max_bytes):
            raise StoreUnreachable("connection lost")

    store = Failing()
    store_pair(store, pair_of(), "keep_both")
    with pytest.raises(StoreUnreachable):
        store_pair(store, pair_of(), "keep_both")
    assert len(store._objects) == 2


def test_without_the_lock_a_store_that_cannot_decide_loses_a_content():
    """The control: that the races of the contract test can fail."""
    barrier = threading.Barrier(2)

    def between():
        # The second object of each finds the barrier broken, or not, and goes on in either case.
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(1)

    store = WeakStore(between=between)
    threads = [
        threading.Thread(target=store_pair, args=(store, pair_of(seed), "keep_both")) for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len([info for info in store.list("sessions/") if info.key.endswith(".npy")]) == 1
