"""The store that the settings name."""

from __future__ import annotations

from ingestd.config import Settings
from ingestd.storage.directory import DirectoryStore
from ingestd.storage.minio import MinioStore
from ingestd.storage.port import ObjectStore

__all__ = ["open_store"]


def open_store(settings: Settings) -> ObjectStore:
    """Make a client of the store; nothing is contacted yet.

    Raises
    ------
    ConfigError
        The endpoint cannot be read.
    """
    bucket = settings.minio.bucket_raw_iq
    if settings.storage.kind == "directory":
        return DirectoryStore(settings.storage.directory, bucket)
    return MinioStore(
        settings.minio_url or "",
        settings.minio_access_key or "",
        settings.minio_secret_key or "",
        bucket,
        region=settings.minio.region,
        ca_file=settings.minio.ca_file,
    )
