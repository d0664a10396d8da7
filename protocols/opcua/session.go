package opcua

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"
)

// minSessionTimeout is how long a server keeps the session of a gateway that
// has gone. It is renewed by every request.
const minSessionTimeout = time.Minute

// connConf is what a connection needs to know; the same for all devices on it.
type connConf struct {
	url            *url.URL // as configured, with the port
	security       security
	user           user
	trust          trustList
	tolerate       []string
	trustLook      time.Duration // how often a standing connection's certificate is looked up again
	device         string        // one of those on it, for messages
	timeout        time.Duration // of a request, and of connecting as a whole
	sessionTimeout time.Duration
	maxPerCall     int           // nodes of one request; 0: as many as the server says
	lifetime       time.Duration // of a security token
	profile        string        // see profiles; empty: auto
}

// session is an activated session on its own channel.
type session struct {
	ch         *channel
	token      *ua.NodeID // the authentication token that each request carries
	limits     limits
	namespaces []string
	types      atomic.Pointer[typeBook] // what is known of the server's data types
	pub        *publisher               // nil until the first subscription
	hist       *historian               // the same

	notes  []string    // what is to be said of its security
	watch  *trustWatch // nil: the server's certificate is not checked
	bond   bond
	broken atomic.Bool // the connection, or the session, does not work; it may be gone on with
	paths  pathBook    // what browse paths lead to
}

// errUnproven is behind every way in which a server failed to prove that it
// holds the key of its certificate.
var errUnproven = errors.New("the server could not prove that it is the owner of its certificate; check that nothing stands between it and the gateway")

var (
	// errShutOut is behind a channel that the server closed without a word.
	errShutOut = errors.New("closed while the secure channel was opened")
	// errDowngraded is behind a list of endpoints that was made weaker on its way.
	errDowngraded = errors.New("the server offers a stronger security than its first, unprotected answer said; somebody may have changed that answer. Name policy and mode in security: {policy: …, mode: …}")
)

// openSession connects, checks who is there, and logs in.
// It goes on with an old session, if there is one and the server still has it.
func (d *Driver) openSession(ctx context.Context, conf *connConf, old *survivor) (*session, error) {
	ch, err := openChannel(ctx, conf.url, plainConfig(), conf.timeout, conf.lifetime)
	if err != nil {
		return nil, err
	}
	endpoint, err := discover(ctx, ch, conf)
	if err != nil {
		ch.close()
		return nil, err
	}
	l, at, v, err := d.admit(endpoint, conf)
	if err != nil {
		ch.close()
		return nil, err
	}
	cfg := plainConfig()
	if endpoint.SecurityMode != ua.MessageSecurityModeNone || *at != *conf.url {
		// Discovery needed no security: the session has a channel of its own.
		ch.close()
		if cfg, err = d.channelConfig(endpoint); err != nil {
			return nil, err
		}
		if ch, err = openChannel(ctx, at, cfg, conf.timeout, conf.lifetime); err != nil {
			if errors.Is(err, io.EOF) && endpoint.SecurityMode != ua.MessageSecurityModeNone {
				err = fmt.Errorf("%w: %w", errShutOut, err)
			}
			return nil, err
		}
	}
	s := &session{ch: ch, limits: ownLimits(), notes: d.securityNotes(endpoint, v)}
	goesOn, err := d.goOn(ctx, s, cfg, endpoint, l, conf, old)
	if err == nil && !goesOn {
		if err = d.login(ctx, s, cfg, endpoint, l, at, conf); err == nil {
			err = s.readLimits(ctx, conf)
		}
	}
	if err != nil {
		s.close() //nolint:contextcheck // closing is bounded by itself, and must not be cut short
		return nil, err
	}
	if v != nil {
		s.watch = d.watchTrust(ch, endpoint, conf)
	}
	return s, nil
}

func plainConfig() *uasc.Config {
	return &uasc.Config{SecurityPolicyURI: ua.SecurityPolicyURINone, SecurityMode: ua.MessageSecurityModeNone}
}

