package opcua

import (
	"bufio"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"
)

// secureChannel is the client's end of a secure channel (Part 6, 6.7), made
// of gopcua's policies (uapolicy), headers and codec, with its own reader.
//
// gopcua's SecureChannel (v0.9.1) decodes what arrives where nobody can get
// at it: by reflection, on its reader's goroutine, where what it stumbles over
// ends the program, and after two copies of each chunk. Here the reader cuts
// messages out of the stream, and who asked decodes its answer, with
// decodeService. It also takes the certificate that the answer to
// OpenSecureChannel brings for the server's, and sends with a token while it
// asks for the next one only when nothing else is under way.
type secureChannel struct {
	*uasc.SecureChannel // for its signatures of sessions and users; never opened

	conn     *uacp.Conn
	cfg      *uasc.Config
	errs     chan<- error  // what ended the connection
	ended    chan struct{} // the reader has ended
	closing  chan struct{}
	stop     sync.Once
	routines sync.WaitGroup

	// sending is held while a message is written. It guards what follows.
	sending sync.Mutex
	number  uint32 // of the last chunk sent
	request uint32 // the last request's id

	// The number of the last chunk that came, once one has: the reader's alone.
	heard    uint32
	hasHeard bool

	mu      sync.Mutex
	id      uint32
	waiting map[uint32]chan incoming // by request id; each has room for one
	opening *opening                 // nil: no token is asked for
	tokens  [2]*token                // the newest one first, and the one before
	spare   []byte                   // for the next message
}

// opening is an OpenSecureChannel under way.
type opening struct {
	request uint32
	algo    *uapolicy.EncryptionAlgorithm
	nonce   []byte
}

// token is what messages are protected with for a while (Part 4, 5.6.2).
type token struct {
	id       uint32
	algo     *uapolicy.EncryptionAlgorithm
	lifetime time.Duration
}

// incoming is an answer, or why there is none.
type incoming struct {
	body []byte
	err  error
}

const (
	// chunkHeader is the type, the size and the channel's id; then come the
	// token's id and the sequence header.
	chunkHeader    = 12
	tokenHeader    = 4
	sequenceHeader = 8
	// Numbers of chunks may begin anew once they are above sequenceLimit, and
	// then below sequenceAnew (Part 6, 6.7.2.4).
	sequenceLimit = math.MaxUint32 - 1024
	sequenceAnew  = 1024
	// renewAfter is the share of a token's life after which the next one is
	// asked for (Part 4, 5.6.2.1), and renewAgain that between two attempts.
	renewAfter = 0.75
	renewAgain = 0.05
	// renewPause is between two attempts at the least, whatever the server says.
	renewPause = 50 * time.Millisecond
	// answerGrace is what an answer may take beyond the time that the server
	// was told.
	answerGrace = 250 * time.Millisecond
	// spareLimit is how large a buffer is kept for the next message.
	spareLimit = 1 << 20
)

func newSecureChannel(endpoint string, conn *uacp.Conn, cfg *uasc.Config, errs chan<- error) (*secureChannel, error) {
	signatures, err := uasc.NewSecureChannel(endpoint, conn, cfg, errs)
	if err != nil {
		return nil, err
	}
	return &secureChannel{
		SecureChannel: signatures, conn: conn, cfg: cfg, errs: errs,
		ended: make(chan struct{}), closing: make(chan struct{}), waiting: make(map[uint32]chan incoming),
	}, nil
}

// Open asks for the channel and its first token, and begins to read.
func (s *secureChannel) Open(ctx context.Context) error {
	s.routines.Go(s.read)
	t, err := s.obtain(ctx, ua.SecurityTokenRequestTypeIssue)
	if err != nil {
		return err
	}
	s.routines.Go(func() { s.renew(t.lifetime) }) //nolint:contextcheck // it lasts as long as the channel
	return nil
}

// renew keeps the channel's token fresh until it closes.
func (s *secureChannel) renew(lifetime time.Duration) {
	// Ends with the channel: see below.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	share := renewAfter
	for {
		timer := time.NewTimer(max(renewPause, time.Duration(float64(lifetime)*share)))
		select {
		case <-s.closing:
			timer.Stop()
			return
		case <-s.ended:
			timer.Stop()
			return
		case <-timer.C:
		}
		share = renewAgain
		if t, err := s.obtain(ctx, ua.SecurityTokenRequestTypeRenew); err == nil {
			lifetime, share = t.lifetime, renewAfter
		}
	}
}

