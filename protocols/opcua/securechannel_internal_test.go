package opcua

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"

	"millrace/protocols/opcua/opcuatest"
)

// TestProtect: what is protected is what comes out again, for all policies,
// key sizes and lengths; and nothing else does.
func TestProtect(t *testing.T) {
	t.Parallel()
	keys := map[int]*rsa.PrivateKey{}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		keys[bits] = key
	}
	for _, policy := range uapolicy.SupportedPolicies() {
		if policy == ua.SecurityPolicyURINone {
			continue
		}
		one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
		ours, err1 := uapolicy.Symmetric(policy, one, two)
		theirs, err2 := uapolicy.Symmetric(policy, two, one)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		tryProtect(t, policy+" symmetric, encrypted", ours, theirs, true)
		tryProtect(t, policy+" symmetric, signed", ours, theirs, false)
		for local, a := range keys {
			for remote, b := range keys {
				ours, err1 := uapolicy.Asymmetric(policy, a, &b.PublicKey)
				theirs, err2 := uapolicy.Asymmetric(policy, b, &a.PublicKey)
				if err := errors.Join(err1, err2); err != nil {
					continue // larger keys than the policy knows
				}
				_, _ = local, remote
				tryProtect(t, policy+" asymmetric", ours, theirs, true)
			}
		}
	}
}

func tryProtect(t *testing.T, name string, ours, theirs *uapolicy.EncryptionAlgorithm, encrypt bool) {
	t.Helper()
	const headers = 16
	for _, size := range []int{8, 9, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112} {
		b := make([]byte, headers+size)
		for i := range b {
			b[i] = byte(i)
		}
		plain := slices.Clone(b[headers:])
		sent, err := protect(ours, b, headers, encrypt)
		if err != nil {
			t.Fatalf("%s, %d bytes: %v", name, size, err)
		}
		if n := binary.LittleEndian.Uint32(sent[4:]); int(n) != len(sent) {
			t.Errorf("%s: says %d bytes and has %d", name, n, len(sent))
		}
		got, err := unprotect(theirs, slices.Clone(sent), headers, encrypt)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%s, %d bytes: %v %v", name, size, got, err)
		}
		for _, wrong := range [][]byte{sent[:len(sent)-1], sent[:headers], slices.Concat(sent[:headers], sent[headers+1:]), flipped(sent, headers), flipped(sent, len(sent)-1)} {
			if got, err := unprotect(theirs, slices.Clone(wrong), headers, encrypt); err == nil {
				t.Errorf("%s: a damaged chunk gave %v", name, got)
			}
		}
	}
}

func flipped(b []byte, at int) []byte {
	c := slices.Clone(b)
	c[at] ^= 1
	return c
}

