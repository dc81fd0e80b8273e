"""scripts/install and scripts/deb in a test root: what is where, again and again, an upgrade over a full spool, and back out."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ingestd import __version__
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[2]

#: The libraries of this environment instead of another download of the same: each release costs seconds, not a minute.
ENVIRON = {**os.environ, "LIBRARIES": sysconfig.get_paths()["purelib"]}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can install")


def command(*argv, cwd=PROJECT, code=0, environ=ENVIRON):
    done = subprocess.run(
        [*map(str, argv)], cwd=cwd, env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr if argv[0] != PROJECT / "scripts/deb" else done.stdout


def install(root, *argv, project=PROJECT, code=0):
    return command(project / "scripts/install", "--root", root, *argv, code=code)


def mode(path):
    status = path.stat()
    return oct(status.st_mode & 0o7777), status.st_uid, status.st_gid


def group_of(root):
    (line,) = [line for line in (root / "etc/group").read_text().splitlines() if line.startswith("ingestd:")]
    return int(line.split(":")[2])


def entries(root, *names):
    """Put accepted entries into the spool of a root."""
    new = root / "var/lib/ingestd/spool/new"
    for directory in (new, new.parent / "claimed", new.parent / "failed"):
        directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (new / f"{name}.v1").write_bytes(b"frame")
    return new


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the daemon installed; tests go from the first to the last, as an operator does."""
    directory = tmp_path_factory.mktemp("root")
    (directory / "etc").mkdir()
    install(directory)
    return directory


def test_everything_is_in_its_place_with_its_rights(root):
    assert (root / "etc/systemd/system/ingestd.service").read_bytes() == (
        PROJECT / "systemd/ingestd.service"
    ).read_bytes()
    assert mode(root / "etc/ingestd") == ("0o750", 0, group_of(root))
    assert mode(root / "etc/ingestd/config.yaml") == ("0o640", 0, group_of(root))
    assert "\nstate_directory: /var/lib/ingestd\n" in (root / "etc/ingestd/config.yaml").read_text()
    assert mode(root / "etc/credstore") == ("0o700", 0, 0)
    assert "ingestd:" in (root / "etc/passwd").read_text()
    assert (root / "usr/local/bin/ingestctl").readlink() == Path("/opt/ingestd/bin/ingestctl")
    assert (root / "opt/ingestd/share/doc/operations.md").exists()


def test_the_program_runs_and_names_no_place_but_its_own(root):
    release = root / "opt" / (root / "opt/ingestd").readlink()
    final = f"/{release.relative_to(root)}"
    assert (release / "bin/ingestd").read_text().startswith(f"#!{final}/bin/python\n")
    found = command(
        "grep", "--recursive", "--files-with-matches", "--binary-files=text", root, release, code=1
    )
    assert found == "", "the root is written down somewhere"
    assert command(release / "bin/python", "-I", "-m", "ingestd", "--version") == f"ingestd {__version__}\n"


