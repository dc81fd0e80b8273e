"""The receiver: PULL socket, validation, group commit. Its death loses no accepted frame.

One thread does everything between the socket and the disk, in this order: take what is waiting (at most a group),
parse it, commit the group to the spool, ring the doorbells, tell catalog and confirmation. While one group is being
synced, ZeroMQ's own thread fills the next one: waiting longer for more frames would only add latency.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
import zmq

from ingestd import faults
from ingestd.errors import FrameError, SpoolBroken, SpoolFull
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Measurement
from ingestd.logs import RateLimit
from ingestd.roles.book import Book, Refused
from ingestd.roles.context import RoleContext
from ingestd.roles.inbox import Inbox, Received, open_inbox
from ingestd.roles.keyring import nodes_keyring
from ingestd.roles.memory import bound_address_space, keep_freed_memory, receiver_beyond_bytes
from ingestd.roles.status import Histogram, NodeSlot, Phase, Slot, Text
from ingestd.roles.surveyor import Surveyor
from ingestd.spool import RejectedSamples, SpoolLayout, SpoolWriter, StagedEntry, Step

__all__ = ["Receiver", "run"]

log = structlog.get_logger(__name__)

#: A group commit is at most this many frames ...
GROUP_MAX_COUNT = 16

#: ... and about this many bytes; more would not make the disk faster and makes everybody wait.
GROUP_MAX_BYTES = 16 * 2**20

#: Messages looked at before the disk has its turn [count]: a flood of rejected frames must not delay good ones.
_TAKE_MAX_COUNT = 256

#: Longest wait for a frame [ms]: rejections and refusals are written down at least this often.
_POLL_MS = 250

#: How long connected peers are still listened to after a stop was asked for [s], and how much silence ends it [ms].
_DRAIN_S = 1.0
_DRAIN_QUIET_MS = 100

#: Pause between tries while the spool refuses [s].
_REFUSED_PAUSE_S = 0.1

#: A stamp this far ahead of the wall clock is counted as implausible [ns]; it is still accepted.
_IMPLAUSIBLE_AHEAD_NS = 60 * 10**9

#: A commit that takes longer is named in health [ns].
_SLOW_COMMIT_NS = 10**9


@dataclass(slots=True)
class _Arrival:
    """A staged frame with what was read in it."""

    entry: StagedEntry
    measurement: Measurement


class Receiver:
    """Takes frames from an inbox into the spool.

    Parameters
    ----------
    context
        Of the role.
    layout
        Of the spool.
    book
        Catalog and confirmation.
    surveyor
        Knows what still fits.
    doorbells
        Sending ends, one per uploader.
    """

    def __init__(
        self,
        context: RoleContext,
        layout: SpoolLayout,
        book: Book,
        surveyor: Surveyor,
        doorbells: Sequence[socket.socket],
    ) -> None:
        self._context = context
        self._row = context.row
        self._status = context.status
        self._book = book
        self._surveyor = surveyor
        self._doorbells = doorbells
        self._next_bell = 0
        self._max_entry_bytes = context.settings.spool.max_bytes
        self._writer = SpoolWriter(layout, context.settings.spool.durability, time.time_ns, self._step)
        self._samples = RejectedSamples(layout, time.monotonic_ns)
        self._log_limit = RateLimit(per_s=1.0, burst=20, clock=time.monotonic)
        self._group: list[_Arrival] = []
        self._held: Received | None = None

    def serve(self, inbox: Inbox) -> None:
        """Receive until stopped; then drain what connected peers have sent and commit it."""
        poller = zmq.Poller()
        poller.register(inbox.socket, zmq.POLLIN)
        poller.register(self._context.stop_fd, zmq.POLLIN)
        self._accept_again()
        self._phase(Phase.IDLE)
        while not self._context.stopping():
            if self._held is not None or self._writer.staged:
                self._retry()
                continue
            wait_ms = int(min(_POLL_MS, self._book.due_in_s * 1000 + 1))
            if any(source is inbox.socket or source == inbox.socket for source, _ in poller.poll(wait_ms)):
                self._turn(inbox)
                with self._row.at_disk():
                    self._writer.look_for_spares()
            self._record()
            self._phase(Phase.IDLE)
        self._drain(inbox)

    def _turn(self, inbox: Inbox) -> None:
        """Take one group and commit it."""
        self._phase(Phase.RECEIVING)
        for _ in range(_TAKE_MAX_COUNT):
            if len(self._group) >= GROUP_MAX_COUNT or self._writer.staged_bytes >= GROUP_MAX_BYTES:
                break
            received = inbox.receive()
            if received is None or not self._take(received):
                break
        self._commit()

    def _take(self, received: Received) -> bool:
        """Parse and stage one message; False where it does not fit now (then it is held)."""
        size_bytes = len(received.frame)
        with self._row.at_disk():
            refusal = self._surveyor.refusal(self._writer.staged_bytes + size_bytes)
            if refusal and self._writer.drop_spares():
                refusal = self._surveyor.refusal(self._writer.staged_bytes + size_bytes)
        if refusal and not (self._max_entry_bytes and size_bytes > self._max_entry_bytes):
            self._held = received
            self._refuse(refusal)
            return False
        self._row.add(Slot.RECEIVED)
        self._row.add(Slot.RECEIVED_BYTES, size_bytes)
        self._row.set(Slot.LAST_FRAME_UTC_NS, time.time_ns())
        try:
            self._group.append(self._stage(received))
        except FrameError as error:
            self._reject(received, error)
        return True

    def _stage(self, received: Received) -> _Arrival:
        if received.n_parts > 1:
            raise FrameError("multipart", "", received.n_parts, "one ZeroMQ message part")
        size_bytes = len(received.frame)
        if self._max_entry_bytes and size_bytes > self._max_entry_bytes:
            raise FrameError(
                "size", "", size_bytes, f"at most spool.max_bytes = {self._max_entry_bytes} bytes"
            )
        measurement = wire.parse(received.frame)
        if not received.may_be_from(measurement.node):
            raise FrameError("identity", "node", measurement.node, _allowed_name(received))
        entry = self._writer.add(received.frame)
        self._writer.write(entry)
        return _Arrival(entry, measurement)

    def _commit(self) -> None:
        if not self._writer.staged:
            return
        began_ns = time.monotonic_ns()
        try:
            self._writer.commit()
        except SpoolFull as error:
            self._writer.drop_spares()
            self._refuse(f"spool_full: {error}")
            return
        except SpoolBroken as error:
            self._refuse(f"disk_error: {error}")
            return
        took_ns = time.monotonic_ns() - began_ns
        self._row.observe(Histogram.COMMIT_S, took_ns / 1e9)
        if took_ns > _SLOW_COMMIT_NS:
            self._row.add(Slot.FSYNC_SLOW)
            log.warning("commit_slow", took_s=took_ns / 1e9, entries=len(self._group))
        group, self._group = self._group, []
        self._accepted(group)

    def _accepted(self, group: Sequence[_Arrival]) -> None:
        """Everything that follows acceptance; none of it can undo it."""
        self._accept_again()
        now_ns = time.time_ns()
        total_bytes = sum(arrival.entry.size_bytes for arrival in group)
        self._row.add(Slot.ACCEPTED, len(group))
        self._row.add(Slot.ACCEPTED_BYTES, total_bytes)
        self._row.set(Slot.LAST_ACCEPTED_UTC_NS, now_ns)
        self._surveyor.note_accepted(len(group), total_bytes)
        faults.point("accept.named")
        for arrival in group:
            self._ring(str(arrival.entry.name))
        for arrival in group:
            self._count_node(arrival.measurement, now_ns)
            self._book.note_accepted(arrival.entry, arrival.measurement, now_ns)

    def _record(self) -> None:
        """Tell the catalog what was accepted, several groups at once; only then can a node have it confirmed."""
        self._phase(Phase.CATALOG)
        with self._row.at_disk():
            if self._book.flush_if_due():
                faults.point("accept.recorded")

    def _count_node(self, measurement: Measurement, now_ns: int) -> None:
        name = self._book.registered_name(measurement)
        self._status.add_node(name, NodeSlot.RECEIVED)
        self._status.add_node(name, NodeSlot.ACCEPTED)
        self._status.set_node(name, NodeSlot.LAST_FRAME_UTC_NS, now_ns)
        stamp_ns = measurement.timestamp_ns
        if stamp_ns is not None and stamp_ns > now_ns + _IMPLAUSIBLE_AHEAD_NS:
            self._row.add(Slot.TIMESTAMP_IMPLAUSIBLE)
            self._row.set(Slot.TIMESTAMP_IMPLAUSIBLE_UTC_NS, now_ns)

    def _reject(self, received: Received, error: FrameError) -> None:
        now_ns = time.time_ns()
        self._row.reject(error.reason)
        with self._row.at_disk():
            sample = self._samples.keep(received.frame, error.reason, now_ns)
        # Bytes that are no msgpack were damaged on their way: what they say of their sender is not held against it.
        # The node finds its frame missing and sends it again.
        damaged = received.n_parts > 1 or error.reason == "msgpack"
        origin = None if damaged else wire.origin(received.frame)
        if origin is not None and not received.may_be_from(origin.node):
            origin = None
        self._book.note_rejected(Refused(now_ns, received.peer, len(received.frame), error, origin, sample))
        allowed, suppressed = self._log_limit.admit()
        if allowed:
            log.warning(
                "frame_rejected",
                reason=error.reason, field=error.field, value=error.value, allowed=error.allowed,
                peer=received.peer, size_bytes=len(received.frame), sample=sample, suppressed=suppressed,
            )  # fmt: skip

    def _ring(self, name: str) -> None:
        """Tell one uploader; a full or dead doorbell is no loss, the directory is the truth."""
        if not self._doorbells:
            return
        bell = self._doorbells[self._next_bell]
        self._next_bell = (self._next_bell + 1) % len(self._doorbells)
        with contextlib.suppress(OSError):
            bell.send(name.encode(), socket.MSG_DONTWAIT)

    def _retry(self) -> None:
        """While the spool refuses: look again whether the held frame and the staged group fit."""
        self._context.stopping(_REFUSED_PAUSE_S)
        self._record()
        self._phase(Phase.FULL)
        with self._row.at_disk():
            self._writer.drop_spares()
        if self._writer.staged:
            self._commit()
            if self._writer.staged:
                return
        if self._held is not None and not self._surveyor.refusal(len(self._held.frame)):
            received, self._held = self._held, None
            self._take(received)
            self._commit()
            if not self._writer.staged:
                self._accept_again()

    def _refuse(self, why: str) -> None:
        if (
            self._row.get(Slot.ACCEPTING)
            or self._row.get_text(Text.REFUSING).partition(":")[0] != why.partition(":")[0]
        ):
            log.error("not_accepting", why=why)
        self._row.set_text(Text.REFUSING, why)
        if self._row.get(Slot.ACCEPTING) or not self._row.get(Slot.REFUSING_SINCE_UTC_NS):
            self._row.set(Slot.REFUSING_SINCE_UTC_NS, time.time_ns())
        self._row.set(Slot.ACCEPTING, 0)
        self._phase(Phase.FULL)

    def _accept_again(self) -> None:
        # A group that was committed while the next frame does not fit any more changes nothing.
        if self._held is not None or self._row.get(Slot.ACCEPTING):
            return
        if self._row.get(Slot.REFUSING_SINCE_UTC_NS):
            log.info(
                "accepting_again",
                refused_s=(time.time_ns() - self._row.get(Slot.REFUSING_SINCE_UTC_NS)) / 1e9,
            )
        self._row.set_text(Text.REFUSING, "")
        self._row.set(Slot.REFUSING_SINCE_UTC_NS, 0)
        self._row.set(Slot.ACCEPTING, 1)

    def _drain(self, inbox: Inbox) -> None:
        """Stop: no new peers, what connected ones have sent already is accepted, bounded in time."""
        self._phase(Phase.STOPPING)
        inbox.refuse_new_peers()
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s and self._held is None and not self._writer.staged:
            if not inbox.socket.poll(_DRAIN_QUIET_MS, zmq.POLLIN):
                break
            self._turn(inbox)
        self._commit()
        if self._writer.staged or self._held is not None:
            log.error("frames_not_accepted", count=len(self._writer.staged) + (self._held is not None))
            self._writer.abandon()
        self._book.flush()

    def _step(self, step: Step) -> None:
        self._phase(Phase.FSYNC if step == "fsync" else Phase.WRITING)

    def _phase(self, phase: Phase) -> None:
        self._row.phase(phase, time.monotonic_ns())


def _allowed_name(received: Received) -> str:
    return (
        f"{received.owner}, to which its key is bound" if received.owner else "a key of security.nodes_file"
    )


@contextlib.contextmanager
def _doorbells(fds: Sequence[int]) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket(fileno=os.dup(fd)) for fd in fds]
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def _discard_unfinished(layout: SpoolLayout) -> None:
    """Room that a killed predecessor took; on a disk that refuses, the next start of the daemon finds it."""
    try:
        discarded = layout.discard_unfinished()
    except SpoolBroken as error:
        log.error("spool_error", error=str(error))  # noqa: TRY400 - an expected error has no traceback
        return
    if discarded:
        log.info("unfinished_discarded", count=discarded)


def run(context: RoleContext) -> int:
    """Run the receiver until it is told to stop."""
    # libzmq takes and frees a block for each frame.
    keep_freed_memory()
    settings = context.settings
    bound_address_space(receiver_beyond_bytes(settings.ingest.max_frame_bytes))
    layout = SpoolLayout(settings.state_directory)
    _discard_unfinished(layout)
    with (
        Book(context) as book,
        Surveyor(context, layout) as surveyor,
        _doorbells(context.doorbell_fds) as bells,
        open_inbox(settings.ingest, nodes_keyring(settings, context.reload)) as inbox,
    ):
        Receiver(context, layout, book, surveyor, bells).serve(inbox)
    return 0
