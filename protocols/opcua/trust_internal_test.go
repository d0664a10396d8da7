package opcua

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes one with that common name, all with one key.
func certificate(tb testing.TB, key *rsa.PrivateKey, cn string, serial int64) []byte {
	tb.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func TestTrust(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	list := newTrustList(filepath.Join(dir, "trusted"))
	good := certificate(t, key, "good", 1)
	var untrusted *untrustedError
	if err := list.verify(good); !errors.As(err, &untrusted) || !strings.Contains(err.Error(), "SHA-256") {
		t.Fatalf("%v", err)
	}
	for name, data := range map[string][]byte{
		"a.der": good,
		"b.pem": append([]byte("Server:\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good})...),
	} {
		path := filepath.Join(list.trusted, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		// As it is, and at the head of a chain.
		for _, shown := range [][]byte{good, append(append([]byte(nil), good...), certificate(t, key, "ca", 2)...)} {
			if err := list.verify(shown); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.Rename(path, path+".bak"); err != nil {
			t.Fatal(err)
		}
		if err := list.verify(good); err == nil {
			t.Error("a file that is no certificate by its name accepts one")
		}
	}
	for _, bad := range [][]byte{nil, {}, []byte("nonsense")} {
		if err := list.verify(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for i := range maxRejected + 20 {
		_ = list.verify(certificate(t, key, "../../evil/\x00"+strings.Repeat("x", 300), int64(i+10)))
	}
	files, err := os.ReadDir(list.rejected)
	if err != nil || len(files) != maxRejected {
		t.Fatalf("%d rejected certificates are kept: %v", len(files), err)
	}
	if outside, _ := filepath.Glob(filepath.Join(dir, "*")); len(outside) != 2 {
		t.Errorf("files outside: %v", outside)
	}
}
