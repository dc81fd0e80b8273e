"""MinioStore before a server that misbehaves: what is no proof is no success, and every wait ends."""

import contextlib
import gzip
import random
import select
import socket
import ssl
import struct
import threading
import time
import tracemalloc

import pytest

from ingestd.errors import (
    ConfigError,
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats import npy
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import Measurement
from ingestd.storage import minio as module
from ingestd.storage.http import Timing
from ingestd.storage.minio import MinioStore
from ingestd.storage.port import Body, StoreProfile, crc32c_base64

CONTENT = b"x" * 200_000
BODY = Body((CONTENT[:128], CONTENT[128:]), crc32c(CONTENT))
QUICK = Timing(base_s=1.0, rate_bytes_per_s=10**7, progress_s=0.5, connect_s=0.5, early_s=0.5, continue_s=0.2)


#: Key and certificate, signed by itself, of 127.0.0.1 until 2126; of no use but here.
SERVER_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgcmWbP020rlb+BqPM
YgzjxN6jM2N0oWHH/mwtUyOMaHmhRANCAASZ+pH7FSI2X6Lgk9cnIvjCwYEou/cW
4p3tazZ36hKDCHItp+TUKAzuCp2E+44G1J/rxzvGn9g9etZdk2zEGQWI
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBlTCCATygAwIBAgIUEmUBc0EIgzK62NnP9lvDACc6GeEwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMaW5nZXN0ZCB0ZXN0MCAXDTI2MTEyMzA3MTkxOVoYDzIxMjYx
MDMwMDcxOTE5WjAXMRUwEwYDVQQDDAxpbmdlc3RkIHRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASZ+pH7FSI2X6Lgk9cnIvjCwYEou/cW4p3tazZ36hKDCHIt
p+TUKAzuCp2E+44G1J/rxzvGn9g9etZdk2zEGQWIo2QwYjAdBgNVHQ4EFgQUivRK
K4ByN/w7ZNUlo090l4Y3LCUwHwYDVR0jBBgwFoAUivRKK4ByN/w7ZNUlo090l4Y3
LCUwDwYDVR0RBAgwBocEfwAAATAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMC
A0cAMEQCIQCKUxdunjbHQ9yB3qNXcYIk7xdMLwRSIngr+VKx4W1CMAIfdFI94/59
/reQxl46IZ+or1eKA+mQ1RjjHMbS5cgtRg==
-----END CERTIFICATE-----
"""


class Server:
    """Answers each request with what `act(connection, method, target, headers)` does."""

    def __init__(self, act, *, read_body=True, tls=None):
        self._act, self._read_body, self._tls = act, read_body, tls
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        # Wakes accept, which close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self):
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            connection.settimeout(3)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            while not self._stop.is_set():
                head = b""
                while b"\r\n\r\n" not in head:
                    received = connection.recv(65536)
                    if not received:
                        return
                    head += received
                head, _, rest = head.partition(b"\r\n\r\n")
                line, *lines = head.decode().split("\r\n")
                method, target, _ = line.split(" ")
                headers = {k.lower(): v for k, v in (one.split(": ", 1) for one in lines)}
                self.requests.append((method, target, headers))
                if headers.get("expect") == "100-continue" and self._read_body:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                left = int(headers.get("content-length", 0)) - len(rest)
                while self._read_body and left > 0:
                    received = connection.recv(min(left, 65536))
                    if not received:
                        return
                    left -= len(received)
                if self._act(connection, method, target, headers) is False:
                    return


def reply(status, body=b"", **headers):
    lines = [f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fault(status, code, **headers):
    return reply(status, f"<Error><Code>{code}</Code><Message>told</Message></Error>".encode(), **headers)


GOOD = reply(200, ETag='"abc"', x_amz_checksum_crc32c=crc32c_base64(BODY.crc32c))


@contextlib.contextmanager
def store_before(act, timing=QUICK, ca_file=None, **kwargs):
    with Server(act, **kwargs) as server:
        store = MinioStore(server.url, "access", "secret", "bucket-1", timing=timing, ca_file=ca_file)
        with contextlib.closing(store):
            yield store, server


def read_body(connection, n_bytes):
    while n_bytes:
        n_bytes -= len(connection.recv(min(n_bytes, 65536)))


def says(data):
    return lambda connection, *_: connection.sendall(data)


NO_PROOF = [
        (b"HTTP/1.1 200 O", StoreCorrupt),
        (b"HTTP/1.1 200 OK\r\nETag: x\r\n", StoreCorrupt),
        (reply(200), StoreCorrupt),
        (reply(200, b"<?xml?><Error><Code>InternalError</Code></Error>", ETag='"abc"'), StoreCorrupt),
        (reply(200, ETag='"abc"', x_amz_checksum_crc32c="AAAAAA=="), StoreCorrupt),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\nab", StoreCorrupt),
        (b"SSH-2.0-OpenSSH_9.2\r\n", StoreMisconfigured),
        (b"", StoreUnreachable),
        (fault(503, "SlowDown", Retry_After="86400"), StoreBusy),
        (fault(429, "TooManyRequests"), StoreBusy),
        (fault(500, "InternalError"), StoreBusy),
        (fault(502, ""), StoreBusy),
        (fault(504, ""), StoreBusy),
        (fault(409, "ConditionalRequestConflict"), StoreBusy),
        (fault(400, "RequestTimeout"), StoreBusy),
        (fault(507, "XMinioStorageFull"), StoreBusy),
        (fault(401, ""), StoreDenied),
        (fault(403, "AccessDenied"), StoreDenied),
        (fault(403, "ExpiredToken"), StoreDenied),
        (fault(403, "RequestTimeTooSkewed"), StoreDenied),
        (fault(404, "NoSuchBucket"), StoreMisconfigured),
        (fault(301, "PermanentRedirect", Location="http://127.0.0.1:1/elsewhere"), StoreMisconfigured),
        (fault(307, "TemporaryRedirect", Location="http://127.0.0.1:1/elsewhere"), StoreMisconfigured),
        (fault(400, "AuthorizationHeaderMalformed"), StoreMisconfigured),
        (fault(400, "BadDigest"), StoreCorrupt),
        (fault(400, "InvalidArgument"), StoreRefused),
        (fault(413, "EntityTooLarge"), StoreRefused),
        (fault(501, "NotImplemented"), StoreRefused),
        (reply(201, ETag='"abc"'), StoreCorrupt),
        (reply(206, ETag='"abc"'), StoreCorrupt),
        (b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n", StoreCorrupt),
        (b"HTTP/1.1 100 Continue\r\n\r\n", StoreUnreachable),
        (fault(503, "SlowDown", Retry_After="\xb2"), StoreBusy),
        (reply(502, b"<html>" + b"x" * 100_000, Content_Type="text/html"), StoreBusy),
    ]  # fmt: skip


def kind_ids(one):
    return one.__name__ if isinstance(one, type) else repr(one[:40])


def says_once(data):
    """Says it and closes the connection."""

    def act(connection, *_):
        connection.sendall(data)
        return False

    return act


@pytest.mark.parametrize("call", ["put", "put_new"])
@pytest.mark.parametrize(("data", "kind"), NO_PROOF, ids=kind_ids)
def test_a_reply_that_is_no_proof_is_the_right_error_and_no_success(data, kind, call):
    with store_before(says_once(data)) as (store, _):
        store._profile = StoreProfile("minio", "crc32c", "if-none-match")
        with pytest.raises(StoreError) as caught:
            getattr(store, call)("key", BODY)
        assert type(caught.value) is kind


@pytest.mark.parametrize("data", [data for data, _ in NO_PROOF], ids=kind_ids)
def test_no_reply_makes_another_call_raise_anything_but_an_error_of_the_store(data):
    """What is a success here is another matter: a 200 without an ETag is all that a bucket can say."""
    with store_before(says_once(data)) as (store, _):
        for act in (
            lambda: store.head("key"), lambda: store.get("key", 10), lambda: store.delete("key"), store.check, store.probe,
            lambda: list(store.list("")),
        ):  # fmt: skip
            with contextlib.suppress(StoreError):
                act()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (reply(200, b"content", x_amz_checksum_crc32c="AAAAAA=="), StoreCorrupt),
        (reply(200, b"content of over twenty bytes"), StoreCorrupt),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncont", StoreCorrupt),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n", StoreCorrupt),
        (fault(404, "NoSuchBucket"), StoreMisconfigured),
        (fault(403, "AccessDenied"), StoreDenied),
        (fault(503, "SlowDown"), StoreBusy),
    ],
    ids=kind_ids,
)
def test_bytes_that_are_not_proven_are_not_given_out(data, kind):
    with store_before(says_once(data)) as (store, _):
        with pytest.raises(kind):
            store.get("key", 20)


def test_bytes_with_their_checksum_are_given_out():
    good = reply(200, b"content", x_amz_checksum_crc32c=crc32c_base64(crc32c(b"content")))
    with store_before(says(good)) as (store, _):
        assert store.get("key", 7) == b"content"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nTransfer-Encoding: chunked\r\n\r\n',
    ],
    ids=["no-etag", "no-length"],
)
def test_a_head_without_length_or_etag_tells_nothing(data):
    with store_before(says_once(data)) as (store, _):
        with pytest.raises(StoreCorrupt):
            store.head("key")


def test_an_etag_that_is_no_md5_is_compared_by_the_bytes():
    """Encrypted objects have such ETags."""
    etag = "0123456789abcdef0123456789abcdef"
    for stored in (CONTENT, b"y" * len(CONTENT)):

        def act(connection, method, *_, stored=stored):
            lines = f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: {len(stored)}\r\n\r\n'.encode()
            connection.sendall(lines if method == "HEAD" else lines + stored)

        with store_before(act) as (store, server):
            assert store.same(store.head("key"), BODY) == (stored == CONTENT)
            assert [method for method, *_ in server.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("seed", range(4))
def test_a_good_reply_damaged_anywhere_is_a_success_or_an_error_of_the_store(seed):
    rng = random.Random(seed)
    damaged = []

    def act(connection, *_):
        data = bytearray(GOOD)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        damaged.append(bytes(data))
        connection.sendall(data)
        return False

    small = Body((b"content",), BODY.crc32c)
    with store_before(act, timing=Timing(base_s=0.3, progress_s=0.2)) as (store, _):
        for _ in range(25):
            with contextlib.suppress(StoreError):
                assert store.put("key", small), damaged[-1]


def until_given_up(connection, *_):
    """Wait for the client to reset the connection, whatever it has sent."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll(3000)
    return False


def hang(connection, *_):
    return until_given_up(connection)


def drip(connection, *_):
    for byte in GOOD * 3:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.1)


