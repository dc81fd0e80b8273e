"""The class of the user's guide: upload, download and list measurements without a daemon.

It shares store, keys, conflict rules and formats with the daemon; what one writes the other finds.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import threading
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ingestd.errors import FrameError, IngestdError, StoreError
from ingestd.formats import npy
from ingestd.formats.loose import measurement_of
from ingestd.formats.measurement import Identity, KeyKind, object_keys, parse_key, session_prefix
from ingestd.formats.timestamps import format_utc
from ingestd.storage.encoding import encode_pair
from ingestd.storage.locks import IdentityLocks
from ingestd.storage.minio import MinioStore
from ingestd.storage.pair import Policy, store_pair
from ingestd.storage.port import ObjectInfo, ObjectStore

__all__ = ["MinIOClient"]

#: Longest object that `download_iq_data` reads [bytes]: sixteen times the longest frame.
_MAX_DOWNLOAD_BYTES = 2**30

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class MinIOClient:
    """Measurements in a bucket. Thread-safe.

    Parameters
    ----------
    endpoint_url
        `http://HOST[:PORT]`, `https://HOST[:PORT]` or `HOST:PORT`.
    access_key, secret_key
        Credentials.
    bucket_name
        Made at the first upload where it is absent.

    Raises
    ------
    ConfigError
        The endpoint cannot be read.
    """

    def __init__(
        self, endpoint_url: str, access_key: str, secret_key: str, bucket_name: str = "heimdall-raw-iq"
    ) -> None:
        self._begin(MinioStore(endpoint_url, access_key, secret_key, bucket_name))

    @classmethod
    def of_store(
        cls,
        store: ObjectStore,
        *,
        on_conflict: Policy = "keep_both",
        figures: Literal["missing", "none"] = "missing",
        sha256: bool = False,
        lock_directory: str | None = None,
    ) -> Self:
        """Make a client of any store, with the daemon's settings for what goes into it.

        Parameters
        ----------
        store
            Where to.
        on_conflict, figures, sha256
            As `storage.on_conflict`, `uploader.quality` and `storage.sha256`.
        lock_directory
            Of a daemon's identity locks; shared with it where the store cannot check and write in one request.
        """
        client = cls.__new__(cls)
        client._begin(store, on_conflict, figures, sha256=sha256, lock_directory=lock_directory)  # noqa: SLF001 - ours
        return client

    def _begin(
        self,
        store: ObjectStore,
        on_conflict: Policy = "keep_both",
        figures: Literal["missing", "none"] = "missing",
        *,
        sha256: bool = False,
        lock_directory: str | None = None,
    ) -> None:
        self._store = store
        self._on_conflict: Policy = on_conflict
        self._figures: Literal["missing", "none"] = figures
        self._sha256 = sha256
        self._locks = IdentityLocks(
            lock_directory or os.path.join(tempfile.gettempdir(), f"ingestd-locks-{os.getuid()}")
        )
        self._probed = False
        self._lock = threading.Lock()

    def upload_iq_data(
        self,
        iq_data: object,
        task_id: str,
        websdr_id: int,
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[bool, str]:
        """Store one buffer with its metadata.

        Parameters
        ----------
        iq_data
            Complex array of shape `(n_samples,)`, bytes of complex64, or a list (`formats.loose.samples_of`).
        task_id, websdr_id
            Session and receiver.
        metadata
            Keys of a frame, others go to `extras`; `timestamp_utc` may be a datetime. None still writes the marker.

        Returns
        -------
        tuple of bool and str
            (True, `s3://...` path of the samples), or (False, why not). Nothing is overwritten: where other content
            has the name, the path is that of a copy beside it.
        """
        try:
            measurement = measurement_of(iq_data, task_id, websdr_id, _with_text_time(metadata))
            pair, _ = encode_pair(measurement, figures=self._figures, sha256=self._sha256)
            self._probe()
            outcome = store_pair(self._store, pair, self._on_conflict, lock=self._locks.hold)
        except IngestdError as error:
            return False, str(error)
        return True, self._s3_path(outcome.keys.npy)

    def download_iq_data(
        self, task_id: str, websdr_id: int, chunk: int | None = None, copy: str | None = None
    ) -> tuple[bool, npt.NDArray[np.complex64] | str]:
        """Read one buffer back.

        Returns
        -------
        tuple
            (True, samples of shape `(n_samples,)`, complex64), or (False, why not).
        """
        try:
            key = self._key(task_id, websdr_id, chunk, copy)
            stored = self._store.get(key, _MAX_DOWNLOAD_BYTES)
            if stored is None:
                return False, f"{self._s3_path(key)} does not exist"
            return True, npy.decode(stored)
        except IngestdError as error:
            return False, str(error)

    def get_session_measurements(self, task_id: str) -> dict[int, dict[str, Any]]:
        """List what a session holds, by receiver id.

        Returns
        -------
        dict
            `{websdr_id: {iq_data_path, metadata_path, size_bytes, last_modified, chunks, copies}}`; paths are
            `s3://...`, the time is UTC text, `chunks` and `copies` list the same four with their `chunk` and `copy`.
            A path is None where that object is not there (yet).

        Raises
        ------
        FrameError
            `task_id` is none.
        StoreError
            The bucket cannot be listed.
        """
        # A prefix with a slash in the wrong place would list somebody else's session.
        self._key(task_id, 0, None, None)
        sessions: dict[int, dict[str, Any]] = {}
        for info in self._store.list(session_prefix(task_id)):
            kind = parse_key(info.key)
            if kind is not None:
                self._enter(
                    sessions.setdefault(kind.identity.websdr_id, _blank() | {"chunks": [], "copies": []}),
                    kind,
                    info,
                )
        return sessions

    def _enter(self, receiver: dict[str, Any], kind: KeyKind, info: ObjectInfo) -> None:
        chunk, path = kind.identity.chunk, self._s3_path(info.key)
        if kind.copy is not None:
            place = _row(receiver["copies"], {"chunk": chunk, "copy": kind.copy})
        elif chunk is not None:
            place = _row(receiver["chunks"], {"chunk": chunk})
        else:
            place = receiver
        if kind.is_metadata:
            place["metadata_path"] = path
        else:
            place |= {
                "iq_data_path": path,
                "size_bytes": info.size_bytes,
                "last_modified": format_utc(info.last_modified_ns),
            }

    def health_check(self) -> dict[str, Any]:
        """Whether the bucket can be reached and used: `status, endpoint, bucket, accessible, error`."""
        error = None
        try:
            self._store.check()
        except StoreError as found:
            error = str(found)
        return {
            "status": "healthy" if error is None else "unhealthy",
            "endpoint": self._store.endpoint,
            "bucket": self._store.bucket,
            "accessible": error is None,
            "error": error,
        }

    def ensure_bucket_exists(self) -> bool:
        """Make the bucket where it is absent; whether it is there and can be used now."""
        try:
            with self._lock:
                self._store.probe()
                self._probed = True
        except StoreError:
            # `health_check` says why.
            return False
        return True

    def close(self) -> None:
        """Close connections."""
        self._store.close()

    def _probe(self) -> None:
        """Find out once what the store supports; makes the bucket."""
        with self._lock:
            if not self._probed:
                self._store.probe()
                self._probed = True

    def _key(self, task_id: str, websdr_id: int, chunk: int | None, copy: str | None) -> str:
        key = object_keys(Identity(task_id, websdr_id, chunk), copy).npy
        if parse_key(key) is None:
            raise FrameError(
                "task_id",
                "task_id, websdr_id",
                key,
                "task_id of 1 to 128 of A-Z a-z 0-9 . _ -, websdr_id 0 to 2^31-1",
            )
        return key

    def _s3_path(self, key: str) -> str:
        return f"s3://{self._store.bucket}/{key}"


def _blank() -> dict[str, Any]:
    return {"iq_data_path": None, "metadata_path": None, "size_bytes": None, "last_modified": None}


def _row(rows: list[dict[str, Any]], place: dict[str, Any]) -> dict[str, Any]:
    """The row of a chunk or copy; both objects of a pair come one after the other, so it is the last one or new."""
    if not rows or any(rows[-1][name] != value for name, value in place.items()):
        rows.append(place | _blank())
    return rows[-1]


def _with_text_time(metadata: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Nanoseconds for a `timestamp_utc` that is a datetime, exactly; without a zone it is taken for UTC."""
    moment = metadata.get("timestamp_utc") if isinstance(metadata, Mapping) else None
    if metadata is None or not isinstance(moment, dt.datetime):
        return metadata
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    timestamp_ns = (aware - _EPOCH) // dt.timedelta(microseconds=1) * 1000
    return {name: value for name, value in metadata.items() if name != "timestamp_utc"} | {
        "timestamp_ns": timestamp_ns
    }
