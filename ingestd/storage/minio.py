"""MinIO and every other S3-compatible store: one signed, verified, conditional PUT per object.

The upload path (PUT, HEAD, GET, DELETE of one key) uses our own connections (`http`), signed by `signing`; what happens
once in a while (making the bucket, listing, presigned URLs) uses the SDK's client with time-outs of our own.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Final, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree as ET

import minio
import urllib3
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from ingestd.errors import (
    ConfigError,
    StoreBusy,
    StoreCorrupt,
    StoreMisconfigured,
    StoreUnreachable,
    bounded,
)
from ingestd.formats.checksum import crc32c
from ingestd.storage.http import Endpoint, HttpClient, Request, Timing
from ingestd.storage.keys import PROBE_KEY, check_bucket, check_key
from ingestd.storage.port import Body, ObjectInfo, PutResult, StoreProfile, crc32c_base64
from ingestd.storage.reply import MAX_ERROR_BYTES, Reply
from ingestd.storage.retrying import RetryBudget
from ingestd.storage.s3_errors import error_of, error_of_answer, error_of_sdk, fault
from ingestd.storage.sdk_pool import BoundedPool
from ingestd.storage.signing import Signer

__all__ = ["MinioStore"]

#: Region that servers without regions expect (MinIO's default).
_DEFAULT_REGION = "us-east-1"

#: Keys whose last PUT did not come through are remembered [count]: their next one asks before sending the body.
_TRIED_MAX_COUNT = 1000

#: What the probe writes.
_PROBE_TEXT = b"ingestd: does this store verify checksums and honour If-None-Match?\n"
_PROBE: Final = Body((_PROBE_TEXT,), crc32c(_PROBE_TEXT), "text/plain")

#: Conditional PUTs of the probe: after the first the key is there, and one more may race with another process.
_PROBE_TRIES = 3

#: The SDK's own calls [s]; its defaults add up to half an hour.
_SDK_CONNECT_S, _SDK_READ_S = 10.0, 20.0

_MD5_ETAG = re.compile(r"[0-9a-f]{32}")

_T = TypeVar("_T")


class MinioStore:
    """A bucket of an S3-compatible store. Thread-safe; not shared between processes.

    Parameters
    ----------
    url
        `http://HOST[:PORT]`, `https://HOST[:PORT]` or `HOST:PORT`.
    access_key, secret_key
        Credentials, neither of them empty; the access key goes into a header and is printable ASCII.
    bucket
        Name of the bucket.
    region
        Of the bucket; None = what the store says, or MinIO's default.
    ca_file
        PEM file of the store's certificate authority; None = the system's.
    timing
        When to give up.

    Raises
    ------
    ConfigError
        URL or credentials cannot be those of a store; neither is repeated.
    """

    def __init__(
        self,
        url: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        *,
        region: str | None = None,
        ca_file: str | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._endpoint = Endpoint.parse(url)
        self._bucket = check_bucket(bucket)
        self._region: str = region or _DEFAULT_REGION
        _check_credentials(access_key, secret_key)
        self._keys = (access_key, secret_key)
        self._signer = Signer(access_key, secret_key, self._region)
        self._budget = RetryBudget()
        self._http = HttpClient(self._endpoint, ca_file=ca_file, timing=timing)
        self._pool = BoundedPool(
            timeout=urllib3.Timeout(connect=_SDK_CONNECT_S, read=_SDK_READ_S),
            retries=False,
            ca_certs=ca_file,
        )
        self._sdk = self._new_sdk()
        # Until the probe: check with HEAD, verify with what every server enforces.
        self._profile: StoreProfile = StoreProfile("minio", "content-md5", "head-first")
        self._tried: OrderedDict[str, None] = OrderedDict()
        self._lock: Final = threading.Lock()

    def _new_sdk(self) -> minio.Minio:
        return minio.Minio(
            self._endpoint.netloc,
            credentials=StaticProvider(*self._keys),
            secure=self._endpoint.tls,
            region=self._region,
            http_client=self._pool,
        )

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._bucket

    @property
    def endpoint(self) -> str:
        """URL of the store, without credentials."""
        return str(self._endpoint)

    @property
    def profile(self) -> StoreProfile:
        """What the last `probe` found."""
        return self._profile

    def probe(self, *, make_bucket: bool = True) -> StoreProfile:
        """Make the bucket if absent, find out what the store enforces, and take the safest profile.

        Several processes may probe at once: the probe object is never deleted, and a 412 at any try is proof.
        """
        self._find_bucket(make_bucket=make_bucket)
        if self._refuses({"x-amz-checksum-crc32c": crc32c_base64(_PROBE.crc32c ^ 1)}):
            checksum: Mapping[str, str] = {"x-amz-checksum-crc32c": crc32c_base64(_PROBE.crc32c)}
            name = "crc32c"
        else:
            checksum = {"Content-MD5": _md5_base64(_PROBE)}
            wrong = {"Content-MD5": base64.b64encode(bytes(16)).decode()}
            name = "content-md5" if self._refuses(wrong) else "none"
        honours = self._honours_if_none_match(checksum)
        self._profile = StoreProfile("minio", name, "if-none-match" if honours else "head-first")  # type: ignore[arg-type]
        return self._profile

    def _find_bucket(self, *, make_bucket: bool) -> None:
        reply = self._request("HEAD", "")
        region = reply.headers.get("x-amz-bucket-region", "")
        if (
            reply.status in (301, 307, 400)
            and re.fullmatch(r"[a-z0-9-]{1,64}", region)
            and region != self._region
        ):
            self._use_region(region)
            reply = self._request("HEAD", "")
        # A key that may write objects but not look at the bucket gets 403 here: the writes below will tell.
        if reply.status in (200, 403):
            return
        if reply.status != 404:
            raise error_of(reply, f"bucket {self._bucket}")
        if not make_bucket:
            raise StoreMisconfigured(
                f"{self._endpoint}: bucket {self._bucket} is gone; make it again, or restart ingestd"
            )
        try:
            self._sdk_call(lambda: self._sdk.make_bucket(self._bucket, self._region))
        except StoreBusy:
            # Somebody else made it just now (409); the next request tells.
            self.check()

    def _use_region(self, region: str) -> None:
        self._region = region
        self._signer = Signer(*self._keys, region)
        self._sdk = self._new_sdk()

    def _refuses(self, wrong: Mapping[str, str]) -> bool:
        """Whether a wrong checksum is refused; an unexpected refusal is an error of its own."""
        reply = self._request("PUT", PROBE_KEY, wrong, _PROBE)
        if 200 <= reply.status < 300:
            return False
        if reply.status == 400 and fault(reply).is_checksum:
            return True
        if reply.status == 501:
            return False
        raise error_of(reply, PROBE_KEY)

    def _honours_if_none_match(self, checksum: Mapping[str, str]) -> bool:
        for _ in range(_PROBE_TRIES):
            reply = self._request("PUT", PROBE_KEY, {**checksum, "If-None-Match": "*"}, _PROBE)
            if reply.status == 412:
                return True
            if reply.status == 501:
                return False
            if not 200 <= reply.status < 300:
                raise error_of(reply, PROBE_KEY)
        return False

    def check(self) -> None:
        """HEAD of the bucket."""
        reply = self._request("HEAD", "")
        if reply.status == 404:
            raise StoreMisconfigured(
                f"{self._endpoint}: bucket {self._bucket} is gone; make it again, or restart ingestd"
            )
        if reply.status != 200:
            raise error_of(reply, f"bucket {self._bucket}")

    def put_new(self, key: str, body: Body) -> PutResult:
        """Store under a new name, in one request where the store honours If-None-Match."""
        if self._profile.conflict_check == "head-first":
            info = self.head(key)
            return (
                PutResult(created=False, etag=info.etag)
                if info
                else PutResult(created=True, etag=self.put(key, body))
            )
        reply = self._put(key, body, {"If-None-Match": "*"})
        if reply.status == 412:
            return PutResult(created=False, etag=_etag(reply))
        return PutResult(created=True, etag=self._proven(reply, key, body))

    def put(self, key: str, body: Body) -> str:
        """Store under a name, whatever is there."""
        return self._proven(self._put(key, body, {}), key, body)

    def _put(self, key: str, body: Body, headers: Mapping[str, str]) -> Reply:
        check_key(key)
        sent = {"Content-Type": body.content_type, **self._checksum_headers(body), **headers}
        with self._lock:
            again = key in self._tried
            self._tried[key] = None
            while len(self._tried) > _TRIED_MAX_COUNT:
                self._tried.popitem(last=False)
        # A PUT that fails leaves the key in `_tried`: its next try asks first and does not send the body in vain.
        reply = self._request("PUT", key, sent, body, expect_continue=again)
        if again and reply.status == 417:
            # Whoever does not know Expect gets the request without it (RFC 9110, 10.1.1).
            reply = self._request("PUT", key, sent, body)
        with self._lock:
            self._tried.pop(key, None)
        return reply

    def _checksum_headers(self, body: Body) -> dict[str, str]:
        if self._profile.checksum == "crc32c":
            return {"x-amz-checksum-crc32c": crc32c_base64(body.crc32c)}
        return {"Content-MD5": _md5_base64(body)}

    def _proven(self, reply: Reply, key: str, body: Body) -> str:
        """ETag of a PUT that is proven to have stored our bytes; anything else is an error."""
        if reply.status not in (200, 204):
            raise error_of(reply, key)
        etag, echo = _etag(reply), reply.headers.get("x-amz-checksum-crc32c")
        if not etag:
            raise StoreCorrupt(f"{self._endpoint}: {reply.status} without an ETag for {key}")
        if b"<Error" in reply.body:
            raise StoreCorrupt(f"{self._endpoint}: {reply.status} with an error document for {key}")
        if echo is not None and echo != crc32c_base64(body.crc32c):
            raise StoreCorrupt(
                f"{self._endpoint}: the checksum of {key} is {bounded(echo)}, not {crc32c_base64(body.crc32c)}"
            )
        return etag

    def head(self, key: str) -> ObjectInfo | None:
        """HEAD with the checksum that the store keeps."""
        reply = self._request("HEAD", check_key(key), {"x-amz-checksum-mode": "ENABLED"})
        if reply.status == 404:
            self._demand_bucket(reply, key)
            return None
        if reply.status != 200:
            raise error_of(reply, key)
        length = reply.headers.get("content-length", "")
        if not length.isdigit() or not _etag(reply):
            raise StoreCorrupt(f"{self._endpoint}: HEAD of {key} has no length or no ETag")
        return ObjectInfo(key, int(length), _etag(reply), _crc32c(reply), _last_modified_ns(reply))

    def same(self, info: ObjectInfo, body: Body) -> bool:
        """Compare size, then the checksum or the ETag, then the bytes themselves."""
        if info.size_bytes != body.size_bytes:
            return False
        if info.crc32c is not None and info.crc32c == body.crc32c:
            return True
        if info.crc32c is None and _MD5_ETAG.fullmatch(info.etag) and info.etag == _md5(body).hexdigest():
            return True
        # Encrypted and multipart objects have ETags that are no MD5, and a header may be wrong: that a name holds
        # other content has consequences, so only the bytes prove it.
        stored = self.get(info.key, info.size_bytes)
        return stored is not None and len(stored) == body.size_bytes and crc32c(stored) == body.crc32c

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """GET of a whole object."""
        reply = self._request(
            "GET", check_key(key), {"x-amz-checksum-mode": "ENABLED"}, max_body_bytes=max_bytes
        )
        if reply.status == 404:
            self._demand_bucket(reply, key)
            return None
        if reply.status != 200:
            raise error_of(reply, key)
        expected = _crc32c(reply)
        if expected is not None and crc32c(reply.body) != expected:
            raise StoreCorrupt(
                f"{self._endpoint}: the bytes of {key} do not have the checksum that came with them"
            )
        return reply.body

    def delete(self, key: str) -> None:
        """DELETE of one object."""
        reply = self._request("DELETE", check_key(key))
        if reply.status == 404:
            self._demand_bucket(reply, key)
        elif reply.status not in (200, 204):
            raise error_of(reply, key)

    def _demand_bucket(self, reply: Reply, key: str) -> None:
        """An object that is not there is an answer; a bucket that is not there is none about the object."""
        if fault(reply).code == "NoSuchBucket":
            raise error_of(reply, key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """Pages of a thousand, as they are asked for."""
        pages = self._sdk.list_objects(
            self._bucket, prefix=prefix, start_after=start_after or None, recursive=True
        )
        last = start_after
        while True:
            found = self._sdk_call(lambda: next(pages, None))
            if found is None:
                return
            modified = found.last_modified or datetime.fromtimestamp(0, UTC)
            key = found.object_name or ""
            # A server that does not know continuation tokens begins again after each page, for ever.
            if key <= last:
                raise StoreCorrupt(
                    f"{self._endpoint}: the listing has {bounded(key)} after {bounded(last)}: it is not in order"
                )
            last = key
            yield ObjectInfo(
                key, found.size or 0, (found.etag or "").strip('"'), None, int(modified.timestamp() * 1e9)
            )

    def url(self, key: str, expires_s: int) -> str:
        """Presigned GET."""
        return self._sdk_call(
            lambda: self._sdk.presigned_get_object(
                self._bucket, check_key(key), expires=timedelta(seconds=expires_s)
            )
        )

    def close(self) -> None:
        """Close connections."""
        self._http.close()
        self._pool.clear()

    def _request(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        max_body_bytes: int = MAX_ERROR_BYTES,
        expect_continue: bool = False,
    ) -> Reply:
        """Sign and send a request, again where a busy store may do better in a moment; `key` "" is the bucket."""
        for n_sent in count(1):
            reply = self._request_once(
                method, key, headers, body, max_body_bytes=max_body_bytes, expect_continue=expect_continue
            )
            pause_s = self._budget.pause_s(n_sent, reply.status, hinted="retry-after" in reply.headers)
            if pause_s is None:
                return reply
            time.sleep(pause_s)
        raise AssertionError("unreachable: the budget ends every loop")

    def _request_once(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None,
        body: Body | None,
        *,
        max_body_bytes: int,
        expect_continue: bool,
    ) -> Reply:
        target = f"/{self._bucket}" + (f"/{quote(key, safe='/-_.~')}" if key else "")
        signed = self._signer.sign(method, self._endpoint.netloc, target, headers or {}, time.time())
        return self._http.request(
            Request(
                method,
                target,
                signed,
                body.parts if body else (),
                max_body_bytes,
                expect_continue,
                body.meanwhile if body else None,
            )
        )

    def _sdk_call(self, call: Callable[[], _T]) -> _T:
        """Translate what the SDK raises."""
        try:
            return call()
        except S3Error as error:
            raise error_of_sdk(error, str(self._endpoint)) from error
        except (InvalidResponseError, ServerError) as error:
            raise error_of_answer(error, str(self._endpoint)) from error
        except urllib3.exceptions.SSLError as error:
            raise StoreMisconfigured(f"{self._endpoint}: TLS failed ({bounded(str(error))})") from error
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise StoreUnreachable(f"{self._endpoint}: {type(error).__name__}") from error
        except (ValueError, ET.ParseError) as error:
            raise StoreCorrupt(
                f"{self._endpoint}: the reply cannot be read ({type(error).__name__})"
            ) from error


def _check_credentials(access_key: str, secret_key: str) -> None:
    if not access_key or not secret_key:
        raise ConfigError(
            f"minio.{'secret_key' if access_key else 'access_key'} is missing: the store needs both keys"
        )
    if not (access_key.isascii() and access_key.isprintable()):
        raise ConfigError("minio.access_key has characters outside printable ASCII: no store gives such keys")


def _etag(reply: Reply) -> str:
    return reply.headers.get("etag", "").removeprefix("W/").strip('"')


def _crc32c(reply: Reply) -> int | None:
    """Checksum of the whole object; None where there is none, or one over parts (`...-N`)."""
    encoded = reply.headers.get("x-amz-checksum-crc32c", "")
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return int.from_bytes(decoded, "big") if len(decoded) == 4 else None


def _last_modified_ns(reply: Reply) -> int:
    try:
        return int(parsedate_to_datetime(reply.headers.get("last-modified", "")).timestamp()) * 10**9
    except (ValueError, TypeError):
        return 0


def _md5(body: Body) -> hashlib._Hash:
    digest = hashlib.md5(usedforsecurity=False)
    for block in body.blocks():
        digest.update(block)
    return digest


def _md5_base64(body: Body) -> str:
    return base64.b64encode(_md5(body).digest()).decode("ascii")
