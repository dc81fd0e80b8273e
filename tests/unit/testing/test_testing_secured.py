"""The report of `scripts/secured`: its arithmetic, and that harm is told."""

import json

from ingestd.testing.bench.results import Results, Sample
from ingestd.testing.secured.attacks import attacks
from ingestd.testing.secured.raw import part
from ingestd.testing.secured.report import Secured, markdown
from ingestd.testing.secured.trial import Trial

RATES = {"quiet": 200.0, "flood": 150.0, "echo": 160.0}


def questions(number, **rates):
    return [
        Sample(
            "questions",
            case,
            number,
            {"frames_per_s": rate, "p99_ms": 10.0, "replies_per_s": 9000.0, "busy_per_s": 7000.0},
        )
        for case, rate in rates.items()
    ]


def test_each_round_is_set_against_itself():
    slow = {case: rate / 4 for case, rate in RATES.items()}
    found = Secured(Results(questions(0, **RATES) + questions(1, **slow)), [])
    assert "| flood of questions: frames accepted | 125 /s | 93.8 /s | 0.75 | 0.75 to 0.75 |" in markdown(
        found
    )


def test_ingest_may_fall_ten_points_further_than_beside_an_echo_server():
    found = Secured(Results(questions(0, **RATES)), [])
    assert found.points_beyond_echo == 5.0
    assert "falls 5.0 points further" in markdown(found)
    assert "not met" not in markdown(found)
    worse = Secured(Results(questions(0, **RATES | {"flood": 120.0})), [])
    assert worse.points_beyond_echo == 20.0
    assert "**This is not met.**" in markdown(worse)


def test_a_trial_that_did_harm_is_counted_as_tried_and_told():
    trials = [
        Trial("floods", "a", "", 100.0, 300.0, 5.0),
        Trial("floods", "b", "", 110.0, 200.0, 15.0),
        Trial("floods", "c", "the supervisor died"),
    ]
    found = Secured(Results(), trials)
    assert "| floods | 3 | 2 | 105 MB | 300 MB | 10 ms | 15 ms |" in markdown(found)
    assert found.errors() == ["floods, c: the supervisor died"]
    assert markdown(found).endswith("**Not as it should be:**\n\n- floods, c: the supervisor died")


def test_lost_objects_and_runs_that_failed_are_errors():
    samples = [
        Sample("tls", "with", 0, {"frames_per_s": 1.0, "cpu_ms": 1.0, "missing_objects": 2.0}),
        Sample("tls", "without", 0, {}, "OSError: x"),
    ]
    assert len(Secured(Results(samples), []).errors()) == 2


def test_a_document_is_read_as_it_was_written(tmp_path):
    found = Secured(Results(questions(0, **RATES)), [Trial("floods", "a", "", 100.0, 300.0, 5.0)])
    path = tmp_path / "secured.json"
    path.write_text(json.dumps(found.document()))
    assert markdown(Secured.read(path)) == markdown(found)


def test_every_attack_on_memory_has_its_cases():
    groups = {}
    for attack in attacks():
        groups.setdefault(attack.group, []).append(attack.name)
    assert len(groups) == 8
    assert all(len(names) == len(set(names)) >= 2 for names in groups.values()), groups


def test_a_part_says_whether_another_one_follows_and_may_claim_more_than_it_holds():
    assert part(b"ab") == b"\x02" + (2).to_bytes(8, "big") + b"ab"
    assert part(b"ab", more=True)[0] == 3
    assert part(b"ab", claimed=2**62)[1:9] == (2**62).to_bytes(8, "big")
