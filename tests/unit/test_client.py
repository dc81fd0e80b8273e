"""The client before a daemon that is late, silent, wrong or gone."""

import json
import threading

import pytest
import zmq

from ingestd.client import Client
from ingestd.errors import NotFound, QueryError, Unavailable, UsageError
from ingestd.testing.waiting import free_port


class Peer:
    """A ROUTER that answers with what `act(request)` returns; None = no answer."""

    def __init__(self, act):
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.requests = []
        self._act = act
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self._thread.join(10)

    def _serve(self):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(self.endpoint)
            while not self._stop.is_set():
                if socket.poll(20):
                    identity, empty, raw = socket.recv_multipart()
                    request = json.loads(raw)
                    self.requests.append(request)
                    reply = self._act(request)
                    if reply is not None:
                        socket.send_multipart([identity, empty, reply])


def ok(request, **data):
    return json.dumps({"v": 1, "id": request["id"], "ok": True, "data": data}).encode()


def refusal(request, code, retryable=False):
    error = {"code": code, "message": f"it is {code}", "retryable": retryable, "details": {"a": 1}}
    return json.dumps({"v": 1, "id": request["id"], "ok": False, "error": error}).encode()


def test_a_command_and_its_arguments_go_out_and_its_data_comes_back():
    with Peer(lambda request: ok(request, pong=True)) as peer, Client(peer.endpoint) as client:
        assert client.ping() == {"pong": True}
        client.measurement("t", 1, chunk=None, copy="00000000")
    assert peer.requests[1]["args"] == {"task_id": "t", "websdr_id": 1, "copy": "00000000"}, (
        "None is left out"
    )


def test_an_unanswered_request_is_asked_again_on_a_new_socket():
    with Peer(lambda request: ok(request) if request["id"] >= 3 else None) as peer:
        with Client(peer.endpoint, timeout_s=0.2, retries=2) as client:
            assert client.ping() == {}
            assert client.ping() == {}
        assert [request["id"] for request in peer.requests] == [1, 2, 3, 4]


def test_nobody_is_unavailable_and_named():
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(Unavailable, match=f"no answer from {endpoint}"),
        Client(endpoint, timeout_s=0.1, retries=1) as client,
    ):
        client.health()


def test_another_requests_reply_is_never_taken_for_ours():
    with (
        Peer(lambda request: ok({"id": 99})) as peer,
        Client(peer.endpoint, timeout_s=0.5, retries=0) as client,
    ):
        with pytest.raises(QueryError):
            client.ping()


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense", b"[]", b'{"v":1}', b'{"v":1,"id":1,"ok":false}', b"\xff" * 100]
)
def test_what_is_no_reply_is_an_error_and_never_data(reply):
    with Peer(lambda _request: reply) as peer, Client(peer.endpoint, timeout_s=1, retries=0) as client:
        with pytest.raises(QueryError, match="not one of the query protocol"):
            client.ping()


def test_errors_keep_their_code():
    codes = {"a": "not_found", "b": "busy", "c": "invalid_argument"}
    with Peer(lambda request: refusal(request, codes[request["args"]["task_id"]], retryable=True)) as peer:
        with Client(peer.endpoint) as client:
            with pytest.raises(NotFound, match="it is not_found"):
                client.session("a")
            for task_id in "bc":
                with pytest.raises(QueryError) as caught:
                    client.session(task_id)
                assert (caught.value.code, caught.value.retryable, caught.value.details) == (
                    codes[task_id],
                    True,
                    {"a": 1},
                )


def test_an_endpoint_that_is_none_is_a_usage_error():
    with pytest.raises(UsageError, match="nonsense"), Client("nonsense") as client:
        client.ping()


def test_a_closed_client_can_be_used_again():
    with Peer(ok) as peer:
        client = Client(peer.endpoint)
        client.ping()
        client.close()
        client.ping()
        client.close()
