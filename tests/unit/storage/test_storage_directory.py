"""The directory store: whole or absent, durable before success, and no OSError of its own."""

import errno
import os
import pathlib
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats.checksum import crc32c
from ingestd.storage import directory as module
from ingestd.storage.directory import DirectoryStore
from ingestd.storage.port import Body
from ingestd.testing.stores import MemoryStore

BUCKET = "heimdall-raw-iq"


def body(content=b"content"):
    return Body((content,), crc32c(content))


@pytest.fixture
def store(tmp_path):
    made = DirectoryStore(tmp_path, BUCKET)
    made.probe()
    return made


@pytest.fixture
def base(tmp_path):
    return tmp_path / BUCKET


class Journal:
    """Which durable step was taken when."""

    def __init__(self, monkeypatch):
        self.steps = []
        for name in ("fdatasync", "link", "rename", "unlink"):
            monkeypatch.setattr(os, name, self._noted(name, getattr(os, name)))
        monkeypatch.setattr(module, "sync_directory", self._noted("sync", module.sync_directory))

    def _noted(self, name, act):
        def noted(*args, **kwargs):
            result = act(*args, **kwargs)
            what = args[-1] if name in ("link", "rename", "sync", "unlink") else ""
            self.steps.append((name, os.path.basename(what) if what else ""))
            return result

        return noted

    def names(self):
        return [name for name, _ in self.steps]


class TestDurability:
    """Success comes after the syncs: of the bytes before they have a name, of the name before it counts."""

    def test_bytes_then_name_then_directory(self, store, monkeypatch):
        store.put_new("sessions/t/first", body())
        journal = Journal(monkeypatch)
        assert store.put_new("sessions/t/k", body()).created
        assert journal.names() == ["fdatasync", "link", "sync", "unlink"]
        assert journal.steps[1:3] == [("link", "k"), ("sync", "t")]

    def test_a_replaced_object_too(self, store, monkeypatch):
        store.put_new("sessions/t/k", body())
        journal = Journal(monkeypatch)
        store.put("sessions/t/k", body(b"other"))
        assert journal.names()[:3] == ["fdatasync", "rename", "sync"]

    def test_a_removed_object_too(self, store, monkeypatch):
        store.put_new("sessions/t/k", body())
        journal = Journal(monkeypatch)
        store.delete("sessions/t/k")
        assert journal.steps == [("unlink", "k"), ("sync", "t")]

    def test_an_object_found_there_is_made_durable_before_it_counts(self, store, base, monkeypatch):
        """Its maker may have been killed between link and sync, and our caller will let go of its own copy."""
        (base / "sessions" / "t").mkdir(parents=True)
        (base / "sessions" / "t" / "k").write_bytes(b"content")
        journal = Journal(monkeypatch)
        assert not store.put_new("sessions/t/k", body()).created
        assert {name for step, name in journal.steps if step == "sync"} == {"t", "sessions", BUCKET}

    def test_a_directory_found_there_is_made_durable_once(self, store, base, monkeypatch):
        (base / "sessions" / "t").mkdir(parents=True)
        journal = Journal(monkeypatch)
        store.put_new("sessions/t/a", body())
        assert {"sessions", BUCKET} <= {name for step, name in journal.steps if step == "sync"}
        journal.steps.clear()
        store.put_new("sessions/t/b", body())
        assert [name for step, name in journal.steps if step == "sync"] == ["t"]

    def test_directories_known_to_be_durable_are_few(self, store, monkeypatch):
        monkeypatch.setattr(module, "_DURABLE_MAX_COUNT", 3)
        for i in range(5):
            store.put_new(f"sessions/{i}/k", body())
        assert len(store._durable) == 3

    @pytest.mark.parametrize("name", ["fdatasync", "link"])
    def test_a_step_that_fails_leaves_nothing(self, store, base, monkeypatch, name):
        def fail(*_args, **_kwargs):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StoreUnreachable, match="Input/output error"):
                store.put_new("sessions/t/k", body())
        assert store.head("sessions/t/k") is None
        assert os.listdir(base / ".tmp") == []
        assert store.put_new("sessions/t/k", body()).created

    def test_a_sync_of_the_name_that_fails_is_no_success(self, store, monkeypatch):
        def fail(_path):
            raise OSError(errno.EIO, "Input/output error")

        store.put_new("sessions/t/a", body())
        monkeypatch.setattr(module, "sync_directory", fail)
        for act in (store.put_new, store.put):
            with pytest.raises(StoreUnreachable):
                act("sessions/t/k", body())

    def test_a_short_write_is_continued(self, store, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, view: write(fd, view[:3]))
        store.put_new("k", body(b"0123456789"))
        assert store.get("k", 10) == b"0123456789"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreBusy),
        (errno.EDQUOT, StoreBusy),
        (errno.EMFILE, StoreBusy),
        (errno.EACCES, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.EXDEV, StoreMisconfigured),
        (errno.EFBIG, StoreRefused),
        (errno.EIO, StoreUnreachable),
        (errno.ESTALE, StoreUnreachable),
    ],
    ids=lambda one: errno.errorcode[one] if isinstance(one, int) else one.__name__,
)
def test_an_error_of_the_disk_says_who_must_act(store, monkeypatch, number, kind):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    for act in (store.put_new, store.put):
        with pytest.raises(kind) as caught:
            act("k", body())
        assert type(caught.value) is kind
        assert os.strerror(number) in str(caught.value)


