package modbustest

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"millrace/protocols"
)

// addresses is how many addresses each bank has.
const addresses = 1 << 16

// pageSize is how many registers are allocated together: most devices use
// few of theirs, and a benchmark has many devices.
const pageSize = 256

// Registers is a bank of 65,536 registers of 16 bits, all zero at first. Its
// methods may be called while the server runs; an answer holds either all or
// nothing of what one call sets. Addresses are zero-based; one beyond 65,535
// panics, as an index does.
type Registers struct {
	mu      *sync.RWMutex // the unit's
	pages   [addresses / pageSize]*[2 * pageSize]byte
	sources []source // ascending by address
	refused []span
}

// source is some registers that are functions of time.
type source struct {
	span

	fill func(now time.Time, to []byte) // to holds 2 bytes for each register
}

// span is the addresses from first up to, and without, end.
type span struct{ first, end int }

func (s span) touches(first, n int) bool { return s.first < first+n && first < s.end }

// Set sets registers from addr on.
func (r *Registers) Set(addr int, values ...uint16) {
	raw := make([]byte, 0, 2*len(values))
	for _, v := range values {
		raw = binary.BigEndian.AppendUint16(raw, v)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(addr, raw)
}

// Get returns the register at addr, as Set left it.
func (r *Registers) Get(addr int) uint16 {
	var raw [2]byte
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.read(addr, raw[:])
	return binary.BigEndian.Uint16(raw[:])
}

// SetValue sets the registers from addr on to v, encoded as a tag of the
// given type and order would be read: see [Encode].
func (r *Registers) SetValue(addr int, typ string, order protocols.Order, v protocols.Value) error {
	raw, err := Encode(typ, order, v)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(addr, raw)
	return nil
}

// SetFunc makes the register at addr a function of time, evaluated at each
// request that reads it.
func (r *Registers) SetFunc(addr int, f func(now time.Time) uint16) {
	r.addSource(addr, 1, func(now time.Time, to []byte) {
		binary.BigEndian.PutUint16(to, f(now))
	})
}

// SetValueFunc makes the registers from addr on a function of time, encoded
// as [Encode] does. It fails if the value of now cannot be encoded; values
// that cannot be later, or that change their size, leave the registers zero.
func (r *Registers) SetValueFunc(addr int, typ string, order protocols.Order, f func(now time.Time) protocols.Value) error {
	raw, err := Encode(typ, order, f(time.Now()))
	if err != nil {
		return err
	}
	r.addSource(addr, len(raw)/2, func(now time.Time, to []byte) {
		raw, err := Encode(typ, order, f(now))
		if err != nil || len(raw) != len(to) {
			clear(to)
			return
		}
		copy(to, raw)
	})
	return nil
}

// Refuse makes every request that touches one of the n registers from addr
// on fail with exception 2, illegal data address. n of 0 or less ends it for
// all ranges that begin at addr.
func (r *Registers) Refuse(addr, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = refuse(r.refused, addr, n)
}

// refuse replaces the span that begins at addr.
func refuse(spans []span, addr, n int) []span {
	spans = slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return s.first == addr })
	if n > 0 {
		spans = append(spans, span{addr, addr + n})
	}
	return spans
}

func refused(spans []span, addr, n int) bool {
	for _, s := range spans {
		if s.touches(addr, n) {
			return true
		}
	}
	return false
}

func (r *Registers) addSource(addr, n int, fill func(now time.Time, to []byte)) {
	s := source{span{addr, addr + n}, fill}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources = slices.DeleteFunc(r.sources, func(old source) bool { return old.touches(addr, n) })
	at, _ := slices.BinarySearchFunc(r.sources, addr, func(s source, addr int) int { return s.first - addr })
	r.sources = slices.Insert(r.sources, at, s)
}

// write stores raw. The caller holds the lock.
func (r *Registers) write(addr int, raw []byte) {
	for len(raw) > 0 {
		page := r.pages[addr/pageSize]
		if page == nil {
			page = new([2 * pageSize]byte)
			r.pages[addr/pageSize] = page
		}
		n := copy(page[2*(addr%pageSize):], raw)
		raw = raw[n:]
		addr += n / 2
	}
}

// read fills to with what is stored from addr on. The caller holds the lock.
func (r *Registers) read(addr int, to []byte) {
	for len(to) > 0 {
		at := 2 * (addr % pageSize)
		n := min(len(to), 2*pageSize-at)
		if page := r.pages[addr/pageSize]; page != nil {
			copy(to[:n], page[at:])
		} else {
			clear(to[:n])
		}
		to = to[n:]
		addr += n / 2
	}
}

// answer fills to with what a request for the registers from addr on gets.
// It is false if the device refuses it. The caller holds the lock.
func (r *Registers) answer(now time.Time, addr int, to []byte) bool {
	n := len(to) / 2
	if addr+n > addresses || refused(r.refused, addr, n) {
		return false
	}
	r.read(addr, to)
	if len(r.sources) == 0 {
		return true
	}
	at, _ := slices.BinarySearchFunc(r.sources, addr, func(s source, addr int) int { return s.end - 1 - addr })
	for ; at < len(r.sources) && r.sources[at].first < addr+n; at++ {
		s := &r.sources[at]
		if s.first >= addr && s.end <= addr+n {
			s.fill(now, to[2*(s.first-addr):2*(s.end-addr)])
			continue
		}
		whole := make([]byte, 2*(s.end-s.first))
		s.fill(now, whole)
		from := max(s.first, addr)
		copy(to[2*(from-addr):], whole[2*(from-s.first):])
	}
	return true
}

// Bits is a bank of 65,536 coils or discrete inputs, all off at first. What
// is said of Registers holds for it as well.
type Bits struct {
	mu      *sync.RWMutex // the unit's
	values  [addresses / 64]uint64
	funcs   map[int]func(now time.Time) bool
	refused []span
}

// Set sets bits from addr on.
func (b *Bits) Set(addr int, values ...bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, v := range values {
		b.put(addr+i, v)
	}
}

// SetFunc makes the bit at addr a function of time, evaluated at each
// request that reads it.
func (b *Bits) SetFunc(addr int, f func(now time.Time) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.funcs == nil {
		b.funcs = make(map[int]func(now time.Time) bool)
	}
	b.funcs[addr] = f
}

// Refuse does what Registers.Refuse does.
func (b *Bits) Refuse(addr, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = refuse(b.refused, addr, n)
}

func (b *Bits) put(addr int, v bool) {
	mask := uint64(1) << (addr % 64)
	if v {
		b.values[addr/64] |= mask
	} else {
		b.values[addr/64] &^= mask
	}
}

func (b *Bits) answer(now time.Time, addr, n int, to []byte) bool {
	if addr+n > addresses || refused(b.refused, addr, n) {
		return false
	}
	clear(to)
	for i := range n {
		at := addr + i
		on := b.values[at/64]>>(at%64)&1 != 0
		if f, found := b.funcs[at]; found {
			on = f(now)
		}
		if on {
			to[i/8] |= 1 << (i % 8)
		}
	}
	return true
}
