package modbustest

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"millrace/protocols"
)

// TimeZone is the device's time zone in all vectors.
const TimeZone = "+08:00"

// Vector says which registers a value of a type and order is. The driver's
// decoding and [Encode] are tested by the same ones.
type Vector struct {
	Type      string
	Order     protocols.Order
	Bits      string // the range of bits in the address; empty: none
	Registers []uint16
	// Value is what is decoded. Its kind is KindNone where the registers
	// break the type's encoding.
	Value protocols.Value
	// DecodeOnly: several registers decode to the value, and these are not
	// the ones that it is encoded to.
	DecodeOnly bool
}

// Layout is how the value of v lies in its registers.
func (v Vector) Layout() Layout {
	return Layout{Type: v.Type, Order: v.Order, Bits: v.Bits, TimeZone: TimeZone}
}

// Address is that of a tag whose first register is the holding register n.
func (v Vector) Address(n int) string {
	if v.Bits != "" {
		return fmt.Sprintf("holding:%d.%s", n, v.Bits)
	}
	return fmt.Sprintf("holding:%d", n)
}

// Vectors returns the vectors of all types and orders.
func Vectors() []Vector {
	var all []Vector
	for _, group := range [][]Vector{
		numbers16(), halves(), numbers32(), numbers64(), ranges(), texts(), unixTimes(), clocks(), arrays(), broken(), brokenClocks(),
	} {
		all = append(all, group...)
	}
	return all
}

// inOrders makes a vector for each order from the registers of all eight, or
// of the first four: for up to 32 bits, the others are the same once more.
func inOrders(typ string, v protocols.Value, registers ...[]uint16) []Vector {
	all := make([]Vector, protocols.DCBAHGFE+1)
	for i := range all {
		all[i] = Vector{Type: typ, Order: protocols.Order(i), Registers: registers[i%len(registers)], Value: v}
	}
	return all
}

// eitherByteFirst makes a vector for each order of what has no order of
// words.
func eitherByteFirst(typ string, v protocols.Value, registers ...uint16) []Vector {
	swapped := swap(registers...)
	return inOrders(typ, v, registers, registers, swapped, swapped)
}

func swap(registers ...uint16) []uint16 {
	swapped := make([]uint16, len(registers))
	for i, r := range registers {
		swapped[i] = bits.ReverseBytes16(r)
	}
	return swapped
}

// orders64 returns the registers of a number in all eight orders. ab is its
// most significant register.
func orders64(ab, cd, ef, gh uint16) [][]uint16 {
	return [][]uint16{
		{ab, cd, ef, gh},
		{gh, ef, cd, ab},
		swap(ab, cd, ef, gh),
		swap(gh, ef, cd, ab),
		{ef, gh, ab, cd},
		{cd, ab, gh, ef},
		swap(ef, gh, ab, cd),
		swap(cd, ab, gh, ef),
	}
}

func numbers16() []Vector {
	all := eitherByteFirst("uint16", protocols.Uint(0x1234), 0x1234)
	all = append(all, eitherByteFirst("int16", protocols.Int(-2), 0xfffe)...)
	all = append(all, eitherByteFirst("bcd16", protocols.Uint(1234), 0x1234)...)
	return append(all,
		Vector{Type: "uint16", Registers: []uint16{0xffff}, Value: protocols.Uint(65535)},
		Vector{Type: "int16", Registers: []uint16{0x8000}, Value: protocols.Int(-32768)},
		Vector{Type: "bcd16", Registers: []uint16{0x9999}, Value: protocols.Uint(9999)},
	)
}

// halves are those of the table in Wikipedia's article on IEEE 754 binary16,
// and some more.
func halves() []Vector {
	all := eitherByteFirst("float16", protocols.Float32(21.5), 0x4d60)
	for _, h := range []struct {
		register uint16
		value    float32
	}{
		{0x0000, 0},
		{0x8000, float32(math.Copysign(0, -1))},
		{0x0001, 0x1p-24}, // the smallest subnormal
		{0x03ff, 0x3ffp-24},
		{0x8200, -0x1p-15},
		{0x0400, 0x1p-14}, // the smallest normal
		{0x3555, 0x1.554p-2},
		{0x3bff, 0x1.ffcp-1},
		{0x3c00, 1},
		{0xc000, -2},
		{0x7bff, 65504}, // the largest
		{0x7c00, float32(math.Inf(1))},
		{0xfc00, float32(math.Inf(-1))},
		{0x7e00, math.Float32frombits(0x7fc00000)}, // not a number
	} {
		all = append(all, Vector{Type: "float16", Registers: []uint16{h.register}, Value: protocols.Float32(h.value)})
	}
	return all
}

