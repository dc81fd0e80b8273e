"""Log lines: whole, bounded, escaped, without secrets, and each event written down in docs/logs.md."""

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
import tracemalloc
import warnings
from enum import Enum
from pathlib import Path, PurePosixPath

import pytest
import structlog

from ingestd import logs

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
MASK = "**********"
SECRET = "s3cr3t"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.fixture
def stream():
    return io.StringIO()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def one(stream, event="tested", level="info", **fields):
    logs.configure("receiver", "debug", "json", stream)
    getattr(structlog.get_logger("ingestd.test"), level)(event, **fields)
    (line,) = lines(stream)
    return line


# -- what a line holds --------------------------------------------------------------------------------------------


def test_a_line_starts_with_time_level_event_role_and_pid(stream):
    line = one(stream, "entry_stored", "warning", size_bytes=8)
    assert list(line) == ["ts", "level", "event", "role", "pid", "size_bytes"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["ts"])
    del line["ts"]
    assert line == {
        "level": "warning",
        "event": "entry_stored",
        "role": "receiver",
        "pid": os.getpid(),
        "size_bytes": 8,
    }


def test_an_event_cannot_take_the_place_of_the_head(stream):
    line = one(stream, role="supervisor", pid=1, level_="x", ts="never")
    assert (line["role"], line["pid"]) == ("receiver", os.getpid())
    assert line["ts"] != "never"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_lines_below_the_level_are_left_out(level, stream):
    levels = ["debug", "info", "warning", "error", "critical"]
    logs.configure("receiver", level, "json", stream)
    for each in levels:
        getattr(structlog.get_logger(), each)("tested")
    assert [line["level"] for line in lines(stream)] == levels[levels.index(level) :]


def test_context_that_is_bound_is_in_every_line(stream):
    logs.configure("uploader-0", "info", "json", stream)
    with structlog.contextvars.bound_contextvars(entry="x"):
        structlog.get_logger().info("tested")
    structlog.get_logger().bind(thread=3).info("tested")
    assert [(line.get("entry"), line.get("thread")) for line in lines(stream)] == [("x", None), (None, 3)]


def test_configuring_again_replaces_and_does_not_repeat(stream):
    logs.configure("receiver", "info", "json", io.StringIO())
    logs.configure("uploader-1", "info", "json", stream)
    structlog.get_logger().info("tested")
    assert [line["role"] for line in lines(stream)] == ["uploader-1"]


def test_a_logger_that_was_made_before_configuring_follows_it(stream):
    log = structlog.get_logger("early")
    logs.configure("receiver", "info", "json", stream)
    log.info("tested")
    assert len(lines(stream)) == 1


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (2**63, 2**63),
        (2**300, "<int of 301 bits>"),
        (0.1, 0.1),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("x" * 600, "x" * 497 + "..."),
        (b"\x00\xff", r"b'\x00\xff'"),
        (memoryview(bytes(10**6)), "<memoryview of length 1000000>"),
        (Colour.RED, "RED"),
        (PurePosixPath("/a/b"), "/a/b"),
        (ValueError("wrong"), "ValueError: wrong"),
        (object, "<type>"),
        ([1, (2, {"a": None})], [1, [2, {"a": None}]]),
        ({1: {2: {3: {4: 5}}}}, {"1": {"2": {"3": "<dict of length 1>"}}}),
        (list(range(33)), "<list of length 33>"),
    ],
)  # fmt: skip
def test_every_value_becomes_strict_json_of_bounded_size(value, shown, stream):
    assert one(stream, value=value)["value"] == shown


def test_a_value_nested_a_hundred_thousand_deep_is_logged(stream):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert one(stream, value=deep)["value"] == [[["<list of length 1>"]]]
    while deep:
        deep = deep[0]


