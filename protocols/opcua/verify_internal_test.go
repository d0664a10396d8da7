package opcua

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
)

// cert is a certificate with its key.
type cert struct {
	*x509.Certificate

	key *rsa.PrivateKey
}

// testKeys are few, and made when they are first wanted: that takes long.
// They go by their length and a number.
var testKeys = map[[2]int]func() *rsa.PrivateKey{
	{2048, 0}: sync.OnceValue(func() *rsa.PrivateKey { return makeTestKey(2048) }),
	{2048, 1}: sync.OnceValue(func() *rsa.PrivateKey { return makeTestKey(2048) }),
	{2048, 2}: sync.OnceValue(func() *rsa.PrivateKey { return makeTestKey(2048) }),
	{1024, 0}: sync.OnceValue(func() *rsa.PrivateKey { return makeTestKey(1024) }),
	{1024, 1}: sync.OnceValue(func() *rsa.PrivateKey { return makeTestKey(1024) }),
}

func makeTestKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

const (
	testHost = "plc.example"
	testURI  = "urn:example:plc"
)

func testNow() time.Time { return time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC) }

// named is a server's certificate, without an issuer's say.
func named(cn string) *x509.Certificate {
	uri, _ := url.Parse(testURI)
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, DNSNames: []string{testHost}, URIs: []*url.URL{uri},
		NotBefore: testNow().AddDate(-1, 0, 0), NotAfter: testNow().AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func authority(cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: cn},
		NotBefore: testNow().AddDate(-1, 0, 0), NotAfter: testNow().AddDate(5, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// issue makes a certificate, by itself or by an authority. keys says which
// key of which length it has: [bits, number].
func issue(tb testing.TB, by *cert, template *x509.Certificate, keys ...int) *cert {
	tb.Helper()
	bits, n := 2048, 0
	if len(keys) == 2 {
		bits, n = keys[0], keys[1]
	}
	c := &cert{key: testKeys[[2]int{bits, n}]()}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		tb.Fatal(err)
	}
	template.SerialNumber = serial
	parent, signer := template, c.key
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &c.key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	if c.Certificate, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return c
}

// withSHA1 signs a certificate as old authorities do; Go's x509 cannot.
func withSHA1(tb testing.TB, by, c *cert) *cert {
	tb.Helper()
	sha1RSA := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, Parameters: asn1.NullRawValue}
	var old struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.Raw, &old); err != nil {
		tb.Fatal(err)
	}
	// The algorithm stands in the signed part as well: sha256WithRSA ends in 11, SHA-1's in 5.
	oid := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 11}
	tbs := slices.Clone(old.TBS.FullBytes)
	at := strings.Index(string(tbs), string(oid))
	if at < 0 {
		tb.Fatal("no algorithm")
	}
	tbs[at+len(oid)-1] = 5
	sum := sha1.Sum(tbs)
	sig, err := rsa.SignPKCS1v15(nil, by.key, crypto.SHA1, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	old.TBS, old.Alg, old.Sig = asn1.RawValue{FullBytes: tbs}, sha1RSA, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	der, err := asn1.Marshal(old)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil || parsed.SignatureAlgorithm != x509.SHA1WithRSA {
		tb.Fatal(err)
	}
	return &cert{parsed, c.key}
}

func revocations(tb testing.TB, by *cert, until time.Time, certs ...*cert) []byte {
	tb.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: testNow().AddDate(0, -1, 0), NextUpdate: until}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: testNow().AddDate(0, -1, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, by.Certificate, by.key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func wanted(policy string) demand {
	return demand{host: testHost, uri: testURI, policy: policy, now: testNow()}
}

// change edits a template.
func change(c *x509.Certificate, how func(*x509.Certificate)) *x509.Certificate {
	how(c)
	return c
}

// files are what a test puts into the directories, by its path in there.
type files map[string][]byte

func (f files) write(tb testing.TB) trustList {
	tb.Helper()
	dir := tb.TempDir()
	for name, data := range f {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			tb.Fatal(err)
		}
	}
	return newTrustList(filepath.Join(dir, "trusted"))
}

