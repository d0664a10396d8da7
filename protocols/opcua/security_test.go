package opcua_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

// trusting returns a driver that trusts the identity.
func trusting(tb testing.TB, id *opcuatest.Identity, log *slog.Logger) *opcua.Driver {
	tb.Helper()
	pki := tb.TempDir()
	if err := os.MkdirAll(filepath.Join(pki, "trusted"), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pki, "trusted", "a.der"), id.Certificate(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return opcua.New(opcua.Options{PKIDir: pki, Log: log})
}

func newIdentity(tb testing.TB) *opcuatest.Identity {
	tb.Helper()
	id, err := opcuatest.NewIdentity("press-simulator")
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func secureDevice(srv *opcuatest.Server, policy string) *protocols.Device {
	d := device(srv.Endpoint(), "ns=2;s=v")
	d.OPCUA.SecurityPolicy = policy
	return d
}

// TestTamperedAnswers connects to servers whose answers were changed on their
// way, or that are broken: each is refused in words, and nothing falls over.
func TestTamperedAnswers(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	other := newIdentity(t)
	endpoints := func(change func(e *ua.EndpointDescription)) func(ua.Response) {
		return func(res ua.Response) {
			if r, ok := res.(*ua.GetEndpointsResponse); ok {
				for _, e := range r.Endpoints {
					change(e)
				}
			}
		}
	}
	session := func(change func(r *ua.CreateSessionResponse)) func(ua.Response) {
		return func(res ua.Response) {
			if r, ok := res.(*ua.CreateSessionResponse); ok {
				change(r)
			}
		}
	}
	for name, c := range map[string]struct {
		tamper func(ua.Response)
		want   string
	}{
		"weaker": {func(res ua.Response) {
			if r, ok := res.(*ua.GetEndpointsResponse); ok {
				r.Endpoints = slices.DeleteFunc(r.Endpoints, func(e *ua.EndpointDescription) bool { return e.SecurityMode == ua.MessageSecurityModeSignAndEncrypt })
			}
		}, "offers a stronger security than its first"},
		"only None": {func(res ua.Response) {
			if r, ok := res.(*ua.GetEndpointsResponse); ok {
				r.Endpoints = slices.DeleteFunc(r.Endpoints, func(e *ua.EndpointDescription) bool { return e.SecurityMode != ua.MessageSecurityModeNone })
			}
		}, "does not offer a security policy that can be used; it offers: None"},
		"nothing": {func(res ua.Response) {
			if r, ok := res.(*ua.GetEndpointsResponse); ok {
				r.Endpoints = nil
			}
		}, "it offers: nothing"},
		"no certificate": {endpoints(func(e *ua.EndpointDescription) { e.ServerCertificate = nil }), "cannot be read"},
		"half a certificate": {endpoints(func(e *ua.EndpointDescription) {
			e.ServerCertificate = e.ServerCertificate[:len(e.ServerCertificate)/2]
		}), "cannot be read"},
		"another certificate": {endpoints(func(e *ua.EndpointDescription) { e.ServerCertificate = other.Certificate() }), "is not trusted"},
		"another application": {endpoints(func(e *ua.EndpointDescription) { e.Server.ApplicationURI = "urn:other" }), "tolerate: [application_uri]"},
		"unknown policy":      {endpoints(func(e *ua.EndpointDescription) { e.SecurityPolicyURI += "X" }), "does not offer"},
		"policy without mode": {endpoints(func(e *ua.EndpointDescription) { e.SecurityMode = ua.MessageSecurityModeNone }), "does not offer"},
		"signature":           {session(func(r *ua.CreateSessionResponse) { r.ServerSignature.Signature[0]++ }), "could not prove"},
		"no signature":        {session(func(r *ua.CreateSessionResponse) { r.ServerSignature = &ua.SignatureData{} }), "could not prove"},
		"no proof at all":     {session(func(r *ua.CreateSessionResponse) { r.ServerCertificate = nil }), "could not prove"},
		"session's other":     {session(func(r *ua.CreateSessionResponse) { r.ServerCertificate = other.Certificate() }), "could not prove"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id, Tamper: c.tamper})
			err := open(t, trusting(t, id, nil), secureDevice(srv, "auto")).Connect(context.Background())
			if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v", err)
			}
		})
	}
}

// TestWeakenedMode: who names a policy and no mode (millrace scan --policy)
// gets the stronger mode, whoever is on the way.
func TestWeakenedMode(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id, Tamper: func(res ua.Response) {
		if r, ok := res.(*ua.GetEndpointsResponse); ok {
			r.Endpoints = slices.DeleteFunc(r.Endpoints, func(e *ua.EndpointDescription) bool { return e.SecurityMode == ua.MessageSecurityModeSignAndEncrypt })
		}
	}})
	d := secureDevice(srv, "Basic256Sha256")
	err := open(t, trusting(t, id, nil), d).Connect(context.Background())
	if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), "offers a stronger security than its first") {
		t.Errorf("%v", err)
	}
	d.OPCUA.SecurityMode = "Sign"
	connect(t, open(t, trusting(t, id, nil), d)) // what was asked for
}

