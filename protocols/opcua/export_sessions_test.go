package opcua

import "time"

// RetryEvery has tags that are not monitored tried again so often.
func (d *Driver) RetryEvery(every time.Duration) { d.retryEvery = every }

// Lifetime is how long a security token is asked for.
func (d *Driver) Lifetime(l time.Duration) { d.lifetime = l }

// Misses returns how often values of a bus may have been missed.
func Misses(b any) uint64 { return b.(*bus).stats.misses.Load() }
