package buffer

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// Look is a look at what a buffer holds, stream by stream and uplink by
// uplink. Times are Unix ms; 0 is not known, or none.
type Look struct {
	// Live says that the agent was asked, not its files.
	Live bool `json:"live"`
	// Bytes is the size of all files, MaxBytes what they are bounded by; 0: the files do not say.
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes,omitempty"`
	// Batches is how many some uplink has not acknowledged, and Oldest when
	// the oldest of them arrived.
	Batches  uint64       `json:"batches"`
	Oldest   int64        `json:"oldest,omitempty"`
	Segments int          `json:"segments"`
	Streams  []StreamLook `json:"streams"`
	Uplinks  []UplinkLook `json:"uplinks"`
	SetAside []FileLook   `json:"set_aside"`
	// StateError says why it is not known what the uplinks have acknowledged.
	StateError string `json:"state_error,omitempty"`
	// Unread names the segments of which it is not known what they hold.
	Unread []string `json:"unread,omitempty"`
	// Gone names the segments that state.db knows, that some uplink waits for,
	// and that are not there.
	Gone []string `json:"gone,omitempty"`
	// Memory is what a running agent has beside its files, or what a killed
	// one left in shared memory for its next start.
	Memory *MemoryLook `json:"memory,omitempty"`
}

// StreamLook is what the files hold of one run of the agent.
type StreamLook struct {
	Stream   string `json:"stream"`
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
	First    uint64 `json:"first"` // seq
	Last     uint64 `json:"last"`
	Readings uint64 `json:"readings"`
	Oldest   int64  `json:"oldest,omitempty"`
	Newest   int64  `json:"newest,omitempty"`
}

// UplinkLook is what waits for one uplink.
type UplinkLook struct {
	Name    string `json:"name"`
	Batches uint64 `json:"batches"`          // not acknowledged
	Bytes   int64  `json:"bytes"`            // size of the files that hold some of them
	Oldest  int64  `json:"oldest,omitempty"` // when the oldest of them arrived
	Acked   uint64 `json:"acked"`            // acknowledged, over all runs
	// Unknown says that more may wait than Batches: some of it stands in a
	// file that cannot be read or is gone.
	Unknown bool `json:"unknown,omitempty"`
	// Gaps are the notices that it has still to get.
	Gaps []Gap `json:"gaps,omitempty"`
	// Of a running agent only:
	Connected bool   `json:"connected,omitempty"`
	InFlight  int    `json:"in_flight,omitempty"`
	Dropped   uint64 `json:"dropped,omitempty"` // readings that it will not get, noticed in this run
}

// FileLook is a file that was set aside.
type FileLook struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// MemoryLook is what is known beside the files; of a killed agent, only how
// much there is.
type MemoryLook struct {
	Stream    string            `json:"stream"`
	Batches   int               `json:"batches"`
	Only      uint64            `json:"only"` // of them, those that some uplink waits for and the disk does not have
	Bytes     int64             `json:"bytes"`
	Appended  uint64            `json:"appended"`             // batches in this run
	Dropped   map[string]uint64 `json:"dropped,omitempty"`    // readings given up in this run, by reason
	DiskError string            `json:"disk_error,omitempty"` // why the disk takes nothing
}

// Look looks into the files.
func (d *Dir) Look() Look {
	uplinks := d.uplinks()
	l := lookAt(d.segments, uplinks, d.clocks.wall)
	d.findUnknown(&l, uplinks)
	if d.memory != nil {
		d.memory.lookInto(&l, uplinks, d.clocks.wall)
	}
	l.Bytes = d.size
	if d.stateErr != nil {
		l.StateError = d.stateErr.Error()
	}
	for _, a := range d.aside {
		l.SetAside = append(l.SetAside, FileLook{filepath.Base(a.path), a.size})
	}
	return l
}

// Look is Stats in more detail. It never waits for the disk.
func (b *Buffer) Look() Look {
	stats := b.Stats()
	b.mu.Lock()
	l := lookAt(b.segments, b.uplinks, b.clocks.wall)
	for _, a := range b.counts.setAside {
		l.SetAside = append(l.SetAside, FileLook{filepath.Base(a.path), a.size})
	}
	b.mu.Unlock()
	l.Live, l.Bytes, l.MaxBytes, l.Batches = true, stats.DiskBytes, stats.MaxBytes, stats.Batches
	l.Oldest = milli(stats.Oldest)
	for i := range l.Uplinks {
		u := &l.Uplinks[i]
		s := stats.Uplinks[u.Name]
		// The agent counts what is in memory, too.
		u.Batches, u.Oldest = s.Lag, milli(s.Oldest)
		u.Connected, u.InFlight, u.Dropped = s.Connected, s.InFlight, s.Dropped
	}
	l.Memory = &MemoryLook{
		Stream: stats.Stream, Batches: stats.TailBatches, Only: stats.MemoryOnly, Bytes: stats.TailBytes, Appended: stats.Appended,
		Dropped: stats.Dropped, DiskError: stats.DiskError,
	}
	return l
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// lookAt adds up what the segments hold, and what of it waits for whom. wall
// makes wall times of plain ones.
func lookAt(segments []*segment, uplinks map[string]*uplink, wall func(ord uint64, plain int64) int64) Look {
	l := Look{Segments: len(segments), Streams: []StreamLook{}, Uplinks: []UplinkLook{}, SetAside: []FileLook{}}
	for _, s := range segments {
		if s.last < s.first {
			l.Unread = append(l.Unread, s.name())
			continue
		}
		n := len(l.Streams)
		if n == 0 || l.Streams[n-1].Stream != s.stream {
			l.Streams = append(l.Streams, StreamLook{Stream: s.stream, First: s.first})
			n++
		}
		l.Streams[n-1].add(s, wall)
	}
	for _, name := range slices.Sorted(maps.Keys(uplinks)) {
		u := lookAtUplink(uplinks[name], segments, wall)
		l.Uplinks = append(l.Uplinks, u)
		l.Batches = max(l.Batches, u.Batches)
		l.Oldest = older(l.Oldest, u.Oldest)
	}
	return l
}

func (st *StreamLook) add(s *segment, wall func(ord uint64, plain int64) int64) {
	st.Segments++
	st.Bytes += s.size
	st.Last = max(st.Last, s.last)
	st.Readings += s.readings
	if s.readings > 0 {
		st.Oldest, st.Newest = older(st.Oldest, wall(s.ord, s.oldest)), max(st.Newest, wall(s.ord, s.newest))
	}
}

func lookAtUplink(u *uplink, segments []*segment, wall func(ord uint64, plain int64) int64) UplinkLook {
	l := UplinkLook{Name: u.name, Acked: u.acked}
	for _, g := range u.gaps {
		told := g.Gap
		told.Oldest, told.Newest = wall(g.ord, g.Oldest), wall(g.ord, g.Newest)
		l.Gaps = append(l.Gaps, told)
	}
	slices.SortFunc(l.Gaps, func(x, y Gap) int { return cmp.Or(cmp.Compare(x.Stream, y.Stream), cmp.Compare(x.From, y.From)) })
	for _, s := range segments {
		waits := uint64(0)
		for _, part := range u.uncovered(s.ord, s.first, s.last) {
			waits += part[1] - part[0] + 1
		}
		if waits == 0 {
			continue
		}
		l.Batches += waits
		l.Bytes += s.size
		l.Oldest = older(l.Oldest, wall(s.ord, s.oldest))
	}
	return l
}
