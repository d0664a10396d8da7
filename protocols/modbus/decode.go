package modbus

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"

	"millrace/protocols"
)

// How the orders of package protocols are meant here. An order has two
// parts. The first applies to every register that is read: in BADC and DCBA
// its two bytes are swapped, so for 16-bit numbers, bits, strings and bytes
// as well. The second applies to numbers of more than one register: in CDAB
// and DCBA the low register comes first. Strings and bytes always begin at
// the first register, and so do date-times that are no single number.

// field is one tag in the read plan: where it is and how it is decoded.
type field struct {
	table  table
	addr   uint16
	bit    uint8 // the first one, in a register
	width  uint8 // bits of a range
	scalar scalar
	order  protocols.Order
	form   notation
	signed bool  // of a range: its highest bit is the sign
	zone   int32 // seconds by which the device's clock is ahead of UTC
	span   int   // registers or bits that it fills
	size   int   // bytes of each string or bytes element
	count  int   // elements of an array; 0: not an array
	stride int   // registers from one element to the next
	out    int   // index into the readings of the scan
}

func newField(a address, dt dataType, order protocols.Order) field {
	f := field{
		table: a.table, addr: a.number, form: a.form,
		scalar: dt.scalar, order: order, size: dt.size, count: dt.count,
	}
	n := max(dt.count, 1)
	switch {
	case a.table.bits():
		f.span = n
	case dt.scalar == typeBool:
		f.bit = uint8(max(a.bit, 0))
		f.span = (int(f.bit) + n + 15) / 16
	default:
		f.stride = dt.registers()
		f.span = n * f.stride
	}
	if a.last >= 0 {
		f.scalar, f.signed = typeRange, dt.scalar.signed()
		f.bit, f.width = uint8(a.bit), uint8(a.last-a.bit+1)
	}
	return f
}

// end is the address behind f's last one.
func (f *field) end() int { return int(f.addr) + f.span }

// decode fills the readings of fields from the answer to a request that
// began at address first. data holds every address that the fields need: the
// transport has checked its length.
func decode(fields []field, first uint16, data []byte, out []protocols.Reading) {
	for i := range fields {
		f := &fields[i]
		r := &out[f.out]
		at := int(f.addr - first)
		var ok bool
		switch {
		case f.count > 0:
			ok = f.array(&r.Value, data, at)
		case f.scalar == typeBool:
			r.Value, ok = protocols.Bool(f.bitAt(data, at, 0)), true
		default:
			ok = f.element(&r.Value, data[2*at:])
		}
		if !ok {
			r.SetBad(protocols.Malformed)
			continue
		}
		if r.Quality != protocols.Good || r.Reason != "" { // mostly it was good before
			r.Quality, r.Reason = protocols.Good, ""
		}
	}
}

// array decodes the elements of f, which begins at address at of data, to v.
// It is false if one of them breaks its encoding.
func (f *field) array(v *protocols.Value, data []byte, at int) bool {
	list := make([]protocols.Value, f.count)
	for i := range list {
		if f.scalar == typeBool {
			list[i] = protocols.Bool(f.bitAt(data, at, i))
		} else if !f.element(&list[i], data[2*(at+i*f.stride):]) {
			return false
		}
	}
	*v = protocols.Array(list)
	return true
}

// element decodes one value of any type but bool, with which data begins, to
// v. It is false if that breaks its encoding. It writes through a pointer
// because a Value is large: this is done for every reading there is.
func (f *field) element(v *protocols.Value, data []byte) bool {
	switch f.scalar {
	case typeUint16:
		v.PutUint(uint64(f.word(data)))
	case typeInt16:
		v.PutInt(int64(int16(f.word(data))))
	case typeInt32:
		v.PutInt(int64(int32(f.long(data))))
	case typeUint32:
		v.PutUint(uint64(f.long(data)))
	case typeFloat16:
		v.PutFloat32(fromHalf(f.word(data)))
	case typeFloat32:
		v.PutFloat32(math.Float32frombits(f.long(data)))
	case typeInt64:
		v.PutInt(int64(f.quad(data)))
	case typeUint64:
		v.PutUint(f.quad(data))
	case typeFloat64:
		v.PutFloat64(math.Float64frombits(f.quad(data)))
	case typeRange, typeBCD16, typeBCD32, typeBCD64, typeString, typeBytes:
		return f.coded(v, data)
	case typeUnix32, typeUnix64, typeUnix64ms, typeIEC870, typeYMDHMS, typeYMDHMSms, typeYMDHMS8, typeBCDTime, typeMDYHMS:
		return f.dateTime(v, data)
	case typeBool: // bitAt
		return false
	}
	return true
}

