package buffer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Report is what a verification found.
type Report struct {
	Files []FileReport `json:"files"`
	// Lost are the batches that should be in the files and are not, and that
	// some uplink still waits for, as far as that is known.
	Lost     []Lost `json:"lost"`
	Batches  uint64 `json:"batches"` // that are readable in the segments, files set aside not counted
	Readings uint64 `json:"readings"`
	Bytes    int64  `json:"bytes"` // that were read
	Damaged  bool   `json:"damaged"`
}

// FileReport is what a verification found in one file.
type FileReport struct {
	Name string `json:"name"`
	// Kind is segment, state, set_aside, or left_over (what a crash left half
	// done, which the next start clears away).
	Kind     string `json:"kind"`
	Bytes    int64  `json:"bytes"`
	Stream   string `json:"stream,omitempty"`
	First    uint64 `json:"first,omitempty"` // seq of the first readable batch
	Last     uint64 `json:"last,omitempty"`
	Batches  uint64 `json:"batches,omitempty"` // readable
	Readings uint64 `json:"readings,omitempty"`
	// Faults say what is wrong with it; none: all is as it was written.
	Faults []string `json:"faults,omitempty"`
	// Active: the agent is writing it.
	Active bool `json:"active,omitempty"`
}

// Kinds of a FileReport.
const (
	KindSegment  = "segment"
	KindState    = "state"
	KindSetAside = "set_aside"
	KindLeftOver = "left_over"
)

