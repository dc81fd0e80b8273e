"""What an S3 server's refusal means for us: one table for our own requests and for the SDK's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from minio.error import InvalidResponseError, S3Error, ServerError

from ingestd.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreRefused,
    bounded,
)
from ingestd.storage.reply import Reply

__all__ = ["Fault", "error_of", "error_of_answer", "error_of_sdk", "fault"]

#: Codes with which servers refuse a body that does not have its checksum.
_CHECKSUM_CODES = frozenset({
    "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "ContentChecksumMismatch",
    "InvalidRequest", "InvalidArgument",
})  # fmt: skip

#: Meaning of codes that their status alone does not tell.
_BY_CODE: dict[str, type[StoreError]] = {
    "AuthorizationHeaderMalformed": StoreMisconfigured,
    "BadDigest": StoreCorrupt,
    "ExpiredToken": StoreDenied,
    "IncompleteBody": StoreCorrupt,
    "InvalidAccessKeyId": StoreDenied,
    "InvalidToken": StoreDenied,
    "NoSuchBucket": StoreMisconfigured,
    "PermanentRedirect": StoreMisconfigured,
    "QuotaExceeded": StoreBusy,
    "RequestTimeout": StoreBusy,
    "RequestTimeTooSkewed": StoreDenied,
    "SlowDown": StoreBusy,
    "XAmzContentChecksumMismatch": StoreCorrupt,
    "XMinioAdminBucketQuotaExceeded": StoreBusy,
    "XMinioStorageFull": StoreBusy,
}

#: Hints for the codes that an operator meets at the first start.
_HINTS: dict[str, str] = {
    "InvalidAccessKeyId": "minio.access_key is not known to the store",
    "SignatureDoesNotMatch": "minio.secret_key is wrong",
    "AccessDenied": "the key may not do this: give it s3:PutObject, s3:GetObject, s3:ListBucket (and s3:CreateBucket)",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": "make the bucket, or let the key make it",
    "AuthorizationHeaderMalformed": "set minio.region",
    "PermanentRedirect": "set minio.region",
}

_NAME = re.compile(r"[A-Za-z0-9.]{1,64}")
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,400})</Message>")


@dataclass(frozen=True, slots=True)
class Fault:
    """Code and message of an error document; empty where there is none (a HEAD has no body)."""

    code: str
    message: str

    @property
    def is_checksum(self) -> bool:
        """Whether the server may mean that the checksum is wrong."""
        return self.code in _CHECKSUM_CODES


def fault(reply: Reply) -> Fault:
    """Read an error document, as far as there is one."""
    code, message = _CODE.search(reply.body), _MESSAGE.search(reply.body)
    header = reply.headers.get("x-minio-error-code", "")
    return Fault(
        code[1].decode("ascii") if code else header if _NAME.fullmatch(header) else "",
        bounded(message[1], 200)[2:-1] if message else "",
    )


def error_of(reply: Reply, what: str) -> StoreError:
    """Error for a reply that is no success; `what` names the object or bucket."""
    read = fault(reply)
    return _error(reply.status, read, what, _seconds(reply.headers.get("retry-after", "")))


def error_of_sdk(error: S3Error, endpoint: str) -> StoreError:
    """Error for what the SDK raised."""
    status = int(getattr(error.response, "status", 0) or 0)
    code = error.code or ""
    read = Fault(code if _NAME.fullmatch(code) else "", bounded(error.message or "", 200)[1:-1])
    return _error(status, read, endpoint, None)


def error_of_answer(error: InvalidResponseError | ServerError, endpoint: str) -> StoreError:
    """Error for an answer that is no S3 server's: a proxy in front of it says so in a page of its own."""
    # InvalidResponseError has its status in its text and arguments only.
    status = error.status_code if isinstance(error, ServerError) else getattr(error, "_code", 0)
    return _error(int(status), Fault("", "not an answer of an S3 server"), endpoint, None)


def _error(status: int, read: Fault, what: str, retry_after_s: float | None) -> StoreError:
    told = " ".join(part for part in (str(status), read.code, read.message) if part)
    hint = _HINTS.get(read.code, "")
    text = f"{what}: {told}" + (f" ({hint})" if hint else "")
    kind = _BY_CODE.get(read.code) or _by_status(status)
    return StoreBusy(text, retry_after_s) if kind is StoreBusy else kind(text)


def _by_status(status: int) -> type[StoreError]:
    if status in (401, 403):
        return StoreDenied
    # 501: the server does not know what we ask for; asking again later would not teach it.
    if status in (408, 409, 429) or (status >= 500 and status != 501):
        return StoreBusy
    if status == 404 or 300 <= status < 400:
        return StoreMisconfigured
    if 200 <= status < 300:
        return StoreCorrupt
    return StoreRefused


def _seconds(hint: str) -> float | None:
    # isdigit alone takes superscripts, which float does not.
    return float(hint) if hint.isascii() and hint.isdigit() and len(hint) < 9 else None
