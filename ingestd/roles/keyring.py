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
    bound_file
        The one of them whose keys speak for their own name alone, as long as no other file has them too.

    Raises
    ------
    ConfigError
        A file cannot be used.
    """

    def __init__(
        self, secret_key: str, files: Sequence[str], reload: Mark, bound_file: str | None = None
    ) -> None:
        self.secret_key = secret_key
        self._files = tuple(files)
        self._bound_file = bound_file
        self._reload = reload
        self._names, self._free = self._read()

    def name_of(self, key: str) -> str | None:
        """Name that a public key is bound to; None where it is not let in."""
        return self._names.get(key)

    def only_name_of(self, key: str) -> str | None:
        """Name that whoever has this key must keep to; None where it may speak of all."""
        return None if self._bound_file is None or key in self._free else self._names.get(key)

    def reload_if_asked(self) -> None:
        """Read the files again where that was asked for; with one that is wrong everything stays as it is."""
        # Taken before reading: what is asked for meanwhile is not lost.
        if not self._reload.take():
            return
        try:
            # Whoever looks a name up meanwhile sees the old map or the new one.
            self._names, self._free = self._read()
        except ConfigError as error:
            log.error("keys_not_reloaded", error=str(error))  # noqa: TRY400 - an expected error has no traceback
        else:
            log.info("keys_reloaded", keys=len(self._names))

    def _read(self) -> tuple[dict[str, str], frozenset[str]]:
        """Names by key, and the keys that are in another file than the bound one."""
        names: dict[str, str] = {}
        free: set[str] = set()
        for path in self._files:
            found = curve.read_allowlist(path)
            names = found | names
            if path != self._bound_file:
                free |= found.keys()
        return names, frozenset(free)


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
    secret_key = curve.read_secret_key(security.secret_key_file)
    return Keyring(secret_key, files, reload, bound_file=security.nodes_file)