// TestVerify holds certificates of all kinds against the checks of Part 4,
// 6.1.3. want is in the refusal; empty: it is accepted. note is in what is
// said all the same.
func TestVerify(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, authority("Plant Root"), 2048, 1)
	mid := issue(t, root, authority("Line 3"), 2048, 2)
	leaf := issue(t, mid, named("plc"))
	self := issue(t, nil, named("alone"))
	selfCA := issue(t, nil, change(named("plc-ca"), func(c *x509.Certificate) {
		c.BasicConstraintsValid, c.IsCA = true, true
		c.KeyUsage |= x509.KeyUsageCertSign
	}), 2048, 1)
	far := testNow().AddDate(0, 1, 0)
	gone := testNow().AddDate(0, 0, -1)
	otherRoot := issue(t, nil, authority("Plant Root"), 2048, 0) // its name, another key
	direct := func(how func(*x509.Certificate)) *cert { return issue(t, root, change(named("plc"), how)) }
	short := issue(t, nil, named("short"), 1024, 0)
	shortCA := issue(t, root, named("short-ca"), 1024, 0)
	old := withSHA1(t, mid, leaf)
	odd := issue(t, nil, change(named("odd"), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }))
	cases := map[string]struct {
		sent       []*cert
		files      files
		policy     string
		tolerate   []string
		demand     func(*demand)
		want, note string
	}{
		"pinned":                        {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}},
		"unknown":                       {sent: []*cert{self}, want: "is not trusted"},
		"issuers trust nobody":          {sent: []*cert{self}, files: files{"issuers/a.der": self.Raw}, want: "is not trusted"},
		"root trusted":                  {sent: []*cert{leaf, mid}, files: files{"trusted/certs/r.der": root.Raw}, note: "no revocation list"},
		"root sent, intermediate by us": {sent: []*cert{leaf, root}, files: files{"trusted/r.der": root.Raw, "issuers/m.der": mid.Raw}},
		"intermediate trusted":          {sent: []*cert{leaf}, files: files{"trusted/m.der": mid.Raw}},
		"chain incomplete":              {sent: []*cert{leaf}, files: files{"trusted/r.der": root.Raw}, want: `issuer "CN=Line 3" is not in trusted or issuers`},
		"root only an issuer":           {sent: []*cert{leaf, mid}, files: files{"issuers/r.der": root.Raw}, want: `issuer "CN=Plant Root" is not among the trusted`},
		"another of that name":          {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": otherRoot.Raw}, want: "is not trusted"},
		"leaf pinned, chain absent":     {sent: []*cert{leaf}, files: files{"trusted/l.der": leaf.Raw}},
		"a PLC does not vouch": {
			sent:  []*cert{issue(t, selfCA, named("plc"))},
			files: files{"trusted/p.der": selfCA.Raw}, want: "is the certificate of an application",
		},
		"a PLC as authority of itself": {sent: []*cert{selfCA}, files: files{"trusted/p.der": selfCA.Raw}},
		"no authority": {
			sent:  []*cert{issue(t, issue(t, nil, change(authority("X"), func(c *x509.Certificate) { c.IsCA = false }), 2048, 1), named("plc"))},
			files: files{}, want: "is not trusted",
		},
		"name constraints": {
			sent:  []*cert{leaf, issue(t, root, change(authority("Line 3"), func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example"} }), 2048, 2)},
			files: files{"trusted/r.der": root.Raw}, want: "limits what it may sign",
		},
		"path length": {
			sent: []*cert{leaf, mid}, files: files{"trusted/r.der": issue(t, nil, change(authority("Plant Root"), func(c *x509.Certificate) { c.MaxPathLenZero = true }), 2048, 1).Raw},
			want: "so many authorities below it",
		},

		"expired":           {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.now = testNow().AddDate(2, 0, 0) }, want: "expired on 2027-06-01 (have it renewed, or security: {tolerate: [expired]})"},
		"expired tolerated": {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, tolerate: []string{"expired"}, demand: func(d *demand) { d.now = testNow().AddDate(2, 0, 0) }},
		"not yet":           {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.now = testNow().AddDate(-3, 0, 0) }, want: "is valid from 2025-06-01 00:00 UTC on, and the gateway's clock says 2023-06-01"},
		"no clock":          {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.now = time.Unix(1000, 0) }, note: "clock is not set (1970-01-01)"},
		"issuer expired": {
			sent: []*cert{direct(func(c *x509.Certificate) { c.NotAfter = testNow().AddDate(9, 0, 0) })}, files: files{"trusted/r.der": root.Raw},
			demand: func(d *demand) { d.now = testNow().AddDate(6, 0, 0) }, want: `the certificate of its issuer "CN=Plant Root" expired`,
		},

		"host":           {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.host = "192.0.2.9" }, want: `it is for "plc.example", and the endpoint says "192.0.2.9" (write that name into the endpoint, or security: {tolerate: [host_name]})`},
		"host tolerated": {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, tolerate: []string{"host_name"}, demand: func(d *demand) { d.host = "192.0.2.9" }},
		"host's case":    {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.host = "PLC.Example." }},
		"common name": {
			sent:  []*cert{direct(func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = "plc_3" })},
			files: files{"trusted/r.der": root.Raw}, demand: func(d *demand) { d.host = "PLC_3" },
		},
		"common name beside names": {
			sent:  []*cert{direct(func(c *x509.Certificate) { c.Subject.CommonName = "plc_3" })},
			files: files{"trusted/r.der": root.Raw}, demand: func(d *demand) { d.host = "plc_3" }, want: "the endpoint says",
		},
		"address": {
			sent:  []*cert{direct(func(c *x509.Certificate) { c.DNSNames = nil; c.IPAddresses = []net.IP{net.ParseIP("192.0.2.9")} })},
			files: files{"trusted/r.der": root.Raw}, demand: func(d *demand) { d.host = "192.0.2.9" },
		},
		"address as a name": {
			sent:  []*cert{direct(func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2.9"} })},
			files: files{"trusted/r.der": root.Raw}, demand: func(d *demand) { d.host = "192.0.2.9" },
		},
		"loopback": {
			sent:  []*cert{direct(func(c *x509.Certificate) { host, _ := os.Hostname(); c.DNSNames = []string{host} })},
			files: files{"trusted/r.der": root.Raw}, demand: func(d *demand) { d.host = "127.0.0.1" },
		},

		"application":           {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, demand: func(d *demand) { d.uri = "urn:other" }, want: `it is for the application "urn:example:plc", and the server says that it is "urn:other"`},
		"application tolerated": {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, tolerate: []string{"application_uri"}, demand: func(d *demand) { d.uri = "" }},
		"no application":        {sent: []*cert{direct(func(c *x509.Certificate) { c.URIs = nil })}, files: files{"trusted/r.der": root.Raw}, want: "names no application"},
		"several faults": {
			sent: []*cert{self}, files: files{"trusted/a.der": self.Raw}, tolerate: []string{"expired"},
			demand: func(d *demand) { d.host, d.uri, d.now = "x", "y", testNow().AddDate(2, 0, 0) }, want: `the endpoint says "x" (write that name into the endpoint, or security: {tolerate: [host_name]}); it is for the application`,
		},

		"revoked":            {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": revocations(t, mid, far, leaf)}, want: `it was revoked by "CN=Line 3"`},
		"revoked, tolerant":  {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": revocations(t, mid, far, leaf)}, tolerate: []string{"revocation"}, want: "it was revoked"},
		"revoked, pinned":    {sent: []*cert{leaf, mid}, files: files{"trusted/l.der": leaf.Raw, "issuers/crl/m.crl": revocations(t, mid, far, leaf)}, want: "it was revoked"},
		"issuer revoked":     {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/r.crl": revocations(t, root, far, mid)}, want: `its issuer "CN=Line 3" was revoked`},
		"not revoked":        {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/m.crl": revocations(t, mid, far), "issuers/crl/r.crl": revocations(t, root, far)}},
		"list out of date":   {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/m.crl": revocations(t, mid, gone)}, want: "was good until 2026-05-31 (put its new one into crl, or security: {tolerate: [revocation]})"},
		"old list tolerated": {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/m.crl": revocations(t, mid, gone)}, tolerate: []string{"revocation"}},
		"list ends soon":     {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/m.crl": revocations(t, mid, testNow().AddDate(0, 0, 2))}, note: "good only until 2026-06-03"},
		"list by another":    {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "issuers/crl/r.crl": revocations(t, otherRoot, far)}, want: "is not signed by it"},

		// A list that is there and says nothing may be the one that revokes it.
		"half a list":           {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": revocations(t, mid, far, leaf)[:100]}, want: "m.crl holds no revocation list (put a whole one there, or security: {tolerate: [revocation]})"},
		"half a list tolerated": {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": revocations(t, mid, far, leaf)[:100]}, tolerate: []string{"revocation"}},
		"half a list, no chain": {sent: []*cert{self}, files: files{"trusted/a.der": self.Raw, "trusted/crl/m.crl": []byte("half")}},
		"half a list, revoked": {
			sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": revocations(t, mid, far, leaf), "issuers/crl/m.crl": {1}},
			tolerate: []string{"revocation"}, want: "it was revoked",
		},
		"half of two lists": {
			sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/both.pem": slices.Concat(
				pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: revocations(t, root, far)}),
				pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: revocations(t, mid, far, leaf)[:100]}))}, want: "both.pem holds",
		},
		"a list too large": {sent: []*cert{leaf, mid}, files: files{"trusted/r.der": root.Raw, "trusted/crl/m.crl": make([]byte, maxCertFile+1)}, want: "m.crl is larger than 4 MiB"},

		"client's": {
			sent: []*cert{direct(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, files: files{"trusted/r.der": root.Raw},
			want: "not make it for a server",
		},
		"cannot sign": {
			sent: []*cert{direct(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })}, files: files{"trusted/r.der": root.Raw},
			want: "key usage does not allow",
		},
		"odd usage, pinned": {sent: []*cert{odd}, files: files{"trusted/o.der": odd.Raw}, note: "is odd"},

		"1024 bits":                 {sent: []*cert{short}, files: files{"trusted/s.der": short.Raw}, want: "its key has 1024 bits, and policy Basic256Sha256 wants 2048 to 4096"},
		"1024 bits, old":            {sent: []*cert{short}, files: files{"trusted/s.der": short.Raw}, policy: "Basic128Rsa15"},
		"1024 bits of an authority": {sent: []*cert{shortCA}, files: files{"trusted/r.der": root.Raw}, policy: "Aes256_Sha256_RsaPss", want: "its key has 1024 bits"},
		"SHA-1":                     {sent: []*cert{old, mid}, files: files{"trusted/r.der": root.Raw}, want: "is signed with SHA-1, which can be forged"},
		"SHA-1, old":                {sent: []*cert{old, mid}, files: files{"trusted/r.der": root.Raw}, policy: "Basic256"},
		"SHA-1, pinned":             {sent: []*cert{old}, files: files{"trusted/l.der": old.Raw}, note: "no longer thought safe"},
		"forged SHA-1":              {sent: []*cert{withSHA1(t, leaf, leaf), mid}, files: files{"trusted/r.der": root.Raw}, policy: "Basic256", want: "is not trusted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list := c.files.write(t)
			want := wanted("Basic256Sha256")
			want.tolerate = c.tolerate
			if c.policy != "" {
				want.policy = c.policy
			}
			if c.demand != nil {
				c.demand(&want)
			}
			var sent []byte
			for _, s := range c.sent {
				sent = append(sent, s.Raw...)
			}
			v, err := list.verify(sent, want, "plc-1")
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
				t.Fatalf("%v", err)
			}
			if c.note != "" && !slices.ContainsFunc(v.notes, func(n string) bool { return strings.Contains(n, c.note) }) {
				t.Errorf("notes: %q", v.notes)
			}
		})
	}
}

// TestUnreadableTrust says that a file that cannot be read accepts nobody.
func TestUnreadableTrust(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Log("root reads everything; only the directory is tried")
	}
	self := issue(t, nil, named("alone"))
	list := files{"trusted": []byte("a file where a directory should be")}.write(t)
	_, err := list.verify(self.Raw, wanted("Basic256Sha256"), "")
	if err == nil || !strings.Contains(err.Error(), "directory of trusted certificates") {
		t.Errorf("%v", err)
	}
}