def test_a_large_value_is_cut_before_anything_is_made_of_it(stream):
    huge = bytes(2**24)
    logs.configure("receiver", "info", "json", stream)
    structlog.get_logger().info("tested", value="warm")
    tracemalloc.start()
    try:
        structlog.get_logger().info("tested", value=huge, values=[huge] * 10)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20


def _fail(error):
    in_a_variable = SECRET  # noqa: F841 - must not be shown
    raise error


def test_an_exception_is_shown_without_the_values_of_variables(stream):
    logs.configure("receiver", "info", "json", stream)
    try:
        _fail(ValueError("what was wrong"))
    except ValueError:
        structlog.get_logger().exception("tested")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "ValueError: what was wrong" in line["exception"]
    assert SECRET not in line["exception"]
    assert stream.getvalue().count("\n") == 1


def test_a_long_traceback_keeps_its_end(stream):
    line = one(stream, level="error", exc_info=RuntimeError("y" * 20_000 + "the end"))
    assert len(line["exception"]) <= 8003
    assert line["exception"].endswith("the end")


# -- who reads it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "stream_type", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_lines_are_json_but_for_people_on_a_terminal(form, stream_type, is_json, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    stream = stream_type()
    logs.configure("receiver", "info", form, stream)
    structlog.get_logger().info("tested", size_bytes=8)
    text = stream.getvalue()
    assert text.startswith("{") is is_json
    assert "tested" in text
    assert "size_bytes" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_gets_none(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    logs.configure("receiver", "info", "auto", stream)
    structlog.get_logger().warning("tested", node="x")
    assert "\x1b" not in stream.getvalue()


def test_a_child_process_with_a_pipe_for_stderr_writes_json():
    code = "from ingestd import logs; import structlog; logs.configure('receiver', 'info'); structlog.get_logger().info('tested')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stderr)["event"] == "tested"
    assert done.stdout == ""


def test_the_journal_gets_a_priority_on_every_line(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure("receiver", "debug", "auto", stream)
        log = structlog.get_logger()
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("tested")
        logs.configure("receiver", "info", "console", stream)
        log.error("tested", exc_info=ValueError("x"))
        stream.seek(0)
        written = stream.read().splitlines()
    assert [line[:3] for line in written[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert len(written) > 6, "a traceback of several lines"
    assert all(line.startswith("<3>") for line in written[5:])


def test_a_stream_that_is_closed_or_full_never_stops_the_daemon():
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    for stream in (Full(), io.StringIO()):
        logs.configure("receiver", "info", "json", stream)
        if not isinstance(stream, Full):
            stream.close()
        structlog.get_logger().info("tested")
    (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, logs._Handler)]
    assert handler.n_lost == 1


# -- foreign strings ----------------------------------------------------------------------------------------------

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "a\nb\r\nc",
    'x", "level": "error',
    "\x00\x07\x08\x7f\x9b",
    "\u202egnp.exe",
    "\u2028\u2029\u0085",
    "\ud800",
    "<script>",
    "[bold]x[/bold]",
    "%s %(x)s {x}",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["value", "key", "event", "container", "error"])
def test_foreign_text_stays_in_its_line_and_is_escaped(text, place, stream):
    for form, target in (("json", stream), ("console", Terminal())):
        logs.configure("receiver", "info", form, target)
        log = structlog.get_logger()
        if place == "event":
            log.info(text)
        elif place == "key":
            log.info("tested", **{text: 1})
        elif place == "container":
            log.info("tested", value={text: [text]})
        else:
            log.info("tested", value=ValueError(text) if place == "error" else text)
        written = target.getvalue()
        assert written.count("\n") == 1
        if form == "json":
            assert written.rstrip("\n").isascii()
            assert written.rstrip("\n").isprintable()
            assert isinstance(json.loads(written), dict)
        else:
            # Our own colours are \x1b[...m; nothing else that a terminal might obey may be left.
            plain = re.sub(r"\x1b\[\d*(;\d+)*m", "", written).rstrip("\n")
            assert plain.isprintable()
            assert "\x1b[2J" not in written
            assert "\x1b[31mred" not in written


def test_a_traceback_with_foreign_text_is_escaped_on_a_terminal():
    stream = Terminal()
    logs.configure("receiver", "info", "console", stream)
    structlog.get_logger().error("tested", exc_info=ValueError("\x1b[2J\x07"))
    plain = re.sub(r"\x1b\[\d*(;\d+)*m", "", stream.getvalue())
    assert all(line.isprintable() for line in plain.splitlines())


# -- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "secret",
            "secret_key",
            "minio_secret_key",
            "secretKey",
            "password",
            "passwd",
            "db_password",
            "authorization",
        ),
        *("Authorization", "x-amz-signature", "token", "session_token", "credential", "credentials"),
    ],
)
def test_a_field_named_like_a_secret_is_masked(name, stream):
    assert one(stream, **{name: SECRET})[name] == MASK


