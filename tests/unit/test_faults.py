"""Fault points: what arms them, and that every one of them is where its registry says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ingestd
from ingestd import faults
from ingestd.errors import UsageError

ROOT = Path(ingestd.__file__).parent


def used():
    """Names in calls of `faults.point` and `faults.shortened`, with how often each is there."""
    found = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("point", "shortened")
                and getattr(node.func.value, "id", "") == "faults"
            ):
                key = node.func.attr, node.args[0].value
                found[key] = found.get(key, 0) + 1
    return found


def test_every_point_of_the_registry_is_in_the_source_once_and_no_other():
    points = {name: n for (call, name), n in used().items() if call == "point"}
    assert points == dict.fromkeys(faults.POINTS, 1)
    assert {name for call, name in used() if call == "shortened"} == faults.WRITES


def test_nothing_armed_is_a_call_of_an_empty_function():
    assert faults.point is faults._no_point
    view = memoryview(b"abc")
    assert faults.shortened("accept.write", view) is view


@pytest.mark.parametrize(
    "text",
    ["nowhere:kill", "accept.begin", "accept.begin:", "accept.begin:explode", "accept.begin:kill@0",
     "accept.begin:kill@x", "accept.begin:short", ":kill"],
)  # fmt: skip
def test_what_arms_nothing_is_an_error_that_says_what_would(text):
    with pytest.raises(UsageError, match="INGESTD_FAULT"):
        faults.parse(text)


def test_a_fault_happens_at_its_passage_and_at_no_other(capfd):
    point = faults._armed_point(faults.parse("accept.begin:ENOSPC@2,accept.synced:EIO"))
    point("accept.begin")
    with pytest.raises(OSError, match="No space left") as caught:
        point("accept.begin")
    assert caught.value.errno == 28
    point("accept.begin")
    with pytest.raises(OSError, match="Input/output"):
        point("accept.synced")
    assert capfd.readouterr().err.splitlines() == [
        "INGESTD_FAULT accept.begin:ENOSPC@2",
        "INGESTD_FAULT accept.synced:EIO@1",
    ]


def test_a_short_write_gets_half_of_the_bytes_once():
    armed = faults.parse("accept.write:short@2")
    shortened, point = faults._armed_shortened(armed), faults._armed_point(armed)
    view = memoryview(bytes(10))
    lengths = []
    for _ in range(3):
        point("accept.write")
        lengths.append(len(shortened("accept.write", view)))
    assert lengths == [10, 5, 10]


def test_kill_ends_the_process_at_once():
    code = (
        "from ingestd import faults; print('before', flush=True); faults.point('claim.read'); print('after')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"INGESTD_FAULT": "claim.read:kill", "PATH": ""},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (-9, b"before\n")
