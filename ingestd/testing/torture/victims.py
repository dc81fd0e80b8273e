"""The processes that are hit: roles of the daemon, its supervisor, the store."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from types import TracebackType
from typing import Self

from ingestd.errors import IngestdError
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.minio_server import MinioServer
from ingestd.testing.torture.blows import Blow, Kind

__all__ = ["Victims", "role_pids"]

#: A supervisor that was told to stop has this long [s]: 10 by its promise, some of which it may spend paused.
_STOP_TIMEOUT_S = 30.0


def role_pids(supervisor_pid: int) -> dict[str, int]:
    """Process ids of the roles that run now, by name, as the kernel knows them."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(f"/proc/{supervisor_pid}/task/{supervisor_pid}/children") as file:
        for pid in file.read().split():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
                words = line.read().decode("utf-8", "replace").split("\0")
                if "ingestd.roles.child" in words:
                    found[words[words.index("ingestd.roles.child") + 1]] = int(pid)
    return found


class Victims:
    """Hits them, as a `with` block at whose end everybody runs again.

    Parameters
    ----------
    daemon, minio
        Running; both are started again where nobody else does it.
    """

    def __init__(self, daemon: DaemonProcess, minio: MinioServer) -> None:
        self._daemon = daemon
        self._minio = minio
        self._paused: list[tuple[float, int]] = []
        #: Blows that hit somebody, by kind and target.
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume(float("inf"))

    @property
    def kills(self) -> int:
        """SIGKILLs that hit a process."""
        return sum(n for name, n in self.counts.items() if name.startswith(Kind.KILL))

    def hit(self, blow: Blow) -> None:
        """Carry out one blow; a role that does not exist at the moment is missed, and not counted."""
        self.resume(time.monotonic())
        pid = self._pid(blow.target)
        if pid is None:
            return
        match blow.kind, blow.target:
            case Kind.KILL, "supervisor":
                self._daemon.kill()
                time.sleep(blow.lasts_s)
                self._daemon.start(wait=False)
            case Kind.KILL, "minio":
                self._minio.stop(kill=True)
                time.sleep(blow.lasts_s)
                self._minio.start()
            case Kind.STOP, _:
                self.resume(float("inf"))
                self._daemon.stop(_STOP_TIMEOUT_S)
                self._daemon.start(wait=False)
            case Kind.PAUSE, _:
                os.kill(pid, signal.SIGSTOP)
                self._paused.append((time.monotonic() + blow.lasts_s, pid))
            case _:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.counts[f"{blow.kind} {blow.target.partition('-')[0]}"] += 1

    def resume(self, until_s: float) -> None:
        """Let those go on whose pause is over at `until_s`."""
        for due_s, pid in self._paused:
            if due_s <= until_s:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._paused = [(due_s, pid) for due_s, pid in self._paused if due_s > until_s]

    def _pid(self, target: str) -> int | None:
        if target == "minio":
            return self._minio.pid
        if self._daemon.popen is None or self._daemon.popen.poll() is not None:
            raise IngestdError(f"the daemon ended by itself:\n{self._daemon.log_tail()}")
        return self._daemon.pid if target == "supervisor" else role_pids(self._daemon.pid).get(target)
