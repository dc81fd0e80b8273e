"""HTTP connections without a network: URLs, request bytes, and what becomes of a connection."""

import contextlib
import socket
import threading

import pytest

from ingestd.errors import ConfigError, StoreCorrupt, StoreError, StoreUnreachable
from ingestd.storage import http as module
from ingestd.storage.http import MAX_IDLE, MAX_PARTS, Endpoint, HttpClient, Request, Timing
from ingestd.storage.reply import ReplyParser
from ingestd.testing.waiting import wait_until

QUICK = Timing(base_s=1.0, progress_s=0.5, connect_s=0.5, early_s=0.2, continue_s=0.1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class TestEndpoint:
    """A URL is read in one way or refused."""

    @pytest.mark.parametrize(
        ("url", "endpoint", "netloc"),
        [
            ("http://minio", Endpoint("minio", 80, tls=False), "minio"),
            ("http://minio:9000/", Endpoint("minio", 9000, tls=False), "minio:9000"),
            ("https://s3.eu-central-1.amazonaws.com", Endpoint("s3.eu-central-1.amazonaws.com", 443, tls=True),
             "s3.eu-central-1.amazonaws.com"),
            ("https://h:80", Endpoint("h", 80, tls=True), "h:80"),
            ("10.0.0.1:9000", Endpoint("10.0.0.1", 9000, tls=False), "10.0.0.1:9000"),
            ("my_minio_1:9000", Endpoint("my_minio_1", 9000, tls=False), "my_minio_1:9000"),
            ("http://[::1]:9000", Endpoint("::1", 9000, tls=False), "[::1]:9000"),
            ("https://[fe80::1]", Endpoint("fe80::1", 443, tls=True), "[fe80::1]"),
        ],
    )  # fmt: skip
    def test_it_is_host_port_and_tls(self, url, endpoint, netloc):
        assert Endpoint.parse(url) == endpoint
        assert endpoint.netloc == netloc
        assert Endpoint.parse(str(endpoint)) == endpoint

    @pytest.mark.parametrize(
        "url",
        ["", "host", "http://", "http://:9000", "ftp://host:1", "host:0", "host:65536", "host:-1", "host:9000x", "host:9000 ",
         "http://host/path", "http://host?query", "http://user:password@host:1", "http://ho st", "http://a..b:1", "http://.a:1",
         "http://-a:1", "https://" + "a" * 64 + ".b", "http://[::::]:1", "http://[1.2.3.4]:1", "http://::1:9000", "host:\u0669",
         "http://h\u00f6st", "http://host:1\n"],
    )  # fmt: skip
    def test_anything_else_is_refused_and_not_repeated(self, url):
        with pytest.raises(ConfigError, match=r"minio\.url cannot be read") as caught:
            Endpoint.parse(url)
        assert "password@" not in str(caught.value)


class TestRequest:
    """What is sent is what was meant, to the byte."""

    def test_the_head_of_a_put_tells_its_length(self):
        request = Request(
            "PUT", "/b/k", {"Host": "h"}, (b"ab", b"", memoryview(b"cde")), expect_continue=True
        )
        assert request.head() == (
            b"PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )

    def test_other_methods_have_no_length(self):
        assert Request("GET", "/b/k", {"Host": "h"}).head() == b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n"

    @pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "h\u00f6st"])
    @pytest.mark.parametrize("place", ["target", "header"])
    def test_a_value_cannot_become_a_header(self, value, place):
        target, header = ("/" + value, "x") if place == "target" else ("/", value)
        with pytest.raises(ConfigError):
            Request("GET", target, {"Host": header}).head()


class Peers:
    """The other ends of the client's connections, in the order in which they were made."""

    def __init__(self):
        self.ends = []
        self.refuse = False

    def connect(self, _endpoint, _left_s):
        if self.refuse:
            raise ConnectionRefusedError(111, "Connection refused")
        mine, other = socket.socketpair()
        other.settimeout(2)
        self.ends.append(other)
        return mine

    def close(self):
        for end in self.ends:
            end.close()


