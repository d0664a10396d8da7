package opcua

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// The older way in which servers describe their structures: a type dictionary
// in XML, in the language of OPC Binary (Part 3, annex C of version 1.03; Part 5,
// annex D). It says what is in the bytes field by field, and has no notion of
// optional fields or arrays but fields that say something about other fields.

// maxDictionary is how long a dictionary may be.
const maxDictionary = 16 << 20

const (
	schemaOPC = "http://opcfoundation.org/BinarySchema/"
	schemaUA  = "http://opcfoundation.org/UA/"
)

// bsdDictionary is opc:TypeDictionary.
type bsdDictionary struct {
	Target     string         `xml:"TargetNamespace,attr"`
	ByteOrder  string         `xml:"DefaultByteOrder,attr"`
	Attrs      []xml.Attr     `xml:",any,attr"`
	Structures []bsdStructure `xml:"StructuredType"`
	Enums      []bsdEnum      `xml:"EnumeratedType"`
	Opaques    []bsdOpaque    `xml:"OpaqueType"`
}

type bsdStructure struct {
	Name   string     `xml:"Name,attr"`
	Fields []bsdField `xml:"Field"`
	Attrs  []xml.Attr `xml:",any,attr"`
}

type bsdField struct {
	Name          string     `xml:"Name,attr"`
	Type          string     `xml:"TypeName,attr"`
	Length        string     `xml:"Length,attr"`
	LengthField   string     `xml:"LengthField,attr"`
	InBytes       bool       `xml:"IsLengthInBytes,attr"`
	SwitchField   string     `xml:"SwitchField,attr"`
	SwitchValue   string     `xml:"SwitchValue,attr"`
	SwitchOperand string     `xml:"SwitchOperand,attr"`
	Terminator    string     `xml:"Terminator,attr"`
	Attrs         []xml.Attr `xml:",any,attr"`
}

type bsdEnum struct {
	Name   string     `xml:"Name,attr"`
	Bits   string     `xml:"LengthInBits,attr"`
	Values []bsdValue `xml:"EnumeratedValue"`
	Attrs  []xml.Attr `xml:",any,attr"`
}

type bsdValue struct {
	Name  string `xml:"Name,attr"`
	Value int64  `xml:"Value,attr"`
}

type bsdOpaque struct {
	Name string `xml:"Name,attr"`
	Bits string `xml:"LengthInBits,attr"`
}

// dictionaries are the types of all dictionaries of a server that were read,
// by namespace and name.
type dictionaries struct {
	types map[bsdName]any // *bsdStructure, *bsdEnum or *bsdOpaque, until it is compiled
	homes map[bsdName]*bsdDictionary
	done  map[bsdName]*shape
	known map[string]uint32 // the standard's structures: the number of their encoding, by name; nil until it is needed
}

type bsdName struct{ space, name string }

func newDictionaries() *dictionaries {
	return &dictionaries{types: make(map[bsdName]any), homes: make(map[bsdName]*bsdDictionary), done: make(map[bsdName]*shape)}
}

// add reads a dictionary, and returns the namespace that its types are in.
func (ds *dictionaries) add(text []byte) (string, error) {
	if len(text) > maxDictionary {
		return "", fmt.Errorf("a type dictionary of %d bytes is too long", len(text))
	}
	// Servers end it with a NUL, as a text in C.
	text = []byte(strings.TrimRight(string(text), "\x00"))
	dict := new(bsdDictionary)
	if err := xml.Unmarshal(text, dict); err != nil {
		return "", fmt.Errorf("the type dictionary is no XML: %w", err)
	}
	put := func(name string, what any) {
		key := bsdName{dict.Target, name}
		if ds.types[key] == nil {
			ds.types[key], ds.homes[key] = what, dict
		}
	}
	for i := range dict.Structures {
		put(dict.Structures[i].Name, &dict.Structures[i])
	}
	for i := range dict.Enums {
		put(dict.Enums[i].Name, &dict.Enums[i])
	}
	for i := range dict.Opaques {
		put(dict.Opaques[i].Name, &dict.Opaques[i])
	}
	return dict.Target, nil
}

