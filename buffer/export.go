package buffer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"millrace/buffer/internal/clock"
)

// ExportOptions say what to export.
type ExportOptions struct {
	// Uplink names the uplink for which the records wait; "": all records
	// that are there, also those that were acknowledged.
	Uplink string
	// Salvage takes what is readable in damaged files, too, also in those
	// that were set aside.
	Salvage bool
	// Progress, if not nil, is told now and then how many bytes of the files
	// are done.
	Progress func(done, total int64)
}

// ExportResult says what was exported, and what could not be.
type ExportResult struct {
	Records  uint64 `json:"records"`
	Readings uint64 `json:"readings"`
	// Skipped are the files that were left out because they are damaged, and
	// why.
	Skipped []FileFault `json:"skipped,omitempty"`
	// Damaged is how many chunks (some consecutive records each) could not be
	// read in files that otherwise could.
	Damaged int `json:"damaged,omitempty"`
	// Missing are the records that should be in the files and did not come,
	// and that the uplink, or some uplink, still waits for, as far as that is
	// known. What was announced as missing is not among them.
	Missing []Lost `json:"missing,omitempty"`
	// Gone is how many files went while they were to be read: what was in
	// them was acknowledged, or given up.
	Gone int `json:"gone,omitempty"`
}

// Whole tells whether all that was asked for was exported.
func (r *ExportResult) Whole() bool {
	return len(r.Skipped) == 0 && r.Damaged == 0 && len(r.Missing) == 0
}

// FileFault says what is wrong with a file.
type FileFault struct {
	Name  string `json:"name"`
	Fault string `json:"fault"`
}

// Put takes a record of an export. Its Data and the schema are good during
// the call only; the schema is nil if the files have lost it. An error ends
// the export.
type Put func(r *Record, schema []byte) error

// Export hands every record in the files to put, each once, the oldest stream
// first, in order.
func (d *Dir) Export(ctx context.Context, o ExportOptions, put Put) (ExportResult, error) {
	e, err := newExporter(ctx, o, put)
	if err != nil {
		return ExportResult{}, err
	}
	defer e.close()
	if o.Uplink != "" {
		u, err := d.uplink(o.Uplink)
		if err != nil {
			return e.result, err
		}
		e.parts, e.wanted = u.uncovered, u.uncovered
	} else {
		e.wanted = union(d.wants())
	}
	e.lookup = func(id uint64) []byte { return d.findSchema(ctx, id) }
	e.clock = func(ord uint64, file *content) *clock.History { return d.clocks.adopt(ord, file.boot, file.clock) }
	groups := groupFiles(d.segments, d.asideIf(o.Salvage), func(s *segment) openSource { return openRaw(s.path) }, (*segment).promised)
	e.total = totalSize(groups)
	err = e.run(groups, math.MaxUint64)
	if err == nil && d.memory != nil {
		err = d.memory.export(e)
	}
	if d.stateErr == nil {
		for _, p := range d.state.goneSegments(d.segments) {
			e.miss(p.ord, d.state.streams[p.ord], p.seq, d.state.segments[p].last)
		}
	}
	return e.end(), err
}

// wants returns what each uplink waits for; none: that is not known.
func (d *Dir) wants() (all []wants) {
	if d.stateErr != nil {
		return nil
	}
	for _, u := range d.uplinks() {
		all = append(all, u.uncovered)
	}
	return all
}

// findSchema looks for a schema in all files. A damaged file may have lost it
// while its neighbours have it: schemas are the same for months.
func (d *Dir) findSchema(ctx context.Context, id uint64) []byte {
	for _, s := range append(slices.Clone(d.segments), d.asideIf(true)...) {
		src, c, err := openRaw(s.path)(ctx, s.stream, true)
		if err != nil {
			continue // it cannot help
		}
		src.close()
		if blob, err := unpackSchema(c.schemas[id]); err == nil && c.schemas[id] != nil {
			return blob
		}
	}
	return nil
}

