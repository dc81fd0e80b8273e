"""The contract of the store port, on each store: directory, memory, MinIO asked in both ways, a weak server's double."""

import threading
import time
import urllib.request
from pathlib import Path

import pytest

from ingestd.errors import (
    ConflictError,
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats import frame as wire
from ingestd.formats import metadata, npy
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Measurement, object_keys, parse_key
from ingestd.storage.directory import DirectoryStore
from ingestd.storage.encoding import encode_pair
from ingestd.storage.http import Timing
from ingestd.storage.keys import PROBE_KEY
from ingestd.storage.locks import IdentityLocks
from ingestd.storage.minio import MinioStore
from ingestd.storage.pair import PairResult, store_pair
from ingestd.storage.port import Body, StoreProfile, crc32c_base64
from ingestd.testing.frames import noise
from ingestd.testing.stores import FaultyStore, MemoryStore, WeakStore
from ingestd.testing.waiting import wait_until

MINIO = [pytest.param(kind, marks=pytest.mark.minio) for kind in ("minio", "minio-head-first")]
#: Enough for a server on the same machine.
QUICK = Timing(base_s=1.0, progress_s=0.3, connect_s=0.5)

KINDS = ["directory", "memory", "weak", *MINIO]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    if request.param.startswith("minio"):
        made = request.getfixturevalue("minio_store")
        if request.param == "minio-head-first":
            # As it would be used if it ignored both If-None-Match and the checksum header.
            made._profile = StoreProfile("minio", "content-md5", "head-first")
        yield made
        return
    made = {
        "directory": lambda: DirectoryStore(tmp_path / "objects", "heimdall-raw-iq"),
        "memory": MemoryStore,
        "weak": lambda: WeakStore(between=lambda: threading.Event().wait(0.002)),
    }[request.param]()
    made.probe()
    yield made
    made.close()


@pytest.fixture
def lock(tmp_path):
    return IdentityLocks(str(tmp_path / "locks")).hold


def body(content=b"content", crc=None):
    return Body((content[:3], memoryview(content)[3:]), crc32c(content) if crc is None else crc)


class TestObjects:
    def test_a_new_name_is_created_once_and_never_overwritten(self, store):
        first = store.put_new("sessions/t/a", body(b"first"))
        assert first.created
        assert not store.put_new("sessions/t/a", body(b"other")).created
        assert store.get("sessions/t/a", 100) == b"first"

    def test_put_replaces(self, store):
        store.put_new("k", body(b"first"))
        assert store.put("k", body(b"second"))
        assert store.get("k", 100) == b"second"

    def test_head_tells_size_and_checksum_and_same_compares(self, store):
        store.put_new("k", body(b"0123456789"))
        info = store.head("k")
        assert (info.key, info.size_bytes) == ("k", 10)
        # A checksum that was not sent is not kept.
        kept = store.profile.checksum != "content-md5"
        assert info.crc32c == (crc32c(b"0123456789") if kept else None)
        assert info.etag
        assert info.last_modified_ns > 1_600_000_000 * 10**9
        assert store.same(info, body(b"0123456789"))
        assert not store.same(info, body(b"0123456788"))
        assert not store.same(info, body(b"012345678"))

    def test_nothing_is_nothing(self, store):
        assert store.head("sessions/none") is None
        assert store.get("sessions/none", 10) is None
        store.delete("sessions/none")
        assert list(store.list("sessions/none")) == []

    def test_a_longer_object_than_asked_for_is_corrupt(self, store):
        store.put_new("k", body(b"0123456789"))
        with pytest.raises(StoreCorrupt):
            store.get("k", 9)

    def test_delete_removes(self, store):
        store.put_new("k", body())
        store.delete("k")
        assert store.head("k") is None
        assert store.put_new("k", body(b"again")).created

    def test_listing_is_ordered_and_bounded_by_prefix_and_start(self, store):
        keys = ["sessions/a/websdr_1.npy", "sessions/a/websdr_1_000001.npy", "sessions/a/websdr_1_metadata.json",
                "sessions/a.b/x", "sessions/ab/x", "sessions/b/x", "other/x"]  # fmt: skip
        for key in keys:
            store.put_new(key, body(key.encode()))
        ours = sorted(key for key in keys if key.startswith("sessions/"))
        assert [info.key for info in store.list("sessions/")] == ours
        assert [info.key for info in store.list("sessions/a/")] == sorted(keys[:3])
        assert [info.key for info in store.list("sessions/a/websdr_1_")] == sorted(keys[1:3])
        assert [info.key for info in store.list("sessions/", start_after=ours[2])] == ours[3:]
        assert {info.size_bytes for info in store.list("other/")} == {len("other/x")}

    def test_what_is_made_block_by_block_is_stored_like_what_is_in_memory(self, store):
        made = npy.encode(Measurement("t", 1, bytes(range(256)) * 9000, datatype="cu8"))
        assert isinstance(made.payload, npy.Converted)
        late = Body(made.parts(), made.crc32c)
        content = b"".join(map(bytes, late.blocks()))
        assert late.size_bytes == len(content) > 8 * 2**20
        assert store.put_new("late", late).created
        assert store.get("late", len(content)) == content
        assert not store.put_new("late", late).created
        assert store.same(store.head("late"), late)
        # And again, over what is there.
        assert store.put("late", late)
        assert store.get("late", len(content)) == content

    def test_an_empty_object_is_an_object(self, store):
        assert store.put_new("empty", Body((b"",), 0)).created
        assert store.get("empty", 10) == b""

    @pytest.mark.parametrize(
        "key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\nb", "a" * 300, "a/" * 600 + "b"]
    )
    def test_a_key_that_is_no_name_is_refused_before_anything_happens(self, store, key):
        for act in (lambda: store.put_new(key, body()), lambda: store.get(key, 10), lambda: store.head(key)):
            with pytest.raises(StoreRefused):
                act()

    def test_the_winner_and_the_loser_are_told_the_same_etag_as_head_tells(self, store):
        first = store.put_new("k", body(b"first"))
        assert first.etag == store.head("k").etag
        second = store.put_new("k", body(b"other"))
        assert second.etag in ("", first.etag)
        assert store.put("k", body(b"third")) == store.head("k").etag != first.etag

    def test_a_body_may_come_in_any_number_of_parts(self, store):
        content = bytes(range(256)) * 40
        parts = (
            content[:1],
            b"",
            memoryview(content)[1:7000],
            *(content[i : i + 30] for i in range(7000, 10240, 30)),
        )
        store.put_new("k", Body(parts, crc32c(content)))
        assert store.get("k", 10240) == content

    def test_a_large_object_is_one_object(self, store):
        content = b"0123456789abcdef" * (6 * 2**16)
        assert store.put_new("k", body(content)).created
        assert store.same(store.head("k"), body(content))
        assert store.get("k", len(content)) == content

    @pytest.mark.parametrize(
        "key", ["sessions/a b/+%41&=?.npy", "sessions/\u00fc/\u65e5\u672c", "~-_.'()*!,;:@$"]
    )
    def test_every_character_of_a_key_is_kept(self, store, key):
        assert store.put_new(key, body(b"there")).created
        assert not store.put_new(key, body(b"other")).created
        assert store.get(key, 10) == b"there"
        assert key in [info.key for info in store.list("")]
        store.delete(key)
        assert store.head(key) is None

    def test_each_of_many_objects_is_listed_once_and_in_order(self, store):
        keys = [f"sessions/t/websdr_1_{i:06d}.npy" for i in range(1050)]
        in_parts(8, keys, lambda key: store.put_new(key, body(key.encode())))
        assert [info.key for info in store.list("sessions/")] == keys
        assert [info.key for info in store.list("sessions/", start_after=keys[20])] == keys[21:]

    def test_an_object_that_is_replaced_is_read_whole_at_every_moment(self, store):
        contents = [b"a" * 300_000, b"b" * 200_000]
        store.put("k", body(contents[0]))
        stop, seen = threading.Event(), []

        def read():
            while not stop.is_set():
                seen.append(store.get("k", 2**20))

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(10):
            store.put("k", body(contents[i % 2]))
        stop.set()
        reader.join(30)
        assert seen
        assert set(seen) <= set(contents)

    def test_probing_again_changes_nothing(self, store):
        store.put_new("sessions/k", body())
        assert store.profile.conflict_check == "head-first" or store.probe() == store.profile
        assert [info.key for info in store.list("sessions/")] == ["sessions/k"]
        store.check()

    def test_one_of_eight_racing_writers_wins_where_the_store_decides(self, store):
        if store.profile.needs_identity_lock:
            pytest.skip("this one does not decide: the identity lock does (TestPairs)")
        won = race(8, lambda i: store.put_new("raced", body(b"writer %d" % i)).created)
        assert sum(won) == 1
        assert store.get("raced", 100) == b"writer %d" % won.index(True)

    def test_a_wrong_checksum_is_refused_where_the_store_verifies(self, store):
        if store.profile.checksum != "crc32c":
            pytest.skip(f"this store's checksum is {store.profile.checksum}")
        with pytest.raises(StoreError):
            store.put_new("wrong", body(b"content", crc=1))
        assert store.head("wrong") is None

    def test_the_url_can_be_read_without_credentials(self, store):
        store.put_new("sessions/t/a", body(b"for everybody"))
        url = store.url("sessions/t/a", 60)
        if url.startswith("memory://"):
            assert "sessions/t/a" in url
            return
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert reply.read() == b"for everybody"


