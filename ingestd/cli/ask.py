"""Asking a daemon, for every command: the options, the client, messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestd.cli.render import escaped
from ingestd.errors import ExitCode, IngestdError, NotFound, QueryError, Unavailable

if TYPE_CHECKING:
    from ingestd.client import Client

__all__ = [
    "QUERY_ENDPOINT",
    "QUERY_TIMEOUT_S",
    "NotYetError",
    "Options",
    "ask",
    "exit_code",
    "open_client",
    "reachable",
    "say",
]

#: Where the daemon answers as it comes (`query.endpoint`).
QUERY_ENDPOINT = "tcp://127.0.0.1:5556"

#: Patience for one answer [s].
QUERY_TIMEOUT_S = 5.0


class NotYetError(IngestdError):
    """What was asked for will be there later; waiting helps."""

    exit_code = ExitCode.TEMPORARY


@dataclass(frozen=True, slots=True)
class Options:
    """Options before the command; `timeout_s` is None where it was not given."""

    endpoint: str = QUERY_ENDPOINT
    as_json: bool = False
    timeout_s: float | None = None
    secret_key_file: str | None = None
    server_key_file: str | None = None

    @property
    def query_timeout_s(self) -> float:
        """Patience for one answer [s]."""
        return QUERY_TIMEOUT_S if self.timeout_s is None else self.timeout_s


def say(message: str) -> None:
    """Print a message: one line on stderr, foreign text escaped."""
    print(f"ingestctl: {escaped(' '.join(message.splitlines()))}", file=sys.stderr)


def reachable(endpoint: str) -> str:
    """Endpoint to connect to, of one that may say where the daemon listens (every address)."""
    for every in ("tcp://*:", "tcp://0.0.0.0:"):
        if endpoint.startswith(every):
            return "tcp://127.0.0.1:" + endpoint[len(every) :]
    return endpoint


@contextmanager
def open_client(options: Options) -> Iterator[Client]:
    """Open a client; whatever way it finds nobody there, the message says who did not answer."""
    # Here and not above: --help and --version need no sockets.
    from ingestd.client import Client  # noqa: PLC0415

    try:
        # Two tries within the patience: the second one outlives a daemon that restarts under the first.
        with Client(
            options.endpoint,
            timeout_s=options.query_timeout_s / 2,
            retries=1,
            secret_key_file=options.secret_key_file,
            server_key_file=options.server_key_file,
        ) as client:
            yield client
    except Unavailable as error:
        if str(error).startswith("no answer from"):
            raise
        raise Unavailable(f"no answer from {options.endpoint}: {error}") from error


def ask(options: Options, cmd: str, **args: Any) -> dict[str, Any]:
    """Ask one question; arguments that are None stay out.

    Raises
    ------
    Unavailable
        `no answer from ...`.
    NotFound, QueryError
        As answered.
    """
    with open_client(options) as client:
        document: dict[str, Any] = client.query(
            cmd, **{name: value for name, value in args.items() if value is not None}
        )
        return document


def exit_code(error: IngestdError) -> int:
    """Exit code of an error; a query that was refused for its arguments is a wrong command line."""
    if isinstance(error, QueryError):
        if error.code == "invalid_argument":
            return ExitCode.USAGE
        if error.code == "not_found":
            return NotFound.exit_code
        return ExitCode.TEMPORARY if error.retryable else ExitCode.FAILURE
    return int(error.exit_code)
