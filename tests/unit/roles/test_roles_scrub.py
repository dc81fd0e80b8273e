"""The scrub goes over all stored rows at its rate, tells what it finds, waits out trouble and repairs nothing."""

import threading
import time

import pytest

from ingestd.catalog import Catalog, StoredEntry, create
from ingestd.config import load
from ingestd.errors import CatalogCorrupt, ConfigError, StoreUnreachable
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.roles import scrub
from ingestd.roles.scrub import Scrub, start_scrub
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.testing.frames import noise
from ingestd.testing.stores import FaultyStore
from ingestd.testing.waiting import wait_until

T_NS = 1_790_000_000 * 10**9
KEYS = [object_keys(noise("t", i).identity) for i in range(4)]


class Bench:
    """Four stored pairs, and a scrub that is fast unless told otherwise."""

    def __init__(self, path):
        self.path, self.store, self.stop, self.told = path, FaultyStore(), threading.Event(), []
        create(path)
        with Catalog.open(path) as catalog:
            for i in range(4):
                pair, document = encode_pair(noise("t", i), figures="none")
                outcome = store_pair(self.store, pair, "keep_both")
                entry = StoredEntry(
                    f"n{i}", document, outcome.keys, None, pair.content_crc, outcome.etag, T_NS, T_NS, 9
                )
                catalog.record_stored([entry])
        self.scrub = self.make(1e6)

    def make(self, pairs_per_s):
        return Scrub(
            pairs_per_s,
            lambda: Catalog.open(self.path, readonly=True),
            lambda: self.store,
            self.told.append,
            self.stop,
        )

    def figures(self):
        return [
            self.told[-1][name] for name in ("checked", "of", "missing", "differing", "unreadable")
        ]  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    return Bench(str(tmp_path / "catalog.sqlite3"))


def spoil(store):
    store.delete(KEYS[0].npy)
    store.put(KEYS[1].npy, Body((b"x",), crc32c(b"x")))
    store.delete(KEYS[3].metadata)


def test_progress_is_there_before_the_first_pair(bench):
    assert bench.told[0] == {
        "checked": 0, "of": 0, "missing": 0, "differing": 0, "unreadable": 0, "last_pass_utc": None
    }  # fmt: skip


def test_a_pass_counts_what_it_finds_and_repairs_nothing(bench):
    spoil(bench.store)
    bench.scrub.one_pass()
    assert bench.figures() == [4, 4, 2, 1, 0]
    assert bench.told[-1]["last_pass_utc"].endswith("Z")
    assert bench.store.head(KEYS[0].npy) is None
    assert not [call for call in bench.store.calls if call[0] == "get"]


def test_the_next_pass_counts_anew(bench):
    spoil(bench.store)
    bench.scrub.one_pass()
    bench.scrub.one_pass()
    assert bench.figures() == [4, 4, 2, 1, 0]


def test_trouble_of_the_store_is_no_finding_and_the_pass_goes_on_where_it_stopped(bench, monkeypatch):
    def down():
        raise StoreUnreachable("down")

    def check():
        if bench.store.before.get("head"):
            down()

    monkeypatch.setattr(bench.store, "check", check)
    bench.store.before["head"] = [None] * 4 + [StoreUnreachable("down")] * 2
    with pytest.raises(StoreUnreachable):
        bench.scrub.one_pass()
    assert bench.figures() == [2, 4, 0, 0, 0]
    bench.store.before.clear()
    bench.store.calls.clear()
    bench.scrub.one_pass()
    assert bench.figures() == [4, 4, 0, 0, 0]
    assert [key for _, key in bench.store.calls] == [*KEYS[2], *KEYS[3]]


@pytest.mark.parametrize("error", [StoreUnreachable("down"), CatalogCorrupt("not there")])
def test_trouble_does_not_end_the_thread(bench, monkeypatch, error):
    monkeypatch.setattr(scrub, "PAUSE_S", 0.0)
    errors = [error, error]
    one_pass = bench.scrub.one_pass

    def troubled():
        if errors:
            raise errors.pop()
        one_pass()
        bench.stop.set()

    monkeypatch.setattr(bench.scrub, "one_pass", troubled)
    bench.scrub.run()
    assert bench.figures() == [4, 4, 0, 0, 0]


def test_the_rate_is_kept(bench):
    began_s = time.monotonic()
    bench.make(20).one_pass()
    assert time.monotonic() - began_s >= 4 / 20


def test_a_stop_does_not_wait_for_the_rate(bench):
    slow = bench.make(0.001)
    thread = threading.Thread(target=slow.run)
    thread.start()
    wait_until(lambda: bench.told[-1]["checked"] == 1, what="the first pair")
    bench.stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert bench.told[-1]["last_pass_utc"] is None, "a pass that was stopped has not ended"


def test_it_is_off_unless_it_has_a_rate(tmp_path):
    def never(*_):
        pytest.fail("started")

    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    with start_scrub(settings, never, never, never):
        assert "scrub" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("rate", ["-1", "100.1", "nan", "inf"])
def test_a_rate_beyond_the_bounds_is_refused(tmp_path, rate):
    with pytest.raises(ConfigError, match="pairs_per_s"):
        load(overrides={"state_directory": str(tmp_path), "scrub.pairs_per_s": rate}, environ={})
