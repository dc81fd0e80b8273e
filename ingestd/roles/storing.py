"""From a claim to a stored pair: read, check, encode, measure, upload; then, for several at once, record."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from ingestd import faults
from ingestd.catalog import StoredEntry
from ingestd.errors import FrameError
from ingestd.formats import frame as wire
from ingestd.formats.checksum import Summed
from ingestd.formats.measurement import Measurement
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Phase, Slot
from ingestd.storage.encoding import prepare_pair
from ingestd.storage.locks import IdentityLocks
from ingestd.storage.pair import Pair, PairOutcome, PairResult, store_pair
from ingestd.storage.port import ObjectStore

if TYPE_CHECKING:
    from ingestd.roles.recorder import Recorder
    from ingestd.spool import Claim

__all__ = ["Stored", "Storing"]

log = structlog.get_logger(__name__)

_CONFLICTS = (PairResult.CONFLICT_STORED, PairResult.OVERWRITTEN)


@dataclass(frozen=True, slots=True)
class Stored:
    """A pair that is in the store, and is neither recorded nor released yet.

    `entry` is None where the entry needed no objects of its own; `ended_as` then says what it counts as.
    """

    result: PairResult
    name: str
    entry: StoredEntry | None
    ended_as: str


class Storing:
    """Takes claims as far as the store.

    Parameters
    ----------
    context
        Of the uploader.
    store
        Client of the object store.
    recorder
        Told what became of entries.
    """

    def __init__(self, context: RoleContext, store: ObjectStore, recorder: Recorder) -> None:
        self._row = context.row
        self._settings = context.settings
        self._store = store
        self._recorder = recorder
        self._locks = IdentityLocks(os.path.join(context.settings.state_directory, "locks"))

    def store(self, claim: Claim) -> Stored:
        """Store the pair of a claimed entry; it is not recorded yet.

        Raises
        ------
        FrameError
            The entry is not what was accepted, or no frame: it cannot be stored by anybody.
        ConflictError
            Other content has the identity, and the policy is to reject.
        StoreError
            Not now.
        SpoolBroken
            The entry cannot be read.
        """
        self._phase(Phase.ENCODING)
        frame = claim.read()
        if not claim.intact(frame):
            raise FrameError(
                "msgpack", "", f"{len(frame)} bytes", "the bytes that were accepted (checksum in the name)"
            )
        faults.point("claim.read")
        measurement = wire.parse(frame)
        settings = self._settings
        # The samples are sent first; figures and metadata are made while the store takes them.
        pair = prepare_pair(
            measurement,
            settings.receiver_of(measurement.node, measurement.websdr_id),
            figures=settings.uploader.quality,
            sha256=settings.storage.sha256,
            tell=lambda begins: self._phase(Phase.ENCODING if begins else Phase.UPLOADING),
            frame=Summed(frame, claim.crc32c),
        )
        self._phase(Phase.UPLOADING)
        faults.point("upload.encoded")
        outcome = store_pair(
            self._store,
            pair,
            self._settings.storage.on_conflict,
            is_newer=lambda: self._recorder.is_newer(claim.name, measurement.identity),
            lock=self._locks.hold,
        )
        faults.point("verify.pair")
        ended_as = self._ended_as(claim, measurement, pair, outcome.result)
        return Stored(
            outcome.result, claim.name, None if ended_as else _entry(claim, pair, outcome), ended_as
        )

    def _ended_as(self, claim: Claim, measurement: Measurement, pair: Pair, result: PairResult) -> str:
        """Counter of an entry that needed no objects of its own; "" where the pair is its own."""
        if result is PairResult.SUPERSEDED:
            return "superseded"
        is_repeated = result in (PairResult.REPEATED, PairResult.CONFLICT_REPEATED)
        if is_repeated and not self._recorder.was_ours(claim.name, measurement.identity, pair.content_crc):
            return "duplicates"
        return ""

    def record(self, batch: Sequence[Stored]) -> None:
        """Tell catalog and status block of pairs that are stored, all in one transaction."""
        duplicates = self._recorder.stored([one.entry for one in batch if one.entry is not None])
        for one in batch:
            self._count(one, is_duplicate=one.name in duplicates or one.ended_as == "duplicates")
        faults.point("record.stored")

    def _count(self, one: Stored, *, is_duplicate: bool) -> None:
        if one.ended_as:
            self._recorder.ended(one.name, one.ended_as)
        if is_duplicate:
            self._row.add(Slot.DUPLICATES)
        elif one.entry is not None:
            self._row.add(Slot.STORED)
            self._row.add(Slot.STORED_BYTES, one.entry.counters["stored_bytes"])
        if one.result in _CONFLICTS:
            self._row.add(Slot.CONFLICTS)

    def _phase(self, phase: Phase) -> None:
        self._row.phase(phase, time.monotonic_ns())


def _entry(claim: Claim, pair: Pair, outcome: PairOutcome) -> StoredEntry:
    is_conflict = outcome.result in _CONFLICTS
    key, size_bytes = outcome.keys.npy, pair.npy.size_bytes
    if is_conflict:
        log.warning("conflict", key=key, copy=outcome.copy, result=str(outcome.result))
    log.debug("entry_stored", entry=claim.name, key=key, size_bytes=size_bytes)
    return StoredEntry(
        name=claim.name,
        document=pair.document,
        keys=outcome.keys,
        copy=outcome.copy,
        content_crc=pair.content_crc,
        etag=outcome.etag,
        stored_at_ns=time.time_ns(),
        accepted_at_ns=claim.receive_ns,
        frame_bytes=claim.size_bytes,
        counters={"conflicts": int(is_conflict), "stored_bytes": size_bytes},
    )
