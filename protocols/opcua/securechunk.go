package opcua

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"
)

// chunkReader cuts the stream into chunks (Part 6, 7.1.2.2).
type chunkReader struct {
	in    *bufio.Reader
	limit uint32
	buf   []byte
}

// next returns the next chunk, with all of its headers; it is good until the
// one after.
func (r *chunkReader) next() ([]byte, error) {
	const header = 8
	r.buf = slices.Grow(r.buf[:0], header)[:header]
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return nil, io.EOF
	}
	size := binary.LittleEndian.Uint32(r.buf[4:])
	if size < header || size > r.limit {
		return nil, fmt.Errorf("%w: a chunk of %d bytes", errMalformed, size)
	}
	r.buf = slices.Grow(r.buf, int(size)-header)[:size]
	if _, err := io.ReadFull(r.in, r.buf[header:]); err != nil {
		return nil, io.EOF
	}
	if string(r.buf[:3]) == "ERR" {
		e := new(uacp.Error)
		if _, err := e.Decode(r.buf[header:]); err != nil {
			return nil, fmt.Errorf("%w: an error message: %w", errMalformed, err)
		}
		return nil, e
	}
	if size < chunkHeader {
		return nil, fmt.Errorf("%w: a chunk of %d bytes", errMalformed, size)
	}
	return r.buf, nil
}

// partial is a message whose last chunk is yet to come.
type partial struct {
	body   []byte
	chunks uint32
}

// handle works on one chunk. An error ends the connection.
func (s *secureChannel) handle(c []byte, parts map[uint32]*partial) error {
	switch string(c[:3]) {
	case uasc.MessageTypeOpenSecureChannel:
		return s.handleOpening(c)
	case uasc.MessageTypeCloseSecureChannel:
		return io.EOF
	case uasc.MessageTypeMessage:
	default:
		return fmt.Errorf("%w: a message of type %q", errMalformed, c[:3])
	}
	plain, err := s.unprotect(c)
	if err != nil {
		return err
	}
	if len(plain) < sequenceHeader {
		return fmt.Errorf("%w: a chunk without a sequence header", errMalformed)
	}
	if err := s.inSequence(plain); err != nil {
		return err
	}
	id, body := binary.LittleEndian.Uint32(plain[4:]), plain[sequenceHeader:]
	answer := s.waitsFor(id)
	if answer == nil {
		delete(parts, id) // nobody waits for it any more
		return nil
	}
	return s.collect(c[3], id, body, answer, parts)
}

// inSequence says that the chunk with this plain text follows the one before.
// A signature does not tell whether chunks were taken out on the way, or came
// twice; their numbers do (Part 6, 6.7.2.4). Without signatures, they prove
// nothing.
func (s *secureChannel) inSequence(plain []byte) error {
	if s.cfg.SecurityMode == ua.MessageSecurityModeNone {
		return nil
	}
	n, last, first := binary.LittleEndian.Uint32(plain), s.heard, !s.hasHeard
	s.heard, s.hasHeard = n, true
	if first || n == last+1 || last > sequenceLimit && n < sequenceAnew {
		return nil
	}
	return fmt.Errorf("%w: chunk %d came after chunk %d: on the way some were taken out, or put in twice", errMalformed, n, last)
}

// waitsFor returns who waits for the answer to a request; nil: nobody.
func (s *secureChannel) waitsFor(id uint32) chan incoming {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[id]
}

// collect puts a message together. Only those that somebody waits for are
// kept, so there are never more than there are requests.
func (s *secureChannel) collect(kind byte, id uint32, body []byte, answer chan incoming, parts map[uint32]*partial) error {
	p := parts[id]
	if p == nil {
		s.dropStale(parts)
		p = &partial{body: s.takeSpare()}
		parts[id] = p
	}
	p.chunks++
	if p.chunks > s.conn.MaxChunkCount() || len(p.body)+len(body) > int(s.conn.MaxMessageSize()) {
		return fmt.Errorf("%w: an answer of more than %d bytes in %d chunks", errMalformed, len(p.body), p.chunks)
	}
	in := incoming{}
	switch kind {
	case uasc.ChunkTypeIntermediate:
		p.body = append(p.body, body...)
		return nil
	case uasc.ChunkTypeFinal:
		p.body = append(p.body, body...)
		in.body = p.body
	case uasc.ChunkTypeError:
		var a uasc.MessageAbort
		if _, err := a.Decode(body); err != nil {
			return fmt.Errorf("%w: a broken-off answer: %w", errMalformed, err)
		}
		in.err = ua.StatusCode(a.ErrorCode)
	default:
		return fmt.Errorf("%w: a chunk of kind %q", errMalformed, kind)
	}
	delete(parts, id)
	s.deliver(id, answer, in)
	return nil
}