// Renew asks for a new token now.
func (s *secureChannel) Renew(ctx context.Context) error {
	_, err := s.obtain(ctx, ua.SecurityTokenRequestTypeRenew)
	return err
}

// errOpening is behind a second OpenSecureChannel during the first.
var errOpening = errors.New("a security token is being asked for already")

// obtain asks for a token. The reader puts it in its place: what comes right
// behind the answer may need it.
func (s *secureChannel) obtain(ctx context.Context, kind ua.SecurityTokenRequestType) (*token, error) {
	algo, err := s.asymmetric()
	if err != nil {
		return nil, err
	}
	nonce, err := algo.MakeNonce()
	if err != nil {
		return nil, err
	}
	req := &ua.OpenSecureChannelRequest{
		RequestType: kind, SecurityMode: s.cfg.SecurityMode, ClientNonce: nonce, RequestedLifetime: s.cfg.Lifetime,
	}
	o := &opening{algo: algo, nonce: nonce}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.opening == o {
			s.opening = nil
		}
	}()
	if err := s.exchange(ctx, req, nil, s.cfg.RequestTimeout, o, func(ua.Response) error { return nil }); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[0], nil
}

// asymmetric is how an OpenSecureChannel is protected, and its answer.
func (s *secureChannel) asymmetric() (*uapolicy.EncryptionAlgorithm, error) {
	if s.cfg.SecurityMode == ua.MessageSecurityModeNone {
		return uapolicy.Asymmetric(ua.SecurityPolicyURINone, nil, nil)
	}
	cert, err := uapolicy.ParseCertificate(s.cfg.RemoteCertificate)
	if err != nil {
		return nil, err
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, ua.StatusBadCertificateInvalid
	}
	return uapolicy.Asymmetric(s.cfg.SecurityPolicyURI, s.cfg.LocalKey, key)
}

// SendRequestWithTimeout sends a request and hands its answer over. A service
// that failed is an error: its ua.StatusCode.
func (s *secureChannel) SendRequestWithTimeout(ctx context.Context, req ua.Request, auth *ua.NodeID, timeout time.Duration, take uasc.ResponseHandler) error {
	return s.exchange(ctx, req, auth, timeout, nil, take)
}

func (s *secureChannel) exchange(ctx context.Context, req ua.Request, auth *ua.NodeID, timeout time.Duration, o *opening, take uasc.ResponseHandler) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	answer := make(chan incoming, 1)
	id, err := s.send(req, auth, timeout, answer, o)
	defer s.forget(id)
	if err != nil {
		return err
	}
	timer := time.NewTimer(timeout + answerGrace)
	defer timer.Stop()
	var in incoming
	select {
	case in = <-answer:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ua.StatusBadTimeout
	case <-s.ended:
		select {
		case in = <-answer: // it came before the end
		default:
			return io.EOF
		}
	}
	if in.err != nil {
		return in.err
	}
	return s.decode(in.body, take)
}

// decode decodes an answer on the goroutine of who asked.
func (s *secureChannel) decode(body []byte, take uasc.ResponseHandler) error {
	v, kept, err := decodeService(body)
	if err != nil {
		return err
	}
	if !kept && cap(body) <= spareLimit {
		s.mu.Lock()
		s.spare = body[:0]
		s.mu.Unlock()
	}
	res, ok := v.(ua.Response)
	if !ok {
		return fmt.Errorf("%w: %T is no answer", errMalformed, v)
	}
	if h := res.Header(); h != nil && h.ServiceResult != ua.StatusOK {
		return h.ServiceResult
	}
	return take(res)
}

func (s *secureChannel) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, id)
}

