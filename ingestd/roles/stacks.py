"""Where a process stands, told when a signal ends it or asks: the stacks of its threads, on standard error."""

from __future__ import annotations

import faulthandler
import signal
from types import FrameType

__all__ = ["show_stacks"]


def show_stacks() -> None:
    """Have stacks written where a signal ends this process (SIGABRT of the watchdog), or SIGUSR1 asks (main thread only).

    SIGUSR1 may reach a process that stood still and goes on: C code that walks the frames of threads that run crashes
    now and then. So it writes the stack of the thread that it interrupts, whatever the interpreter is doing, and the
    interpreter writes all of them as soon as it can, when only one thread runs.
    """
    faulthandler.enable()
    signal.signal(signal.SIGUSR1, _show_all)
    faulthandler.register(signal.SIGUSR1, all_threads=False, chain=True)


def _show_all(_number: int, _frame: FrameType | None) -> None:
    faulthandler.dump_traceback()
