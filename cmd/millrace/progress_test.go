package main

import (
	"bytes"
	"testing"
	"time"
)

// TestProgress: short work says nothing; long work does now and then.
func TestProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.UnixMilli(0)
	p := newProgress(terminal{&out, &out}, "exported")
	p.start, p.now = now, func() time.Time { return now }
	pass := func(ms int, done int64) {
		now = now.Add(time.Duration(ms) * time.Millisecond)
		p.bytes(done<<20, 1000<<20)
	}
	pass(900, 100)
	if out.Len() > 0 {
		t.Errorf("said %q", out.String())
	}
	for i := range 100 {
		pass(100, 100+int64(i))
	}
	p.end()
	want := " 10 %  exported 100.0 MiB of 1000.0 MiB, 9 s left\n 15 %  exported 150.0 MiB of 1000.0 MiB, 34 s left\n"
	if out.String() != want {
		t.Errorf("said %q, want %q", out.String(), want)
	}
	out.Reset()
	p.term, p.told = true, time.Time{}
	pass(100, 500)
	p.lines(5000, 0)
	pass(200, 510)
	p.end()
	want = "\r\033[K 50 %  exported 500.0 MiB of 1000.0 MiB, 11 s left\r\033[K 51 %  exported 510.0 MiB of 1000.0 MiB, 10 s left\r\033[K"
	if out.String() != want {
		t.Errorf("said %q, want %q", out.String(), want)
	}
}
