"""What goes into the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestd.formats.measurement import ObjectKeys

__all__ = [
    "FOUND",
    "AcceptedBatch",
    "AcceptedEntry",
    "FailedEntry",
    "LedgerState",
    "NodeSeen",
    "Rejection",
    "StoredEntry",
]

#: In the name of a row that was made of a pair in the bucket, whose entry nobody knew.
FOUND = "-bucket:"


@dataclass(frozen=True, slots=True)
class AcceptedEntry:
    """An entry that is durable in the spool; `document` is `metadata.accepted_document` of its measurement."""

    name: str
    accepted_at_ns: int
    frame_bytes: int
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry whose pair is in the store and verified.

    `copy` is the 8 hex digits of a kept conflict; `counters` are added to the totals, unless the entry turns out to be
    recorded already or a duplicate.
    """

    name: str
    document: Mapping[str, Any]
    keys: ObjectKeys
    copy: str | None
    content_crc: int
    etag: str
    stored_at_ns: int
    accepted_at_ns: int
    frame_bytes: int
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FailedEntry:
    """An entry that went to failed/; `document` is None where its frame cannot be read."""

    name: str
    document: Mapping[str, Any] | None
    reason: str
    error: str
    at_ns: int
    accepted_at_ns: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A frame that was rejected; every text is bounded and escaped already."""

    at_ns: int
    peer: str
    node: str | None
    epoch: int | None
    seq: int | None
    reason: str
    field: str
    value: str
    sample: str | None


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What a node did since the last batch; counts are differences.

    `node` is the name, or `websdr:{id}` for a frame without one. `lag_s` = acceptance - stamp - duration of the
    newest frame [s].
    """

    node: str
    websdr_id: int | None
    received: int = 0
    accepted: int = 0
    rejected: int = 0
    gaps: int = 0
    samples_lost: int = 0
    last_seen_ns: int = 0
    epoch: int | None = None
    seq: int | None = None
    lag_s: float | None = None


@dataclass(frozen=True, slots=True)
class LedgerState:
    """State of an `EpochLedger` to be kept."""

    node: str
    epoch: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """Everything that one group commit of the receiver brings, for one transaction."""

    entries: Sequence[AcceptedEntry] = ()
    ledgers: Sequence[LedgerState] = ()
    nodes: Sequence[NodeSeen] = ()
    rejections: Sequence[Rejection] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
