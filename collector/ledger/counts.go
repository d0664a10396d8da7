package ledger

import (
	"math"
	"time"
)

// Counts are what is known of one device in one hour: readings, the time it
// spent in each state, and how fast it answered. Counts of the same device
// and hour add up, so that what becomes known later (an acknowledgement after
// an outage of the uplink) is a row of its own.
type Counts struct {
	// Expected (应采) is how many readings were due: the tags of each scan, for
	// every turn that it had on the clock, whether or not the scan was made and
	// whether or not the agent ran. For a subscription, whose device reports by
	// itself, a tag is due once in each sampling interval.
	Expected int64
	// Read (实采) is how many values the device gave. A refusal is no value, and a
	// value that is no good is one. For a subscription: the intervals in which
	// the device watched the tag for us.
	Read int64
	// Good (有效) is how many of them were good.
	Good int64
	// Sent is how many good readings were handed to the buffer: fewer than Good
	// where only changes are sent.
	Sent int64
	// Filtered is how many of them were not for the uplink whose deliveries are
	// counted.
	Filtered int64
	// Delivered (送达) is how many the broker has acknowledged.
	Delivered int64
	// Dropped are those that will never come, by Reason.
	Dropped [reasons]int64

	// The time in each state; the rest of the hour the agent did not run.
	Online, Degraded, Offline, Disabled time.Duration

	// Connects is how often the connection was made again.
	Connects int64
	// Outages is how many began.
	Outages int64

	// Answers are how long scans took, by bucket: see Quantile.
	Answers [buckets]uint32
}

// Reason is why readings will never come.
type Reason uint8

// The reasons are those of gap notices.
const (
	BufferFull Reason = iota
	TooOld
	Damaged
	DiskError
	Crash
	Refused
	otherReason
	reasons
)

// Reasons returns the names of all reasons, in the order of Counts.Dropped.
func Reasons() [reasons]string {
	return [reasons]string{"buffer_full", "too_old", "damaged", "disk_error", "crash", "refused", "other"}
}

// ReasonOf returns the reason with a name.
func ReasonOf(name string) Reason {
	for i, n := range Reasons() {
		if n == name {
			return Reason(i)
		}
	}
	return otherReason
}

// Lost is how many readings were dropped, for whatever reason.
func (c *Counts) Lost() (n int64) {
	for _, d := range c.Dropped {
		n += d
	}
	return n
}

// Due is how many readings the uplink was to get.
func (c *Counts) Due() int64 { return c.Sent - c.Filtered }

// Answering is how long the device answered, in whole or in part.
func (c *Counts) Answering() time.Duration { return c.Online + c.Degraded }

// Observed is how long the agent ran and had the device.
func (c *Counts) Observed() time.Duration { return c.Online + c.Degraded + c.Offline + c.Disabled }

// Add adds o to c.
func (c *Counts) Add(o *Counts) {
	var mine, other columns
	mine.of(c)
	other.of(o)
	for i := range mine {
		mine[i] += other[i]
	}
	mine.to(c)
	for i, n := range o.Answers {
		c.Answers[i] += n
	}
}

func (c *Counts) zero() bool { return *c == Counts{} }

// columns are the numbers of Counts, in the order in which they are stored.
// New ones are added at the end: files say how many they have.
type columns [12 + int(reasons)]int64

func (v *columns) of(c *Counts) {
	*v = columns{
		c.Expected, c.Read, c.Good, c.Sent, c.Filtered, c.Delivered,
		c.Online.Milliseconds(), c.Degraded.Milliseconds(), c.Offline.Milliseconds(), c.Disabled.Milliseconds(),
		c.Connects, c.Outages,
	}
	copy(v[12:], c.Dropped[:])
}

func (v *columns) to(c *Counts) {
	c.Expected, c.Read, c.Good, c.Sent, c.Filtered, c.Delivered = v[0], v[1], v[2], v[3], v[4], v[5]
	const ms = time.Millisecond
	c.Online, c.Degraded, c.Offline, c.Disabled = time.Duration(v[6])*ms, time.Duration(v[7])*ms, time.Duration(v[8])*ms, time.Duration(v[9])*ms
	c.Connects, c.Outages = v[10], v[11]
	copy(c.Dropped[:], v[12:])
}

// Answer times are counted in buckets that grow by the square root of two,
// from a quarter of a millisecond to a minute and a half.
const (
	buckets     = 38
	firstBucket = 250 * time.Microsecond
)

func bucketOf(d time.Duration) int {
	i := 0
	for limit := float64(firstBucket); float64(d) > limit && i < buckets-1; i++ {
		limit *= math.Sqrt2
	}
	return i
}

// Quantile returns the answer time that the part q of all scans did not
// exceed, to a fifth of it; 0: there were none.
func (c *Counts) Quantile(q float64) time.Duration {
	var all float64
	for _, n := range c.Answers {
		all += float64(n)
	}
	if all == 0 {
		return 0
	}
	want, below := q*all, 0.0
	upper := float64(firstBucket)
	for _, n := range c.Answers {
		if n > 0 && below+float64(n) >= want {
			part := (want - below) / float64(n)
			return time.Duration(upper / math.Sqrt2 * math.Pow(math.Sqrt2, part))
		}
		below += float64(n)
		upper *= math.Sqrt2
	}
	return time.Duration(upper)
}
