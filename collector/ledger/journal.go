package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The directory of a ledger:
//
//	journal          what was counted since the last hour was filed, in frames of
//	                 a minute, and the newest state
//	2026-11.ledger   what was filed in that month (UTC): frames of an hour
//	lock             held by the agent that writes
//
// An hour is filed so: its rows are appended to the month's file, as coming
// from journal n, and the file is synced; then journal n+1 takes the place of
// journal n, with what was not filed. Whoever finds journal n after a crash in
// between knows from the month's file which of its rows are there already.
const (
	journalName  = "journal"
	monthSuffix  = ".ledger"
	lockName     = "lock"
	fileMode     = 0o600
	maxUnwritten = 200_000 // rows that are kept in memory while the disk takes nothing
)

// key is what a row is of.
type key struct {
	device string
	hour   int64
}

// monthFile is what is known of the file of a month that was written last.
type monthFile struct {
	name  string
	names map[string]int
	end   int64 // of what was filed whole
}

// files writes the files of a ledger. One goroutine at a time uses it.
type files struct {
	l  *Ledger
	mu sync.Mutex

	opened  bool
	failing string // why the disk took nothing the last time
	lock    *os.File
	enc     *encoder
	journal *os.File
	stale   bool           // a new journal is to be begun before anything is written
	number  uint32         // of the journal
	names   map[string]int // of the journal
	before  int64          // all hours before were filed
	month   monthFile

	unwritten map[key]*Counts // not in the journal yet
	unfiled   map[key]*Counts // in the journal, and in no month's file
	events    events          // not in the journal yet
	filing    events          // in the journal, and in no month's file
	previous  *state          // of the run before; nil: it is accounted for
	resumed   bool            // what previous says is in unwritten and events
	alive     int64           // up to when all is written, Unix ms
	since     int64           // when the ledger was begun, Unix ms
}

func (f *files) init(l *Ledger) {
	f.l, f.unwritten, f.unfiled = l, map[key]*Counts{}, map[key]*Counts{}
}

// Flush writes what was counted since it was called last. While the disk
// takes nothing, and while the clock was never set, it is kept. last says that
// nothing will be counted any more: the files are closed.
func (l *Ledger) Flush(last bool) {
	if l == nil {
		return
	}
	f := &l.files
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.flush(last)
	switch {
	case err == nil && f.failing != "":
		l.log.Info("the connectivity ledger can be written again", "dir", l.o.Dir)
		f.failing = ""
	case err != nil && f.failing != err.Error():
		f.failing = err.Error()
		l.log.Warn("the connectivity ledger cannot be written; its counts wait in memory", "dir", l.o.Dir, "error", err)
	}
	if last {
		f.close()
	}
}

func (f *files) flush(last bool) error {
	now := f.l.o.Now()
	f.collect(now)
	if now.UnixMilli() < sane {
		return nil
	}
	f.redate(now)
	if !f.opened {
		if err := f.open(now); err != nil {
			return err
		}
	}
	if f.stale {
		if err := f.renew(false); err != nil {
			return err
		}
	}
	if f.previous != nil && !f.resumed {
		f.resume(now)
	}
	if err := f.write(now, last); err != nil {
		return err
	}
	if h := hourOf(now); h != f.before { // the clock may have been set back
		if err := f.file(now, h, last); err != nil {
			return err
		}
		f.expire(now)
	}
	return nil
}

// collect takes what was counted.
func (f *files) collect(now time.Time) {
	f.l.mu.Lock()
	devices := slices.Collect(maps.Values(f.l.devices))
	f.events.Outages = append(f.events.Outages, f.l.news.Outages...)
	f.l.news = events{}
	f.l.mu.Unlock()
	for _, d := range devices {
		for h, c := range d.take(now) {
			if !c.zero() {
				add(f.unwritten, key{d.id, h}, c)
			}
		}
	}
	for k := range f.unwritten {
		if len(f.unwritten) <= maxUnwritten {
			break
		}
		delete(f.unwritten, k)
	}
}

func add(to map[key]*Counts, k key, c *Counts) {
	if have := to[k]; have != nil {
		have.Add(c)
		return
	}
	to[k] = c
}

// redate gives what was counted before the clock was set the hour that it was
// counted in, as far as a whole hour tells. While a clock that was right has
// fallen to a time before 2020, that is the present one: it is asked each
// minute.
func (f *files) redate(now time.Time) {
	began := now.Add(f.l.started - f.l.elapsed())
	shift := began.Sub(f.l.began.Round(0))
	fell := f.l.began.UnixMilli() >= sane || f.alive >= sane // it was right in this run
	for k, c := range f.unwritten {
		if k.hour*3600_000 < sane {
			delete(f.unwritten, k)
			if k.hour = hourOf(startOf(k.hour).Add(shift + 30*time.Minute)); fell {
				k.hour = hourOf(now)
			}
			add(f.unwritten, k, c)
		}
	}
	for i := range f.events.Outages {
		o := &f.events.Outages[i]
		if o.From < sane {
			if o.From += shift.Milliseconds(); fell { // since some time after the last writing
				o.From = max(f.alive, began.UnixMilli())
			}
		}
		if o.To < sane {
			if o.To += shift.Milliseconds(); fell {
				o.To = now.UnixMilli()
			}
		}
	}
}