func numbers32() []Vector {
	abcd := [][]uint16{{0x1234, 0x5678}, {0x5678, 0x1234}, {0x3412, 0x7856}, {0x7856, 0x3412}}
	all := inOrders("uint32", protocols.Uint(0x12345678), abcd...)
	all = append(all, inOrders("int32", protocols.Int(0x12345678), abcd...)...)
	all = append(all, inOrders("bcd32", protocols.Uint(12345678), abcd...)...)
	all = append(all, inOrders("float32", protocols.Float32(math.Float32frombits(0x12345678)), abcd...)...)
	all = append(all, inOrders("float32", protocols.Float32(21.5), // 0x41ac0000
		[]uint16{0x41ac, 0}, []uint16{0, 0x41ac}, []uint16{0xac41, 0}, []uint16{0, 0xac41})...)
	return append(all,
		Vector{Type: "int32", Registers: []uint16{0xffff, 0xfffe}, Value: protocols.Int(-2)},
		Vector{Type: "uint32", Registers: []uint16{0xffff, 0xffff}, Value: protocols.Uint(math.MaxUint32)},
		Vector{Type: "float32", Registers: []uint16{0x7fc0, 0}, Value: protocols.Float32(math.Float32frombits(0x7fc00000))},
		Vector{Type: "float32", Registers: []uint16{0x7f80, 0}, Value: protocols.Float32(float32(math.Inf(1)))},
	)
}

func numbers64() []Vector {
	orders := [][]uint16{
		protocols.ABCD:     {0x0123, 0x4567, 0x89ab, 0xcdef},
		protocols.CDAB:     {0xcdef, 0x89ab, 0x4567, 0x0123},
		protocols.BADC:     {0x2301, 0x6745, 0xab89, 0xefcd},
		protocols.DCBA:     {0xefcd, 0xab89, 0x6745, 0x2301},
		protocols.EFGHABCD: {0x89ab, 0xcdef, 0x0123, 0x4567},
		protocols.CDABGHEF: {0x4567, 0x0123, 0xcdef, 0x89ab},
		protocols.FEHGBADC: {0xab89, 0xefcd, 0x2301, 0x6745},
		protocols.DCBAHGFE: {0x6745, 0x2301, 0xefcd, 0xab89},
	}
	const raw = 0x0123456789abcdef
	all := inOrders("uint64", protocols.Uint(raw), orders...)
	all = append(all, inOrders("int64", protocols.Int(raw), orders...)...)
	all = append(all, inOrders("float64", protocols.Float64(math.Float64frombits(raw)), orders...)...)
	all = append(all, inOrders("bcd64", protocols.Uint(1234567890123456), orders64(0x1234, 0x5678, 0x9012, 0x3456)...)...)
	return append(all,
		Vector{Type: "int64", Registers: []uint16{0x8000, 0, 0, 0}, Value: protocols.Int(math.MinInt64)},
		Vector{Type: "uint64", Registers: []uint16{0xffff, 0xffff, 0xffff, 0xffff}, Value: protocols.Uint(math.MaxUint64)},
		Vector{Type: "float64", Registers: []uint16{0x4035, 0x8000, 0, 0}, Value: protocols.Float64(21.5)},
		Vector{Type: "bcd64", Registers: []uint16{0x9999, 0x9999, 0x9999, 0x9999}, Value: protocols.Uint(9999999999999999)},
	)
}

