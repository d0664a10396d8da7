package protocols

import "time"

// Device is one piece of equipment as the configuration describes it, with
// all defaults filled in and all references resolved. It is not changed
// once loaded.
type Device struct {
	ID       string
	Driver   string // "modbus" or "opcua"
	Endpoint string // as written, such as tcp://192.0.2.5:502
	Enabled  bool
	Critical bool // key equipment, for the connectivity figures
	Labels   map[string]string

	Interval time.Duration // default of its tags
	Timeout  time.Duration // of one request
	Snapshot time.Duration // how often tags with a deadband or on_change go out unchanged
	// OfflineAfter is how long it may not answer, at the least, before it
	// counts as offline.
	OfflineAfter time.Duration

	Modbus ModbusOptions
	OPCUA  OPCUAOptions

	Tags []Tag
}

// ModbusOptions are the keys of a device that only the Modbus driver reads.
type ModbusOptions struct {
	Unit         uint8
	Order        Order // default of its tags
	MaxGap       int   // registers (or bits / 16) that are read for nothing, at most, to merge two tags into one request
	MaxRegisters int   // in one request; at most 125
}

// OPCUAOptions are the keys of a device that only the OPC UA driver reads.
type OPCUAOptions struct {
	Subscribe      bool   // mode: subscribe; otherwise poll
	SecurityPolicy string // None, Basic256Sha256, auto …
	SecurityMode   string // None, Sign, SignAndEncrypt
	Username       string // empty: anonymous
	Password       string
	// Trust is the directory of the certificates that are accepted as the
	// server's. Unknown ones are kept in the directory "rejected" beside it.
	Trust string
}

// Tag is one named value of a device as the tag map describes it.
type Tag struct {
	Name        string
	Address     string // in the driver's own notation
	Type        string // as written; empty: the driver's default
	Order       Order
	Interval    time.Duration // of this tag; the device's, if it has none of its own
	Scale       float64       // value × Scale + Offset, as float64
	Offset      float64
	HasScale    bool // Scale or Offset was given: the result is a float64
	Unit        string
	Deadband    Deadband
	OnChange    bool
	Min, Max    *float64 // after scale and offset; outside: bad with OutOfRange
	Enum        map[int64]string
	Description string

	Source Position // where it was written, for messages
}

// Deadband is the smallest change of a number that is worth sending.
type Deadband struct {
	Size    float64 // 0: none
	Percent bool    // Size is in percent of the last value sent
}

// Order is how the bytes of a value that fills several registers are laid
// out; A is the most significant byte. For 64 bits, the pairs go on in the
// same manner: CDAB means low word first throughout.
type Order uint8

// The four orders in use.
const (
	ABCD Order = iota // big endian, high word first: what the standard says
	CDAB              // low word first
	BADC              // high word first, bytes swapped in each word
	DCBA              // little endian
)

func (o Order) String() string {
	return [...]string{"ABCD", "CDAB", "BADC", "DCBA"}[o&3]
}

// Position is a place in a file that a user wrote.
type Position struct {
	File string
	Line int    // 1-based; the row of a spreadsheet
	Col  int    // 1-based column of the text; 0 where ColName says it
	Name string // the column's name, in a tag map
}
