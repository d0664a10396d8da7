package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"millrace/protocols"
)

func TestRequests(t *testing.T) {
	t.Parallel()
	d := newDevice("plc:502", holdingTags(300)...)
	d.Tags = append(d.Tags,
		protocols.Tag{Address: "coil:0", Type: "bool[9]"},
		protocols.Tag{Address: "40001"}, // twice is no second request
		protocols.Tag{Address: "ir:10"},
		protocols.Tag{Address: "ir:21"},                  // behind a gap of 10
		protocols.Tag{Address: "ir:33"},                  // behind a gap of 11
		protocols.Tag{Address: "wrong"},                  // left out
		protocols.Tag{Address: "hr:310", Type: "uint64"}, // behind a gap of 10
	)
	want := []protocols.Request{
		{What: "holding 0..124", Tags: 126, ReqBytes: 12, AnsBytes: 259},
		{What: "holding 125..249", Tags: 125, ReqBytes: 12, AnsBytes: 259},
		{What: "holding 250..313", Tags: 51, ReqBytes: 12, AnsBytes: 137},
		{What: "input 10..21", Tags: 2, ReqBytes: 12, AnsBytes: 33},
		{What: "input 33", Tags: 1, ReqBytes: 12, AnsBytes: 11},
		{What: "coil 0..8", Tags: 1, ReqBytes: 12, AnsBytes: 11},
	}
	if got := New(Options{}).Requests(d, allTags(d)); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// drawFields makes fields of all kinds in a narrow range, so that they
// overlap and repeat.
func drawFields(t *rapid.T, lim limits) []field {
	n := rapid.IntRange(1, 40).Draw(t, "tags")
	fields := make([]field, n)
	for i := range fields {
		tb := rapid.SampledFrom([]table{holding, input, coil}).Draw(t, "table")
		size := rapid.IntRange(1, min(lim.size(tb), 40)).Draw(t, "span")
		at := rapid.IntRange(0, 300).Draw(t, "addr")
		fields[i] = field{table: tb, addr: uint16(at), span: size, out: i}
	}
	return fields
}

func TestMergeIsMinimalAndWithinLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 125).Draw(t, "max")
		gap := rapid.IntRange(0, 20).Draw(t, "gap")
		lim := limits{registers: n, bits: n, registerGap: gap, bitGap: gap}
		fields := drawFields(t, lim)
		want := fewest(fields, lim)
		requests := merge(slices.Clone(fields), lim)
		seen := make([]int, len(fields))
		for _, r := range requests {
			checkRequest(t, r, lim)
			for _, f := range r.fields {
				if fields[f.out] != f {
					t.Fatalf("field %d was changed", f.out)
				}
				seen[f.out]++
			}
		}
		for i, times := range seen {
			if times != 1 {
				t.Fatalf("tag %d is read %d times", i, times)
			}
		}
		if len(requests) != want {
			t.Fatalf("%d requests, %d would do", len(requests), want)
		}
	})
}

// checkRequest says that r holds its fields, and keeps to lim.
func checkRequest(t *rapid.T, r *request, lim limits) {
	if r.count < 1 || r.count > lim.size(r.table) {
		t.Fatalf("%s has %d addresses", r, r.count)
	}
	end := int(r.addr)
	for i := range r.fields {
		f := &r.fields[i]
		switch {
		case f.table != r.table || f.addr < r.addr || f.end() > int(r.addr)+r.count:
			t.Fatalf("%+v is not in %s", f, r)
		case int(f.addr)-end > lim.gap(r.table):
			t.Fatalf("%s reads a gap of %d", r, int(f.addr)-end)
		}
		end = max(end, f.end())
	}
	if end != int(r.addr)+r.count {
		t.Fatalf("%s reads beyond its last field", r)
	}
}

// fewest finds the least number of requests by trying, for each prefix of
// the sorted fields, all ways to end it: any set of requests can be ordered
// so that each holds consecutive fields, as merge's comment argues.
func fewest(fields []field, lim limits) int {
	sorted := slices.SortedStableFunc(slices.Values(fields), func(a, b field) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.addr, b.addr))
	})
	best := make([]int, len(sorted)+1)
	for i := range sorted {
		best[i+1] = len(sorted) + 1
		for j := i; j >= 0; j-- {
			if possible(sorted[j:i+1], lim) {
				best[i+1] = min(best[i+1], best[j]+1)
			}
		}
	}
	return best[len(sorted)]
}

func possible(fields []field, lim limits) bool {
	end := fields[0].end()
	for i := range fields {
		f := &fields[i]
		if f.table != fields[0].table || int(f.addr)-end > lim.gap(f.table) {
			return false
		}
		end = max(end, f.end())
	}
	return end-int(fields[0].addr) <= lim.size(fields[0].table)
}

func TestSplitKeepsEveryField(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lim := limits{registers: 125, bits: 2000, registerGap: 20, bitGap: 20}
		// The tag that filled a gap may have gone to the other half.
		loose := limits{registers: 125, bits: 2000, registerGap: 125, bitGap: 2000}
		for _, r := range merge(drawFields(t, lim), lim) {
			for todo := []*request{r}; len(todo) > 0; {
				r := todo[0]
				todo = todo[1:]
				low, high, ok := r.split()
				if !ok {
					if !r.uniform() {
						t.Fatalf("%s can't be split", r)
					}
					continue
				}
				checkRequest(t, low, loose)
				checkRequest(t, high, loose)
				if len(low.fields)+len(high.fields) != len(r.fields) {
					t.Fatalf("%s loses fields", r)
				}
				todo = append(todo, low, high)
			}
		}
	})
}

func TestSpanSpeaksTheUsersNotation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address string
		count   int
		want    string
	}{
		{"holding:100", 10, "holding 100..109"},
		{"coil:100", 1, "coil 100"},
		{"40101", 10, "40101..40110"},
		{"49990", 20, "holding 9989..10008"},
		{"300001", 2, "300001..300002"},
	} {
		a, err := parseAddress(c.address)
		if err != nil {
			t.Fatal(err)
		}
		if got := span(a.table, a.number, c.count, a.form); got != c.want {
			t.Errorf("%d from %s on is %q, want %q", c.count, c.address, got, c.want)
		}
	}
	if s := fmt.Sprint(holding, discrete); s != "holding discrete" {
		t.Error(s)
	}
}
