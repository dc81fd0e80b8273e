"""MinioStore without a server: what it takes, what it signs, what it reads out of headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import ConfigError, StoreError, StoreMisconfigured
from ingestd.formats.checksum import crc32c
from ingestd.storage import minio as module
from ingestd.storage.minio import MinioStore
from ingestd.storage.port import Body, StoreProfile, crc32c_base64
from ingestd.storage.reply import Reply

CONTENT = b"content"
BODY = Body((CONTENT[:3], CONTENT[3:]), crc32c(CONTENT))
GOOD = Reply(200, {"etag": '"abc"'})


@pytest.fixture
def store():
    made = MinioStore("http://minio:9000", "the-key", "the-secret", "heimdall-raw-iq")
    yield made
    made.close()


@pytest.fixture
def sent(store, monkeypatch):
    """Requests of the store, each answered with the next of `answers`, then with `GOOD`."""
    requests = []
    requests_answers = []

    def request(one):
        requests.append(one)
        answer = requests_answers.pop(0) if requests_answers else GOOD
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(store._http, "request", request)
    request.requests, request.answers = requests, requests_answers
    return request


class TestConstruction:
    """What cannot work is refused before the first request, and no secret is repeated."""

    @pytest.mark.parametrize(
        ("access_key", "secret_key", "named"),
        [
            ("", "secret", "access_key is missing"),
            ("key", "", "secret_key is missing"),
            ("schl\u00fcssel", "secret", "access_key has characters"),
            ("key\r\nX: y", "secret", "access_key has characters"),
        ],
    )
    def test_credentials_that_are_none_name_the_setting(self, access_key, secret_key, named):
        with pytest.raises(ConfigError, match=named) as caught:
            MinioStore("http://minio:9000", access_key, secret_key, "heimdall-raw-iq")
        assert "schl" not in str(caught.value)

    def test_a_bucket_that_is_none_is_an_alarm(self):
        with pytest.raises(StoreMisconfigured, match="not a bucket name"):
            MinioStore("http://minio:9000", "key", "secret", "No_Bucket")

    @pytest.mark.parametrize(
        "url",
        ["localhost:9000", "http://[::1]:9000", "my_minio:9000", "https://s3.amazonaws.com", "http://minio."],
    )
    def test_every_url_that_is_taken_makes_urls_too(self, url):
        store = MinioStore(url, "key", "secret", "heimdall-raw-iq")
        assert store.url("sessions/t/k", 60).startswith(("http://", "https://"))
        store.close()

    def test_before_the_probe_nothing_is_taken_for_granted(self, store):
        assert store.profile == StoreProfile("minio", "content-md5", "head-first")
        assert store.endpoint == "http://minio:9000"

    def test_no_secret_is_shown(self, store):
        assert "the-secret" not in repr(store) + str(vars(store)["_endpoint"]) + store.endpoint
        assert "the-secret" not in store.url("k", 60)


class TestSigning:
    """What the store verifies is signed: nobody on the way can take it off."""

    def test_the_checksum_and_the_condition_are_signed(self, store, sent):
        store._profile = StoreProfile("minio", "crc32c", "if-none-match")
        store.put_new("sessions/t/k", BODY)
        (request,) = sent.requests
        signed = request.headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert {"x-amz-checksum-crc32c", "if-none-match", "content-type", "host", "x-amz-date"} <= set(signed)
        assert request.headers["x-amz-checksum-crc32c"] == crc32c_base64(BODY.crc32c)
        assert "the-secret" not in str(request.headers)

    @pytest.mark.parametrize("checksum", ["content-md5", "none"])
    def test_a_store_without_crc32c_gets_an_md5(self, store, sent, checksum):
        store._profile = StoreProfile("minio", checksum, "if-none-match")
        store.put_new("k", BODY)
        # printf content | openssl md5 -binary | base64
        assert sent.requests[0].headers["Content-MD5"] == "mgNkuembtIDdJeHwKEyFVQ=="
        assert "x-amz-checksum-crc32c" not in sent.requests[0].headers

    @pytest.mark.parametrize(
        ("key", "target"),
        [
            ("sessions/a b/k", "/heimdall-raw-iq/sessions/a%20b/k"),
            ("a+b%41?c#d&e=f", "/heimdall-raw-iq/a%2Bb%2541%3Fc%23d%26e%3Df"),
            ("\u00fc~-_.", "/heimdall-raw-iq/%C3%BC~-_."),
        ],
    )
    def test_a_key_is_encoded_once(self, store, sent, key, target):
        store.put(key, BODY)
        assert sent.requests[0].target == target


class TestAsking:
    """From the second try on the store is asked before the body is sent; the first one is not slowed down."""

    @staticmethod
    def asked(sent):
        return [request.expect_continue for request in sent.requests]

    def test_only_a_put_that_was_lost_is_asked_about(self, store, sent):
        sent.answers += [StoreError("lost"), GOOD, GOOD]
        with pytest.raises(StoreError):
            store.put("k", BODY)
        store.put("k", BODY)
        store.put("k", BODY)
        assert self.asked(sent) == [False, True, False]

    def test_an_answer_of_any_kind_ends_it(self, store, sent):
        sent.answers += [Reply(503, {"retry-after": "9"}), GOOD]
        with pytest.raises(StoreError):
            store.put("k", BODY)
        store.put("k", BODY)
        assert self.asked(sent) == [False, False]

    def test_what_is_remembered_is_bounded(self, store, sent, monkeypatch):
        monkeypatch.setattr(module, "_TRIED_MAX_COUNT", 3)
        sent.answers += [StoreError("lost")] * 10
        for i in range(10):
            with pytest.raises(StoreError):
                store.put(f"k{i}", BODY)
        assert list(store._tried) == ["k7", "k8", "k9"]


def test_an_etag_is_read_without_its_quotes():
    assert module._etag(Reply(200, {"etag": '"abc-2"'})) == "abc-2"
    assert module._etag(Reply(200, {"etag": 'W/"abc"'})) == "abc"
    assert module._etag(Reply(200, {})) == ""


@pytest.mark.parametrize("value", ["", "AAAA", "AAAAAA==-3", "not base64", "AAAAAA", "\xb2" * 8])
def test_a_checksum_that_is_not_of_the_whole_object_is_none(value):
    assert module._crc32c(Reply(200, {"x-amz-checksum-crc32c": value})) is None


def test_a_checksum_is_read():
    assert module._crc32c(Reply(200, {"x-amz-checksum-crc32c": crc32c_base64(0x01020304)})) == 0x01020304


def test_a_time_is_nanoseconds():
    assert (
        module._last_modified_ns(Reply(200, {"last-modified": "Mon, 21 Sep 2026 14:13:20 GMT"}))
        == 1_790_000_000 * 10**9
    )


_dates = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} (Jan|Feb|Xyz) [0-9]{1,6} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|[+-][0-9]{1,12})"),
)  # fmt: skip


@given(_dates)
def test_a_time_that_cannot_be_read_is_no_error(text):
    assert isinstance(module._last_modified_ns(Reply(200, {"last-modified": text})), int)