// Lost is a range of batches that should be there.
type Lost struct {
	Stream string `json:"stream"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
}

// Verify reads every byte that counts: the structure of each file, the
// checksum and the content of each chunk, and whether the ranges that the
// chunks say hang together. progress, which may be nil, is told how many
// bytes of all are done. Damage is no error; the report says it.
func (d *Dir) Verify(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	v, err := newVerifier(ctx, progress)
	if err != nil {
		return nil, err
	}
	defer v.decoder.close()
	v.wanted = union(d.wants())
	if d.stateErr == nil { // else it is not known what is wanted
		v.summaries(d.state)
	}
	files := v.plan(d.segments, d.aside, func(s *segment) verifyFile { return v.raw(s, KindSegment) })
	if err := v.run(files); err != nil {
		return nil, err
	}
	if d.stateErr == nil {
		v.missingFiles(d.state, d.segments)
	}
	if size := fileSize(filepath.Join(d.path, stateName)); size > 0 || !d.single && len(d.segments) > 0 {
		v.state(size, d.stateErr)
	}
	for _, name := range d.left {
		v.report.Files = append(v.report.Files, FileReport{Name: name, Kind: KindLeftOver, Bytes: fileSize(filepath.Join(d.path, name))})
	}
	return v.finish(), nil
}

// Verify is Dir.Verify for the files of a running buffer.
func (b *Buffer) Verify(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	v, err := newVerifier(ctx, progress)
	if err != nil {
		return nil, err
	}
	defer v.decoder.close()
	b.mu.Lock()
	d := b.disk
	// What is told of a segment is a copy: the writer changes its own.
	var segments []*segment
	written := make(map[*segment]*segment) // those that are being written
	for _, s := range b.segments {
		c := newSegment(filepath.Dir(s.path), s.ord, s.stream, s.first)
		c.size = s.size
		segments = append(segments, c)
		if s.active {
			written[c] = s
		}
		if s.last >= s.first {
			v.ends[s.start()] = s.last
		}
	}
	var aside []asideSegment
	for _, a := range b.counts.setAside {
		s, _, _ := segmentOf(a.path)
		aside = append(aside, asideSegment{a.path, a.size, s})
	}
	v.wanted = union(b.wants())
	b.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("there are no files: the buffer works from memory alone: %s", b.Stats().DiskError)
	}
	files := v.plan(segments, aside, func(s *segment) verifyFile {
		if active := written[s]; active != nil {
			return v.live(b, s, active)
		}
		return v.raw(s, KindSegment)
	})
	if err := v.run(files); err != nil {
		return nil, err
	}
	v.state(fileSize(filepath.Join(d.dir, stateName)), stateFault(d.dir))
	return v.finish(), nil
}

// stateFault says what is wrong with a state.db that is in use. A commit
// while it is read may look like damage, but not again and again: they are
// about a second apart.
func stateFault(dir string) (err error) {
	for range 3 {
		if _, err = loadState(dir); err == nil {
			return nil
		}
	}
	return err
}

// verifyFile is one file's turn.
type verifyFile struct {
	size int64
	do   func() error
}

type verifier struct {
	ctx      context.Context //nolint:containedctx // a verifier lives as long as the call it was made for
	progress func(done, total int64)
	decoder  *chunkDecoder
	report   *Report
	wanted   wants
	ends     map[place]uint64 // the seq up to which a segment is answerable

	done, total int64

	// Of the stream that is being read:
	ord    uint64
	stream string
	last   uint64 // the last readable batch, in this file or one before; 0: none
	// Of the file:
	file    *FileReport
	first   uint64          // the seq that its name says
	before  uint64          // last, when the file began
	lost    int             // how many losses were known then
	schemas map[uint64]bool // that are there
	used    map[uint64]bool // that records name
	damaged int             // chunks
	recs    []Record
	arena   []byte
}

func newVerifier(ctx context.Context, progress func(done, total int64)) (*verifier, error) {
	dec, err := newChunkDecoder()
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(_, _ int64) {}
	}
	return &verifier{
		ctx: ctx, progress: progress, decoder: dec, ends: make(map[place]uint64),
		report: &Report{Files: []FileReport{}, Lost: []Lost{}},
	}, nil
}

func (v *verifier) summaries(im *stateImage) {
	for p, sum := range im.segments {
		v.ends[p] = sum.last
	}
}

// plan says what has to be read, in order.
func (v *verifier) plan(segments []*segment, aside []asideSegment, turn func(s *segment) verifyFile) []verifyFile {
	var files []verifyFile
	for i, s := range segments {
		files = append(files, turn(s))
		if i+1 < len(segments) && segments[i+1].ord == s.ord {
			// A commit that failed may be in its file, and in the next one too.
			v.ends[s.start()] = min(v.ends[s.start()], segments[i+1].first-1)
		}
	}
	for _, a := range aside {
		if a.seg == nil {
			files = append(files, verifyFile{do: func() error {
				v.report.Files = append(v.report.Files, FileReport{Name: filepath.Base(a.path), Kind: KindSetAside, Bytes: a.size})
				return nil
			}})
			continue
		}
		a.seg.size = a.size
		files = append(files, v.raw(a.seg, KindSetAside))
	}
	for _, f := range files {
		v.total += f.size
	}
	return files
}

func (v *verifier) run(files []verifyFile) error {
	before := int64(0)
	for _, f := range files {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		if err := f.do(); err != nil {
			return err
		}
		before += f.size
		v.done = before
		v.progress(v.done, v.total)
	}
	v.report.Bytes = v.done
	return nil
}

// raw verifies a file that nobody writes to.
func (v *verifier) raw(s *segment, kind string) verifyFile {
	return verifyFile{s.size, func() error {
		f, size, err := openRegular(s.path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // it was drained meanwhile
		}
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		v.begin(s, kind)
		err = walkBolt(f, size, visitor(func(path []string, key, value []byte, _ int64) error {
			return v.item(path, key, value)
		}).until(v.ctx))
		if v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if err != nil {
			v.fault("%s", faultText(err))
			if !errors.Is(err, ErrVersion) {
				v.readable(f, s)
			}
		}
		v.end(s)
		return nil
	}}
}

// live verifies the segment that is being written; s is a copy of it.
func (v *verifier) live(b *Buffer, s, active *segment) verifyFile {
	return verifyFile{s.size, func() error {
		l := liveFile{b, active}
		src, c, err := b.openLive(active)(v.ctx, s.stream, false)
		if v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		v.begin(s, KindSegment)
		v.file.Active = true
		if err != nil {
			v.fault("%s", faultText(err))
			v.end(s)
			return nil
		}
		defer src.close()
		var raw []byte
		for i := range c.refs {
			if raw, err = l.read(&c.refs[i], raw[:0]); err == nil {
				err = v.item([]string{bucketChunks}, seqKey(c.refs[i].head.first), raw)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		for id := range c.schemas {
			v.schemas[id] = true
		}
		v.damaged += c.damaged
		// What was written since this began is not read: the file has no end.
		v.ends[s.start()] = min(v.ends[s.start()], v.last)
		v.end(s)
		return nil
	}}
}

func (v *verifier) begin(s *segment, kind string) {
	if s.ord != v.ord || s.stream != v.stream || kind == KindSetAside {
		v.ord, v.stream, v.last = s.ord, s.stream, 0
	}
	v.report.Files = append(v.report.Files, FileReport{Name: s.name(), Kind: kind, Bytes: s.size, Stream: s.stream})
	v.file = &v.report.Files[len(v.report.Files)-1]
	v.first, v.before, v.lost = s.first, v.last, len(v.report.Lost)
	v.schemas, v.used, v.damaged = make(map[uint64]bool), make(map[uint64]bool), 0
}

// fault notes what is wrong with the file.
func (v *verifier) fault(format string, args ...any) {
	v.file.Faults = append(v.file.Faults, fmt.Sprintf(format, args...))
}

// item verifies what stands under a key of a segment.
func (v *verifier) item(path []string, key, value []byte) error {
	switch path[0] {
	case bucketMeta:
		switch {
		case string(key) == keyVersion:
			return checkVersion(value, segmentVersion)
		case string(key) == keyStream && string(value) != v.stream:
			v.fault("it holds another stream than its name says")
		}
	case bucketSchemas:
		id, _, err := parseSchema(value)
		if err != nil || len(key) != 8 || binary.BigEndian.Uint64(key) != id {
			v.damaged++
			return nil //nolint:nilerr // it is counted
		}
		v.schemas[id] = true
	case bucketChunks:
		v.chunk(key, value)
		v.done += int64(len(value))
		v.progress(min(v.done, v.total), v.total)
	}
	return nil
}

// chunk verifies a chunk down to its records, and that it follows the one
// before.
func (v *verifier) chunk(key, value []byte) {
	h, body, err := parseChunk(value, streamTag(v.stream))
	if err == nil {
		v.recs, v.arena, err = v.decoder.decode(&h, body, v.recs[:0], v.arena[:0])
	}
	if err != nil || len(key) != 8 || binary.BigEndian.Uint64(key) != h.first {
		v.damaged++
		return
	}
	for i := range v.recs {
		v.used[v.recs[i].Schema] = true
	}
	v.follow(&h)
}

// follow notes a good chunk, and what is missing before it.
func (v *verifier) follow(h *chunkHeader) {
	if from, to, some := h.missing(v.last, v.first); some {
		v.lose(from, to)
	}
	if h.last() > v.last { // else a copy: a commit that failed may be in its file all the same
		v.count(h)
	}
}

func (v *verifier) count(h *chunkHeader) {
	if v.file.Batches == 0 {
		v.file.First = h.first
	}
	v.file.Batches += h.last() - max(h.first-1, v.last)
	v.file.Readings += h.readings
	v.file.Last, v.last = h.last(), h.last()
}

// readable counts what a salvage would find in a file whose tree is broken.
func (v *verifier) readable(f *os.File, s *segment) {
	sc := &scanner{file: f, tag: streamTag(s.stream), schemas: make(map[uint64][]byte)}
	sc.scan()
	// It finds again what the tree showed before it broke.
	v.file.First, v.file.Last, v.file.Batches, v.file.Readings = 0, 0, 0, 0
	v.report.Lost = v.report.Lost[:v.lost]
	v.last, v.damaged = v.before, 0
	for _, c := range sc.consecutive() {
		v.follow(&c.head)
	}
	clear(v.used) // which names are missing is the lesser trouble
}

// lose notes what is missing, as far as somebody waits for it.
func (v *verifier) lose(from, to uint64) {
	if v.file.Kind == KindSetAside || from > to {
		return
	}
	for _, p := range v.wanted(v.ord, from, to) {
		v.report.Lost = append(v.report.Lost, Lost{v.stream, p[0], p[1]})
	}
}

// merge unites ranges that overlap or touch.
func merge(parts [][2]uint64) [][2]uint64 {
	slices.SortFunc(parts, func(x, y [2]uint64) int { return compare(x[0], y[0]) })
	var out [][2]uint64
	for _, p := range parts {
		if n := len(out); n > 0 && p[0] <= out[n-1][1]+1 {
			out[n-1][1] = max(out[n-1][1], p[1])
			continue
		}
		out = append(out, p)
	}
	return out
}

// end looks at what only the whole file shows.
func (v *verifier) end(s *segment) {
	if v.damaged > 0 {
		v.fault("%d of its parts are damaged: wrong checksum or content", v.damaged)
	}
	missing := 0
	for id := range v.used {
		if !v.schemas[id] {
			missing++
		}
	}
	if missing > 0 {
		v.fault("the names of the tags are missing for some of its batches")
	}
	if v.file.Batches == 0 && len(v.file.Faults) == 0 {
		v.fault("it holds no batches")
	}
	if last := v.ends[s.start()]; last > v.last && v.file.Kind == KindSegment {
		v.lose(max(v.last+1, s.first), last)
		v.last = last
	}
}

// state reports on state.db.
func (v *verifier) state(size int64, err error) {
	r := FileReport{Name: stateName, Kind: KindState, Bytes: size}
	if err != nil {
		r.Faults = []string{faultText(err)}
	}
	v.report.Files = append(v.report.Files, r)
}

func (v *verifier) finish() *Report {
	r := v.report
	r.Lost = mergeLost(r.Lost)
	for i := range r.Files {
		f := &r.Files[i]
		if f.Kind == KindSegment {
			r.Batches += f.Batches
			r.Readings += f.Readings
		}
		r.Damaged = r.Damaged || len(f.Faults) > 0 && f.Kind != KindSetAside
	}
	r.Damaged = r.Damaged || len(r.Lost) > 0
	return r
}

// mergeLost unites what two ways found to be missing.
func mergeLost(all []Lost) []Lost {
	slices.SortFunc(all, func(x, y Lost) int { return cmp.Or(cmp.Compare(x.Stream, y.Stream), compare(x.From, y.From)) })
	out := all[:0]
	for _, l := range all {
		if n := len(out); n > 0 && out[n-1].Stream == l.Stream && l.From <= out[n-1].To+1 {
			out[n-1].To = max(out[n-1].To, l.To)
			continue
		}
		out = append(out, l)
	}
	return out
}

// missingFiles reports the segments that state.db knows of, that are gone,
// and for which somebody waits.
func (v *verifier) missingFiles(im *stateImage, segments []*segment) {
	for _, p := range im.goneSegments(segments) {
		v.ord, v.stream, v.file = p.ord, im.streams[p.ord], &FileReport{Kind: KindSegment}
		v.lose(p.seq, im.segments[p].last)
	}
}
