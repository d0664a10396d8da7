package mqtttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// PKI is an authority of its own with a certificate for a broker on the
// loopback and one for a client, as PEM files.
type PKI struct {
	CA                    string
	ServerCert, ServerKey string
	ClientCert, ClientKey string

	t      TB
	dir    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// NewPKI makes one. The broker's certificate is for localhost and 127.0.0.1.
func NewPKI(t TB) *PKI {
	t.Helper()
	p := &PKI{t: t, dir: t.TempDir()}
	template := p.template("Millrace test CA", time.Now().Add(time.Hour))
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	p.ca = template
	p.key = p.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key)
	if err != nil {
		t.Fatalf("test CA: %v", err)
	}
	p.CA = p.write("ca.pem", "CERTIFICATE", der)
	until := time.Now().Add(time.Hour)
	p.ServerCert, p.ServerKey = p.Issue("localhost", until, "localhost")
	p.ClientCert, p.ClientKey = p.Issue("gw-test", until)
	return p
}

// Issue makes a certificate that ends at the given time, for the given host
// names; 127.0.0.1 is added for localhost. It returns the paths of the
// certificate and its key.
func (p *PKI) Issue(name string, until time.Time, hosts ...string) (cert, key string) {
	p.t.Helper()
	template := p.template(name, until)
	template.DNSNames = hosts
	for _, h := range hosts {
		if h == "localhost" {
			template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	private := p.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, private.Public(), p.key)
	if err != nil {
		p.t.Fatalf("test certificate: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		p.t.Fatalf("test certificate: %v", err)
	}
	base := template.SerialNumber.String() + "-" + name
	return p.write(base+".pem", "CERTIFICATE", der), p.write(base+".key", "PRIVATE KEY", keyDER)
}

func (p *PKI) template(name string, until time.Time) *x509.Certificate {
	p.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-2 * time.Hour),
		NotAfter:     until,
	}
}

func (p *PKI) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatalf("test key: %v", err)
	}
	return key
}

func (p *PKI) write(name, kind string, der []byte) string {
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatalf("%v", err)
	}
	return path
}
