"""What is printed: escaped, aligned, whole."""

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.cli.render import COLUMNS, escaped, flat, progress, show_fields, show_json, show_rows, size
from ingestd.errors import IngestdError

HOSTILE = "a\x1b[31mb\x07\r\n\x9b2J\u202e[bold]x[/bold]\x00\ud800\x7f"


def controls(text):
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"}


class TestEscaped:
    @given(st.text())
    def test_is_printable_whatever_comes(self, text):
        assert escaped(text).isprintable()

    @given(st.text(alphabet=st.characters(categories=["L", "N", "P"]), max_size=100))
    def test_leaves_printable_text_alone(self, text):
        assert escaped(text) == text

    def test_is_bounded(self):
        assert len(escaped("x" * 10**6)) == 4096
        assert len(escaped(10**5000)) < 100

    def test_shows_nothing_as_a_dash(self):
        assert escaped(None) == "-"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000_128, "1.0 MB"), (5e12, "5.0 TB"), (None, "-"), ("x\x1b", "'x\\x1b'")],
)
def test_sizes_have_decimal_prefixes(n_bytes, text):
    assert size(n_bytes).strip("'") == text.strip("'")


class TestTables:
    @pytest.mark.parametrize("name", COLUMNS)
    def test_hold_no_control_characters_and_no_markup(self, capsys, name):
        row = {column.key.partition(".")[0]: HOSTILE for column in COLUMNS[name]}
        show_rows([row], COLUMNS[name])
        out = capsys.readouterr().out
        assert controls(out) == set()
        assert "[bold]x[/bold]" in out
        assert len(out.splitlines()) == 2

    def test_hold_no_control_characters_on_a_terminal_either(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr("sys.stdout", Terminal())
        show_rows([{"node": HOSTILE}], COLUMNS["nodes"])
        show_fields({HOSTILE: [HOSTILE]})
        import sys

        assert controls(sys.stdout.getvalue()) == set()
        assert "bold" in sys.stdout.getvalue()

    def test_show_nested_values_and_leave_out_empty_columns(self, capsys):
        rows = [{"task_id": "t", "metrics": {"snr_db": 12.345}, "frequency_mhz": 0.0775}, {"task_id": "u"}]
        show_rows(rows, COLUMNS["measurements"])
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["TASK", "MHZ", "SNR", "DB"],
            ["t", "0.077500", "12.3"],
            ["u", "-", "-"],
        ]

    def test_never_cut_a_path_where_there_is_no_terminal(self, capsys):
        path = "s3://heimdall-raw-iq/sessions/" + "t" * 128 + "/websdr_5.npy"
        show_rows([{"s3_path": path}], COLUMNS["measurements"])
        assert path in capsys.readouterr().out.splitlines()[1]

    def test_of_nothing_are_their_headings(self, capsys):
        show_rows([], COLUMNS["roles"])
        assert capsys.readouterr().out.split() == ["ROLE", "STATE", "PID", "RESTARTS"]

    @pytest.mark.parametrize("rows", [None, 5, {}, [5], "x"])
    def test_of_what_is_no_list_of_rows_are_an_error(self, rows):
        with pytest.raises(IngestdError, match="no list of rows"):
            show_rows(rows, COLUMNS["nodes"])


class TestFields:
    def test_are_named_with_dots(self):
        document = {"a": {"b": 1, "c": []}, "d": [1, 2], "e": [{"f": None}], "g": {}}
        assert list(flat(document)) == [("a.b", 1), ("a.c", None), ("d", "1 2"), ("e.0.f", None), ("g", None)]

    def test_of_any_depth_end(self, capsys):
        deep = []
        for _ in range(5000):
            deep = [deep]
        show_fields({"x": deep})
        assert len(capsys.readouterr().out) < 200


class TestJson:
    def test_is_what_was_answered_without_control_characters(self, capsys):
        show_json({"x": HOSTILE, "ns": 2**63 - 1})
        out = capsys.readouterr().out
        assert controls(out) == set()
        assert json.loads(out) == {"x": HOSTILE, "ns": 2**63 - 1}

    @pytest.mark.parametrize("value", [float("nan"), b"bytes"])
    def test_is_strict(self, value):
        with pytest.raises(IngestdError, match="JSON"):
            show_json({"x": value})


class TestProgress:
    def test_is_a_line_a_second_and_one_at_the_end_where_there_is_no_terminal(self):
        stream, now = io.StringIO(), [0.0]
        with progress(5_000, stream, lambda: now[0]) as tell:
            for _ in range(5):
                now[0] += 0.4
                tell(1_000)
        assert stream.getvalue().splitlines() == [
            "ingestctl: sent 3 frames, 3.0 kB of 5.0 kB",
            "ingestctl: sent 5 frames, 5.0 kB of 5.0 kB",
        ]

    def test_is_a_bar_on_a_terminal(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        with progress(None, stream) as tell:
            tell(1_000)
        assert "sending" in stream.getvalue()