// shape returns the layout of a type; nil if there is none of that name.
func (ds *dictionaries) shape(key bsdName) *shape {
	if s := ds.done[key]; s != nil {
		return s
	}
	switch t := ds.types[key].(type) {
	case *bsdStructure:
		s := &shape{name: t.Name, kind: shapeSequence}
		ds.done[key] = s // before its fields, which may have it in them
		if dict := ds.homes[key]; dict.ByteOrder == "BigEndian" {
			*s = *unknownShape(t.Name, "its bytes are the highest first, which Millrace does not read")
		} else {
			ds.compile(s, dict, t)
		}
		return s
	case *bsdEnum:
		s := enumShape(t)
		ds.done[key] = s
		return s
	}
	return nil
}

func enumShape(t *bsdEnum) *shape {
	s := &shape{name: t.Name, kind: shapeEnum, names: newEnumeration(t.Name)}
	switch t.Bits {
	case "8":
		s.builtin = ua.TypeIDByte
	case "16":
		s.builtin = ua.TypeIDUint16
	case "", "32":
		s.builtin = ua.TypeIDInt32
	case "64":
		s.builtin = ua.TypeIDInt64
	default:
		return unknownShape(t.Name, "it is an enumeration of %s bits", t.Bits)
	}
	for _, v := range t.Values {
		s.names.add(v.Value, v.Name)
	}
	if len(s.names.names) == 0 {
		s.names = nil
	}
	return s
}

// compile makes the fields of s.
func (ds *dictionaries) compile(s *shape, dict *bsdDictionary, t *bsdStructure) {
	index := make(map[string]int, len(t.Fields))
	for i := range t.Fields {
		f := &t.Fields[i]
		out := field{name: protocols.String(strings.ToValidUTF8(f.Name, "\ufffd"))}
		if why := ds.compileField(&out, dict, t, f, index, s.fields); why != "" {
			*s = *unknownShape(t.Name, "its field %s %s", f.Name, why)
			return
		}
		s.fields = append(s.fields, out)
		index[f.Name] = i
	}
	// What only says something about other fields has no place of its own.
	for i := range s.fields {
		f := &s.fields[i]
		if f.length > 0 {
			s.fields[f.length-1].hidden = true
		}
		if f.sw != nil {
			s.fields[f.sw.field].hidden = true
		}
		if f.bits > 0 && strings.HasPrefix(f.name.AsString(), "Reserved") {
			f.hidden = true
		}
	}
}

// compileField makes one field, or says why that is not possible.
func (ds *dictionaries) compileField(out *field, dict *bsdDictionary, t *bsdStructure, f *bsdField, index map[string]int, before []field) string {
	if f.Terminator != "" {
		return "ends at a terminator"
	}
	if why := out.compileSwitch(f, index); why != "" {
		return why
	}
	space, name, ok := qualified(f.Type, f.Attrs, t.Attrs, dict.Attrs)
	if !ok {
		return "has the type " + f.Type + ", of an unknown namespace"
	}
	if space == schemaOPC && name == "Bit" {
		return out.compileBits(f)
	}
	switch {
	case f.LengthField != "":
		i, ok := index[f.LengthField]
		if !ok || before[i].rank != 0 {
			return "has a length that is not before it: " + f.LengthField
		}
		out.length, out.rank, out.inBytes = i+1, 1, f.InBytes
	case f.Length != "":
		n, err := strconv.Atoi(f.Length)
		if err != nil || n < 0 || n > maxArrayLength {
			return "has the length " + f.Length
		}
		out.fixed, out.rank, out.inBytes = n, 1, f.InBytes
	}
	out.chars = space == schemaOPC && name == "Char" && out.rank == 1
	out.shape = ds.typeOf(bsdName{space, name})
	if out.shape == nil {
		return "has the type " + f.Type + ", which no dictionary of the server describes"
	}
	return ""
}

