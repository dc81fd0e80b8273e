"""Medians, ranges and quantiles of a few values. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Spread", "quantile", "spread"]


class Spread(NamedTuple):
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range of the values of all rounds; there is at least one."""
    return Spread(statistics.median(values), min(values), max(values))


def quantile(ascending: Sequence[float], share: float) -> float:
    """Smallest value that `share` of all do not exceed (nearest rank); there is at least one."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
