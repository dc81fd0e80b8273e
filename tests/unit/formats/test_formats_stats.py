"""The answer of `stats`: counters, rates and quantiles."""

import json

import pytest

from ingestd.formats import stats
from ingestd.formats.snapshot import Counts, Latency, Snapshot, SpoolState

S = 10**9
BOUNDS_S = (0.1, 0.2, 0.4)
NOTHING = Latency((0, 0, 0, 0), 0.0)


def snapshot(counts, **changes):
    fields = {
        "counts": counts, "uptime_s": 60.0, "roles": (), "stores": (), "nodes": (), "spool": SpoolState(),
        "rejected": {}, "upload": NOTHING, "accepted_to_stored": NOTHING,
    }  # fmt: skip
    return Snapshot(**(fields | changes))


def test_counters_of_the_design_are_there_and_rejections_are_by_reason():
    counts = Counts(
        100 * S, 50 * S, received=9, accepted=7, rejected=2, stored=5, received_bytes=900, stored_bytes=500
    )
    document = stats.document((), snapshot(counts, rejected={"payload": 2}), BOUNDS_S, None)
    expected = {
        "received": 9, "accepted": 7, "stored": 5, "rejected": {"payload": 2}, "duplicates": 0, "conflicts": 0,
        "failed": 0, "received_bytes": 900, "stored_bytes": 500, "total": None, "uptime_s": 60.0,
        "since_utc": "1970-01-01T00:00:40.000000000Z",
    }  # fmt: skip
    assert {key: document[key] for key in expected} == expected
    json.dumps(document, allow_nan=False)


def test_totals_are_copied():
    total = {"stored": 1000}
    document = stats.document((), snapshot(Counts(S, S)), BOUNDS_S, total)
    assert document["total"] == total
    assert document["total"] is not total


def test_rates_come_from_the_history_and_are_null_without_one():
    now = snapshot(Counts(100 * S, 100 * S, received=50, stored_bytes=4000))
    history = [Counts(t * S, t * S, received=0) for t in (10, 92)]
    rates = stats.document(history, now, BOUNDS_S, None)["rates"]
    assert (rates["received_per_s"], rates["stored_bytes_per_s"]) == (6.25, 500.0)
    assert stats.document((), now, BOUNDS_S, None)["rates"]["received_per_s"] is None


def test_latencies_have_count_mean_and_quantiles():
    now = snapshot(Counts(S, S), upload=Latency((0, 10, 0, 0), 1.5))
    latency = stats.document((), now, BOUNDS_S, None)["latency"]
    assert latency["upload_s"] == {"count": 10, "mean": 0.15, "p50": 0.15, "p90": 0.19, "p99": 0.199}
    assert latency["accepted_to_stored_s"] == {
        "count": 0,
        "mean": None,
        "p50": None,
        "p90": None,
        "p99": None,
    }


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((4, 0, 0, 0), 0.5, 0.05),
        ((4, 0, 0, 0), 1.0, 0.1),
        ((2, 2, 0, 0), 0.5, 0.1),
        ((2, 0, 2, 0), 0.75, 0.3),
        ((0, 0, 0, 3), 0.5, 0.4),
        ((1, 0, 0, 99), 0.99, 0.4),
    ],
)
def test_quantiles_are_interpolated_within_their_bucket(counts, q, expected):
    assert stats.quantile(counts, BOUNDS_S, q) == expected
