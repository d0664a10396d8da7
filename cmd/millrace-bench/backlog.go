package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/buffer"
)

const (
	backlogDevices = 20
	backlogTags    = 500
	// keepMessages are sent by the yardstick, over and over; so many are in
	// the small backlog several times.
	keepMessages = 2000
	// inflight is the window of the agent's default, and of the yardstick.
	inflight = 64
)

// made is a backlog that waits in a directory.
type made struct {
	Batches uint64  `json:"batches"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// runBacklog fills a buffer's directory with scans of so many tags that do
// not compress, until its files hold so many MiB, or until there are so many
// batches, if that is not 0.
func runBacklog(_ context.Context, args []string) error {
	dir, args := args[0], args[1:]
	var mib, tags, batches int
	if err := numbers(args, &mib, &tags, &batches); err != nil {
		return err
	}
	start := time.Now()
	buf, err := buffer.Open(buffer.Options{
		Dir: dir, MaxSize: 64 << 30, CommitInterval: time.Second, Uplinks: []string{benchUplink},
		Stream: fmt.Sprintf("B%d", start.UnixNano()),
	})
	if err != nil {
		return err
	}
	s := &bufferStore{buf: buf}
	devices := plcs(backlogDevices, tags, randomUint16)
	for _, p := range devices {
		if err := s.schema(p); err != nil {
			return err
		}
	}
	// More of them than a chunk holds: they do not compress, and new values
	// in every scan would take the time of the run.
	records := make([][]byte, 50*backlogDevices)
	for i := range records {
		records[i] = bytes.Clone(devices[i%backlogDevices].scan())
	}
	m := made{}
	for {
		p := devices[m.Batches%backlogDevices]
		if err := s.put(p, records[m.Batches%uint64(len(records))]); err != nil {
			return err
		}
		m.Batches++
		if batches > 0 && m.Batches >= uint64(batches) {
			break
		}
		if m.Batches%128 != 0 {
			continue
		}
		for s.crowded() {
			time.Sleep(200 * time.Microsecond) //nolint:forbidigo // a helper process that its parent kills
		}
		if buf.Stats().DiskBytes >= int64(mib)<<20 {
			break
		}
	}
	if err := buf.Close(); err != nil {
		return err
	}
	m.Bytes, m.Seconds = buf.Stats().DiskBytes, time.Since(start).Seconds()
	return tell(m)
}

// drain is how an agent empties a backlog.
type drain struct {
	MiB           int     `json:"backlog_mib"`
	Batches       uint64  `json:"backlog_batches"`
	MadeSeconds   float64 `json:"made_in_s"`
	StartMS       int64   `json:"first_message_after_ms"` // of the start of the process
	Seconds       float64 `json:"seconds"`
	Messages      float64 `json:"messages_per_s"`
	MessageBytes  int     `json:"message_bytes"`
	CPUPerMessage float64 `json:"agent_cpu_us_per_message"`
	PeakMiB       float64 `json:"agent_peak_memory_mib"`
	Bare          float64 `json:"bare_publisher_messages_per_s"`
	BareCPU       float64 `json:"bare_publisher_cpu_us_per_message"`
	Share         float64 `json:"of_the_bare_publisher"`
}

// measureDrain makes a backlog and measures the agent that drains it: first
// with a subscriber, for the start and the messages; then without one, for
// the rate.
func (b *bench) measureDrain(ctx context.Context, mib int, window time.Duration) (*drain, error) {
	dir := filepath.Join(b.dir, "backlog")
	defer os.RemoveAll(dir) //nolint:errcheck // so will cleanUp
	var m made
	if err := b.child(ctx, 0, &m, roleBacklog, dir, strconv.Itoa(mib), strconv.Itoa(backlogTags), "0"); err != nil {
		return nil, err
	}
	d := &drain{MiB: mib, Batches: m.Batches, MadeSeconds: m.Seconds}
	broker, addr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return nil, err
	}
	defer broker.stop()
	messages, err := b.startDrain(ctx, d, dir, addr)
	if err != nil {
		return nil, err
	}
	if mib <= smallBacklog {
		return d, nil // it is empty by now
	}
	if err := b.timeDrain(ctx, d, dir, addr, window); err != nil {
		return nil, err
	}
	var bare bareDrain
	if err := b.child(ctx, 0, &bare, roleDrain, addr, window.String(), messages); err != nil {
		return nil, err
	}
	d.Bare, d.BareCPU = bare.Messages, bare.CPU
	d.Share = d.Messages / d.Bare
	return d, nil
}

func (b *bench) drainConfig(dir, broker, console string) (string, error) {
	text := fmt.Sprintf("gateway: {id: bench}\nbuffer: {path: %q, max_size: 64GiB}\nuplinks: [{name: %s, broker: \"mqtt://%s\", max_inflight: %d}]\nconsole: {listen: %q}\ndevices: []\n",
		dir, benchUplink, broker, inflight, console)
	path := filepath.Join(b.dir, "drain.yaml")
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// startDrain measures how soon the first message is there, and keeps some
// messages in the file that it returns.
func (b *bench) startDrain(ctx context.Context, d *drain, dir, addr string) (string, error) {
	console := freePort(ctx)
	conf, err := b.drainConfig(dir, addr, console)
	if err != nil {
		return "", err
	}
	sub, err := subscribe(ctx, addr, "millrace/+/+/+/data")
	if err != nil {
		return "", err
	}
	defer sub.close()
	sub.keep = keepMessages
	sub.start()
	start := time.Now()
	agent, _, err := b.spawn(ctx, "drain", b.binary, "run", "-c", conf)
	if err != nil {
		return "", err
	}
	defer agent.stop()
	if err := waitFor(ctx, 30*time.Second, sub.some); err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, "drain.log"))
		return "", fmt.Errorf("%w: %w\n%s", errNothing, err, log)
	}
	d.StartMS = sub.first().Sub(start).Milliseconds()
	if err := waitFor(ctx, 30*time.Second, sub.hasKept); err != nil {
		return "", err
	}
	if d.MiB <= smallBacklog {
		if err := waitFor(ctx, 30*time.Second, func() bool { return agentStatus(ctx, console).lag == 0 }); err != nil {
			return "", err
		}
	}
	d.PeakMiB = float64(peakKB(agent.pid())) / 1024
	path := filepath.Join(b.dir, "messages")
	d.MessageBytes = len(sub.kept[0])
	return path, writeMessages(path, sub.kept)
}

func writeMessages(path string, messages [][]byte) error {
	var data []byte
	for _, m := range messages {
		data = binary.AppendUvarint(data, uint64(len(m)))
		data = append(data, m...)
	}
	return os.WriteFile(path, data, 0o600)
}

func readMessages(path string) (messages [][]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	r := bufio.NewReader(f)
	for {
		n, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return nil, err
		}
		m := make([]byte, n)
		if _, err := io.ReadFull(r, m); err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
}

// timeDrain measures the rate and the memory.
func (b *bench) timeDrain(ctx context.Context, d *drain, dir, addr string, window time.Duration) error {
	console := freePort(ctx)
	conf, err := b.drainConfig(dir, addr, console)
	if err != nil {
		return err
	}
	agent, _, err := b.spawn(ctx, "drain", b.binary, "run", "-c", conf)
	if err != nil {
		return err
	}
	defer agent.stop()
	var before status
	if err := waitFor(ctx, 30*time.Second, func() bool {
		before = agentStatus(ctx, console)
		return before.delivered > 1000
	}); err != nil {
		return err
	}
	start, cpu := time.Now(), cpuTime(agent.pid())
	after, end := before, start.Add(window)
	for time.Now().Before(end) && (after.lag > 0 || after == before) {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		after = agentStatus(ctx, console)
	}
	d.Seconds = time.Since(start).Seconds()
	n := float64(after.delivered - before.delivered)
	d.Messages = n / d.Seconds
	d.CPUPerMessage = (cpuTime(agent.pid()) - cpu).Seconds() / n * 1e6
	d.PeakMiB = max(d.PeakMiB, float64(peakKB(agent.pid()))/1024)
	return nil
}

// bareDrain is what the bare publisher reaches.
type bareDrain struct {
	Messages float64 `json:"messages_per_s"`
	CPU      float64 `json:"cpu_us_per_message"`
}

// runBareDrain publishes the messages in a file over and over, at QoS 1, with
// the agent's window: nothing but paho.
func runBareDrain(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want an address, a time and a file, got %v", args)
	}
	window, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	messages, err := readMessages(args[2])
	if err != nil {
		return err
	}
	o := paho.NewClientOptions().AddBroker("tcp://" + args[0]).SetClientID("bare").SetAutoReconnect(false)
	c := paho.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	flight := make(chan paho.Token, inflight-1)
	acked := make(chan int)
	go func() {
		n := 0
		for t := range flight {
			t.Wait()
			if t.Error() == nil {
				n++
			}
		}
		acked <- n
	}()
	start, cpu := time.Now(), ownCPU()
	for i := 0; time.Since(start) < window && ctx.Err() == nil; i++ {
		flight <- c.Publish("bare/default/bench/plc-00/data", 1, false, messages[i%len(messages)])
	}
	close(flight)
	n := float64(<-acked)
	d := bareDrain{Messages: n / time.Since(start).Seconds(), CPU: (ownCPU() - cpu).Seconds() / n * 1e6}
	c.Disconnect(100)
	return tell(d)
}
