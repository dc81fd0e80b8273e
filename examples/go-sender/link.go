package main

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
)

const (
	firstPause   = 100 * time.Millisecond // before the second try to connect
	longestPause = time.Second
)

type job struct {
	epoch, seq int64
	bytes      []byte
}

// link is the PUSH side: it writes one frame at a time, on a new connection where the old one broke. Nothing waits in
// it, so what can be lost is in the kernel's buffers.
type link struct {
	endpoint string
	jobs     chan job
	done     chan job
	trouble  trouble

	mu   sync.Mutex
	peer *peer
}

func newLink(endpoint string) *link {
	return &link{endpoint: endpoint, jobs: make(chan job, 1), done: make(chan job, 1), trouble: trouble{what: "push"}}
}

func (l *link) run(ctx context.Context) {
	defer context.AfterFunc(ctx, l.hangUp)()
	defer l.hangUp()
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-l.jobs:
			if !l.deliver(ctx, one) {
				return
			}
			l.done <- one
		}
	}
}

// deliver writes a frame, as often as it takes; false where the sender is closed.
func (l *link) deliver(ctx context.Context, one job) bool {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := l.write(ctx, one.bytes)
		l.trouble.note(err)
		if err == nil {
			return true
		}
		// Half a frame may be out: nothing can follow it on this connection. The daemon discards it.
		l.hangUp()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (l *link) write(ctx context.Context, frame []byte) error {
	l.mu.Lock()
	current := l.peer
	l.mu.Unlock()
	if current == nil {
		fresh, err := dial(ctx, l.endpoint, zmq4.Push)
		if err != nil {
			return err
		}
		current = fresh
		l.mu.Lock()
		l.peer = fresh
		l.mu.Unlock()
		go l.watch(fresh)
	}
	return current.zmtp.SendMsg(zmq4.NewMsg(frame))
}

// watch notices the end of a connection. PULL never sends anything, so without a reader the end would be noticed
// only by the second frame after it.
func (l *link) watch(watched *peer) {
	io.Copy(io.Discard, watched.conn)
	watched.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peer == watched {
		l.peer = nil
	}
}

// hangUp closes the connection, from any goroutine; a write that is under way fails.
func (l *link) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peer != nil {
		l.peer.conn.Close()
		l.peer = nil
	}
}
