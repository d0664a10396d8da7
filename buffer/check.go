package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// errStructure: a bbolt file's pages do not hang together.
var errStructure = errors.New("damaged file")

// What bbolt writes, in the machine's byte order.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageFreelist = 0x10

	pageHeaderSize = 16
	elementSize    = 16
	bucketHeader   = 16
	leafIsBucket   = 0x01

	maxDepth    = 16
	noFreelist  = ^uint64(0)
	metaSumSize = 56
)

// checkBolt reads a bbolt file's tree of pages, without bbolt and without
// mapping it: bbolt trusts what it reads, and on a damaged page it panics,
// reads outside the map (a SIGBUS where the file is short), or descends in a
// circle until the stack overflows, which no recover reaches. It reads each
// page once; a segment costs some milliseconds.
func checkBolt(path string) error {
	f, size, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	c := &checker{file: f, size: size, seen: make(map[uint64]bool)}
	if err := c.check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// visitor is told of a key and its value in a bbolt file. trail names the
// buckets that it is in, and at is where the value stands in the file. The
// slices are good during the call only. An error ends the walk.
type visitor func(trail []string, key, value []byte, at int64) error

// walkBolt hands every key of a bbolt file to visit, in order: bbolt is not
// needed to read what is whole, and cannot be trusted with what is not. It
// takes no lock and changes nothing. Where a page is damaged it goes on with
// the next one; the error says what the first damage was, or what visit said.
func walkBolt(file io.ReaderAt, size int64, visit visitor) error {
	c := &checker{file: file, size: size, seen: make(map[uint64]bool), visit: visit}
	if err := c.check(); err != nil {
		return err
	}
	return c.first
}

// openRegular opens a file for reading. What is no file at all (a directory,
// or a pipe that would make us wait) is bad content.
func openRegular(path string) (f *os.File, size int64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: %s is a %s, not a file", errFormat, path, kindOf(info.Mode()))
	}
	f, err = os.Open(path)
	return f, info.Size(), err
}

// kindOf names what is there in place of a file.
func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode&os.ModeNamedPipe != 0:
		return "pipe"
	case mode&os.ModeSocket != 0:
		return "socket"
	default:
		return "device"
	}
}

type checker struct {
	file  io.ReaderAt
	size  int64
	pages uint64 // the high-water mark: pages in use are below it
	seen  map[uint64]bool

	visit visitor  // nil: only check
	trail []string // the buckets around the present page
	first error    // the first damage, with visit
	ended bool     // visit said so
}

// fault ends a check, and lets a walk go on with what is beside the damage.
func (c *checker) fault(err error) error {
	if c.visit == nil || err == nil || c.ended {
		return err
	}
	if c.first == nil {
		c.first = err
	}
	return nil
}

type boltMeta struct {
	root, freelist, pages, tx uint64
}

func (c *checker) check() error {
	m, err := c.meta()
	if err != nil {
		return err
	}
	c.pages = m.pages
	if m.pages < 4 || m.pages > uint64(c.size)/pageSize {
		if err := c.fault(fmt.Errorf("%w: %d pages in %d bytes", errStructure, m.pages, c.size)); err != nil {
			return err
		}
		c.pages = min(m.pages, uint64(c.size)/pageSize)
	}
	if m.freelist != noFreelist {
		if err := c.fault(c.freelist(m.freelist)); err != nil {
			return err
		}
	}
	return c.fault(c.page(m.root, 0))
}

// meta returns the newer of the two meta pages: the one bbolt will take.
func (c *checker) meta() (best boltMeta, err error) {
	found := false
	var damage error
	buf := make([]byte, pageSize)
	for id := range uint64(2) {
		if _, err := c.file.ReadAt(buf, int64(id)*pageSize); err != nil && !errors.Is(err, io.EOF) {
			return best, err
		}
		m, ok := parseMeta(buf[pageHeaderSize:])
		ok = ok && m.tx%2 == id
		if !ok {
			// bbolt would go on with the other one, and so with the state
			// before the last commit.
			damage = fmt.Errorf("%w: meta page %d", errStructure, id)
		}
		if ok && (!found || m.tx > best.tx) {
			best, found = m, true
		}
	}
	if !found {
		return best, fmt.Errorf("%w: no valid meta page", errStructure)
	}
	return best, c.fault(damage)
}

func parseMeta(b []byte) (boltMeta, bool) {
	ne := binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSumSize]) // cannot fail
	if ne.Uint32(b) != boltMagic || ne.Uint32(b[4:]) != boltVersion || ne.Uint32(b[8:]) != pageSize ||
		ne.Uint64(b[metaSumSize:]) != sum.Sum64() {
		return boltMeta{}, false
	}
	return boltMeta{root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]), pages: ne.Uint64(b[40:]), tx: ne.Uint64(b[48:])}, true
}

