"""Stores to put objects into, and how it is seen from outside when each object came.

Of a real MinIO the moments are read off its disk: an object is there when the server renames it into its directory, and
inotify tells that at once, for the price of one wake-up, the same for every contender. Dropped: the server's own event
stream (`ListenBucketNotification`; it is flushed in pieces of 4 KiB, minutes late where little happens), HEAD of the
last key (takes cores from whoever is measured), `Last-Modified` (whole seconds), the times of the files (a tick of the
kernel, 4 ms). What is counted in the end is a listing through the server.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Protocol, Self

from ingestd.storage.minio import MinioStore
from ingestd.testing.bench.child import Child
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.bench.inotify import Appearances
from ingestd.testing.minio_server import MinioServer

__all__ = ["MinioTarget", "NullTarget", "Target", "Watch", "wait_for"]

#: Between two looks at what has come [s]; the times themselves are the store's.
_LOOK_S = 0.05


class Watch(Protocol):
    """What came into one bucket, and when."""

    def times_ns(self) -> Mapping[str, int]:
        """Time of each key so far [ns since 1970]."""


class Target(Protocol):
    """A store."""

    name: str
    bucket: str

    def environment(self) -> dict[str, str]:
        """What a contender needs to use it, by the guide's names."""

    def watch(self, plan: FramePlan, n_frames: int) -> contextlib.AbstractContextManager[Watch]:
        """Make a bucket named as the run, and watch for the objects of its frames."""

    def listed(self, bucket: str) -> set[str]:
        """Keys that are there."""

    def clear(self) -> None:
        """Forget what runs left; none is under way."""


def wait_for(watch: Watch, wanted: list[str], timeout_s: float) -> tuple[dict[str, int], list[str]]:
    """Wait until all of these keys came; returns the times of those that did, and the others."""
    end_s = time.monotonic() + timeout_s
    while True:
        times = watch.times_ns()
        if all(key in times for key in reversed(wanted)) or time.monotonic() > end_s:
            found = {key: times[key] for key in wanted if key in times}
            return found, [key for key in wanted if key not in found]
        time.sleep(_LOOK_S)


class NullTarget:
    """Our own store that discards bodies, as a process and a `with` block."""

    name = "null"

    def __init__(self, log_path: str) -> None:
        self._child = Child("ingestd.testing.bench.null_store", {}, log_path)
        self.bucket = ""

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._child.__exit__()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._child.hello)

    def environment(self) -> dict[str, str]:
        """Any credentials will do."""
        return {
            "MINIO_URL": f"http://127.0.0.1:{self.port}",
            "MINIO_ACCESS_KEY": "bench",
            "MINIO_SECRET_KEY": "bench-secret",
            "MINIO_BUCKET_RAW_IQ": self.bucket,
        }

    @contextlib.contextmanager
    def watch(self, plan: FramePlan, n_frames: int) -> Iterator[Watch]:  # noqa: ARG002 - it sees all
        """Watch; there are no buckets, and keys of different runs differ."""
        self.bucket = plan.run
        yield _NullWatch(self.port)

    def listed(self, bucket: str) -> set[str]:  # noqa: ARG002 - there is only one
        """Keys that came."""
        return set(_NullWatch(self.port).times_ns())

    def clear(self) -> None:
        """There is nothing but names."""


class _NullWatch:
    def __init__(self, port: int) -> None:
        self._port = port
        self._seen: dict[str, int] = {}
        self._n_seen = 0

    def times_ns(self) -> Mapping[str, int]:
        """Ask for what is new."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", f"/-/arrivals?first={self._n_seen}")
            new = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        self._n_seen += len(new)
        self._seen.update(new)
        return self._seen


class MinioTarget:
    """A real MinIO that runs already.

    Parameters
    ----------
    server
        Which.
    ca_file
        Authority of its certificate, where it speaks https.
    """

    name = "minio"

    def __init__(self, server: MinioServer, ca_file: str | None = None) -> None:
        self.server = server
        self._ca_file = ca_file
        self.bucket = ""

    def environment(self) -> dict[str, str]:
        """URL, keys and bucket."""
        return {**self.server.environment(), "MINIO_BUCKET_RAW_IQ": self.bucket}

    def store(self, bucket: str) -> MinioStore:
        """A client of ours."""
        server = self.server
        return MinioStore(server.url, server.access_key, server.secret_key, bucket, ca_file=self._ca_file)

    @contextlib.contextmanager
    def watch(self, plan: FramePlan, n_frames: int) -> Iterator[Watch]:
        """Make a bucket and watch its directories until the block ends."""
        self.bucket = plan.run
        store = self.store(plan.run)
        store.probe()
        store.close()
        root = os.path.join(self.server.directory, "data", plan.run)
        # Made beforehand, for everybody alike: what appears in a directory before it is watched would be missed.
        sessions = sorted({os.path.join(root, os.path.dirname(plan.keys(k)[0])) for k in range(n_frames)})
        for session in sessions:
            os.makedirs(session)
        with Appearances(sessions) as appearances:
            yield _DiskWatch(root, appearances)

    def listed(self, bucket: str) -> set[str]:
        """Keys that a listing shows."""
        store = self.store(bucket)
        try:
            return {info.key for info in store.list("sessions/")}
        finally:
            store.close()

    def clear(self) -> None:
        """Remove what runs left, past the server: deleting through it would take as long as the runs did."""
        for path in glob.glob(os.path.join(self.server.directory, "data", "bench-*")):
            shutil.rmtree(path, ignore_errors=True)


class _DiskWatch:
    def __init__(self, root: str, appearances: Appearances) -> None:
        self._root, self._appearances = root, appearances

    def times_ns(self) -> Mapping[str, int]:
        """By key instead of path."""
        start = len(self._root) + 1
        return {path[start:]: ns for path, ns in self._appearances.times_ns.copy().items()}