def reset(connection, *_):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def stall(connection, *_):
    connection.sendall(GOOD.replace(b"Content-Length: 0", b"Content-Length: 50") + b"<?xml")
    return until_given_up(connection)


def drip_an_error(connection, *_):
    """A length that would take a week at the slowest rate: nobody reads that far, and nobody waits for it."""
    connection.sendall(b"HTTP/1.1 500 no\r\nContent-Length: 99999999999\r\n\r\n")
    for _ in range(30):
        connection.sendall(b"x")
        threading.Event().wait(0.1)


@pytest.mark.parametrize("act", [hang, stall, drip, drip_an_error, reset], ids=lambda act: act.__name__)
def test_a_server_that_does_not_come_to_an_end_is_given_up_in_time(act):
    with store_before(act) as (store, _):
        began_s = time.monotonic()
        with pytest.raises(StoreUnreachable):
            store.put("key", BODY)
        assert time.monotonic() - began_s < 2.0


def test_a_body_that_nobody_reads_is_given_up_in_time():
    big = Body((bytes(30 * 2**20),), 0)

    with store_before(until_given_up, read_body=False, timing=Timing(base_s=5.0, progress_s=0.5)) as (
        store,
        _,
    ):
        began_s = time.monotonic()
        with pytest.raises(StoreUnreachable):
            store.put("key", big)
        assert time.monotonic() - began_s < 2.0


