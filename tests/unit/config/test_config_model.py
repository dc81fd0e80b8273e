"""What follows from several settings together, the registry, and that no secret is shown anywhere."""

import json
import os
import traceback

import pytest
from pydantic import ValidationError

from ingestd.config import Settings, load, report
from ingestd.config.types import MASK
from ingestd.errors import ConfigError

SECRET = "s3cr3t-of-the-store"
STORE = {"MINIO_URL": "http://store:9000", "MINIO_ACCESS_KEY": "access", "MINIO_SECRET_KEY": SECRET}


def refusal(overrides=None, environ=None):
    with pytest.raises(ConfigError) as caught:
        load(None, overrides, environ or {})
    return str(caught.value)


# -- what follows -------------------------------------------------------------------------------------------------


def test_without_a_store_objects_go_to_a_directory_in_the_state_directory():
    settings = load(environ={})
    assert settings.storage.kind == "directory"
    assert settings.state_directory == "./ingestd-state"
    assert settings.storage.directory == "./ingestd-state/objects"
    assert settings.storage_origin == "no source gives minio.url"


def test_the_state_directory_of_systemd_is_used_the_first_of_several():
    settings = load(environ={"STATE_DIRECTORY": "/var/lib/ingestd:/var/lib/other"})
    assert settings.state_directory == "/var/lib/ingestd"
    assert settings.storage.directory == "/var/lib/ingestd/objects"
    assert settings.origin("state_directory") == "environment STATE_DIRECTORY"
    assert (
        load(overrides={"state_directory": "/srv"}, environ={"STATE_DIRECTORY": "/var"}).state_directory
        == "/srv"
    )
    assert load(environ={"INGESTD_STATE_DIRECTORY": "", "STATE_DIRECTORY": "/var"}).state_directory == "/var"


@pytest.mark.parametrize(
    ("overrides", "environ", "kind", "origin"),
    [
        ({}, STORE, "minio", "minio.url is set (environment MINIO_URL)"),
        ({"storage.kind": "directory"}, STORE, "directory", "storage.kind is directory (command line)"),
        ({"storage.kind": "minio"}, STORE, "minio", "storage.kind is minio (command line)"),
        ({"storage.kind": None}, STORE, "minio", "minio.url is set (environment MINIO_URL)"),
        ({}, {"MINIO_ACCESS_KEY": "a"}, "directory", "no source gives minio.url"),
    ],
)
def test_a_store_is_used_where_its_url_is_set_and_the_reason_is_known(overrides, environ, kind, origin):
    settings = load(overrides=overrides, environ=environ)
    assert (settings.storage.kind, settings.storage_origin) == (kind, origin)


@pytest.mark.parametrize("missing", ["MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"])
def test_a_store_without_a_key_is_an_error_that_says_why_it_is_needed(missing):
    message = refusal(environ={name: value for name, value in STORE.items() if name != missing})
    assert missing in message
    assert missing.lower().replace("_", ".", 1) in message
    assert "because of minio.url: environment MINIO_URL" in message
    assert SECRET not in message


def test_the_kind_minio_without_a_url_is_an_error():
    message = refusal({"storage.kind": "minio"})
    assert message.startswith("minio.url")
    assert "because of storage.kind: command line" in message


@pytest.mark.parametrize("section", ["ingest", "query"])
@pytest.mark.parametrize("address", ["*", "0.0.0.0", "[::]", "192.168.1.2", "eth0"])
def test_an_endpoint_that_others_reach_needs_consent(section, address):
    overrides = {f"{section}.endpoint": f"tcp://{address}:7000"}
    assert "ingest.insecure: true" in refusal(overrides)
    assert load(overrides={**overrides, "ingest.insecure": True}, environ={}).ingest.insecure


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"query.endpoint": "tcp://127.0.0.1:5555"}, "query.endpoint"),
        ({"http.endpoint": "127.0.0.1:5556"}, "http.endpoint"),
        ({"ingest.endpoint": "ipc:///x", "query.endpoint": "ipc:///x"}, "query.endpoint"),
    ],
)
def test_two_sockets_cannot_have_one_place(overrides, key):
    assert refusal(overrides).startswith(key)


