package buffer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// got collects an export, and checks that each record comes once, in order,
// and as it was appended.
type exported struct {
	tb   tester
	seqs map[string][]uint64
	last string // stream
}

func (x *exported) put(r *Record, schema []byte) error {
	x.tb.Helper()
	if x.seqs == nil {
		x.seqs = make(map[string][]uint64)
	}
	if r.Stream != x.last && len(x.seqs[r.Stream]) > 0 {
		x.tb.Fatalf("stream %s comes twice", r.Stream)
	}
	x.last = r.Stream
	seqs := x.seqs[r.Stream]
	if n := len(seqs); n > 0 && seqs[n-1] >= r.Seq {
		x.tb.Fatalf("%s: %d after %d", r.Stream, r.Seq, seqs[n-1])
	}
	x.seqs[r.Stream] = append(seqs, r.Seq)
	if string(schema) != "schema one" || r.Readings != 2 || !bytes.HasPrefix(r.Data, payload(r.Seq, 0)) || len(r.Data) != 408 {
		x.tb.Fatalf("record %s/%d is not what was appended (schema %q)", r.Stream, r.Seq, schema)
	}
	return nil
}

func openDir(tb tester, path string) *Dir {
	tb.Helper()
	d, err := OpenDir(path)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func (d *Dir) mustVerify(tb tester) *Report {
	tb.Helper()
	r, err := d.Verify(context.Background(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func (d *Dir) mustExport(tb tester, o ExportOptions) (*exported, ExportResult) {
	tb.Helper()
	x := &exported{tb: tb}
	res, err := d.Export(context.Background(), o, x.put)
	if err != nil {
		tb.Fatal(err)
	}
	return x, res
}

// snapshot is what a directory holds, byte for byte.
func snapshot(tb tester, dir string) map[string]string {
	tb.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			tb.Fatal(err)
		}
		all[e.Name()] = info.ModTime().String() + string(data)
	}
	return all
}

// TestDirWhole looks into the files of an agent that was stopped: all is
// there, and nothing is changed.
func TestDirWhole(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	before := snapshot(t, dir)
	d := openDir(t, dir)
	l := d.Look()
	if len(l.Streams) != 2 || len(l.Uplinks) != 2 || l.Batches != 2*damagedRecords || l.Segments < 4 || l.Bytes < 400<<10 || l.StateError != "" || len(l.Unread) > 0 {
		t.Errorf("look: %+v", l)
	}
	for i, st := range l.Streams {
		if st.Stream != streams[i] || st.First != 1 || st.Last != damagedRecords || st.Readings != 2*damagedRecords || st.Newest != damagedRecords-1 {
			t.Errorf("stream %d: %+v", i, st)
		}
	}
	r := d.mustVerify(t)
	if r.Damaged || r.Batches != 2*damagedRecords || r.Readings != 4*damagedRecords || len(r.Files) != l.Segments+1 {
		t.Errorf("verify: %+v", r)
	}
	for _, o := range []ExportOptions{{}, {Salvage: true}, {Uplink: "a"}} {
		var done, total int64
		o.Progress = func(d, t int64) { done, total = d, t }
		x, res := d.mustExport(t, o)
		if !res.Whole() || res.Records != 2*damagedRecords || len(x.seqs[streams[0]]) != damagedRecords || len(x.seqs[streams[1]]) != damagedRecords {
			t.Errorf("%+v: %+v", o, res)
		}
		if done != total || total < 400<<10 {
			t.Errorf("progress ends at %d of %d", done, total)
		}
	}
	after := snapshot(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
}

// TestDirOfUplink: what was acknowledged is not among what waits.
func TestDirOfUplink(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	o := testOptions(t, dir)
	o.Uplinks = []string{"a", "b"}
	b := openBuffer(t, o)
	r := &receiver{hold: true, window: 700}
	stop := forward(t, b, "a", r)
	waitFor(t, "700 sent", func() bool { return r.total() == 700 })
	r.ack(650)
	waitFor(t, "650 acknowledged", func() bool { return b.Stats().Uplinks["a"].Acked == 650 })
	r.cut()
	stop()
	closeBuffer(t, b)
	d := openDir(t, dir)
	l := d.Look()
	if l.Uplinks[0].Batches != 550 || l.Uplinks[0].Acked != 650 || l.Uplinks[1].Batches != 1200 {
		t.Errorf("look: %+v", l.Uplinks)
	}
	x, res := d.mustExport(t, ExportOptions{Uplink: "a"})
	if res.Records != 550 || len(x.seqs[streams[0]]) != 0 || x.seqs[streams[1]][0] != 51 {
		t.Errorf("%+v", res)
	}
	if _, err := d.Export(t.Context(), ExportOptions{Uplink: "c"}, x.put); !errors.Is(err, ErrUnknownUplink) || !strings.Contains(err.Error(), "there is a, b") {
		t.Errorf("an uplink that there is not: %v", err)
	}
}

// TestDirDamaged: whatever happens to a segment, verify finds it (unless it
// hit nothing that is in use), export leaves it out or salvages it, and what
// comes out is right.
func TestDirDamaged(t *testing.T) {
	t.Parallel()
	for _, in := range injuries() {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			for range rounds(3) {
				dir := tempDir(t)
				streams := written(t, dir)
				files := segmentsIn(t, dir)
				in.apply(t, files[rand.IntN(len(files))])
				d := openDir(t, dir)
				_ = d.Look()
				r := d.mustVerify(t)
				plain, res := d.mustExport(t, ExportOptions{})
				saved, salvaged := d.mustExport(t, ExportOptions{Salvage: true})
				lost := batchesIn(r.Lost)
				if n := batchesIn(salvaged.Missing); n != lost || lost > 0 && (salvaged.Whole() || res.Whole()) {
					t.Errorf("a salvage says that %d are missing, verify %d: %+v; %+v; %+v", n, lost, salvaged, res, r.Lost)
				}
				if one := len(plain.seqs[streams[0]]) + len(plain.seqs[streams[1]]) + int(batchesIn(res.Missing)); one < 2*damagedRecords {
					t.Errorf("%d came or are said to be missing, of %d", one, 2*damagedRecords)
				}
				all := 0
				for _, s := range streams {
					all += len(saved.seqs[s])
					if len(plain.seqs[s]) > len(saved.seqs[s]) {
						t.Errorf("%s: a salvage brought %d, without it %d", s, len(saved.seqs[s]), len(plain.seqs[s]))
					}
				}
				if uint64(all)+lost != 2*damagedRecords || r.Batches != uint64(all) {
					t.Errorf("%d records and %d lost, verify read %d, of %d: %+v", all, lost, r.Batches, 2*damagedRecords, r.Lost)
				}
				if in.name != "gone" && (lost > 0 || !res.Whole()) != r.Damaged && lost > 0 {
					t.Errorf("damaged: %v; %+v", r.Damaged, res)
				}
				if lost > 0 && !r.Damaged {
					t.Errorf("%d are lost and the verdict is good", lost)
				}
			}
		})
	}
}

func batchesIn(all []Lost) (n uint64) {
	for _, l := range all {
		n += l.To - l.From + 1
	}
	return n
}

// TestExportHoles: what is missing in the middle of a file and at its end is
// said, where somebody waits for it, and only there.
func TestExportHoles(t *testing.T) {
	t.Parallel()
	const n = 3 * damagedRecords
	dir := tempDir(t)
	o := testOptions(t, dir)
	o.Uplinks, o.SegmentSize = []string{"a", "b"}, 1<<20
	b := openBuffer(t, o)
	for i := range uint64(n) {
		data := payload(i+1, 400)
		copy(data[8:], randomPayload(i, 400))
		if _, err := b.Append(Record{Schema: 1, Readings: 2, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	closeBuffer(t, b)
	d := openDir(t, dir)
	first := d.segments[0]
	from, to := holeIn(t, first)
	for _, o := range []ExportOptions{{Salvage: true}, {Salvage: true, Uplink: "a"}} {
		x, res := d.mustExport(t, o)
		if res.Whole() || len(res.Missing) != 1 || res.Missing[0] != (Lost{first.stream, from, to}) {
			t.Errorf("%+v: missing are %+v, want %d to %d", o, res.Missing, from, to)
		}
		if got := len(x.seqs[first.stream]) + int(to-from+1); got != n {
			t.Errorf("%d", got)
		}
	}
	// A single file says of itself what is missing.
	if _, res := openDir(t, first.path).mustExport(t, ExportOptions{Salvage: true}); len(res.Missing) != 1 {
		t.Errorf("%+v", res.Missing)
	}
	// The agent announces them: then they are not missing any more.
	book := &logBook{}
	o.Stream, o.Log = testOptions(t, dir).Stream, book.logger()
	b = openBuffer(t, o)
	said := fmt.Sprintf("readable_readings=%d missing_batches=%d", 2*(n-(to-from+1)), to-from+1)
	r := &receiver{hold: true}
	stop := forward(t, b, "a", r)
	waitFor(t, "all sent", func() bool { return r.total() > n-1-int(to-from) })
	x := &exported{tb: t}
	if res, err := b.Export(t.Context(), ExportOptions{Salvage: true}, x.put); err != nil || len(res.Missing) > 0 {
		t.Errorf("%v: %+v", err, res)
	}
	if book.count(said) != 1 {
		t.Errorf("the log does not say %q:\n%s", said, book.b.String())
	}
	r.cut()
	stop()
	closeBuffer(t, b)
}

// holeIn destroys a chunk in the middle of a segment and the file's meta
// pages, and returns which records were in it.
func holeIn(tb tester, s *segment) (from, to uint64) {
	tb.Helper()
	raw, err := openRawSegment(s)
	if err != nil {
		tb.Fatal(err)
	}
	if len(raw.chunks) < 3 {
		tb.Fatalf("%d chunks", len(raw.chunks))
	}
	victim := raw.chunks[len(raw.chunks)/2]
	if err := raw.file.Close(); err != nil {
		tb.Fatal(err)
	}
	injury{"", func(data []byte) []byte {
		clear(data[:2*pageSize])
		for at := 0; ; {
			i := bytes.Index(data[at:], []byte(chunkMagic))
			if i < 0 {
				return data
			}
			at += i
			if h, err := parseChunkHeader(data[at:]); err == nil && h.first == victim.head.first {
				clear(data[at : at+chunkHeaderSize])
			}
			at++
		}
	}}.apply(tb, s.path)
	return victim.head.first, victim.head.last()
}

// TestDirAfterRescue: damaged segments that the agent reads without bbolt are
// exported as they would be sent; one that was set aside, with --salvage.
func TestDirAfterRescue(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	for _, f := range segmentsIn(t, dir) {
		injury{"", func(d []byte) []byte { clear(d[:2*pageSize]); return d }}.apply(t, f)
	}
	o := testOptions(t, dir)
	o.Uplinks = []string{"a", "b"}
	b := openBuffer(t, o)
	// The forwarder reads the damaged files; nothing is acknowledged.
	r := &receiver{hold: true}
	stop := forward(t, b, "a", r)
	waitFor(t, "all sent", func() bool { return r.total() >= 2*damagedRecords })
	r.cut()
	stop()
	closeBuffer(t, b)
	d := openDir(t, dir)
	raw, err := filepath.Glob(filepath.Join(dir, "*"+rawSuffix))
	if err != nil || len(raw) < 4 {
		t.Fatalf("%v %v %+v", raw, err, d.Look())
	}
	if r := d.mustVerify(t); !r.Damaged || len(r.Lost) > 0 {
		t.Errorf("%+v", r)
	}
	for _, salvage := range []bool{false, true} {
		x, res := d.mustExport(t, ExportOptions{Salvage: salvage})
		if !res.Whole() || len(x.seqs[streams[0]]) != damagedRecords || len(x.seqs[streams[1]]) != damagedRecords {
			t.Errorf("salvage %v: %+v", salvage, res)
		}
	}
	aside := filepath.Join(dir, damagedPrefix+"1-"+strings.TrimSuffix(filepath.Base(raw[0]), rawSuffix)+segmentSuffix)
	if err := os.Rename(raw[0], aside); err != nil {
		t.Fatal(err)
	}
	one := openDir(t, aside)
	if _, res := one.mustExport(t, ExportOptions{}); res.Whole() || res.Records > 0 {
		t.Errorf("one file set aside: %+v", res)
	}
	if _, res := one.mustExport(t, ExportOptions{Salvage: true}); !res.Whole() || res.Records == 0 {
		t.Errorf("one file set aside, salvaged: %+v", res)
	}
}

func TestDirErrors(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if _, err := OpenDir(filepath.Join(dir, "none")); !errors.Is(err, ErrNoBuffer) {
		t.Error(err)
	}
	if _, err := OpenDir(dir); !errors.Is(err, ErrNoBuffer) {
		t.Error(err)
	}
	note := filepath.Join(dir, "note.txt")
	if err := os.WriteFile(note, nil, fileMode); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(note); !errors.Is(err, ErrNoBuffer) {
		t.Error(err)
	}
	b := openBuffer(t, testOptions(t, dir))
	if _, err := OpenDir(dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Error(err)
	}
	closeBuffer(t, b)
	openDir(t, dir)
}

// TestDirVersion: files of a newer program are not called damaged.
func TestDirVersion(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	written(t, dir)
	editBolt(t, segmentsIn(t, dir)[0], putVersion(segmentVersion+1))
	editBolt(t, filepath.Join(dir, stateName), putVersion(stateVersion+1))
	d := openDir(t, dir)
	if l := d.Look(); !strings.Contains(l.StateError, "another version") {
		t.Error(l.StateError)
	}
	r := d.mustVerify(t)
	said := 0
	for _, f := range r.Files {
		for _, fault := range f.Faults {
			if strings.Contains(fault, "another version of Millrace (format") {
				said++
			}
		}
	}
	if said != 2 {
		t.Errorf("%+v", r.Files)
	}
	_, res := d.mustExport(t, ExportOptions{Salvage: true})
	if len(res.Skipped) != 1 || !strings.Contains(res.Skipped[0].Fault, "another version") {
		t.Errorf("%+v", res)
	}
}

// TestBufferLook looks into a running buffer: files and memory.
func TestBufferLook(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	o := testOptions(t, dir)
	o.Uplinks = []string{"a", "b"}
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	for i := range uint64(100) {
		if _, err := b.Append(Record{Schema: 1, Readings: 2, Data: payload(i+1, 400)}); err != nil {
			t.Fatal(err)
		}
	}
	l := b.Look()
	if !l.Live || l.Memory == nil || l.Memory.Batches != 100 || l.Memory.Only != 100 || l.Batches != 2*damagedRecords+100 || len(l.Streams) != 2 || l.Uplinks[1].Batches != l.Batches {
		t.Errorf("%+v", l)
	}
	r, err := b.Verify(t.Context(), nil)
	if err != nil || r.Damaged || r.Batches != 2*damagedRecords {
		t.Errorf("%v: %+v", err, r)
	}
	x := &exported{tb: t}
	res, err := b.Export(t.Context(), ExportOptions{Uplink: "b"}, x.put)
	if err != nil || !res.Whole() || len(x.seqs[streams[1]]) != damagedRecords || len(x.seqs[o.Stream]) != 100 {
		t.Errorf("%v: %+v", err, res)
	}
	if _, err := b.Export(t.Context(), ExportOptions{Uplink: "x"}, x.put); !errors.Is(err, ErrUnknownUplink) {
		t.Error(err)
	}
	closeBuffer(t, b)
	if _, err := b.Export(t.Context(), ExportOptions{}, x.put); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestExportWhileWritten exports again and again while the buffer is written,
// committed, evicted and acknowledged: nothing comes twice or out of order,
// and what waits all the time is there.
func TestExportWhileWritten(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	o := testOptions(t, dir)
	o.MaxSize, o.CommitInterval, o.TailBytes = 1<<20, time.Millisecond, 128<<10
	b := openBuffer(t, o)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := uint64(1); ; i++ {
			data := payload(i, 400)
			for j := 8; j < len(data); j++ {
				data[j] = byte(rand.Uint32())
			}
			if _, err := b.Append(Record{Schema: 1, Readings: 2, Data: data}); err != nil {
				t.Error(err)
				return
			}
			if i%20 == 0 {
				select {
				case <-quit:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
	}()
	for range rounds(20) {
		x := &exported{tb: t}
		res, err := b.Export(t.Context(), ExportOptions{Salvage: rand.IntN(2) == 0}, x.put)
		if err != nil || !res.Whole() {
			t.Errorf("%v: %+v", err, res)
		}
		// What is missing was given up, and is to be announced.
		seqs, gaps := x.seqs[o.Stream], b.Look().Uplinks[0].Gaps
		for i := 1; i < len(seqs); i++ {
			for seq := seqs[i-1] + 1; seq < seqs[i]; seq++ {
				if !slices.ContainsFunc(gaps, func(g Gap) bool { return g.From <= seq && seq <= g.To }) {
					t.Fatalf("%d is missing between %d and %d; given up: %+v", seq, seqs[i-1], seqs[i], gaps)
				}
			}
		}
		r, err := b.Verify(t.Context(), nil)
		if err != nil || r.Damaged {
			t.Errorf("%v: %+v", err, r)
		}
		<-time.After(20 * time.Millisecond)
	}
	close(quit)
	<-done
	if b.Stats().Dropped[ReasonFull] == 0 {
		t.Error("nothing was evicted")
	}
	closeBuffer(t, b)
}

// TestExportEnds: an export ends with its context, and with what put says.
func TestExportEnds(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	written(t, dir)
	d := openDir(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := d.Export(ctx, ExportOptions{}, func(*Record, []byte) error {
		n++
		if n == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n > damagedRecords {
		t.Errorf("%d, %v", n, err)
	}
	errFull := errors.New("full")
	if _, err = d.Export(t.Context(), ExportOptions{}, func(*Record, []byte) error { return errFull }); !errors.Is(err, errFull) {
		t.Error(err)
	}
	if _, err := d.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// editBolt changes a file of the buffer.
func editBolt(tb tester, path string, fn func(tx *bolt.Tx) error) {
	tb.Helper()
	db, err := bolt.Open(path, fileMode, boltOptions(false, 0))
	if err != nil {
		tb.Fatal(err)
	}
	_, err = update(db, fn)
	if err := errors.Join(err, closeBolt(db)); err != nil {
		tb.Fatal(err)
	}
}

func putVersion(version byte) func(tx *bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyVersion), []byte{version})
	}
}

// TestExportTimes: an export has the times that an uplink gets: corrected by
// what became known of the clock, from the files, without state.db, and live.
func TestExportTimes(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 0)
	p.append(50)
	p.settle()
	p.m.set(y2026)
	p.append(50)
	closeBuffer(t, p.b)
	collect := func(export func(context.Context, ExportOptions, Put) (ExportResult, error)) {
		t.Helper()
		got := &dated{}
		res, err := export(t.Context(), ExportOptions{}, func(r *Record, _ []byte) error {
			got.records = append(got.records, *r)
			return nil
		})
		if err != nil || !res.Whole() {
			t.Fatalf("%v: %+v", err, res)
		}
		p.want(got, y2026, false)
	}
	d := openDir(t, p.o.Dir)
	collect(d.Export)
	first, last := p.truth[0]+y2026, p.truth[99]+y2026
	if l := d.Look(); abs(l.Streams[0].Oldest-first) > 5 || abs(l.Streams[0].Newest-last) > 5 || abs(l.Oldest-first) > 5 {
		t.Errorf("%+v, want %d to %d", l, first, last)
	}
	state := filepath.Join(p.o.Dir, stateName)
	if err := os.Rename(state, state+".away"); err != nil {
		t.Fatal(err)
	}
	d = openDir(t, p.o.Dir)
	collect(d.Export)
	if l := d.Look(); abs(l.Streams[0].Oldest-first) > 5 || abs(l.Streams[0].Newest-last) > 5 {
		t.Errorf("%+v, want %d to %d", l, first, last)
	}
	if err := os.Rename(state+".away", state); err != nil {
		t.Fatal(err)
	}
	p.open()
	collect(p.b.Export)
	p.append(10)
	collect(p.b.Export)
	closeBuffer(t, p.b)
}