def test_a_412_that_comes_before_the_body_is_read_is_read_all_the_same():
    """The server answers and closes with unread bytes: the sender gets a reset in the middle of its body."""
    big = Body((bytes(20 * 2**20),), 0)

    def act(connection, method, *_):
        if method == "PUT":
            connection.sendall(reply(412, ETag='"there"'))
            connection.shutdown(socket.SHUT_WR)
            threading.Event().wait(0.2)
        return False

    with store_before(act, read_body=False) as (store, _):
        store._profile = StoreProfile("minio", "crc32c", "if-none-match")
        result = store.put_new("key", big)
        assert (result.created, result.etag) == (False, "there")


def test_the_next_try_of_a_failed_put_asks_before_it_sends_the_body():
    answers = [None, GOOD]

    def act(connection, *_):
        answer = answers.pop(0)
        if answer is None:
            return False
        connection.sendall(answer)
        return True

    with store_before(act) as (store, server):
        with pytest.raises(StoreUnreachable):
            store.put("key", BODY)
        assert store.put("key", BODY) == "abc"
        assert [headers.get("expect") for _, _, headers in server.requests] == [None, "100-continue"]


def test_an_invitation_that_comes_in_two_pieces_is_one():
    def act(connection, _method, _target, headers):
        if "expect" in headers:
            for piece in (b"HTTP/1.1 100 Con", b"tinue\r\n\r\n"):
                connection.sendall(piece)
                threading.Event().wait(0.05)
            read_body(connection, len(CONTENT))
            connection.sendall(GOOD)
        return False

    with store_before(act, read_body=False) as (store, _):
        store._tried["key"] = None
        assert store.put("key", BODY) == "abc"


