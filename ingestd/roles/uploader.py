"""An uploader: claims entries, encodes, uploads, verifies, records, releases. Symmetrical and stateless.

Several threads share one work source, one breaker and one store client, so that a store's latency is hidden; several
processes share nothing but the spool.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NoReturn

import structlog

from ingestd.errors import (
    ConflictError,
    FrameError,
    SpoolBroken,
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
)
from ingestd.logs import RateLimit
from ingestd.roles.auditor import Auditor
from ingestd.roles.breaker import Backoff, Breaker
from ingestd.roles.context import RoleContext
from ingestd.roles.finisher import Finished, Finisher
from ingestd.roles.memory import bound_address_space, keep_freed_memory, uploader_beyond_bytes
from ingestd.roles.pulse import DISK_PATIENCE_S
from ingestd.roles.recorder import Recorder
from ingestd.roles.source import WorkSource
from ingestd.roles.status import Histogram, Phase, Row, Slot, Text
from ingestd.roles.storing import Storing
from ingestd.spool import Claim, Claims, SpoolLayout
from ingestd.spool.contents import failed_files
from ingestd.spool.spares import spare_room
from ingestd.storage.factory import open_store
from ingestd.storage.port import ObjectStore

__all__ = ["StoreGate", "Uploader", "run"]

log = structlog.get_logger(__name__)

#: With nothing to upload, the store is asked for a sign of life this often [s], so that health is true when idle.
IDLE_CHECK_S = 10.0

#: A request takes this long at the most [s], and longer for its body [bytes/s]; an upload makes this many, retries
#: included [count].
_REQUEST_S, _REQUEST_BYTES_PER_S = 30.0, 65536.0
_MAX_REQUESTS = 10

#: Longest wait in one place [s]: a stop is noticed within it.
_WAIT_S = 0.5

#: How long a stop waits for uploads under way [s]; the supervisor's own limit is a little longer.
_FINISH_S = 3.5

#: Backoff of one refused entry [s]: first, and at most.
_REFUSED_FIRST_S, _REFUSED_MAX_S = 2.0, 300.0

#: Backoff of one entry that a busy store turned down, while others go through.
_BUSY = Backoff(random.uniform)

#: Entries whose tries are remembered [count]; what another uploader stored leaves its count behind.
_TRIES_MAX_COUNT = 10_000

#: Codes of Slot.STORE_TROUBLE, in the order in which they are looked up; the last one is for all the rest.
_TROUBLE: tuple[tuple[type[StoreError], int], ...] = (
    (StoreBusy, 2),
    (StoreDenied, 3),
    (StoreMisconfigured, 4),
    (StoreCorrupt, 5),
    (StoreError, 1),
)


class StoreGate:
    """The breaker of this process with its lock, its news in the log and its state in the status block.

    Parameters
    ----------
    row
        Of this uploader.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._lock = threading.Lock()
        self._breaker = Breaker(Backoff(random.uniform))

    def admit(self) -> float:
        """Seconds to wait before using the store; 0 = go, and report back."""
        with self._lock:
            return self._breaker.admit(time.monotonic())

    def hurry(self) -> None:
        """Another uploader finds the store good."""
        with self._lock:
            self._breaker.hurry()

    @property
    def closed(self) -> bool:
        """Whether the last thing heard of the store was good."""
        with self._lock:
            return self._breaker.closed

    def withdraw(self) -> None:
        """Nothing was learnt about the store."""
        with self._lock:
            self._breaker.withdraw()

    def success(self) -> None:
        """The store did what it was asked."""
        with self._lock:
            news = self._breaker.success()
        row = self._row
        row.set(Slot.STORE_OK, 1)
        since_ns = row.get(Slot.STORE_FAILING_SINCE_UTC_NS)
        # The row outlives the process: trouble that a killed predecessor left there is over too.
        if news or since_ns:
            row.set(Slot.STORE_TROUBLE, 0)
            row.set(Slot.STORE_FAILURES, 0)
            row.set(Slot.STORE_FAILING_SINCE_UTC_NS, 0)
            row.set(Slot.STORE_NEXT_RETRY_UTC_NS, 0)
            row.set_text(Text.LAST_ERROR, "")
            log.info("store_back", failed_s=(time.time_ns() - since_ns) / 1e9 if since_ns else None)

    def failure(self, error: StoreError) -> None:
        """The store failed in a way that concerns every entry."""
        is_busy = isinstance(error, StoreBusy)
        hint_s = error.retry_after_s if isinstance(error, StoreBusy) else None
        with self._lock:
            was_closed = self._breaker.closed
            wait_s = self._breaker.failure(time.monotonic(), hint_s, tolerable=is_busy)
            n_failures = self._breaker.n_failures
        row = self._row
        row.add(Slot.UPLOAD_ERRORS)
        if not n_failures:
            return
        row.set(Slot.STORE_OK, 0)
        row.set(Slot.STORE_TROUBLE, next(code for kind, code in _TROUBLE if isinstance(error, kind)))
        row.set(Slot.STORE_FAILURES, n_failures)
        row.set(Slot.STORE_NEXT_RETRY_UTC_NS, time.time_ns() + int(wait_s * 1e9))
        row.set_text(Text.LAST_ERROR, str(error))
        if was_closed:
            row.set(Slot.STORE_FAILING_SINCE_UTC_NS, time.time_ns())
        # Powers of two: an outage of a night is a dozen lines, not ten thousand.
        if n_failures & (n_failures - 1) == 0:
            log.warning(
                "store_failing",
                error=str(error),
                kind=type(error).__name__,
                failures=n_failures,
                wait_s=wait_s,
            )


