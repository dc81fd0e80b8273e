"""Recordings on disk or on standard input, opened as one stream of whole samples in a wire datatype.

Nothing is converted here: the bytes that are read are the bytes that go into the frame.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from ingestd.errors import UsageError, bounded
from ingestd.formats.measurement import DATATYPES
from ingestd.formats.recording import (
    LOOSE_SUFFIXES,
    MAX_SIGMF_BYTES,
    RAW_SUFFIXES,
    Segment,
    SigMF,
    parse_sigmf,
    wire_datatype,
)

__all__ = ["STDIN", "Recording", "open_recording", "read_file"]

#: Name of standard input on the command line.
STDIN = "-"

_KINDS = (
    ".npy, .sigmf-meta, "
    + ", ".join((*RAW_SUFFIXES, *LOOSE_SUFFIXES))
    + ", or --datatype for raw samples under any other name"
)

#: Float samples above this are no recording [full scale 1.0]: what is left of int16 read as float32.
_IMPLAUSIBLE = 1e6
#: Samples of an .iq file that are looked at [bytes]: integers of noise give themselves away within a few dozen.
_LOOK_BYTES = 32_768

_NPY_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}

#: What NumPy's parser lets out of a damaged header.
_NPY_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    RecursionError,
    struct.error,
    tokenize.TokenError,
)


@dataclass(slots=True)
class Recording:
    """An open recording.

    Parameters
    ----------
    name
        For messages.
    datatype
        Out of `measurement.DATATYPES`.
    stream
        Stands at sample 0.
    n_samples
        None where only the end of the stream will tell.
    sample_rate_hz
        As the recording says [Hz], or None.
    segments
        In order, without a gap; the last may be open.
    """

    name: str
    datatype: str
    stream: io.BufferedReader[Any]
    n_samples: int | None = None
    sample_rate_hz: float | None = None
    segments: tuple[Segment, ...] = (Segment(),)
    #: Bytes at the end of a stream that were no whole sample.
    torn_bytes: int = 0
    _n_read: int = 0

    @property
    def sample_bytes(self) -> int:
        """Size of one complex sample [bytes]."""
        return DATATYPES[self.datatype].sample_bytes

    @property
    def size_bytes(self) -> int | None:
        """Length of all samples [bytes], or None."""
        return None if self.n_samples is None else self.n_samples * self.sample_bytes

    def read(self, n_samples: int) -> bytes:
        """Read the next samples, fewer at the end, none behind it."""
        if self.n_samples is not None:
            # A file may hold more than samples behind them, and may have grown.
            n_samples = min(n_samples, self.n_samples - self._n_read)
        try:
            block = self.stream.read(n_samples * self.sample_bytes)
        except OSError as error:
            raise UsageError(f"{self.name}: cannot be read ({error.strerror})") from error
        rest = len(block) % self.sample_bytes
        self.torn_bytes += rest
        self._n_read += len(block) // self.sample_bytes
        return block[: len(block) - rest] if rest else block

    def wait(self) -> bool:
        """Wait for more bytes, reading none of them; False at the end."""
        return bool(self.stream.peek(1))


@contextmanager
def open_recording(
    name: str, datatype: str | None, stdin: io.BufferedReader | None = None
) -> Iterator[Recording]:
    """Open a recording by what its name says.

    Parameters
    ----------
    name
        Path, or `-` for standard input.
    datatype
        As given by the user, or None.
    stdin
        Standard input.

    Raises
    ------
    UsageError
        It is not there, of an unknown kind, contradicts `datatype`, or is broken.
    """
    given = None if datatype is None else wire_datatype(datatype)
    if name == STDIN:
        assert stdin is not None
        if given is None:
            raise UsageError(
                f"--datatype is missing: standard input does not say it (allowed: {', '.join(DATATYPES)})"
            )
        yield Recording("standard input", given, stdin)
        return
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".sigmf-data":
        name, suffix = name[: -len(suffix)] + ".sigmf-meta", ".sigmf-meta"
    if suffix == ".sigmf-meta":
        with _open(name) as meta:
            about = parse_sigmf(meta.read(MAX_SIGMF_BYTES))
        _check_agrees(name, about.datatype, given)
        path = _dataset_path(name, about)
        with _open(path) as stream:
            yield _sigmf(path, stream, about)
        return
    with _open(name) as stream:
        yield _npy(name, stream, given) if suffix == ".npy" else _raw(name, stream, suffix, given)


def _open(path: str) -> io.BufferedReader:
    try:
        stream = open(path, "rb")  # noqa: SIM115 - every caller has it in a `with`
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise UsageError(f"{bounded(path, 400)}: cannot be opened ({why})") from error
    return stream


def _check_agrees(name: str, datatype: str, given: str | None) -> None:
    if given is not None and given != datatype:
        raise UsageError(f"--datatype {given}: {bounded(name, 400)} says {datatype}")


def _n_samples(name: str, n_bytes: int, datatype: str) -> int:
    """Count the samples of a file that must hold whole ones and at least one."""
    n_samples, rest = divmod(n_bytes, DATATYPES[datatype].sample_bytes)
    if n_bytes <= 0:
        raise UsageError(f"{bounded(name, 400)}: holds no samples")
    if rest:
        raise UsageError(
            f"{bounded(name, 400)}: {n_bytes} bytes are no whole number of {datatype} samples "
            f"(allowed: a multiple of {DATATYPES[datatype].sample_bytes})"
        )
    return n_samples


def _size_bytes(stream: io.BufferedReader) -> int | None:
    """Length of a regular file [bytes]; None of a pipe or a device."""
    status = os.fstat(stream.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _raw(name: str, stream: io.BufferedReader, suffix: str, given: str | None) -> Recording:
    if suffix in RAW_SUFFIXES:
        datatype = RAW_SUFFIXES[suffix]
        _check_agrees(name, datatype, given)
    elif given is not None:
        datatype = given
    elif suffix in LOOSE_SUFFIXES:
        datatype = LOOSE_SUFFIXES[suffix]
        _check_plausible(name, stream)
    else:
        raise UsageError(f"{bounded(name, 400)}: does not say what its samples are (allowed: {_KINDS})")
    size_bytes = _size_bytes(stream)
    n_samples = None if size_bytes is None else _n_samples(name, size_bytes, datatype)
    return Recording(name, datatype, stream, n_samples)


def _check_plausible(name: str, stream: io.BufferedReader) -> None:
    """Refuse integers under a name that only suggests floats: read as such they are huge or not finite."""
    if _size_bytes(stream) is None:
        return
    block = stream.read(_LOOK_BYTES)
    stream.seek(0)
    values = np.frombuffer(block[: len(block) // 4 * 4], dtype="<f4")
    if not np.all(np.abs(values) < _IMPLAUSIBLE):
        raise UsageError(
            f"{bounded(name, 400)}: --datatype is missing: these are no cf32_le samples "
            f"(allowed: {', '.join(DATATYPES)})"
        )


def _npy(name: str, stream: io.BufferedReader, given: str | None) -> Recording:
    _check_agrees(name, "cf32_le", given)
    size_bytes = _size_bytes(stream)
    shape, dtype = _npy_header(name, stream)
    if dtype != np.dtype("<c8") or len(shape) != 1:
        raise UsageError(
            f"{bounded(name, 400)}: an array of dtype {bounded(dtype.str)} and {len(shape)} dimensions "
            "(allowed: complex64, little endian, one dimension; array.ravel().astype('complex64') makes one)"
        )
    if size_bytes is None or size_bytes - stream.tell() != shape[0] * dtype.itemsize:
        raise UsageError(f"{bounded(name, 400)}: not whole (allowed: {shape[0]} samples, as its header says)")
    return Recording(name, "cf32_le", stream, _n_samples(name, shape[0] * dtype.itemsize, "cf32_le"))


def _npy_header(name: str, stream: io.BufferedReader) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = npy_format.read_magic(stream)
        shape, _, dtype = _NPY_HEADERS[version](stream)
    except _NPY_ERRORS as error:
        raise UsageError(f"{bounded(name, 400)}: no .npy file of format 1.0 or 2.0") from error
    return shape, dtype


def _dataset_path(meta: str, about: SigMF) -> str:
    if about.dataset is not None:
        return os.path.join(os.path.dirname(meta), about.dataset)
    return os.path.splitext(meta)[0] + ".sigmf-data"


def _sigmf(path: str, stream: io.BufferedReader, about: SigMF) -> Recording:
    size_bytes = _size_bytes(stream)
    if size_bytes is None:
        raise UsageError(f"{bounded(path, 400)}: not a regular file")
    samples_bytes = size_bytes - about.header_bytes - about.trailing_bytes
    n_samples = _n_samples(path, samples_bytes, about.datatype)
    last = about.segments[-1]
    if last.start_sample >= n_samples:
        raise UsageError(
            f"core:sample_start={last.start_sample} after the first sample (allowed: under {n_samples}, the samples "
            f"of {bounded(path, 400)})"
        )
    stream.seek(about.header_bytes)
    return Recording(path, about.datatype, stream, n_samples, about.sample_rate_hz, about.segments)


def read_file(path: str, limit_bytes: int) -> bytes:
    """Read a whole file of at most `limit_bytes`.

    Raises
    ------
    UsageError
        It is not there or longer.
    """
    with _open(path) as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise UsageError(f"{bounded(path, 400)}: longer than {limit_bytes} bytes")
    return content