def test_a_server_that_does_not_invite_gets_the_body_all_the_same():
    def act(connection, *_):
        read_body(connection, len(CONTENT))
        connection.sendall(GOOD)
        return False

    with store_before(act, read_body=False) as (store, _):
        store._tried["key"] = None
        assert store.put("key", BODY) == "abc"


def test_a_server_that_does_not_know_the_question_gets_the_body_without_it():
    def act(connection, _method, _target, headers):
        if "expect" in headers:
            connection.sendall(reply(417))
            return False
        connection.sendall(GOOD)
        return True

    with store_before(act) as (store, server):
        store._tried["key"] = None
        assert store.put("key", BODY) == "abc"
        assert [headers.get("expect") for *_, headers in server.requests] == ["100-continue", None]


@pytest.mark.parametrize("data", [reply(412, ETag='"there"'), fault(503, "SlowDown")], ids=["412", "503"])
def test_an_answer_in_place_of_the_invitation_saves_the_body(data):
    def act(connection, *_):
        connection.sendall(data)
        connection.settimeout(1)
        received.append(connection.recv(1))
        return False

    received = []
    with store_before(act, read_body=False) as (store, _):
        store._profile = StoreProfile("minio", "crc32c", "if-none-match")
        store._tried["key"] = None
        with contextlib.suppress(StoreBusy):
            assert not store.put_new("key", BODY).created
    assert received in ([], [b""])


def test_a_kept_connection_that_the_server_closed_is_replaced_without_an_error():
    def act(connection, *_):
        connection.sendall(GOOD)
        return False

    with store_before(act) as (store, server):
        for _ in range(3):
            assert store.put("key", BODY) == "abc"
        assert len(server.requests) == 3


