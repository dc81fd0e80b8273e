"""A life of a spool and a directory store: the real code, asked for everything that it does to a disk, in drawn order."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time

from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.spool import Claim, Claims, SpoolLayout, SpoolWriter, requeue
from ingestd.storage.directory import DirectoryStore
from ingestd.storage.encoding import encode_pair
from ingestd.storage.pair import store_pair
from ingestd.storage.port import Body
from ingestd.testing.frames import noise
from ingestd.testing.power_loss.operations import Mark, Operation
from ingestd.testing.power_loss.recorder import Killed, Recorder

__all__ = ["BUCKET", "OBJECTS", "STATE", "record", "store_entry"]

#: Directories of the spool and of the store below the recorded root.
STATE = "state"
OBJECTS = "objects"
BUCKET = "bucket"

#: Object that is written over and over.
_REPLACED_KEY = "sessions/replaced/object"

#: Fewest and most samples of a frame: from less than a page to several, so that each can be torn in many ways.
_SAMPLES = (20, 900)

#: Samples of most frames: files are written over by frames of the same length only.
_SAME_SAMPLES = 300

#: How likely a frame has the usual length, a released file is left to be written over, and is looked for.
_SAME_SHARE, _SPARE_SHARE, _LOOK_SHARE = 0.7, 0.8, 0.7

#: Each is done so often in one life [count].
_ACTIONS = {
    "accept": 6, "store": 5, "retain": 2, "give_back": 2, "fail": 2, "requeue": 1, "die": 2, "replace": 3,
    "repeat": 1, "restart": 2, "killed": 16,
}  # fmt: skip

#: What a process is killed in; most of it is uploading, which takes the most steps.
_KILLED_IN = ("accept", "store", "store", "store", "retain", "give_back", "fail", "requeue", "replace")

#: Most calls that a process does before it is killed: as many as a pair of objects takes.
_CALLS_MAX_COUNT = 30


def record(seed: int) -> list[Operation]:
    """Live once, on a directory that is gone afterwards; returns what was asked of the disk."""
    with tempfile.TemporaryDirectory(prefix="ingestd-power-loss-") as root, Recorder(root) as recorder:
        _Life(root, recorder, random.Random(seed)).run()  # noqa: S311 - draws frames, no secrets
        return recorder.log


def store_entry(store: DirectoryStore, claim: Claim, recorder: Recorder | None = None) -> None:
    """Take a claim as far as the store, as an uploader does."""
    frame = claim.read()
    assert claim.intact(frame)
    pair, _ = encode_pair(wire.parse(frame), figures="none")
    keys = object_keys(pair.identity)
    objects = ((keys.npy, pair.npy.crc32c), (keys.metadata, pair.metadata.crc32c))
    if recorder is not None:
        for key, crc in objects:
            recorder.mark(Mark("putting", key, crc))
    store_pair(store, pair, "keep_both")
    if recorder is not None:
        for key, crc in objects:
            recorder.mark(Mark("put", key, crc))
        recorder.mark(Mark("stored", claim.name))


class _Life:
    """The parts of a daemon that touch the disk, without the processes around them."""

    def __init__(self, root: str, recorder: Recorder, rng: random.Random) -> None:
        self._recorder = recorder
        self._rng = rng
        self._layout = SpoolLayout(os.path.join(root, STATE))
        self._store = DirectoryStore(os.path.join(root, OBJECTS), BUCKET)
        self._frames = 0
        self._claimed = ""
        self._begin()

    def run(self) -> None:
        """Do every action so often as it is listed, in drawn order."""
        self._do_accept()
        todo = [name for name, count in _ACTIONS.items() for _ in range(count)]
        self._rng.shuffle(todo)
        for name in todo:
            getattr(self, f"_do_{name}")()

    def _begin(self) -> None:
        self._layout.make()
        self._layout.recover()
        self._writer = SpoolWriter(self._layout, "disk", time.time_ns)
        self._claims = Claims(self._layout, "uploader-0")
        self._store.probe()

    def _do_accept(self) -> None:
        if self._rng.random() < _LOOK_SHARE:
            self._writer.look_for_spares(at_once=True)
        for _ in range(self._rng.randint(1, 3)):
            is_usual = self._rng.random() < _SAME_SHARE
            n_samples = _SAME_SAMPLES if is_usual else self._rng.randint(*_SAMPLES)
            self._frames += 1
            frame = wire.encode(
                noise(f"frame-{self._frames:04d}", n_samples=n_samples, seed=self._rng.randrange(10**6))
            )
            entry = self._writer.add(memoryview(frame))
            self._recorder.mark(Mark("issued", str(entry.name), crc32c(frame)))
            if self._rng.random() < 0.5:
                self._writer.write(entry)
        for entry in self._writer.commit():
            self._recorder.mark(Mark("accepted", str(entry.name)))

    def _claim(self) -> Claim:
        while True:
            claim = self._claims.take_suspect() if self._rng.random() < 0.5 else None
            names = self._claims.listing()
            if claim is None and names:
                claim = self._claims.take(self._rng.choice(names))
            if claim is not None:
                self._claimed = claim.name
                return claim
            if not self._claims.has_suspects():
                self._do_accept()

    def _store_claim(self, *, retain: bool) -> None:
        self._finish(self._claim(), retain=retain)

    def _finish(self, claim: Claim, *, retain: bool) -> None:
        store_entry(self._store, claim, self._recorder)
        claim.release(retain=retain, spare=self._rng.random() < _SPARE_SHARE)

    def _do_store(self) -> None:
        self._store_claim(retain=False)

    def _do_retain(self) -> None:
        self._store_claim(retain=True)

    def _do_give_back(self) -> None:
        self._claim().give_back()

    def _do_fail(self) -> None:
        claim = self._claim()
        claim.fail("drawn", "by lot")
        self._recorder.mark(Mark("failed", claim.name))

    def _do_requeue(self) -> None:
        names = [name for name in os.listdir(self._layout.failed) if name.endswith(".v1")]
        for name in names:
            self._recorder.mark(Mark("requeueing", name))
        requeue(self._layout.state_directory, None)

    def _do_die(self) -> None:
        """An uploader dies with an entry in its hands, and it is not the entry's fault."""
        self._claim()
        self._layout.return_claims("uploader-0", counts=False)

    def _do_repeat(self) -> None:
        """An uploader stores an entry and dies before it releases it."""
        store_entry(self._store, self._claim(), self._recorder)
        self._layout.return_claims("uploader-0", counts=False)

    def _do_replace(self) -> None:
        content = self._rng.randbytes(self._rng.randint(1, 3000))
        body = Body((content,), crc32c(content))
        self._recorder.mark(Mark("putting", _REPLACED_KEY, body.crc32c))
        self._store.put(_REPLACED_KEY, body)
        self._recorder.mark(Mark("put", _REPLACED_KEY, body.crc32c))

    def _do_killed(self) -> None:
        """Processes die between any two calls; what was done but not synced is there for those that come after."""
        if not self._claims.listing():
            self._do_accept()
        self._recorder.die_after(self._rng.randint(1, _CALLS_MAX_COUNT))
        with contextlib.suppress(Killed):
            getattr(self, f"_do_{self._rng.choice(_KILLED_IN)}")()
        self._recorder.revive()
        self._begin()
        # The next one does the same entry again: it must not take for safe what the dead one only made visible.
        claim = self._claims.take(self._claimed) if self._claimed else None
        if claim is not None:
            self._finish(claim, retain=False)

    def _do_restart(self) -> None:
        """Every process is killed, with an entry claimed and a frame half way; the recovery is recorded, too."""
        self._claim()
        frame = wire.encode(noise("unfinished", n_samples=self._rng.randint(*_SAMPLES)))
        entry = self._writer.add(memoryview(frame))
        self._recorder.mark(Mark("issued", str(entry.name), crc32c(frame)))
        self._writer.write(entry)
        os.close(entry.fd)
        self._begin()