// open finds out what earlier runs have left.
func (f *files) open(now time.Time) error {
	dir := f.l.o.Dir
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if f.lock == nil {
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = lock.Close()
			return errors.New("another millrace writes to it: give each its own connectivity.path")
		}
		f.lock = lock
	}
	if f.enc == nil {
		enc, err := newEncoder()
		if err != nil {
			return err
		}
		f.enc = enc
	}
	filed, err := lastFiled(dir)
	if err != nil {
		return err
	}
	j, err := readJournal(dir)
	if err != nil {
		return err
	}
	j.drop(filed)
	f.number, f.before = max(j.number, filed.journal), filed.before
	f.unfiled, f.filing = j.rows, j.events
	f.previous, f.resumed = j.state, false
	f.since = now.Add(f.l.started - f.l.elapsed()).UnixMilli()
	if j.state != nil && j.state.Began != 0 {
		f.since = j.state.Began
	}
	f.opened, f.stale = true, true
	return nil
}

// write appends what was collected to the journal, and the state with it.
func (f *files) write(now time.Time, last bool) error {
	data, err := f.frames(f.unwritten, &f.events, f.names)
	if err != nil {
		return err
	}
	changed := f.l.dirty.Swap(false)
	data = f.enc.append(data, frameHeader{kind: frameState, journal: f.number}, f.stateJSON(now.UnixMilli(), changed, last))
	if err := appendFile(f.journal, data); err != nil {
		f.l.dirty.Store(true)
		f.stale = true // which names and rows it has now is not known
		return err
	}
	for k, c := range f.unwritten {
		add(f.unfiled, k, c)
	}
	f.filing.Outages = append(f.filing.Outages, f.events.Outages...)
	f.filing.Pauses = append(f.filing.Pauses, f.events.Pauses...)
	f.unwritten, f.events, f.alive = map[key]*Counts{}, events{}, now.UnixMilli()
	f.previous = nil
	if last {
		return f.journal.Sync()
	}
	return nil
}

// appendFile appends data to a file, or nothing of it.
func appendFile(file *os.File, data []byte) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		_ = file.Truncate(end) // a reader cuts it off, too
		return err
	}
	return nil
}

// all returns the devices, and which of them are configured. What is done to
// one takes its lock, and then the ledger's: never the other way round.
func (l *Ledger) all() (devices []*Device, present map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.devices)), l.present
}

// goingOn returns the outages that go on.
func (l *Ledger) goingOn() (outages []Outage) {
	devices, _ := l.all()
	for _, d := range devices {
		d.mu.Lock()
		if d.outage != nil {
			outages = append(outages, *d.outage)
		}
		d.mu.Unlock()
	}
	return outages
}

// stateJSON is the state as the next run is to find it, when all is written up
// to alive.
func (f *files) stateJSON(alive int64, plan, last bool) []byte {
	s := state{Alive: alive, Began: f.since, Stopped: last, Same: !plan, Outages: f.l.goingOn()}
	if plan {
		s.Plan = map[string][]Group{}
		devices, present := f.l.all()
		for _, d := range devices {
			d.mu.Lock()
			if present[d.id] && len(d.plan) > 0 {
				s.Plan[d.id] = d.plan
			}
			d.mu.Unlock()
		}
	}
	data, err := json.Marshal(&s)
	if err != nil {
		return []byte("{}") // cannot be: it is made of numbers and texts
	}
	return data
}

// frames returns rows and events as frames of a file whose names are known.
func (f *files) frames(rows map[key]*Counts, e *events, names map[string]int) ([]byte, error) {
	h := frameHeader{journal: f.number, before: int32(f.before)}
	keys := slices.SortedFunc(maps.Keys(rows), func(a, b key) int {
		if a.hour != b.hour {
			return int(a.hour - b.hour)
		}
		return strings.Compare(a.device, b.device)
	})
	var data, fresh []byte
	list := make([]row, 0, len(keys))
	first := len(names)
	for _, k := range keys {
		n, known := names[k.device]
		if !known {
			n = len(names)
			names[k.device] = n
			fresh = appendText(fresh, k.device)
		}
		list = append(list, row{n, int32(k.hour), rows[k]})
	}
	if len(fresh) > 0 {
		h.kind = frameNames
		data = f.enc.append(data, h, append(binary.AppendUvarint(nil, uint64(first)), fresh...))
	}
	const most = 20_000 // rows of a frame: a reader holds one in memory
	for part := range slices.Chunk(list, most) {
		data = f.enc.appendRows(data, h, part)
	}
	if !e.empty() {
		text, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		h.kind = frameEvents
		h.first, h.last = e.span()
		data = f.enc.append(data, h, text)
	}
	return data, nil
}

