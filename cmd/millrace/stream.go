package main

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// newStreamID makes the id of one run of the agent: a ULID, 48 bits of time
// in milliseconds and 80 random ones, so that ids sort by their start where
// the clock was right, and never meet where it was not.
func newStreamID(now time.Time) string {
	// 26 characters of 5 bits are 130 bits: a ULID has two zero bits in front.
	var raw [17]byte
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint64(raw[:8], ms<<14) // 2 zero bits, then 48 of time
	var random [10]byte
	_, _ = rand.Read(random[:]) // crypto/rand never fails: it ends the program instead
	for i, b := range random {
		// 50 bits are used: byte 6 has two of them.
		raw[6+i] |= b >> 2
		raw[7+i] |= b << 6
	}
	enc := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
	return enc.EncodeToString(raw[:])[:26]
}
