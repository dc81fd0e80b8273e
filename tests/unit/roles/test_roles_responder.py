"""The responder: one reply for each request, whatever store, disk, catalog and clients do."""

import contextlib
import json
import os
import pathlib
import socket as tcp
import threading
import time

import msgpack
import pytest
import zmq

from ingestd.catalog import create
from ingestd.config import load
from ingestd.errors import CatalogBusy, CatalogCorrupt, ConfigError, NotFound, QueryError
from ingestd.formats.commands import COMMANDS
from ingestd.roles import answers as answers_module
from ingestd.roles import lookup, responder
from ingestd.roles.context import RoleContext
from ingestd.roles.responder import open_responder
from ingestd.roles.status import Phase, Slot, StatusBlock, StatusLayout, Text
from ingestd.testing.waiting import free_port, wait_until

GOLDEN = {
    case["name"]: case
    for case in json.loads((pathlib.Path(__file__).parents[2] / "golden/query.json").read_text())["cases"]
}
RECORD = {"task_id": "a", "websdr_id": 1, "state": "stored"}
LEDGER = ("accepted_upto", "ranges", "rejected", "rejected_lost", "seq_reused", "stored_upto", "boot")


class FakeCatalog:
    """A catalog that answers what it is told; `query` may be replaced by what waits or raises."""

    def __init__(self):
        self.opened = 0
        self.interrupts = 0
        self.query = lambda: None

    def open(self, _settings):
        self.opened += 1
        return self

    def interrupt(self):
        self.interrupts += 1

    def close(self):
        pass

    def totals(self):
        return {"stored": 1000}

    def nodes(self, registered):
        self.query()
        return {"nodes": [node.name for node in registered]}

    def session(self, task_id, now_ns, timeout_s):
        self.query()
        assert timeout_s == 60
        assert abs(now_ns - time.time_ns()) < 10**10
        return json.loads(GOLDEN["session"]["reply"]["json"])["data"] | {"task_id": task_id}

    def sessions(self, limit, cursor):
        return {"sessions": [limit, cursor], "next_cursor": None}

    def measurements(self, filters, limit, cursor):
        return {"measurements": [filters, limit, cursor], "next_cursor": None}

    def measurement(self, task_id, websdr_id, chunk, copy):
        self.query()
        return RECORD | {"task_id": task_id, "websdr_id": websdr_id, "chunk": chunk, "copies": [copy]}

    def confirm(self, _node, _epoch, _start_id):
        self.query()
        data = json.loads(GOLDEN["confirm"]["reply"]["json"])["data"]
        return {key: data[key] for key in LEDGER}


class Asker:
    """A REQ client."""

    def __init__(self, context, endpoint):
        self.socket = context.socket(zmq.REQ)
        self.socket.set(zmq.RCVTIMEO, 10_000)
        self.socket.connect(endpoint)

    def ask(self, cmd, **args):
        reply = json.loads(self.raw(json.dumps({"cmd": cmd, "args": args}).encode()))
        assert reply["v"] == 1
        return reply["data"] if reply["ok"] else reply["error"]

    def raw(self, message):
        self.socket.send(message)
        return self.socket.recv()


