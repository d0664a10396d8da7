package opcua

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"
)

// openingAnswer is an answer to OpenSecureChannel, and how it is protected.
type openingAnswer struct {
	policy   string
	cert     []byte
	request  uint32
	nonce    []byte
	lifetime uint32
	final    byte
	algo     *uapolicy.EncryptionAlgorithm
}

func (a openingAnswer) encode(t *testing.T) []byte {
	t.Helper()
	res := &ua.OpenSecureChannelResponse{
		ResponseHeader: &ua.ResponseHeader{ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil)},
		SecurityToken:  &ua.ChannelSecurityToken{ChannelID: 5, TokenID: 6, RevisedLifetime: a.lifetime}, ServerNonce: a.nonce,
	}
	head := uasc.NewAsymmetricSecurityHeader(a.policy, a.cert, make([]byte, 20))
	m := &uasc.Message{MessageHeader: &uasc.MessageHeader{
		Header: uasc.NewHeader(uasc.MessageTypeOpenSecureChannel, a.final, 5), AsymmetricSecurityHeader: head,
		SequenceHeader: uasc.NewSequenceHeader(1, a.request),
	}, TypeID: ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(res)), Service: res}
	chunks, err := m.EncodeChunks(math.MaxUint32)
	if err != nil {
		t.Fatal(err)
	}
	b, err := protect(a.algo, chunks[0], chunkHeader+head.Len(), true)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOpeningAnswer hands the reader answers to OpenSecureChannel that come
// from somebody else, for something else, or are too weak.
func TestOpeningAnswer(t *testing.T) {
	t.Parallel()
	client, server, other := issue(t, nil, named("us"), 2048, 0), issue(t, nil, named("plc"), 2048, 1), issue(t, nil, named("other"), 2048, 2)
	const policy, weaker = ua.SecurityPolicyURIBasic256Sha256, ua.SecurityPolicyURIBasic128Rsa15
	algo := func(policy string, a, b *cert) *uapolicy.EncryptionAlgorithm {
		alg, err := uapolicy.Asymmetric(policy, a.key, &b.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return alg
	}
	for name, c := range map[string]struct {
		change func(*openingAnswer)
		want   error
	}{
		"good":                {func(*openingAnswer) {}, nil},
		"a chain":             {func(a *openingAnswer) { a.cert = slices.Concat(server.Raw, other.Raw) }, nil},
		"a weaker policy":     {func(a *openingAnswer) { a.policy, a.algo = weaker, algo(weaker, server, client) }, errUnproven},
		"its name alone":      {func(a *openingAnswer) { a.policy = weaker }, errUnproven},
		"policy None":         {func(a *openingAnswer) { a.policy = ua.SecurityPolicyURINone }, errUnproven},
		"another certificate": {func(a *openingAnswer) { a.cert, a.algo = other.Raw, algo(policy, other, client) }, errUnproven},
		"its bytes alone":     {func(a *openingAnswer) { a.cert = other.Raw }, errUnproven},
		"no certificate":      {func(a *openingAnswer) { a.cert = nil }, errUnproven},
		"another key":         {func(a *openingAnswer) { a.algo = algo(policy, other, client) }, ua.StatusBadSecurityChecksFailed},
		"for somebody else":   {func(a *openingAnswer) { a.algo = algo(policy, server, other) }, ua.StatusBadSecurityChecksFailed},
		"another request":     {func(a *openingAnswer) { a.request++ }, errMalformed},
		"a short nonce":       {func(a *openingAnswer) { a.nonce = a.nonce[:31] }, errMalformed},
		"no nonce":            {func(a *openingAnswer) { a.nonce = nil }, errMalformed},
		"not whole":           {func(a *openingAnswer) { a.final = 'C' }, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := openingAnswer{policy: policy, cert: server.Raw, request: 7, nonce: make([]byte, 32), lifetime: math.MaxUint32, final: 'F', algo: algo(policy, server, client)}
			c.change(&a)
			asked := make(chan incoming, 1)
			s := &secureChannel{
				cfg:     &uasc.Config{SecurityMode: ua.MessageSecurityModeSign, SecurityPolicyURI: policy, RemoteCertificate: server.Raw, Lifetime: 3600_000},
				opening: &opening{request: 7, algo: algo(policy, client, server), nonce: make([]byte, 32)}, waiting: map[uint32]chan incoming{7: asked},
			}
			b := a.encode(t)
			if err := s.handle(b, nil); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want != nil {
				if s.tokens[0] != nil || len(asked) != 0 {
					t.Error("it was taken all the same")
				}
				return
			}
			if s.id != 5 || s.tokens[0].id != 6 || s.tokens[0].lifetime != time.Hour || len(asked) != 1 {
				t.Errorf("channel %d: %+v", s.id, s.tokens[0])
			}
			if err := s.handle(b, nil); !errors.Is(err, errMalformed) {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

// TestOddPadding: what says that it has more padding than there is, is refused.
func TestOddPadding(t *testing.T) {
	t.Parallel()
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	ours, err1 := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, one, two)
	theirs, err2 := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, two, one)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for padding, ok := range map[byte]bool{7: true, 15: true, 16: false, 255: false} {
		b := make([]byte, chunkHeader+tokenHeader+16)
		b[len(b)-1] = padding
		signature, err := theirs.Signature(b)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := theirs.Encrypt(append(b[chunkHeader+tokenHeader:len(b):len(b)], signature...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := unprotect(ours, append(b[:chunkHeader+tokenHeader:chunkHeader+tokenHeader], secret...), chunkHeader+tokenHeader, true)
		if (err == nil) != ok || ok && len(got) != 15-int(padding) {
			t.Errorf("padding of %d: %v %v", padding, got, err)
		}
	}
}

// TestEndlessAnswer: an answer that does not end is not kept for ever.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 60_000} {
		s := dialPlain(t).sc
		s.mu.Lock()
		b := []byte("MSGC\x00\x00\x00\x00")
		for _, n := range []uint32{s.id, s.tokens[0].id, 1, 1000} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		s.waiting[1000] = make(chan incoming, 1)
		s.mu.Unlock()
		b = append(b, make([]byte, size)...)
		parts := map[uint32]*partial{}
		chunks := 0
		var err error
		for ; err == nil && chunks < 2*maxChunks; chunks++ {
			err = s.handle(b, parts)
		}
		if most := min(maxChunks, maxMessage/size) + 1; !errors.Is(err, errMalformed) || chunks != most {
			t.Errorf("%d chunks of %d bytes: %v", chunks, size, err)
		}
	}
}
