"""A bound ZeroMQ socket with everything that keeps strangers, dead peers and floods within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import zmq

from ingestd.errors import ConfigError
from ingestd.formats.peers import PeerReason
from ingestd.roles.keyring import Keyring
from ingestd.roles.zap import start_zap

__all__ = ["listen"]

#: A peer that has not finished its handshake by then is dropped [ms].
_HANDSHAKE_MS = 5000

#: Connections that wait to be accepted [count]: with libzmq's 100 a crowd of strangers costs an honest peer the second
#: after which TCP asks again.
_BACKLOG = 1024

#: TCP keepalive instead of ZMTP heartbeats, whose time-out kills large frames on slow links [s, s, count].
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 60, 15, 4


@contextlib.contextmanager
def listen(
    kind: int,
    endpoint: str,
    section: str,
    *,
    max_message_bytes: int,
    max_connections: int,
    marks: Mapping[int, int],
    max_per_address: int | None = None,
    keyring: Keyring | None = None,
    counter: Callable[[PeerReason], None] | None = None,
) -> Iterator[zmq.Socket[bytes]]:
    """Bind a socket for the length of a `with` block.

    Parameters
    ----------
    kind
        `zmq.PULL` or `zmq.ROUTER`.
    endpoint
        Where to.
    section
        Of the settings, e.g. "ingest": for the error, and the ZAP domain.
    max_message_bytes
        The connection of a peer that sends a longer message is closed.
    max_connections
        More peers are turned away.
    marks
        High-water marks [messages per peer].
    max_per_address
        More peers of one address are turned away; None = 16, and any number from this machine.
    keyring
        Whose keys come in, over CURVE; None = everybody, in clear.
    counter
        Is told why a connection gets no session; None = who counts in this process.

    Raises
    ------
    ConfigError
        The endpoint cannot be bound.
    """
    context = zmq.Context(io_threads=1)
    socket = context.socket(kind)
    options = {
        zmq.LINGER: 0,
        zmq.MAXMSGSIZE: max_message_bytes,
        zmq.BACKLOG: _BACKLOG,
        zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: _KEEPALIVE_IDLE_S,
        zmq.TCP_KEEPALIVE_INTVL: _KEEPALIVE_INTERVAL_S,
        zmq.TCP_KEEPALIVE_CNT: _KEEPALIVE_COUNT,
        **marks,
    }
    if keyring is not None:
        options |= {zmq.CURVE_SERVER: 1}
    try:
        with start_zap(
            context,
            max_connections=max_connections,
            max_per_address=max_per_address,
            keyring=keyring,
            counter=counter,
        ) as doorkeeper:
            for option, value in options.items():
                socket.set(option, value)
            if keyring is not None:
                socket.set(zmq.CURVE_SECRETKEY, keyring.secret_key.encode("ascii"))
            socket.set(zmq.ZAP_DOMAIN, section.encode())
            doorkeeper.watch(socket)
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                why = error.strerror or error
                raise ConfigError(f"{section}.endpoint: cannot bind {endpoint}: {why}") from error
            yield socket
            # Before the doorkeeper goes: nobody may come in without it.
            socket.close()
    finally:
        socket.close()
        context.destroy(linger=0)
