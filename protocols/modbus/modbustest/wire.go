package modbustest

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// exact is how long before it is due the end of a wait is left to nap:
	// more than the runtime's timers are late.
	exact = 1500 * time.Microsecond
	// opening is how often a closed serial port is looked at.
	opening = 2 * time.Millisecond
)

// wire is a line that is plugged in. What it holds beside its channels is
// owned by the goroutine that runs it: the only one that sends.
//
// Nothing but a frame's characters takes time on the line, and each has its
// place in time that follows from the one before: a wait that ends late
// makes one frame late, and not those behind it.
type wire struct {
	line    *Line
	master  *os.File
	path    string
	cancel  context.CancelFunc
	running sync.WaitGroup
	heard   chan arrival
	poke    chan struct{} // something else has changed
	sent    atomic.Bool   // something may be unread in the serial port

	split   splitter
	keeper  keeper
	todo    []request
	late    []lateAnswer // by when they are due
	lastEnd time.Time    // the end of the last character on the line
	quiet   time.Time    // when the client may have heard it
	sentEnd time.Time    // the end of the last frame that was not the client's
	sending bool         // what is heard now collides
	spoilt  bool         // and something has
	echoes  []echo       // that are not sent yet
	echoing bool
}

// arrival is what the client wrote, and when that was seen.
type arrival struct {
	at    time.Time
	bytes []byte
}

// request is a frame of the client, whose last character ended at end.
type request struct {
	frame []byte // in the form of TCP
	end   time.Time
}

// echo is characters of the client that it is to hear.
type echo struct {
	begin time.Time
	bytes []byte
}

// lateAnswer is an answer that comes out of turn.
type lateAnswer struct {
	due time.Time
	q   *exchange
}

// listen hands on what the client writes.
func (w *wire) listen(ctx context.Context) {
	var buf [4096]byte
	for {
		n, err := w.master.Read(buf[:])
		if n > 0 {
			select {
			case w.heard <- arrival{time.Now(), slices.Clone(buf[:n])}:
			case <-ctx.Done():
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, syscall.EIO): // nobody has the serial port open
			if w.sent.Swap(false) {
				dropUnread(w.path)
			}
			if pause(ctx, opening) != nil {
				return
			}
		default:
			return
		}
	}
}

// run is the line's life.
func (w *wire) run(ctx context.Context) {
	for ctx.Err() == nil {
		if len(w.todo) == 0 {
			w.idle(ctx, time.Time{})
			continue
		}
		q := w.todo[0]
		w.todo = w.todo[1:]
		w.answer(ctx, q)
	}
}

// idle waits until the given time, or until there is a request if that is
// zero. Meanwhile it sends what comes out of turn.
func (w *wire) idle(ctx context.Context, until time.Time) {
	for ctx.Err() == nil {
		if until.IsZero() && len(w.todo) > 0 {
			return
		}
		next := until
		if len(w.late) > 0 && (next.IsZero() || w.late[0].due.Before(next)) {
			next = w.late[0].due
		}
		g := w.line.foreigner.Load()
		if g != nil && (next.IsZero() || g.next.Before(next)) {
			next = g.next
		}
		if !w.wait(ctx, next, true) {
			continue // something has changed
		}
		switch {
		case len(w.late) > 0 && !w.late[0].due.After(next):
			l := w.late[0]
			w.late = w.late[1:]
			w.answerNow(ctx, l.q, l.due, true)
		case g != nil && !g.next.After(next):
			w.foreign(ctx, g.request(), !g.Collide)
			g.schedule(time.Now())
		default:
			return
		}
	}
}

// wait waits until the given time; zero is for ever. It hears what the client
// writes, and is false if it ended for that, where that is wanted.
func (w *wire) wait(ctx context.Context, until time.Time, wake bool) bool {
	woken := w.hear(ctx)
	for ctx.Err() == nil && (!wake || !woken) {
		d := time.Until(until)
		switch {
		case until.IsZero():
			woken = w.sleep(ctx, nil)
		case d <= 0:
			return true
		case d <= exact:
			nap(d)
			woken = w.hear(ctx)
		default:
			t := time.NewTimer(d - exact*2/3)
			woken = w.sleep(ctx, t.C)
			t.Stop()
		}
	}
	return false
}

