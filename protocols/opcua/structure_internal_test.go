package opcua

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

func testBook() *typeBook { return newTypeBook(newSymbols(), slog.New(slog.DiscardHandler)) }

func builtinShape(t ua.TypeID) *shape { return &shape{kind: shapeBuiltin, builtin: t} }

func fieldOf(name string, s *shape, rank int) field {
	return field{name: protocols.String(name), shape: s, rank: rank}
}

// body writes values as OPC UA does.
func body(parts ...any) []byte {
	b := ua.NewBuffer(nil)
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b.Write(p)
		case string:
			b.WriteByteString([]byte(p))
		case int: // as Int32
			b.WriteInt32(int32(p))
		case byte:
			b.WriteByte(p)
		case uint64:
			b.Write(binary.LittleEndian.AppendUint64(nil, p))
		case float64:
			b.WriteFloat64(p)
		case float32:
			b.WriteFloat32(p)
		default:
			b.WriteStruct(p)
		}
	}
	return b.Bytes()
}

// asText writes a value as JSON without quotes round names, for comparing.
func asText(v protocols.Value) string {
	switch v.Kind() {
	case protocols.KindNone:
		return "null"
	case protocols.KindBool:
		return fmt.Sprint(v.AsBool())
	case protocols.KindInt:
		return fmt.Sprint(v.AsInt())
	case protocols.KindUint:
		return fmt.Sprint(v.AsUint())
	case protocols.KindFloat32:
		return fmt.Sprint(v.AsFloat32())
	case protocols.KindFloat64:
		return fmt.Sprint(v.AsFloat64())
	case protocols.KindString:
		b, _ := json.Marshal(v.AsString())
		return string(b)
	case protocols.KindBytes:
		return fmt.Sprintf("%x", v.AsString())
	case protocols.KindTime:
		return v.AsTime().Format(time.RFC3339Nano)
	case protocols.KindArray:
		var parts []string
		for _, e := range v.Elems() {
			parts = append(parts, asText(e))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case protocols.KindObject:
		var parts []string
		for i := range v.Len() {
			name, e := v.Field(i)
			parts = append(parts, name+":"+asText(e))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	return "?"
}

func TestDecodeStructure(t *testing.T) {
	t.Parallel()
	point := &shape{name: "Point", kind: shapeStruct, fields: []field{fieldOf("X", builtinShape(ua.TypeIDDouble), 0), fieldOf("Y", builtinShape(ua.TypeIDDouble), 0)}}
	state := &shape{name: "State", kind: shapeEnum, builtin: ua.TypeIDInt32, names: newEnumeration("State")}
	state.names.add(0, "停止")
	state.names.add(-3, "Fault")
	tree := &shape{name: "Tree", kind: shapeStruct}
	tree.fields = []field{fieldOf("N", builtinShape(ua.TypeIDByte), 0), fieldOf("Sons", tree, 1)}
	one := func(s *shape, rank int) *shape {
		return &shape{name: "S", kind: shapeStruct, fields: []field{fieldOf("a", s, rank)}}
	}
	builtin := func(t ua.TypeID) *shape { return one(builtinShape(t), 0) }
	optional := &shape{name: "O", kind: shapeOptional, fields: []field{fieldOf("a", builtinShape(ua.TypeIDByte), 0), fieldOf("b", builtinShape(ua.TypeIDByte), 0), fieldOf("c", builtinShape(ua.TypeIDByte), 0)}}
	optional.fields[1].mask, optional.fields[2].mask = 1, 2
	union := &shape{name: "U", kind: shapeUnion, fields: []field{fieldOf("a", builtinShape(ua.TypeIDByte), 0), fieldOf("b", builtinShape(ua.TypeIDString), 1)}}
	variant := ua.MustVariant
	b := testBook()
	inner := ua.NewStringNodeID(900, "TE_Inner")
	b.shapes[keyOf(inner)] = point
	packed := func(id *ua.NodeID, mask byte, bytes []byte) []byte {
		return body(id, mask, string(bytes))
	}
	for _, c := range []struct {
		name string
		s    *shape
		in   []byte
		want string
	}{
		{"doubles", point, body(1.5, -2.0), "{X:1.5,Y:-2}"},
		{"short", point, body(1.5, byte(1)), "malformed"},
		{"long", point, body(1.5, -2.0, byte(0)), "malformed"},
		{"NaN", point, body(1.5, math.NaN()), "not_a_number"},
		{"infinity", builtin(ua.TypeIDFloat), body(float32(math.Inf(-1))), "not_a_number"},
		{"no fields", &shape{kind: shapeStruct}, nil, "{}"},
		{"int64", builtin(ua.TypeIDInt64), body(uint64(1 << 63)), "{a:-9223372036854775808}"},
		{"uint64", builtin(ua.TypeIDUint64), body(uint64(math.MaxUint64)), "{a:18446744073709551615}"},
		{"small ones", &shape{kind: shapeStruct, fields: []field{
			fieldOf("a", builtinShape(ua.TypeIDBoolean), 0), fieldOf("b", builtinShape(ua.TypeIDSByte), 0), fieldOf("c", builtinShape(ua.TypeIDInt16), 0),
			fieldOf("d", builtinShape(ua.TypeIDUint16), 0), fieldOf("e", builtinShape(ua.TypeIDUint32), 0),
		}}, body(byte(2), byte(255), byte(0), byte(128), byte(255), byte(255), -1), "{a:true,b:-1,c:-32768,d:65535,e:4294967295}"},
		{"text", builtin(ua.TypeIDString), body("注塑机"), `{a:"注塑机"}`},
		{"null text", builtin(ua.TypeIDString), body(-1), `{a:""}`},
		{"text that is no UTF-8", builtin(ua.TypeIDString), body("\xff"), "malformed"},
		{"long text", builtin(ua.TypeIDString), body(math.MaxInt32), "malformed"},
		{"bytes", builtin(ua.TypeIDByteString), body("\x00\xff"), "{a:00ff}"},
		{"time", builtin(ua.TypeIDDateTime), body(uint64(ticksTo1970 + 17954628001234567)), "{a:2026-11-23T19:40:00.1234567Z}"},
		{"no time", builtin(ua.TypeIDDateTime), body(uint64(0)), "{a:null}"},
		{"never", builtin(ua.TypeIDDateTime), body(uint64(math.MaxInt64)), `{a:"9999-12-31T23:59:59Z"}`},
		{"long ago", builtin(ua.TypeIDDateTime), body(uint64(10_000_000)), `{a:"1601-01-01T00:00:01Z"}`},
		{"guid", builtin(ua.TypeIDGUID), body(ua.NewGUID("72962B91-FA75-4AE6-8D28-B404DC7DAF63")), `{a:"72962b91-fa75-4ae6-8d28-b404dc7daf63"}`},
		{"node id", builtin(ua.TypeIDNodeID), body(ua.NewStringNodeID(2, "Motor")), `{a:"ns=2;s=Motor"}`},
		{"expanded", builtin(ua.TypeIDExpandedNodeID), body(ua.NewNumericExpandedNodeID(1, 7)), `{a:"ns=1;i=7"}`},
		{"bad node id", builtin(ua.TypeIDNodeID), body(byte(15)), "malformed"},
		{"status", builtin(ua.TypeIDStatusCode), body([]byte{0, 0, 0x8b, 0x80}), `{a:"BadDeviceFailure"}`},
		{"qualified", builtin(ua.TypeIDQualifiedName), body(&ua.QualifiedName{NamespaceIndex: 3, Name: "轴"}), `{a:"3:轴"}`},
		{"localized", builtin(ua.TypeIDLocalizedText), body(&ua.LocalizedText{EncodingMask: 3, Locale: "de", Text: "läuft"}), `{a:"läuft"}`},
		{"no localized", builtin(ua.TypeIDLocalizedText), body(&ua.LocalizedText{}), `{a:""}`},
		{"variant", builtin(ua.TypeIDVariant), body(variant(int64(-5))), "{a:-5}"},
		{"null variant", builtin(ua.TypeIDVariant), body(byte(0)), "{a:null}"},
		{"variant array", builtin(ua.TypeIDVariant), body(variant([]string{"a", "b"})), `{a:["a","b"]}`},
		{"variant matrix", builtin(ua.TypeIDVariant), body(variant([][]int16{{1, 2}, {3, 4}, {5, 6}})), "{a:[[1,2],[3,4],[5,6]]}"},
		{"variant matrix that does not fit", builtin(ua.TypeIDVariant), body(byte(0xC3), 2, byte(1), byte(2), 2, 2, 2), "malformed"},
		{"variants", builtin(ua.TypeIDVariant), body(variant([]*ua.Variant{variant(true), variant("x")})), `{a:[true,"x"]}`},
		{"variants without end", builtin(ua.TypeIDVariant), bytes.Repeat([]byte{0x98, 1, 0, 0, 0}, 1000), "overflow"},
		{"variant of an unknown type", builtin(ua.TypeIDVariant), body(byte(30)), "malformed"},
		{"data value", builtin(ua.TypeIDDataValue), body(&ua.DataValue{EncodingMask: 3, Value: variant(uint8(1)), Status: ua.StatusBadTimeout}), `{a:{Value:1,Status:"BadTimeout"}}`},
		{"diagnostics", builtin(ua.TypeIDDiagnosticInfo), body(&ua.DiagnosticInfo{EncodingMask: 0x11, SymbolicID: 1, AdditionalInfo: "x"}), "{a:null}"},
		{"diagnostics without end", builtin(ua.TypeIDDiagnosticInfo), bytes.Repeat([]byte{0x40}, 10_000), "overflow"},
		{"enumeration", one(state, 0), body(-3), `{a:"Fault"}`},
		{"enumerations", one(state, 1), body(2, 0, -3), `{a:["停止","Fault"]}`},
		{"number without a name", one(state, 0), body(1), "out_of_range"},
		{"structures", one(point, 1), body(2, 1.0, 2.0, 3.0, 4.0), "{a:[{X:1,Y:2},{X:3,Y:4}]}"},
		{"no array", one(point, 1), body(-1), "{a:null}"},
		{"empty array", one(point, 1), body(0), "{a:[]}"},
		{"a lie", one(point, 1), body(math.MaxInt32), "malformed"},
		{"a lie about nothing", one(&shape{kind: shapeStruct}, 1), body(math.MaxInt32), "overflow"},
		{"matrix", one(builtinShape(ua.TypeIDByte), 2), body(2, 2, 3, []byte{1, 2, 3, 4, 5, 6}), "{a:[[1,2,3],[4,5,6]]}"},
		{"cuboid", one(builtinShape(ua.TypeIDByte), 3), body(3, 2, 1, 3, []byte{1, 2, 3, 4, 5, 6}), "{a:[[[1,2,3]],[[4,5,6]]]}"},
		{"variant cuboid", builtin(ua.TypeIDVariant), body(byte(0xC3), 6, []byte{1, 2, 3, 4, 5, 6}, 3, 3, 1, 2), "{a:[[[1,2]],[[3,4]],[[5,6]]]}"},
		{"empty matrix", one(builtinShape(ua.TypeIDByte), 2), body(2, 0, 3), "{a:[]}"},
		{"matrix of another rank", one(builtinShape(ua.TypeIDByte), 2), body(1, 3, []byte{1, 2, 3}), "malformed"},
		{"matrix beyond all", one(builtinShape(ua.TypeIDByte), 2), body(2, math.MaxInt32, math.MaxInt32), "malformed"},
		{"tree", tree, body(byte(1), 1, byte(2), 0), "{N:1,Sons:[{N:2,Sons:[]}]}"},
		{"a deep tree", tree, bytes.Repeat(body(byte(1), 1), 100), "overflow"},
		{"optional", optional, body(2, byte(7), byte(9)), "{a:7,c:9}"},
		{"none of them", optional, body(0, byte(7)), "{a:7}"},
		{"unknown optional", optional, body(4, byte(7)), "malformed"},
		{"union", union, body(2, 1, "x"), `{b:["x"]}`},
		{"no union", union, body(0), "null"},
		{"unknown choice", union, body(3, byte(1)), "malformed"},
		{"extension object", one(&shape{kind: shapeAny}, 0), body(packed(inner, 1, body(1.0, 2.0))), "{a:{X:1,Y:2}}"},
		{"no extension object", one(&shape{kind: shapeAny}, 0), body(ua.NewTwoByteNodeID(0), byte(0)), "{a:null}"},
		{"unknown extension object", one(&shape{kind: shapeAny}, 0), body(packed(ua.NewNumericNodeID(900, 1), 1, nil)), "unsupported_type"},
		{"XML", one(&shape{kind: shapeAny}, 0), body(packed(inner, 2, []byte("<a/>"))), "unsupported_type"},
		{"long extension object", one(&shape{kind: shapeAny}, 0), body(inner, byte(1), math.MaxInt32), "malformed"},
		{"standard structure", one(&shape{kind: shapeAny}, 0), body(packed(ua.NewNumericNodeID(0, 886), 1, body(1.0, 2.0))), "{a:{Low:1,High:2}}"},
		{"decimal", one(&shape{kind: shapeAny}, 0), body(packed(ua.NewNumericNodeID(0, 50), 1, []byte{2, 0, 0x85, 0xff})), `{a:"-1.23"}`},
		{"unknown field", one(unknownShape("x", "because"), 0), body(1), "unsupported_type"},
		{"inline standard", one(newDictionaries().goShape("Range"), 0), body(1.0, 2.0), "{a:{Low:1,High:2}}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			budget := maxArrayLength
			v, why, words := b.decodeBody(c.s, c.in, 0, &budget)
			got := asText(v)
			if why != "" {
				got = string(why)
			}
			if got != c.want {
				t.Errorf("%s (%s), want %s", got, words, c.want)
			}
		})
	}
}

func TestDecimal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"\x00\x00\x00": "0", "\x00\x00\xff": "-1", "\x03\x00\x05": "0.005", "\xfe\xff\x07": "700", "\x01\x00\x0f\x27": "999.9", "\x00": "malformed",
		"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01": "184467440737095516.16",
	} {
		v, why, _ := decimal([]byte(in))
		if got := v.AsString() + string(why); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzDecodeStructure decodes arbitrary bodies by arbitrary definitions: no
// panic, and nothing that a record cannot hold.
func FuzzDecodeStructure(f *testing.F) {
	f.Add([]byte{0, 11, 11}, body(1.0, 2.0))
	f.Add([]byte{1, 0x86, 12, 13}, body(1, -3, "x"))
	f.Add([]byte{2, 24, 22, 0x41}, body(1, ua.MustVariant([]int32{1, 2})))
	f.Add([]byte{0, 30, 31, 25, 23}, body(5, 2, byte(1), byte(0)))
	b := testBook()
	f.Fuzz(func(t *testing.T, def, data []byte) {
		s := shapeFrom(def)
		budget := maxArrayLength
		v, why, _ := b.decodeBody(s, data, 0, &budget)
		if why != "" {
			return
		}
		r := []protocols.Reading{{Value: v}}
		schema := &protocols.Schema{Tags: make([]protocols.SchemaTag, 1)}
		var again protocols.Batch
		if err := protocols.DecodeBatch(&again, protocols.EncodeBatch(nil, &protocols.Batch{Schema: schema, Readings: r}), schema); err != nil {
			t.Fatal(err)
		}
		if !again.Readings[0].Value.Equal(v) || !v.Finite() {
			t.Fatalf("%s", asText(v))
		}
	})
}

// shapeFrom makes a structure of bytes: its kind, then a byte for each field.
func shapeFrom(def []byte) *shape {
	root := &shape{name: "Root", kind: shapeStruct}
	if len(def) == 0 {
		return root
	}
	root.kind = [...]shapeKind{shapeStruct, shapeOptional, shapeUnion}[def[0]%3]
	names := newEnumeration("E")
	names.add(1, "one")
	for i, c := range def[1:] {
		fd := field{name: protocols.String(fmt.Sprint(i)), rank: int(c >> 6)}
		switch n := c & 0x1F; {
		case n >= 1 && n <= 25:
			fd.shape = builtinShape(ua.TypeID(n))
		case n == 26:
			fd.shape = root
		case n == 27:
			fd.shape = &shape{kind: shapeAny}
		case n == 28:
			fd.shape = &shape{kind: shapeEnum, builtin: ua.TypeIDInt32, names: names}
		case n == 29:
			fd.shape = &shape{kind: shapeStruct}
		default:
			fd.shape = unknownShape("x", "y")
		}
		if root.kind == shapeOptional && c&0x20 != 0 && i < 32 {
			fd.mask = 1 << i
		}
		root.fields = append(root.fields, fd)
	}
	return root
}
