"""The embedded default: a local directory with the layout of the bucket and the promise of a PUT that returned 200.

`{directory}/{bucket}/{key}`. An object appears whole or not at all: it is written under `.tmp/`, synced, linked to
its name (EEXIST is this store's If-None-Match), and the directories that got a new name are synced before success.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ingestd import faults
from ingestd.disk import make_directory, sync_directory
from ingestd.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats.checksum import crc32c_extend
from ingestd.storage.keys import check_bucket, check_key
from ingestd.storage.port import Body, ObjectInfo, PutResult, StoreProfile

__all__ = ["DirectoryStore"]

#: Where objects are written before they get their name; the dot keeps it out of listings.
_SCRATCH = ".tmp"

#: Objects are there to be read by others, as a bucket's are.
_DIRECTORY_MODE = 0o755

#: A scratch file this old [s] is the remains of a killed process: no upload takes an hour.
_STALE_SCRATCH_S = 3600.0

#: One read while checksumming [bytes].
_CHUNK_BYTES = 1 << 20

#: Directories whose own name is known to be durable [count]; those of the sessions in progress.
_DURABLE_MAX_COUNT = 1000

#: What an error number means; everything else is the disk's fault.
_MEANING: dict[int, type[StoreError]] = {
    errno.EACCES: StoreDenied,
    errno.EPERM: StoreDenied,
    errno.EROFS: StoreDenied,
    errno.ENOENT: StoreMisconfigured,
    errno.ENOTDIR: StoreMisconfigured,
    errno.EXDEV: StoreMisconfigured,
    errno.ENAMETOOLONG: StoreRefused,
    errno.EISDIR: StoreRefused,
    errno.EFBIG: StoreRefused,
    errno.ENOSPC: StoreBusy,
    errno.EDQUOT: StoreBusy,
    errno.EMFILE: StoreBusy,
    errno.ENFILE: StoreBusy,
    errno.EMLINK: StoreBusy,
}


class DirectoryStore:
    """A bucket in a local directory. Thread-safe; any number of processes may use the same directory.

    Parameters
    ----------
    directory
        Root; the bucket is a directory in it.
    bucket
        Name of the bucket.
    """

    def __init__(self, directory: str | os.PathLike[str], bucket: str) -> None:
        self._root = os.path.abspath(os.fspath(directory))
        self._bucket = check_bucket(bucket)
        self._base = os.path.join(self._root, bucket)
        self._scratch = os.path.join(self._base, _SCRATCH)
        # A container's processes have the same ids after each start: what a killed one left must not be in the way.
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._durable: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._profile = StoreProfile("directory", "fdatasync", "link")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._bucket

    @property
    def endpoint(self) -> str:
        """Directory that the bucket is in."""
        return self._root

    @property
    def profile(self) -> StoreProfile:
        """Always the same."""
        return self._profile

    def probe(self, *, make_bucket: bool = True) -> StoreProfile:
        """Make the bucket's directory if absent, remove what killed processes left, and try a write."""
        with self._errors(self._base):
            if make_bucket:
                make_directory(self._scratch, _DIRECTORY_MODE)
            self._sweep()
        self.check()
        return self._profile

    def _sweep(self) -> None:
        horizon_s = time.time() - _STALE_SCRATCH_S
        with os.scandir(self._scratch) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    is_stale = entry.stat(follow_symlinks=False).st_mtime < horizon_s
                    if is_stale and not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)

    def check(self) -> None:
        """Whether a file can be made here."""
        with self._errors(self._base):
            path = self._scratch_path()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            os.unlink(path)

    def put_new(self, key: str, body: Body) -> PutResult:
        """Write, sync, link to a name that must be new."""
        path = self._path(key)
        # Without this every duplicate would write a whole file only to throw it away; link() below still decides.
        if os.path.lexists(path):
            return self._taken(path, key)
        with self._errors(key), self._written(body) as scratch:
            self._make_parent(path)
            try:
                os.link(scratch, path)
            except FileExistsError:
                return self._taken(path, key)
            faults.point("directory.linked")
            sync_directory(os.path.dirname(path))
            faults.point("directory.named")
        return PutResult(created=True, etag=_etag(body.crc32c))

    def _taken(self, path: str, key: str) -> PutResult:
        """Whoever linked it may have died before its sync; our caller may take its object for safe now."""
        with self._errors(key):
            self._make_parent(path)
            sync_directory(os.path.dirname(path))
        return PutResult(created=False, etag="")

    def _make_parent(self, path: str) -> None:
        """Make the object's directory, durable up to the bucket: its maker may have died before the sync, too."""
        directory = os.path.dirname(path)
        make_directory(directory, _DIRECTORY_MODE)
        with self._lock:
            if directory in self._durable:
                return
        parent = directory
        while parent != self._base:
            parent = os.path.dirname(parent)
            sync_directory(parent)
        with self._lock:
            self._durable[directory] = None
            while len(self._durable) > _DURABLE_MAX_COUNT:
                self._durable.popitem(last=False)

    def put(self, key: str, body: Body) -> str:
        """Write, sync, rename over whatever is there."""
        path = self._path(key)
        with self._errors(key), self._written(body) as scratch:
            self._make_parent(path)
            os.rename(scratch, path)
            sync_directory(os.path.dirname(path))
        return _etag(body.crc32c)

    def head(self, key: str) -> ObjectInfo | None:
        """Size, time and checksum; the file is read for the latter."""
        with self._errors(key):
            try:
                file = open(self._path(key), "rb", buffering=0)  # noqa: SIM115 - closed by the with below
            except FileNotFoundError:
                self._demand_bucket()
                return None
            with file:
                info = os.fstat(file.fileno())
                crc, size_bytes = 0, 0
                while chunk := file.read(_CHUNK_BYTES):
                    crc, size_bytes = crc32c_extend(crc, chunk), size_bytes + len(chunk)
        return ObjectInfo(key, size_bytes, _etag(crc), crc, info.st_mtime_ns)

    def same(self, info: ObjectInfo, body: Body) -> bool:
        """Compare size and checksum."""
        return info.size_bytes == body.size_bytes and info.crc32c == body.crc32c

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """Read the file."""
        with self._errors(key):
            try:
                file = open(self._path(key), "rb", buffering=0)  # noqa: SIM115 - closed by the with below
            except FileNotFoundError:
                self._demand_bucket()
                return None
            with file:
                if os.fstat(file.fileno()).st_size > max_bytes:
                    raise StoreCorrupt(f"{key} has over {max_bytes} bytes")
                return file.readall()

    def delete(self, key: str) -> None:
        """Unlink, and sync the directory."""
        path = self._path(key)
        with self._errors(key):
            try:
                os.unlink(path)
            except FileNotFoundError:
                self._demand_bucket()
                return
            sync_directory(os.path.dirname(path))

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """Walk the tree in the order of keys."""
        with self._errors(self._base):
            self._demand_bucket()
        yield from self._walk("", prefix, start_after)

    def _walk(self, parent: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        with self._errors(parent or self._base):
            try:
                with os.scandir(os.path.join(self._base, parent)) as found:
                    # Names that are no UTF-8 are foreign files: no key is written so.
                    entries = [
                        (e.name + "/" * e.is_dir(follow_symlinks=False), e) for e in found if _is_utf8(e.name)
                    ]
            except FileNotFoundError:
                return
        # S3 orders by the bytes of the whole key, where the slash after a directory's name counts.
        for name, entry in sorted(entries, key=lambda named: named[0].encode()):
            key = parent + name
            if key == f"{_SCRATCH}/" or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                if key > start_after or start_after.startswith(key):
                    yield from self._walk(key, prefix, start_after)
            elif key > start_after and key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with self._errors(key):
                    info = _stat(entry)
                if info is not None:
                    yield ObjectInfo(key, info.st_size, "", None, info.st_mtime_ns)

    def url(self, key: str, expires_s: int) -> str:  # noqa: ARG002 - a file's URL does not expire
        """file:// URL of the object."""
        return pathlib.Path(self._path(key)).as_uri()

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> str:
        return os.path.join(self._base, check_key(key))

    def _scratch_path(self) -> str:
        return os.path.join(self._scratch, f"{os.getpid()}-{self._token}-{next(self._numbers)}")

    @contextlib.contextmanager
    def _written(self, body: Body) -> Iterator[str]:
        """Path of a synced scratch file with the body; it is gone at the end, whatever happens."""
        self._demand_bucket()
        path = self._scratch_path()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                _write(fd, body.blocks())
                faults.point("directory.written")
                os.fdatasync(fd)
                faults.point("directory.synced")
            finally:
                os.close(fd)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _demand_bucket(self) -> None:
        """A bucket that vanished is not made again behind the operator's back."""
        if not os.path.isdir(self._scratch):
            raise StoreMisconfigured(
                f"{self._base} is gone; bring it back, or restart ingestd to begin a new one"
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = _MEANING.get(error.errno or 0, StoreUnreachable)
            raise kind(f"{self._root}: {what}: {error.strerror}") from error


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Size and time; None where it was deleted meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _etag(crc32c: int) -> str:
    return f"{crc32c:08x}"


def _write(fd: int, blocks: Iterable[bytes | memoryview]) -> None:
    """Write all blocks; a short write is continued, not taken for success."""
    for block in blocks:
        view = memoryview(block).cast("B")
        while view:
            faults.point("directory.write")
            view = view[os.write(fd, faults.shortened("directory.write", view)) :]
