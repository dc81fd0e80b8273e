package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"math/big"
	"sync"
	"time"
)

const (
	askInterval   = 200 * time.Millisecond // between two questions while anything is unsettled
	tickInterval  = 20 * time.Millisecond
	stallTimeout  = 30 * time.Second // for a write of a frame, and its length at slowestBytesS
	slowestBytesS = 64 << 10
)

// RejectedError says that the daemon refused a frame. Sending it again changes nothing.
type RejectedError struct {
	Node string
	Rejection
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("frame %d of %s was rejected: %s (`ingestctl rejected` shows field and value)", e.Seq, e.Node, e.Reason)
}

// ParkedError says that a frame was still missing after all resends; it is not sent again.
type ParkedError struct{ Frame *Frame }

func (e *ParkedError) Error() string {
	return fmt.Sprintf("frame %d of %s is still missing after %d resends", e.Frame.Seq, e.Frame.Node, maxResends)
}

// TooLongError says that a frame was not sent, because the daemon would close the connection.
type TooLongError struct{ SizeBytes, MaxBytes int64 }

func (e *TooLongError) Error() string {
	return fmt.Sprintf("a frame of %d bytes (allowed: at most %d, ingest.max_frame_bytes); "+
		"send a longer capture as consecutive frames with `chunk` 0, 1, 2, ...", e.SizeBytes, e.MaxBytes)
}

// Sender sends frames and sends them again until the daemon has confirmed each. One goroutine owns the ledger; what
// waits for the network is in the two others.
type Sender struct {
	node                string
	maxUnconfirmedBytes int64

	offers chan offer
	waits  chan chan error
	link   *link
	asker  *asker
	cancel context.CancelFunc
	ended  sync.WaitGroup

	// Of the goroutine that owns the ledger:
	ledger     *Ledger
	start      time.Time
	maxFrame   int64 // 0 = not told yet
	troubles   []error
	told       map[string]bool
	held       *offer
	waiter     chan error
	writing    bool
	began      time.Time // of the write
	size       int64     // of the frame that is written
	asking     bool
	asked      time.Time
	answered   time.Time
	unanswered trouble
}

type offer struct {
	frame  Frame
	result chan error
}

// NewSender starts a sender under a new epoch. Close it.
func NewSender(push, query, node string, maxUnconfirmedBytes int64) (*Sender, error) {
	epoch, err := drawEpoch()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sender{
		node: node, maxUnconfirmedBytes: maxUnconfirmedBytes,
		offers: make(chan offer), waits: make(chan chan error),
		link: newLink(push), asker: newAsker(query, node), cancel: cancel,
		ledger: NewLedger(epoch), start: time.Now(), told: map[string]bool{}, unanswered: trouble{what: "confirm"},
	}
	for _, run := range []func(context.Context){s.link.run, s.asker.run, s.run} {
		s.ended.Add(1)
		go func() {
			defer s.ended.Done()
			run(ctx)
		}()
	}
	return s, nil
}

// Close ends the sender, without waiting for confirmation, and says what became of the frames.
func (s *Sender) Close() Counts {
	s.cancel()
	s.ended.Wait()
	return s.ledger.Counts
}

// Answered says whether the daemon ever answered; ask after Close.
func (s *Sender) Answered() bool { return s.maxFrame > 0 }

