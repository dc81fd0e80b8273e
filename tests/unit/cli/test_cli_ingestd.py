"""The command `ingestd`: what goes to stdout and stderr, exit codes, and that it shows no secret."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from ingestd import __version__, config
from ingestd.cli.ingestd import main
from ingestd.config import load, sources
from ingestd.config.keys import KEYS
from ingestd.config.types import MASK
from ingestd.errors import SpoolLocked, StoreUnreachable
from ingestd.roles import budget, daemon, doctor, maintenance

SECRET = "s3cr3t-of-the-store"
STORE = {"MINIO_URL": "http://store:9000", "MINIO_ACCESS_KEY": "access", "MINIO_SECRET_KEY": SECRET}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("INGESTD_", "MINIO_")) or name in {"CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "DEFAULT_CONFIG_FILE", str(tmp_path / "none.yaml"))


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch):
    """A command that should have been refused fails its test at once, and touches no state directory."""

    def never(*_):
        pytest.fail("started")

    monkeypatch.setattr(daemon, "run", never)
    monkeypatch.setattr(maintenance, "rebuild_catalog", never)
    monkeypatch.setattr(maintenance, "requeue", never)


@pytest.fixture
def ingestd(capfd, monkeypatch):
    """Run a command line: `code, stdout, stderr = ingestd("check-config", environ={...})`."""

    def run(*argv, environ=None):
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        code = main([str(arg) for arg in argv])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


# -- usage --------------------------------------------------------------------------------------------------------


def test_the_version_goes_to_stdout(ingestd):
    assert ingestd("--version") == (0, f"ingestd {__version__}\n", "")


def test_the_module_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "ingestd", "--version"], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode() == f"ingestd {__version__}\n"


def test_help_names_every_command_and_exit_code(ingestd):
    code, out, err = ingestd("--help")
    assert (code, err) == (0, "")
    for word in ("run", "check-config", "config", "rebuild-catalog", "requeue", "doctor", "78 configuration"):
        assert word in " ".join(out.split())


@pytest.mark.parametrize("command", ["run", "check-config", "rebuild-catalog", "requeue", "doctor"])
def test_every_command_that_reads_settings_takes_a_config_file_and_single_settings(command, ingestd):
    code, out, _ = ingestd(command, "--help")
    assert code == 0
    assert "--config" in out
    assert "--set" in out


@pytest.mark.parametrize(
    "argv",
    [
        ["frobnicate"],
        ["--frobnicate"],
        ["run", "--frobnicate"],
        ["run", "extra"],
        ["check-config", "--config"],
        ["check-config", "--set", "log.level"],
        ["check-config", "--set", ""],
        ["config", "frobnicate"],
        ["requeue"],
        ["requeue", "--all", "name"],
    ],
)
def test_a_wrong_command_line_exits_2_with_nothing_on_stdout(argv, ingestd):
    code, out, err = ingestd(*argv)
    assert (code, out) == (2, "")
    assert err


# -- settings -----------------------------------------------------------------------------------------------------


def test_check_config_shows_every_key_with_value_and_origin(ingestd):
    code, out, err = ingestd("check-config", "--set", "log.level=debug", environ=STORE)
    assert (code, err) == (0, "")
    table = out.partition("\n\n")[0]
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in table.splitlines()[1:]}
    assert list(rows) == list(KEYS)
    assert rows["log.level"] == ["debug", "command line"]
    assert rows["minio.url"] == ["http://store:9000", "environment MINIO_URL"]
    assert rows["minio.secret_key"] == [MASK, "environment MINIO_SECRET_KEY"]
    assert rows["storage.kind"][1] == "because minio.url is set (environment MINIO_URL)"


def test_check_config_warns_on_stderr_of_what_should_be_known(ingestd):
    code, out, err = ingestd("check-config", "--set", "spool.durability=process")
    assert code == 0
    assert err.startswith("ingestd: warning: spool.durability: ")
    assert "warning" not in out


def test_check_config_takes_markup_for_text(ingestd):
    _, out, _ = ingestd("check-config", "--set", "state_directory=/x/[bold]y[/bold]")
    assert "/x/[bold]y[/bold]" in out


def test_config_show_prints_a_config_file_of_the_settings_in_force(ingestd, tmp_path):
    code, out, err = ingestd("config", "show", "--set", "uploader.threads=7", "--set", "log.level=debug")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["uploader"]["threads"] == 7
    (tmp_path / "shown.yaml").write_text(out)
    assert load(str(tmp_path / "shown.yaml"), environ={}).uploader.threads == 7
    assert "# command line" in out


def test_config_schema_is_a_json_schema(ingestd):
    code, out, err = ingestd("config", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


def test_the_command_line_goes_before_the_environment_and_the_file(ingestd, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("uploader: {threads: 3, quality: none}\nlog: {level: error}")
    environ = {"INGESTD_UPLOADER__THREADS": "5", "INGESTD_LOG__LEVEL": "warning"}
    _, out, _ = ingestd("config", "show", "--config", path, "--set", "uploader.threads=7", environ=environ)
    shown = yaml.safe_load(out)
    assert shown["uploader"]["threads"] == 7
    assert shown["uploader"]["quality"] == "none"
    assert shown["log"]["level"] == "warning"


def test_a_value_may_hold_an_equals_sign_and_the_last_of_equal_keys_counts(ingestd):
    _, out, _ = ingestd("config", "show", "--set", "state_directory=/a", "--set", "state_directory=/b=c")
    assert yaml.safe_load(out)["state_directory"] == "/b=c"


#: Arguments, environment, and a part of the one line on stderr.
WRONG_SETTINGS = [
    (["--config", "/nowhere/x.yaml"], {}, "config file /nowhere/x.yaml (named by --config) does not exist"),
    ([], {"INGESTD_CONFIG": "/nowhere/x.yaml"}, "(named by $INGESTD_CONFIG) does not exist"),
    ([], {"INGESTD_LOG__LEVL": "debug"}, "did you mean INGESTD_LOG__LEVEL?"),
    (["--set", "log.levl=debug"], {}, "did you mean log.level?"),
    (["--set", "log.level=loud"], {}, "log.level = 'loud' (command line): must be"),
    (
        ["--set", "minio.bucket_raw_iq=../x"],
        {},
        "minio.bucket_raw_iq = '../x' (command line): must be 3 to 63",
    ),
    ([], {"MINIO_URL": f"http://user:{SECRET}@h"}, "must be a URL without user or password"),
    ([], {"MINIO_URL": "http://h"}, "minio.access_key: missing"),
    (["--set", "a\x1b[2J\nb=c"], {}, "unknown key"),
    (["--set", f"minio.secret_key={SECRET}"], {}, "not on the command line"),
    ([f"--set=minio.secret_key={SECRET}"], {}, "not on the command line"),
    (["--set", "minio.secret_key", SECRET], {}, "not on the command line"),
    (["--set", f"minio.secret_kye={SECRET}"], {}, "did you mean minio.secret_key?"),
]


@pytest.mark.parametrize(
    "command",
    [["run"], ["check-config"], ["config", "show"], ["rebuild-catalog"], ["requeue", "--all"], ["doctor"]],
)
@pytest.mark.parametrize(("argv", "environ", "said"), WRONG_SETTINGS, ids=range(len(WRONG_SETTINGS)))
def test_wrong_settings_exit_78_with_one_line_on_stderr(command, argv, environ, said, ingestd):
    code, out, err = ingestd(*command, *argv, environ=environ)
    assert (code, out) == (78, "")
    assert err.startswith("ingestd: ")
    assert said in err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert SECRET not in err


@pytest.mark.parametrize("argv", [["check-config"], ["config", "show"], ["config", "schema"], ["--help"]])
def test_no_secret_is_printed(argv, ingestd, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"minio: {{url: 'http://a:1', access_key: b, secret_key: {SECRET}}}")
    for config_file, environ in ((None, STORE), (str(path), {})):
        given = ["--config", config_file] if config_file and argv[-1] in {"check-config", "show"} else []
        code, out, err = ingestd(*argv, *given, environ=environ)
        assert code == 0
        assert SECRET not in out + err


def test_a_real_process_exits_with_the_code_and_no_traceback():
    argv = [sys.executable, "-m", "ingestd", "check-config", "--config", "/nowhere.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "ingestd: config file /nowhere.yaml (named by --config) does not exist\n"


def test_a_reader_that_goes_away_is_no_traceback():
    argv = [sys.executable, "-m", "ingestd", "config", "schema"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        command.stdout.close()
        assert "Traceback" not in command.stderr.read()
        command.wait(60)


# -- what the commands start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 69, 75])
def test_run_gives_the_settings_to_the_daemon_and_exits_with_its_code(code, ingestd, monkeypatch):
    given, sources = [], []

    def run(settings, read_settings):
        given.append(settings)
        sources.append(read_settings)
        return code

    monkeypatch.setattr(daemon, "run", run)
    monkeypatch.setattr("ingestd.logs.configure", lambda *args: given.append(args))
    assert ingestd("run", "--set", "log.level=debug")[0] == code
    (role, level, form), settings = given
    assert (role, level, form) == ("supervisor", "debug", "auto")
    assert isinstance(settings, config.Settings)
    assert settings.log.level == "debug"
    # What SIGHUP reads: all sources again, the command line included.
    monkeypatch.setenv("INGESTD_UPLOADER__THREADS", "7")
    assert (sources[0]().log.level, sources[0]().uploader.threads) == ("debug", 7)


@pytest.mark.parametrize(
    ("error", "code"), [(SpoolLocked("another daemon"), 1), (StoreUnreachable("no answer"), 75)]
)
def test_an_expected_error_is_one_line_and_its_exit_code(error, code, ingestd, monkeypatch):
    def fail(_settings, _tell):
        raise error

    monkeypatch.setattr(maintenance, "rebuild_catalog", fail)
    assert ingestd("rebuild-catalog") == (code, "", f"ingestd: {error}\n")


@pytest.mark.parametrize(("argv", "names"), [(["--all"], None), (["a.v1", "b.v1"], ["a.v1", "b.v1"])])
def test_requeue_prints_the_names_of_what_it_brought_back(argv, names, ingestd, monkeypatch):
    asked = []
    monkeypatch.setattr(maintenance, "requeue", lambda _settings, wanted: asked.append(wanted) or ["a.v1"])
    assert ingestd("requeue", *argv) == (0, "a.v1\n", "ingestd: 1 requeued\n")
    assert asked == [names]


# -- doctor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "code"), [(["ok"], 0), (["ok", "warning"], 0), (["ok", "warning", "problem"], 1)]
)
def test_doctor_exits_1_for_a_problem_and_gives_advice_where_it_is_not_well(
    levels, code, ingestd, monkeypatch
):
    findings = [doctor.Finding("disk", doctor.Level(level), f"it is {level}", "do this") for level in levels]
    monkeypatch.setattr(doctor, "examine", lambda _settings: iter(findings))
    got, out, err = ingestd("doctor")
    assert got == code
    assert [line.split()[0] for line in out.splitlines() if "->" not in line] == levels
    assert out.count("-> do this") == len(levels) - 1
    assert err == f"ingestd: {levels.count('problem')} problems, {levels.count('warning')} warnings\n"


def test_doctor_speaks_json_to_programs(ingestd, monkeypatch):
    finding = doctor.Finding("clock", doctor.Level.WARNING, "not synchronised", "run chrony")
    monkeypatch.setattr(doctor, "examine", lambda _settings: iter([finding]))
    _, out, _ = ingestd("doctor", "--json")
    assert json.loads(out) == {
        "check": "clock", "level": "warning", "text": "not synchronised", "advice": "run chrony",
    }  # fmt: skip


# -- keygen -------------------------------------------------------------------------------------------------------


def test_keygen_writes_a_file_for_its_owner_alone_and_prints_the_public_key(ingestd, tmp_path):
    path = tmp_path / "daemon.key"
    code, out, err = ingestd("keygen", path)
    assert code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text().splitlines()[-1]
    assert len(out.strip()) == len(secret) == 40
    assert secret not in out + err
    assert ingestd("keygen", "--public", path)[1] == out


def test_keygen_never_replaces_a_key(ingestd, tmp_path):
    path = tmp_path / "daemon.key"
    ingestd("keygen", path)
    before = path.read_text()
    code, out, err = ingestd("keygen", path)
    assert (code, out) == (2, "")
    assert "never replaced" in err
    assert path.read_text() == before


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_key_file_that_cannot_be_used_is_named_before_anything_starts(ingestd, tmp_path, command):
    key, nodes = tmp_path / "daemon.key", tmp_path / "nodes"
    ingestd("keygen", key)
    sets = ("--set", f"security.secret_key_file={key}", "--set", f"security.nodes_file={nodes}")
    code, _, err = ingestd(command, *sets)
    assert code == 78
    assert "security.nodes_file (command line)" in err
    nodes.write_text("north abc\n")
    code, _, err = ingestd(command, *sets)
    assert code == 78
    assert f"{nodes}:1: must be NAME PUBLIC_KEY" in err
    nodes.write_text("")
    key.chmod(0o604)
    code, _, err = ingestd(command, *sets)
    assert code == 78
    assert "chmod 0400" in err


def test_check_config_takes_good_key_files(ingestd, tmp_path):
    key, nodes = tmp_path / "daemon.key", tmp_path / "nodes"
    public = ingestd("keygen", key)[1].strip()
    nodes.write_text(f"north {public}\n")
    sets = ("--set", f"security.secret_key_file={key}", "--set", f"security.nodes_file={nodes}")
    code, out, _ = ingestd("check-config", *sets, "--set", "ingest.endpoint=tcp://0.0.0.0:5555")
    assert code == 0
    assert key.read_text().splitlines()[-1] not in out


# -- memory -------------------------------------------------------------------------------------------------------


def test_check_config_prints_what_memory_every_role_may_take(ingestd):
    code, out, _ = ingestd("check-config", "--set", "ingest.max_frame_bytes=1 MiB")
    assert code == 0
    rows = out.partition("MEMORY")[2].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["supervisor", "receiver", "uploaders", "responder", "all"]


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_frame_that_the_machine_cannot_hold_four_times_is_refused(ingestd, monkeypatch, command):
    monkeypatch.setattr(budget, "available_bytes", lambda: 2**28 - 1)
    code, _, err = ingestd(command, "--set", "ingest.max_frame_bytes=64 MiB")
    assert code == 78
    assert "4 times over" in err


def test_a_worst_case_beyond_the_machine_is_a_warning(ingestd, monkeypatch):
    monkeypatch.setattr(budget, "available_bytes", lambda: 2**28)
    code, _, err = ingestd("check-config")
    assert code == 0
    assert "ingestd: warning: ingest.max_frame_bytes: at the worst" in err
