"""The status block: counters, phases and last progress of every role in one shared-memory page.

The supervisor makes it (a memfd that every child inherits), each row has one writing process, and anyone may read
it at any time: while a role is being restarted, while the disk hangs in an fsync, while the store is down. Counters
outlive the role that wrote them, because its successor continues the same row.

Slots are aligned 64-bit words: CPython stores one with a single 8-byte copy, which no reader can see half of on
x86-64 and AArch64. Threads of one process serialise on the row's lock. Texts carry a version word that is odd while
they are being written; a reader tries again, then takes the text as it is.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, auto

from ingestd.formats.frame import REASONS
from ingestd.formats.peers import PeerReason

__all__ = [
    "HISTOGRAM_BOUNDS_S",
    "Histogram",
    "NodeSlot",
    "Phase",
    "Row",
    "Slot",
    "StatusBlock",
    "StatusLayout",
    "Text",
]


class Phase(IntEnum):
    """What a role is doing right now."""

    STARTING = 0
    IDLE = auto()
    RECEIVING = auto()
    WRITING = auto()
    FSYNC = auto()
    CATALOG = auto()
    ENCODING = auto()
    UPLOADING = auto()
    FULL = auto()
    STOPPING = auto()


class Slot(IntEnum):
    """One 64-bit word of a row. `*_NS` are CLOCK_MONOTONIC unless they end in `_UTC_NS`; 0 = never."""

    # every role
    PID = 0
    STARTED_NS = auto()
    PHASE = auto()
    PHASE_SINCE_NS = auto()
    PROGRESS_NS = auto()
    LOG_SUPPRESSED = auto()
    #: Since when the main loop has been waiting for the disk outside of the phases that say so; 0 = it does not.
    DISK_SINCE_NS = auto()
    # written by the supervisor into the watch row of each role
    WATCH_PID = auto()
    WATCH_STATE = auto()
    WATCH_RESTARTS = auto()
    WATCH_SINCE_NS = auto()
    # receiver
    RECEIVED = auto()
    RECEIVED_BYTES = auto()
    ACCEPTED = auto()
    ACCEPTED_BYTES = auto()
    REJECTED = auto()
    LAST_FRAME_UTC_NS = auto()
    LAST_ACCEPTED_UTC_NS = auto()
    SEQ_GAPS = auto()
    SEQ_REUSED = auto()
    TIMESTAMP_IMPLAUSIBLE = auto()
    TIMESTAMP_IMPLAUSIBLE_UTC_NS = auto()
    ACCEPTING = auto()
    REFUSING_SINCE_UTC_NS = auto()
    SPOOL_ENTRIES = auto()
    SPOOL_BYTES = auto()
    SPOOL_FAILED = auto()
    SPOOL_FOREIGN = auto()
    SPOOL_OLDEST_UTC_NS = auto()
    SPOOL_FREE_BYTES = auto()
    SPOOL_CREDIT_BYTES = auto()
    FSYNC_SLOW = auto()
    CATALOG_SKIPPED = auto()
    # uploaders
    STORED = auto()
    STORED_BYTES = auto()
    DUPLICATES = auto()
    CONFLICTS = auto()
    FAILED = auto()
    UPLOAD_ERRORS = auto()
    BUSY_THREADS = auto()
    STORE_OK = auto()
    STORE_FAILING_SINCE_UTC_NS = auto()
    STORE_FAILURES = auto()
    STORE_NEXT_RETRY_UTC_NS = auto()
    STORE_TROUBLE = auto()
    STORE_REFUSED = auto()
    STORE_REFUSED_UTC_NS = auto()
    # responder
    QUERIES = auto()
    QUERY_ERRORS = auto()
    # rejections by reason start here, in the order of REASONS
    REJECTED_FIRST = auto()


class Text(IntEnum):
    """One text of a row, at most `TEXT_BYTES - 16` bytes of UTF-8."""

    LAST_ERROR = 0
    PROFILE = 1
    REFUSING = 2
    #: Entry that the auditor is reading.
    ENTRY = 3


class NodeSlot(IntEnum):
    """One 64-bit word of a registered node's row; written by the receiver alone."""

    RECEIVED = 0
    ACCEPTED = auto()
    REJECTED = auto()
    GAPS = auto()
    SAMPLES_LOST = auto()
    LAST_FRAME_UTC_NS = auto()