def test_what_is_made_block_by_block_is_made_again_for_the_next_try():
    made = npy.encode(Measurement("t", 1, bytes(2**21), datatype="cu8"))
    assert isinstance(made.payload, npy.Converted)
    done = reply(200, ETag='"abc"', x_amz_checksum_crc32c=crc32c_base64(made.crc32c))

    def act(connection, *_):
        # The server has read the whole body by now, each time.
        connection.sendall(fault(503, "SlowDown") if len(server.requests) == 1 else done)

    with store_before(act) as (store, server):
        assert store.put("key", Body(made.parts(), made.crc32c)) == "abc"
        assert len(server.requests) == 2


def test_redirects_take_no_credentials_anywhere():
    with (
        store_before(says(GOOD)) as (_, other),
        store_before(says(fault(307, "", Location=other.url))) as (store, _),
    ):
        with pytest.raises(StoreMisconfigured):
            store.put("key", BODY)
        assert other.requests == []


def test_an_endless_error_body_is_cut():
    def act(connection, *_):
        connection.sendall(b"HTTP/1.1 500 no\r\nContent-Length: 1073741824\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(bytes(65536))
        return False

    with store_before(act) as (store, _):
        began_s = time.monotonic()
        with pytest.raises(StoreBusy):
            store.put("key", BODY)
        assert time.monotonic() - began_s < 1.0


def page(*keys, truncated=False, token="next"):
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&#34;e&#34;</ETag>"
        f"<Size>3</Size></Contents>"
        for key in keys
    )
    more = (
        f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        if truncated
        else ""
    )
    return f"<ListBucketResult><Name>bucket-1</Name>{contents}{more}</ListBucketResult>".encode()


