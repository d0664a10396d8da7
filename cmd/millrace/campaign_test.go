package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
)

// usualKills is how often the campaign kills the agent where MILLRACE_KILLS
// says nothing else.
const usualKills = 220

// campaignLanes are the agents that the campaign kills side by side.
func campaignLanes() []laneOptions {
	return []laneOptions{
		{name: "0s, embedded broker", commit: "0s"},
		{name: "0s, Mosquitto", commit: "0s", mosquitto: true},
		{name: "1s, embedded broker", commit: "1s"},
		{name: "1s, Mosquitto", commit: "1s", mosquitto: true},
		{name: "1s, live_first, embedded broker", commit: "1s", catchUp: "live_first", patient: true},
	}
}

// TestKillMinusNineCampaign kills the agent with SIGKILL under load, at
// random moments: at its start, at work, in a commit, in a drain, in a stop.
// The broker is well, away, slow to acknowledge, or hangs. Then all that the
// receiver got is held against what the PLCs have answered: whatever the commit
// interval is, nothing is missing but the answer that was on its way.
//
// MILLRACE_KILLS says how often, MILLRACE_SEED with which choices: they are
// in the log.
func TestKillMinusNineCampaign(t *testing.T) {
	kills, seed := numberFrom(t, "MILLRACE_KILLS", usualKills), numberFrom(t, "MILLRACE_SEED", rand.Uint64())
	t.Logf("MILLRACE_KILLS=%d MILLRACE_SEED=%d", kills, seed)
	lanes := campaignLanes()
	share := (int(kills) + len(lanes) - 1) / len(lanes)
	var wg sync.WaitGroup
	for i, o := range lanes {
		l := newLane(t, o, rand.New(rand.NewPCG(seed, uint64(i))))
		wg.Go(func() {
			if err := l.campaign(share); err != nil {
				t.Errorf("%s (MILLRACE_SEED=%d): %v", o.name, seed, err)
			}
			t.Log(l.summary())
		})
	}
	wg.Wait()
}

