"""CURVE keys (RFC 26): their files, who is let in, and a socket's own.

A key is 40 characters of Z85 (RFC 32). A secret key file holds one key, a list of public keys `NAME PUBLIC_KEY` lines,
both with comments: `#` is a character of Z85 too, but no key begins with it (84 x 85^4 is more than 4 bytes hold).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from ingestd.errors import ConfigError, UsageError, bounded

__all__ = [
    "ClientKeys",
    "public_key_of",
    "read_allowlist",
    "read_public_key",
    "read_secret_key",
    "text_of",
    "write_secret_key",
]

#: Longest file of keys [bytes]: ten thousand nodes.
_MAX_FILE_BYTES = 2**20

#: Z85 in its order, and a key of 32 bytes in it.
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_KEY = re.compile(f"[{re.escape(_Z85)}]{{40}}", re.ASCII)
_VALUES = {character: value for value, character in enumerate(_Z85)}

#: Name of a node or client: the frame's key `node`.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)


def is_key(text: str) -> bool:
    """Whether a text is a key; 5 characters of Z85 can say more than 4 bytes hold."""
    if not _KEY.fullmatch(text):
        return False
    groups = (text[i : i + 5] for i in range(0, len(text), 5))
    return all(sum(_VALUES[c] * 85 ** (4 - i) for i, c in enumerate(group)) < 2**32 for group in groups)


def text_of(key: bytes) -> str:
    """A key of 32 bytes as text; "" for anything else."""
    return z85.encode(key).decode("ascii") if len(key) == 32 else ""


def public_key_of(secret_key: str) -> str:
    """Public key that belongs to a secret key."""
    return zmq.curve_public(secret_key.encode("ascii")).decode("ascii")


def write_secret_key(path: str) -> str:
    """Make a key pair; the secret key goes into a new file that only its owner can read.

    Parameters
    ----------
    path
        Of the file; one that is there is never replaced.

    Returns
    -------
    str
        The public key.

    Raises
    ------
    UsageError
        There is a file of that name.
    ConfigError
        It cannot be written.
    """
    public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
    text = f"# CURVE secret key of ingestd: keep it to yourself. The public key is\n# {public}\n{secret}\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(f"{_shown(path)} exists (a key is never replaced: name another file)") from None
    except OSError as error:
        raise ConfigError(f"{_shown(path)}: {error.strerror}") from error
    return public


def read_secret_key(path: str) -> str:
    """Read a secret key out of its file.

    Raises
    ------
    ConfigError
        It cannot be read, others can read it, or it holds no key. What is in it is never shown.
    """
    (key,) = _keys_alone(path, _read(path, secret=True), "secret key, as `ingestd keygen` writes it")
    return key


def read_public_key(path: str) -> str:
    """Read one public key out of its file.

    Raises
    ------
    ConfigError
        It cannot be read, or holds no key.
    """
    (key,) = _keys_alone(path, _read(path, secret=False), "public key of 40 characters")
    return key


def _keys_alone(path: str, text: str, what: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if is_key(line)]
    strange = [line for line in lines if line and not is_key(line) and not line.startswith("#")]
    if strange or len(keys) != 1:
        raise ConfigError(f"{_shown(path)}: must hold one {what}, and nothing else but comments")
    return keys


def read_allowlist(path: str) -> dict[str, str]:
    """Read a list of public keys: a line `NAME PUBLIC_KEY` each; lines that begin with # are comments.

    A name may have several keys (a new one beside the old); a key has one name.

    Returns
    -------
    dict
        Name by public key.

    Raises
    ------
    ConfigError
        It cannot be read, others can write it, or a line is wrong: it is named by its number.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(_read(path, secret=False).splitlines(), start=1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        where = f"{_shown(path)}:{number}"
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not is_key(words[1]):
            raise ConfigError(
                f"{where}: must be NAME PUBLIC_KEY: a name of A-Z a-z 0-9 . _ -, then a key of 40 characters"
            )
        name, key = words
        if names.setdefault(key, name) != name:
            raise ConfigError(f"{where}: this key is the one of {names[key]} already")
    return names


def _read(path: str, *, secret: bool) -> str:
    shown = _shown(path)
    try:
        # O_NONBLOCK: a FIFO must be refused below, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{shown}: not a regular file")
            # The open file is looked at, not its name: nobody can put another in between.
            if secret and mode & 0o007:
                raise ConfigError(f"{shown}: others may read this file; chmod 0400 it")
            if mode & 0o002:
                raise ConfigError(f"{shown}: others may write this file; chmod 0644 it")
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown}: {error.strerror}") from error
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigError(f"{shown}: longer than {_MAX_FILE_BYTES} bytes")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: not ASCII (byte {error.start})") from None


def _shown(path: str) -> str:
    return path if path.isprintable() and path.isascii() and len(path) <= 200 else bounded(path, 200)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """Keys of one that connects.

    Parameters
    ----------
    server_key
        Public key of the daemon.
    secret_key
        Own secret key; never shown.
    """

    server_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def read(cls, secret_key_file: str | None, server_key_file: str | None) -> ClientKeys | None:
        """Read both files; None where none is named.

        Raises
        ------
        UsageError
            One is named and the other is not.
        ConfigError
            A file cannot be used.
        """
        if secret_key_file is None and server_key_file is None:
            return None
        if secret_key_file is None or server_key_file is None:
            raise UsageError("secret_key_file and server_key_file go together: the own key and the daemon's")
        return cls(read_public_key(server_key_file), read_secret_key(secret_key_file))

    def options(self) -> Mapping[int, bytes]:
        """Options of the ZeroMQ socket, to be set before it connects."""
        return {
            zmq.CURVE_SERVERKEY: self.server_key.encode("ascii"),
            zmq.CURVE_PUBLICKEY: public_key_of(self.secret_key).encode("ascii"),
            zmq.CURVE_SECRETKEY: self.secret_key.encode("ascii"),
        }
