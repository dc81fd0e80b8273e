"""The shipped unit under a real systemd as PID 1: its sandbox on, and everything an operator does."""

import pytest

from ingestd.testing.sandbox.boot import boot, why_not

#: What the job does, in its order.
STEPS = [
    "start", "main_job", "monitoring", "confinement", "credentials", "doctor", "reload", "kill_role", "watchdog",
    "wrong_settings", "stop", "end",
]  # fmt: skip


@pytest.mark.timeout(400)
def test_the_daemon_does_its_work_in_its_sandbox():
    reason = why_not()
    if reason:
        # In CI as well: not every container may make namespaces. scripts/sandbox says so by exit code 69.
        pytest.skip(reason)
    report = boot()
    failed = [f"{step['step']}: {step['detail']}" for step in report.steps if not step["ok"]]
    assert failed == [], report.log
    assert [step["step"] for step in report.steps] == STEPS, report.log
