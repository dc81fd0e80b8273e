"""Ask a running daemon: the REP socket from Python.

>>> with Client("tcp://127.0.0.1:5556") as client:          # doctest: +SKIP
...     client.health()["status"]
'healthy'
"""

from __future__ import annotations

import json
import time
from typing import Any, Self

import zmq

from ingestd.curve import ClientKeys
from ingestd.errors import NotFound, QueryError, Unavailable, UsageError, bounded

__all__ = ["DEFAULT_ENDPOINT", "Client"]

#: Where the daemon answers unless it is told otherwise.
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5556"

#: Pause before another try [s].
_RETRY_PAUSE_S = 0.1


class Client:
    """Client of one daemon, as a `with` block. Not thread-safe: one for each thread.

    A request that is not answered in time is sent again on a new socket (a REQ socket that waits for a lost reply
    could never be used again); every command is safe to repeat.

    Parameters
    ----------
    endpoint
        `query.endpoint` of the daemon.
    timeout_s
        How long each try waits [s].
    retries
        How many more tries there are after the first.
    secret_key_file, server_key_file
        Own secret key and the daemon's public key, where it has CURVE on; both or none.

    Raises
    ------
    ConfigError, UsageError
        In construction: a key file cannot be used.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = 5.0,
        retries: int = 2,
        secret_key_file: str | None = None,
        server_key_file: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._keys = ClientKeys.read(secret_key_file, server_key_file)
        self._timeout_s = timeout_s
        self._retries = retries
        self._number = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._hang_up()
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    def query(self, cmd: str, **args: Any) -> dict[str, Any]:
        """Send one command and return its `data`.

        Parameters
        ----------
        cmd
            Of the query protocol.
        args
            Its arguments; None is left out.

        Raises
        ------
        Unavailable
            No answer, at any try.
        NotFound
            What was asked for is not there.
        QueryError
            The daemon refused, or answered with something else than the protocol.
        UsageError
            The endpoint cannot be used.
        """
        given = {name: value for name, value in args.items() if value is not None}
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(_RETRY_PAUSE_S)
            self._number += 1
            reply = self._ask({"v": 1, "id": self._number, "cmd": cmd, "args": given})
            if reply is not None:
                return _data(reply, self._number)
        tries = "" if not self._retries else f" ({self._retries + 1} tries)"
        raise Unavailable(f"no answer from {self.endpoint} in {self._timeout_s:g} s{tries}")

    def _ask(self, request: dict[str, Any]) -> bytes | None:
        """One try; None where nobody answers."""
        socket = self._dial()
        try:
            socket.send(json.dumps(request).encode(), zmq.NOBLOCK)
            if socket.poll(int(self._timeout_s * 1000), zmq.POLLIN):
                return bytes(socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass
        except zmq.ZMQError as error:
            self._hang_up()
            raise Unavailable(f"{self.endpoint}: {error.strerror or error}") from error
        self._hang_up()
        return None

    def _dial(self) -> zmq.Socket[bytes]:
        if self._socket is not None:
            return self._socket
        if self._context is None:
            self._context = zmq.Context(io_threads=1)
        socket = self._context.socket(zmq.REQ)
        socket.set(zmq.LINGER, 0)
        # Connecting goes on in the background; the request waits in the socket for it.
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.set(zmq.RECONNECT_IVL_MAX, 500)
        for option, value in (self._keys.options() if self._keys else {}).items():
            socket.set(option, value)
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise UsageError(
                f"cannot use endpoint {bounded(self.endpoint)}: {error.strerror or error}"
            ) from error
        self._socket = socket
        return socket

    def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def ping(self) -> dict[str, Any]:
        """Whether anybody answers."""
        return self.query("ping")

    def health(self) -> dict[str, Any]:
        """Verdict and its reasons."""
        return self.query("health")

    def stats(self) -> dict[str, Any]:
        """Counters, rates, latencies."""
        return self.query("stats")

    def sessions(self, limit: int | None = None, cursor: str | None = None) -> dict[str, Any]:
        """Sessions, latest acceptance first."""
        return self.query("sessions", limit=limit, cursor=cursor)

    def session(self, task_id: str) -> dict[str, Any]:
        """Result document of one session."""
        return self.query("session", task_id=task_id)

    def measurements(self, **filters: Any) -> dict[str, Any]:
        """Measurements that pass the filters; `limit` and `cursor` page."""
        return self.query("measurements", **filters)

    def measurement(
        self, task_id: str, websdr_id: int, chunk: int | None = None, copy: str | None = None
    ) -> dict[str, Any]:
        """One measurement."""
        return self.query("measurement", task_id=task_id, websdr_id=websdr_id, chunk=chunk, copy=copy)

    def url(
        self,
        task_id: str,
        websdr_id: int,
        chunk: int | None = None,
        copy: str | None = None,
        *,
        what: str = "iq",
        expires_s: int = 3600,
    ) -> str:
        """URL under which an object can be read without storage credentials."""
        reply = self.query(
            "url",
            task_id=task_id,
            websdr_id=websdr_id,
            chunk=chunk,
            copy=copy,
            what=what,
            expires_s=expires_s,
        )
        return str(reply["url"])

    def confirm(self, node: str, epoch: int) -> dict[str, Any]:
        """What of a node's frames is accepted and stored."""
        return self.query("confirm", node=node, epoch=epoch)

    def nodes(self) -> dict[str, Any]:
        """Every registered or seen node."""
        return self.query("nodes")

    def failed(self, limit: int | None = None, cursor: str | None = None) -> dict[str, Any]:
        """Entries that could not be stored."""
        return self.query("failed", limit=limit, cursor=cursor)

    def rejected(self, limit: int | None = None, cursor: str | None = None) -> dict[str, Any]:
        """The last rejected frames."""
        return self.query("rejected", limit=limit, cursor=cursor)

    def config(self) -> dict[str, Any]:
        """Settings in force, secrets masked."""
        return self.query("config")

    def version(self) -> dict[str, Any]:
        """Versions of daemon and formats."""
        return self.query("version")

    def help(self) -> dict[str, Any]:
        """Every command with its arguments."""
        return self.query("help")


def _data(reply: bytes, number: int) -> dict[str, Any]:
    """The `data` of a reply, or its error raised."""
    try:
        decoded = json.loads(reply)
        if decoded["id"] != number:
            raise ValueError("another request's reply")  # noqa: TRY301 - one translator for all that is wrong
        if decoded["ok"]:
            return dict(decoded["data"].items())
        error = decoded["error"]
        code, message = str(error["code"]), str(error["message"])
        retryable, details = bool(error["retryable"]), dict(error.get("details") or {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise QueryError(
            "internal", f"the answer is not one of the query protocol: {bounded(reply[:60])}"
        ) from broken
    if code == "not_found":
        raise NotFound(message)
    raise QueryError(code, message, retryable=retryable, details=details)
