"""The fuzzer's targets: what was found once stays right, and each of them notices broken code."""

import os
from pathlib import Path

import pytest

from ingestd.errors import FrameError, StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats import metadata, protocol
from ingestd.spool import SpoolLayout
from ingestd.testing.fuzzing.__main__ import main
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


@pytest.mark.parametrize("arguments", [["no-such"], ["frame", "--jobs", "0"], ["--replay", "x"]])
def test_a_wrong_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "targets are frame, query, metadata, spool" in capsys.readouterr().err
