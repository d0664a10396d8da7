package opcua

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// fill makes r what the server said about a tag. It leaves r.Tag alone.
func (t symbols) fill(r *protocols.Reading, dv *ua.DataValue, a *address) {
	if dv == nil {
		r.Source = 0
		r.SetBad(protocols.Malformed)
		return
	}
	r.Source = sourceTime(dv)
	if isBad(dv.Status) {
		r.SetBad(t.reason(dv.Status))
		return
	}
	v, why := valueOf(dv.Value, a)
	switch {
	case why == noValue && !isGood(dv.Status):
		r.SetBad(t.symbol(dv.Status))
	case why != "":
		r.SetBad(why)
	case isGood(dv.Status):
		r.SetGood(v)
	default:
		r.Value, r.Quality, r.Reason = v, protocols.Uncertain, t.symbol(dv.Status)
	}
}

// sourceTime returns the time that the server gave with a value, in
// nanoseconds since 1970; 0 if it gave none.
func sourceTime(dv *ua.DataValue) int64 {
	at, pico := dv.SourceTimestamp, dv.SourcePicoseconds
	if at.IsZero() {
		at, pico = dv.ServerTimestamp, dv.ServerPicoseconds
	}
	ns, ok := nanoseconds(at)
	if !ok {
		return 0
	}
	// Part 6, 5.2.2.17: in steps of 10 ps, below the 100 ns of the DateTime.
	return ns + int64(min(pico, 9999))/100
}

// nanoseconds returns t in nanoseconds since 1970; false if it is no time, or
// beyond what they can hold.
func nanoseconds(t time.Time) (int64, bool) {
	if t.IsZero() || t.Year() < 1678 || t.Year() > 2261 || isEndOfTime(t) {
		return 0, false
	}
	return t.UnixNano(), true
}

// isEndOfTime recognises 9999-12-31 and the largest DateTime, which servers
// send for "never". gopcua's Buffer.ReadTime multiplies into an int64 without
// looking, so they arrive as a time in the eighteenth century or so.
func isEndOfTime(t time.Time) bool {
	const (
		epoch    = 116444736000000000 // ticks from 1601 to 1970
		lastYear = 2650467743990000000
	)
	ticks := uint64(t.UnixNano())
	for _, end := range [...]uint64{lastYear, lastYear + 9_990_000, lastYear + 9_999_999, math.MaxInt64} {
		if (end-epoch)*100 == ticks {
			return true
		}
	}
	return false
}

// valueOf turns what came over the wire into a value, or says why it cannot.
func valueOf(v *ua.Variant, a *address) (protocols.Value, protocols.Reason) {
	if v == nil || v.Type() == ua.TypeIDNull {
		return protocols.Value{}, noValue
	}
	if f := a.form; f != nil && (f.names != nil || f.later != nil) || compound(v) {
		return f.typed(v, a.one)
	}
	if !v.Has(ua.VariantArrayValues) {
		return scalar(v.Value())
	}
	if v.ArrayLength() < 0 {
		return protocols.Value{}, noValue
	}
	elems, why := array(v.Value())
	if why != "" {
		return protocols.Value{}, why
	}
	if a.one && len(elems) == 1 {
		return elems[0], ""
	}
	return protocols.Array(elems), ""
}

// compound says that v is more than one value, or a list of such, of a
// built-in type: a matrix, or of a type that holds others.
func compound(v *ua.Variant) bool {
	switch v.Type() {
	case ua.TypeIDExtensionObject, ua.TypeIDVariant, ua.TypeIDDataValue, ua.TypeIDDiagnosticInfo:
		return true
	}
	return len(v.ArrayDimensions()) > 1
}

// scalar turns one element of a built-in type into a value.
func scalar(x any) (protocols.Value, protocols.Reason) {
	switch x := x.(type) {
	case bool:
		return protocols.Bool(x), ""
	case int8:
		return protocols.Int(int64(x)), ""
	case uint8:
		return protocols.Uint(uint64(x)), ""
	case int16:
		return protocols.Int(int64(x)), ""
	case uint16:
		return protocols.Uint(uint64(x)), ""
	case int32:
		return protocols.Int(int64(x)), ""
	case uint32:
		return protocols.Uint(uint64(x)), ""
	case int64:
		return protocols.Int(x), ""
	case uint64:
		return protocols.Uint(x), ""
	case float32:
		return number(protocols.Float32(x))
	case float64:
		return number(protocols.Float64(x))
	case string:
		return text(x)
	case time.Time:
		return dateTime(x)
	case []byte:
		return protocols.Bytes(x), ""
	default:
		return rareScalar(x)
	}
}

