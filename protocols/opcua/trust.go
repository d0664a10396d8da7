package opcua

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the thumbprint that OPC UA tools show; nothing depends on its strength
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxRejected is how many refused certificates are kept: whoever answers at
// an endpoint's address decides how many there are.
const maxRejected = 100

// maxCertFile is the size above which a file is no certificate.
const maxCertFile = 1 << 20

// trustList is the directory of the certificates that are accepted, and the
// one beside it for those that were refused.
type trustList struct {
	trusted, rejected string
}

func newTrustList(trusted string) trustList {
	return trustList{trusted: trusted, rejected: filepath.Join(filepath.Dir(filepath.Clean(trusted)), "rejected")}
}

// untrustedError says that a server's certificate is not in the trust list.
type untrustedError struct {
	subject, sha1, sha256 string
	from, to              string // where it was put, and where it belongs if it is the right one
	keep                  error  // why it could not be kept
}

func (e *untrustedError) Error() string {
	what := fmt.Sprintf("the server's certificate is not trusted: %s, SHA-1 %s, SHA-256 %s", e.subject, e.sha1, e.sha256)
	if e.keep != nil {
		return fmt.Sprintf("%s; it could not be kept in %s (%v); compare it with the server's, then copy it from there to %s", what, e.from, e.keep, e.to)
	}
	return fmt.Sprintf("%s; if it is the server's, move %s to %s", what, e.from, e.to)
}

// verify checks that the certificate (the first of a chain, in DER) is one of
// the trusted ones, byte for byte. Any other is kept as rejected.
func (t trustList) verify(der []byte) error {
	certs, err := x509.ParseCertificates(der)
	if err != nil || len(certs) == 0 {
		return fmt.Errorf("the server's certificate cannot be read: %w", errors.Join(err, errNoCertificate))
	}
	leaf := certs[0]
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		return fmt.Errorf("the server's certificate has a %s key; OPC UA's policies here want RSA", leaf.PublicKeyAlgorithm)
	}
	known, err := t.holds(leaf.Raw)
	if err != nil || known {
		return err
	}
	s1, s256 := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw) //nolint:gosec // see the import
	name := fileName(leaf.Subject.CommonName) + " [" + hex.EncodeToString(s1[:]) + "].der"
	e := &untrustedError{
		subject: fmt.Sprintf("%q", leaf.Subject.String()),
		sha1:    hex.EncodeToString(s1[:]), sha256: hex.EncodeToString(s256[:]),
		from: filepath.Join(t.rejected, name), to: t.trusted,
	}
	e.keep = t.keep(name, leaf.Raw)
	return e
}

var errNoCertificate = errors.New("it sent none, or not one in DER")

// holds looks through the trusted certificates. A file that cannot be read as
// one is passed over: it accepts nobody.
func (t trustList) holds(der []byte) (bool, error) {
	files, err := os.ReadDir(t.trusted)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the directory of trusted certificates: %w", err)
	}
	for _, f := range files {
		switch strings.ToLower(filepath.Ext(f.Name())) {
		case ".der", ".crt", ".cer", ".pem":
		default:
			continue
		}
		path := filepath.Join(t.trusted, f.Name())
		if info, err := os.Stat(path); err != nil || info.Size() > maxCertFile || !info.Mode().IsRegular() {
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil && fileHolds(data, der) {
			return true, nil
		}
	}
	return false, nil
}

// fileHolds says whether a file in DER or PEM holds the certificate.
func fileHolds(data, der []byte) bool {
	if bytes.Equal(data, der) {
		return true
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return false
		}
		if block.Type == "CERTIFICATE" && bytes.Equal(block.Bytes, der) {
			return true
		}
		data = rest
	}
}

// keep stores a refused certificate; the oldest make room for it.
func (t trustList) keep(name string, der []byte) error {
	if err := errors.Join(os.MkdirAll(t.trusted, 0o750), os.MkdirAll(t.rejected, 0o750)); err != nil {
		return err
	}
	path := filepath.Join(t.rejected, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, der) {
		return nil
	}
	if err := t.makeRoom(); err != nil {
		return err
	}
	return writeWhole(path, der)
}

func (t trustList) makeRoom() error {
	files, err := os.ReadDir(t.rejected)
	if err != nil {
		return err
	}
	for len(files) >= maxRejected {
		oldest := 0
		for i := range files {
			if modTime(files[i]) < modTime(files[oldest]) {
				oldest = i
			}
		}
		if err := removeIfThere(filepath.Join(t.rejected, files[oldest].Name())); err != nil {
			return err
		}
		files = append(files[:oldest], files[oldest+1:]...)
	}
	return nil
}

func modTime(f fs.DirEntry) int64 {
	info, err := f.Info()
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

// fileName makes a certificate's common name, which its owner chose, fit to
// be part of a file's name.
func fileName(cn string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == '@':
			return r
		}
		return '_'
	}, cn)
	clean = strings.TrimLeft(clean, ".")
	if clean == "" {
		clean = "unnamed"
	}
	return clean[:min(len(clean), 64)]
}
