"""Answers as people read them: tables and lines, with every foreign string escaped.

A name that a node chose can hold anything; what reaches a terminal is printable text, never markup or a control
sequence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ingestd.errors import IngestdError, bounded

__all__ = [
    "COLUMNS",
    "Column",
    "escaped",
    "flat",
    "progress",
    "show_fields",
    "show_json",
    "show_rows",
    "size",
]

#: Width of a table that no terminal bounds [characters]: columns are then as wide as their longest cell.
_UNBOUNDED = 100_000

#: Longest cell or line of foreign text [characters]: a presigned URL has about 700.
_MAX_CHARACTERS = 4096

#: Depth to which an answer is flattened: the deepest honest one has four levels.
_MAX_DEPTH = 8

#: Between two lines of progress where there is no terminal [s].
_PROGRESS_EVERY_S = 1.0

_UNKNOWN = "-"


def escaped(value: object) -> str:
    """Render a foreign value as one line of printable text; text that is printable stays as it is.

    Parameters
    ----------
    value
        Anything out of an answer.
    """
    if value is None:
        return _UNKNOWN
    if not isinstance(value, str):
        return bounded(value)
    text = value[:_MAX_CHARACTERS]
    # A backslash is left alone: names and URLs have none, and Windows paths stay readable.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def size(value: object) -> str:
    """Render a number of bytes with a decimal prefix."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        return escaped(value)
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _db(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else escaped(value)


def _mhz(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else escaped(value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    heading
        With the unit.
    key
        Of the row; a dot goes into a nested object.
    render
        How a value is written; its result is printable.
    """

    heading: str
    key: str
    render: Callable[[object], str] = escaped

    def cell(self, row: dict[str, Any]) -> str:
        """Write the cell of a row; `-` where the row does not say."""
        value: Any = row
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return self.render(value)


#: Columns of each list of rows, by the name of the list in the answer.
COLUMNS: dict[str, tuple[Column, ...]] = {
    "sessions": (
        Column("TASK", "task_id"),
        Column("MEASUREMENTS", "measurements_count"),
        Column("STORED", "stored"),
        Column("PENDING", "pending"),
        Column("FAILED", "failed"),
        Column("SIZE", "size_bytes", size),
        Column("FIRST", "first_timestamp_utc"),
        Column("MHZ", "frequency_mhz", _mhz),
    ),
    "measurements": (
        Column("TASK", "task_id"),
        Column("RECEIVER", "websdr_id"),
        Column("CHUNK", "chunk"),
        Column("STATE", "state"),
        Column("TIME", "timestamp_utc"),
        Column("MHZ", "frequency_mhz", _mhz),
        Column("KHZ RATE", "sample_rate_khz"),
        Column("SAMPLES", "samples_count"),
        Column("SNR DB", "metrics.snr_db", _db),
        Column("OBJECT", "s3_path"),
    ),
    "nodes": (
        Column("NODE", "node"),
        Column("RECEIVER", "websdr_id"),
        Column("LAST SEEN", "last_seen_utc"),
        Column("RECEIVED", "received"),
        Column("ACCEPTED", "accepted"),
        Column("REJECTED", "rejected"),
        Column("GAPS", "gaps"),
        Column("SAMPLES LOST", "samples_lost"),
        Column("LAG S", "lag_s"),
        Column("SNR DB", "snr_db", _db),
    ),
    "failed": (
        Column("ENTRY", "entry"),
        Column("TASK", "task_id"),
        Column("RECEIVER", "websdr_id"),
        Column("CHUNK", "chunk"),
        Column("TIME", "timestamp_utc"),
        Column("NODE", "node"),
        Column("REASON", "reason"),
        Column("ERROR", "error"),
    ),
    "rejected": (
        Column("TIME", "at_utc"),
        Column("PEER", "peer"),
        Column("NODE", "node"),
        Column("SEQ", "seq"),
        Column("REASON", "reason"),
        Column("FIELD", "field"),
        Column("VALUE", "value"),
        Column("SAMPLE", "sample"),
    ),
    "reasons": (
        Column("REASON", "code"),
        Column("SEVERITY", "severity"),
        Column("SINCE", "since_utc"),
        Column("WHAT", "text"),
        Column("DO", "action"),
    ),
    "roles": (
        Column("ROLE", "name"),
        Column("STATE", "state"),
        Column("PID", "pid"),
        Column("RESTARTS", "restarts"),
    ),
    "stored_measurements": (
        Column("RECEIVER", "websdr_id"),
        Column("CHUNK", "chunk"),
        Column("STATUS", "status"),
        Column("SAMPLES", "samples_count"),
        Column("OBJECT", "s3_path"),
    ),
    "failed_measurements": (
        Column("RECEIVER", "websdr_id"),
        Column("CHUNK", "chunk"),
        Column("STATUS", "status"),
        Column("REASON", "reason"),
        Column("ERROR", "error"),
    ),
}


def show_json(document: object) -> None:
    """Print an answer as strict JSON, ASCII, on stdout.

    Raises
    ------
    IngestdError
        JSON cannot say it (NaN, bytes).
    """
    try:
        text = json.dumps(document, allow_nan=False, indent=2)
    except (ValueError, TypeError, RecursionError) as error:
        raise IngestdError("the answer cannot be written as JSON") from error
    # The one control character that JSON lets through.
    print(text.replace("\x7f", "\\u007f"))


def show_rows(rows: object, columns: Sequence[Column]) -> None:
    """Print a list of rows as a table on stdout.

    Parameters
    ----------
    rows
        A list of objects, as it came.
    columns
        What is shown of them.

    Raises
    ------
    IngestdError
        It is no list of objects.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise IngestdError(f"the answer holds no list of rows but {bounded(rows)}")
    # A column that no row fills says nothing (chunks, where nobody sends any).
    used = [c for c in columns if not rows or any(c.cell(row) != _UNKNOWN for row in rows)]
    _print_table([column.heading for column in used], [[column.cell(row) for column in used] for row in rows])


def show_fields(document: dict[str, Any]) -> None:
    """Print an answer as lines of name and value on stdout; nested names have dots."""
    _print_table(None, [[escaped(name), escaped(value)] for name, value in flat(document)])


def flat(document: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Name each scalar of a nested answer; short lists of scalars stay on one line.

    Parameters
    ----------
    document
        Object, list or scalar.
    prefix
        Name so far.
    depth
        Levels above.
    """
    dot = f"{prefix}." if prefix else ""
    if isinstance(document, dict) and document and depth < _MAX_DEPTH:
        for name, value in document.items():
            yield from flat(value, f"{dot}{name}", depth + 1)
    elif isinstance(document, list) and document and depth < _MAX_DEPTH:
        if not any(isinstance(value, dict | list) for value in document):
            yield prefix, " ".join(escaped(value) for value in document)
            return
        for i, value in enumerate(document):
            yield from flat(value, f"{dot}{i}", depth + 1)
    else:
        yield prefix, None if document in ({}, []) else document


def _print_table(headings: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=headings is not None)
    for heading in headings or ("", ""):
        # Text, not str: a value is never read as markup.
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_UNBOUNDED, no_color=True)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


@contextmanager
def progress(
    size_bytes: int | None, stream: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Show how much of a recording is sent: a bar on a terminal, else a line a second.

    Parameters
    ----------
    size_bytes
        Length of all samples [bytes]; None where only the end will tell.
    stream
        stderr; stdout is for data.
    clock
        Monotonic time [s].

    Yields
    ------
    callable
        To be told the length of what was just sent [bytes].
    """
    if not stream.isatty():
        lines = _Lines(size_bytes, stream, clock)
        yield lines.add
        lines.end()
        return
    columns = (
        TextColumn("sending"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("sending", total=size_bytes)
        yield lambda n_bytes: bar.advance(task, n_bytes)


class _Lines:
    """Progress in lines: one at most every `_PROGRESS_EVERY_S`, and one at the end."""

    def __init__(self, size_bytes: int | None, stream: TextIO, clock: Callable[[], float]) -> None:
        self._total = "" if size_bytes is None else f" of {size(size_bytes)}"
        self._stream = stream
        self._clock = clock
        self._next_s = clock() + _PROGRESS_EVERY_S
        self._n_frames = 0
        self._n_bytes = 0
        self._said = 0

    def add(self, n_bytes: int) -> None:
        """Count one more frame."""
        self._n_frames += 1
        self._n_bytes += n_bytes
        if self._clock() >= self._next_s:
            self._next_s = self._clock() + _PROGRESS_EVERY_S
            self._say()

    def end(self) -> None:
        """Say the last figures, unless they were said."""
        if self._said != self._n_frames:
            self._say()

    def _say(self) -> None:
        self._said = self._n_frames
        frames = "1 frame" if self._n_frames == 1 else f"{self._n_frames} frames"
        print(f"ingestctl: sent {frames}, {size(self._n_bytes)}{self._total}", file=self._stream, flush=True)
