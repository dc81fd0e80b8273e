package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-zeromq/zmq4"
)

const answerTimeout = 2 * time.Second

// RefusedError is an answer that asking again does not change.
type RefusedError struct{ Code, Message string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("confirm was refused (%s): %s", e.Code, e.Message)
}

type request struct {
	V    int         `json:"v"`
	ID   int64       `json:"id"`
	Cmd  string      `json:"cmd"`
	Args confirmArgs `json:"args"`
}

type confirmArgs struct {
	Node  string `json:"node"`
	Epoch int64  `json:"epoch"`
}

// reply has pointers where a missing key must not be taken for zero. Unknown keys are ignored: there may be more.
type reply struct {
	ID    int64 `json:"id"`
	OK    bool  `json:"ok"`
	Error struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		Retryable bool   `json:"retryable"`
	} `json:"error"`
	Data struct {
		AcceptedUpto  *int64       `json:"accepted_upto"`
		Ranges        *[][2]int64  `json:"ranges"`
		Rejected      *[]Rejection `json:"rejected"`
		SeqReused     *int64       `json:"seq_reused"`
		Boot          *string      `json:"boot"`
		Accepting     *bool        `json:"accepting"`
		CreditBytes   *int64       `json:"credit_bytes"`
		MaxFrameBytes *int64       `json:"max_frame_bytes"`
	} `json:"data"`
}

func encodeRequest(id int64, node string, epoch int64) ([]byte, error) {
	return json.Marshal(request{1, id, "confirm", confirmArgs{node, epoch}})
}

func decodeReply(id int64, message []byte) (Answer, error) {
	var got reply
	if err := json.Unmarshal(message, &got); err != nil {
		return Answer{}, fmt.Errorf("no reply of the protocol: %w", err)
	}
	if got.ID != id {
		return Answer{}, fmt.Errorf("a reply to %d, not to %d", got.ID, id)
	}
	if !got.OK {
		if got.Error.Retryable {
			return Answer{}, fmt.Errorf("%s: %s", got.Error.Code, got.Error.Message)
		}
		return Answer{}, &RefusedError{got.Error.Code, got.Error.Message}
	}
	data := got.Data
	if data.AcceptedUpto == nil || data.Ranges == nil || data.Rejected == nil || data.SeqReused == nil ||
		data.Boot == nil || data.Accepting == nil || data.CreditBytes == nil || data.MaxFrameBytes == nil {
		return Answer{}, errors.New("no reply of the protocol: a key is missing")
	}
	return Answer{*data.AcceptedUpto, *data.Ranges, *data.Rejected, *data.SeqReused, *data.Boot, *data.Accepting,
		*data.CreditBytes, *data.MaxFrameBytes}, nil
}

type outcome struct {
	epoch  int64
	answer Answer
	err    error
}

// asker is the REQ side. A request that got no answer in time is given up with its connection, since REQ takes no
// second one before the reply; the next request is on a new connection.
type asker struct {
	endpoint, node string
	epochs         chan int64
	outcomes       chan outcome
	peer           *peer
	id             int64
}

func newAsker(endpoint, node string) *asker {
	return &asker{endpoint: endpoint, node: node, epochs: make(chan int64, 1), outcomes: make(chan outcome, 1)}
}

func (a *asker) run(ctx context.Context) {
	defer a.hangUp()
	for {
		select {
		case <-ctx.Done():
			return
		case epoch := <-a.epochs:
			answer, err := a.ask(ctx, epoch)
			a.outcomes <- outcome{epoch, answer, err}
		}
	}
}

func (a *asker) ask(ctx context.Context, epoch int64) (Answer, error) {
	if a.peer == nil {
		fresh, err := dial(ctx, a.endpoint, zmq4.Req)
		if err != nil {
			return Answer{}, err
		}
		a.peer = fresh
	}
	conn := a.peer.conn
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	a.id++
	message, err := a.exchange(a.id, epoch)
	if err != nil {
		a.hangUp()
		return Answer{}, err
	}
	return decodeReply(a.id, message)
}

func (a *asker) exchange(id, epoch int64) ([]byte, error) {
	body, err := encodeRequest(id, a.node, epoch)
	if err != nil {
		return nil, err
	}
	a.peer.conn.SetDeadline(time.Now().Add(answerTimeout))
	// REQ and REP put an empty part before each message.
	if err := a.peer.zmtp.SendMsg(zmq4.NewMsgFrom(nil, body)); err != nil {
		return nil, err
	}
	for {
		message, err := a.peer.zmtp.RecvMsg()
		if err != nil {
			return nil, err
		}
		if message.Type == zmq4.CmdMsg {
			continue
		}
		if len(message.Frames) != 2 || len(message.Frames[0]) != 0 {
			return nil, fmt.Errorf("no reply of a REP socket: %d parts", len(message.Frames))
		}
		return message.Frames[1], nil
	}
}

func (a *asker) hangUp() {
	if a.peer != nil {
		a.peer.conn.Close()
		a.peer = nil
	}
}
