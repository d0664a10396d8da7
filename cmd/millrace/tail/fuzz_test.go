package tail_test

import (
	"encoding/json"
	"testing"
	"time"

	"millrace/cmd/millrace/tail"
)

// FuzzTake: whatever arrives, nothing panics, nothing that a terminal would
// obey is printed, and programs get JSON. Each input is taken twice, between
// what a plant says, so that it meets something that is known.
func FuzzTake(f *testing.F) {
	for _, m := range append(jsonMessages(), message("spBv1.0/plant-2/NDATA/gw-2", table()), message("spBv1.0/STATE/x", `{"online":true,"timestamp":1}`)) {
		f.Add(m.Topic, m.Body, m.Retained)
	}
	known := sparkplugMessages(f)
	for _, m := range known {
		f.Add(m.Topic, m.Body, m.Retained)
	}
	f.Fuzz(func(t *testing.T, topic string, body []byte, retained bool) {
		tl := tail.New(tail.Options{Topics: []string{"#"}})
		for _, m := range known[:6] {
			tl.Take(m)
		}
		p := tail.Printer{Zone: time.UTC}
		for range 2 {
			e := tl.Take(tail.Message{Topic: topic, Body: body, Retained: retained, Received: start})
			line, err := e.AppendJSON(nil)
			if err != nil || !json.Valid(line) {
				t.Fatalf("%v: %s", err, line)
			}
			harmless(t, p.Text(e)+string(line))
			for _, m := range known[4:8] {
				tl.Take(m)
			}
			tl.Rebirth(start)
		}
		tl.Tear()
		s := tl.Summary(0, 1)
		harmless(t, p.Summary(&s))
	})
}
