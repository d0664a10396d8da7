package shm

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Cell holds some bytes that are replaced as a whole, again and again. It has
// two halves: while one is being written the other one is good.
//
//	 0  number of the writing, uint64: the higher one is the newer one
//	 8  length, uint32
//	12  CRC32C of the stream, the 12 bytes before and the content, uint32
//	16  content
type Cell struct {
	r      *Region
	halves [2]area
	turn   uint64
	taken  bool
}

func (r *Region) cellAt(off, half int) Cell {
	return Cell{r: r, halves: [2]area{{off: off, size: half}, {off: off + half, size: half}}}
}

// NewCell returns a cell that nobody uses, or nil if there is none.
func (r *Region) NewCell() *Cell {
	for i := range r.cells {
		if c := &r.cells[i]; !c.taken {
			c.taken = true
			return c
		}
	}
	return nil
}

// Notes returns the one cell that holds more than the others.
func (r *Region) Notes() *Cell { return &r.notes }

// Free empties the cell for another use.
func (c *Cell) Free() {
	c.clear()
	c.taken = false
}

// Write replaces the content. Where there is no room for it the cell is
// empty, rather than old, and Write returns false.
func (c *Cell) Write(b []byte) bool {
	c.turn++
	half := &c.halves[c.turn&1]
	n := cellHeader + len(b)
	if !c.r.grow(half, n) {
		c.clear()
		return false
	}
	m := c.r.mem[half.off : half.off+n]
	le := binary.LittleEndian
	le.PutUint64(m, c.turn)
	le.PutUint32(m[8:], uint32(len(b)))
	copy(m[cellHeader:], b)
	le.PutUint32(m[12:], cellSum(m, c.r.tag))
	return true
}

// clear makes both halves invalid.
func (c *Cell) clear() {
	for i := range c.halves {
		if h := &c.halves[i]; h.ready > 0 {
			binary.LittleEndian.PutUint32(c.r.mem[h.off+8:], math.MaxUint32)
		}
	}
}

func cellSum(m []byte, tag uint32) uint32 {
	sum := crc32.Update(tag, crcTable(), m[:12])
	return crc32.Update(sum, crcTable(), m[cellHeader:])
}
