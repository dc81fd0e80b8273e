"""The command `get`: read an object through the URL that the daemon gives, and prove that it is the stored one.

No storage credentials are needed, and no redirect is followed: a presigned URL names the one server that may answer.
"""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from ingestd.errors import IngestdError, NotFound, Unavailable, UsageError, bounded
from ingestd.formats import metadata
from ingestd.formats.checksum import crc32c_extend

__all__ = ["STDOUT", "Expected", "download", "expected"]

#: Name of standard output on the command line.
STDOUT = "-"

#: Read at once [bytes].
_BLOCK_BYTES = 2**20


class Expected(NamedTuple):
    """Size [bytes] and CRC32C that an object must have; None = not known beforehand."""

    size_bytes: int | None = None
    crc32c: int | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def expected(row: dict[str, Any]) -> Expected:
    """Size and checksum of the .npy object, out of its row of the catalog.

    Raises
    ------
    IngestdError
        The row does not say them in their form.
    """
    size_bytes, crc32c = row.get("size_bytes"), row.get("crc32c")
    checksum = _checksum(crc32c)
    if type(size_bytes) is not int or size_bytes < 0 or checksum is None:
        raise IngestdError(
            f"the catalog gives size_bytes={bounded(size_bytes)} and crc32c={bounded(crc32c)}: nothing to check against"
        )
    return Expected(size_bytes, checksum)


def _checksum(in_base64: object) -> int | None:
    """CRC32C as S3 writes it, read; None where it is something else."""
    try:
        checksum = base64.b64decode(in_base64, validate=True) if isinstance(in_base64, str) else b""
    except ValueError:
        return None
    return int.from_bytes(checksum, "big") if len(checksum) == 4 else None


def download(url: str, output: str, wanted: Expected, timeout_s: float) -> int:
    """Read an object into a file, which appears only when it is whole and right.

    Parameters
    ----------
    url
        http://, https:// or file://.
    output
        Path, replaced where it exists; `-` for standard output.
    wanted
        What the object must be; without a size it is a metadata document.
    timeout_s
        Longest silence of the server [s].

    Returns
    -------
    int
        Size [bytes].

    Raises
    ------
    UsageError
        The output cannot be written.
    NotFound, Unavailable, IngestdError
        The object is gone; the server does not answer; what came is not the object.
    """
    with _target(output) as target:
        return _copy(url, target, wanted, timeout_s)


@contextmanager
def _target(output: str) -> Iterator[IO[bytes]]:
    """A temporary file that becomes the output on success, and nothing otherwise."""
    # Never in place of a device: /dev/null would be a file from then on.
    by_copy = output == STDOUT or (os.path.exists(output) and not os.path.isfile(output))
    path = os.path.realpath(output)
    try:
        with tempfile.NamedTemporaryFile(
            dir=None if by_copy else os.path.dirname(path), prefix=".ingestctl-", delete=False
        ) as target:
            try:
                yield target
                target.flush()
                if by_copy:
                    _copy_out(target, output)
                else:
                    os.chmod(target.name, 0o666 & ~_umask())
                    os.replace(target.name, path)
            finally:
                if os.path.exists(target.name):
                    os.unlink(target.name)
    except OSError as error:
        raise UsageError(f"{bounded(output, 400)}: cannot be written ({error.strerror})") from error


def _copy_out(target: IO[bytes], output: str) -> None:
    target.seek(0)
    if output == STDOUT:
        shutil.copyfileobj(target, sys.stdout.buffer, _BLOCK_BYTES)
        sys.stdout.buffer.flush()
        return
    with open(output, "wb") as special:
        shutil.copyfileobj(target, special, _BLOCK_BYTES)


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _copy(url: str, target: IO[bytes], wanted: Expected, timeout_s: float) -> int:
    limit_bytes = metadata.MAX_DOCUMENT_BYTES if wanted.size_bytes is None else wanted.size_bytes
    crc = n_bytes = 0
    with _source(url, timeout_s) as source:
        for block in _blocks(source, url):
            crc = crc32c_extend(crc, block)
            n_bytes += len(block)
            if n_bytes > limit_bytes:
                raise IngestdError(f"the object is longer than {limit_bytes} bytes")
            target.write(block)
    if wanted.size_bytes is not None and n_bytes != wanted.size_bytes:
        raise IngestdError(f"{n_bytes} of {wanted.size_bytes} bytes came")
    if wanted.crc32c is not None and crc != wanted.crc32c:
        raise IngestdError(f"the object has crc32c {crc:08x}, the catalog says {wanted.crc32c:08x}")
    return n_bytes


def _blocks(source: BinaryIO | http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while block := source.read(_BLOCK_BYTES):
            yield block
    except http.client.HTTPException as error:
        raise IngestdError(f"the reply ended early ({type(error).__name__})") from error
    except OSError as error:
        raise Unavailable(f"no answer from {_host(url)}: {bounded(str(error))}") from error


@contextmanager
def _source(url: str, timeout_s: float) -> Iterator[BinaryIO | http.client.HTTPResponse]:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise IngestdError(f"no URL: {bounded(url)}") from error
    if scheme == "file":
        opened: BinaryIO | http.client.HTTPResponse = _open_file(url)
    elif scheme in ("http", "https"):
        opened = _open_http(url, timeout_s)
    else:
        raise IngestdError(f"a URL of the scheme {bounded(scheme)} (allowed: http, https, file)")
    with opened as source:
        yield source


def _open_file(url: str) -> BinaryIO:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost"):
        raise IngestdError(f"a file of another machine: {bounded(parts.netloc)}")
    try:
        if not os.path.isfile(path):
            raise NotFound(
                f"{bounded(path, 400)} is not on this machine; the daemon's directory store is local to it"
            )
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise IngestdError(f"{bounded(path, 400)}: cannot be read") from error


def _open_http(url: str, timeout_s: float) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        response: http.client.HTTPResponse = opener.open(url, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        text = f"{_host(url)} answered {error.code}"
        raise (NotFound(text) if error.code == 404 else IngestdError(text)) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise Unavailable(f"no answer from {_host(url)}: {bounded(str(why))}") from error
    except ValueError as error:
        raise IngestdError(f"no URL: {bounded(url)}") from error
    return response


def _host(url: str) -> str:
    """Name the server alone: the rest of a presigned URL is as good as a password."""
    return bounded(urlsplit(url).netloc.rpartition("@")[2])[1:-1]