// TestAutoTakesTheStrongest looks at what auto takes of what there is.
func TestAutoTakesTheStrongest(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id})
	set(t, srv, 1.5)
	drv := trusting(t, id, nil)
	for mode, want := range map[string]string{"": "SignAndEncrypt", "Sign": "Sign"} {
		d := secureDevice(srv, "auto")
		d.OPCUA.SecurityMode = mode
		seen, err := drv.Inspect(t.Context(), d)
		if err != nil || seen.Policy != "Basic256Sha256" || seen.Mode != want || !seen.Trusted() {
			t.Errorf("mode %q: %v %+v", mode, err, seen)
		}
		b := open(t, drv, d)
		connect(t, b)
		if out, _ := read(t, b, d); show(out[0]) != "1.5" {
			t.Fatalf("%+v", out)
		}
	}
}

// TestOwnChain shows a server that signs the whole of a chain, as older ones
// do, a certificate with its chain.
func TestOwnChain(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id})
	pki := t.TempDir()
	ownByAuthority(t, pki, "urn:company:gw")
	d := secureDevice(srv, "Basic256Sha256")
	drv := opcua.New(opcua.Options{PKIDir: pki})
	trustServer(t, drv, d)
	connect(t, open(t, drv, d))
	if err := os.Remove(filepath.Join(pki, "own", "key.pem")); err != nil {
		t.Fatal(err)
	}
	err := open(t, drv, d).Connect(context.Background())
	if err == nil || !strings.Contains(err.Error(), "cert.pem is there without its key: put the key into") {
		t.Errorf("%v", err)
	}
}

// TestTrustIsTaken takes the server's certificate out of the trust list while
// there is a connection: it ends, and the next one is refused. What is put
// back is taken without a restart.
func TestTrustIsTaken(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id})
	set(t, srv, 1.5)
	var log lockedBuffer
	drv := trusting(t, id, slog.New(slog.NewTextHandler(&log, nil)))
	drv.LookAtTrust(20 * time.Millisecond)
	d := secureDevice(srv, "Basic256Sha256")
	d.OPCUA.Trust = filepath.Join(t.TempDir(), "trusted")
	trustServer(t, drv, d)
	b := open(t, drv, d)
	connect(t, b)
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	if r := next(t, b, patience); r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := os.RemoveAll(d.OPCUA.Trust); err != nil {
		t.Fatal(err)
	}
	if r := awaitErr(t, b, patience); protocols.KindOf(r.Err) != protocols.KindNotConnected {
		t.Errorf("%v", r.Err)
	}
	if err := b.Connect(context.Background()); protocols.KindOf(err) != protocols.KindUntrusted {
		t.Errorf("without trust: %v", err)
	}
	if !strings.Contains(log.String(), "no longer trusted") {
		t.Errorf("the log does not say why it ended: %s", log.String())
	}
	trustServer(t, drv, d)
	connect(t, b)
}

// TestSecretsStaySecret has everything go wrong with users and keys, and
// looks for the secrets in what is said.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	const password = "geheim-äöü-123"
	id := newIdentity(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id, Users: map[string]string{"u": password}, Tamper: func(res ua.Response) {
		if r, ok := res.(*ua.GetEndpointsResponse); ok {
			for _, e := range r.Endpoints {
				e.UserIdentityTokens = append(slices.Clip(e.UserIdentityTokens), &ua.UserTokenPolicy{PolicyID: "c", TokenType: ua.UserTokenTypeCertificate, SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256})
			}
		}
	}})
	var log lockedBuffer
	drv := trusting(t, id, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	certFile, keyFile, _ := newUser(t, "operator")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged.key")
	if err := os.WriteFile(damaged, append(slices.Clone(key[:200]), key[300:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for _, change := range []func(o *protocols.OPCUAOptions){
		func(o *protocols.OPCUAOptions) { o.Username, o.Password = "u", password },
		func(o *protocols.OPCUAOptions) { o.Username, o.Password = "x", password },
		func(o *protocols.OPCUAOptions) { o.Password = password },
		func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, keyFile },
		func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, damaged },
		func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = keyFile, keyFile },
		func(o *protocols.OPCUAOptions) { o.SecurityPolicy, o.Username, o.Password = "None", "u", password+"x" },
	} {
		d := secureDevice(srv, "auto")
		change(&d.OPCUA)
		for _, wrong := range drv.Check(d) {
			said.WriteString(wrong.Error())
		}
		said.WriteString(drv.BusKey(d))
		b, err := drv.Open([]*protocols.Device{d})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Connect(context.Background()); err != nil {
			said.WriteString(err.Error() + "\n")
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	text := said.String() + log.String()
	for _, secret := range []string{password, "geheim", string(key[100:140]), string(bytes.Split(key, []byte("\n"))[3])} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is said:\n%s", secret, text)
		}
	}
	if strings.Count(said.String(), "auth.key") == 0 || !strings.Contains(said.String(), "refuses the user's certificate") {
		t.Errorf("nothing was tried:\n%s", text)
	}
}

// lockedBuffer takes a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
