// Package collector decides when each tag is read, turns what the drivers
// bring into batches, and knows the state of every device.
//
// Each connection to the field (a bus) has one goroutine, which owns it and
// all that belongs to its devices. A batch's way is: schedule.go (when),
// bus.go (the scan), device.go (which readings go out), pipeline.go (what is
// done to each of them), and the Appender, which is the buffer.
package collector

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols"
)

// Appender takes the batches: the buffer. Both methods may be called by
// several goroutines, and must not wait for a disk or a network.
type Appender interface {
	// PutSchema makes the schema that records refer to by id known.
	PutSchema(id uint64, blob []byte) error
	// Append takes over one record; the bytes are copied. time is when the
	// readings arrived, in milliseconds since 1970 UTC.
	Append(time int64, schema uint64, readings int, record []byte) error
}

// Options are what a Collector needs from outside.
type Options struct {
	// Drivers has the drivers by the names that the configuration uses.
	Drivers  map[string]protocols.Driver
	Appender Appender
	// State is told the state of each device at the start and at each change,
	// from several goroutines. It must not wait for anything.
	State func(DeviceState)
	// Ledger is where readings are counted by device and hour; nil: nowhere.
	Ledger *ledger.Ledger
	Log    *slog.Logger
	// Now is the wall clock, with a monotonic part; nil: time.Now. What is
	// awaited goes by the monotonic part, what is shown by the wall clock.
	Now func() time.Time
}

// Collector runs the buses of a gateway.
type Collector struct {
	opts Options

	// devices is what Status shows, in the order of the configuration. The
	// page must not wait for a reload that waits for a PLC.
	devices atomic.Pointer[[]*device]

	mu      sync.Mutex // guards what follows; Apply and Stop hold it while they wait for buses
	buses   map[string]*bus
	members map[string][]*device // of each bus
}

// New makes a Collector that runs nothing yet.
func New(o Options) *Collector {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Collector{opts: o, buses: map[string]*bus{}}
}

// Apply makes the given devices the ones that are collected. Those that are
// the same as before are not touched: their connections and their schedules
// go on. A bus that loses its devices is closed before a new one starts,
// because many PLCs accept one client only.
//
// On an error nothing has changed.
func (c *Collector) Apply(devices []*protocols.Device) error {
	c.mu.Lock()
	defer c.mu.Unlock()

	old := map[string]*device{}
	for _, d := range c.snapshot() {
		old[d.cfg.ID] = d
	}
	next := make([]*device, len(devices))
	members := map[string][]*device{}
	for i, cfg := range devices {
		d, err := c.device(old[cfg.ID], cfg)
		if err != nil {
			return fmt.Errorf("device %s: %w", cfg.ID, err)
		}
		next[i] = d
		if cfg.Enabled {
			key := cfg.Driver + " " + c.opts.Drivers[cfg.Driver].BusKey(cfg)
			members[key] = append(members[key], d)
		}
	}
	fresh, err := c.makeBuses(members)
	if err != nil {
		return err
	}
	for _, d := range old {
		if !slices.Contains(next, d) {
			d.countUp()
			d.retired.Store(true)
		}
	}
	c.bookDevices(next)
	// The first states go out before a bus can tell a newer one.
	for _, d := range next {
		d.start()
	}
	c.devices.Store(&next)
	c.swapBuses(members, fresh)
	return nil
}

// device returns prev if cfg means the same, or a new device.
func (c *Collector) device(prev *device, cfg *protocols.Device) (*device, error) {
	if prev != nil && configs.Hash(prev.cfg) == configs.Hash(cfg) {
		return prev, nil
	}
	if _, ok := c.opts.Drivers[cfg.Driver]; !ok && cfg.Enabled {
		return nil, fmt.Errorf("there is no driver %q", cfg.Driver)
	}
	return newDevice(cfg, c.opts)
}

// makeBuses makes the buses that do not run yet, or cannot go on with their
// new devices. It starts and stops nothing.
func (c *Collector) makeBuses(members map[string][]*device) (map[string]*bus, error) {
	fresh := map[string]*bus{}
	for key, devs := range members {
		name, _, _ := strings.Cut(key, " ")
		driver := c.opts.Drivers[name]
		if b := c.buses[key]; b != nil && !newLink(driver, c.members[key], devs) && (b.sub == nil || !newSession(c.members[key], devs)) {
			continue
		}
		b, err := newBus(key, driver, devs, c.opts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", devs[0].cfg.Endpoint, err)
		}
		fresh[key] = b
	}
	return fresh, nil
}

// newLink says whether a connection must be made anew for its devices: a
// serial port, for instance, has its speed from when it is opened.
func newLink(driver protocols.Driver, before, after []*device) bool {
	k, ok := driver.(protocols.LinkKeyer)
	return ok && k.LinkKey(configsOf(before)) != k.LinkKey(configsOf(after))
}

// newSession says whether a session must be made anew for its devices: what
// it logs in with, and how it is used, is fixed when it is opened. Which of
// them subscribe is not: see bus.setDevices.
func newSession(before, after []*device) bool {
	was, is := sessionOf(before), sessionOf(after)
	longer, fewer := is.timeout > was.timeout, is.perCall < was.perCall
	was.timeout, was.perCall, is.timeout, is.perCall = 0, 0, 0, 0
	return was != is || longer || fewer
}

// sessionNeeds are what the devices of a session ask of it together.
type sessionNeeds struct {
	password, profile string
	timeout           time.Duration
	perCall           int
}

func sessionOf(devs []*device) sessionNeeds {
	n := sessionNeeds{password: devs[0].cfg.OPCUA.Password, perCall: math.MaxInt}
	for _, d := range devs {
		o := &d.cfg.OPCUA
		if o.Password != n.password {
			// One user has one password: the newest is what is meant.
			n.password += "\n" + o.Password
		}
		if o.Profile != "" && o.Profile != "auto" {
			n.profile = o.Profile
		}
		if o.MaxPerCall > 0 {
			n.perCall = min(n.perCall, o.MaxPerCall)
		}
		n.timeout = max(n.timeout, d.cfg.Timeout)
	}
	return n
}

// swapBuses stops the buses that are not needed or replaced, all at once,
// then changes those that go on, and starts the fresh ones.
func (c *Collector) swapBuses(members map[string][]*device, fresh map[string]*bus) {
	var wg sync.WaitGroup
	for key, b := range c.buses {
		if members[key] == nil || fresh[key] != nil {
			wg.Go(b.stop)
			delete(c.buses, key)
		}
	}
	wg.Wait()
	total := 0
	for _, devs := range members {
		total += len(devs)
	}
	for key, b := range c.buses {
		b.update(busDevices{members[key], total})
	}
	for key, b := range fresh {
		c.buses[key] = b
		b.start(busDevices{members[key], total})
	}
	c.members = members
}

// Stop ends all scans and closes all connections. Scans in flight get a
// second to end well. It returns when no goroutine is left.
func (c *Collector) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var wg sync.WaitGroup
	for _, b := range c.buses {
		wg.Go(b.stop)
	}
	wg.Wait()
	c.buses = map[string]*bus{}
}

// snapshot returns the devices, for reading their status.
func (c *Collector) snapshot() []*device {
	if ds := c.devices.Load(); ds != nil {
		return *ds
	}
	return nil
}
