"""What `ingestd verify` reads and prints."""

from __future__ import annotations

import json

from ingestd.errors import FrameError, UsageError, bounded
from ingestd.formats import timestamps
from ingestd.roles.verification import Checked

__all__ = ["render", "since_ns"]

#: Largest stamp that fits into the catalog [ns since 1970].
_MAX_NS = 2**63 - 1


def since_ns(text: str | None) -> int:
    """Read the option `--since` [ns since 1970]; 0 where it is not given.

    Raises
    ------
    UsageError
        It is no time.
    """
    if text is None:
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= _MAX_NS:
        return int(text)
    try:
        return timestamps.parse_utc(text)[0]
    except FrameError as error:
        raise UsageError(
            f"--since {bounded(text)} (allowed: ISO 8601 in UTC, as 2026-01-31T00:00:00Z, or nanoseconds since 1970)"
        ) from error


def render(checked: Checked, *, as_json: bool) -> str:
    """One finding as a line for people, or as JSON."""
    finding = checked.finding
    if as_json:
        return json.dumps(
            {
                "key": finding.key,
                "damage": str(finding.damage),
                "detail": finding.detail,
                "entry": checked.entry,
                "repaired": checked.repaired,
                "why_not": checked.why_not or None,
            }
        )
    if checked.repaired is None:
        done = ""
    else:
        done = "  repaired" if checked.repaired else f"  not repaired: {checked.why_not}"
    return f"{finding.key}  {finding.damage}  ({finding.detail}){done}"
