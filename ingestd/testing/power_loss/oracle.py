"""What was promised before a crash, and whether the real recovery keeps it on the disk that the crash left."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from ingestd.formats.checksum import crc32c
from ingestd.spool import Claim, Claims, EntryName, SpoolLayout
from ingestd.storage.directory import DirectoryStore
from ingestd.testing.power_loss.model import Image
from ingestd.testing.power_loss.operations import Mark, parent_of
from ingestd.testing.power_loss.workload import BUCKET, OBJECTS, STATE, store_entry

__all__ = ["Promises", "Recovery", "digest", "is_intact", "judge"]

_BUCKET = f"{OBJECTS}/{BUCKET}/"
_SCRATCH = f"{_BUCKET}.tmp/"
_SPOOL = f"{STATE}/spool/"
_METADATA = "_metadata.json"


@dataclass(slots=True)
class Promises:
    """Everything that was said before the crash.

    Attributes
    ----------
    issued
        Checksums of all entries that were begun, by name.
    accepted, stored, failed
        Names of entries that were said to be.
    allowed
        Checksums that an object may have, by key.
    put
        Keys of objects that must be there.
    """

    issued: dict[str, int] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    allowed: dict[str, set[int]] = field(default_factory=dict)
    put: set[str] = field(default_factory=set)

    def add(self, mark: Mark) -> None:
        """Take one promise down."""
        match mark.kind:
            case "issued":
                self.issued[mark.subject] = mark.crc32c
            case "accepted":
                self.accepted.add(mark.subject)
            case "stored":
                self.stored.add(mark.subject)
            case "failed":
                self.failed.add(mark.subject)
            case "requeueing":
                self.failed.discard(mark.subject)
            case "putting":
                self.allowed.setdefault(mark.subject, set()).add(mark.crc32c)
            case "put":
                self.allowed[mark.subject] = {mark.crc32c}
                self.put.add(mark.subject)


class Recovery:
    """A directory on which disks are laid out and the real recovery runs.

    Parameters
    ----------
    directory
        Its own; in memory, for speed.

    Attributes
    ----------
    runs
        Recoveries that were run; a spool that was seen before is not recovered again.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._there: Image = {}
        self._seen: dict[bytes, dict[str, bool]] = {}
        self.runs = 0

    def recovered(self, image: Image) -> dict[str, bool]:
        """Paths in the spool as the real recovery leaves it, and whether each file is what its name says."""
        spool = {path: content for path, content in image.items() if not path.startswith(OBJECTS)}
        key = digest(spool)
        if key not in self._seen:
            self._seen[key] = _intact(self._recover(spool))
        return self._seen[key]

    def live_on(self, image: Image) -> Iterator[str]:
        """Recover the whole disk, store everything that is in the spool, and name what is not as it should be."""
        shutil.rmtree(self._directory)
        os.mkdir(self._directory)
        self._there = {}
        self._recover(image)
        layout = SpoolLayout(os.path.join(self._directory, STATE))
        store = DirectoryStore(os.path.join(self._directory, OBJECTS), BUCKET)
        store.probe()
        claims = Claims(layout, "uploader-0")
        while (claim := _next_claim(claims)) is not None:
            store_entry(store, claim)
            claim.release(retain=False)
        self._there = self._found()
        for path, content in self._there.items():
            if path.startswith(_SPOOL) and content is not None and parent_of(path).endswith("/new"):
                yield f"{path} is never stored"
        for path, content in image.items():
            if content is not None and _is_object(path) and self._there.get(path) != content:
                yield "object changed by the next life"

    def _recover(self, image: Image) -> Image:
        self.runs += 1
        self._lay_out(image)
        layout = SpoolLayout(os.path.join(self._directory, STATE))
        layout.make()
        layout.recover()
        self._there = self._found()
        return self._there

    def _lay_out(self, image: Image) -> None:
        """Make the directory what the image says; what is the same already stays."""
        for path in sorted(self._there.keys() - image.keys(), reverse=True):
            full = os.path.join(self._directory, path)
            if self._there[path] is None:
                os.rmdir(full)
            else:
                os.unlink(full)
        for path in sorted(image):
            content, full = image[path], os.path.join(self._directory, path)
            if content is None:
                if path not in self._there:
                    os.mkdir(full)
            elif self._there.get(path) != content:
                with open(full, "wb", buffering=0) as file:
                    file.write(content)

    def _found(self) -> Image:
        found: Image = {}
        for parent, directories, files in os.walk(self._directory):
            below = os.path.relpath(parent, self._directory)
            prefix = "" if below == "." else f"{below}/"
            found.update((prefix + name, None) for name in directories)
            for name in files:
                with open(os.path.join(parent, name), "rb", buffering=0) as file:
                    found[prefix + name] = file.readall()
        return found


