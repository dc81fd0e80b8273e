"""docs/wire-format.md says what the code does and shows what tests/golden/frames.json holds."""

import json
import re
from pathlib import Path

from ingestd.formats import frame, msgpack_scan
from ingestd.formats.fields import FIELDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")
FRAMES = json.loads((ROOT / "tests" / "golden" / "frames.json").read_text(encoding="ascii"))["frames"]


def _table(heading):
    """Cells of the rows of the first table under a heading."""
    section = re.split(r"\n## ", TEXT.partition(f"\n## {heading}\n")[2])[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_table_of_keys_is_that_of_the_code_each_with_a_reason():
    rows = _table("Keys")
    assert [row[:3] for row in rows] == [
        [f"`{field.name}`", field.type + (", required" if field.required else ""), field.allowed]
        for field in FIELDS
    ]
    assert all(row[3] for row in rows)


def test_the_table_of_limits_has_the_numbers_of_the_code():
    values = [row[1] for row in _table("Limits of a frame")]
    assert values[1:] == [
        f"{msgpack_scan.MAX_ENTRIES:,}",
        f"{msgpack_scan.MAX_OBJECTS:,}",
        str(msgpack_scan.MAX_DEPTH),
        f"{msgpack_scan.MAX_TEXT_BYTES // 2**20} MiB",
    ]


def test_the_table_of_reasons_has_every_reason_once_in_the_order_of_the_checks():
    reasons = [row[0].strip("`") for row in _table("Rejection")]
    assert sorted(reasons) == sorted(frame.REASONS)
    order = "multipart size msgpack limits depth key utf8 ext duplicate version unknown missing type"
    assert reasons[: len(order.split())] == order.split()


def test_every_golden_frame_is_listed_with_its_outcome():
    expected = []
    for case in FRAMES:
        outcome = "taken, canonical" if case.get("canonical") else "taken"
        if "rejected" in case:
            outcome = f"`{case['rejected']['reason']}`"
        expected.append([f"`{case['name']}`", case["what"], str(len(case["hex"]) // 2), outcome])
    assert _table("Golden frames") == expected


def test_the_frame_taken_apart_is_the_golden_one():
    (name, shown) = re.findall(r"The frame `(\w+)`, taken apart:\n\n```text\n(.*?)```", TEXT, re.DOTALL)[0]
    pieces = "".join(line.split()[0] for line in shown.splitlines())
    assert pieces == next(case["hex"] for case in FRAMES if case["name"] == name)


def test_every_link_of_the_document_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
