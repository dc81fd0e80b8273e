"""The verdict: what makes a daemon degraded or unhealthy, since when, and that it says what to do."""

import dataclasses
import json

import pytest

from ingestd.formats import health
from ingestd.formats.snapshot import (
    Counts,
    Latency,
    NodeState,
    RoleState,
    Snapshot,
    SpoolState,
    StoreState,
    Trouble,
)
from ingestd.formats.verdict import HealthSettings, ReasonCode, Severity

S = 10**9
#: 2026-08-01T12:00:00Z [ns since 1970].
NOON_NS = 1_785_585_600 * S
SETTINGS = HealthSettings(
    "http://127.0.0.1:9000", "heimdall-raw-iq", "minio", (("kiwi-graz", 10.0),), "1.2.3"
)
RECEIVER = RoleState("receiver", 10, "running", 500.0, 0, "idle", 0.1)
UPLOADER = RoleState("uploader-0", 11, "running", 500.0, 0, "idle", 0.1)
NODE = NodeState("kiwi-graz", received=5, last_frame_utc_ns=NOON_NS - S)
FAILING = StoreState(
    ok=False,
    trouble=Trouble.UNREACHABLE,
    failing_since_utc_ns=NOON_NS - 60 * S,
    failures=7,
    next_retry_utc_ns=NOON_NS + 3 * S,
    last_error="connection refused",
    profile={"kind": "minio", "checksum": "crc32c", "conflict_check": "if-none-match"},
)


def counts_at(age_s=0.0, **values):
    return Counts(NOON_NS - int(age_s * S), 10_000 * S - int(age_s * S), **values)


def snapshot(**changes):
    fields = {
        "counts": counts_at(),
        "uptime_s": 500.0,
        "roles": (RECEIVER, UPLOADER),
        "stores": (StoreState(ok=True),),
        "nodes": (NODE, NodeState("other")),
        "spool": SpoolState(accepting=True, free_bytes=10**12, credit_bytes=10**12),
        "rejected": {},
        "upload": Latency((0,) * 41, 0.0),
        "accepted_to_stored": Latency((0,) * 41, 0.0),
        "last_frame_utc_ns": NOON_NS - S,
    }
    return Snapshot(**(fields | changes))


def steady(**values):
    """Ten minutes of history in which nothing changed."""
    return [counts_at(age_s, **values) for age_s in range(600, 0, -1)]


def verdict(now, history=()):
    return health.judge(history, now, SETTINGS)


def test_a_daemon_with_nothing_wrong_is_healthy():
    found = verdict(snapshot(), steady())
    assert (found.status, found.accepting, found.alive, found.reasons) == (Severity.HEALTHY, True, True, ())


def role(known, **changes):
    return dataclasses.replace(known, **changes)


def refusing(why):
    spool = SpoolState(refusing=why, refusing_since_utc_ns=NOON_NS - 30 * S, free_bytes=1)
    return snapshot(spool=spool)


