"""Opaque cursors: where a listing goes on. They hold the sort key of the last row, so they are stable under insertion."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from ingestd.errors import QueryError

__all__ = ["decode_cursor", "encode_cursor"]


def encode_cursor(kind: str, values: Sequence[int | str | None]) -> str:
    """Cursor of a listing after a row with this sort key."""
    return (
        base64.urlsafe_b64encode(json.dumps([kind, *values], separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def decode_cursor(cursor: str, kind: str, types: Sequence[type | tuple[type, ...]]) -> list[Any]:
    """Sort key out of a cursor.

    Raises
    ------
    QueryError
        `invalid_argument`: it is not one of this listing's.
    """
    try:
        decoded = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    if isinstance(decoded, list) and len(decoded) == len(types) + 1 and decoded[0] == kind:
        values = decoded[1:]
        if all(_fits(value, kinds) for value, kinds in zip(values, types, strict=True)):
            return values
    raise QueryError(
        "invalid_argument", f"cursor: not one of a {kind} listing (allowed: `next_cursor` of the page before)"
    )


def _fits(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Whether a decoded value has its type, and SQLite a place for it."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    # Half a surrogate pair cannot be written as UTF-8; every text of ours is ASCII.
    return (
        value.isascii() if isinstance(value, str) else not isinstance(value, int) or -(2**63) <= value < 2**63
    )
