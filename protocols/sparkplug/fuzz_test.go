package sparkplug

import (
	"bytes"
	"testing"
)

// seeds are payloads of all kinds.
func seeds(f *testing.F) {
	f.Helper()
	n := newNode(f, Device{ID: "d", Metrics: []Definition{{Name: "a", Type: Int16, Unit: "bar"}, {Name: "b", Type: FloatArray}}})
	n.Begin(3)
	n.Set("Gap", protocolsString("{}"), at)
	for _, m := range []Message{n.Death(at), n.Birth(at)} {
		f.Add(m.Body)
	}
	birth, _ := n.DeviceBirth("d", nil, at)
	f.Add(birth.Body)
	f.Add(RebirthCommand(at))
	f.Add([]byte{0x12, 0x06, 0x8a, 0x01, 0x03, 0x1a, 0x01, 0x0c}) // a data set with packed types
	f.Add(bytes.Repeat([]byte{0x12, 0x00}, 100))
}

// Whatever comes, decoding does not panic, what it returns is bounded by what
// came, and every value can be asked for as every type.
func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(data)
		if err != nil {
			return
		}
		if len(p.Metrics) > len(data) {
			t.Fatalf("%d metrics in %d bytes", len(p.Metrics), len(data))
		}
		for i := range p.Metrics {
			for typ := range DateTimeArray + 2 {
				_, _ = p.Metrics[i].Value.As(typ)
			}
		}
	})
}

// Whatever hosts send, a node stands it, and nothing but a rebirth is obeyed.
func FuzzCommands(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		n := newNode(t, Device{ID: "d", Metrics: []Definition{{Name: "a", Type: Int16}}})
		for _, topic := range []string{"spBv1.0/plant/NCMD/gw", "spBv1.0/plant/DCMD/gw/d", "spBv1.0/plant/DCMD/gw/x"} {
			commands, err := n.Commands(topic, data)
			if err != nil {
				continue
			}
			for _, c := range commands {
				if c.Rebirth && (c.Device != "" || c.Metric != Rebirth) {
					t.Errorf("%+v", c)
				}
			}
		}
	})
}

func FuzzState(f *testing.F) {
	for _, text := range []string{`{"online":true,"timestamp":1700000000000}`, `{"online":"true"}`, `{"Online":true,"timestamp":1}`, `[]`, `null`, `{"online":true,"timestamp":1e3}`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseState(data)
		if err == nil && !bytes.Contains(data, []byte("online")) && !bytes.Contains(data, []byte(`\u`)) {
			t.Errorf("%q is %+v", data, s)
		}
	})
}
