package mqtt

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"millrace/protocols"
)

// Functions that append JSON. They do not allocate, as long as dst has room.

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD, one for each, as in encoding/json; other than there, '<', '>' and
// '&' stay as they are: the receiver is no HTML page.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\ufffd"...)
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// digitPairs are the numbers from 00 to 99.
const digitPairs = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

// appendUint appends v. Most of what a PLC has are numbers of 16 bits: for
// those it takes half the time of strconv, which writes them elsewhere first.
func appendUint(dst []byte, v uint64) []byte {
	switch {
	case v < 10:
		return append(dst, byte('0'+v))
	case v < 100:
		return append(dst, digitPairs[2*v], digitPairs[2*v+1])
	case v < 1000:
		low := 2 * (v % 100)
		return append(dst, byte('0'+v/100), digitPairs[low], digitPairs[low+1])
	case v < 10_000:
		high, low := 2*(v/100), 2*(v%100)
		return append(dst, digitPairs[high], digitPairs[high+1], digitPairs[low], digitPairs[low+1])
	case v < 100_000:
		high, low := 2*(v/100%100), 2*(v%100)
		return append(dst, byte('0'+v/10_000), digitPairs[high], digitPairs[high+1], digitPairs[low], digitPairs[low+1])
	}
	return strconv.AppendUint(dst, v, 10)
}

// appendInt appends v.
func appendInt(dst []byte, v int64) []byte {
	if v < 0 {
		return appendUint(append(dst, '-'), -uint64(v))
	}
	return appendUint(dst, uint64(v))
}

// maxExact64 and maxExact32 are the bounds below which a float64 (float32)
// times 1000 is an integer of at most 15 (6) digits.
const (
	maxExact64 = 1e12
	maxExact32 = 1e3
)

// appendFloat appends f with the fewest digits that give the same float64
// (bits 64) or float32 (bits 32) when read back, in the notation of
// encoding/json: 21, 21.5, 1e-7. f must be finite.
func appendFloat(dst []byte, f float64, bits int) []byte {
	if f == 0 && math.Signbit(f) {
		return append(dst, '-', '0')
	}
	// Most values of the field have at most three decimals. k/1000 is rounded
	// correctly, so if it gives f, its digits read back as f; and no other
	// number of at most 15 (6) digits does. (For float32 it is rounded twice,
	// which is as good: no k/1000 is that near to the middle between two.)
	if a := math.Abs(f); bits == 64 && a < maxExact64 || a < maxExact32 {
		k := math.RoundToEven(f * 1000)
		if bits == 64 && k/1000 == f || bits == 32 && float32(k/1000) == float32(f) {
			return appendThousandths(dst, int64(k))
		}
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 {
		if bits == 64 && (a < 1e-6 || a >= 1e21) || bits == 32 && (float32(a) < 1e-6 || float32(a) >= 1e21) {
			format = 'e'
		}
	}
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	if n := len(dst); format == 'e' && n >= 4 && dst[n-4] == 'e' && (dst[n-3] == '-' || dst[n-3] == '+') && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-09 becomes e-9
		dst = dst[:n-1]
	}
	return dst
}

// appendThousandths appends k/1000 without trailing zeros.
func appendThousandths(dst []byte, k int64) []byte {
	if k < 0 {
		dst = append(dst, '-')
		k = -k
	}
	dst = appendInt(dst, k/1000)
	frac := k % 1000
	if frac == 0 {
		return dst
	}
	dst = append(dst, '.', byte('0'+frac/100))
	if frac %= 100; frac != 0 {
		dst = append(dst, byte('0'+frac/10))
		if frac %= 10; frac != 0 {
			dst = append(dst, byte('0'+frac))
		}
	}
	return dst
}

// appendMillis appends a time in nanoseconds since 1970 as milliseconds,
// with decimals only where it is finer than that.
func appendMillis(dst []byte, nanos int64) []byte {
	u := uint64(nanos)
	if nanos < 0 {
		dst = append(dst, '-')
		u = -u
	}
	dst = strconv.AppendUint(dst, u/1e6, 10)
	frac := u % 1e6
	if frac == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := uint64(1e5); frac != 0; unit /= 10 {
		dst = append(dst, byte('0'+frac/unit))
		frac %= unit
	}
	return dst
}

// appendBase64 appends the bytes of s as a JSON string in standard base64.
// It goes by pieces, because turning the whole of s into a slice allocates.
func appendBase64(dst []byte, s string) []byte {
	dst = append(dst, '"')
	var piece [48]byte // a multiple of 3: padding only at the end
	for s != "" {
		n := copy(piece[:], s)
		dst = base64.StdEncoding.AppendEncode(dst, piece[:n])
		s = s[n:]
	}
	return append(dst, '"')
}

// appendValue appends v. A float must be finite. No value at all, which only
// an element of an array may be, is null.
func appendValue(dst []byte, v protocols.Value) []byte {
	switch v.Kind() {
	case protocols.KindUint:
		return appendUint(dst, v.AsUint())
	case protocols.KindInt:
		return appendInt(dst, v.AsInt())
	case protocols.KindFloat64:
		return appendFloat(dst, v.AsFloat64(), 64)
	case protocols.KindFloat32:
		return appendFloat(dst, float64(v.AsFloat32()), 32)
	case protocols.KindBool:
		return strconv.AppendBool(dst, v.AsBool())
	case protocols.KindString:
		return appendString(dst, v.AsString())
	case protocols.KindBytes:
		return appendBase64(dst, v.AsString())
	case protocols.KindTime:
		dst = append(dst, '"')
		dst = v.AsTime().AppendFormat(dst, time.RFC3339Nano)
		return append(dst, '"')
	case protocols.KindArray:
		dst = append(dst, '[')
		for i, e := range v.Elems() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, e)
		}
		return append(dst, ']')
	case protocols.KindObject:
		dst = append(dst, '{')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			name, e := v.Field(i)
			dst = append(appendString(dst, name), ':')
			dst = appendValue(dst, e)
		}
		return append(dst, '}')
	case protocols.KindNone:
	}
	return append(dst, "null"...)
}
