package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/cmd/millrace/tail"
	"millrace/protocols/mqtt"
)

const (
	// tailSummary is how often a terminal gets a summary.
	tailSummary = 10 * time.Second
	// tailTick is how often is looked whether something is to be done.
	tailTick = 100 * time.Millisecond
	// tailBacklog and tailBacklogBytes bound what waits to be shown. What is
	// more is passed over: a broker throws out who does not read.
	tailBacklog      = 10_000
	tailBacklogBytes = 32 << 20
	// tailPatience is how long the end waits for who reads the output.
	tailPatience = 500 * time.Millisecond
)

// tailer shows what a Listener hears.
type tailer struct {
	t        terminal
	job      *tailJob
	tail     *tail.Tail
	printer  tail.Printer
	listener *mqtt.Listener
	now      func() time.Time
	term     bool // the output is a terminal
	start    time.Time
	told     time.Time // when the last summary was shown
	shown    uint64
	out      []byte
	up       atomic.Bool // there was a connection

	mu     sync.Mutex
	queue  []heard
	bytes  int           // of their bodies
	passed int           // messages that there was no room for
	torn   bool          // messages may be missing before the next one
	ready  chan struct{} // holds a token when there is something in the queue
}

// heard is one message that waits to be shown.
type heard struct {
	tail.Message
	torn bool // messages may be missing before it
}

func newTailer(t terminal, job *tailJob) (*tailer, error) {
	f := &tailer{t: t, job: job, now: time.Now, ready: make(chan struct{}, 1)}
	f.tail = tail.New(tail.Options{Filter: job.filter, Topics: job.listen.Topics, Partial: job.partial, Unit: job.unit, NoRebirth: job.noRebirth})
	if file, ok := t.out.(*os.File); ok {
		info, err := file.Stat()
		f.term = err == nil && info.Mode()&os.ModeCharDevice != 0 && !job.asJSON
	}
	f.printer = tail.Printer{Zone: time.Local, All: job.all, Color: f.term && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	job.listen.Message = f.hear
	var err error
	f.listener, err = mqtt.NewListener(job.listen)
	return f, err
}

// hear takes a message from the connection, which must not wait.
func (f *tailer) hear(topic string, body []byte, retained bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) >= tailBacklog || f.bytes+len(body) > tailBacklogBytes && len(f.queue) > 0 {
		f.passed++
		f.torn = true
		return
	}
	f.queue = append(f.queue, heard{tail.Message{Topic: topic, Body: body, Retained: retained, Received: f.now()}, f.torn})
	f.torn = false
	f.bytes += len(body)
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// take takes what waits, and how many messages there was no room for.
func (f *tailer) take() (queue []heard, passed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	queue, passed = f.queue, f.passed
	f.queue, f.bytes, f.passed = nil, 0, 0
	return queue, passed
}

// run listens and shows until ctx ends, or the time or the count is over.
func (f *tailer) run(ctx context.Context) int {
	if f.job.duration > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.job.duration)
		defer stop()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	listened, showed := make(chan error, 1), make(chan struct{})
	go func() { listened <- f.listen(ctx) }()
	go func() {
		defer close(showed)
		defer stop()
		f.show(ctx)
	}()
	err := <-listened
	stop()
	select {
	case <-showed:
	case <-time.After(tailPatience): // nobody reads the output
		return exitFailed
	}
	switch {
	case err != nil:
		f.t.errorf("millrace tail: %s\n", f.job.words(err))
		return exitFailed
	case f.job.count > 0 && f.job.duration > 0 && f.shown < f.job.count:
		f.t.errorf("millrace tail: %d of %d messages came in %v\n", f.shown, f.job.count, f.job.duration)
		return exitFailed
	}
	return exitDone
}

// listen listens to the broker, session after session. Only where there was
// none yet it gives up.
func (f *tailer) listen(ctx context.Context) error {
	wait, told, once := reconnectFirst, "", false
	for {
		err := f.listener.Listen(ctx, func() {
			f.say("connected to %s; listening to %s", f.listener.Broker(), strings.Join(f.job.listen.Topics, ", "))
			wait, told, once = reconnectFirst, "", true
			f.up.Store(true)
		})
		if err == nil || !once {
			return err
		}
		f.tear()
		if text := f.job.words(err); text != told {
			f.say("%s; trying again", text)
			told = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectLongest)
	}
}

// tear notes that what came while there was no connection passed us by.
func (f *tailer) tear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.torn = true
}

// say tells how it goes, beside what is shown.
func (f *tailer) say(format string, args ...any) {
	f.t.errorf("millrace tail: %s\n", fmt.Sprintf(format, args...))
}

// show shows what is heard.
func (f *tailer) show(ctx context.Context) {
	f.start = f.now()
	f.told = f.start
	tick := time.NewTicker(tailTick)
	defer tick.Stop()
	for {
		select {
		case <-f.ready:
		case <-tick.C:
		case <-ctx.Done():
			f.showQueue(ctx)
			if f.up.Load() {
				f.summary()
			}
			return
		}
		if !f.showQueue(ctx) {
			f.summary()
			return
		}
		if f.term && f.now().Sub(f.told) >= tailSummary {
			f.summary()
		}
	}
}

// showQueue shows what waits, and returns false when it was the last.
func (f *tailer) showQueue(ctx context.Context) bool {
	queue, passed := f.take()
	for i := range queue {
		if queue[i].torn {
			f.tail.Tear()
		}
		e := f.tail.Take(queue[i].Message)
		queue[i].Body = nil
		if e == nil {
			continue
		}
		f.event(e)
		f.shown++
		if f.job.count > 0 && f.shown >= f.job.count {
			return false
		}
	}
	if passed > 0 {
		f.say("the output is too slow: %s passed over, and not counted", amount(uint64(passed), "message was", "messages were"))
	}
	for ctx.Err() == nil {
		topic, body, ok := f.tail.Rebirth(f.now())
		if !ok {
			break
		}
		if f.listener.Publish(topic, body) == nil {
			f.say("asked for births: %s", topic)
		}
	}
	return true
}

func (f *tailer) event(e *tail.Event) {
	if !f.job.asJSON {
		f.t.printf("%s", f.printer.Text(e))
		return
	}
	var err error
	if f.out, err = e.AppendJSON(f.out[:0]); err != nil {
		f.say("%v", err)
		return
	}
	f.t.printf("%s", f.out)
}

// summary shows what came so far.
func (f *tailer) summary() {
	now := f.now()
	f.told = now
	s := f.tail.Summary(now.UnixMilli(), now.Sub(f.start).Seconds())
	if !f.job.asJSON {
		f.t.printf("%s", f.printer.Summary(&s))
		return
	}
	var err error
	if f.out, err = s.AppendJSON(f.out[:0]); err == nil {
		f.t.printf("%s", f.out)
	}
}
