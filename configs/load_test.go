package configs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/configs"
	"millrace/protocols"
)

func load(t *testing.T, file string) *configs.Config {
	t.Helper()
	c, err := configs.Load(file, drivers())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// parse parses a configuration whose files are in dir.
func parse(t *testing.T, dir, text string) *configs.Config {
	t.Helper()
	c, err := configs.Parse("millrace.yaml", []byte(text), dir, drivers())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := parse(t, dir, `
gateway: {id: gw-1}
uplinks:
  - {name: platform, broker: "mqtts://broker.example.com"}
devices:
  - id: press-1
    driver: modbus
    endpoint: tcp://192.0.2.5:502
    tags: [{name: temp, address: "holding:1"}]
  - id: robot-7
    driver: opcua
    endpoint: opc.tcp://192.0.2.9:4840
    security: {policy: Basic256Sha256}
    tags: [{name: torque, address: "ns=2;s=T"}]
`)
	press := protocols.Device{
		ID: "press-1", Driver: "modbus", Endpoint: "tcp://192.0.2.5:502", Enabled: true,
		Interval: time.Second, Timeout: time.Second, Snapshot: 10 * time.Minute, OfflineAfter: 5 * time.Second, Identify: true,
		Modbus: protocols.ModbusOptions{Unit: 1, MaxGap: 16, MaxRegisters: 125, MaxInflight: 1, Turnaround: 5 * time.Millisecond},
		Tags: []protocols.Tag{{
			Name: "temp", Address: "holding:1", Interval: time.Second, Scale: 1,
			Source: protocols.Position{File: "millrace.yaml", Line: 9, Col: 12},
		}},
	}
	robot := press
	robot.ID, robot.Driver, robot.Endpoint = "robot-7", "opcua", "opc.tcp://192.0.2.9:4840"
	robot.Timeout = 5 * time.Second
	robot.Modbus = protocols.ModbusOptions{}
	robot.OPCUA = protocols.OPCUAOptions{
		History: 24 * time.Hour, Profile: "auto",
		Subscribe: true, SecurityPolicy: "Basic256Sha256", SecurityMode: "SignAndEncrypt",
		Trust: filepath.Join(dir, "pki", "trusted"),
	}
	robot.Tags = []protocols.Tag{{
		Name: "torque", Address: "ns=2;s=T", Interval: time.Second, Scale: 1,
		Source: protocols.Position{File: "millrace.yaml", Line: 14, Col: 12},
	}}
	same(t, "configuration", c, &configs.Config{
		Path: "millrace.yaml", Dir: dir,
		Gateway: configs.Gateway{ID: "gw-1", Group: "default"},
		Buffer: configs.Buffer{
			Path: filepath.Join(dir, "data", "buffer"), MaxSize: 1 << 30, MaxAge: 720 * time.Hour, CommitInterval: time.Second,
		},
		Uplinks: []configs.Uplink{{
			Name: "platform", Broker: "mqtts://broker.example.com:8883", ClientID: "gw-1",
			Format: "json", Topic: "millrace", MaxInflight: 64, CatchUp: "in_order",
		}},
		Console: configs.Console{Listen: "127.0.0.1:8080"},
		Devices: []*protocols.Device{&press, &robot},
		Equipment: []configs.Equipment{
			{Asset: "press-1", Name: "press-1", Digital: true, Devices: []string{"press-1"}},
			{Asset: "robot-7", Name: "robot-7", Digital: true, Devices: []string{"robot-7"}},
		},
		Connectivity: configs.Connectivity{Path: filepath.Join(dir, "data", "ledger"), Keep: 9600 * time.Hour, Uplink: "platform", NetworkedHours: 0.9},
	})
}

func TestEveryKey(t *testing.T) {
	t.Parallel()
	c := load(t, "testdata/full.good.yaml")
	same(t, "gateway", c.Gateway, configs.Gateway{ID: "gw-press-01", Group: "plant-2", Labels: map[string]string{"enterprise": "ACME", "floor": "2"}})
	same(t, "buffer", c.Buffer, configs.Buffer{Path: filepath.Join(c.Dir, "b"), MaxSize: 10e6})
	same(t, "uplinks", c.Uplinks, []configs.Uplink{
		{
			Name: "platform", Broker: "ws://broker.example.com:80/mqtt", ClientID: "4711", Username: "gw1", Password: testSecret,
			Format: "json", Topic: "plants/munich", MaxInflight: 10,
			CatchUp: configs.LiveFirst, CatchUpRate: configs.Rate{Share: 0.25},
		},
		{
			Name: "second", Broker: "mqtts://[2001:db8::1]:8883", ClientID: "gw-press-01",
			TLS:    configs.TLS{ServerName: "broker.example.com", Digest: c.Uplinks[1].TLS.Digest},
			Format: "json", Topic: "millrace", MaxInflight: 64, CatchUp: "in_order",
		},
	})
	low, high := -40.0, 150.0
	at := func(line int) protocols.Position {
		return protocols.Position{File: "testdata/full.good.yaml", Line: line, Col: 9}
	}
	same(t, "press-1", c.Devices[0], &protocols.Device{
		ID: "press-1", Driver: "modbus", Endpoint: "tcp://192.0.2.5:502", Critical: true, Labels: map[string]string{"line": "3"},
		Interval: 250 * time.Millisecond, Timeout: 2 * time.Second, Snapshot: time.Hour,
		Modbus: protocols.ModbusOptions{
			Order: protocols.CDAB, MaxRegisters: 10, Fallback: "tcp://192.0.2.6", MaxInflight: protocols.InflightAuto, Pause: 20 * time.Millisecond,
			Retries: 2, CloseAfterScan: true, Turnaround: 30 * time.Millisecond, TimeZone: "-03:30",
		},
		Tags: []protocols.Tag{
			{
				Name: "温度", Address: "40001", Type: "uint16", Order: protocols.DCBA, Interval: 5 * time.Second,
				Scale: 0.1, Offset: -40, HasScale: true, Unit: "°C", Deadband: protocols.Deadband{Size: 2, Percent: true},
				Min: &low, Max: &high, Description: "x", Source: at(48),
			},
			{
				Name: "state", Address: "holding:3", Order: protocols.CDAB, Interval: 250 * time.Millisecond, Scale: 1,
				OnChange: true, Enum: map[int64]string{0: "stopped", 1: "running"}, Source: at(49),
			},
			{
				Name: "level", Address: "input:3", Order: protocols.CDAB, Interval: 250 * time.Millisecond, Scale: 1e-3, HasScale: true,
				Deadband: protocols.Deadband{Size: 0.5}, Enum: map[int64]string{0: "low", 1: "high"}, Source: at(50),
			},
		},
	})
	for i, endpoint := range []string{"rtu:///dev/serial/by-id/usb-x-port0?baud=19200&parity=even&stop=1", "rtu+tcp://192.0.2.8:4001", "rtu+tcp://192.0.2.8:4001"} {
		if d := c.Devices[2+i]; d.Endpoint != endpoint || d.Modbus.TimeZone != "+00:00" || d.Modbus.Unit != 7 {
			t.Errorf("%s: endpoint %s, unit %d, time zone %s", d.ID, d.Endpoint, d.Modbus.Unit, d.Modbus.TimeZone)
		}
	}
	same(t, "robot-7", c.Devices[1].OPCUA, protocols.OPCUAOptions{
		History: 24 * time.Hour, Profile: "auto",
		SecurityPolicy: "Basic256Sha256", SecurityMode: "Sign", Username: "u", Password: "12345", Trust: "/etc/millrace/trusted",
	})
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	c := load(t, "testdata/anchors.good.yaml")
	got := make([]string, len(c.Devices))
	for i, d := range c.Devices {
		got[i] = fmt.Sprint(d.ID, " ", d.Endpoint, " ", d.Modbus.Unit, " ", d.Interval, " ", d.Modbus.Order, " ", d.Tags[0].Interval)
	}
	same(t, "devices", got, []string{
		"press-1 tcp://192.0.2.5:502 1 250ms CDAB 250ms",
		"press-2 tcp://192.0.2.6:502 1 250ms CDAB 250ms",
		"press-3 tcp://192.0.2.5:502 3 2s CDAB 2s",
	})
}

func TestSpreadsheet(t *testing.T) {
	t.Parallel()
	tags := load(t, "testdata/crlf-bom.good.yaml").Devices[0].Tags
	file := filepath.Join("testdata", "tags", "excel.csv")
	same(t, "tags", tags, []protocols.Tag{
		{
			Name: "temp", Address: "holding:1", Interval: time.Second, Scale: 0.1, HasScale: true, Description: "two\nlines",
			Source: protocols.Position{File: file, Line: 2},
		},
		{Name: `a "b"`, Address: "holding:2", Interval: time.Second, Scale: 1, Source: protocols.Position{File: file, Line: 5}},
		{Name: "short", Address: "holding:3", Interval: time.Second, Scale: 1, Source: protocols.Position{File: file, Line: 6}},
	})
}

func TestReferences(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"password": "p$ss\r\n", "unit": "7"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := parse(t, dir, `
gateway: {id: gw-1, labels: {a: "x-${env:MILLRACE_TEST_SECRET}-y", b: "$${env:X}", c: "$$ ${file:password}"}}
uplinks:
  - {name: p, broker: "mqtt://127.0.0.1", username: u, password: "${file:password}"}
devices:
  - id: press-1
    driver: modbus
    endpoint: tcp://192.0.2.5:502
    unit: ${file:unit}
    tags: [{name: temp, address: "holding:1"}]
`)
	same(t, "labels", c.Gateway.Labels, map[string]string{"a": "x-" + testSecret + "-y", "b": "${env:X}", "c": "$$ p$ss"})
	same(t, "password", string(c.Uplinks[0].Password), "p$ss")
	same(t, "unit", c.Devices[0].Modbus.Unit, 7)
}

func TestSecretIsNotShown(t *testing.T) {
	t.Parallel()
	u := configs.Uplink{Name: "platform", Password: "hunter2"}
	data, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(u), fmt.Sprintf("%+v %#v %s %q", u, u, u.Password, u.Password), string(data), u.Password.LogValue().String()} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("the password is in %s", shown)
		}
	}
	if configs.Secret("").String() != "" {
		t.Error("no password should be told from one")
	}
}

