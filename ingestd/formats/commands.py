"""Every command of the query protocol with its arguments: one table, from which requests are checked and `help` is made. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingestd.formats.arguments import Argument, Choice, Number, Pattern, Stamp, Whole

__all__ = ["COMMANDS", "MAX_LIMIT", "Command", "describe"]

#: Rows of one page at most [count]: about 2 MB of JSON, a tenth of a second of work.
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the table.

    Parameters
    ----------
    name
        As in `cmd`.
    text
        What it answers, for `help`.
    arguments
        In the order in which they are shown.
    looks_up
        Whether it needs the catalog; the others are answered from the status block at once.
    """

    name: str
    text: str
    arguments: tuple[Argument, ...] = ()
    looks_up: bool = False


_NAME = Pattern(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", "1 to 128 characters of A-Z a-z 0-9 . _ -, not starting with a dot"
)
_HZ = Number(0.0, 1e12, "a number of Hz, 0 to 1e12")
_TASK_ID = Argument("task_id", _NAME, "session")
_WEBSDR_ID = Argument("websdr_id", Whole(0, 2**31 - 1), "receiver id")
_NODE = Argument("node", _NAME, "sender")
_LIMIT = Argument("limit", Whole(1, MAX_LIMIT), "rows of one page", required=False, default=100)
_CURSOR = Argument(
    "cursor",
    Pattern(r"[A-Za-z0-9._~=+/-]{1,1024}", "`next_cursor` of the page before"),
    "where to go on",
    required=False,
)
_PAGE = (_LIMIT, _CURSOR)
_PLACE = (
    _TASK_ID,
    _WEBSDR_ID,
    Argument("chunk", Whole(0, 999_999), "part of a continuous capture", required=False),
    Argument("copy", Pattern(r"[0-9a-f]{8}", "8 hex digits, lower case"), "a kept conflict", required=False),
)
_FILTERS = (
    _TASK_ID.optional(),
    _WEBSDR_ID.optional(),
    _NODE.optional(),
    Argument(
        "state", Choice(("accepted", "stored", "failed", "lost")), "state of the record", required=False
    ),
    Argument("since", Stamp(), "first time stamp, inclusive", required=False),
    Argument("until", Stamp(), "last time stamp, exclusive", required=False),
    Argument("min_frequency_hz", _HZ, "lowest centre frequency [Hz]", required=False),
    Argument("max_frequency_hz", _HZ, "highest centre frequency [Hz]", required=False),
    Argument(
        "min_snr_db", Number(-1e3, 1e3, "a number of dB, -1000 to 1000"), "lowest SNR [dB]", required=False
    ),
)

#: Every command, in the order of the design; `help` is made from this table.
COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("ping", "Whether anybody answers."),
        Command("health", "Verdict, its reasons, and the state of spool, ingest, store and roles."),
        Command("stats", "Counters, rates and latencies since the start, and counters for good."),
        Command("sessions", "Sessions, latest acceptance first.", _PAGE, looks_up=True),
        Command("session", "Result document of one session.", (_TASK_ID,), looks_up=True),
        Command("measurements", "Measurements that pass the filters.", (*_FILTERS, *_PAGE), looks_up=True),
        Command("measurement", "One measurement and its kept conflicts.", _PLACE, looks_up=True),
        Command(
            "url",
            "URL under which an object can be read without storage credentials.",
            (
                *_PLACE,
                Argument("what", Choice(("iq", "metadata")), "which object", required=False, default="iq"),
                Argument("expires_s", Whole(1, 604_800), "life of the URL [s]", required=False, default=3600),
            ),
            looks_up=True,
        ),
        Command(
            "confirm",
            "What of a node's frames is accepted and stored.",
            (_NODE, Argument("epoch", Whole(0, 2**53 - 1), "random number of the sender's start")),
            looks_up=True,
        ),
        Command("nodes", "Every registered or seen node.", looks_up=True),
        Command("failed", "Accepted entries that could not be stored.", _PAGE, looks_up=True),
        Command("rejected", "The last 1,000 rejected frames, newest first.", _PAGE, looks_up=True),
        Command("config", "Settings in force, secrets masked."),
        Command("version", "Versions of daemon and formats."),
        Command("help", "This table."),
    )
}


def describe() -> dict[str, Any]:
    """Make the answer of `help` from the table of commands."""
    return {
        "commands": [
            {
                "name": command.name,
                "text": command.text,
                "args": [argument.describe() for argument in command.arguments],
            }
            for command in COMMANDS.values()
        ]
    }
