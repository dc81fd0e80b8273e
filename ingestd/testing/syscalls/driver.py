"""A warm process that forks one subject for each case: starting Python under `strace` would cost half a second each.

Spoken over stdin and stdout, one JSON object a line: a request is answered with the process id of a fork that waits at
its gate; `go` opens the gate; the answer to that is how the fork ended and what it told.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ingestd import logs
from ingestd.testing.syscalls.subjects import SUBJECTS, Stage

__all__ = ["main"]

#: A subject that takes longer hangs [s].
_HUNG_S = 30.0

#: Exit status of a subject that an error came out of.
_DIED = 70

#: A message of a subject is the name of an entry [bytes].
_MESSAGE_BYTES = 256


@dataclass(slots=True)
class _Fork:
    """A subject in front of its gate."""

    pid: int
    told: socket.socket
    gate_fd: int
    stop_fd: int


class _Shortened:
    """os.write of a subject, which really writes less than it was asked at the k-th write to the spool or bucket.

    strace can only pretend a short write: it suppresses the call and makes up its result.

    Parameters
    ----------
    state_directory
        Writes elsewhere (catalog, log) are left alone.
    at
        Which write, from 1.
    how
        `one`, `half` or `most` of its bytes; or `limit`: RLIMIT_FSIZE is set to half of them (what is longer fails
        with EFBIG), and lifted after the second such failure.
    """

    def __init__(self, state_directory: str, at: int, how: str) -> None:
        self._roots = tuple(os.path.join(state_directory, part, "") for part in ("spool", "objects"))
        self._at = at
        self._how = how
        self._count = 0
        self._failures = 0
        self._write = os.write

    def __call__(self, fd: int, content: bytes | memoryview) -> int:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(self._roots):
            return self._write(fd, content)
        self._count += 1
        if self._how == "limit":
            return self._limited(fd, content)
        if self._count != self._at:
            return self._write(fd, content)
        size_bytes = len(content)
        n_bytes = {"one": 1, "half": size_bytes // 2, "most": size_bytes - 1}[self._how]
        return self._write(fd, memoryview(content)[: max(1, n_bytes)])

    def _limited(self, fd: int, content: bytes | memoryview) -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._count == self._at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))
        try:
            return self._write(fd, content)
        except OSError:
            self._failures += 1
            if self._failures == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            raise


def _run(request: dict[str, Any], told: socket.socket, gate_fd: int, stop_fd: int) -> None:
    """The fork's life up to its end."""
    state_directory = request["state_directory"]
    os.makedirs(state_directory, exist_ok=True)
    log = open(os.path.join(state_directory, "log"), "w", encoding="utf-8")  # noqa: SIM115 - open until the fork ends
    os.dup2(log.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(log.fileno(), 1)
    logs.configure(request["subject"], "info", "json", log)

    def gate() -> None:
        told.send(b"ready")
        os.read(gate_fd, 1)
        # Only now: strace does not count what was written before the gate either.
        if request["short"]:
            os.write = _Shortened(state_directory, *request["short"])  # type: ignore[assignment]  # takes what it is given

    SUBJECTS[request["subject"]](Stage(state_directory, request["groups"], told, stop_fd, gate))


def _fork(request: dict[str, Any]) -> _Fork:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gate_out, gate_in = os.pipe()
    stop_fd = os.eventfd(0)
    pid = os.fork()
    if not pid:
        status = _DIED
        try:
            ours.close()
            _run(request, theirs, gate_out, stop_fd)
            status = 0
        except BaseException:  # noqa: BLE001 - a fork must never return into its parent's loop
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    theirs.close()
    os.close(gate_out)
    return _Fork(pid, ours, gate_in, stop_fd)


def _watch(fork: _Fork, stop_after_s: float | None) -> tuple[list[str], bool]:
    """Collect what the fork tells until it ends; it is asked to stop and, at last, killed."""
    told: list[str] = []
    began_s = time.monotonic()
    deadlines: list[tuple[float, Callable[[], object]]] = [
        (began_s + _HUNG_S, lambda: os.kill(fork.pid, signal.SIGKILL))
    ]
    if stop_after_s is not None:
        deadlines.insert(0, (began_s + stop_after_s, lambda: os.eventfd_write(fork.stop_fd, 1)))
    while True:
        wait_s = deadlines[0][0] - time.monotonic() if deadlines else _HUNG_S
        if not select.select([fork.told], [], [], max(0.0, wait_s))[0]:
            deadlines.pop(0)[1]()
            continue
        message = fork.told.recv(_MESSAGE_BYTES)
        if not message:
            return told, not deadlines
        told.append(message.decode())


def _serve(request: dict[str, Any]) -> None:
    fork = _fork(request)
    try:
        ready = fork.told.recv(_MESSAGE_BYTES)
        _answer({"pid": fork.pid if ready else 0})
        if ready and not sys.stdin.readline():
            os.kill(fork.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            os.write(fork.gate_fd, b"g")
        told, hung = _watch(fork, request["stop_after_s"])
    finally:
        fork.told.close()
        os.close(fork.gate_fd)
        os.close(fork.stop_fd)
    _, status = os.waitpid(fork.pid, 0)
    _answer({"told": told, "status": os.waitstatus_to_exitcode(status), "hung": hung})


def _answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Serve requests until stdin ends."""
    while line := sys.stdin.readline():
        _serve(json.loads(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
