package opcua

import (
	"bytes"
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
	"slices"
	"strings"
)

// maxCertFile is the size above which a file is no certificate. The list of a
// large authority's revoked certificates has some hundred kilobytes.
const maxCertFile = 4 << 20

// maxStoreFiles is how many files of one directory are looked at.
const maxStoreFiles = 1000

// trustList is the directories that decide which servers are accepted, laid
// out as OPC UA tools know them (Part 12, 7.8.2): certificates right in a
// directory or in its folder "certs", revocation lists in its folder "crl".
type trustList struct {
	trusted  string // servers, and authorities whose servers are accepted
	issuers  string // authorities that only complete chains
	rejected string // what was refused, for a person to look at
}

func newTrustList(trusted string) trustList {
	beside := filepath.Dir(filepath.Clean(trusted))
	return trustList{trusted: trusted, issuers: filepath.Join(beside, "issuers"), rejected: filepath.Join(beside, "rejected")}
}

// held is a certificate in a file.
type held struct {
	*x509.Certificate

	path string
}

// store is what the directories hold at one time. They are read for each
// connection anew: what is changed there needs no restart.
type store struct {
	trusted, issuers []held
	lists            []*x509.RevocationList
	unreadable       []string // files that are there but say nothing, with the reason
	unreadableLists  []string // the same of revocation lists
}

// read reads the directories. Files that are no certificates are passed over:
// they accept nobody.
func (t trustList) read() (*store, error) {
	s := &store{}
	var err error
	if s.trusted, err = s.certs(t.trusted); err != nil {
		return nil, fmt.Errorf("the directory of trusted certificates: %w", err)
	}
	if s.issuers, err = s.certs(t.issuers); err != nil {
		return nil, fmt.Errorf("the directory of issuers' certificates: %w", err)
	}
	for _, dir := range []string{t.trusted, t.issuers} {
		// A list that cannot be read must not let a revoked certificate in: see
		// checkRevocation.
		err := each(filepath.Join(dir, "crl"), []string{".crl", ".der", ".pem"}, s.list, func(text string) {
			s.unreadableLists = append(s.unreadableLists, text)
		})
		if err != nil {
			return nil, fmt.Errorf("the directory of revocation lists: %w", err)
		}
	}
	return s, nil
}

// list takes the revocation lists in a file.
func (s *store) list(path string, data []byte) {
	for _, der := range blocks(data, "X509 CRL") {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			s.unreadableLists = append(s.unreadableLists, path+" holds no revocation list")
			return
		}
		s.lists = append(s.lists, l)
	}
}

func (s *store) certs(dir string) ([]held, error) {
	var all []held
	for _, d := range []string{dir, filepath.Join(dir, "certs")} {
		err := each(d, []string{".der", ".crt", ".cer", ".pem"}, func(path string, data []byte) {
			for _, c := range parseCerts(data) {
				all = append(all, held{c, path})
			}
		}, func(text string) { s.unreadable = append(s.unreadable, text) })
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// each calls with what is in the files of a directory that have one of the
// endings, and unread with why a file was passed over. There need be no such
// directory.
func each(dir string, endings []string, with func(path string, data []byte), unread func(text string)) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(files) > maxStoreFiles {
		unread(fmt.Sprintf("%s has more than %d files", dir, maxStoreFiles))
	}
	for _, f := range files[:min(len(files), maxStoreFiles)] {
		if !slices.Contains(endings, strings.ToLower(filepath.Ext(f.Name()))) {
			continue
		}
		path := filepath.Join(dir, f.Name())
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			continue
		case err == nil && !info.Mode().IsRegular():
			unread(path + " is no file")
			continue
		case err == nil && info.Size() > maxCertFile:
			unread(fmt.Sprintf("%s is larger than %d MiB", path, maxCertFile>>20))
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			unread(err.Error())
			continue
		}
		with(path, data)
	}
	return nil
}

// holds returns the file among the trusted ones that has the certificate,
// byte for byte; empty: none.
func (s *store) holds(der []byte) string {
	i := slices.IndexFunc(s.trusted, func(h held) bool { return bytes.Equal(h.Raw, der) })
	if i < 0 {
		return ""
	}
	return s.trusted[i].path
}

// blocks returns the parts of a file in PEM that are of that type, or the
// file itself, which then is in DER.
func blocks(data []byte, kind string) [][]byte {
	var out [][]byte
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == kind {
			out = append(out, block.Bytes)
		}
	}
	if out == nil {
		return [][]byte{data}
	}
	return out
}

// parseCerts reads the certificates in a file, DER or PEM, one or several.
func parseCerts(data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for _, der := range blocks(data, "CERTIFICATE") {
		if certs, err := x509.ParseCertificates(der); err == nil {
			out = append(out, certs...)
		}
	}
	return out
}

// fingerprints are the SHA-1 and SHA-256 of a certificate, in hex: the first
// is what OPC UA tools show, the second is what can be relied on.
func fingerprints(der []byte) (s1, s256 string) {
	a, b := sha1.Sum(der), sha256.Sum256(der) //nolint:gosec // see the import
	return hex.EncodeToString(a[:]), hex.EncodeToString(b[:])
}

// nameOf is a certificate's subject, which its owner chose, as text that is
// safe to show.
func nameOf(c *x509.Certificate) string { return fmt.Sprintf("%.200q", c.Subject.String()) }

// certFileName is the name that OPC UA tools give to a certificate's file.
func certFileName(c *x509.Certificate) string {
	s1, _ := fingerprints(c.Raw)
	return fileName(c.Subject.CommonName) + " [" + s1 + "].der"
}