class Running:
    """A responder in a thread, with its status block, its fake catalog and clients."""

    def __init__(self, tmp_path, catalog=None, overrides=None):
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        given = {"state_directory": str(tmp_path), "query.endpoint": self.endpoint, "http.endpoint": ""}
        self.settings = load(overrides=given | (overrides or {}), environ={})
        self.status = StatusBlock.create(StatusLayout(("receiver", "uploader-0", "responder")))
        for row in self.status.watch.values():
            row.set(Slot.WATCH_STATE, 1)
        self.receiver = self.status.roles["receiver"]
        self.receiver.set(Slot.ACCEPTING, 1)
        self.uploader = self.status.roles["uploader-0"]
        self.uploader.set(Slot.STORE_OK, 1)
        self.stop_fd = os.eventfd(0)
        self.context = RoleContext("responder", self.settings, self.status, self.stop_fd)
        self.catalog = FakeCatalog() if catalog is None else catalog
        self.zmq = zmq.Context()
        self.sockets = []
        self.bound = threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def _serve(self):
        with open_responder(self.context, self.catalog.open) as role:
            self.bound.set()
            role.serve()

    def __enter__(self):
        self.thread.start()
        assert self.bound.wait(10)
        return self

    def __exit__(self, *_exc):
        os.eventfd_write(self.stop_fd, 1)
        self.thread.join(5)
        for socket in self.sockets:
            socket.close(linger=0)
        self.zmq.term()
        os.close(self.stop_fd)
        assert not self.thread.is_alive()

    def asker(self):
        asker = Asker(self.zmq, self.endpoint)
        self.sockets.append(asker.socket)
        return asker

    def dealer(self):
        dealer = self.zmq.socket(zmq.DEALER)
        dealer.set(zmq.RCVTIMEO, 5000)
        dealer.connect(self.endpoint)
        self.sockets.append(dealer)
        return dealer


@pytest.fixture
def running(tmp_path):
    with Running(tmp_path) as one:
        yield one


def elapsed_s(call):
    began_s = time.monotonic()
    call()
    return time.monotonic() - began_s


def test_every_command_has_its_answer(running):
    table = {name for name, command in COMMANDS.items() if command.looks_up}
    assert set(answers_module._ANSWERS) == table
    role = responder.Responder(running.context, None, NoMonitor(), None, None)
    assert set(role.immediate) == set(COMMANDS) - table


class NoMonitor:
    health = stats = None


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_requests_get_the_golden_bytes_over_the_socket(running, name):
    running.receiver.set(Slot.SPOOL_CREDIT_BYTES, 52613349376)
    case, asker = GOLDEN[name], running.asker()
    assert asker.raw(case["request"]["json"].encode()) == case["reply"]["json"].encode()
    reply = asker.raw(bytes.fromhex(case["request"]["msgpack"]))
    assert reply == bytes.fromhex(case["reply"]["msgpack"])


def test_confirm_says_what_the_present_allows(running):
    running.receiver.set(Slot.ACCEPTING, 0)
    running.receiver.set(Slot.SPOOL_CREDIT_BYTES, 5)
    answer = running.asker().ask("confirm", node="n", epoch=1)
    assert (answer["accepting"], answer["credit_bytes"]) == (False, 5)
    assert answer["max_frame_bytes"] == 64 * 2**20


def test_filters_and_pages_reach_the_catalog(running):
    answer = running.asker().ask("measurements", task_id="a", since="1980-01-06T00:00:01Z", cursor="abc")
    assert answer["measurements"] == [{"task_id": "a", "since": 315964801 * 10**9}, 100, "abc"]


def test_totals_come_from_the_catalog_and_do_not_wait_for_it(running):
    asker = running.asker()
    wait_until(lambda: asker.ask("stats")["total"] == {"stored": 1000})
    running.catalog.totals = lambda: (_ for _ in ()).throw(CatalogBusy("locked"))
    opened = running.catalog.opened
    wait_until(lambda: running.catalog.opened > opened)
    assert asker.ask("stats")["total"] == {"stored": 1000}


def test_config_shows_settings_and_no_secret(tmp_path):
    minio = {
        "minio.url": "http://127.0.0.1:1",
        "minio.access_key": "us",
        "minio.secret_key": "hush-hush-hush",
    }
    with Running(tmp_path, overrides=minio) as running:
        reply = running.asker().raw(b'{"cmd":"config"}')
    assert b'"url":"http://127.0.0.1:1"' in reply
    assert b"hush" not in reply


