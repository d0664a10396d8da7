package buffer

import (
	"context"
	"errors"
	"testing"
	"time"
)

// refusing is a Publisher that makes no session: it was refused, or is said to
// be refused, or there was nobody.
type refusing struct {
	Publisher

	err     error
	refused bool
}

func (p *refusing) Connect(context.Context, func(uint64)) (<-chan struct{}, error) { return nil, p.err }

func (p *refusing) Refused() bool { return p.refused }

// noError is a far side that said no.
type noError struct{ error }

func (noError) Refusal() bool { return true }

// Who says no is asked ever more rarely, and who is not there is looked for
// again within MaxBackoff.
func TestWaitsAfterARefusal(t *testing.T) {
	t.Parallel()
	away := errors.New("nobody there")
	for _, c := range []struct {
		name  string
		p     *refusing
		grows bool
	}{
		{"nobody there", &refusing{err: away}, false},
		{"refused", &refusing{err: noError{away}}, true},
		{"refused what was sent", &refusing{err: away, refused: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := openBuffer(t, testOptions(t, t.TempDir()))
			defer closeBuffer(t, b)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tries, longest := 0, time.Duration(0)
			err := b.Forward(ctx, "a", c.p, ForwardOptions{
				MinBackoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond,
				OnState: func(s ForwardState) {
					longest = max(longest, s.Retry)
					tries++
					if tries == 7 {
						cancel()
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if grown := longest > 4*time.Millisecond; grown != c.grows {
				t.Errorf("the longest wait was %v", longest)
			}
		})
	}
}
