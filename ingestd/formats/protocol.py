"""The query protocol, version 1: requests in, replies out, in JSON or msgpack. Pure.

A request is one map, `{"v": 1, "id": any scalar, "cmd": "session", "args": {...}}`; only `cmd` is required. The reply
has the encoding of the request, told by its first byte: a msgpack map never starts like a JSON object. Integers are
integers in both, nanoseconds since 1970 included: a JSON reader with float64 numbers must use the `*_utc` texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, NoReturn

import msgpack

from ingestd.errors import QueryError, bounded
from ingestd.formats.commands import COMMANDS, Command

__all__ = [
    "MAX_REQUEST_BYTES",
    "PROTOCOL_VERSION",
    "Encoding",
    "ErrorCode",
    "Refusal",
    "Request",
    "Scalar",
    "decode",
    "encode_data",
    "encode_error",
    "encoding_of",
]

PROTOCOL_VERSION = 1

#: Longest request [bytes]: the longest honest one (every filter and a cursor) is below 2 KiB.
MAX_REQUEST_BYTES = 64 * 1024

#: Maps and arrays in one request [count]: an honest one has two. It bounds the depth as well, before anything is parsed.
_MAX_CONTAINERS = 16

#: Keys of one map [count]: no command has more than a dozen arguments.
_MAX_KEYS = 32

#: Longest `id` [characters]: a UUID and a name fit many times.
_MAX_ID_LENGTH = 256

#: `id` as an integer: what msgpack can send back.
_MIN_ID, _MAX_ID = -(2**63), 2**64 - 1

#: What an `id` may be.
Scalar = str | int | float | bool | None


class Encoding(Enum):
    """How a request was written, and so its reply."""

    JSON = "json"
    MSGPACK = "msgpack"


class ErrorCode(StrEnum):
    """What is wrong with a query; the closed list."""

    #: The request cannot be read as one.
    BAD_REQUEST = "bad_request"
    #: There is no such command.
    UNKNOWN_COMMAND = "unknown_command"
    #: `v` is not one of ours.
    UNSUPPORTED_VERSION = "unsupported_version"
    #: An argument is unknown, missing, of the wrong type or out of range.
    INVALID_ARGUMENT = "invalid_argument"
    #: What was asked for is not there.
    NOT_FOUND = "not_found"
    #: Catalog or store did not answer in time.
    UNAVAILABLE = "unavailable"
    #: More requests than are served; nothing was looked up.
    BUSY = "busy"
    #: A bug of ours.
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anyone's doing."""
        return self in (ErrorCode.UNAVAILABLE, ErrorCode.BUSY)

    def error(self, message: str, **details: Any) -> QueryError:
        """Make the error of this code."""
        return QueryError(self, message, retryable=self.retryable, details=details)


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request: `args` holds every given argument, and the defaults of those that were not."""

    encoding: Encoding
    id: Scalar
    command: Command
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that gets `error` for an answer; `id` is None where it could not be read."""

    encoding: Encoding
    id: Scalar
    error: QueryError


def decode(message: bytes) -> Request | Refusal:
    """Read and check one request.

    Parameters
    ----------
    message
        The body of the message.
    """
    encoding = encoding_of(message)
    request_id: Scalar = None
    try:
        if len(message) > MAX_REQUEST_BYTES:
            raise ErrorCode.BAD_REQUEST.error(
                f"a request of {len(message)} bytes (allowed: at most {MAX_REQUEST_BYTES})"
            )
        content = _read_json(message) if encoding is Encoding.JSON else _read_msgpack(message)
        request_id = _id(content)
        return Request(encoding, request_id, *_command(content))
    except QueryError as error:
        return Refusal(encoding, request_id, error)


def encode_data(encoding: Encoding, request_id: Scalar, data: Mapping[str, Any]) -> bytes:
    """Write the reply that carries an answer.

    Raises
    ------
    QueryError
        `internal`: the answer holds what the encoding cannot say (NaN, an integer beyond 64 bits, bytes in JSON).
    """
    return _encode(encoding, {"v": PROTOCOL_VERSION, "id": request_id, "ok": True, "data": data})


def encode_error(encoding: Encoding, request_id: Scalar, error: QueryError) -> bytes:
    """Write the reply that carries an error."""
    body = {
        "code": str(error.code),
        "message": error.message,
        "retryable": error.retryable,
        "details": error.details,
    }
    return _encode(encoding, {"v": PROTOCOL_VERSION, "id": request_id, "ok": False, "error": body})


def encoding_of(message: bytes) -> Encoding:
    """Tell the encoding by the first byte: a msgpack map's own, else JSON."""
    first = message[0] if message else 0
    is_map = 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)
    return Encoding.MSGPACK if is_map else Encoding.JSON