func numberFrom(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

type laneOptions struct {
	name      string
	commit    string // commit_interval
	catchUp   string // catch_up; "": in_order
	mosquitto bool
	patient   bool // the broker stays as it is for longer: backlogs become old
}

// lane is one agent with its PLCs, its broker, and the receiver's ledger.
type lane struct {
	laneOptions

	rng    *rand.Rand
	dir    string
	plcs   []*campaignPLC
	link   *mqtttest.Proxy
	ledger *arrivals
	agent  *victim
	kinds  map[string]int
	killed int
}

// ending is how one run of the agent ended.
type ending struct {
	at    time.Time
	kind  string
	clean bool // it was stopped, and had all the time it wanted
}

func newLane(t *testing.T, o laneOptions, rng *rand.Rand) *lane {
	t.Helper()
	l := &lane{laneOptions: o, rng: rng, dir: t.TempDir(), ledger: newLedger(o.catchUp == "live_first"), kinds: map[string]int{}}
	addr := ""
	if o.mosquitto {
		broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
		mqtttest.Listen(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")}, l.ledger.receive)
		addr = broker.Addr
	} else {
		broker, err := mqtttest.StartEmbedded("127.0.0.1:0", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = broker.Close() })
		if err := broker.Subscribe("#", l.ledger.receive); err != nil {
			t.Fatal(err)
		}
		addr = broker.Addr()
	}
	l.link = mqtttest.NewProxy(t, addr)
	for i := range 4 {
		l.plcs = append(l.plcs, newCampaignPLC(t, fmt.Sprintf("plc-%d", i+1)))
	}
	t.Cleanup(func() {
		if l.agent != nil {
			l.agent.kill()
		}
		removeSharedMemory(t, filepath.Join(l.dir, "data", "buffer"))
	})
	return l
}

func (l *lane) configFile() string { return filepath.Join(l.dir, "millrace.yaml") }
func (l *lane) bufferDir() string  { return filepath.Join(l.dir, "data", "buffer") }

// campaign kills the agent as often as it is told, lets a last run deliver
// everything, and gives the verdict.
func (l *lane) campaign(kills int) error {
	for l.killed < kills {
		if err := l.round(); err != nil {
			return err
		}
	}
	if err := l.finish(); err != nil {
		return err
	}
	return l.verdict()
}

// round is one run of the agent, from its start to its kill.
func (l *lane) round() error {
	l.weather()
	kind := l.choose()
	if err := l.start(); err != nil {
		return err
	}
	clean, err := l.await(kind)
	if err != nil {
		return err
	}
	end := ending{at: time.Now(), kind: kind, clean: clean}
	if !clean && l.agent.kill() {
		l.killed++
	} else if !clean {
		// It was quicker: it may have been told to stop, and nothing else.
		if err := l.agent.stopped(); err != nil || kind != "stop" {
			return fmt.Errorf("%s: before its kill, %w", kind, cmp.Or(err, errors.New("it ended")))
		}
		end.clean = true
	}
	l.kinds[kind]++
	if err := l.agent.complaint(); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return l.endRun(end)
}

// weather changes, now and then, what becomes of the uplink.
func (l *lane) weather() {
	if l.patient && l.rng.IntN(5) > 0 {
		return
	}
	switch n := l.rng.IntN(20); {
	case n < 3:
		l.link.Set(mqtttest.RefuseClients) // away
	case n < 5:
		l.link.Set(mqtttest.LateDown)
	case n < 6:
		l.link.Set(mqtttest.SwallowDown) // takes all and acknowledges nothing
	case n < 10:
		l.link.Set(mqtttest.Pass)
	}
}

// choose returns the next moment's kind.
func (l *lane) choose() string {
	switch n := l.rng.IntN(20); {
	case n < 5:
		return "start"
	case n < 11:
		return "work"
	case n < 14:
		return "stop"
	case n < 17:
		return "commit"
	case n < 19:
		return "drain"
	default:
		return "clean stop"
	}
}

// start starts the agent. The PLCs have new ports each time, because what is
// free in between may be somebody else's.
func (l *lane) start() error {
	var config strings.Builder
	fmt.Fprintf(&config, "gateway: {id: gw-1, group: plant}\nbuffer: {commit_interval: %s}\nconsole: {listen: \"127.0.0.1:0\"}\n", l.commit)
	fmt.Fprintf(&config, "uplinks:\n  - {name: platform, broker: \"mqtt://%s\", catch_up: %s}\ndevices:\n", l.link.Addr, cmp.Or(l.catchUp, "in_order"))
	for _, p := range l.plcs {
		if err := p.Listen(""); err != nil {
			return err
		}
		config.WriteString(p.config())
	}
	if err := os.WriteFile(l.configFile(), []byte(config.String()), 0o600); err != nil {
		return err
	}
	agent, err := startVictim(l.configFile())
	l.agent = agent
	return err
}

// endRun is called when the agent is gone: what the PLCs have answered by
// then belongs to this run.
func (l *lane) endRun(end ending) error {
	for _, p := range l.plcs {
		if err := p.close(end); err != nil {
			return err
		}
	}
	return nil
}

// await waits for the moment of the kill. It returns true if the agent was
// stopped instead, and is gone.
func (l *lane) await(kind string) (stopped bool, err error) {
	if kind == "start" {
		return false, l.pause(250 * time.Millisecond)
	}
	if kind == "drain" && !l.patient {
		l.link.Set(mqtttest.Pass)
		before := l.ledger.count()
		if err := l.until("batches to arrive", 20*time.Second, func() bool { return l.ledger.count() > before }); err != nil {
			return false, err
		}
		return false, l.pause(100 * time.Millisecond)
	}
	before := l.plcs[0].count()
	scans := 1 + l.rng.IntN(10)
	if err := l.until("scans", 20*time.Second, func() bool { return l.plcs[0].count() >= before+scans }); err != nil {
		return false, err
	}
	switch kind {
	case "commit":
		seen := l.newest()
		_ = l.until("", 1500*time.Millisecond, func() bool { return l.newest().After(seen) }) // a healthy uplink needs none
		return false, l.pause(4 * time.Millisecond)
	case "stop", "clean stop":
		if err := l.pause(300 * time.Millisecond); err != nil {
			return false, err
		}
		if err := l.agent.signal(syscall.SIGTERM); err != nil {
			return false, err
		}
		if kind == "clean stop" {
			return true, l.agent.stopped()
		}
		select {
		case <-l.agent.exited:
			return true, l.agent.stopped()
		case <-time.After(time.Duration(l.rng.IntN(150)) * time.Millisecond):
			return false, nil
		}
	}
	return false, l.pause(1400 * time.Millisecond)
}

// pause waits for a random time below most; the agent must outlive it.
func (l *lane) pause(most time.Duration) error {
	select {
	case <-l.agent.exited:
		return l.agent.stopped()
	case <-time.After(time.Duration(l.rng.Int64N(int64(most)))):
		return nil
	}
}

func (l *lane) until(what string, most time.Duration, ok func() bool) error {
	late := time.After(most)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-l.agent.exited:
			return fmt.Errorf("waiting for %s: the agent ended by itself (%d):\n%s", what, l.agent.code, l.agent.output)
		case <-late:
			return fmt.Errorf("waited %v in vain for %s; the agent says:\n%s", most, what, l.agent.output)
		}
	}
	return nil
}

