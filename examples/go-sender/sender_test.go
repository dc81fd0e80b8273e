package main

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// stalled is a sender in the middle of a write that has taken for ever.
func stalled(t *testing.T) (*Sender, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	sender := &Sender{link: newLink("tcp://unused"), ledger: filled(1), writing: true, began: time.Now().Add(-time.Hour)}
	sender.link.peer = &peer{conn: ours}
	return sender, ours
}

func closed(conn net.Conn) bool {
	conn.SetDeadline(time.Now())
	_, err := conn.Write([]byte{0})
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestAConnectionThatTakesNothingIsGivenUp(t *testing.T) {
	sender, conn := stalled(t)
	sender.hangUpIfStalled()
	if !closed(conn) {
		t.Fatal("a machine that vanished is waited for")
	}
}

func TestAConnectionStaysWhileTheSpoolIsFull(t *testing.T) {
	sender, conn := stalled(t)
	full := answered(0)
	full.Accepting = false
	sender.ledger.Settle(full, 0)
	sender.answered = time.Now()
	sender.hangUpIfStalled()
	if closed(conn) {
		t.Fatal("a daemon with a full spool would see one connection after the other")
	}
	// What it said long ago no longer counts.
	sender.answered = time.Now().Add(-time.Hour)
	sender.hangUpIfStalled()
	if !closed(conn) {
		t.Fatal("a machine that vanished is waited for")
	}
}

func TestAVeryLongFrameMayTakeVeryLong(t *testing.T) {
	sender, conn := stalled(t)
	sender.size = 2 * 3600 * slowestBytesS
	sender.hangUpIfStalled()
	if closed(conn) {
		t.Fatal("a slow line is taken for a dead one")
	}
}
