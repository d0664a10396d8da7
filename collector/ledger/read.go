package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Visitor gets what a ledger holds.
type Visitor struct {
	// Row gets the counts of a device in an hour (since 1970), which are valid
	// during the call. There may be several of the same device and hour: they
	// add up.
	Row func(device string, hour int64, c *Counts)
	// Outage and Pause get what touches the time that is read.
	Outage func(o Outage)
	Pause  func(p Pause)
	// Began gets when the ledger was begun, in Unix ms, if that is known.
	Began func(ms int64)
}

// Read reads what the ledger in dir holds of the hours that lie in [from, to),
// whether or not an agent is writing to it. What was counted in the last
// minute is not in it: see Flush. It returns up to when there are counts, in
// Unix ms; 0: there are none.
func Read(dir string, from, to time.Time, v Visitor) (until int64, err error) {
	const tries = 5
	for range tries {
		// Rows go from the journal into a month's file: what is read of either
		// must be of one moment.
		j, err := readJournal(dir)
		if err != nil {
			return 0, err
		}
		filed, err := lastFiled(dir)
		if err != nil {
			return 0, err
		}
		if now, err := journalNumber(dir); err != nil || now != j.number {
			continue // an hour was filed just now
		}
		j.drop(filed)
		r := newReader(from, to, v, j, max(filed.journal, j.number-1))
		return r.read(dir)
	}
	return 0, errors.New("the connectivity ledger changes too fast to be read: try again")
}

// Read is Read for the agent that writes the ledger: with all that was
// flushed.
func (l *Ledger) Read(from, to time.Time, v Visitor) (until int64, err error) {
	f := &l.files
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.opened {
		return 0, errNotOpen
	}
	j := &journal{number: f.number, rows: f.unfiled, events: f.filing, state: &state{Alive: f.alive, Began: f.since, Outages: f.l.goingOn()}}
	return newReader(from, to, v, j, f.number).read(l.o.Dir)
}

// errNotOpen: the disk, or the clock, is not ready.
var errNotOpen = errors.New("the connectivity ledger is not open yet")

// reader is one Read.
type reader struct {
	v           Visitor
	first, last int64 // hours
	from, to    int64 // Unix ms
	journal     *journal
	newest      uint32 // journal of which rows are in months' files
	dec         *decoder
}

func newReader(from, to time.Time, v Visitor, j *journal, newest uint32) *reader {
	return &reader{v: v, first: hourOf(from), last: hourOf(to.Add(-1)), from: from.UnixMilli(), to: to.UnixMilli(), journal: j, newest: newest}
}

func (r *reader) read(dir string) (until int64, err error) {
	if r.dec, err = newDecoder(); err != nil {
		return 0, err
	}
	defer r.dec.close()
	oldest := monthName(startOf(r.first))
	for _, name := range months(dir) {
		if name < oldest {
			continue // what is late is filed late
		}
		if err := r.month(filepath.Join(dir, name)); err != nil {
			return 0, err
		}
	}
	for k, c := range r.journal.rows {
		if k.hour >= r.first && k.hour <= r.last {
			r.v.Row(k.device, k.hour, c)
		}
	}
	r.events(&r.journal.events)
	if s := r.journal.state; s != nil {
		r.events(&events{Outages: s.Outages})
		until = s.Alive
		if s.Began != 0 && r.v.Began != nil {
			r.v.Began(s.Began)
		}
	}
	return until, nil
}

func (r *reader) month(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	end, err := filedEnd(file, r.newest)
	if err != nil {
		return err
	}
	var names []string
	return eachFrame(file, r.dec, func(f *frameFile, h *frameHeader) bool {
		if f.at >= end {
			return false
		}
		return h.kind == frameNames || int64(h.first) <= r.last && int64(h.last) >= r.first
	}, func(h *frameHeader, body []byte) error {
		switch h.kind {
		case frameNames:
			names = appendNames(names, body)
		case frameRows:
			in := frameReader{data: body}
			return in.rows(h, func(device int, hour int32, c *Counts) {
				if h := int64(hour); h >= r.first && h <= r.last && device >= 0 && device < len(names) && names[device] != "" {
					r.v.Row(names[device], h, c)
				}
			})
		case frameEvents:
			var e events
			if json.Unmarshal(body, &e) == nil {
				r.events(&e)
			}
		case frameState, frameFiled:
		}
		return nil
	})
}

func (r *reader) events(e *events) {
	for _, o := range e.Outages {
		if o.From < r.to && (o.To == 0 || o.To > r.from) && r.v.Outage != nil {
			r.v.Outage(o)
		}
	}
	for _, p := range e.Pauses {
		if p.From < r.to && p.To > r.from && r.v.Pause != nil {
			r.v.Pause(p)
		}
	}
}