def test_a_secret_inside_a_container_is_masked(stream):
    line = one(
        stream,
        value={"minio": {"secret_key": SECRET, "url": "http://a:1"}},
        headers=[{"Authorization": SECRET}],
    )
    assert SECRET not in json.dumps(line)
    assert line["value"]["minio"] == {"secret_key": MASK, "url": "http://a:1"}


@pytest.mark.parametrize("name", ["key", "access_key", "secretary", "tokens_left", "signature_version"])
def test_other_fields_are_shown(name, stream):
    assert one(stream, **{name: "plain"})[name] == "plain"


@pytest.mark.parametrize(
    "text",
    [
        f"GET http://user:{SECRET}@host:9000/x",
        f"https://{SECRET}@host/",
        f"http://host/x?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}&x=1",
        f"http://host/x?X-Amz-Security-Token={SECRET}",
        f"Authorization: AWS4-HMAC-SHA256 Credential={SECRET}/20260801, SignedHeaders=x, Signature={SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"authorization={SECRET}",
        f"secret_key={SECRET}",
        f'"secretKey": "{SECRET}"',
        f"password: {SECRET}",
    ],
)
def test_a_secret_inside_a_text_is_masked(text, stream):
    logs.configure("receiver", "debug", "json", stream)
    log = structlog.get_logger()
    log.info("tested", error=text)
    log.info("tested", error=ValueError(text))
    log.error("tested", exc_info=ValueError(text))
    logging.getLogger("urllib3").warning("%s", text)
    assert len(lines(stream)) == 4
    assert SECRET not in stream.getvalue()
    assert stream.getvalue().count(MASK) >= 4


def test_what_surrounds_a_secret_stays_readable(stream):
    line = one(stream, error=f"PUT http://user:{SECRET}@host:9000/bucket failed: 403")
    assert line["error"] == f"PUT http://{MASK}@host:9000/bucket failed: 403"


# -- other libraries ----------------------------------------------------------------------------------------------


def test_lines_of_other_libraries_take_the_same_way(stream):
    logs.configure("uploader-0", "info", "json", stream)
    logging.getLogger("urllib3.connectionpool").warning("Retrying %s", "\x1b[2J")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["role"]) == ("library_message", "warning", "uploader-0")
    assert (line["logger"], line["message"]) == ("urllib3.connectionpool", "Retrying \x1b[2J")


@pytest.mark.parametrize(("level", "n_lines"), [("debug", 3), ("info", 1), ("warning", 1), ("error", 0)])
def test_what_libraries_say_below_warning_is_shown_at_debug_alone(level, n_lines, stream):
    logs.configure("receiver", level, "json", stream)
    for each in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("urllib3").log(each, "x")
    assert len(lines(stream)) == n_lines


