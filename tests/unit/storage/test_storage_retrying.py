"""A refused request goes again at once while most succeed, and not in an outage."""

import random

import pytest

from ingestd.storage.retrying import TRIES, RetryBudget


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_store_is_asked_again_a_moment_later_and_three_times_at_most(status):
    budget = RetryBudget()
    pauses = [budget.pause_s(n, status, hinted=False) for n in range(1, TRIES + 1)]
    assert all(0.0 <= pause < 0.1 for pause in pauses[:-1])
    assert pauses[-1] is None


@pytest.mark.parametrize("status", [200, 204, 400, 403, 404, 409, 412, 413, 501])
def test_any_other_reply_is_taken(status):
    assert RetryBudget().pause_s(1, status, hinted=False) is None


def test_a_store_that_names_a_time_is_not_asked_before_it():
    assert RetryBudget().pause_s(1, 503, hinted=True) is None


def requests_of(share_refused, n_wanted, rng):
    """Requests that were sent, for so many that were wanted."""
    budget, n_requests = RetryBudget(), 0
    for _ in range(n_wanted):
        for n_sent in range(1, TRIES + 1):
            n_requests += 1
            status = 503 if rng.random() < share_refused else 200
            if budget.pause_s(n_sent, status, hinted=False) is None:
                break
    return n_requests


def test_one_refusal_in_three_is_paid_for_and_a_total_outage_is_not():
    rng = random.Random(1)
    assert requests_of(0.3, 10_000, rng) == pytest.approx(10_000 * (1 + 0.3 + 0.09), rel=0.05)
    assert requests_of(1.0, 10_000, rng) < 10_010
    assert requests_of(0.9, 10_000, rng) < 11_000


def test_a_store_that_is_back_earns_its_retries_again():
    budget = RetryBudget()
    for _ in range(20):
        budget.pause_s(TRIES, 503, hinted=False)
    assert budget.pause_s(1, 503, hinted=False) is None
    for _ in range(20):
        budget.pause_s(1, 200, hinted=False)
    assert budget.pause_s(1, 503, hinted=False) is not None
