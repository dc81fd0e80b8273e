"""The daemon's CURVE key, and the names of the keys that one of its sockets lets in; read again when asked to."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from ingestd import curve
from ingestd.config import Settings
from ingestd.errors import ConfigError
from ingestd.roles.signals import Mark

__all__ = ["Keyring", "clients_keyring", "nodes_keyring"]

log = structlog.get_logger(__name__)


class Keyring:
    """Who may use a socket, by public key. Read by any thread, read again by one.

    Parameters
    ----------
    secret_key
        Of the daemon.
    files
        Lists of public keys; a key in any of them is let in.
    reload
        Set by whoever wants the files to be read again.

    Raises
    ------
    ConfigError
        A file cannot be used.
    """

    def __init__(self, secret_key: str, files: Sequence[str], reload: Mark) -> None:
        self.secret_key = secret_key
        self._files = tuple(files)
        self._reload = reload
        self._names = self._read()

    def name_of(self, key: str) -> str | None:
        """Name that a public key is bound to; None where it is not let in."""
        return self._names.get(key)

    def reload_if_asked(self) -> None:
        """Read the files again where that was asked for; with one that is wrong everything stays as it is."""
        # Taken before reading: what is asked for meanwhile is not lost.
        if not self._reload.take():
            return
        try:
            # One assignment: whoever looks a name up sees the old map or the new one.
            self._names = self._read()
        except ConfigError as error:
            log.error("keys_not_reloaded", error=str(error))  # noqa: TRY400 - an expected error has no traceback
        else:
            log.info("keys_reloaded", keys=len(self._names))

    def _read(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for path in self._files:
            names = curve.read_allowlist(path) | names
        return names


def nodes_keyring(settings: Settings, reload: Mark) -> Keyring | None:
    """Keys for the socket that takes frames; None without CURVE."""
    security = settings.security
    if security.secret_key_file is None or security.nodes_file is None:
        return None
    return Keyring(curve.read_secret_key(security.secret_key_file), [security.nodes_file], reload)


def clients_keyring(settings: Settings, reload: Mark) -> Keyring | None:
    """Keys for the socket that answers: those of nodes, which ask for confirmation, and those of clients."""
    security = settings.security
    if security.secret_key_file is None or security.nodes_file is None:
        return None
    files = [path for path in (security.nodes_file, security.clients_file) if path is not None]
    return Keyring(curve.read_secret_key(security.secret_key_file), files, reload)