def test_python_warnings_are_logged(stream):
    logs.configure("receiver", "info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old" in line["message"]


# -- rate limit ---------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_a_burst_is_admitted_and_then_so_many_a_second():
    clock = Clock()
    limit = logs.RateLimit(per_s=2.0, burst=3, clock=clock)
    assert [limit.admit()[0] for _ in range(5)] == [True, True, True, False, False]
    clock.now_s += 0.5
    assert [limit.admit() for _ in range(2)] == [(True, 2), (False, 0)]
    clock.now_s += 1000.0
    assert [limit.admit()[0] for _ in range(5)] == [True, True, True, False, False]


def test_what_was_held_back_is_told_once():
    clock = Clock()
    limit = logs.RateLimit(per_s=1.0, burst=1, clock=clock)
    assert limit.admit() == (True, 0)
    assert [limit.admit() for _ in range(9)] == [(False, 0)] * 9
    assert limit.suppressed == 9
    clock.now_s += 1.0
    assert limit.admit() == (True, 9)
    assert limit.suppressed == 0
    clock.now_s += 1.0
    assert limit.admit() == (True, 0)


def test_a_clock_that_steps_back_takes_nothing_away():
    clock = Clock()
    limit = logs.RateLimit(per_s=1.0, burst=2, clock=clock)
    clock.now_s -= 50.0
    assert limit.admit()[0]
    assert limit.admit()[0]
    assert not limit.admit()[0]
    clock.now_s += 1.0
    assert limit.admit()[0]


def test_a_flood_costs_so_many_lines_and_no_more():
    clock = Clock()
    limit = logs.RateLimit(per_s=5.0, burst=10, clock=clock)
    admitted = told = 0
    for _ in range(100_000):
        clock.now_s += 0.0001
        is_admitted, suppressed = limit.admit()
        admitted += is_admitted
        told += suppressed
    assert 59 <= admitted <= 60
    assert admitted + told + limit.suppressed == 100_000


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (-1.0, 1), (1.0, 0)])
def test_a_limit_that_admits_nothing_is_a_mistake(per_s, burst):
    with pytest.raises(ValueError, match="must be"):
        logs.RateLimit(per_s, burst)


# -- docs/logs.md -------------------------------------------------------------------------------------------------

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def _calls():
    """Every `log.<level>("event", field=...)` of the package: event, level, fields, place."""
    for path in sorted((ROOT / "ingestd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
            ):
                continue
            if not re.fullmatch(r"(self\.)?_?log", ast.unparse(node.func.value)):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert len(node.args) == 1, f"{place}: an event name and named fields"
            assert isinstance(node.args[0], ast.Constant), f"{place}: the event must be a literal name"
            assert all(keyword.arg for keyword in node.keywords), f"{place}: fields by their names"
            level = {"exception": "error"}.get(node.func.attr, node.func.attr)
            yield node.args[0].value, level, [keyword.arg for keyword in node.keywords], place


def _events():
    events = {}
    for event, level, fields, _ in _calls():
        levels, known = events.setdefault(event, (set(), {}))
        levels.add(level)
        known.update(dict.fromkeys(fields))
    return {event: (", ".join(sorted(levels)), list(fields)) for event, (levels, fields) in events.items()}


def _documented():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in DOCUMENT.splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in rows if len(row) == 4}


def test_event_names_are_words_with_underscores():
    assert [place for event, _, _, place in _calls() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event)] == []


def test_every_event_of_the_code_is_documented_with_level_and_fields():
    documented = _documented()
    missing = []
    for event, (level, fields) in _events().items():
        _, documented_level, meaning, documented_fields = documented.get(event, [""] * 4)
        if (documented_level, re.findall(r"`(\w+)`", documented_fields)) != (level, fields) or not meaning:
            missing.append(
                f"| `{event}` | {level} | {meaning or '?'} | {', '.join(f'`{f}`' for f in fields)} |"
            )
    assert missing == [], "docs/logs.md must have:\n" + "\n".join(missing)


def test_every_documented_event_is_in_the_code():
    assert set(_documented()) - set(_events()) == {"library_message"}
