"""The floor: one thread, plain sockets. Receive into a buffer, pwrite to a file made beforehand, put it from there.

Nothing is parsed but the name, nothing is checked, nothing is synced, nobody is told: what is left is the kernel's.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile

from ingestd.testing.bench.frames import FrameMaker, FramePlan, npy_object
from ingestd.testing.bench.rivals.order import read_order, ready
from ingestd.testing.bench.rivals.raw_put import Connection, signed_head

__all__ = ["main"]

_METADATA = b"{" + b" " * 1398 + b"}"


def _receive(connection: socket.socket, view: memoryview) -> None:
    got = 0
    while got < len(view):
        n = connection.recv_into(view[got:], 0, socket.MSG_WAITALL)
        if not n:
            raise EOFError
        got += n


def main() -> int:
    """Take frames until the pusher closes."""
    order = read_order()
    plan = FramePlan(**order["plan"])
    samples = plan.samples()
    header = npy_object(samples)[: -len(samples)]
    frame = FrameMaker(plan, 2**52 + 1).buffer(0)
    offset = len(frame) - len(samples)
    heads = [
        (signed_head(first, len(header) + len(samples)), signed_head(second, len(_METADATA)))
        for first, second in (plan.keys(k) for k in range(order["count"]))
    ]
    file = tempfile.TemporaryFile(dir=order["directory"])  # noqa: SIM115 - as long as the process
    os.posix_fallocate(file.fileno(), 0, len(frame))
    host, _, port = order["endpoint"].removeprefix("tcp://").rpartition(":")
    listener = socket.create_server((host, int(port)))
    store = Connection()
    ready()
    pusher, _ = listener.accept()
    # A view of one buffer for every frame: those of other nodes have heads of the same length.
    view = memoryview(frame)
    length = memoryview(bytearray(4))
    for first, second in heads:
        _receive(pusher, length)
        _receive(pusher, view[: int.from_bytes(length, "big")])
        os.pwrite(file.fileno(), view, 0)
        store.put_file(first, file.fileno(), offset, len(samples), header)
        store.put(second, _METADATA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
