"""Frames at a steady rate from a thread, by plain PUSH."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Self

from ingestd.formats import frame as wire
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise

__all__ = ["SteadyLoad"]

#: Longest wait for the thread at the end [s]: a daemon that does not accept holds its last frame back.
_JOIN_S = 600.0


class SteadyLoad:
    """Sends measurements with task ids of their own, as a `with` block.

    Parameters
    ----------
    daemon
        To whom.
    prefix
        Of the task ids.
    frames_per_s
        Rate.
    n_samples
        Of each.
    """

    def __init__(self, daemon: DaemonProcess, prefix: str, frames_per_s: float, n_samples: int) -> None:
        self._endpoint = daemon.ingest_endpoint
        self._prefix = prefix
        self._gap_s = 1.0 / frames_per_s
        self._template = noise("template", n_samples=n_samples)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-{prefix}", daemon=True)
        #: Frames that were handed to ZeroMQ.
        self.sent_count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        due_s = time.monotonic()
        with pusher(self._endpoint) as socket:
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                due_s += self._gap_s
                task_id = f"{self._prefix}-{self.sent_count:06d}"
                socket.send(wire.encode(replace(self._template, task_id=task_id)))
                self.sent_count += 1