// coded is element for what is no plain number. It stands apart, as dateTime
// does, because element is a quarter slower with all of it inside.
func (f *field) coded(v *protocols.Value, data []byte) (ok bool) {
	switch f.scalar { //nolint:exhaustive // the rest is element's
	case typeRange:
		f.bitRange(v, data)
		return true
	case typeBCD16:
		return bcd(v, uint64(f.word(data)), 16)
	case typeBCD32:
		return bcd(v, uint64(f.long(data)), 32)
	case typeBCD64:
		return bcd(v, f.quad(data), 64)
	default:
		*v, ok = f.text(data)
		return ok
	}
}

func (f *field) word(data []byte) uint16 {
	return ordered16(binary.BigEndian.Uint16(data), f.order)
}

func (f *field) long(data []byte) uint32 {
	return ordered32(binary.BigEndian.Uint32(data), f.order)
}

func (f *field) quad(data []byte) uint64 {
	return ordered64(binary.BigEndian.Uint64(data), f.order)
}

func ordered16(u uint16, o protocols.Order) uint16 {
	if o.BytesSwapped() {
		return bits.ReverseBytes16(u)
	}
	return u
}

func ordered32(u uint32, o protocols.Order) uint32 {
	if o.BytesSwapped() {
		u = u>>8&0x00ff00ff | u<<8&0xff00ff00
	}
	if o.WordsSwapped() {
		u = bits.RotateLeft32(u, 16)
	}
	return u
}

func ordered64(u uint64, o protocols.Order) uint64 {
	if o.BytesSwapped() {
		u = u>>8&0x00ff00ff_00ff00ff | u<<8&0xff00ff00_ff00ff00
	}
	if o.WordsSwapped() {
		u = u>>16&0x0000ffff_0000ffff | u<<16&0xffff0000_ffff0000
	}
	if o.HalvesSwapped() {
		u = bits.RotateLeft64(u, 32)
	}
	return u
}

// bitAt returns the i-th bit of f: of a bit table, lowest bit of the first
// byte first (Specification 6.1), or counted upwards from the bit in the
// register, on into the registers behind it.
func (f *field) bitAt(data []byte, at, i int) bool {
	if f.table.bits() {
		n := at + i
		return data[n/8]>>(n%8)&1 != 0
	}
	n := int(f.bit) + i
	return f.word(data[2*(at+n/16):])>>(n%16)&1 != 0
}

// bitRange decodes a range of the bits of one, two or four registers, in the
// order of a number of that size.
func (f *field) bitRange(v *protocols.Value, data []byte) {
	var u uint64
	switch f.stride {
	case 1:
		u = uint64(f.word(data))
	case 2:
		u = uint64(f.long(data))
	default:
		u = f.quad(data)
	}
	u <<= 64 - f.width - f.bit // what is above the range falls off
	if f.signed {
		*v = protocols.Int(int64(u) >> (64 - f.width))
		return
	}
	*v = protocols.Uint(u >> (64 - f.width))
}

// fromHalf returns the number that IEEE 754 binary16 encodes; every one of
// them is a float32 as well.
func fromHalf(h uint16) float32 {
	const (
		fraction = 10 // bits
		wider    = 23 - fraction
		bias     = 127 - 15
	)
	sign := uint32(h>>15) << 31
	exponent := uint32(h >> fraction & 0x1f)
	mantissa := uint32(h & (1<<fraction - 1))
	switch exponent {
	case 0: // zero, or subnormal: a multiple of 2^-24
		f := float32(mantissa) / (1 << 24)
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 0x1f: // infinite, or not a number
		exponent = 0xff
	default:
		exponent += bias
	}
	return math.Float32frombits(sign | exponent<<23 | mantissa<<wider)
}

// bcd decodes the lowest bits of raw, as binary coded decimals.
func bcd(v *protocols.Value, raw uint64, size int) bool {
	n, ok := fromBCD(raw, size)
	*v = protocols.Uint(n)
	return ok
}

// fromBCD reads size bits of binary coded decimals; a digit beyond 9 is
// malformed.
func fromBCD(raw uint64, size int) (n uint64, ok bool) {
	for shift := size - 4; shift >= 0; shift -= 4 {
		digit := raw >> shift & 0xf
		if digit > 9 {
			return 0, false
		}
		n = 10*n + digit
	}
	return n, true
}

// text decodes a string or bytes. A string ends at the first NUL and its
// trailing spaces are cut; one that is not UTF-8 is malformed.
func (f *field) text(data []byte) (protocols.Value, bool) {
	raw := data[:f.size]
	if f.order.BytesSwapped() {
		swapped := make([]byte, (f.size+1)/2*2)
		for i := 0; i < len(swapped); i += 2 {
			swapped[i], swapped[i+1] = data[i+1], data[i]
		}
		raw = swapped[:f.size]
	}
	if f.scalar == typeBytes {
		return protocols.Bytes(raw), true
	}
	end := len(raw)
	for i, c := range raw {
		if c == 0 {
			end = i
			break
		}
	}
	for end > 0 && raw[end-1] == ' ' {
		end--
	}
	raw = raw[:end]
	if !utf8.Valid(raw) {
		return protocols.Value{}, false
	}
	return protocols.String(string(raw)), true
}
