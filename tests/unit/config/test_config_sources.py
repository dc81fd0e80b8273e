"""Five sources in a fixed order, and nothing in any of them is ignored in silence."""

import errno
import itertools
import json
import os
import re
import tempfile

import pytest
import yaml

import ingestd.config
from ingestd.config import load, sources
from ingestd.config.keys import KEYS
from ingestd.errors import ConfigError, ExitCode

SECRET = "s3cr3t-of-the-store"


def refusal(config_file=None, overrides=None, environ=None):
    with pytest.raises(ConfigError) as caught:
        load(config_file, overrides, environ or {})
    assert caught.value.exit_code == ExitCode.CONFIGURATION == 78
    message = str(caught.value)
    assert message.isprintable()
    assert message.isascii()
    return message


#: A valid value of every key that differs from its default, as text and as what it becomes.
VALUES = {
    "state_directory": ("/srv/state", "/srv/state"),
    "ingest.endpoint": ("tcp://127.0.0.1:6555", "tcp://127.0.0.1:6555"),
    "ingest.max_frame_bytes": ("32 MiB", 2**25),
    "ingest.max_connections": ("7", 7),
    "ingest.max_connections_per_address": ("3", 3),
    "ingest.insecure": ("true", True),
    "query.endpoint": ("ipc:///run/query", "ipc:///run/query"),
    "http.endpoint": ("[::1]:9200", "[::1]:9200"),
    "spool.durability": ("process", "process"),
    "spool.max_bytes": ("1.5 GB", 1_500_000_000),
    "spool.min_free_bytes": ("0", 0),
    "spool.retain_s": ("0.5", 0.5),
    "storage.kind": ("directory", "directory"),
    "storage.directory": ("/srv/objects", "/srv/objects"),
    "storage.on_conflict": ("reject", "reject"),
    "storage.sha256": ("yes", True),
    "minio.url": ("https://store.example:9000", "https://store.example:9000"),
    "minio.access_key": ("access", "access"),
    "minio.secret_key": (SECRET, SECRET),
    "minio.ca_file": ("/etc/store-ca.pem", "/etc/store-ca.pem"),
    "minio.bucket_raw_iq": ("other-bucket", "other-bucket"),
    "minio.region": ("eu-1", "eu-1"),
    "uploader.count": ("3", 3),
    "uploader.threads": ("2", 2),
    "uploader.quality": ("none", "none"),
    "log.level": ("DEBUG", "debug"),
    "log.format": ("json", "json"),
    "session.timeout_s": ("5", 5.0),
    "scrub.pairs_per_s": ("2.5", 2.5),
    "nodes": ('[{"name": "a"}]', 1),
}
COMPANIONS = {"MINIO_URL": "https://a:1", "MINIO_ACCESS_KEY": "b", "MINIO_SECRET_KEY": "c"}


def got(settings, name):
    value = settings
    for step in name.split("."):
        value = getattr(value, step)
    if name == "nodes":
        return len(value)
    return value.get_secret_value() if KEYS[name].is_secret else value


def test_the_table_has_every_key_that_takes_a_value():
    assert set(KEYS) - set(VALUES) == {
        "security.secret_key_file",
        "security.nodes_file",
        "security.clients_file",
    }


@pytest.mark.parametrize("name", VALUES)
def test_every_key_is_read_from_the_environment(name):
    text, value = VALUES[name]
    settings = load(environ={**COMPANIONS, KEYS[name].variable: text})
    assert got(settings, name) == value
    assert settings.origin(name) == f"environment {KEYS[name].variable}"


@pytest.mark.parametrize("name", VALUES)
def test_every_key_is_read_from_a_credential(name, credentials):
    text, value = VALUES[name]
    companions = (
        {} if name.startswith("minio") and "bucket" not in name and "region" not in name else COMPANIONS
    )
    files = (
        {"minio__url": "https://a:1", "minio__access_key": "b", "minio__secret_key": "c"}
        if not companions
        else {}
    )
    files[KEYS[name].credential] = text + "\n"
    settings = load(environ={**companions, "CREDENTIALS_DIRECTORY": credentials(**files)})
    assert got(settings, name) == value
    assert settings.origin(name) == f"credential {KEYS[name].credential}"