// discover asks the server for its endpoints and picks one.
func discover(ctx context.Context, ch *channel, conf *connConf) (*ua.EndpointDescription, error) {
	res, err := answer[*ua.GetEndpointsResponse](ch.request(ctx,
		&ua.GetEndpointsRequest{EndpointURL: conf.url.String()}, nil, conf.timeout))
	if err != nil {
		return nil, err
	}
	return conf.security.choose(res.Endpoints, conf.url)
}

// admit decides how to log in, whether the server's certificate will do, and
// where to connect: always to the configured host, as many servers announce
// names that only they can resolve, but with the path that they announce.
func (d *Driver) admit(e *ua.EndpointDescription, conf *connConf) (login, *url.URL, *verdict, error) {
	l, err := chooseLogin(e, conf.user)
	if err != nil {
		return l, nil, nil, err
	}
	// Policy None says that the server's identity is not checked. A password
	// is encrypted for its certificate even then: that keeps it from those who
	// only listen, not from one who stands in for the server.
	var v *verdict
	if e.SecurityMode != ua.MessageSecurityModeNone {
		if v, err = conf.trust.verify(e.ServerCertificate, d.demand(e, conf), conf.device); err != nil {
			return l, nil, nil, err
		}
	}
	at := *conf.url
	if u, err := url.Parse(e.EndpointURL); err == nil && at.Path == "" && u.Path != "/" {
		at.Path = u.Path
	}
	return l, &at, v, nil
}

// channelConfig is a fresh configuration for a channel to e: gopcua overwrites
// some of it with what the other side says.
func (d *Driver) channelConfig(e *ua.EndpointDescription) (*uasc.Config, error) {
	if e.SecurityMode == ua.MessageSecurityModeNone {
		return plainConfig(), nil
	}
	own, err := d.identity()
	if err != nil {
		return nil, err
	}
	if text := keyFault(&own.key.PublicKey, policyName(e.SecurityPolicyURI)); text != "" {
		return nil, &certError{text: fmt.Sprintf("this gateway's own certificate %s: %s; name another security.policy, or put a certificate with such a key there", own.path, text)}
	}
	return &uasc.Config{
		SecurityPolicyURI: e.SecurityPolicyURI,
		SecurityMode:      e.SecurityMode,
		// gopcua appends to these: the copies have no room for it to write
		// into what others read.
		Certificate:       slices.Clip(own.cert),
		RemoteCertificate: slices.Clip(slices.Clone(e.ServerCertificate)),
		Thumbprint:        uapolicy.Thumbprint(e.ServerCertificate),
		LocalKey:          own.key,
	}, nil
}

