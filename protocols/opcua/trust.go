package opcua

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxRejected is how many refused certificates are kept: whoever answers at
// an endpoint's address decides how many there are.
const maxRejected = 100

// untrustedError says that a server's certificate is not in the trust list.
type untrustedError struct {
	subject, sha1, sha256 string
	device                string // to name in the command that trusts it; may be empty
	from, to              string // where it was put, and where it belongs if it is the right one
	keep                  error  // why it could not be kept
	known                 error  // what else is known of why it is not trusted; may be nil
}

func (e *untrustedError) Error() string {
	what := fmt.Sprintf("the server's certificate is not trusted: %s, SHA-1 %s, SHA-256 %s", e.subject, e.sha1, e.sha256)
	if e.known != nil {
		what += fmt.Sprintf(" (%v)", e.known)
	}
	if e.keep != nil {
		return fmt.Sprintf("%s; it could not be kept in %s (%v); compare it with the server's, then copy it from there to %s", what, e.from, e.keep, e.to)
	}
	if e.device == "" {
		return fmt.Sprintf("%s; if it is the server's, move %s to %s", what, e.from, e.to)
	}
	return fmt.Sprintf("%s; if it is the server's, say millrace trust %s -c FILE, or move %s to %s", what, e.device, e.from, e.to)
}

// verify says whether a server with that certificate (the first of a chain,
// in DER) is accepted. One that is not trusted is kept as rejected. device is
// whose server it is, for the message.
func (t trustList) verify(der []byte, want demand, device string) (*verdict, error) {
	v, err := t.judge(der, want)
	if err != nil {
		return nil, &certError{text: err.Error()}
	}
	if v.by != "" {
		err = v.refusal(want.tolerate)
		return v, err
	}
	s1, s256 := fingerprints(v.leaf.Raw)
	name := certFileName(v.leaf)
	e := &untrustedError{
		subject: nameOf(v.leaf), sha1: s1, sha256: s256, device: device,
		from: filepath.Join(t.rejected, name), to: t.trusted, known: v.known,
	}
	e.keep = t.keep(name, v.leaf.Raw)
	return v, e
}

// stillTrusted says why a connection that stands must end: its certificate
// was taken out of the trust list, or revoked. That it has become too old
// meanwhile is no reason to lose data; it is one when the next is made.
func (t trustList) stillTrusted(der []byte, want demand) error {
	v, err := t.judge(der, want)
	if err != nil {
		return nil //nolint:nilerr // a disk that fails for a moment costs no data; the next connection is refused if it lasts
	}
	if v.by == "" {
		return errors.New("its certificate is no longer trusted")
	}
	for _, f := range v.faults {
		if f.cuts {
			return errors.New(f.text)
		}
	}
	return nil
}

// publicDir and publicFile are the modes of what holds certificates alone.
// They are no secrets, and are often put there by another user than the
// agent's.
const (
	publicDir  = 0o755
	publicFile = 0o644
)

// keep stores a refused certificate; the oldest make room for it.
func (t trustList) keep(name string, der []byte) error {
	if err := errors.Join(os.MkdirAll(t.trusted, publicDir), os.MkdirAll(t.rejected, publicDir)); err != nil {
		return err
	}
	path := filepath.Join(t.rejected, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, der) {
		return nil
	}
	if err := t.makeRoom(); err != nil {
		return err
	}
	return writeWhole(path, der, publicFile)
}

// accept puts a certificate among the trusted and takes it out of the
// rejected ones. It returns its file.
func (t trustList) accept(leaf *x509.Certificate) (string, error) {
	s, err := t.read()
	if err != nil {
		return "", err
	}
	path := s.holds(leaf.Raw)
	if path == "" {
		dir := t.trusted
		if info, err := os.Stat(filepath.Join(dir, "certs")); err == nil && info.IsDir() {
			dir = filepath.Join(dir, "certs")
		}
		path = filepath.Join(dir, certFileName(leaf))
		if err := os.MkdirAll(dir, publicDir); err != nil {
			return "", err
		}
		if err := writeWhole(path, leaf.Raw, publicFile); err != nil {
			return "", err
		}
	}
	rejected, err := (&store{}).certs(t.rejected)
	for _, h := range rejected {
		if bytes.Equal(h.Raw, leaf.Raw) {
			err = errors.Join(err, removeIfThere(h.path))
		}
	}
	return path, err
}

func (t trustList) makeRoom() error {
	files, err := os.ReadDir(t.rejected)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f fs.DirEntry) bool { return !f.Type().IsRegular() })
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
