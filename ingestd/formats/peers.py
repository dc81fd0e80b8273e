"""Why a connection gets no session: a closed list of words for counters and labels. Pure."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["PeerReason"]


class PeerReason(StrEnum):
    """Each counts tries and not peers: a library tries again by itself, several times a second."""

    UNKNOWN_KEY = "unknown_key"
    """Its key is not on the list."""

    NO_KEY = "no_key"
    """It does not speak CURVE, and this socket does; one that notices first leaves: HANDSHAKE."""

    SERVER_KEY = "server_key"
    """What it sealed cannot be opened: it has another public key of the daemon."""

    TOO_MANY = "too_many"
    """There are as many connections as are allowed."""

    TOO_MANY_FROM_ADDRESS = "too_many_from_address"
    """Its address has as many as are allowed."""

    CROWD = "crowd"
    """Too many had not finished their handshake, and it was the oldest silent one."""

    TIMEOUT = "timeout"
    """It did not finish its handshake in time."""

    HANDSHAKE = "handshake"
    """It left in the middle of its handshake, or sent what is none."""

    PROTOCOL = "protocol"
    """It speaks ZMTP 1.0, something else than ZeroMQ, or is a socket of a kind that has no place here."""
