"""Contenders: ours and the rivals, each started afresh for every run and stopped after it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ingestd.testing.bench.child import Child
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.keys import Keys
from ingestd.testing.waiting import free_port

__all__ = [
    "CEILING_LEVELS",
    "Contender",
    "Running",
    "ceiling",
    "guide",
    "naive",
    "ours",
    "plain_floor",
    "redpanda",
    "redpanda_binary",
]

_RIVALS = "ingestd.testing.bench.rivals"

#: Processes and threads in each that the ceiling is tried with; the best is taken.
CEILING_LEVELS = ((1, 4), (2, 2), (2, 4), (2, 8))

#: The default of `ingest.max_connections`, with room for who asks.
_MAX_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that takes frames now: the root of its process tree, where it listens, where it keeps its files."""

    pid: int
    endpoints: list[str]
    directory: str
    daemon: DaemonProcess | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """What can be started.

    Parameters
    ----------
    name
        In tables.
    line
        How the pusher speaks to it: `zmq`, `tcp` or `json`.
    module
        Of a rival; None is our daemon.
    order
        For a rival: what it is told beside the endpoint.
    settings
        For our daemon: settings that are not the defaults.
    n_endpoints
        Sockets that it listens on.
    keys
        For our daemon: keys of its nodes `node-1`, `node-2`, ... and of its client `admin`; None = no CURVE.
    """

    name: str
    line: str = "zmq"
    module: str | None = None
    order: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_endpoints: int = 1
    keys: Keys | None = None

    @contextlib.contextmanager
    def running(
        self, plan: FramePlan, n_frames: int, directory: str, environ: Mapping[str, str]
    ) -> Iterator[Running]:
        """Start it, and stop it at the end of the block.

        Parameters
        ----------
        plan, n_frames
            What will be pushed: rivals sign their requests beforehand.
        directory
            Of its own.
        environ
            Of the store.
        """
        os.makedirs(directory, exist_ok=True)
        if self.module is None:
            with self._daemon(plan, directory, environ) as daemon:
                yield Running(daemon.pid, [daemon.ingest_endpoint], directory, daemon)
            return
        endpoints = [f"tcp://127.0.0.1:{free_port()}" for _ in range(self.n_endpoints)]
        told = {
            **self.order, "plan": asdict(plan), "count": n_frames, "directory": directory,
            "endpoint": endpoints[0], "endpoints": endpoints,
        }  # fmt: skip
        log_path = os.path.join(directory, "rival.log")
        with Child(f"{_RIVALS}.{self.module}", told, log_path, environ) as child:
            yield Running(child.pid, endpoints, directory)

    def _daemon(self, plan: FramePlan, directory: str, environ: Mapping[str, str]) -> DaemonProcess:
        client_keys = None
        if self.keys is not None:
            files = self.keys.files("admin")
            client_keys = files["secret_key_file"], files["server_key_file"]
        return DaemonProcess(directory, self._settings(plan), environ, client_keys=client_keys)

    def _settings(self, plan: FramePlan) -> dict[str, Any]:
        settings = {section: dict(values) for section, values in self.settings.items()}
        if plan.nodes >= _MAX_CONNECTIONS:
            settings.setdefault("ingest", {})["max_connections"] = plan.nodes + 8
        if self.keys is not None:
            settings["security"] = self.keys.settings()
        return settings


def ours(name: str = "ours", **settings: Mapping[str, Any]) -> Contender:
    """Our daemon with its defaults, but for these settings."""
    return Contender(name, settings=settings)


def naive(workers: int) -> Contender:
    """The script that a user would write."""
    return Contender("naive", module="naive", order={"workers": workers})


def guide() -> Contender:
    """JSON lists and boto3."""
    return Contender("guide", "json", "guide")


def plain_floor() -> Contender:
    """One thread, plain sockets."""
    return Contender("floor", "tcp", "floor")


def ceiling(processes: int, threads: int) -> Contender:
    """The leanest uploader."""
    return Contender(
        f"ceiling {processes}x{threads}", module="ceiling", order={"threads": threads}, n_endpoints=processes
    )


def redpanda_binary() -> str | None:
    """A `redpanda-connect` on PATH; whether it knows `zmq4` is found out by running it."""
    return shutil.which("redpanda-connect")


def redpanda() -> Contender:
    """The general stream processor, with a configuration of ours."""
    return Contender("redpanda-connect", module="redpanda")
