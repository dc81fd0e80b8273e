"""Free ports and waits with an end."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["free_port", "wait_until"]

_T = TypeVar("_T")


#: Below the ports that Linux gives to outgoing connections (from 32768), which would take a free one in passing.
_PORTS = range(15_000, 32_000)

#: Tries before giving up [count].
_MAX_TRIES = 1000


def free_port() -> int:
    """A loopback TCP port that nobody uses now, and that another process which asks now hardly gets.

    Raises
    ------
    OSError
        None was found.
    """
    for _ in range(_MAX_TRIES):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port among {_PORTS.start} to {_PORTS.stop - 1}")


def wait_until(condition: Callable[[], _T | None], timeout_s: float = 20.0, what: str = "") -> _T:
    """Wait for a condition to become true; returns its value.

    Raises
    ------
    TimeoutError
        It did not within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.02)
