package opcua

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrust(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := newTrustList(filepath.Join(dir, "trusted"))
	want := wanted("Basic256Sha256")
	good := issue(t, nil, named("good"))
	ca := issue(t, nil, authority("ca"))
	var untrusted *untrustedError
	if _, err := list.verify(good.Raw, want, "plc-1"); !errors.As(err, &untrusted) || !strings.Contains(err.Error(), "SHA-256") || !strings.Contains(err.Error(), "millrace trust plc-1 -c FILE") {
		t.Fatalf("%v", err)
	}
	if err := os.Mkdir(filepath.Join(list.trusted, "certs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"a.der":       good.Raw,
		"certs/a.CRT": good.Raw,
		"b.pem":       append([]byte("Server:\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.Raw})...),
	} {
		path := filepath.Join(list.trusted, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		// As it is, and at the head of a chain.
		for _, shown := range [][]byte{good.Raw, append(append([]byte(nil), good.Raw...), ca.Raw...)} {
			if v, err := list.verify(shown, want, ""); err != nil || v.by != path {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.Rename(path, path+".bak"); err != nil {
			t.Fatal(err)
		}
		if _, err := list.verify(good.Raw, want, ""); err == nil {
			t.Error("a file that is no certificate by its name accepts one")
		}
	}
	for _, bad := range [][]byte{nil, {}, []byte("nonsense"), good.Raw[:len(good.Raw)-1]} {
		if _, err := list.verify(bad, want, ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for range maxRejected + 20 {
		_, _ = list.verify(issue(t, nil, named("../../evil/\x00"+strings.Repeat("x", 300))).Raw, want, "")
	}
	files, err := os.ReadDir(list.rejected)
	if err != nil || len(files) != maxRejected {
		t.Fatalf("%d rejected certificates are kept: %v", len(files), err)
	}
	if outside, _ := filepath.Glob(filepath.Join(dir, "*")); len(outside) != 2 {
		t.Errorf("files outside: %v", outside)
	}
}

// TestLargeCertificate: what a stranger sends does not fill the disk.
func TestLargeCertificate(t *testing.T) {
	t.Parallel()
	list := newTrustList(filepath.Join(t.TempDir(), "trusted"))
	large := issue(t, nil, change(named("large"), func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, maxServerCerts)}}
	}))
	_, err := list.verify(large.Raw, wanted("Basic256Sha256"), "")
	if err == nil || !strings.Contains(err.Error(), "more than 256 KiB") {
		t.Errorf("%v", err)
	}
	if files, _ := os.ReadDir(list.rejected); len(files) != 0 {
		t.Errorf("%v is kept", files)
	}
}

// TestAccept moves a certificate from the rejected ones to the trusted.
func TestAccept(t *testing.T) {
	t.Parallel()
	list := newTrustList(filepath.Join(t.TempDir(), "trusted"))
	want := wanted("Basic256Sha256")
	cert := issue(t, nil, named("plc"))
	if _, err := list.verify(cert.Raw, want, ""); err == nil {
		t.Fatal("it was accepted")
	}
	for range 2 {
		path, err := list.accept(cert.Certificate)
		if err != nil || filepath.Dir(path) != list.trusted {
			t.Fatalf("%s %v", path, err)
		}
		if v, err := list.verify(cert.Raw, want, ""); err != nil || v.by != path {
			t.Fatalf("%v", err)
		}
		if err := list.stillTrusted(cert.Raw, want); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(list.rejected); err != nil || len(left) != 0 {
		t.Errorf("still rejected: %v %v", left, err)
	}
	if files, err := os.ReadDir(list.trusted); err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	} else if err := os.Remove(filepath.Join(list.trusted, files[0].Name())); err != nil {
		t.Fatal(err)
	}
	if err := list.stillTrusted(cert.Raw, want); err == nil {
		t.Error("a connection may stand without trust")
	}
}
