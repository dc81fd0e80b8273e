package main

import "time"

// The numbers of docs/confirmation.md.
const (
	maxResends  = 5               // a frame that is still missing after so many is parked
	resendAfter = 5 * time.Second // since it was written, while the daemon accepts
)

// Answer is what a sender needs of a reply to `confirm`.
type Answer struct {
	AcceptedUpto  int64
	Ranges        [][2]int64
	Rejected      []Rejection
	SeqReused     int64
	Boot          string
	Accepting     bool
	CreditBytes   int64
	MaxFrameBytes int64
}

// Rejection is a number whose frame the daemon refused, and why.
type Rejection struct {
	Seq    int64  `json:"seq"`
	Reason string `json:"reason"`
}

// Counts is what became of the frames; Resent counts every time that a frame was sent again.
type Counts struct {
	Sent      int64 `json:"sent"`
	Resent    int64 `json:"resent"`
	Confirmed int64 `json:"confirmed"`
	Rejected  int64 `json:"rejected"`
	Parked    int64 `json:"parked"`
}

// Verdict is what an answer has for the caller. NewEpoch: draw one and call Renumber.
type Verdict struct {
	Rejected []Rejection
	Parked   []*Frame
	NewEpoch bool
}

type state int

const (
	queued  state = iota // to be written, for the first time or again
	writing              // given to the connection
	written              // on its way, or lost
)

type entry struct {
	frame     *Frame
	sizeBytes int64
	state     state
	writtenAt time.Duration
	sends     int // writes begun in this epoch
	resends   int // writes begun after the first, in all epochs
}

// Ledger knows every frame that is not settled yet: which are confirmed, which are to be written next, which are given
// up. It does no I/O and has no clock: `now` is the time since any fixed moment.
type Ledger struct {
	Counts Counts

	epoch       int64
	next        int64
	begun       int64 // every number below it was given to the connection in this epoch
	pending     []*entry
	sizeBytes   int64
	boot        string
	accepting   bool
	creditBytes int64
}

// NewLedger begins an epoch, which was drawn at random.
func NewLedger(epoch int64) *Ledger { return &Ledger{epoch: epoch} }

// Epoch that numbers belong to now.
func (l *Ledger) Epoch() int64 { return l.epoch }

// NextSeq is the number that the next frame gets.
func (l *Ledger) NextSeq() int64 { return l.next }

// Len is how many frames are not settled.
func (l *Ledger) Len() int { return len(l.pending) }

// SizeBytes is how long all frames together are that are not settled.
func (l *Ledger) SizeBytes() int64 { return l.sizeBytes }

// Accepting is what the latest answer said; false before the first.
func (l *Ledger) Accepting() bool { return l.accepting }

// Add numbers a frame and keeps it until it is settled.
func (l *Ledger) Add(frame *Frame, sizeBytes int64) {
	frame.Epoch, frame.Seq = l.epoch, l.next
	l.next++
	l.pending = append(l.pending, &entry{frame: frame, sizeBytes: sizeBytes})
	l.sizeBytes += sizeBytes
	l.Counts.Sent++
}

// Next is the frame to be written now, the lowest number first, so that the missing come before the new; nil = none.
// What it returns counts as being written until Written is called.
func (l *Ledger) Next() *Frame {
	if !l.accepting {
		return nil
	}
	underWay := false
	for _, one := range l.pending {
		underWay = underWay || one.state != queued
	}
	for _, one := range l.pending {
		if one.state != queued {
			continue
		}
		// Credit is what the spool still takes, for all nodes together. A frame that is alone on its way may go over
		// it: if it can never fit, the daemon says so.
		if underWay && one.sizeBytes > l.creditBytes {
			return nil
		}
		l.begin(one)
		return one.frame
	}
	return nil
}

func (l *Ledger) begin(one *entry) {
	if one.sends > 0 {
		one.resends++
		l.Counts.Resent++
	}
	one.sends++
	one.state = writing
	l.creditBytes -= one.sizeBytes
	l.begun = max(l.begun, one.frame.Seq+1)
}