// compileSwitch notes what decides whether the field is there.
func (out *field) compileSwitch(f *bsdField, index map[string]int) string {
	if f.SwitchField == "" {
		return ""
	}
	i, ok := index[f.SwitchField]
	if !ok {
		return "depends on a field that is not before it: " + f.SwitchField
	}
	out.sw = &switchRule{field: i, operand: f.SwitchOperand, anything: f.SwitchValue == ""}
	if out.sw.anything {
		return ""
	}
	n, err := strconv.ParseUint(f.SwitchValue, 10, 64)
	if err != nil {
		return "depends on the value " + f.SwitchValue
	}
	out.sw.value = n
	return ""
}

// compileBits makes a field of bits: one is a Boolean, more are a number.
func (out *field) compileBits(f *bsdField) string {
	out.bits, out.shape = 1, builtinType("Bit", ua.TypeIDBoolean)
	if f.Length == "" || f.Length == "1" {
		return ""
	}
	n, err := strconv.Atoi(f.Length)
	if err != nil || n < 1 || n > 64 {
		return "has " + f.Length + " bits"
	}
	out.bits, out.shape = n, builtinType("Bit", ua.TypeIDUint64)
	return ""
}

func builtinType(name string, t ua.TypeID) *shape {
	return &shape{name: name, kind: shapeBuiltin, builtin: t}
}

// qualified splits the name of a type, with the prefixes that are in force.
func qualified(name string, scopes ...[]xml.Attr) (space, local string, ok bool) {
	prefix, local, ok := strings.Cut(name, ":")
	if !ok {
		prefix, local = "", name
	}
	for _, attrs := range scopes {
		for _, a := range attrs {
			if a.Name.Space == "xmlns" && a.Name.Local == prefix || prefix == "" && a.Name.Space == "" && a.Name.Local == "xmlns" {
				return a.Value, local, true
			}
		}
	}
	switch prefix {
	case "opc":
		return schemaOPC, local, true
	case "ua":
		return schemaUA, local, true
	}
	return "", local, false
}

// goShape returns the layout of a structure of the standard that gopcua knows;
// nil if it does not.
func (ds *dictionaries) goShape(name string) *shape {
	if ds.known == nil {
		const last = 33_000 // of the numbers that gopcua knows
		ds.known = make(map[string]uint32)
		for n := range uint32(last) {
			if of, ok := strings.CutSuffix(id.Name(n), "_Encoding_DefaultBinary"); ok {
				ds.known[of] = n
			}
		}
	}
	if n, ok := ds.known[name]; ok {
		if t := goTypeOf(ua.NewNumericNodeID(0, n)); t != nil {
			return &shape{name: name, kind: shapeGo, goType: t}
		}
	}
	return nil
}

// typeOf returns the layout of what a field may have.
func (ds *dictionaries) typeOf(n bsdName) *shape {
	switch n.space {
	case schemaOPC:
		return opcType(n.name)
	case schemaUA:
		if s := uaType(n.name); s != nil {
			return s
		}
		if s := ds.goShape(n.name); s != nil {
			return s
		}
	}
	return ds.shape(n)
}

// opcType returns the types that the language itself has.
func opcType(name string) *shape {
	var t ua.TypeID
	switch name {
	case "Boolean":
		t = ua.TypeIDBoolean
	case "SByte":
		t = ua.TypeIDSByte
	case "Byte", "Char":
		t = ua.TypeIDByte
	case "Int16":
		t = ua.TypeIDInt16
	case "UInt16":
		t = ua.TypeIDUint16
	case "Int32":
		t = ua.TypeIDInt32
	case "UInt32":
		t = ua.TypeIDUint32
	case "Int64":
		t = ua.TypeIDInt64
	case "UInt64":
		t = ua.TypeIDUint64
	case "Float":
		t = ua.TypeIDFloat
	case "Double":
		t = ua.TypeIDDouble
	case "String", "CharArray":
		t = ua.TypeIDString
	case "ByteString":
		t = ua.TypeIDByteString
	case "DateTime":
		t = ua.TypeIDDateTime
	case "Guid":
		t = ua.TypeIDGUID
	default:
		return nil
	}
	return builtinType(name, t)
}

