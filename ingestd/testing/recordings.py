"""Real off-air recordings (SigMF) from the directory that is shared beside the checkout.

They are test material under several licences and are not shipped; where they are absent, tests skip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.errors import UsageError, bounded
from ingestd.formats.measurement import Measurement
from ingestd.formats.timestamps import parse_utc

__all__ = ["Recording", "load", "measurement", "shared_iq"]

_META_SUFFIX = ".sigmf-meta"

#: The one datatype of the shared recordings.
_DATATYPE = "cf32_le"


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording as its SigMF sidecar describes it.

    `samples` has shape `(n_samples,)`, dtype complex64, full scale 1.0, read-only. `timestamp_ns` [ns since 1970, UTC]
    is None where the time was not recorded; `geolocation` is a GeoJSON Point or None.
    """

    name: str
    samples: npt.NDArray[np.complex64]
    datatype: str
    sample_rate_hz: float
    frequency_hz: float
    timestamp_ns: int | None
    geolocation: dict[str, Any] | None


def shared_iq() -> Path | None:
    """Directory of the recordings, or None where there is none beside the checkout."""
    directory = Path(__file__).resolve().parents[3] / "shared" / "iq"
    return directory if directory.is_dir() else None


def load(directory: Path, name: str) -> Recording:
    """Load one recording.

    Parameters
    ----------
    directory
        As found by `shared_iq`.
    name
        File name without its suffix.

    Raises
    ------
    UsageError
        There is no such recording, or it is not `cf32_le`.
    FrameError
        Its time cannot be read.
    """
    try:
        document = json.loads((directory / f"{name}{_META_SUFFIX}").read_bytes())
        described, capture = document["global"], document["captures"][0]
        samples = np.fromfile(directory / described["core:dataset"], dtype="<c8")
    except FileNotFoundError as error:
        known = ", ".join(
            sorted(path.name.removesuffix(_META_SUFFIX) for path in directory.glob(f"*{_META_SUFFIX}"))
        )
        raise UsageError(f"no recording {bounded(name)} (there are: {known})") from error
    if described["core:datatype"] != _DATATYPE:
        found = bounded(described["core:datatype"])
        raise UsageError(f"recording {bounded(name)}: core:datatype={found} (allowed: {_DATATYPE})")
    samples.flags.writeable = False
    text = capture.get("core:datetime")
    return Recording(
        name=name,
        samples=samples,
        datatype=_DATATYPE,
        sample_rate_hz=float(described["core:sample_rate"]),
        frequency_hz=float(capture["core:frequency"]),
        timestamp_ns=None if text is None else parse_utc(text)[0],
        geolocation=capture.get("core:geolocation"),
    )


def measurement(
    recording: Recording, task_id: str, websdr_id: int, *, timestamp_ns: int | None = None
) -> Measurement:
    """Make the measurement that a node with this recording would send.

    Parameters
    ----------
    recording
        As loaded.
    task_id, websdr_id
        Its identity.
    timestamp_ns
        Stamp of sample 0 for a recording without a time [ns]; one that has a time keeps it.

    Raises
    ------
    UsageError
        Neither the recording nor the caller has a time.
    """
    stamp_ns = timestamp_ns if recording.timestamp_ns is None else recording.timestamp_ns
    if stamp_ns is None:
        raise UsageError(f"recording {recording.name} has no time of its own: timestamp_ns is required")
    return Measurement(
        task_id=task_id,
        websdr_id=websdr_id,
        samples=recording.samples.data.cast("B"),
        datatype=recording.datatype,
        timestamp_ns=stamp_ns,
        frequency_hz=recording.frequency_hz,
        frequency_mhz=recording.frequency_hz / 1e6,
        sample_rate_hz=recording.sample_rate_hz,
        sample_rate_khz=recording.sample_rate_hz / 1000.0,
        geolocation=recording.geolocation,
    )
