"""A real daemon as a subprocess on free loopback ports: for tests, benchmarks and `scripts/run`."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Self

import yaml
import zmq

from ingestd.client import Client
from ingestd.errors import IngestdError, QueryError, Unavailable
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Measurement
from ingestd.testing.waiting import free_port, wait_until

__all__ = ["DaemonProcess", "pusher"]

#: A start, imports included, takes well under two seconds; slow machines get this long [s].
START_TIMEOUT_S = 30.0

#: Answers are at most a second old; a little more, for the question itself [s].
_STATS_AGE_S = 1.2

#: The daemon promises to be gone in ten seconds after SIGTERM [s].
STOP_TIMEOUT_S = 10.0


@contextlib.contextmanager
def pusher(endpoint: str, send_timeout_s: float = 20.0) -> Iterator[zmq.Socket[bytes]]:
    """A plain PUSH socket, as a node in any language would open it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set(zmq.SNDHWM, 4)
    socket.set(zmq.SNDTIMEO, int(send_timeout_s * 1000))
    socket.set(zmq.LINGER, 5000)
    socket.connect(endpoint)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


class DaemonProcess:
    """`ingestd run` in a subprocess, as a `with` block that stops it.

    Parameters
    ----------
    directory
        For the state directory, the configuration file and the log.
    settings
        Configuration beside the ports, as in the config file.
    environ
        Added to the environment; INGESTD_* and MINIO_* of the caller are not passed on.
    ingest_port, query_port, http_port
        Fixed ports; free ones where None.
    program
        Begin of the command line: an installed release, or by default this very interpreter and package.
    client_keys
        Files with the secret key of the clients that are made here, and with the daemon's public key.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        settings: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        ingest_port: int | None = None,
        query_port: int | None = None,
        http_port: int | None = None,
        program: Sequence[str] = (sys.executable, "-m", "ingestd"),
        client_keys: tuple[str, str] | None = None,
    ) -> None:
        self._program = tuple(program)
        self.directory = os.fspath(directory)
        self.state_directory = os.path.join(self.directory, "state")
        self.ingest_endpoint = f"tcp://127.0.0.1:{ingest_port or free_port()}"
        self.query_endpoint = f"tcp://127.0.0.1:{query_port or free_port()}"
        self.http_endpoint = f"127.0.0.1:{http_port or free_port()}"
        self.config_path = os.path.join(self.directory, "config.yaml")
        self.log_path = os.path.join(self.directory, "ingestd.log")
        self._environ = dict(environ or {})
        self._client_keys = client_keys or (None, None)
        self._settings: dict[str, Any] = {
            "state_directory": self.state_directory,
            "ingest": {"endpoint": self.ingest_endpoint},
            "query": {"endpoint": self.query_endpoint},
            "http": {"endpoint": self.http_endpoint},
        }
        for section, values in (settings or {}).items():
            if isinstance(values, Mapping):
                self._settings[section] = {**self._settings.get(section, {}), **values}
            else:
                self._settings[section] = values
        self._log: IO[bytes] | None = None
        self.popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.popen is not None
        return self.popen.pid

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon; with `wait` until it answers and accepts."""
        os.makedirs(self.directory, exist_ok=True)
        with open(self.config_path, "w", encoding="utf-8") as file:
            yaml.safe_dump(self._settings, file)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
        self._log = open(self.log_path, "ab")  # noqa: SIM115 - closed by stop
        self.popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*self._program, "run", "--config", self.config_path],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environ | self._environ,
            # Ctrl-C in a terminal reaches the whole foreground group; whoever started the daemon stops it.
            process_group=0,
        )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every role runs and frames are accepted."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.popen is not None and self.popen.poll() is not None:
                raise IngestdError(f"ingestd ended with {self.popen.returncode}:\n{self.log_tail()}")
            with contextlib.suppress(Unavailable), self.client(timeout_s=0.5, retries=0) as client:
                health = client.health()
                if health["spool"]["accepting"] and all(
                    role["state"] == "running" for role in health["roles"]
                ):
                    return
            time.sleep(0.02)
        raise Unavailable(f"ingestd did not become ready in {timeout_s} s:\n{self.log_tail()}")

    def client(self, timeout_s: float = 5.0, retries: int = 2) -> Client:
        """A client of this daemon."""
        secret_key_file, server_key_file = self._client_keys
        return Client(
            self.query_endpoint,
            timeout_s=timeout_s,
            retries=retries,
            secret_key_file=secret_key_file,
            server_key_file=server_key_file,
        )

    def push(self, *measurements: Measurement) -> None:
        """Send frames over plain PUSH, without confirmation."""
        with pusher(self.ingest_endpoint) as socket:
            for measurement in measurements:
                socket.send(wire.encode(measurement))

    def stats(self) -> dict[str, Any]:
        """Answer of `stats`, at most a second old."""
        with self.client() as client:
            return client.stats()

    def health(self) -> dict[str, Any]:
        """Answer of `health`."""
        with self.client() as client:
            return client.health()

    def wait_stored(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until so many entries are stored since the daemon's start."""
        wait_until(lambda: self.stats()["stored"] >= count, timeout_s, f"{count} stored")

    def wait_settled(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until no entry waits and the books agree; returns the totals.

        Raises
        ------
        TimeoutError
            Something still waits, or accepted != stored + duplicates + superseded + failed + lost.
        """
        empty_s: list[float] = []

        def settled() -> dict[str, Any] | None:
            totals = self._settled_totals()
            if totals is None:
                empty_s.clear()
                return None
            empty_s.append(time.monotonic())
            # Totals may be a second old: those that count were read a good second after everything was still.
            return totals if empty_s[-1] - empty_s[0] > _STATS_AGE_S else None

        return wait_until(settled, timeout_s, "the spool to be empty and the books to agree")

    def _settled_totals(self) -> dict[str, Any] | None:
        spool = os.path.join(self.state_directory, "spool")
        if glob.glob(os.path.join(spool, "new", "*.v1")) or glob.glob(
            os.path.join(spool, "claimed", "*", "*.v1")
        ):
            return None
        try:
            # None where the catalog was not read yet.
            totals: dict[str, Any] | None = self.stats()["total"]
        except (Unavailable, QueryError):
            return None
        if totals is None:
            return None
        ends = ("stored", "duplicates", "superseded", "failed", "lost")
        balanced = totals["pending"] == 0 and totals["accepted"] == sum(totals[name] for name in ends)
        return totals if balanced else None

    def role_pids(self) -> dict[str, int]:
        """Process ids of the roles by name."""
        with self.client() as client:
            return {role["name"]: role["pid"] for role in client.health()["roles"]}

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and wait; returns the exit code. Kills what is left, and says so by an error."""
        popen = self.popen
        if popen is None:
            return 0
        try:
            if popen.poll() is None:
                popen.send_signal(signal.SIGTERM)
            return popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            popen.kill()
            popen.wait(5)
            raise IngestdError(f"ingestd did not stop in {timeout_s} s:\n{self.log_tail()}") from error
        finally:
            self._forget()

    def kill(self) -> None:
        """SIGKILL to the supervisor."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait(5)
        self._forget()

    def log_tail(self, n_bytes: int = 8000) -> str:
        """End of the log."""
        with contextlib.suppress(OSError), open(self.log_path, "rb") as file:
            file.seek(max(0, os.path.getsize(self.log_path) - n_bytes))
            return file.read().decode("utf-8", "replace")
        return ""

    def _forget(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log, self.popen = None, None
