package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
)

const dialTimeout = 2 * time.Second

// peer is one ZMTP connection.
//
// zmq4's own sockets are not used, only its protocol. In v0.17.0 a PUSH whose peer went away reports one error and from
// then on sends to nobody without any; with automatic reconnection it dials again while it holds the lock that the new
// connection needs, so that a Send stands still for its whole timeout (5 minutes) and loses its frame; a Send that timed
// out goes on writing in the background; the handshake of Dial and the Recv of REQ have no time limit at all. On a bare
// connection every wait has an end, and every loss that can be noticed is an error.
type peer struct {
	conn net.Conn
	zmtp *zmq4.Conn
}

// dial connects and shakes hands. Without an identity: a REP that has not yet noticed the end of an old connection
// would refuse a new one of the same name.
func dial(ctx context.Context, endpoint string, kind zmq4.SocketType) (*peer, error) {
	address, ok := strings.CutPrefix(endpoint, "tcp://")
	if !ok {
		return nil, fmt.Errorf("endpoint %q (allowed: tcp://host:port)", endpoint)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// A daemon that hangs still lets the kernel accept connections.
	conn.SetDeadline(time.Now().Add(dialTimeout))
	zmtp, err := zmq4.Open(conn, null.Security(), kind, nil, false, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &peer{conn, zmtp}, nil
}
