package opcua

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		node, rng string
		one       bool
	}{
		"i=2258":                                 {"i=2258", "", false},
		"ns=0;i=2258":                            {"i=2258", "", false},
		"ns=2;s=Line1.Speed":                     {"ns=2;s=Line1.Speed", "", false},
		"ns=2;s=a;b=c":                           {"ns=2;s=a;b=c", "", false},
		"ns=2;s=Speeds[0:3]":                     {"ns=2;s=Speeds", "0:3", false},
		"ns=2;s=Speeds[3:3]":                     {"ns=2;s=Speeds", "3", true},
		`ns=3;s="DB1"."Speeds"[2]`:               {`ns=3;s="DB1"."Speeds"[2]`, "", false},
		`ns=3;s="DB1"."Speeds"[2][1:4]`:          {`ns=3;s="DB1"."Speeds"[2]`, "1:4", false},
		"ns=2;i=7[0:1,2]":                        {"ns=2;i=7", "0:1,2", false},
		"ns=2;i=7[1,2]":                          {"ns=2;i=7", "1,2", true},
		"ns=2;s=a[0:1,2:3]":                      {"ns=2;s=a", "0:1,2:3", false},
		"ns=2;s=a[1:1,2:2]":                      {"ns=2;s=a", "1,2", true},
		"ns=4;s=MAIN.a[1,2]":                     {"ns=4;s=MAIN.a[1,2]", "", false},
		"ns=2;s=odd[0:3][]":                      {"ns=2;s=odd[0:3]", "", false},
		"ns=2;s=a[x:y]":                          {"ns=2;s=a[x:y]", "", false},
		"ns=2;i=7[2]":                            {"ns=2;i=7", "2", true},
		"ns=2;b=AQID[0:1]":                       {"ns=2;b=AQID", "0:1", false},
		"g=09087e75-8e5e-499b-954f-f2a9603db28a": {"g=09087E75-8E5E-499B-954F-F2A9603DB28A", "", false},
		"nsu=http://example.com/UA;s=x":          {"ns=1;s=x", "", false},
		"nsu=urn:a%3Bb%25c;i=1":                  {"ns=2;i=1", "", false},
		"ns=2;s=温度 ]":                            {"ns=2;s=温度 ]", "", false},
	} {
		a, err := parseAddress(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		id, ok := a.nodeID([]string{"http://opcfoundation.org/UA/", "http://example.com/UA", "urn:a;b%c"})
		if !ok || nodeIDText(id) != want.node || a.rng != want.rng || a.one != want.one {
			t.Errorf("%s: %v %+v", text, id, a)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                  "ns=2;s=Line1.Speed",
		"holding:100":       "is no NodeId",
		"ns=65536;i=1":      "0 to 65535",
		"ns=2":              "semicolon",
		"ns=2;x=1":          "is no NodeId",
		"ns=2;s=":           "ns=2;s=Line1.Speed",
		"ns=2;i=4294967296": "4294967295",
		"ns=2;i=-1":         "4294967295",
		"g=123":             "GUID",
		"b=?":               "base64",
		"ns=2;i=7[3:1]":     "the smaller index first",
		"ns=2;i=7[0:1,]":    "is no index range",
		"ns=2;s=a[0:1,3:1]": "the smaller index first",
		"ns=2;i=7[a]":       "is no index range",
		"nsu=http://x":      "nsu=",
		"nsu=;s=x":          "nsu=",
		"svr=1;ns=2;s=x":    "another server",
	} {
		if _, err := parseAddress(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"ns=2;s=Line1.Speed[0:3]", "nsu=urn:a;i=1[2]", "g=09087e75-8e5e-499b-954f-f2a9603db28a", "b=AQID", "i=", "s=a[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil || a.kind == pathKind { // of which FuzzPath has the care
			return
		}
		id, ok := a.nodeID([]string{a.uri})
		if !ok {
			t.Fatalf("%q: %+v has no NodeId", s, a)
		}
		// Its own text names the same node.
		text := nodeIDText(id)
		if a.kind == 's' {
			text += "[]"
		}
		again, err := parseAddress(text)
		if err != nil {
			t.Fatalf("%q: %q: %v", s, text, err)
		}
		if other, _ := again.nodeID(nil); nodeIDText(other) != nodeIDText(id) || again.rng != "" {
			t.Fatalf("%q: %q is another node", s, text)
		}
	})
}
