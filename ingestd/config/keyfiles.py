"""The files that settings name, looked into before anything starts: a daemon that cannot use them says so at once."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ingestd import curve
from ingestd.config.model import Settings
from ingestd.errors import ConfigError

__all__ = ["check_files"]


def check_files(settings: Settings) -> None:
    """Read key files, lists of keys and the CA file.

    Raises
    ------
    ConfigError
        One cannot be used; the setting that names it and where that comes from are told.
    """
    checks: tuple[tuple[str, str | None, Callable[[str], object]], ...] = (
        ("security.secret_key_file", settings.security.secret_key_file, curve.read_secret_key),
        ("security.nodes_file", settings.security.nodes_file, curve.read_allowlist),
        ("security.clients_file", settings.security.clients_file, curve.read_allowlist),
        ("minio.ca_file", settings.minio.ca_file, _check_ca),
    )
    for key, path, read in checks:
        if path is None:
            continue
        try:
            read(path)
        except ConfigError as error:
            raise ConfigError(f"{key} ({settings.origin(key)}): {error}") from error


def _check_ca(path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError("no certificates in PEM format") from error
    except OSError as error:
        raise ConfigError(str(error.strerror)) from error