// eachFrame calls visit with each frame of a file that wants does not refuse.
// Damaged ones are passed over.
func eachFrame(file *os.File, dec *decoder, wants func(*frameFile, *frameHeader) bool, visit func(*frameHeader, []byte) error) error {
	f, err := newFrameFile(file)
	if err != nil {
		return err
	}
	for {
		h, ok := f.next()
		if !ok {
			return nil
		}
		if wants(f, &h) {
			packed, err := f.body(&h)
			if err != nil {
				return err
			}
			if body, err := dec.unpack(&h, f.header[:], packed); err == nil {
				if err := visit(&h, body); err != nil && !errors.Is(err, errTorn) {
					return err
				}
			}
		}
		f.skip(&h)
	}
}

// journal is what a journal holds.
type journal struct {
	number uint32
	rows   map[key]*Counts
	events events
	state  *state
}

// readJournal reads the journal in dir. There may be none.
func readJournal(dir string) (*journal, error) {
	j := &journal{rows: map[key]*Counts{}}
	file, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.close()
	var names []string
	first := true
	mine := func(_ *frameFile, h *frameHeader) bool {
		if first {
			first, j.number = false, h.journal
		}
		return h.journal == j.number
	}
	err = eachFrame(file, dec, mine, func(h *frameHeader, body []byte) error {
		switch h.kind {
		case frameNames:
			names = appendNames(names, body)
		case frameRows:
			in := frameReader{data: body}
			return in.rows(h, func(device int, hour int32, c *Counts) {
				if device >= 0 && device < len(names) {
					own := *c
					add(j.rows, key{names[device], int64(hour)}, &own)
				}
			})
		case frameEvents:
			var e events
			if json.Unmarshal(body, &e) == nil {
				j.events.Outages = append(j.events.Outages, e.Outages...)
				j.events.Pauses = append(j.events.Pauses, e.Pauses...)
			}
		case frameState:
			s := &state{}
			if json.Unmarshal(body, s) == nil {
				if s.Same && j.state != nil {
					s.Plan = j.state.Plan
				}
				j.state = s
			}
		case frameFiled:
		}
		return nil
	})
	return j, err
}

// journalNumber returns the number of the journal in dir; 0: there is none.
func journalNumber(dir string) (uint32, error) {
	file, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // it was only read
	f, err := newFrameFile(file)
	if err != nil {
		return 0, err
	}
	h, _ := f.next()
	return h.journal, nil
}

// drop forgets what was filed already when the agent died before it had begun
// the next journal.
func (j *journal) drop(filed filing) {
	if j.number != filed.journal {
		return
	}
	maps.DeleteFunc(j.rows, func(k key, _ *Counts) bool { return k.hour < filed.before })
	j.events = events{}
}

// filing is the last time that hours were filed: those before an hour, of a
// journal.
type filing struct {
	journal uint32
	before  int64
}

// lastFiled returns what was filed last.
func lastFiled(dir string) (last filing, err error) {
	for _, name := range months(dir) {
		err := eachHeader(filepath.Join(dir, name), func(_ int64, h *frameHeader) {
			if h.kind == frameFiled && h.journal >= last.journal {
				last = filing{h.journal, int64(h.before)}
			}
		})
		if err != nil {
			return last, err
		}
	}
	return last, nil
}

// eachHeader calls visit with the header of each frame and where it ends.
func eachHeader(path string, visit func(end int64, h *frameHeader)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	f, err := newFrameFile(file)
	if err != nil {
		return err
	}
	for {
		h, ok := f.next()
		if !ok {
			return nil
		}
		f.skip(&h)
		visit(f.at, &h)
	}
}

// filedEnd returns where what was filed whole, of journals up to newest, ends.
func filedEnd(file *os.File, newest uint32) (end int64, err error) {
	f, err := newFrameFile(file)
	if err != nil {
		return 0, err
	}
	for {
		h, ok := f.next()
		if !ok {
			return end, nil
		}
		f.skip(&h)
		if h.kind == frameFiled && h.journal <= newest {
			end = f.at
		}
	}
}

// lookInto returns the names that a file of a month knows by their numbers,
// and where what was filed whole ends.
func lookInto(file *os.File) (index map[string]int, end int64, err error) {
	if end, err = filedEnd(file, math.MaxUint32); err != nil {
		return nil, 0, err
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, 0, err
	}
	defer dec.close()
	var names []string
	err = eachFrame(file, dec, func(f *frameFile, h *frameHeader) bool { return f.at < end && h.kind == frameNames },
		func(_ *frameHeader, body []byte) error {
			names = appendNames(names, body)
			return nil
		})
	index = make(map[string]int, len(names))
	for i, n := range names {
		if n == "" { // the number stays taken: rows may refer to it
			n = "\x00" + strconv.Itoa(i)
		}
		index[n] = i
	}
	return index, end, err
}

// appendNames adds what a names frame says. Names that a damaged frame has said
// before are empty: nothing is known of them.
func appendNames(names []string, body []byte) []string {
	r := frameReader{data: body}
	for first := r.uvarint(); uint64(len(names)) < first && first < maxNames; {
		names = append(names, "")
	}
	for len(r.data) > 0 && !r.bad {
		names = append(names, r.text())
	}
	return names
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