def test_a_spool_that_no_frame_fits_into_is_an_error():
    message = refusal({"spool.max_bytes": "1 MiB"})
    assert message.startswith(
        "spool.max_bytes = 1048576 (command line): must be at least ingest.max_frame_bytes"
    )


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("nodes_file", "secret_key_file"),
        ("clients_file", "secret_key_file"),
        ("secret_key_file", "nodes_file"),
    ],
)
def test_half_of_curve_is_an_error_that_names_the_other_half(given, missing):
    message = refusal({f"security.{given}": "/nowhere/curve"})
    assert message.startswith(f"security.{missing}: missing, but security.{given} is set")
    assert "command line" in message


@pytest.mark.parametrize("section", ["ingest", "query"])
def test_with_curve_an_endpoint_may_be_one_that_others_reach(section):
    keys = {"security.secret_key_file": "/nowhere/key", "security.nodes_file": "/nowhere/nodes"}
    settings = load(overrides={f"{section}.endpoint": "tcp://0.0.0.0:7000", **keys}, environ={})
    assert not settings.ingest.insecure
    assert not [text for text in report.advice(settings) if "may use it" in text]


@pytest.mark.parametrize("url", ["http://store:9000", "store:9000"])
def test_a_ca_file_without_https_is_an_error(url):
    message = refusal({"minio.ca_file": "/etc/ca.pem"}, {**STORE, "MINIO_URL": url})
    assert message.startswith("minio.ca_file = '/etc/ca.pem' (command line): has no effect")


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "curve"
    path.write_text(SECRET)
    path.chmod(0o644)
    message = refusal({"security.secret_key_file": str(path)})
    assert "chmod 0400" in message
    assert SECRET not in message


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (2000, 256)])
def test_one_worker_process_for_two_usable_cores_is_the_default(monkeypatch, cores, count):
    assert load(environ={}).uploader.count == max(1, len(os.sched_getaffinity(0)) // 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cores)))
    assert load(overrides={"uploader.count": None}, environ={}).uploader.count == count


def test_settings_are_frozen():
    settings = load(environ={})
    with pytest.raises(ValidationError):
        settings.log = None
    with pytest.raises(ValidationError):
        settings.log.level = "debug"


# -- secrets ------------------------------------------------------------------------------------------------------


def _shown(settings):
    """Every way in which settings are shown to people."""
    yield repr(settings)
    yield str(settings)
    yield f"{settings.minio!r} {settings.minio}"
    yield json.dumps(settings.public())
    yield settings.model_dump_json()
    yield repr(settings.model_dump())
    yield report.to_yaml(settings)
    yield repr(report.rows(settings))
    yield repr(report.advice(settings))
    yield repr(list(settings))


def test_no_secret_is_shown():
    settings = load(environ=STORE)
    assert settings.minio_secret_key == SECRET
    for text in _shown(settings):
        assert SECRET not in text
    assert settings.public()["minio"]["secret_key"] == MASK


#: What is wrong beside (or with) the secret.
WRONG = [
    {"INGESTD_LOG__LEVEL": "loud"},
    {"INGESTD_MINIO__SECRET_KEY": SECRET + "\n"},
    {"INGESTD_MINIO__SECRET_KEY": " " + SECRET},
    {"INGESTD_MINIO__SECRET_KYE": SECRET},
    {"INGESTD_MINIO__BUCKET_RAW_IQ": "../x"},
    {"MINIO_URL": f"http://user:{SECRET}@store"},
    {"MINIO_URL": f"http://store/?X-Amz-Signature={SECRET}"},
    {"INGESTD_SECURITY__SECRET_KEY_FILE": f"/x/{SECRET}"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_no_secret_is_in_an_error_or_its_traceback(wrong):
    with pytest.raises(ConfigError) as caught:
        load(environ={**STORE, **wrong})
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("secret", [12345678901234, ["s3cr3t-in-a-list"], {"a": "s3cr3t-in-a-map"}, True])
def test_a_secret_of_another_type_is_refused_without_showing_it(secret, config_file):
    path = config_file(f"minio: {{url: 'a:1', access_key: b, secret_key: {json.dumps(secret)}}}")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    text = "".join(traceback.format_exception(caught.value))
    assert "minio.secret_key" in str(caught.value)
    assert "s3cr3t" not in text
    assert "12345678901234" not in text


def test_the_mask_itself_is_no_secret(config_file):
    shown = report.to_yaml(load(environ=STORE))
    with pytest.raises(ConfigError, match="the mask that `ingestd config show` prints"):
        load(config_file(shown), environ={})


# -- to a child process -------------------------------------------------------------------------------------------


def test_settings_go_to_a_child_process_with_secrets_and_origins():
    environ = {
        **STORE,
        "INGESTD_UPLOADER__COUNT": "3",
        "INGESTD_NODES": "[{name: a, websdr_id: 3, position: [48, 11]}]",
    }
    settings = load(environ=environ)
    again = Settings.from_bytes(settings.to_bytes())
    assert again == settings
    assert again.minio_secret_key == SECRET
    assert again.storage_origin == settings.storage_origin
    assert again.origin("uploader.count") == "environment INGESTD_UPLOADER__COUNT"


def test_the_defaults_survive_the_way_to_a_child_process():
    settings = load(environ={})
    assert Settings.from_bytes(settings.to_bytes()) == settings


# -- registry -----------------------------------------------------------------------------------------------------

NODES = """
nodes:
  - name: dl0abc
    websdr_id: 17
    position: {lat: 48.1374, lon: 11.5755, alt: 520}
    calibration:
      - {min_hz: 0, max_hz: 30.0e+6, offset_db: -42.5}
      - {min_hz: 0, max_hz: 30.0e+6, offset_db: -40, gain_db: 20}
    bandwidth_hz: 6000
    delay_ns: -1250
    expect_every_s: 10
  - {name: f5xyz, position: [43.6, 1.4]}
"""


def test_a_node_is_found_by_name_then_by_receiver_id(config_file):
    settings = load(config_file(NODES), environ={})
    assert settings.node_of("f5xyz", 17).name == "f5xyz", "the name goes first"
    assert settings.node_of("unknown", 17).name == "dl0abc"
    assert settings.node_of(None, 17).name == "dl0abc"
    assert settings.node_of("unknown", 18) is None
    assert settings.node_of(None, 18) is None


def test_calibration_and_passband_of_a_node_reach_the_measuring_code(config_file):
    settings = load(config_file(NODES), environ={})
    receiver = settings.receiver_of(None, 17)
    assert receiver.bandwidth_hz == 6000.0
    assert [(c.offset_db, c.gain_db) for c in receiver.calibration] == [(-42.5, None), (-40.0, 20.0)]
    assert settings.receiver_of("f5xyz", 0).calibration == ()
    assert settings.receiver_of(None, 18) is None


def test_a_position_may_be_a_list(config_file):
    position = load(config_file(NODES), environ={}).nodes[1].position
    assert (position.lat, position.lon, position.alt) == (43.6, 1.4, None)


@pytest.mark.parametrize(
    ("nodes", "key"),
    [
        ("[{websdr_id: 3}]", "nodes[0].name"),
        ("[{name: a}, {name: a}]", "nodes[1].name"),
        ("[{name: a, websdr_id: 3}, {name: b, websdr_id: 3}]", "nodes[1].websdr_id"),
        ("[{name: other}]", "nodes[0].name"),
        ("[{name: .a}]", "nodes[0].name"),
        ("[{name: 3}]", "nodes[0].name"),
        ("[{name: a, websdr_id: -1}]", "nodes[0].websdr_id"),
        ("[{name: a, websdr_id: 2147483648}]", "nodes[0].websdr_id"),
        ("[{name: a, position: {lat: 91, lon: 0}}]", "nodes[0].position.lat"),
        ("[{name: a, position: {lat: 0}}]", "nodes[0].position.lon"),
        ("[{name: a, position: [1]}]", "nodes[0].position"),
        ("[{name: a, position: [1, 2, 3, 4]}]", "nodes[0].position"),
        ("[{name: a, delay_ns: 1.5}]", "nodes[0].delay_ns"),
        ("[{name: a, delay_ns: 10000000001}]", "nodes[0].delay_ns"),
        ("[{name: a, bandwidth_hz: 0}]", "nodes[0].bandwidth_hz"),
        ("[{name: a, expect_every_s: 0}]", "nodes[0].expect_every_s"),
        ("[{name: a, calibration: [{min_hz: 0, max_hz: 1}]}]", "nodes[0].calibration[0].offset_db"),
        ("[{name: a, calibration: [{min_hz: 5, max_hz: 5, offset_db: 0}]}]", "nodes[0].calibration[0].max_hz"),
        (
            "[{name: a, calibration: [{min_hz: 0, max_hz: 9, offset_db: 0}, {min_hz: 8, max_hz: 20, offset_db: 1}]}]",
            "nodes[0].calibration[1].min_hz",
        ),
    ],
)  # fmt: skip
def test_a_wrong_registry_is_refused_with_place_and_line(nodes, key, config_file):
    path = config_file(f"\nnodes: {nodes}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert str(caught.value).startswith(key)
    assert f"({path}:2): " in str(caught.value)


def test_bands_that_touch_do_not_overlap(config_file):
    bands = "{min_hz: 0, max_hz: 9, offset_db: 0}, {min_hz: 9, max_hz: 20, offset_db: 1}"
    assert (
        len(
            load(config_file(f"nodes: [{{name: a, calibration: [{bands}]}}]"), environ={})
            .nodes[0]
            .calibration
        )
        == 2
    )


# -- what an operator should know ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "environ", "about"),
    [
        ({}, {**STORE, "MINIO_SECRET_KEY": "minioadmin"}, "minio.secret_key: this is a default"),
        ({"storage.kind": "directory"}, STORE, "storage.kind: objects go to a directory although"),
        ({}, {"MINIO_ACCESS_KEY": "a"}, "minio.url: not set"),
        ({"storage.directory": "/srv"}, STORE, "storage.directory: has no effect"),
        ({"spool.durability": "process"}, {}, "spool.durability"),
        ({"ingest.endpoint": "tcp://*:1", "ingest.insecure": True}, {}, "ingest.endpoint: whoever reaches"),
        (
            {"query.endpoint": "tcp://no-such-if:1", "ingest.insecure": True},
            {},
            "neither an address nor an interface",
        ),
        ({"http.endpoint": "0.0.0.0:1"}, {}, "http.endpoint: whoever reaches"),
    ],
)
def test_what_is_allowed_but_should_be_known_is_said(overrides, environ, about):
    advice = report.advice(load(overrides=overrides, environ=environ))
    assert any(about in text for text in advice)
    assert SECRET not in "".join(advice)


def test_the_defaults_need_no_advice():
    assert report.advice(load(environ={})) == []
    assert report.advice(load(environ=STORE)) == []


def test_every_row_says_where_its_value_comes_from():
    rows = {name: (value, origin) for name, value, origin in report.rows(load(environ=STORE))}
    assert rows["minio.url"] == ("http://store:9000", "environment MINIO_URL")
    assert rows["minio.secret_key"] == (MASK, "environment MINIO_SECRET_KEY")
    assert rows["storage.kind"] == ("minio", "because minio.url is set (environment MINIO_URL)")
    assert rows["log.level"] == ("info", "default")
    assert rows["nodes"] == ("none", "default")
