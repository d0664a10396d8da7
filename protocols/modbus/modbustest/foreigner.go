package modbustest

import (
	"math/rand/v2"
	"time"
)

// foreigner is a Foreigner at work. It is owned by the line's goroutine.
type foreigner struct {
	Foreigner

	rng  *rand.Rand
	next time.Time
}

func newForeigner(f *Foreigner) *foreigner {
	if f == nil || len(f.Requests) == 0 || f.Every <= 0 {
		return nil
	}
	g := &foreigner{Foreigner: *f, rng: rand.New(rand.NewPCG(f.Seed, f.Seed))}
	g.schedule(time.Now())
	return g
}

// schedule chooses when the next request is made.
func (g *foreigner) schedule(now time.Time) {
	g.next = now.Add(time.Duration(g.rng.ExpFloat64() * float64(g.Every)))
}

// request chooses what is asked.
func (g *foreigner) request() Request { return g.Requests[g.rng.IntN(len(g.Requests))] }
