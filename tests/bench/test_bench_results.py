"""Statistics, demands and gates: pure."""

import argparse
import dataclasses
import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from ingestd.testing.bench import __main__ as bench
from ingestd.testing.bench import report, results
from ingestd.testing.bench.groups import GROUPS, SHORT_GROUPS, Case, Setting
from ingestd.testing.bench.plot import plot
from ingestd.testing.bench.results import FIGURES, Figure, Results, Sample
from ingestd.testing.bench.statistics import quantile, spread

RATIO = Figure("ratio", "g", "m", "ours", ">=", 1.3, 1.7, 1.1, "other")


def rounds(*pairs):
    """Results of rounds with a value of ours and of the other."""
    samples = []
    for number, (ours, other) in enumerate(pairs):
        samples += [Sample("g", "ours", number, {"m": ours}), Sample("g", "other", number, {"m": other})]
    return Results(samples)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_quantile_is_the_nearest_rank(share, value):
    assert quantile(list(range(1, 101)), share) == value


def test_a_quantile_of_one_value_is_that_value():
    assert quantile([7.0], 0.5) == quantile([7.0], 0.99) == 7.0


def test_a_spread_is_median_and_range():
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_each_round_is_set_against_itself():
    # The machine was three times as slow in the second round, for both.
    measured = RATIO.measured(rounds((30, 20), (10, 8), (28, 20)))
    assert measured.spread == (1.4, 1.25, 1.5)


def test_a_difference_is_taken_in_each_round():
    figure = dataclasses.replace(RATIO, how="difference", sense="<=", gate=5)
    assert figure.measured(rounds((12, 9), (14, 10))).spread == (3.5, 3, 4)


def test_a_gate_is_open_above_its_value_and_closed_below():
    assert RATIO.measured(rounds((11, 10))).passed is True
    assert RATIO.measured(rounds((10.9, 10))).passed is False


def test_a_gate_of_a_cost_is_the_other_way_round():
    figure = dataclasses.replace(RATIO, sense="<=", against=None, gate=80)
    assert figure.measured(rounds((80, 1))).passed is True
    assert figure.measured(rounds((81, 1))).passed is False


def test_a_figure_without_a_gate_or_without_values_fails_nothing():
    assert dataclasses.replace(RATIO, gate=None).measured(rounds((1, 10))).passed is None
    assert RATIO.measured(Results()) == (None, None)


def test_a_round_that_failed_is_left_out_and_said():
    found = rounds((20, 10), (30, 10))
    found.samples[2] = Sample("g", "ours", 1, {}, "IngestdError: 3 of 8 objects did not come")
    assert RATIO.measured(found).spread == (2, 2, 2)
    assert found.errors() == ["g, ours, round 1: IngestdError: 3 of 8 objects did not come"]


def test_objects_that_are_missing_are_said():
    found = Results([Sample("g", "naive", 0, {"m": 1.0, "missing_objects": 4.0})])
    assert found.errors() == ["g, naive, round 0: 4 objects are missing"]


def test_every_figure_demands_less_than_it_aims_at_and_no_more_than_its_gate():
    for figure in FIGURES:
        assert figure.meets(figure.aim, figure.must), figure.name
        assert figure.gate is None or figure.meets(figure.must, figure.gate), figure.name


def test_every_figure_is_of_cases_that_its_group_runs_and_every_gate_of_cases_that_the_short_form_runs():
    # A case under another name would be a figure without values, which fails nothing.
    def cases(*, short):
        setting = Setting(minio=None, null=None, catalog=None, cores=2, short=short)
        return {name: {case.name for case in group(setting)} for name, group in GROUPS.items()}

    whole, short = cases(short=False), cases(short=True)
    for figure in FIGURES:
        wanted = {figure.case, figure.against} - {None}
        assert wanted <= whole[figure.group], figure.name
        if figure.gate is not None:
            assert figure.group in SHORT_GROUPS, figure.name
            assert wanted <= short[figure.group], figure.name


def test_the_document_has_raw_values_medians_and_figures(monkeypatch):
    monkeypatch.setattr(results, "FIGURES", (RATIO,))
    document = json.loads(json.dumps(rounds((30, 20), (10, 8)).document()))
    assert [one["values"] for one in document["samples"]] == [{"m": 30}, {"m": 20}, {"m": 10}, {"m": 8}]
    assert document["summary"]["g"]["ours"]["m"] == {"median": 20, "low": 10, "high": 30}
    assert document["figures"][0]["measured"]["median"] == pytest.approx(1.375)
    assert document["figures"][0]["passed"] is True


def test_the_table_shows_demands_beside_what_was_measured(monkeypatch):
    monkeypatch.setattr(report, "FIGURES", (RATIO,))
    console = Console(width=120, file=io.StringIO())
    console.print(report.figure_table(rounds((10, 10))))
    text = console.file.getvalue()
    assert "NOT MET" in text
    assert "FAILED" in text
    assert ">= 1.3" in text


def test_a_short_run_leaves_out_a_round_for_which_it_has_no_time():
    assert bench._has_time(80.0, 1)
    assert not bench._has_time(90.0, 1)


@pytest.mark.parametrize(("short", "ours", "again"), [(True, 5, ["g"]), (True, 20, []), (False, 5, [])])
def test_a_gate_that_fails_in_a_short_run_is_measured_again_and_the_median_of_all_decides(
    monkeypatch, tmp_path, short, ours, again
):
    """Only its group, and rounds of their own number."""
    monkeypatch.setattr(bench, "FIGURES", (RATIO,))
    ran = []

    def case(group, name):
        def run(_directory):
            ran.append(group)
            return {RATIO.metric: 20.0 if name == RATIO.case else 10.0}

        return Case(name, run)

    groups = {
        group: (lambda _setting, group=group: iter([case(group, RATIO.case), case(group, RATIO.against)]))
        for group in ("g", "h")
    }
    monkeypatch.setattr(bench, "GROUPS", groups)
    results = rounds((ours, 10))
    given = argparse.Namespace(short=short, rounds=1, groups=["g", "h"])
    setting = SimpleNamespace(minio=SimpleNamespace(clear=lambda: None))
    bench._once_more(given, setting, str(tmp_path), Console(file=io.StringIO()), results)
    assert sorted(set(ran)) == again
    assert len({one.round for one in results.samples}) == (4 if again else 1)
    assert bool(bench._failed(results)) == (ours == 5 and not again)


def test_a_group_that_is_not_there_is_named_with_those_that_are(capsys):
    with pytest.raises(SystemExit):
        bench._arguments(["--only", "minio,nul"])
    assert "no group nul (allowed: minio, null" in capsys.readouterr().err


def test_a_picture_is_drawn_of_whatever_there_is(tmp_path):
    pytest.importorskip("matplotlib")
    found = Results([
        Sample("minio", "ours", 0, {"frames_per_s": 200.0}),
        Sample("axes", "32 MB", 0, {"cpu_ms": 60.0}),
        Sample("latency", "ours 100/s", 0, {"p50_ms": 9.0, "p99_ms": 20.0}),
    ])  # fmt: skip
    plot(found, str(tmp_path / "bench.png"))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