// uaType returns the built-in types of OPC UA that are described in its own
// dictionary, in terms that are no use to us.
func uaType(name string) *shape {
	var t ua.TypeID
	switch name {
	case "XmlElement":
		t = ua.TypeIDXMLElement
	case "NodeId":
		t = ua.TypeIDNodeID
	case "ExpandedNodeId":
		t = ua.TypeIDExpandedNodeID
	case "StatusCode":
		t = ua.TypeIDStatusCode
	case "QualifiedName":
		t = ua.TypeIDQualifiedName
	case "LocalizedText":
		t = ua.TypeIDLocalizedText
	case "ExtensionObject", "Structure":
		t = ua.TypeIDExtensionObject
	case "DataValue":
		t = ua.TypeIDDataValue
	case "Variant":
		t = ua.TypeIDVariant
	case "DiagnosticInfo":
		t = ua.TypeIDDiagnosticInfo
	default:
		return opcType(name)
	}
	return builtinType(name, t)
}

// sequence decodes a structure that a dictionary describes.
func (d *decoder) sequence(s *shape) protocols.Value {
	if !d.spend(len(s.fields)) {
		return protocols.Value{}
	}
	numbers := make([]int64, len(s.fields)) // of the fields that are numbers
	list := make([]protocols.Value, 0, 2*len(s.fields))
	for i := range s.fields {
		f := &s.fields[i]
		if f.sw != nil && !f.sw.applies(uint64(numbers[f.sw.field])) {
			continue
		}
		var v protocols.Value
		switch {
		case f.bits > 0:
			n := d.readBits(f.bits)
			v, numbers[i] = protocols.Uint(n), int64(n)
			if f.bits == 1 {
				v = protocols.Bool(n != 0)
			}
		case f.rank > 0:
			v = d.counted(f, numbers)
		default:
			v = d.value(f.shape)
			numbers[i] = v.AsInt()
			if v.Kind() == protocols.KindString && f.shape.kind == shapeEnum {
				numbers[i] = f.shape.names.number(v)
			}
		}
		if d.why != "" {
			return protocols.Value{}
		}
		if !f.hidden {
			list = append(list, f.name, v)
		}
	}
	return protocols.ObjectOf(list)
}

// number is the reverse of value.
func (e *enumeration) number(name protocols.Value) int64 {
	for n, v := range e.names {
		if v.Equal(name) {
			return n
		}
	}
	return 0
}

// counted decodes an array whose length is elsewhere. Fewer than none are null.
func (d *decoder) counted(f *field, numbers []int64) protocols.Value {
	n := int64(f.fixed)
	if f.length > 0 {
		n = numbers[f.length-1]
	}
	if n < 0 {
		return protocols.Value{}
	}
	if n > math.MaxInt32 {
		d.fail(protocols.Malformed, wordsCutOff)
		return protocols.Value{}
	}
	if f.chars {
		text := string(bytes.TrimRight(d.take(int(n)), "\x00"))
		if !utf8.ValidString(text) {
			d.fail(protocols.Malformed, "a text that is no UTF-8")
		}
		return protocols.String(text)
	}
	if f.inBytes {
		return protocols.Array(d.within(f.shape, int(n)))
	}
	return protocols.Array(d.elements(f.shape, int(n)))
}

// within decodes as many values as are in n bytes.
func (d *decoder) within(s *shape, n int) []protocols.Value {
	b := d.take(n)
	rest := d.data
	var list []protocols.Value
	if d.why != "" || !d.enter() {
		return nil
	}
	defer d.leave()
	for d.data = b; len(d.data) > 0; {
		before := len(d.data)
		if !d.spend(1) {
			return nil
		}
		list = append(list, d.value(s))
		if d.why != "" {
			return nil
		}
		if len(d.data) == before {
			d.fail(protocols.Malformed, "a length in bytes of something that has none")
			return nil
		}
	}
	d.data = rest
	return list
}

// readBits reads n bits, the lowest of a byte first.
func (d *decoder) readBits(n int) uint64 {
	var v uint64
	for i := range n {
		if len(d.data) == 0 {
			d.fail(protocols.Malformed, wordsCutOff)
			return 0
		}
		v |= uint64(d.data[0]>>d.bit&1) << i
		d.bit++
		if d.bit == 8 {
			d.bit, d.data = 0, d.data[1:]
		}
	}
	return v
}
