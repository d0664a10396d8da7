package opcua

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
)

// TestBondFits: an old session, with its user, is gone on with only at the
// server that it is of, with the security that was found out for it.
func TestBondFits(t *testing.T) {
	t.Parallel()
	server, other := issue(t, nil, named("plc"), 2048, 1), issue(t, nil, named("plc"), 2048, 2)
	const policy = ua.SecurityPolicyURIBasic256Sha256
	good := func() *ua.EndpointDescription {
		return &ua.EndpointDescription{SecurityPolicyURI: policy, SecurityMode: ua.MessageSecurityModeSignAndEncrypt, ServerCertificate: server.Raw}
	}
	for name, c := range map[string]struct {
		change func(*ua.EndpointDescription)
		want   bool
	}{
		"the same":             {func(*ua.EndpointDescription) {}, true},
		"with its chain":       {func(e *ua.EndpointDescription) { e.ServerCertificate = slices.Concat(server.Raw, other.Raw) }, true},
		"another certificate":  {func(e *ua.EndpointDescription) { e.ServerCertificate = other.Raw }, false},
		"none":                 {func(e *ua.EndpointDescription) { e.ServerCertificate = nil }, false},
		"only signed":          {func(e *ua.EndpointDescription) { e.SecurityMode = ua.MessageSecurityModeSign }, false},
		"without security":     {func(e *ua.EndpointDescription) { e.SecurityMode = ua.MessageSecurityModeNone }, false},
		"with a weaker policy": {func(e *ua.EndpointDescription) { e.SecurityPolicyURI = ua.SecurityPolicyURIBasic256 }, false},
	} {
		b := newBond(good(), &ua.CreateSessionResponse{})
		b.started = time.Now()
		e := good()
		c.change(e)
		if b.fits(e) != c.want {
			t.Errorf("%s: %t", name, !c.want)
		}
	}
	if b := newBond(good(), &ua.CreateSessionResponse{}); b.fits(good()) {
		t.Error("it fits, and nobody knows when the server was started")
	}
}

// TestChooseLogin: of several ways to send a password the safest is taken,
// and none that sends it in clear.
func TestChooseLogin(t *testing.T) {
	t.Parallel()
	token := func(kind ua.UserTokenType, policy string) *ua.UserTokenPolicy {
		return &ua.UserTokenPolicy{PolicyID: policy, TokenType: kind, SecurityPolicyURI: policy}
	}
	const (
		name, file = ua.UserTokenTypeUserName, ua.UserTokenTypeCertificate
		none, old  = ua.SecurityPolicyURINone, ua.SecurityPolicyURIBasic128Rsa15
		best       = ua.SecurityPolicyURIAes256Sha256RsaPss
		good       = ua.SecurityPolicyURIBasic256Sha256
		curves     = ua.SecurityPolicyURIPrefix + "ECC_nistP256"
	)
	encrypts := ua.MessageSecurityModeSignAndEncrypt
	for what, c := range map[string]struct {
		user   user
		mode   ua.MessageSecurityMode
		policy string
		tokens []*ua.UserTokenPolicy
		want   string
		err    error
	}{
		"the strongest":        {user{name: "u"}, encrypts, good, []*ua.UserTokenPolicy{token(name, old), nil, token(name, best), token(name, none), token(name, good)}, best, nil},
		"the channel's":        {user{name: "u"}, ua.MessageSecurityModeSign, good, []*ua.UserTokenPolicy{token(name, "")}, good, nil},
		"the channel encrypts": {user{name: "u"}, encrypts, good, []*ua.UserTokenPolicy{token(name, curves), token(name, none)}, none, nil},
		"the channel signs":    {user{name: "u"}, ua.MessageSecurityModeSign, good, []*ua.UserTokenPolicy{token(name, none)}, "", errClearText},
		"nothing does":         {user{name: "u"}, ua.MessageSecurityModeNone, none, []*ua.UserTokenPolicy{token(name, "")}, "", errClearText},
		"curves":               {user{name: "u"}, encrypts, good, []*ua.UserTokenPolicy{token(name, curves)}, "", errClearText},
		"other kinds":          {user{name: "u"}, encrypts, good, []*ua.UserTokenPolicy{token(file, good)}, "", errNoUsername},
		"unsigned":             {user{cert: "c"}, encrypts, good, []*ua.UserTokenPolicy{token(file, none)}, "", errUnsigned},
		"nobody":               {user{}, encrypts, good, []*ua.UserTokenPolicy{token(name, good)}, "", errNoAnonymous},
	} {
		l, err := chooseLogin(&ua.EndpointDescription{SecurityMode: c.mode, SecurityPolicyURI: c.policy, UserIdentityTokens: c.tokens}, c.user)
		if l.policy != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v %v", what, l, err)
		}
	}
}

