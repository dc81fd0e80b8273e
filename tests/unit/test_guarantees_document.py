"""Documents hold: every test that docs/guarantees.md names exists, every link leads somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
NAMED = re.findall(r"tests/[\w/]+\.py(?:::\w+)+", (ROOT / "docs" / "guarantees.md").read_text())


def test_guarantees_name_their_tests():
    assert len(NAMED) > 15


@pytest.mark.parametrize("named", sorted(set(NAMED)))
def test_a_named_test_exists(named):
    path, *names = named.split("::")
    body = ast.parse((ROOT / path).read_text()).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        assert found, f"{named}: no {name}"
        body = getattr(found[0], "body", [])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
