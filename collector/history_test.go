package collector

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

// TestHistory: what was missed goes through the tags' rules, in batches that
// have each tag once, and touches neither what is shown nor what the live
// values are measured by.
func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		d := testDevice("robot", "a", "x", "y")
		d.OPCUA.Subscribe = true
		d.Tags[0].Scale, d.Tags[0].HasScale = 0.1, true
		d.Tags[1].Deadband = protocols.Deadband{Size: 5}
		c, buf := running(t, f, d)
		advance(time.Second)
		bus := f.buses[0]
		reading := func(tag int32, v, source int64) protocols.Reading {
			return protocols.Reading{Tag: tag, Value: protocols.Int(v), Source: source}
		}
		send := func(history bool, rs ...protocols.Reading) {
			bus.reports <- protocols.Report{Device: d, Time: time.Now(), Readings: rs, History: history}
			synctest.Wait()
		}
		send(false, reading(0, 100, 90), reading(1, 100, 90))
		before := len(buf.of("robot"))
		states, last := len(buf.statesOf("robot")), c.Status()[0].LastTime
		advance(time.Second)
		// y: 20 is far from the 100 that was sent live, 23 near it, 26 not.
		send(true, reading(0, 10, 10), reading(1, 20, 11), reading(0, 11, 12), reading(1, 23, 13), reading(1, 26, 14), reading(0, 11, 15))
		send(true, reading(0, 12, 16))
		type one struct {
			tag    int32
			value  float64
			source int64
		}
		var got [][]one
		for _, b := range buf.of("robot")[before:] {
			if !b.historical || b.time != time.Now().UnixMilli() {
				t.Errorf("%+v", b)
			}
			var list []one
			for _, r := range b.readings {
				v, _ := r.Value.Number()
				list = append(list, one{r.Tag, v, r.Source})
			}
			got = append(got, list)
		}
		want := [][]one{{{0, 1, 10}, {1, 20, 11}}, {{0, 1.1, 12}, {1, 26, 14}}, {{0, 1.2, 16}}}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%v, want %v", got, want)
		}
		if v := c.Values("robot"); v[1].Reading.Value.AsInt() != 100 {
			t.Errorf("shown: %+v", v)
		}
		// Within the deadband of the live value, so it does not go out.
		before = len(buf.of("robot"))
		send(false, reading(1, 103, 100))
		s := c.Status()[0]
		if len(buf.of("robot")) != before || s.Backfilled != 7 || s.Good != 2+2+7+1 || len(buf.statesOf("robot")) != states || !last.Before(s.LastTime) {
			t.Errorf("%d batches; %+v", len(buf.of("robot"))-before, s)
		}
		// What is left of a session that has ended is not lost, but says nothing of the device.
		bus.reports <- protocols.Report{Device: d, Err: &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "gone"}}
		synctest.Wait()
		before = len(buf.of("robot"))
		send(true, reading(0, 50, 101))
		if bs := buf.of("robot")[before:]; len(bs) != 1 || !bs[0].historical || c.Status()[0].State.State == Online {
			t.Errorf("%+v", bs)
		}
		for i := range 150 {
			bus.reports <- protocols.Report{Device: d, History: true, Outage: &protocols.Outage{
				Cause: protocols.OutageConnection, From: time.Unix(int64(i), 0), To: time.Unix(int64(i)+2, 0), Tags: 1, Read: i % 2, NoHistory: 1 - i%2,
			}}
			synctest.Wait()
		}
		o := c.Status()[0].Outages
		if o.Count != 150 || len(o.Last) != maxOutages || o.Seconds[protocols.FilledYes] != 150 || o.Seconds[protocols.FilledNo] != 150 || o.Last[0].From.Unix() != 50 {
			t.Errorf("%d of %d outages, %v", len(o.Last), o.Count, o.Seconds)
		}
	})
}

func TestOutageText(t *testing.T) {
	t.Parallel()
	from := time.Unix(1000, 0)
	for _, c := range []struct {
		o    protocols.Outage
		want string
	}{
		{
			protocols.Outage{Cause: protocols.OutageConnection, To: from.Add(42 * time.Second), Tags: 40, Read: 37, NoHistory: 3, Values: 1204, Why: "x"},
			"plc-1 was away for 42 s; 1,204 values of 37 tags were read from its history; 3 tags have no history: their values of that time are lost",
		},
		{protocols.Outage{Cause: protocols.OutageConnection, To: from.Add(300 * time.Millisecond)}, "plc-1 was away for 0.3 s; no value was missed"},
		{protocols.Outage{Cause: protocols.OutageRestart, To: from.Add(130 * time.Minute), Tags: 1, Read: 1, Values: 1}, "plc-1 was not listened to for 2 h 10 min; 1 value of 1 tag were read from its history"},
		{protocols.Outage{Cause: protocols.OutageOverflow, To: from, Tags: 2, Partly: 1, Read: 1, Values: 5, Why: "x"}, "plc-1 dropped values of 2 tags from full queues; 5 values of 1 tag were read from its history; the history of 1 tag has not all of that time: what is not in it is lost"},
		{protocols.Outage{Cause: protocols.OutageMessages, To: from, Tags: 1, NoHistory: 1, Why: "x"}, "messages of plc-1 never came; 1 tag has no history: their values of that time are lost"},
		{protocols.Outage{Cause: protocols.OutageConnection, To: from.Add(50 * time.Hour), Why: "its history is not read (history: 0s)"}, "plc-1 was away for 2 days; values of that time are lost: its history is not read (history: 0s)"},
	} {
		c.o.From = from
		got := outageText("plc-1", &c.o)
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
