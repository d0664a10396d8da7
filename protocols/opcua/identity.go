package opcua

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// identity is the application certificate that servers know this gateway by.
type identity struct {
	key  *rsa.PrivateKey
	cert []byte // DER
	uri  string // the application URI in cert
	path string // of cert, for messages
}

const (
	keyBits    = 2048
	certName   = "cert.der"
	keyName    = "key.pem"
	certYears  = 25 // a gateway's life: nobody renews it, and servers trust exactly this certificate
	ownDirMode = 0o700
)

// loadIdentity reads the certificate and key in dir, or makes them if there
// are none. A certificate that is there is kept even where it says another
// application URI than uri: servers already trust it.
func loadIdentity(dir, name, uri string, now time.Time) (*identity, error) {
	certPath, keyPath := filepath.Join(dir, certName), filepath.Join(dir, keyName)
	key, err := loadKey(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(dir, keyPath)
		if err == nil {
			// A certificate of a key that is gone is of no use.
			err = removeIfThere(certPath)
		}
	}
	if err != nil {
		return nil, err
	}
	der, err := os.ReadFile(certPath)
	if errors.Is(err, fs.ErrNotExist) {
		der, err = makeCert(certPath, key, name, uri, now)
	}
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; move it away and a new one is made", certPath, err)
	}
	if pub, ok := cert.PublicKey.(*rsa.PublicKey); !ok || !pub.Equal(&key.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to the key in %s; move both away and new ones are made", certPath, keyPath)
	}
	if len(cert.URIs) > 0 {
		uri = cert.URIs[0].String()
	}
	return &identity{key: key, cert: der, uri: uri, path: certPath}, nil
}

func loadKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM; move it away and a new one is made", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; move it away and a new one is made", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is no RSA key, and OPC UA knows no other; move it away and a new one is made", path)
	}
	return key, nil
}

func makeKey(dir, path string) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, ownDirMode); err != nil {
		return nil, err
	}
	return key, writeWhole(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func makeCert(path string, key *rsa.PrivateKey, name, uri string, now time.Time) ([]byte, error) {
	parsed, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("application URI %q: %w", uri, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	// A gateway without a clock battery boots in 1970: a certificate made then
	// must hold when the time has come.
	if earliest := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); now.Before(earliest) {
		now = earliest
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Millrace"}},
		NotBefore:    now.AddDate(0, 0, -1),
		NotAfter:     now.AddDate(certYears, 0, 0),
		// Part 6, 6.2.2: what an application instance certificate must say.
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment |
			x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{parsed},
		DNSNames:              []string{host},
		IPAddresses:           localAddresses(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return der, writeWhole(path, der)
}

// localAddresses returns the machine's own addresses, without loopback.
func localAddresses() []net.IP {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []net.IP
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP)
		}
	}
	return out
}

// writeWhole writes a file so that it is there whole or not at all.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
