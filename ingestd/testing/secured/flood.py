"""The process that asks: several clients of the query socket, at a rate that is more than it answers.

An order comes as a JSON line on standard input, then `begin` and `end`; what was asked and answered goes out as a line.
`echo: true` makes it the other side instead: a server that sends every question back, the least that answering costs.
"""

from __future__ import annotations

import io
import json
import select
import sys
import time
from typing import Any

import zmq

__all__ = ["main"]

#: Clients [count], and questions that each has under way at most [count]: what the daemon takes from a peer.
_N_CLIENTS, _WINDOW = 4, 32

#: Between two looks at what is due [s].
_TICK_S = 0.001

_QUESTION = b'{"v":1,"id":1,"cmd":"ping","args":{}}'


#: Not buffered: what `select` does not see of it would be an order that is overheard.
_ORDERS = io.FileIO(0, closefd=False)


def _is_told() -> bool:
    """Whether there is a further order, or their end."""
    return bool(select.select([_ORDERS], [], [], 0)[0])


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _ask(sockets: list[zmq.Socket[bytes]], rate_per_s: float) -> dict[str, float]:
    asked = answered = busy = 0
    under_way = [0] * len(sockets)
    began_s = time.monotonic()
    while not _is_told():
        due = int((time.monotonic() - began_s) * rate_per_s)
        # What could not be asked in time is not made up for: the rate is a ceiling.
        for number in range(min(due - asked, _N_CLIENTS * _WINDOW)):
            at = (asked + number) % len(sockets)
            if under_way[at] < _WINDOW:
                sockets[at].send_multipart([b"", _QUESTION])
                under_way[at] += 1
        asked = max(asked, due)
        for at, socket in enumerate(sockets):
            while under_way[at] and socket.poll(0, zmq.POLLIN):
                reply = socket.recv_multipart()[-1]
                under_way[at] -= 1
                answered += 1
                busy += b'"busy"' in reply
        time.sleep(_TICK_S)
    elapsed_s = time.monotonic() - began_s
    return {"replies_per_s": answered / elapsed_s, "busy_per_s": busy / elapsed_s}


def _flood(order: dict[str, Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [context.socket(zmq.DEALER) for _ in range(_N_CLIENTS)]
    for socket in sockets:
        socket.set(zmq.LINGER, 0)
        socket.connect(order["endpoint"])
    _say("ready")
    # `begin` and `end` in turn.
    while _ORDERS.readline():
        _say(_ask(sockets, order["rate_per_s"]))
        _ORDERS.readline()
    context.destroy(linger=0)


def _echo(order: dict[str, Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(order["endpoint"])
    _say("ready")
    while True:
        socket.send_multipart(socket.recv_multipart())


def main() -> int:
    """Do what the first line orders until standard input ends, or the process is ended."""
    order = json.loads(_ORDERS.readline())
    (_echo if order.get("echo") else _flood)(order)
    return 0


if __name__ == "__main__":
    sys.exit(main())
