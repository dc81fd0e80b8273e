"""CURVE key files of a daemon, its nodes and its clients, in one directory."""

from __future__ import annotations

import os
from typing import Any

from ingestd import curve

__all__ = ["Keys"]


class Keys:
    """Makes keys, and the lists of those that are let in.

    Parameters
    ----------
    directory
        Exists; the daemon's own keys are made in it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        self.nodes_file = os.path.join(self.directory, "nodes")
        self.clients_file = os.path.join(self.directory, "clients")
        with open(os.path.join(self.directory, "daemon.pub"), "w", encoding="ascii") as file:
            file.write(self.make("daemon"))

    def make(self, name: str) -> str:
        """Make a key pair; returns the public key."""
        return curve.write_secret_key(os.path.join(self.directory, f"{name}.key"))

    def files(self, name: str) -> dict[str, str]:
        """What whoever connects with this key is given."""
        return {
            "secret_key_file": os.path.join(self.directory, f"{name}.key"),
            "server_key_file": os.path.join(self.directory, "daemon.pub"),
        }

    def allow(self, *names: str, file: str | None = None) -> None:
        """Write the list of nodes, or another one."""
        lines = [
            f"{name} {curve.public_key_of(curve.read_secret_key(self.files(name)['secret_key_file']))}\n"
            for name in names
        ]
        with open(file or self.nodes_file, "w", encoding="ascii") as out:
            out.write("# allowed\n" + "".join(lines))

    def settings(self) -> dict[str, Any]:
        """Section `security` of the daemon."""
        return {
            "secret_key_file": os.path.join(self.directory, "daemon.key"),
            "nodes_file": self.nodes_file,
            "clients_file": self.clients_file,
        }
