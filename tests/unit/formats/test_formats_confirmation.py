"""The ledger behind `confirm`, against a naive set of numbers."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.catalog import writer
from ingestd.formats.confirmation import _MAX_JUMP, MAX_RANGES, MAX_REJECTED, REPLY_RANGES, EpochLedger
from ingestd.formats.resending import MAX_RESENDS, Unconfirmed

STEPS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80)


def settled(ledger):
    reply = ledger.reply()
    rejected = {row["seq"] for row in reply["rejected"]}
    below = set(range(reply["accepted_upto"])) - rejected
    above = {seq for first, end in reply["ranges"] for seq in range(first, end)}
    return below | above, rejected


@given(STEPS)
@settings(max_examples=300)
def test_it_confirms_what_was_accepted_and_nothing_else(steps):
    ledger, accepted, rejected, upto = EpochLedger(), set(), set(), 0
    for seq, good in steps:
        if good:
            ledger.note_accepted(seq, crc32c=seq)
            if seq not in rejected:
                accepted.add(seq)
        else:
            ledger.note_rejected(seq, "type")
            if seq not in accepted:
                rejected.add(seq)
        confirmed, refused = settled(ledger)
        assert confirmed == accepted
        assert refused == rejected
        assert ledger.upto >= upto, "it never goes back"
        upto = ledger.upto
        all_settled = accepted | rejected
        assert upto == next(i for i in range(100) if i not in all_settled)
        if all_settled:
            first = steps[0][0]
            seen_from_first = {s for s in all_settled if s >= first}
            assert (
                ledger.gaps == max(all_settled, default=0) + 1 - first - len(seen_from_first)
                or ledger.gaps >= 0
            )
    again = EpochLedger(json.loads(json.dumps(ledger.state())))
    assert again.reply() == ledger.reply()
    assert again.state() == ledger.state()


def test_a_number_used_for_another_frame_is_counted():
    ledger = EpochLedger()
    assert ledger.note_accepted(0, 111) == "new"
    assert ledger.note_accepted(0, 111) == "repeated"
    assert ledger.seq_reused == 0
    assert ledger.note_accepted(0, 222) == "reused"
    assert ledger.seq_reused == 1
    restarted = EpochLedger(ledger.state())
    assert restarted.note_accepted(0, 333) == "unknown", "only the catalog can tell now"


def test_gaps_open_and_close_again():
    ledger = EpochLedger()
    for seq in (5, 6, 9):
        ledger.note_accepted(seq, seq)
    assert ledger.gaps == 2, "counted from the first number that was seen"
    ledger.note_accepted(7, 7)
    ledger.note_rejected(8, "type")
    assert ledger.gaps == 0


def test_a_jump_of_the_sample_clock_names_the_lost_samples():
    ledger = EpochLedger()
    ledger.note_accepted(0, 0, sample_index=1000, n_samples=100)
    ledger.note_accepted(1, 1, sample_index=1100, n_samples=100)
    assert ledger.samples_lost == 0
    ledger.note_accepted(2, 2, sample_index=1250, n_samples=100)
    assert ledger.samples_lost == 50


def test_state_and_reply_are_bounded_whatever_comes():
    ledger = EpochLedger()
    for i in range(MAX_RANGES + 500):
        ledger.note_accepted(2 * i + 1, i)
    for i in range(MAX_REJECTED + 10):
        ledger.note_rejected(10**9 + 2 * i, "type")
    reply = ledger.reply()
    assert len(reply["ranges"]) == REPLY_RANGES
    assert reply["ranges"][0] == [1, 2]
    assert len(reply["rejected"]) <= MAX_REJECTED
    assert len(json.dumps(ledger.state())) < 200_000
    ledger.note_accepted(2**53 - 1, 1)
    assert ledger.upto == 0


def test_rejections_that_fall_out_are_said_and_stay_settled():
    ledger = EpochLedger()
    for seq in range(MAX_REJECTED + 3):
        ledger.note_rejected(seq, "range")
    reply = ledger.reply()
    assert reply["rejected_lost"] == 3
    assert reply["accepted_upto"] == MAX_REJECTED + 3
    assert reply["rejected"][0] == {"seq": 3, "reason": "range"}


NUMBERS = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40)


def noted(steps):
    ledger = EpochLedger()
    for seq, good in steps:
        if good:
            ledger.note_accepted(seq, crc32c=seq)
        else:
            ledger.note_rejected(seq, "type")
    return ledger


@given(NUMBERS, NUMBERS)
@settings(max_examples=200)
def test_a_ledger_begun_anew_that_absorbs_the_old_one_knows_what_both_knew(before, after):
    """A receiver that could not read the catalog when it began."""
    old, ledger = noted(before), noted(after)
    both = settled(old)[0] | settled(old)[1] | settled(ledger)[0] | settled(ledger)[1]
    upto = old.upto
    ledger.absorb(json.loads(json.dumps(old.state())))
    assert settled(ledger)[0] | settled(ledger)[1] == both
    assert ledger.upto >= upto, "it never goes back"
    assert ledger.upto == next(i for i in range(100) if i not in both)
    assert ledger.gaps >= 0


def test_what_was_skipped_between_two_receivers_is_a_gap():
    old, ledger = noted([(5, True), (6, True)]), noted([(9, True), (10, True)])
    ledger.absorb(old.state())
    assert ledger.gaps == 2
    ledger.note_accepted(7, 7)
    assert ledger.gaps == 1


def test_a_number_that_was_accepted_and_then_rejected_was_used_twice():
    """Else its sender would take the rejected frame for confirmed."""
    ledger = EpochLedger()
    ledger.note_accepted(0, 1)
    ledger.note_rejected(0, "type")
    assert ledger.seq_reused == 1


def test_a_repeat_that_fell_out_of_the_ranges_closes_no_gap():
    ledger = EpochLedger()
    ledger.note_accepted(0, 0)
    for i in range(1, MAX_RANGES + 5):
        ledger.note_accepted(2 * i, i)
    gaps, last = ledger.gaps, 2 * (MAX_RANGES + 4)
    assert ledger.note_accepted(last, MAX_RANGES + 4) == "repeated"
    assert ledger.gaps == gaps


def test_no_sender_makes_the_sums_outgrow_an_int64():
    ledger = EpochLedger()
    ledger.note_accepted(0, 0, sample_index=0, n_samples=1)
    ledger.note_accepted(2**53 - 1, 1, sample_index=2**63 - 1, n_samples=1)
    assert ledger.gaps <= 2**40
    assert ledger.samples_lost == 0, "a clock that was set anew, not a loss"


@pytest.mark.quiet
def test_an_answer_is_quick_however_the_rejected_lie():
    ledger = EpochLedger()
    for i in range(MAX_RANGES):
        ledger.note_rejected(2 * i + 1, "type")
    began_s = time.perf_counter()
    reply = ledger.reply()
    assert time.perf_counter() - began_s < 0.02
    assert reply["rejected_lost"] == MAX_RANGES - MAX_REJECTED


def test_the_page_names_the_bounds_of_the_code():
    page = (Path(__file__).parents[3] / "docs" / "confirmation.md").read_text(encoding="utf-8")
    rows = dict(
        [cell.strip() for cell in line.strip("|").split("|")[:2]]
        for line in page.splitlines()
        if line.startswith("|")
    )
    assert rows["`ranges` in a reply"] == str(REPLY_RANGES)
    assert rows["ranges kept"] == f"{MAX_RANGES:,} a node's start"
    assert rows["`rejected`"] == f"the newest {MAX_REJECTED:,}"
    assert rows["starts of nodes (`node`, `epoch`)"] == f"{writer._MAX_LEDGERS:,}"
    assert f"(Node: {MAX_RESENDS})" in page
    assert rows["one jump of `sample_index` or `seq`"] == "2^40"
    assert _MAX_JUMP == 2**40


def test_the_golden_answer_settles_what_the_page_says():
    cases = json.loads((Path(__file__).parents[2] / "golden" / "query.json").read_text(encoding="utf-8"))[
        "cases"
    ]
    (case,) = [case for case in cases if case["name"] == "confirm"]
    reply = json.loads(case["reply"]["json"])["data"]
    ledger = EpochLedger()
    for seq in (*range(17), *range(18, 41), 42, 43):
        ledger.note_accepted(seq, seq)
    ledger.note_rejected(17, "payload")
    assert {key: reply[key] for key in ledger.reply()} == ledger.reply()
    unconfirmed = Unconfirmed()
    for seq in range(45):
        unconfirmed.add(seq, seq, 1, 0.0)
    verdict = unconfirmed.settle(reply, 0.1)
    assert unconfirmed.numbers() == [41, 44]
    assert (verdict.resend, verdict.rejected) == ([41], [(17, "payload")])
