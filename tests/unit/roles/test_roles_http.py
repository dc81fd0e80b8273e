"""The HTTP port: three paths, strict bounds, and no client that can keep another from its answer."""

import contextlib
import http.client
import socket
import time

import pytest

from ingestd.config import load
from ingestd.errors import ConfigError
from ingestd.roles.http import MAX_CONNECTIONS, Response, answer, serve_http
from ingestd.roles.monitor import Monitor
from ingestd.roles.status import Slot, StatusBlock, StatusLayout
from ingestd.testing.waiting import free_port


class Served:
    """A server on a free port with its status block."""

    def __init__(self, tmp_path):
        self.status = StatusBlock.create(StatusLayout(("receiver", "uploader-0", "responder")))
        for row in self.status.watch.values():
            row.set(Slot.WATCH_STATE, 1)
            row.set(Slot.WATCH_SINCE_NS, time.monotonic_ns() - 60 * 10**9)
        self.receiver = self.status.roles["receiver"]
        self.receiver.set(Slot.ACCEPTING, 1)
        settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
        self.monitor = Monitor(self.status, settings, time.monotonic_ns() - 60 * 10**9)
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"

    def get(self, path, method="GET"):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(client):
            client.request(method, path)
            reply = client.getresponse()
            return reply.status, reply.read(), reply.headers

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def raw(self, message):
        """Everything that comes back until the server closes."""
        with self.connect() as client:
            client.sendall(message)
            return read_all(client)


def read_all(client):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


@pytest.fixture
def served(tmp_path):
    one = Served(tmp_path)
    with serve_http(one.endpoint, one.monitor):
        yield one


def test_a_working_daemon_is_healthy_ready_and_measured(served):
    assert served.get("/healthz")[:2] == (200, b"healthy\n")
    assert served.get("/readyz")[:2] == (200, b"accepting\n")
    status, body, headers = served.get("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"ingestd_frames_stored_total 0.0" in body


def test_with_the_store_down_it_is_healthy_and_ready(served):
    uploader = served.status.roles["uploader-0"]
    uploader.set(Slot.STORE_FAILING_SINCE_UTC_NS, time.time_ns())
    uploader.set(Slot.STORE_TROUBLE, 1)
    assert served.get("/healthz")[:2] == (200, b"degraded\n")
    assert served.get("/readyz")[0] == 200


def test_not_accepting_is_not_ready_but_alive(served):
    served.receiver.set(Slot.ACCEPTING, 0)
    assert served.get("/readyz")[:2] == (503, b"not accepting\n")
    assert served.get("/healthz")[0] == 200


def test_a_role_that_stays_down_is_not_healthy(served):
    served.status.watch["uploader-0"].set(Slot.WATCH_STATE, 2)
    assert served.get("/healthz")[0] == 503


def test_head_has_the_fields_of_get_without_the_body(served):
    status, body, headers = served.get("/readyz", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "10")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz2", "/../etc/passwd", "//healthz", "/%2e%2e"])
def test_other_paths_are_404(served, path):
    assert served.get(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_405_and_name_the_allowed(served, method):
    status, _, headers = served.get("/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_query_string_is_ignored(served):
    assert served.get("/healthz?verbose=1")[0] == 200


def test_bare_line_feeds_and_http_1_0_are_taken(served):
    assert served.raw(b"GET /readyz HTTP/1.0\n\n").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "message",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\x00" * 100,
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",
        b"get / http/1.1\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET  /metrics HTTP/1.1\r\n\r\n",
        b"GET http://a/metrics HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_400(served, message):
    reply = served.raw(message)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Traceback" not in reply


def test_http_2_is_refused_by_version():
    assert answer(b"PRI * HTTP/2.0\r\n\r\n", {}).startswith(b"HTTP/1.1 400 ")
    assert answer(b"GET / HTTP/2.0\r\n\r\n", {}).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("size_bytes", [9_000, 1_000_000])
def test_a_head_over_8_kib_is_431(served, size_bytes):
    with served.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * size_bytes)
        assert read_all(client).startswith(b"HTTP/1.1 431 ") or size_bytes > 100_000
    assert served.get("/healthz")[0] == 200


def test_a_request_in_pieces_is_put_together(served):
    with served.connect() as client:
        for piece in (b"GET /rea", b"dyz HTTP/1.1\r\nHo", b"st: a\r\n\r", b"\n"):
            client.sendall(piece)
        assert b" 200 OK" in read_all(client)


def test_a_silent_client_is_closed_after_two_seconds(served):
    began_s = time.monotonic()
    assert served.raw(b"GET /healthz HT") == b""
    assert 1.5 < time.monotonic() - began_s < 4.0


def test_a_client_that_trickles_is_closed_all_the_same(served):
    began_s = time.monotonic()
    with served.connect() as client:
        client.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began_s < 10:
                client.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(100):
                        break
    assert time.monotonic() - began_s < 4.0


def test_idle_connections_shut_nobody_out(served):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(5 * MAX_CONNECTIONS)]
        began_s = time.monotonic()
        assert served.get("/healthz")[0] == 200
        assert time.monotonic() - began_s < 1.0
        assert read_all(idle[0]) == b""


def test_a_bug_is_500_without_a_trace_and_the_next_request_is_answered():
    def broken():
        raise ZeroDivisionError("secret detail")

    known = {"/bug": broken, "/ok": lambda: Response(200, b"ok\n")}
    reply = answer(b"GET /bug HTTP/1.1\r\n\r\n", known)
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in reply
    assert answer(b"GET /ok HTTP/1.1\r\n\r\n", known).endswith(b"ok\n")


def test_an_empty_endpoint_is_off(served):
    with serve_http("", served.monitor) as server:
        assert server is None


def test_a_port_in_use_is_a_configuration_error_that_names_the_setting(served):
    with (
        pytest.raises(ConfigError, match=rf"http\.endpoint: cannot bind {served.endpoint}: Address already"),
        serve_http(served.endpoint, served.monitor),
    ):
        pass


def test_a_name_that_nobody_knows_is_a_configuration_error(served):
    with (
        pytest.raises(ConfigError, match=r"http\.endpoint"),
        serve_http("no-such-host.invalid:9108", served.monitor),
    ):
        pass


def test_ipv6_works_where_there_is_any(served):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    port = free_port()
    try:
        with (
            serve_http(f"[::1]:{port}", served.monitor),
            socket.create_connection(("::1", port), 5) as client,
        ):
            client.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
            assert b" 200 OK" in read_all(client)
    except ConfigError as error:
        pytest.skip(str(error))


def test_the_port_is_free_again_after_the_block(tmp_path):
    one = Served(tmp_path)
    for _ in range(2):
        with serve_http(one.endpoint, one.monitor):
            assert one.get("/readyz")[0] == 200