// uplink returns the uplink of that name at its place.
func (d *Dir) uplink(name string) (*uplink, error) {
	all := d.uplinks()
	if u := all[name]; u != nil {
		return u, nil
	}
	if d.stateErr != nil {
		return nil, fmt.Errorf("uplink %s: %w: %w", name, ErrPlaceUnknown, d.stateErr)
	}
	return nil, unknownUplink(name, all)
}

func unknownUplink(name string, all map[string]*uplink) error {
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	return fmt.Errorf("%w %q: there is %s", ErrUnknownUplink, name, cmp.Or(strings.Join(names, ", "), "none"))
}

// asideIf returns the segments that were set aside, if they are wanted. A
// single file is always wanted.
func (d *Dir) asideIf(wanted bool) (all []*segment) {
	for _, a := range d.aside {
		if a.seg != nil && (wanted || d.single) {
			a.seg.size = a.size
			all = append(all, a.seg)
		}
	}
	return all
}

// openSource opens a file that chunks are in and finds them.
type openSource func(ctx context.Context, stream string, salvage bool) (chunkSource, *content, error)

// openRaw opens a file that nobody writes to.
func openRaw(path string) openSource {
	return func(ctx context.Context, stream string, salvage bool) (chunkSource, *content, error) {
		f, size, err := openRegular(path)
		if err != nil {
			return nil, nil, err
		}
		salvage = salvage || filepath.Ext(path) == rawSuffix // the agent salvages it, too
		src := rawFile{f}
		c, err := indexTree(ctx, f, size, stream, src)
		if salvage && !errors.Is(err, ErrVersion) && (err != nil && isDamage(err) || err == nil && c.damaged > 0) {
			c, err = indexScan(f, stream, src), nil
			if len(c.refs) == 0 {
				err = fmt.Errorf("%w: nothing in it can be read", errStructure)
			}
		}
		if err != nil {
			src.close()
			return nil, nil, err
		}
		return src, c, nil
	}
}

// fileGroup is all files that hold records of a stream from the same seq on:
// a segment, and what was set aside of it.
type fileGroup struct {
	ord    uint64
	stream string
	first  uint64
	until  uint64 // what is beyond is in the next group
	last   uint64 // up to here it should hold records; 0: not known
	files  []groupFile
}

type groupFile struct {
	name string
	size int64
	open openSource
}

// groupFiles sorts segments, and those that were set aside, into groups, in
// order. last says up to where a segment should hold records; 0: not known.
func groupFiles(segments, aside []*segment, open func(s *segment) openSource, last func(s *segment) uint64) []fileGroup {
	var groups []fileGroup
	add := func(s *segment, open openSource) {
		file := groupFile{filepath.Base(s.path), s.size, open}
		at, found := slices.BinarySearchFunc(groups, s, func(g fileGroup, s *segment) int {
			return cmp.Or(cmp.Compare(g.ord, s.ord), cmp.Compare(g.first, s.first), cmp.Compare(g.stream, s.stream))
		})
		if found {
			groups[at].files = append(groups[at].files, file)
			return // a copy that was set aside promises nothing
		}
		groups = slices.Insert(groups, at, fileGroup{
			ord: s.ord, stream: s.stream, first: s.first, until: math.MaxUint64, last: last(s), files: []groupFile{file},
		})
	}
	for _, s := range segments {
		add(s, open(s))
	}
	for _, s := range aside {
		add(s, openRaw(s.path))
	}
	for i := range len(groups) - 1 {
		if next := &groups[i+1]; next.ord == groups[i].ord && next.stream == groups[i].stream {
			groups[i].until = next.first - 1
		}
	}
	return groups
}

// promised returns the seq up to which the segment holds records, as state.db
// says; 0: it does not.
func (s *segment) promised() uint64 {
	if !s.sealed {
		return 0
	}
	return s.last
}

func totalSize(groups []fileGroup) (total int64) {
	for i := range groups {
		total += groups[i].size()
	}
	return total
}

