package opcua_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
)

// tape is the history of a server: a value each millisecond, or several at one
// time, and its own way to hand them out.
type tape struct {
	mu     sync.Mutex
	values []*ua.DataValue
	calls  int
	points int // of all answers, that had one
	room   int // for so many places at once; 0: for all
	freed  int
	used   int
	// spoil, if not nil, answers in the place of the tape; nil: the tape does.
	spoil func(t *tape, r *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error)
	last  map[string]int // by node: where the last answer ended
	most  int            // nodes of one call; 0: all
	times ua.TimestampsToReturn
}

func stamped(v int32, at time.Time) *ua.DataValue {
	dv := &ua.DataValue{Value: ua.MustVariant(v), SourceTimestamp: at}
	dv.UpdateMask()
	return dv
}

func historyResult(point string, list ...*ua.DataValue) *ua.HistoryReadResult {
	r := &ua.HistoryReadResult{HistoryData: ua.NewExtensionObject(&ua.HistoryData{DataValues: list})}
	if point != "" {
		r.ContinuationPoint = []byte(point)
	}
	return r
}

func refuse(status ua.StatusCode) *ua.HistoryReadResult {
	return &ua.HistoryReadResult{StatusCode: status, HistoryData: ua.NewExtensionObject(nil)}
}

// between returns the numbers of the values of a window.
func (t *tape) between(r *ua.ReadRawModifiedDetails) (lo, hi int) {
	for lo < len(t.values) && t.values[lo].SourceTimestamp.Before(r.StartTime) {
		lo++
	}
	for hi = lo; hi < len(t.values) && t.values[hi].SourceTimestamp.Before(r.EndTime); {
		hi++
	}
	return lo, hi
}

// page answers as the standard has it.
func (t *tape) page(r *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) *ua.HistoryReadResult {
	lo, hi := t.between(r)
	if len(n.ContinuationPoint) > 0 {
		lo = t.last[n.NodeID.String()]
		t.used++
	}
	delete(t.last, n.NodeID.String())
	if most := int(r.NumValuesPerNode); most > 0 && hi-lo > most {
		if t.room > 0 && len(t.last) >= t.room {
			return refuse(ua.StatusBadNoContinuationPoints)
		}
		t.last[n.NodeID.String()] = lo + most
		t.points++
		return historyResult("more", t.values[lo:lo+most]...)
	}
	return historyResult("", t.values[lo:hi]...)
}

func (t *tape) answer(req *ua.HistoryReadRequest, r *ua.ReadRawModifiedDetails) ([]*ua.HistoryReadResult, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls++
	t.times = req.TimestampsToReturn
	if t.most > 0 && len(req.NodesToRead) > t.most {
		return nil, ua.StatusBadTooManyOperations
	}
	var list []*ua.HistoryReadResult
	for _, n := range req.NodesToRead {
		if req.ReleaseContinuationPoints {
			t.freed++
			delete(t.last, n.NodeID.String())
			list = append(list, historyResult(""))
			continue
		}
		if t.spoil != nil {
			one, err := t.spoil(t, r, n)
			if err != nil {
				return nil, err
			}
			if one != nil {
				list = append(list, one)
				continue
			}
		}
		list = append(list, t.page(r, n))
	}
	return list, nil
}

