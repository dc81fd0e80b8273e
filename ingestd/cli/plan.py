"""How a recording becomes frames: what the user and the recording say, put together, and cut into chunks.

Planning sends nothing, so that everything that is wrong with a command line is said before the first frame goes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from ingestd.cli.recording import Recording
from ingestd.errors import FrameError, UsageError, bounded
from ingestd.formats import frame, timestamps
from ingestd.formats.fields import FIELDS_BY_NAME
from ingestd.formats.measurement import Measurement
from ingestd.formats.recording import Segment, chunk_timestamp_ns

__all__ = [
    "DEFAULT_MAX_FRAME_BYTES",
    "NOW",
    "Description",
    "Plan",
    "plan",
    "read_entry",
    "read_time",
    "test_tone",
]

#: `--time` for "sample 0 is being received now"; never assumed, because a wrong stamp spoils a TDoA fix silently.
NOW = "now"

#: `ingest.max_frame_bytes` as it comes [bytes]; taken where the daemon is not asked.
DEFAULT_MAX_FRAME_BYTES = 64 * 2**20

#: What a frame may hold beside its samples [bytes]: metrics and extras are below 4 KiB each, the rest below 2 KiB.
_FRAME_OVERHEAD_BYTES = 16 * 1024

_TONE_HZ, _TONE_RATE_HZ, _TONE_FREQUENCY_HZ = 1_000.0, 12_000.0, 10e6


@dataclass(frozen=True, slots=True)
class Description:
    """What the user says of a recording; None where it is left to the recording.

    Names and units are those of the frame's keys; `time` is ISO 8601, ns since 1970, or `now`.
    """

    task_id: str | None = None
    websdr_id: int | None = None
    frequency_hz: float | None = None
    frequency_mhz: float | None = None
    sample_rate_hz: float | None = None
    sample_rate_khz: float | None = None
    time: str | None = None
    gain_db: float | None = None
    bandwidth_hz: float | None = None
    chunk_samples: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, rule = getattr(self, field.name), FIELDS_BY_NAME.get(field.name)
            if value is not None and rule is not None and not rule.accepts(value):
                raise UsageError(f"{_option(field.name)} {bounded(value)} (allowed: {rule.allowed})")
        for one, other in (("frequency_hz", "frequency_mhz"), ("sample_rate_hz", "sample_rate_khz")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UsageError(f"{_option(one)} and {_option(other)} (allowed: one of them)")


class _Rate(NamedTuple):
    """Both spellings of a rate, as in `Measurement`: the one that was given to the bit."""

    hz: float
    scaled: float


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A segment with everything known: its frequency, and the stamp of the sample `t0_sample` of the recording."""

    segment: Segment
    frequency: _Rate
    t0_ns: int
    t0_sample: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a recording becomes measurements.

    Parameters
    ----------
    recording
        Open, at sample 0.
    template
        What all measurements have in common.
    stretches
        The segments in order.
    block_samples
        Longest measurement [samples].
    chunked
        Whether measurements are numbered; None = only the end of the stream will tell.
    """

    recording: Recording
    template: Measurement
    stretches: tuple[_Stretch, ...]
    block_samples: int
    chunked: bool | None

    @property
    def size_bytes(self) -> int | None:
        """Length of all samples [bytes]; None of a stream."""
        return self.recording.size_bytes

    def measurements(self) -> Iterator[Measurement]:
        """Read the recording block by block; one block is held at a time."""
        chunked, chunk = self.chunked, 0
        for stretch in self.stretches:
            offset, left = 0, _length(self.recording, stretch.segment)
            while left is None or offset < left:
                wanted = self.block_samples if left is None else min(self.block_samples, left - offset)
                samples = self.recording.read(wanted)
                if not samples:
                    self._check_end(left, chunk)
                    break
                if chunked is None:
                    chunked = len(samples) == wanted * self.recording.sample_bytes and self.recording.wait()
                yield self._measurement(stretch, offset, samples, chunk if chunked else None)
                offset += len(samples) // self.recording.sample_bytes
                chunk += 1

    def _measurement(self, stretch: _Stretch, offset: int, samples: bytes, chunk: int | None) -> Measurement:
        assert self.template.sample_rate_hz is not None
        segment = stretch.segment
        since_t0 = segment.start_sample + offset - stretch.t0_sample
        return replace(
            self.template,
            samples=samples,
            timestamp_ns=chunk_timestamp_ns(stretch.t0_ns, since_t0, self.template.sample_rate_hz),
            frequency_hz=stretch.frequency.hz,
            frequency_mhz=stretch.frequency.scaled,
            chunk=chunk,
            sample_index=None if segment.sample_index is None else segment.sample_index + offset,
            geolocation=segment.geolocation,
        )

    def _check_end(self, left: int | None, n_measurements: int) -> None:
        if left is not None:
            raise UsageError(f"{self.recording.name}: ended early, while it was read")
        if not n_measurements:
            raise UsageError(f"{self.recording.name}: holds no samples")


def plan(
    recording: Recording,
    description: Description,
    max_frame_bytes: Callable[[], int] = lambda: DEFAULT_MAX_FRAME_BYTES,
    now_ns: Callable[[], int] = time.time_ns,
) -> Plan:
    """Plan the frames of a recording.

    Parameters
    ----------
    recording
        Open, at sample 0.
    description
        What the user says; it goes before what the recording says.
    max_frame_bytes
        Asks for the longest frame that the daemon takes [bytes]; called when nothing is missing.
    now_ns
        Clock for `--time now` [ns since 1970].

    Raises
    ------
    UsageError
        Something is missing (all of it is named), or cannot be.
    """
    rate = _rate(description.sample_rate_hz, description.sample_rate_khz, 1000.0) or _rate(
        recording.sample_rate_hz, None, 1000.0
    )
    frequency = _rate(description.frequency_hz, description.frequency_mhz, 1e6)
    frequencies = [frequency or _rate(segment.frequency_hz, None, 1e6) for segment in recording.segments]
    stamped = description.time is not None or recording.segments[0].timestamp_ns is not None
    _check_nothing_missing(
        {
            "--task-id": description.task_id is not None,
            "--websdr-id": description.websdr_id is not None,
            "--frequency-hz or --frequency-mhz": None not in frequencies,
            "--sample-rate-hz or --sample-rate-khz": rate is not None,
            "--time (ISO 8601 in UTC, ns since 1970, or now)": stamped,
        }
    )
    assert rate is not None
    assert description.task_id is not None
    assert description.websdr_id is not None
    # Before the daemon is asked: a stream that has begun does not wait for its stamp.
    t0_ns = None if description.time is None else _t0_ns(recording, description.time, now_ns)
    block_samples, chunked = _blocks(recording, description.chunk_samples, max_frame_bytes())
    template = Measurement(
        task_id=description.task_id,
        websdr_id=description.websdr_id,
        samples=b"",
        datatype=recording.datatype,
        sample_rate_hz=rate.hz,
        sample_rate_khz=rate.scaled,
        clock_source="host" if description.time == NOW else None,
        gain_db=description.gain_db,
        bandwidth_hz=description.bandwidth_hz,
    )
    return Plan(recording, template, _stretches(recording, frequencies, t0_ns), block_samples, chunked)


def read_time(text: str) -> int:
    """Read `--time` [ns since 1970], unless it is `now`.

    Raises
    ------
    UsageError
        Neither ISO 8601 in UTC nor an integer of nanoseconds in range.
    """
    if text.isascii() and text.isdigit() and len(text) < 20 and timestamps.in_range(int(text)):
        return int(text)
    try:
        return timestamps.parse_utc(text)[0]
    except FrameError as error:
        allowed = f"{error.allowed}; an integer of ns since 1970; or {NOW}"
        raise UsageError(f"--time {bounded(text)} (allowed: {allowed})") from error


def read_entry(encoded: bytes, name: str) -> Measurement:
    """Read an entry of the spool, which is a frame as it was received; the confirmation triple is left out.

    Raises
    ------
    UsageError
        The file is no valid frame.
    """
    try:
        measurement = frame.parse(encoded)
    except FrameError as error:
        raise UsageError(f"{bounded(name, 400)}: no valid frame ({error})") from error
    return replace(measurement, epoch=None, seq=None)


def test_tone(description: Description, now_ns: int) -> tuple[Recording, Description]:
    """Make a second of a 1 kHz tone at half of full scale, and describe what the user left open.

    Parameters
    ----------
    description
        What the user says.
    now_ns
        [ns since 1970]; names the session, so that each test tone is another one.
    """
    n_samples = int(_TONE_RATE_HZ)
    phase = 2 * np.pi * _TONE_HZ / _TONE_RATE_HZ * np.arange(n_samples)
    samples = (0.5 * np.exp(1j * phase)).astype("<c8")
    stamp = timestamps.format_utc(now_ns).replace("-", "").replace(":", "")
    described = replace(
        description,
        task_id=description.task_id or f"test-tone-{stamp}",
        websdr_id=0 if description.websdr_id is None else description.websdr_id,
        time=description.time or NOW,
    )
    stream = io.BufferedReader(io.BytesIO(samples.tobytes()))
    segments = (Segment(frequency_hz=_TONE_FREQUENCY_HZ),)
    return Recording("test tone", "cf32_le", stream, n_samples, _TONE_RATE_HZ, segments), described


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _rate(hz: float | None, scaled: float | None, factor: float) -> _Rate | None:
    if scaled is not None:
        return _Rate(scaled * factor, scaled)
    return None if hz is None else _Rate(hz, hz / factor)


def _check_nothing_missing(given: dict[str, bool]) -> None:
    missing = [name for name, is_given in given.items() if not is_given]
    if missing:
        raise UsageError(f"missing: {'; '.join(missing)}")


def _blocks(recording: Recording, chunk_samples: int | None, max_frame_bytes: int) -> tuple[int, bool | None]:
    """Longest measurement [samples], and whether measurements are numbered (None: not known yet)."""
    largest = max(1, (max_frame_bytes - _FRAME_OVERHEAD_BYTES) // recording.sample_bytes)
    if chunk_samples is not None and not 1 <= chunk_samples <= largest:
        raise UsageError(
            f"--chunk-samples {chunk_samples} (allowed: 1 to {largest} samples of {recording.datatype}, "
            f"which fit into a frame of {max_frame_bytes} bytes)"
        )
    block_samples = chunk_samples or largest
    if recording.n_samples is None:
        return block_samples, True if chunk_samples else None
    n_blocks = sum(-(-(_length(recording, one) or 0) // block_samples) for one in recording.segments)
    if not FIELDS_BY_NAME["chunk"].accepts(n_blocks - 1):
        raise UsageError(
            f"{n_blocks} chunks of {block_samples} samples (allowed: 1000000; --chunk-samples sets the length)"
        )
    return block_samples, chunk_samples is not None or n_blocks > 1


def _length(recording: Recording, segment: Segment) -> int | None:
    """Length of a segment [samples]; None of an open one in a stream."""
    if segment.n_samples is not None or recording.n_samples is None:
        return segment.n_samples
    return recording.n_samples - segment.start_sample


def _t0_ns(recording: Recording, text: str, now_ns: Callable[[], int]) -> int:
    if text != NOW:
        return read_time(text)
    # A receiver that is still starting must not be stamped with the start of this command.
    recording.wait()
    return now_ns()


def _stretches(
    recording: Recording, frequencies: list[_Rate | None], t0_ns: int | None
) -> tuple[_Stretch, ...]:
    """Give each segment its stamp: the user's counted on, else its own, else that of the one before counted on."""
    stretches: list[_Stretch] = []
    known_ns, known_sample = t0_ns, 0
    for segment, frequency in zip(recording.segments, frequencies, strict=True):
        if t0_ns is None and segment.timestamp_ns is not None:
            known_ns, known_sample = segment.timestamp_ns, segment.start_sample
        assert known_ns is not None
        assert frequency is not None
        stretches.append(_Stretch(segment, frequency, known_ns, known_sample))
    return tuple(stretches)
