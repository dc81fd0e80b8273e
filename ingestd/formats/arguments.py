"""Types of query arguments: what is allowed, in words, and how a decoded value becomes one. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ingestd.errors import FrameError
from ingestd.formats.timestamps import parse_utc

__all__ = ["Argument", "Choice", "Kind", "Number", "Pattern", "Stamp", "Whole"]


class Kind(Protocol):
    """Type of an argument."""

    @property
    def name(self) -> str:
        """Name of the type, for `help`."""
        ...

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        ...

    def parse(self, value: Any) -> Any:
        """Check a decoded value; ValueError where it is not allowed."""
        ...


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command.

    Parameters
    ----------
    name
        Key in `args`.
    kind
        Its type.
    text
        What it means, for `help`.
    required
        Whether it must be given.
    default
        Value where it is not; None = it stays out.
    """

    name: str
    kind: Kind
    text: str
    required: bool = True
    default: Any = None

    def optional(self) -> Argument:
        """Copy the argument for a command where it need not be given."""
        return replace(self, required=False)

    def describe(self) -> dict[str, Any]:
        """Make the argument's row of `help`."""
        return {
            "name": self.name,
            "type": self.kind.name,
            "required": self.required,
            "default": self.default,
            "allowed": self.kind.allowed,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that matches a regular expression as a whole."""

    pattern: str
    allowed: str
    name: str = "str"

    def parse(self, value: Any) -> str:
        """Check the text; patterns are ASCII, so what passes is safe in keys, paths and SQL parameters."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value, re.ASCII):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """Integer from `low` to `high`, both allowed; a bool or a float is none."""

    low: int
    high: int
    name: str = "int"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"an integer from {self.low} to {self.high}"

    def parse(self, value: Any) -> int:
        """Check the integer."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """Finite integer or float from `low` to `high`, both allowed."""

    low: float
    high: float
    allowed: str
    name: str = "number"

    def parse(self, value: Any) -> float:
        """Check the number."""
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not self.low <= value <= self.high
        ):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    name: str = "str"

    @property
    def allowed(self) -> str:
        """The words."""
        return " | ".join(self.words)

    def parse(self, value: Any) -> str:
        """Check the word."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Stamp:
    """Time stamp as ISO 8601 text in UTC or as POSIX nanoseconds; becomes the latter, int64."""

    name: str = "str | int"
    allowed: str = "ISO 8601 in UTC, as 2026-08-01T12:00:00.123456789Z, or an integer of ns since 1970"

    def parse(self, value: Any) -> int:
        """Read the stamp [ns]."""
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 - every kind refuses with ValueError
        try:
            return parse_utc(value)[0]
        except FrameError as error:
            raise ValueError(str(error)) from error
