"""The command `push`: send what was planned, and watch it being stored."""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, cast

from ingestd.cli import plan as planning
from ingestd.cli.ask import Options, ask, open_client, say
from ingestd.cli.recording import open_recording, read_file
from ingestd.cli.render import escaped, progress, show_json
from ingestd.errors import ExitCode, NotFound, QueryError, UsageError, bounded
from ingestd.formats import npy, timestamps
from ingestd.formats.measurement import Identity, Measurement, content_crc

__all__ = ["Asks", "Outcome", "Push", "Sends", "Sent", "send", "settle"]

#: Pauses between looks at a measurement that waits for the store [s]: the first, and the longest they grow to.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

#: Patience until everything is stored: this [s], and the time that all bytes need at that rate [bytes/s]; the deadline
#: of an upload, which an honest wait must outlast.
_TIMEOUT_S, _BYTES_PER_S = 40.0, 64 * 1024

#: Patience for the daemon to take one frame [s]; it may be full for a while.
_NODE_TIMEOUT_S = 30.0

#: Sender of what no node sent.
_NODE = "ingestctl"

#: Longest entry of the spool that is read [bytes]: the largest `ingest.max_frame_bytes` that is of any use.
_MAX_ENTRY_BYTES = 2**31


class Asks(Protocol):
    """What is needed of `ingestd.client.Client`."""

    def query(self, cmd: str, **args: Any) -> dict[str, Any]:
        """Ask the daemon."""
        ...


