"""The responder: answers queries, and serves metrics and probes over HTTP.

The main thread answers from memory alone (`ping health stats config version help`), so that they come in milliseconds
while the store is down or an fsync hangs. What needs the catalog goes to a thread of its own (`lookup`), HTTP to
another (`http`), and the scrub, where it is on, has its own, too (`scrub`).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog
import zmq

from ingestd import __version__
from ingestd.config import Settings
from ingestd.errors import ExitCode, QueryError, bounded
from ingestd.formats import commands, protocol
from ingestd.formats.protocol import ErrorCode, Refusal, Request
from ingestd.logs import RateLimit
from ingestd.roles.answers import CatalogAnswers
from ingestd.roles.context import RoleContext
from ingestd.roles.http import serve_http
from ingestd.roles.keyring import clients_keyring
from ingestd.roles.lookup import Lookups, start_lookups
from ingestd.roles.memory import RESPONDER_BEYOND_BYTES, bound_address_space, memory_bytes
from ingestd.roles.monitor import SAMPLE_S, Monitor, daemon_started_ns
from ingestd.roles.query_socket import QuerySocket, Question, open_query_socket
from ingestd.roles.scrub import start_scrub
from ingestd.roles.status import Phase, Slot
from ingestd.storage.port import ObjectStore

if TYPE_CHECKING:
    from ingestd.catalog import Catalog

__all__ = ["Responder", "open_responder", "run"]

log = structlog.get_logger(__name__)

#: Beyond this rate the answer is `busy` [1/s], this many at once apart: an honest client asks once a second.
MAX_RATE_PER_S = 2000.0
_BURST = 500

#: When the rate is exceeded this many are told so [count], then there is a pause [s]: what comes faster waits in its
#: sender, so that a flood costs a fifth of a core and not a whole one. libzmq takes one request of each peer in turn,
#: so the next client waits for some of these pauses at the most.
_BUSY_MAX_COUNT = 8
_PACE_S = 0.005

#: Requests taken in one turn [count], so that answers of the catalog have their turn as well.
_TAKE_MAX_COUNT = 256

#: Longest wait for a request [ms].
_POLL_MS = 500

#: A peer that sends parts of one message without end is cut off when libzmq gets no more memory, but libzmq does not
#: give back what it has: with more than this [bytes] the role ends, and is back in half a second. Honest traffic needs
#: a tenth.
_BLOATED_BYTES = 2**29

#: Frame and document versions that this daemon reads and writes.
_VERSIONS = {"version": __version__, "query": protocol.PROTOCOL_VERSION, "frame": 1, "metadata": 1}


class Responder:
    """Answers on one socket.

    Parameters
    ----------
    context
        Of the role.
    socket
        Where requests arrive.
    monitor
        Answers without the disk.
    lookups
        Where catalog queries go.
    resident_bytes
        Memory of this process [bytes].
    """

    def __init__(
        self,
        context: RoleContext,
        socket: QuerySocket,
        monitor: Monitor,
        lookups: Lookups,
        resident_bytes: Callable[[], int],
    ) -> None:
        self._context = context
        self._row = context.row
        self._socket = socket
        self._monitor = monitor
        self._lookups = lookups
        self._resident_bytes = resident_bytes
        self._rate = RateLimit(MAX_RATE_PER_S, _BURST, time.monotonic)
        self._sample_at_s = 0.0
        config = {"settings": context.settings.public(), "storage_origin": context.settings.storage_origin}
        #: By command; exactly those of the table of commands that look nothing up.
        self.immediate: dict[str, Callable[[], Mapping[str, Any]]] = {
            "ping": lambda: {"pong": True},
            "health": monitor.health,
            "stats": monitor.stats,
            "config": lambda: config,
            "version": lambda: _VERSIONS,
            "help": commands.describe,
        }

    def serve(self) -> ExitCode:
        """Answer until stopped, or until only a new process can give back memory that peers have taken."""
        poller = zmq.Poller()
        poller.register(self._socket.socket, zmq.POLLIN)
        poller.register(self._lookups.fd, zmq.POLLIN)
        poller.register(self._context.stop_fd, zmq.POLLIN)
        while not self._context.stopping():
            if self._sample_is_due():
                self._monitor.sample()
                size_bytes = self._resident_bytes()
                if size_bytes > _BLOATED_BYTES:
                    log.error("memory_taken", resident_bytes=size_bytes, limit_bytes=_BLOATED_BYTES)
                    return ExitCode.FAILURE
            self._row.phase(Phase.IDLE, time.monotonic_ns())
            poller.poll(self._wait_ms())
            self._answer_lookups()
            if not self._turn():
                self._context.stopping(_PACE_S)
        self._row.phase(Phase.STOPPING, time.monotonic_ns())
        self._answer_lookups()
        return ExitCode.OK

    def _wait_ms(self) -> int:
        deadline_s = self._lookups.wait_s()
        # Rounded up: a wait of zero until the deadline would be a busy one.
        return _POLL_MS if deadline_s is None else min(_POLL_MS, math.ceil(deadline_s * 1000))

    def _sample_is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._sample_at_s:
            return False
        self._sample_at_s = now_s + SAMPLE_S
        return True

    def _turn(self) -> bool:
        """Take what is waiting; False where it came faster than it should."""
        n_busy = 0
        for _ in range(_TAKE_MAX_COUNT):
            question = self._socket.receive()
            if question is None:
                break
            in_time = self._rate.admit()[0]
            self._row.add(Slot.QUERIES)
            self._take(question, in_time=in_time)
            n_busy += not in_time
            if n_busy >= _BUSY_MAX_COUNT:
                break
        return n_busy == 0

    def _take(self, question: Question, *, in_time: bool) -> None:
        """Answer a request, or have it looked up."""
        if not question.envelope:
            # A peer that sets no delimiter is no REQ: nobody waits for an answer, as with a REP socket.
            self._row.add(Slot.QUERY_ERRORS)
            return
        request = _read(question)
        try:
            if not in_time:
                raise ErrorCode.BUSY.error(f"more than {MAX_RATE_PER_S:g} requests per second; ask again")
            if isinstance(request, Refusal):
                raise request.error
            _hold_to_own_name(question, request)
            if request.command.looks_up:
                if not self._socket.takes_replies(question.envelope):
                    raise ErrorCode.BUSY.error("earlier replies are not read yet; read them first")
                self._lookups.submit(question.envelope, request)
                return
            reply = protocol.encode_data(request.encoding, request.id, self._immediate(request))
        except QueryError as error:
            self._refuse(question.envelope, request, error)
        else:
            self._socket.reply(question.envelope, reply)

    def _immediate(self, request: Request) -> Mapping[str, Any]:
        try:
            return self.immediate[request.command.name]()
        except Exception as error:
            # A bug in one answer must cost one reply, not the role.
            log.exception("query_bug", command=request.command.name)
            raise ErrorCode.INTERNAL.error("a bug in ingestd; its log says more") from error

    def _answer_lookups(self) -> None:
        for ticket in (*self._lookups.answered(), *self._lookups.expire()):
            if isinstance(ticket.outcome, bytes):
                self._socket.reply(ticket.envelope, ticket.outcome)
            elif ticket.outcome is not None:
                self._refuse(ticket.envelope, ticket.request, ticket.outcome)

    def _refuse(self, envelope: tuple[bytes, ...], request: Request | Refusal, error: QueryError) -> None:
        self._row.add(Slot.QUERY_ERRORS)
        self._socket.reply(envelope, protocol.encode_error(request.encoding, request.id, error))


def _read(question: Question) -> Request | Refusal:
    if question.n_parts == 1:
        return protocol.decode(question.body)
    error = ErrorCode.BAD_REQUEST.error(f"a request of {question.n_parts} message parts (allowed: 1)")
    return Refusal(protocol.encoding_of(question.body), None, error)


def _hold_to_own_name(question: Question, request: Request) -> None:
    """A node asks for confirmation of its own frames.

    With another name they are all refused, and held against nobody: without this its node would find them missing, and send
    them again, and never learn why.
    """
    own, asked = question.only_name, request.args.get("node")
    if own is not None and request.command.name == "confirm" and asked != own:
        allowed = f"{own}, to which the key of whoever asks is bound"
        raise ErrorCode.INVALID_ARGUMENT.error(
            f"node={bounded(asked)} (allowed: {allowed})",
            argument="node",
            value=bounded(asked),
            allowed=allowed,
        )


def _open_catalog(settings: Settings) -> Catalog:
    from ingestd.catalog import Catalog  # noqa: PLC0415 - takes 0.1 s to load, and `health` must be back sooner

    path = os.path.join(settings.state_directory, "catalog.sqlite3")
    return Catalog.open(path, bucket=settings.minio.bucket_raw_iq, readonly=True)


def _open_store(settings: Settings) -> ObjectStore:
    from ingestd.storage.factory import open_store  # noqa: PLC0415 - as above: 0.8 s, and for `url` alone

    return open_store(settings)


@contextlib.contextmanager
def open_responder(
    context: RoleContext,
    open_catalog: Callable[[Settings], Catalog] = _open_catalog,
    open_store: Callable[[Settings], ObjectStore] = _open_store,
    resident_bytes: Callable[[], int] = lambda: memory_bytes()[1],
) -> Iterator[Responder]:
    """Bind socket and HTTP port and start the threads, for the length of a `with` block.

    Raises
    ------
    ConfigError
        An endpoint cannot be bound.
    """
    settings = context.settings
    monitor = Monitor(context.status, settings, daemon_started_ns(context.status))
    monitor.sample()
    answers = CatalogAnswers(settings, monitor, open_catalog, open_store, context.start_id)

    def show_scrub(progress: Mapping[str, Any]) -> None:
        monitor.scrub = progress

    with (
        open_query_socket(
            settings.query.endpoint,
            max_per_address=settings.ingest.max_connections_per_address,
            keyring=clients_keyring(settings, context.reload),
        ) as socket,
        serve_http(settings.http.endpoint, monitor),
        start_lookups(answers.answer, answers.refresh_totals, answers.interrupt) as lookups,
        start_scrub(settings, open_catalog, open_store, show_scrub),
    ):
        yield Responder(context, socket, monitor, lookups, resident_bytes)
    # A thread that hangs in the disk still uses it, and the process ends anyway.
    if not lookups.thread.is_alive():
        answers.close()


def run(context: RoleContext) -> int:
    """Run the responder until it is told to stop."""
    bound_address_space(RESPONDER_BEYOND_BYTES)
    with open_responder(context) as responder:
        return responder.serve()