// Send takes a frame, as soon as there is room for it. An error tells of an earlier frame (RejectedError, ParkedError,
// RefusedError) or of this one (TooLongError, the context's); in any case this one was not taken.
func (s *Sender) Send(ctx context.Context, frame Frame) error {
	result := make(chan error, 1)
	select {
	case s.offers <- offer{frame, result}:
		return await(ctx, result)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait returns when every frame that was taken is settled, or with what is wrong with one, as Send does.
func (s *Sender) Wait(ctx context.Context) error {
	result := make(chan error, 1)
	select {
	case s.waits <- result:
		return await(ctx, result)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func await(ctx context.Context, result chan error) error {
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Sender) run(ctx context.Context) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		s.takeHeld()
		s.tellWaiter()
		s.writeNext()
		s.askIfDue()
		offers := s.offers
		if s.held != nil {
			offers = nil
		}
		select {
		case <-ctx.Done():
			return
		case one := <-offers:
			s.held = &one
		case s.waiter = <-s.waits:
		case one := <-s.link.done:
			s.writing = false
			s.ledger.Written(one.epoch, one.seq, time.Since(s.start))
		case got := <-s.asker.outcomes:
			s.asking = false
			s.settle(got)
		case <-ticker.C:
			s.hangUpIfStalled()
		}
	}
}

// takeHeld gives the offered frame a number when there is room. Before the first answer nobody knows how long a frame
// may be.
func (s *Sender) takeHeld() {
	if s.held == nil {
		return
	}
	err := s.trouble()
	if err == nil {
		if s.maxFrame == 0 {
			return
		}
		frame := s.held.frame
		frame.Node, frame.Epoch, frame.Seq = s.node, s.ledger.Epoch(), s.ledger.NextSeq()
		var bytes []byte
		if bytes, err = frame.Encode(); err == nil {
			size := int64(len(bytes))
			if s.ledger.Len() > 0 && s.ledger.SizeBytes()+size > s.maxUnconfirmedBytes {
				return
			}
			if size > s.maxFrame {
				err = &TooLongError{size, s.maxFrame}
			} else {
				s.ledger.Add(&frame, size)
			}
		}
	}
	s.held.result <- err
	s.held = nil
}

func (s *Sender) tellWaiter() {
	if s.waiter == nil || (s.ledger.Len() > 0 && len(s.troubles) == 0) {
		return
	}
	s.waiter <- s.trouble()
	s.waiter = nil
}

func (s *Sender) trouble() error {
	if len(s.troubles) == 0 {
		return nil
	}
	first := s.troubles[0]
	s.troubles = s.troubles[1:]
	return first
}

func (s *Sender) writeNext() {
	if s.writing {
		return
	}
	frame := s.ledger.Next()
	if frame == nil {
		return
	}
	bytes, err := frame.Encode()
	if err != nil {
		s.troubles = append(s.troubles, err)
		return
	}
	s.writing, s.began, s.size = true, time.Now(), int64(len(bytes))
	s.link.jobs <- job{frame.Epoch, frame.Seq, bytes}
}

func (s *Sender) askIfDue() {
	owed := s.ledger.Len() > 0 || s.held != nil || s.maxFrame == 0
	if s.asking || !owed || time.Since(s.asked) < askInterval {
		return
	}
	s.asking, s.asked = true, time.Now()
	s.asker.epochs <- s.ledger.Epoch()
}

func (s *Sender) settle(got outcome) {
	var refused *RefusedError
	if errors.As(got.err, &refused) {
		// It comes again with every question; the caller needs to hear it once.
		if !s.told[got.err.Error()] {
			s.told[got.err.Error()] = true
			s.troubles = append(s.troubles, got.err)
		}
		return
	}
	s.unanswered.note(got.err)
	if got.err != nil {
		return
	}
	s.answered, s.maxFrame = time.Now(), got.answer.MaxFrameBytes
	if got.epoch != s.ledger.Epoch() {
		return
	}
	verdict := s.ledger.Settle(got.answer, time.Since(s.start))
	for _, one := range verdict.Rejected {
		s.troubles = append(s.troubles, &RejectedError{s.node, one})
	}
	for _, one := range verdict.Parked {
		s.troubles = append(s.troubles, &ParkedError{one})
	}
	if verdict.NewEpoch {
		epoch, err := drawEpoch()
		if err != nil {
			s.troubles = append(s.troubles, err)
			return
		}
		log.Printf("epoch %d is in use elsewhere; going on as %d", s.ledger.Epoch(), epoch)
		s.ledger.Renumber(epoch)
	}
}

// hangUpIfStalled gives up a connection whose other end may have vanished without a word. A daemon whose spool is full
// stalls it too, but says so.
func (s *Sender) hangUpIfStalled() {
	patience := stallTimeout + time.Duration(s.size/slowestBytesS)*time.Second
	full := !s.ledger.Accepting() && time.Since(s.answered) < stallTimeout
	if s.writing && !full && time.Since(s.began) > patience {
		s.began = time.Now()
		s.link.hangUp()
	}
}

// trouble says when something that is tried again and again begins to fail, and when it works again.
type trouble struct {
	what   string
	failed bool
}

func (t *trouble) note(err error) {
	if err != nil && !t.failed {
		log.Printf("%s: %v; trying again", t.what, err)
	}
	if err == nil && t.failed {
		log.Printf("%s: works again", t.what)
	}
	t.failed = err != nil
}

// epochEnd is above every epoch: JSON readers and float64 count so far.
const epochEnd = 1 << 53

func drawEpoch() (int64, error) {
	drawn, err := rand.Int(rand.Reader, big.NewInt(epochEnd))
	if err != nil {
		return 0, err
	}
	return drawn.Int64(), nil
}