func (g *fileGroup) size() (size int64) {
	for i := range g.files {
		size += g.files[i].size
	}
	return size
}

// exporter is one export. It has a group's files open at a time, and holds
// where its chunks are: its memory does not grow with the buffer.
type exporter struct {
	ctx     context.Context //nolint:containedctx // an exporter lives as long as the call it was made for
	o       ExportOptions
	put     Put
	parts   wants // what is to be exported; nil: all
	wanted  wants // what may not be missing
	decoder *chunkDecoder
	result  ExportResult
	schemas map[uint64][]byte      // nil: nowhere to be found
	lookup  func(id uint64) []byte // finds one that its file has lost

	// clock returns what is known of the clock of a stream's boot, of which a
	// file may say more.
	clock func(ord uint64, file *content) *clock.History

	stream      string
	last        uint64 // of the stream, what is done
	done, total int64  // bytes

	dates  *clock.History // for the present group
	opened []chunkSource
	carry  []chunkRef // chunks that reach into the next group
	raw    []byte
	recs   []Record
	arena  []byte
}

func newExporter(ctx context.Context, o ExportOptions, put Put) (*exporter, error) {
	dec, err := newChunkDecoder()
	if err != nil {
		return nil, err
	}
	return &exporter{ctx: ctx, o: o, put: put, decoder: dec, schemas: make(map[uint64][]byte)}, nil
}

// end returns the result.
func (e *exporter) end() ExportResult {
	e.result.Missing = mergeLost(e.result.Missing)
	return e.result
}

func (e *exporter) close() {
	e.decoder.close()
	for _, src := range e.opened {
		src.close()
	}
}

// run exports the groups, but nothing beyond last of the last one's stream.
func (e *exporter) run(groups []fileGroup, last uint64) error {
	for i := range groups {
		g := &groups[i]
		if g.stream != e.stream {
			e.stream, e.last, e.carry = g.stream, 0, nil
		}
		if i == len(groups)-1 {
			g.until = min(g.until, last)
		}
		if err := e.group(g); err != nil {
			return err
		}
		e.done += g.size()
		e.tell(0)
	}
	return nil
}

// tell says how far it is; within is what is done of the present group.
func (e *exporter) tell(within int64) {
	if e.o.Progress != nil {
		e.o.Progress(min(e.done+within, e.total), e.total)
	}
}

// group exports one group.
func (e *exporter) group(g *fileGroup) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	gone := e.result.Gone
	refs, err := e.index(g)
	if err != nil {
		return err
	}
	slices.SortStableFunc(refs, func(x, y chunkRef) int {
		return cmp.Or(cmp.Compare(x.head.first, y.head.first), cmp.Compare(y.head.last(), x.head.last()))
	})
	e.carry = nil
	size, step := g.size(), int64(0)
	for i := range refs {
		ref := &refs[i]
		if ref.head.last() > g.until {
			e.carry = append(e.carry, *ref)
		}
		if ref.head.first <= g.until {
			if err := e.chunk(g, ref); err != nil {
				return err
			}
		}
		if step += int64(ref.size); step >= 256<<10 {
			step = 0
			e.tell(size * int64(i) / int64(len(refs)))
		}
	}
	e.missAfter(g, e.result.Gone > gone)
	e.opened = slices.DeleteFunc(e.opened, func(src chunkSource) bool {
		needed := slices.ContainsFunc(e.carry, func(ref chunkRef) bool { return ref.from == src })
		if !needed {
			src.close()
		}
		return !needed
	})
	return nil
}

