package collector

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/protocols"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// advance lets virtual time pass, inside a synctest bubble.
func advance(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // virtual: it takes no time
}

// fakeDriver is a driver whose devices do what a test says, in virtual time.
type fakeDriver struct {
	mu     sync.Mutex
	events []string // "connect KEY", "close KEY", in their order
	buses  []*fakeBus

	bands     map[int]float64
	resumes   atomic.Bool // subscriptions outlive a break: no first values
	connect   func(key string) error
	subscribe func(d *protocols.Device) error
	leaves    *protocols.Report // comes while its device is unsubscribed
	read      func(d *protocols.Device, tags []int, out []protocols.Reading) protocols.ScanResult
}

func (f *fakeDriver) Check(*protocols.Device) []*protocols.FieldError { return nil }

func (f *fakeDriver) BusKey(d *protocols.Device) string { return d.Endpoint }

// LinkKey takes the fallback of the first device for what a connection
// depends on.
func (f *fakeDriver) LinkKey(ds []*protocols.Device) string { return ds[0].Modbus.Fallback }

func (f *fakeDriver) Open(ds []*protocols.Device) (protocols.Bus, error) {
	b := &fakeBus{driver: f, key: ds[0].Endpoint, reports: make(chan protocols.Report, 16)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buses = append(f.buses, b)
	if !ds[0].OPCUA.Subscribe {
		return struct{ protocols.Bus }{b}, nil // one that cannot subscribe
	}
	return b, nil
}

func (f *fakeDriver) log(event string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event)
}

func (f *fakeDriver) logged() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.events...)
}

type fakeBus struct {
	driver  *fakeDriver
	key     string
	open    bool
	reports chan protocols.Report
}

func (b *fakeBus) Connect(context.Context) error {
	if b.driver.connect != nil {
		if err := b.driver.connect(b.key); err != nil {
			return err
		}
	}
	b.open = true
	b.driver.log("connect " + b.key)
	return nil
}

func (b *fakeBus) Close() error {
	if b.open {
		b.driver.log("close " + b.key)
	}
	b.open = false
	return nil
}

func (b *fakeBus) Plan(d *protocols.Device, tags []int) (protocols.Scan, error) {
	return &fakeScan{driver: b.driver, dev: d, tags: tags}, nil
}

func (b *fakeBus) Unsubscribe(_ context.Context, d *protocols.Device) {
	b.driver.log("unsubscribe " + d.ID)
	if r := b.driver.leaves; r != nil && r.Device == d {
		b.reports <- *r
	}
}

func (b *fakeBus) Bands(*protocols.Device) map[int]float64 { return b.driver.bands }

func (b *fakeBus) Subscribe(_ context.Context, d *protocols.Device, tags []int) error {
	if b.driver.subscribe != nil {
		if err := b.driver.subscribe(d); err != nil {
			return err
		}
	}
	b.driver.log("subscribe " + d.ID)
	if b.driver.resumes.Load() {
		return nil
	}
	rep := protocols.Report{Device: d, Time: time.Now()}
	for _, t := range tags {
		rep.Readings = append(rep.Readings, protocols.Reading{Tag: int32(t), Value: protocols.Int(0)})
	}
	b.reports <- rep
	return nil
}

func (b *fakeBus) Reports() <-chan protocols.Report { return b.reports }

type fakeScan struct {
	driver *fakeDriver
	dev    *protocols.Device
	tags   []int
}

func (s *fakeScan) Read(_ context.Context, out []protocols.Reading) protocols.ScanResult {
	return s.driver.read(s.dev, s.tags, out)
}

// allGood answers every tag with v.
func allGood(v protocols.Value, out []protocols.Reading) protocols.ScanResult {
	for i := range out {
		out[i].SetGood(v)
	}
	return protocols.ScanResult{Time: time.Now(), Requests: 1, Answers: 1}
}

// noAnswer takes the time-out and answers nothing.
func noAnswer(d *protocols.Device, out []protocols.Reading) protocols.ScanResult {
	advance(d.Timeout)
	for i := range out {
		out[i].SetBad(protocols.Timeout)
	}
	return protocols.ScanResult{Requests: 1, Err: &protocols.Error{Kind: protocols.KindTimeout, Reason: protocols.Timeout, Text: "no answer from " + d.ID}}
}

// batchSeen is one appended batch, decoded.
type batchSeen struct {
	device   string
	at       time.Time // when it was appended
	time     int64
	readings []protocols.Reading
	// historical is the record's flag.
	historical bool
}

// fakeBuffer keeps what is appended, and the states.
type fakeBuffer struct {
	t  *testing.T
	mu sync.Mutex

	schemas map[uint64]*protocols.Schema
	batches []batchSeen
	states  []DeviceState
}

func newFakeBuffer(t *testing.T) *fakeBuffer {
	t.Helper()
	return &fakeBuffer{t: t, schemas: map[uint64]*protocols.Schema{}}
}

func (f *fakeBuffer) PutSchema(id uint64, blob []byte) error {
	s, err := protocols.DecodeSchema(blob)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.schemas[id] = s
	return err
}

func (f *fakeBuffer) Append(ms int64, schema uint64, readings int, record []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b protocols.Batch
	if err := protocols.DecodeBatch(&b, record, f.schemas[schema]); err != nil || len(b.Readings) != readings {
		f.t.Errorf("record of %d readings: %d, %v", readings, len(b.Readings), err)
	}
	f.batches = append(f.batches, batchSeen{f.schemas[schema].Device, time.Now(), ms, b.Readings, b.Historical})
	return nil
}

func (f *fakeBuffer) state(s DeviceState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states = append(f.states, s)
}

// of returns the batches of one device so far.
func (f *fakeBuffer) of(device string) []batchSeen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var bs []batchSeen
	for _, b := range f.batches {
		if b.device == device {
			bs = append(bs, b)
		}
	}
	return bs
}

// statesOf returns the states that a device went through.
func (f *fakeBuffer) statesOf(device string) []State {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []State
	for _, s := range f.states {
		if s.Device == device {
			all = append(all, s.State)
		}
	}
	return all
}

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testCollector returns a Collector over a fake driver and buffer.
func testCollector(t *testing.T, f *fakeDriver) (*Collector, *fakeBuffer) {
	t.Helper()
	buf := newFakeBuffer(t)
	return New(Options{
		Drivers: map[string]protocols.Driver{"fake": f}, Appender: buf, State: buf.state,
		Log: testLog(),
	}), buf
}

func testDevice(id, endpoint string, tags ...string) *protocols.Device {
	d := &protocols.Device{
		ID: id, Driver: "fake", Endpoint: endpoint, Enabled: true,
		Interval: time.Second, Timeout: time.Second, Snapshot: 10 * time.Minute, OfflineAfter: 5 * time.Second,
	}
	for _, name := range tags {
		d.Tags = append(d.Tags, protocols.Tag{Name: name})
	}
	return d
}
