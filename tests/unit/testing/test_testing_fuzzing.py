"""The fuzzer's targets: what was found once stays right, and each of them notices broken code."""

import contextlib
import json
import os
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd import __version__
from ingestd.errors import FrameError, StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats import metadata, protocol
from ingestd.formats.commands import COMMANDS
from ingestd.spool import SpoolLayout
from ingestd.testing.fuzzing import blind
from ingestd.testing.fuzzing.__main__ import main
from ingestd.testing.fuzzing.record import Result, add, markdown, read
from ingestd.testing.fuzzing.targets import TARGETS, BrokenError, seeds

TESTS = Path(__file__).resolve().parents[2]
GOLDEN, CORPUS = str(TESTS / "golden"), TESTS / "fuzz" / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_kept_inputs_pass(name):
    inputs = list(seeds(name, GOLDEN))
    kept = sorted((CORPUS / name).iterdir())
    assert inputs
    assert kept
    for data in (*inputs, *(path.read_bytes() for path in kept)):
        TARGETS[name](data)


def test_the_kept_inputs_are_few_and_small():
    for name in TARGETS:
        files = list((CORPUS / name).iterdir())
        assert len(files) <= 100, name
        assert all(path.stat().st_size <= 4096 for path in files)


def first_frame():
    return next(seeds("frame", GOLDEN))


def test_a_frame_that_comes_back_otherwise_is_noticed(monkeypatch):
    other = wire.parse(list(seeds("frame", GOLDEN))[8])
    monkeypatch.setattr(wire, "encode", lambda _measurement, encode=wire.encode: encode(other))
    with pytest.raises(BrokenError):
        TARGETS["frame"](first_frame())


@pytest.mark.parametrize("error", [FrameError("surprise"), FrameError("key", "\x1b[31m"), ValueError("x")])
def test_an_error_of_another_kind_is_noticed(monkeypatch, error):
    def broken(_data):
        raise error

    monkeypatch.setattr(wire, "parse", broken)
    with pytest.raises((BrokenError, ValueError)):
        TARGETS["frame"](b"")


def test_a_reply_that_loses_its_id_is_noticed(monkeypatch):
    monkeypatch.setattr(protocol, "encode_error", lambda *_: b'{"id": "another"}')
    with pytest.raises(BrokenError):
        TARGETS["query"](b'{"id": 7, "cmd": "no-such"}')


def test_metadata_that_is_refused_in_too_many_words_is_noticed(monkeypatch):
    def broken(data):
        raise StoreCorrupt(repr(data))

    monkeypatch.setattr(metadata, "decode", broken)
    with pytest.raises(BrokenError):
        TARGETS["metadata"](b"x" * 4096)


def test_a_recovery_that_takes_a_file_away_is_noticed(monkeypatch):
    def broken(layout, recover=SpoolLayout.recover):
        for name in os.listdir(layout.new):
            os.unlink(os.path.join(layout.new, name))
        return recover(layout)

    TARGETS["spool"](b"\x00name\ncontent")
    monkeypatch.setattr(SpoolLayout, "recover", broken)
    with pytest.raises(BrokenError):
        TARGETS["spool"](b"\x00name\ncontent")


def test_one_input_can_be_played_again(tmp_path, monkeypatch):
    path = tmp_path / "crash-1"
    path.write_bytes(first_frame())
    assert main(["frame", "--replay", str(path)]) == 0
    monkeypatch.setattr(wire, "encode", lambda _measurement: b"")
    with pytest.raises(FrameError):
        main(["frame", "--replay", str(path)])


def test_the_blind_fuzzer_finds_what_is_broken_and_leaves_the_input(tmp_path, monkeypatch):
    (tmp_path / "seed").write_bytes(first_frame())
    monkeypatch.chdir(tmp_path)
    assert blind.main(["frame", str(tmp_path), "-runs=50", "-seed=1"]) == 0
    assert not list(tmp_path.glob("crash-*"))

    def broken(data, parse=wire.parse):
        if data[:1] != first_frame()[:1]:
            raise ValueError("planted")
        return parse(data)

    monkeypatch.setattr(wire, "parse", broken)
    with pytest.raises(ValueError, match="planted"):
        blind.main(["frame", str(tmp_path), "-runs=10000", "-seed=1"])
    (crash,) = tmp_path.glob("crash-*")
    with pytest.raises(ValueError, match="planted"):
        main(["frame", "--replay", str(crash)])


