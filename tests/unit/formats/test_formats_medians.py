"""Medians: the quick ways give exactly what NumPy's own median gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.formats import medians
from ingestd.formats.medians import SegmentMedians, median


def white(n_segments: int, n_bins: int, seed: int = 1) -> np.ndarray:
    """Powers in the bins of white noise."""
    return np.random.default_rng(seed).exponential(size=(n_segments, n_bins)).astype("f4")


def slow(power: np.ndarray) -> float:
    return float(np.median(np.median(power, axis=0).astype("f8")))


@pytest.fixture
def looked_at(monkeypatch) -> list[int]:
    """How many bins were looked at, call by call."""
    counts = []
    along_rows = medians._along_rows

    def counted(values):
        counts.append(len(values))
        return along_rows(values)

    monkeypatch.setattr(medians, "_along_rows", counted)
    return counts


class TestMedian:
    """The median along the last axis."""

    @pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 4096])
    @pytest.mark.parametrize("rows", [(), (1,), (64,)])
    def test_it_is_that_of_numpy(self, n, rows):
        values = np.random.default_rng(n).standard_normal((*rows, n))
        assert np.array_equal(median(values), np.median(values, axis=-1))

    def test_values_are_left_as_they_were(self):
        values = np.array([3.0, 1.0, 2.0])
        median(values)
        assert values.tolist() == [3.0, 1.0, 2.0]


class TestSegmentMedians:
    """Medians over segments, of every bin or only as far as their median needs them."""

    @pytest.mark.parametrize("n_bins", [64, 1024, 2048, 4096])
    @pytest.mark.parametrize("n_segments", [7, 29, 63])
    def test_white_noise_gives_the_exact_median(self, n_segments, n_bins):
        power = white(n_segments, n_bins)
        before = power.copy()
        assert np.array_equal(SegmentMedians(power).of_every_bin(), np.median(power, axis=0))
        assert SegmentMedians(power).median() == slow(power)
        assert np.array_equal(power, before)

    def test_white_noise_is_looked_at_in_few_bins(self, looked_at):
        SegmentMedians(white(29, 4096)).median()
        assert len(looked_at) == 2
        assert sum(looked_at) < 1400

    def test_every_bin_is_looked_at_where_those_of_the_sample_are_unlike_the_others(self, looked_at):
        power = white(29, 4096)
        power[:, ::16] *= 1000
        assert SegmentMedians(power).median() == slow(power)
        assert looked_at == [256, 4096]

    @pytest.mark.parametrize("share", [0.3, 0.49, 0.5, 0.51, 0.7])
    def test_step_in_the_spectrum_gives_the_exact_median(self, share):
        power = white(29, 4096)
        power[:, : int(share * 4096)] *= 1e6
        assert SegmentMedians(power).median() == slow(power)

    @pytest.mark.parametrize("sampled_level", [1.0, 2.0])
    def test_median_between_two_levels_is_their_mean_though_the_sample_holds_only_one(self, sampled_level):
        # One of the two values in the middle is just outside the bounds, once below and once above.
        power = np.full((29, 4096), sampled_level, "f4")
        others = np.flatnonzero(np.arange(4096) % 16)[:2048]
        power[:, others] = 3.0 - sampled_level
        assert SegmentMedians(power).median() == 1.5

    @pytest.mark.parametrize("level", [0.0, 1.0, np.inf])
    def test_bins_that_are_all_alike_give_their_level(self, level):
        assert SegmentMedians(np.full((29, 4096), level, "f4")).median() == level

    @settings(max_examples=100, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        n_segments=st.sampled_from([7, 9, 29, 63]),
        n_levels=st.sampled_from([1, 2, 3, 10, 10_000]),
        slope=st.sampled_from([0.0, 1.0, -20.0]),
    )
    def test_ties_and_slopes_give_the_exact_median(self, seed, n_segments, n_levels, slope):
        power = np.floor(white(n_segments, 2048, seed) * n_levels)
        power *= np.exp(slope * np.linspace(0, 1, 2048)).astype("f4")
        assert SegmentMedians(power).median() == slow(power)
