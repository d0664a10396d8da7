package console

import "time"

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
	Devices []Device `json:"devices"`
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
	Memory   int64             `json:"memory_bytes"`
	Oldest   int64             `json:"oldest,omitempty"` // when the oldest of them arrived
	Error    string            `json:"error,omitempty"`  // why it cannot write
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
}

// Uplink is the state of one MQTT destination.
type Uplink struct {
	Name      string `json:"name"`
	Broker    string `json:"broker"` // without a password
	Up        bool   `json:"up"`
	Since     int64  `json:"since"`
	Reason    string `json:"reason,omitempty"`
	Delivered uint64 `json:"delivered"` // batches acknowledged since the start
	Lag       uint64 `json:"lag"`       // batches that wait for it
	InFlight  int    `json:"in_flight"`
}

// Device is the state of one device.
type Device struct {
	ID       string `json:"id"`
	Driver   string `json:"driver"`
	Endpoint string `json:"endpoint"`
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
	Good       uint64  `json:"good"`
	Uncertain  uint64  `json:"uncertain"`
	Bad        uint64  `json:"bad"`

	ScanHistogram Histogram `json:"-"`
}

// Histogram is the distribution of scan durations.
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
