"""Bounds on what one process may take: a role that is fed without end dies first, and alone, and is back at once."""

from __future__ import annotations

import ctypes
import resource

__all__ = [
    "CONVERTED_BYTES",
    "MEASURED_BYTES",
    "RESPONDER_BEYOND_BYTES",
    "bound_address_space",
    "give_freed_memory_back",
    "keep_freed_memory",
    "memory_bytes",
    "receiver_beyond_bytes",
    "uploader_beyond_bytes",
]

#: Address space of the receiver beyond that of its start and of a few of the longest frames [bytes]: 64 peers with
#: four frames of a megabyte each are an eighth of it; endless parts of one message are not.
_RECEIVER_BEYOND_BYTES = 2 * 2**30

#: Of the responder [bytes]: a peer that sends parts of one message without end is cut off when libzmq gets no more.
RESPONDER_BEYOND_BYTES = 2**30

#: What one thread of an uploader holds beside the frame as it was sent [bytes]: integer samples that are converted at once.
CONVERTED_BYTES = 4 * 2**20

#: What measuring a frame takes beside it, however long it is [bytes]: mostly the segments of its spectrum, in double
#: precision where the floor is far down.
MEASURED_BYTES = 10 * 2**20

#: Of an uploader beyond its uploads [bytes]: glibc reserves 64 MiB for each thread that allocates, and keeps as much.
_UPLOADER_BEYOND_BYTES = 2**30
_ARENA_BYTES = 128 * 2**20

#: glibc's mallopt(3): parameter numbers, and how much of a freed heap stays with the process [bytes]. As it comes,
#: glibc gives every block of a megabyte back to the kernel and faults it in again, page by page, for the next frame.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 64 * 2**20
_TOP_PAD_BYTES = 16 * 2**20

#: Resident memory from which on it is worth the tenths of a second to look for freed blocks [bytes]: far above that of a
#: receiver between frames of a megabyte.
_LARGE_BYTES = 512 * 2**20

#: Largest threshold that glibc takes on 64 bits [bytes]; longer blocks are mapped and unmapped one by one.
_MMAP_THRESHOLD_BYTES = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let freed blocks of frame size stay with this process; whether the C library knows how."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _TOP_PAD_BYTES),
        )
    )


def give_freed_memory_back() -> bool:
    """Return freed blocks to the kernel where this process is larger than its work makes it; whether there were any.

    A peer that fills the memory with small parts and is cut off leaves it in pieces, which glibc keeps for good: the
    process would stay at its bound, with no room for the next large frame of somebody else.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None or memory_bytes()[1] < _LARGE_BYTES:
        return False
    return bool(malloc_trim(0))


def memory_bytes() -> tuple[int, int]:
    """Address space and resident memory of this process [bytes]."""
    with open("/proc/self/statm", "rb") as file:
        size, resident = file.read().split()[:2]
    return int(size) * resource.getpagesize(), int(resident) * resource.getpagesize()


def receiver_beyond_bytes(max_frame_bytes: int) -> int:
    """Address space that the receiver may take beyond its start [bytes]."""
    return _RECEIVER_BEYOND_BYTES + 4 * max_frame_bytes


def uploader_beyond_bytes(max_frame_bytes: int, n_threads: int) -> int:
    """Address space that an uploader may take beyond its start [bytes]; honest work stays below."""
    of_thread_bytes = _ARENA_BYTES + 2 * (max_frame_bytes + CONVERTED_BYTES + MEASURED_BYTES)
    return _UPLOADER_BEYOND_BYTES + n_threads * of_thread_bytes


def bound_address_space(beyond_bytes: int) -> None:
    """Let this process take at most so much address space beyond what it has now [bytes].

    An allocation beyond it fails: libzmq then cuts the peer off, or the process ends.
    """
    now_bytes, _ = memory_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now_bytes + beyond_bytes
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
