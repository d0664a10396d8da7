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
	// Identify has the device asked who it is, for the ledger of the equipment.
	Identify bool

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
	// Fallback is a second address of the same device, of the same kind as
	// the endpoint, for devices with two network ports; empty: none.
	Fallback string
	// MaxInflight is how many requests may be under way at once on TCP; below
	// 2: one. InflightAuto: as many as the device turns out to bear.
	MaxInflight int
	// Pause is how long the device is left alone, at the least, between an
	// answer and the next request.
	Pause time.Duration
	// Retries is how often a request that timed out is repeated in the same
	// scan, while the device answers otherwise. Answers that arrived damaged
	// are asked for again once in any case.
	Retries int
	// CloseAfterScan closes the connection after each scan, for devices that
	// accept few connections and have several masters.
	CloseAfterScan bool
	// Turnaround is how long the device takes until it begins to answer, for
	// predictions only.
	Turnaround time.Duration
	// TimeZone is the offset from UTC of the device's clock, such as +08:00,
	// for date-times that say none; empty: not given.
	TimeZone string
}

// InflightAuto is the ModbusOptions.MaxInflight that is found out.
const InflightAuto = -1

// OPCUAOptions are the keys of a device that only the OPC UA driver reads.
type OPCUAOptions struct {
	Subscribe      bool   // mode: subscribe; otherwise poll
	SecurityPolicy string // None, Basic256Sha256, auto …
	SecurityMode   string // None, Sign, SignAndEncrypt; empty: the strongest offered
	// Tolerate is what may be wrong with a server certificate that is trusted
	// all the same: some of TolerateHostName and its like.
	Tolerate []string
	Username string // empty: anonymous, or by UserCert
	Password string
	// UserCert and UserKey are the files of a user's certificate (DER or PEM)
	// and its key (PEM), to log in with instead of a name; empty: none.
	UserCert, UserKey string
	// Trust is the directory of the certificates that are accepted as the
	// server's. Unknown ones are kept in the directory "rejected" beside it.
	Trust string

	// Queue is how many values of one tag the server keeps between two of its
	// messages; 0: as many as ten seconds bring.
	Queue int
	// History is how far back values that were missed are read from the
	// server's history; 0: never.
	History time.Duration
	// MaxPerCall is how many nodes one request may have; 0: as many as the
	// server says, or as the profile says.
	MaxPerCall int
	// Profile names a make of server whose limits are not what it says; empty
	// or "auto": found out.
	Profile string
}

// What of a server's certificate OPCUAOptions.Tolerate may name.
const (
	TolerateHostName       = "host_name"       // it is for another host
	TolerateExpired        = "expired"         // it is out of date, or not valid yet
	TolerateApplicationURI = "application_uri" // it is for another application
	TolerateRevocation     = "revocation"      // its issuer's revocation list is missing or out of date
)

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
// out; A is the most significant byte. The first four are for any size: for
// 64 bits, ABCD, CDAB, BADC and DCBA mean ABCDEFGH, GHEFCDAB, BADCFEHG and
// HGFEDCBA. The other four differ from them for 64 bits alone, in which
// half comes first; for 32 bits they mean what their first four letters say
// with E to H taken for A to D.
//
// Its three bits are what may be swapped: 1 the words of each 32 bits, 2 the
// bytes of each word. 4 says that the halves of 64 bits are not in the order
// of the words.
type Order uint8

// The eight orders. All but the last two are in wide use.
const (
	ABCD     Order = iota // big endian, high word first: what the standard says
	CDAB                  // low word first
	BADC                  // high word first, bytes swapped in each word
	DCBA                  // little endian
	EFGHABCD              // low half first, each in ABCD
	CDABGHEF              // high half first, each in CDAB
	FEHGBADC              // low half first, each in BADC
	DCBAHGFE              // high half first, each in DCBA
)

func (o Order) String() string {
	return [...]string{"ABCD", "CDAB", "BADC", "DCBA", "EFGHABCD", "CDABGHEF", "FEHGBADC", "DCBAHGFE"}[o&7]
}

// BytesSwapped says that the two bytes of each register change places.
func (o Order) BytesSwapped() bool { return o&BADC != 0 }

// WordsSwapped says that of two registers the low one comes first.
func (o Order) WordsSwapped() bool { return o&CDAB != 0 }

// HalvesSwapped says that of four registers the low two come first.
func (o Order) HalvesSwapped() bool { return (o&CDAB != 0) != (o&EFGHABCD != 0) }

// Position is a place in a file that a user wrote.
type Position struct {
	File string
	Line int    // 1-based; the row of a spreadsheet
	Col  int    // 1-based column of the text; 0 where ColName says it
	Name string // the column's name, in a tag map
}