def test_the_command_counts_executions_and_writes_them_down(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(TESTS.parent)
    result = tmp_path / "fuzz.json"
    assert main(["query", "--blind", "--runs", "200", "--jobs", "2", "--json", str(result)]) == 0
    (told,) = json.loads(result.read_text())
    assert (told["target"], told["engine"], told["executions"], told["findings"]) == (
        "query",
        "blind",
        200,
        0,
    )
    assert (told["jobs"], told["seed"], told["version"]) == (2, 1, __version__)
    assert capsys.readouterr().out.startswith("query: 200 executions")


def test_a_further_run_is_added_to_those_on_record_and_the_table_adds_them_up(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(TESTS.parent)
    path = tmp_path / "fuzz.json"
    earlier = Result("query", "blind", 1_000_000, 1800.0, 9, 1, jobs=2)
    add(path, [earlier, Result("spool", "guided", 5, 1.0, 7, 0)])
    assert main(["query", "--blind", "--runs", "200", "--json", str(path)]) == 0
    runs = read(path)
    assert runs[0] == earlier
    assert len(runs) == 3
    capsys.readouterr()
    assert main(["--markdown", str(path)]) == 0
    assert capsys.readouterr().out == markdown(runs) + "\n"
    inputs = max(9, runs[2].inputs)
    assert f"| `query` | blind | 2 | 1,000,200 | 1.0 h | {inputs} | 1 |" in markdown(runs)
    assert "| `spool` | guided | 1 | 5 | 1 s | 7 | 0 |" in markdown(runs)


# -- inputs that know the structure -------------------------------------------------------------------------------

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.just("1e9")
)
TREE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
ARGUMENTS = sorted({argument.name for command in COMMANDS.values() for argument in command.arguments})


@given(
    st.fixed_dictionaries(
        {"cmd": st.sampled_from(sorted(COMMANDS)) | SCALAR},
        optional={
            "v": st.just(1) | SCALAR,
            "id": SCALAR,
            "args": st.dictionaries(st.sampled_from(ARGUMENTS) | st.text(max_size=5), TREE, max_size=5)
            | TREE,
            "more": TREE,
        },
    )
)
def test_every_request_of_the_right_shape_gets_one_reply(request):
    TARGETS["query"](json.dumps(request).encode())
    with contextlib.suppress(OverflowError):
        TARGETS["query"](msgpack.packb(request))


DOCUMENT = json.loads(next(seeds("metadata", GOLDEN)))


@given(
    st.dictionaries(st.sampled_from(sorted(metadata.KEYS)), TREE, max_size=6),
    st.sampled_from([None, "utf-16", "utf-8-sig"]),
)
def test_every_document_with_other_values_is_read_or_corrupt(changes, encoding):
    text = json.dumps({**DOCUMENT, **changes})
    TARGETS["metadata"](text.encode(encoding or "utf-8"))


NAMES = (
    st.just("")
    | st.from_regex(r"[0-9]{20}-[0-9]{8}-[0-9a-f]{8}\.v[12](\.json)?", fullmatch=True)
    | st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30)
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 6),
    NAMES,
    st.sampled_from([first_frame(), first_frame()[:-1], b""]) | st.binary(max_size=50),
)
def test_a_spool_with_any_file_in_any_place_is_recovered_and_loses_nothing(place, name, content):
    TARGETS["spool"](bytes([place]) + name.encode() + b"\n" + content)


@pytest.mark.parametrize("arguments", [["no-such"], ["frame", "--jobs", "0"], ["--replay", "x"]])
def test_a_wrong_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "targets are frame, query, metadata, spool" in capsys.readouterr().err