// sleep waits for the timer. It is true if something else came before.
func (w *wire) sleep(ctx context.Context, timer <-chan time.Time) bool {
	select {
	case a := <-w.heard:
		w.place(ctx, a)
	case <-w.poke:
	case <-ctx.Done():
	case <-timer:
		return false
	}
	return true
}

// hear takes what the client wrote so far. It is false if that is nothing.
func (w *wire) hear(ctx context.Context) bool {
	for heard := false; ; heard = true {
		select {
		case a := <-w.heard:
			w.place(ctx, a)
		default:
			return heard
		}
	}
}

// place gives the client's characters their place in time.
func (w *wire) place(ctx context.Context, a arrival) {
	l := w.line
	begin := latest(a.at, w.lastEnd)
	if w.sending {
		begin = a.at
	}
	end := begin.Add(l.chars(len(a.bytes)))
	gap := begin.Sub(w.lastEnd)
	l.count(func(s *Stats) { s.Busy += l.chars(len(a.bytes)) })
	w.lastEnd = latest(w.lastEnd, end)
	if w.sending {
		l.count(func(s *Stats) { s.Collisions++ })
		w.spoilt = true
		w.split.lost = true
		w.quiet = latest(w.quiet, end)
		return
	}
	if l.o.Baud > 0 {
		w.split.silent(gap, l.silence)
	} else {
		w.split.silent(gap, apart)
	}
	soon := w.split.between() && !w.quiet.IsZero() && a.at.Sub(w.quiet) < l.silence-l.char/2
	w.quiet = latest(w.quiet, end)
	w.split.add(a.bytes, func(frame []byte) {
		l.count(func(s *Stats) {
			s.Requests++
			s.Silence += l.silence
			if soon {
				s.TooSoon++
			}
		})
		soon = l.silence > 0 // the next one, in one piece with this one
		w.todo = append(w.todo, request{fromRTU(frame), end})
	})
	if l.o.Echo {
		w.echoes = append(w.echoes, echo{begin, a.bytes})
		w.echo(ctx)
	}
}

// echo lets the client hear what it wrote, and what it writes meanwhile.
func (w *wire) echo(ctx context.Context) {
	if w.echoing {
		return
	}
	w.echoing = true
	for len(w.echoes) > 0 {
		e := w.echoes[0]
		w.echoes = w.echoes[1:]
		w.emit(ctx, e.begin, e.bytes, 0)
	}
	w.echoing = false
}

// answer lets the unit that is asked answer, if it is there.
func (w *wire) answer(ctx context.Context, q request) {
	s := w.line.server.Load()
	if s == nil || q.frame[mbap] == broadcast {
		return
	}
	u := s.units[q.frame[mbap]].Load()
	if u == nil {
		return
	}
	n := u.requests.Add(1)
	x := &exchange{unit: u, frame: q.frame, request: parseRequest(q.frame), came: q.end}
	if plan := u.plan.Load(); plan != nil {
		x.fault = (*plan)(n, x.request)
	}
	f := &x.fault
	from, takes := q.end.Add(w.line.silence), w.line.o.Turnaround+f.Delay
	if len(f.Foreign) > 0 && f.ForeignWhen == MidWait {
		w.idle(ctx, from.Add(takes/2))
		w.foreigners(ctx, f)
	}
	w.idle(ctx, from.Add(takes))
	if f.Late > 0 {
		w.late = append(w.late, lateAnswer{from.Add(takes + f.Late), x})
		slices.SortStableFunc(w.late, func(a, b lateAnswer) int { return a.due.Compare(b.due) })
		return
	}
	if !f.Drop {
		w.line.count(func(s *Stats) { s.Turnaround += takes })
	}
	w.answerNow(ctx, x, from.Add(takes), false)
}