// dropStale lets go of messages whose end nobody waits for any more: a server
// may begin answers and never end them.
func (s *secureChannel) dropStale(parts map[uint32]*partial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range parts {
		if s.waiting[id] == nil {
			delete(parts, id)
		}
	}
}

// deliver hands an answer over, the first to a request.
func (s *secureChannel) deliver(id uint32, answer chan incoming, in incoming) {
	s.forget(id)
	select {
	case answer <- in:
	default:
	}
}

func (s *secureChannel) takeSpare() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.spare
	s.spare = nil
	return b
}

// handleOpening takes the answer to OpenSecureChannel.
func (s *secureChannel) handleOpening(c []byte) error {
	s.mu.Lock()
	o := s.opening
	s.mu.Unlock()
	if o == nil || c[3] != uasc.ChunkTypeFinal {
		return fmt.Errorf("%w: an answer to no OpenSecureChannel", errMalformed)
	}
	var head uasc.AsymmetricSecurityHeader
	n, err := head.Decode(c[chunkHeader:])
	if err != nil {
		return fmt.Errorf("%w: the answer to OpenSecureChannel: %w", errMalformed, err)
	}
	plain := c[chunkHeader+n:]
	if s.cfg.SecurityMode != ua.MessageSecurityModeNone {
		if head.SecurityPolicyURI != s.cfg.SecurityPolicyURI || !sameLeaf(head.SenderCertificate, s.cfg.RemoteCertificate) {
			return errUnproven
		}
		if plain, err = unprotect(o.algo, slices.Clone(c), chunkHeader+n, true); err != nil {
			return err
		}
	}
	if len(plain) < sequenceHeader || binary.LittleEndian.Uint32(plain[4:]) != o.request {
		return fmt.Errorf("%w: an answer to another OpenSecureChannel", errMalformed)
	}
	if err := s.inSequence(plain); err != nil {
		return err
	}
	body := slices.Clone(plain[sequenceHeader:])
	if err := s.install(o, body); err != nil {
		return err
	}
	if answer := s.waitsFor(o.request); answer != nil {
		s.deliver(o.request, answer, incoming{body: body})
	}
	return nil
}

// install makes the token that an answer brings the newest one. A refusal is
// for who asked, who decodes it again.
func (s *secureChannel) install(o *opening, body []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the answer to OpenSecureChannel: %v", errMalformed, p)
		}
	}()
	_, v, err := ua.DecodeService(body)
	if err != nil {
		return fmt.Errorf("%w: the answer to OpenSecureChannel: %w", errMalformed, err)
	}
	res, ok := v.(*ua.OpenSecureChannelResponse)
	if !ok || res.SecurityToken == nil || res.ResponseHeader == nil || res.ResponseHeader.ServiceResult != ua.StatusOK {
		return nil
	}
	policy := s.cfg.SecurityPolicyURI
	if s.cfg.SecurityMode == ua.MessageSecurityModeNone {
		policy = ua.SecurityPolicyURINone
	}
	if len(res.ServerNonce) < len(o.nonce) {
		return fmt.Errorf("%w: a nonce of %d bytes", errMalformed, len(res.ServerNonce))
	}
	algo, err := uapolicy.Symmetric(policy, o.nonce, res.ServerNonce)
	if err != nil {
		return err
	}
	t := &token{id: res.SecurityToken.TokenID, algo: algo}
	t.lifetime = time.Duration(min(res.SecurityToken.RevisedLifetime, s.cfg.Lifetime)) * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.opening = res.SecurityToken.ChannelID, nil
	s.tokens = [2]*token{t, s.tokens[0]}
	return nil
}

