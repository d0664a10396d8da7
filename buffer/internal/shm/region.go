package shm

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"
)

// newSuffix marks a region that is being made.
const newSuffix = ".new"

// Region is the file of this process. It has no lock: its user's covers it.
type Region struct {
	path string
	file *os.File
	mem  []byte
	at   layout
	tag  uint32

	taken   []bool // slots in use
	cells   [cellCount]Cell
	notes   Cell
	schemas area
}

// Options of a region.
type Options struct {
	Stream  string // id of the run: at most 64 bytes
	Ordinal uint64 // and its number
	Memory  int64  // bytes of records that it is to hold
}

// Create makes a region for the file path, in a directory on a tmpfs. It has
// that name from Publish on; until then a file that has it stays.
func Create(path string, o Options) (*Region, error) {
	at, err := layoutFor(o.Memory)
	if err != nil {
		return nil, err
	}
	if len(o.Stream) > maxStream {
		return nil, fmt.Errorf("a region for the stream %q: the id is too long", o.Stream)
	}
	if err := Remove(path + newSuffix); err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	f, mem, err := createMapped(path+newSuffix, at.size(), at.cells())
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	r := &Region{
		path: path, file: f, mem: mem, at: at, tag: streamTag(o.Stream),
		taken:   make([]bool, at.slots),
		schemas: area{off: at.schemas(), size: schemasSpace},
	}
	r.notes = r.cellAt(at.notes(), noteHalf)
	for i := range r.cells {
		r.cells[i] = r.cellAt(at.cells()+i*2*cellHalf, cellHalf)
	}
	fx := fixed{stream: o.Stream, ordinal: o.Ordinal, layout: at}
	copy(mem, fx.encode())
	return r, nil
}

// Publish gives the region its name. What had it before is gone.
func (r *Region) Publish() error {
	if err := os.Rename(r.path+newSuffix, r.path); err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	return nil
}

// Rename gives the region another name in the same directory.
func (r *Region) Rename(path string) error {
	if err := os.Rename(r.path, path); err != nil {
		return fmt.Errorf("rename shared memory: %w", err)
	}
	r.path = path
	return nil
}

// Close gives the memory back and leaves the file. Nothing that came from the
// region may be touched any more.
func (r *Region) Close() error {
	mem := r.mem
	r.mem = nil
	return errors.Join(unmap(mem), r.file.Close())
}

// Remove is Close, and the file goes too.
func (r *Region) Remove() error { return errors.Join(Remove(r.path), r.Close()) }

// Discard is Remove for a region that was not published.
func (r *Region) Discard() error { return errors.Join(Remove(r.path+newSuffix), r.Close()) }

// Remove removes the region at path; it is no error if there is none.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// word is the number at off, which is a multiple of 8.
func (r *Region) word(off int) *uint64 {
	return (*uint64)(unsafe.Pointer(&r.mem[off])) //nolint:gosec // in the mapped file, and aligned
}

// publish stores a number after all bytes that were written before it.
func (r *Region) publish(off int, v uint64) { atomic.StoreUint64(r.word(off), v) }

// SetRange says that the records from low on and before high are the ones in
// memory.
func (r *Region) SetRange(low, high uint64) {
	r.publish(wordLow, low)
	r.publish(wordHigh, high)
}

// SetLow says which record is the first in memory.
func (r *Region) SetLow(seq uint64) { r.publish(wordLow, seq) }

// SetHigh says which record will be the next.
func (r *Region) SetHigh(seq uint64) { r.publish(wordHigh, seq) }

// SetWritten says up to which record all that was needed is on the disk.
func (r *Region) SetWritten(seq uint64) { r.publish(wordWritten, seq) }

// area is a part of the file that is allocated as it grows.
type area struct {
	off, size int
	ready     int // bytes that have pages
	used      int
}

// grow makes the first n bytes of a fit to be touched.
func (r *Region) grow(a *area, n int) bool {
	if n <= a.ready {
		return true
	}
	if n > a.size {
		return false
	}
	ready := min(pages(n), a.size)
	if allocate(r.file, a.off+a.ready, ready-a.ready) != nil {
		return false
	}
	a.ready = ready
	return true
}

// AddSchema appends what the caller made of a schema; false: there is no room.
func (r *Region) AddSchema(b []byte) bool {
	a := &r.schemas
	if !r.grow(a, a.used+len(b)) {
		return false
	}
	copy(r.mem[a.off+a.used:], b)
	a.used += len(b)
	r.publish(wordSchemas, uint64(a.used))
	return true
}
