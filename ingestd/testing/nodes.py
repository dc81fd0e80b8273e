"""Simulated nodes: one thread for each receiver of a scene, sending its sessions to a daemon."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import structlog

from ingestd.errors import IngestdError, UsageError
from ingestd.testing.simulation import Scene

__all__ = ["NodeCounts", "SimulatedNodes"]

log = structlog.get_logger(__name__)

#: How long a stop waits for all nodes together [s]: one send may be under way in each.
STOP_TIMEOUT_S = 30.0

_NS_PER_S = 10**9

#: How long a capture has ended when its time to be sent comes [ns]: receivers begin up to 5 ms after the session, and
#: a stamp ahead of the clock would be a fault.
_AGE_NS = 50_000_000
#: From session to session where there is no interval [ns]: less than it takes to make one, for the same reason.
_STEP_NS = 100_000


class NodeCounts(NamedTuple):
    """What one simulated node has done."""

    node: str
    sent_count: int
    failed_count: int
    #: Sessions left out because the node was late by more than an interval.
    skipped_count: int
    #: The latest failure, or "".
    error: str


@dataclass(slots=True)
class _Counters:
    """Written by the node's own thread only; single attributes are read by others."""

    sent: int = 0
    failed: int = 0
    skipped: int = 0
    error: str = ""


class SimulatedNodes:
    """Nodes that send the sessions of a scene on a common schedule, as a `with` block that stops them.

    Session `k` begins `k * interval_s` after the start, to the nanosecond the same for every node, so that its parts
    share one task id without the nodes speaking to each other.

    Parameters
    ----------
    endpoint
        Of the daemon's ingest socket.
    scene
        What the nodes receive.
    n_nodes
        The first so many receivers of the scene; all where None.
    interval_s
        From session to session [s]; 0 sends without pause, with stamps 0.1 ms apart.
    confirmed
        Whether the nodes ask for confirmation and send again what is missing.
    query_endpoint
        Of the daemon's query socket; required with `confirmed`.
    n_sessions
        How many each node sends; until stopped where None.
    n_samples
        Of each capture.
    start_ns
        Stamp at which session 0 begins [ns since 1970, UTC]; where None, such that captures have just ended when sent.

    Raises
    ------
    UsageError
        In construction: the scene has fewer receivers, or `confirmed` has nobody to ask.
    """

    def __init__(
        self,
        endpoint: str,
        scene: Scene,
        n_nodes: int | None = None,
        interval_s: float = 1.0,
        *,
        confirmed: bool = False,
        query_endpoint: str | None = None,
        n_sessions: int | None = None,
        n_samples: int = 48_000,
        start_ns: int | None = None,
    ) -> None:
        count = len(scene.receivers) if n_nodes is None else n_nodes
        if not 1 <= count <= len(scene.receivers):
            raise UsageError(
                f"n_nodes={count} (allowed: 1 to {len(scene.receivers)}, the receivers of the scene)"
            )
        if interval_s < 0:
            raise UsageError(f"interval_s={interval_s} (allowed: >= 0)")
        if confirmed and query_endpoint is None:
            raise UsageError("confirmed nodes need a query_endpoint to ask")
        self.scene = scene
        self._endpoint = endpoint
        self._query_endpoint = query_endpoint if confirmed else None
        self._interval_ns = round(interval_s * _NS_PER_S)
        self._n_sessions = n_sessions
        self._n_samples = n_samples
        self._start_ns = start_ns
        self._started_s = 0.0
        self._stop = threading.Event()
        self._counters = [_Counters() for _ in range(count)]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the nodes; once."""
        if self._threads:
            raise UsageError("the nodes were started already")
        if self._start_ns is None:
            duration_ns = round(self._n_samples / self.scene.sample_rate_hz * _NS_PER_S)
            self._start_ns = time.time_ns() - duration_ns - _AGE_NS
        self._started_s = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=self.scene.node(index), daemon=True)
            for index in range(len(self._counters))
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every node has sent its `n_sessions` and closed; returns whether all have."""
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Let every node finish the session it is at, and wait for all.

        Raises
        ------
        IngestdError
            A node did not end in time.
        """
        self._stop.set()
        if not self.wait(timeout_s):
            alive = ", ".join(thread.name for thread in self._threads if thread.is_alive())
            raise IngestdError(f"simulated nodes did not stop in {timeout_s} s: {alive}")

    def counts(self) -> tuple[NodeCounts, ...]:
        """What each node has done so far."""
        return tuple(
            NodeCounts(self.scene.node(index), made.sent, made.failed, made.skipped, made.error)
            for index, made in enumerate(self._counters)
        )

    def session_start_ns(self, k: int) -> int:
        """When session `k` begins [ns since 1970, UTC]; known from the start on."""
        assert self._start_ns is not None, "not started"
        return self._start_ns + k * (self._interval_ns or _STEP_NS)

    def _run(self, index: int) -> None:
        counters = self._counters[index]
        try:
            with self._open(index) as node:
                self._send_all(index, node, counters)
        except IngestdError as error:
            # On the way in or out of the block: what was sent without confirmation is not known to have arrived.
            counters.failed += 1
            counters.error = str(error)
            log.warning("simulated_node_failed", node=self.scene.node(index), error=str(error))

    def _open(self, index: int) -> AbstractContextManager[Any]:
        from ingestd.node import Node  # noqa: PLC0415 - the sockets are loaded only where something is sent

        node: AbstractContextManager[Any] = Node(
            self._endpoint,
            websdr_id=index + 1,
            name=self.scene.node(index),
            query_endpoint=self._query_endpoint,
        )
        return node

    def _send_all(self, index: int, node: Any, counters: _Counters) -> None:
        k = 0
        while (self._n_sessions is None or k < self._n_sessions) and not self._pause_until(k):
            start_ns = self.session_start_ns(k)
            measurement = self.scene.measurement(k, start_ns, index, n_samples=self._n_samples)
            try:
                node.send_measurement(measurement)
                counters.sent += 1
            except IngestdError as error:
                counters.failed += 1
                counters.error = str(error)
                log.warning("simulated_send_failed", node=self.scene.node(index), session=k, error=str(error))
            following = self._next(k)
            counters.skipped += following - k - 1
            k = following

    def _pause_until(self, k: int) -> bool:
        """Wait for the time of session `k`; returns whether to stop instead."""
        due_s = self._started_s + k * self._interval_ns / _NS_PER_S
        return self._stop.wait(max(0.0, due_s - time.monotonic()))

    def _next(self, k: int) -> int:
        """Session after `k`; a limited number is sent in full, an endless schedule does not pile up."""
        if not self._interval_ns or self._n_sessions is not None:
            return k + 1
        elapsed_ns = int((time.monotonic() - self._started_s) * _NS_PER_S)
        return max(k + 1, elapsed_ns // self._interval_ns)
