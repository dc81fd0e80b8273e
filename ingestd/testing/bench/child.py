"""A helper process of a benchmark: lines in, lines out, an end to every wait, and gone with its `with` block."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, Self

from ingestd.errors import IngestdError

__all__ = ["Child"]

#: Imports and buffers are ready within this [s].
_START_TIMEOUT_S = 60.0


class Child:
    """`python -m MODULE` with JSON lines on its standard streams.

    Parameters
    ----------
    module
        What runs.
    order
        First line that it gets.
    log_path
        Where its standard error goes.
    environ
        Added to the environment.
    """

    def __init__(
        self, module: str, order: Mapping[str, Any], log_path: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self._module, self._order, self._log_path = module, order, log_path
        self._environ = dict(environ or {})
        self._popen: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._received = b""
        #: What it said when it was ready.
        self.hello = ""

    @property
    def pid(self) -> int:
        """Of the process; its children are below it."""
        assert self._popen is not None
        return self._popen.pid

    def __enter__(self) -> Self:
        self._log = open(self._log_path, "ab")
        self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | self._environ,
            process_group=0,
        )
        try:
            self.tell(self._order)
            self.hello = self.line(_START_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        popen, self._popen = self._popen, None
        if popen is not None:
            assert popen.stdin is not None
            assert popen.stdout is not None
            popen.terminate()
            try:
                popen.wait(5)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait(5)
            # Workers of a pool outlive a parent that was terminated; the group is theirs and its own.
            _kill_group(popen.pid)
            popen.stdin.close()
            popen.stdout.close()
        if self._log is not None:
            self._log.close()

    def tell(self, order: Mapping[str, Any]) -> None:
        """Write one line."""
        assert self._popen is not None
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(order).encode() + b"\n")
        self._popen.stdin.flush()

    def line(self, timeout_s: float) -> str:
        """Next line.

        Raises
        ------
        IngestdError
            It ended, or said nothing in time.
        """
        assert self._popen is not None
        assert self._popen.stdout is not None
        fd, end_s = self._popen.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([fd], [], [], max(0.0, end_s - time.monotonic()))
            got = os.read(fd, 2**20) if ready else b""
            if not got:
                why = "ended" if ready else f"said nothing in {timeout_s:g} s"
                raise IngestdError(f"{self._module} {why}; see {self._log_path}")
            self._received += got
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
