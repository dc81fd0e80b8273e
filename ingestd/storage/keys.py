"""Names that every store takes alike: what one accepts the others do too, and none can be led outside its bucket."""

from __future__ import annotations

import re

from ingestd.errors import StoreMisconfigured, StoreRefused, bounded

__all__ = ["PROBE_KEY", "check_bucket", "check_key"]

#: Object that `probe` writes; never deleted, so that several processes may probe at once.
PROBE_KEY = ".ingestd/probe"

#: Longest key [bytes of UTF-8] (Amazon S3, "Creating object key names").
MAX_KEY_BYTES = 1024

#: Longest part of a key between slashes [bytes]: what Linux file systems take, MinIO's included.
MAX_PART_BYTES = 255

#: Amazon S3's bucket rules without the dots, which break TLS host names in other clients.
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?![.-]))*[a-z0-9]")

#: Parts that no key may have: they are not names in a file system, and S3 servers refuse or resolve them.
_FORBIDDEN_PARTS = frozenset({"", ".", ".."})


def check_bucket(bucket: str) -> str:
    """Return the name of a bucket as it is.

    Parameters
    ----------
    bucket
        3 to 63 characters.

    Raises
    ------
    StoreMisconfigured
        It is no bucket name.
    """
    if not 3 <= len(bucket) <= 63 or not bucket.isascii() or not _BUCKET.fullmatch(bucket):
        raise StoreMisconfigured(
            f"bucket {bounded(bucket)} is not a bucket name "
            "(allowed: 3 to 63 of a-z, 0-9, hyphen and dot, a letter or digit at both ends)"
        )
    return bucket


def check_key(key: str) -> str:
    """Return an object key as it is.

    Parameters
    ----------
    key
        Parts joined by slashes.

    Raises
    ------
    StoreRefused
        A part is empty, `.` or `..`, too long, or has a control character; or the key is too long or no UTF-8.
    """
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise StoreRefused(f"key {bounded(key)} is not UTF-8") from None
    parts = encoded.split(b"/")
    if len(encoded) > MAX_KEY_BYTES or max(map(len, parts)) > MAX_PART_BYTES:
        raise StoreRefused(
            f"key {bounded(key)} is too long (allowed: {MAX_KEY_BYTES} bytes, {MAX_PART_BYTES} a part)"
        )
    if not _FORBIDDEN_PARTS.isdisjoint(key.split("/")) or not key.isprintable():
        raise StoreRefused(f"key {bounded(key)} has an empty or dotted part or a control character")
    return key
