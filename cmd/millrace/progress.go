package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

const (
	progressFirst = time.Second            // shorter work shows none
	progressTerm  = 200 * time.Millisecond // how often a line on a terminal changes
	progressLines = 5 * time.Second        // how often a log gets a line
)

// progress says on standard error how far long work is: in one line that
// changes on a terminal, in a line now and then elsewhere.
type progress struct {
	w     io.Writer
	what  string
	term  bool
	now   func() time.Time
	start time.Time
	told  time.Time // zero: nothing was said yet
}

func newProgress(t terminal, what string) *progress {
	p := &progress{w: t.err, what: what, now: time.Now, start: time.Now()}
	if f, ok := t.err.(*os.File); ok {
		info, err := f.Stat()
		p.term = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// bytes is told how many bytes of how many are done.
func (p *progress) bytes(done, total int64) {
	p.tell(done, total, func() string { return sizeText(done) + " of " + sizeText(total) })
}

// lines is told how many lines of about how many are done.
func (p *progress) lines(done, total int64) {
	p.tell(done, total, func() string { return amount(uint64(done), "line", "lines") })
}

// nodes is told how many nodes were walked and how many tags were found; how
// many there are nobody knows.
func (p *progress) nodes(walked, found int) {
	p.tell(0, 0, func() string {
		return fmt.Sprintf("%s, found %s", amount(uint64(walked), "node", "nodes"), amount(uint64(found), "tag", "tags"))
	})
}

func (p *progress) tell(done, total int64, text func() string) {
	now := p.now()
	every := progressLines
	if p.term {
		every = progressTerm
	}
	if now.Sub(p.start) < progressFirst || !p.told.IsZero() && now.Sub(p.told) < every {
		return
	}
	p.told = now
	line := p.what + " " + text()
	if total > 0 {
		part := min(float64(done)/float64(total), 1)
		line = fmt.Sprintf("%3.0f %%  %s", 100*part, line)
		if left := time.Duration(float64(now.Sub(p.start)) * (1 - part) / max(part, 0.001)); part > 0.01 {
			line += ", " + agoText(left) + " left"
		}
	}
	if p.term {
		fmt.Fprintf(p.w, "\r\033[K%s", line)
		return
	}
	fmt.Fprintln(p.w, line)
}

// end clears the line away.
func (p *progress) end() {
	if p.term && !p.told.IsZero() {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