func ranges() []Vector {
	all := inOrders("uint32", protocols.Uint(0xab), []uint16{0x000a, 0xb000}, []uint16{0xb000, 0x000a}, []uint16{0x0a00, 0x00b0}, []uint16{0x00b0, 0x0a00})
	all = append(all, inOrders("int64", protocols.Int(-0x6544), orders64(0, 0x0009, 0xabc0, 0)...)...)
	for i := range all {
		all[i].Bits = map[string]string{"uint32": "12-19", "int64": "20-35"}[all[i].Type]
	}
	return append(all,
		Vector{Type: "uint16", Bits: "4-7", Registers: []uint16{0x00a0}, Value: protocols.Uint(10)},
		Vector{Type: "uint16", Bits: "4-7", Registers: []uint16{0xffaf}, Value: protocols.Uint(10), DecodeOnly: true},
		Vector{Type: "int16", Bits: "4-7", Registers: []uint16{0x00a0}, Value: protocols.Int(-6)},
		Vector{Type: "int16", Bits: "4-7", Registers: []uint16{0xff5f}, Value: protocols.Int(5), DecodeOnly: true},
		Vector{Type: "uint16", Bits: "8-15", Registers: []uint16{0x1200}, Value: protocols.Uint(0x12)},
		Vector{Type: "uint16", Order: protocols.BADC, Bits: "8-15", Registers: []uint16{0x0012}, Value: protocols.Uint(0x12)},
		Vector{Type: "int16", Bits: "8-15", Registers: []uint16{0x8000}, Value: protocols.Int(-128)},
		Vector{Type: "uint16", Bits: "3-3", Registers: []uint16{0x0008}, Value: protocols.Uint(1)},
		Vector{Type: "int16", Bits: "0-15", Registers: []uint16{0x8001}, Value: protocols.Int(-32767)},
		Vector{Type: "int32", Bits: "31-31", Registers: []uint16{0x8000, 0}, Value: protocols.Int(-1)},
		Vector{Type: "uint64", Bits: "0-63", Registers: []uint16{0x8000, 0, 0, 1}, Value: protocols.Uint(1<<63 + 1)},
		Vector{Type: "uint64", Bits: "60-63", Registers: []uint16{0x9000, 0, 0, 0}, Value: protocols.Uint(9)},
	)
}

func texts() []Vector {
	all := eitherByteFirst("string(4)", protocols.String("A-17"), 0x412d, 0x3137)
	all = append(all, eitherByteFirst("bytes(4)", protocols.Bytes([]byte("A-17")), 0x412d, 0x3137)...)
	return append(all,
		Vector{Type: "string(3)", Registers: []uint16{0x412d, 0x3100}, Value: protocols.String("A-1")},
		Vector{Type: "string(3)", Order: protocols.DCBA, Registers: []uint16{0x2d41, 0x0031}, Value: protocols.String("A-1")},
		Vector{Type: "string(3)", Registers: []uint16{0x412d, 0x3137}, Value: protocols.String("A-1"), DecodeOnly: true},
		Vector{Type: "string(6)", Registers: []uint16{0x412d, 0x3100, 0x5858}, Value: protocols.String("A-1"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0x4120, 0x2020}, Value: protocols.String("A"), DecodeOnly: true},
		Vector{Type: "string(4)", Order: protocols.BADC, Registers: []uint16{0x2041, 0x2020}, Value: protocols.String("A"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0x4120, 0x0058}, Value: protocols.String("A"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0x2041, 0x2042}, Value: protocols.String(" A B")},
		Vector{Type: "string(4)", Registers: []uint16{0, 0}, Value: protocols.String("")},
		Vector{Type: "string(4)", Registers: []uint16{0x2020, 0x2020}, Value: protocols.String(""), DecodeOnly: true},
		Vector{Type: "string(6)", Registers: []uint16{0xe58e, 0x8b00, 0}, Value: protocols.String("压")},
		Vector{Type: "string(6)", Order: protocols.BADC, Registers: []uint16{0x8ee5, 0x008b, 0}, Value: protocols.String("压")},
		Vector{Type: "bytes(3)", Registers: []uint16{0x00ff, 0x2000}, Value: protocols.Bytes([]byte{0, 0xff, 0x20})},
	)
}

// clock is the moment at which a device's clock shows what is given.
func clock(year int, month time.Month, day, hour, minute, second, milli int) protocols.Value {
	return protocols.Time(time.Date(year, month, day, hour, minute, second, milli*1e6, time.FixedZone("", 8*3600)))
}

func unixTimes() []Vector {
	const seconds = 0x6b04f6b7 // 24 November 2026, 02:30:15 UTC
	all := inOrders("unix32", protocols.Time(time.Unix(seconds, 0)),
		[]uint16{0x6b04, 0xf6b7}, []uint16{0xf6b7, 0x6b04}, []uint16{0x046b, 0xb7f6}, []uint16{0xb7f6, 0x046b})
	all = append(all, inOrders("unix64", protocols.Time(time.Unix(seconds, 0)), orders64(0, 0, 0x6b04, 0xf6b7)...)...)
	all = append(all, inOrders("unix64ms", protocols.Time(time.UnixMilli(seconds*1000+250)), orders64(0, 0x01a2, 0x0b63, 0xbbd2)...)...)
	return append(all,
		Vector{Type: "unix32", Registers: []uint16{0, 0}, Value: protocols.Time(time.Unix(0, 0))},
		Vector{Type: "unix32", Registers: []uint16{0xffff, 0xffff}, Value: protocols.Time(time.Unix(math.MaxUint32, 0))},
		Vector{Type: "unix64", Registers: []uint16{0, 0x0002, 0x25c1, 0x7d04}, Value: protocols.Time(time.Unix(0x225c17d04, 0))}, // 2262
		Vector{Type: "unix64", Registers: []uint16{0, 0x0002, 0x25c1, 0x7d05}},
		Vector{Type: "unix64", Registers: []uint16{0xffff, 0xffff, 0xffff, 0xffff}},
		Vector{Type: "unix64ms", Registers: []uint16{0xffff, 0xffff, 0xffff, 0xffff}},
	)
}

