"""The ledger behind `confirm`, against a naive set of numbers."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.formats.confirmation import MAX_RANGES, MAX_REJECTED, REPLY_RANGES, EpochLedger

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