// FuzzVerify: whatever a server sends for its certificate, it is refused or
// accepted, and nothing falls over.
func FuzzVerify(f *testing.F) {
	root := issue(f, nil, authority("Plant Root"), 1024, 1)
	leaf := issue(f, root, named("plc"), 1024, 0)
	list := files{"trusted/r.der": root.Raw, "issuers/crl/r.crl": revocations(f, root, testNow().AddDate(0, 1, 0))}.write(f)
	f.Add(leaf.Raw)
	f.Add(slices.Concat(leaf.Raw, root.Raw))
	f.Add(withSHA1(f, root, leaf).Raw)
	f.Add(issue(f, nil, change(named(""), func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, nil }), 1024, 0).Raw)
	f.Add([]byte{0x30, 0x82})
	f.Fuzz(func(t *testing.T, sent []byte) {
		v, err := list.judge(sent, wanted("Basic256"))
		if err != nil {
			return
		}
		if v.by != "" && v.refusal(nil) == nil && !slices.ContainsFunc([]*cert{leaf}, func(c *cert) bool { return c.SerialNumber.Cmp(v.leaf.SerialNumber) == 0 }) {
			t.Errorf("a certificate that the authority has not signed is accepted")
		}
		(&Inspection{}).fill(v, []string{protocols.TolerateExpired})
		if text := (&untrustedError{subject: nameOf(v.leaf)}).Error(); strings.ContainsAny(text, "\n\r\x1b") {
			t.Errorf("%q", text)
		}
	})
}
