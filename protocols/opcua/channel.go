package opcua

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uasc"
)

// The sizes we offer in the Hello. One answer may fill 512 chunks of 64 kB:
// what is larger is refused before it fills the gateway's memory.
const (
	chunkSize      = 0xFFFF
	maxChunks      = 512
	maxMessage     = 16 << 20
	minServerChunk = 1024 // the standard wants 8192 (Part 6, 7.1.2.3); some small devices have less
)

// channelLifetime is how long a security token holds before it is renewed
// (by gopcua, after three quarters of it).
const channelLifetime = time.Hour

// channel is a secure channel on a TCP connection of its own, so that it can
// always be cut.
type channel struct {
	conn    *uacp.Conn
	sc      *secureChannel
	timeout time.Duration // of a request
	errs    chan error    // what the channel's reader says about the connection
}

// openChannel connects to u and opens a channel with what cfg says about
// security. It keeps cfg: gopcua writes into it.
func openChannel(ctx context.Context, u *url.URL, cfg *uasc.Config, timeout, lifetime time.Duration) (*channel, error) {
	conn, err := hello(ctx, u)
	if err != nil {
		return nil, err
	}
	cfg.Lifetime = uint32(lifetime / time.Millisecond)
	cfg.RequestTimeout = timeout
	c := &channel{conn: conn, timeout: timeout, errs: make(chan error, 16)}
	c.sc, err = newSecureChannel(u.String(), conn, cfg, c.errs)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := guarded(func() error { return c.sc.Open(ctx) }); err != nil {
		err = c.because(err)
		c.close()
		return nil, err
	}
	return c, nil
}

// hello dials and shakes hands. gopcua's own Dial is not used: it takes the
// server's receive buffer for the size of what the server may send, and
// breaks off when a server with a small receive buffer sends a large chunk.
func hello(ctx context.Context, u *url.URL) (*uacp.Conn, error) {
	nc, err := dial(ctx, u.Host)
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no TCP address", u.Host), nc.Close())
	}
	// gopcua heeds the deadline of ctx here, but not its end.
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	defer stop()
	first, err := uacp.NewConn(tcp, &uacp.Acknowledge{
		ReceiveBufSize: chunkSize, SendBufSize: chunkSize, MaxChunkCount: maxChunks, MaxMessageSize: maxMessage,
	})
	if err == nil {
		err = guarded(func() error { return first.Handshake(ctx, u.String()) })
	}
	if err == nil && first.ReceiveBufSize() < minServerChunk {
		err = fmt.Errorf("the server takes only %d bytes at a time", first.ReceiveBufSize())
	}
	if err != nil {
		_ = tcp.Close()
		return nil, errors.Join(ctx.Err(), foreign(err))
	}
	return uacp.NewConn(tcp, &uacp.Acknowledge{
		ReceiveBufSize: chunkSize,
		SendBufSize:    min(first.ReceiveBufSize(), chunkSize),
		MaxChunkCount:  maxChunks,
		MaxMessageSize: maxMessage,
	})
}

// foreign says that whoever listens there does not speak OPC UA, unless the
// error has a plainer cause.
func foreign(err error) error {
	if _, said := errors.AsType[*uacp.Error](err); said {
		return err
	}
	if _, network := errors.AsType[net.Error](err); network || errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("whoever listens there does not answer like an OPC UA server; check the port: %w", err)
}

// errBroken is behind every connection whose reader has lost its place.
var errBroken = errors.New("the stream from the server cannot be followed any more")

// because returns what broke the channel, if that is known, instead of the
// io.EOF or the time-out that a waiting request sees.
func (c *channel) because(err error) error {
	timeout := errors.Is(err, ua.StatusBadTimeout) || errors.Is(err, context.DeadlineExceeded)
	if !timeout && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		select {
		case e := <-c.errs:
			if said, ok := errors.AsType[*uacp.Error](e); ok {
				return said
			}
			if !errors.Is(e, io.EOF) {
				return fmt.Errorf("%w: %w", errBroken, e)
			}
		default:
			return err
		}
	}
}

// request sends req and waits for its answer. A service that failed is an
// error too: its ua.StatusCode.
func (c *channel) request(ctx context.Context, req ua.Request, token *ua.NodeID, timeout time.Duration) (ua.Response, error) {
	var res ua.Response
	err := guarded(func() error {
		return c.sc.SendRequestWithTimeout(ctx, req, token, timeout, func(r ua.Response) error {
			res = r
			return nil
		})
	})
	if err != nil {
		return nil, c.because(err)
	}
	return res, nil
}

// errPanicked is behind what gopcua stumbled over.
var errPanicked = errors.New("the server said something that the OPC UA library could not take")

// guarded calls into gopcua, which takes much of what a server says for
// granted. Answers are decoded in it, too: see secureChannel.
func guarded(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return call()
}

// closeGrace is how long saying goodbye may take.
const closeGrace = 300 * time.Millisecond

// close ends the channel, politely if that is quick.
func (c *channel) close() {
	// gopcua waits for as long as a request may take, and for a renewal that
	// is under way; without the connection neither waits.
	cut := time.AfterFunc(closeGrace, func() { _ = c.conn.Close() })
	defer cut.Stop()
	_ = c.sc.Close()
	_ = c.conn.Close()
}

// answer asserts the type of a response.
func answer[R ua.Response](res ua.Response, err error) (R, error) {
	var none R
	if err != nil {
		return none, err
	}
	r, ok := res.(R)
	if !ok {
		return none, fmt.Errorf("%w: %T where %T was asked for", errMalformed, res, none)
	}
	return r, nil
}

// errMalformed is behind every answer that breaks the protocol.
var errMalformed = errors.New("an answer that breaks the protocol")
