"""docs/security.md holds: its tests exist, its bounds and examples are those of the code."""

import ast
import re
from pathlib import Path

import pytest

from ingestd import curve
from ingestd.formats.protocol import MAX_REQUEST_BYTES
from ingestd.roles import connections, listening, query_socket, responder, zap
from ingestd.roles.inbox import RCVHWM
from ingestd.storage.sdk_pool import MAX_REPLY_BYTES
from ingestd.testing.fuzzing import record
from ingestd.testing.fuzzing.targets import TARGETS
from ingestd.testing.secured.attacks import attacks
from ingestd.testing.secured.report import Secured, markdown

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
ATTACKS = re.findall(r"^\| .* \| .* \| (?:tests/.*) \|$", TEXT, re.MULTILINE)
NAMED = sorted(set(re.findall(r"tests/[\w/]+\.py(?:::\w+)+", TEXT)))


def test_every_attack_has_its_line_with_a_test():
    table = TEXT.partition("## Attacks")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) >= 35
    assert lines == ATTACKS


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named):
    path, *names = named.split("::")
    body = ast.parse((ROOT / path).read_text()).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        assert found, f"{named}: no {name}"
        body = getattr(found[0], "body", [])


def test_the_bounds_are_those_of_the_code():
    said = " ".join(TEXT.split())
    assert f"| one question | {MAX_REQUEST_BYTES // 1024} KiB" in said
    assert f"| messages that wait for the receiver | {RCVHWM} for each" in said
    assert f"`ingest.max_connections`; {query_socket.MAX_CONNECTIONS} |" in said
    assert f"`ingest.max_connections_per_address`; {zap._MAX_PER_ADDRESS} where" in said
    assert (
        f"| a handshake | {listening._HANDSHAKE_MS // 1000} s; with more than {connections.MAX_SILENT} "
        in said
    )
    assert f"{responder.MAX_RATE_PER_S:,.0f} questions a second" in said
    assert f"| a reply of the store | {MAX_REPLY_BYTES // 2**20} MiB" in said


def test_the_example_of_a_list_is_one(tmp_path):
    lines = re.findall(r"^    (dl0\w+ .*)$", TEXT, re.MULTILINE)
    path = tmp_path / "nodes"
    path.write_text("\n".join(lines))
    assert sorted(curve.read_allowlist(str(path)).values()) == ["dl0abc", "dl0xyz"]


def test_every_target_of_the_fuzzer_is_named():
    assert [name for name in TARGETS if f"`{name}` (" not in TEXT] == []


def test_the_tables_of_costs_and_attacks_are_those_of_their_results_and_no_attack_did_harm():
    found = Secured.read(ROOT / "docs" / "results" / "secured.json")
    assert markdown(found) in TEXT
    assert not found.errors()
    tried = {(one.group, one.name) for one in found.trials}
    assert {(one.group, one.name) for one in attacks()} <= tried
    # The next good frame: within 100 ms, or 500 where a role is replaced.
    assert all(one.recovery_ms < 500 for one in found.trials)


def test_the_runs_of_the_fuzzer_are_those_on_record_and_every_target_has_one():
    runs = record.read(ROOT / "docs" / "results" / "fuzz.json")
    assert record.markdown(runs) in TEXT
    assert {one.target for one in runs} == set(TARGETS)
    assert all(one.executions > 0 for one in runs)
