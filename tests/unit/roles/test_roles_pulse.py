"""Progress: what the watchdog takes for life, for a wait, and for a hang."""

import pytest

from ingestd.roles.lifecycle import RoleState
from ingestd.roles.pulse import DISK_PATIENCE_S, Standstill, standstill
from ingestd.roles.status import Phase, Slot, StatusBlock, StatusLayout

ROLES = ("receiver", "uploader-0", "responder")
PATIENCE_S = 30.0
NOW_NS = 10_000 * 10**9


@pytest.fixture
def status():
    """Every role runs and made progress a second ago."""
    block = StatusBlock.create(StatusLayout(ROLES))
    for name in ROLES:
        block.watch[name].set(Slot.WATCH_STATE, RoleState.RUNNING)
        block.watch[name].set(Slot.WATCH_SINCE_NS, 1)
        block.roles[name].phase(Phase.IDLE, NOW_NS - 10**9)
    return block


def still(status):
    return standstill(status, NOW_NS, PATIENCE_S)


def ago(age_s):
    return NOW_NS - int(age_s * 1e9)


def test_roles_that_turn_are_alive(status):
    assert still(status) is None


@pytest.mark.parametrize("name", ROLES)
def test_a_role_whose_loop_does_not_turn_hangs(status, name):
    status.roles[name].phase(Phase.IDLE, ago(31.0))
    assert still(status) == Standstill(name, "idle", 31.0)


@pytest.mark.parametrize("phase", [Phase.WRITING, Phase.FSYNC, Phase.CATALOG])
def test_a_receiver_that_waits_for_the_disk_does_not_hang_for_ten_minutes(status, phase):
    status.roles["receiver"].phase(phase, ago(DISK_PATIENCE_S - 1))
    assert still(status) is None
    status.roles["receiver"].phase(phase, ago(DISK_PATIENCE_S + 1))
    assert still(status).role == "receiver"


def test_the_phase_of_an_upload_thread_excuses_no_main_loop(status):
    status.roles["uploader-0"].phase(Phase.FSYNC, ago(31.0))
    assert still(status).role == "uploader-0"


def test_a_main_loop_at_the_disk_does_not_hang_and_progress_begins_anew_behind_it(status):
    row = status.roles["uploader-0"]
    with row.at_disk():
        row.set(Slot.PROGRESS_NS, ago(31.0))
        assert still(status) is None
    assert row.get(Slot.DISK_SINCE_NS) == 0
    row.set(Slot.PROGRESS_NS, ago(31.0))
    assert still(status).role == "uploader-0"


def test_a_new_process_is_not_blamed_for_what_its_predecessor_left(status):
    status.roles["receiver"].phase(Phase.IDLE, ago(5000.0))
    status.watch["receiver"].set(Slot.WATCH_SINCE_NS, ago(1.0))
    assert still(status) is None


def test_a_start_has_the_time_of_the_disk(status):
    watch = status.watch["receiver"]
    watch.set(Slot.WATCH_STATE, RoleState.STARTING)
    watch.set(Slot.WATCH_SINCE_NS, ago(DISK_PATIENCE_S - 1))
    assert still(status) is None
    watch.set(Slot.WATCH_SINCE_NS, ago(DISK_PATIENCE_S + 1))
    assert still(status).role == "receiver"


@pytest.mark.parametrize("state", [RoleState.BACKING_OFF, RoleState.STOPPING, RoleState.RESTARTING])
def test_what_the_supervisor_itself_bounds_is_no_hang(status, state):
    status.watch["responder"].set(Slot.WATCH_STATE, state)
    status.roles["responder"].phase(Phase.IDLE, ago(5000.0))
    assert still(status) is None


def test_the_one_that_stands_for_longest_is_named(status):
    status.roles["responder"].phase(Phase.IDLE, ago(40.0))
    status.roles["receiver"].phase(Phase.IDLE, ago(50.0))
    assert still(status).role == "receiver"
