"""What systemd hears from a real daemon: sd_notify datagrams on a real socket, with real signals and a real hang."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
import yaml

from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until

#: Period of the watchdog [s]; a role may be silent for half of it. The roles say something every half second.
PERIOD_S = 4.0


class Systemd:
    """The socket that systemd would listen on, and all that was said to it with the time of each word."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self.said = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while datagram := self._socket.recv(65536):
                self.said += [(time.monotonic(), text) for text in datagram.decode().split("\n")]

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.path)
        self._thread.join(5)
        self._socket.close()

    @property
    def environ(self):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(PERIOD_S * 1e6))}

    def words(self, start=""):
        """All that was said and begins so, in order."""
        return [text for _, text in self.said if text.startswith(start)]

    def index(self, word):
        return next(i for i, (_, text) in enumerate(self.said) if text.startswith(word))

    def wait_for(self, start, timeout_s=20.0):
        wait_until(lambda: self.words(start), timeout_s, f"systemd to hear {start}")

    def unfed_s(self):
        """Time since the watchdog was last fed [s]."""
        return time.monotonic() - max(at_s for at_s, text in self.said if text == "WATCHDOG=1")

    @property
    def status(self):
        return self.words("STATUS=")[-1].removeprefix("STATUS=")


@pytest.fixture
def systemd(tmp_path):
    # Short, whatever pytest calls its directories: such a path has 107 characters at the most.
    path = f"/tmp/ingestd-notify-{os.getpid()}-{tmp_path.name[-20:]}"
    listening = Systemd(path)
    yield listening
    listening.close()
    os.unlink(path)


@pytest.fixture
def deaf_store():
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"url": f"http://127.0.0.1:{server.getsockname()[1]}", "access_key": "a", "secret_key": "b"}


def wait_for_more_than_patience():
    """Let so much time pass that a role without progress would count as hanging."""
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() - began_s > PERIOD_S * 0.75, what="the end of patience")


def daemon_of(systemd, tmp_path, settings=None, **environ):
    settings = {"uploader": {"count": 1}, "spool": {"min_free_bytes": 0}, **(settings or {})}
    return DaemonProcess(tmp_path, settings, {**systemd.environ, **environ})


def test_ready_waits_for_the_sockets_not_for_the_store_and_a_deaf_store_starves_no_watchdog(
    systemd, tmp_path, deaf_store
):
    with daemon_of(systemd, tmp_path, {"minio": deaf_store}) as daemon:
        systemd.wait_for("READY=1")
        assert systemd.index("EXTEND_TIMEOUT_USEC=") < systemd.index("READY=1")
        daemon.push(noise("waits"))
        wait_until(lambda: daemon.stats()["accepted"] == 1, what="acceptance")
        wait_for_more_than_patience()
        assert systemd.unfed_s() < PERIOD_S / 2
        wait_until(lambda: "1 entries wait" in systemd.status, what="a line that tells of the entry")
        assert f"accepting on {daemon.ingest_endpoint}" in systemd.status
        # Its stop would give the store its time.
        daemon.kill()


def test_sighup_reloads_the_settings_and_says_when_it_began_and_ended(systemd, tmp_path):
    with daemon_of(systemd, tmp_path) as daemon:
        systemd.wait_for("READY=1")
        daemon.push(noise("before"))
        daemon.wait_stored(1)
        before = daemon.role_pids()
        with open(daemon.config_path, encoding="utf-8") as file:
            settings = yaml.safe_load(file)
        settings["storage"] = {"directory": str(tmp_path / "moved")}
        with open(daemon.config_path, "w", encoding="utf-8") as file:
            yaml.safe_dump(settings, file)
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: len(systemd.words("READY=1")) == 2, what="the second READY")
        words = systemd.words()
        at = words.index("RELOADING=1")
        assert words[at + 1].startswith("MONOTONIC_USEC=")
        assert "READY=1" in words[at:]
        daemon.wait_ready()
        after = daemon.role_pids()
        assert all(before[name] != after[name] for name in before)
        with daemon.client() as client:
            assert all(role["restarts"] == 0 for role in client.health()["roles"])
        daemon.push(noise("after"))
        wait_until(lambda: list((tmp_path / "moved").rglob("after/*.npy")), what="the new directory in use")


def test_wrong_settings_at_sighup_change_nothing_and_the_daemon_goes_on_until_its_stop(systemd, tmp_path):
    with daemon_of(systemd, tmp_path) as daemon:
        systemd.wait_for("READY=1")
        before = daemon.role_pids()
        with open(daemon.config_path, "a", encoding="utf-8") as file:
            file.write("log: {levl: debug}\n")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: len(systemd.words("READY=1")) == 2, what="the second READY")
        assert daemon.role_pids() == before
        assert "reload_refused" in daemon.log_tail()
        assert "did you mean log.level?" in daemon.log_tail()
    assert systemd.words("STOPPING=1")


def test_a_role_that_stands_still_starves_the_watchdog_whichever_it_is(systemd, tmp_path):
    with daemon_of(systemd, tmp_path) as daemon:
        systemd.wait_for("WATCHDOG=1")
        pids = daemon.role_pids()
        assert set(pids) == {"receiver", "uploader-0", "responder"}
        for name, pid in pids.items():
            os.kill(pid, signal.SIGSTOP)
            try:
                systemd.wait_for(f"STATUS={name} hangs")
                if name == "receiver":
                    wait_until(lambda: systemd.unfed_s() > PERIOD_S, what="a watchdog that bites")
                n_stacks = stacks_in(daemon)
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: systemd.unfed_s() < 1.0, what="food for the watchdog again")
            # Asked when it stood still, told when it went on.
            wait_until(lambda n=n_stacks: stacks_in(daemon) > n, what=f"the stacks of {name}")
        assert all(role["restarts"] == 0 for role in daemon.health()["roles"])


def stacks_in(daemon):
    """Number of stacks that faulthandler has written to the log."""
    return daemon.log_tail(10**6).count("(most recent call first)")


def test_a_receiver_that_waits_for_an_fsync_is_fed_for(systemd, tmp_path):
    with daemon_of(systemd, tmp_path, INGESTD_FAULT="accept.synced:hang@1") as daemon:
        systemd.wait_for("READY=1")
        daemon.push(noise("stuck"))
        wait_until(
            lambda: any(role["state"] == "stalled" for role in daemon.health()["roles"]),
            what="a receiver that waits for the disk",
        )
        wait_for_more_than_patience()
        assert systemd.unfed_s() < PERIOD_S / 2
        assert not [word for word in systemd.words("STATUS=") if "hangs" in word]
        assert "fsync_slow" in systemd.status
        daemon.kill()


def test_every_process_leaves_its_stacks_when_it_crashes(systemd, tmp_path):
    with daemon_of(systemd, tmp_path) as daemon:
        for n_before, (name, pid) in enumerate(daemon.role_pids().items()):
            os.kill(pid, signal.SIGSEGV)
            # Stacks are written in pieces, so the next process is to crash when these are complete.
            wait_until(lambda n=n_before: deaths_in(daemon) > n, what=f"the death of {name}")
            assert daemon.log_tail(10**6).count("Segmentation fault") == n_before + 1
        daemon.wait_ready()
        # The watchdog of systemd ends the supervisor in this way.
        os.kill(daemon.pid, signal.SIGABRT)
        wait_until(lambda: daemon.popen.poll() is not None, what="its end")
        assert "Aborted" in daemon.log_tail(10**6)


def deaths_in(daemon):
    return daemon.log_tail(10**6).count('"role_died"')