// index opens the files of g and finds their chunks.
func (e *exporter) index(g *fileGroup) ([]chunkRef, error) {
	refs := e.carry
	e.dates = e.clock(g.ord, &content{})
	if len(e.schemas) > maxCachedSchemas {
		clear(e.schemas)
	}
	for _, f := range g.files {
		src, c, err := f.open(e.ctx, g.stream, e.o.Salvage)
		switch {
		case e.ctx.Err() != nil:
			if err == nil {
				src.close()
			}
			return nil, e.ctx.Err()
		case errors.Is(err, os.ErrNotExist):
			e.result.Gone++
			continue
		case err != nil && (isDamage(err) || e.o.Salvage):
			e.result.Skipped = append(e.result.Skipped, FileFault{f.name, faultText(err)})
			continue
		case err != nil:
			return nil, err
		}
		e.opened = append(e.opened, src)
		e.result.Damaged += c.damaged
		refs = append(refs, c.refs...)
		e.learn(c.schemas)
		e.dates = e.clock(g.ord, c)
	}
	return refs, nil
}

// learn takes the schemas of a file.
func (e *exporter) learn(packed map[uint64][]byte) {
	for id, p := range packed {
		if e.schemas[id] != nil {
			continue
		}
		if blob, err := unpackSchema(p); err == nil {
			e.schemas[id] = blob
		}
	}
}

// chunk exports what is wanted of a chunk and was not exported yet.
func (e *exporter) chunk(g *fileGroup, ref *chunkRef) error {
	from, to := max(ref.head.first, e.last+1), min(ref.head.last(), g.until)
	if from > to {
		return nil
	}
	if err := e.ctx.Err(); err != nil {
		return err
	}
	wanted := [][2]uint64{{from, to}}
	if e.parts != nil {
		if wanted = e.parts(g.ord, from, to); len(wanted) == 0 {
			e.missBefore(g, &ref.head)
			e.last = to
			return nil
		}
	}
	raw, err := ref.from.read(ref, e.raw[:0])
	if errors.Is(err, os.ErrNotExist) {
		e.result.Gone++
		return nil
	}
	if err != nil && !isDamage(err) {
		return err
	}
	e.raw = raw
	recs, err := e.unpack(g.stream, err)
	if err != nil {
		e.result.Damaged++ // its records may be in a copy
		return nil         //nolint:nilerr // it is counted
	}
	e.missBefore(g, &ref.head)
	e.last = to
	base, set := e.dates.Base()
	shift := base - stepped(e.dates, &ref.head)
	for i := range recs {
		r := &recs[i]
		r.Stream = g.stream
		r.Time += shift
		r.ClockUnset = !set && r.Time < clock.FirstSane
		if r.Seq < from || !within(wanted, r.Seq) {
			continue
		}
		if err := e.emit(r); err != nil {
			return err
		}
	}
	return nil
}

// unpack takes the chunk in e.raw apart; err is what reading it said.
func (e *exporter) unpack(stream string, err error) ([]Record, error) {
	if err != nil {
		return nil, err
	}
	h, body, err := parseChunk(e.raw, streamTag(stream))
	if err != nil {
		return nil, err
	}
	e.recs, e.arena, err = e.decoder.decode(&h, body, e.recs[:0], e.arena[:0])
	return e.recs, err
}

func (e *exporter) emit(r *Record) error {
	schema, known := e.schemas[r.Schema]
	if !known {
		schema = e.lookup(r.Schema)
		e.schemas[r.Schema] = schema
	}
	if err := e.put(r, schema); err != nil {
		return err
	}
	e.result.Records++
	e.result.Readings += uint64(r.Readings)
	return nil
}

func within(parts [][2]uint64, seq uint64) bool {
	for _, p := range parts {
		if p[0] <= seq && seq <= p[1] {
			return true
		}
	}
	return false
}

// faultText is what a person should read of an error with a file whose name
// stands beside it.
func faultText(err error) string {
	var pathError *os.PathError
	switch {
	case errors.Is(err, ErrVersion):
		return err.Error()
	case errors.As(err, &pathError):
		return pathError.Err.Error()
	case errors.Is(err, errBroken):
		return "its content makes the database fail"
	}
	text := err.Error()
	if i := strings.Index(text, errStructure.Error()); i >= 0 {
		return text[i:]
	}
	if _, after, found := strings.Cut(text, errFormat.Error()+": "); found {
		return after
	}
	return text
}
