package main

import (
	"slices"
	"testing"
	"time"
)

// answered is the answer to a daemon's start with nothing else to say.
func answered(upto int64, ranges ...[2]int64) Answer {
	return Answer{
		AcceptedUpto: upto, Ranges: ranges, Boot: "one", Accepting: true, CreditBytes: 1 << 40, MaxFrameBytes: 64 << 20,
	}
}

// filled is a ledger with so many frames of one byte, all written at 0, and one answer taken.
func filled(n int) *Ledger {
	ledger := NewLedger(77)
	ledger.Settle(answered(0), 0)
	for range n {
		ledger.Add(&Frame{}, 1)
	}
	writeAll(ledger, 0)
	return ledger
}

func writeAll(l *Ledger, now time.Duration) []int64 {
	var numbers []int64
	for frame := l.Next(); frame != nil; frame = l.Next() {
		numbers = append(numbers, frame.Seq)
		l.Written(frame.Epoch, frame.Seq, now)
	}
	return numbers
}

func numbers(l *Ledger) []int64 {
	var numbers []int64
	for _, one := range l.pending {
		numbers = append(numbers, one.frame.Seq)
	}
	return numbers
}

func expect(t *testing.T, got []int64, want ...int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%v, not %v", got, want)
	}
}

func TestNumbersBeginAt0AndWaitForTheFirstAnswer(t *testing.T) {
	ledger := NewLedger(77)
	ledger.Add(&Frame{}, 1)
	ledger.Add(&Frame{}, 1)
	expect(t, writeAll(ledger, 0))
	ledger.Settle(answered(0), 0)
	expect(t, writeAll(ledger, 0), 0, 1)
	expect(t, writeAll(ledger, 0))
}

func TestWhatIsConfirmedIsForgotten(t *testing.T) {
	ledger := filled(6)
	ledger.Settle(answered(2, [2]int64{3, 5}), 0)
	expect(t, numbers(ledger), 2, 5)
	if ledger.SizeBytes() != 2 || ledger.Counts.Confirmed != 4 {
		t.Fatalf("%+v, %d bytes", ledger.Counts, ledger.SizeBytes())
	}
}

func TestAnOvertakenFrameIsSentAgainAtOnceButOnlyOnce(t *testing.T) {
	ledger := filled(3)
	ledger.Settle(answered(0, [2]int64{1, 2}), time.Second)
	expect(t, writeAll(ledger, time.Second), 0)
	// It is still overtaken by every answer until it is accepted.
	ledger.Settle(answered(0, [2]int64{1, 3}), 2*time.Second)
	expect(t, writeAll(ledger, 2*time.Second))
	ledger.Settle(answered(0, [2]int64{1, 3}), 6*time.Second)
	expect(t, writeAll(ledger, 6*time.Second), 0)
}

func TestALateFrameIsSentAgain(t *testing.T) {
	ledger := filled(1)
	ledger.Settle(answered(0), resendAfter-1)
	expect(t, writeAll(ledger, 0))
	ledger.Settle(answered(0), resendAfter)
	expect(t, writeAll(ledger, 0), 0)
}

func TestAnotherBootSendsAllAgainThatItDoesNotConfirm(t *testing.T) {
	ledger := filled(4)
	after := answered(1)
	after.Boot = "two"
	ledger.Settle(after, 1)
	expect(t, writeAll(ledger, 1), 1, 2, 3)
	ledger.Settle(after, 2)
	expect(t, writeAll(ledger, 2))
}

func TestAFrameThatIsBeingWrittenIsNotSentTwice(t *testing.T) {
	ledger := NewLedger(77)
	ledger.Settle(answered(0), 0)
	ledger.Add(&Frame{}, 1)
	ledger.Next()
	after := answered(0)
	after.Boot = "two"
	ledger.Settle(after, time.Hour)
	if frame := ledger.Next(); frame != nil {
		t.Fatal("written twice at the same time")
	}
}

func TestAMissingFrameIsParkedAfterFiveResends(t *testing.T) {
	ledger := filled(1)
	now := time.Duration(0)
	for range maxResends {
		now += resendAfter
		if verdict := ledger.Settle(answered(0), now); len(verdict.Parked) > 0 {
			t.Fatal("too early")
		}
		expect(t, writeAll(ledger, now), 0)
	}
	if verdict := ledger.Settle(answered(0), now+1); len(verdict.Parked) > 0 {
		t.Fatal("the last resend had no time")
	}
	verdict := ledger.Settle(answered(0), now+resendAfter)
	if len(verdict.Parked) != 1 || ledger.Len() != 0 || ledger.SizeBytes() != 0 {
		t.Fatalf("%+v", verdict)
	}
	if ledger.Counts != (Counts{Sent: 1, Resent: 5, Parked: 1}) {
		t.Fatalf("%+v", ledger.Counts)
	}
}