// file files the hours before h.
func (f *files) file(now time.Time, h int64, last bool) error {
	done := map[key]*Counts{}
	for k, c := range f.unfiled {
		if k.hour < h {
			done[k] = c
		}
	}
	earlier := f.before
	f.before = h
	if len(done) > 0 || !f.filing.empty() {
		if err := f.append(now, done); err != nil {
			f.before = earlier
			return err
		}
	}
	for k := range done {
		delete(f.unfiled, k)
	}
	f.filing, f.stale = events{}, true
	return f.renew(last)
}

// append appends the rows, and the events that are to be filed, to the file of
// the month.
func (f *files) append(now time.Time, rows map[key]*Counts) error {
	path := filepath.Join(f.l.o.Dir, monthName(now))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was synced
	m := &f.month
	if name := filepath.Base(path); m.name != name {
		*m = monthFile{name: name}
		if m.names, m.end, err = lookInto(file); err != nil {
			m.name = ""
			return err
		}
	}
	if err := file.Truncate(m.end); err != nil {
		return err
	}
	data, err := f.frames(rows, &f.filing, m.names)
	if err != nil {
		return err
	}
	data = f.enc.append(data, frameHeader{kind: frameFiled, journal: f.number, before: int32(f.before)}, nil)
	if err := errors.Join(appendFile(file, data), file.Sync()); err != nil {
		m.name = "" // what of it is there is found out the next time
		return err
	}
	m.end += int64(len(data))
	return nil
}

func monthName(t time.Time) string { return t.UTC().Format("2006-01") + monthSuffix }

// renew begins a new journal with what is not filed; last: all is written.
func (f *files) renew(last bool) error {
	names := map[string]int{}
	f.number++
	data, err := f.frames(f.unfiled, &f.filing, names)
	if err != nil {
		return err
	}
	text := f.stateJSON(f.alive, true, last)
	if f.previous != nil { // what it says is still to be accounted for
		if text, err = json.Marshal(f.previous); err != nil {
			return err
		}
	}
	data = f.enc.append(data, frameHeader{kind: frameState, journal: f.number}, text)
	path := filepath.Join(f.l.o.Dir, journalName)
	fresh, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	if err := errors.Join(appendFile(fresh, data), fresh.Sync(), os.Rename(path+".new", path)); err != nil {
		_ = fresh.Close()
		return err
	}
	if f.journal != nil {
		_ = f.journal.Close()
	}
	f.journal, f.names = fresh, names
	if err := syncDir(f.l.o.Dir); err != nil {
		return err
	}
	f.stale = false
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// expire removes the files of months that are older than what is kept. As many
// as that time has months stay in any case: a clock that is set to 2100 for a
// minute must not cost a year's figures.
func (f *files) expire(now time.Time) {
	oldest := monthName(now.Add(-f.l.o.Keep))
	names := months(f.l.o.Dir)
	const month = 28 * 24 * time.Hour
	stay := int(f.l.o.Keep/month) + 2 // begun and unfinished ones among them
	for _, name := range names[:max(len(names)-stay, 0)] {
		if name < oldest {
			if err := os.Remove(filepath.Join(f.l.o.Dir, name)); err != nil {
				f.l.log.Warn("an old file of the connectivity ledger cannot be removed", "file", name, "error", err)
			}
		}
	}
}

// months returns the names of the months' files, the oldest first.
func months(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name := e.Name(); len(name) == len("2006-01"+monthSuffix) && strings.HasSuffix(name, monthSuffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (f *files) close() {
	if f.journal != nil {
		_ = f.journal.Close()
	}
	if f.lock != nil {
		_ = f.lock.Close()
	}
	f.journal, f.lock, f.opened = nil, nil, false
}

// resume accounts for the time in which no agent ran: what was due then, and
// the outages that nobody saw the end of.
func (f *files) resume(now time.Time) {
	p := f.previous
	f.resumed = true
	from := time.UnixMilli(p.Alive)
	to := now.Add(f.l.started - f.l.elapsed()) // when this run began
	for _, o := range p.Outages {
		o.To, o.Cut = p.Alive, true
		f.events.Outages = append(f.events.Outages, o)
	}
	if p.Alive < sane || !from.Before(to) {
		return
	}
	if kept := now.Add(-f.l.o.Keep); from.Before(kept) {
		from = kept
	}
	ended := EndedKilled
	if p.Stopped {
		ended = EndedStopped
	}
	f.events.Pauses = append(f.events.Pauses, Pause{From: from.UnixMilli(), To: to.UnixMilli(), Ended: ended})
	for id, groups := range p.Plan {
		for _, g := range groups {
			eachHour(from, to, g, func(h, turns int64) {
				add(f.unwritten, key{id, h}, &Counts{Expected: turns * int64(g.Tags)})
			})
		}
	}
	f.l.log.Info("the connectivity ledger goes on", "after", to.Sub(from).Round(time.Second), "ended", ended)
}
