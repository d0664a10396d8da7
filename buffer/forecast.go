package buffer

import (
	"math"
	"time"

	"millrace/buffer/internal/meter"
)

// Forecast is the buffer in time rather than in bytes: how long an outage it
// holds, and where it is going, if all goes on as in the last minutes.
type Forecast struct {
	// Known: enough was seen. In the first minute of a run, or while few
	// batches came, it is false and the rest says nothing, but for a trend
	// that is TrendFull already and what belongs to it.
	Known bool
	// Rate is by how many bytes a second the files grow while an uplink is
	// away; while the disk takes nothing, the memory.
	Rate float64
	// Holds is how long an outage may last, from an empty buffer on, before
	// the first batch is given up; at most MaxHolds. HoldsLimit ends it.
	Holds      time.Duration
	HoldsLimit Limit
	// Trend is where the backlog is going.
	Trend Trend
	// Left is how long it takes until the first batch is given up while the
	// trend is TrendFilling; 0 otherwise, and where nothing will be.
	// FullLimit is what it then meets.
	Left      time.Duration
	FullLimit Limit
	// Full is when Left is over, by the wall clock; zero: Left is 0.
	Full time.Time
	// Drained is how long it takes until all uplinks have everything, while
	// the trend is TrendDraining; 0 otherwise. Empty is when that is.
	Drained time.Duration
	Empty   time.Time
}

// Limit is what bounds the buffer.
type Limit string

// The limits, as a Forecast names them.
const (
	LimitNone   Limit = ""           // nothing ends it within MaxHolds
	LimitSize   Limit = "max_size"   // Options.MaxSize
	LimitAge    Limit = "max_age"    // Options.MaxAge
	LimitSpace  Limit = "disk_space" // the file system has less room than MaxSize
	LimitMemory Limit = "memory"     // the disk takes nothing
)

// Trend is where the backlog is going.
type Trend string

// The trends.
const (
	TrendUnknown  Trend = "unknown"  // not enough was seen
	TrendEmpty    Trend = "empty"    // all uplinks keep up
	TrendFilling  Trend = "filling"  // some uplink falls behind
	TrendDraining Trend = "draining" // those that are behind catch up
	TrendStanding Trend = "standing" // neither
	TrendFull     Trend = "full"     // the limit is reached: the oldest batches go
)

// MaxHolds bounds Forecast.Holds: ten years.
const MaxHolds = 10 * 365 * 24 * time.Hour

const (
	// The first seconds are not like the rest: all values are new, and all
	// devices are read at once.
	settleTime = 15 * time.Second
	minSpan    = 45 * time.Second // to know the rate, with minBatches in it
	minBatches = 10
	rareSpan   = 10 * time.Minute // to know it with fewer

	meterStep  = 10 * time.Second
	meterSpan  = time.Hour       // looked back where batches are rare
	rateWindow = 5 * time.Minute // looked back where they are not
	rareWindow = 20              // batches in rateWindow: fewer are rare
	ackWindow  = time.Minute     // looked back for what an uplink acknowledges
	minAckSpan = 10 * time.Second

	// An uplink is behind if what arrives in that time waits for it.
	behindTime    = 15 * time.Second
	behindBatches = 2
	// A backlog that changes by less than this part of what arrives stands.
	standing = 0.02

	sampleBytes = chunkSize / 2 // compressed to learn the ratio, and so seldom:
	sampleEvery = time.Minute
	lookAtSpace = 30 * time.Second

	// recordOverhead is about what a record takes in a chunk beside its data.
	recordOverhead = 8
	// spareOverhead is for the pages that a segment has beside those of its
	// chunks: its tree's, and some that commits left behind.
	spareOverhead = 1.1
)

// flow is what a forecast is made of. The buffer's lock covers it.
type flow struct {
	raw     uint64 // bytes appended, with recordOverhead
	bytes   *meter.Meter
	batches *meter.Meter

	ratio    float64 // compressed to raw, of late; 0: not known
	overhead float64 // growth of the file to what is written into it
	measured bool    // it was seen in commits
	base     int64   // size of the current segment after its first commit
	stored   int64   // chunks that were written to it since

	sample   sample
	room     int64 // what the file system has for our files, those that are there included; -1: not known
	lookedAt time.Duration
	calm     losses // when no limit was met
}

