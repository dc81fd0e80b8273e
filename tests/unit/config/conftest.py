"""A place for the config files of a test, and a process environment without settings."""

import os

import pytest

from ingestd.config import sources


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("INGESTD_", "MINIO_")) or name in {"CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "DEFAULT_CONFIG_FILE", str(tmp_path / "etc" / "config.yaml"))


@pytest.fixture
def config_file(tmp_path):
    """Write a config file; returns its path."""

    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def credentials(tmp_path):
    """Write a systemd credentials directory; returns its path."""

    def write(**files):
        directory = tmp_path / "credentials"
        directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
            (directory / name).chmod(0o400)
        return str(directory)

    return write
