"""What a node sends again, and when it gives up."""

from ingestd.formats.resending import MAX_RESENDS, RESEND_AFTER_S, Unconfirmed


def reply(upto=0, ranges=(), rejected=(), *, boot="b", accepting=True, reused=0):
    return {
        "accepted_upto": upto, "ranges": [list(r) for r in ranges], "boot": boot, "accepting": accepting,
        "rejected": [{"seq": s, "reason": r} for s, r in rejected], "seq_reused": reused,
    }  # fmt: skip


def owed(*numbers, now_s=0.0):
    unconfirmed = Unconfirmed()
    for seq in numbers:
        unconfirmed.add(seq, f"frame {seq}", 10, now_s)
    return unconfirmed


def test_what_is_accepted_is_owed_no_longer():
    unconfirmed = owed(0, 1, 2, 3)
    verdict = unconfirmed.settle(reply(upto=2, ranges=[(3, 4)]), 0.1)
    assert unconfirmed.numbers() == [2]
    assert verdict.resend == [2], "a later one overtook it: a connection delivers in order, so it is lost"
    assert unconfirmed.size_bytes == 10


def test_what_is_merely_on_its_way_is_waited_for():
    unconfirmed = owed(0, 1)
    assert unconfirmed.settle(reply(), RESEND_AFTER_S - 0.1).resend == []
    assert unconfirmed.settle(reply(), RESEND_AFTER_S + 0.1).resend == [0, 1]


def test_nothing_is_sent_again_while_the_daemon_does_not_accept():
    assert owed(0).settle(reply(accepting=False), 1000.0).resend == []


def test_what_waited_for_a_daemon_that_did_not_accept_is_not_late_when_it_does():
    unconfirmed = owed(0)
    unconfirmed.settle(reply(accepting=False), 1000.0)
    assert unconfirmed.settle(reply(), 1000.1).resend == []
    assert unconfirmed.settle(reply(), 1000.0 + RESEND_AFTER_S).resend == [0]


def test_another_boot_means_that_what_it_does_not_confirm_is_sent_again():
    unconfirmed = owed(0, 1)
    unconfirmed.settle(reply(boot="one"), 0.1)
    assert unconfirmed.settle(reply(upto=1, boot="two"), 0.2).resend == [1]


def test_a_rejected_frame_is_handed_back_with_its_reason():
    unconfirmed = owed(0, 1)
    verdict = unconfirmed.settle(reply(upto=1, rejected=[(0, "payload"), (7, "type")]), 0.1)
    assert verdict.rejected == [(0, "payload")]
    assert unconfirmed.numbers() == [1]


def test_after_five_resends_it_is_parked_and_only_sent_ones_count():
    unconfirmed, now_s = owed(0), 0.0
    for _ in range(3):
        now_s += RESEND_AFTER_S
        assert unconfirmed.settle(reply(), now_s).resend == [0], "not taken by the socket, so not counted"
    for _ in range(MAX_RESENDS):
        now_s += RESEND_AFTER_S
        assert unconfirmed.settle(reply(), now_s).resend == [0]
        unconfirmed.resent(0, now_s)
    now_s += RESEND_AFTER_S
    assert unconfirmed.settle(reply(), now_s).parked == [0]


def test_a_reused_epoch_confirms_nothing():
    unconfirmed = owed(0, 1)
    verdict = unconfirmed.settle(reply(upto=2, reused=1), 0.1)
    assert verdict.new_epoch
    assert unconfirmed.numbers() == [0, 1]
