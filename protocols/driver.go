package protocols

import (
	"context"
	"time"
)

// Driver speaks one protocol of the field. It holds no connections itself,
// and may be used by several goroutines.
type Driver interface {
	// Check finds the mistakes in d that the driver alone can see: its
	// endpoint, its addresses, its types. It touches no network.
	Check(d *Device) []*FieldError
	// BusKey returns what devices must have in common to share a connection.
	BusKey(d *Device) string
	// Open makes the bus that the devices with one bus key share. It does
	// not connect.
	Open(devices []*Device) (Bus, error)
}

// Planner is a Driver that can say beforehand what its scans will cost.
type Planner interface {
	// Requests returns what one scan of the given tags of d sends, in the
	// order in which it is sent.
	Requests(d *Device, tags []int) []Request
}

// Request is one request of a read plan.
type Request struct {
	What     string // such as "holding 0..124"
	Tags     int    // how many tags it reads
	ReqBytes int    // on the wire, headers of the protocol included (not TCP's)
	AnsBytes int
	// Line is how long it occupies the line it is sent on: its bytes both ways
	// and the silences that the protocol asks for, without the time that the
	// device takes; 0 where that is not known (a network).
	Line time.Duration
}

// UnitKeyer is a Driver on whose buses several devices may be the same piece
// of hardware: what is known of one of them is then known of all.
type UnitKeyer interface {
	Driver
	// UnitKey returns what the devices of one bus have in common that are the
	// same unit.
	UnitKey(d *Device) string
}

// LinkKeyer is a Driver whose connections depend on more than the bus key,
// such as the speed of a serial port.
type LinkKeyer interface {
	Driver
	// LinkKey returns what Open takes from the configuration of the devices
	// of one bus. A bus whose devices say something else is closed, and
	// opened anew.
	LinkKey(devices []*Device) string
}

// Memory keeps small things that a driver has learnt over restarts. It may be
// used by several goroutines, and does not wait for a disk.
type Memory interface {
	// Get returns what Put stored last, or nil.
	Get(key string) []byte
	// Put replaces what is stored; nil removes it. An error means that it is
	// forgotten at the end of the run.
	Put(key string, value []byte) error
}

// Adviser is a Bus that learns what its devices can't do, such as addresses
// that they refuse, and can say what to change in the configuration.
type Adviser interface {
	Bus
	// Advice returns what was learnt of d and has not been heeded, each piece a
	// sentence for people. It changes only with Connect, and with a scan whose
	// result says Learnt.
	Advice(d *Device) []string
}

// Interruptible is a Scan of many requests that lets others in between.
type Interruptible interface {
	Scan
	// OnPause has others called where another scan of the same bus may be run
	// before Read goes on, to hear whether one should, and then give, which
	// runs it.
	OnPause(others func() bool, give func())
}

// Bus is one connection (a socket, a serial line, a session) and what is on
// it. One goroutine calls all of its methods, so it needs no locks.
//
// A bus never connects or retries by itself: when and how often is decided
// by the loop above it. Within a scan that has had an answer it may connect
// again, for devices that close the connection in the middle.
type Bus interface {
	// Connect makes the connection. It returns within the devices' time-out
	// or when ctx ends, whichever is first. The error is an *Error.
	Connect(ctx context.Context) error
	// Plan prepares a scan of the given tags (indexes into d.Tags) of one
	// device. It is called once per group, before or after Connect.
	Plan(d *Device, tags []int) (Scan, error)
	// Close ends the connection, if there is one, within a second; Connect
	// may be called again afterwards. Closing twice is no error.
	Close() error
}

// Scan reads a fixed set of tags of one device.
type Scan interface {
	// Read reads all its tags and fills out[i] for the i-th tag of the plan,
	// every one of them: good, uncertain, or bad with a reason. It leaves
	// out[i].Tag alone. It returns soon after ctx ends.
	Read(ctx context.Context, out []Reading) ScanResult
}

// ScanResult says how a scan went.
type ScanResult struct {
	// Time is when the (last) answer arrived, by the wall clock; zero if
	// there was none.
	Time time.Time
	// Requests is how many were sent (or should have been), Answers how many
	// the device answered at all, if only to refuse.
	Requests, Answers int
	// Err is the first failure, an *Error; nil if every tag could be read.
	// With Answers == 0 it says why the device is silent.
	Err error
	// Learnt says that the bus's Advice for the device has changed.
	Learnt bool
}

// Subscriber is a Bus whose devices report changes by themselves.
type Subscriber interface {
	Bus
	// Subscribe asks for the changes of the given tags of d, after every
	// Connect anew; if the subscription has outlived a break of the connection,
	// that goes on. Tags that cannot be subscribed are reported as bad
	// readings in the first report.
	Subscribe(ctx context.Context, d *Device, tags []int) error
	// Unsubscribe ends what Subscribe began for d; without a connection, it
	// sees to it that it does not go on. The other devices are not touched.
	Unsubscribe(ctx context.Context, d *Device)
	// Reports is where the changes come in. It is made once, bounded, and
	// never closed. A report with Err tells that a subscription, or the whole
	// connection, is gone.
	Reports() <-chan Report
}

// Ranger is a Subscriber whose devices know the ranges of some values: a
// deadband in percent is then one of the range.
type Ranger interface {
	Subscriber
	// Bands returns the sizes of such deadbands of d, in the tags' own units and
	// by their indexes; 0: every change goes out. They may change with
	// Subscribe, and with a report of Monitoring.
	Bands(d *Device) map[int]float64
}

// Report is what a subscription brought at one time.
type Report struct {
	Device   *Device
	Time     time.Time // when it arrived
	Readings []Reading // Tag is the index into Device.Tags; the receiver owns them
	// History says that the readings were missed at their time and come from
	// the device's own memory now. They are in the order of their source
	// times; newer ones of the same tags may have been reported already.
	History bool
	// Resumed are tags whose subscription has outlived a break of the
	// connection: what was reported of them before it holds again, until newer
	// readings follow. There are none in the same report.
	Resumed []int32
	// Monitoring, where it has changed, is how many of the tags are watched.
	Monitoring *Monitoring
	// Learnt says that the bus's Advice for the device has changed. There are no
	// readings in the same report.
	Learnt bool
	// Lost is how many values, at the least, were dropped on their way to us
	// since the report before: by a full queue of the device, for instance.
	Lost uint64
	// Outage, in a report with History, tells of one that is over; all that is
	// known of its readings was reported before.
	Outage *Outage
	Err    error // an *Error; then there are no readings
}

// Monitoring is how many of a device's tags the device itself watches for
// changes, of those that are configured.
type Monitoring struct {
	Configured, Monitored int
	// Why says, in a sentence for people, what keeps the first of the others
	// from being watched; empty: there are none.
	Why string
}
