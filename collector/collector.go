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
	"slices"
	"strings"
	"sync"

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
	Log   *slog.Logger
}

// Collector runs the buses of a gateway.
type Collector struct {
	opts Options

	mu      sync.Mutex // guards what follows; Apply and Stop hold it while they wait for buses
	buses   map[string]*bus
	members map[string][]*device // of each bus
	devices []*device            // in the order of the configuration
}

// New makes a Collector that runs nothing yet.
func New(o Options) *Collector {
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
	for _, d := range c.devices {
		old[d.cfg.ID] = d
	}
	next := make([]*device, len(devices))
	members := map[string][]*device{}
	for i, cfg := range devices {
		if prev, ok := old[cfg.ID]; ok && sameDevice(prev.cfg, cfg) {
			next[i] = prev
		} else {
			d, err := newDevice(cfg, c.opts)
			if err != nil {
				return fmt.Errorf("device %s: %w", cfg.ID, err)
			}
			next[i] = d
		}
		if !cfg.Enabled {
			continue
		}
		driver, ok := c.opts.Drivers[cfg.Driver]
		if !ok {
			return fmt.Errorf("device %s: there is no driver %q", cfg.ID, cfg.Driver)
		}
		key := cfg.Driver + " " + driver.BusKey(cfg)
		members[key] = append(members[key], next[i])
	}
	if err := c.applyBuses(members); err != nil {
		return err
	}
	c.devices = next
	for _, d := range next {
		d.start()
	}
	return nil
}

// applyBuses stops, starts and changes buses so that each has the given
// members.
func (c *Collector) applyBuses(members map[string][]*device) error {
	fresh := map[string]*bus{}
	for key, devs := range members {
		if b, running := c.buses[key]; running && (b.sub == nil || slices.Equal(c.members[key], devs)) {
			continue
		}
		// A session's devices, and what it logs in with, are fixed when it is
		// opened: it is made anew when one of them has changed.
		driver, _, _ := strings.Cut(key, " ")
		b, err := newBus(key, c.opts.Drivers[driver], devs, c.opts.Log)
		if err != nil {
			return fmt.Errorf("%s: %w", devs[0].cfg.Endpoint, err)
		}
		fresh[key] = b
	}
	for key, b := range c.buses {
		if members[key] == nil || fresh[key] != nil {
			b.stop()
			delete(c.buses, key)
		}
	}
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
	return nil
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
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.devices)
}
