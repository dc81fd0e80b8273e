"""The command `ingestd`: run the daemon, look at its settings, mend its state.

stdout is data, stderr is messages. Every expected error is one line on stderr and its exit code.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ingestd import __version__
from ingestd.config import Settings, load
from ingestd.errors import ConfigError, ExitCode, IngestdError, UsageError

__all__ = ["main"]

#: Width of a table that no terminal bounds [characters]: columns are then as wide as their longest cell.
_UNBOUNDED = 100_000

#: One line of progress in this time where stderr is no terminal [s].
_LINE_INTERVAL_S = 5.0

app = typer.Typer(
    name="ingestd",
    help="Durable ingest of IQ buffers from SDR nodes into S3-compatible object storage.",
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 69 unavailable, 75 temporary, 78 configuration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(
    help="Show the settings in force, or the schema of the config file.", no_args_is_help=True
)
app.add_typer(config_app, name="config")

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Config file; without it $INGESTD_CONFIG, else /etc/ingestd/config.yaml where that exists.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated. Never a secret."),
]


def _overrides(assignments: Sequence[str]) -> dict[str, str]:
    """Read `section.key=value` texts; what is after the = is never repeated in an error."""
    overrides = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError("--set takes SECTION.KEY=VALUE, for example --set log.level=debug")
        overrides[name] = value
    return overrides


def _refuse_secrets(argv: Sequence[str]) -> None:
    """Refuse a secret on the command line before the parser looks at it: its errors repeat what they do not expect."""
    # Most command lines need no more than this; the keys cost 0.2 s to import.
    if not any("secret" in argument for argument in argv):
        return
    from ingestd.config.keys import KEYS  # noqa: PLC0415

    for argument in argv:
        key = KEYS.get(argument.removeprefix("--set=").partition("=")[0].strip())
        if key is not None and key.is_secret:
            raise ConfigError(
                f"{key.name}: not on the command line, where every user of this machine can read it; "
                f"use {key.variable}, the credential {key.credential} or the config file"
            )


def _load(config: str | None, assignments: list[str] | None) -> Settings:
    return load(config, _overrides(assignments or []))


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ingestd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigFile = None, assignments: Overrides = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; a second signal kills, SIGHUP reloads the settings."""
    settings = _load(config, assignments)
    # Here and not above: the daemon knows every part, the other commands need few.
    import structlog  # noqa: PLC0415

    from ingestd import logs  # noqa: PLC0415
    from ingestd.roles.daemon import run as run_daemon  # noqa: PLC0415

    known = _examined(settings)
    logs.configure("supervisor", settings.log.level, settings.log.format)
    log = structlog.get_logger(__name__)
    for text in known:
        log.warning("config_advice", text=text)
    raise typer.Exit(run_daemon(settings, lambda: _load(config, assignments)))


def _examined(settings: Settings) -> list[str]:
    """Refuse settings that cannot work on this machine; returns what should be known of the others."""
    from ingestd.config.keyfiles import check_files  # noqa: PLC0415 - see run
    from ingestd.config.report import advice  # noqa: PLC0415 - see run
    from ingestd.roles import budget  # noqa: PLC0415 - see run

    check_files(settings)
    available_bytes = budget.available_bytes()
    budget.refuse_what_cannot_work(settings, available_bytes)
    return [*advice(settings), *budget.advice(settings, available_bytes)]


def _show(table: Table) -> None:
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_UNBOUNDED, no_color=True)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


@app.command()
def check_config(config: ConfigFile = None, assignments: Overrides = None) -> None:
    """Check the settings; show what is in force, where it comes from, and the memory it may take; warn."""
    settings = _load(config, assignments)
    from ingestd.config.report import rows  # noqa: PLC0415 - see run
    from ingestd.roles import budget  # noqa: PLC0415 - see run

    known = _examined(settings)
    table = Table("KEY", "VALUE", "FROM", box=None, pad_edge=False, header_style="bold")
    for row in rows(settings):
        # Text, not str: a value is never read as markup.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    _show(table)
    shares = budget.shares(settings)
    memory = Table("MEMORY", "AT MOST", "BECAUSE", box=None, pad_edge=False, header_style="bold")
    for share in shares:
        memory.add_row(share.role, budget.size_text(share.size_bytes), Text(share.reckoning))
    total_bytes = sum(share.size_bytes for share in shares)
    available = budget.size_text(budget.available_bytes())
    memory.add_row(
        "all", budget.size_text(total_bytes), f"of {available} that this machine or control group has"
    )
    print()
    _show(memory)
    for text in known:
        _say(f"ingestd: warning: {text}")


