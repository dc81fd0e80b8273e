"""`Settings`: all sections together, what follows from several of them, and the way into a child process.

Nothing but pydantic is imported, because every role's process rebuilds its settings with `Settings.from_bytes`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, PrivateAttr, WithJsonSchema, model_validator

from ingestd.config import values
from ingestd.config.registry import NodeSettings, check_unique
from ingestd.config.sections import (
    HttpSettings,
    IngestSettings,
    LogSettings,
    MinioSettings,
    QuerySettings,
    ScrubSettings,
    SecuritySettings,
    SessionSettings,
    SpoolSettings,
    StorageSettings,
    UploaderSettings,
)
from ingestd.config.types import Path, Section
from ingestd.config.values import SettingError

if TYPE_CHECKING:
    from ingestd.formats.quality import Receiver

__all__ = ["Settings"]

_STATE_DIRECTORY = "./ingestd-state"


class Settings(Section):
    """Validated settings. Frozen; `repr` and `str` never show a secret."""

    state_directory: Annotated[Path, WithJsonSchema({"type": ["string", "null"], "default": None})] = Field(
        default=_STATE_DIRECTORY,
        description=(
            "spool, catalog and (without a store) objects; null = `$STATE_DIRECTORY` (systemd sets it), "
            "else ./ingestd-state"
        ),
    )
    ingest: IngestSettings = IngestSettings()
    query: QuerySettings = QuerySettings()
    http: HttpSettings = HttpSettings()
    spool: SpoolSettings = SpoolSettings()
    storage: StorageSettings = StorageSettings()
    minio: MinioSettings = MinioSettings()
    uploader: UploaderSettings = UploaderSettings()
    log: LogSettings = LogSettings()
    session: SessionSettings = SessionSettings()
    scrub: ScrubSettings = ScrubSettings()
    security: SecuritySettings = SecuritySettings()
    nodes: tuple[NodeSettings, ...] = Field(
        default=(),
        max_length=1000,
        description="registry of nodes: what is known of a receiver beyond what its frames say",
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        """Replace the nulls whose default depends on other sections."""
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        if filled.get("state_directory") is None:
            filled["state_directory"] = _STATE_DIRECTORY
        storage, minio = filled.get("storage") or {}, filled.get("minio") or {}
        if isinstance(storage, Mapping):
            storage = dict(storage)
            url = minio.get("url") if isinstance(minio, Mapping) else getattr(minio, "url", None)
            if storage.get("kind") is None:
                storage["kind"] = "directory" if url is None else "minio"
            if storage.get("directory") is None and isinstance(filled["state_directory"], str):
                storage["directory"] = os.path.join(filled["state_directory"], "objects")
            filled["storage"] = storage
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unique(self.nodes)
        self._check_security()
        self._check_endpoints()
        self._check_store()
        limit = self.spool.max_bytes
        if limit is not None and limit < self.ingest.max_frame_bytes:
            raise SettingError(
                f"must be at least ingest.max_frame_bytes ({self.ingest.max_frame_bytes}), or no such frame ever fits",
                key="spool.max_bytes",
                shown=str(limit),
            )
        return self

    def _check_security(self) -> None:
        given = [name for name in SecuritySettings.model_fields if getattr(self.security, name) is not None]
        for name in ("secret_key_file", "nodes_file"):
            if given and name not in given:
                raise SettingError(
                    f"missing, but security.{given[0]} is set: the daemon's key and the list of nodes go together",
                    key=f"security.{name}",
                    hidden=True,
                    because=f"security.{given[0]}",
                )

    def _check_endpoints(self) -> None:
        for section in ("ingest", "query"):
            endpoint = getattr(self, section).endpoint
            address = values.zmq_address(endpoint)
            is_open = self.security.secret_key_file is None and not self.ingest.insecure
            if address and not values.is_loopback(address.host) and is_open:
                raise SettingError(
                    "must be a loopback address, because others reach this one and without CURVE anyone may use it; "
                    "set security.secret_key_file and security.nodes_file, or ingest.insecure: true where the network "
                    "is trusted",
                    key=f"{section}.endpoint",
                    shown=repr(endpoint),
                )
        taken: dict[object, str] = {}
        for section, address in (
            ("ingest", values.zmq_address(self.ingest.endpoint)),
            ("query", values.zmq_address(self.query.endpoint)),
            ("http", values.host_port(self.http.endpoint)),
        ):
            endpoint = getattr(self, section).endpoint
            place = address.port if address else endpoint
            if endpoint and taken.setdefault(place, section) != section:
                raise SettingError(
                    f"must be a port that {taken[place]}.endpoint does not use",
                    key=f"{section}.endpoint",
                    shown=repr(endpoint),
                )

    def _check_store(self) -> None:
        if self.minio.ca_file is not None and not (self.minio.url or "").lower().startswith("https://"):
            raise SettingError(
                "has no effect unless minio.url begins with https://: leave it out, or use https",
                key="minio.ca_file",
                shown=repr(self.minio.ca_file),
            )
        if self.storage.kind != "minio":
            return
        for name in ("url", "access_key", "secret_key"):
            if getattr(self.minio, name) is None:
                raise SettingError(
                    f"missing, but objects go to minio: set MINIO_{name.upper()}, the credential minio__{name}, "
                    "or the key in the config file",
                    key=f"minio.{name}",
                    hidden=True,
                    because="storage.kind" if self.minio.url is None else "minio.url",
                )

    def origin(self, key: str) -> str:
        """Source of a key, for people: "environment MINIO_URL", "/etc/ingestd/config.yaml:12", "default"."""
        return self._origins.get(key, "default")

    @property
    def storage_origin(self) -> str:
        """Why objects go where they go, for people."""
        if "storage.kind" in self._origins:
            return f"storage.kind is {self.storage.kind} ({self.origin('storage.kind')})"
        if self.minio.url is not None:
            return f"minio.url is set ({self.origin('minio.url')})"
        return "no source gives minio.url"

    @property
    def minio_url(self) -> str | None:
        """`minio.url`, by its name in the user's guide."""
        return self.minio.url

    @property
    def minio_access_key(self) -> str | None:
        """`minio.access_key`, by its name in the user's guide."""
        return self.minio.access_key

    @property
    def minio_secret_key(self) -> str | None:
        """`minio.secret_key` in clear, by its name in the user's guide."""
        secret = self.minio.secret_key
        return None if secret is None else secret.get_secret_value()

    @property
    def minio_bucket_raw_iq(self) -> str:
        """`minio.bucket_raw_iq`, by its name in the user's guide."""
        return self.minio.bucket_raw_iq

    @cached_property
    def _nodes_by_name(self) -> dict[str, NodeSettings]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _nodes_by_id(self) -> dict[int, NodeSettings]:
        return {node.websdr_id: node for node in self.nodes if node.websdr_id is not None}

    @cached_property
    def _receivers(self) -> dict[str, Receiver]:
        # Here and not above: most roles never measure, and this module must not pull numpy into them.
        from ingestd.formats.quality import Calibration, Receiver  # noqa: PLC0415

        return {
            node.name: Receiver(
                tuple(Calibration(c.min_hz, c.max_hz, c.offset_db, c.gain_db) for c in node.calibration),
                node.bandwidth_hz,
            )
            for node in self.nodes
        }

    def node_of(self, node: str | None, websdr_id: int) -> NodeSettings | None:
        """Find the registered node of a frame, by name, then by websdr_id; None where there is none."""
        named = self._nodes_by_name.get(node) if node is not None else None
        return named or self._nodes_by_id.get(websdr_id)

    def receiver_of(self, node: str | None, websdr_id: int) -> Receiver | None:
        """Find calibration and passband of the registered node of a frame; None where there is none."""
        registered = self.node_of(node, websdr_id)
        return None if registered is None else self._receivers[registered.name]

    def public(self) -> dict[str, Any]:
        """All settings as JSON-able maps, secrets masked."""
        return self.model_dump(mode="json")

    def to_bytes(self) -> bytes:
        """Everything, secrets in clear, for a child process; never to be written to a disk or a command line."""
        plain = self.model_dump(mode="json")
        plain["minio"]["secret_key"] = self.minio_secret_key
        return json.dumps({"settings": plain, "origins": self._origins}).encode("ascii")

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Settings:
        """Rebuild settings from what `to_bytes` gave."""
        decoded = json.loads(encoded)
        return cls.model_validate(decoded["settings"]).with_origins(decoded["origins"])

    def with_origins(self, origins: Mapping[str, str]) -> Settings:
        """Copy that knows where its keys come from."""
        known = self.model_copy()
        known._origins = dict(origins)  # noqa: SLF001 - our own copy
        return known