// send writes a request; its answer goes to the given channel.
func (s *secureChannel) send(req ua.Request, auth *ua.NodeID, timeout time.Duration, answer chan incoming, o *opening) (uint32, error) {
	if auth == nil {
		auth = ua.NewTwoByteNodeID(0)
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	s.request++
	if s.request == 0 {
		s.request = 1
	}
	id := s.request
	req.SetHeader(&ua.RequestHeader{
		AuthenticationToken: auth, Timestamp: time.Now(), RequestHandle: id,
		TimeoutHint: uint32(max(timeout, s.cfg.RequestTimeout) / time.Millisecond),
	})
	s.mu.Lock()
	channel, tok := s.id, s.tokens[0]
	switch {
	case o != nil && s.opening != nil:
		s.mu.Unlock()
		return id, errOpening
	case o != nil:
		o.request, s.opening = id, o
	case tok == nil:
		s.mu.Unlock()
		return id, errors.New("the secure channel is not open")
	}
	if answer != nil {
		s.waiting[id] = answer
	}
	s.mu.Unlock()
	// A write that the other side does not take is not to wait for as long as
	// an answer may.
	if err := s.conn.SetWriteDeadline(time.Now().Add(min(timeout, s.cfg.RequestTimeout))); err != nil {
		return id, err
	}
	if o != nil {
		return id, s.writeOpening(req, channel, id, o)
	}
	return id, s.writeRequest(req, channel, id, tok)
}

// nextNumber counts the chunks that are sent.
func (s *secureChannel) nextNumber() uint32 {
	s.number++
	if s.number == 0 {
		s.number = 1
	}
	return s.number
}

func (s *secureChannel) writeOpening(req ua.Request, channel, id uint32, o *opening) error {
	var cert, thumbprint []byte
	policy := ua.SecurityPolicyURINone
	if s.cfg.SecurityMode != ua.MessageSecurityModeNone {
		cert, thumbprint, policy = s.cfg.Certificate, s.cfg.Thumbprint, s.cfg.SecurityPolicyURI
	}
	head := uasc.NewAsymmetricSecurityHeader(policy, cert, thumbprint)
	m := &uasc.Message{MessageHeader: &uasc.MessageHeader{
		Header: uasc.NewHeader(uasc.MessageTypeOpenSecureChannel, uasc.ChunkTypeFinal, channel), AsymmetricSecurityHeader: head,
		SequenceHeader: uasc.NewSequenceHeader(s.nextNumber(), id),
	}, TypeID: ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(req)), Service: req}
	chunks, err := m.EncodeChunks(math.MaxUint32)
	if err != nil {
		return err
	}
	b := chunks[0]
	if policy != ua.SecurityPolicyURINone {
		if b, err = protect(o.algo, b, chunkHeader+head.Len(), true); err != nil {
			return err
		}
	}
	_, err = s.conn.Write(b)
	return err
}

func (s *secureChannel) writeRequest(req ua.Request, channel, id uint32, t *token) error {
	kind := uasc.MessageTypeMessage
	if _, bye := req.(*ua.CloseSecureChannelRequest); bye {
		kind = uasc.MessageTypeCloseSecureChannel
	}
	m := &uasc.Message{MessageHeader: &uasc.MessageHeader{
		Header: uasc.NewHeader(kind, uasc.ChunkTypeFinal, channel), SymmetricSecurityHeader: uasc.NewSymmetricSecurityHeader(t.id),
		SequenceHeader: uasc.NewSequenceHeader(s.nextNumber(), id),
	}, TypeID: ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(req)), Service: req}
	chunks, err := m.EncodeChunks(largestBody(t.algo, int(s.conn.SendBufSize())))
	if err != nil {
		return err
	}
	for i, b := range chunks {
		if i > 0 {
			binary.LittleEndian.PutUint32(b[chunkHeader+tokenHeader:], s.nextNumber())
		}
		if s.cfg.SecurityMode != ua.MessageSecurityModeNone {
			if b, err = protect(t.algo, b, chunkHeader+tokenHeader, s.cfg.SecurityMode == ua.MessageSecurityModeSignAndEncrypt); err != nil {
				return err
			}
		}
		if _, err := s.conn.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// Close says goodbye, which has no answer, and ends the connection. It
// returns when the channel's goroutines have ended.
func (s *secureChannel) Close() error {
	s.stop.Do(func() {
		_, _ = s.send(&ua.CloseSecureChannelRequest{}, nil, s.cfg.RequestTimeout, nil, nil)
		close(s.closing)
		_ = s.conn.Close()
	})
	s.routines.Wait()
	return nil
}

// read takes messages apart until the connection ends.
func (s *secureChannel) read() {
	defer close(s.ended)
	in := chunkReader{in: bufio.NewReaderSize(s.conn, 4096), limit: s.conn.ReceiveBufSize()}
	parts := make(map[uint32]*partial)
	for {
		// The headers are gopcua's: where an int has 32 bits it takes a length
		// of 1<<31 for one below zero, and panics.
		err := guarded(func() error {
			c, err := in.next()
			if err != nil {
				return err
			}
			return s.handle(c, parts)
		})
		if err == nil {
			continue
		}
		select {
		case <-s.closing:
			err = nil
		default:
		}
		if err != nil {
			select {
			case s.errs <- err:
			default:
			}
		}
		// Whoever waits is not to wait for a server that has lost its place.
		_ = s.conn.Close()
		return
	}
}