class Histogram(IntEnum):
    """Latency histograms of a row."""

    UPLOAD_S = 0
    ACCEPTED_TO_STORED_S = 1
    COMMIT_S = 2


#: Upper bounds of the histogram buckets [s]: half octaves from 1 ms to 12 min; the last bucket is open.
HISTOGRAM_BOUNDS_S: tuple[float, ...] = tuple(0.001 * 2 ** (i / 2) for i in range(40))

#: Connections without a session follow the rejections, in the order of PeerReason.
_PEERS_FIRST = int(Slot.REJECTED_FIRST) + len(REASONS)
_PEER_REASONS = tuple(PeerReason)
_N_SLOTS = _PEERS_FIRST + len(_PEER_REASONS)
_N_BUCKETS = len(HISTOGRAM_BOUNDS_S) + 1
#: Words of one histogram: the buckets, then the sum in microseconds.
_HISTOGRAM_WORDS = _N_BUCKETS + 1
TEXT_BYTES = 512
_WORD = 8
_TEXT_AT = (_N_SLOTS + len(Histogram) * _HISTOGRAM_WORDS) * _WORD
_ROW_BYTES = _TEXT_AT + len(Text) * TEXT_BYTES
_NODE_BYTES = len(NodeSlot) * _WORD


@dataclass(frozen=True, slots=True)
class StatusLayout:
    """Names of the rows, in order; every process must be given the same.

    Parameters
    ----------
    roles
        Role names, e.g. ("receiver", "uploader-0", "uploader-1", "responder").
    nodes
        Names of the registered nodes; a last row "other" is added for everyone else.
    """

    roles: tuple[str, ...]
    nodes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of the whole block [bytes]: a role row and a watch row for each role, then the node rows."""
        return 2 * len(self.roles) * _ROW_BYTES + (len(self.nodes) + 1) * _NODE_BYTES


class Row:
    """One row of the block. Only its owner may call the writing methods."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:_TEXT_AT].cast("q")
        self._texts = memory[_TEXT_AT:]
        self._lock = threading.Lock()

    def get(self, slot: int) -> int:
        """Read one word."""
        return int(self._words[slot])

    def set(self, slot: int, value: int) -> None:
        """Write one word."""
        self._words[slot] = value

    def add(self, slot: int, value: int = 1) -> None:
        """Add to one word."""
        with self._lock:
            self._words[slot] += value

    def phase(self, phase: Phase, now_ns: int) -> None:
        """Say what the role does from now on; that is progress."""
        self._words[Slot.PHASE_SINCE_NS] = now_ns
        self._words[Slot.PHASE] = phase
        self._words[Slot.PROGRESS_NS] = now_ns

    def beat(self, now_ns: int) -> None:
        """Say that the main loop has turned."""
        self._words[Slot.PROGRESS_NS] = now_ns

    @contextmanager
    def at_disk(self) -> Iterator[None]:
        """Say that the main loop waits for the disk, in which case no progress is no hang."""
        self._words[Slot.DISK_SINCE_NS] = self._words[Slot.PROGRESS_NS] = time.monotonic_ns()
        try:
            yield
        finally:
            self._words[Slot.PROGRESS_NS] = time.monotonic_ns()
            self._words[Slot.DISK_SINCE_NS] = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a thread as working on an entry."""
        self.add(Slot.BUSY_THREADS)
        try:
            yield
        finally:
            self.add(Slot.BUSY_THREADS, -1)

    def reject(self, reason: str) -> None:
        """Count one rejected frame under its reason slug."""
        with self._lock:
            self._words[Slot.REJECTED] += 1
            self._words[Slot.REJECTED_FIRST + REASONS.index(reason)] += 1

    def rejected(self) -> dict[str, int]:
        """Rejected frames by reason slug; only reasons that occurred."""
        counts = {reason: int(self._words[Slot.REJECTED_FIRST + i]) for i, reason in enumerate(REASONS)}
        return {reason: n for reason, n in counts.items() if n}

    def refuse_peer(self, reason: PeerReason) -> None:
        """Count one connection that got no session."""
        self.add(_PEERS_FIRST + _PEER_REASONS.index(reason))

    def peers_refused(self) -> dict[str, int]:
        """Connections without a session by reason; only reasons that occurred."""
        counts = {str(reason): int(self._words[_PEERS_FIRST + i]) for i, reason in enumerate(_PEER_REASONS)}
        return {reason: n for reason, n in counts.items() if n}

    def observe(self, histogram: Histogram, value_s: float) -> None:
        """Count one duration [s]."""
        first = _N_SLOTS + histogram * _HISTOGRAM_WORDS
        bucket = next((i for i, bound in enumerate(HISTOGRAM_BOUNDS_S) if value_s <= bound), _N_BUCKETS - 1)
        with self._lock:
            self._words[first + bucket] += 1
            self._words[first + _N_BUCKETS] += int(value_s * 1e6)

    def histogram(self, histogram: Histogram) -> tuple[list[int], float]:
        """Counts per bucket (the last one is open) and the sum [s]."""
        first = _N_SLOTS + histogram * _HISTOGRAM_WORDS
        counts = [int(self._words[first + i]) for i in range(_N_BUCKETS)]
        return counts, int(self._words[first + _N_BUCKETS]) / 1e6

    def set_text(self, text: Text, value: str) -> None:
        """Write one text; cut at a character where it is too long."""
        data = value.encode("utf-8", "replace")[: TEXT_BYTES - 16].decode("utf-8", "ignore").encode()
        at = text * TEXT_BYTES
        with self._lock:
            version = int.from_bytes(self._texts[at : at + 8], "little") | 1
            self._texts[at : at + 8] = version.to_bytes(8, "little")
            self._texts[at + 8 : at + 16] = len(data).to_bytes(8, "little")
            self._texts[at + 16 : at + 16 + len(data)] = data
            self._texts[at : at + 8] = ((version + 1) % 2**63).to_bytes(8, "little")

    def get_text(self, text: Text) -> str:
        """Read one text."""
        at = text * TEXT_BYTES
        data = b""
        # A writer that died inside set_text leaves the version odd for ever: the text then is what it had written.
        for _ in range(8):
            before = bytes(self._texts[at : at + 8])
            length = min(int.from_bytes(self._texts[at + 8 : at + 16], "little"), TEXT_BYTES - 16)
            data = bytes(self._texts[at + 16 : at + 16 + length])
            if before == bytes(self._texts[at : at + 8]) and not before[0] & 1:
                break
        return data.decode("utf-8", "replace")


class StatusBlock:
    """The block as one process sees it.

    Parameters
    ----------
    fd
        Of the memfd.
    layout
        The same that the block was made with.
    """

    def __init__(self, fd: int, layout: StatusLayout) -> None:
        self.fd = fd
        self.layout = layout
        self._map = mmap.mmap(fd, layout.size_bytes)
        memory = memoryview(self._map)
        n_roles = len(layout.roles)
        rows = [Row(memory[i * _ROW_BYTES : (i + 1) * _ROW_BYTES]) for i in range(2 * n_roles)]
        self.roles: dict[str, Row] = dict(zip(layout.roles, rows[:n_roles], strict=True))
        self.watch: dict[str, Row] = dict(zip(layout.roles, rows[n_roles:], strict=True))
        self._nodes = memory[2 * n_roles * _ROW_BYTES :].cast("q")
        self._node_at = {name: i * len(NodeSlot) for i, name in enumerate(layout.nodes)}
        self._other_at = len(layout.nodes) * len(NodeSlot)

    @classmethod
    def create(cls, layout: StatusLayout) -> StatusBlock:
        """Make a new block of zeros."""
        fd = os.memfd_create("ingestd-status", 0)
        os.ftruncate(fd, layout.size_bytes)
        return cls(fd, layout)

    @property
    def node_names(self) -> Sequence[str]:
        """Names of the node rows, "other" last."""
        return (*self.layout.nodes, "other")

    def uploaders(self) -> list[Row]:
        """Rows of the uploaders."""
        return [row for name, row in self.roles.items() if name.startswith("uploader")]

    def total(self, slot: Slot) -> int:
        """Sum of one word over all roles."""
        return sum(row.get(slot) for row in self.roles.values())

    def add_node(self, name: str | None, slot: NodeSlot, value: int = 1) -> None:
        """Add to a word of a node's row (receiver only); an unregistered name counts as "other"."""
        self._nodes[self._node_at.get(name or "", self._other_at) + slot] += value

    def set_node(self, name: str | None, slot: NodeSlot, value: int) -> None:
        """Write a word of a node's row (receiver only)."""
        self._nodes[self._node_at.get(name or "", self._other_at) + slot] = value

    def get_node(self, name: str, slot: NodeSlot) -> int:
        """Read a word of a node's row."""
        return int(self._nodes[self._node_at.get(name, self._other_at) + slot])