class Uploader:
    """Threads of one uploader process.

    Parameters
    ----------
    context
        Of the role.
    layout
        Of the spool.
    store
        Client of the object store; thread-safe.
    """

    def __init__(
        self, context: RoleContext, layout: SpoolLayout, store: ObjectStore, source: WorkSource
    ) -> None:
        self._context = context
        self._row = context.row
        self._layout = layout
        self._store = store
        self._source = source
        self._gate = StoreGate(context.row)
        self._recorder = Recorder(context)
        self._storing = Storing(context, store, self._recorder)
        self._finisher = Finisher(self._end)
        self._stop = threading.Event()
        self._probed = False
        self._probing = threading.Lock()
        self._checked_s = time.monotonic()
        self._checking = threading.Lock()
        #: When the turn of a thread is past every deadline [s, monotonic], by its identity.
        self._due_s: dict[int, float] = {}
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._tries_lock = threading.Lock()
        self._limit = RateLimit(per_s=0.1, burst=3, clock=time.monotonic)

    def serve(self) -> None:
        """Work until stopped; then finish what is under way."""
        threads = [
            threading.Thread(target=self._work, name=f"upload-{i}", daemon=True)
            for i in range(self._context.settings.uploader.threads)
        ]
        self._phase(Phase.IDLE)
        with self._finisher:
            self._serve(threads)
        self._recorder.flush()

    def _serve(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
        # The supervisor moves an entry that killed its uploader to failed/, and leaves the catalog to us.
        self._recorder.found_failed(failed_files(self._layout))
        auditor = Auditor(self._context, self._layout, self._store, self._stop)
        # Nothing in this loop waits for the store: it is what tells the supervisor that this process makes progress.
        while not self._context.stopping(_WAIT_S):
            with self._row.at_disk():
                self._recorder.flush()
                if self._probed:
                    auditor.advance()
            self._look_after_threads()
        self._finish(threads)
        auditor.join(1.0)

    def _finish(self, threads: list[threading.Thread]) -> None:
        self._phase(Phase.STOPPING)
        self._stop.set()
        deadline_s = time.monotonic() + _FINISH_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        n_late = sum(thread.is_alive() for thread in threads)
        if n_late:
            # Their claims stay in claimed/ and are given back by the next start; the store sees a cut connection.
            log.warning("uploads_cut_off", threads=n_late)

    def _look_after_threads(self) -> None:
        """A thread whose turn is past every deadline hangs: end the process, as for a bug."""
        # A copy: a thread may take its first turn at this moment.
        late_s = time.monotonic() - min(list(self._due_s.values()), default=float("inf"))
        if late_s > 0:
            log.critical("upload_thread_hangs", late_s=round(late_s, 3))
            faulthandler.dump_traceback()
            os._exit(1)

    def _allow(self, size_bytes: int) -> None:
        """Give this thread's turn the time that disk and store may take for an entry of that size at the most."""
        requests_s = _MAX_REQUESTS * (_REQUEST_S + size_bytes / _REQUEST_BYTES_PER_S)
        self._due_s[threading.get_ident()] = time.monotonic() + DISK_PATIENCE_S + requests_s

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._allow(0)
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the entry must not be tried in this process again
            self._die(error)

    def _die(self, error: BaseException) -> NoReturn:
        """A bug struck on an entry: end the process, so that the entry becomes a suspect and is tried alone."""
        log.critical("uploader_bug", exc_info=error)
        os._exit(1)

    def _turn(self) -> None:
        """One admission: an upload, a sign of life, or a wait."""
        wait_s = self._gate.admit()
        if wait_s > 0:
            if any(row.get(Slot.STORE_OK) for row in self._context.status.uploaders()):
                self._gate.hurry()
            self._stop.wait(min(wait_s, _WAIT_S))
            return
        if not self._probed and not self._probe():
            return
        try:
            claim = self._source.take(_WAIT_S if self._gate.closed else 0.0)
        except SpoolBroken as error:
            self._gate.withdraw()
            self._put_off(error)
            return
        if claim is None:
            self._ask_for_life()
            return
        with contextlib.ExitStack() as held:
            held.callback(self._source.done, claim)
            try:
                self._allow(claim.size_bytes)
                with self._row.busy(), contextlib.ExitStack() as giving_back:
                    giving_back.enter_context(claim)
                    if self._upload(claim):
                        # The finisher has it now.
                        giving_back.pop_all()
                        held.pop_all()
            except SpoolBroken as error:
                self._put_off(error)

    def _put_off(self, error: SpoolBroken) -> None:
        """The disk refuses a move: the entry stays where it is, and is returned once the disk lets it be."""
        self._source.has_abandoned()
        self._tell_of_disk(error)
        self._stop.wait(_WAIT_S)

    def _tell_of_disk(self, error: SpoolBroken) -> None:
        allowed, suppressed = self._limit.admit()
        if allowed:
            log.error("spool_error", error=str(error), suppressed=suppressed)

    def _probe(self) -> bool:
        """Find out what the store supports, once; only one thread does (the gate is shut until it is known)."""
        with self._probing:
            if self._probed:
                return True
            try:
                # Made at the first contact of a start only: a bucket that vanishes later is an alarm, not an errand.
                known = any(row.get_text(Text.PROFILE) for row in self._context.status.uploaders())
                profile = self._store.probe(make_bucket=not known)
            except StoreError as error:
                self._gate.failure(error)
                return False
            self._row.set_text(
                Text.PROFILE,
                f'{{"kind":"{profile.kind}","checksum":"{profile.checksum}","conflict_check":"{profile.conflict_check}"}}',
            )
            log.info(
                "store_probed", kind=profile.kind, checksum=profile.checksum, conflict_check=profile.conflict_check,
                endpoint=self._store.endpoint, bucket=self._store.bucket,
            )  # fmt: skip
            self._gate.success()
            self._probed = True
            return True

    def _ask_for_life(self) -> None:
        """Nothing to upload: find out whether a failing store still fails, and now and then whether a good one works."""
        if self._gate.closed and not self._check_is_due():
            return
        self._check()

    def _check_is_due(self) -> bool:
        """Whether the store was left alone for long; one thread alone is told so."""
        with self._checking:
            is_due = time.monotonic() - self._checked_s > IDLE_CHECK_S and not self._row.get(
                Slot.BUSY_THREADS
            )
            if is_due:
                self._checked_s = time.monotonic()
        return is_due

    def _check(self) -> None:
        try:
            self._store.check()
        except StoreError as error:
            self._gate.failure(error)
        else:
            self._gate.success()

    def _upload(self, claim: Claim) -> bool:
        """Take one entry as far as it goes; whether its pair is stored and the finisher has it.

        Every other outcome is a move of the claim and a word in log and catalog.
        """
        began_s = time.monotonic()
        try:
            stored = self._storing.store(claim)
        except (FrameError, ConflictError) as error:
            self._gate.withdraw()
            reason = "conflict" if isinstance(error, ConflictError) else "unreadable"
            self._fail(claim, reason, str(error))
            return False
        except StoreRefused as error:
            self._gate.withdraw()
            self._defer(claim, error)
            return False
        except StoreError as error:
            log.info("upload_failed", entry=claim.name, error=str(error), kind=type(error).__name__)
            self._gate.failure(error)
            if isinstance(error, StoreBusy):
                # This one waits; the others may fare better.
                self._source.defer(claim.name, _BUSY.delay_s(self._tries_of(claim.name), error.retry_after_s))
            return False
        except SpoolBroken as error:
            self._gate.withdraw()
            log.error("entry_unreadable", entry=claim.name, error=str(error))  # noqa: TRY400 - expected, no traceback
            self._source.defer(claim.name, _REFUSED_FIRST_S)
            return False
        self._gate.success()
        self._tries.pop(claim.name, None)
        self._row.observe(Histogram.UPLOAD_S, time.monotonic() - began_s)
        self._row.observe(Histogram.ACCEPTED_TO_STORED_S, max(0.0, (time.time_ns() - claim.receive_ns) / 1e9))
        self._finisher.add(Finished(claim, stored, began_s, at_once=self._source.is_alone))
        self._phase(Phase.IDLE)
        return True

    def _end(self, batch: Sequence[Finished]) -> None:
        """Record and release entries whose pairs are stored (the finisher's thread)."""
        try:
            self._allow(0)
            self._storing.record([one.stored for one in batch])
            room = spare_room(
                self._layout, batch[0].claim.size_bytes, self._context.settings.spool.min_free_bytes
            )
            for number, one in enumerate(batch):
                self._release(one, spare=number < room)
            self._due_s[threading.get_ident()] = float("inf")
        except BaseException as error:  # noqa: BLE001 - as in the other threads
            self._die(error)

    def _release(self, one: Finished, *, spare: bool) -> None:
        try:
            one.claim.release(retain=self._context.settings.spool.retain_s > 0, spare=spare)
        except SpoolBroken as error:
            self._tell_of_disk(error)
            return
        finally:
            # Where it could not be released it lies in claimed/ and in nobody's hands, and the source returns it.
            self._source.done(one.claim)
        log.debug(
            "entry_released",
            entry=one.claim.name,
            result=one.stored.result,
            elapsed_s=time.monotonic() - one.began_s,
        )

    def _fail(self, claim: Claim, reason: str, error: str) -> None:
        log.error("entry_failed", entry=claim.name, reason=reason, error=error)
        self._recorder.fail(claim, reason, error)
        self._row.add(Slot.FAILED)

    def _defer(self, claim: Claim, error: StoreRefused) -> None:
        """The store refuses this one object while others go through: it alone waits."""
        n_times = self._tries_of(claim.name)
        delay_s = min(_REFUSED_MAX_S, _REFUSED_FIRST_S * 2.0 ** min(n_times - 1, 16))
        self._row.add(Slot.UPLOAD_ERRORS)
        self._row.add(Slot.STORE_REFUSED)
        self._row.set(Slot.STORE_REFUSED_UTC_NS, time.time_ns())
        self._source.defer(claim.name, delay_s)
        log.warning("entry_refused", entry=claim.name, error=str(error), times=n_times, wait_s=delay_s)

    def _tries_of(self, name: str) -> int:
        """How often this entry was turned down in a row, this time included."""
        with self._tries_lock:
            count = self._tries[name] = self._tries.pop(name, 0) + 1
            while len(self._tries) > _TRIES_MAX_COUNT:
                self._tries.popitem(last=False)
        return count

    def _phase(self, phase: Phase) -> None:
        self._row.phase(phase, time.monotonic_ns())


@contextlib.contextmanager
def _source(context: RoleContext, layout: SpoolLayout) -> Iterator[WorkSource]:
    names = [name for name in context.status.layout.roles if name.startswith("uploader")]
    bell = socket.socket(fileno=os.dup(context.doorbell_fds[0])) if context.doorbell_fds else None
    claims = Claims(layout, context.name)
    try:
        with contextlib.closing(WorkSource(claims, bell, names.index(context.name) / len(names))) as source:
            yield source
    finally:
        if bell is not None:
            bell.close()


def run(context: RoleContext) -> int:
    """Run one uploader until it is told to stop."""
    keep_freed_memory()
    settings = context.settings
    bound_address_space(uploader_beyond_bytes(settings.ingest.max_frame_bytes, settings.uploader.threads))
    layout = SpoolLayout(context.settings.state_directory)
    # What the supervisor could not give back (a disk error at that moment) is given back here.
    returned, _ = layout.return_claims(context.name, counts=False)
    if returned:
        log.warning("claims_returned", uploader=context.name, count=returned)
    store = open_store(context.settings)
    try:
        with _source(context, layout) as source:
            Uploader(context, layout, store, source).serve()
    finally:
        store.close()
    return 0
