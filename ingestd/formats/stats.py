"""The answer of `stats`: counters since the daemon's start, rates, and quantiles of latencies. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ingestd.formats.health import RATE_WINDOW_S, growth
from ingestd.formats.snapshot import Counts, Latency, Snapshot
from ingestd.formats.timestamps import format_utc

__all__ = ["document", "quantile"]

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

#: Fields of `Counts` that are no counters, or are counted by reason.
_NOT_COUNTERS = frozenset({"utc_ns", "monotonic_ns", "rejected", "spool_bytes", "spool_failed", "restarts"})


def document(
    history: Sequence[Counts], now: Snapshot, bounds_s: Sequence[float], total: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Make the answer.

    Parameters
    ----------
    history
        Counts of the last seconds, oldest first.
    now
        The present.
    bounds_s
        Upper bounds of the histogram buckets [s]; the last bucket is open.
    total
        Counters for the life of the state directory; None while the catalog does not say.
    """
    counts = now.counts
    counters = {f.name: getattr(counts, f.name) for f in fields(counts) if f.name not in _NOT_COUNTERS}
    return {
        **counters,
        "rejected": dict(now.rejected),
        "peers_refused": {socket: dict(counts) for socket, counts in now.peers_refused.items()},
        "since_utc": format_utc(counts.utc_ns - int(now.uptime_s * 1e9)),
        "uptime_s": round(now.uptime_s, 3),
        "rates": {
            "window_s": RATE_WINDOW_S,
            "received_per_s": growth(history, counts, lambda c: c.received),
            "accepted_per_s": growth(history, counts, lambda c: c.accepted),
            "stored_per_s": growth(history, counts, lambda c: c.stored),
            "received_bytes_per_s": growth(history, counts, lambda c: c.received_bytes),
            "stored_bytes_per_s": growth(history, counts, lambda c: c.stored_bytes),
        },
        "latency": {
            "upload_s": _latency(now.upload, bounds_s),
            "accepted_to_stored_s": _latency(now.accepted_to_stored, bounds_s),
        },
        "total": None if total is None else dict(total),
    }


def _latency(latency: Latency, bounds_s: Sequence[float]) -> dict[str, Any]:
    n = sum(latency.counts)
    found = {name: quantile(latency.counts, bounds_s, q) for name, q in _QUANTILES.items()}
    return {"count": n, "mean": round(latency.sum_s / n, 6) if n else None, **found}


def quantile(counts: Sequence[int], bounds_s: Sequence[float], q: float) -> float | None:
    """Quantile of a histogram, interpolated within its bucket [s]; None of nothing.

    Parameters
    ----------
    counts
        Observations per bucket; one more than `bounds_s`, for the open one.
    bounds_s
        Upper bounds [s], ascending.
    q
        0 to 1. In the open bucket the answer is its lower bound.
    """
    rank = q * sum(counts)
    if rank <= 0:
        return None
    below = 0
    for i, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            low_s = bounds_s[i - 1] if i else 0.0
            return round(low_s + (bounds_s[i] - low_s) * (rank - below) / count, 6)
        below += count
    return round(bounds_s[-1], 6)
