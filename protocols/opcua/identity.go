package opcua

import (
	"bytes"
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
	"runtime"
	"slices"
	"strings"
	"time"
)

// identity is the application certificate that servers know this gateway by.
type identity struct {
	key   *rsa.PrivateKey
	leaf  *x509.Certificate
	cert  []byte // DER: the leaf, and after it the authorities between it and a root, if there are any
	uri   string // the application URI in the leaf
	path  string // of its file, for messages
	fresh bool   // it was made just now
	stamp string // of its files, to see that they were changed
}

const (
	keyBits    = 2048
	certName   = "cert.der" // ours
	chainName  = "cert.pem" // somebody else's: an authority's, with or without its chain
	keyName    = "key.pem"
	certYears  = 25 // a gateway's life: nobody renews it, and servers trust exactly this certificate
	ownDirMode = 0o700
	// ownWarning is how long before its end a certificate is called old.
	ownWarning = 30 * 24 * time.Hour
)

// loadIdentity reads the certificate and key in dir, or makes them if there
// are none. A certificate that is there is kept even where it says another
// application URI than uri: servers already trust it.
func loadIdentity(dir, name, uri string, now time.Time) (*identity, error) {
	keyPath := filepath.Join(dir, keyName)
	certPath := ownCertPath(dir)
	if err := keepPrivate(dir, keyPath); err != nil {
		return nil, err
	}
	key, err := loadKey(keyPath)
	fresh := false
	if errors.Is(err, fs.ErrNotExist) {
		if filepath.Base(certPath) != certName {
			return nil, fmt.Errorf("%s is there without its key: put the key into %s, or move the certificate away and new ones are made", certPath, keyPath)
		}
		key, err = makeKey(dir, keyPath)
		if err == nil {
			// A certificate of a key that is gone is of no use.
			err = removeIfThere(certPath)
		}
	}
	if err != nil {
		return nil, ownFault(err)
	}
	data, err := os.ReadFile(certPath)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = makeCert(certPath, key, name, uri, now)
		fresh = true
	}
	if err != nil {
		return nil, err
	}
	leaf, chain, err := ownChain(parseCerts(data), key)
	if err != nil {
		return nil, fmt.Errorf("%s %w %s; move both away and new ones are made", certPath, err, keyPath)
	}
	if len(leaf.URIs) > 0 {
		uri = leaf.URIs[0].String()
	}
	return &identity{key: key, leaf: leaf, cert: chain, uri: uri, path: certPath, fresh: fresh, stamp: ownStamp(dir)}, nil
}

// ownFault adds to what is wrong with a key what can be done for this one.
func ownFault(err error) error {
	if k, ok := errors.AsType[*keyError](err); ok {
		return fmt.Errorf("%w; or move it away and a new one is made", k)
	}
	return err
}

// ownCertPath is the certificate that counts: one in PEM was put there by
// somebody.
func ownCertPath(dir string) string {
	if path := filepath.Join(dir, chainName); modeOf(path).IsRegular() {
		return path
	}
	return filepath.Join(dir, certName)
}

func modeOf(path string) fs.FileMode {
	info, err := os.Stat(path)
	if err != nil {
		return fs.ModeIrregular
	}
	return info.Mode()
}

// ownStamp changes when somebody changes the files.
func ownStamp(dir string) string {
	var b strings.Builder
	for _, name := range []string{chainName, certName, keyName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			fmt.Fprintf(&b, "%s %d %d;", name, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

// keepPrivate takes from others the right to read the key, which somebody
// who put it there may have left.
func keepPrivate(dir, key string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such bits
	}
	for path, mode := range map[string]fs.FileMode{dir: ownDirMode, key: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 == 0 {
			continue // what is not there is made right
		}
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("others than its owner can read %s, and that could not be changed (%w): run chmod %o on it as its owner", path, err, mode)
		}
	}
	return nil
}

// ownChain finds among certificates the one that belongs to the key, and
// returns it and the bytes to send: it and what stands between it and a root.
func ownChain(certs []*x509.Certificate, key *rsa.PrivateKey) (leaf *x509.Certificate, chain []byte, err error) {
	if len(certs) == 0 {
		return nil, nil, errors.New("holds no certificate that can be read to go with")
	}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		pub, ok := c.PublicKey.(*rsa.PublicKey)
		return ok && pub.Equal(&key.PublicKey)
	})
	if i < 0 {
		return nil, nil, errors.New("does not belong to the key in")
	}
	leaf = certs[i]
	chain = slices.Clone(leaf.Raw)
	for last, n := leaf, 0; n < maxChain && !selfIssued(last); n++ {
		at := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && !selfIssued(c)
		})
		if at < 0 {
			break
		}
		last = certs[at]
		chain = append(chain, last.Raw...)
	}
	return leaf, slices.Clip(chain), nil
}

// notes are what is to be said of the certificate, though it may do.
func (i *identity) notes(now time.Time) []string {
	if !clockSet(now) {
		return nil
	}
	switch renew := "put a new one there, and have the servers trust it"; {
	case now.After(i.leaf.NotAfter):
		return []string{fmt.Sprintf("this gateway's own certificate %s expired on %s: %s", i.path, day(i.leaf.NotAfter), renew)}
	case now.Add(ownWarning).After(i.leaf.NotAfter):
		return []string{fmt.Sprintf("this gateway's own certificate %s expires on %s: %s", i.path, day(i.leaf.NotAfter), renew)}
	}
	return nil
}

// keyError says why a key cannot be used. It never holds a part of it.
type keyError struct{ text string }

func (e *keyError) Error() string { return e.text }

// loadKey reads an RSA key, PEM or DER, PKCS #8 or #1.
func loadKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	der := text
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, &keyError{path + " wants a passphrase, which nobody could type in at a start; store it without one (openssl pkey -in OLD -out NEW), readable only by its owner"}
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			der = block.Bytes
			break
		}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			return key, nil
		}
		// What the parser says may quote the key's structure: it helps nobody.
		return nil, &keyError{path + " holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"}
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, &keyError{path + " is no RSA key, and OPC UA's policies here know no other"}
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
	return key, writeWhole(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
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
	return der, writeWhole(path, der, publicFile)
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

// writeWhole writes a file so that it is there whole or not at all, also
// after a power cut.
func writeWhole(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
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
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // not all file systems can
		_ = dir.Close()
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