// TestShortOwnKeys: keys that a policy does not allow are told of, ours and a
// user's.
func TestShortOwnKeys(t *testing.T) {
	t.Parallel()
	server, short := issue(t, nil, named("plc")), issue(t, nil, named("operator"), 1024, 0)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "user.der"), filepath.Join(dir, "user.key")
	if err := errors.Join(os.WriteFile(certFile, short.Raw, 0o600), os.WriteFile(keyFile, x509.MarshalPKCS1PrivateKey(short.key), 0o600)); err != nil {
		t.Fatal(err)
	}
	u := user{cert: certFile, key: keyFile}
	var said *userError
	if _, _, err := u.token(login{policy: ua.SecurityPolicyURIBasic256Sha256}, server.Raw, make([]byte, 32)); !errors.As(err, &said) || !strings.Contains(err.Error(), "1024 bits") {
		t.Errorf("%v", err)
	}
	if _, _, err := u.token(login{policy: ua.SecurityPolicyURIBasic256}, server.Raw, make([]byte, 32)); err != nil {
		t.Error(err)
	}
	d := New(Options{PKIDir: dir})
	d.own = &identity{key: short.key, leaf: short.Certificate, cert: short.Raw, path: "own", stamp: ownStamp(filepath.Join(dir, "own"))}
	e := &ua.EndpointDescription{SecurityMode: ua.MessageSecurityModeSign, SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256, ServerCertificate: server.Raw}
	if _, err := d.channelConfig(e); err == nil || !strings.Contains(err.Error(), "this gateway's own certificate own: its key has 1024 bits") {
		t.Errorf("%v", err)
	}
}

// TestRevokedMeanwhile: a connection does not stand when its certificate is
// revoked, and does when it only became too old or a list is damaged.
func TestRevokedMeanwhile(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, authority("Plant Root"), 2048, 1)
	leaf := issue(t, root, named("plc"))
	list := files{"trusted/r.der": root.Raw, "trusted/crl/r.crl": revocations(t, root, testNow().AddDate(0, 1, 0))}.write(t)
	want := wanted("Basic256Sha256")
	if _, err := list.verify(leaf.Raw, want, ""); err != nil {
		t.Fatal(err)
	}
	later := want
	later.now, later.host = testNow().AddDate(3, 0, 0), "elsewhere"
	if err := list.stillTrusted(leaf.Raw, later); err != nil {
		t.Errorf("too old: %v", err)
	}
	crl := filepath.Join(list.trusted, "crl", "r.crl")
	for _, c := range []struct {
		data []byte
		cut  bool
	}{{[]byte("half"), false}, {revocations(t, root, testNow().AddDate(0, 1, 0), leaf), true}} {
		if err := os.WriteFile(crl, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := list.stillTrusted(leaf.Raw, want); (err != nil) != c.cut {
			t.Errorf("%v", err)
		}
	}
}

