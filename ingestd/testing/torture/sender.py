"""Nodes that ask for confirmation, in a process of their own: `python -m ingestd.testing.torture.sender`.

Every frame is written down in a ledger before it is sent. At the end of standard input the nodes wait until all they
sent is confirmed; then one JSON line says how it went.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, Self

from ingestd.errors import IngestdError, Unavailable
from ingestd.formats.measurement import Measurement
from ingestd.node import Node
from ingestd.testing.frames import noise

__all__ = ["Issued", "Sender", "SenderReport", "read_ledger"]

#: Lengths of frames [samples]: most are short, so that kills and not copies take the time; some are as long as usual.
_LENGTHS = (2_000, 2_000, 2_000, 8_000, 8_000, 125_000)

#: Patience of a node [s]: a paused store, a restart and a full spool together take less.
_TIMEOUT_S = 300.0

#: Names of faults that some sessions carry in their keys, for the proxy to read; one session in so many carries one.
_NAMED = ("reset", "cut", "busy", "etag", "error-body", "refuse", "slow")
_NAMED_EVERY = 25


@dataclass(frozen=True, slots=True)
class Issued:
    """What a node is about to send, as the ledger has it."""

    task_id: str
    websdr_id: int
    sha256: str
    timestamp_ns: int | None
    sample_rate_hz: float | None


@dataclass(frozen=True, slots=True)
class SenderReport:
    """How it went: confirmed frames are accepted, as the daemon said."""

    confirmed: int
    resent: int
    parked: int
    errors: tuple[str, ...]


class Sender:
    """The process, as a `with` block that kills it unless `finish` was called.

    Parameters
    ----------
    ingest_endpoint, query_endpoint
        Of the daemon.
    ledger
        Path of the file that takes what is issued.
    seed, n_nodes, frames_per_s
        What is sent, by how many, and how often by all of them together.
    """

    def __init__(
        self,
        ingest_endpoint: str,
        query_endpoint: str,
        ledger: str,
        *,
        seed: int,
        n_nodes: int,
        frames_per_s: float,
    ) -> None:
        self._arguments = [
            ingest_endpoint, query_endpoint, ledger, str(seed), str(n_nodes), str(frames_per_s),
        ]  # fmt: skip
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "ingestd.testing.torture.sender", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
            self._popen.communicate(timeout=5)

    def finish(self, timeout_s: float = _TIMEOUT_S) -> SenderReport:
        """Let the nodes end and wait for their confirmations."""
        assert self._popen is not None
        try:
            told, _ = self._popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the sending nodes did not end in {timeout_s:g} s") from error
        report = json.loads(told)
        return SenderReport(report["confirmed"], report["resent"], report["parked"], tuple(report["errors"]))


def read_ledger(path: str) -> list[Issued]:
    """Everything that was issued."""
    with open(path, encoding="utf-8") as file:
        return [Issued(**json.loads(line)) for line in file]


class _Ledger:
    """Appends lines; what is written is in the page cache before the frame is sent."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, measurement: Measurement) -> None:
        issued = Issued(
            measurement.task_id,
            measurement.websdr_id,
            hashlib.sha256(measurement.samples).hexdigest(),
            measurement.timestamp_ns,
            measurement.sample_rate_hz,
        )
        with self._lock:
            self._file.write(json.dumps(asdict(issued)) + "\n")
            self._file.flush()


class _TorturedNode:
    """One node and its thread."""

    def __init__(
        self, given: argparse.Namespace, number: int, ledger: _Ledger, stop: threading.Event
    ) -> None:
        self._given = given
        self._number = number
        self._ledger = ledger
        self._stop = stop
        self._rng = random.Random(f"{given.seed}/{number}")  # noqa: S311 - reproducible, not a secret
        self.sent = self.resent = self.parked = 0
        self.errors: list[str] = []
        self.thread = threading.Thread(target=self._run, name=f"node-{number}")

    def _run(self) -> None:
        given = self._given
        try:
            with Node(
                given.ingest_endpoint,
                websdr_id=self._number,
                name=f"tortured-{self._number}",
                query_endpoint=given.query_endpoint,
                timeout_s=_TIMEOUT_S,
            ) as node:
                try:
                    self._send_all(node)
                    self._settle(node)
                finally:
                    self.resent = node.resent_count
        except IngestdError as error:
            self.errors.append(str(error))

    def _send_all(self, node: Node) -> None:
        gap_s = self._given.n_nodes / self._given.frames_per_s
        due_s = time.monotonic()
        for measurement in self._measurements():
            # What could not be sent in time follows in a burst, as a real receiver's recordings do.
            due_s += self._rng.expovariate(1.0 / gap_s)
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            self._ledger.write(measurement)
            self._send(node, measurement)
            self.sent += 1

    def _measurements(self) -> Iterator[Measurement]:
        k = 0
        while True:
            fault = f"-fault-{self._rng.choice(_NAMED)}" if self._rng.randrange(_NAMED_EVERY) == 0 else ""
            yield noise(
                f"torture-{self._given.seed}-{k:06d}{fault}",
                self._number,
                n_samples=self._rng.choice(_LENGTHS),
                seed=k,
            )
            k += 1

    def _send(self, node: Node, measurement: Measurement) -> None:
        """Send, parked frames first: a frame that raises was not sent."""
        while True:
            try:
                while node.parked:
                    node.send_measurement(node.parked[0])
                    node.parked.pop(0)
                node.send_measurement(measurement)
                return
            except Unavailable as error:
                if not node.parked:
                    self.errors.append(str(error))
                    return
                self.parked += 1

    def _settle(self, node: Node) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(Unavailable):
                node.wait(_TIMEOUT_S)
                if not node.parked:
                    return
            while node.parked:
                self.parked += 1
                node.send_measurement(node.parked.pop(0))


def main() -> None:
    """Send until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (
        ("ingest_endpoint", str), ("query_endpoint", str), ("ledger", str),
        ("seed", int), ("n_nodes", int), ("frames_per_s", float),
    ):  # fmt: skip
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    stop = threading.Event()
    with open(given.ledger, "a", encoding="utf-8") as file:
        ledger = _Ledger(file)
        nodes = [_TorturedNode(given, number, ledger, stop) for number in range(1, given.n_nodes + 1)]
        for node in nodes:
            node.thread.start()
        sys.stdin.buffer.read()
        stop.set()
        for node in nodes:
            node.thread.join()
    report = SenderReport(
        sum(node.sent for node in nodes),
        sum(node.resent for node in nodes),
        sum(node.parked for node in nodes),
        tuple(error for node in nodes for error in node.errors),
    )
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()
