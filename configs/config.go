package configs

import (
	"log/slog"
	"reflect"
	"time"

	"millrace/protocols"
)

// Config is a configuration that has been checked: all defaults are filled
// in, all references resolved, all paths absolute. It is not changed once
// loaded.
type Config struct {
	Path string // of the YAML file, as it was given
	Dir  string // absolute; what relative paths in the file are relative to

	Gateway Gateway
	Buffer  Buffer
	Uplinks []Uplink
	Console Console
	Devices []*protocols.Device // disabled ones too

	// Equipment is the machines of the equipment ledger or, where there is none,
	// one for each device.
	Equipment       []Equipment
	EquipmentLedger string // the path of its file, absolute; empty: there is none
	Connectivity    Connectivity
}

// Gateway says who this agent is.
type Gateway struct {
	ID     string            // 1 to 64 of A-Z a-z 0-9 - _ .
	Group  string            // the namespace on the platform
	Labels map[string]string // go out with the connectivity data
}

// Buffer says where batches wait for the uplinks, and how many may.
type Buffer struct {
	Path    string        // a directory; absolute
	MaxSize int64         // bytes, of all its files
	MaxAge  time.Duration // 0: no limit
	// CommitInterval is how much can be lost to a power cut, at most; 0: a
	// batch is on disk before it is sent.
	CommitInterval time.Duration
}

// Uplink is one MQTT destination.
type Uplink struct {
	Name   string
	Broker string // scheme://host:port and, for ws and wss, the path; the port is always there
	// Fallback are further brokers, used in their order while those before them
	// cannot be.
	Fallback []string
	ClientID string
	Username string // empty: none
	Password Secret
	TLS      TLS
	Format   string // FormatJSON or FormatSparkplug
	Topic    string // of JSON: the first level or levels of all topics
	// PrimaryHost is the Sparkplug host without which nothing is sent; empty:
	// none.
	PrimaryHost string
	// MaxInflight is how many messages may wait for their acknowledgement.
	MaxInflight int
	CatchUp     string // InOrder or LiveFirst
	// CatchUpRate bounds how fast batches go out that waited longer than 10 s.
	CatchUpRate Rate
	// Devices and Tags are globs of what goes out; empty: everything. A glob of
	// tags is of their names, or of DEVICE/NAME.
	Devices, Tags []string
}

// Equal says that u and o are the same.
func (u *Uplink) Equal(o *Uplink) bool { return reflect.DeepEqual(u, o) }

// The formats of an uplink: the values of Uplink.Format.
const (
	FormatJSON      = "json"
	FormatSparkplug = "sparkplug"
)

// What an uplink sends first after an outage: the values of Uplink.CatchUp.
const (
	InOrder   = "in_order"   // the oldest batch
	LiveFirst = "live_first" // new batches at once, those that waited beside them
)

// TLS says how an uplink's broker is known, and how we are known to it. All
// fields may be empty: then the system's authorities decide, and we show no
// certificate.
type TLS struct {
	CA         string // PEM file of the authorities that may sign the broker's certificate; absolute
	Cert       string // PEM file of our certificate; absolute
	Key        string // PEM file of its key; absolute
	ServerName string // what the broker's certificate must be made out to, if it is not the broker's host
	// Digest changes with the contents of the three files, so that a reload
	// notices a renewed certificate under an old name.
	Digest string
}

// Console is the web console.
type Console struct {
	Listen string // host:port; empty: there is none
}

// Secret is a text that is not shown: printing, logging or marshalling it
// gives a placeholder. Convert it to a string where it is used.
type Secret string

const hiddenSecret = "(hidden)"

// String returns a placeholder.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hiddenSecret
}

// GoString returns a placeholder.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns a placeholder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
