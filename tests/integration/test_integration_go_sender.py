"""examples/go-sender against the daemon: the page on confirmation, followed in another language."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ingestd.errors import Unavailable
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import RATE_HZ, T0_NS, noise
from ingestd.testing.waiting import free_port, wait_until

SOURCE = Path(__file__).parents[2] / "examples" / "go-sender"

N_FRAMES = 200
N_SAMPLES = 20_000

#: One run has to survive kills, restarts and a busy machine [s].
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def go():
    """The Go command; modules and compiled packages go to the user's caches."""
    found = shutil.which("go")
    if found is None:
        pytest.skip("no Go toolchain on PATH: examples/go-sender is neither built nor tested")
    return found


def run_go(go, *arguments):
    done = subprocess.run(
        [go, *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"go {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def binary(go, tmp_path_factory):
    target = tmp_path_factory.mktemp("go") / "go-sender"
    run_go(go, "build", "-o", str(target), ".")
    return target


class Sending:
    """The sender as a subprocess, as a `with` block that leaves nothing behind."""

    def __init__(self, binary, daemon, *, task="capture", n_frames=N_FRAMES, n_samples=N_SAMPLES, **options):
        given = {
            "push": daemon.ingest_endpoint,
            "query": daemon.query_endpoint,
            "node": "go-1",
            "task": task,
            "websdr-id": 7,
            "frames": n_frames,
            "samples": n_samples,
            "sample-rate-hz": RATE_HZ,
            "t0-ns": T0_NS,
            "timeout": TIMEOUT_S,
        } | {name.replace("_", "-"): value for name, value in options.items()}
        self.n_frames, self.n_samples = n_frames, n_samples
        self.command = [str(binary), *(f"--{name}={value}" for name, value in given.items())]

    def __enter__(self):
        self.popen = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exc):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()

    def running(self):
        return self.popen.poll() is None

    def result(self):
        """Exit code and counts."""
        out, err = self.popen.communicate(timeout=TIMEOUT_S)
        assert out.count("\n") == 1, f"one line of JSON, not {out!r}; stderr:\n{err}"
        sys.stderr.write(out + err)  # shown where the test fails
        return self.popen.returncode, json.loads(out)


def iq_of(chunk, n_samples):
    """Samples of one frame, by the formula in capture.go."""
    n = np.arange(chunk * n_samples, (chunk + 1) * n_samples)
    parts = [
        (factor * n % 65536).astype("<f4") / np.float32(32768) - np.float32(1) for factor in (40503, 30011)
    ]
    return np.stack(parts, axis=1).astype("<f4").tobytes()


def assert_all_there_once(daemon, sending, task="capture"):
    """Exactly one pair of objects for each frame, with its bytes and its stamp to the nanosecond."""
    root = Path(daemon.state_directory, "objects", "heimdall-raw-iq", "sessions")
    found = {str(path.relative_to(root)) for path in (root / task).iterdir()}
    stems = [f"{task}/websdr_7_{chunk:06d}" for chunk in range(sending.n_frames)]
    assert found == {stem + end for stem in stems for end in (".npy", "_metadata.json")}
    for chunk, stem in enumerate(stems):
        npy = np.load(root / f"{stem}.npy", allow_pickle=False)
        assert npy.tobytes() == iq_of(chunk, sending.n_samples)
        document = json.loads((root / f"{stem}_metadata.json").read_bytes())
        first = chunk * sending.n_samples
        assert document["timestamp_ns"] == T0_NS + round(Fraction(first) * 10**9 / Fraction(RATE_HZ))
        assert (document["sample_rate_hz"], document["sample_index"]) == (RATE_HZ, first)
        assert (document["node"], document["chunk"]) == ("go-1", chunk)


def accepted(daemon):
    with contextlib.suppress(Unavailable):
        return daemon.stats()["total"]["accepted"]
    return 0


#: Longer than the frames of the other tests.
MAX_FRAME_BYTES = 2**20

SETTINGS = {
    "ingest": {"max_frame_bytes": MAX_FRAME_BYTES},
    "uploader": {"count": 2},
    "spool": {"min_free_bytes": 0},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """For all tests that leave a daemon that works."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon"), SETTINGS) as running:
        yield running


def test_the_sender_is_vetted_formatted_and_passes_its_own_tests(go):
    run_go(go, "vet", "./...")
    assert "ok" in run_go(go, "test", "./...")
    formatter = Path(run_go(go, "env", "GOROOT").strip(), "bin", "gofmt")
    assert not subprocess.check_output([formatter, "-l", "."], cwd=SOURCE)


def test_a_go_sender_loses_nothing_while_uploaders_and_receiver_are_killed(binary, daemon):
    rng = random.Random(1)
    victims = ["receiver", "uploader-0", "uploader-1"]
    n_kills = 0
    with Sending(binary, daemon, rate=50) as sending:
        while sending.running() and n_kills < 9:
            with contextlib.suppress(Unavailable, ProcessLookupError):
                os.kill(daemon.role_pids()[victims[n_kills % 3]], signal.SIGKILL)
                n_kills += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                sending.popen.wait(rng.uniform(0.1, 0.5))
        code, counts = sending.result()
    assert n_kills >= 3
    assert (code, counts) == (0, all_confirmed(counts))
    totals = daemon.wait_settled()
    assert (totals["stored"], totals["failed"], totals["lost"]) == (N_FRAMES, 0, 0)
    assert_all_there_once(daemon, sending)


def all_confirmed(counts):
    """What the sender must say; how many it sent again is its own affair."""
    return {
        "sent": N_FRAMES,
        "resent": counts["resent"],
        "confirmed": N_FRAMES,
        "rejected": 0,
        "parked": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("catalog", ["kept", "lost"])
def test_a_go_sender_loses_nothing_when_the_whole_daemon_is_killed_and_started_again(
    binary, tmp_path, catalog
):
    with DaemonProcess(tmp_path, SETTINGS) as daemon:
        with Sending(binary, daemon, rate=100) as sending:
            wait_until(lambda: accepted(daemon) >= 20, what="the first frames")
            boot = boot_of(daemon)
            kill_all(daemon, sending)
            if catalog == "lost":
                for side in ("", "-wal", "-shm"):
                    Path(daemon.state_directory, f"catalog.sqlite3{side}").unlink(missing_ok=True)
            daemon.start()
            assert boot_of(daemon) != boot
            code, counts = sending.result()
        assert (code, counts) == (0, all_confirmed(counts))
        assert counts["resent"] > 0, "nothing was lost, so nothing was shown"
        daemon.wait_settled()
        assert_all_there_once(daemon, sending)
        with daemon.client() as client:
            wait_until(lambda: client.session("capture")["successful"] == N_FRAMES, what="the catalog")
            assert client.session("capture")["status"] == "SUCCESS"


def boot_of(daemon):
    with daemon.client() as client:
        return client.query("confirm", node="go-1", epoch=0)["boot"]


def kill_all(daemon, sending):
    """SIGKILL to the supervisor, with frames in the receiver's socket."""
    pids = daemon.role_pids()
    # A receiver that stands still leaves what is sent now in the buffers of its socket, where it dies.
    os.kill(pids["receiver"], signal.SIGSTOP)
    with contextlib.suppress(subprocess.TimeoutExpired):
        sending.popen.wait(0.5)
    assert sending.running()
    daemon.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids.values()), 5.0, "the roles to be gone")


def alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_responder_that_hangs_is_asked_again_on_a_new_connection(binary, daemon):
    """A REQ that waits for a lost answer could never be used again."""
    responder = daemon.role_pids()["responder"]
    os.kill(responder, signal.SIGSTOP)
    try:
        with Sending(binary, daemon, task="hung", n_frames=3) as sending:
            line = sending.popen.stderr.readline()
            os.kill(responder, signal.SIGCONT)
            code, counts = sending.result()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(responder, signal.SIGCONT)
    assert "timeout" in line
    assert (code, counts["sent"], counts["confirmed"]) == (0, 3, 3)


def test_an_epoch_that_somebody_else_uses_is_left_and_all_that_is_owed_arrives(binary, daemon):
    with Sending(binary, daemon, task="reused", node="go-2", n_frames=60, n_samples=1000, rate=30) as sending:
        mine = wait_until(lambda: epoch_of(daemon, "go-2"), what="the first frame")
        daemon.push(noise("intruder", node="go-2", epoch=mine, seq=0))
        code, counts = sending.result()
    assert (code, counts["sent"], counts["confirmed"]) == (0, 60, 60)
    assert epoch_of(daemon, "go-2") != mine
    with daemon.client() as client:
        wait_until(lambda: client.session("reused")["successful"] == 60, what="all of them")
    assert daemon.stats()["conflicts"] == 0


def epoch_of(daemon, node):
    with daemon.client() as client:
        return {row["node"]: row["epoch"] for row in client.nodes()["nodes"]}.get(node)


def test_a_rejected_frame_reaches_the_caller_with_its_reason(binary, daemon):
    with Sending(binary, daemon, task="../up", n_frames=2) as sending:
        err = sending.popen.stderr.readline() + sending.popen.stderr.readline()
        code, counts = sending.result()
    assert (code, counts) == (1, {"sent": 2, "resent": 0, "confirmed": 0, "rejected": 2, "parked": 0})
    for seq in range(2):
        assert f"frame {seq} of go-1 was rejected: task_id" in err


def test_a_frame_is_taken_at_exactly_the_longest_length_and_refused_by_the_sender_above_it(binary, daemon):
    # 8 bytes a sample; the sender says how long the rest is.
    with Sending(binary, daemon, task="too-long", n_frames=1, n_samples=MAX_FRAME_BYTES // 8) as sending:
        line = sending.popen.stderr.readline()
        code, counts = sending.result()
    assert (code, counts["sent"]) == (1, 0)
    overhead_bytes = int(line.split("a frame of ")[1].split()[0]) - MAX_FRAME_BYTES - len("too-long")
    # The length of a name makes up for what is no whole sample.
    n_samples, rest = divmod(MAX_FRAME_BYTES - overhead_bytes, 8)
    task, n_samples = ("x" * rest, n_samples) if rest else ("x" * 8, n_samples - 1)
    before = daemon.wait_settled()["received_bytes"]
    with Sending(binary, daemon, task=task, n_frames=1, n_samples=n_samples) as sending:
        code, counts = sending.result()
    assert (code, counts["confirmed"]) == (0, 1)
    assert daemon.wait_settled()["received_bytes"] - before == MAX_FRAME_BYTES


def test_no_daemon_is_an_end_and_not_a_wait(binary, tmp_path):
    nobody = DaemonProcess(tmp_path, ingest_port=free_port(), query_port=free_port())
    began_s = time.monotonic()
    with Sending(binary, nobody, timeout=1) as sending:
        code, counts = sending.result()
    assert time.monotonic() - began_s < 10
    assert (code, counts["sent"]) == (69, 0)
