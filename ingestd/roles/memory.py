"""Bounds on what one process may take: a role that is fed without end dies first, and alone, and is back at once."""

from __future__ import annotations

import resource

__all__ = ["bound_address_space", "memory_bytes"]


def memory_bytes() -> tuple[int, int]:
    """Address space and resident memory of this process [bytes]."""
    with open("/proc/self/statm", "rb") as file:
        size, resident = file.read().split()[:2]
    return int(size) * resource.getpagesize(), int(resident) * resource.getpagesize()


def bound_address_space(beyond_bytes: int) -> None:
    """Let this process take at most so much address space beyond what it has now [bytes].

    An allocation beyond it fails: libzmq then cuts the peer off, or the process ends.
    """
    now_bytes, _ = memory_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now_bytes + beyond_bytes
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
