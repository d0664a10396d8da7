package protocols

// Quality says how far a reading can be trusted. The names are those of
// OPC UA (Part 8, "quality").
type Quality uint8

// The three qualities of a reading.
const (
	Good      Quality = iota
	Uncertain         // has a value, and a Reason why it may be off
	Bad               // has no value, only a Reason
)

// Reason is a stable code for why a reading is bad or uncertain, one that
// programs may test: one of the constants below, or the symbol of an OPC UA
// status code such as BadDeviceFailure. It is empty for a good reading.
type Reason string

// The reasons that are Millrace's own.
const (
	Timeout         Reason = "timeout"           // the device did not answer in time
	Offline         Reason = "offline"           // there is no connection to the device
	IllegalAddress  Reason = "illegal_address"   // Modbus exception 2
	IllegalValue    Reason = "illegal_value"     // Modbus exception 3
	IllegalFunction Reason = "illegal_function"  // Modbus exception 1
	DeviceFailure   Reason = "device_failure"    // Modbus exception 4
	DeviceBusy      Reason = "device_busy"       // Modbus exceptions 5 and 6
	GatewayNoPath   Reason = "gateway_no_path"   // Modbus exception 10
	GatewayNoAnswer Reason = "gateway_no_answer" // Modbus exception 11
	Malformed       Reason = "malformed"         // an answer that breaks the protocol, or a value that breaks its encoding
	NotANumber      Reason = "not_a_number"      // NaN or an infinity
	OutOfRange      Reason = "out_of_range"      // outside the tag's min and max
	Overflow        Reason = "overflow"          // does not fit its type, or was lost in a full queue
	ExpressionError Reason = "expression"        // the tag's expression failed
	UnsupportedType Reason = "unsupported_type"  // a type Millrace cannot decode
	NoSuchNode      Reason = "no_such_node"      // OPC UA BadNodeIdUnknown
	NotReadable     Reason = "not_readable"      // OPC UA BadNotReadable and its like
)

// NoValue says, of a bad reading, that the device gave no value for it: it did
// not answer, or it refused. The others are of values that are no good.
func (r Reason) NoValue() bool {
	switch r {
	case NotANumber, OutOfRange, Overflow, ExpressionError:
		return false
	case Timeout, Offline, IllegalAddress, IllegalValue, IllegalFunction, DeviceFailure, DeviceBusy, GatewayNoPath, GatewayNoAnswer,
		Malformed, UnsupportedType, NoSuchNode, NotReadable:
		return true
	}
	return len(r) < 3 || r[:3] != "Bad" // the status that an OPC UA server gave with the value
}

// Reading is one tag's value at one time.
type Reading struct {
	Value   Value
	Reason  Reason // why it is not good
	Source  int64  // the device's own time for it, in nanoseconds since 1970 UTC; 0: none was given
	Tag     int32  // index into the tags of its Schema (or, inside a driver's scan, of its Group)
	Quality Quality
}

// SetGood makes r a good reading of v.
func (r *Reading) SetGood(v Value) { r.Value, r.Quality, r.Reason = v, Good, "" }

// SetBad makes r a bad reading, without a value.
func (r *Reading) SetBad(why Reason) { r.Value, r.Quality, r.Reason = Value{}, Bad, why }
