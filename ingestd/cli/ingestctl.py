"""The command `ingestctl`: ask a running daemon, fetch objects, send recordings.

stdout is data, stderr is messages. Every expected error is one line on stderr and its exit code.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ingestd import __version__
from ingestd.cli.ask import (
    QUERY_ENDPOINT,
    QUERY_TIMEOUT_S,
    NotYetError,
    Options,
    ask,
    exit_code,
    reachable,
    say,
)
from ingestd.cli.render import COLUMNS, escaped, show_fields, show_json, show_rows
from ingestd.errors import ExitCode, FrameError, IngestdError, UsageError, bounded

__all__ = ["main"]

#: Where the daemon takes frames as it comes (`ingest.endpoint`).
_INGEST_ENDPOINT = "tcp://127.0.0.1:5555"

#: Exit code of `health` by status.
_HEALTH_CODES = {
    "healthy": ExitCode.OK,
    "degraded": ExitCode.TEMPORARY,
    "unhealthy": ExitCode.FAILURE,
}

app = typer.Typer(
    name="ingestctl",
    help="Ask a running ingestd, fetch objects, send recordings.",
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 69 no answer, 75 temporary, 78 configuration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ingestctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    *,
    endpoint: Annotated[
        str,
        typer.Option(metavar="E", envvar="INGESTD_QUERY__ENDPOINT", help="Where the daemon answers queries."),
    ] = QUERY_ENDPOINT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="S",
            help=f"Patience [s]: {QUERY_TIMEOUT_S:g} for an answer, for push more the longer it is.",
        ),
    ] = None,
    secret_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Own CURVE key (`ingestd keygen`), where the daemon wants one."),
    ] = None,
    server_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The daemon's public key; with --secret-key-file.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise UsageError(f"--timeout {timeout_s} (allowed: a finite number of seconds above 0)")
    if (secret_key_file is None) != (server_key_file is None):
        raise UsageError("--secret-key-file and --server-key-file go together: the own key and the daemon's")
    ctx.obj = Options(reachable(endpoint), as_json, timeout_s, secret_key_file, server_key_file)


TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Session.")]
WebsdrId = Annotated[int, typer.Argument(metavar="WEBSDR_ID", help="Receiver id.")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="Part of a continuous capture.")]
Copy = Annotated[str | None, typer.Option(metavar="HEX", help="A kept conflict: 8 hex digits.")]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Rows of one page, 1 to 1000; else 100.")]
Cursor = Annotated[str | None, typer.Option(metavar="TEXT", help="Where to go on: as the page before said.")]


def _show(options: Options, document: dict[str, Any]) -> None:
    if options.as_json:
        show_json(document)
    else:
        show_fields(document)


def _show_page(options: Options, name: str, **args: Any) -> None:
    document = ask(options, name, **args)
    if options.as_json:
        show_json(document)
        return
    show_rows(document.get(name), COLUMNS[name])
    if document.get("next_cursor") is not None:
        say(f"there is more: --cursor {escaped(document['next_cursor'])}")


def _show_with_lists(document: dict[str, Any], names: Sequence[str]) -> None:
    """Print the fields of an answer, and the lists in it as tables of their own."""
    show_fields({name: value for name, value in document.items() if name not in names})
    for name in names:
        if document.get(name):
            print()
            show_rows(document[name], COLUMNS[name])


def _stamp(text: str | None) -> str | int | None:
    """Time stamp as the query takes it: digits are nanoseconds."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else text


@app.command()
def health(ctx: typer.Context) -> None:
    """Show how the daemon is, and what to do; exits 0 healthy, 75 degraded, 1 unhealthy, 69 no answer."""
    document = ask(ctx.obj, "health")
    if ctx.obj.as_json:
        show_json(document)
    else:
        _show_with_lists(document, ("reasons", "roles"))
    status = document.get("status")
    raise typer.Exit(_HEALTH_CODES.get(status, ExitCode.FAILURE) if isinstance(status, str) else 1)


@app.command()
def stats(ctx: typer.Context) -> None:
    """Show counters since the start and for good, rates and latencies."""
    _show(ctx.obj, ask(ctx.obj, "stats"))


@app.command()
def sessions(ctx: typer.Context, limit: Limit = None, cursor: Cursor = None) -> None:
    """List sessions, latest acceptance first."""
    _show_page(ctx.obj, "sessions", limit=limit, cursor=cursor)


