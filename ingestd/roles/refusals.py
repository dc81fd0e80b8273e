"""From the monitor of a ZeroMQ socket to why a connection got no session."""

from __future__ import annotations

from collections.abc import Callable

from ingestd.formats.peers import PeerReason

__all__ = ["Refusals", "count_refusals", "refusal_counter"]

#: Where libzmq drops a peer that does not finish its handshake (`listening`: 5 s), with room for a late timer [s].
_TIMED_OUT_S = 4.5

#: Codes of `EVENT_HANDSHAKE_FAILED_PROTOCOL` that say more than that (zmq.h).
_MECHANISM_MISMATCH, _CRYPTOGRAPHIC = 0x11000002, 0x11000001

_counter: Callable[[PeerReason], None] = lambda _reason: None  # noqa: E731 - the type is the point


def count_refusals(counter: Callable[[PeerReason], None]) -> None:
    """Say who counts in this process; a role has one listening socket, and opens it without knowing of this."""
    global _counter  # noqa: PLW0603 - set once, before the role runs
    _counter = counter


def refusal_counter() -> Callable[[PeerReason], None]:
    """Who counts in this process; nobody where nothing was said."""
    return _counter


class Refusals:
    """Tells from the events of a monitor which connections ended without a session, and why.

    libzmq tells of a failed handshake before the end of its connection, without saying whose it was. Of ZMTP 1.0, of what
    is not ZeroMQ and of sockets of the wrong kind it tells nothing but the end. So each failure is counted once, but
    where several fail at the same moment, one may be counted under another's reason.

    Parameters
    ----------
    counter
        Is told each reason.
    with_keys
        Whether the socket speaks CURVE.
    """

    def __init__(self, counter: Callable[[PeerReason], None], *, with_keys: bool) -> None:
        self._counter = counter
        self._with_keys = with_keys
        # An untold failure is that of the next connection to end; told ones are only to be taken off.
        self._untold = False
        self._n_told = 0

    def told(self, reason: PeerReason) -> None:
        """Count one whose reason we know without the monitor."""
        self._counter(reason)

    def failed_untold(self) -> None:
        """A handshake failed, and the monitor does not say why: its time was over, or the peer left."""
        self._untold = True

    def failed_by_zap(self) -> None:
        """A handshake failed because the doorkeeper said so, who counted it."""
        self._n_told += 1

    def failed_by_protocol(self, code: int) -> None:
        """A handshake failed for what the peer sent; the code is one of zmq.h."""
        self._n_told += 1
        self._counter(self._reason_of(code))

    def _reason_of(self, code: int) -> PeerReason:
        if code == _CRYPTOGRAPHIC:
            return PeerReason.SERVER_KEY
        if code == _MECHANISM_MISMATCH and self._with_keys:
            return PeerReason.NO_KEY
        return PeerReason.HANDSHAKE

    def ended(self, age_s: float | None, *, was_shed: bool = False) -> None:
        """A connection ended.

        Parameters
        ----------
        age_s
            Of one whose handshake was not over [s]; None = it was.
        was_shed
            Whether it was shut down here, and counted then.
        """
        untold, self._untold = self._untold, False
        if was_shed:
            return
        if age_s is not None and self._n_told:
            # Counted already; a peer that was turned away may wait until its time is over.
            self._n_told -= 1
        elif untold:
            timed_out = age_s is not None and age_s >= _TIMED_OUT_S
            self._counter(PeerReason.TIMEOUT if timed_out else PeerReason.HANDSHAKE)
            # One that was taken for done: another one, which is, stands among the unfinished in its place.
            self._n_told += age_s is None
        elif age_s is not None:
            self._counter(PeerReason.PROTOCOL)

    def nobody_is_left(self) -> None:
        """No handshake is under way: what was told of belongs to nobody who is still to end."""
        self._n_told = 0