// sample is a copy of some records, for the writer to compress: while the
// uplinks keep up, nothing else is.
type sample struct {
	next  time.Duration // when it begins
	until time.Duration // when it ends, though not full; 0: it has not begun
	ready bool          // the writer's turn
	recs  []Record
	data  []byte
}

func newFlow() flow {
	return flow{
		bytes:   meter.New(meterStep, int(meterSpan/meterStep)+1),
		batches: meter.New(meterStep, int(meterSpan/meterStep)+1),
		sample:  sample{next: settleTime / 3, data: make([]byte, 0, sampleBytes)},
		room:    -1,
	}
}

func newAckMeter() *meter.Meter { return meter.New(meterStep, int(ackWindow/meterStep)+2) }

// note takes a record that is being appended. It is cheap and, as a rule,
// allocates nothing.
func (b *Buffer) note(r *Record, at time.Duration) {
	f := &b.flow
	f.raw += uint64(len(r.Data) + recordOverhead)
	if at >= settleTime && f.bytes.Due(at) {
		b.readMeters(at)
	}
	if s := &f.sample; !s.ready && at >= s.next && s.take(r, at, b.o.CommitInterval) {
		b.kickWriter()
	}
}

// readMeters notes the totals, for the rates.
func (b *Buffer) readMeters(at time.Duration) {
	b.flow.bytes.Add(at, b.flow.raw)
	b.flow.batches.Add(at, b.counts.appended)
	for _, u := range b.uplinks {
		u.acks.Add(at, u.acked)
	}
}

// take copies a record into the sample, which is to be like a commit: what
// arrives in one interval. It returns whether the sample is ready.
func (s *sample) take(r *Record, at, interval time.Duration) bool {
	if s.until == 0 {
		s.until = at + max(interval, 10*time.Millisecond)
	}
	fits := len(s.data)+len(r.Data) <= cap(s.data)
	if fits && at < s.until {
		start := len(s.data)
		s.data = append(s.data, r.Data...)
		c := *r
		c.Seq = uint64(len(s.recs)) + 1
		c.Data = s.data[start:]
		s.recs = append(s.recs, c)
		return false
	}
	s.ready = len(s.recs) > 0
	if !s.ready { // a record that is larger than a sample: never mind
		s.restart(at)
	}
	return s.ready
}

// restart begins to wait for the next sample.
func (s *sample) restart(now time.Duration) {
	s.recs, s.data = s.recs[:0], s.data[:0]
	s.next, s.until, s.ready = now+sampleEvery, 0, false
}

