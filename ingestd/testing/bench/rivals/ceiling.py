"""The store's ceiling: prebuilt pairs of the same sizes, put by prebuilt requests, as many at once as it takes.

It takes the same frames from the same pusher and throws each away, but for the name, which says which pair to put next:
so it has the cores that we have, and no more. One process for each endpoint, some threads in each.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
from typing import Any

import zmq

from ingestd.testing.bench.frames import FrameMaker, FramePlan, npy_object
from ingestd.testing.bench.rivals.order import read_order, ready
from ingestd.testing.bench.rivals.raw_put import Connection, signed_head

__all__ = ["main"]

#: Of the metadata that goes with each pair [bytes]: what ours has.
_METADATA = b"{" + b" " * 1398 + b"}"


def _run(order: dict[str, Any], endpoint: str, bound: Any) -> None:
    plan = FramePlan(**order["plan"])
    npy = npy_object(plan.samples())
    heads = {}
    for k in range(order["count"]):
        first, second = plan.keys(k)
        heads[_name(plan, k)] = (signed_head(first, len(npy)), signed_head(second, len(_METADATA)))
    file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
    file.write(npy)
    file.flush()
    # Where the name stands in every frame: of fixed width, and behind the first key.
    head = bytes(FrameMaker(plan, 2**52 + 1).buffer(0)[:256])
    at = head.index(plan.task_id(0).encode())
    width = len(plan.task_id(0))
    socket = zmq.Context().socket(zmq.PULL)
    socket.set(zmq.RCVHWM, 4)
    socket.bind(endpoint)
    lock = threading.Lock()

    def work() -> None:
        connection = Connection()
        while True:
            with lock:
                frame = socket.recv(copy=False)
                task_id = bytes(frame.buffer[at : at + width])
                websdr = frame.buffer[at + width + len(b"\xa9websdr_id") :][:2]
            number = websdr[0] if websdr[0] < 0x80 else websdr[1]
            first, second = heads[task_id, number]
            del frame, websdr
            connection.put_file(first, file.fileno(), 0, len(npy))
            connection.put(second, _METADATA)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(order["threads"])]
    for thread in threads:
        thread.start()
    bound.put(True)
    for thread in threads:
        thread.join()
    os._exit(1)


def _name(plan: FramePlan, k: int) -> tuple[bytes, int]:
    return plan.task_id(k).encode(), k % plan.nodes + 1


def main() -> int:
    """Take frames until killed."""
    order = read_order()
    context = multiprocessing.get_context("spawn")
    bound = context.Queue()
    children = [
        context.Process(target=_run, args=(order, one, bound), daemon=True) for one in order["endpoints"]
    ]
    for child in children:
        child.start()
    for _ in children:
        bound.get(timeout=60)
    ready()
    for child in children:
        child.join()
    return 1


if __name__ == "__main__":
    sys.exit(main())
