package opcua

// A cause says why values of a subscription may have been missed.
type cause string

const (
	causeRemade   cause = "the subscription had to be made anew after a break"
	causeMessage  cause = "a message of the server never came"
	causeOverflow cause = "a queue of the server overflowed"
)

// missed is told whenever values of a subscription may be missing between two
// that came. It is called with no lock held that it could not take, from the
// goroutines of the publisher or of the bus, and must not wait.
func (b *bus) missed(sub *subscription, why cause) {
	b.stats.misses.Add(1)
	if why == causeMessage {
		sub.past.missing(sub.tags, b.driver.o.Now())
	}
	b.lookAtHistory()
}
