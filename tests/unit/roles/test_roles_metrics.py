"""/metrics: names, labels and values that a Prometheus reads, never a word of a client."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingestd.config import load
from ingestd.formats.frame import REASONS
from ingestd.formats.peers import PeerReason
from ingestd.roles.metrics import exposition
from ingestd.roles.monitor import Monitor
from ingestd.roles.status import Histogram, NodeSlot, Slot, StatusBlock, StatusLayout

ROLES = ("receiver", "uploader-0", "uploader-1", "responder")


@pytest.fixture
def status():
    return StatusBlock.create(StatusLayout(ROLES, ("kiwi-graz",)))


@pytest.fixture
def monitor(status, tmp_path):
    settings = load(overrides={"state_directory": str(tmp_path)}, environ={})
    return Monitor(status, settings, time.monotonic_ns() - 60 * 10**9)


def samples(monitor):
    """Every sample by name and labels."""
    text = exposition(monitor).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


#: The names that users build dashboards on, with one value of each label.
NAMES = [
    ("ingestd_frames_received_total", ("node", "kiwi-graz")),
    ("ingestd_frames_received_total", ("node", "other")),
    ("ingestd_frames_rejected_total", ("reason", "payload")),
    ("ingestd_peers_refused_total", ("reason", "unknown_key"), ("socket", "ingest")),
    ("ingestd_peers_refused_total", ("reason", "protocol"), ("socket", "query")),
    ("ingestd_frames_accepted_total",),
    ("ingestd_frames_stored_total",),
    ("ingestd_uploads_total", ("result", "stored")),
    ("ingestd_uploads_total", ("result", "error")),
    ("ingestd_upload_duration_seconds_bucket", ("le", "+Inf")),
    ("ingestd_upload_duration_seconds_count",),
    ("ingestd_upload_duration_seconds_sum",),
    ("ingestd_spool_bytes",),
    ("ingestd_spool_oldest_seconds",),
    ("ingestd_last_frame_timestamp_seconds", ("node", "kiwi-graz")),
    ("ingestd_role_restarts_total", ("role", "receiver")),
    ("ingestd_received_bytes_total",),
    ("ingestd_stored_bytes_total",),
    ("ingestd_frames_duplicate_total",),
    ("ingestd_frames_conflict_total",),
    ("ingestd_frames_failed_total",),
    ("ingestd_node_frames_accepted_total", ("node", "kiwi-graz")),
    ("ingestd_node_frames_rejected_total", ("node", "other")),
    ("ingestd_sequence_gaps", ("node", "kiwi-graz")),
    ("ingestd_node_samples_lost_total", ("node", "kiwi-graz")),
    ("ingestd_commit_duration_seconds_count",),
    ("ingestd_role_progress_age_seconds", ("role", "receiver")),
]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_the_metric_is_there_from_the_start_and_zero(monitor, name):
    assert samples(monitor)[name] == 0.0


def test_counters_are_those_of_the_status_block(monitor, status):
    receiver = status.roles["receiver"]
    receiver.add(Slot.ACCEPTED, 7)
    receiver.reject("payload")
    status.add_node("kiwi-graz", NodeSlot.RECEIVED, 5)
    status.add_node("somebody", NodeSlot.RECEIVED, 2)
    for name in ("uploader-0", "uploader-1"):
        status.roles[name].add(Slot.STORED, 2)
        status.roles[name].add(Slot.UPLOAD_ERRORS)
    status.watch["receiver"].set(Slot.WATCH_RESTARTS, 3)
    found = samples(monitor)
    assert found[("ingestd_frames_accepted_total",)] == 7
    assert found[("ingestd_frames_rejected_total", ("reason", "payload"))] == 1
    assert found[("ingestd_frames_received_total", ("node", "kiwi-graz"))] == 5
    assert found[("ingestd_frames_received_total", ("node", "other"))] == 2
    assert found[("ingestd_frames_stored_total",)] == 4
    assert found[("ingestd_uploads_total", ("result", "error"))] == 2
    assert found[("ingestd_role_restarts_total", ("role", "receiver"))] == 3


def test_histograms_are_cumulative_and_sum_over_uploaders(monitor, status):
    for name, value_s in (("uploader-0", 0.0009), ("uploader-1", 0.9), ("uploader-1", 1e6)):
        status.roles[name].observe(Histogram.UPLOAD_S, value_s)
    found = samples(monitor)
    bucket = "ingestd_upload_duration_seconds_bucket"
    assert found[(bucket, ("le", "0.001"))] == 1
    assert found[(bucket, ("le", "1.024"))] == 2
    assert found[(bucket, ("le", "+Inf"))] == 3
    assert found[("ingestd_upload_duration_seconds_count",)] == 3
    assert found[("ingestd_upload_duration_seconds_sum",)] == pytest.approx(1_000_000.9009)


def test_the_oldest_entry_has_an_age(monitor, status):
    status.roles["receiver"].set(Slot.SPOOL_OLDEST_UTC_NS, time.time_ns() - 90 * 10**9)
    assert samples(monitor)[("ingestd_spool_oldest_seconds",)] == pytest.approx(90, abs=5)


def test_labels_are_words_of_ours_whatever_clients_send(monitor, status):
    status.add_node('evil"} 1\nfake_metric 1', NodeSlot.RECEIVED)
    before = samples(monitor)
    nodes = {labels[0][1] for name, *labels in before if name == "ingestd_frames_received_total"}
    assert nodes == {"kiwi-graz", "other"}
    assert before[("ingestd_frames_received_total", ("node", "other"))] == 1
    reasons = {labels[0][1] for name, *labels in before if name == "ingestd_frames_rejected_total"}
    assert reasons == set(REASONS)


def test_refused_connections_are_counted_by_socket_and_reason_and_labels_are_all_there(monitor, status):
    status.roles["receiver"].refuse_peer(PeerReason.UNKNOWN_KEY)
    status.roles["receiver"].refuse_peer(PeerReason.UNKNOWN_KEY)
    status.roles["responder"].refuse_peer(PeerReason.PROTOCOL)
    found = {
        tuple(value for _, value in labels): count
        for (name, *labels), count in samples(monitor).items()
        if name == "ingestd_peers_refused_total"
    }
    assert {labels: count for labels, count in found.items() if count} == {
        ("unknown_key", "ingest"): 2,
        ("protocol", "query"): 1,
    }
    assert set(found) == {(str(reason), socket) for reason in PeerReason for socket in ("ingest", "query")}
    assert monitor.stats()["peers_refused"] == {"ingest": {"unknown_key": 2}, "query": {"protocol": 1}}


def test_verdict_and_reasons_are_metrics_as_well(monitor, status):
    found = samples(monitor)
    assert found[("ingestd_health", ("status", "unhealthy"))] == 1
    assert found[("ingestd_accepting",)] == 0
    assert found[("ingestd_health_reason", ("code", "store_auth"))] == 0


def test_every_name_has_a_help_and_a_type_once(monitor):
    lines = exposition(monitor).decode().splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert helps == types
    assert len(helps) == len(set(helps))
    assert all(name.startswith("ingestd_") for name in helps)


def test_gaps_and_lost_samples_are_told_for_each_node(monitor, status):
    status.add_node("kiwi-graz", NodeSlot.GAPS, 3)
    status.add_node("kiwi-graz", NodeSlot.SAMPLES_LOST, 125_000)
    status.add_node("kiwi-graz", NodeSlot.REJECTED, 2)
    status.add_node("somebody", NodeSlot.GAPS)
    found = samples(monitor)
    assert found[("ingestd_sequence_gaps", ("node", "kiwi-graz"))] == 3
    assert found[("ingestd_sequence_gaps", ("node", "other"))] == 1
    assert found[("ingestd_node_samples_lost_total", ("node", "kiwi-graz"))] == 125_000
    assert found[("ingestd_node_frames_rejected_total", ("node", "kiwi-graz"))] == 2


def test_a_role_that_hangs_shows_by_its_age(monitor, status):
    status.roles["receiver"].set(Slot.PROGRESS_NS, time.monotonic_ns() - 40 * 10**9)
    assert samples(monitor)[("ingestd_role_progress_age_seconds", ("role", "receiver"))] == pytest.approx(
        40, abs=5
    )


def test_the_scrub_is_told_of_where_it_is_on(monitor):
    assert not [name for name, *_ in samples(monitor) if name.startswith("ingestd_scrub")]
    monitor.scrub = {
        "checked": 5,
        "of": 9,
        "missing": 1,
        "differing": 0,
        "unreadable": 0,
        "last_pass_utc": None,
    }
    found = samples(monitor)
    assert found[("ingestd_scrub_pairs",)] == 9
    assert found[("ingestd_scrub_wrong_objects", ("damage", "missing"))] == 1


def test_commits_are_a_histogram_of_the_receiver(monitor, status):
    status.roles["receiver"].observe(Histogram.COMMIT_S, 0.02)
    found = samples(monitor)
    assert found[("ingestd_commit_duration_seconds_count",)] == 1
    assert found[("ingestd_commit_duration_seconds_sum",)] == pytest.approx(0.02)
