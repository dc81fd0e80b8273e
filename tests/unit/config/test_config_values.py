"""What a single value may be, in every spelling, and what it becomes."""

import pytest

from ingestd.config import load
from ingestd.config.values import HostPort, byte_size, host_port, is_loopback, redacted_url, zmq_address
from ingestd.errors import ConfigError

STORE = {"minio.access_key": "b", "minio.secret_key": "c"}

#: Key, value as given, and what it becomes.
TAKEN = [
    *(
        ("ingest.max_frame_bytes", text, 2**26)
        for text in (2**26, str(2**26), "64 MiB", "64MiB", "65536 kib", "0.0625 GiB")
    ),
    ("ingest.max_frame_bytes", "4 KiB", 4096),
    ("ingest.max_frame_bytes", "1 GiB", 2**30),
    ("spool.max_bytes", "70 MB", 70_000_000),
    ("spool.max_bytes", "67108864 B", 2**26),
    ("spool.max_bytes", "8 TiB", 2**43),
    ("spool.max_bytes", None, None),
    ("spool.min_free_bytes", 0, 0),
    ("spool.retain_s", "1e3", 1000.0),
    ("session.timeout_s", 0.001, 0.001),
    *(("ingest.insecure", value, True) for value in (True, "true", "TRUE", "yes", "on", "1")),
    *(("ingest.insecure", value, False) for value in (False, "false", "no", "Off", "0")),
    ("ingest.endpoint", "tcp://[::1]:5555", "tcp://[::1]:5555"),
    ("ingest.endpoint", "tcp://lo:5555", "tcp://lo:5555"),
    ("ingest.endpoint", "ipc:///run/ingestd/in.sock", "ipc:///run/ingestd/in.sock"),
    ("http.endpoint", "", ""),
    ("http.endpoint", "localhost:80", "localhost:80"),
    ("http.endpoint", "0.0.0.0:9108", "0.0.0.0:9108"),
    ("log.level", "WARNING", "warning"),
    ("minio.url", "http://a:9000/", "http://a:9000"),
    *(
        ("minio.url", url, url)
        for url in ("a:9000", "http://a", "https://a.b-c.d", "HTTPS://A:443", "http://[::1]:9000")
    ),
    ("minio.bucket_raw_iq", "a-b.c", "a-b.c"),
    ("minio.bucket_raw_iq", "x" * 63, "x" * 63),
    ("minio.access_key", "a b", "a b"),
    ("minio.region", "eu-central-1", "eu-central-1"),
    ("uploader.count", "256", 256),
    ("state_directory", "relative/path with spaces", "relative/path with spaces"),
]

SIZES = (
    "0",
    "-1",
    "4095",
    "1.5",
    "64 MiBi",
    "64 XB",
    "MiB",
    "",
    "1 GiB 1",
    "0x100",
    "64 M",
    "1e6",
    "2 GiB",
    4096.0,
    True,
    [],
)
URLS = (
    *(
        "",
        "http://",
        "a",
        "ftp://a",
        "a:0",
        "a:65536",
        "a:x",
        "http://a:",
        "http://a/b",
        "http://a?x=1",
        "http://a#b",
    ),
    *("http://a b", "http://a\n", "//a:1", "http:/a", "[::1", "http://-a", "http://a:1:2", "s3://bucket"),
)

