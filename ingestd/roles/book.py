"""The receiver's book: what it tells the catalog after a group commit, and the ledgers behind `confirm`.

Nothing here can delay or undo acceptance. A catalog that is busy or broken keeps what is to be told in memory, up to
a bound, and only `confirm` waits for it: a node learns of an acceptance when it is in the catalog, not before.
"""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Self

import structlog

from ingestd import catalog
from ingestd.catalog import AcceptedBatch, AcceptedEntry, Catalog, LedgerState, NodeSeen, Rejection
from ingestd.errors import CatalogCorrupt, CatalogError, FrameError
from ingestd.formats import metadata
from ingestd.formats.confirmation import EpochLedger
from ingestd.formats.frame import Origin
from ingestd.formats.measurement import Measurement
from ingestd.logs import RateLimit
from ingestd.roles.context import RoleContext
from ingestd.roles.status import NodeSlot, Slot
from ingestd.spool import EntryName, StagedEntry

__all__ = ["Book", "Refused", "catalog_path"]

log = structlog.get_logger(__name__)

#: Entries that wait in memory for the catalog; what is beyond is found in the spool by the next reconciliation.
_MAX_WAITING = 10_000

#: Ledgers in memory; the others are read again when their node sends.
_MAX_LEDGERS = 1024

#: Ledgers in memory at most, those included that the catalog was not told yet. What is beyond is forgotten unconfirmed,
#: and sent again: a stuck disk must not let made-up epochs fill the memory.
_MAX_UNTOLD_LEDGERS = 4 * _MAX_LEDGERS

#: A missing or broken catalog is noticed within this time [s] though nobody sends, and replaced no more often.
_LOOK_INTERVAL_S = 10.0

#: Counters of the status block are int64; sums of what senders make up stay below this.
_MAX_COUNT = 2**62

#: Rejections and a failed flush are written this long after they came [s].
_FLUSH_INTERVAL_S = 0.5

#: Acceptances are written at once, but no more often than this [s]: a transaction costs as much for ten as for three.
_RECORD_INTERVAL_S = 0.05


def catalog_path(state_directory: str) -> str:
    """Path of the catalog of a state directory."""
    return os.path.join(os.path.abspath(state_directory), "catalog.sqlite3")


@dataclass(frozen=True, slots=True)
class Refused:
    """A rejected frame: when, from where, how long, why, whose, and the name of the sample that was kept of it."""

    at_ns: int
    peer: str
    size_bytes: int
    error: FrameError
    origin: Origin | None
    sample: str | None


