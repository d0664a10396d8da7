package tail

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTopics(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "millrace/# spBv1.0/#"},
		{Filter{Format: FormatJSON}, "millrace/#"},
		{Filter{Format: FormatSparkplug}, "spBv1.0/#"},
		{Filter{Group: "g"}, "millrace/g/# spBv1.0/g/# spBv1.0/STATE/+"},
		{Filter{Gateway: "gw"}, "millrace/+/gw/# spBv1.0/+/+/gw/# spBv1.0/STATE/+"},
		{Filter{Group: "g", Gateway: "gw-*"}, "millrace/g/# spBv1.0/g/# spBv1.0/STATE/+"},
		{Filter{Group: "g", Gateway: "gw", Device: "d"}, "millrace/g/gw/# spBv1.0/g/+/gw/# spBv1.0/STATE/+"},
	} {
		topics := tc.f.Topics("millrace")
		if got := strings.Join(topics, " "); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.f, got, tc.want)
		}
		if tc.f.Format != FormatJSON && !covered(topics, []string{"spBv1.0", "g", "*", "gw"}) || tc.f.Format != FormatSparkplug && !covered(topics, []string{"millrace", "g", "gw"}) {
			t.Errorf("%v do not let everything of the gateway through", topics)
		}
	}
	for filter, want := range map[string]bool{
		"#": true, "millrace/#": true, "+/+/+/#": true, "millrace/g/gw/press-1/#": false, "millrace/+/+/+/data": false, "millrace/g/other/#": false, "millrace/g/gw": false,
	} {
		if got := covered([]string{filter}, []string{"millrace", "g", "gw"}); got != want {
			t.Errorf("%s covers the gateway: %v", filter, got)
		}
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	messages := map[string]Message{}
	for name, topic := range map[string]string{
		"data": "millrace/g/gw-1/press-1/data", "other device": "millrace/g/gw-1/meter/data", "other gateway": "millrace/g/gw-2/press-1/data", "other group": "millrace/h/gw-1/press-1/data",
	} {
		messages[name] = Message{Topic: topic, Body: []byte(`{"v":1,"stream":"s","seq":1,"values":{"压力":1,"pressure/high":2}}`)}
	}
	messages["gap"] = Message{Topic: "millrace/g/gw-1/gap", Body: []byte(`{"v":1,"stream":"s","gap":{"from":1,"to":1}}`)}
	messages["host"] = Message{Topic: "spBv1.0/STATE/h", Body: []byte(`{"online":true,"timestamp":1}`)}
	messages["else"] = Message{Topic: "factory/x", Body: []byte("1")}
	for _, tc := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "data else gap host other device other gateway other group"},
		{Filter{Group: "g", Gateway: "gw-1"}, "data gap host other device"},
		{Filter{Gateway: "gw-?", Device: "press*"}, "data gap host other gateway other group"},
		{Filter{Gateway: "gw-1", Tag: "压*"}, "data other device other group"},
		{Filter{Tag: "*high"}, "data other device other gateway other group"},
		{Filter{Tag: "p.*"}, ""},
		{Filter{Format: FormatSparkplug}, "host"},
	} {
		var shown []string
		for _, name := range []string{"data", "else", "gap", "host", "other device", "other gateway", "other group"} {
			if e := New(Options{Filter: tc.f, Topics: []string{"#"}}).Take(messages[name]); e != nil {
				shown = append(shown, name)
				if tc.f.Tag != "" && len(e.Readings) != 1 {
					t.Errorf("%+v: %d readings of %s", tc.f, len(e.Readings), name)
				}
			}
		}
		if diff := cmp.Diff(tc.want, strings.Join(shown, " ")); diff != "" {
			t.Errorf("%+v (-want +got): %s", tc.f, diff)
		}
	}
}

// TestNotOurGap: what was not subscribed to, or passed us by, is not missing.
func TestNotOurGap(t *testing.T) {
	t.Parallel()
	take := func(tl *Tail, seq string) *Event {
		return tl.Take(Message{Topic: "millrace/g/gw-1/press-1/data", Body: []byte(`{"v":1,"stream":"s","seq":` + seq + `,"values":{}}`)})
	}
	tl := New(Options{Topics: []string{"millrace/+/+/press-1/data"}})
	take(tl, "1")
	take(tl, "5")
	if s := tl.Summary(0, 1); s.Total.Missing != 0 {
		t.Errorf("%d are missing that were not asked for", s.Total.Missing)
	}
	tl = New(Options{Topics: []string{"#"}, Partial: true})
	take(tl, "1")
	take(tl, "5")
	if s := tl.Summary(0, 1); s.Total.Missing != 0 {
		t.Errorf("%d are missing that do not pass the uplink's filter", s.Total.Missing)
	}
	tl = New(Options{Topics: []string{"millrace/#"}})
	take(tl, "1")
	tl.Tear()
	if e := take(tl, "5"); e.Notes != nil {
		t.Errorf("after a break: %v", e.Notes)
	}
	if e := take(tl, "5"); !e.Repeat {
		t.Error("a repeat is not known as one")
	}
	if e := take(tl, "8"); e.Notes == nil {
		t.Error("a gap is not seen")
	}
	if s := tl.Summary(0, 1); s.Total.Missing != 2 {
		t.Errorf("%d are missing", s.Total.Missing)
	}
}

// TestBounded: a broker that is larger than any plant costs a bounded memory.
func TestBounded(t *testing.T) {
	t.Parallel()
	tl := New(Options{Topics: []string{"#"}})
	for i := range maxGateways + 100 {
		id := time.Duration(i).String()
		tl.Take(Message{Topic: "millrace/g/" + id + "/d/data", Body: []byte(`{"v":1,"stream":"` + id + `","seq":1,"values":{"a":1}}`)})
		tl.Take(Message{Topic: "millrace/g/one/d/data", Body: []byte(`{"v":1,"stream":"` + id + `","seq":1,"values":{"a":1}}`)})
	}
	if len(tl.gateways) != maxGateways || len(tl.gateways[gatewayKey{FormatJSON, "g", "one"}].streams) != maxStreams {
		t.Errorf("%d gateways", len(tl.gateways))
	}
	s := tl.Summary(0, 1)
	if s.Total.Messages != 2*(maxGateways+100) {
		t.Errorf("%d messages are counted", s.Total.Messages)
	}
	if tl.others.Messages != 101 {
		t.Errorf("%d messages of others", tl.others.Messages)
	}
}
