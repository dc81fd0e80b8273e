"""The client before a daemon that is late, silent, wrong or gone: one answer or one error, in time, never another's."""

import json
import threading
import time

import pytest
import zmq

from ingestd.client import Client
from ingestd.errors import NotFound, QueryError, Unavailable, UsageError
from ingestd.formats import protocol
from ingestd.formats.commands import COMMANDS
from ingestd.testing.waiting import free_port


class Peer:
    """A ROUTER that sends what `act` makes of all requests so far: [(connection, reply), ...]."""

    def __init__(self, act, endpoint=None):
        self.endpoint = endpoint or f"tcp://127.0.0.1:{free_port()}"
        self.requests = []
        self._act = act
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(self.endpoint)
            self._ready.set()
            while not self._stop.is_set():
                if socket.poll(20):
                    connection, empty, message = socket.recv_multipart()
                    self.requests.append((connection, json.loads(message)))
                    for to, reply in self._act(self.requests):
                        socket.send_multipart([to, empty, reply])


def ok(request, **data):
    return json.dumps({"v": 1, "id": request["id"], "ok": True, "data": data}).encode()


def echo(requests):
    """Say what was asked."""
    connection, request = requests[-1]
    return [(connection, ok(request, cmd=request["cmd"], args=request["args"]))]


def saying(text):
    """Say this, with the request's id put in."""

    def act(requests):
        connection, request = requests[-1]
        return [(connection, text.replace("ID", str(request["id"])).encode("utf-8", "surrogateescape"))]

    return act


def test_an_answer_is_its_data_and_arguments_that_are_none_are_left_out():
    with Peer(echo) as peer, Client(peer.endpoint) as client:
        assert client.query("sessions", limit=3, cursor=None) == {"cmd": "sessions", "args": {"limit": 3}}
        assert client.ping() == {"cmd": "ping", "args": {}}
    assert [request["id"] for _, request in peer.requests] == [1, 2]
    assert len({connection for connection, _ in peer.requests}) == 1, "one socket serves many questions"


#: Every command of the protocol, as a client's caller writes it.
CALLS = {
    "ping": lambda client: client.ping(),
    "health": lambda client: client.health(),
    "stats": lambda client: client.stats(),
    "sessions": lambda client: client.sessions(limit=2, cursor="c"),
    "session": lambda client: client.session("t"),
    "measurements": lambda client: client.measurements(task_id="t", since="2026-01-01T00:00:00Z", limit=5),
    "measurement": lambda client: client.measurement("t", 1, chunk=2, copy="0a1b2c3d"),
    "confirm": lambda client: client.confirm("n", 7),
    "nodes": lambda client: client.nodes(),
    "failed": lambda client: client.failed(),
    "rejected": lambda client: client.rejected(limit=1),
    "config": lambda client: client.config(),
    "version": lambda client: client.version(),
    "help": lambda client: client.help(),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_command_has_a_method_that_asks_what_the_daemon_takes(name):
    with Peer(echo) as peer, Client(peer.endpoint) as client:
        assert CALLS[name](client)["cmd"] == name
    request = protocol.decode(json.dumps(peer.requests[0][1]).encode())
    assert isinstance(request, protocol.Request)
    assert request.command.name == name


def test_no_command_of_the_protocol_lacks_a_method():
    assert {*CALLS, "url"} == COMMANDS.keys()


def test_url_is_the_text_alone():
    act = saying('{"id": ID, "ok": true, "data": {"url": "file:///x"}}')
    with Peer(act) as peer, Client(peer.endpoint) as client:
        assert client.url("t", 1) == "file:///x"
        request = protocol.decode(json.dumps(peer.requests[0][1]).encode())
        assert isinstance(request, protocol.Request)


def test_without_an_answer_every_try_has_a_socket_of_its_own_and_then_it_is_unavailable():
    with Peer(lambda _requests: []) as peer, Client(peer.endpoint, timeout_s=0.1, retries=2) as client:
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer from tcp://.* in 0.1 s \(3 tries\)"):
            client.ping()
        assert time.monotonic() - began_s < 5
        assert len({connection for connection, _ in peer.requests}) == 3


def test_an_answer_to_the_third_try_is_an_answer():
    with Peer(lambda requests: echo(requests) if len(requests) >= 3 else []) as peer:
        with Client(peer.endpoint, timeout_s=0.2, retries=2) as client:
            assert client.query("ping")["cmd"] == "ping"
            assert client.query("stats")["cmd"] == "stats"
        assert [request["id"] for _, request in peer.requests] == [1, 2, 3, 4]


def test_a_late_answer_is_never_taken_for_that_of_the_next_question():
    def late(requests):
        """Both answers at once, the late one first."""
        if len(requests) < 2:
            return []
        return [(connection, ok(request, cmd=request["cmd"])) for connection, request in requests[-2:]]

    with Peer(late) as peer, Client(peer.endpoint, timeout_s=0.3, retries=0) as client:
        with pytest.raises(Unavailable):
            client.query("health")
        assert client.query("stats") == {"cmd": "stats"}
        assert len(peer.requests) == 2


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("invalid_argument", False), ("busy", True), ("unavailable", True), ("internal", False)],
)
def test_an_error_keeps_its_code_and_whether_to_ask_again(code, retryable):
    error = json.dumps({"code": code, "message": "why", "retryable": retryable, "details": {"allowed": "1"}})
    with (
        Peer(saying(f'{{"id": ID, "ok": false, "error": {error}}}')) as peer,
        Client(peer.endpoint) as client,
    ):
        with pytest.raises(QueryError) as caught:
            client.ping()
        assert (caught.value.code, caught.value.message, caught.value.retryable) == (code, "why", retryable)
        assert caught.value.details == {"allowed": "1"}
        assert len(peer.requests) == 1, "an answer is an answer: the caller decides whether to ask again"