class TestForeign:
    """What others put into the tree, or left there, is no object and no obstacle."""

    def test_a_name_that_is_no_utf8_is_not_listed_and_stops_no_listing(self, store, base):
        store.put_new("sessions/t/k", body())
        pathlib.Path(os.fsdecode(os.fsencode(base / "sessions" / "t") + b"/\xff\xfe")).write_bytes(b"")
        assert [info.key for info in store.list("sessions/")] == ["sessions/t/k"]

    def test_links_sockets_and_empty_directories_are_not_listed(self, store, base):
        store.put_new("sessions/t/k", body())
        (base / "sessions" / "t" / "link").symlink_to("k")
        (base / "sessions" / "t" / "dangling").symlink_to("nowhere")
        (base / "sessions" / "t" / "loop").symlink_to(base / "sessions")
        os.mkfifo(base / "sessions" / "t" / "fifo")
        (base / "sessions" / "empty").mkdir()
        assert [info.key for info in store.list("")] == ["sessions/t/k"]

    def test_a_directory_among_the_scratch_files_does_not_stop_a_start(self, store, base):
        (base / ".tmp" / "lost+found").mkdir()
        os.utime(base / ".tmp" / "lost+found", (1, 1))
        store.probe()

    def test_scratch_of_a_killed_process_with_our_id_is_not_in_the_way(self, tmp_path, base, monkeypatch):
        """In a container each start has the same process and thread ids."""
        first = DirectoryStore(tmp_path, BUCKET)
        first.probe()
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", lambda _path: None)
            first.put_new("a", body())
        assert len(os.listdir(base / ".tmp")) == 1
        restarted = DirectoryStore(tmp_path, BUCKET)
        restarted.check()
        assert restarted.put_new("b", body()).created

    def test_an_object_deleted_while_it_is_listed_is_left_out(self, store, monkeypatch):
        store.put_new("a", body())
        store.put_new("b", body())
        real = module._stat

        def deleted(entry):
            if entry.name == "a":
                os.unlink(entry.path)
            return real(entry)

        monkeypatch.setattr(module, "_stat", deleted)
        assert [info.key for info in store.list("")] == ["b"]

    def test_an_object_that_cannot_be_looked_at_is_an_error_of_the_store(self, store, monkeypatch):
        def fail(_entry):
            raise PermissionError(errno.EACCES, "Permission denied")

        store.put_new("a", body())
        monkeypatch.setattr(module, "_stat", fail)
        with pytest.raises(StoreDenied):
            list(store.list(""))

    def test_a_directory_under_the_name_of_an_object_is_no_object(self, store):
        store.put_new("a/b", body())
        for act in (lambda: store.get("a", 10), lambda: store.head("a"), lambda: store.put("a", body())):
            with pytest.raises(StoreRefused):
                act()


@pytest.mark.parametrize("call", ["get", "head", "delete", "list", "check", "put_new", "put", "probe"])
def test_a_bucket_that_vanished_is_the_same_alarm_in_every_call(store, base, call):
    (base / ".tmp").rmdir()
    base.rmdir()
    act = {
        "get": lambda: store.get("k", 10), "head": lambda: store.head("k"), "delete": lambda: store.delete("k"),
        "list": lambda: list(store.list("")), "check": store.check, "put_new": lambda: store.put_new("k", body()),
        "put": lambda: store.put("k", body()), "probe": lambda: store.probe(make_bucket=False),
    }[call]  # fmt: skip
    with pytest.raises(StoreMisconfigured):
        act()
    assert not base.exists()


def test_an_object_that_grew_beyond_what_is_asked_for_is_not_read(store):
    store.put_new("k", body(bytes(11)))
    with pytest.raises(StoreCorrupt, match="over 10 bytes"):
        store.get("k", 10)


def test_two_stores_on_one_directory_have_one_winner(tmp_path):
    stores = [DirectoryStore(tmp_path, BUCKET) for _ in range(4)]
    for one in stores:
        one.probe()
    barrier, won = threading.Barrier(4), []

    def run(one, i):
        barrier.wait()
        won.append(one.put_new("sessions/new/k", body(b"%d" % i)).created)

    threads = [threading.Thread(target=run, args=(one, i)) for i, one in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(won) == [False, False, False, True]


_names = st.text(alphabet=st.sampled_from("ab.~_0 -é"), min_size=1, max_size=3).filter(
    lambda name: name not in (".", "..", ".tmp")
)
_keys = st.lists(_names, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_keys, max_size=10), st.text(alphabet="ab./~_0", max_size=4), st.one_of(st.just(""), _keys))
def test_a_tree_is_listed_in_the_order_of_its_keys_from_anywhere(tmp_path_factory, keys, prefix, start_after):
    store, model = DirectoryStore(tmp_path_factory.mktemp("tree"), BUCKET), MemoryStore()
    store.probe()
    for key in keys:
        # A file system cannot have `a` and `a/b`.
        if not any(one.startswith(key + "/") or key.startswith(one + "/") for one in keys):
            store.put_new(key, body(key.encode()))
            model.put_new(key, body(key.encode()))
    found = [(info.key, info.size_bytes) for info in store.list(prefix, start_after)]
    assert found == [(info.key, info.size_bytes) for info in model.list(prefix, start_after)]