// answerNow sends the answer to x, with what is heard around it. A polite
// answer does not collide.
func (w *wire) answerNow(ctx context.Context, x *exchange, from time.Time, polite bool) {
	f := &x.fault
	if f.ForeignWhen == BeforeAnswer {
		w.foreigners(ctx, f)
	}
	server := w.line.server.Load()
	if !f.Drop && !f.Reset && !f.HalfClose && (server == nil || !server.tooOld(x.came)) {
		if server != nil && server.tooOld(w.keeper.since) {
			w.keeper.held = nil
		}
		var out [2 * maxFrame]byte
		size := x.unit.respond(time.Now(), x.frame, x.request, f.Exception, out[:])
		oldest := w.keeper.oldest(x.came)
		var first time.Time // when the first piece was sent
		for i, piece := range w.keeper.frames(f, out[:size], x.came) {
			w.line.count(func(s *Stats) { s.Answers++; s.Silence += w.line.silence })
			w.send(ctx, from, piece, f.Slowly, polite)
			if server == nil {
				continue
			}
			server.noteSent(oldest)
			if i > 0 {
				server.noteGap(first, w.line.silence+w.line.chars(len(piece))+time.Duration(len(piece))*f.Slowly)
			}
			first = time.Now()
		}
	}
	if f.ForeignWhen == AfterAnswer {
		w.foreigners(ctx, f)
	}
}

// foreigners lets what another master asks, and the answers, be heard.
func (w *wire) foreigners(ctx context.Context, f *Fault) {
	for _, r := range f.Foreign {
		w.foreign(ctx, r, true)
	}
}

func (w *wire) foreign(ctx context.Context, r Request, polite bool) {
	frames := [][]byte{}
	if s := w.line.server.Load(); s != nil {
		frames = s.foreign(r)
	}
	w.line.count(func(s *Stats) { s.Foreign++ })
	from := time.Now()
	for _, frame := range frames {
		w.line.count(func(s *Stats) { s.Silence += w.line.silence })
		w.send(ctx, from, frame, 0, polite)
		from, polite = w.lastEnd.Add(w.line.silence+w.line.o.Turnaround), true
	}
}

// send puts a frame on the line, not sooner than from and when the frame
// before it is over. What is not polite begins even if the client sends.
func (w *wire) send(ctx context.Context, from time.Time, raw []byte, slowly time.Duration, polite bool) {
	begin := latest(from, w.sentEnd.Add(w.line.silence))
	w.wait(ctx, begin, false)
	for polite && begin.Before(w.lastEnd.Add(w.line.silence)) {
		begin = w.lastEnd.Add(w.line.silence)
		w.wait(ctx, begin, false)
	}
	w.sending, w.spoilt = true, false
	if w.lastEnd.After(begin) { // the client's characters are still on the line
		w.line.count(func(s *Stats) { s.Collisions++ })
		w.todo = slices.DeleteFunc(w.todo, func(q request) bool { return q.end.After(begin) })
		w.spoilt = true
	}
	w.sentEnd = w.emit(ctx, begin, raw, slowly)
	w.line.count(func(s *Stats) { s.Busy += w.line.chars(len(raw)) })
	w.sending, w.spoilt = false, false
}

// emit lets the client hear bytes whose first one begins at the given time,
// and returns when the last one ends.
func (w *wire) emit(ctx context.Context, begin time.Time, raw []byte, slowly time.Duration) time.Time {
	step := len(raw)
	switch {
	case slowly > 0:
		step = 1
	case w.line.char > 0:
		step = w.line.o.Chunk
	}
	end := begin
	for len(raw) > 0 && ctx.Err() == nil {
		piece := raw[:min(step, len(raw))]
		raw = raw[len(piece):]
		end = end.Add(w.line.chars(len(piece)))
		w.wait(ctx, end, false)
		if w.spoilt {
			piece = slices.Clone(piece)
			for i := range piece {
				piece[i] ^= 0x55
			}
		}
		now := time.Now()
		if put(w.master, piece) {
			w.sent.Store(true)
		}
		w.quiet = latest(w.quiet, now)
		if len(raw) == 0 {
			w.line.count(func(s *Stats) { s.Lag += max(0, now.Sub(end)) })
			break
		}
		end = end.Add(slowly)
	}
	w.lastEnd, w.quiet = latest(w.lastEnd, end), latest(w.quiet, end)
	return end
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
