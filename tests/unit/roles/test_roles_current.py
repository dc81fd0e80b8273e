"""Settings in force: replaced as a whole, or not at all."""

import pytest

from ingestd.config import load
from ingestd.errors import ConfigError
from ingestd.roles.current import Current
from ingestd.roles.status import StatusBlock, StatusLayout


def settings(tmp_path, **overrides):
    return load(overrides={"state_directory": str(tmp_path), "uploader.count": 1, **overrides}, environ={})


@pytest.fixture
def status():
    return StatusBlock.create(StatusLayout(("receiver", "uploader-0", "responder")))


def renewed(tmp_path, status, read):
    current = Current(settings(tmp_path), read, status)
    return current, current.renew()


def test_other_settings_are_taken(tmp_path, status):
    current, is_new = renewed(tmp_path, status, lambda: settings(tmp_path, **{"log.level": "error"}))
    assert is_new
    assert current.settings.log.level == "error"
    assert '"error"' in current.text


def test_the_same_settings_restart_nothing(tmp_path, status):
    assert not renewed(tmp_path, status, lambda: settings(tmp_path))[1]


def test_wrong_settings_change_nothing(tmp_path, status, capfd):
    def wrong():
        raise ConfigError("log.level = 'loud'")

    current, is_new = renewed(tmp_path, status, wrong)
    assert not is_new
    assert current.settings.log.level == "info"


@pytest.mark.parametrize(
    "fixed",
    [{"uploader.count": 2}, {"state_directory": "/elsewhere"}, {"nodes": [{"name": "new"}]}],
    ids=lambda fixed: next(iter(fixed)),
)
def test_what_only_a_restart_can_change_changes_nothing(tmp_path, status, fixed):
    current, is_new = renewed(tmp_path, status, lambda: settings(tmp_path, **{"log.level": "error", **fixed}))
    assert not is_new
    assert current.settings.log.level == "info"


def test_without_a_source_there_is_nothing_to_reload(tmp_path, status):
    assert not renewed(tmp_path, status, None)[1]


def test_the_line_says_what_health_says(tmp_path, status):
    current = Current(settings(tmp_path), None, status)
    assert current.line() == (
        "unhealthy (role_crash_loop), not accepting on tcp://127.0.0.1:5555, 0 entries wait (0.0 MB)"
    )