@pytest.mark.parametrize("name", VALUES)
def test_every_key_is_read_from_the_command_line(name):
    text, value = VALUES[name]
    settings = load(overrides={name: text}, environ=COMPANIONS)
    assert got(settings, name) == value
    assert settings.origin(name) == "command line"


@pytest.mark.parametrize("name", VALUES)
def test_every_key_is_read_from_the_config_file_with_its_line(name, config_file):
    text, value = VALUES[name]
    section, dot, key = name.rpartition(".")
    written = text if name == "nodes" else json.dumps(text)
    path = config_file(f"{section}:\n  {key}: {written}\n" if dot else f"\n{key}: {written}\n")
    environ = {
        variable: text
        for variable, text in COMPANIONS.items()
        if variable != KEYS[name].variable[8:].replace("__", "_")
    }
    settings = load(path, environ=environ)
    assert got(settings, name) == value
    assert settings.origin(name) == f"{path}:2"


def _every_source(credentials, config_file):
    """Arguments of `load` that give uploader.threads in one source, from the highest to the lowest."""
    key = KEYS["uploader.threads"]
    return {
        "command line": ({"overrides": {key.name: "10"}}, 10),
        "environment": ({"environ": {key.variable: "11"}}, 11),
        "credential": ({"environ": {"CREDENTIALS_DIRECTORY": credentials(uploader__threads="12")}}, 12),
        "file": ({"config_file": config_file("uploader: {threads: 13}")}, 13),
        "default": ({}, 4),
    }


def _merged(parts):
    arguments = {"environ": {}}
    for part in parts:
        arguments["environ"].update(part.get("environ", {}))
        arguments.update({name: value for name, value in part.items() if name != "environ"})
    return arguments


def test_the_highest_source_wins_in_every_combination(credentials, config_file):
    cases = list(_every_source(credentials, config_file).values())
    for n_sources in range(1, len(cases) + 1):
        for chosen in itertools.combinations(cases, n_sources):
            settings = load(**_merged([part for part, _ in chosen]))
            assert settings.uploader.threads == chosen[0][1]


def test_sources_are_merged_key_by_key_and_not_section_by_section(config_file):
    path = config_file("uploader: {threads: 13, quality: none}\nlog: {level: debug}")
    settings = load(path, {"uploader.count": 2}, {"INGESTD_UPLOADER__QUALITY": "missing"})
    assert (settings.uploader.count, settings.uploader.threads, settings.uploader.quality) == (
        2,
        13,
        "missing",
    )
    assert settings.log.level == "debug"


@pytest.mark.parametrize(
    "variable", ["MINIO_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET_RAW_IQ"]
)
def test_a_variable_of_the_guide_stands_below_ours_and_above_the_rest(variable, config_file, credentials):
    name = variable.lower().replace("_", ".", 1)
    ours = KEYS[name].variable
    path = config_file(f"minio: {{{name[6:]}: of-the-file}}")
    environ = {
        **COMPANIONS,
        "CREDENTIALS_DIRECTORY": credentials(**{KEYS[name].credential: "of-the-credential:1"}),
    }
    assert got(
        load(path, environ={**environ, variable: "of-the-guide:1"[: -2 if "BUCKET" in variable else None]}),
        name,
    ).startswith("of-the-guide")
    assert got(
        load(
            path,
            environ={
                **environ,
                variable: "of-the-guide",
                ours: "ours:1"[: -2 if "BUCKET" in variable else None],
            },
        ),
        name,
    ).startswith("ours")


def test_an_empty_variable_of_the_guide_is_not_set(config_file):
    path = config_file("minio: {url: 'a:1', access_key: b, secret_key: c}")
    settings = load(path, environ=dict.fromkeys(("MINIO_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"), ""))
    assert settings.minio_url == "a:1"


def test_the_example_of_the_guide_works_as_it_is(monkeypatch):
    for variable, text in {**COMPANIONS, "MINIO_BUCKET_RAW_IQ": "of-the-guide"}.items():
        monkeypatch.setenv(variable, text)
    monkeypatch.delitem(vars(ingestd.config), "settings", raising=False)
    from ingestd.config import settings

    try:
        assert settings.minio_url == "https://a:1"
        assert settings.minio_access_key == "b"
        assert settings.minio_secret_key == "c"
        assert settings.minio_bucket_raw_iq == "of-the-guide"
        assert ingestd.config.settings is settings, "loaded once"
    finally:
        vars(ingestd.config).pop("settings", None)


