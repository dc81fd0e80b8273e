"""The process that pushes, the same for every contender: frames of a plan as fast as they are taken, or at a rate.

Orders come as JSON lines on standard input, what was sent goes out as one line each. ZeroMQ gets the buffers themselves
and not copies, so that most of the cores is left to whoever is measured.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import zmq

from ingestd.curve import ClientKeys
from ingestd.testing.bench.frames import FrameMaker, FramePlan

__all__ = ["main"]

#: Buffers of each node [count]: as many as may be on the way (high-water mark), and one that is being written.
_RING = 6

#: Whoever takes nothing for this long is stuck [s].
_PATIENCE_S = 120.0


class _Line(Protocol):
    def send(self, k: int) -> None:
        """Send frame `k`."""


class _Zmq:
    """One PUSH socket for each node, connected to every endpoint of a contender."""

    def __init__(
        self, plan: FramePlan, maker: FrameMaker, endpoints: list[str], keys_directory: str | None = None
    ) -> None:
        self._plan, self._maker = plan, maker
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = [self._open(endpoints, _keys(keys_directory, node)) for node in range(plan.nodes)]
        ring = _RING if len(endpoints) == 1 else _RING + 4 * (len(endpoints) - 1)
        self._buffers = [[maker.buffer(node) for _ in range(ring)] for node in range(plan.nodes)]
        self._trackers: dict[int, zmq.MessageTracker] = {}

    def _open(self, endpoints: list[str], options: dict[int, bytes]) -> zmq.Socket[bytes]:
        opened = self._context.socket(zmq.PUSH)
        for option, value in options.items():
            opened.set(option, value)
        opened.set(zmq.SNDHWM, 4)
        opened.set(zmq.SNDTIMEO, int(_PATIENCE_S * 1000))
        opened.set(zmq.LINGER, 0)
        for endpoint in endpoints:
            opened.connect(endpoint)
        return opened

    def send(self, k: int) -> None:
        """Send frame `k` as soon as its buffer is free and its node may."""
        session, node = divmod(k, self._plan.nodes)
        ring = self._buffers[node]
        buffer = ring[session % len(ring)]
        tracker = self._trackers.get(id(buffer))
        if tracker is not None:
            # Patched too early, a frame that still waits would go out under another name.
            tracker.wait(_PATIENCE_S)
        self._maker.patch(buffer, k)
        sent = self._sockets[node].send(buffer, copy=False, track=True)
        assert sent is not None
        self._trackers[id(buffer)] = sent


def _keys(directory: str | None, node: int) -> dict[int, bytes]:
    """Options of a socket that speaks CURVE as this node; none where there are no keys."""
    if directory is None:
        return {}
    keys = ClientKeys.read(
        os.path.join(directory, f"node-{node + 1}.key"), os.path.join(directory, "daemon.pub")
    )
    assert keys is not None, "both files are named"
    return dict(keys.options())


class _Tcp:
    """The floor's line: one connection, length, frame."""

    def __init__(self, plan: FramePlan, maker: FrameMaker, endpoints: list[str]) -> None:
        host, _, port = endpoints[0].removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plan, self._maker = plan, maker
        self._buffers = [maker.buffer(node) for node in range(plan.nodes)]

    def send(self, k: int) -> None:
        """Send frame `k`; the copy into the kernel is made when it returns."""
        buffer = self._buffers[k % self._plan.nodes]
        self._maker.patch(buffer, k)
        self._socket.sendall(len(buffer).to_bytes(4, "big"))
        self._socket.sendall(buffer)


class _Json:
    """The guide's line: samples as JSON lists of numbers, made once; the rest of the document in front of them."""

    def __init__(self, plan: FramePlan, maker: FrameMaker, endpoints: list[str]) -> None:
        import numpy as np  # noqa: PLC0415 - only here

        self._plan = plan
        samples = np.frombuffer(plan.samples(), "<f4").reshape(-1, 2)
        self._lists = json.dumps(samples.tolist()).encode()
        self._zmq = _Zmq(FramePlan(plan.run, 1, plan.nodes), maker, endpoints)

    def send(self, k: int) -> None:
        """Send frame `k`."""
        head = {
            "task_id": self._plan.task_id(k), "websdr_id": k % self._plan.nodes + 1, "frequency_mhz": 0.0775,
            "sample_rate_khz": 12.0011321, "timestamp_ns": time.time_ns(),
            "metrics": {"snr_db": 12.26, "frequency_offset_hz": 0.01, "power_dbm": -71.5},
        }  # fmt: skip
        text = json.dumps(head).encode()[:-1] + b', "iq_data": ' + self._lists + b"}"
        self._zmq._sockets[k % self._plan.nodes].send(text)  # noqa: SLF001 - the same module


_LINES: dict[str, Callable[..., _Line]] = {
    "zmq": _Zmq,
    "tcp": _Tcp,
    "json": _Json,
}


def _push(line: _Line, first: int, count: int, gap_s: float, together: int) -> Iterator[int]:
    """Send, and yield when each was handed over [ns since 1970]; `together` frames share one moment.

    At a rate it is the moment at which a frame was due: whoever holds the pusher up would otherwise hide from it what
    the frames behind waited (coordinated omission).
    """
    began_s, began_ns = time.monotonic(), time.time_ns()
    for number in range(count):
        due_s = number // together * gap_s
        if gap_s:
            time.sleep(max(0.0, began_s + due_s - time.monotonic()))
        yield began_ns + round(due_s * 1e9) if gap_s else time.time_ns()
        line.send(first + number)


def _serve(order: dict[str, Any]) -> None:
    plan = FramePlan(**order["plan"])
    keys = [order["keys_directory"]] if order.get("keys_directory") else []
    line = _LINES[order["line"]](plan, FrameMaker(plan, order["epoch"]), order["endpoints"], *keys)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for text in sys.stdin:
        wanted = json.loads(text)
        pushed_ns = list(_push(line, **wanted))
        sys.stdout.write(json.dumps(pushed_ns) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Push what is ordered until standard input ends."""
    _serve(json.loads(sys.stdin.readline()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
