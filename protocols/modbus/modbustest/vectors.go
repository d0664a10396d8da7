package modbustest

import (
	"math"

	"millrace/protocols"
)

// Vector says which registers a value of a type and order is. The driver's
// decoding and [Encode] are tested by the same ones.
type Vector struct {
	Type      string
	Order     protocols.Order
	Registers []uint16
	// Value is what is decoded. Its kind is KindNone where the registers
	// break the type's encoding.
	Value protocols.Value
	// DecodeOnly: several registers decode to the value, and these are not
	// the ones that it is encoded to.
	DecodeOnly bool
}

// Vectors returns the vectors of all types and orders.
func Vectors() []Vector {
	var all []Vector
	for _, group := range [][]Vector{numbers16(), numbers32(), numbers64(), texts(), arrays(), broken()} {
		all = append(all, group...)
	}
	return all
}

// inOrders makes a vector for each order from the registers of ABCD, CDAB,
// BADC and DCBA.
func inOrders(typ string, v protocols.Value, registers ...[]uint16) []Vector {
	all := make([]Vector, len(registers))
	for i, r := range registers {
		all[i] = Vector{Type: typ, Order: protocols.Order(i), Registers: r, Value: v}
	}
	return all
}

func numbers16() []Vector {
	straight, swapped := []uint16{0x1234}, []uint16{0x3412}
	all := inOrders("uint16", protocols.Uint(0x1234), straight, straight, swapped, swapped)
	all = append(all, inOrders("int16", protocols.Int(-2), []uint16{0xfffe}, []uint16{0xfffe}, []uint16{0xfeff}, []uint16{0xfeff})...)
	all = append(all, inOrders("bcd16", protocols.Uint(1234), straight, straight, swapped, swapped)...)
	return append(all,
		Vector{Type: "uint16", Registers: []uint16{0xffff}, Value: protocols.Uint(65535)},
		Vector{Type: "int16", Registers: []uint16{0x8000}, Value: protocols.Int(-32768)},
		Vector{Type: "bcd16", Registers: []uint16{0x9999}, Value: protocols.Uint(9999)},
	)
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
		{0x0123, 0x4567, 0x89ab, 0xcdef},
		{0xcdef, 0x89ab, 0x4567, 0x0123},
		{0x2301, 0x6745, 0xab89, 0xefcd},
		{0xefcd, 0xab89, 0x6745, 0x2301},
	}
	const raw = 0x0123456789abcdef
	all := inOrders("uint64", protocols.Uint(raw), orders...)
	all = append(all, inOrders("int64", protocols.Int(raw), orders...)...)
	all = append(all, inOrders("float64", protocols.Float64(math.Float64frombits(raw)), orders...)...)
	return append(all,
		Vector{Type: "int64", Registers: []uint16{0x8000, 0, 0, 0}, Value: protocols.Int(math.MinInt64)},
		Vector{Type: "uint64", Registers: []uint16{0xffff, 0xffff, 0xffff, 0xffff}, Value: protocols.Uint(math.MaxUint64)},
		Vector{Type: "float64", Registers: []uint16{0x4035, 0x8000, 0, 0}, Value: protocols.Float64(21.5)},
	)
}

func texts() []Vector {
	straight, swapped := []uint16{0x412d, 0x3137}, []uint16{0x2d41, 0x3731}
	all := inOrders("string(4)", protocols.String("A-17"), straight, straight, swapped, swapped)
	all = append(all, inOrders("bytes(4)", protocols.Bytes([]byte("A-17")), straight, straight, swapped, swapped)...)
	return append(all,
		Vector{Type: "string(3)", Registers: []uint16{0x412d, 0x3100}, Value: protocols.String("A-1")},
		Vector{Type: "string(3)", Order: protocols.DCBA, Registers: []uint16{0x2d41, 0x0031}, Value: protocols.String("A-1")},
		Vector{Type: "string(3)", Registers: []uint16{0x412d, 0x3137}, Value: protocols.String("A-1"), DecodeOnly: true},
		Vector{Type: "string(6)", Registers: []uint16{0x412d, 0x3100, 0x5858}, Value: protocols.String("A-1"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0x4120, 0x2020}, Value: protocols.String("A"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0x4120, 0x0058}, Value: protocols.String("A"), DecodeOnly: true},
		Vector{Type: "string(4)", Registers: []uint16{0, 0}, Value: protocols.String("")},
		Vector{Type: "string(6)", Registers: []uint16{0xe58e, 0x8b00, 0}, Value: protocols.String("压")},
		Vector{Type: "bytes(3)", Registers: []uint16{0x00ff, 0x2000}, Value: protocols.Bytes([]byte{0, 0xff, 0x20})},
	)
}

func arrays() []Vector {
	two := protocols.Array([]protocols.Value{protocols.Float32(21.5), protocols.Float32(0)})
	return []Vector{
		{Type: "uint16[3]", Registers: []uint16{1, 2, 3}, Value: protocols.Array([]protocols.Value{protocols.Uint(1), protocols.Uint(2), protocols.Uint(3)})},
		{Type: "uint16[1]", Registers: []uint16{7}, Value: protocols.Array([]protocols.Value{protocols.Uint(7)})},
		{Type: "float32[2]", Order: protocols.CDAB, Registers: []uint16{0, 0x41ac, 0, 0}, Value: two},
		{Type: "int64[2]", Registers: []uint16{0, 0, 0, 1, 0, 0, 0, 2}, Value: protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(2)})},
		{Type: "string(3)[2]", Registers: []uint16{0x4142, 0x4300, 0x4400, 0}, Value: protocols.Array([]protocols.Value{protocols.String("ABC"), protocols.String("D")})},
	}
}

func broken() []Vector {
	return []Vector{
		{Type: "bcd16", Registers: []uint16{0x123a}},
		{Type: "bcd32", Registers: []uint16{0xf000, 0}},
		{Type: "string(2)", Registers: []uint16{0xff41}},
		{Type: "bcd16[2]", Registers: []uint16{0x1234, 0x00a0}},
	}
}