// TestChunkReader: streams that make no sense end the connection.
func TestChunkReader(t *testing.T) {
	t.Parallel()
	chunk := func(kind string, size uint32, rest ...byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte(kind), size), rest...)
	}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":      {nil, io.EOF},
		"cut off":      {chunk("MSGF", 20, 1, 2), io.EOF},
		"too short":    {chunk("MSGF", 7), errMalformed},
		"too large":    {chunk("MSGF", 1<<20), errMalformed},
		"no channel":   {chunk("MSGF", 10, 0, 0), errMalformed},
		"error, short": {chunk("ERRF", 9, 0), errMalformed},
	} {
		r := chunkReader{in: bufio.NewReader(bytes.NewReader(c.in)), limit: 1000}
		if got, err := r.next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// dialPlain opens a channel to a simulator.
func dialPlain(t *testing.T) *channel {
	t.Helper()
	srv, err := opcuatest.NewServer(opcuatest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	u, err := parseEndpoint(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := hello(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	cfg := plainConfig()
	cfg.Lifetime, cfg.RequestTimeout = uint32(time.Hour/time.Millisecond), 5*time.Second
	c := &channel{conn: conn, timeout: 5 * time.Second, errs: make(chan error, 16)}
	if c.sc, err = newSecureChannel(u.String(), conn, cfg, c.errs); err != nil {
		t.Fatal(err)
	}
	if err := c.sc.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// TestChannelChunks hands the reader chunks that no simulator sends.
func TestChannelChunks(t *testing.T) {
	t.Parallel()
	const request = 1000
	msg := func(kind byte, channel, token uint32, body []byte) []byte {
		b := append([]byte("MSG"), kind, 0, 0, 0, 0)
		for _, n := range []uint32{channel, token, 1, request} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return append(b, body...)
	}
	body := publishBody(t, changes(1.5))
	abort := append(binary.LittleEndian.AppendUint32(nil, uint32(ua.StatusBadResponseTooLarge)), 0xff, 0xff, 0xff, 0xff)
	for name, c := range map[string]struct {
		chunks  func(id, token uint32) [][]byte
		ends    error // the connection
		refused error // the request
	}{
		"three chunks": {func(id, token uint32) [][]byte {
			return [][]byte{msg('C', id, token, body[:5]), msg('C', id, token, body[5:9]), msg('F', id, token, body[9:])}
		}, nil, nil},
		"broken off": {func(id, token uint32) [][]byte {
			return [][]byte{msg('C', id, token, body[:5]), msg('A', id, token, abort)}
		}, nil, ua.StatusBadResponseTooLarge},
		"another channel": {func(id, token uint32) [][]byte { return [][]byte{msg('F', id+1, token, body)} }, errMalformed, nil},
		"another token":   {func(id, token uint32) [][]byte { return [][]byte{msg('F', id, token+1, body)} }, errMalformed, nil},
		"unknown kind":    {func(id, token uint32) [][]byte { return [][]byte{msg('X', id, token, body)} }, errMalformed, nil},
		"too short":       {func(uint32, uint32) [][]byte { return [][]byte{[]byte("MSGF\x0c\x00\x00\x00\x01\x00\x00\x00")} }, errMalformed, nil},
		"closed":          {func(uint32, uint32) [][]byte { return [][]byte{[]byte("CLOF\x0c\x00\x00\x00\x01\x00\x00\x00")} }, io.EOF, nil},
		"unasked opening": {func(uint32, uint32) [][]byte { return [][]byte{[]byte("OPNF\x0c\x00\x00\x00\x01\x00\x00\x00")} }, errMalformed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := dialPlain(t).sc
			answer := make(chan incoming, 1)
			s.mu.Lock()
			s.waiting[request] = answer
			channel, token := s.id, s.tokens[0].id
			s.mu.Unlock()
			parts := map[uint32]*partial{}
			var err error
			for _, chunk := range c.chunks(channel, token) {
				if err = s.handle(chunk, parts); err != nil {
					break
				}
			}
			if !errors.Is(err, c.ends) {
				t.Errorf("%v, want %v", err, c.ends)
			}
			if c.ends != nil {
				return
			}
			in := <-answer
			if !errors.Is(in.err, c.refused) || c.refused == nil && !bytes.Equal(in.body, body) {
				t.Errorf("%v", in)
			}
			if len(parts) != 0 {
				t.Errorf("%d messages left behind", len(parts))
			}
		})
	}
}

// TestPartialAnswers: what came of answers that nobody waits for any more is
// not kept.
func TestPartialAnswers(t *testing.T) {
	t.Parallel()
	s := dialPlain(t).sc
	s.mu.Lock()
	channel, token := s.id, s.tokens[0].id
	s.mu.Unlock()
	parts := map[uint32]*partial{}
	for request := uint32(1000); request < 1100; request++ {
		s.mu.Lock()
		s.waiting[request] = make(chan incoming, 1)
		s.mu.Unlock()
		b := []byte("MSGC\x00\x00\x00\x00")
		for _, n := range []uint32{channel, token, 1, request} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		if err := s.handle(append(b, make([]byte, 1000)...), parts); err != nil {
			t.Fatal(err)
		}
		s.forget(request) // its time is over
	}
	if len(parts) > 1 {
		t.Errorf("%d messages are kept", len(parts))
	}
}

// TestChannelAborts: requests that end early leave nothing behind, and the
// next ones go on.
func TestChannelAborts(t *testing.T) {
	t.Parallel()
	c := dialPlain(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := func() ua.Request { return &ua.GetEndpointsRequest{EndpointURL: "opc.tcp://x"} }
	if _, err := c.request(ctx, req(), nil, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := answer[*ua.GetEndpointsResponse](c.request(t.Context(), req(), nil, time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := c.request(t.Context(), &ua.ReadRequest{NodesToRead: []*ua.ReadValueID{valueOfNode(ua.NewNumericNodeID(0, id.Server_ServerStatus_State), "")}}, nil, time.Second); !errors.Is(err, ua.StatusBadSessionIDInvalid) {
		t.Errorf("%v", err)
	}
	c.sc.mu.Lock()
	defer c.sc.mu.Unlock()
	if len(c.sc.waiting) != 0 {
		t.Errorf("%d requests are still waited for", len(c.sc.waiting))
	}
}

// Of signed chunks none may be missing, and none come twice.
func TestChunkSequence(t *testing.T) {
	t.Parallel()
	const last = math.MaxUint32
	for _, c := range []struct {
		mode    ua.MessageSecurityMode
		numbers []uint32
		ok      bool
	}{
		{ua.MessageSecurityModeSign, []uint32{51, 52, 53}, true},
		{ua.MessageSecurityModeSignAndEncrypt, []uint32{last - 1024, last - 1023, 1}, true},
		{ua.MessageSecurityModeSign, []uint32{last - 1, last, 0, 1}, true},
		{ua.MessageSecurityModeSign, []uint32{51, 53}, false},
		{ua.MessageSecurityModeSign, []uint32{51, 51}, false},
		{ua.MessageSecurityModeSign, []uint32{51, 50}, false},
		{ua.MessageSecurityModeSign, []uint32{last - 1024, 1}, false},
		{ua.MessageSecurityModeSign, []uint32{last, 1024}, false},
		{ua.MessageSecurityModeNone, []uint32{7, 7, 3}, true},
	} {
		s := &secureChannel{cfg: &uasc.Config{SecurityMode: c.mode}}
		var err error
		for _, n := range c.numbers {
			err = errors.Join(err, s.inSequence(binary.LittleEndian.AppendUint32(nil, n)))
		}
		if (err == nil) != c.ok || err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("%v: %v", c.numbers, err)
		}
	}
	s := &secureChannel{number: last - 1}
	if a, b := s.nextNumber(), s.nextNumber(); a != last || b != 1 {
		t.Errorf("our own are %d, %d", a, b)
	}
}

// A signed chunk that somebody on the way sends again ends the channel.
func TestChunkReplay(t *testing.T) {
	t.Parallel()
	client, server := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	theirs, err := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, server, client)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, client, server)
	if err != nil {
		t.Fatal(err)
	}
	s := &secureChannel{id: 5, cfg: &uasc.Config{SecurityMode: ua.MessageSecurityModeSign}, tokens: [2]*token{{id: 6, algo: ours}}}
	chunk := func(number uint32) []byte {
		b := []byte("MSGF\x00\x00\x00\x00")
		for _, n := range []uint32{5, 6, number, 1000} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		b, err := protect(theirs, append(b, "body"...), chunkHeader+tokenHeader, false)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parts := map[uint32]*partial{}
	for _, n := range []uint32{1, 2} {
		if err := s.handle(chunk(n), parts); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.handle(chunk(2), parts); !errors.Is(err, errMalformed) {
		t.Errorf("the second time: %v", err)
	}
}
