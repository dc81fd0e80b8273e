"""The sections of the settings: every key with its type, range, default and meaning.

The descriptions are the ones in docs/settings.md; config.yaml shows the same keys with the same defaults.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from ingestd.config.types import (
    Bucket,
    Bytes,
    Flag,
    HttpEndpoint,
    Integer,
    Line,
    Number,
    Path,
    Region,
    Secret,
    Section,
    StoreUrl,
    ZmqEndpoint,
)

__all__ = [
    "HttpSettings",
    "IngestSettings",
    "LogSettings",
    "MinioSettings",
    "QuerySettings",
    "ScrubSettings",
    "SecuritySettings",
    "SessionSettings",
    "SpoolSettings",
    "StorageSettings",
    "UploaderSettings",
]

#: Largest size that means anything: int64 [bytes].
_MAX_BYTES = 2**63 - 1


#: Uploader processes at most: beyond it the store is the limit on every machine.
_MAX_PROCESSES = 256


def _half_the_cores() -> int:
    # Receiver, nodes and often the store want the other half; a second process on two cores takes as much from the store
    # as it adds (docs/performance.md).
    return max(1, min(len(os.sched_getaffinity(0)) // 2, _MAX_PROCESSES))


def _half_the_cores_if_null(value: Any) -> Any:
    return _half_the_cores() if value is None else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class IngestSettings(Section):
    """The socket on which frames arrive."""

    endpoint: ZmqEndpoint = Field(
        default="tcp://127.0.0.1:5555",
        description="PULL socket: tcp://ADDRESS:PORT or ipc://PATH. ADDRESS: IPv4, [IPv6], * or an interface",
    )
    max_frame_bytes: Bytes = Field(
        default=64 * 2**20,
        ge=4096,
        le=2**30,
        description="largest frame; the connection of a sender that goes over it is closed",
    )
    max_connections: Integer = Field(
        default=64, ge=1, le=65535, description="senders connected at the same time; more are closed"
    )
    max_connections_per_address: Integer | None = Field(
        default=None,
        ge=1,
        le=65535,
        description=(
            "peers of one address connected at the same time, to either socket; "
            "null = 16, and any number from this machine"
        ),
    )
    insecure: Flag = Field(
        default=False,
        description="allow `ingest.endpoint` and `query.endpoint` on addresses that others reach, without CURVE",
    )


class QuerySettings(Section):
    """The socket that answers queries."""

    endpoint: ZmqEndpoint = Field(
        default="tcp://127.0.0.1:5556", description="REP socket: tcp://ADDRESS:PORT or ipc://PATH"
    )


class HttpSettings(Section):
    """Metrics and probes over HTTP."""

    endpoint: HttpEndpoint = Field(
        default="127.0.0.1:9108", description='/metrics, /healthz and /readyz: ADDRESS:PORT; empty ("") = off'
    )


class SpoolSettings(Section):
    """Accepted frames that are not stored yet."""

    durability: Literal["disk", "process"] = Field(
        default="disk",
        description="`disk`: accepted survives power loss. `process`: accepted survives a crash of the daemon (page cache only)",
    )
    max_bytes: Bytes | None = Field(
        default=None,
        ge=2**20,
        le=_MAX_BYTES,
        description="the spool takes no more than this; null = `min_free_bytes` alone",
    )
    min_free_bytes: Bytes = Field(
        default=2**30,
        ge=0,
        le=_MAX_BYTES,
        description="acceptance stops while the file system has less than this free",
    )
    retain_s: Number = Field(
        default=0.0,
        ge=0,
        le=31_622_400,
        description="keep stored entries for this long, to send them again [s]",
    )


class StorageSettings(Section):
    """Where objects go."""

    # Settings fills in null: both depend on other sections.
    kind: Annotated[
        Literal["minio", "directory"], WithJsonSchema({"enum": ["minio", "directory", None], "default": None})
    ] = Field(
        default="directory",
        description="`minio` or `directory`; null = `minio` where `minio.url` is set in any source, else `directory`",
    )
    directory: Annotated[Path, WithJsonSchema({"type": ["string", "null"], "default": None})] = Field(
        default="./ingestd-state/objects",
        description="root of the directory store; null = `objects` in `state_directory`",
    )
    on_conflict: Literal["keep_both", "overwrite", "reject"] = Field(
        default="keep_both",
        description="same identity, other content: `keep_both`, `overwrite` (the newer entry wins) or `reject` (the first is kept)",
    )
    sha256: Flag = Field(
        default=False,
        description="add the SHA-256 of the .npy object to its metadata; costs as much CPU as all the rest",
    )


class MinioSettings(Section):
    """MinIO, or any S3-compatible store."""

    url: StoreUrl | None = Field(
        default=None,
        description="http://HOST:PORT, https://HOST:PORT, or HOST:PORT (= http). Without user and password",
    )
    access_key: Line | None = Field(default=None, description="access key")
    secret_key: Secret | None = Field(
        default=None,
        description=(
            "secret key. Better a credential file (`minio__secret_key`) or `MINIO_SECRET_KEY`; never on the command line"
        ),
    )
    ca_file: Path | None = Field(
        default=None,
        description="certificate authority of an https store, as PEM; null = those of the system",
    )
    bucket_raw_iq: Bucket = Field(
        default="heimdall-raw-iq", description="bucket; a directory's name in the directory store"
    )
    region: Region | None = Field(
        default=None, description="region of the bucket; null = the store's default"
    )


class UploaderSettings(Section):
    """The worker pool that uploads."""

    count: Annotated[
        Integer,
        BeforeValidator(_half_the_cores_if_null),
        WithJsonSchema({"type": ["integer", "null"], "default": None}),
    ] = Field(
        default_factory=_half_the_cores,
        ge=1,
        le=_MAX_PROCESSES,
        description="processes; null = one for every two usable cores",
    )
    threads: Integer = Field(default=4, ge=1, le=64, description="uploads at the same time in each process")
    quality: Literal["missing", "none"] = Field(
        default="missing",
        description="`missing`: compute the figures (SNR, offset, power) that the node did not send. `none`: compute none",
    )


class LogSettings(Section):
    """Log lines on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = (
        Field(
            default="info", description="lowest level that is logged: debug, info, warning, error or critical"
        )
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`json` lines, `console` for people; `auto` = console on a terminal, else json",
    )


class SessionSettings(Section):
    """Sessions: the measurements of one task_id."""

    timeout_s: Number = Field(
        default=60.0,
        gt=0,
        le=31_622_400,
        description="a session with `expected` receivers is given up this long after its last acceptance [s]",
    )


class ScrubSettings(Section):
    """What is stored, looked at again and again; health shows the progress."""

    pairs_per_s: Number = Field(
        default=0.0,
        ge=0,
        le=100,
        description="stored measurements looked at in a second, at most; 0 = off [1/s]",
    )


class SecuritySettings(Section):
    """CURVE: encryption of both sockets, and who may use them; SIGHUP has the lists read again."""

    secret_key_file: Path | None = Field(
        default=None,
        description="the daemon's secret key, as `ingestd keygen` writes it; others must not be able to read it. null = no CURVE",
    )
    nodes_file: Path | None = Field(
        default=None,
        description="public keys of the nodes, a line NAME KEY each; NAME is the `node` of their frames",
    )
    clients_file: Path | None = Field(
        default=None,
        description="public keys of others that may ask, a line NAME KEY each; nodes may ask too. null = nodes alone",
    )