func clocks() []Vector {
	at := clock(2026, time.November, 24, 10, 30, 15, 0)
	finer := clock(2026, time.November, 24, 10, 30, 15, 250)
	all := inOrders("iec870", finer, orders64(26, 0x0b18, 0x0a1e, 15250)...)
	all = append(all, eitherByteFirst("ymdhms", at, 2026, 11, 24, 10, 30, 15)...)
	all = append(all, eitherByteFirst("ymdhmsms", finer, 2026, 11, 24, 10, 30, 15, 250)...)
	all = append(all, eitherByteFirst("ymdhms8", at, 0x1a0b, 0x180a, 0x1e0f)...)
	all = append(all, eitherByteFirst("bcdtime", at, 0x2611, 0x2410, 0x3015)...)
	all = append(all, eitherByteFirst("mdyhms", at, 0x0b18, 0x7e0a, 0x1e0f)...)
	return append(all,
		// The day of the week is not looked at, and neither are spare bits.
		Vector{Type: "iec870", Registers: []uint16{0xff9a, 0xfb58, 0x6a5e, 15250}, Value: finer, DecodeOnly: true},
		// Summer time is an hour ahead.
		Vector{Type: "iec870", Registers: []uint16{26, 0x0b18, 0x8a1e, 15250}, Value: clock(2026, time.November, 24, 9, 30, 15, 250), DecodeOnly: true},
		Vector{Type: "iec870", Registers: []uint16{0, 0x0101, 0, 0}, Value: clock(2000, time.January, 1, 0, 0, 0, 0)},
		Vector{Type: "iec870", Registers: []uint16{127, 0x0c1f, 0x173b, 59999}, Value: clock(2127, time.December, 31, 23, 59, 59, 999)},
		Vector{Type: "ymdhms", Registers: []uint16{2028, 2, 29, 0, 0, 0}, Value: clock(2028, time.February, 29, 0, 0, 0, 0)},
		Vector{Type: "ymdhms", Registers: []uint16{1999, 12, 31, 23, 59, 59}, Value: clock(1999, time.December, 31, 23, 59, 59, 0)},
		Vector{Type: "ymdhms8", Registers: []uint16{0x630c, 0x1f17, 0x3b3b}, Value: clock(2099, time.December, 31, 23, 59, 59, 0)},
		// The example of Schneider's 63230-500-225, table B-2.
		Vector{Type: "mdyhms", Registers: []uint16{0x0119, 0x640b, 0x063b}, Value: clock(2000, time.January, 25, 11, 6, 59, 0)},
		Vector{Type: "mdyhms", Registers: []uint16{0x0119, 0x630b, 0x063b}, Value: clock(1999, time.January, 25, 11, 6, 59, 0)},
		// Two digits, and two bits that do not belong to the month.
		Vector{Type: "mdyhms", Registers: []uint16{0x0b18, 0x1a0a, 0x1e0f}, Value: at, DecodeOnly: true},
		Vector{Type: "mdyhms", Registers: []uint16{0xcb18, 0x7e0a, 0x1e0f}, Value: at, DecodeOnly: true},
	)
}

