"""Values of single settings: what is allowed, in words, and how text becomes a value. Pure."""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

__all__ = [
    "HostPort",
    "SettingError",
    "bucket_name",
    "byte_size",
    "flag",
    "host_port",
    "http_endpoint",
    "integer",
    "is_loopback",
    "number",
    "one_line",
    "path",
    "redacted_url",
    "region_name",
    "sender_name",
    "store_url",
    "zmq_address",
    "zmq_endpoint",
]


class SettingError(ValueError):
    """A value that is not allowed.

    Parameters
    ----------
    reason
        What the value must be, as a sentence without its subject and without the value: "must be ...".
    key
        Dotted key below the one that was being validated; "" where it is that one.
    shown
        Shown in place of the value, already fit for people; None = the value itself, bounded.
    hidden
        Whether no value may be shown at all.
    because
        Dotted key whose value makes this one wrong, and whose origin is worth telling.
    """

    def __init__(
        self, reason: str, *, key: str = "", shown: str | None = None, hidden: bool = False, because: str = ""
    ) -> None:
        self.reason = reason
        self.key = key
        self.shown = shown
        self.hidden = hidden
        self.because = because
        super().__init__(reason)


_UNITS_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) *([A-Za-z]{0,3})", re.ASCII)
_SIZE_ALLOWED = (
    "must be a whole number of bytes, or a size such as 64 MiB (units B kB MB GB TB KiB MiB GiB TiB)"
)


def byte_size(value: Any) -> Any:
    """Bytes from an int or a text such as `64 MiB`."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        unit = _UNITS_BYTES.get(match[2].lower()) if match else None
        size = Decimal(match[1]) * unit if match and unit else None
        if size is None or size != int(size):
            raise SettingError(_SIZE_ALLOWED)
        return int(size)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(_SIZE_ALLOWED)
    return value


_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)


def integer(value: Any) -> Any:
    """Whole number from an int or its text; a bool or a float is none."""
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError("must be a whole number")
    return value


def number(value: Any) -> Any:
    """Float from a number or its text; a bool is none. `inf` and `nan` are refused by the model."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingError("must be a number")
    return value


_FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def flag(value: Any) -> Any:
    """Bool from a bool or its text."""
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    if not isinstance(value, bool):
        raise SettingError("must be true or false")
    return value


def one_line(value: str) -> str:
    """Text without control characters or white space around it, not empty."""
    if not value or value != value.strip() or not value.isprintable():
        raise SettingError("must be one line of text without control characters or white space around it")
    return value


def path(value: str) -> str:
    """Path of a file or directory; `~` and variables are not expanded, so they are refused."""
    if not value or "\0" in value or value.startswith("~") or "$" in value:
        raise SettingError("must be a path, written out (neither ~ nor variables are expanded)")
    return value


_SENDER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)


def sender_name(value: str) -> str:
    """Name of a node, by the rule of the frame's key `node`."""
    if not _SENDER.fullmatch(value):
        raise SettingError("must be 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot")
    if value == "other":
        raise SettingError("must be any name but 'other', under which unregistered nodes are counted")
    return value


_BUCKET = re.compile(r"(?!xn--)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]", re.ASCII)
_DOTTED_QUAD = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+", re.ASCII)


def bucket_name(value: str) -> str:
    """Name of a bucket, by the rules of S3; it is a directory's name too."""
    if not _BUCKET.fullmatch(value) or _DOTTED_QUAD.fullmatch(value):
        raise SettingError(
            "must be 3 to 63 of a-z 0-9 . -, starting and ending with a letter or digit, no two dots in a row, no IP address"
        )
    return value


_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)


def region_name(value: str) -> str:
    """Name of a region."""
    if not _REGION.fullmatch(value):
        raise SettingError("must be 1 to 63 of A-Z a-z 0-9 -")
    return value


class HostPort(NamedTuple):
    """Where to bind or connect; `host` without the brackets of an IPv6 address."""

    host: str
    port: int


_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9*._-]+):([0-9]{1,5})", re.ASCII)


def host_port(text: str) -> HostPort | None:
    """Read `host:port` or `[IPv6]:port`; None where it is neither or the port is not 1 to 65535."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        return None
    host = match[1]
    if host.startswith("["):
        host = host[1:-1]
        try:
            IPv6Address(host)
        except ValueError:
            return None
    return HostPort(host, int(match[2]))


#: An ipc path must fit sockaddr_un.sun_path with its closing zero [bytes] (unix(7)).
_IPC_PATH_BYTES = 107
_ZMQ_ALLOWED = "must be tcp://ADDRESS:PORT (IPv4, [IPv6], * or an interface; port 1 to 65535) or ipc://PATH"


def zmq_endpoint(value: str) -> str:
    """Endpoint that a ZeroMQ socket binds."""
    scheme, _, rest = value.partition("://")
    if scheme == "tcp" and zmq_address(value) is not None:
        return value
    if scheme == "ipc" and 0 < len(rest.encode()) <= _IPC_PATH_BYTES and rest.isprintable() and rest != "*":
        return value
    raise SettingError(_ZMQ_ALLOWED)


def zmq_address(endpoint: str) -> HostPort | None:
    """Address of a tcp:// endpoint; None for ipc://."""
    scheme, _, rest = endpoint.partition("://")
    return host_port(rest) if scheme == "tcp" else None


def http_endpoint(value: str) -> str:
    """Address of the HTTP server; empty = off."""
    if value and (host_port(value) is None or value.startswith("*")):
        raise SettingError(
            "must be ADDRESS:PORT (for example 127.0.0.1:9108 or [::1]:9108; port 1 to 65535), or empty = off"
        )
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound to `host` (an address or a name of this machine)."""
    if host in {"localhost", "lo"}:
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_URL_ALLOWED = "must be http://HOST[:PORT], https://HOST[:PORT] or HOST:PORT (= http), without path, query or credentials"


def store_url(value: str) -> str:
    """URL of the object store as given, but for a closing slash."""
    scheme, separator, rest = value.partition("://") if "://" in value else ("http", "", value)
    rest = rest.removesuffix("/")
    if "@" in rest:
        raise SettingError(
            "must be a URL without user or password: give them as minio.access_key and minio.secret_key",
            shown=repr(redacted_url(value)),
        )
    host, _, port = rest.partition(":") if not rest.startswith("[") else rest.rpartition(":")
    if rest.endswith("]"):
        host, port = rest, ""
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    wants_port = bool(port) or not separator or rest.endswith(":")
    if scheme.lower() not in {"http", "https"} or not _HOST.fullmatch(host) or (wants_port and not is_port):
        raise SettingError(_URL_ALLOWED, shown=repr(redacted_url(value)))
    return value.removesuffix("/")


def redacted_url(value: str) -> str:
    """Text of a URL without what may be a secret: user, password, query, fragment."""
    scheme, separator, rest = value.partition("://") if "://" in value else ("", "", value)
    if not scheme.isalnum():
        scheme = "***" if scheme else ""
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    plain = re.split(r"[?#]", rest, maxsplit=1)
    return scheme + separator + plain[0] + ("?***" if len(plain) > 1 else "")