class TestSlowDisk:
    """The catalog hangs: nobody else waits, and it comes back."""

    @pytest.fixture
    def hanging(self, running):
        release = threading.Event()
        running.catalog.query = lambda: release.wait(30)
        yield running, release
        release.set()

    @pytest.mark.quiet
    def test_what_needs_no_disk_is_answered_at_once(self, hanging):
        running, _ = hanging
        waiting, asker = running.dealer(), running.asker()
        waiting.send_multipart([b"", b'{"cmd":"nodes"}'])
        running.receiver.phase(Phase.FSYNC, time.monotonic_ns() - 3 * 10**9)
        asker.ask("ping")
        times_s = sorted(
            elapsed_s(lambda cmd=cmd: asker.ask(cmd)) for cmd in ["health", "stats", "ping", "help"] * 10
        )
        assert times_s[-2] < 0.1
        health = asker.ask("health")
        assert health["roles"][0]["state"] == "stalled"
        assert health["reasons"][0]["code"] == "fsync_slow"

    def test_the_deadline_answers_unavailable_and_interrupts(self, hanging):
        running, release = hanging
        running.catalog.interrupt = release.set
        asker = running.asker()
        began_s = time.monotonic()
        answer = asker.ask("nodes")
        assert 1.9 < time.monotonic() - began_s < 3.0
        assert (answer["code"], answer["retryable"]) == ("unavailable", True)
        assert asker.ask("nodes") == {"nodes": []}

    def test_an_answer_after_the_deadline_is_thrown_away(self, hanging):
        running, release = hanging
        dealer = running.dealer()
        dealer.send_multipart([b"", b'{"id":1,"cmd":"nodes"}'])
        assert json.loads(dealer.recv_multipart()[1])["error"]["code"] == "unavailable"
        release.set()
        dealer.send_multipart([b"", b'{"id":2,"cmd":"nodes"}'])
        assert json.loads(dealer.recv_multipart()[1])["id"] == 2

    def test_while_the_thread_hangs_further_queries_do_not_wait(self, hanging):
        running, release = hanging
        asker = running.asker()
        assert asker.ask("nodes")["code"] == "unavailable"
        wait_until(lambda: elapsed_s(lambda: asker.ask("nodes")) < 0.2, what="a refusal at once")
        assert asker.ask("nodes")["code"] == "unavailable"
        release.set()
        wait_until(lambda: asker.ask("nodes") == {"nodes": []})

    def test_a_full_queue_answers_busy_and_every_request_gets_one_reply(self, hanging):
        running, release = hanging
        n_requests = lookup.MAX_PENDING + 10
        dealers = [running.dealer() for _ in range(n_requests // 10 + 1)]
        for i in range(n_requests):
            dealers[i // 10].send_multipart([b"", json.dumps({"id": i, "cmd": "nodes"}).encode()])
        release_soon = threading.Timer(0.5, release.set)
        release_soon.start()
        replies = [json.loads(dealers[i // 10].recv_multipart()[1]) for i in range(n_requests)]
        release_soon.join()
        assert sorted(reply["id"] for reply in replies) == list(range(n_requests))
        busy = [reply["error"] for reply in replies if not reply["ok"]]
        assert {error["code"] for error in busy} == {"busy"}
        assert all(error["retryable"] for error in busy)
        assert len(busy) in (10, 11)


def raising(error):
    def query():
        raise error

    return query


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (NotFound("no session a"), "not_found", False),
        (CatalogBusy("locked"), "unavailable", True),
        (CatalogCorrupt("not a database"), "unavailable", True),
        (QueryError("invalid_argument", "cursor"), "invalid_argument", False),
        (ZeroDivisionError("secret detail"), "internal", False),
    ],
)
def test_errors_of_the_catalog_have_their_codes_and_cost_one_reply(running, error, code, retryable):
    asker = running.asker()
    running.catalog.query = raising(error)
    answer = asker.ask("session", task_id="a")
    assert (answer["code"], answer["retryable"]) == (code, retryable)
    assert "secret" not in answer["message"]
    running.catalog.query = lambda: None
    assert asker.ask("session", task_id="a")["status"] == "SUCCESS"


def test_a_catalog_that_is_missing_then_broken_then_there_is_found_again(tmp_path):
    path = tmp_path / "catalog.sqlite3"

    class Real:
        open = staticmethod(responder._open_catalog)

    with Running(tmp_path, Real) as running:
        asker = running.asker()
        assert asker.ask("sessions")["code"] == "unavailable"
        path.write_bytes(b"no database at all" * 1000)
        assert asker.ask("sessions")["code"] == "unavailable"
        assert asker.ask("confirm", node="n", epoch=1)["code"] == "unavailable"
        create(str(path))
        assert asker.ask("sessions") == {"sessions": [], "next_cursor": None}
        assert asker.ask("session", task_id="a")["code"] == "not_found"
        assert asker.ask("measurements")["measurements"] == []
        assert asker.ask("measurement", task_id="a", websdr_id=1)["code"] == "not_found"
        assert asker.ask("failed")["failed"] == []
        assert asker.ask("rejected")["rejected"] == []
        assert asker.ask("nodes") == {"nodes": []}
        boot = asker.ask("confirm", node="n", epoch=1)["boot"]
        path.write_bytes(b"")
        create(str(path))
        assert asker.ask("confirm", node="n", epoch=1)["boot"] != boot
        assert asker.ask("sessions", cursor="forged")["code"] == "invalid_argument"
        assert asker.ask("measurements", cursor="forged")["code"] == "invalid_argument"


class TestUrl:
    """`url` gives what can be read, and nothing else."""

    def test_a_stored_object_has_a_url(self, running):
        answer = running.asker().ask("url", task_id="a", websdr_id=1, chunk=2)
        assert answer["key"] == "sessions/a/websdr_1_000002.npy"
        assert answer["url"].startswith("file:///")
        assert answer["url"].endswith("/heimdall-raw-iq/sessions/a/websdr_1_000002.npy")
        assert answer["expires_utc"] is None

    def test_metadata_and_kept_conflicts_have_theirs(self, running):
        answer = running.asker().ask("url", task_id="a", websdr_id=1, what="metadata", copy="0badcafe")
        assert answer["key"] == "sessions/a/websdr_1.0badcafe_metadata.json"

    def test_on_minio_it_is_presigned_without_contacting_the_store(self, tmp_path):
        minio = {
            "minio.url": "http://127.0.0.1:1",
            "minio.access_key": "us",
            "minio.secret_key": "hush-hush-hush",
            "minio.region": "us-east-1",
        }
        with Running(tmp_path, overrides=minio) as running:
            answer = running.asker().ask("url", task_id="a", websdr_id=1, expires_s=60)
        assert answer["url"].startswith("http://127.0.0.1:1/heimdall-raw-iq/sessions/a/websdr_1.npy?")
        assert "X-Amz-Expires=60" in answer["url"]
        assert "hush" not in answer["url"]
        assert answer["expires_utc"].endswith("Z")

    @pytest.mark.parametrize("state", ["accepted", "failed", "lost"])
    def test_what_is_not_stored_is_not_found(self, running, monkeypatch, state):
        monkeypatch.setitem(RECORD, "state", state)
        answer = running.asker().ask("url", task_id="a", websdr_id=1)
        assert (answer["code"], answer["details"]) == ("not_found", {"state": state})

    @pytest.mark.quiet
    def test_what_nobody_knows_is_not_found(self, running):
        running.catalog.query = raising(NotFound("none"))
        assert running.asker().ask("url", task_id="a", websdr_id=1)["code"] == "not_found"


class TestHostilePeers:
    """Whatever a peer does, the next client is answered within 100 ms."""

    @pytest.fixture
    def others(self, running):
        asker = running.asker()
        asker.ask("ping")
        yield running
        assert min(elapsed_s(lambda: asker.ask("ping")) for _ in range(3)) < 0.1
        assert running.asker().ask("ping") == {"pong": True}

    @pytest.mark.parametrize("message", [b"", b"\x00", b"garbage", b"\xc1", b"{" * 5000, b"x" * 65536])
    def test_garbage_gets_an_error(self, others, message):
        assert json.loads(others.asker().raw(message))["error"]["code"] == "bad_request"

    def test_more_than_64_kib_is_dropped_with_its_connection(self, others):
        asker = others.asker()
        asker.socket.set(zmq.RCVTIMEO, 300)
        with pytest.raises(zmq.Again):
            asker.raw(b"x" * 65537)

    def test_no_delimiter_is_dropped_as_a_rep_socket_does(self, others):
        dealer = others.dealer()
        dealer.send_multipart([b'{"cmd":"ping"}'])
        dealer.send_multipart([b"a", b"b", b"c"])
        dealer.send_multipart([b"", b'{"cmd":"ping"}'])
        assert json.loads(dealer.recv_multipart()[1])["ok"]
        dealer.set(zmq.RCVTIMEO, 100)
        with pytest.raises(zmq.Again):
            dealer.recv()

    def test_300_parts_are_one_request_and_get_one_error(self, others):
        dealer = others.dealer()
        dealer.send_multipart([b"", *[b"x" * 1000] * 300])
        error = json.loads(dealer.recv_multipart()[1])["error"]
        assert error["code"] == "bad_request"
        assert "300" in error["message"]
        dealer.send_multipart([b"x"] * 300)

    def test_an_error_about_parts_comes_in_the_encoding_of_the_first(self, others):
        dealer = others.dealer()
        dealer.send_multipart([b"", msgpack.packb({"cmd": "ping"}), b"more"])
        assert msgpack.unpackb(dealer.recv_multipart()[1])["error"]["code"] == "bad_request"

    def test_the_envelope_of_a_proxy_comes_back(self, others):
        dealer = others.dealer()
        dealer.send_multipart([b"hop-2", b"hop-1", b"", b'{"cmd":"ping"}'])
        assert dealer.recv_multipart()[:3] == [b"hop-2", b"hop-1", b""]

    def test_a_pipelining_peer_gets_one_reply_for_each_request(self, others):
        dealer = others.dealer()
        for i in range(100):
            cmd = "nodes" if i % 10 == 0 else "ping"
            dealer.send_multipart([b"", json.dumps({"id": i, "cmd": cmd}).encode()])
        assert {json.loads(dealer.recv_multipart()[1])["id"] for _ in range(100)} == set(range(100))

    def test_a_peer_that_does_not_read_its_pages_gets_no_more_of_them(self, others):
        others.catalog.nodes = lambda _registered: {"nodes": ["x" * 2_000_000]}
        dealer = others.dealer()
        dealer.set(zmq.RCVHWM, 1)
        errors = others.status.roles["responder"]

        def ask():
            dealer.send_multipart([b"", b'{"cmd":"nodes"}'])
            return errors.get(Slot.QUERY_ERRORS) > 0

        wait_until(ask, what="busy")
        replies = [dealer.recv_multipart()[1] for _ in range(4)]
        assert len(replies[0]) > 2_000_000

    def test_clients_that_die_before_their_reply_wedge_nothing(self, others):
        for _ in range(20):
            asker = others.asker()
            asker.socket.send(b'{"cmd":"nodes"}')
            asker.socket.close(linger=50)

    @pytest.mark.parametrize(
        "opening",
        [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\x00" * 64,
            b"\x01\x00" * 40,
        ],
    )
    def test_other_protocols_are_closed_and_nothing_is_delivered(self, others, opening):
        queries = others.status.roles["responder"].get(Slot.QUERIES)
        with tcp.create_connection(("127.0.0.1", others.port), timeout=8) as client:
            client.sendall(opening)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass
        assert others.status.roles["responder"].get(Slot.QUERIES) == queries


def test_beyond_the_rate_the_answer_is_busy_and_carries_the_id(tmp_path, monkeypatch):
    monkeypatch.setattr(responder, "MAX_RATE_PER_S", 1.0)
    monkeypatch.setattr(responder, "_BURST", 5)
    with Running(tmp_path) as running:
        asker = running.asker()
        replies = [json.loads(asker.raw(b'{"id":5,"cmd":"ping"}')) for _ in range(10)]
    assert all(reply["id"] == 5 for reply in replies)
    assert [reply["ok"] for reply in replies[:5]] == [True] * 5
    errors = [reply["error"] for reply in replies[5:] if not reply["ok"]]
    assert len(errors) >= 4
    assert all(error["code"] == "busy" and error["retryable"] for error in errors)


def test_queries_and_errors_are_counted(running):
    asker = running.asker()
    asker.ask("ping")
    asker.ask("nope")
    asker.ask("sessions", limit=5000)
    row = running.status.roles["responder"]
    assert (row.get(Slot.QUERIES), row.get(Slot.QUERY_ERRORS)) == (3, 2)


def test_a_port_in_use_is_a_configuration_error_that_names_the_setting(running):
    with (
        pytest.raises(ConfigError, match=r"query\.endpoint: cannot bind tcp://127\.0\.0\.1"),
        open_responder(running.context, running.catalog.open),
    ):
        pass


class TestStatusBlock:
    """What the block says is what health says."""

    def test_the_newest_word_of_an_uploader_counts(self, running):
        asker = running.asker()
        running.uploader.set(Slot.STORE_FAILING_SINCE_UTC_NS, time.time_ns())
        running.uploader.set(Slot.STORE_TROUBLE, 3)
        running.uploader.set_text(Text.LAST_ERROR, "old words of a dead uploader")
        assert asker.ask("health")["accessible"] is True
        running.uploader.set(Slot.STORE_OK, 0)
        health = wait_until(lambda: (h := asker.ask("health"))["accessible"] is False and h)
        assert health["status"] == "degraded"
        assert health["reasons"][0]["code"] == "store_auth"
        assert health["spool"]["accepting"] is True

    def test_the_profile_of_the_store_is_shown(self, running):
        text = '{"kind":"minio","checksum":"crc32c","conflict_check":"head-first"}'
        running.uploader.set_text(Text.PROFILE, text)
        store = running.asker().ask("health")["store"]
        assert (store["checksum"], store["conflict_check"]) == ("crc32c", "head-first")
        assert store["single_daemon_only"] is True

    def test_half_a_profile_is_none(self, running):
        running.uploader.set_text(Text.PROFILE, '{"kind":"mi')
        assert running.asker().ask("health")["store"]["checksum"] is None

    def test_the_reason_for_refusing_is_named(self, running):
        running.receiver.set(Slot.ACCEPTING, 0)
        running.receiver.set_text(Text.REFUSING, "disk_low: 10 bytes are free")
        running.receiver.set(Slot.REFUSING_SINCE_UTC_NS, time.time_ns())
        health = running.asker().ask("health")
        assert (health["status"], health["reasons"][0]["code"]) == ("unhealthy", "disk_low")

    def test_counters_are_summed_over_roles_and_rejections_go_by_reason(self, running):
        running.receiver.add(Slot.RECEIVED, 3)
        running.receiver.reject("payload")
        running.uploader.add(Slot.STORED, 2)
        asker = running.asker()
        stats = wait_until(lambda: (s := asker.ask("stats"))["stored"] and s)
        assert (stats["received"], stats["stored"], stats["rejected"]) == (3, 2, {"payload": 1})


def test_a_role_that_peers_have_filled_ends_to_be_replaced(tmp_path):
    running = Running(tmp_path)
    with open_responder(running.context, running.catalog.open, resident_bytes=lambda: 2**40) as role:
        assert role.serve() == 1
    os.close(running.stop_fd)
    running.zmq.term()


def test_the_daemon_is_as_old_as_its_supervisor(running):
    assert responder.daemon_started_ns(running.status) < time.monotonic_ns()