// newest is when a file of the buffer was last written to.
func (l *lane) newest() (last time.Time) {
	entries, _ := os.ReadDir(l.bufferDir()) // not there yet: nothing is written
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// finish runs the agent again until everything has arrived. One last run is
// enough, but for a busy machine, where what waits at its stop stays on the
// disk, and for live_first, which holds back what is not old yet: see lastRun.
func (l *lane) finish() error {
	l.link.Set(mqtttest.Pass)
	late := time.Now().Add(2 * time.Minute)
	for {
		if err := l.lastRun(); err != nil {
			return err
		}
		waiting, err := filepath.Glob(filepath.Join(l.bufferDir(), "*.seg"))
		if err != nil || len(waiting) == 0 {
			return err
		}
		if time.Now().After(late) {
			return fmt.Errorf("with a healthy broker, the buffer still holds %v", waiting)
		}
	}
}

// lastRun runs the agent until little waits, and stops it.
func (l *lane) lastRun() error {
	before := l.ledger.count()
	if err := l.start(); err != nil {
		return err
	}
	if err := l.until("the last run's batches", time.Minute, func() bool { return l.ledger.count() > before }); err != nil {
		return err
	}
	if l.catchUp == "live_first" {
		old := time.Now().Add(11 * time.Second)
		if err := l.until("the backlog to be old", time.Minute, func() bool { return time.Now().After(old) }); err != nil {
			return err
		}
	}
	if err := l.until("the backlog to be gone", time.Minute, func() bool {
		lag, ok := l.metric(`millrace_uplink_lag_batches{uplink="platform"}`)
		return ok && lag < 50
	}); err != nil {
		return err
	}
	l.ledger.forgetStatus()
	if err := l.agent.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := l.agent.stopped(); err != nil {
		return err
	}
	if err := l.agent.complaint(); err != nil {
		return err
	}
	late := time.After(20 * time.Second)
	for !l.ledger.saidOffline() {
		select {
		case <-late:
			return fmt.Errorf("the farewell never arrived:\n%s", l.agent.output)
		case <-time.After(time.Millisecond):
		}
	}
	return l.endRun(ending{at: time.Now(), kind: "last", clean: true})
}

func (l *lane) metric(name string) (value float64, ok bool) {
	_, after, _ := strings.Cut(l.agent.output.String(), "msg=console url=")
	url, _, _ := strings.Cut(after, "\n")
	res, err := http.Get(url + "metrics")
	if err != nil {
		return 0, false
	}
	defer res.Body.Close()
	var b syncBuffer
	_, _ = b.buf.ReadFrom(res.Body)
	for line := range strings.Lines(b.String()) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			value, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return value, err == nil
		}
	}
	return 0, false
}

func (l *lane) summary() string {
	answered := 0
	for _, p := range l.plcs {
		answered += p.count()
	}
	return fmt.Sprintf("%s: %d kills (%v), %d answers of the PLCs, %s", l.name, l.killed, l.kinds, answered, l.ledger)
}

// victim is the agent as a process that is going to be killed.
type victim struct {
	cmd    *exec.Cmd
	output *syncBuffer
	exited chan struct{}
	code   int // when exited is closed
}

func startVictim(config string) (*victim, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	v := &victim{cmd: exec.Command(exe, "run", "-c", config), output: &syncBuffer{}, exited: make(chan struct{})}
	// The race detector would wait a second at each exit.
	v.cmd.Env = append(os.Environ(), beAgent+"=1", "GORACE=atexit_sleep_ms=0")
	v.cmd.Stdout, v.cmd.Stderr = v.output, v.output
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(v.exited)
		_ = v.cmd.Wait() // how it ended is in the state
		v.code = v.cmd.ProcessState.ExitCode()
	}()
	return v, nil
}

func (v *victim) signal(s syscall.Signal) error { return v.cmd.Process.Signal(s) }

// kill ends the agent with SIGKILL. It returns whether it was alive.
func (v *victim) kill() bool {
	_ = v.cmd.Process.Kill()
	<-v.exited
	status, ok := v.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// complaint is what the agent said and no kill excuses: a kill damages no
// file. One that was being opened at a kill is set aside without being
// looked at: that is another thing.
func (v *victim) complaint() error {
	for line := range strings.Lines(v.output.String()) {
		damage := strings.Contains(line, "damaged") && !strings.Contains(line, "the agent died when it opened")
		if damage || strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic") {
			return fmt.Errorf("the agent said %s in\n%s", line, v.output)
		}
	}
	return nil
}

// stopped waits for the end of an agent that was told to stop.
func (v *victim) stopped() error {
	select {
	case <-v.exited:
	case <-time.After(10 * time.Second):
		return fmt.Errorf("the agent does not stop:\n%s", v.output)
	}
	if v.code != exitDone {
		return fmt.Errorf("the agent ended with %d:\n%s", v.code, v.output)
	}
	return nil
}
