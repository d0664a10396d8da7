package opcua

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"millrace/protocols"
)

const (
	// saveEvery is how often cursors are written while all is well. What came
	// since is read again after a crash; more often would wear flash out.
	saveEvery = 10 * time.Minute
	// saveBurst is how many breaks are written at once; after that it is one a
	// minute.
	saveBurst  = 5
	saveRefill = time.Minute
	// notSafe is how much of what was told before a crash may be lost with it,
	// as the buffer writes to disk in intervals.
	notSafe = 5 * time.Second

	cursorVersion = 1
	// cursorEnded: the values before were handed over for good.
	cursorEnded = 1
)

// cursorKey is where the cursors of a device are kept.
func cursorKey(d *protocols.Device) string { return "opcua/history/" + d.ID }

// addressHash names a tag in the store: an address may move to another name.
func addressHash(t *protocols.Tag) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(t.Address))
	return h.Sum32()
}

// cursor is how far a tag was told, as it is kept.
type cursor struct {
	hash  uint32
	time  int64
	count int
}

var errCursors = errors.New("damaged cursors")

// encodeCursors: version, flags, the time that they are of (zigzag ns), how
// many; for each, in the order of hashes: the hash, 4 bytes; the difference to
// the last time (zigzag, in steps of 100 ns if bit 0 of the count is clear);
// the count<<1.
func encodeCursors(flags byte, at int64, list []cursor) []byte {
	slices.SortFunc(list, func(a, b cursor) int { return int(int64(a.hash) - int64(b.hash)) })
	out := make([]byte, 0, 16+12*len(list))
	out = append(out, cursorVersion, flags)
	out = binary.AppendVarint(out, at)
	out = binary.AppendUvarint(out, uint64(len(list)))
	last := at / 100 * 100
	for _, c := range list {
		out = binary.LittleEndian.AppendUint32(out, c.hash)
		fine := c.time % 100
		count := uint64(c.count) << 1
		if fine != 0 {
			count |= 1
		}
		out = binary.AppendUvarint(out, count)
		out = binary.AppendVarint(out, (c.time-fine-last)/100)
		if fine != 0 {
			out = binary.AppendVarint(out, fine)
		}
		last = c.time - fine
	}
	return out
}

func decodeCursors(data []byte) (flags byte, at int64, list []cursor, err error) {
	if len(data) < 2 || data[0] != cursorVersion {
		return 0, 0, nil, errCursors
	}
	flags, data = data[1], data[2:]
	number := func() int64 {
		v, n := binary.Varint(data)
		if n <= 0 {
			err, data = errCursors, nil
			return 0
		}
		data = data[n:]
		return v
	}
	natural := func() uint64 {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			err, data = errCursors, nil
			return 0
		}
		data = data[n:]
		return v
	}
	at = number()
	n := natural()
	if err != nil || n > uint64(len(data))/6 {
		return 0, 0, nil, errCursors
	}
	last := at / 100 * 100
	list = make([]cursor, 0, n)
	for range n {
		if len(data) < 4 {
			return 0, 0, nil, errCursors
		}
		c := cursor{hash: binary.LittleEndian.Uint32(data)}
		data = data[4:]
		count := natural()
		last += number() * 100
		c.time = last
		if count&1 != 0 {
			c.time += number() % 100
		}
		c.count = int(min(count>>1, maxAlike))
		list = append(list, c)
	}
	if err != nil || len(data) > 0 {
		return 0, 0, nil, errCursors
	}
	return flags, at, list, nil
}

// load takes in what an earlier run has kept.
func (p *past) load(m protocols.Memory) error {
	if p.marks == nil || m == nil {
		return nil
	}
	data := m.Get(cursorKey(p.dev))
	if data == nil {
		return nil
	}
	flags, at, list, err := decodeCursors(data)
	if err != nil {
		return fmt.Errorf("the cursors of %s: %w", p.dev.ID, err)
	}
	known := make(map[uint32]cursor, len(list))
	for _, c := range list {
		if was, ok := known[c.hash]; !ok || c.time < was.time {
			known[c.hash] = c
		}
	}
	// By the clock of the source times, which is not ours.
	safe := int64(math.MinInt64)
	for _, c := range list {
		safe = max(safe, c.time-int64(notSafe))
	}
	for i := range p.marks {
		c, ok := known[addressHash(&p.dev.Tags[i])]
		if !ok || c.time == 0 {
			continue
		}
		p.marks[i].last = edge{time: c.time, count: c.count}
		if flags&cursorEnded == 0 && c.time > safe {
			p.marks[i].last = edge{time: safe}
		}
	}
	p.heard, p.restarted = time.Unix(0, at), true
	return nil
}

// save keeps for the next run how far each tag was told, if that has changed.
// What waits to be read from the history is not told yet.
func (p *past) save(m protocols.Memory, ended bool) error {
	if m == nil {
		return nil
	}
	p.mu.Lock()
	if p.marks == nil || !p.changed {
		p.mu.Unlock()
		return nil
	}
	list, at := p.cursors(), p.heard.UnixNano()
	p.changed = false
	p.mu.Unlock()
	var flags byte
	if ended {
		flags = cursorEnded
	}
	err := m.Put(cursorKey(p.dev), encodeCursors(flags, at, list))
	if err != nil {
		p.mu.Lock()
		p.changed = true
		p.mu.Unlock()
	}
	return err
}

func (p *past) cursors() []cursor {
	first := make(map[int32]cursor)
	for _, g := range p.gaps {
		for i := range g.spans {
			s := &g.spans[i]
			c := cursor{time: s.from.time, count: s.from.count}
			if g.at > c.time {
				c = cursor{time: g.at}
			}
			if was, ok := first[s.tag]; !ok || c.time < was.time {
				first[s.tag] = c
			}
		}
	}
	list := make([]cursor, 0, len(p.marks))
	for i := range p.marks {
		c, waits := first[int32(i)]
		if !waits {
			last := &p.marks[i].last
			c = cursor{time: last.time, count: last.count}
		}
		if c.time != 0 {
			c.hash = addressHash(&p.dev.Tags[i])
			list = append(list, c)
		}
	}
	return list
}

// saver decides when cursors are written.
type saver struct {
	left int
	last time.Time
}

// may says whether a break may be written now.
func (s *saver) may(now time.Time) bool {
	if refill := int(now.Sub(s.last) / saveRefill); s.last.IsZero() || refill >= saveBurst {
		s.left = saveBurst
	} else {
		s.left = min(s.left+refill, saveBurst)
	}
	if s.left == 0 {
		return false
	}
	s.left--
	s.last = now
	return true
}
