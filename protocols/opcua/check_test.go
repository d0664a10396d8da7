package opcua_test

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(d *protocols.Device)
		tag    int
		field  string
		want   string
	}{
		"scheme":        {func(d *protocols.Device) { d.Endpoint = "tcp://192.0.2.9:4840" }, -1, "endpoint", "opc.tcp://"},
		"host":          {func(d *protocols.Device) { d.Endpoint = "opc.tcp://:4840" }, -1, "endpoint", "wants a host"},
		"user in URL":   {func(d *protocols.Device) { d.Endpoint = "opc.tcp://me:geheim@h" }, -1, "endpoint", "under auth"},
		"URL":           {func(d *protocols.Device) { d.Endpoint = "opc.tcp://h:port" }, -1, "endpoint", "no URL"},
		"policy":        {func(d *protocols.Device) { d.OPCUA.SecurityPolicy = "Basic512" }, -1, "security.policy", "Basic256Sha256"},
		"mode":          {func(d *protocols.Device) { d.OPCUA.SecurityMode = "Encrypt" }, -1, "security.mode", "SignAndEncrypt"},
		"None and Sign": {func(d *protocols.Device) { d.OPCUA.SecurityMode = "Sign" }, -1, "security.mode", "policy None"},
		"auto and None": {func(d *protocols.Device) { d.OPCUA.SecurityPolicy, d.OPCUA.SecurityMode = "auto", "None" }, -1, "security.mode", "policy: None"},
		"password":      {func(d *protocols.Device) { d.OPCUA.Password = "geheim" }, -1, "auth.password", "no user name"},
		"two users":     {func(d *protocols.Device) { d.OPCUA.Username, d.OPCUA.UserCert, d.OPCUA.UserKey = "u", "c", "k" }, -1, "auth.cert", "one of the two"},
		"no key":        {func(d *protocols.Device) { d.OPCUA.UserCert = "c" }, -1, "auth.cert", "auth.key"},
		"no cert":       {func(d *protocols.Device) { d.OPCUA.UserKey = "k" }, -1, "auth.key", "auth.cert"},
		"tolerate":      {func(d *protocols.Device) { d.OPCUA.Tolerate = []string{"all"} }, -1, "security.tolerate", "host_name"},
		"address":       {func(d *protocols.Device) { d.Tags[1].Address = "holding:1" }, 1, "address", "ns=2;s=Line1.Speed"},
		"type":          {func(d *protocols.Device) { d.Tags[0].Type = "int16" }, 0, "type", "server says the type"},
		"order":         {func(d *protocols.Device) { d.Tags[0].Order = protocols.CDAB }, 0, "order", "no byte order"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := device("opc.tcp://192.0.2.9", "i=1", "ns=2;s=a")
			if found := opcua.New(opcua.Options{}).Check(d); len(found) > 0 {
				t.Fatalf("nothing is wrong: %v", found)
			}
			c.change(d)
			found := opcua.New(opcua.Options{}).Check(d)
			if len(found) != 1 || found[0].Tag != c.tag || found[0].Field != c.field || !strings.Contains(found[0].Text, c.want) || strings.Contains(found[0].Text, "geheim") {
				t.Fatalf("%v", found)
			}
		})
	}
}

func TestBusKey(t *testing.T) {
	t.Parallel()
	drv := opcua.New(opcua.Options{})
	a, b := device("opc.tcp://Host"), device("opc.tcp://host:4840")
	if drv.BusKey(a) != drv.BusKey(b) {
		t.Error("one server, two keys")
	}
	b.OPCUA.Username, b.OPCUA.Password = "u", "geheim"
	if drv.BusKey(a) == drv.BusKey(b) || strings.Contains(drv.BusKey(b), "geheim") {
		t.Errorf("%s and %s", drv.BusKey(a), drv.BusKey(b))
	}
	a.OPCUA.UserCert, b.OPCUA = "one.der", a.OPCUA
	b.OPCUA.UserCert = "two.der"
	if drv.BusKey(a) == drv.BusKey(b) {
		t.Errorf("two users, one key: %s", drv.BusKey(a))
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	d := device("opc.tcp://h")
	for range 501 {
		d.Tags = append(d.Tags, protocols.Tag{Address: "ns=2;i=1"})
	}
	plan := opcua.New(opcua.Options{}).Requests(d, allTags(d))
	if len(plan) != 2 || plan[0].Tags != 500 || plan[1].Tags != 1 || plan[0].ReqBytes < 500*24 || plan[0].AnsBytes <= plan[1].AnsBytes {
		t.Fatalf("%+v", plan)
	}
}

// TestIdentity looks at the certificate that is made at the first start, by a
// gateway whose clock has not been set.
func TestIdentity(t *testing.T) {
	t.Parallel()
	id, err := opcuatest.NewIdentity("s")
	if err != nil {
		t.Fatal(err)
	}
	srv := newServer(t, opcuatest.Options{Identity: id})
	pki := filepath.Join(t.TempDir(), "pki")
	d := device(srv.Endpoint())
	d.OPCUA.SecurityPolicy = "Basic256Sha256"
	var first []byte
	for range 2 {
		drv := opcua.New(opcua.Options{PKIDir: pki, ApplicationName: "gw-7", Now: func() time.Time { return time.Unix(1000, 0) }})
		if err := open(t, drv, d).Connect(context.Background()); protocols.KindOf(err) != protocols.KindUntrusted {
			t.Fatalf("%v", err)
		}
		der, err := os.ReadFile(filepath.Join(pki, "own", "cert.der"))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && string(first) != string(der) {
			t.Error("a second start made another certificate")
		}
		first = der
	}
	cert, err := x509.ParseCertificate(first)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "urn:millrace:gw-7" || cert.Subject.CommonName != "gw-7" || len(cert.DNSNames) == 0 {
		t.Errorf("%v %v %v", cert.URIs, cert.Subject, cert.DNSNames)
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.AddDate(10, 0, 0).After(cert.NotAfter) {
		t.Errorf("valid from %s to %s", cert.NotBefore, cert.NotAfter)
	}
	for _, name := range []string{"own", "own/key.pem"} {
		info, err := os.Stat(filepath.Join(pki, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(pki, "own", "key.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = open(t, opcua.New(opcua.Options{PKIDir: pki}), d).Connect(context.Background())
	if err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("a damaged key: %v", err)
	}
}
