package collector

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

// advisingDriver is a fakeDriver whose buses learn something when they
// connect, devices that only subscribe too.
type advisingDriver struct{ fakeDriver }

func (d *advisingDriver) Open(ds []*protocols.Device) (protocols.Bus, error) {
	b, err := d.fakeDriver.Open(ds)
	s, _ := b.(protocols.Subscriber)
	return advisingBus{s}, err
}

type advisingBus struct{ protocols.Subscriber }

func (advisingBus) Advice(d *protocols.Device) []string {
	return []string{"have the server of " + d.ID + " offer better"}
}

func TestAdviceOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := &advisingDriver{}
		c, _ := testCollector(t, &drv.fakeDriver)
		c.opts.Drivers = map[string]protocols.Driver{"fake": drv}
		d := testDevice("robot", "line", "a")
		d.OPCUA.Subscribe = true
		if err := c.Apply([]*protocols.Device{d}); err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		if s := c.Status()[0]; !slices.Equal(s.Advice, []string{"have the server of robot offer better"}) {
			t.Errorf("the advice is %q", s.Advice)
		}
		c.Stop()
	})
}
