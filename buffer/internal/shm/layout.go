package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file, in pages:
//
//	header    magic, version, stream and ordinal, sizes, checksum; and the
//	          words that change: low, high, written, length of the schemas
//	directory a word per slot: what is used of it, and how many slots hang
//	          together with it
//	cells     a pair of halves each: the places of the uplinks
//	notes     one cell that is larger: the gaps
//	schemas   one after the other, as the caller frames them
//	slots     the records
//
// Only what was allocated has pages; the rest are holes that cost nothing.
const (
	magic   = "MRSHM\x00\r\n"
	version = 1

	pageSize = 4096
	slotSize = 128 << 10

	headerSize = pageSize
	fixedSize  = 128 // of it, what never changes
	fixedSum   = fixedSize - 4

	wordLow     = 256
	wordHigh    = 264
	wordWritten = 272
	wordSchemas = 280

	maxStream = 64
	maxSlots  = 8 << 10 // 1 GiB

	cellCount    = 64
	cellHalf     = 32 << 10
	noteHalf     = 1 << 20
	cellHeader   = 16
	schemasSpace = 20 << 20
)

// ErrDamaged says that the file is not a region, or not a whole one.
var ErrDamaged = errors.New("not a whole region")

// crcTable is a function because the standard library caches the table.
func crcTable() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// layout says where things stand in a file with so many slots.
type layout struct {
	slots int
}

func layoutFor(memory int64) (layout, error) {
	// Twice the memory, because records that are a little larger than half a
	// slot leave the other half of it unused.
	n := 2*memory/slotSize + 8
	if memory < 0 || n > maxSlots {
		return layout{}, fmt.Errorf("a region for %d bytes: too large", memory)
	}
	return layout{slots: int(n)}, nil
}

func (l layout) directory() int     { return headerSize }
func (l layout) slotWord(i int) int { return headerSize + 8*i }

func (l layout) cells() int     { return pages(headerSize + 8*l.slots) }
func (l layout) notes() int     { return l.cells() + cellCount*2*cellHalf }
func (l layout) schemas() int   { return l.notes() + 2*noteHalf }
func (l layout) slot(i int) int { return l.schemas() + schemasSpace + i*slotSize }
func (l layout) size() int      { return l.slot(l.slots) }
func pages(n int) int           { return (n + pageSize - 1) &^ (pageSize - 1) }

// fixed is the part of the header that never changes.
type fixed struct {
	stream  string
	ordinal uint64
	layout  layout
}

func (f *fixed) encode() []byte {
	b := make([]byte, fixedSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], version)
	// A region never leaves its machine; its words are in the machine's order.
	binary.NativeEndian.PutUint16(b[12:], 1)
	le.PutUint64(b[16:], f.ordinal)
	le.PutUint32(b[24:], uint32(f.layout.slots))
	b[28] = byte(len(f.stream))
	copy(b[32:], f.stream)
	le.PutUint32(b[fixedSum:], crc32.Checksum(b[:fixedSum], crcTable()))
	return b
}

func parseFixed(b []byte) (f fixed, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < fixedSize, string(b[:len(magic)]) != magic:
		return f, fmt.Errorf("%w: no header", ErrDamaged)
	case le.Uint32(b[8:]) != version, binary.NativeEndian.Uint16(b[12:]) != 1:
		return f, fmt.Errorf("%w: another version", ErrDamaged)
	case le.Uint32(b[fixedSum:]) != crc32.Checksum(b[:fixedSum], crcTable()):
		return f, fmt.Errorf("%w: the header's checksum is wrong", ErrDamaged)
	}
	slots, n := le.Uint32(b[24:]), int(b[28])
	if slots == 0 || slots > maxSlots || n > maxStream {
		return f, fmt.Errorf("%w: senseless header", ErrDamaged)
	}
	return fixed{stream: string(b[32 : 32+n]), ordinal: le.Uint64(b[16:]), layout: layout{slots: int(slots)}}, nil
}

// Record is one record as it stands in a slot.
type Record struct {
	Seq        uint64
	Time, Mono int64 // as the caller means them
	Schema     uint64
	Readings   int
	Data       []byte
}

// A record in a slot is a frame, aligned to 8 bytes:
//
//	 0  CRC32C of the stream, the rest of the header and the data, uint32
//	 4  length of the data, uint32
//	 8  seq, uint64
//	16  time, int64
//	24  mono, int64
//	32  schema, uint64
//	40  readings, uint64
//	48  data
const frameHeader = 48

// FrameSize is the room that a record with size bytes of data takes.
func FrameSize(size int) int { return frameHeader + (size+7)&^7 }

// putFrame writes r at the start of b, which is large enough.
func putFrame(b []byte, tag uint32, r *Record) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], uint32(len(r.Data)))
	le.PutUint64(b[8:], r.Seq)
	le.PutUint64(b[16:], uint64(r.Time))
	le.PutUint64(b[24:], uint64(r.Mono))
	le.PutUint64(b[32:], r.Schema)
	le.PutUint64(b[40:], uint64(r.Readings))
	end := frameHeader + copy(b[frameHeader:], r.Data)
	le.PutUint32(b, crc32.Update(tag, crcTable(), b[4:end]))
}

// parseFrame reads the frame at the start of b. Its data points into b.
func parseFrame(b []byte, tag uint32) (Record, error) {
	if len(b) < frameHeader {
		return Record{}, fmt.Errorf("%w: a record is cut", ErrDamaged)
	}
	le := binary.LittleEndian
	n := le.Uint32(b[4:])
	if uint64(n) > uint64(len(b)-frameHeader) {
		return Record{}, fmt.Errorf("%w: a record is cut", ErrDamaged)
	}
	end := frameHeader + int(n)
	if le.Uint32(b) != crc32.Update(tag, crcTable(), b[4:end]) {
		return Record{}, fmt.Errorf("%w: a record's checksum is wrong", ErrDamaged)
	}
	return Record{
		Seq: le.Uint64(b[8:]), Time: int64(le.Uint64(b[16:])), Mono: int64(le.Uint64(b[24:])),
		Schema: le.Uint64(b[32:]), Readings: int(le.Uint64(b[40:])), Data: b[frameHeader:end:end],
	}, nil
}

func streamTag(stream string) uint32 { return crc32.Checksum([]byte(stream), crcTable()) }