def in_parts(n, values, act):
    """Do `act(value)` for all values, in `n` threads."""
    race(n, lambda i: [act(value) for value in values[i::n]])


def race(n, act):
    """Results of `act(i)` run at the same moment by `n` threads."""
    results = [None] * n
    barrier = threading.Barrier(n)

    def run(i):
        barrier.wait()
        results[i] = act(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def pair_of(seed=0, **fields):
    return encode_pair(noise("t", seed=seed, **fields), figures="none")[0]


def documents(store):
    """Every metadata document by key, after a check that its .npy is there and is the one it describes."""
    found = {}
    for info in store.list("sessions/"):
        kind = parse_key(info.key)
        if kind.is_metadata:
            keys = object_keys(kind.identity, kind.copy)
            document = metadata.decode(store.get(info.key, 2**20))
            npy = store.get(keys.npy, 2**26)
            assert npy is not None, "metadata without its .npy"
            assert len(npy) == document["size_bytes"]
            assert crc32c_base64(crc32c(npy)) == document["crc32c"], "metadata of another .npy"
            found[info.key] = (document, npy)
    return found


class TestPairs:
    def test_a_pair_is_stored_and_a_repeat_is_known_as_one(self, store, lock):
        first = store_pair(store, pair_of(), "keep_both", lock=lock)
        assert first.result is PairResult.STORED
        again = store_pair(store, pair_of(), "keep_both", lock=lock)
        assert again.result is PairResult.REPEATED
        assert again.keys == first.keys
        assert len(documents(store)) == 1

    def test_other_content_is_kept_beside_it_under_its_checksum(self, store, lock):
        store_pair(store, pair_of(1), "keep_both", lock=lock)
        other = pair_of(2)
        kept = store_pair(store, other, "keep_both", lock=lock)
        assert kept.result is PairResult.CONFLICT_STORED
        assert kept.copy == f"{other.content_crc:08x}"
        assert store_pair(store, other, "keep_both", lock=lock).result is PairResult.CONFLICT_REPEATED
        assert len(documents(store)) == 2

    def test_silence_with_another_stamp_is_another_measurement(self, store, lock):
        one = wire.parse(wire.encode(noise("t")))
        silence = encode_pair(one, figures="none")[0]
        later = encode_pair(noise("t", timestamp_ns=one.timestamp_ns + 1), figures="none")[0]
        assert silence.npy.crc32c == later.npy.crc32c
        store_pair(store, silence, "keep_both", lock=lock)
        assert store_pair(store, later, "keep_both", lock=lock).result is PairResult.CONFLICT_STORED

    def test_reject_raises_and_leaves_the_first(self, store, lock):
        store_pair(store, pair_of(1), "reject", lock=lock)
        with pytest.raises(ConflictError):
            store_pair(store, pair_of(2), "reject", lock=lock)
        assert len(documents(store)) == 1
        assert store_pair(store, pair_of(1), "reject", lock=lock).result is PairResult.REPEATED

    def test_overwrite_lets_the_newer_win_and_never_the_older(self, store, lock):
        store_pair(store, pair_of(1), "overwrite", lock=lock)
        newer = pair_of(2)
        assert store_pair(store, newer, "overwrite", lock=lock).result is PairResult.OVERWRITTEN
        older = store_pair(store, pair_of(3), "overwrite", is_newer=lambda: False, lock=lock)
        assert older.result is PairResult.SUPERSEDED
        ((document, _),) = documents(store).values()
        assert metadata.content(document) == newer.content

    def test_died_between_the_two_objects_converges(self, store, lock):
        pair = pair_of()
        keys = object_keys(pair.identity)
        store.put_new(keys.npy, pair.npy)
        assert documents(store) == {}
        assert store_pair(store, pair, "keep_both", lock=lock).result is PairResult.STORED
        assert list(documents(store)) == [keys.metadata]

    def test_metadata_whose_npy_was_removed_is_replaced_and_never_lies(self, store, lock):
        store_pair(store, pair_of(1), "keep_both", lock=lock)
        keys = object_keys(pair_of(1).identity)
        store.delete(keys.npy)
        other = pair_of(2)
        store_pair(store, other, "keep_both", lock=lock)
        document, _ = documents(store)[keys.metadata]
        assert metadata.content(document) == other.content

    def test_metadata_that_cannot_be_read_is_a_conflict_and_blocks_nobody(self, store, lock):
        pair = pair_of()
        keys = object_keys(pair.identity)
        store.put_new(keys.npy, pair.npy)
        store.put_new(keys.metadata, body(b"not json"))
        assert store_pair(store, pair, "keep_both", lock=lock).result is PairResult.CONFLICT_STORED

    def test_eight_uploaders_racing_on_one_identity_keep_all_eight_contents(self, store, lock):
        pairs = [pair_of(i) for i in range(8)]
        outcomes = race(8, lambda i: store_pair(store, pairs[i], "keep_both", lock=lock))
        results = [outcome.result for outcome in outcomes]
        assert results.count(PairResult.STORED) == 1
        assert results.count(PairResult.CONFLICT_STORED) == 7
        found = documents(store)
        assert len(found) == 8
        stored = {metadata.content(document) for document, _ in found.values()}
        assert stored == {pair.content for pair in pairs}
        bytes_of = {pair.content: b"".join(map(bytes, pair.npy.parts)) for pair in pairs}
        for document, content in found.values():
            assert content == bytes_of[metadata.content(document)]

    def test_eight_uploaders_racing_twice_each_keep_every_content_once(self, store, lock):
        pairs = [pair_of(i) for i in range(4)] * 2
        race(8, lambda i: store_pair(store, pairs[i], "keep_both", lock=lock))
        stored = [metadata.content(document) for document, _ in documents(store).values()]
        assert sorted(stored) == sorted(pair.content for pair in pairs[:4])

    def test_eight_uploaders_racing_to_overwrite_leave_one_whole_pair(self, store, lock):
        pairs = [pair_of(i) for i in range(8)]
        race(8, lambda i: store_pair(store, pairs[i], "overwrite", lock=lock))
        ((document, _),) = documents(store).values()
        assert metadata.content(document) in {pair.content for pair in pairs}

    def test_eight_uploaders_racing_with_the_same_content_store_it_once(self, store, lock):
        outcomes = race(8, lambda _i: store_pair(store, pair_of(), "keep_both", lock=lock))
        assert {outcome.copy for outcome in outcomes} == {None}
        assert len(documents(store)) == 1


class TestFaults:
    """Errors between the steps: the next try finishes what the last one began."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("request_number", range(4))
    @pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
    def test_a_request_that_fails_before_or_after_it_took_effect_is_made_good(
        self, moment, request_number, taken
    ):
        store = FaultyStore()
        if taken:
            store_pair(store, pair_of(7), "keep_both")
        getattr(store, moment)["put_new"] = [*[None] * request_number, StoreUnreachable("connection lost")]
        pair, n_failures, outcome = pair_of(1), 0, None
        while outcome is None:
            try:
                outcome = store_pair(store, pair, "keep_both")
            except StoreUnreachable:
                n_failures += 1
        assert n_failures <= 1
        assert (outcome.copy is not None) == taken
        found = documents(store)
        assert len(found) == 1 + taken
        assert pair.content in {metadata.content(document) for document, _ in found.values()}

    def test_metadata_is_never_sent_before_the_npy_is_verified(self):
        store = FaultyStore()
        store.before["put_new"] = [StoreBusy("503")]
        with pytest.raises(StoreBusy):
            store_pair(store, pair_of(), "keep_both")
        assert [key for _, key in store.calls] == [object_keys(pair_of().identity).npy]
        store.calls.clear()
        store_pair(store, pair_of(), "keep_both")
        assert [key.rsplit("/")[-1] for _, key in store.calls] == ["websdr_1.npy", "websdr_1_metadata.json"]


class TestDirectory:
    def test_a_reader_sees_all_of_an_object_or_nothing(self, tmp_path):
        store = DirectoryStore(tmp_path, "heimdall-raw-iq")
        store.probe()
        content = bytes(2**20)
        stop = threading.Event()
        seen = set()

        def read():
            path = tmp_path / "heimdall-raw-iq" / "k"
            while not stop.is_set():
                try:
                    seen.add(len(path.read_bytes()))
                except FileNotFoundError:
                    seen.add(0)

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(20):
            store.put_new("k", body(content))
            store.delete("k")
        stop.set()
        thread.join(10)
        assert seen <= {0, len(content)}

    def test_what_a_killed_process_left_is_swept_and_never_listed(self, tmp_path):
        import os

        store = DirectoryStore(tmp_path, "heimdall-raw-iq")
        store.probe()
        scratch = tmp_path / "heimdall-raw-iq" / ".tmp"
        (scratch / "old").write_bytes(b"half")
        (scratch / "young").write_bytes(b"half")
        os.utime(scratch / "old", (1, 1))
        store.probe()
        assert [path.name for path in scratch.iterdir()] == ["young"]
        assert list(store.list("")) == []

    def test_a_bucket_that_vanished_is_an_alarm_and_is_not_made_again(self, tmp_path):
        import shutil

        store = DirectoryStore(tmp_path, "heimdall-raw-iq")
        store.probe()
        shutil.rmtree(tmp_path / "heimdall-raw-iq")
        for act in (
            store.check,
            lambda: store.put_new("k", body()),
            lambda: store.head("k"),
            lambda: list(store.list("")),
        ):
            with pytest.raises(StoreMisconfigured):
                act()
        with pytest.raises(StoreMisconfigured):
            store.probe(make_bucket=False)
        assert not Path(tmp_path, "heimdall-raw-iq").exists()
        store.probe()
        assert store.put_new("k", body()).created


@pytest.fixture
def own_store(own_minio, bucket):
    """A store on a server of its own, with little patience."""
    store = MinioStore(own_minio.url, own_minio.access_key, own_minio.secret_key, bucket, timing=QUICK)
    store.probe()
    yield store
    store.close()


def requests_of(store):
    """Every request of the port that goes to the server, by name."""
    return {
        "check": store.check,
        "put_new": lambda: store.put_new("k", body(bytes(2**20))),
        "put": lambda: store.put("k", body()),
        "head": lambda: store.head("k"),
        "get": lambda: store.get("k", 10),
        "delete": lambda: store.delete("k"),
        "list": lambda: list(store.list("")),
    }


def was_put(store):
    """Whether a PUT comes to an end, whoever made the object."""
    try:
        store.put_new("k", body(bytes(2**20)))
    except StoreUnreachable:
        return False
    return True


@pytest.mark.minio
class TestMinio:
    """What only a real server can show."""

    def test_the_profile_is_the_strongest(self, minio_store):
        assert minio_store.profile == StoreProfile("minio", "crc32c", "if-none-match")

    @pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
    def test_wrong_credentials_are_denied_and_name_the_setting(self, minio_server, bucket, wrong):
        keys = {
            "access_key": minio_server.access_key,
            "secret_key": minio_server.secret_key,
            wrong: "wrong-one",
        }
        store = MinioStore(minio_server.url, **keys, bucket=bucket)
        # A HEAD has no body, and neither the reply to it a reason.
        with pytest.raises(StoreDenied):
            store.check()
        for act in (store.probe, lambda: store.put_new("k", body()), lambda: list(store.list(""))):
            with pytest.raises(StoreDenied, match=wrong) as caught:
                act()
            assert "wrong-one" not in str(caught.value)
            assert minio_server.secret_key not in str(caught.value)
        store.close()

    def test_credentials_that_are_put_right_are_enough(self, minio_server, minio_store, bucket):
        wrong = MinioStore(minio_server.url, minio_server.access_key, "wrong", bucket)
        with pytest.raises(StoreDenied):
            wrong.put_new("k", body())
        wrong.close()
        assert minio_store.put_new("k", body()).created

    def test_nobody_there_is_unreachable_in_every_call(self, bucket):
        store = MinioStore("127.0.0.1:1", "a", "b", bucket)
        for act in (*requests_of(store).values(), store.probe):
            with pytest.raises(StoreUnreachable):
                act()
        store.close()

    @pytest.mark.parametrize("call", ["check", "put_new", "put", "head", "get", "delete", "list"])
    def test_a_bucket_that_vanished_is_the_same_alarm_in_every_call(self, minio_store, call):
        """Not "no such object": an audit would take every object for lost."""
        minio_store.delete(PROBE_KEY)
        minio_store._sdk.remove_bucket(minio_store.bucket)
        with pytest.raises(StoreMisconfigured, match="bucket"):
            requests_of(minio_store)[call]()
        with pytest.raises(StoreMisconfigured, match="gone"):
            minio_store.probe(make_bucket=False)
        assert minio_store.probe() == minio_store.profile

    def test_eight_daemons_that_start_at_once_make_one_bucket_and_agree(self, minio_server, bucket):
        stores = [
            MinioStore(minio_server.url, minio_server.access_key, minio_server.secret_key, bucket)
            for _ in range(8)
        ]
        profiles = race(8, lambda i: stores[i].probe())
        assert set(profiles) == {StoreProfile("minio", "crc32c", "if-none-match")}
        for store in stores:
            store.close()

    def test_a_server_that_stops_is_unreachable_and_is_used_again_when_it_is_back(self, own_minio, own_store):
        assert own_store.put_new("before", body()).created
        own_minio.stop(kill=True)
        for name, act in requests_of(own_store).items():
            with pytest.raises(StoreUnreachable):
                act()
                pytest.fail(name)
        own_minio.start()
        assert own_store.get("before", 10) == body().parts[0] + bytes(body().parts[1])
        assert own_store.put_new("k", body(bytes(2**20))).created

    def test_a_server_that_hangs_is_given_up_within_its_time_in_every_call(
        self, own_minio, bucket, monkeypatch
    ):
        monkeypatch.setattr("ingestd.storage.minio._SDK_READ_S", 0.3)
        store = MinioStore(own_minio.url, own_minio.access_key, own_minio.secret_key, bucket, timing=QUICK)
        store.probe()
        own_minio.pause()
        try:
            for act in requests_of(store).values():
                began_s = time.monotonic()
                with pytest.raises(StoreUnreachable):
                    act()
                assert time.monotonic() - began_s < 1.5
        finally:
            own_minio.resume()
        # The PUT that was given up may have been carried out all the same; in either case the bytes are whole.
        # A server may hold the name of a request that was given up for up to 30 s.
        wait_until(lambda: was_put(store), 40.0, "the name to be free")
        assert store.same(store.head("k"), body(bytes(2**20)))
        store.close()

    def test_a_sender_that_dies_in_its_body_leaves_nothing(self, minio_server, minio_store):
        """The body that never comes is not published, and its key is free for the next try at once."""

        class Dying(bytes):
            def __len__(self):
                return 2**20

        with pytest.raises(StoreUnreachable):
            MinioStore(
                minio_server.url, minio_server.access_key, minio_server.secret_key, minio_store.bucket,
                timing=Timing(base_s=0.5, progress_s=0.3),
            ).put("k", Body((Dying(b"only the beginning"),), 0))  # fmt: skip
        assert minio_store.head("k") is None
        began_s = time.monotonic()
        assert minio_store.put_new("k", body()).created
        assert time.monotonic() - began_s < 5.0
