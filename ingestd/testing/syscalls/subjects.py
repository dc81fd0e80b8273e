"""The code under test: the real receiver on a scripted inbox, and the real way of an uploader into a directory store.

Both run in a process of their own that may die or be lied to at any system call. What they have accepted (the receiver)
or released (the uploader) they tell over a socket, entry by entry, at the very place where the daemon tells its
catalog.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import zmq

from ingestd.catalog import create
from ingestd.config import load
from ingestd.errors import SpoolBroken, StoreError
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Measurement
from ingestd.roles.book import Book, catalog_path
from ingestd.roles.context import RoleContext
from ingestd.roles.inbox import Inbox, Received
from ingestd.roles.receiver import Receiver
from ingestd.roles.recorder import Recorder
from ingestd.roles.status import StatusBlock, StatusLayout
from ingestd.roles.storing import Storing
from ingestd.roles.surveyor import Surveyor
from ingestd.spool import Claims, SpoolLayout, SpoolWriter, StagedEntry
from ingestd.storage.directory import DirectoryStore
from ingestd.testing.frames import noise

__all__ = ["BUCKET", "EPOCH", "NODE", "SUBJECTS", "Stage", "frame", "measurement"]

#: Who the scripted frames come from.
NODE = "n"
EPOCH = 7

BUCKET = "heimdall-raw-iq"

#: An uploader tries an entry so often before it leaves it to the next start [count].
_TRIES_MAX_COUNT = 8

#: Its pause after an error [s]; the daemon waits longer, which would only cost time here.
_PAUSE_S = 0.005


def measurement(number: int) -> Measurement:
    """The measurement of the number-th frame; each has another length."""
    return noise(f"frame-{number}", n_samples=120 + number, seed=number, node=NODE, epoch=EPOCH, seq=number)


def frame(number: int) -> bytes:
    """The number-th frame as it comes over the wire."""
    return wire.encode(measurement(number))


class Stage:
    """What a subject is given.

    Parameters
    ----------
    state_directory
        Its own.
    groups
        Frames per group commit (receiver) or, in sum, entries to upload (uploader).
    told
        Where it tells; one message an entry.
    stop_fd
        An eventfd; readable when it must stop.
    gate
        Returns when the tracer is there: what comes before is not part of the test.
    """

    def __init__(
        self,
        state_directory: str,
        groups: Sequence[int],
        told: socket.socket,
        stop_fd: int,
        gate: Callable[[], None],
    ) -> None:
        self.state_directory = state_directory
        self.groups = tuple(groups)
        self.stop_fd = stop_fd
        self.gate = gate
        self._told = told
        self._left = sum(groups)

    @property
    def total(self) -> int:
        """Frames in all."""
        return sum(self.groups)

    def context(self, role: str, durability: Literal["disk", "process"] = "disk") -> RoleContext:
        """Context of a role with default settings; no room is kept free, so that a full machine is no fault here."""
        overrides: dict[str, Any] = {
            "state_directory": self.state_directory,
            "spool": {"min_free_bytes": 0, "durability": durability},
        }
        status = StatusBlock.create(StatusLayout(("receiver", "uploader-0")))
        return RoleContext(role, load(overrides=overrides, environ={}), status, self.stop_fd)

    def tell(self, name: str) -> None:
        """Tell of one entry; after the last one the subject is asked to stop."""
        self._told.send(name.encode())
        self._left -= 1
        if not self._left:
            os.eventfd_write(self.stop_fd, 1)

    def is_even(self) -> bool:
        """Whether an even number of entries was not told yet."""
        return self._left % 2 == 0

    def stopping(self, wait_s: float) -> bool:
        """Whether the subject must stop; waits at most `wait_s` for it."""
        return bool(select.select([self.stop_fd], [], [], wait_s)[0])


class _ReadySocket:
    """Stands where the PULL socket would: there is always something to read."""

    def __init__(self) -> None:
        self._fd = os.eventfd(1)

    def fileno(self) -> int:
        return self._fd

    # A poller of ZeroMQ answers with the number of a descriptor that is not one of its own sockets.
    def __eq__(self, other: object) -> bool:
        return other is self or other == self._fd

    def __hash__(self) -> int:
        return hash(self._fd)

    def poll(self, _timeout_ms: int, _flags: int) -> int:
        return 0


class _ScriptedInbox(Inbox):
    """Frames in groups: a pause after each makes the receiver commit what it has."""

    def __init__(self, groups: Sequence[int]) -> None:
        self._ready: Any = _ReadySocket()
        self._waiting: deque[Received | None] = deque()
        number = 0
        for size in groups:
            for _ in range(size):
                self._waiting.append(Received(memoryview(frame(number)), "script", 1))
                number += 1
            self._waiting.append(None)

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self._ready  # type: ignore[no-any-return]  # a double, of which only what the receiver uses is there

    def receive(self) -> Received | None:
        return self._waiting.popleft() if self._waiting else None

    def refuse_new_peers(self) -> None:
        pass


class _TellingBook(Book):
    """The real book, which tells of each acceptance before it takes note of it."""

    def __init__(self, context: RoleContext, tell: Callable[[str], None]) -> None:
        super().__init__(context)
        self._tell = tell

    def note_accepted(self, entry: StagedEntry, measurement: Measurement, now_ns: int) -> None:
        self._tell(str(entry.name))
        super().note_accepted(entry, measurement, now_ns)


def receive(
    stage: Stage, durability: Literal["disk", "process"] = "disk", *, with_spares: bool = False
) -> None:
    """Accept the scripted frames with the real receiver, catalog and survey included."""
    context = stage.context("receiver", durability)
    layout = SpoolLayout(stage.state_directory)
    layout.make()
    create(catalog_path(stage.state_directory))
    with _TellingBook(context, stage.tell) as book, Surveyor(context, layout) as surveyor:
        if with_spares:
            _leave_spares(layout, stage.total)
        receiver = Receiver(context, layout, book, surveyor, ())
        inbox = _ScriptedInbox(stage.groups)
        stage.gate()
        receiver.serve(inbox)


def _leave_spares(layout: SpoolLayout, total: int) -> None:
    """Released files of the lengths of the script, with other bytes: what is not written over whole is found out."""
    clock = iter(range(1_790_000_000 * 10**9, 2**63, 10**9))
    writer, claims = SpoolWriter(layout, "disk", lambda: next(clock)), Claims(layout, "uploader-0")
    for number in range(total):
        writer.add(memoryview(bytes(len(frame(number)))))
    for entry in writer.commit():
        claim = claims.take(str(entry.name))
        assert claim is not None
        claim.release(retain=False, spare=True)


def receive_over(stage: Stage) -> None:
    """The same, with files that may be written over once their old names are gone for good."""
    receive(stage, with_spares=True)


def upload(stage: Stage) -> None:
    """Store and release entries that were accepted before, as an uploader does with each of its claims."""
    context = stage.context("uploader-0")
    layout = SpoolLayout(stage.state_directory)
    layout.make()
    create(catalog_path(stage.state_directory))
    clock = iter(range(1_790_000_000 * 10**9, 2**63, 10**9))
    writer = SpoolWriter(layout, "disk", lambda: next(clock))
    for number in range(stage.total):
        writer.add(memoryview(frame(number)))
    writer.commit()
    store = DirectoryStore(os.path.join(stage.state_directory, "objects"), BUCKET)
    store.probe()
    storing = Storing(context, store, Recorder(context))
    claims = Claims(layout, context.name)
    stage.gate()
    for _ in range(_TRIES_MAX_COUNT):
        # As in the daemon: a spool that cannot be listed now is looked at again later.
        with contextlib.suppress(SpoolBroken):
            for name in claims.listing():
                _upload_one(stage, claims, storing, name)
        if stage.stopping(_PAUSE_S):
            return
        with contextlib.suppress(SpoolBroken):
            claims.return_abandoned(())


def _upload_one(stage: Stage, claims: Claims, storing: Storing, name: str) -> None:
    try:
        claim = claims.take(name)
        if claim is None:
            return
        with claim:
            storing.record([storing.store(claim)])
            # Every other one, so that both ways are enumerated.
            claim.release(retain=False, spare=stage.is_even())
    except (StoreError, SpoolBroken):
        # As in the daemon: the entry is where it was, or is returned by the next look at abandoned claims.
        return
    stage.tell(name)


def receive_unsynced(stage: Stage) -> None:
    """The control: a receiver that syncs nothing, which must be found out."""
    receive(stage, "process")


#: What can be enumerated, by name.
SUBJECTS: dict[str, Callable[[Stage], None]] = {
    "receiver": receive,
    "receiver-over": receive_over,
    "receiver-unsynced": receive_unsynced,
    "uploader": upload,
}
