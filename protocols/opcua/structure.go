package opcua

import (
	"encoding/binary"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// decoder takes the body of a structure apart. After the first failure all
// that it returns is nothing. What it allocates is bounded by the length of
// the body, and by maxArrayLength values in all.
type decoder struct {
	data   []byte
	bit    int // how many bits of data[0] are used up
	book   *typeBook
	depth  int
	budget *int // how many more values it may have; of the whole reading

	why   protocols.Reason
	words string // more about why, for people
}

// decodeBody decodes the body of a structure of shape s. It must be used up to
// the last byte.
func (b *typeBook) decodeBody(s *shape, body []byte, depth int, budget *int) (v protocols.Value, why protocols.Reason, words string) {
	d := decoder{data: body, book: b, depth: depth, budget: budget}
	defer func() {
		// gopcua decodes some of it.
		if recover() != nil {
			v, why, words = protocols.Value{}, protocols.Malformed, "its bytes make no sense"
		}
	}()
	v = d.value(s)
	if d.why == "" && (len(d.data) != 0 || d.bit != 0) {
		d.fail(protocols.Malformed, strconv.Itoa(len(d.data))+" bytes of "+strconv.Itoa(len(body))+" are more than the server's definition of the type has")
	}
	if d.why != "" {
		return protocols.Value{}, d.why, d.words
	}
	return v, "", ""
}

func (d *decoder) fail(why protocols.Reason, words string) {
	if d.why == "" {
		d.why, d.words = why, words
	}
	d.data, d.bit = nil, 0
}

const wordsCutOff = "its bytes end before the server's definition of the type does"

// take returns the next n bytes.
func (d *decoder) take(n int) []byte {
	if d.bit != 0 {
		d.fail(protocols.Malformed, "a field begins in the middle of a byte")
	}
	if n < 0 || n > len(d.data) {
		d.fail(protocols.Malformed, wordsCutOff)
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) uint8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// enter goes into something that holds values; false: too deep.
func (d *decoder) enter() bool {
	d.depth++
	if d.depth > protocols.MaxDepth {
		d.fail(protocols.Overflow, wordsTooDeep())
		return false
	}
	return true
}

func wordsTooDeep() string {
	return "it is more than " + strconv.Itoa(protocols.MaxDepth) + " levels deep"
}

func (d *decoder) leave() { d.depth-- }

// spend takes n values from what it may have.
func (d *decoder) spend(n int) bool {
	if n > *d.budget {
		d.fail(protocols.Overflow, "it has more than "+strconv.Itoa(maxArrayLength)+" values")
		return false
	}
	*d.budget -= n
	return true
}

// value decodes one value of shape s.
func (d *decoder) value(s *shape) protocols.Value {
	switch s.kind {
	case shapeBuiltin:
		return d.builtin(s.builtin)
	case shapeEnum:
		v := d.builtin(s.builtin)
		if s.names == nil || d.why != "" {
			return v
		}
		name, why := s.names.value(v)
		if why != "" {
			d.fail(why, "a number that "+s.names.name+" has no name for")
		}
		return name
	case shapeStruct, shapeOptional, shapeUnion, shapeSequence:
		if !d.enter() {
			return protocols.Value{}
		}
		defer d.leave()
		switch s.kind { //nolint:exhaustive // those of the outer case
		case shapeUnion:
			return d.union(s)
		case shapeSequence:
			return d.sequence(s)
		}
		return d.structure(s)
	case shapeAny:
		return d.extensionObject()
	case shapeGo:
		return d.goValue(s)
	case shapeUnknown:
		d.fail(protocols.UnsupportedType, s.why)
	}
	return protocols.Value{}
}

// structure decodes a structure, with or without optional fields (Part 6,
// 5.2.6 and 5.2.7).
func (d *decoder) structure(s *shape) protocols.Value {
	var mask uint32
	if s.kind == shapeOptional {
		mask = d.uint32()
	}
	if !d.spend(len(s.fields)) {
		return protocols.Value{}
	}
	list := make([]protocols.Value, 0, 2*len(s.fields))
	var known uint32
	for i := range s.fields {
		f := &s.fields[i]
		known |= f.mask
		if f.mask != 0 && mask&f.mask == 0 {
			continue
		}
		v := d.field(f)
		if d.why != "" {
			return protocols.Value{}
		}
		list = append(list, f.name, v)
	}
	if mask&^known != 0 {
		d.fail(protocols.Malformed, "it has optional fields that the server's definition of the type does not have")
	}
	return protocols.ObjectOf(list)
}

// union decodes one of several fields (Part 6, 5.2.8). None of them is null.
func (d *decoder) union(s *shape) protocols.Value {
	n := d.uint32()
	if n == 0 || d.why != "" {
		return protocols.Value{}
	}
	if uint64(n) > uint64(len(s.fields)) {
		d.fail(protocols.Malformed, "the server's definition of the union has no choice "+strconv.FormatUint(uint64(n), 10))
		return protocols.Value{}
	}
	f := &s.fields[n-1]
	v := d.field(f)
	return protocols.ObjectOf([]protocols.Value{f.name, v})
}

// field decodes what a field has: one value, an array or a matrix.
func (d *decoder) field(f *field) protocols.Value {
	switch f.rank {
	case 0:
		return d.value(f.shape)
	case 1:
		n := int32(d.uint32())
		if n < 0 || d.why != "" {
			return protocols.Value{} // null
		}
		return protocols.Array(d.elements(f.shape, int(n)))
	}
	return d.matrix(f)
}

// elements decodes n values. Each of them has a byte at the least, but for
// structures without fields.
func (d *decoder) elements(s *shape, n int) []protocols.Value {
	if n > len(d.data) && !s.empty() {
		d.fail(protocols.Malformed, wordsCutOff)
	}
	if d.why != "" || !d.spend(n) || !d.enter() {
		return nil
	}
	defer d.leave()
	list := make([]protocols.Value, n)
	for i := range list {
		list[i] = d.value(s)
		if d.why != "" {
			return nil
		}
	}
	return list
}

// matrix decodes an array of several dimensions within a structure: their
// sizes, and then all elements, the last index running fastest (Part 6, 5.2.5).
func (d *decoder) matrix(f *field) protocols.Value {
	rank := int32(d.uint32())
	if rank < 0 || d.why != "" {
		return protocols.Value{}
	}
	if int(rank) != f.rank {
		d.fail(protocols.Malformed, "an array of "+strconv.Itoa(int(rank))+" dimensions, where the server's definition of the type has "+strconv.Itoa(f.rank))
		return protocols.Value{}
	}
	return d.matrixOf(f.shape, d.sizes(int(rank)))
}

// sizes reads the sizes of n dimensions.
func (d *decoder) sizes(n int) []int {
	if n < 0 || 4*n > len(d.data) {
		d.fail(protocols.Malformed, wordsCutOff)
		return nil
	}
	if d.depth+n > protocols.MaxDepth {
		d.fail(protocols.Overflow, wordsTooDeep())
		return nil
	}
	dims := make([]int, n)
	for i := range dims {
		dims[i] = int(max(0, int32(d.uint32())))
	}
	return dims
}

func (d *decoder) matrixOf(s *shape, dims []int) protocols.Value {
	n, ok := product(dims)
	if !ok {
		d.fail(protocols.Malformed, wordsCutOff)
	}
	d.depth += len(dims) - 1
	list := d.elements(s, n)
	d.depth -= len(dims) - 1
	if d.why != "" {
		return protocols.Value{}
	}
	v, ok := nest(list, dims)
	if !ok {
		d.fail(protocols.Malformed, "the sizes of a matrix do not fit its elements")
	}
	return v
}

// product returns how many elements a matrix has.
func product(dims []int) (int, bool) {
	n := 1
	for _, size := range dims {
		if n *= size; n > maxArrayLength || size < 0 {
			return 0, false
		}
	}
	return n, true
}

// nest makes arrays of arrays of the elements of a matrix.
func nest(list []protocols.Value, dims []int) (protocols.Value, bool) {
	if n, ok := product(dims); !ok || n != len(list) || len(dims) > protocols.MaxDepth {
		return protocols.Value{}, false
	}
	if len(list) == 0 {
		return protocols.Array(nil), true
	}
	for i := len(dims) - 1; i > 0; i-- {
		size := dims[i]
		rows := make([]protocols.Value, 0, len(list)/size)
		for ; len(list) > 0; list = list[size:] {
			rows = append(rows, protocols.Array(list[:size:size]))
		}
		list = rows
	}
	return protocols.Array(list), true
}

// builtin decodes a value of a built-in type (Part 6, 5.2.2).
func (d *decoder) builtin(t ua.TypeID) protocols.Value {
	switch t {
	case ua.TypeIDBoolean:
		return protocols.Bool(d.uint8() != 0)
	case ua.TypeIDSByte:
		return protocols.Int(int64(int8(d.uint8())))
	case ua.TypeIDByte:
		return protocols.Uint(uint64(d.uint8()))
	case ua.TypeIDInt16:
		return protocols.Int(int64(int16(d.uint16())))
	case ua.TypeIDUint16:
		return protocols.Uint(uint64(d.uint16()))
	case ua.TypeIDInt32:
		return protocols.Int(int64(int32(d.uint32())))
	case ua.TypeIDUint32:
		return protocols.Uint(uint64(d.uint32()))
	case ua.TypeIDInt64:
		return protocols.Int(int64(d.uint64()))
	case ua.TypeIDUint64:
		return protocols.Uint(d.uint64())
	case ua.TypeIDFloat:
		return d.finite(protocols.Float32(math.Float32frombits(d.uint32())))
	case ua.TypeIDDouble:
		return d.finite(protocols.Float64(math.Float64frombits(d.uint64())))
	case ua.TypeIDString, ua.TypeIDXMLElement:
		return protocols.String(d.text())
	case ua.TypeIDByteString:
		return protocols.Bytes(d.bytes())
	case ua.TypeIDDateTime:
		return d.dateTime()
	}
	return d.rareBuiltin(t)
}

// rareBuiltin does for the types seldom seen in structures what builtin does.
func (d *decoder) rareBuiltin(t ua.TypeID) protocols.Value {
	switch t {
	case ua.TypeIDGUID:
		if b := d.take(16); b != nil {
			v, _ := rareScalar(&ua.GUID{Data1: binary.LittleEndian.Uint32(b), Data2: binary.LittleEndian.Uint16(b[4:]), Data3: binary.LittleEndian.Uint16(b[6:]), Data4: b[8:]})
			return v
		}
	case ua.TypeIDNodeID:
		n := new(ua.NodeID)
		return d.byLibrary(n, n)
	case ua.TypeIDExpandedNodeID:
		n := new(ua.ExpandedNodeID)
		return d.byLibrary(n, n)
	case ua.TypeIDStatusCode:
		return protocols.String(string(d.book.symbols.symbol(ua.StatusCode(d.uint32()))))
	case ua.TypeIDQualifiedName:
		ns, name := d.uint16(), d.text()
		v, _ := rareScalar(&ua.QualifiedName{NamespaceIndex: ns, Name: name})
		return v
	case ua.TypeIDLocalizedText:
		return d.localizedText()
	case ua.TypeIDExtensionObject:
		return d.extensionObject()
	case ua.TypeIDDataValue:
		return d.dataValue()
	case ua.TypeIDVariant:
		return d.variant()
	case ua.TypeIDDiagnosticInfo:
		d.diagnosticInfo()
	default:
		d.fail(protocols.Malformed, "there is no built-in type "+strconv.Itoa(int(t)))
	}
	return protocols.Value{}
}

// byLibrary lets gopcua decode a NodeId.
func (d *decoder) byLibrary(into ua.BinaryDecoder, x any) protocols.Value {
	n, err := into.Decode(d.data)
	if err != nil {
		d.fail(protocols.Malformed, wordsCutOff)
		return protocols.Value{}
	}
	d.take(n)
	v, why := rareScalar(x)
	if why != "" {
		d.fail(why, "a NodeId that is no UTF-8")
	}
	return v
}

// finite passes v on. A NaN spoils the structure, as it does an array.
func (d *decoder) finite(v protocols.Value) protocols.Value {
	if !v.Finite() {
		d.fail(protocols.NotANumber, "")
	}
	return v
}

// bytes reads a length and that many bytes; null gives none.
func (d *decoder) bytes() []byte {
	n := int32(d.uint32())
	if n <= 0 {
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) text() string {
	b := d.bytes()
	if !utf8.Valid(b) {
		d.fail(protocols.Malformed, "a text that is no UTF-8")
		return ""
	}
	return string(b)
}

func (d *decoder) localizedText() protocols.Value {
	mask := d.uint8()
	if mask&ua.LocalizedTextLocale != 0 {
		d.bytes()
	}
	if mask&ua.LocalizedTextText == 0 {
		return protocols.String("")
	}
	return protocols.String(d.text())
}

// The DateTime of Part 6, 5.2.2.5: steps of 100 ns since 1601.
const (
	ticksTo1970 = 116444736000000000
	ticksTo9999 = 2650467743990000000 // the last second of the year 9999
)

// endOfTime is how OPC UA's JSON writes "never".
const endOfTime = "9999-12-31T23:59:59Z"

// dateTime reads a time. Before any time is null; after any time, which means
// "never", and what is beyond the years that a Value can hold, are the text that
// OPC UA's JSON has for it (Part 6, 5.4.2.6).
func (d *decoder) dateTime() protocols.Value {
	ticks := int64(d.uint64())
	const from, to = -9200000000000000000 / 100, 9200000000000000000 / 100 // what nanoseconds hold
	switch since := ticks - ticksTo1970; {
	case ticks <= 0:
		return protocols.Value{}
	case ticks >= ticksTo9999:
		return protocols.String(endOfTime)
	case since < from || since > to:
		return protocols.String(time.Unix(since/1e7, since%1e7*100).UTC().Format(time.RFC3339Nano))
	default:
		return protocols.Time(time.Unix(0, since*100))
	}
}

// variant decodes a value that says its type (Part 6, 5.2.2.16).
func (d *decoder) variant() protocols.Value {
	mask := d.uint8()
	t := ua.TypeID(mask & 0x3F)
	if t == ua.TypeIDNull || d.why != "" || !d.enter() {
		return protocols.Value{}
	}
	defer d.leave()
	if mask&ua.VariantArrayValues == 0 {
		if t == ua.TypeIDVariant {
			d.fail(protocols.Malformed, "a Variant that holds a Variant")
			return protocols.Value{}
		}
		return d.builtin(t)
	}
	n := int32(d.uint32())
	var list []protocols.Value
	if n > 0 {
		list = d.elements(&shape{kind: shapeBuiltin, builtin: t}, int(n))
	}
	if mask&ua.VariantArrayDimensions != 0 {
		dims := d.sizes(int(int32(d.uint32())))
		if d.why == "" && len(dims) > 1 && n >= 0 {
			v, ok := nest(list, dims)
			if !ok {
				d.fail(protocols.Malformed, "the sizes of a matrix do not fit its elements")
			}
			return v
		}
	}
	if n < 0 || d.why != "" {
		return protocols.Value{}
	}
	return protocols.Array(list)
}

// dataValue decodes a value with its status and times (Part 6, 5.2.2.17), into
// what OPC UA's JSON has for it.
func (d *decoder) dataValue() protocols.Value {
	if !d.enter() {
		return protocols.Value{}
	}
	defer d.leave()
	mask := d.uint8()
	var list []protocols.Value
	add := func(name string, v protocols.Value) { list = append(list, protocols.String(name), v) }
	if mask&ua.DataValueValue != 0 {
		add("Value", d.variant())
	}
	if mask&ua.DataValueStatusCode != 0 {
		add("Status", d.builtin(ua.TypeIDStatusCode))
	}
	if mask&ua.DataValueSourceTimestamp != 0 {
		add("SourceTimestamp", d.dateTime())
	}
	if mask&ua.DataValueSourcePicoseconds != 0 {
		add("SourcePicoseconds", d.builtin(ua.TypeIDUint16))
	}
	if mask&ua.DataValueServerTimestamp != 0 {
		add("ServerTimestamp", d.dateTime())
	}
	if mask&ua.DataValueServerPicoseconds != 0 {
		add("ServerPicoseconds", d.builtin(ua.TypeIDUint16))
	}
	if len(list) == 0 || !d.spend(len(list)/2) {
		return protocols.Value{}
	}
	return protocols.ObjectOf(list)
}

// diagnosticInfo reads over a DiagnosticInfo (Part 6, 5.2.2.12): it speaks of
// texts that a response has, which a value is not given.
func (d *decoder) diagnosticInfo() {
	if !d.enter() {
		return
	}
	defer d.leave()
	const symbolicID, namespace, text, locale, info, innerStatus, inner = 1, 2, 4, 8, 16, 32, 64
	mask := d.uint8()
	for _, bit := range [...]byte{symbolicID, namespace, locale, text} {
		if mask&bit != 0 {
			d.uint32()
		}
	}
	if mask&info != 0 {
		d.bytes()
	}
	if mask&innerStatus != 0 {
		d.uint32()
	}
	if mask&inner != 0 && d.why == "" {
		d.diagnosticInfo()
	}
}

// extensionObject decodes a structure that says its type (Part 6, 5.2.2.15).
func (d *decoder) extensionObject() protocols.Value {
	id := new(ua.NodeID)
	n, err := id.Decode(d.data)
	if err != nil {
		d.fail(protocols.Malformed, wordsCutOff)
		return protocols.Value{}
	}
	d.take(n)
	switch mask := d.uint8(); {
	case d.why != "" || mask == ua.ExtensionObjectEmpty:
		return protocols.Value{}
	case mask != ua.ExtensionObjectBinary:
		d.fail(protocols.UnsupportedType, wordsXML)
		return protocols.Value{}
	}
	size := int32(d.uint32())
	body := d.take(int(max(0, size)))
	if d.why != "" || !d.spend(1) {
		return protocols.Value{}
	}
	v, why, words := d.book.decodeEncoded(id, body, d.depth, d.budget)
	if why != "" {
		d.fail(why, words)
	}
	return v
}

// wordsNotYet end the words about a type that is being looked up.
const wordsNotYet = ", of which the server has said nothing yet"

const wordsXML = "it came as XML, which Millrace does not read"

// decodeEncoded decodes a body by the NodeId of its encoding.
func (b *typeBook) decodeEncoded(encoding *ua.NodeID, body []byte, depth int, budget *int) (protocols.Value, protocols.Reason, string) {
	key := keyOf(encoding)
	if key == standard(decimalType) {
		return decimal(body)
	}
	if s := b.shapeOf(key); s != nil {
		v, why, words := b.decodeBody(s, body, depth, budget)
		if why != "" && words != "" {
			words = "the structure " + s.name + ": " + words
		}
		return v, why, words
	}
	if t := goTypeOf(encoding); t != nil {
		return b.decodeBody(&shape{name: t.Name(), kind: shapeGo, goType: t}, body, depth, budget)
	}
	b.want(encoding)
	return protocols.Value{}, protocols.UnsupportedType, "a structure of the encoding " + nodeIDText(encoding) + wordsNotYet
}

// goValue lets gopcua decode a structure of the standard that it knows.
func (d *decoder) goValue(s *shape) protocols.Value {
	p := reflect.New(s.goType)
	n, err := ua.Decode(d.data, p.Interface())
	if err != nil {
		d.fail(protocols.Malformed, wordsCutOff)
		return protocols.Value{}
	}
	d.take(n)
	g := goConverter{book: d.book, depth: d.depth, budget: d.budget}
	v := g.value(p.Elem())
	if g.why != "" {
		d.fail(g.why, g.words)
	}
	return v
}