// TestWhichList: the newest whole list of an authority counts, and what it
// takes back of a revocation.
func TestWhichList(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, authority("Plant Root"), 2048, 1)
	leaf := issue(t, root, named("plc"))
	list := func(day, reason int, delta bool) []byte {
		l := &x509.RevocationList{Number: big.NewInt(int64(day)), ThisUpdate: testNow().AddDate(0, 0, day-30), NextUpdate: testNow().AddDate(0, 1, 0)}
		if reason >= 0 {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: l.ThisUpdate, ReasonCode: reason}}
		}
		if delta {
			l.ExtraExtensions = append(l.ExtraExtensions, deltaExtension())
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, root.Certificate, root.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, c := range map[string]struct {
		lists   files
		revoked bool
	}{
		"the newer revokes it":      {files{"trusted/crl/a.crl": list(1, -1, false), "trusted/crl/b.crl": list(2, 1, false)}, true},
		"in the other order":        {files{"trusted/crl/a.crl": list(2, 1, false), "trusted/crl/b.crl": list(1, -1, false)}, true},
		"the newer does not":        {files{"trusted/crl/a.crl": list(2, -1, false), "trusted/crl/b.crl": list(1, 1, false)}, false},
		"a newer delta says little": {files{"trusted/crl/a.crl": list(1, 1, false), "trusted/crl/b.crl": list(2, -1, true)}, true},
		"taken back":                {files{"trusted/crl/a.crl": list(1, 8, false)}, false},
	} {
		c.lists["trusted/r.der"] = root.Raw
		_, err := c.lists.write(t).verify(leaf.Raw, wanted("Basic256Sha256"), "")
		if (err != nil) != c.revoked {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// deltaExtension says that a list has only what came to list 1 (RFC 5280, 5.2.4).
func deltaExtension() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}
}

// TestAuthorities: what an authority's certificate says of what it may sign
// is heeded, and long or circular chains cost little.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	unknown := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
	root := issue(t, nil, authority("Root"), 2048, 1)
	chainBelow := func(top *cert, names ...string) (*cert, []byte) {
		var between []byte
		for _, n := range names {
			top = issue(t, top, authority(n), 2048, 2)
			between = slices.Concat(top.Raw, between)
		}
		leaf := issue(t, top, named("plc"))
		return leaf, slices.Concat(leaf.Raw, between)
	}
	one := issue(t, nil, change(authority("Root"), func(c *x509.Certificate) { c.MaxPathLen = 1 }), 2048, 1)
	_, short := chainBelow(one, "a")
	_, long := chainBelow(one, "a", "b")
	_, seven := chainBelow(root, "a", "b", "c", "d", "e", "f")
	_, eight := chainBelow(root, "a", "b", "c", "d", "e", "f", "g")
	for name, c := range map[string]struct {
		sent   []byte
		anchor *cert
		want   string
	}{
		"as long as it may":        {short, one, ""},
		"longer than it may":       {long, one, "so many authorities below it"},
		"eight certificates":       {seven, root, ""},
		"nine":                     {eight, root, "is not trusted"},
		"may not sign":             {issue(t, issue(t, nil, change(authority("X"), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), 2048, 1), named("plc")).Raw, nil, "is not trusted"},
		"something unknown in it":  {issue(t, root, change(named("plc"), func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{unknown} })).Raw, root, "a critical extension that is not known"},
		"something unknown above":  {issue(t, issue(t, nil, change(authority("Odd"), func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{unknown} }), 2048, 1), named("plc")).Raw, nil, "limits what it may sign"},
		"wraps no keys":            {issue(t, root, change(named("plc"), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })).Raw, root, "key usage does not allow"},
		"for no application, none": {issue(t, root, change(named("plc"), func(c *x509.Certificate) { c.URIs = []*url.URL{{}} })).Raw, root, "is for the application"},
	} {
		anchor := c.anchor
		if anchor == nil { // whoever issued it
			parsed, err := x509.ParseCertificate(c.sent)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range []*cert{
				issue(t, nil, change(authority("X"), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), 2048, 1),
				issue(t, nil, change(authority("Odd"), func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{unknown} }), 2048, 1),
			} {
				if a.Subject.CommonName == parsed.Issuer.CommonName {
					anchor = a // the same name and key
				}
			}
		}
		want := wanted("Basic256Sha256")
		if strings.Contains(name, "none") {
			want.uri = ""
		}
		_, err := files{"trusted/r.der": anchor.Raw}.write(t).verify(c.sent, want, "")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