// login creates and activates the session (Part 4, 5.6.2 and 5.6.3).
func (d *Driver) login(ctx context.Context, s *session, cfg *uasc.Config, e *ua.EndpointDescription, l login, at *url.URL, conf *connConf) error {
	secure := e.SecurityMode != ua.MessageSecurityModeNone
	if secure && !sameLeaf(cfg.RemoteCertificate, e.ServerCertificate) {
		// gopcua takes whatever certificate the answer to OpenSecureChannel brings.
		return errUnproven
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	res, err := answer[*ua.CreateSessionResponse](s.ch.request(ctx, &ua.CreateSessionRequest{
		ClientDescription: &ua.ApplicationDescription{
			ApplicationURI:  d.applicationURI(secure),
			ProductURI:      productURI,
			ApplicationName: ua.NewLocalizedText(d.o.ApplicationName),
			ApplicationType: ua.ApplicationTypeClient,
		},
		EndpointURL:             at.String(),
		SessionName:             d.o.ApplicationName,
		ClientNonce:             nonce,
		ClientCertificate:       cfg.Certificate,
		RequestedSessionTimeout: float64(conf.sessionTimeout / time.Millisecond),
		MaxResponseMessageSize:  maxMessage,
	}, nil, conf.timeout))
	if err != nil {
		return err
	}
	if secure {
		sig := res.ServerSignature
		if sig == nil || !sameLeaf(res.ServerCertificate, e.ServerCertificate) ||
			!proven(e.SecurityPolicyURI, e.ServerCertificate, cfg.Certificate, nonce, sig.Signature) {
			return errUnproven
		}
	}
	s.token = res.AuthenticationToken
	s.bond = newBond(e, res)
	if secure {
		// Part 4, 5.6.2: what was offered without protection, compared with
		// what the server says under it. Where a policy was named, the mode may
		// still be open.
		if best, err := conf.security.choose(res.ServerEndpoints, conf.url); err == nil && conf.security.strength(best) > conf.security.strength(e) {
			return errDowngraded
		}
	}
	return s.activate(ctx, e, cfg, res.ServerNonce, l, conf)
}

func (s *session) activate(ctx context.Context, e *ua.EndpointDescription, cfg *uasc.Config, nonce []byte, l login, conf *connConf) error {
	sig, err := sign(e.SecurityPolicyURI, cfg.LocalKey, e.ServerCertificate, nonce)
	if err != nil {
		return err
	}
	token, tokenSig, err := conf.user.token(l, e.ServerCertificate, nonce)
	if err != nil {
		return err
	}
	res, err := answer[*ua.ActivateSessionResponse](s.ch.request(ctx, &ua.ActivateSessionRequest{
		ClientSignature:    sig,
		UserIdentityToken:  ua.NewExtensionObject(token),
		UserTokenSignature: tokenSig,
	}, s.token, conf.timeout))
	if err == nil {
		s.bond.nonce = res.ServerNonce
	}
	return err
}

// sameLeaf compares two certificates, or the first ones of two chains.
func sameLeaf(a, b []byte) bool {
	ca, errA := x509.ParseCertificates(a)
	cb, errB := x509.ParseCertificates(b)
	return errA == nil && errB == nil && len(ca) > 0 && len(cb) > 0 && bytes.Equal(ca[0].Raw, cb[0].Raw)
}

// asideKey is what aside leaves in a context.
type asideKey struct{}

// aside is the context of what is asked beside the values: a server that is
// silent about that need not be silent about them, so that it does not make
// the session a broken one.
func aside(ctx context.Context) context.Context {
	return context.WithValue(ctx, asideKey{}, true)
}

// call sends a request of this session.
func call[R ua.Response](ctx context.Context, s *session, req ua.Request) (R, error) {
	res, err := answer[R](s.ch.request(ctx, req, s.token, s.ch.timeout))
	late := errors.Is(err, ua.StatusBadTimeout) || errors.Is(err, context.DeadlineExceeded)
	if !late || ctx.Value(asideKey{}) == nil {
		s.note(err)
	}
	return res, err
}

func valueOfNode(node *ua.NodeID, rng string) *ua.ReadValueID {
	return &ua.ReadValueID{NodeID: node, AttributeID: ua.AttributeIDValue, IndexRange: rng, DataEncoding: &ua.QualifiedName{}}
}

// close logs out, if that is quick, and cuts the connection. All goroutines of
// the session have ended when it returns. It is false if the server could not
// be told, and may have the session still.
func (s *session) close() bool {
	s.watch.stop()
	if s.pub != nil {
		s.pub.cancel()
	}
	if s.hist != nil {
		s.hist.stop()
	}
	// A write to a server that does not read waits for as long as a request
	// may take, whatever its context says; without the connection it does not.
	cut := time.AfterFunc(2*closeGrace, func() { _ = s.ch.conn.Close() })
	defer cut.Stop()
	var err error
	if s.token != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		_, err = call[*ua.CloseSessionResponse](ctx, s, &ua.CloseSessionRequest{DeleteSubscriptions: true})
		cancel()
	}
	s.ch.close()
	if s.pub != nil {
		s.pub.wait()
	}
	return err == nil || !breaks(err)
}