#: Key, value that is refused, and a word of what is allowed.
REFUSED = [
    *(("ingest.max_frame_bytes", value, "must be") for value in SIZES),
    ("spool.max_bytes", "1 MB", "at least"),
    ("spool.max_bytes", str(2**63), "at most"),
    *(("uploader.threads", value, "must be") for value in (0, 65, -1, "x", "", "1.0", 1.0, True, "\u0661", "1_0", [])),
    *(("uploader.count", value, "must be") for value in (0, 257, "two")),
    *(("session.timeout_s", value, "must be") for value in (0, -1, "nan", "inf", "", "1:30", True, 1e9, float("inf"))),
    *(("ingest.insecure", value, "true or false") for value in ("", "maybe", 2, 0, None, "null")),
    *(
        ("ingest.endpoint", value, "must be tcp://")
        for value in ("", "5555", "127.0.0.1:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536",
                      "tcp://127.0.0.1:*", "tcp://:5555", "tcp://[::1:5555", "tcp://[xyz]:5555", "udp://127.0.0.1:1",
                      "inproc://x", "ipc://", "ipc://*", "ipc://" + "x" * 108, "tcp://a b:1", "tcp://127.0.0.1:5555\n")
    ),
    *(("query.endpoint", value, "must be tcp://") for value in ("", "tcp://x")),
    *(("http.endpoint", value, "must be ADDRESS:PORT") for value in ("9108", "*:9108", "http://127.0.0.1:9108", "a:0", " ")),
    *(("minio.url", value, "must be http://") for value in URLS if value),
    *(
        ("minio.bucket_raw_iq", value, "must be 3 to 63")
        for value in ("", "ab", "x" * 64, "../x", "a/b", "A-b", "a_b", "-ab", "ab-", "a..b", "1.2.3.4", "xn--abc", "abc\n", "äbc")
    ),
    *(("minio.region", value, "must be 1 to 63") for value in ("a b", "a/b", "x" * 64, "-a")),
    *(("minio.access_key", value, "one line") for value in (" a", "a ", "a\nb", "a\0", "\x1b[2J")),
    *(("state_directory", value, "written out") for value in ("~/x", "$HOME/x", "a\0b", "/srv/${X}")),
    *(("storage.directory", value, "written out") for value in ("~", "$X")),
    ("log.level", "verbose", "must be"),
    ("log.level", "warn", "did you mean 'warning'?"),
    ("log.format", "JSON", "must be"),
    ("storage.kind", "s3", "must be"),
    ("storage.on_conflict", "keep", "did you mean 'keep_both'?"),
    ("spool.durability", "none", "must be"),
    ("uploader.quality", "full", "must be"),
    ("nodes", "x", "must be a list"),
    ("nodes", [1], "must be a map"),
    ("log.level", None, "null is not allowed"),
    ("uploader.threads", None, "must be a whole number"),
    ("minio.bucket_raw_iq", None, "null is not allowed"),
]  # fmt: skip


def _settings(key, value):
    overrides = {key: value, **(STORE if key == "minio.url" else {})}
    if key == "spool.max_bytes":
        overrides["ingest.max_frame_bytes"] = "1 MiB"
    return load(overrides=overrides, environ={})


@pytest.mark.parametrize(("key", "value", "becomes"), TAKEN)
def test_an_allowed_value_becomes_what_it_means(key, value, becomes):
    section, _, name = key.rpartition(".")
    settings = _settings(key, value)
    got = getattr(getattr(settings, section) if section else settings, name)
    assert got == becomes
    assert type(got) is type(becomes)


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_any_other_value_is_refused_with_key_origin_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigError) as caught:
        _settings(key, value)
    message = str(caught.value)
    assert message.startswith(key)
    assert "command line" in message
    assert allowed in message
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 500


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:pa55word@host:9000", "http://***@host:9000"),
        ("user:pa55word@host:9000", "***@host:9000"),
        ("http://host/?X-Amz-Signature=pa55word", "http://host/?***"),
        ("https://host/#pa55word", "https://host/?***"),
        ("pa55word://pa55word@host", "pa55word://***@host"),
        ("a b:pa55word://x@h", "***://***@h"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url, shown):
    assert redacted_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pa55word@host:9000",
        "user:pa55word@host:9000",
        "http://h/x?sig=pa55word",
        "https://a@b:pa55word@h",
    ],
)
def test_a_url_with_a_password_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError) as caught:
        load(environ={"MINIO_URL": url})
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", HostPort("127.0.0.1", 1)),
        ("[::1]:65535", HostPort("::1", 65535)),
        ("[fe80::1%eth0]:5", HostPort("fe80::1%eth0", 5)),
        ("*:5", HostPort("*", 5)),
        ("::1:5", None),
        ("[::g]:5", None),
        ("a:", None),
        ("a:5 ", None),
        ("a:\u0665", None),
    ],
)
def test_an_address_is_read_or_none(text, address):
    assert host_port(text) == address
    assert zmq_address(f"tcp://{text}") == address
    assert zmq_address(f"ipc://{text}") is None


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("lo", True)),
        *(
            ("0.0.0.0", False),
            ("::", False),
            ("*", False),
            ("192.168.1.2", False),
            ("eth0", False),
            ("localhost.x", False),
        ),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host, is_local):
    assert is_loopback(host) is is_local


def test_a_size_is_exact_in_decimals():
    assert byte_size("0.1 kB") == 100
    assert byte_size("8796093022208.5 MB") == 8_796_093_022_208_500_000
