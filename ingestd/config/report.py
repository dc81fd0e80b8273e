"""The settings in force, for people: as YAML, as a table, and what an operator should think about."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import yaml

from ingestd.config import values
from ingestd.config.files import is_world_readable, shown_path
from ingestd.config.keys import KEYS, SECTIONS
from ingestd.config.model import Settings
from ingestd.errors import bounded

__all__ = ["advice", "json_schema", "rows", "to_yaml"]

#: Longest value in the table [characters]; `config show` has all of it.
_MAX_SHOWN = 120

#: Secrets that everybody knows: the defaults of the MinIO server.
_WELL_KNOWN_SECRETS = frozenset({"minioadmin", "minioadmin123", "password", "changeme"})


def rows(settings: Settings) -> list[tuple[str, str, str]]:
    """List key, value and origin of every setting; secrets are masked.

    Parameters
    ----------
    settings
        In force.
    """
    public = settings.public()
    return [(name, _shown(name, _value(public, name)), _origin(settings, name)) for name in KEYS]


def to_yaml(settings: Settings) -> str:
    """Write all settings as a config file, the origin of each as a comment; secrets are masked."""
    public = settings.public()
    lines = []
    for name in KEYS:
        section, dot, key = name.partition(".")
        if dot and name == SECTIONS[section][0]:
            lines.append(f"{section}:")
        indent, label = ("  ", key) if dot else ("", name)
        value = _value(public, name)
        if isinstance(value, list) and value:
            lines += [f"{label}:  # {_origin(settings, name)}", _yaml(value, flow=None)]
        else:
            lines.append(f"{indent}{label}: {_yaml(value, flow=True)}  # {_origin(settings, name)}")
    return "\n".join(lines) + "\n"


def json_schema() -> str:
    """Write the JSON schema of the config file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    return json.dumps(_standard_bounds(schema), indent=2)


#: pydantic leaves its own words for bounds where a type may be null too.
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _standard_bounds(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {_BOUNDS.get(key, key): _standard_bounds(value) for key, value in schema.items()}
    return [_standard_bounds(value) for value in schema] if isinstance(schema, list) else schema


def advice(settings: Settings) -> list[str]:
    """List what is allowed but should be known: one sentence each, the key first."""
    return [*_about_secrets(settings), *_about_storage(settings), *_about_endpoints(settings)]


def _about_secrets(settings: Settings) -> Iterator[str]:
    path, _, line = settings.origin("minio.secret_key").rpartition(":")
    if line.isdecimal() and os.path.exists(path) and is_world_readable(path):
        yield f"minio.secret_key: every user of this machine can read it in {shown_path(path)}; chmod 0640 the file"
    if settings.minio_secret_key in _WELL_KNOWN_SECRETS:
        yield "minio.secret_key: this is a default that everybody knows; give the store a secret of its own"


def _about_storage(settings: Settings) -> Iterator[str]:
    if settings.storage.kind == "directory" and settings.minio.url is not None:
        yield f"storage.kind: objects go to a directory although minio.url is set ({settings.origin('minio.url')})"
    elif settings.storage.kind == "directory":
        given = [name for name in ("access_key", "secret_key") if getattr(settings.minio, name) is not None]
        if given:
            yield f"minio.url: not set, so objects go to a directory although minio.{given[0]} is given"
    if settings.storage.kind == "minio" and settings.origin("storage.directory") != "default":
        yield "storage.directory: has no effect, because objects go to minio"
    if settings.spool.durability == "process":
        yield "spool.durability: frames accepted in the last seconds before a power loss are lost"


def _about_endpoints(settings: Settings) -> Iterator[str]:
    for section in ("ingest", "query"):
        address = values.zmq_address(getattr(settings, section).endpoint)
        if address is None:
            continue
        if not values.is_loopback(address.host) and settings.security.secret_key_file is None:
            yield f"{section}.endpoint: whoever reaches {getattr(settings, section).endpoint} may use it"
        if not _is_known_here(address.host):
            yield f"{section}.endpoint: {bounded(address.host)} is neither an address nor an interface of this machine"
    http = values.host_port(settings.http.endpoint)
    if http is not None and not values.is_loopback(http.host):
        yield f"http.endpoint: whoever reaches {settings.http.endpoint} may read metrics and health"


def _is_known_here(host: str) -> bool:
    """Whether libzmq can bind to a host: it takes addresses and interface names, but resolves no others."""
    if host in {"*", "localhost"}:
        return True
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host in {name for _, name in socket.if_nameindex()}
    return True


def _value(public: dict[str, Any], name: str) -> Any:
    section, dot, key = name.partition(".")
    return public[section][key] if dot else public[name]


def _shown(name: str, value: Any) -> str:
    if name == "nodes":
        names = ", ".join(node["name"] for node in value)
        value = f"{len(value)}: {names}" if value else "none"
    if isinstance(value, str):
        plain = value.isprintable() and len(value) <= _MAX_SHOWN
        return (value or "''") if plain else bounded(value, _MAX_SHOWN)
    return json.dumps(value)


def _origin(settings: Settings, name: str) -> str:
    origin = settings.origin(name)
    if name == "storage.kind" and origin == "default":
        return f"because {settings.storage_origin}"
    return origin


def _yaml(value: Any, *, flow: bool | None) -> str:
    text = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, width=2**16, allow_unicode=False)
    return text.removesuffix("\n...\n").rstrip("\n")