func TestARejectedFrameIsSettledAndToldOnceBelowAndAboveUpto(t *testing.T) {
	ledger := filled(5)
	answer := answered(2, [2]int64{4, 5})
	answer.Rejected = []Rejection{{1, "payload"}, {3, "range"}, {99, "type"}}
	verdict := ledger.Settle(answer, 0)
	if !slices.Equal(verdict.Rejected, []Rejection{{1, "payload"}, {3, "range"}}) {
		t.Fatalf("%+v", verdict)
	}
	expect(t, numbers(ledger), 2)
	if verdict := ledger.Settle(answer, 0); len(verdict.Rejected) > 0 {
		t.Fatal("told twice")
	}
	if ledger.Counts != (Counts{Sent: 5, Confirmed: 2, Rejected: 2}) {
		t.Fatalf("%+v", ledger.Counts)
	}
}

func TestNothingIsSentWhileTheDaemonAcceptsNothingAndNothingIsLateAfterwards(t *testing.T) {
	ledger := filled(2)
	ledger.Add(&Frame{}, 1)
	full := answered(0)
	full.Accepting = false
	ledger.Settle(full, time.Hour)
	expect(t, writeAll(ledger, time.Hour))
	ledger.Settle(answered(0), time.Hour+1)
	expect(t, writeAll(ledger, time.Hour+1), 2)
	ledger.Settle(answered(0), time.Hour+resendAfter)
	expect(t, writeAll(ledger, time.Hour+resendAfter), 0, 1)
}

func TestNoMoreIsUnderWayThanTheCreditButOneFrameAlways(t *testing.T) {
	ledger := NewLedger(77)
	poor := answered(0)
	poor.CreditBytes = 25
	ledger.Settle(poor, 0)
	for range 4 {
		ledger.Add(&Frame{}, 10)
	}
	expect(t, writeAll(ledger, 0), 0, 1)
	poor.AcceptedUpto, poor.CreditBytes = 1, 5
	ledger.Settle(poor, 1)
	expect(t, writeAll(ledger, 1))
	poor.AcceptedUpto = 2
	ledger.Settle(poor, 2)
	expect(t, writeAll(ledger, 2), 2)
}

func TestAnEpochInUseElsewhereIsLeftWithAllThatIsOwed(t *testing.T) {
	reused := answered(3)
	reused.SeqReused = 1
	for what, answer := range map[string]Answer{
		"the daemon says so":                       reused,
		"a number is accepted that was never sent": answered(4),
		"a range is accepted that was never sent":  answered(1, [2]int64{100, 101}),
	} {
		ledger := filled(3)
		if !ledger.Settle(answer, 0).NewEpoch {
			t.Fatalf("%s, and was believed", what)
		}
		expect(t, numbers(ledger), 0, 1, 2)
		ledger.Renumber(78)
		ledger.Settle(answered(0), 1)
		ledger.Add(&Frame{}, 1)
		expect(t, writeAll(ledger, 1), 0, 1, 2, 3)
		if ledger.Epoch() != 78 || ledger.pending[0].frame.Epoch != 78 || ledger.Counts.Resent != 3 {
			t.Fatalf("%s: %+v", what, ledger.Counts)
		}
	}
}

func TestFramesKeepTheirOrderIntoANewEpoch(t *testing.T) {
	ledger := filled(5)
	ledger.Settle(answered(1, [2]int64{2, 3}), 0)
	owed := []*Frame{ledger.pending[0].frame, ledger.pending[1].frame, ledger.pending[2].frame}
	ledger.Renumber(78)
	for i, one := range ledger.pending {
		if one.frame.Seq != int64(i) || one.frame == owed[i] {
			t.Fatal("the old frame may be under way, and must stay as it is")
		}
	}
	// What the connection says of the old epoch is not of this one.
	ledger.Settle(answered(0), 0)
	ledger.Next()
	ledger.Written(77, 0, 0)
	if ledger.pending[0].state != writing {
		t.Fatal("another frame was taken for this one")
	}
}
