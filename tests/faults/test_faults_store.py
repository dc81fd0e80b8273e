"""MinioStore before a server that misbehaves: what is no proof is no success, and every wait ends."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from ingestd.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
    StoreUnreachable,
)
from ingestd.formats.checksum import crc32c
from ingestd.storage.http import Timing
from ingestd.storage.minio import MinioStore
from ingestd.storage.port import Body, crc32c_base64

CONTENT = b"x" * 200_000
BODY = Body((CONTENT[:128], CONTENT[128:]), crc32c(CONTENT))
QUICK = Timing(base_s=1.0, rate_bytes_per_s=10**7, progress_s=0.5, connect_s=0.5, early_s=0.5, continue_s=0.2)


class Server:
    """Answers each request with what `act(connection, method, target, headers)` does."""

    def __init__(self, act, *, read_body=True):
        self._act, self._read_body = act, read_body
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self):
        self._listener.settimeout(0.05)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(3)
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
def store_before(act, timing=QUICK, **kwargs):
    with Server(act, **kwargs) as server:
        store = MinioStore(server.url, "access", "secret", "bucket-1", timing=timing)
        with contextlib.closing(store):
            yield store, server


def says(data):
    return lambda connection, *_: connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
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
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else repr(one[:40]),
)  # fmt: skip
def test_a_reply_that_is_no_proof_is_the_right_error_and_no_success(data, kind):
    def act(connection, *_):
        connection.sendall(data)
        return False

    with store_before(act) as (store, _):
        with pytest.raises(StoreError) as caught:
            store.put("key", BODY)
        assert type(caught.value) is kind


def test_a_hint_to_come_back_tomorrow_is_kept_for_the_breaker_to_cap():
    with store_before(says(fault(503, "SlowDown", Retry_After="86400"))) as (store, _):
        with pytest.raises(StoreBusy) as caught:
            store.put("key", BODY)
        assert caught.value.retry_after_s == 86400


def hang(connection, *_):
    threading.Event().wait(2.0)
    return False


def drip(connection, *_):
    for byte in GOOD * 3:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.1)


def reset(connection, *_):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


@pytest.mark.parametrize("act", [hang, drip, reset], ids=["hangs", "drips", "resets"])
def test_a_server_that_does_not_come_to_an_end_is_given_up_in_time(act):
    with store_before(act) as (store, _):
        began_s = time.monotonic()
        with pytest.raises(StoreUnreachable):
            store.put("key", BODY)
        assert time.monotonic() - began_s < 2.0


def test_a_body_that_nobody_reads_is_given_up_in_time():
    big = Body((bytes(30 * 2**20),), 0)

    def act(*_):
        threading.Event().wait(2.5)
        return False

    with store_before(act, read_body=False, timing=Timing(base_s=5.0, progress_s=0.5)) as (store, _):
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
        store._profile = type(store.profile)("minio", "crc32c", "if-none-match")
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


def test_a_kept_connection_that_the_server_closed_is_replaced_without_an_error():
    def act(connection, *_):
        connection.sendall(GOOD)
        return False

    with store_before(act) as (store, server):
        for _ in range(3):
            assert store.put("key", BODY) == "abc"
        assert len(server.requests) == 3


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

        from ingestd.storage import minio as module

        body = Body((module._PROBE_BODY,), crc32c(module._PROBE_BODY))
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
    from ingestd.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        MinioStore(url, "a", "b", "bucket-1")
    assert "password" not in str(caught.value).replace("no user, password", "")