def test_not_found_is_an_error_of_its_own():
    error = '{"code": "not_found", "message": "no session x", "retryable": false}'
    with (
        Peer(saying(f'{{"id": ID, "ok": false, "error": {error}}}')) as peer,
        Client(peer.endpoint) as client,
    ):
        with pytest.raises(NotFound, match="no session x"):
            client.session("x")


NO_ANSWERS = [
    "",
    "\udcff\udcfe",
    "nonsense",
    "[]",
    "null",
    "{}",
    '{"id": 999, "ok": true, "data": {}}',
    '{"id": ID, "ok": true}',
    '{"id": ID, "ok": true, "data": null}',
    '{"id": ID, "ok": true, "data": [1]}',
    '{"id": ID, "ok": true, "data": "text"}',
    '{"id": ID, "ok": false}',
    '{"id": ID, "ok": false, "error": "text"}',
    '{"id": ID, "ok": false, "error": {"code": "busy"}}',
    '{"id": ID, "ok": false, "error": {"code": "busy", "message": "", "retryable": true, "details": [1]}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
def test_what_is_no_answer_is_said_and_the_next_question_is_answered(text):
    def act(requests):
        return saying(text)(requests) if len(requests) == 1 else echo(requests)

    with Peer(act) as peer, Client(peer.endpoint, timeout_s=5) as client:
        with pytest.raises(QueryError, match="not one of the query protocol") as caught:
            client.ping()
        assert caught.value.code == "internal"
        assert len(str(caught.value)) < 300, "what came is bounded"
        assert client.query("stats")["cmd"] == "stats"


def test_where_nobody_listens_it_is_unavailable_in_time():
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    began_s = time.monotonic()
    with Client(endpoint, timeout_s=0.1, retries=1) as client:
        with pytest.raises(Unavailable, match=f"no answer from {endpoint}"):
            client.ping()
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("endpoint", ["", "gateway:5556", "tcp://", "bogus://x"])
def test_an_endpoint_that_is_none_is_the_callers_error(endpoint):
    with Client(endpoint, timeout_s=0.1, retries=0) as client, pytest.raises(UsageError, match="endpoint"):
        client.ping()


def test_a_daemon_that_comes_back_at_the_same_place_is_found_again():
    with Peer(echo) as peer:
        client = Client(peer.endpoint, timeout_s=2)
        client.ping()
    with client, Peer(echo, peer.endpoint):
        assert client.ping()["cmd"] == "ping"


def test_a_closed_client_can_be_used_again():
    with Peer(echo) as peer:
        client = Client(peer.endpoint)
        client.ping()
        client.close()
        client.close()
        assert client.ping()["cmd"] == "ping"
        client.close()