@pytest.fixture
def peers(monkeypatch):
    made = Peers()
    monkeypatch.setattr(module, "_connect", made.connect)
    yield made
    made.close()


@pytest.fixture
def client(peers):
    made = HttpClient(Endpoint("host", 80, tls=False), timing=QUICK)
    yield made
    made.close()


def ask(client, peers, answer, number=0, request=None):
    """Reply, or error, to a request that the connection of this number answers with `answer`."""
    outcome = []

    def run():
        try:
            outcome.append(client.request(request or Request("GET", "/", {"Host": "host"})))
        except StoreError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    end, head = end_of(peers, number), b""
    while b"\r\n\r\n" not in head:
        head += end.recv(65536)
    end.sendall(answer)
    thread.join(5)
    return outcome[0]


def end_of(peers, number):
    """The other end of a connection, once it is made."""
    wait_until(lambda: len(peers.ends) > number, 2.0, "a connection")
    return peers.ends[number]


def closed(end):
    """Whether the client has closed its end."""
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


class TestMeanwhile:
    """Work that waits for nobody is done while the server has the body."""

    def test_it_is_done_once_the_body_is_sent_and_before_the_reply(self, client, peers):
        body, seen = b"x" * 100, []

        def meanwhile():
            received = b""
            while not received.endswith(body):
                received += end_of(peers, 0).recv(65536)
            seen.append(received)
            end_of(peers, 0).sendall(OK)

        reply = client.request(Request("PUT", "/", {"Host": "h"}, (body,), meanwhile=meanwhile))
        assert reply.status == 200
        assert len(seen) == 1

    def test_a_server_that_refuses_the_body_needs_none(self, client, peers):
        done = []
        request = Request(
            "PUT", "/", {"Host": "h"}, (b"x",), expect_continue=True, meanwhile=lambda: done.append(1)
        )
        refused = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
        assert ask(client, peers, refused, request=request).status == 412
        assert not done

    def test_a_bug_in_it_closes_the_connection(self, client, peers):
        def meanwhile():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            client.request(Request("PUT", "/", {"Host": "h"}, (b"x",), meanwhile=meanwhile))
        end_of(peers, 0).recv(65536)
        assert closed(end_of(peers, 0))


