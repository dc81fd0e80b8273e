"""The query protocol: what is a request, what is refused and how, and the golden bytes."""

import json
import pathlib
import random

import msgpack
import pytest

from ingestd.errors import QueryError
from ingestd.formats.commands import COMMANDS, MAX_LIMIT, describe
from ingestd.formats.protocol import (
    MAX_REQUEST_BYTES,
    Encoding,
    ErrorCode,
    Refusal,
    Request,
    decode,
    encode_data,
    encode_error,
)

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests/golden/query.json").read_text())["cases"]


def encoded(content, encoding):
    return json.dumps(content).encode() if encoding is Encoding.JSON else msgpack.packb(content)


def decoded(reply, encoding):
    return json.loads(reply) if encoding is Encoding.JSON else msgpack.unpackb(reply)


both = pytest.mark.parametrize("encoding", Encoding)


def golden_bytes(message, encoding):
    text = message[encoding.value]
    return text.encode() if encoding is Encoding.JSON else bytes.fromhex(text)


@both
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_requests_are_answered_with_the_golden_bytes(case, encoding):
    request = decode(golden_bytes(case["request"], encoding))
    reply = golden_bytes(case["reply"], encoding)
    content = decoded(reply, encoding)
    assert request.encoding is encoding
    if isinstance(request, Refusal):
        assert encode_error(encoding, request.id, request.error) == reply
    else:
        assert encode_data(encoding, request.id, content["data"]) == reply
        assert request.command.name == case["name"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_the_two_encodings_of_a_golden_message_say_the_same(case):
    for message in (case["request"], case["reply"]):
        assert json.loads(message["json"]) == msgpack.unpackb(bytes.fromhex(message["msgpack"]))


def test_the_page_on_queries_shows_the_golden_bytes_and_every_command_and_code():
    page = (ROOT / "docs/queries.md").read_text()
    for case in GOLDEN:
        for message in (case["request"], case["reply"]):
            assert message["json"] in page
            assert message["msgpack"] in page.replace("\n    ", "")
    for name, command in COMMANDS.items():
        assert f"### `{name}`" in page
        section = page.partition(f"### `{name}`")[2].partition("\n### ")[0]
        for argument in command.arguments:
            assert f"`{argument.name}`" in section, (name, argument.name)
    for code in ErrorCode:
        assert f"| `{code}` |" in page


@both
def test_only_the_command_is_required(encoding):
    request = decode(encoded({"cmd": "ping"}, encoding))
    assert isinstance(request, Request)
    assert (request.id, request.command.name, dict(request.args)) == (None, "ping", {})


@both
def test_defaults_are_filled_in_and_null_means_not_given(encoding):
    request = decode(encoded({"cmd": "measurements", "args": {"task_id": "a", "node": None}}, encoding))
    assert dict(request.args) == {"task_id": "a", "limit": 100}


@both
def test_stamps_are_taken_as_text_or_integer_to_the_nanosecond(encoding):
    args = {"since": "2026-08-01T12:00:00.123456789Z", "until": 1785585600123456790}
    request = decode(encoded({"cmd": "measurements", "args": args}, encoding))
    assert request.args["until"] - request.args["since"] == 1


@both
@pytest.mark.parametrize("request_id", [None, True, 0, -(2**63), 2**64 - 1, 1.5, "", "x" * 256])
def test_an_id_comes_back_as_it_was(request_id, encoding):
    request = decode(encoded({"id": request_id, "cmd": "ping"}, encoding))
    reply = decoded(encode_data(encoding, request.id, {}), encoding)
    assert reply["id"] == request_id
    assert type(reply["id"]) is type(request_id)


REFUSED = [
    ("list", [], "bad_request"),
    ("text", "ping", "bad_request"),
    ("no command", {}, "bad_request"),
    ("command a number", {"cmd": 1}, "bad_request"),
    ("command null", {"cmd": None}, "bad_request"),
    ("unknown key", {"cmd": "ping", "limit": 1}, "bad_request"),
    ("id a map", {"id": {}, "cmd": "ping"}, "bad_request"),
    ("id too long", {"id": "x" * 257, "cmd": "ping"}, "bad_request"),
    ("args a list", {"cmd": "ping", "args": []}, "bad_request"),
    ("unknown command", {"cmd": "drop"}, "unknown_command"),
    ("command in capitals", {"cmd": "PING"}, "unknown_command"),
    ("version 2", {"v": 2, "cmd": "ping"}, "unsupported_version"),
    ("version true", {"v": True, "cmd": "ping"}, "unsupported_version"),
    ("version 1.0", {"v": 1.0, "cmd": "ping"}, "unsupported_version"),
    ("unknown argument", {"cmd": "ping", "args": {"x": 1}}, "invalid_argument"),
    ("missing argument", {"cmd": "session"}, "invalid_argument"),
    ("null for a required one", {"cmd": "session", "args": {"task_id": None}}, "invalid_argument"),
    ("limit 0", {"cmd": "sessions", "args": {"limit": 0}}, "invalid_argument"),
    ("limit 1001", {"cmd": "sessions", "args": {"limit": MAX_LIMIT + 1}}, "invalid_argument"),
    ("limit 1e9", {"cmd": "sessions", "args": {"limit": 10**9}}, "invalid_argument"),
    ("limit true", {"cmd": "sessions", "args": {"limit": True}}, "invalid_argument"),
    ("limit 1.0", {"cmd": "sessions", "args": {"limit": 1.0}}, "invalid_argument"),
    ("cursor with blanks", {"cmd": "sessions", "args": {"cursor": "' OR 1"}}, "invalid_argument"),
    ("cursor 1 MB", {"cmd": "sessions", "args": {"cursor": "x" * 60_000}}, "invalid_argument"),
    ("task_id a path", {"cmd": "session", "args": {"task_id": "../../etc"}}, "invalid_argument"),
    ("task_id with a newline", {"cmd": "session", "args": {"task_id": "a\n"}}, "invalid_argument"),
    ("task_id too long", {"cmd": "session", "args": {"task_id": "a" * 129}}, "invalid_argument"),
    ("task_id a map", {"cmd": "session", "args": {"task_id": {"a": 1}}}, "invalid_argument"),
    ("epoch negative", {"cmd": "confirm", "args": {"node": "n", "epoch": -1}}, "invalid_argument"),
    ("epoch 2^53", {"cmd": "confirm", "args": {"node": "n", "epoch": 2**53}}, "invalid_argument"),
    ("state unknown", {"cmd": "measurements", "args": {"state": "gone"}}, "invalid_argument"),
    ("since local time", {"cmd": "measurements", "args": {"since": "2026-08-01T12:00:00+02:00"}}, "invalid_argument"),
    ("expires_s a year", {"cmd": "url", "args": {"task_id": "a", "websdr_id": 1, "expires_s": 31536000}}, "invalid_argument"),
    ("copy in capitals", {"cmd": "measurement", "args": {"task_id": "a", "websdr_id": 1, "copy": "DEADBEEF"}}, "invalid_argument"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("content", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_wrong_request_is_refused_with_its_code_in_its_own_encoding(content, code, encoding):
    refusal = decode(encoded(content, encoding))
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == code
    assert not refusal.error.retryable
    if isinstance(content, dict):
        assert refusal.encoding is encoding
    reply = decoded(encode_error(refusal.encoding, refusal.id, refusal.error), refusal.encoding)
    assert list(reply) == ["v", "id", "ok", "error"]
    assert list(reply["error"]) == ["code", "message", "retryable", "details"]


@both
def test_a_refusal_still_carries_the_id(encoding):
    assert decode(encoded({"id": 7, "cmd": "nope"}, encoding)).id == 7


def test_an_invalid_argument_names_itself_its_value_and_what_is_allowed():
    error = decode(b'{"cmd":"sessions","args":{"limit":1000000000}}').error
    assert error.details == {
        "argument": "limit",
        "value": "1000000000",
        "allowed": "an integer from 1 to 1000",
    }


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"{" * 60_000,
        b"[" * 60_000,
        b'{"cmd":' + b"[" * 15,
        b'{"cmd":"ping","cmd":"help"}',
        b'{"id":NaN,"cmd":"ping"}',
        b'{"id":1e999,"cmd":"ping"}',
        b'{"id":' + b"9" * 5000 + b',"cmd":"ping"}',
        b'{"cmd":"ping"} ',
        b'\xff{"cmd":"ping"}',
        b'{"cmd":"p\xffng"}',
        b"\x81\xa3cmd\xa4pin",
        b"\x81\xa3cmd\xa4ping\x00",
        b"\x82\xa3cmd\xa4ping\xa3cmd\xa4help",
        b"\x81\xc4\x03cmd\xa4ping",
        b"\x81\x01\xa4ping",
        b"\x82\xa3cmd\xa4ping\xa2id\xd6\xff\x00\x00\x00\x00",
        b"\x82\xa3cmd\xa4ping\xa2id\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x81\xa3cmd" + b"\x91" * 10_000,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa3cmd\xdb\xff\xff\xff\xff",
        b"\x80\x04\x95.",
        b"x" * (MAX_REQUEST_BYTES + 1),
    ],
)
def test_garbage_is_a_bad_request_and_costs_no_exception(message):
    answer = decode(message)
    if message == b'{"cmd":"ping"} ':
        assert isinstance(answer, Request)
        return
    assert answer.error.code == "bad_request"
    encode_error(answer.encoding, answer.id, answer.error)


@both
def test_every_cut_and_every_flipped_byte_of_a_request_is_answered(encoding):
    message = encoded(
        {"v": 1, "id": "a", "cmd": "measurements", "args": {"task_id": "b", "limit": 3}}, encoding
    )
    flips = random.Random(1)
    variants = [message[:n] for n in range(len(message))]
    variants += [
        message[:i] + bytes([message[i] ^ flips.randrange(1, 256)]) + message[i + 1 :]
        for i in range(len(message))
        for _ in range(8)
    ]
    for variant in variants:
        answer = decode(variant)
        if isinstance(answer, Refusal):
            encode_error(answer.encoding, answer.id, answer.error)
        else:
            encode_data(answer.encoding, answer.id, {})


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        (Encoding.JSON, float("nan")),
        (Encoding.JSON, b"bytes"),
        (Encoding.JSON, {1, 2}),
        (Encoding.MSGPACK, 2**70),
        (Encoding.MSGPACK, {1, 2}),
    ],
)
def test_an_answer_that_cannot_be_written_is_an_internal_error(value, encoding):
    with pytest.raises(QueryError) as caught:
        encode_data(encoding, None, {"x": value})
    assert caught.value.code == "internal"


def test_only_unavailable_and_busy_are_worth_asking_again():
    assert {code for code in ErrorCode if code.error("x").retryable} == {"unavailable", "busy"}


def test_help_lists_every_command_with_its_arguments():
    rows = {row["name"]: row for row in describe()["commands"]}
    assert list(rows) == list(COMMANDS)
    assert [row["name"] for row in rows["confirm"]["args"]] == ["node", "epoch"]
    encode_data(Encoding.JSON, None, describe())