// Written takes note that a frame is out.
func (l *Ledger) Written(epoch, seq int64, now time.Duration) {
	if epoch != l.epoch {
		return
	}
	for _, one := range l.pending {
		if one.frame.Seq == seq && one.state == writing {
			one.state, one.writtenAt = written, now
		}
	}
}

// Settle takes an answer that was asked for this epoch.
func (l *Ledger) Settle(answer Answer, now time.Duration) Verdict {
	newest := answer.AcceptedUpto
	for _, one := range answer.Ranges {
		newest = max(newest, one[1])
	}
	// Numbers that were never given out are settled: somebody else has this epoch.
	if answer.SeqReused > 0 || newest > l.begun {
		return Verdict{NewEpoch: true}
	}
	verdict := Verdict{Rejected: l.dropRejected(answer)}
	l.dropAccepted(answer)
	restarted := l.boot != "" && answer.Boot != l.boot
	l.boot, l.accepting, l.creditBytes = answer.Boot, answer.Accepting, answer.CreditBytes
	for _, one := range l.pending {
		if one.state != written {
			continue
		}
		if !answer.Accepting {
			// It waits in the sockets, and is not late.
			one.writtenAt = now
			continue
		}
		overtaken := one.frame.Seq < newest && one.sends == 1
		if !overtaken && !restarted && now-one.writtenAt < resendAfter {
			continue
		}
		if one.resends < maxResends {
			one.state = queued
		} else {
			verdict.Parked = append(verdict.Parked, one.frame)
		}
	}
	l.drop(verdict.Parked)
	l.Counts.Parked += int64(len(verdict.Parked))
	return verdict
}

// Renumber begins another epoch: all that is not settled is numbered anew from 0 and written again.
func (l *Ledger) Renumber(epoch int64) {
	l.epoch, l.next, l.begun, l.boot = epoch, 0, 0, ""
	for _, one := range l.pending {
		// A copy: the connection may be writing the old one.
		frame := *one.frame
		frame.Epoch, frame.Seq = epoch, l.next
		l.next++
		if one.sends > 0 {
			one.resends++
			l.Counts.Resent++
		}
		one.frame, one.state, one.sends = &frame, queued, 0
	}
}

// dropRejected comes before dropAccepted: `accepted_upto` counts rejected numbers as settled.
func (l *Ledger) dropRejected(answer Answer) []Rejection {
	reasons := make(map[int64]Rejection, len(answer.Rejected))
	for _, one := range answer.Rejected {
		reasons[one.Seq] = one
	}
	var told []Rejection
	var frames []*Frame
	for _, one := range l.pending {
		if rejection, ok := reasons[one.frame.Seq]; ok {
			told = append(told, rejection)
			frames = append(frames, one.frame)
		}
	}
	l.drop(frames)
	l.Counts.Rejected += int64(len(frames))
	return told
}

func (l *Ledger) dropAccepted(answer Answer) {
	var frames []*Frame
	for _, one := range l.pending {
		accepted := one.frame.Seq < answer.AcceptedUpto
		for _, bounds := range answer.Ranges {
			accepted = accepted || bounds[0] <= one.frame.Seq && one.frame.Seq < bounds[1]
		}
		if accepted {
			frames = append(frames, one.frame)
		}
	}
	l.drop(frames)
	l.Counts.Confirmed += int64(len(frames))
}

// drop keeps frames, given in ascending order, no longer.
func (l *Ledger) drop(frames []*Frame) {
	if len(frames) == 0 {
		return
	}
	kept := make([]*entry, 0, len(l.pending))
	for _, one := range l.pending {
		if len(frames) > 0 && one.frame == frames[0] {
			frames = frames[1:]
			l.sizeBytes -= one.sizeBytes
		} else {
			kept = append(kept, one)
		}
	}
	l.pending = kept
}
