"""Life of a role, and the breaker: pure decisions."""

import pytest

from ingestd.roles.breaker import MAX_CEILING_S, TOLERATED_COUNT, Backoff, Breaker
from ingestd.roles.lifecycle import MAX_BACKOFF_S, Event, RoleLife, RoleState


def started(life, now_s):
    life.apply(Event.SPAWNED, now_s)
    life.apply(Event.READY, now_s)


def test_the_first_start_and_the_first_restart_are_due_at_once():
    life = RoleLife("receiver")
    assert life.due_s <= 0.0
    started(life, 0.0)
    life.apply(Event.DIED, 100.0)
    assert life.due_s == 100.0
    assert life.restarts == 1


def test_deaths_within_ten_seconds_back_off_up_to_a_bound():
    life = RoleLife("receiver")
    waits, now_s = [], 0.0
    for _ in range(12):
        started(life, now_s)
        life.apply(Event.DIED, now_s)
        waits.append(life.due_s - now_s)
        now_s = life.due_s
    assert waits[0] == 0.0
    assert waits[1:4] == pytest.approx([0.1, 0.2, 0.4])
    assert max(waits) <= MAX_BACKOFF_S
    assert life.crash_looping


def test_a_quiet_while_forgives():
    life = RoleLife("receiver")
    for now_s in (0.0, 1.0, 100.0):
        started(life, now_s)
        life.apply(Event.DIED, now_s)
    assert life.due_s == 100.0


def test_a_role_that_waits_for_its_restart_stops_at_once():
    life = RoleLife("receiver")
    started(life, 0.0)
    life.apply(Event.DIED, 0.0)
    assert life.apply(Event.STOP, 0.0) is RoleState.STOPPED


def test_a_role_that_is_renewed_is_due_at_once_and_did_not_die():
    life = RoleLife("receiver")
    for now_s in (0.0, 1.0, 2.0, 3.0):
        started(life, now_s)
        assert life.apply(Event.RENEW, now_s) is RoleState.RESTARTING
        assert life.apply(Event.DIED, now_s + 0.5) is RoleState.BACKING_OFF
        assert life.due_s == now_s + 0.5
    assert life.restarts == 0
    assert not life.crash_looping


def test_a_role_in_backoff_is_renewed_by_its_next_start_at_once():
    life = RoleLife("receiver")
    for now_s in (0.0, 0.1, 0.2):
        started(life, now_s)
        life.apply(Event.DIED, now_s)
    assert life.due_s > 0.3
    assert life.apply(Event.RENEW, 0.3) is RoleState.BACKING_OFF
    assert life.due_s == 0.3


def test_an_impossible_transition_is_an_error():
    with pytest.raises(KeyError):
        RoleLife("receiver").apply(Event.READY, 0.0)


def highest(_low, high):
    return high


def test_backoff_doubles_to_its_ceiling_and_believes_a_hint_up_to_a_minute():
    backoff = Backoff(highest)
    assert [backoff.delay_s(n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff.delay_s(10_000) == MAX_CEILING_S
    assert backoff.delay_s(1, 5.0) == 5.0
    assert backoff.delay_s(1, 86400.0) == 60.0


def test_an_open_breaker_admits_one_probe_at_a_time():
    breaker = Breaker(Backoff(highest))
    assert breaker.admit(0.0) == 0.0
    assert breaker.failure(0.0) == 0.5
    assert breaker.admit(0.1) == pytest.approx(0.4)
    assert breaker.admit(0.5) == 0.0
    assert breaker.admit(0.5) > 0.0, "somebody probes already"
    assert breaker.failure(0.6) == pytest.approx(1.0)
    assert breaker.admit(1.7) == 0.0
    assert breaker.success()
    assert not breaker.success()
    assert breaker.admit(1.7) == 0.0


def test_requests_under_way_when_it_opened_count_once():
    breaker = Breaker(Backoff(highest))
    for _ in range(8):
        breaker.failure(0.0)
    assert breaker.n_failures == 1


def test_a_probe_that_found_nothing_to_send_leaves_room_for_the_next():
    breaker = Breaker(Backoff(highest))
    breaker.failure(0.0)
    assert breaker.admit(1.0) == 0.0
    breaker.withdraw()
    assert breaker.admit(1.0) == 0.0


def test_the_word_of_another_process_ends_a_long_backoff_but_not_a_retry_after():
    breaker = Breaker(Backoff(lambda _low, high: high))
    for now_s in (0.0, 100.0, 200.0, 300.0, 400.0, 500.0):
        assert breaker.admit(now_s) == 0.0
        breaker.failure(now_s)
    assert breaker.admit(501.5) > 10.0
    breaker.hurry()
    assert breaker.admit(500.5) == pytest.approx(0.5), "not at once: it may be our own way that is broken"
    assert breaker.admit(501.5) == 0.0
    breaker.failure(502.0, hint_s=30.0)
    breaker.hurry()
    assert breaker.admit(503.5) == pytest.approx(28.5)


def test_a_busy_store_opens_the_breaker_only_where_nothing_succeeds_in_between():
    breaker = Breaker(Backoff(highest))
    for _ in range(100):
        for _ in range(TOLERATED_COUNT - 1):
            assert breaker.failure(0.0, tolerable=True) == 0.0
        assert breaker.closed
        breaker.success()
    for _ in range(TOLERATED_COUNT - 1):
        breaker.failure(0.0, tolerable=True)
    assert breaker.failure(0.0, tolerable=True) == 0.5
    assert not breaker.closed


def test_what_is_not_tolerable_opens_it_at_once():
    breaker = Breaker(Backoff(highest))
    breaker.failure(0.0, tolerable=True)
    assert breaker.failure(0.0) == 0.5
