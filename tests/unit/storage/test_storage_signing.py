"""Signatures are those of the SDK, to the byte."""

from datetime import UTC, datetime
from urllib.parse import SplitResult

from hypothesis import given
from hypothesis import strategies as st
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

from ingestd.storage.signing import Signer

NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=1, max_size=20)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
SECONDS = st.integers(0, 4_000_000_000)


def by_sdk(signer_arguments, method, host, path, headers, now_s):
    access_key, secret_key, region = signer_arguments
    date = datetime.fromtimestamp(now_s, UTC)
    sent = {
        "Host": host,
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
        "x-amz-date": date.strftime("%Y%m%dT%H%M%SZ"),
        **headers,
    }
    return sign_v4_s3(
        method=method,
        url=SplitResult("http", host, path, "", ""),
        region=region,
        headers=sent,
        credentials=Credentials(access_key, secret_key),
        content_sha256="UNSIGNED-PAYLOAD",
        date=date,
    )


@given(
    st.tuples(*(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),) * 3),
    st.sampled_from(["PUT", "HEAD", "GET", "DELETE"]),
    st.text("abc%2F/-_.~", max_size=30).map(lambda path: f"/{path}"),
    st.dictionaries(NAMES, VALUES, max_size=6).filter(
        lambda headers: (
            not {name.lower() for name in headers}
            & {"host", "authorization", "user-agent", "x-amz-date", "x-amz-content-sha256"}
            and len({name.lower() for name in headers}) == len(headers)
        )
    ),
    SECONDS,
)
def test_every_signature_is_that_of_the_sdk(keys, method, path, headers, now_s):
    signer = Signer(*keys)
    assert signer.sign(method, "store:9000", path, headers, now_s) == by_sdk(
        keys, method, "store:9000", path, headers, now_s
    )


def test_the_next_day_has_a_key_of_its_own():
    signer = Signer("key", "secret", "us-east-1")
    day_s = 86_400
    for now_s in (0, day_s - 1, day_s, 5 * day_s, 0):
        assert signer.sign("PUT", "h", "/b/k", {}, now_s) == by_sdk(
            ("key", "secret", "us-east-1"), "PUT", "h", "/b/k", {}, now_s
        )