@config_app.command()
def show(config: ConfigFile = None, assignments: Overrides = None) -> None:
    """Print all settings in force as YAML, secrets masked, with the origin of each."""
    settings = _load(config, assignments)
    from ingestd.config.report import to_yaml  # noqa: PLC0415 - see run

    print(to_yaml(settings), end="")


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the config file."""
    from ingestd.config.report import json_schema  # noqa: PLC0415 - see run

    print(json_schema())


@app.command()
def keygen(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where the secret key goes; a new file.")],
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Make no key: print the public one of the secret key in FILE.")
    ] = False,
) -> None:
    """Make a CURVE key pair, of a daemon, a node or a client: writes the secret key to FILE, prints the public one."""
    from ingestd import curve  # noqa: PLC0415 - see run

    if public:
        print(curve.public_key_of(curve.read_secret_key(file)))
        return
    print(curve.write_secret_key(file))
    _say(f"ingestd: the secret key is in {file}; the public key, on stdout, is for the other side")


@app.command()
def rebuild_catalog(config: ConfigFile = None, assignments: Overrides = None) -> None:
    """Make a whole new catalog out of bucket and spool; the daemon must be stopped."""
    settings = _load(config, assignments)
    from ingestd.roles import maintenance  # noqa: PLC0415 - see run

    with _progress() as say:
        report = maintenance.rebuild_catalog(
            settings, lambda found: say(f"{found.stored} measurements found in the bucket")
        )
    for line in report.lines():
        print(line)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """How far it is: a line that changes on a terminal, else one on stderr every few seconds."""
    if sys.stderr.isatty():
        with Console(stderr=True).status("beginning") as status:
            yield lambda text: status.update(escape(text))
        return
    said_s = time.monotonic()

    def say(text: str) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= _LINE_INTERVAL_S:
            said_s = time.monotonic()
            _say(f"ingestd: {text}")

    yield say


@app.command()
def requeue(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of failed entries.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All failed entries.")] = False,
    config: ConfigFile = None,
    assignments: Overrides = None,
) -> None:
    """Bring failed entries back to be uploaded; prints the names of those that were."""
    if bool(names) == everything:
        raise UsageError("requeue takes names of failed entries, or --all")
    settings = _load(config, assignments)
    from ingestd.roles import maintenance  # noqa: PLC0415 - see run

    requeued = maintenance.requeue(settings, None if everything else names)
    for name in requeued:
        print(name)
    _say(f"ingestd: {len(requeued)} requeued")


@app.command()
def verify(
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="T", help="Only what was stored at T or later: ISO 8601 UTC, or ns since 1970."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put back what is missing or differs.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read the bytes of every object.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    config: ConfigFile = None,
    assignments: Overrides = None,
) -> None:
    """Hold what the catalog says is stored to the store; prints every object that is missing or differs."""
    from ingestd.cli.verify import render, since_ns  # noqa: PLC0415 - see run
    from ingestd.roles import verification  # noqa: PLC0415 - see run

    begin_ns = since_ns(since)
    settings = _load(config, assignments)
    with _progress() as say:
        report = verification.verify(
            settings,
            since_ns=begin_ns,
            deep=deep,
            repair=repair,
            tell=lambda checked: print(render(checked, as_json=as_json)),
            progress=lambda found: say(f"{found.checked} of {found.of} pairs checked"),
        )
    _say(f"ingestd: {report.line()}")
    raise typer.Exit(int(ExitCode.FAILURE if report.left else ExitCode.OK))


@app.command()
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    config: ConfigFile = None,
    assignments: Overrides = None,
) -> None:
    """Look at everything that the daemon needs, and say what to do; exit 1 where something keeps it from working."""
    settings = _load(config, assignments)
    from ingestd.cli.doctor import render  # noqa: PLC0415 - see run
    from ingestd.roles.doctor import Level, examine  # noqa: PLC0415 - see run

    levels = []
    for finding in examine(settings):
        levels.append(finding.level)
        print(render(finding, as_json=as_json), flush=True)
    _say(f"ingestd: {levels.count(Level.PROBLEM)} problems, {levels.count(Level.WARNING)} warnings")
    raise typer.Exit(int(ExitCode.FAILURE if Level.PROBLEM in levels else ExitCode.OK))


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
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        _refuse_secrets(argv)
        app(args=argv, prog_name="ingestd")
    except IngestdError as error:
        text = " ".join(str(error).splitlines())
        _say(f"ingestd: {text if text.isprintable() else ascii(text)[1:-1]}")
        return int(error.exit_code)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