D, U = Severity.DEGRADED, Severity.UNHEALTHY
#: name, the present, history, code, severity, seconds since.
RULES = [
    ("store down", snapshot(stores=(FAILING,)), (), "store_unreachable", D, 60),
    ("store busy", snapshot(stores=(role(FAILING, trouble=Trouble.BUSY),)), (), "store_unreachable", D, 60),
    ("store denies", snapshot(stores=(role(FAILING, trouble=Trouble.DENIED),)), (), "store_auth", D, 60),
    ("no bucket", snapshot(stores=(role(FAILING, trouble=Trouble.MISCONFIGURED),)), (), "store_rejects", D, 60),
    ("no ETag", snapshot(stores=(role(FAILING, trouble=Trouble.CORRUPT),)), (), "store_rejects", D, 60),
    ("one of two uploaders fails", snapshot(stores=(StoreState(ok=True), FAILING)), (), "store_unreachable", D, 60),
    ("one object refused", snapshot(stores=(StoreState(ok=True, refused_utc_ns=NOON_NS - S),)), (), "store_rejects", D, 1),
    ("spool full", refusing("spool_full: 1 GiB"), (), "spool_full", U, 30),
    ("disk low", refusing("disk_low: 1 byte free"), (), "disk_low", U, 30),
    ("disk broken", refusing("disk_error: EIO"), (), "fsync_slow", U, 30),
    ("fsync hangs 2 s", snapshot(roles=(role(RECEIVER, phase="fsync", phase_age_s=2.0),)), (), "fsync_slow", D, 2),
    ("write hangs 2 s", snapshot(roles=(role(RECEIVER, phase="writing", phase_age_s=2.0),)), (), "fsync_slow", D, 2),
    ("fsync hangs 20 s", snapshot(roles=(role(RECEIVER, phase="fsync", phase_age_s=20.0),)), (), "fsync_slow", U, 20),
    ("slow commits", snapshot(counts=counts_at(fsync_slow=2)), steady(), "fsync_slow", D, 0),
    ("receiver down", snapshot(roles=(role(RECEIVER, state="backing_off", state_age_s=6.0),)), (), "role_crash_loop", U, 6),
    ("uploader down", snapshot(roles=(RECEIVER, role(UPLOADER, state="backing_off", state_age_s=6.0))), (), "role_crash_loop", D, 6),
    ("uploader loops", snapshot(counts=counts_at(restarts=(0, 4))), steady(restarts=(0, 0)), "role_crash_loop", D, 0),
    ("node silent", snapshot(nodes=(role(NODE, last_frame_utc_ns=NOON_NS - 25 * S),)), (), "node_silent", D, 15),
    ("node never seen", snapshot(nodes=(role(NODE, last_frame_utc_ns=0),)), (), "node_silent", D, 490),
    ("gaps", snapshot(counts=counts_at(seq_gaps=1)), steady(), "seq_gaps", D, 0),
    ("stamp ahead", snapshot(counts=counts_at(timestamp_implausible=1), timestamp_implausible_utc_ns=NOON_NS - 2 * S), steady(), "timestamp_implausible", D, 0),
    ("rejections", snapshot(counts=counts_at(received=1000, rejected=20)), steady(), "rejected_rate", D, 0),
    ("failed entries", snapshot(spool=SpoolState(accepting=True, failed=1)), (), "failed_entries", D, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("now", "history", "code", "severity", "since_s"), [rule[1:] for rule in RULES], ids=[r[0] for r in RULES]
)
def test_each_trouble_has_its_code_severity_and_beginning(now, history, code, severity, since_s):
    found = verdict(now, history)
    assert [(str(reason.code), reason.severity) for reason in found.reasons] == [(code, severity)]
    assert found.status is severity
    assert found.accepting is (severity is Severity.DEGRADED)
    (reason,) = found.reasons
    assert reason.since_utc_ns == NOON_NS - since_s * S
    assert reason.text
    assert reason.action


def test_every_code_of_the_closed_list_occurs():
    assert {rule[3] for rule in RULES} == {str(code) for code in ReasonCode}


NO_TROUBLE = [
    ("store not reached yet", snapshot(stores=(StoreState(),)), ()),
    ("restart of the receiver for 1 s", snapshot(roles=(role(RECEIVER, state="starting", state_age_s=1.0),)), ()),
    ("two restarts", snapshot(counts=counts_at(restarts=(0, 2))), steady(restarts=(0, 0))),
    ("fsync of 0.5 s", snapshot(roles=(role(RECEIVER, phase="fsync", phase_age_s=0.5),)), ()),
    ("idle for an hour", snapshot(roles=(role(RECEIVER, phase="idle", phase_age_s=3600.0),)), ()),
    ("node silent just after the start", snapshot(uptime_s=30.0, nodes=(role(NODE, last_frame_utc_ns=0),)), ()),
    ("few strays", snapshot(counts=counts_at(received=1000, rejected=9)), steady()),
    ("gaps long ago", snapshot(counts=counts_at(seq_gaps=3)), steady(seq_gaps=3)),
    ("refused object long ago", snapshot(stores=(StoreState(ok=True, refused_utc_ns=NOON_NS - 3600 * S),)), ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("now", "history"), [row[1:] for row in NO_TROUBLE], ids=[row[0] for row in NO_TROUBLE]
)
def test_what_is_normal_is_no_reason(now, history):
    found = verdict(now, history)
    assert found.reasons == ()
    assert found.alive


def test_store_down_is_alive_and_accepting_and_says_how_long_the_spool_lasts():
    history = [counts_at(age_s, spool_bytes=(600 - age_s) * 10**6) for age_s in range(600, 0, -1)]
    now = snapshot(
        counts=counts_at(spool_bytes=600 * 10**6),
        stores=(FAILING,),
        spool=SpoolState(accepting=True, credit_bytes=36 * 10**9),
    )
    found = verdict(now, history)
    assert (found.status, found.accepting, found.alive) == (Severity.DEGRADED, True, True)
    document = health.document(history, now, SETTINGS)
    assert document["spool"]["time_left_s"] == pytest.approx(36_000, rel=0.02)
    assert "10.0 h" in found.reasons[0].text


def test_a_spool_that_is_soon_full_is_named_before_it_is():
    history = [counts_at(age_s, spool_bytes=(600 - age_s) * 10**6) for age_s in range(600, 0, -1)]
    now = snapshot(
        counts=counts_at(spool_bytes=600 * 10**6), spool=SpoolState(accepting=True, credit_bytes=60 * 10**6)
    )
    found = verdict(now, history)
    assert [(str(r.code), r.severity) for r in found.reasons] == [("spool_full", Severity.DEGRADED)]
    assert found.accepting


def test_not_accepting_is_never_without_a_reason():
    found = verdict(snapshot(spool=SpoolState(accepting=False)))
    assert found.status is Severity.UNHEALTHY
    assert not found.accepting
    assert [str(reason.code) for reason in found.reasons] == ["role_crash_loop"]


def test_a_stalled_receiver_is_called_stalled():
    now = snapshot(roles=(role(RECEIVER, phase="fsync", phase_age_s=60.0), UPLOADER))
    document = health.document((), now, SETTINGS)
    assert document["roles"][0] == {"name": "receiver", "pid": 10, "state": "stalled", "restarts": 0}
    assert "stalled" in document["reasons"][0]["text"]
    assert document["spool"]["accepting"] is False


def test_a_young_daemon_counts_from_its_start_even_without_history():
    now = snapshot(counts=counts_at(seq_gaps=1), uptime_s=20.0)
    assert [str(reason.code) for reason in verdict(now).reasons] == ["seq_gaps"]


def test_a_restarted_responder_does_not_take_old_counts_for_new_ones():
    now = snapshot(counts=counts_at(seq_gaps=1000, rejected=500, received=1000), uptime_s=9000.0)
    assert verdict(now).reasons == ()


def test_the_document_has_the_keys_of_the_guide_and_ours():
    document = health.document(steady(), snapshot(stores=(FAILING,)), SETTINGS)
    json.dumps(document, allow_nan=False)
    assert list(document) == [
        "status", "endpoint", "bucket", "accessible", "error", "reasons", "spool", "ingest", "store", "roles",
        "version", "uptime_s",
    ]  # fmt: skip
    assert document["status"] == "degraded"
    assert document["accessible"] is False
    assert document["error"] == "connection refused"
    assert list(document["reasons"][0]) == ["code", "since_utc", "severity", "text", "action"]
    assert list(document["spool"]) == [
        "entries", "bytes", "oldest_age_s", "free_bytes", "time_left_s", "accepting",
    ]  # fmt: skip
    assert list(document["ingest"]) == ["last_frame_age_s", "frames_per_s"]
    assert document["store"] == {
        "kind": "minio",
        "checksum": "crc32c",
        "conflict_check": "if-none-match",
        "single_daemon_only": False,
        "failing_since_utc": "2026-08-01T11:59:00.000000000Z",
        "consecutive_failures": 7,
        "last_error": "connection refused",
        "next_retry_s": 3.0,
    }


def test_rates_are_over_the_last_ten_seconds():
    history = [counts_at(age_s, received=(600 - age_s) * 5) for age_s in range(600, 0, -1)]
    now = snapshot(counts=counts_at(received=3000))
    assert health.document(history, now, SETTINGS)["ingest"]["frames_per_s"] == 5.0


def test_a_clock_that_was_set_back_makes_no_negative_age():
    now = snapshot(last_frame_utc_ns=NOON_NS + 3600 * S)
    assert health.document((), now, SETTINGS)["ingest"]["last_frame_age_s"] == 0.0
