"""What is fuzzed, and what must hold whatever the bytes: each target takes bytes and raises where it does not."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ingestd.errors import BOUNDED_LENGTH, FrameError, StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats import metadata as documents
from ingestd.formats import npy, protocol
from ingestd.formats.checksum import crc32c
from ingestd.formats.protocol import ErrorCode, Refusal
from ingestd.spool import Claim, Claims, SpoolLayout
from ingestd.spool.names import EntryName

__all__ = ["TARGETS", "BrokenError", "seeds"]

#: Longest text of an error [characters]: a few bounded values and our own words.
_MAX_MESSAGE = 10 * BOUNDED_LENGTH


class BrokenError(AssertionError):
    """Something that must hold does not."""


def _hold(condition: object, what: object) -> None:
    if not condition:
        raise BrokenError(what)


def frame(data: bytes) -> None:
    """A frame is refused with a reason of the list, or comes back the same after it is written again."""
    wire.origin(data)
    try:
        measurement = wire.parse(data)
    except FrameError as error:
        text = str(error)
        _hold(error.reason in wire.REASONS, error.reason)
        _hold(text.isascii(), text)
        _hold(text.isprintable(), text)
        _hold(len(text) < _MAX_MESSAGE, len(text))
        return
    _hold(wire.parse(wire.encode(measurement)) == measurement, "another measurement")
    encoded = documents.encode(documents.document(measurement, npy.encode(measurement), None))
    _hold(len(encoded) < documents.MAX_DOCUMENT_BYTES, "a long document")
    _hold(documents.decode(encoded)["task_id"] == measurement.task_id, "another document")


def query(data: bytes) -> None:
    """A request is understood or refused, and either way one reply can be written that carries its id."""
    request = protocol.decode(data)
    if isinstance(request, Refusal):
        _hold(request.error.code in {code.value for code in ErrorCode}, request.error.code)
        reply = protocol.encode_error(request.encoding, request.id, request.error)
    else:
        reply = protocol.encode_data(request.encoding, request.id, {"args": sorted(request.args)})
    _hold(0 < len(reply) < protocol.MAX_REQUEST_BYTES, len(reply))
    if request.encoding is protocol.Encoding.JSON:
        _hold(json.loads(reply)["id"] == request.id, request.id)


def metadata(data: bytes) -> None:
    """A metadata document is read, or named corrupt."""
    try:
        document = documents.decode(data)
    except StoreCorrupt as error:
        _hold(len(str(error)) < _MAX_MESSAGE, len(str(error)))
        return
    documents.content(document)


#: Where a crash, an operator or another version may have left a file.
_PLACES = (
    "new",
    "tmp",
    "claimed/uploader-0",
    "claimed/suspect-1",
    "claimed/uploader-0.alone-1",
    "claimed",
    "failed",
)


def spool(data: bytes) -> None:
    """A spool with a strange file in it is recovered; what is an entry is claimed and read or failed, nothing is lost.

    The first byte chooses the place, the text up to the line end is the file's name (or, empty, the right one), the
    rest is what it holds.
    """
    head, _, content = data.partition(b"\n")
    name = os.fsdecode(head[1:].replace(b"/", b"_").replace(b"\0", b"_")[:200]) or str(
        EntryName(1_790_000_000_000_000_000, 0, crc32c(content))
    )
    if name in (".", ".."):
        return
    place = _PLACES[head[0] % len(_PLACES)] if head else _PLACES[0]
    root = tempfile.mkdtemp(prefix="ingestd-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)  # noqa: S108 - private by mkdtemp
    try:
        _recover(root, place, name, content)
    finally:
        shutil.rmtree(root)


def _recover(root: str, place: str, name: str, content: bytes) -> None:
    layout = SpoolLayout(root)
    layout.make()
    directory = os.path.join(layout.root, place)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(content)
    layout.recover()
    claims = Claims(layout, "uploader-0")
    for listed in claims.listing():
        claim = claims.take(listed)
        if claim is None:
            continue
        reason = _reason(claim)
        if reason is None:
            claim.release(retain=True)
        else:
            claim.fail(reason, "")
    found = [file for _, _, files in os.walk(layout.root) for file in files]
    _hold(place == "tmp" or name in found, "a file is gone")


def _reason(claim: Claim) -> str | None:
    """Why an entry cannot be stored by anybody; None where it can."""
    read = claim.read()
    if not claim.intact(read):
        return "msgpack"
    try:
        wire.parse(read)
    except FrameError as error:
        return error.reason
    return None


#: By name.
TARGETS: dict[str, Callable[[bytes], None]] = {
    "frame": frame,
    "query": query,
    "metadata": metadata,
    "spool": spool,
}


def seeds(name: str, golden: str) -> Iterator[bytes]:
    """What to begin with, out of the golden files.

    Parameters
    ----------
    name
        Of a target.
    golden
        Directory of the golden files.
    """
    if name == "query":
        for case in _golden(golden, "query.json", "cases"):
            yield case["request"]["json"].encode()
            yield bytes.fromhex(case["request"]["msgpack"])
    elif name == "metadata":
        for case in _golden(golden, "metadata.json", "objects"):
            yield case["metadata"].encode()
    else:
        for number, case in enumerate(_golden(golden, "frames.json", "frames")):
            encoded = bytes.fromhex(case["hex"])
            yield encoded if name == "frame" else bytes([number]) + b"\n" + encoded


def _golden(directory: str, file: str, name: str) -> list[dict[str, Any]]:
    with open(os.path.join(directory, file), encoding="utf-8") as opened:
        cases: list[dict[str, Any]] = json.load(opened)[name]
        return cases
