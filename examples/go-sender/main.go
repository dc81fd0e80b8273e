// Go-sender sends numbered frames to ingestd and ends when all of them are confirmed: docs/confirmation.md in Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"
)

// Exit codes, those of the other commands of ingestd.
const (
	exitFailure     = 1  // a frame was rejected or parked
	exitUsage       = 2  // nothing was sent
	exitUnavailable = 69 // no answer
	exitTemporary   = 75 // not all is confirmed in time
)

type options struct {
	push, query, node   string
	capture             Capture
	nFrames             int64
	framesPerS          float64
	timeout             time.Duration
	maxUnconfirmedBytes int64
}

func parse() (options, error) {
	var o options
	var timeoutS float64
	flag.StringVar(&o.push, "push", "tcp://127.0.0.1:5555", "ingest.endpoint of the daemon")
	flag.StringVar(&o.query, "query", "tcp://127.0.0.1:5556", "query.endpoint of the daemon")
	flag.StringVar(&o.node, "node", "", "name of this node")
	flag.StringVar(&o.capture.TaskID, "task", "", "session")
	flag.Int64Var(&o.capture.WebsdrID, "websdr-id", 0, "receiver id")
	flag.Int64Var(&o.nFrames, "frames", 1, "how many frames; they are chunks 0, 1, 2, ... of one capture")
	flag.Int64Var(&o.capture.NSamples, "samples", 12000, "length of a frame [samples]")
	flag.Float64Var(&o.capture.FrequencyHz, "frequency-hz", 77500, "centre frequency")
	flag.Float64Var(&o.capture.SampleRateHz, "sample-rate-hz", 12001.1321, "sample rate, never rounded")
	flag.Int64Var(&o.capture.T0Ns, "t0-ns", 0, "stamp of the first sample [ns since 1970]; 0 = now")
	flag.Float64Var(&o.framesPerS, "rate", 0, "frames a second; 0 = as fast as they are taken")
	flag.Float64Var(&timeoutS, "timeout", 30, "how long to wait for the daemon to take a frame, and for the last confirmation [s]")
	flag.Int64Var(&o.maxUnconfirmedBytes, "max-unconfirmed-bytes", 64<<20, "kept until it is confirmed; beyond, the capture waits")
	flag.Parse()
	o.timeout = time.Duration(timeoutS * float64(time.Second))
	if o.capture.T0Ns == 0 {
		o.capture.T0Ns = time.Now().UnixNano()
	}
	switch {
	case flag.NArg() > 0:
		return o, fmt.Errorf("argument %q is not known", flag.Arg(0))
	case o.node == "" || o.capture.TaskID == "":
		return o, errors.New("--node and --task are needed")
	case o.nFrames < 1 || o.nFrames > 1_000_000:
		return o, errors.New("--frames (allowed: 1 to 1000000, the numbers that a chunk may have)")
	case o.capture.NSamples < 1 || o.capture.NSamples > 1<<27:
		return o, errors.New("--samples (allowed: 1 to 134217728)")
	case !(o.capture.SampleRateHz > 0) || !(o.capture.FrequencyHz > 0):
		return o, errors.New("--sample-rate-hz and --frequency-hz (allowed: above 0)")
	case !(o.framesPerS >= 0) || !(timeoutS > 0):
		return o, errors.New("--rate (allowed: 0 or more) and --timeout (allowed: above 0)")
	}
	return o, nil
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "go-sender:", err)
		os.Exit(exitUsage)
	}
	counts, err := send(o)
	if err != nil {
		log.Print(err)
	}
	json.NewEncoder(os.Stdout).Encode(counts)
	switch {
	case counts.Rejected+counts.Parked > 0:
		os.Exit(exitFailure)
	case errors.Is(err, errNoAnswer):
		os.Exit(exitUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		os.Exit(exitTemporary)
	case err != nil:
		os.Exit(exitFailure)
	}
}

var errNoAnswer = errors.New("no answer to confirm (is ingestd running, and --query right?)")

func send(o options) (Counts, error) {
	sender, err := NewSender(o.push, o.query, o.node, o.maxUnconfirmedBytes)
	if err != nil {
		return Counts{}, err
	}
	err = sendAll(sender, o)
	counts := sender.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		if !sender.Answered() {
			err = errNoAnswer
		} else {
			unsettled := counts.Sent - counts.Confirmed - counts.Rejected - counts.Parked
			err = fmt.Errorf("%d frames are not confirmed after %s: %w", unsettled, o.timeout, err)
		}
	}
	return counts, err
}

// sendAll goes on after a frame that was rejected or parked: the others may be right.
func sendAll(sender *Sender, o options) error {
	began := time.Now()
	for i := int64(0); i < o.nFrames; i++ {
		if o.framesPerS > 0 {
			due := time.Duration(float64(i) / o.framesPerS * float64(time.Second))
			time.Sleep(time.Until(began.Add(due)))
		}
		frame := o.capture.Frame(i)
		if err := patiently(o.timeout, func(ctx context.Context) error { return sender.Send(ctx, frame) }); err != nil {
			return err
		}
	}
	return patiently(o.timeout, sender.Wait)
}

// patiently tries again after an error that tells of one earlier frame.
func patiently(timeout time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		err := try(ctx)
		var rejected *RejectedError
		var parked *ParkedError
		if !errors.As(err, &rejected) && !errors.As(err, &parked) {
			return err
		}
		log.Print(err)
	}
}
