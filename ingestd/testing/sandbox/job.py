"""What an operator does with the daemon, run as root in the machine that `boot` made; one JSON line for each step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ingestd.client import Client
from ingestd.errors import IngestdError
from ingestd.node import Node
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until

__all__ = ["main"]

_CONFIG = Path("/etc/ingestd/config.yaml")
_OBJECTS = Path("/var/lib/ingestd/objects/heimdall-raw-iq/sessions")
_INGEST, _QUERY = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"

#: Frames of one load [count].
_N_FRAMES = 20


def _command(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of the system."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own words


def _systemctl(*arguments: str) -> str:
    done = _command("systemctl", *arguments)
    if done.returncode:
        raise IngestdError(f"systemctl {' '.join(arguments)}: {done.returncode} {done.stderr.strip()}")
    return done.stdout.strip()


def _property(name: str) -> str:
    return _systemctl("show", "--value", "--property", name, "ingestd")


def _main_pid() -> int:
    return int(_property("MainPID"))


def _pids() -> dict[str, int]:
    with Client(_QUERY, timeout_s=5.0) as client:
        return {role["name"]: role["pid"] for role in client.health()["roles"]}


def _process(pid: int, field: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split(":", 1)[1].strip()
    raise IngestdError(f"/proc/{pid}/status has no {field}")


def _require(is_so: bool, what: str) -> None:
    if not is_so:
        raise IngestdError(what)


def _load(task_id: str) -> str:
    """Send frames with confirmation, and see each stored."""
    with Node(_INGEST, query_endpoint=_QUERY, websdr_id=1, name="machine") as node:
        for i in range(_N_FRAMES):
            node.send_measurement(noise(task_id, websdr_id=i, seed=i))
        node.wait(30.0)
    wait_until(lambda: len(list(_OBJECTS.glob(f"{task_id}/*.npy"))) == _N_FRAMES, 30.0, "all stored")
    return f"{_N_FRAMES} frames confirmed and stored"


def start() -> str:
    """`systemctl start` returns when the daemon is ready."""
    shutil.chown(_CONFIG.parent, group="ingestd")
    _systemctl("start", "ingestd")
    wait_until(lambda: "accepting on" in _property("StatusText"), 10.0, "a line of the daemon")
    return _property("StatusText")


def main_job() -> str:
    """Frames go through the daemon in its sandbox, to files of its own user."""
    said = _load("first")
    owner = next(_OBJECTS.rglob("*.npy")).owner()
    _require(owner == "ingestd", f"objects belong to {owner}")
    return said


def monitoring() -> str:
    """The HTTP port answers."""
    for path in ("healthz", "readyz", "metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:9108/{path}", timeout=5) as reply:
            _require(reply.status == 200, f"/{path}: {reply.status}")
    return "healthz, readyz and metrics answer 200"


def confinement() -> str:
    """Every process of the daemon is filtered, without privileges, and sees a disk that it cannot write to."""
    pids = {"supervisor": _main_pid(), **_pids()}
    for name, pid in pids.items():
        for field, wanted in (
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("CapEff", "0" * 16),
            ("CapBnd", "0" * 16),
        ):
            _require(_process(pid, field) == wanted, f"{name}: {field} {_process(pid, field)}")
        _require(_process(pid, "Uid").split()[0] != "0", f"{name} runs as root")
    inside = ["nsenter", "--target", str(pids["receiver"]), "--mount"]
    for path in ("/etc/ingestd/x", "/opt/ingestd/x", "/usr/x", "/home/x"):
        tried = _command(*inside, "touch", path)
        _require(tried.returncode != 0, f"{path} can be written")
    return f"{len(pids)} processes: seccomp, no new privileges, no capabilities, read-only file system"


def credentials() -> str:
    """The secret of root alone reaches the daemon as a credential, and nobody else."""
    place = Path("/run/credentials/ingestd.service/minio__secret_key")
    _require(place.read_text() == "of-root-alone\n", "the credential is not there")
    with Client(_QUERY, timeout_s=5.0) as client:
        shown = client.config()["settings"]["minio"]["secret_key"]
    _require(shown not in (None, "of-root-alone"), f"config shows {shown!r}")
    return "minio__secret_key taken from /etc/credstore, and masked"


def doctor() -> str:
    """`ingestd doctor` of root looks as the daemon's user, and finds nothing that keeps it from working."""
    done = _command("/opt/ingestd/bin/ingestd", "doctor")
    _require(done.returncode == 0, done.stdout + done.stderr)
    _require("who owns /var/lib/ingestd" in done.stdout, done.stdout)
    _require("put, get and delete" in done.stdout, done.stdout)
    return done.stderr.strip().removeprefix("ingestd: ")


