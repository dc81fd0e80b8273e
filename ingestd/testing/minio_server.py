"""A real MinIO server as a subprocess on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import urllib.request
from typing import IO, Self

from ingestd.errors import Unavailable
from ingestd.testing.waiting import free_port, wait_until

__all__ = ["MinioServer", "find_minio"]

#: A start takes about a second; slow machines get this long [s].
_START_TIMEOUT_S = 30.0


def find_minio() -> str | None:
    """Path of the server's binary: $INGESTD's cache first, then $PATH; None where there is none.

    `scripts/test` builds it into the cache once.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    built = os.path.join(cache, "ingestd", "bin", "minio")
    return built if os.access(built, os.X_OK) else shutil.which("minio")


class MinioServer:
    """A server with its data in a directory, as a `with` block that ends it.

    Parameters
    ----------
    directory
        For data and log.
    binary
        Path of the server.
    access_key, secret_key
        Of the root user.
    port
        Fixed port; a free one where None.
    certs_directory
        With `public.crt` and `private.key` of a server that speaks https; http where None.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        binary: str,
        *,
        access_key: str = "ingestd-test",
        secret_key: str = "ingestd-test-secret",  # noqa: S107 - of a server that lives for one test on loopback
        port: int | None = None,
        certs_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self.directory = os.fspath(directory)
        self.access_key, self.secret_key = access_key, secret_key
        self.port = port or free_port()
        self._binary = binary
        self._certs_directory = certs_directory
        self._popen: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http{'' if self._certs_directory is None else 's'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._popen is not None
        return self._popen.pid

    def environment(self) -> dict[str, str]:
        """What a daemon needs to use this server, by the guide's names."""
        return {
            "MINIO_URL": self.url,
            "MINIO_ACCESS_KEY": self.access_key,
            "MINIO_SECRET_KEY": self.secret_key,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        data = os.path.join(self.directory, "data")
        os.makedirs(data, exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MINIO_")}
        environ |= {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            # Its certificates and configuration stay out of the user's home.
            "HOME": self.directory,
        }
        certs = [] if self._certs_directory is None else ["--certs-dir", os.fspath(self._certs_directory)]
        self._log = open(os.path.join(self.directory, "minio.log"), "ab")  # noqa: SIM115 - closed by stop
        self._popen = subprocess.Popen(  # noqa: S603 - a path that find_minio found
            [self._binary, "server", "--quiet", *certs, "--address", f"127.0.0.1:{self.port}", data],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environ,
            # Ctrl-C in a terminal is for whoever started the server.
            process_group=0,
        )
        try:
            wait_until(self._live, _START_TIMEOUT_S, "MinIO to answer")
        except TimeoutError as error:
            self.stop()
            raise Unavailable(f"MinIO did not start; see {self.directory}/minio.log") from error

    def _live(self) -> bool:
        if self._popen is None or self._popen.poll() is not None:
            raise Unavailable(f"MinIO ended; see {self.directory}/minio.log")
        # A 200 of /ready comes before the server can make a bucket; that of /cluster does not.
        url = f"{self.url}/minio/health/cluster"
        # Whether it lives is asked of whoever is there; whether it is trusted is the test's own question.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - as said
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(url, timeout=1.0, context=context) as reply,  # noqa: S310 - http on loopback
        ):
            return bool(reply.status == 200)
        return False

    def stop(self, *, kill: bool = False) -> None:
        """End the server: SIGTERM, or SIGKILL."""
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait(5)
        if self._log is not None:
            self._log.close()
            self._log = None

    def pause(self) -> None:
        """Make the server hang: it keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal is only sent: on a busy machine a thread may still answer.
        wait_until(lambda: _is_stopped(self.pid), 5.0, "the server to stand still")

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process stands still."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[0] not in (b"T", b"t"):
                return False
    return True
