package opcua

import (
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// form is what is known of a tag's data type beyond what a value says of
// itself. It may be used by several goroutines.
type form struct {
	book *typeBook
	dev  *protocols.Device
	tag  string
	node *ua.NodeID

	// plain: values of this type say all about themselves.
	plain bool
	// names, if not nil, are what numbers go out as.
	names *enumeration
	// later, if not nil, is where the form is put as soon as it is known.
	later *laterForm
}

// typed turns a value into one that takes its tag's data type into account.
func (f *form) typed(v *ua.Variant, one bool) (protocols.Value, protocols.Reason) {
	if f == nil {
		f = new(form) // nothing is known of the server's types
	}
	of := f
	if f.later != nil {
		if known := f.later.get(f); known != nil {
			f = known
		}
	}
	if f.plain && f.book != nil && v.Type() == ua.TypeIDExtensionObject {
		f.book.doubt()
	}
	budget := maxArrayLength
	g := goConverter{book: f.book, budget: &budget}
	out := g.variant(v)
	if g.why != "" {
		if f.book != nil {
			f.book.explain(f, g.why, g.words)
			if hasSuffix(g.words, wordsNotYet) {
				f.book.await(of)
			}
		}
		return protocols.Value{}, g.why
	}
	if out.Kind() == protocols.KindNone {
		return protocols.Value{}, noValue
	}
	if one {
		out = single(out)
	}
	if f.names != nil {
		return f.named(out)
	}
	return out, ""
}

// single takes the one element out of an array, whatever its dimensions.
func single(v protocols.Value) protocols.Value {
	for inner := v; inner.Kind() == protocols.KindArray && len(inner.Elems()) == 1; {
		inner = inner.Elems()[0]
		if inner.Kind() != protocols.KindArray {
			return inner
		}
	}
	return v
}

// named puts the names of an enumeration in the place of its numbers.
func (f *form) named(v protocols.Value) (protocols.Value, protocols.Reason) {
	switch v.Kind() { //nolint:exhaustive // nothing else has names
	case protocols.KindInt, protocols.KindUint:
		name, why := f.names.value(v)
		if why != "" {
			f.book.explain(f, why, fmt.Sprintf("the enumeration %s has no name for %d", f.names.name, v.AsInt()))
		}
		return name, why
	case protocols.KindArray:
		list := make([]protocols.Value, len(v.Elems()))
		for i, e := range v.Elems() {
			name, why := f.named(e)
			if why != "" {
				return name, why
			}
			list[i] = name
		}
		return protocols.Array(list), ""
	}
	f.book.doubt() // the type has changed, or the server does not keep to it
	return v, ""
}

// goConverter turns what gopcua has decoded into values.
type goConverter struct {
	book   *typeBook // nil: nothing is known of the server's types
	depth  int
	budget *int // as a decoder's
	why    protocols.Reason
	words  string
}

func (g *goConverter) fail(why protocols.Reason, words string) protocols.Value {
	if g.why == "" {
		g.why, g.words = why, words
	}
	return protocols.Value{}
}

func (g *goConverter) enter() bool {
	g.depth++
	if g.depth > protocols.MaxDepth {
		g.fail(protocols.Overflow, wordsTooDeep())
		return false
	}
	return true
}

// variant turns a Variant into a value; KindNone where it has none.
func (g *goConverter) variant(v *ua.Variant) protocols.Value {
	if v == nil || v.Type() == ua.TypeIDNull || v.Has(ua.VariantArrayValues) && v.ArrayLength() < 0 {
		return protocols.Value{}
	}
	if !v.Has(ua.VariantArrayValues) {
		return g.one(v.Value())
	}
	return g.list(reflect.ValueOf(v.Value()), max(1, len(v.ArrayDimensions())))
}

// list turns an array into a value. Its elements are arrays again, down to the
// last of its dimensions.
func (g *goConverter) list(x reflect.Value, dims int) protocols.Value {
	if x.Kind() != reflect.Slice {
		return g.fail(protocols.Malformed, "an array that is none")
	}
	if !g.enter() {
		return protocols.Value{}
	}
	defer func() { g.depth-- }()
	if dims == 1 {
		if elems, why := array(x.Interface()); why == "" {
			return protocols.Array(elems)
		} else if why != protocols.UnsupportedType {
			return g.fail(why, "")
		}
	}
	elems := make([]protocols.Value, x.Len())
	for i := range elems {
		if dims > 1 {
			elems[i] = g.list(x.Index(i), dims-1)
		} else {
			elems[i] = g.one(x.Index(i).Interface())
		}
		if g.why != "" {
			return protocols.Value{}
		}
	}
	return protocols.Array(elems)
}

// one turns one element of a built-in type into a value.
func (g *goConverter) one(x any) protocols.Value {
	switch x := x.(type) {
	case *ua.ExtensionObject:
		return g.structure(x)
	case *ua.Variant:
		return g.variant(x)
	case *ua.DataValue:
		return g.dataValue(x)
	case *ua.DiagnosticInfo:
		return protocols.Value{}
	}
	v, why := scalar(x)
	switch {
	case why == noValue:
		return protocols.Value{}
	case why != "":
		return g.fail(why, fmt.Sprintf("a %T", x))
	}
	return v
}

// structure turns a structure into an object.
func (g *goConverter) structure(o *ua.ExtensionObject) protocols.Value {
	if o == nil || o.EncodingMask == ua.ExtensionObjectEmpty || o.TypeID == nil || o.TypeID.NodeID == nil {
		return protocols.Value{}
	}
	if o.EncodingMask != ua.ExtensionObjectBinary {
		return g.fail(protocols.UnsupportedType, wordsXML)
	}
	var body []byte
	switch x := o.Value.(type) {
	case *rawBody:
		body = x.data
	case nil:
		// It has no bytes; or gopcua threw them away, and then there is no shape.
		if g.book != nil && g.book.shapeOf(keyOf(o.TypeID.NodeID)) == nil && goTypeOf(o.TypeID.NodeID) == nil {
			g.book.want(o.TypeID.NodeID)
			return g.fail(protocols.UnsupportedType, "a structure of the encoding "+nodeIDText(o.TypeID.NodeID)+wordsNotYet)
		}
	default:
		return g.value(reflect.ValueOf(x))
	}
	if g.book == nil {
		return g.fail(protocols.UnsupportedType, "")
	}
	v, why, words := g.book.decodeEncoded(o.TypeID.NodeID, body, g.depth, g.budget)
	if why != "" {
		return g.fail(why, words)
	}
	return v
}

func (g *goConverter) dataValue(dv *ua.DataValue) protocols.Value {
	if dv == nil || dv.EncodingMask == 0 || !g.enter() {
		return protocols.Value{}
	}
	defer func() { g.depth-- }()
	var list []protocols.Value
	add := func(mask byte, name string, x any) {
		if dv.Has(mask) {
			list = append(list, protocols.String(name), g.one(x))
		}
	}
	add(ua.DataValueValue, "Value", dv.Value)
	add(ua.DataValueStatusCode, "Status", dv.Status)
	add(ua.DataValueSourceTimestamp, "SourceTimestamp", dv.SourceTimestamp)
	add(ua.DataValueSourcePicoseconds, "SourcePicoseconds", dv.SourcePicoseconds)
	add(ua.DataValueServerTimestamp, "ServerTimestamp", dv.ServerTimestamp)
	add(ua.DataValueServerPicoseconds, "ServerPicoseconds", dv.ServerPicoseconds)
	return protocols.ObjectOf(list)
}

// value turns a Go value of one of gopcua's types into a value.
func (g *goConverter) value(x reflect.Value) protocols.Value {
	if x.Kind() == reflect.Pointer && x.IsNil() {
		return protocols.Value{}
	}
	switch known := x.Interface().(type) {
	case *ua.ExtensionObject, *ua.Variant, *ua.DataValue, *ua.DiagnosticInfo, *ua.NodeID, *ua.ExpandedNodeID, *ua.GUID, *ua.QualifiedName, *ua.LocalizedText,
		ua.StatusCode, ua.XMLElement, []byte:
		return g.one(known)
	case time.Time:
		if isEndOfTime(known) {
			return protocols.String(endOfTime)
		}
		return g.one(known)
	}
	switch x.Kind() {
	case reflect.Pointer:
		return g.value(x.Elem())
	case reflect.Struct:
		return g.object(x)
	case reflect.Slice:
		if !g.enter() {
			return protocols.Value{}
		}
		defer func() { g.depth-- }()
		if x.IsNil() {
			return protocols.Value{}
		}
		list := make([]protocols.Value, x.Len())
		for i := range list {
			list[i] = g.value(x.Index(i))
		}
		return protocols.Array(list)
	case reflect.Bool:
		return protocols.Bool(x.Bool())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return protocols.Int(x.Int())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return g.enumerated(x)
	case reflect.Float32:
		return g.one(float32(x.Float()))
	case reflect.Float64:
		return g.one(x.Float())
	case reflect.String:
		return g.one(x.String())
	}
	return g.fail(protocols.UnsupportedType, "a "+x.Type().String())
}

// object turns one of gopcua's structures into an object.
func (g *goConverter) object(x reflect.Value) protocols.Value {
	if !g.enter() {
		return protocols.Value{}
	}
	defer func() { g.depth-- }()
	t := x.Type()
	if t.Name() == "DatagramConnectionTransport2DataType" {
		// The only structure of the standard with optional fields, of which
		// gopcua (v0.9.1) knows nothing: it has read them from the wrong places.
		return g.fail(protocols.UnsupportedType, "the structure "+t.Name()+" is misread by a library that Millrace uses")
	}
	list := make([]protocols.Value, 0, 2*t.NumField())
	for i := range t.NumField() {
		list = append(list, protocols.String(standardName(t.Field(i).Name)), g.value(x.Field(i)))
		if g.why != "" {
			return protocols.Value{}
		}
	}
	return protocols.ObjectOf(list)
}

// enumerated gives the numbers of gopcua's enumerations their names. Those of
// its types that are sets of bits keep the number.
func (g *goConverter) enumerated(x reflect.Value) protocols.Value {
	name := x.Type().Name()
	texts, ok := reflect.TypeAssert[fmt.Stringer](x)
	if !ok || x.Kind() != reflect.Uint32 || strings.HasSuffix(name, "Mask") || strings.HasSuffix(name, "Masks") || strings.HasPrefix(name, "Access") || name == "PermissionType" || name == "TrustListValidationOptions" {
		return protocols.Uint(x.Uint())
	}
	text, ok := strings.CutPrefix(texts.String(), name)
	if !ok || strings.HasPrefix(text, "(") {
		return g.fail(protocols.OutOfRange, "a number that "+name+" has no name for")
	}
	return protocols.String(standardName(text))
}

// standardName is a name as the standard spells it, of one as gopcua does.
func standardName(name string) string {
	return strings.NewReplacer("GUID", "Guid", "ID", "Id", "JSON", "Json", "TCP", "Tcp", "UADP", "Uadp", "URI", "Uri", "URL", "Url", "XML", "Xml").Replace(name)
}

// decimalType is the data type Decimal, which is its own encoding.
const decimalType = 50

// maxDecimal bounds the digits of a Decimal.
const maxDecimal = 1000

// decimal turns a Decimal (Part 6, 5.1.10) into its digits: how many decimals
// there are, and an integer with the lowest byte first.
func decimal(body []byte) (protocols.Value, protocols.Reason, string) {
	if len(body) < 3 || len(body) > maxDecimal {
		return protocols.Value{}, protocols.Malformed, fmt.Sprintf("a Decimal of %d bytes", len(body))
	}
	scale := int(int16(uint16(body[0]) | uint16(body[1])<<8))
	if scale > maxDecimal || scale < -maxDecimal {
		return protocols.Value{}, protocols.Overflow, fmt.Sprintf("a Decimal with %d decimals", scale)
	}
	big1 := make([]byte, len(body)-2)
	for i, b := range body[2:] {
		big1[len(big1)-1-i] = b
	}
	n := new(big.Int).SetBytes(big1)
	if big1[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(big1))))
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
		n.Neg(n)
	}
	digits := n.String()
	switch {
	case scale <= 0 && n.Sign() != 0:
		digits += strings.Repeat("0", -scale)
	case scale > 0:
		if len(digits) <= scale {
			digits = strings.Repeat("0", scale-len(digits)+1) + digits
		}
		digits = digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
	}
	return protocols.String(sign + digits), "", ""
}