// TestHistoryOfOddServers reads an outage from servers that hand their history
// out in ways of their own: each value comes once, in order, or is said to be
// lost.
func TestHistoryOfOddServers(t *testing.T) {
	t.Parallel()
	type spoiler = func(t *tape, r *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error)
	for name, c := range map[string]struct {
		spoil spoiler
		alike int    // how many have one time; 0: each has its own
		lost  string // why it cannot be read
		room  int    // for places, of the server
		nodes int    // that are read; 0: one
		most  int    // nodes of one call; 0: all
	}{
		"by the book":            {},
		"several nodes":          {nodes: 4},
		"one place for several":  {nodes: 4, room: 1},
		"two places for several": {nodes: 5, room: 2},
		"two nodes a call":       {nodes: 5, most: 2},
		"many with one time":     {alike: 2500},
		"pages end within them":  {alike: 7},
		"no continuation points": {spoil: func(t *tape, r *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if lo, hi := t.between(r); r.NumValuesPerNode > 0 && hi-lo > int(r.NumValuesPerNode) {
				return refuse(ua.StatusBadNoContinuationPoints), nil
			}
			return nil, nil
		}},
		"all values at once, whatever is asked for": {spoil: func(t *tape, r *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			lo, hi := t.between(r)
			return historyResult("", t.values[lo:hi]...), nil
		}},
		"no place to go on": {spoil: func(t *tape, r *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			lo, hi := t.between(r)
			if r.NumValuesPerNode > 0 {
				hi = min(hi, lo+int(r.NumValuesPerNode))
			}
			return historyResult("", t.values[lo:hi]...), nil
		}},
		"no place to go on within one time": {alike: 7, spoil: func(t *tape, r *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			lo, hi := t.between(r)
			if r.NumValuesPerNode > 0 {
				hi = min(hi, lo+int(r.NumValuesPerNode))
			}
			return historyResult("", t.values[lo:hi]...), nil
		}},
		"places that are lost within one time": {alike: 7, spoil: func(_ *tape, _ *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if len(n.ContinuationPoint) > 0 {
				return refuse(ua.StatusBadContinuationPointInvalid), nil
			}
			return nil, nil
		}},
		"the first page again and again": {spoil: func(t *tape, r *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			n.ContinuationPoint = nil
			return nil, nil
		}},
		"places that are lost": {spoil: func(_ *tape, _ *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if len(n.ContinuationPoint) > 0 {
				return refuse(ua.StatusBadContinuationPointInvalid), nil
			}
			return nil, nil
		}},
		"answers that are too large": {spoil: func(t *tape, r *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if r.NumValuesPerNode > 100 {
				return nil, ua.StatusBadResponseTooLarge
			}
			return nil, nil
		}},
		"the second page is too large": {spoil: func(_ *tape, r *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if r.NumValuesPerNode > 500 && len(n.ContinuationPoint) > 0 {
				return nil, ua.StatusBadEncodingLimitsExceeded
			}
			return nil, nil
		}},
		"empty pages between": {spoil: func(t *tape, _ *ua.ReadRawModifiedDetails, n *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if len(n.ContinuationPoint) > 0 && t.calls%2 == 0 {
				return historyResult("more"), nil
			}
			return nil, nil
		}},
		"empty pages for ever": {lost: "do not end", spoil: func(*tape, *ua.ReadRawModifiedDetails, *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			return historyResult("more"), nil
		}},
		"an error that passes": {spoil: func(t *tape, _ *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if t.calls < 3 {
				return refuse(ua.StatusBadUnexpectedError), nil
			}
			return nil, nil
		}},
		"only the source times": {spoil: func(t *tape, _ *ua.ReadRawModifiedDetails, _ *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			if t.times == ua.TimestampsToReturnBoth {
				return refuse(ua.StatusBadTimestampNotSupported), nil
			}
			return nil, nil
		}},
		"always an error": {lost: "BadUnexpectedError", spoil: func(*tape, *ua.ReadRawModifiedDetails, *ua.HistoryReadValueID) (*ua.HistoryReadResult, error) {
			return refuse(ua.StatusBadUnexpectedError), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 2500
			from := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
			history := &tape{spoil: c.spoil, room: c.room, last: map[string]int{}, most: c.most}
			names := []string{"ns=2;s=v"}
			nodes := oneNode()
			for i := 1; i < c.nodes; i++ {
				names = append(names, fmt.Sprintf("ns=2;s=v%d", i))
				nodes = append(nodes, opcuatest.Node{NodeID: names[i]})
			}
			for i := range int32(n) {
				at := from.Add(time.Duration(i) * time.Millisecond)
				if c.alike > 0 {
					at = from.Add(time.Duration(i/int32(c.alike)) * time.Millisecond)
				}
				history.values = append(history.values, stamped(i+1, at))
			}
			first, last := stamped(-1, from.Add(-time.Second)), stamped(n+1, from.Add(time.Minute))
			history.values = append(append([]*ua.DataValue{first}, history.values...), last)
			srv := newServer(t, opcuatest.Options{Nodes: nodes, History: history.answer, Attribute: func(_ *ua.NodeID, a ua.AttributeID) any {
				if a == ua.AttributeIDAccessLevel || a == ua.AttributeIDUserAccessLevel {
					return byte(ua.AccessLevelTypeCurrentRead | ua.AccessLevelTypeHistoryRead)
				}
				return nil
			}})
			setAll := func(dv *ua.DataValue) {
				for _, name := range names {
					if err := srv.Set(name, dv); err != nil {
						t.Fatal(err)
					}
				}
			}
			setAll(first)
			d := device(srv.Endpoint(), names...)
			d.OPCUA.History = time.Hour
			l := historyListener(t, d, nil)
			l.subscribe()
			l.until("the first value", func() bool { return l.has(int32(len(names)-1), -1) })
			srv.DropConnections()
			l.broken()
			srv.Forget(true)
			setAll(last)
			l.subscribe()
			l.until("the outage to be over", func() bool { return len(l.outages) == 1 && l.has(int32(len(names)-1), n+1) })
			o := l.outages[0]
			if c.lost != "" {
				if o.Filled() != protocols.FilledNo || o.Tags != 1 || !strings.Contains(o.Why, c.lost) {
					t.Errorf("%+v", o)
				}
				return
			}
			came := make([]int64, len(names))
			for _, x := range l.all {
				if !x.history {
					continue
				}
				came[x.tag]++
				if x.value != came[x.tag] {
					t.Fatalf("tag %d: %d where %d follows", x.tag, x.value, came[x.tag])
				}
			}
			if slices.Min(came) != n || o.Filled() != protocols.FilledYes || o.Values != uint64(n*len(names)) {
				t.Errorf("up to %d: %+v", came, o)
			}
			l.close()
			history.mu.Lock()
			defer history.mu.Unlock()
			if c.spoil == nil && history.used+history.freed != history.points {
				t.Errorf("of %d places, %d were used and %d given back", history.points, history.used, history.freed)
			}
			t.Logf("%d calls, %d places, %d given back", history.calls, history.points, history.freed)
		})
	}
}