// rareScalar does for the types seldom seen in tags what scalar does: they
// become strings, as OPC UA's own text forms have it (Part 6, 5.3 and 5.4).
func rareScalar(x any) (protocols.Value, protocols.Reason) {
	switch x := x.(type) {
	case ua.XMLElement:
		return text(string(x))
	case *ua.GUID:
		return protocols.String(fmt.Sprintf("%08x-%04x-%04x-%x-%x", x.Data1, x.Data2, x.Data3, x.Data4[:2], x.Data4[2:])), ""
	case *ua.NodeID:
		return text(nodeIDText(x))
	case *ua.ExpandedNodeID:
		return text(expandedText(x))
	case ua.StatusCode:
		return protocols.String(statusName(x)), ""
	case *ua.QualifiedName:
		if x.NamespaceIndex == 0 {
			return text(x.Name)
		}
		return text(strconv.Itoa(int(x.NamespaceIndex)) + ":" + x.Name)
	case *ua.LocalizedText:
		return text(x.Text)
	}
	return protocols.Value{}, protocols.UnsupportedType
}

// statusName is a status code as a value, which is rare enough to make the
// table of names for it.
func statusName(code ua.StatusCode) string { return string(newSymbols().symbol(code)) }

func number(v protocols.Value) (protocols.Value, protocols.Reason) {
	if !v.Finite() {
		return protocols.Value{}, protocols.NotANumber
	}
	return v, ""
}

func text(s string) (protocols.Value, protocols.Reason) {
	if !utf8.ValidString(s) {
		return protocols.Value{}, protocols.Malformed
	}
	return protocols.String(s), ""
}

func dateTime(t time.Time) (protocols.Value, protocols.Reason) {
	if t.IsZero() {
		return protocols.Value{}, noValue
	}
	if _, ok := nanoseconds(t); !ok {
		return protocols.Value{}, protocols.Overflow
	}
	return protocols.Time(t), ""
}

// nodeIDText writes a NodeId as it would be written in a tag map.
func nodeIDText(n *ua.NodeID) string {
	var id string
	switch n.Type() {
	case ua.NodeIDTypeString:
		id = "s=" + n.StringID()
	case ua.NodeIDTypeGUID:
		id = "g=" + n.StringID()
	case ua.NodeIDTypeByteString:
		// gopcua's StringID gives base64 here.
		id = "b=" + n.StringID()
	default:
		id = "i=" + strconv.FormatUint(uint64(n.IntID()), 10)
	}
	if n.Namespace() == 0 {
		return id
	}
	return "ns=" + strconv.Itoa(int(n.Namespace())) + ";" + id
}

func expandedText(n *ua.ExpandedNodeID) string {
	if n.NodeID == nil {
		return ""
	}
	s := nodeIDText(n.NodeID)
	if n.NamespaceURI != "" {
		s = "nsu=" + n.NamespaceURI + ";" + s
	}
	if n.ServerIndex != 0 {
		s = "svr=" + strconv.FormatUint(uint64(n.ServerIndex), 10) + ";" + s
	}
	return s
}

// array turns a one-dimensional array into values.
func array(x any) ([]protocols.Value, protocols.Reason) {
	switch x := x.(type) {
	case []bool:
		return elements(x)
	case []int8:
		return elements(x)
	case ua.ByteArray:
		return elements(x)
	case []int16:
		return elements(x)
	case []uint16:
		return elements(x)
	case []int32:
		return elements(x)
	case []uint32:
		return elements(x)
	case []int64:
		return elements(x)
	case []uint64:
		return elements(x)
	case []float32:
		return elements(x)
	case []float64:
		return elements(x)
	case []string:
		return elements(x)
	case []time.Time:
		return elements(x)
	case [][]byte:
		return elements(x)
	case []*ua.GUID:
		return elements(x)
	case []ua.XMLElement:
		return elements(x)
	case []*ua.NodeID:
		return elements(x)
	case []*ua.ExpandedNodeID:
		return elements(x)
	case []ua.StatusCode:
		return elements(x)
	case []*ua.QualifiedName:
		return elements(x)
	case []*ua.LocalizedText:
		return elements(x)
	}
	return nil, protocols.UnsupportedType
}

// elements turns each element into a value. One that has none spoils the
// array: a hole in the middle would shift or falsify the rest.
func elements[T any](list []T) ([]protocols.Value, protocols.Reason) {
	out := make([]protocols.Value, len(list))
	for i, e := range list {
		v, why := scalar(e)
		if why != "" {
			return nil, why
		}
		out[i] = v
	}
	return out, ""
}
