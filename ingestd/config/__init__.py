"""Settings of the daemon: one frozen object, five sources, no silent mistakes.

Order: command line > environment > systemd credentials directory > config file > defaults. `load` reads them and
raises `ConfigError` for whatever an operator could have meant otherwise; `settings` is loaded at its first use.
Child processes get their settings through `Settings.from_bytes` and never import the sources.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ingestd.config.model import Settings
from ingestd.config.registry import NodeSettings

__all__ = ["NodeSettings", "Settings", "load", "settings"]

settings: Settings

_lock = threading.Lock()


def load(
    config_file: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings from all sources.

    Parameters
    ----------
    config_file
        Path of the config file; without it `$INGESTD_CONFIG`, else /etc/ingestd/config.yaml where that exists.
    overrides
        Values of the command line; keys are dotted ("minio.url") or nested maps.
    environ
        Environment; that of the process where it is left out.

    Returns
    -------
    Settings
        Validated and frozen.

    Raises
    ------
    ConfigError
        A source cannot be read, a key is unknown, or a value is not allowed.
    """
    # Here and not above: a role's process never needs what this imports (0.2 s of CPU).
    from ingestd.config.sources import read  # noqa: PLC0415

    return read(config_file, overrides, environ)


def __getattr__(name: str) -> Settings:
    """Load `settings` at its first use."""
    if name != "settings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if "settings" not in globals():
            globals()["settings"] = load()
        loaded: Settings = globals()["settings"]
        return loaded
