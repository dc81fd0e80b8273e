"""The shipped unit: what it promises, and what systemd-analyze says of it."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingestd.config.keys import KEYS
from ingestd.errors import ExitCode

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "ingestd.service"

#: Tenths that `systemd-analyze security --threshold` takes: an exposure of at most 1.2.
MAX_EXPOSURE = 12


@pytest.fixture(scope="module")
def analyze():
    tool = shutil.which("systemd-analyze")
    if tool is None and os.environ.get("CI"):
        pytest.fail("systemd-analyze is missing (Debian: apt-get install systemd)", pytrace=False)
    if tool is None:
        pytest.skip("systemd-analyze is missing (Debian: apt-get install systemd)")

    def run(*argv):
        return subprocess.run(
            [tool, *map(str, argv)], capture_output=True, text=True, timeout=60, check=False
        )

    return run


def settings():
    """Values of each key of the unit, in order."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_the_unit_is_well_formed(analyze, tmp_path):
    # Only the program is not where it will be installed.
    copy = tmp_path / "ingestd.service"
    copy.write_text(UNIT.read_text().replace("/opt/ingestd/bin/ingestd", sys.executable))
    done = analyze("verify", "--man=no", copy)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_check_of_the_unit_can_fail(analyze, tmp_path):
    copy = tmp_path / "ingestd.service"
    copy.write_text(UNIT.read_text() + "[Service]\nProtectSystm=strict\n")
    assert "ProtectSystm" in analyze("verify", "--man=no", copy).stderr


def test_exposure_is_low(analyze):
    done = analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", UNIT)
    assert done.returncode == 0, done.stdout


def test_each_part_of_the_sandbox_counts(analyze, tmp_path):
    copy = tmp_path / "ingestd.service"
    copy.write_text(UNIT.read_text().replace("PrivateDevices=yes", "PrivateDevices=no"))
    assert analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", copy).returncode != 0


def test_a_configuration_error_is_not_tried_again():
    assert settings()["RestartPreventExitStatus"] == [str(int(ExitCode.CONFIGURATION))]


def test_a_stop_has_more_time_than_the_daemon_takes():
    assert int(settings()["TimeoutStopSec"][0]) > 10


def test_the_watchdog_has_more_patience_than_the_store_needs_for_a_request():
    assert int(settings()["WatchdogSec"][0]) / 2 >= 30


def test_every_credential_of_a_setting_is_named_as_its_setting():
    loaded = [value.partition(":") for value in settings()["LoadCredential"]]
    known = {key.credential for key in KEYS.values()}
    assert {name for name, _, _ in loaded if "__" in name} <= known
    assert "minio__secret_key" in {name for name, _, _ in loaded}
    # Names in the store of credentials are those of all services; a path of its own there would make the file a must.
    assert all(source == f"ingestd.{name}" for name, _, source in loaded)


def test_the_user_is_the_one_that_is_made():
    kind, name, _ = (SYSTEMD / "ingestd.sysusers.conf").read_text().splitlines()[-1].split(maxsplit=2)
    assert (kind, [name], [name]) == ("u", settings()["User"], settings()["Group"])


def test_the_unit_has_the_three_sections_of_a_service():
    parser = configparser.RawConfigParser(strict=False)
    parser.read(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