def test_importing_the_package_reads_nothing(monkeypatch):
    monkeypatch.setenv("INGESTD_CONFIG", "/nowhere")
    monkeypatch.delitem(vars(ingestd.config), "settings", raising=False)
    with pytest.raises(ConfigError):
        _ = ingestd.config.settings
    with pytest.raises(AttributeError):
        _ = ingestd.config.setings


# -- the three silent traps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--config", "$INGESTD_CONFIG"])
def test_a_missing_config_file_is_an_error_that_names_the_nearest(how, config_file):
    near = config_file("log: {level: debug}", name="ingestd.yaml")
    wrong = near.removesuffix(".yaml") + ".yml"
    message = refusal(wrong) if how == "--config" else refusal(environ={"INGESTD_CONFIG": wrong})
    assert wrong in message
    assert how in message
    assert f"did you mean {near}?" in message


def test_a_config_file_in_a_missing_directory_is_an_error_that_says_so():
    assert "nor does its directory" in refusal("/nowhere/config.yaml")


def test_the_config_file_of_the_command_line_goes_before_the_one_of_the_environment(config_file):
    one, other = config_file("log: {level: debug}", "a.yaml"), config_file("log: {level: error}", "b.yaml")
    assert load(one, environ={"INGESTD_CONFIG": other}).log.level == "debug"
    assert load(environ={"INGESTD_CONFIG": other}).log.level == "error"


def test_the_file_at_the_default_place_is_read_where_it_is_there(tmp_path):
    assert load(environ={}).log.level == "info"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.yaml").write_text("log: {level: debug}")
    assert load(environ={}).log.level == "debug"
    assert load(environ={"INGESTD_CONFIG": ""}).log.level == "debug", "an empty variable names no file"


def test_a_dangling_link_at_the_default_place_is_an_error(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.yaml").symlink_to(tmp_path / "gone")
    refusal()


def test_a_file_in_the_current_directory_is_never_read(config_file, monkeypatch, tmp_path):
    config_file("log: {level: debug}")
    (tmp_path / ".env").write_text("INGESTD_LOG__LEVEL=debug\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).log.level == "info"


def test_a_default_place_that_cannot_be_looked_at_is_an_error_not_an_absence(monkeypatch):
    # As with /etc/ingestd of root and mode 0700: the defaults would be taken in silence. Root itself is denied nothing.
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "lstat", denied)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(environ={})


def test_the_default_place_is_the_documented_one():
    source = sources.__file__
    with open(source, encoding="utf-8") as file:
        assert 'DEFAULT_CONFIG_FILE = "/etc/ingestd/config.yaml"' in file.read()


#: Text of a config file, the key that is unknown, and the name that was meant.
UNKNOWN_KEYS = [
    ("ingst: {}", "ingst", "ingest"),
    ("minio_url: a:1", "minio_url", "minio.url"),
    ("Log: {level: debug}", "Log", "log"),
    ("ingest: {max_frame_byte: 1}", "ingest.max_frame_byte", "ingest.max_frame_bytes"),
    ("minio: {bucket: x}", "minio.bucket", None),
    ("storage: {url: a:1}", "storage.url", "minio.url"),
    ("log: {levl: debug}", "log.levl", "log.level"),
    ("spool: {level: debug}", "spool.level", "log.level"),
    ("nodes: [{name: a, webdsr_id: 3}]", "nodes[0].webdsr_id", "nodes[0].websdr_id"),
    ("nodes: [{name: a, position: {lat: 1, lng: 2}}]", "nodes[0].position.lng", "nodes[0].position.lon"),
    (
        "nodes: [{name: a, calibration: [{min_hz: 0, max_hz: 1, offset: 1}]}]",
        "nodes[0].calibration[0].offset",
        "nodes[0].calibration[0].offset_db",
    ),
    ("? 'a\\nb'\n: 1", "", None),
]


@pytest.mark.parametrize(("text", "wrong", "meant"), UNKNOWN_KEYS)
def test_an_unknown_key_at_any_depth_is_an_error_with_the_nearest_right_name(text, wrong, meant, config_file):
    path = config_file(f"# first line\n{text}\n")
    message = refusal(path)
    assert wrong in message
    assert f"{path}:2" in message
    assert "unknown key" in message
    if meant is not None:
        assert f"did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("overrides", "meant"),
    [
        ({"log.levl": "debug"}, "log.level"),
        ({"lg": {}}, "log"),
        ({"log": {"levl": 1}}, "log.level"),
        ({"a.b.c": 1}, None),
    ],
)
def test_an_unknown_key_on_the_command_line_is_an_error(overrides, meant):
    message = refusal(overrides=overrides)
    assert "command line" in message
    assert meant is None or f"did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("INGESTD_LOG__LEVL", "INGESTD_LOG__LEVEL"),
        ("INGESTD_LOG_LEVEL", "INGESTD_LOG__LEVEL"),
        ("INGESTD_MINIO_URL", "INGESTD_MINIO__URL"),
        ("INGESTD_MINIO__BUCKET", "INGESTD_MINIO__"),
        ("INGESTD_STATE_DIR", "INGESTD_STATE_DIRECTORY"),
        ("INGESTD_CONFIG_FILE", None),
        ("INGESTD_XYZZY", None),
        ("INGESTD_", None),
        ("ingestd_log__level", "INGESTD_LOG__LEVEL"),
        ("Ingestd_Log__Level", "INGESTD_LOG__LEVEL"),
        ("INGESTD_NODES__0__NAME", None),
    ],
)
def test_an_unknown_variable_is_an_error_with_the_nearest_right_name(variable, meant):
    message = refusal(environ={variable: "x-value-x"})
    assert variable in message
    assert "x-value-x" not in message
    assert meant is None or f"did you mean {meant}" in message