// weigh compresses the sample, if there is one, and looks how much room the
// file system has. It belongs to the writer.
func (b *Buffer) weigh() {
	now := b.clock()
	b.mu.Lock()
	ready, look := b.flow.sample.ready, b.flow.room < 0 || now-b.flow.lookedAt >= lookAtSpace
	recs := b.flow.sample.recs // left alone by others while it is ready
	b.mu.Unlock()
	packed, raw := 0, 0
	if ready {
		packed, raw = b.w.pack(recs)
	}
	free := int64(-1)
	if look {
		free = freeSpace(b.o.Dir)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if ready {
		b.flow.learn(packed, raw)
		b.flow.sample.restart(now)
		if !b.flow.measured {
			b.flow.overhead = commitOverhead(packed, raw)
		}
	}
	if look {
		b.flow.room, b.flow.lookedAt = -1, now
	}
	if free >= 0 {
		records, aside := b.recordFiles()
		b.flow.room = records + aside + free
	}
}

// recordFiles returns the size of the segments, and of the damaged files that
// are kept; the lock is held.
func (b *Buffer) recordFiles() (segments, aside int64) {
	for _, s := range b.segments {
		segments += s.size
	}
	for _, a := range b.counts.setAside {
		aside += a.size
	}
	return segments, aside
}

// pack returns how large recs are in a chunk, and how large they were.
func (w *writerState) pack(recs []Record) (packed, raw int) {
	w.enc.reset(1, 0, 0)
	for i := range recs {
		w.enc.add(&recs[i])
		raw += len(recs[i].Data) + recordOverhead
	}
	w.scratch = w.enc.appendTo(w.scratch[:0])
	return len(w.scratch), raw
}

// learn takes how far some records could be compressed. The more there were
// of them, the more it counts.
func (f *flow) learn(packed, raw int) {
	const weight = 64 << 10
	ratio := float64(packed) / float64(max(raw, 1))
	if f.ratio == 0 {
		f.ratio = ratio
		return
	}
	f.ratio += (ratio - f.ratio) * float64(raw) / float64(raw+weight)
}

// learnCommit takes what a commit wrote, and the size of the pages that the
// segment has in use after it.
func (b *Buffer) learnCommit(created bool, used int64) {
	size := b.o.SegmentSize
	b.mu.Lock()
	defer b.mu.Unlock()
	f, raw := &b.flow, 0
	for i := range b.w.load.heads {
		raw += int(b.w.load.heads[i].rawLen)
	}
	f.learn(len(b.w.load.data), raw)
	f.sample.next = max(f.sample.next, b.clock()+sampleEvery) // it would say the same
	if created {
		f.base, f.stored = used, 0
		return
	}
	f.stored += int64(len(b.w.load.data))
	if f.stored >= min(64<<10, size/4) && f.base < size {
		grows := max(float64(used-f.base)/float64(f.stored), 1)
		f.overhead = grows * float64(size) / float64(size-f.base) // what each segment has anyhow
		f.measured = true
	}
	if f.overhead == 0 {
		f.overhead = commitOverhead(len(b.w.load.data), raw)
	}
}

// commitOverhead is about how much larger a segment is than the chunks in it
// if each commit brings so many bytes: a commit has pages of its own (load.put),
// and what is small enough is part of another's.
func commitOverhead(packed, raw int) float64 {
	const header, inline = 40, pageSize / 4
	if raw > sampleBytes*3/4 || packed < inline {
		return spareOverhead
	}
	pages := (header + packed + pageSize - 1) / pageSize
	return float64(pages*pageSize) / float64(packed) * spareOverhead
}

// forecast returns where the buffer is going; the lock is held. s is the rest
// of the look at the buffer.
func (b *Buffer) forecast(s *Stats) Forecast {
	at := b.clock()
	if at >= settleTime {
		b.readMeters(at)
	}
	in := outlook{now: b.Now(), maxAge: b.o.MaxAge, oldest: s.Oldest}
	bytes, known := b.flow.rates(at, b.counts.appended, &in)
	if b.diskWorks() {
		known = known && b.flow.ratio > 0
		in.rate = bytes * b.flow.ratio * b.flow.overhead
		in.limit, in.capacity = LimitSize, b.sizeLimit()
		in.used, _ = b.recordFiles() // damaged files are the first to go
		if room := b.flow.room; room >= 0 && room < in.capacity {
			in.limit, in.capacity = LimitSpace, room
		}
	} else {
		in.rate = bytes + in.batches*float64(entryCost(0)-recordOverhead)
		in.limit, in.capacity, in.used = LimitMemory, b.o.TailBytes, s.TailBytes
	}
	in.known = known
	underway := in.underway()
	for name, u := range b.uplinks {
		p := u.progress(at, s.Uplinks[name].Lag)
		in.uplinks = append(in.uplinks, p)
		if us := s.Uplinks[name]; known && p.behind(underway) && p.known {
			us.Drained = p.drained(in.batches)
			s.Uplinks[name] = us
		}
	}
	f := in.forecast()
	b.markFull(&f, s)
	return f
}

// rates returns the bytes that were appended per second, of late, and sets
// in.batches; known: enough was seen.
func (f *flow) rates(at time.Duration, appended uint64, in *outlook) (bytes float64, known bool) {
	window := rateWindow
	if n, _ := f.batches.Grown(at, appended, rateWindow); n < rareWindow {
		window = meterSpan
	}
	n, took := f.batches.Grown(at, appended, window)
	raw, _ := f.bytes.Grown(at, f.raw, window)
	known = took >= minSpan && n >= minBatches || took >= rareSpan
	seconds := max(took, time.Second).Seconds()
	in.batches = float64(n) / seconds
	return float64(raw) / seconds, known
}

// progress is how an uplink gets on.
type progress struct {
	lag   uint64
	acks  float64 // batches a second
	known bool
}

// progress returns how the uplink gets on; the lock is held.
func (u *uplink) progress(at time.Duration, lag uint64) progress {
	if !u.connected {
		return progress{lag: lag, known: true}
	}
	n, took := u.acks.Grown(at, u.acked, ackWindow)
	return progress{lag: lag, acks: float64(n) / max(took, time.Second).Seconds(), known: took >= minAckSpan}
}

// behind tells whether there is a backlog, rather than the batches that are
// under way anyhow.
func (p *progress) behind(underway float64) bool { return float64(p.lag) > underway }

// drained returns when the backlog is gone; 0: it does not get less.
func (p *progress) drained(rate float64) time.Duration {
	gain := p.acks - rate
	if gain <= standing*rate || gain <= 0 {
		return 0
	}
	return lasting(float64(p.lag) / gain)
}

// outlook is what is known of the buffer.
type outlook struct {
	now            time.Time
	known          bool
	rate           float64 // bytes a second, as the limit counts them
	batches        float64 // that arrive a second
	limit          Limit
	capacity, used int64
	maxAge         time.Duration // 0: none
	oldest         time.Time     // of those that wait; zero: none does
	uplinks        []progress
}

// forecast says what follows if all goes on like this.
func (o *outlook) forecast() Forecast {
	f := Forecast{Trend: TrendUnknown}
	if !o.known {
		return f
	}
	f.Known, f.Rate = true, o.rate
	f.Holds, f.HoldsLimit = o.untilFull(float64(max(o.capacity, 0)), 1, 0)
	var slowest float64 // the part of what arrives that stays here
	slowest, f.Trend, f.Drained = o.trend()
	switch f.Trend {
	case TrendFilling:
		age := time.Duration(0)
		if !o.oldest.IsZero() {
			age = max(o.now.Sub(o.oldest), 0)
		}
		f.Left, f.FullLimit = o.untilFull(float64(max(o.capacity-o.used, 0)), slowest, age)
		if f.FullLimit == LimitNone {
			f.Left = 0
		} else {
			f.Full = o.now.Add(f.Left)
		}
	case TrendDraining:
		f.Empty = o.now.Add(f.Drained)
	case TrendUnknown, TrendEmpty, TrendStanding, TrendFull:
	}
	return f
}

// underway is how many batches may wait for an uplink that keeps up: what
// arrives in behindTime, or in a quarter of the time that the buffer holds. A
// small one never has a backlog of behindTime: it gives it up.
func (o *outlook) underway() float64 {
	holds, _ := o.untilFull(float64(max(o.capacity, 0)), 1, 0)
	return max(behindBatches, o.batches*min(behindTime, holds/4).Seconds())
}

// untilFull returns how long room suffices while part of what arrives stays
// and the oldest batch is of that age, and what ends it.
func (o *outlook) untilFull(room, part float64, age time.Duration) (time.Duration, Limit) {
	left, limit := MaxHolds, LimitNone
	if grow := o.rate * part; grow > 0 && lasting(room/grow) < left {
		left, limit = lasting(room/grow), o.limit
	}
	// While an uplink falls behind, its oldest batch may not move at all.
	if o.maxAge > 0 && o.maxAge-age < left {
		left, limit = max(o.maxAge-age, 0), LimitAge
	}
	return left, limit
}

// trend looks at the uplinks that are behind: the one that falls behind
// fastest fills the buffer, and the one that is done last empties it.
func (o *outlook) trend() (stays float64, t Trend, drained time.Duration) {
	t = TrendEmpty
	unsure, stands := false, false
	underway := o.underway()
	for i := range o.uplinks {
		u := &o.uplinks[i]
		if !u.behind(underway) {
			continue
		}
		if !u.known {
			unsure = true
			continue
		}
		switch d := u.drained(o.batches); {
		case d > 0:
			drained = max(drained, d)
		case u.acks < o.batches*(1-standing) || u.acks == 0:
			part := 1.0
			if o.batches > 0 {
				part = 1 - u.acks/o.batches
			}
			stays, t = max(stays, part), TrendFilling
		default:
			stands = true
		}
	}
	switch {
	case t == TrendFilling:
		return stays, t, 0
	case unsure:
		return 0, TrendUnknown, 0
	case stands:
		return 0, TrendStanding, 0
	case drained > 0:
		return 0, TrendDraining, drained
	}
	return 0, TrendEmpty, 0
}

// lasting is a number of seconds as a duration, at most MaxHolds.
func lasting(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds >= MaxHolds.Seconds() {
		return MaxHolds
	}
	return time.Duration(seconds * float64(time.Second))
}
