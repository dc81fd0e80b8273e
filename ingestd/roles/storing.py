"""From a claim to a stored pair: read, check, encode, measure, upload, record."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ingestd import faults
from ingestd.errors import FrameError
from ingestd.formats import frame as wire
from ingestd.formats.measurement import Measurement
from ingestd.roles.context import RoleContext
from ingestd.roles.status import Phase, Slot
from ingestd.storage.encoding import encode_pair
from ingestd.storage.locks import IdentityLocks
from ingestd.storage.pair import Pair, PairOutcome, PairResult, store_pair
from ingestd.storage.port import ObjectStore

if TYPE_CHECKING:
    from ingestd.roles.recorder import Recorder
    from ingestd.spool import Claim

__all__ = ["Storing"]


class Storing:
    """Takes claims as far as the store.

    Parameters
    ----------
    context
        Of the uploader.
    store
        Client of the object store.
    recorder
        Told what became of each entry.
    """

    def __init__(self, context: RoleContext, store: ObjectStore, recorder: Recorder) -> None:
        self._row = context.row
        self._settings = context.settings
        self._store = store
        self._recorder = recorder
        self._locks = IdentityLocks(os.path.join(context.settings.state_directory, "locks"))

    def store(self, claim: Claim) -> PairResult:
        """Store the pair of a claimed entry and record it.

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
        pair, document = encode_pair(
            measurement,
            settings.receiver_of(measurement.node, measurement.websdr_id),
            figures=settings.uploader.quality,
            sha256=settings.storage.sha256,
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
        self._tell(claim, measurement, pair, document, outcome)
        faults.point("record.stored")
        return outcome.result

    def _tell(
        self,
        claim: Claim,
        measurement: Measurement,
        pair: Pair,
        document: dict[str, object],
        outcome: PairOutcome,
    ) -> None:
        row = self._row
        result = outcome.result
        if result is PairResult.SUPERSEDED:
            self._recorder.ended(claim.name, "superseded")
        elif result in (PairResult.REPEATED, PairResult.CONFLICT_REPEATED) and not self._recorder.was_ours(
            claim.name, measurement.identity, pair.content_crc
        ):
            row.add(Slot.DUPLICATES)
            self._recorder.ended(claim.name, "duplicates")
        elif self._recorder.stored(claim, document, pair, outcome):
            row.add(Slot.STORED)
            row.add(Slot.STORED_BYTES, pair.npy.size_bytes)
        else:
            row.add(Slot.DUPLICATES)
        if result in (PairResult.CONFLICT_STORED, PairResult.OVERWRITTEN):
            row.add(Slot.CONFLICTS)

    def _phase(self, phase: Phase) -> None:
        self._row.phase(phase, time.monotonic_ns())