class TestConnections:
    """A connection serves again only where nothing speaks against it."""

    def test_a_good_reply_keeps_it(self, client, peers):
        for _ in range(3):
            assert ask(client, peers, OK).body == b"ok"
        assert len(peers.ends) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            OK + b"H",
            OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
            OK.replace(b"1.1", b"1.0"),
            b"HTTP/1.1 500 no\r\nContent-Length: 999999\r\n\r\n" + bytes(70_000),
        ],
        ids=["more", "close", "1.0", "cut"],
    )
    def test_a_reply_that_leaves_it_out_of_step_does_not(self, client, peers, answer):
        assert ask(client, peers, answer).status in (200, 500)
        assert closed(peers.ends[0])
        assert ask(client, peers, OK, number=1).body == b"ok"

    @pytest.mark.parametrize("happens", ["end", "byte"])
    def test_one_that_ended_or_spoke_while_idle_is_replaced(self, client, peers, happens):
        ask(client, peers, OK)
        if happens == "end":
            peers.ends[0].close()
        else:
            peers.ends[0].sendall(b"H")
        assert ask(client, peers, OK, number=1).body == b"ok"

    def test_one_that_was_idle_for_long_is_replaced(self, client, peers):
        ask(client, peers, OK)
        client._idle[0].used_s -= QUICK.idle_s
        assert ask(client, peers, OK, number=1).body == b"ok"
        assert closed(peers.ends[0])

    def test_one_that_ends_without_an_answer_is_replaced_once(self, client, peers):
        """The server's idle time and our request crossed."""
        ask(client, peers, OK)
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(client.request(Request("GET", "/", {}))))
        thread.start()
        peers.ends[0].recv(65536)
        peers.ends[0].close()
        end_of(peers, 1).recv(65536)
        peers.ends[1].sendall(OK)
        thread.join(5)
        assert outcome[0].body == b"ok"
        assert len(peers.ends) == 2

    def test_a_new_one_that_ends_without_an_answer_is_an_error(self, client, peers):
        outcome = []

        def run():
            try:
                client.request(Request("GET", "/", {}))
            except StoreError as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        end_of(peers, 0).recv(65536)
        peers.ends[0].close()
        thread.join(5)
        assert type(outcome[0]) is StoreUnreachable
        assert "http://host: connection lost" in str(outcome[0])
        assert len(peers.ends) == 1

    def test_more_than_are_needed_are_closed(self, client, peers):
        connections = [module._Connection(peers.connect(None, 0)) for _ in range(MAX_IDLE + 3)]
        for connection in connections:
            client._keep(connection)
        assert len(client._idle) == MAX_IDLE
        assert all(closed(end) for end in peers.ends[:3])

    def test_closing_the_client_closes_them(self, client, peers):
        ask(client, peers, OK)
        client.close()
        assert closed(peers.ends[0])
        assert ask(client, peers, OK, number=1).body == b"ok"

    def test_a_server_that_is_not_there_is_named(self, client, peers):
        peers.refuse = True
        with pytest.raises(StoreUnreachable, match=r"http://host: cannot connect \(Connection refused"):
            client.request(Request("GET", "/", {}))

    def test_an_early_success_is_no_success(self, client, peers):
        """The store cannot have what was not sent."""
        request = Request("PUT", "/", {}, (bytes(8 * 2**20),))
        assert type(ask(client, peers, OK, request=request)) is StoreCorrupt
        assert closed_after_reading(peers.ends[0])

    def test_a_body_of_very_many_parts_is_sent_whole(self, client, peers):
        parts = tuple(b"%04d" % i for i in range(3 * MAX_PARTS + 1))
        request = Request("PUT", "/", {}, parts)
        received, outcome = bytearray(), []
        thread = threading.Thread(target=lambda: outcome.append(client.request(request)))
        thread.start()
        end = end_of(peers, 0)
        while len(received) < len(request.head()) + request.size_bytes:
            received += end.recv(65536)
        end.sendall(OK)
        thread.join(5)
        assert outcome[0].status == 200
        assert bytes(received) == request.head() + b"".join(parts)


def closed_after_reading(end):
    with contextlib.suppress(ConnectionResetError):
        while end.recv(2**20):
            pass
    return True


def test_a_name_that_nobody_knows_is_unreachable(monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StoreUnreachable, match="Name or service not known"):
        HttpClient(Endpoint("nowhere.invalid", 80, tls=False), timing=QUICK).request(Request("GET", "/", {}))


def test_all_addresses_of_a_name_share_one_time(monkeypatch):
    tried = []

    class Silent(socket.socket):
        def connect(self, address):
            tried.append((address, self.gettimeout()))
            raise TimeoutError

    row = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*row, (f"127.0.0.{i}", 1)) for i in range(20)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
    monkeypatch.setattr(socket, "socket", Silent)
    with pytest.raises(StoreUnreachable, match="timed out"):
        HttpClient(Endpoint("many", 80, tls=False), timing=QUICK).request(Request("GET", "/", {}))
    assert len(tried) == module.MAX_ADDRESSES
    assert all(timeout_s <= QUICK.connect_s for _, timeout_s in tried)


def test_bytes_that_were_sent_are_dropped_from_the_front():
    views = [memoryview(b"abc"), memoryview(b"de"), memoryview(b"f")]
    module._drop(views, 4)
    assert [bytes(view) for view in views] == [b"e", b"f"]
    module._drop(views, 2)
    assert views == []


def test_a_peer_that_always_has_a_byte_more_does_not_escape_the_deadline():
    """The socket never blocks, so no wait would notice."""
    mine, other = socket.socketpair()
    with mine, other:
        other.sendall(OK)
        limit = module._Limit(Timing(base_s=0.0), 0)
        parser = ReplyParser(is_head=False, max_body_bytes=10)
        with pytest.raises(StoreUnreachable, match="not done within"):
            module._Connection(mine)._reply(parser, limit)
