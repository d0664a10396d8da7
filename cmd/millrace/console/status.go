package console

import (
	"time"

	"millrace/protocols"
)

// Status is the state of a gateway, as the page and /api/status show it.
// Times are Unix milliseconds; durations are in the unit that their name
// says.
type Status struct {
	Gateway string   `json:"gateway"`
	Group   string   `json:"group"`
	Version string   `json:"version"`
	Commit  string   `json:"-"`
	Go      string   `json:"-"`
	Stream  string   `json:"stream"`
	Started int64    `json:"started"`
	Now     int64    `json:"now"`
	Config  Config   `json:"config"`
	Buffer  Buffer   `json:"buffer"`
	Uplinks []Uplink `json:"uplinks"`
	// Connectivity are the figures of the last 24 hours; empty: there are none yet.
	Connectivity []Indicator `json:"connectivity,omitempty"`
	Devices      []Device    `json:"devices"`
}

// Config says which configuration is in force.
type Config struct {
	Path   string `json:"path"`
	Loaded int64  `json:"loaded"`
	Error  string `json:"error,omitempty"` // why the last reload was refused
}

// Buffer is the state of the store-and-forward buffer.
type Buffer struct {
	Batches  uint64            `json:"batches"` // not yet acknowledged by all uplinks
	Bytes    int64             `json:"bytes"`   // on disk
	MaxBytes int64             `json:"max_bytes"`
	Memory   int64             `json:"memory_bytes"`      // what the newest take there, those on the disk included
	Oldest   int64             `json:"oldest,omitempty"`  // when the oldest of them arrived
	Error    string            `json:"error,omitempty"`   // why it cannot write, and what to do
	Dropped  map[string]uint64 `json:"dropped,omitempty"` // readings given up, by reason
	// DroppedBatches held them. Of a damaged file, the readings may not be
	// known and the batches are.
	DroppedBatches map[string]uint64 `json:"dropped_batches,omitempty"`
	// MemoryOnly is how many of the batches are not on the disk: a power cut
	// now would take them. MemoryMax bounds Memory.
	MemoryOnly uint64   `json:"memory_only"`
	MemoryMax  int64    `json:"memory_max_bytes"`
	Forecast   Forecast `json:"forecast"`
}

// Forecast is the buffer in time: how long an outage it holds and where it is
// going, if all goes on as in the last minutes.
type Forecast struct {
	// Known is false in the first minute of a run; then only Trend counts,
	// and what belongs to it while it is full.
	Known bool `json:"known"`
	// Rate is by how much the buffer grows while an uplink is away.
	Rate float64 `json:"bytes_per_second"`
	// Holds is how long an outage may last, from an empty buffer on, until
	// the oldest batches are given up.
	Holds float64 `json:"holds_seconds"`
	// HoldsLimit is what ends it: max_size, max_age, disk_space (the disk has
	// less room than max_size), memory (the disk takes nothing), or nothing.
	HoldsLimit string `json:"holds_limit,omitempty"`
	// Trend is unknown, empty (the uplinks keep up), filling, full (the
	// oldest batches are being given up), standing or draining.
	Trend string `json:"trend"`
	// Left and Full are how long it takes and when the oldest batches will be
	// given up, because of FullLimit; Full is 0 if they will not.
	Left      float64 `json:"left_seconds,omitempty"`
	Full      int64   `json:"full,omitempty"`
	FullLimit string  `json:"full_limit,omitempty"`
	// Drained and Empty are how long it takes and when all uplinks have
	// everything; 0 if the backlog does not get less.
	Drained float64 `json:"drained_seconds,omitempty"`
	Empty   int64   `json:"empty,omitempty"`
}

// Uplink is the state of one MQTT destination.
type Uplink struct {
	Name      string `json:"name"`
	Broker    string `json:"broker"`             // in use, or tried last; without a password
	Fallback  bool   `json:"fallback,omitempty"` // it is not the first one
	Up        bool   `json:"up"`
	Since     int64  `json:"since"`
	Reason    string `json:"reason,omitempty"`
	Delivered uint64 `json:"delivered"`           // batches acknowledged since the start
	Lag       uint64 `json:"lag"`                 // batches that wait for it
	SetAside  uint64 `json:"set_aside,omitempty"` // batches that its broker did not take, since the start
	InFlight  int    `json:"in_flight"`
	// Drained is how long it takes until it has what waits for it; 0: it has
	// no backlog, does not catch up, or it is not known yet.
	Drained float64 `json:"drained_seconds,omitempty"`
}

// Device is the state of one device.
type Device struct {
	ID       string `json:"id"`
	Driver   string `json:"driver"`
	Endpoint string `json:"endpoint"`
	Unit     *uint8 `json:"unit,omitempty"` // of Modbus
	State    string `json:"state"`
	Since    int64  `json:"since"`
	Reason   string `json:"reason,omitempty"`
	Critical bool   `json:"critical,omitempty"`
	Tags     int    `json:"tags"`
	BadTags  int    `json:"bad_tags"` // whose newest reading is bad
	// LastTime is when it answered last; 0: not yet.
	LastTime   int64   `json:"last_time,omitempty"`
	ScanMS     float64 `json:"scan_ms"`
	IntervalMS int64   `json:"interval_ms"`
	Scans      uint64  `json:"scans"`
	Missed     uint64  `json:"missed"`
	Lost       uint64  `json:"lost"` // values that the device dropped, at the least
	// Backfilled counts readings that were missed at their time and read from
	// the device's own memory; they are in the three counts below, too.
	Backfilled uint64   `json:"backfilled,omitempty"`
	Outages    *Outages `json:"outages,omitempty"`
	Good       uint64   `json:"good"`
	Uncertain  uint64   `json:"uncertain"`
	Bad        uint64   `json:"bad"`
	// Monitored is how many of its tags the device itself watches, of an OPC UA
	// subscription; nil: it is polled, or has not said yet.
	Monitored *int `json:"monitored,omitempty"`
	// Identity is what it says of itself; nil: nothing since the start.
	Identity *protocols.Identity `json:"identity,omitempty"`
	// Advice is what to change in its configuration, found out by asking it,
	// in sentences for people.
	Advice []string `json:"advice,omitempty"`

	ScanHistogram Histogram `json:"-"`
	StartDelay    Histogram `json:"-"` // from when a scan was due to its start
}

// MaxOutages is how many outages are shown of one device.
const MaxOutages = 10

// Outages are the times of which a device's values did not arrive when they
// were made.
type Outages struct {
	Count   uint64             `json:"count"`
	Seconds map[string]float64 `json:"seconds"` // by what Outage.Filled may be
	Last    []Outage           `json:"last"`    // the newest at the end
}

// Outage is one of them.
type Outage struct {
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Cause     string `json:"cause"`  // connection, restart, overflow or messages
	Filled    string `json:"filled"` // yes, part or no
	Values    uint64 `json:"values"` // that were read from the device's own memory
	Tags      int    `json:"tags"`   // that may have had other values
	NoHistory int    `json:"no_history,omitempty"`
	Partly    int    `json:"partly,omitempty"`
	Why       string `json:"why,omitempty"`
}

// Histogram is a distribution of durations.
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Buckets map[time.Duration]uint64 // cumulative, by upper bound
}

// Value is the newest reading of one tag.
type Value struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	Value       string `json:"value"` // as text; empty where it is bad
	Unit        string `json:"unit,omitempty"`
	Quality     string `json:"quality"` // good, uncertain, bad, or none before the first reading
	Reason      string `json:"reason,omitempty"`
	Time        int64  `json:"time,omitempty"`
	Description string `json:"description,omitempty"`
}
