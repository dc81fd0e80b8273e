"""What a refusal means: one table, whatever words the server finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minio.error import S3Error

from ingestd.errors import StoreBusy, StoreCorrupt, StoreDenied, StoreError, StoreMisconfigured, StoreRefused
from ingestd.storage.reply import Reply
from ingestd.storage.s3_errors import Fault, error_of, error_of_sdk, fault


def document(code, message="told"):
    return f"<?xml?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "", StoreDenied),
        (403, "", StoreDenied),
        (403, "SignatureDoesNotMatch", StoreDenied),
        (400, "ExpiredToken", StoreDenied),
        (400, "InvalidToken", StoreDenied),
        (404, "NoSuchBucket", StoreMisconfigured),
        (404, "", StoreMisconfigured),
        (301, "PermanentRedirect", StoreMisconfigured),
        (302, "", StoreMisconfigured),
        (400, "AuthorizationHeaderMalformed", StoreMisconfigured),
        (408, "", StoreBusy),
        (409, "OperationAborted", StoreBusy),
        (429, "", StoreBusy),
        (500, "InternalError", StoreBusy),
        (502, "", StoreBusy),
        (503, "SlowDown", StoreBusy),
        (504, "", StoreBusy),
        (507, "XMinioStorageFull", StoreBusy),
        (400, "RequestTimeout", StoreBusy),
        (403, "QuotaExceeded", StoreBusy),
        (400, "BadDigest", StoreCorrupt),
        (400, "IncompleteBody", StoreCorrupt),
        (202, "", StoreCorrupt),
        (400, "InvalidArgument", StoreRefused),
        (411, "", StoreRefused),
        (413, "EntityTooLarge", StoreRefused),
        (501, "NotImplemented", StoreRefused),
    ],
)
def test_status_and_code_say_who_must_act(status, code, kind):
    error = error_of(Reply(status, {}, document(code) if code else b""), "key")
    assert type(error) is kind
    assert str(error).startswith(f"key: {status}")
    assert code in str(error)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("InvalidAccessKeyId", "minio.access_key"),
        ("SignatureDoesNotMatch", "minio.secret_key"),
        ("RequestTimeTooSkewed", "clock"),
        ("NoSuchBucket", "make the bucket"),
        ("AuthorizationHeaderMalformed", "minio.region"),
    ],
)
def test_the_operator_is_told_which_setting(code, hint):
    assert hint in str(error_of(Reply(403, {}, document(code)), "key"))


@pytest.mark.parametrize(
    ("hint", "expected"),
    [("0", 0.0), ("86400", 86400.0), ("", None), ("-1", None), ("1.5", None), ("soon", None), ("9" * 9, None),
     ("Mon, 01 Jan 2035 00:00:00 GMT", None), ("\xb2", None), ("\u0663", None)],
)  # fmt: skip
def test_a_hint_when_to_come_back_is_a_number_of_seconds_or_nothing(hint, expected):
    error = error_of(Reply(503, {"retry-after": hint}), "key")
    assert error.retry_after_s == expected


def test_a_reply_without_a_body_has_its_code_in_minios_header():
    assert fault(Reply(404, {"x-minio-error-code": "NoSuchBucket"})) == Fault("NoSuchBucket", "")
    assert fault(Reply(404, {"x-minio-error-code": "<script>"})) == Fault("", "")
    assert fault(Reply(404, {"x-minio-error-code": "Gel\xf6scht"})) == Fault("", "")


def test_foreign_words_are_escaped_and_bounded():
    error = error_of(Reply(400, {}, document("X" * 65, "\x1b[31m" + "ü" * 150)), "key")
    assert str(error).isprintable()
    assert str(error).isascii()
    assert len(str(error)) < 300


def sdk_error(code, message, status=400):
    class Response:
        pass

    response = Response()
    response.status = status
    return S3Error(response, code, message, "/b", "id", "host")


def test_what_the_sdk_raises_means_the_same():
    assert type(error_of_sdk(sdk_error("NoSuchBucket", "gone", 404), "http://h")) is StoreMisconfigured
    assert type(error_of_sdk(sdk_error("SlowDown", "slow", 503), "http://h")) is StoreBusy
    assert type(error_of_sdk(sdk_error("AccessDenied", "no", 403), "http://h")) is StoreDenied


def test_a_code_of_the_sdk_is_foreign_too():
    text = str(error_of_sdk(sdk_error("\x1b[31m" * 1000, "m" * 100_000), "http://h"))
    assert text.isprintable()
    assert len(text) < 300


@given(st.integers(200, 599), st.text(max_size=60), st.binary(max_size=100), st.text(max_size=20))
def test_every_reply_means_something(status, code, body, hint):
    reply = Reply(status, {"retry-after": hint, "x-minio-error-code": code}, document(code) + body)
    assert isinstance(error_of(reply, "key"), StoreError)