def test_once_more_changes_nothing_and_settings_of_an_operator_stay(root):
    config = root / "etc/ingestd/config.yaml"
    config.write_text("log: {level: debug}\n")
    before = (root / "opt/ingestd").readlink()
    assert install(root).splitlines()[-1] == "install: nothing to do"
    assert config.read_text() == "log: {level: debug}\n"
    assert (root / "opt/ingestd").readlink() == before


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A checkout of the next version."""
    project = tmp_path_factory.mktemp("newer") / "ingestd"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "results")
    shutil.copytree(PROJECT, project, ignore=ignored)
    (project / "ingestd/__init__.py").write_text(
        (PROJECT / "ingestd/__init__.py").read_text().replace(__version__, "99.0")
    )
    return project


def test_an_upgrade_that_refuses_the_settings_changes_nothing(root, newer):
    config = root / "etc/ingestd/config.yaml"
    config.write_text("log: {levl: debug}\n")
    before = (root / "opt/ingestd").readlink()
    assert "nothing was changed" in install(root, project=newer, code=1)
    assert (root / "opt/ingestd").readlink() == before
    assert len(list((root / "opt/ingestd-releases").iterdir())) == 1
    config.write_text("log: {level: debug}\n")


def test_an_upgrade_leaves_a_full_spool_alone_and_the_new_version_stores_it(root, newer, tmp_path):
    new = entries(root, "a", "b")
    before = (root / "opt/ingestd").readlink()
    store = tmp_path / "objects"
    store.write_text("a file where a directory is wanted, so nothing is stored")
    settings = {
        "storage": {"directory": str(store)},
        "uploader": {"count": 1},
        "spool": {"min_free_bytes": 0},
    }
    program = (str(root / "opt/ingestd/bin/python"), "-I", "-m", "ingestd")
    with DaemonProcess(tmp_path / "daemon", settings, program=program) as daemon:
        daemon.push(*(noise(f"waits-{i}") for i in range(10)))
        wait_until(lambda: daemon.stats()["accepted"] == 10, what="acceptance")
    install(root, project=newer)
    store.unlink()
    with daemon:
        with daemon.client() as client:
            assert client.version()["version"] == "99.0"
        daemon.wait_stored(10)
    assert len(list(store.rglob("*_metadata.json"))) == 10
    assert command(root / "opt/ingestd/bin/python", "-I", "-m", "ingestd", "--version") == "ingestd 99.0\n"
    assert sorted(path.name for path in new.iterdir()) == ["a.v1", "b.v1"]
    assert (root / "opt" / before).is_dir()
    assert (root / "etc/ingestd/config.yaml").read_text() == "log: {level: debug}\n"


def test_it_is_not_purged_while_the_spool_holds_entries(root):
    said = install(root, "--uninstall", "--purge", code=1)
    assert "2 accepted entries in /var/lib/ingestd/spool are not stored" in said
    assert (root / "opt/ingestd/bin/ingestd").exists()


def test_uninstalling_keeps_what_is_not_the_programs(root):
    assert "2 entries in the spool" in install(root, "--uninstall")
    for gone in ("opt/ingestd", "opt/ingestd-releases", "etc/systemd/system/ingestd.service"):
        assert not os.path.lexists(root / gone)
    assert (root / "etc/ingestd/config.yaml").exists()
    assert (root / "var/lib/ingestd/spool/new/a.v1").exists()
    install(root, "--uninstall")


def test_a_purge_leaves_nothing(root):
    for entry in (root / "var/lib/ingestd/spool/new").iterdir():
        entry.unlink()
    install(root, "--uninstall", "--purge")
    assert not (root / "etc/ingestd").exists()
    assert not (root / "var/lib/ingestd").exists()
    assert "ingestd:" not in (root / "etc/passwd").read_text()


def test_an_unknown_argument_does_nothing(tmp_path):
    command(PROJECT / "scripts/install", "--root", tmp_path, "--uninstal", code=2)
    assert list(tmp_path.iterdir()) == []


# -- the Debian package --------------------------------------------------------------------------------------------


class Dpkg:
    """dpkg on a root of its own."""

    def __init__(self, root):
        self.root = root
        for name in ("info", "updates"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "etc").mkdir()

    def __call__(self, *argv):
        forced = ("--force-script-chrootless", "--force-depends")
        return command("dpkg", "--root", self.root, *forced, f"--log={self.root}/dpkg.log", *argv)


def test_the_package_installs_keeps_settings_and_goes(tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg is missing")
    package = command(PROJECT / "scripts/deb", tmp_path / "dist").splitlines()[-1]
    (tmp_path / "root").mkdir()
    dpkg = Dpkg(tmp_path / "root")
    dpkg("--install", package)
    config = dpkg.root / "etc/ingestd/config.yaml"
    assert mode(config) == ("0o640", 0, group_of(dpkg.root))
    assert "\nstate_directory: /var/lib/ingestd\n" in config.read_text()
    assert (dpkg.root / "opt/ingestd/bin/ingestd").read_text().startswith("#!/opt/ingestd/bin/python\n")
    assert (dpkg.root / "usr/lib/systemd/system/ingestd.service").exists()
    said = command(dpkg.root / "opt/ingestd/bin/python", "-I", "-m", "ingestd", "--version")
    assert said == f"ingestd {__version__}\n"
    config.write_text("log: {level: debug}\n")
    spool = entries(dpkg.root, "a")
    dpkg("--install", package)
    assert config.read_text() == "log: {level: debug}\n"
    dpkg("--remove", "ingestd")
    assert not (dpkg.root / "opt/ingestd").exists()
    assert config.exists()
    dpkg("--purge", "ingestd")
    assert not config.exists()
    assert (spool / "a.v1").exists(), "the only copy of what was accepted"
