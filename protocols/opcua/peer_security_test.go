package opcua_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// newUser makes a user's certificate and key, and returns the files and the
// certificate.
func newUser(tb testing.TB, name string) (certFile, keyFile string, der []byte) {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	certFile, keyFile = filepath.Join(dir, "user.pem"), filepath.Join(dir, "user.key")
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
	)
	if err != nil {
		tb.Fatal(err)
	}
	return certFile, keyFile, der
}

// trustServer has the server's certificate trusted, as millrace trust does.
func trustServer(tb testing.TB, drv *opcua.Driver, d *protocols.Device) {
	tb.Helper()
	seen, err := drv.Inspect(tb.Context(), d)
	if err != nil || seen.Silent != nil {
		tb.Fatalf("%v %+v", err, seen)
	}
	if _, err := drv.Trust(d, seen.Certificate); err != nil {
		tb.Fatal(err)
	}
}

// TestPeerPolicies goes through all policies and modes with each kind of user.
func TestPeerPolicies(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "security")
	certFile, keyFile, der := newUser(t, "operator")
	command(t, srv, "trustuser "+hex.EncodeToString(der))
	pki := t.TempDir()
	peer := func(policy, mode string) *protocols.Device {
		d := device(srv.Endpoint(), "ns=2;s=Int16")
		d.Timeout = patience
		d.OPCUA.SecurityPolicy, d.OPCUA.SecurityMode = policy, mode
		return d
	}
	drv := opcua.New(opcua.Options{PKIDir: pki})
	trustServer(t, drv, peer("auto", ""))
	users := map[string]func(o *protocols.OPCUAOptions){
		"anonymous": func(*protocols.OPCUAOptions) {},
		"name":      func(o *protocols.OPCUAOptions) { o.Username, o.Password = nodeopcua.User, nodeopcua.Password },
		"cert":      func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, keyFile },
	}
	for _, policy := range []string{"Basic128Rsa15", "Basic256", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256-Sha256-RsaPss", "auto"} {
		for _, mode := range []string{"Sign", "SignAndEncrypt"} {
			for who, user := range users {
				t.Run(policy+"/"+mode+"/"+who, func(t *testing.T) {
					t.Parallel()
					d := peer(policy, mode)
					user(&d.OPCUA)
					b := open(t, drv, d)
					connect(t, b)
					if out, _ := read(t, b, d); show(out[0]) != "-32768" {
						t.Fatalf("%+v", out)
					}
					deprecated := policy == "Basic128Rsa15" || policy == "Basic256"
					if advice := b.(protocols.Adviser).Advice(d); deprecated != (len(advice) == 1 && strings.Contains(advice[0], policy+" is deprecated")) {
						t.Errorf("advice: %q", advice)
					}
				})
			}
		}
	}
	strangerCert, strangerKey, _ := newUser(t, "stranger")
	for _, policy := range []string{"Basic128Rsa15", "Basic256Sha256", "None"} {
		for name, c := range map[string]struct {
			user func(o *protocols.OPCUAOptions)
			want string
		}{
			"stranger": {func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = strangerCert, strangerKey }, "refuses the user's certificate " + strangerCert},
			"password": {func(o *protocols.OPCUAOptions) {
				o.Username, o.Password = nodeopcua.User, strings.Repeat("long-wrong", 60)
			}, "check auth.username and auth.password"},
			"no file":   {func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, keyFile+"x" }, "the user's key (auth.key) cannot be read"},
			"other key": {func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, strangerKey }, "does not belong to the key in"},
			"no key":    {func(o *protocols.OPCUAOptions) { o.UserCert, o.UserKey = certFile, certFile }, "holds no private key"},
		} {
			t.Run(policy+"/"+name, func(t *testing.T) {
				t.Parallel()
				d := peer(policy, "")
				c.user(&d.OPCUA)
				err := open(t, drv, d).Connect(context.Background())
				if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "long-wrong") {
					t.Fatalf("%v", err)
				}
			})
		}
	}
}

// ownByAuthority puts a certificate of an authority and its chain into
// pki/own, as a company does. It returns the commands by which the server
// trusts the authority.
func ownByAuthority(tb testing.TB, pki, uri string) []string {
	tb.Helper()
	make1 := func(template, parent *x509.Certificate, signer *rsa.PrivateKey) (*x509.Certificate, *rsa.PrivateKey) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			tb.Fatal(err)
		}
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 20)
		template.BasicConstraintsValid = true
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			tb.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			tb.Fatal(err)
		}
		return cert, key
	}
	u, err := url.Parse(uri)
	if err != nil {
		tb.Fatal(err)
	}
	root, rootKey := make1(&x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, nil, nil)
	mid, midKey := make1(&x509.Certificate{Subject: pkix.Name{CommonName: "Mid"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, root, rootKey)
	leaf, key := make1(&x509.Certificate{
		Subject: pkix.Name{CommonName: "gw"}, URIs: []*url.URL{u}, DNSNames: []string{"gw"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
	}, mid, midKey)
	var chain []byte
	for _, c := range []*x509.Certificate{root, mid, leaf} { // in no good order
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	own := filepath.Join(pki, "own")
	err = errors.Join(os.MkdirAll(own, 0o755), os.WriteFile(filepath.Join(own, "cert.pem"), chain, 0o644),
		os.WriteFile(filepath.Join(own, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o644))
	if err != nil {
		tb.Fatal(err)
	}
	var commands []string
	for c, k := range map[*x509.Certificate]*rsa.PrivateKey{root: rootKey, mid: midKey} {
		crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().AddDate(0, 1, 0),
		}, c, k)
		if err != nil {
			tb.Fatal(err)
		}
		commands = append(commands, "trustissuer "+hex.EncodeToString(c.Raw)+" "+hex.EncodeToString(crl))
	}
	return commands
}

// TestPeerTrustsUs has a server that trusts no stranger learn to trust this
// gateway: first its own certificate, then one that a company's authority has
// made, with its chain.
func TestPeerTrustsUs(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "strict", "security")
	d := device(srv.Endpoint(), "ns=2;s=Int16")
	d.Timeout = patience
	d.OPCUA.SecurityPolicy = "auto"
	pki := t.TempDir()
	drv := opcua.New(opcua.Options{PKIDir: pki})
	trustServer(t, drv, d)
	b := open(t, drv, d)
	own := filepath.Join(pki, "own", "cert.der")
	der, err := os.ReadFile(own) // from the start on, not from the first connection
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(context.Background()); protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), own) || !strings.Contains(err.Error(), sha1Of(der)) {
		t.Fatalf("%v", err)
	}
	command(t, srv, "trustclient "+hex.EncodeToString(der))
	connect(t, b)
	if advice := b.(protocols.Adviser).Advice(d); len(advice) != 0 {
		t.Errorf("advice: %q", advice)
	}
	for _, c := range ownByAuthority(t, pki, "urn:company:gw") {
		command(t, srv, c)
	}
	connect(t, b) // the files are read again
	if out, _ := read(t, b, d); show(out[0]) != "-32768" {
		t.Fatalf("%+v", out)
	}
	if advice := b.(protocols.Adviser).Advice(d); len(advice) != 1 || !strings.Contains(advice[0], "own certificate "+filepath.Join(pki, "own", "cert.pem")+" expires on") {
		t.Errorf("advice: %q", advice)
	}
	for _, name := range []string{"own", "own/key.pem"} {
		if info, err := os.Stat(filepath.Join(pki, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others can still read %s: %v %v", name, info.Mode(), err)
		}
	}
}

func sha1Of(der []byte) string {
	sum := sha1.Sum(der)
	return hex.EncodeToString(sum[:])
}
