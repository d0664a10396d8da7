package opcua_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// walk browses and returns what was found, by path.
func walk(tb testing.TB, endpoint string, o opcua.BrowseOptions) (map[string]*opcua.Variable, opcua.BrowseSummary) {
	tb.Helper()
	found := make(map[string]*opcua.Variable)
	sum, err := driver(tb).Browse(context.Background(), device(endpoint), o, func(v *opcua.Variable) error {
		var names []string
		for _, n := range v.Path {
			names = append(names, n.Name)
		}
		path := strings.Join(names, "|")
		if found[path] != nil {
			path += fmt.Sprintf("|%d", v.Path[len(v.Path)-1].Namespace)
		}
		found[path] = v
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found, sum
}

func globs(tb testing.TB, texts ...string) []*opcua.Glob {
	tb.Helper()
	var all []*opcua.Glob
	for _, s := range texts {
		g, err := opcua.ParseGlob(s)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, g)
	}
	return all
}

// describeVariable writes what a tag map would hold.
func describeVariable(v *opcua.Variable) string {
	if v == nil {
		return "missing"
	}
	s := v.Address + " " + v.Type
	if v.Unit != "" {
		s += " " + v.Unit
	}
	if v.Min != nil {
		s += fmt.Sprintf(" %g..%g", *v.Min, *v.Max)
	}
	if v.Description != "" {
		s += " " + v.Description
	}
	return s
}

func TestPeerBrowse(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "browse")
	found, sum := walk(t, srv.Endpoint(), opcua.BrowseOptions{Include: globs(t, "/Objects/Plant/**"), Details: true})
	const ns = "nsu=" + nodeopcua.Namespace + ";"
	const other = "nsu=urn:millrace:other%3B50%25;"
	for path, want := range map[string]string{
		"Objects|Plant|Line1|Cell|Temperature":                    ns + "s=Line1.Cell.Temperature Double °C -40..1250.5 temperature of Line1, 温度",
		"Objects|Plant|Line2|Cell|Temperature":                    ns + "s=Line2.Cell.Temperature Double °C -40..1250.5 temperature of Line2, 温度",
		"Objects|Plant|Line1|Speed":                               ns + `s="Line1"."Speed"[2] Double =cmd|' /C calc'!A0`,
		"Objects|Plant|odd names|a/b":                             ns + "s=odd a/b [] Double",
		"Objects|Plant|odd names|2:x":                             ns + "s=odd 2:x [] Double",
		"Objects|Plant|odd names|温度 1号":                           ns + "s=odd 温度 1号 [] Double",
		"Objects|Plant|odd names|guided":                          ns + "g=72962B91-FA75-4AE6-8D28-B404DC7DAF64 Double",
		"Objects|Plant|odd names|opaque":                          ns + "b=AQIDBA== Double",
		"Objects|Plant|odd names|numbered":                        ns + "i=7001 Double",
		"Objects|Plant|odd names|elsewhere":                       other + "s=elsewhere;i=1 Double",
		"Objects|Plant|types|State":                               ns + "s=State MachineState",
		"Objects|Plant|types|Speeds":                              ns + "s=Speeds UInt16[]",
		"Objects|Plant|types|Grid":                                ns + "s=Grid Int32[][]",
		"Objects|Plant|types|Wait":                                ns + "s=Wait Double",
		"Objects|Plant|types|Build":                               ns + "s=Build BuildInfo",
		"Objects|Plant|types|Secret":                              "missing",
		"Objects|Plant" + strings.Repeat("|deep", 30) + "|Bottom": ns + "s=Bottom Double",
	} {
		if got := describeVariable(found[path]); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	// By loops each is there once, and what is outside of the plant was reached
	// through one: /Objects/Plant/Line2/Objects/Test.
	if sum.Unreadable != 2 || sum.Refused != 0 || sum.Found != len(found) || sum.Variables != sum.Found+sum.Unreadable {
		t.Errorf("%+v, %d found", sum, len(found))
	}
	addresses := make(map[string]bool)
	for path, v := range found {
		if addresses[v.Address] {
			t.Errorf("%s is there twice", v.Address)
		}
		addresses[v.Address] = true
		if strings.Contains(path, "Server") || strings.Contains(path, "EURange") {
			t.Errorf("%s was not asked for", path)
		}
	}

	// Each address, and each path, is read back as the node that was found.
	d := device(srv.Endpoint())
	for path, v := range found {
		if strings.HasSuffix(path, "|Samples") {
			continue // has another value each time
		}
		d.Tags = append(d.Tags, protocols.Tag{Name: v.Address, Address: v.Address}, protocols.Tag{Name: v.PathText(), Address: v.PathText()})
	}
	b := open(t, driver(t), d)
	connect(t, b)
	out, _ := read(t, b, d)
	for i := 0; i < len(out); i += 2 {
		if a, p := show(out[i]), show(out[i+1]); a != p || strings.Contains(a, "no_such") || strings.Contains(a, "ambiguous") {
			t.Errorf("%s: %s; %s: %s", d.Tags[i].Address, a, d.Tags[i+1].Address, p)
		}
	}
}

func TestPeerBrowseGlobs(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "browse")
	for _, c := range []struct {
		include, exclude, want string
		properties             bool
		mostNodes              int // that it may take
	}{
		{include: "/Objects/Plant/Line*/**/Temperature", want: "Line1|Cell|Temperature Line2|Cell|Temperature"},
		{include: "/Objects/Plant/Line*/Cell/Temperature", want: "Line1|Cell|Temperature Line2|Cell|Temperature", mostNodes: 8},
		{include: "/Objects/Plant/Line{1,2}/Speed", exclude: "/**/Line2", want: "Line1|Speed"},
		{include: "/Objects/Plant/Line[!1]/*", exclude: "/Objects/Plant/Line1", want: "Line2|Speed"},
		{include: "/Objects/Plant/odd names/a&/b", want: "odd names|a/b", mostNodes: 4},
		{include: "/Objects/Plant/odd names/?:x", want: "odd names|2:x"},
		{include: "/Objects/Plant/odd names/2:twin", want: "odd names|twin"},
		{include: "/Objects/Plant/Line1/Cell/Temperature/EU*", properties: true, want: "Line1|Cell|Temperature|EURange"},
	} {
		o := opcua.BrowseOptions{Include: globs(t, c.include), Properties: c.properties}
		if c.exclude != "" {
			o.Exclude = globs(t, c.exclude)
		}
		found, sum := walk(t, srv.Endpoint(), o)
		var got []string
		for path := range found {
			got = append(got, strings.TrimPrefix(path, "Objects|Plant|"))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.include, got, c.want)
		}
		if c.mostNodes > 0 && sum.Nodes > c.mostNodes {
			t.Errorf("%s: %d nodes were walked", c.include, sum.Nodes)
		}
	}
	found, _ := walk(t, srv.Endpoint(), opcua.BrowseOptions{Include: globs(t, "/Objects/Server/ServerStatus/State")})
	if got := describeVariable(found["Objects|Server|ServerStatus|State"]); got != "i=2259 ServerState" {
		t.Error(got)
	}
}

