"""tests/golden/frames.json is what the code does: other senders and readers are written after it."""

import dataclasses
import json
from pathlib import Path

import msgpack
import pytest

from ingestd.errors import FrameError
from ingestd.formats import frame
from ingestd.formats.fields import FIELDS_BY_NAME
from ingestd.formats.measurement import DATATYPES

FRAMES = json.loads((Path(__file__).parents[2] / "golden" / "frames.json").read_text(encoding="ascii"))[
    "frames"
]
TAKEN = [case for case in FRAMES if "measurement" in case]
REJECTED = [case for case in FRAMES if "rejected" in case]


def _name(case):
    return case["name"]


@pytest.mark.parametrize("case", TAKEN, ids=_name)
def test_a_golden_frame_parses_to_what_is_written_beside_it(case):
    measurement = frame.parse(bytes.fromhex(case["hex"]))
    parsed = {field.name: getattr(measurement, field.name) for field in dataclasses.fields(measurement)}
    parsed["samples"] = bytes(measurement.samples).hex()
    # As JSON, so that 1 and 1.0 and True are told apart and floats are compared to the bit.
    assert json.dumps(
        {name: value for name, value in parsed.items() if value not in (None, {})}
    ) == json.dumps(case["measurement"])


@pytest.mark.parametrize("case", TAKEN, ids=_name)
def test_a_canonical_golden_frame_is_what_our_own_sender_writes(case):
    data = bytes.fromhex(case["hex"])
    encoded = frame.encode(frame.parse(data))
    assert (encoded == data) is case["canonical"]
    assert frame.parse(encoded) == frame.parse(data)


@pytest.mark.parametrize("case", REJECTED, ids=_name)
def test_a_golden_frame_is_rejected_for_what_is_written_beside_it(case):
    with pytest.raises(FrameError) as caught:
        frame.parse(bytes.fromhex(case["hex"]))
    assert {"reason": caught.value.reason, "field": caught.value.field} == case["rejected"]


@pytest.mark.parametrize("case", TAKEN, ids=_name)
def test_a_golden_frame_is_what_a_plain_msgpack_library_writes(case):
    data = bytes.fromhex(case["hex"])
    assert msgpack.packb(msgpack.unpackb(data)) == data


def test_the_golden_frames_have_names_of_their_own_and_one_outcome_each():
    assert len({case["name"] for case in FRAMES}) == len(FRAMES)
    assert all(("measurement" in case) != ("rejected" in case) for case in FRAMES)


def test_the_golden_frames_show_every_key_and_three_datatypes():
    shown = {key for case in TAKEN for key in msgpack.unpackb(bytes.fromhex(case["hex"]))}
    assert shown == set(FIELDS_BY_NAME)
    assert {case["measurement"]["datatype"] for case in TAKEN} == set(DATATYPES) - {"ci8"}