func arrays() []Vector {
	two := protocols.Array([]protocols.Value{protocols.Float32(21.5), protocols.Float32(0)})
	return []Vector{
		{Type: "uint16[3]", Registers: []uint16{1, 2, 3}, Value: protocols.Array([]protocols.Value{protocols.Uint(1), protocols.Uint(2), protocols.Uint(3)})},
		{Type: "uint16[1]", Registers: []uint16{7}, Value: protocols.Array([]protocols.Value{protocols.Uint(7)})},
		{Type: "float16[2]", Registers: []uint16{0x4d60, 0}, Value: two},
		{Type: "float32[2]", Order: protocols.CDAB, Registers: []uint16{0, 0x41ac, 0, 0}, Value: two},
		{Type: "int64[2]", Registers: []uint16{0, 0, 0, 1, 0, 0, 0, 2}, Value: protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(2)})},
		{Type: "int64[2]", Order: protocols.EFGHABCD, Registers: []uint16{0, 1, 0, 0, 0, 2, 0, 0}, Value: protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(2)})},
		{Type: "bcd32[2]", Order: protocols.DCBA, Registers: []uint16{0x3412, 0, 0x7856, 0}, Value: protocols.Array([]protocols.Value{protocols.Uint(1234), protocols.Uint(5678)})},
		{Type: "string(3)[2]", Registers: []uint16{0x4142, 0x4300, 0x4400, 0}, Value: protocols.Array([]protocols.Value{protocols.String("ABC"), protocols.String("D")})},
		{Type: "unix32[2]", Registers: []uint16{0, 1, 0, 2}, Value: protocols.Array([]protocols.Value{protocols.Time(time.Unix(1, 0)), protocols.Time(time.Unix(2, 0))})},
		{Type: "ymdhms8[2]", Registers: []uint16{0x1a0b, 0x180a, 0x1e0f, 0x0101, 0x0100, 0}, Value: protocols.Array([]protocols.Value{
			clock(2026, time.November, 24, 10, 30, 15, 0), clock(2001, time.January, 1, 0, 0, 0, 0),
		})},
	}
}

func broken() []Vector {
	return []Vector{
		{Type: "bcd16", Registers: []uint16{0x123a}},
		{Type: "bcd32", Registers: []uint16{0xf000, 0}},
		{Type: "bcd64", Registers: []uint16{0, 0, 0xa000, 0}},
		{Type: "string(2)", Registers: []uint16{0xff41}},
		{Type: "bcd16[2]", Registers: []uint16{0x1234, 0x00a0}},
	}
}

// brokenClocks show what no clock can.
func brokenClocks() []Vector {
	return []Vector{
		{Type: "iec870", Registers: []uint16{0, 0, 0, 0}},
		{Type: "iec870", Registers: []uint16{0xffff, 0xffff, 0xffff, 0xffff}},
		{Type: "iec870", Registers: []uint16{26, 0x0b18, 0x0a9e, 15250}}, // iv
		{Type: "iec870", Registers: []uint16{26, 0x0d18, 0x0a1e, 15250}}, // 13th month
		{Type: "iec870", Registers: []uint16{26, 0x021d, 0x0a1e, 15250}}, // 29 February 2026
		{Type: "iec870", Registers: []uint16{26, 0x0b18, 0x181e, 15250}}, // 24 h
		{Type: "iec870", Registers: []uint16{26, 0x0b18, 0x0a3c, 15250}}, // 60 min
		{Type: "iec870", Registers: []uint16{26, 0x0b18, 0x0a1e, 60000}}, // 60 s
		{Type: "ymdhms", Registers: []uint16{0, 0, 0, 0, 0, 0}},
		{Type: "ymdhms", Registers: []uint16{26, 11, 24, 10, 30, 15}}, // no century
		{Type: "ymdhms", Registers: []uint16{2026, 2, 30, 10, 30, 15}},
		{Type: "ymdhms", Registers: []uint16{2026, 11, 0, 10, 30, 15}},
		{Type: "ymdhms", Registers: []uint16{2026, 11, 24, 10, 30, 60}},
		{Type: "ymdhms", Registers: []uint16{2026, 0x010b, 24, 10, 30, 15}},
		{Type: "ymdhmsms", Registers: []uint16{2026, 11, 24, 10, 30, 15, 1000}},
		{Type: "ymdhms8", Registers: []uint16{0, 0, 0}},
		{Type: "ymdhms8", Registers: []uint16{0x640b, 0x180a, 0x1e0f}}, // a year since 1900?
		{Type: "bcdtime", Registers: []uint16{0x2613, 0x2410, 0x3015}},
		{Type: "bcdtime", Registers: []uint16{0x261a, 0x2410, 0x3015}},
		{Type: "bcdtime", Registers: []uint16{0xffff, 0xffff, 0xffff}},
		{Type: "mdyhms", Registers: []uint16{0x0b18, 0xc80a, 0x1e0f}}, // the year 2100
		{Type: "mdyhms", Registers: []uint16{0, 0, 0}},
		{Type: "ymdhms8[2]", Registers: []uint16{0x1a0b, 0x180a, 0x1e0f, 0, 0, 0}},
	}
}