@app.command()
def session(ctx: typer.Context, task_id: TaskId) -> None:
    """Show the result of one session."""
    document = ask(ctx.obj, "session", task_id=task_id)
    if ctx.obj.as_json:
        show_json(document)
    else:
        _show_with_lists(document, ("stored_measurements", "failed_measurements"))


@app.command()
def measurements(
    ctx: typer.Context,
    *,
    task_id: Annotated[str | None, typer.Option(help="Of this session.")] = None,
    websdr_id: Annotated[int | None, typer.Option(help="Of this receiver.")] = None,
    node: Annotated[str | None, typer.Option(help="Of this sender.")] = None,
    state: Annotated[str | None, typer.Option(help="accepted, stored, failed or lost.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="First stamp: ISO 8601 in UTC, or ns since 1970.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="First stamp that is too late.")] = None,
    min_frequency_hz: Annotated[float | None, typer.Option(metavar="HZ")] = None,
    max_frequency_hz: Annotated[float | None, typer.Option(metavar="HZ")] = None,
    min_snr_db: Annotated[float | None, typer.Option(metavar="DB")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> None:
    """List measurements."""
    _show_page(
        ctx.obj,
        "measurements",
        task_id=task_id,
        websdr_id=websdr_id,
        node=node,
        state=state,
        since=_stamp(since),
        until=_stamp(until),
        min_frequency_hz=min_frequency_hz,
        max_frequency_hz=max_frequency_hz,
        min_snr_db=min_snr_db,
        limit=limit,
        cursor=cursor,
    )


@app.command()
def measurement(
    ctx: typer.Context, task_id: TaskId, websdr_id: WebsdrId, chunk: Chunk = None, copy: Copy = None
) -> None:
    """Show everything about one measurement."""
    _show(ctx.obj, ask(ctx.obj, "measurement", task_id=task_id, websdr_id=websdr_id, chunk=chunk, copy=copy))


@app.command()
def nodes(ctx: typer.Context) -> None:
    """List registered and seen nodes."""
    _show_page(ctx.obj, "nodes")


@app.command()
def failed(ctx: typer.Context, limit: Limit = None, cursor: Cursor = None) -> None:
    """List accepted entries that could not be stored; `ingestd requeue` brings them back."""
    _show_page(ctx.obj, "failed", limit=limit, cursor=cursor)


@app.command()
def rejected(ctx: typer.Context, limit: Limit = None, cursor: Cursor = None) -> None:
    """List the last frames that were refused, and why."""
    _show_page(ctx.obj, "rejected", limit=limit, cursor=cursor)


@app.command()
def confirm(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Sender.")],
    epoch: Annotated[int, typer.Argument(metavar="EPOCH", help="Random number of the sender's start.")],
) -> None:
    """Show which frames of a sender are accepted and stored."""
    _show(ctx.obj, ask(ctx.obj, "confirm", node=node, epoch=epoch))


@app.command()
def url(
    ctx: typer.Context,
    task_id: TaskId,
    websdr_id: WebsdrId,
    *,
    chunk: Chunk = None,
    copy: Copy = None,
    metadata: Annotated[bool, typer.Option("--metadata", help="Of the metadata document.")] = False,
    expires_s: Annotated[int, typer.Option("--expires", metavar="S", help="Life of the URL [s].")] = 3600,
) -> None:
    """Print a URL under which the object can be read without storage credentials."""
    place = {"task_id": task_id, "websdr_id": websdr_id, "chunk": chunk, "copy": copy}
    document = ask(ctx.obj, "url", **place, what="metadata" if metadata else "iq", expires_s=expires_s)
    if ctx.obj.as_json:
        show_json(document)
    else:
        print(escaped(_url(document)))


def _url(document: dict[str, Any]) -> str:
    found = document.get("url")
    if not isinstance(found, str):
        raise IngestdError(f"the answer holds no url but {bounded(found)}")
    return found


@app.command()
def get(
    ctx: typer.Context,
    task_id: TaskId,
    websdr_id: WebsdrId,
    *,
    chunk: Chunk = None,
    copy: Copy = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to; - is stdout. Else the object's name, here."
        ),
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="The metadata document, not the samples.")
    ] = False,
) -> None:
    """Fetch an object and check its size and checksum; the file appears when it is right."""
    # Here and not above: the other commands need neither HTTP nor checksums.
    from ingestd.cli import download  # noqa: PLC0415

    place = {"task_id": task_id, "websdr_id": websdr_id, "chunk": chunk, "copy": copy}
    row = ask(ctx.obj, "measurement", **place)
    if row.get("state") != "stored":
        raise NotYetError(f"not stored: the measurement is {escaped(row.get('state'))}")
    document = ask(ctx.obj, "url", **place, what="metadata" if metadata else "iq")
    target = output or _object_name(row.get("metadata_s3_path" if metadata else "s3_path"))
    wanted = download.Expected() if metadata else download.expected(row)
    size_bytes = download.download(_url(document), target, wanted, ctx.obj.query_timeout_s)
    if target != download.STDOUT:
        if ctx.obj.as_json:
            show_json({"file": target, "size_bytes": size_bytes})
        else:
            print(escaped(target))


