"""One exception tree, split by who must act, and the exit codes of the commands.

- `FrameError`, `QueryError`: the peer must act (its frame or request is wrong).
- `ConfigError`, `StoreDenied`, `StoreMisconfigured`, `SpoolLocked`, `SpoolBroken`: the operator must act.
- `StoreUnreachable`, `StoreBusy`, `CatalogBusy`, `SpoolFull`: nobody must act; waiting helps.

No zmq, minio, ssl, socket or sqlite3 exception crosses a module border: each library has one translator.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

__all__ = [
    "CatalogBusy",
    "CatalogCorrupt",
    "CatalogError",
    "ConfigError",
    "ConflictError",
    "ExitCode",
    "FrameError",
    "IngestdError",
    "NotFound",
    "QueryError",
    "SpoolBroken",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "StoreBusy",
    "StoreCorrupt",
    "StoreDenied",
    "StoreError",
    "StoreMisconfigured",
    "StoreRefused",
    "StoreUnreachable",
    "Unavailable",
    "UsageError",
    "bounded",
]

#: Longest rendering of a foreign value in a message or log line [characters]: enough to recognise it.
BOUNDED_LENGTH = 80


class ExitCode(IntEnum):
    """Exit codes of the commands (sysexits.h where it has one)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 69
    TEMPORARY = 75
    CONFIGURATION = 78


def bounded(value: object, limit: int = BOUNDED_LENGTH) -> str:
    """Render a foreign value for a human: escaped, ASCII only, at most `limit` characters.

    Containers are named by type and length, never walked, so a hostile value costs nothing.

    Parameters
    ----------
    value
        Anything that came from outside.
    limit
        Longest result [characters].
    """
    if isinstance(value, str | bytes):
        text = ascii(value[:limit])
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        text = f"<int of {value.bit_length()} bits>"
    elif value is None or isinstance(value, bool | int | float):
        text = repr(value)
    elif isinstance(value, dict | list | tuple | memoryview | bytearray):
        text = f"<{type(value).__name__} of length {len(value)}>"
    else:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


class IngestdError(Exception):
    """Base of every error that ingestd raises on purpose."""

    exit_code: ExitCode = ExitCode.FAILURE


class FrameError(IngestdError):
    """A frame was refused; its sender must act.

    Parameters
    ----------
    reason
        Slug out of the closed list in `ingestd.formats.frame.REASONS`.
    field
        Name of the key that is wrong, or "" where the frame as a whole is.
    value
        The offending value; rendered with `bounded`.
    allowed
        What would have been accepted, in words.
    """

    def __init__(self, reason: str, field: str = "", value: object = None, allowed: str = "") -> None:
        self.reason = reason
        self.field = field
        self.value = bounded(value)
        self.allowed = allowed
        where = f" {field}={self.value}" if field else ""
        super().__init__(f"{reason}:{where}" + (f" (allowed: {allowed})" if allowed else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_frame_error, (self.reason, self.field, self.value, self.allowed))


def _rebuild_frame_error(reason: str, field: str, value: str, allowed: str) -> FrameError:
    error = FrameError(reason, field, None, allowed)
    error.value = value
    return error


class ConfigError(IngestdError):
    """A setting is wrong or missing; the operator must act before a start can succeed."""

    exit_code = ExitCode.CONFIGURATION


class UsageError(IngestdError):
    """A command line or a call is wrong; its caller must act."""

    exit_code = ExitCode.USAGE


class NotFound(IngestdError):
    """What was asked for is not there."""

    exit_code = ExitCode.NOT_FOUND


class Unavailable(IngestdError):
    """The other side did not answer in time."""

    exit_code = ExitCode.UNAVAILABLE


class QueryError(IngestdError):
    """A query was answered with an error, or must be.

    Parameters
    ----------
    code
        Out of `ingestd.formats.protocol.ErrorCode`.
    message
        For a human.
    retryable
        Whether the same request may succeed later.
    details
        JSON-able, bounded.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool = False, details: dict[str, Any] | None = None
    ) -> None:
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details = details or {}
        super().__init__(f"{code}: {message}")


class SpoolError(IngestdError):
    """Base of the spool's errors."""


class SpoolLocked(SpoolError):
    """Another daemon owns this spool."""

    exit_code = ExitCode.FAILURE


class SpoolFull(SpoolError):
    """The spool takes nothing now (bytes or free space); it will again by itself."""

    exit_code = ExitCode.TEMPORARY


class SpoolBroken(SpoolError):
    """The disk under the spool fails; nothing is accepted until the operator acts."""


class StoreError(IngestdError):
    """Base of the object stores' errors. An entry is kept on every one of them."""

    exit_code = ExitCode.TEMPORARY


class StoreUnreachable(StoreError):
    """Transport failed or timed out; nothing is known about the request. Waiting helps."""


class StoreBusy(StoreError):
    """The store asked to come back later (429, 5xx, 409).

    Parameters
    ----------
    message
        What the store said.
    retry_after_s
        Its hint [seconds], or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class StoreDenied(StoreError):
    """Credentials or rights are wrong (401, 403); the operator must act, entries wait."""


class StoreMisconfigured(StoreError):
    """The bucket is missing, TLS fails, or the endpoint is no S3 server; the operator must act, entries wait."""


class StoreRefused(StoreError):
    """The store refuses this one object (400, 413 and the like); others may go through."""


class StoreCorrupt(StoreError):
    """The reply does not prove that our bytes are there: no ETag, wrong checksum, cut reply, error in a 200."""


class ConflictError(StoreError):
    """The identity holds other content, and the policy is to reject."""


class CatalogError(IngestdError):
    """Base of the catalog's errors. The catalog is a cache: none of them loses an entry."""


class CatalogBusy(CatalogError):
    """Locked for longer than the busy timeout; put right later."""

    exit_code = ExitCode.TEMPORARY


class CatalogCorrupt(CatalogError):
    """The database cannot be used; it is rebuilt from bucket and spool."""
