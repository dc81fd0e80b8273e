"""Stacks are told without harm to a process that goes on, and by one that does not."""

import signal
import subprocess
import sys
import time

import pytest

_BUSY = """
import threading
import time
from ingestd.roles.stacks import show_stacks

lock = threading.Lock()

class Gate:
    @property
    def closed(self):
        with lock:
            return True

def work():
    gate, bell = Gate(), threading.Event()
    while True:
        bell.wait(0.001)
        [gate.closed for _ in range(20)]

show_stacks()
for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
while True:
    time.sleep(1)
"""

_STUCK = """
import re
from ingestd.roles.stacks import show_stacks

show_stacks()
print("ready", flush=True)
# C code that returns to the interpreter in some thousand years.
re.match("(a+)+b", "a" * 60)
"""


def started(code, stderr):
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_process_whose_threads_run_survives_being_asked_for_its_stacks(tmp_path):
    path = tmp_path / "stacks"
    with open(path, "wb") as stderr, started(_BUSY, stderr) as process:
        # With faulthandler's own handler for all threads it was dead after 20 to 200 of these.
        for _ in range(400):
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.001)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.003)
            assert process.poll() is None, path.read_text()[-2000:]
        process.kill()
    stacks = path.read_text()
    assert "Fatal" not in stacks
    # The main thread's and those of all others.
    assert stacks.count("in work") >= 6
    assert "in <module>" in stacks


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGABRT])
def test_a_process_that_is_stuck_outside_the_interpreter_tells_where(tmp_path, number):
    path = tmp_path / "stacks"
    with open(path, "wb") as stderr, started(_STUCK, stderr) as process:
        time.sleep(0.2)
        process.send_signal(number)
        end_s = time.monotonic() + 10
        while "in match" not in path.read_text() and time.monotonic() < end_s:
            time.sleep(0.02)
        process.kill()
    assert "in match" in path.read_text()