// load reads a page with its overflow and marks its place as taken.
func (c *checker) load(id uint64) (page []byte, flags uint16, err error) {
	if id < 2 || id >= c.pages {
		return nil, 0, fmt.Errorf("%w: page %d is outside the file", errStructure, id)
	}
	head := make([]byte, pageHeaderSize)
	if _, err := c.file.ReadAt(head, int64(id)*pageSize); err != nil {
		return nil, 0, readFault(id, err)
	}
	ne := binary.NativeEndian
	n := uint64(ne.Uint32(head[12:])) + 1
	if ne.Uint64(head) != id || n > c.pages-id {
		return nil, 0, fmt.Errorf("%w: page %d has a wrong header", errStructure, id)
	}
	for i := id; i < id+n; i++ {
		if c.seen[i] {
			return nil, 0, fmt.Errorf("%w: page %d is used twice", errStructure, i)
		}
		c.seen[i] = true
	}
	page = make([]byte, n*pageSize)
	if _, err := c.file.ReadAt(page, int64(id)*pageSize); err != nil {
		return nil, 0, readFault(id, err)
	}
	return page, ne.Uint16(head[8:]), nil
}

// readFault: a page that cannot be read is damage to us, whatever the cause.
func readFault(id uint64, err error) error {
	return fmt.Errorf("%w: page %d: %w", errStructure, id, err)
}

func (c *checker) freelist(id uint64) error {
	page, flags, err := c.load(id)
	if err != nil {
		return err
	}
	ne := binary.NativeEndian
	count, at := uint64(ne.Uint16(page[10:])), pageHeaderSize
	if count == 0xFFFF { // the true count comes first
		count = ne.Uint64(page[at:])
		at += 8
	}
	if flags != pageFreelist || count > uint64(len(page)-at)/8 {
		return fmt.Errorf("%w: the freelist (page %d) is none", errStructure, id)
	}
	for range count {
		free := ne.Uint64(page[at:])
		if free < 2 || free >= c.pages || c.seen[free] {
			return fmt.Errorf("%w: the freelist names page %d", errStructure, free)
		}
		c.seen[free] = true
		at += 8
	}
	return nil
}

func (c *checker) page(id uint64, depth int) error {
	page, flags, err := c.load(id)
	if err != nil {
		return err
	}
	switch {
	case depth > maxDepth:
		return fmt.Errorf("%w: page %d is too deep", errStructure, id)
	case flags == pageLeaf:
		return c.leaf(page, int64(id)*pageSize, depth)
	case flags == pageBranch:
		return c.branch(page, depth)
	default:
		return fmt.Errorf("%w: page %d is of kind %#x", errStructure, id, flags)
	}
}

// elements calls fn for each element of a page with the element, and what is
// behind its header.
func elements(page []byte, posAt int, fn func(element, rest []byte) error) error {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if count*elementSize > len(page)-pageHeaderSize {
		return fmt.Errorf("%w: %d elements in a page", errStructure, count)
	}
	for i := range count {
		element := page[pageHeaderSize+i*elementSize:]
		pos := uint64(binary.NativeEndian.Uint32(element[posAt:]))
		if pos > uint64(len(element)) {
			return fmt.Errorf("%w: an element reaches out of its page", errStructure)
		}
		if err := fn(element, element[pos:]); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) branch(page []byte, depth int) error {
	if binary.NativeEndian.Uint16(page[10:]) == 0 {
		return fmt.Errorf("%w: an empty branch", errStructure)
	}
	last := ""
	return elements(page, 0, func(element, rest []byte) error {
		size := uint64(binary.NativeEndian.Uint32(element[4:]))
		if size > uint64(len(rest)) || string(rest[:size]) < last {
			return fmt.Errorf("%w: a branch's keys are wrong", errStructure)
		}
		last = string(rest[:size])
		return c.fault(c.page(binary.NativeEndian.Uint64(element[8:]), depth+1))
	})
}

// leaf reads a page that stands at the offset at.
func (c *checker) leaf(page []byte, at int64, depth int) error {
	last := ""
	return elements(page, 4, func(element, rest []byte) error {
		ne := binary.NativeEndian
		ksize, vsize := uint64(ne.Uint32(element[8:])), uint64(ne.Uint32(element[12:]))
		if ksize+vsize > uint64(len(rest)) || ksize == 0 || string(rest[:ksize]) <= last {
			return fmt.Errorf("%w: a leaf's keys are wrong", errStructure)
		}
		last = string(rest[:ksize])
		value, valueAt := rest[ksize:ksize+vsize], at+int64(len(page)-len(rest))+int64(ksize)
		if ne.Uint32(element)&leafIsBucket == 0 {
			return c.found(rest[:ksize], value, valueAt)
		}
		c.trail = append(c.trail, last)
		err := c.fault(c.bucket(value, valueAt, depth))
		c.trail = c.trail[:len(c.trail)-1]
		return err
	})
}

// found tells the visitor of a key. What stands in no bucket is not ours.
func (c *checker) found(key, value []byte, at int64) error {
	if c.visit == nil || len(c.trail) == 0 {
		return nil
	}
	err := c.visit(c.trail, key, value, at)
	c.ended = err != nil
	return err
}

func (c *checker) bucket(value []byte, at int64, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("%w: a bucket without a header", errStructure)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.page(root, depth+1)
	}
	inline := value[bucketHeader:] // a small bucket stands in its parent's leaf
	if len(inline) < pageHeaderSize || binary.NativeEndian.Uint16(inline[8:]) != pageLeaf || depth > maxDepth {
		return fmt.Errorf("%w: a small bucket is wrong", errStructure)
	}
	return c.leaf(inline, at+bucketHeader, depth+1)
}