@pytest.mark.parametrize(
    "variable", ["INGESTD_FAULT", "PATH", "XINGESTD_LOG__LEVEL", "INGESTDX", "MINIO_ROOT_USER"]
)
def test_reserved_variables_and_those_of_others_are_left_alone(variable):
    assert load(environ={variable: "whatever"}).public() == load(environ={}).public()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("minio__secretkey", "minio__secret_key"), ("log__levl", "log__level"), ("minio__", None)],
)
def test_an_unknown_credential_of_ours_is_an_error_with_the_nearest_right_name(name, meant, credentials):
    message = refusal(environ={"CREDENTIALS_DIRECTORY": credentials(**{name: SECRET})})
    assert name in message
    assert SECRET not in message
    assert meant is None or f"did you mean {meant}?" in message


def test_credentials_of_others_are_left_alone(credentials):
    directory = credentials(tls_key="x", MINIO="y", another__thing="z")
    assert load(environ={"CREDENTIALS_DIRECTORY": directory}).public() == load(environ={}).public()


def test_a_missing_credentials_directory_is_an_error():
    assert "/nowhere" in refusal(environ={"CREDENTIALS_DIRECTORY": "/nowhere"})


def test_a_credential_that_everybody_can_read_is_refused(monkeypatch):
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "minio__secret_key")
        with open(path, "w", encoding="utf-8") as file:
            file.write(SECRET)
        os.chmod(path, 0o444)
        environ = {**COMPANIONS, "CREDENTIALS_DIRECTORY": directory}
        message = refusal(environ=environ)
        assert "chmod 0400" in message
        assert SECRET not in message
        os.chmod(directory, 0o750)
        assert load(environ=environ), "a directory that is closed to others keeps them out"


def test_a_credential_loses_one_line_break_and_no_more(credentials):
    def key(text):
        environ = {**COMPANIONS, "CREDENTIALS_DIRECTORY": credentials(minio__secret_key=text)}
        del environ["MINIO_SECRET_KEY"]
        return load(environ=environ).minio_secret_key

    assert key("abc\n") == key("abc\r\n") == key("abc") == "abc"
    with pytest.raises(ConfigError):
        key("abc\n\n")


