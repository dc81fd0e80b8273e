"""What `scripts/restarts` measures, in short: the figures of docs/guarantees.md come from the long run."""

import pytest

from ingestd.testing.restarts import RestartPlan, RestartResult, run


@pytest.mark.slow
@pytest.mark.quiet
def test_a_killed_receiver_and_a_killed_daemon_with_a_full_spool_accept_again(tmp_path):
    said = []
    result = run(RestartPlan(receiver_kills=2, daemon_kills=1, entries=2000), str(tmp_path), said.append)
    assert len(said) == 3
    assert len(result.receiver_ms) == 2
    # Three times what is demanded: other tests' processes share the machine.
    assert 0 < result.receiver_ms[-1] < 1500
    assert 0 < result.daemon_s[0] < 3 * result.daemon_limit_s


@pytest.mark.parametrize(
    ("receiver_ms", "daemon_s", "good"),
    [([300.0, 499.0], [1.9], True), ([300.0, 501.0], [1.9], False), ([300.0], [2.1], False)],
)
def test_the_demands_are_half_a_second_and_one_second_for_each_ten_thousand(receiver_ms, daemon_s, good):
    assert RestartResult(receiver_ms, daemon_s, 10_000).good is good