def _bad(message: str) -> NoReturn:
    raise ErrorCode.BAD_REQUEST.error(message)


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        _bad("a key is given twice")
    return content


def _read_json(message: bytes) -> dict[str, Any]:
    if message.count(b"{") + message.count(b"[") > _MAX_CONTAINERS:
        _bad(f"more than {_MAX_CONTAINERS} objects and arrays")
    try:
        content = json.loads(
            message.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=lambda name: _bad(f"{name} is not JSON"),
        )
    except ValueError as error:
        raise ErrorCode.BAD_REQUEST.error("neither JSON (RFC 8259, UTF-8) nor a msgpack map") from error
    return _map(content)


def _read_msgpack(message: bytes) -> dict[str, Any]:
    try:
        content = msgpack.unpackb(
            message,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_no_duplicates,
            max_map_len=_MAX_KEYS,
            max_array_len=_MAX_CONTAINERS,
            max_ext_len=0,
        )
    # StackError, FormatError and ExtraData are ValueErrors; a map that ends early is OutOfData or ValueError.
    except (ValueError, msgpack.UnpackException) as error:
        raise ErrorCode.BAD_REQUEST.error("not one msgpack map with string keys") from error
    return _map(content)


def _map(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        _bad("a request is one map with string keys")
    return content


def _id(content: dict[str, Any]) -> Scalar:
    value = content.get("id")
    ok = value is None or (
        (isinstance(value, str) and len(value) <= _MAX_ID_LENGTH)
        or (isinstance(value, int) and _MIN_ID <= value <= _MAX_ID)
        or (isinstance(value, float) and math.isfinite(value))
    )
    if not ok:
        _bad(
            f"id={bounded(value)} (allowed: null, true, false, a finite number of at most 64 bits, "
            f"or text of at most {_MAX_ID_LENGTH} characters)"
        )
    return value


def _command(content: dict[str, Any]) -> tuple[Command, Mapping[str, Any]]:
    version = content.get("v", PROTOCOL_VERSION)
    if version != PROTOCOL_VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise ErrorCode.UNSUPPORTED_VERSION.error(
            f"v={bounded(version)} (allowed: {PROTOCOL_VERSION})", supported=[PROTOCOL_VERSION]
        )
    for key in content:
        if key not in ("v", "id", "cmd", "args"):
            _bad(f"unknown key {bounded(key)} (allowed: v, id, cmd, args)")
    name = content.get("cmd")
    if not isinstance(name, str):
        _bad(
            f"cmd={bounded(name)} (allowed: the name of a command)" if "cmd" in content else "cmd is missing"
        )
    command = COMMANDS.get(name)
    if command is None:
        raise ErrorCode.UNKNOWN_COMMAND.error(
            f"unknown command {bounded(name)} (allowed: {' '.join(COMMANDS)})",
            value=bounded(name),
            allowed=list(COMMANDS),
        )
    given = content.get("args", {})
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        _bad(f"args={bounded(given)} (allowed: a map with string keys)")
    return command, _arguments(command, given)


def _arguments(command: Command, given: dict[str, Any]) -> Mapping[str, Any]:
    known = {argument.name: argument for argument in command.arguments}
    for name, value in given.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            _invalid(f"{command.name} has no argument {bounded(name)}", name, value, allowed)
    args: dict[str, Any] = {}
    for name, argument in known.items():
        # null stands for "not given": many languages cannot leave a key out.
        value = given.get(name)
        if value is not None:
            try:
                args[name] = argument.kind.parse(value)
            except ValueError:
                _invalid(f"{name}={bounded(value)}", name, value, argument.kind.allowed)
        elif argument.required:
            _invalid(f"{command.name} needs {name}", name, None, argument.kind.allowed)
        elif argument.default is not None:
            args[name] = argument.default
    return args


def _invalid(message: str, name: str, value: object, allowed: str) -> NoReturn:
    raise ErrorCode.INVALID_ARGUMENT.error(
        f"{message} (allowed: {allowed})",
        argument=name if name.isidentifier() and name.isascii() and len(name) <= _MAX_KEYS else bounded(name),
        value=bounded(value),
        allowed=allowed,
    )


def _encode(encoding: Encoding, reply: Mapping[str, Any]) -> bytes:
    try:
        if encoding is Encoding.JSON:
            return json.dumps(reply, allow_nan=False, separators=(",", ":")).encode("ascii")
        return bytes(msgpack.packb(reply, use_bin_type=True))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ErrorCode.INTERNAL.error(f"the answer cannot be written as {encoding.value}") from error
