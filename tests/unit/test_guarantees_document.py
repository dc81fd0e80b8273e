"""Documents hold: every test that docs/guarantees.md names exists, every link leads somewhere."""

import ast
import json
import re
from pathlib import Path

import pytest

from ingestd.testing.bench.report import markdown as bench_markdown
from ingestd.testing.bench.results import Results
from ingestd.testing.outage import OutageResult
from ingestd.testing.torture.report import markdown, quantile, read

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


RESULTS = ROOT / "docs" / "results" / "torture.json"
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()


def test_the_table_of_torture_is_what_its_results_add_up_to():
    assert markdown(read(RESULTS)) in GUARANTEES


def test_every_round_of_torture_on_record_was_clean():
    assert all(one.clean for one in read(RESULTS))


def test_every_failure_of_the_list_has_its_line():
    told = re.findall(r"^\| (F\d+) \|", GUARANTEES, re.MULTILINE)
    # F21 and F25 do not exist.
    assert told == [f"F{number}" for number in range(1, 34) if number not in (21, 25)]


@pytest.mark.parametrize("line", re.findall(r"^\| F\d+ \|.*$", GUARANTEES, re.MULTILINE))
def test_a_line_of_the_list_names_its_test_or_says_that_it_has_none(line):
    assert re.search(r"tests/[\w/]+\.py::\w+", line) or "| not shown yet |" in line, line


def test_the_figures_of_the_enumeration_are_those_of_its_results():
    found = json.loads((ROOT / "docs" / "results" / "syscalls.json").read_text())
    said = f"{found['points']} points, {found['cases']} cases, {found['violations']} violations"
    assert said in GUARANTEES
    assert (found["violations"], found["missed"]) == (0, [])


def test_the_times_of_a_restart_are_those_of_its_results():
    found = json.loads((ROOT / "docs" / "results" / "restarts.json").read_text())
    receiver_ms, daemon_s = found["receiver_ms"], found["daemon_s"]
    said = " ".join(GUARANTEES.split())
    half = quantile(receiver_ms, 0.5)
    assert f"{half:.0f} ms (median of {len(receiver_ms)}, longest {receiver_ms[-1]:.0f} ms;" in said
    assert f"{quantile(daemon_s, 0.5):.2f} s (median of {len(daemon_s)})" in said
    assert quantile(receiver_ms, 0.99) < 500
    assert daemon_s[-1] < 1 + found["entries"] / 10_000


def test_the_figures_of_the_filled_disk_are_those_of_its_results():
    found = json.loads((ROOT / "docs" / "results" / "fill-drain.json").read_text())
    said = "{cycles} cycles, {frames} frames, {restarts} restarts, {lost} lost".format(**found)
    assert said in " ".join(GUARANTEES.split())
    assert found["cycles"] >= 500
    assert (found["restarts"], found["lost"], found["surplus"]) == (0, 0, 0)


def test_the_figures_of_an_outage_are_those_of_its_results_and_each_is_as_demanded():
    found = json.loads((ROOT / "docs" / "results" / "outage.json").read_text())
    result = OutageResult(**found["result"])
    assert result.good
    for said in (
        f"| {result.backlog_count} entries |",
        f"| {result.resident_drift_bytes / 2**20:+.1f} MiB |",
        f"| {100 * result.idle_cpu_share:.2f} % of a core |",
        f"| {result.log_lines_per_min:.1f} a minute |",
        f"| {result.rep_p99_ms:.1f} ms | < 100 ms |",
        f"of the clean rate of {result.clean_rate:.1f} frames/s | {100 * result.drain_share:.0f} % |",
        f"| {result.new_latency_p50_s:.2f} s |",
    ):
        assert said in GUARANTEES, said


def test_the_table_of_answers_is_that_of_its_results_and_each_was_in_time():
    found = json.loads((ROOT / "docs" / "results" / "answers.json").read_text())["answers"]
    assert len(found) == 11
    for one in found:
        times = " | ".join(f"{one[name]:.1f} ms" for name in ("p50_ms", "p99_ms", "longest_ms"))
        assert f"| {one['trouble']} | {one['answered']} | {one['unanswered']} | {times} |" in GUARANTEES
        assert one["unanswered"] == 0
        assert one["p99_ms"] < 100


def test_the_tables_of_the_benchmark_are_those_of_its_results():
    page = (ROOT / "docs" / "performance.md").read_text()
    assert bench_markdown(Results.read(ROOT / "docs" / "results" / "bench.json")) in page


def test_the_figures_of_power_loss_are_those_of_its_results():
    found = json.loads((ROOT / "docs" / "results" / "power-loss.json").read_text())
    assert f"{found['states']} states checked, 0 violations" in " ".join(GUARANTEES.split())
    assert found["states"] >= 100_000
    assert not found["violations"]
    assert all(found["controls"].values())
