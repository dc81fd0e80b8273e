"""An entry that kills its uploader: it goes to failed/, everything else flows, and random kills accuse nobody."""

import json
from pathlib import Path

import pytest

from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.spool import EntryName
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.frames import noise
from ingestd.testing.waiting import wait_until

SETTINGS = {"spool": {"min_free_bytes": 0}, "uploader": {"count": 1}}

#: Ends the uploader that encodes this entry the way a bug in a C library would: `call` is a name in `module`. In the thread
#: itself: a signal to the process may strike another one, while this one goes on and stores the entry.
POISON = """
import signal, threading
from ingestd.{package} import {module}

encode = {module}.{call}

def crash(measurement, *args, **kwargs):
    if measurement.task_id == "poison":
        signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
    return encode(measurement, *args, **kwargs)

{module}.{call} = crash
"""


@pytest.mark.parametrize(
    ("package", "module", "call"),
    [("roles", "storing", "prepare_pair"), ("formats", "quality", "measure")],
    ids=["before the samples are sent", "while the store takes them"],
)
def test_an_entry_that_kills_three_uploaders_while_alone_fails_and_the_rest_flows(
    tmp_path, package, module, call
):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(POISON.format(package=package, module=module, call=call))
    daemon = DaemonProcess(tmp_path / "daemon", SETTINGS, {"PYTHONPATH": str(site)})
    with daemon:
        daemon.push(noise("before"), noise("poison"), *(noise(f"after-{i}") for i in range(10)))
        failed = Path(daemon.state_directory, "spool", "failed")
        wait_until(lambda: list(failed.glob("*.v1")), 60.0, "the poison to fail")
        wait_until(lambda: daemon.stats()["total"]["stored"] == 11, 60.0, "the rest to be stored")
        wait_until(lambda: daemon.stats()["total"]["failed"] == 1, what="the catalog to know")
        with daemon.client() as client:
            rows = client.failed()["failed"]
    assert [row["task_id"] for row in rows] == ["poison"]
    assert rows[0]["reason"] == "poison"
    (entry,) = failed.glob("*.v1")
    assert json.loads(Path(f"{entry}.json").read_text())["reason"] == "poison"
    assert wire.parse(entry.read_bytes()).task_id == "poison", "kept as it was received"


def test_a_flipped_byte_sends_that_entry_alone_to_failed(tmp_path):
    daemon = DaemonProcess(tmp_path, SETTINGS)
    with daemon:
        daemon.push(noise("good-1"))
        daemon.wait_settled()
    frame = bytearray(wire.encode(noise("rotten")))
    name = EntryName(1_790_000_000_000_000_000, 1, 0x12345678)
    Path(daemon.state_directory, "spool", "new", str(name)).write_bytes(frame)
    with daemon:
        daemon.push(noise("good-2"))
        wait_until(lambda: daemon.stats()["total"]["stored"] == 2, what="the good ones")
        wait_until(lambda: daemon.stats()["total"]["failed"] == 1, what="the rotten one")
        wait_until(
            lambda: "failed_entries" in {reason["code"] for reason in daemon.health()["reasons"]},
            what="health to say so",
        )


#: As POISON, but already reading the frame is fatal; only uploaders die of it.
POISON_AT_READING = """
import signal, threading
from ingestd.formats import frame

if "uploader-0" in open("/proc/self/cmdline").read():
    parse = frame.parse

    def crash(wire):
        measurement = parse(wire)
        if measurement.task_id == "poison":
            signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
        return measurement

    frame.parse = crash
"""


def test_an_entry_that_kills_whoever_reads_it_costs_the_audit_of_a_start_one_restart_at_most(tmp_path):
    """It lies in the spool without a row, as after a crash between acceptance and catalog: the audit reads it too."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(POISON_AT_READING)
    daemon = DaemonProcess(tmp_path / "daemon", SETTINGS, {"PYTHONPATH": str(site)})
    with daemon:
        daemon.push(noise("before"))
        daemon.wait_settled()
    frame = wire.encode(noise("poison"))
    name = EntryName(1_790_000_000_000_000_000, 1, crc32c(frame))
    spool = Path(daemon.state_directory, "spool")
    (spool / "new" / str(name)).write_bytes(frame)
    with daemon:
        daemon.push(*(noise(f"after-{i}") for i in range(5)))
        wait_until(lambda: list((spool / "failed").glob("*.v1")), 60.0, "the poison to fail")
        wait_until(lambda: daemon.stats()["total"]["stored"] == 6, 60.0, "the rest to be stored")
        wait_until(lambda: daemon.stats()["total"]["failed"] == 1, 30.0, "the catalog to know")
        daemon.wait_settled()
        restarts = next(r["restarts"] for r in daemon.health()["roles"] if r["name"] == "uploader-0")
        # One death in company, three alone; one more if the audit met it first.
        assert 4 <= restarts <= 5
        with daemon.client() as client:
            assert [row["reason"] for row in client.failed()["failed"]] == ["poison"]
    # Nor does it kill anybody at the next start, where it lies in failed/.
    with daemon:
        daemon.push(noise("next"))
        daemon.wait_settled()
        assert all(role["restarts"] == 0 for role in daemon.health()["roles"])
