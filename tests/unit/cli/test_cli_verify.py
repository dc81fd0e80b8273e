"""`ingestd verify`: what it reads, what it prints, and with which code it ends."""

import json
import os

import pytest

from ingestd.cli.ingestd import main
from ingestd.cli.verify import render, since_ns
from ingestd.config import sources
from ingestd.errors import StoreUnreachable, UsageError
from ingestd.roles import verification
from ingestd.roles.verification import Checked, VerifyReport
from ingestd.storage.verify import Damage, Finding

FINDING = Finding("sessions/t/websdr_1.npy", Damage.MISSING, "no such object")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("INGESTD_", "MINIO_")) or name in {"CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "DEFAULT_CONFIG_FILE", str(tmp_path / "none.yaml"))


@pytest.fixture
def asked(monkeypatch):
    """What the search was called with; it tells `told` and returns `report`."""

    class Asked:
        told = ()
        report = VerifyReport(checked=3, of=3)
        error = None
        options = None

    def verify(_settings, *, tell, progress, **options):
        Asked.options = options
        if Asked.error:
            raise Asked.error
        for checked in Asked.told:
            tell(checked)
        progress(Asked.report)
        return Asked.report

    monkeypatch.setattr(verification, "verify", verify)
    return Asked


@pytest.fixture
def ingestd(capfd):
    def run(*argv):
        code = main([str(arg) for arg in argv])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        (None, 0),
        ("0", 0),
        ("1790000000000000001", 1_790_000_000_000_000_001),
        (str(2**63 - 1), 2**63 - 1),
        ("2026-09-21T14:13:20Z", 1_790_000_000 * 10**9),
        ("2026-09-21T14:13:20.000000001", 1_790_000_000 * 10**9 + 1),
    ],
)
def test_since_is_a_moment_in_utc_or_nanoseconds(text, expected_ns):
    assert since_ns(text) == expected_ns


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "-1", str(2**63), "9" * 19, "1" * 30, "2026-09-21", "2026-02-30T00:00:00Z", "\u0661"],
)
def test_since_that_is_no_moment_is_wrong_usage(text, asked, ingestd):
    with pytest.raises(UsageError, match="--since"):
        since_ns(text)
    code, out, err = ingestd("verify", f"--since={text}")
    assert (code, out, asked.options) == (2, "", None)
    assert err.count("\n") == 1


def test_the_options_reach_the_search(asked, ingestd):
    ingestd("verify", "--since", "7", "--deep", "--repair")
    assert asked.options == {"since_ns": 7, "deep": True, "repair": True}
    ingestd("verify")
    assert asked.options == {"since_ns": 0, "deep": False, "repair": False}


def test_nothing_found_exits_0_with_nothing_on_stdout(asked, ingestd):
    assert ingestd("verify") == (
        0,
        "",
        "ingestd: 3 pairs checked: 0 objects missing, 0 different, 0 unreadable; 0 repaired\n",
    )


@pytest.mark.parametrize(("repaired", "expected"), [(0, 1), (1, 1), (2, 0)])
def test_whatever_is_left_wrong_exits_1(asked, ingestd, repaired, expected):
    asked.report = VerifyReport(checked=3, of=3, missing=1, differing=1, repaired=repaired)
    assert ingestd("verify", "--repair")[0] == expected


def test_a_store_that_cannot_be_asked_exits_75(asked, ingestd):
    asked.error = StoreUnreachable("store: down")
    assert ingestd("verify") == (75, "", "ingestd: store: down\n")


def test_a_missing_catalog_exits_1_and_names_the_file(ingestd, tmp_path):
    code, out, err = ingestd("verify", "--set", f"state_directory={tmp_path}")
    assert (code, out) == (1, "")
    assert "catalog.sqlite3: not there" in err
    assert list(tmp_path.iterdir()) == []


def test_findings_are_lines_on_stdout(asked, ingestd):
    asked.told = (Checked("n", FINDING), Checked("n", FINDING, False, "no copy"), Checked("n", FINDING, True))
    _, out, _ = ingestd("verify")
    line = "sessions/t/websdr_1.npy  missing  (no such object)"
    assert out.splitlines() == [line, f"{line}  not repaired: no copy", f"{line}  repaired"]


@pytest.mark.parametrize(
    ("checked", "repaired", "why_not"),
    [
        (Checked("n", FINDING), None, None),
        (Checked("n", FINDING, True), True, None),
        (Checked("n", FINDING, False, "no copy"), False, "no copy"),
    ],
)
def test_findings_are_documents_as_json(checked, repaired, why_not):
    assert json.loads(render(checked, as_json=True)) == {
        "key": FINDING.key,
        "damage": "missing",
        "detail": "no such object",
        "entry": "n",
        "repaired": repaired,
        "why_not": why_not,
    }


def test_help_names_every_option(ingestd):
    code, out, _ = ingestd("verify", "--help")
    assert code == 0
    for option in ("--since", "--repair", "--deep", "--json", "--config", "--set"):
        assert option in out