def _next_claim(claims: Claims) -> Claim | None:
    suspect = claims.take_suspect()
    return suspect or next(
        (claim for name in claims.listing() if (claim := claims.take(name)) is not None), None
    )


def digest(image: Image) -> bytes:
    """Two disks have the same one only where they are the same to the bit."""
    out = blake2b(digest_size=16)
    for path in sorted(image):
        content = image[path]
        size = -1 if content is None else len(content)
        out.update(f"{path}\0{size}\0".encode())
        out.update(content or b"")
    return out.digest()


def _intact(image: Image) -> dict[str, bool]:
    # Paths are kept once however many disks have them: there are as many of these as there are disks.
    return {
        sys.intern(path): is_intact(path, content) for path, content in image.items() if content is not None
    }


def is_intact(path: str, content: bytes) -> bool:
    """Whether an entry has the checksum of its name, or a reason document a reason; other files are what they are."""
    name = path.rpartition("/")[2]
    parsed = EntryName.parse(name)
    if parsed is not None:
        return crc32c(content) == parsed.crc32c
    return not name.endswith(".json") or _documented(content)


def judge(image: Image, recovered: dict[str, bool], promises: Promises) -> list[str]:
    """What is wrong with a disk and the spool that was recovered from it; nothing, if all promises are kept."""
    return [*_spool_wrongs(recovered, promises), *_object_wrongs(image, promises)]


def _spool_wrongs(recovered: dict[str, bool], promises: Promises) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for path, intact in recovered.items():
        directory, _, name = path.removeprefix(_SPOOL).rpartition("/")
        if EntryName.parse(name) is not None:
            places.setdefault(name, []).append(directory)
            yield from _entry_wrongs(directory, name, promises, intact=intact)
    for directories in places.values():
        if len(directories) > 1:
            yield f"entry in several places: {', '.join(sorted(directories))}"
    for name in promises.accepted - promises.stored:
        if not set(places.get(name, ())) - {"retained"}:
            yield "accepted entry is lost"
    for name in promises.failed:
        if "failed" not in places.get(name, ()) or not recovered.get(f"{_SPOOL}failed/{name}.json"):
            yield "failed entry is not in failed/ with its reason"


def _entry_wrongs(directory: str, name: str, promises: Promises, *, intact: bool) -> Iterator[str]:
    if name not in promises.issued:
        yield f"unknown entry in {directory}/"
    if not intact:
        # Bytes are synced before the name is given: not even a frame that nobody was promised is ever torn in new/.
        kind = "accepted" if name in promises.accepted else "unaccepted"
        yield f"torn {kind} entry in {directory}/"
    if directory == "tmp" or (directory.startswith("claimed/") and "/suspect-" not in directory):
        yield f"entry left in {directory}/"


def _documented(content: bytes) -> bool:
    try:
        return "reason" in json.loads(content)
    except ValueError:
        return False


def _object_wrongs(image: Image, promises: Promises) -> Iterator[str]:
    keys = {
        path.removeprefix(_BUCKET)
        for path, content in image.items()
        if content is not None and _is_object(path)
    }
    for key in keys:
        if crc32c(image[_BUCKET + key] or b"") not in promises.allowed.get(key, ()):
            yield f"torn object {_kind(key)}" + (" after put" if key in promises.put else "")
        if key.endswith(_METADATA) and f"{key.removesuffix(_METADATA)}.npy" not in keys:
            yield "metadata without .npy"
    for key in promises.put - keys:
        yield f"object {_kind(key)} is lost after put"


def _is_object(path: str) -> bool:
    return path.startswith(_BUCKET) and not path.startswith(_SCRATCH)


def _kind(key: str) -> str:
    return "metadata" if key.endswith(_METADATA) else ".npy" if key.endswith(".npy") else "replaced"