def reload() -> str:
    """`systemctl reload` renews the roles with other settings and loses nothing."""
    before, pid = _pids(), _main_pid()
    _CONFIG.write_text(_CONFIG.read_text() + "log: {level: debug}\n")
    _systemctl("reload", "ingestd")
    wait_until(lambda: not set(before.values()) & set(_pids().values()), 30.0, "new roles")
    _require(_main_pid() == pid, "the supervisor was restarted")
    _load("reloaded")
    return "all roles renewed, supervisor kept"


def kill_role() -> str:
    """A killed role comes back alone."""
    before = _pids()
    os.kill(before["receiver"], signal.SIGKILL)
    wait_until(lambda: _pids()["receiver"] != before["receiver"], 10.0, "another receiver")
    _require(_property("NRestarts") == "0", "systemd restarted the daemon")
    _load("killed")
    return "receiver back, the others kept"


def watchdog() -> str:
    """A hanging role costs a restart by systemd's watchdog, and what was accepted is stored."""
    drop_in = Path("/etc/systemd/system/ingestd.service.d/watchdog.conf")
    drop_in.write_text("[Service]\nWatchdogSec=3\n")
    _systemctl("daemon-reload")
    _systemctl("restart", "ingestd")
    os.kill(_pids()["uploader-0"], signal.SIGSTOP)
    wait_until(lambda: _property("NRestarts") == "1", 30.0, "the watchdog to bite")
    wait_until(lambda: _property("ActiveState") == "active", 30.0, "the daemon to be back")
    log = Path("/out/daemon.log").read_text(errors="replace")
    _require("Aborted" in log, "no stacks of the supervisor")
    drop_in.unlink()
    _systemctl("daemon-reload")
    _load("watched")
    return "restarted once, stacks in the log"


def wrong_settings() -> str:
    """A configuration error is not tried again and again."""
    right = _CONFIG.read_text()
    _CONFIG.write_text("log: {levl: debug}\n")
    tried = _command("systemctl", "restart", "ingestd")
    _require(tried.returncode != 0, "it started with wrong settings")
    wait_until(lambda: _property("ActiveState") == "failed", 10.0, "the unit to fail")
    _require(_property("ExecMainStatus") == "78", f"exit code {_property('ExecMainStatus')}")
    _CONFIG.write_text(right)
    _systemctl("reset-failed", "ingestd")
    _systemctl("start", "ingestd")
    return "exit 78, failed, not restarted"


def stop() -> str:
    """`systemctl stop` ends it cleanly and in time."""
    began_s = time.monotonic()
    _systemctl("stop", "ingestd")
    took_s = time.monotonic() - began_s
    _require(_property("Result") == "success", f"result {_property('Result')}")
    _require(took_s < 10, f"took {took_s:.1f} s")
    left = list(Path("/var/lib/ingestd/spool").glob("new/*.v1"))
    _require(not left, f"{len(left)} entries left")
    return f"clean in {took_s:.1f} s"


#: In order; a step that fails does not keep the next one from being tried.
_STEPS: tuple[Callable[[], str], ...] = (
    start, main_job, monitoring, confinement, credentials, doctor, reload, kill_role, watchdog, wrong_settings, stop,
)  # fmt: skip


def main(out: str) -> int:
    """Take all steps; 1 where one failed. What does not start is not looked at."""
    failed = 0
    with open(os.path.join(out, "steps.jsonl"), "a", encoding="utf-8", buffering=1) as report:
        for step in _STEPS:
            began_s = time.monotonic()
            try:
                detail, is_ok = step(), True
            except (IngestdError, TimeoutError, OSError, subprocess.SubprocessError) as error:
                detail, is_ok = f"{type(error).__name__}: {error}", False
                failed += 1
            took_s = round(time.monotonic() - began_s, 3)
            line = {"step": step.__name__, "ok": is_ok, "detail": detail, "took_s": took_s}
            report.write(json.dumps(line) + "\n")
            if failed and step is start:
                break
        report.write(json.dumps({"step": "end", "ok": not failed, "detail": "", "took_s": 0.0}) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