@dataclass(slots=True)
class _Waiting:
    """What the catalog was not told yet."""

    entries: list[AcceptedEntry] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    nodes: dict[str, NodeSeen] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    ledgers: set[tuple[str, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.entries or self.rejections or self.nodes or self.counters or self.ledgers)

    def count(self, key: str, value: int = 1) -> None:
        self.counters[key] = self.counters.get(key, 0) + value


class Book:
    """Catalog and ledgers of the receiver, as a `with` block.

    Parameters
    ----------
    context
        Of the receiver.
    """

    def __init__(self, context: RoleContext) -> None:
        self._row = context.row
        self._status = context.status
        self._settings = context.settings
        self._path = catalog_path(context.settings.state_directory)
        self._catalog: Catalog | None = None
        self._ledgers: OrderedDict[tuple[str, int], EpochLedger] = OrderedDict()
        # Ledgers begun while the catalog could not be read: what it holds of them is added before they replace it.
        self._unread: set[tuple[str, int]] = set()
        self._waiting = _Waiting()
        self._flushed_s = 0.0
        #: When what waits is to be written [s, monotonic].
        self._due_s = math.inf
        self._looked_s = time.monotonic()
        self._replaced_s = -math.inf
        self._limit = RateLimit(per_s=0.1, burst=3, clock=time.monotonic)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._catalog is not None:
            self._catalog.close()

    def registered_name(self, measurement: Measurement) -> str | None:
        """Name under which the registry knows the sender; None where it does not."""
        node = self._settings.node_of(measurement.node, measurement.websdr_id)
        return None if node is None else node.name

    def note_accepted(self, entry: StagedEntry, measurement: Measurement, now_ns: int) -> None:
        """Take note of an entry that is durable."""
        waiting = self._waiting
        self._due_s = min(self._due_s, self._flushed_s + _RECORD_INTERVAL_S)
        if len(waiting.entries) < _MAX_WAITING:
            document = metadata.accepted_document(measurement)
            waiting.entries.append(AcceptedEntry(str(entry.name), now_ns, entry.size_bytes, document))
        waiting.count("received")
        waiting.count("received_bytes", entry.size_bytes)
        name = self.registered_name(measurement)
        gaps, samples_lost = self._ledge(entry, measurement, name)
        stamp_ns, duration_s = measurement.timestamp_ns, measurement.duration_s
        lag_s = None if stamp_ns is None else (now_ns - stamp_ns) / 1e9 - (duration_s or 0.0)
        self._see(
            NodeSeen(
                name or measurement.node or f"websdr:{measurement.websdr_id}",
                measurement.websdr_id,
                received=1,
                accepted=1,
                gaps=gaps,
                samples_lost=samples_lost,
                last_seen_ns=now_ns,
                epoch=measurement.epoch,
                seq=measurement.seq,
                lag_s=lag_s,
            )
        )

    def _ledge(self, entry: StagedEntry, measurement: Measurement, name: str | None) -> tuple[int, int]:
        """Book a numbered frame; returns how many gaps and lost samples it brought (or closed)."""
        node, epoch, seq = measurement.node, measurement.epoch, measurement.seq
        if node is None or epoch is None or seq is None:
            return 0, 0
        ledger = self._ledger(node, epoch)
        gaps, lost = ledger.gaps, ledger.samples_lost
        seen = ledger.note_accepted(seq, entry.name.crc32c, measurement.sample_index, measurement.n_samples)
        if seen == "unknown" and self._was_another(node, epoch, seq, entry.name):
            ledger.note_reused()
            seen = "reused"
        if seen == "reused":
            self._row.add(Slot.SEQ_REUSED)
            allowed, suppressed = self._limit.admit()
            if allowed:
                log.warning("seq_reused", node=node, epoch=epoch, seq=seq, suppressed=suppressed)
        self._waiting.ledgers.add((node, epoch))
        gaps, lost = ledger.gaps - gaps, ledger.samples_lost - lost
        self._count_gaps(name, gaps)
        counted = self._status.get_node(name or "", NodeSlot.SAMPLES_LOST)
        lost = min(lost, max(0, _MAX_COUNT - counted))
        self._status.add_node(name, NodeSlot.SAMPLES_LOST, lost)
        return gaps, lost

    def _count_gaps(self, name: str | None, gaps: int) -> None:
        """Count numbers that were skipped, or (negative) that came after all."""
        self._row.add(Slot.SEQ_GAPS, gaps)
        self._status.add_node(name, NodeSlot.GAPS, gaps)

    def _was_another(self, node: str, epoch: int, seq: int, name: EntryName) -> bool:
        """Whether the catalog knows another frame under this number."""
        try:
            known = self._open().entry_of_seq(node, epoch, seq)
        except CatalogError:
            # Not knowing is not a verdict; the next repeat will be looked up again.
            return False
        parsed = EntryName.parse(known) if known else None
        return parsed is not None and parsed.crc32c != name.crc32c

    def note_rejected(self, refused: Refused) -> None:
        """Take note of a frame that was rejected."""
        self._due_s = min(self._due_s, time.monotonic() + _FLUSH_INTERVAL_S)
        waiting, origin, error = self._waiting, refused.origin, refused.error
        if len(waiting.rejections) < _MAX_WAITING:
            node, epoch, seq = origin or (None, None, None)
            waiting.rejections.append(
                Rejection(
                    refused.at_ns, refused.peer, node, epoch, seq, error.reason, error.field, error.value, refused.sample
                )
            )  # fmt: skip
        waiting.count("received")
        waiting.count("received_bytes", refused.size_bytes)
        waiting.count(f"rejected:{error.reason}")
        registered = None if origin is None else self._settings.node_of(origin.node, -1)
        name = None if registered is None else registered.name
        self._status.add_node(name, NodeSlot.RECEIVED)
        self._status.add_node(name, NodeSlot.REJECTED)
        if origin is None:
            return
        ledger = self._ledger(origin.node, origin.epoch)
        gaps = ledger.gaps
        ledger.note_rejected(origin.seq, error.reason)
        gaps = ledger.gaps - gaps
        self._count_gaps(name, gaps)
        waiting.ledgers.add((origin.node, origin.epoch))
        self._see(
            NodeSeen(
                name or origin.node, None, received=1, rejected=1, gaps=gaps, last_seen_ns=refused.at_ns,
                epoch=origin.epoch, seq=origin.seq,
            )
        )  # fmt: skip

    def _see(self, seen: NodeSeen) -> None:
        """Add to what is known of a node since the last flush."""
        before = self._waiting.nodes.get(seen.node)
        if before is None and len(self._waiting.nodes) >= _MAX_WAITING:
            return
        if before is not None:
            seen = replace(
                seen,
                websdr_id=before.websdr_id if seen.websdr_id is None else seen.websdr_id,
                received=before.received + seen.received,
                accepted=before.accepted + seen.accepted,
                rejected=before.rejected + seen.rejected,
                gaps=before.gaps + seen.gaps,
                samples_lost=before.samples_lost + seen.samples_lost,
                lag_s=before.lag_s if seen.lag_s is None else seen.lag_s,
            )
        self._waiting.nodes[seen.node] = seen

    def _ledger(self, node: str, epoch: int) -> EpochLedger:
        """Ledger of one start of one node: from memory, else from the catalog, else a new one."""
        key = (node, epoch)
        ledger = self._ledgers.get(key)
        if ledger is None:
            try:
                ledger = EpochLedger(self._open().ledger(node, epoch))
            except CatalogError:
                ledger = EpochLedger()
                self._unread.add(key)
            self._ledgers[key] = ledger
        self._ledgers.move_to_end(key)
        if len(self._ledgers) > _MAX_LEDGERS:
            self._forget_ledger(but=key)
        return ledger

    def _forget_ledger(self, but: tuple[str, int]) -> None:
        """Let another ledger leave the memory: one that the catalog has in full, unless there are too many others."""
        key = next((k for k in self._ledgers if k != but and k not in self._waiting.ledgers), None)
        if key is None and len(self._ledgers) > _MAX_UNTOLD_LEDGERS:
            key = next(iter(self._ledgers))
        if key is not None:
            del self._ledgers[key]
            self._waiting.ledgers.discard(key)
            self._unread.discard(key)

    def flush(self) -> bool:
        """Tell the catalog everything, in one transaction; whether it was. On an error it is told again later."""
        if not self._waiting:
            return False
        self._flushed_s = time.monotonic()
        try:
            self._complete_ledgers()
            self._open().record_accepted(self._batch())
        except CatalogError as error:
            # What comes meanwhile waits with it: the catalog is not asked more often for being broken.
            self._flushed_s += _FLUSH_INTERVAL_S
            self._due_s = self._flushed_s
            self._skipped(error)
            return False
        self._waiting = _Waiting()
        self._due_s = math.inf
        return True

    def _complete_ledgers(self) -> None:
        """Add what the catalog holds of ledgers that were begun without it, lest it goes back."""
        for key in sorted(self._unread):
            kept = self._open().ledger(*key)
            if kept is not None:
                self._ledgers[key].absorb(kept)
            self._unread.discard(key)

    def _batch(self) -> AcceptedBatch:
        waiting = self._waiting
        return AcceptedBatch(
            entries=waiting.entries,
            ledgers=[
                LedgerState(node, epoch, self._ledgers[node, epoch].state())
                for node, epoch in waiting.ledgers
            ],
            nodes=list(waiting.nodes.values()),
            rejections=waiting.rejections,
            counters=waiting.counters,
        )

    @property
    def due_in_s(self) -> float:
        """How long what waits may wait [s]; infinite where nothing does."""
        return max(0.0, self._due_s - time.monotonic())

    def flush_if_due(self) -> bool:
        """Tell the catalog what has waited long enough; whether it was told anything."""
        now_s = time.monotonic()
        flushed = now_s >= self._due_s and self.flush()
        if now_s - self._looked_s >= _LOOK_INTERVAL_S:
            self._looked_s = now_s
            self._look()
        return flushed

    def _look(self) -> None:
        """Notice a catalog that is gone or broken while nobody sends; queries need one, too."""
        try:
            self._open().boot()
        except CatalogError as error:
            self._skipped(error)

    def _open(self) -> Catalog:
        if self._catalog is None:
            self._catalog = Catalog.open(self._path, bucket=self._settings.minio.bucket_raw_iq)
        return self._catalog

    def _skipped(self, error: CatalogError) -> None:
        self._row.add(Slot.CATALOG_SKIPPED)
        allowed, suppressed = self._limit.admit()
        if allowed:
            log.warning(
                "catalog_skipped",
                error=str(error),
                waiting=len(self._waiting.entries),
                suppressed=suppressed,
            )
        if isinstance(error, CatalogCorrupt):
            self._replace()

    def _replace(self) -> None:
        """Put an empty catalog, with a new boot, in the place of a broken one; the auditor fills it again."""
        if time.monotonic() - self._replaced_s < _LOOK_INTERVAL_S:
            # Where a new one breaks at once, another one does not help.
            return
        self._replaced_s = time.monotonic()
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
        try:
            if catalog.create(self._path, condemned=True):
                log.error("catalog_replaced", path=self._path)
                # What memory knows is still true; the new catalog gets all of it with the next flush.
                self._waiting.ledgers |= self._ledgers.keys()
                self._unread.clear()
        except CatalogError as error:
            log.error("catalog_unusable", error=str(error))  # noqa: TRY400 - an expected error has no traceback