def _object_name(s3_path: object) -> str:
    """Name of the file for an object, from the end of its path; an existing one is never replaced unasked."""
    name = s3_path.rpartition("/")[2] if isinstance(s3_path, str) else ""
    if not name.startswith("websdr_") or not name.isprintable():
        raise IngestdError(f"the answer names the object {bounded(s3_path)}: say with -o where to put it")
    if os.path.lexists(name):
        raise UsageError(f"{name} exists (allowed: -o {name} to replace it, or -o with another name)")
    return name


@app.command()
def push(
    ctx: typer.Context,
    recording: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help=".npy, .sigmf-meta, .cf32, .cs16, .cs8, .cu8, .cfile, .iq, an entry of the spool (.v1), "
            "or - for standard input.",
        ),
    ] = None,
    *,
    ingest: Annotated[
        str,
        typer.Option(metavar="E", envvar="INGESTD_INGEST__ENDPOINT", help="Where the daemon takes frames."),
    ] = _INGEST_ENDPOINT,
    task_id: Annotated[str | None, typer.Option(help="Session.")] = None,
    websdr_id: Annotated[int | None, typer.Option(help="Receiver id.")] = None,
    node: Annotated[str | None, typer.Option(help="Sender; else ingestctl.")] = None,
    frequency_hz: Annotated[float | None, typer.Option(metavar="HZ", help="Centre frequency.")] = None,
    frequency_mhz: Annotated[float | None, typer.Option(metavar="MHZ", help="The same in MHz.")] = None,
    sample_rate_hz: Annotated[float | None, typer.Option(metavar="HZ", help="Samples per second.")] = None,
    sample_rate_khz: Annotated[float | None, typer.Option(metavar="KHZ", help="The same in kHz.")] = None,
    time_text: Annotated[
        str | None,
        typer.Option(
            "--time", metavar="T", help="Stamp of sample 0: ISO 8601 in UTC, ns since 1970, or the word now."
        ),
    ] = None,
    datatype: Annotated[
        str | None, typer.Option(help="cf32_le, ci16_le, ci8 or cu8, where the name does not say it.")
    ] = None,
    chunk_samples: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Send in numbered chunks of so many samples; else only what is too long."
        ),
    ] = None,
    gain_db: Annotated[float | None, typer.Option(metavar="DB", help="Gain of the receiver.")] = None,
    bandwidth_hz: Annotated[
        float | None, typer.Option(metavar="HZ", help="Passband of the receiver.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Send and go: nothing is confirmed.")] = False,
    tone: Annotated[
        bool, typer.Option("--test-tone", help="Send a second of a 1 kHz tone; all else may be left out.")
    ] = False,
) -> None:
    """Send a recording, in chunks where it is too long for one frame, and wait until it is stored."""
    # Here and not above: the other commands need neither NumPy nor msgpack.
    from ingestd.cli.plan import Description  # noqa: PLC0415
    from ingestd.cli.push import Push  # noqa: PLC0415

    if (recording is None) != tone:
        raise UsageError("push takes one FILE (- for standard input), or --test-tone")
    description = Description(
        task_id=task_id,
        websdr_id=websdr_id,
        frequency_hz=frequency_hz,
        frequency_mhz=frequency_mhz,
        sample_rate_hz=sample_rate_hz,
        sample_rate_khz=sample_rate_khz,
        time=time_text,
        gain_db=gain_db,
        bandwidth_hz=bandwidth_hz,
        chunk_samples=chunk_samples,
    )
    job = Push(ctx.obj, reachable(ingest), node, no_wait)
    code = (
        job.test_tone(description) if recording is None else job.recording(recording, datatype, description)
    )
    raise typer.Exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; those of the process where it is left out.

    Returns
    -------
    int
        Exit code.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="ingestctl")
    except FrameError as error:
        say(f"the frame is refused: {error}")
        return int(error.exit_code)
    except IngestdError as error:
        say(str(error))
        return exit_code(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
