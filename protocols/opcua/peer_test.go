package opcua_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// patience is how long a server in JavaScript may take on a busy machine.
const patience = 30 * time.Second

// peerDir returns a directory for a node-opcua server with certificates that
// all of a run's servers share: making them takes seconds.
var peerDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "nodeopcua-") })

// shared is the server of all tests that only read, from the first of them on.
var shared struct {
	once sync.Once
	srv  *nodeopcua.Server
	err  error
}

func sharedPeer(tb testing.TB) *nodeopcua.Server {
	tb.Helper()
	shared.once.Do(func() {
		var dir string
		if dir, shared.err = peerDir(); shared.err == nil {
			shared.srv, shared.err = nodeopcua.Start(dir, 0)
		}
	})
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.srv
}

func startPeer(tb testing.TB, port int, flags ...string) *nodeopcua.Server {
	tb.Helper()
	dir, err := peerDir()
	if err != nil {
		tb.Fatal(err)
	}
	s, err := nodeopcua.Start(dir, port, flags...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

func command(tb testing.TB, s *nodeopcua.Server, line string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Command(ctx, line); err != nil {
		tb.Fatal(err)
	}
}

// peerValues are the variables of server.js and what they must read as.
var peerValues = []struct{ address, want string }{
	{"s=Boolean", "true"},
	{"s=SByte", "-128"},
	{"s=Byte", "255u"},
	{"s=Int16", "-32768"},
	{"s=UInt16", "65535u"},
	{"s=Int32", "-2147483648"},
	{"s=UInt32", "4294967295u"},
	{"s=Int64", "-9223372036854775808"},
	{"s=UInt64", "18446744073709551615u"},
	{"s=Float", "0.1f"},
	{"s=Double", "-1e+300"},
	{"s=NaN", "not_a_number"},
	{"s=Infinity", "not_a_number"},
	{"s=String", "注塑机 1号 – Größe"},
	{"s=Empty", ""},
	{"s=DateTime", "2026-11-23T12:34:56.789Z"},
	{"s=Guid", "72962b91-fa75-4ae6-8d28-b404dc7daf63"},
	{"s=ByteString", "0001feff"},
	{"s=XmlElement", "<a>1</a>"},
	{"s=NodeId", "ns=1;s=Motor"},
	{"s=StatusCode", "BadDeviceFailure"},
	{"s=QualifiedName", "1:Axis"},
	{"s=LocalizedText", "läuft"},
	{"s=Booleans", "[true false true]"},
	{"s=Bytes", "[1u 2u 255u]"},
	{"s=Int16s", "[-1 0 1]"},
	{"s=UInt32s", "[10u 20u 30u 40u 4294967295u]"},
	{"s=UInt32s[1:3]", "[20u 30u 40u]"},
	{"s=UInt32s[4:4]", "4294967295u"},
	{"s=UInt32s[9:10]", "BadIndexRangeNoData"},
	{"s=Doubles", "[0.5 -0.25]"},
	{"s=Strings", "[a  ü]"},
	{"s=Int64s", "[-1 1]"},
	{"s=NoElements", "[]"},
	{"s=Matrix", "unsupported_type"},
	{"s=Uncertain", "1.5 (UncertainLastUsableValue)"},
	{"s=SubNormal", "1.5 (UncertainSubNormal)"},
	{"s=BadDevice", "BadDeviceFailure"},
	{"s=BadSensor", "BadSensorFailure"},
	{"s=BadWaiting", "BadWaitingForInitialData"},
	{"s=GoodOverride", "1.5"},
	{"s=Null", "BadNoValue"},
	{"s=WriteOnly", "not_readable"},
	{"s=Structure", "unsupported_type"},
	{"s=Missing", "no_such_node"},
	{"g=72962b91-fa75-4ae6-8d28-b404dc7daf63", "42"},
	{"b=AQID", "43"},
	{"i=1001", "44"},
	{"s=Bracket[2]", "45"},
}

func peerDevice(s *nodeopcua.Server) *protocols.Device {
	addresses := make([]string, len(peerValues))
	for i, v := range peerValues {
		addresses[i] = "nsu=" + nodeopcua.Namespace + ";" + v.address
	}
	d := device(s.Endpoint(), addresses...)
	d.Interval = 100 * time.Millisecond
	return d
}

func TestPeerTypes(t *testing.T) {
	t.Parallel()
	srv := sharedPeer(t)
	d := peerDevice(srv)
	b := open(t, driver(t), d)
	connect(t, b)

	out, res := read(t, b, d)
	if res.Requests != 3 || res.Answers != 3 { // the server allows 20 nodes at once
		t.Errorf("requests and answers: %+v", res)
	}
	for i, v := range peerValues {
		if got := show(out[i]); got != v.want {
			t.Errorf("poll %s: %s, want %s", v.address, got, v.want)
		}
		if good := out[i].Quality != protocols.Bad; good && out[i].Source == 0 {
			t.Errorf("poll %s: no source time", v.address)
		}
	}
	if at := time.Unix(0, sourceOf(t, out, "s=Uncertain")).UTC().Format(time.RFC3339Nano); at != "2026-01-02T03:04:05.678Z" {
		t.Errorf("source time %s", at)
	}

	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	got := make(map[int32]string)
	for len(got) < len(peerValues) {
		r := next(t, b, patience)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, x := range r.Readings {
			got[x.Tag] = show(x)
		}
	}
	for i, v := range peerValues {
		if got[int32(i)] != v.want {
			t.Errorf("subscribe %s: %s, want %s", v.address, got[int32(i)], v.want)
		}
	}
}

func sourceOf(tb testing.TB, out []protocols.Reading, address string) int64 {
	tb.Helper()
	for i, v := range peerValues {
		if v.address == address {
			return out[i].Source
		}
	}
	tb.Fatalf("no %s", address)
	return 0
}

func TestPeerSecurity(t *testing.T) {
	t.Parallel()
	srv := sharedPeer(t)
	for _, c := range []struct{ policy, mode, user, password, want string }{
		{"None", "", "", "", ""},
		{"Basic256Sha256", "Sign", "", "", ""},
		{"Basic256Sha256", "SignAndEncrypt", nodeopcua.User, nodeopcua.Password, ""},
		{"Basic256Sha256", "Sign", nodeopcua.User, nodeopcua.Password, ""},
		{"None", "", nodeopcua.User, nodeopcua.Password, ""},
		{"Aes128-Sha256-RsaOaep", "", nodeopcua.User, nodeopcua.Password, ""},
		{"Aes256-Sha256-RsaPss", "", "", "", ""},
		{"auto", "", nodeopcua.User, nodeopcua.Password, ""},
		{"Basic256Sha256", "", nodeopcua.User, "wrong-pw", "check auth.username and auth.password"},
		{"None", "", "nobody", "wrong-pw", "check auth.username and auth.password"},
	} {
		t.Run(c.policy+c.mode+c.user+c.password, func(t *testing.T) {
			t.Parallel()
			d := device(srv.Endpoint(), "ns=2;s=Int16")
			d.OPCUA.SecurityPolicy, d.OPCUA.SecurityMode = c.policy, c.mode
			d.OPCUA.Username, d.OPCUA.Password = c.user, c.password
			d.OPCUA.Trust = filepath.Join(t.TempDir(), "pki", "trusted")
			b := open(t, driver(t), d)
			err := b.Connect(context.Background())
			if c.policy != "None" {
				// Unknown at first: refused, and kept for us to look at.
				if protocols.KindOf(err) != protocols.KindUntrusted {
					t.Fatalf("an unknown certificate: %v", err)
				}
				trustRejected(t, d.OPCUA.Trust, err)
				err = b.Connect(context.Background())
			}
			if c.want != "" {
				if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.password) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if out, _ := read(t, b, d); show(out[0]) != "-32768" {
				t.Fatalf("%+v", out)
			}
		})
	}
}

// trustRejected does what the error says.
func trustRejected(tb testing.TB, trusted string, refusal error) {
	tb.Helper()
	rejected := filepath.Join(filepath.Dir(trusted), "rejected")
	files, err := os.ReadDir(rejected)
	if err != nil || len(files) != 1 {
		tb.Fatalf("rejected: %v %v", files, err)
	}
	from := filepath.Join(rejected, files[0].Name())
	if !strings.Contains(refusal.Error(), "move "+from+" to "+trusted) {
		tb.Fatalf("the error does not say what to do: %v", refusal)
	}
	if err := os.Rename(from, filepath.Join(trusted, files[0].Name())); err != nil {
		tb.Fatal(err)
	}
}

// TestPeerLoss subscribes a variable that counts how often it is sampled, and
// wants every number. The server is its own: node-opcua's sampling of a
// subscription that has just ended may count on for a while.
func TestPeerLoss(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0)
	d := device(srv.Endpoint(), "ns=2;s=Samples", "ns=2;s=Level")
	d.Tags[1].Interval = 100 * time.Millisecond // a second subscription beside
	b := open(t, driver(t), d)
	connect(t, b)
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	var last int64 = -1
	for n := 0; n < 60; {
		r := next(t, b, patience)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, x := range r.Readings {
			if x.Tag != 0 {
				continue
			}
			v := x.Value.AsInt()
			if last >= 0 && v != last+1 {
				t.Fatalf("after %d came %d; %+v", last, v, b.(interface{ Stats() opcua.Stats }).Stats())
			}
			last = v
			n++
		}
	}
}

// TestPeerRestart kills the server, starts it again on its port, and drops
// connections: each time the subscription's end is reported, and after
// Close, Connect and Subscribe values come again.
func TestPeerRestart(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0)
	d := device(srv.Endpoint(), "ns=2;s=Counter")
	b := open(t, driver(t), d)
	value := 0
	resume := func() {
		t.Helper()
		// A subscription that goes on says only what is new.
		value++
		command(t, srv, fmt.Sprintf("set Counter %d", value))
		deadline := time.Now().Add(patience)
		for b.Connect(context.Background()) != nil {
			if time.Now().After(deadline) {
				t.Fatal("no connection")
			}
		}
		if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
			t.Fatal(err)
		}
		if r := next(t, b, patience); r.Err != nil || len(r.Readings) != 1 {
			t.Fatalf("first report: %+v", r)
		}
	}
	awaitEnd := func() {
		t.Helper()
		for {
			if r := next(t, b, patience); r.Err != nil {
				if protocols.KindOf(r.Err) != protocols.KindNotConnected || r.Device != d {
					t.Fatalf("%+v", r)
				}
				break
			}
		}
		if out, res := read(t, b, d); res.Answers != 0 || out[0].Reason != protocols.Offline {
			t.Fatalf("read after the end: %+v %+v", out, res)
		}
	}
	resume()
	command(t, srv, "drop")
	awaitEnd()
	resume()
	srv.Stop()
	awaitEnd()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(context.Background()); protocols.KindOf(err) != protocols.KindNotConnected || !strings.Contains(err.Error(), "nothing listens there") {
		t.Fatalf("connect to nobody: %v", err)
	}
	srv = startPeer(t, srv.Port)
	resume()
}

// TestPeerRefusesUs connects to a server that does not know our certificate.
func TestPeerRefusesUs(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "strict")
	d := device(srv.Endpoint(), "ns=2;s=Int16")
	d.OPCUA.SecurityPolicy = "Basic256Sha256"
	d.OPCUA.Trust = filepath.Join(t.TempDir(), "trusted")
	pki := t.TempDir()
	b := open(t, opcua.New(opcua.Options{PKIDir: pki}), d)
	trustRejected(t, d.OPCUA.Trust, b.Connect(context.Background()))
	err := b.Connect(context.Background())
	if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), filepath.Join(pki, "own", "cert.der")) {
		t.Fatalf("%v", err)
	}
}
