"""Dashboard and alerts are held to the metrics that there are, and to promtool where it can be had."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ingestd.config import load
from ingestd.roles.metrics import exposition
from ingestd.roles.monitor import Monitor
from ingestd.roles.status import StatusBlock, StatusLayout

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
DOCUMENT = (MONITORING.parent / "metrics.md").read_text()
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]


def text():
    """Everything that /metrics can say, the scrub included."""
    status = StatusBlock.create(StatusLayout(("receiver", "uploader-0", "responder"), ("kiwi-graz",)))
    settings = load(overrides={"state_directory": "/var/lib/ingestd"}, environ={})
    monitor = Monitor(status, settings, time.monotonic_ns())
    monitor.scrub = {"checked": 0, "of": 0, "missing": 0, "differing": 0, "unreadable": 0}
    return exposition(monitor).decode()


@pytest.fixture(scope="module")
def labels():
    """Names of all samples, with the names of their labels."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def promtool():
    # `systemd_tools` of scripts/_environment.sh puts it into the cache.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    tool = shutil.which("promtool", path=os.pathsep.join([os.environ["PATH"], f"{cache}/ingestd/bin"]))
    if tool is None:
        pytest.skip("promtool is missing (Debian: it comes with the package prometheus)")

    def run(*argv, stdin=None):
        done = subprocess.run(
            [tool, *argv],
            input=stdin,
            cwd=MONITORING,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def expressions():
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    for panel in PANELS:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_only_metrics_and_labels_that_there_are_get_asked_for(where, expression, labels):
    used = re.findall(r"\bingestd_\w+", expression)
    assert used or expression.startswith("up{")
    for name in used:
        assert name in labels, f"{where}: no {name}"
    # By whatever is grouped: its own labels, and the one that Prometheus adds.
    known = {"instance"}.union(*(labels[name] for name in used)) if used else set()
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {word.strip() for word in grouped.split(",")} <= known, where


def test_every_alert_says_what_is_and_what_to_do_and_how_urgent_it_is():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_every_alert_is_tested():
    tested = set(re.findall(r'alertname="(\w+)"', (MONITORING / "alerts.test.yaml").read_text()))
    assert tested == {rule["alert"] for rule in RULES}


def test_panels_are_numbered_described_and_beside_each_other():
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    taken = set()
    for panel in PANELS:
        assert panel["description"], panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_the_dashboard_names_no_data_source_of_its_own():
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_names_and_units_are_those_that_prometheus_wants(promtool):
    assert promtool("check", "metrics", stdin=text()) == ""


def test_the_rules_are_well_formed_and_each_fires_for_its_cause(promtool):
    assert "SUCCESS" in promtool("check", "rules", "alerts.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yaml")


def test_every_expression_of_the_dashboard_can_be_read(promtool, tmp_path):
    rules = [
        {
            "record": f"panel:{i}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for i, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_every_metric_has_its_line_in_the_document():
    lines = re.findall(r"^\| `(ingestd_\w+)` \| (\w+) \| ([^|]*) \|", DOCUMENT, re.MULTILINE)
    told = {name: (kind, re.findall(r"`(\w+)`", names)) for name, kind, names in lines}
    there = {}
    for family in text_string_to_metric_families(text()):
        names = sorted({name for sample in family.samples for name in sample.labels if name != "le"})
        there[family.name + ("_total" if family.type == "counter" else "")] = (family.type, names)
    assert told == there


def test_the_number_of_series_is_bounded_by_the_settings():
    of_nodes = sum('node="kiwi-graz"' in line for line in text().splitlines())
    assert f"and {of_nodes} for each registered node" in " ".join(DOCUMENT.split())
    assert sum(not line.startswith("#") for line in text().splitlines()) < 250