class Sends(Protocol):
    """What is needed of `ingestd.node.Node`."""

    def send_measurement(self, measurement: Measurement) -> Any:
        """Send one frame."""
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """What is kept of a measurement after it was sent: enough to recognise it in the catalog.

    Parameters
    ----------
    identity
        Of the measurement.
    content
        (crc32c of the .npy object in base64, `timestamp_ns`, `frequency_hz`, `sample_rate_hz`).
    copy
        8 hex digits under which it is kept where its identity holds other content.
    n_samples, size_bytes
        Length of its samples; in bytes as sent.
    """

    identity: Identity
    content: tuple[str, int | None, float | None, float | None]
    copy: str
    n_samples: int
    size_bytes: int

    @classmethod
    def of(cls, measurement: Measurement) -> Sent:
        """Take the fingerprint of a measurement."""
        crc32c = npy.encode(measurement).crc32c
        content = (measurement.timestamp_ns, measurement.frequency_hz, measurement.sample_rate_hz)
        in_base64 = base64.b64encode(crc32c.to_bytes(4, "big")).decode("ascii")
        copy = f"{content_crc(crc32c, *content):08x}"
        return cls(
            measurement.identity, (in_base64, *content), copy, measurement.n_samples, len(measurement.samples)
        )

    @property
    def place(self) -> str:
        """The identity in words."""
        chunk = "" if self.identity.chunk is None else f" chunk {self.identity.chunk}"
        return f"{self.identity.task_id} receiver {self.identity.websdr_id}{chunk}"

    def is_in(self, row: dict[str, Any]) -> bool | None:
        """Whether a row of the catalog is of this content; None while it has no checksum yet."""
        found = (row.get("timestamp_ns"), row.get("frequency_hz"), row.get("sample_rate_hz"))
        if found != self.content[1:]:
            return False
        crc32c = row.get("crc32c")
        return None if crc32c is None else crc32c == self.content[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a measurement.

    `state` is that of its record, or `sent` where the catalog does not know it (yet).
    """

    sent: Sent
    state: str = "sent"
    s3_path: str | None = None
    error: str | None = None
    is_copy: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """What it makes of the command that waited for it."""
        if self.state == "stored":
            return ExitCode.OK
        return ExitCode.FAILURE if self.state in ("failed", "lost") else ExitCode.TEMPORARY

    def line(self) -> str:
        """As people read it."""
        if self.state == "stored":
            return f"stored as {escaped(self.s3_path)}"
        if self.exit_code is ExitCode.FAILURE:
            return f"{self.sent.place}: {self.state}: {self.error or 'see ingestctl failed'}"
        return f"sent {self.sent.place}: {'accepted' if self.state == 'accepted' else 'not confirmed'}, not stored yet"

    def document(self) -> dict[str, Any]:
        """As `--json` shows it."""
        stamp_ns = self.sent.content[1]
        return {
            **self.sent.identity._asdict(),
            "timestamp_ns": stamp_ns,
            "timestamp_utc": None if stamp_ns is None else timestamps.format_utc(stamp_ns),
            "samples_count": self.sent.n_samples,
            "state": self.state,
            "s3_path": self.s3_path,
            "copy": self.sent.copy if self.is_copy else None,
            "error": self.error,
        }


def send(
    measurements: Iterable[Measurement], node: Sends, sent_bytes: Callable[[int], None]
) -> Iterator[Sent]:
    """Send measurements one after the other.

    Parameters
    ----------
    measurements
        In order.
    node
        Where they go.
    sent_bytes
        Told the length of the samples of each [bytes].
    """
    for measurement in measurements:
        sent = Sent.of(measurement)
        node.send_measurement(measurement)
        sent_bytes(len(measurement.samples))
        yield sent


def settle(
    sent: Iterable[Sent],
    client: Asks,
    deadline_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Outcome]:
    """Watch measurements until each is stored, has failed, or the deadline is over.

    Parameters
    ----------
    sent
        What to look for.
    client
        Whom to ask.
    deadline_s
        On `clock` [s]; what is looked at later is looked at once.
    clock, pause
        Monotonic time [s], and how to let it pass.
    """
    for one in sent:
        pause_s = _FIRST_PAUSE_S
        outcome = _look(one, client)
        while outcome.state in ("sent", "accepted") and clock() < deadline_s:
            pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            outcome = _look(one, client)
        yield outcome


def _look(sent: Sent, client: Asks) -> Outcome:
    """Look a measurement up: under its identity, as a kept conflict, and among what failed."""
    try:
        row = _row(sent, client)
        is_ours = sent.is_in(row)
        if is_ours is not False:
            return _outcome(sent, row, is_copy=False)
        copies = row.get("copies")
        if isinstance(copies, list) and sent.copy in copies:
            return _outcome(sent, _row(sent, client, copy=sent.copy), is_copy=True)
        for row in _failed_rows(sent, client):
            if _names(sent.identity, row) and sent.is_in(row) is not False:
                return _outcome(sent, row, is_copy=False)
    except NotFound:
        pass
    except QueryError as error:
        if not error.retryable:
            raise
    return Outcome(sent)


def _row(sent: Sent, client: Asks, **args: str) -> dict[str, Any]:
    identity = {name: value for name, value in sent.identity._asdict().items() if value is not None}
    return client.query("measurement", **identity, **args)


def _failed_rows(sent: Sent, client: Asks) -> list[Any]:
    """Rows of what failed for this receiver; where conflicts are rejected, ours is there and not under its identity."""
    task_id, websdr_id, _ = sent.identity
    answer = client.query("measurements", task_id=task_id, websdr_id=websdr_id, state="failed", limit=1000)
    rows = answer.get("measurements")
    return rows if isinstance(rows, list) else []


def _names(identity: Identity, row: Any) -> bool:
    return isinstance(row, dict) and all(row.get(k) == v for k, v in identity._asdict().items())


def _outcome(sent: Sent, row: dict[str, Any], *, is_copy: bool) -> Outcome:
    state, s3_path, error = (row.get(name) for name in ("state", "s3_path", "error"))
    return Outcome(
        sent,
        state=state if isinstance(state, str) else "sent",
        s3_path=s3_path if isinstance(s3_path, str) else None,
        error=None if error is None else error if isinstance(error, str) else bounded(error),
        is_copy=is_copy,
    )


@dataclass(frozen=True, slots=True)
class Push:
    """One run of the command.

    Parameters
    ----------
    options
        Those before the command.
    ingest
        Where the daemon takes frames.
    node
        Name of the sender; None = that in an entry, else `ingestctl`.
    no_wait
        Send and go.
    """

    options: Options
    ingest: str
    node: str | None = None
    no_wait: bool = False

    def recording(self, name: str, datatype: str | None, description: planning.Description) -> int:
        """Send a recording, or an entry of the spool; returns the exit code."""
        if name.endswith(".v1"):
            return self._entry(name, datatype, description)
        with open_recording(name, datatype, cast("io.BufferedReader[Any]", sys.stdin.buffer)) as recording:
            code = self._planned(planning.plan(recording, description, self._max_frame_bytes))
            if recording.torn_bytes:
                say(f"{recording.torn_bytes} bytes at the end were no whole sample and were left out")
            return code

    def test_tone(self, description: planning.Description) -> int:
        """Send a test tone; returns the exit code."""
        recording, described = planning.test_tone(description, time.time_ns())
        return self._planned(planning.plan(recording, described, self._max_frame_bytes))

    def _entry(self, name: str, datatype: str | None, description: planning.Description) -> int:
        if datatype is not None or description != planning.Description():
            raise UsageError(
                f"{bounded(name, 400)}: a frame says everything itself (allowed: --node, --no-wait)"
            )
        measurement = planning.read_entry(read_file(name, _MAX_ENTRY_BYTES), name)
        self._max_frame_bytes()
        return self._send(measurement, (), len(measurement.samples))

    def _planned(self, plan: planning.Plan) -> int:
        measurements = plan.measurements()
        return self._send(next(measurements), measurements, plan.size_bytes)

    def _max_frame_bytes(self) -> int:
        """Longest frame that the daemon takes [bytes]; asks it, so that nothing is sent where nobody answers."""
        if self.no_wait:
            return planning.DEFAULT_MAX_FRAME_BYTES
        document = ask(self.options, "confirm", node=self.node or _NODE, epoch=0)
        if document.get("accepting") is False:
            say("the daemon accepts nothing at the moment: see ingestctl health")
        found = document.get("max_frame_bytes")
        return found if type(found) is int and found > 0 else planning.DEFAULT_MAX_FRAME_BYTES

    def _send(self, first: Measurement, rest: Iterable[Measurement], size_bytes: int | None) -> int:
        # Here and not above: what is wrong with a command line is said without sockets.
        from ingestd.node import Node  # noqa: PLC0415

        name = self.node or first.node or _NODE
        endpoint = None if self.no_wait else self.options.endpoint
        timeout_s = self.options.timeout_s or _NODE_TIMEOUT_S
        with Node(
            self.ingest,
            websdr_id=first.websdr_id,
            name=name,
            query_endpoint=endpoint,
            timeout_s=timeout_s,
            secret_key_file=self.options.secret_key_file,
            server_key_file=self.options.server_key_file,
        ) as node:
            with progress(size_bytes, sys.stderr) as tell:
                sent = list(send(chain((first,), rest), node, tell))
            patience_s = self._patience_s(sent)
            deadline_s = time.monotonic() + patience_s
            if not self.no_wait:
                node.wait(patience_s)
        return self._watch(sent, deadline_s)

    def _patience_s(self, sent: Sequence[Sent]) -> float:
        if self.options.timeout_s is not None:
            return self.options.timeout_s
        return _TIMEOUT_S + sum(one.size_bytes for one in sent) / _BYTES_PER_S

    def _watch(self, sent: Sequence[Sent], deadline_s: float) -> int:
        if self.no_wait:
            return self._report(Outcome(one) for one in sent)
        with open_client(self.options) as client:
            return self._report(settle(sent, client, deadline_s))

    def _report(self, outcomes: Iterable[Outcome]) -> int:
        """Print what became of each measurement, as soon as it is known; returns the exit code."""
        documents, codes = [], {ExitCode.OK}
        for outcome in outcomes:
            documents.append(outcome.document())
            codes.add(ExitCode.OK if self.no_wait else outcome.exit_code)
            if outcome.state == "stored" or self.no_wait:
                if not self.options.as_json:
                    print(outcome.line(), flush=True)
            else:
                say(outcome.line())
            if outcome.is_copy:
                say(f"{outcome.sent.place}: other content was there before; both are kept")
        if self.options.as_json:
            show_json({"measurements": documents})
        worst_first = (ExitCode.FAILURE, ExitCode.TEMPORARY, ExitCode.OK)
        return int(next(code for code in worst_first if code in codes))
