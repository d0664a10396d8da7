package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"millrace/protocols/mqtt/mqtttest"
)

// database is a PostgreSQL of the test's own, on a socket in its directory.
type database struct {
	t   *testing.T
	dir string
	bin string // where its programs are
}

// startPostgres starts a real PostgreSQL. It refuses to run as root: then it
// runs as Debian's user postgres.
func startPostgres(t *testing.T) *database {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed; run `make deps`")
	}
	bin := found[len(found)-1]
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // t.TempDir is closed to other users, and PostgreSQL runs as one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &database{t: t, dir: dir, bin: bin}
	var as *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, as
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	server.Dir, server.SysProcAttr = dir, as
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // it ends all sessions
		_ = server.Wait()
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", &log)
		}
	})
	mqtttest.WaitFor(t, "PostgreSQL", func() bool { return d.psql("select 1").Run() == nil })
	return d
}

func (d *database) psql(script string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(d.bin, "psql"), "-h", d.dir, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	return cmd
}

// run runs a script and returns what it prints.
func (d *database) run(script string) string {
	d.t.Helper()
	cmd := d.psql(script)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%v: %s", err, &errs)
	}
	return strings.TrimSpace(string(out))
}

type published struct{ topic, body string }

func (d *database) ingest(messages ...published) string {
	d.t.Helper()
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "select millrace.ingest(%s, %s);\n", quote(m.topic), quote(m.body))
	}
	return d.run(b.String())
}

// TestPostgres takes what a real gateway publishes, over a kill and an outage,
// into a real PostgreSQL by docs/platform/postgres.sql: shuffled, and some of
// it more than once.
func TestPostgres(t *testing.T) {
	t.Parallel()
	db := startPostgres(t)
	schema, err := os.ReadFile("../../docs/platform/postgres.sql")
	if err != nil {
		t.Fatal(err)
	}
	db.run(string(schema))
	db.run(string(schema)) // again: it is there already

	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	var mu sync.Mutex
	var all []published
	mqtttest.Listen(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), ClientID: "bridge"}, func(topic string, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, published{topic, string(body)})
	})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	plcs := []*counterPLC{newCounterPLC(t), newCounterPLC(t)}
	a := newAgent(t, configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plcs...))
	r.WaitBatches(t, "plc-1", 20)
	broker.Stop()
	read := plcs[0].count.Load()
	mqtttest.WaitFor(t, "a backlog", func() bool { return plcs[0].count.Load() > read+30 })
	broker.Start()
	r.WaitBatches(t, "plc-1", 60)
	a.kill()
	a.start()
	mqtttest.WaitFor(t, "the second run", func() bool { return len(r.Streams()) == 2 })
	r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+10)
	a.stop()
	mqtttest.WaitFor(t, "everything at the bridge", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(all[len(all)-1].body, `"stopped"`)
	})
	mu.Lock()
	messages := slices.Clone(all)
	mu.Unlock()

	last := messages[len(messages)-1] // the farewell: its order counts
	mixed := append(slices.Clone(messages[:len(messages)-1]), messages[:len(messages)/3]...)
	rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	said := db.ingest(append(mixed, last)...)
	if !strings.Contains(said, "repeat") {
		t.Error("nothing was a repeat")
	}
	want := len(r.Batches("plc-1")) + len(r.Batches("plc-2"))
	if got := db.run("select count(*) from millrace.batch"); got != strconv.Itoa(want) {
		t.Errorf("%s batches, want %d", got, want)
	}
	if got := db.run("select count(*) from millrace.hole"); got != "0" {
		t.Errorf("holes: %s", db.run("select * from millrace.hole"))
	}
	// Every value is there once, with all its digits: the counter, and in the
	// lower half its complement.
	check := `select count(*) - count(distinct number), count(*) filter (where mod(number, 4294967296) + div(number, 4294967296) <> 4294967295) from millrace.reading where device = 'plc-1' and quality = 'good'`
	if got := db.run(check); got != "0|0" {
		t.Errorf("twice|wrong: %s", got)
	}
	if got := db.run("select online, reason from millrace.gateway_status"); got != "f|stopped" {
		t.Errorf("status %s", got)
	}
	if got := db.run("select device, state from millrace.device order by 1"); got != "plc-1|unknown\nplc-2|unknown" {
		t.Errorf("devices %s", got)
	}

	for _, c := range []struct{ topic, body, want, query, shows string }{
		{
			"millrace/plant/gw-9/press/data",
			`{"v":1,"gateway":"gw-9","device":"press","stream":"S","seq":3,"ts":1795462800123,"historical":true,"values":{"count":18446744073709551615,"温度":21.5,"name":"it's","on":true,"axis":{"x":[1,null]}},"bad":{"speed":"timeout"},"uncertain":{"温度":"UncertainLastUsableValue"},"source_ts":{"温度":1795462800101.25}}`,
			"new",
			"select tag, quality, reason, value, number, to_char(at at time zone 'UTC', 'MI:SS.US') from millrace.latest where gateway = 'gw-9' order by tag collate \"C\"",
			"axis|good||{\"x\": [1, null]}||40:00.123000\ncount|good||18446744073709551615|18446744073709551615|40:00.123000\nname|good||\"it's\"||40:00.123000\non|good||true||40:00.123000\nspeed|bad|timeout|||40:00.123000\n温度|uncertain|UncertainLastUsableValue|21.5|21.5|40:00.101250",
		},
		{"millrace/plant/gw-9/gap", `{"v":1,"gateway":"gw-9","stream":"S","gap":{"from":1,"to":1,"readings":7,"reason":"buffer_full","oldest":0,"newest":1795462800000}}`, "new", "select from_seq, to_seq from millrace.hole where gateway = 'gw-9'", "2|2"},
		{"millrace/plant/gw-9/gap", `{"v":1,"gateway":"gw-9","stream":"S","gap":{"from":1,"to":1,"readings":7,"reason":"buffer_full","oldest":0,"newest":1795462800000}}`, "repeat", "select oldest is null from millrace.gap where gateway = 'gw-9'", "t"},
		{"millrace/plant/gw-9/press/data", `{"v":1,"gateway":"gw-9","device":"press","stream":"S","seq":2,"ts":1795462800000,"values":{"count":1}}`, "new", "select number from millrace.latest where gateway = 'gw-9' and tag = 'count'", "18446744073709551615"},
		{"millrace/plant/gw-9/press/state", `{"v":1,"gateway":"gw-9","device":"press","state":"online","since":1795462800000,"reason":""}`, "new", "select count(*) from millrace.hole where gateway = 'gw-9'", "0"},
		{"millrace/plant/gw-9/press/state", ``, "ignored", "select count(*) from millrace.device_state where gateway = 'gw-9'", "0"},
		{"millrace/plant/gw-9/press/data", `{"v":2}`, "ignored", "select 1", "1"},
	} {
		if got := db.ingest(published{c.topic, c.body}); got != c.want {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
		if got := db.run(c.query); got != c.shows {
			t.Errorf("after %s: got\n%s\nwant\n%s", c.body, got, c.shows)
		}
	}
}
