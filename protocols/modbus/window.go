package modbus

import "time"

const (
	// windowScans is for how many whole scans a number of requests under way
	// is tried before the next one.
	windowScans = 5
	// windowGain is by how much more a second the doubled number must bring.
	windowGain = 1.2
)

// maxBroken is how many scans in a row may fail in the middle until the number
// of requests under way is taken for the reason.
const maxBroken = 2

// window finds out how many requests a unit bears at once (max_inflight:
// auto). It begins with one, and doubles the number while that brings more.
// A device that leaves a request of several without an answer is asked for
// it again alone, and never so many again.
type window struct {
	n       int // requests under way at once
	most    int // more are not tried
	settled bool
	scans   int     // whole ones with n
	rate    float64 // the best with n, in requests a second
	before  float64 // the best with half of n
	broken  int     // scans in a row that were not whole
}

func newWindow(settled int) window {
	if settled > 0 {
		return window{n: settled, most: settled, settled: true}
	}
	return window{n: 1, most: maxWindow}
}

// shrink notes that n at once were too many.
func (w *window) shrink() {
	if w.n > 1 {
		w.n /= 2
	}
	w.most, w.settled = w.n, true
}

// scanned takes in a scan of so many requests, with so many at once.
func (w *window) scanned(requests int, whole bool, at int, took time.Duration) {
	if w.settled || at != w.n || requests <= w.n {
		return
	}
	if !whole {
		// Once may be bad luck; a device that closes the connection does so again.
		w.broken++
		if w.broken >= maxBroken && w.n > 1 {
			w.shrink()
		}
		return
	}
	w.broken = 0
	w.scans++
	w.rate = max(w.rate, float64(requests)/max(took.Seconds(), 1e-6))
	if w.scans < windowScans {
		return
	}
	switch {
	case w.n > 1 && w.rate < windowGain*w.before:
		w.n /= 2
		w.settled = true
	case 2*w.n > w.most:
		w.settled = true
	default:
		w.n *= 2
	}
	w.before, w.rate, w.scans = w.rate, 0, 0
}
