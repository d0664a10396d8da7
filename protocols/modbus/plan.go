package modbus

import (
	"cmp"
	"slices"
	"time"

	"millrace/protocols"
)

// request reads one range of addresses, and the fields in it.
type request struct {
	table  table
	addr   uint16
	count  int     // registers or bits
	fields []field // ascending by address

	// What earlier scans learnt about it.
	failed *protocols.Error // why it was bad the last time; nil: it was good
	pause  int              // how many scans leave it out after its next failure
	wait   int              // how many scans still leave it out

	known   bool // it was answered as a whole
	doubted bool // it was refused since, once

	// What became of it in the scan that runs.
	answered  bool
	refused   byte       // the exception code by which it was
	halves    []*request // what was asked instead
	damage    error      // its answer arrived damaged, once
	tries     int        // after a time-out
	together  bool       // others were under way beside it
	alone     bool       // it was asked again without others beside it
	tore      bool       // the connection broke while it alone was under way
	busy      int        // how often the device was
	notBefore time.Time  // it is asked again then
}

// begin forgets what became of r in an earlier scan.
func (r *request) begin() {
	r.answered, r.refused, r.halves, r.damage, r.tries, r.together, r.alone, r.busy = false, 0, nil, nil, 0, false, false, 0
	r.notBefore, r.tore = time.Time{}, false
}

// newRequest returns the request for fields, which are sorted.
func newRequest(fields []field) *request {
	r := &request{table: fields[0].table, addr: fields[0].addr, fields: fields}
	end := 0
	for i := range fields {
		end = max(end, fields[i].end())
	}
	r.count = end - int(r.addr)
	return r
}

// merge puts fields into as few requests as lim allows. It sorts fields and
// keeps them.
//
// Going up the addresses and starting a new request only where the next
// field does not fit is minimal: a request has to begin at the first field
// that is not read yet, and a field that is passed over ends beyond this
// request's reach, so that whatever comes behind it would fit in the next
// request just as well.
func merge(fields []field, lim limits) []*request {
	slices.SortStableFunc(fields, func(a, b field) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.addr, b.addr))
	})
	var requests []*request
	first, end := 0, 0
	for i := range fields {
		f := &fields[i]
		if i > first && !fits(&fields[first], f, end, lim) {
			requests = append(requests, newRequest(fields[first:i:i]))
			first, end = i, 0
		}
		end = max(end, f.end())
	}
	if len(fields) > 0 {
		requests = append(requests, newRequest(fields[first:]))
	}
	return requests
}

// fits says that f may join the request that begins with first and ends at
// the address end.
func fits(first, f *field, end int, lim limits) bool {
	to := max(end, f.end())
	return f.table == first.table &&
		int(f.addr)-end <= lim.gap(f.table) &&
		to-int(first.addr) <= lim.size(f.table) &&
		(to == first.end() || !lim.unit.forbids(f.table, int(first.addr), to))
}

// split returns two requests that together read the fields of r. It splits
// at the widest gap between two fields, since a hole in the device's
// addresses is the likeliest reason for a refusal, and in the middle where
// gaps are equal. It is false where all fields need the same addresses.
func (r *request) split() (low, high *request, ok bool) {
	best, bestGap := 0, -1
	middle := len(r.fields) / 2
	end := r.fields[0].end()
	for i := 1; i < len(r.fields); i++ {
		f := &r.fields[i]
		gap := max(int(f.addr)-end, 0)
		if gap > bestGap || gap == bestGap && distance(i, middle) < distance(best, middle) {
			best, bestGap = i, gap
		}
		end = max(end, f.end())
	}
	if best == 0 || r.uniform() {
		return nil, nil, false
	}
	return newRequest(r.fields[:best:best]), newRequest(r.fields[best:]), true
}

// uniform says that all fields of r fill the same addresses.
func (r *request) uniform() bool {
	for i := range r.fields {
		if r.fields[i].addr != r.addr || r.fields[i].span != r.count {
			return false
		}
	}
	return true
}

func distance(a, b int) int { return max(a-b, b-a) }

// setBad makes the readings of all fields of r bad.
func (r *request) setBad(out []protocols.Reading, why protocols.Reason) {
	for i := range r.fields {
		out[r.fields[i].out].SetBad(why)
	}
}

// String names the range in the words of the tags in it.
func (r *request) String() string {
	return span(r.table, r.addr, r.count, r.fields[0].form)
}

// answerBytes is how many bytes of data the answer carries.
func (r *request) answerBytes() int {
	if r.table.bits() {
		return (r.count + 7) / 8
	}
	return 2 * r.count
}