func TestMissingConfiguration(t *testing.T) {
	t.Parallel()
	_, err := configs.Load("testdata/full.god.yaml", drivers())
	const want = `testdata/full.god.yaml: the configuration cannot be read: there is no such file; did you mean "testdata/full.good.yaml"?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = configs.Load("testdata", drivers())
	if _, ok := errors.AsType[configs.Problems](err); !ok {
		t.Errorf("a directory: %v", err)
	}
}

// keyPair writes a certificate and its key, and returns their paths.
func keyPair(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := keyPair(t, dir, "gateway")
	keyPair(t, dir, "other")
	const text = `
gateway: {id: gw-1}
uplinks:
  - {name: p, broker: "mqtts://127.0.0.1", tls: {ca: gateway.pem, cert: gateway.pem, key: %s}}
devices: []
`
	before := parse(t, dir, fmt.Sprintf(text, "gateway.key"))
	tls := before.Uplinks[0].TLS
	same(t, "tls", tls, configs.TLS{CA: cert, Cert: cert, Key: key, Digest: tls.Digest})

	_, err := configs.Parse("millrace.yaml", fmt.Appendf(nil, text, "other.key"), dir, drivers())
	if err == nil || !strings.Contains(err.Error(), "cannot be used together") {
		t.Errorf("a key of another certificate: %v", err)
	}

	keyPair(t, dir, "gateway") // renewed
	after := parse(t, dir, fmt.Sprintf(text, "gateway.key"))
	if before.Uplinks[0].Equal(&after.Uplinks[0]) {
		t.Error("a renewed certificate is no change")
	}
}

func TestExamples(t *testing.T) {
	t.Parallel()
	// Beside the examples, what they refer to.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("examples")); err != nil {
		t.Fatal(err)
	}
	pki := filepath.Join(dir, "pki")
	if err := os.Mkdir(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	keyPair(t, pki, "ca")
	keyPair(t, pki, "gateway")
	keyPair(t, pki, "user")
	if err := os.WriteFile(filepath.Join(pki, "mqtt-password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range glob(t, filepath.Join(dir, "*.yaml")) {
		c := load(t, file)
		if len(c.Devices) == 0 || len(c.Uplinks) == 0 {
			t.Errorf("%s shows no device or no uplink", file)
		}
		validates(t, file)
	}
}

func bigMap(rows int) []byte {
	var b strings.Builder
	b.WriteString("name,address,type,order,interval,scale,offset,unit,deadband,on_change,min,max,enum,access,description\n")
	for i := range rows {
		fmt.Fprintf(&b, "tag_%d,holding:%d,uint16,,,0.1,,°C,0.5,,-40,150,,,what it is\n", i, i)
	}
	return []byte(b.String())
}

func bigConfig(tb testing.TB, rows int) (dir string, text []byte) {
	tb.Helper()
	dir = tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.csv"), bigMap(rows), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir, []byte("gateway: {id: gw-1}\ndevices:\n  - {id: a, driver: other, endpoint: \"tcp://192.0.2.5:502\", tags: big.csv}\n")
}

// silent is a driver that takes everything, at no cost.
type silent struct{}

func (silent) Check(*protocols.Device) []*protocols.FieldError { return nil }
func (silent) BusKey(*protocols.Device) string                 { return "" }

func BenchmarkTagMap(b *testing.B) {
	const rows = 20_000
	dir, text := bigConfig(b, rows)
	b.ReportAllocs()
	for b.Loop() {
		c, err := configs.Parse("millrace.yaml", text, dir, map[string]configs.Checker{"other": silent{}})
		if err != nil || len(c.Devices[0].Tags) != rows {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}

func BenchmarkInlineTags(b *testing.B) {
	const rows = 20_000
	var y strings.Builder
	y.WriteString("gateway: {id: gw-1}\ndevices:\n  - id: a\n    driver: other\n    endpoint: tcp://192.0.2.5:502\n    tags:\n")
	for i := range rows {
		fmt.Fprintf(&y, "      - {name: tag_%d, address: %d, scale: 0.1, unit: bar}\n", i, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := configs.Parse("millrace.yaml", []byte(y.String()), ".", map[string]configs.Checker{"other": silent{}}); err != nil {
			b.Fatal(err)
		}
	}
}
