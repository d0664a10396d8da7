package protocols

import "time"

// Outage is a time of which a device's values did not arrive when they were
// made, and what became of them. A driver reports it when it is over and all
// that the device's own memory has of it was read.
type Outage struct {
	Cause OutageCause
	// From is when it was heard last, To when it was heard again, by this
	// machine's clock.
	From, To time.Time
	// Tags is how many tags may have had other values in that time. Of them,
	// Read had values in the device's memory, and NoHistory have none there,
	// or are not to be read from it; of Partly it holds only a part, or none, of
	// that time.
	Tags, Read, NoHistory, Partly int
	// Values is how many were read.
	Values uint64
	// Why says, in words, what kept the rest from being read; empty: nothing.
	Why string
}

// OutageCause is why values did not arrive.
type OutageCause string

// The causes of outages.
const (
	OutageConnection OutageCause = "connection" // there was none to the device
	OutageRestart    OutageCause = "restart"    // the agent did not run
	OutageOverflow   OutageCause = "overflow"   // the device's queues were full
	OutageMessages   OutageCause = "messages"   // whole messages never came
)

// How much of an outage was filled from the device's memory.
const (
	FilledYes  = "yes"  // all of it, or there was nothing to fill
	FilledPart = "part" // some of it
	FilledNo   = "no"   // nothing
)

// Filled says how much of it was read from the device's memory.
func (o *Outage) Filled() string {
	switch {
	case o.NoHistory+o.Partly == 0 && o.Why == "":
		return FilledYes
	case o.Read > 0:
		return FilledPart
	}
	return FilledNo
}
