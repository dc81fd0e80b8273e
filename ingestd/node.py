"""Send arrays to a daemon: what runs beside the receiver.

>>> with Node("tcp://gateway:5555", websdr_id=3, name="dl0abc",           # doctest: +SKIP
...           query_endpoint="tcp://gateway:5556") as node:
...     node.send(iq, task_id="dcf77", frequency_hz=77500.0, sample_rate_hz=12001.1321, timestamp_ns=stamp_ns)

With a `query_endpoint` every frame is numbered, kept until the daemon says that it is accepted, and sent again if it
is not; leaving the `with` block waits for that. Without one it is plain PUSH: fast, and what dies in socket buffers
is gone.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zmq
from zmq.utils.monitor import recv_monitor_message

from ingestd.client import Client
from ingestd.curve import ClientKeys
from ingestd.errors import FrameError, IngestdError, Unavailable, UsageError, bounded
from ingestd.formats import frame as wire
from ingestd.formats import timestamps
from ingestd.formats.measurement import Measurement
from ingestd.formats.resending import MAX_RESENDS, Unconfirmed, Verdict

__all__ = ["DEFAULT_ENDPOINT", "Node"]

#: Where the daemon listens unless it is told otherwise.
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"

#: Longest frame where the daemon cannot be asked [bytes]: its own default.
_MAX_FRAME_BYTES = 64 * 2**20

#: Frames that wait in the socket: few, so that little dies with it.
_SNDHWM = 4

#: Between two questions while anything is unconfirmed [s].
_CONFIRM_INTERVAL_S = 0.2

#: Patience for one answer [s].
_CONFIRM_TIMEOUT_S = 2.0

#: A resend that nobody takes is put off after this long [s].
_RESEND_TIMEOUT_S = 1.0

#: Longest that the confirming thread is busy after it was told to stop [s]: one answer, the right to send, one frame.
_CLOSE_TIMEOUT_S = _CONFIRM_TIMEOUT_S + 2 * _RESEND_TIMEOUT_S + 1.0

#: One look at the link while waiting for it [ms].
_LINK_POLL_MS = 50

#: Epochs are drawn below this (design 4: exact in every JSON reader).
_EPOCH_END = 2**53


class Node:
    """A sender, as a `with` block. `send` may be called from one thread at a time.

    Parameters
    ----------
    endpoint
        `ingest.endpoint` of the daemon.
    websdr_id
        Receiver id, for `send`.
    name
        Name of the node; needed for confirmation.
    query_endpoint
        `query.endpoint` of the daemon; None = not confirmed.
    timeout_s
        How long `send` waits for the daemon, and the end of the block for confirmation [s].
    max_unconfirmed_bytes
        Payload kept until it is confirmed; `send` waits while there is more.
    secret_key_file, server_key_file
        Own secret key and the daemon's public key, where it has CURVE on; both or none. `name` is then the name that
        the own key has in the daemon's `security.nodes_file`.

    Raises
    ------
    ConfigError, UsageError
        In construction: a key file cannot be used, or there is no name to confirm by.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        websdr_id: int,
        name: str | None = None,
        query_endpoint: str | None = None,
        timeout_s: float = 30.0,
        max_unconfirmed_bytes: int = 64 * 2**20,
        secret_key_file: str | None = None,
        server_key_file: str | None = None,
    ) -> None:
        if query_endpoint is not None and name is None:
            raise UsageError("a confirmed node needs a name (allowed: name=..., or no query_endpoint)")
        self.endpoint, self.name, self.websdr_id = endpoint, name, websdr_id
        self.query_endpoint = query_endpoint
        self.epoch = secrets.randbelow(_EPOCH_END)
        self.max_frame_bytes = _MAX_FRAME_BYTES
        #: Frames that were still missing after all resends.
        self.parked: list[Measurement] = []
        #: Frames that were sent again, each time counted.
        self.resent_count = 0
        self._timeout_s = timeout_s
        self._max_unconfirmed_bytes = max_unconfirmed_bytes
        self._next_seq = 0
        self._unconfirmed: Unconfirmed[Measurement] = Unconfirmed()
        self._troubles: list[IngestdError] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Whoever sends holds this one, first; it may be held for as long as the daemon takes nothing.
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._asked = False
        self._key_files = {"secret_key_file": secret_key_file, "server_key_file": server_key_file}
        self._link = _Link(endpoint, ClientKeys.read(secret_key_file, server_key_file))
        self._thread = threading.Thread(target=self._watch, name="confirm", daemon=True)

    def __enter__(self) -> Self:
        self._link.open()
        if self.query_endpoint is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.query_endpoint is not None:
                self.wait(self._timeout_s)
        finally:
            # On the way out of an error, that error is what the caller must see. What a confirmed node has in its
            # socket now is settled, or reported as unconfirmed already.
            patient = kind is None and self.query_endpoint is None
            self._close(self._timeout_s if patient else 1.0, demand=kind is None)

    @property
    def unconfirmed_count(self) -> int:
        """Frames that are sent and not confirmed yet; 0 for a node without confirmation."""
        with self._lock:
            return len(self._unconfirmed)

    def send(
        self,
        iq_data: npt.NDArray[Any] | bytes | memoryview,
        *,
        task_id: str,
        frequency_hz: float | None = None,
        frequency_mhz: float | None = None,
        sample_rate_hz: float | None = None,
        sample_rate_khz: float | None = None,
        timestamp_ns: int | None = None,
        timestamp_utc: str | None = None,
        datatype: str = "cf32_le",
        metrics: Mapping[str, Any] | None = None,
        extras: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> int | None:
        """Send one buffer.

        Parameters
        ----------
        iq_data
            Complex samples of shape `(n_samples,)` (sent as complex64), or raw bytes of `datatype`.
        task_id
            Session.
        frequency_hz, frequency_mhz
            Centre frequency; one of them.
        sample_rate_hz, sample_rate_khz
            Sample rate, never rounded; one of them.
        timestamp_ns, timestamp_utc
            When sample 0 passed the ADC: [ns since 1970], or ISO 8601 with up to 9 digits; one of them.
        datatype
            Of raw bytes: `cf32_le`, `ci16_le`, `ci8`, `cu8`.
        metrics, extras
            What the node measured, and anything else that is to be in the metadata.
        fields
            Any other field of the frame: `chunk`, `sample_index`, `expected`, `gain_db`, ...

        Returns
        -------
        int or None
            Number of the frame; None for a node without confirmation.

        Raises
        ------
        FrameError
            The daemon would refuse the frame, or did refuse an earlier one.
        Unavailable
            Nobody took it in time.
        """
        frequency = _both(frequency_hz, frequency_mhz, 1e6, "frequency")
        rate = _both(sample_rate_hz, sample_rate_khz, 1e3, "sample_rate")
        if (timestamp_ns is None) == (timestamp_utc is None):
            raise UsageError("one of timestamp_ns and timestamp_utc is needed: when sample 0 passed the ADC")
        if timestamp_utc is not None:
            timestamp_ns, _ = timestamps.parse_utc(timestamp_utc)
        return self.send_measurement(
            Measurement(
                task_id=task_id,
                websdr_id=self.websdr_id,
                samples=_samples(iq_data, datatype),
                datatype=datatype,
                timestamp_ns=timestamp_ns,
                frequency_hz=frequency[0],
                frequency_mhz=frequency[1],
                sample_rate_hz=rate[0],
                sample_rate_khz=rate[1],
                metrics=dict(metrics or {}),
                extras=None if extras is None else dict(extras),
                **fields,
            )
        )

    def send_measurement(self, measurement: Measurement) -> int | None:
        """Send one measurement as it is, under this node's name and next number; see `send`."""
        self._raise_trouble()
        if self.query_endpoint is None:
            named = measurement if self.name is None else replace(measurement, node=self.name)
            self._link.send(self._encoded(named), self._timeout_s)
            return None
        self._await_room(len(measurement.samples))
        with self._sending:
            with self._lock:
                seq = self._next_seq
                numbered = replace(measurement, node=self.name, epoch=self.epoch, seq=seq)
            frame = self._encoded(numbered)
            # Not sent, so not owed, and its number not used: an error here leaves everything as it was.
            self._link.send(frame, self._timeout_s)
            with self._lock:
                self._next_seq = seq + 1
                self._unconfirmed.add(seq, numbered, len(measurement.samples), time.monotonic())
        return seq

    def wait(self, timeout_s: float) -> None:
        """Wait until everything that was sent is accepted.

        Raises
        ------
        FrameError
            A frame was rejected.
        Unavailable
            Not everything is confirmed in time, or a frame is parked.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while len(self._unconfirmed) and not self._troubles:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise Unavailable(
                        f"{len(self._unconfirmed)} frames are not confirmed after {timeout_s:g} s by {self.query_endpoint}"
                        + ("" if self._asked else " (no answer from it)")
                    )
                self._changed.wait(min(left_s, _CONFIRM_INTERVAL_S))
        self._raise_trouble()

    def close(self, linger_s: float = 1.0) -> None:
        """Close the sockets; what waits in them has `linger_s` to leave.

        Raises
        ------
        Unavailable
            Frames of a node without confirmation were left in the socket.
        """
        self._close(linger_s, demand=True)

    def _close(self, linger_s: float, *, demand: bool) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._link.close(linger_s, demand=demand and self.query_endpoint is None)

    def _encoded(self, measurement: Measurement) -> bytes:
        frame = wire.encode(measurement)
        if len(frame) > self.max_frame_bytes:
            raise FrameError(
                "size",
                "iq_data",
                f"{len(frame)} bytes",
                f"a frame of at most {self.max_frame_bytes} bytes (ingest.max_frame_bytes); "
                "send a longer capture as consecutive frames with `chunk` 0, 1, 2, ...",
            )
        return frame

    def _await_room(self, size_bytes: int) -> None:
        deadline_s = time.monotonic() + self._timeout_s
        with self._changed:
            while (
                len(self._unconfirmed)
                and not self._troubles
                and self._unconfirmed.size_bytes + size_bytes > self._max_unconfirmed_bytes
            ):
                if time.monotonic() > deadline_s:
                    raise Unavailable(
                        f"{len(self._unconfirmed)} frames wait for confirmation by {self.query_endpoint}, "
                        f"and max_unconfirmed_bytes is {self._max_unconfirmed_bytes}"
                    )
                self._changed.wait(_CONFIRM_INTERVAL_S)
        self._raise_trouble()

    def _raise_trouble(self) -> None:
        with self._lock:
            if self._troubles:
                raise self._troubles.pop(0)

    def _watch(self) -> None:
        """Ask for confirmation while anything is owed."""
        assert self.query_endpoint is not None
        with Client(
            self.query_endpoint, timeout_s=_CONFIRM_TIMEOUT_S, retries=0, **self._key_files
        ) as client:
            while not self._stop.wait(_CONFIRM_INTERVAL_S):
                if self._asked and not self.unconfirmed_count:
                    continue
                with contextlib.suppress(Unavailable):
                    self._confirm(client)

    def _confirm(self, client: Client) -> None:
        assert self.name is not None
        try:
            verdict = self._settle(client.confirm(self.name, self.epoch))
        except IngestdError as error:
            if isinstance(error, Unavailable) or getattr(error, "retryable", False):
                return
            with self._changed:
                # It comes again with every question; the caller needs to hear it once.
                if str(error) not in map(str, self._troubles):
                    self._troubles.append(error)
                self._changed.notify_all()
            return
        if verdict.new_epoch or verdict.resend:
            self._send_again(verdict)

    def _settle(self, reply: dict[str, Any]) -> Verdict:
        """Take an answer to `confirm`: what it settles, what is to be told to the caller."""
        with self._changed:
            verdict = self._unconfirmed.settle(reply, time.monotonic())
            self._asked = True
            limit = reply.get("max_frame_bytes")
            if isinstance(limit, int):
                self.max_frame_bytes = limit
            for seq, reason in verdict.rejected:
                self._troubles.append(
                    FrameError(
                        reason, "seq", seq, "see `ingestctl rejected` on the daemon for field and value"
                    )
                )
            for seq in verdict.parked:
                self.parked.append(self._unconfirmed.frame(seq))
                self._unconfirmed.drop(seq)
                self._troubles.append(
                    Unavailable(
                        f"frame {seq} of {self.name} is still missing after {MAX_RESENDS} resends; see Node.parked"
                    )
                )
            self._changed.notify_all()
        return verdict

    def _send_again(self, verdict: Verdict) -> None:
        """Send what is missing; what cannot go out now is found missing again by the next answer."""
        if not self._sending.acquire(timeout=_RESEND_TIMEOUT_S):
            return
        try:
            with self._lock:
                if verdict.new_epoch:
                    self._begin_epoch()
                    verdict.resend[:] = self._unconfirmed.numbers()
                frames = [
                    (seq, self._unconfirmed.frame(seq)) for seq in verdict.resend if seq in self._unconfirmed
                ]
            for seq, measurement in frames:
                if self._stop.is_set():
                    return
                self._link.send(wire.encode(measurement), _RESEND_TIMEOUT_S)
                with self._lock:
                    self._unconfirmed.resent(seq, time.monotonic())
                    self.resent_count += 1
        finally:
            self._sending.release()

    def _begin_epoch(self) -> None:
        """Number everything that is owed anew: the old epoch was used before, and its confirmations mean nothing."""
        owed = [self._unconfirmed.frame(seq) for seq in self._unconfirmed.numbers()]
        self.epoch = secrets.randbelow(_EPOCH_END)
        self._unconfirmed = Unconfirmed()
        for seq, measurement in enumerate(owed):
            numbered = replace(measurement, epoch=self.epoch, seq=seq)
            self._unconfirmed.add(seq, numbered, len(numbered.samples), time.monotonic())
        self._next_seq = len(owed)


class _Link:
    """The PUSH socket, and whether anybody is at the other end."""

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._reached = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._connected = False

    def open(self) -> None:
        """Begin to connect."""
        self._context = zmq.Context(io_threads=1)
        socket = self._context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, _SNDHWM)
        socket.set(zmq.RECONNECT_IVL, 100)
        socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.TCP_KEEPALIVE_IDLE, 60)
        self._socket = socket
        for option, value in (self._keys.options() if self._keys else {}).items():
            socket.set(option, value)
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            self.close(0.0, demand=False)
            raise UsageError(
                f"cannot use endpoint {bounded(self._endpoint)}: {error.strerror or error}"
            ) from error

    def send(self, frame: bytes, timeout_s: float) -> None:
        """Give a frame to the socket; waits for the peer where there is none, or where it is slow."""
        assert self._socket is not None, "a Node is used in a with block"
        deadline_s = time.monotonic() + timeout_s
        while not self._look():
            if time.monotonic() > deadline_s:
                raise Unavailable(f"no answer from {self._endpoint}: {self._why()}")
        left_ms = max(0, int((deadline_s - time.monotonic()) * 1000))
        if not self._socket.poll(left_ms, zmq.POLLOUT):
            raise Unavailable(
                f"{self._endpoint} took nothing for {timeout_s:g} s (its spool may be full: `ingestctl health`)"
            )
        # Nobody else sends on this socket, so what poll() saw still holds.
        self._socket.send(frame, zmq.NOBLOCK)

    def _look(self) -> bool:
        """Take the news of the connection; whether it stands. Waits a moment where it does not."""
        assert self._monitor is not None
        while self._monitor.poll(0 if self._connected else _LINK_POLL_MS):
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._reached = self._reached or event == zmq.EVENT_CONNECTED
        return self._connected

    def _why(self) -> str:
        """Why there is no session, as far as this side can know."""
        if not self._reached:
            return "nobody listens there (is ingestd running?)"
        if self._keys is None:
            return "it does not let us in (it may want a key: secret_key_file, server_key_file; or be full)"
        return (
            "it does not let us in (is our key in its security.nodes_file, and server_key_file the daemon's?)"
        )

    def close(self, linger_s: float, *, demand: bool) -> None:
        """Close; with `demand` an error says that frames may be left behind."""
        socket, context, monitor = self._socket, self._context, self._monitor
        if context is None or monitor is None:
            return
        connected = socket is not None and self._look()
        self._socket = self._context = self._monitor = None
        if socket is not None:
            socket.disable_monitor()
            socket.close(linger=int(linger_s * 1000))
        # term() waits for every socket of the context, this one too.
        monitor.close(linger=0)
        context.term()
        if demand and not connected:
            raise Unavailable(f"{self._endpoint} is not connected: the last frames may not have arrived")


def _both(hz: float | None, scaled: float | None, factor: float, what: str) -> tuple[float, float]:
    """Both spellings of a rate; the given one is kept to the bit."""
    unit = "mhz" if factor == 1e6 else "khz"
    if hz is not None:
        return float(hz), float(hz) / factor if scaled is None else float(scaled)
    if scaled is not None:
        return float(scaled) * factor, float(scaled)
    raise UsageError(f"one of {what}_hz and {what}_{unit} is needed")


def _samples(iq_data: npt.NDArray[Any] | bytes | memoryview, datatype: str) -> bytes | memoryview:
    """Payload of a frame."""
    if not isinstance(iq_data, np.ndarray):
        return iq_data
    if iq_data.ndim != 1 or iq_data.dtype.kind != "c" or datatype != "cf32_le":
        raise UsageError(
            f"iq_data is an array of shape {iq_data.shape}, dtype {iq_data.dtype}, datatype {bounded(datatype)} "
            "(allowed: complex samples of shape (n_samples,), or raw bytes of `datatype`)"
        )
    # A view of no samples cannot be cast; the frame's own check names what is wrong with it.
    return np.ascontiguousarray(iq_data, dtype="<c8").data.cast("B") if iq_data.size else b""