// unprotect returns a chunk's plain text from its sequence header on. A server
// uses the token before until it hears the newest one.
func (s *secureChannel) unprotect(c []byte) ([]byte, error) {
	if len(c) < chunkHeader+tokenHeader+sequenceHeader {
		return nil, fmt.Errorf("%w: a chunk of %d bytes", errMalformed, len(c))
	}
	channel, id := binary.LittleEndian.Uint32(c[8:]), binary.LittleEndian.Uint32(c[chunkHeader:])
	s.mu.Lock()
	ours, tokens := s.id, s.tokens
	s.mu.Unlock()
	if channel != ours {
		return nil, fmt.Errorf("%w: a chunk of another channel", errMalformed)
	}
	for _, t := range tokens {
		if t == nil || t.id != id {
			continue
		}
		if s.cfg.SecurityMode == ua.MessageSecurityModeNone {
			return c[chunkHeader+tokenHeader:], nil
		}
		return unprotect(t.algo, c, chunkHeader+tokenHeader, s.cfg.SecurityMode == ua.MessageSecurityModeSignAndEncrypt)
	}
	return nil, fmt.Errorf("%w: a chunk with an unknown security token", errMalformed)
}

// largestBody is how much of a message goes into a chunk of the given size
// (Part 6, 6.7.2.5).
func largestBody(algo *uapolicy.EncryptionAlgorithm, chunk int) uint32 {
	blocks := (chunk - chunkHeader - tokenHeader) / algo.BlockSize()
	return uint32(algo.PlaintextBlockSize()*blocks - sequenceHeader - algo.SignatureLength() - paddingBytes(algo.RemoteSignatureLength()))
}

// paddingBytes is how many bytes say how much padding there is, for the length
// of the signatures that the key makes which encrypts.
func paddingBytes(signature int) int {
	if signature > 256 {
		return 2
	}
	return 1
}

// protect signs a chunk and, if it is to be encrypted, pads and encrypts it
// behind its headers.
func protect(algo *uapolicy.EncryptionAlgorithm, b []byte, headers int, encrypt bool) ([]byte, error) {
	size := len(b) + algo.SignatureLength()
	if encrypt {
		block, extra := algo.PlaintextBlockSize(), paddingBytes(algo.RemoteSignatureLength())
		padding := (block - (size-headers+extra)%block) % block
		for range padding + 1 {
			b = append(b, byte(padding))
		}
		if extra == 2 {
			b = append(b, byte(padding>>8))
		}
		size = headers + (len(b)-headers+algo.SignatureLength())/block*algo.BlockSize()
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(size))
	signature, err := algo.Signature(b)
	if err != nil {
		return nil, err
	}
	b = append(b, signature...)
	if !encrypt {
		return b, nil
	}
	secret, err := algo.Encrypt(b[headers:])
	if err != nil {
		return nil, err
	}
	return append(b[:headers:headers], secret...), nil
}

// unprotect is the reverse of protect; it returns what is behind the headers,
// without signature and padding, and may write into b.
func unprotect(algo *uapolicy.EncryptionAlgorithm, b []byte, headers int, encrypted bool) ([]byte, error) {
	if encrypted {
		plain, err := algo.Decrypt(b[headers:])
		if err != nil {
			return nil, ua.StatusBadSecurityChecksFailed
		}
		b = append(b[:headers:headers], plain...)
	}
	end := len(b) - algo.RemoteSignatureLength()
	if end < headers || algo.VerifySignature(b[:end], b[end:]) != nil {
		return nil, ua.StatusBadSecurityChecksFailed
	}
	b = b[headers:end]
	if !encrypted {
		return b, nil
	}
	extra := paddingBytes(algo.SignatureLength())
	if len(b) < extra {
		return nil, ua.StatusBadSecurityChecksFailed
	}
	padding := int(b[len(b)-1])
	if extra == 2 {
		padding = padding<<8 | int(b[len(b)-2])
	}
	if padding+extra > len(b) {
		return nil, ua.StatusBadSecurityChecksFailed
	}
	return b[:len(b)-padding-extra], nil
}