func TestPeerPaths(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "browse")
	cases := []struct{ address, want string }{
		{"/Objects/Plant/Line1/Cell/Temperature", "1.5"},
		{"/Objects/2:Plant/2:Line1/2:Cell/2:Temperature", "1.5"},
		{"/Objects/Plant/odd names/a&/b", "1.5"},
		{"/Objects/Plant/odd names/2&:x", "1.5"},
		{"/Objects/Plant/odd names/温度 1号", "1.5"},
		{"/Objects/Plant/odd names/[0:3][]", "1.5"},
		{"/Objects/Plant/types/Speeds[1:2]", "[2u 3u]"},
		{"/Objects/Plant/types/Speeds[3:3]", "4u"},
		{"/Objects/Server/ServerStatus/State", "Running"},
		{"/Objects/Plant/odd names/twin", "ambiguous_path"},
		{"/Objects/Plant/odd names/2:twin", "1.5"},
		{"/Objects/Plant/Line1/Cell/Temprature", "no_such_node"},
		{"/Objects/Plant/Line7/Cell/Temperature", "no_such_node"},
		{"/Objects/2:Plant/2:Line1/2:Cel/2:Temperature", "no_such_node"},
		{"/Objects/Plant/Moving", "1.5"},
		{"/Objects/Plant/Line1", "not_readable"},
	}
	var addresses []string
	for _, c := range cases {
		addresses = append(addresses, c.address)
	}
	d := device(srv.Endpoint(), addresses...)
	b := open(t, driver(t), d)
	connect(t, b)
	out, res := read(t, b, d)
	for i, c := range cases {
		if got := show(out[i]); got != c.want {
			t.Errorf("poll %s: %s, want %s", c.address, got, c.want)
		}
	}
	if res.Err == nil || !strings.Contains(res.Err.Error(), `/Objects/Plant/odd names has 2 nodes named "twin"; write it with its namespace: 2:twin or `) {
		t.Errorf("%v", res.Err)
	}
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	got := make(map[int32]string)
	for len(got) < len(cases) {
		r := next(t, b, patience)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, x := range r.Readings {
			got[x.Tag] = show(x)
		}
	}
	for i, c := range cases {
		if got[int32(i)] != c.want {
			t.Errorf("subscribe %s: %s, want %s", c.address, got[int32(i)], c.want)
		}
	}

	// A path is resolved anew in each session.
	command(t, srv, "move Moving2")
	connect(t, b)
	moved := device(srv.Endpoint(), "/Objects/Plant/Moving", "/Objects/Plant/Line1/Cell/Temprature")
	out, res = read(t, b, moved)
	if got := show(out[0]); got != "2.5" {
		t.Errorf("after the move: %s", got)
	}
	if res.Err == nil || !strings.Contains(res.Err.Error(), `/Objects/Plant/Line1/Cell has no "Temprature"; did you mean "Temperature"?`) {
		t.Errorf("%v", res.Err)
	}
}

// TestPeerLarge walks a folder of many, and resolves as many paths.
func TestPeerLarge(t *testing.T) {
	t.Parallel()
	const n = 3000
	srv := startPeer(t, 0, "browse")
	command(t, srv, fmt.Sprintf("grow %d", n))
	began := time.Now()
	found, sum := walk(t, srv.Endpoint(), opcua.BrowseOptions{Include: globs(t, "/Objects/Plant/Big/*")})
	t.Logf("%d variables in %s, %d requests", len(found), time.Since(began), sum.Calls)
	if len(found) != n || sum.Nodes != n+3 {
		t.Errorf("%d found: %+v", len(found), sum)
	}
	for _, form := range []string{"/Objects/Plant/Big/v%d", "/Objects/2:Plant/2:Big/2:v%d"} {
		var addresses []string
		for i := range n {
			addresses = append(addresses, fmt.Sprintf(form, i))
		}
		d := device(srv.Endpoint(), addresses...)
		b := open(t, driver(t), d)
		connect(t, b)
		began = time.Now()
		out, res := read(t, b, d)
		t.Logf("%d paths like %s resolved and read in %s", n, addresses[0], time.Since(began))
		if res.Err != nil || show(out[0]) != "0" || show(out[n-1]) != fmt.Sprint(n-1) {
			t.Errorf("%v, %s, %s", res.Err, show(out[0]), show(out[n-1]))
		}
	}
}
