"""What the form of the spool costs: one file for each entry, as it is, beside one preallocated segment that is written over.

The segment is a bound and not a spool: it knows nothing of recovery, of order, of entries that are moved aside and sent
again one by one, or of a segment that is full. What it saves is the most that any such form could.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ingestd.errors import IngestdError
from ingestd.formats.checksum import crc32c
from ingestd.spool import Claims, SpoolLayout, SpoolWriter
from ingestd.testing.bench.frames import FrameMaker, FramePlan
from ingestd.testing.bench.runs import Values

__all__ = ["files", "segment"]

#: What begins at a multiple of this can be given to the disk without reading anything back [bytes].
_BLOCK_BYTES = 4096

#: Frames before it counts [count].
_N_WARM = 64


def files(directory: str, plan: FramePlan, n_frames: int, group: int) -> Values:
    """Accept, claim, read, check and release with the code of the daemon; files are written over as there."""
    layout = SpoolLayout(directory)
    layout.make()
    writer = SpoolWriter(layout, "disk", time.time_ns)
    claims = Claims(layout, "uploader-0")
    measured = _Measured()
    for frames in _groups(plan, n_frames, group):
        with measured.of(len(frames)):
            for frame in frames:
                writer.write(writer.add(frame))
            names = [str(entry.name) for entry in writer.commit()]
            writer.look_for_spares()
        with measured.of(0):
            for name in names:
                claim = claims.take(name)
                if claim is None or not claim.intact(claim.read()):
                    raise IngestdError(f"{name} is not what was accepted")
                claim.release(retain=False, spare=True)
    return measured.values()


def segment(directory: str, plan: FramePlan, n_frames: int, group: int) -> Values:
    """Write, sync, read and check in one file of which every block is there already."""
    path = os.path.join(directory, "segment")
    stride = -(-(plan.n_samples * 8 + 2 * _BLOCK_BYTES) // _BLOCK_BYTES) * _BLOCK_BYTES
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        for _ in range(_N_WARM):
            os.write(fd, bytes(stride))
        os.fsync(fd)
        measured = _Measured()
        position = 0
        for frames in _groups(plan, n_frames, group):
            with measured.of(len(frames)):
                written = []
                for frame in frames:
                    head = b"%010d %08x " % (len(frame), crc32c(frame))
                    offset = position % _N_WARM * stride
                    os.pwritev(fd, (head, frame), offset)
                    written.append(offset)
                    position += 1
                os.fdatasync(fd)
            with measured.of(0):
                for offset in written:
                    _check(fd, offset)
                    os.pwrite(fd, b"released", offset)
        return measured.values()
    finally:
        os.close(fd)


def _check(fd: int, offset: int) -> None:
    """Read an entry back as an uploader would."""
    length, crc = os.pread(fd, 20, offset).split()
    frame = os.pread(fd, int(length), offset + 20)
    if crc32c(frame) != int(crc, 16):
        raise IngestdError(f"the entry at {offset} is not what was written")


def _groups(plan: FramePlan, n_frames: int, group: int) -> Iterator[list[memoryview]]:
    """Frames in groups of at most one from each node, the first ones to warm up; made before they are measured."""
    maker = FrameMaker(plan, epoch=1)
    buffers = [maker.buffer(node) for node in range(plan.nodes)]
    for first in range(0, _N_WARM + n_frames, group):
        numbers = range(first, first + group)
        for number in numbers:
            maker.patch(buffers[number % plan.nodes], number)
        yield [memoryview(buffers[number % plan.nodes]) for number in numbers]


class _Measured:
    """CPU and time of the parts that count, from the end of the warm-up on."""

    def __init__(self) -> None:
        self._n_seen = self._n_counted = 0
        self._cpu_s = self._elapsed_s = 0.0

    @contextmanager
    def of(self, n_frames: int) -> Iterator[None]:
        """Measure the block, which accepts so many frames."""
        before, began_s = _cpu_s(), time.monotonic()
        yield
        if self._n_seen >= _N_WARM:
            self._cpu_s += _cpu_s() - before
            self._elapsed_s += time.monotonic() - began_s
            self._n_counted += n_frames
        self._n_seen += n_frames

    def values(self) -> Values:
        """For one frame."""
        return {
            "cpu_ms": self._cpu_s / self._n_counted * 1e3,
            "elapsed_ms": self._elapsed_s / self._n_counted * 1e3,
        }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