class TestListing:
    """Listings go through the SDK: what it raises is translated, and what it would believe is checked."""

    def test_pages_follow_each_other(self):
        pages = [reply(200, page("a", "b", truncated=True)), reply(200, page("c"))]
        with store_before(lambda connection, *_: connection.sendall(pages.pop(0))) as (store, server):
            assert [info.key for info in store.list("")] == ["a", "b", "c"]
            assert "continuation-token=next" in server.requests[1][1]

    def test_a_server_that_begins_again_after_each_page_is_not_followed_for_ever(self):
        with store_before(says(reply(200, page("a", "b", truncated=True)))) as (store, server):
            with pytest.raises(StoreCorrupt, match="not in order"):
                list(store.list(""))
            assert len(server.requests) == 2

    def test_a_listing_that_is_not_in_order_is_refused(self):
        with store_before(says(reply(200, page("b", "a")))) as (store, _):
            with pytest.raises(StoreCorrupt, match="'a' after 'b'"):
                list(store.list(""))

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (reply(200, page("a")[:60]), StoreCorrupt),
            (reply(200, b""), StoreCorrupt),
            (reply(200, b"\xff\xfe"), StoreCorrupt),
            (reply(200, b"<html>Welcome!</html>"), StoreCorrupt),
            (reply(200, page("a").replace(b">3<", b">three<")), StoreCorrupt),
            (reply(200, page("a").replace(b"2026-01", b"2026-13")), StoreCorrupt),
            (fault(404, "NoSuchBucket", Content_Type="application/xml"), StoreMisconfigured),
            (fault(403, "AccessDenied", Content_Type="application/xml"), StoreDenied),
            (fault(503, "SlowDown", Content_Type="application/xml"), StoreBusy),
            (fault(503, "SlowDown", Content_Type="text/html"), StoreBusy),
            (reply(502, b"<html>", Content_Type="text/html"), StoreBusy),
            (reply(403, b"<html>", Content_Type="text/html"), StoreDenied),
            (fault(307, "Elsewhere", Content_Type="application/xml", Location="http://127.0.0.1:1/"), StoreMisconfigured),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<List", StoreUnreachable),
            (b"HTTP/1.1 200 O", StoreCorrupt),
            (b"SSH-2.0-OpenSSH_9.2\r\n", StoreUnreachable),
            (b"", StoreUnreachable),
        ],
        ids=kind_ids,
    )  # fmt: skip
    def test_a_reply_that_is_no_listing_is_the_right_error(self, data, kind):
        with store_before(says_once(data)) as (store, _):
            with pytest.raises(StoreError) as caught:
                list(store.list(""))
            assert type(caught.value) is kind

    @pytest.mark.parametrize("status", [200, 500])
    def test_an_endless_reply_is_cut(self, status):
        def act(connection, *_):
            connection.sendall(b"HTTP/1.1 %d no\r\nContent-Type: application/xml\r\n" % status)
            connection.sendall(b"Content-Length: 1073741824\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(16384):
                    connection.sendall(bytes(65536))
                    act.sent_bytes += 65536
            return False

        act.sent_bytes = 0
        with store_before(act) as (store, _):
            with pytest.raises(StoreUnreachable):
                list(store.list(""))
        assert act.sent_bytes < 64 * 2**20

    def test_what_claims_to_be_gzip_is_not_unpacked(self):
        bomb = gzip.compress(bytes(100 * 2**20))
        tracemalloc.start()
        try:
            with store_before(says_once(reply(200, bomb, Content_Encoding="gzip"))) as (store, _):
                with pytest.raises(StoreCorrupt):
                    list(store.list(""))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 10 * 2**20

    def test_entities_that_grow_are_no_listing(self):
        entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
        bomb = f'<!DOCTYPE l [<!ENTITY e0 "{"x" * 100}">{entities}]><ListBucketResult><Name>&e9;</Name></ListBucketResult>'
        began_s = time.monotonic()
        with store_before(says_once(reply(200, bomb.encode()))) as (store, _):
            with pytest.raises(StoreCorrupt):
                list(store.list(""))
        assert time.monotonic() - began_s < 5.0

    def test_a_listing_that_does_not_come_is_given_up(self, monkeypatch):
        monkeypatch.setattr("ingestd.storage.minio._SDK_READ_S", 0.2)
        with store_before(hang) as (store, _):
            began_s = time.monotonic()
            with pytest.raises(StoreUnreachable):
                list(store.list(""))
            assert time.monotonic() - began_s < 1.0

    def test_redirects_take_no_credentials_anywhere(self):
        with (
            store_before(says(GOOD)) as (_, other),
            store_before(says_once(fault(307, "", Location=other.url, Content_Type="application/xml"))) as (
                store,
                _,
            ),
        ):
            with pytest.raises(StoreError):
                list(store.list(""))
            assert other.requests == []


class TestTls:
    """A connection that cannot be trusted is an alarm, and nothing goes over it."""

    @pytest.fixture
    def certificate(self, tmp_path):
        path = tmp_path / "server.pem"
        path.write_text(SERVER_PEM)
        return str(path)

    @pytest.fixture
    def context(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return context

    def test_a_certificate_of_a_known_authority_is_trusted(self, context, certificate):
        content = bytes(3 * 2**20)
        large = Body((content[:128], content[128:]), crc32c(content))
        good = reply(200, ETag='"abc"', x_amz_checksum_crc32c=crc32c_base64(large.crc32c))
        with store_before(says(good), tls=context, ca_file=certificate) as (store, server):
            assert store.put("key", large) == "abc"
            assert store.put("key", large) == "abc"
            assert len(server.requests) == 2

    @pytest.mark.parametrize("call", ["put", "probe", "check", "list"])
    def test_an_unknown_certificate_is_an_alarm_and_gets_no_request(self, context, call):
        with store_before(says(GOOD), tls=context) as (store, server):
            acts = {
                "put": lambda: store.put("key", BODY), "probe": store.probe, "check": store.check,
                "list": lambda: list(store.list("")),
            }  # fmt: skip
            with pytest.raises(StoreMisconfigured, match="certificate"):
                acts[call]()
            assert server.requests == []

    def test_a_certificate_for_another_host_is_an_alarm(self, context, certificate):
        with Server(says(GOOD), tls=context) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            store = MinioStore(url, "access", "secret", "bucket-1", timing=QUICK, ca_file=certificate)
            with contextlib.closing(store), pytest.raises(StoreMisconfigured, match="TLS failed"):
                store.check()
            assert server.requests == []

    def test_a_server_without_tls_is_an_alarm(self):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:

            def serve():
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    connection.sendall(reply(400))
                    until_given_up(connection)

            thread = threading.Thread(target=serve)
            thread.start()
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            store = MinioStore(url, "access", "secret", "bucket-1", timing=QUICK)
            with contextlib.closing(store), pytest.raises(StoreMisconfigured, match="TLS failed"):
                store.check()
            thread.join(5)

    def test_a_handshake_that_does_not_end_is_given_up(self):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            store = MinioStore(url, "access", "secret", "bucket-1", timing=QUICK)
            began_s = time.monotonic()
            with contextlib.closing(store), pytest.raises(StoreUnreachable, match="handshake"):
                store.check()
            assert time.monotonic() - began_s < 1.0

    def test_an_authority_that_cannot_be_read_is_named_as_a_setting(self, tmp_path):
        with pytest.raises(ConfigError, match="CA file"):
            MinioStore("https://127.0.0.1:1", "access", "secret", "bucket-1", ca_file=str(tmp_path / "none"))


class TestProbe:
    """What a store enforces is found out, and the safest profile that it supports is taken."""

    @staticmethod
    def server(*, checksums=(), conditional=True):
        there = set()

        def act(connection, method, target, headers):
            if method == "HEAD":
                answer = reply(200)
            elif any(
                name in headers and headers[name] not in good
                for name, good in wrong.items()
                if name in checksums
            ):
                answer = fault(400, "BadDigest")
            elif conditional and headers.get("if-none-match") == "*" and target in there:
                answer = reply(412, ETag='"abc"')
            else:
                there.add(target)
                answer = reply(200, ETag='"abc"')
            connection.sendall(answer)

        body = module._PROBE
        wrong = {
            "x-amz-checksum-crc32c": {crc32c_base64(body.crc32c)},
            "content-md5": {module._md5_base64(body)},
        }
        return act

    @pytest.mark.parametrize(
        ("checksums", "conditional", "expected"),
        [
            (("x-amz-checksum-crc32c", "content-md5"), True, ("crc32c", "if-none-match")),
            (("content-md5",), True, ("content-md5", "if-none-match")),
            (("content-md5",), False, ("content-md5", "head-first")),
            ((), False, ("none", "head-first")),
        ],
    )
    def test_the_safest_profile_that_the_store_supports_is_taken(self, checksums, conditional, expected):
        with store_before(self.server(checksums=checksums, conditional=conditional)) as (store, _):
            profile = store.probe()
            assert (profile.checksum, profile.conflict_check) == expected
            assert profile.needs_identity_lock == (expected[1] == "head-first")
            # Once more, as the second uploader does, with the probe object there already.
            assert store.probe() == profile

    def test_a_store_without_conditions_is_looked_at_first(self):
        seen = []

        def act(connection, method, *_):
            seen.append(method)
            connection.sendall(reply(404) if method == "HEAD" else reply(200, ETag='"abc"'))

        with store_before(act) as (store, _):
            assert store.put_new("key", BODY).created
        assert seen == ["HEAD", "PUT"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host:1",
        "http://user:password@host:1",
        "http://host:99999",
        "host",
        "http://host/path",
        "",
        "http://:9000",
    ],
)
def test_an_url_that_is_none_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError) as caught:
        MinioStore(url, "a", "b", "bucket-1")
    assert "password" not in str(caught.value).replace("no user, password", "")