# -- null, sections, and files that are none ----------------------------------------------------------------------


def test_null_in_a_higher_source_stands_for_the_default(config_file):
    path = config_file("minio: {url: 'a:1', access_key: b, secret_key: c, region: eu}")
    settings = load(path, environ={"INGESTD_MINIO__URL": "", "INGESTD_MINIO__REGION": "null"})
    assert (settings.minio.url, settings.minio.region, settings.storage.kind) == (None, None, "directory")
    assert settings.origin("minio.url") == "default"


def test_a_section_whose_lines_are_all_commented_out_is_empty(config_file):
    assert load(config_file("minio:\n  # url: x\nnodes:\n"), environ={}).public() == load(environ={}).public()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_config_file_changes_nothing(text, config_file):
    assert load(config_file(text), environ={}).public() == load(environ={}).public()


#: Six lines that stand for 59,049 values.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in itertools.pairwise("abcdef")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "must be a map of sections"),
        ("just text", "must be a map of sections"),
        ("log: debug", "must be a map of its keys: level, format"),
        ("log: [debug]", "must be a map of its keys"),
        ("log: {level: debug", "not valid YAML"),
        ("log:\n\tlevel: debug", "not valid YAML"),
        ("a: 1\na: 2", "is there twice, first in line 1"),
        ("log: {level: debug, level: info}", "is there twice"),
        ("uploader: {threads: 010}", "its own way"),
        ("session: {timeout_s: 1:30}", "its own way"),
        ("ingest: {max_frame_bytes: 1_000}", "its own way"),
        ("log: {level: !!python/object/apply:os.system [id]}", "YAML tags are not allowed"),
        ("log: !foo {level: debug}", "YAML tags are not allowed"),
        ("1: 2", "a key must be text"),
        ("? [a]\n: 1", "a key must be text"),
        ("log: {level: debug}\n---\nlog: {level: info}", "not valid YAML"),
        ("log: {level: \x07}", "not valid YAML"),
        ("log: {level: info}\nspool: " + "[" * 100 + "]" * 100, "nested too deep"),
        (BOMB, "too large"),
    ],
)
def test_a_config_file_that_is_no_plain_map_is_refused_with_its_line(text, said, config_file):
    path = config_file(text)
    message = refusal(path)
    assert said in message
    assert path in message


def test_a_broken_config_file_never_shows_the_words_in_it(config_file):
    for text in (
        f"minio: {{secret_key: {SECRET}",
        f"minio:\n  secret_key: '{SECRET}\n",
        f"minio: {{secret_key: *{SECRET}}}",
    ):
        assert SECRET not in refusal(config_file(text))


def test_a_directory_a_fifo_a_large_and_a_binary_file_are_no_config_file(tmp_path):
    assert "directory" in refusal(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal(str(tmp_path / "fifo"))
    (tmp_path / "large").write_bytes(b"#" * (4 * 2**20 + 1))
    assert "longer than" in refusal(str(tmp_path / "large"))
    (tmp_path / "binary").write_bytes(b"log: \xff")
    assert "not UTF-8" in refusal(str(tmp_path / "binary"))


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbflog: {level: debug}")
    assert load(str(tmp_path / "bom.yaml"), environ={}).log.level == "debug"


def test_a_path_with_escape_characters_is_shown_escaped():
    assert "\x1b" not in refusal("/tmp/\x1b[2J/config.yaml")


def test_five_problems_are_told_and_the_rest_counted(config_file):
    lines = [f"{{name: n{i}, delay_ns: x}}" for i in range(8)]
    message = refusal(config_file("nodes:\n" + "".join(f"- {line}\n" for line in lines)))
    assert len(re.findall(r"delay_ns", message)) == 5
    assert "and 3 more" in message


def test_what_config_show_prints_is_a_config_file_of_the_same_settings(config_file):
    from ingestd.config.report import to_yaml

    settings = load(
        environ={"INGESTD_NODES": '[{"name": "a", "position": [48, 11]}]', "INGESTD_LOG__LEVEL": "debug"}
    )
    shown = to_yaml(settings)
    assert yaml.safe_load(shown)["log"]["level"] == "debug"
    assert load(config_file(shown), environ={}).public() == settings.public()
