package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/buffer"
	"millrace/cmd/millrace/console"
	"millrace/protocols"
	"millrace/protocols/mqtt/mqtttest"
)

// TestBufferText holds what users see against golden files.
func TestBufferText(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1795462800123)
	before := func(d time.Duration) int64 { return now.Add(-d).UnixMilli() }
	full := &bufferLook{Dir: "data/buffer", Gateway: "gw-press-01", Look: buffer.Look{
		Live: true, Bytes: 412 << 20, MaxBytes: 1 << 30, Batches: 1234567, Oldest: before(31 * time.Hour), Segments: 26,
		Streams: []buffer.StreamLook{
			{Stream: "01KA0000000000000000000001", Segments: 3, Bytes: 40 << 20, First: 17, Last: 99999, Readings: 9998300, Oldest: before(31 * time.Hour), Newest: before(20 * time.Hour)},
			{Stream: "01KA0000000000000000000002", Segments: 23, Bytes: 371 << 20, First: 1, Last: 1134584, Readings: 113458400, Oldest: before(19 * time.Hour), Newest: before(time.Second)},
		},
		Uplinks: []buffer.UplinkLook{
			{Name: "archive", Batches: 1234567, Bytes: 411 << 20, Oldest: before(31 * time.Hour), Acked: 17, Gaps: []buffer.Gap{
				{Stream: "01KA0000000000000000000001", From: 1, To: 16, Readings: 1600, Reason: "buffer_full", Oldest: before(32 * time.Hour), Newest: before(31 * time.Hour)},
				{Stream: "01KA0000000000000000000001", From: 500, To: 520, Reason: "damaged"},
			}},
			{Name: "platform", Connected: true, InFlight: 3, Batches: 3, Oldest: before(20 * time.Millisecond), Acked: 1234564},
		},
		SetAside: []buffer.FileLook{{Name: "damaged-1-00000001-0000000000000001-01KA0000000000000000000001.seg", Bytes: 16 << 20}},
		Memory:   &buffer.MemoryLook{Stream: "01KA0000000000000000000002", Batches: 812, Only: 12, Bytes: 600 << 10, Appended: 1134584, Dropped: map[string]uint64{"buffer_full": 1600}},
	}}
	full.Forecast = &console.Forecast{Known: true, Holds: 31 * 3600, HoldsLimit: "max_size", Trend: "filling", Left: 8 * 3600, Full: now.UnixMilli(), FullLimit: "max_size"}
	golden(t, "testdata/buffer/stat-live.txt", full.text(now))
	empty := &bufferLook{Dir: "data/buffer", Look: buffer.Look{Bytes: 92 << 10}}
	golden(t, "testdata/buffer/stat-empty.txt", empty.text(now))
	lost := &bufferLook{Dir: "data/buffer", Gateway: "gw-1", Look: buffer.Look{
		Bytes: 2 << 20, MaxBytes: 1 << 30, StateError: "there is no state.db: what each uplink has acknowledged is not known", Segments: 1,
		Unread: []string{"00000001-0000000000000001-01KA0000000000000000000001.seg"},
	}}
	golden(t, "testdata/buffer/stat-lost.txt", lost.text(now))
	unread := &bufferLook{Dir: "data/buffer", Gateway: "gw-1", Look: buffer.Look{
		Bytes: 2 << 20, MaxBytes: 1 << 30, Segments: 1, Batches: 8, Oldest: before(time.Hour),
		Unread:  []string{"00000001-0000000000000065-01KA0000000000000000000001.seg"},
		Gone:    []string{"00000001-0000000000000001-01KA0000000000000000000001.seg"},
		Uplinks: []buffer.UplinkLook{{Name: "archive", Batches: 8, Oldest: before(time.Hour), Unknown: true, Acked: 17}, {Name: "platform", Acked: 300}},
	}}
	golden(t, "testdata/buffer/stat-unread.txt", unread.text(now))
	unread.Batches, unread.Gone = 0, nil
	if got := unread.waitingText(now); got != "not known: 1 file cannot be read" {
		t.Error(got)
	}

	good := &buffer.Report{Batches: 99, Readings: 990, Files: []buffer.FileReport{
		{Name: "00000001-0000000000000001-01KA.seg", Kind: buffer.KindSegment, Bytes: 1 << 20, Stream: "01KA", First: 1, Last: 50, Batches: 50, Readings: 500},
		{Name: "00000001-0000000000000033-01KA.seg", Kind: buffer.KindSegment, Bytes: 1 << 20, Stream: "01KA", First: 51, Last: 99, Batches: 49, Readings: 490, Active: true},
		{Name: "damaged-1-00000001-0000000000000001-01KA.seg", Kind: buffer.KindSetAside, Bytes: 1 << 20, Stream: "01KA", First: 1, Last: 50, Batches: 48, Readings: 480, Faults: []string{"damaged file: page 7 has a wrong header"}},
		{Name: "00000001-0000000000000064-01KA.seg.tmp", Kind: buffer.KindLeftOver, Bytes: 64 << 10},
		{Name: "state.db", Kind: buffer.KindState, Bytes: 92 << 10},
	}}
	golden(t, "testdata/buffer/verify-good.txt", reportText("data/buffer", good))
	bad := &buffer.Report{Damaged: true, Batches: 40, Readings: 400, Files: []buffer.FileReport{
		{Name: "00000001-0000000000000001-01KA.seg", Kind: buffer.KindSegment, Bytes: 1 << 20, Stream: "01KA", First: 1, Last: 50, Batches: 40, Readings: 400, Faults: []string{"2 of its parts are damaged: wrong checksum or content"}},
		{Name: "00000001-0000000000000033-01KA.seg", Kind: buffer.KindSegment, Bytes: 1 << 20, Stream: "01KA", Faults: []string{"damaged file: no valid meta page"}},
		{Name: "state.db", Kind: buffer.KindState, Faults: []string{"no such file or directory"}},
	}, Lost: []buffer.Lost{{Stream: "01KA", From: 11, To: 20}}}
	golden(t, "testdata/buffer/verify-bad.txt", reportText("data/buffer", bad))
}

func TestBufferOutlook(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1795462800123)
	for _, c := range []struct {
		f    console.Forecast
		want string
	}{
		{console.Forecast{Trend: "unknown"}, "not known yet: that takes a minute of readings"},
		{console.Forecast{Known: true, Trend: "empty", Holds: 1e9}, "an empty buffer holds an outage of more than a year at the present rate"},
		{console.Forecast{Known: true, Trend: "filling", Holds: 5400}, "filling, but so slowly that no limit is near; an empty buffer holds an outage of 90 min at the present rate"},
		{console.Forecast{Trend: "full", FullLimit: "max_size"}, "full: the oldest batches are being lost, because its files reach max_size (0 B)"},
		{
			console.Forecast{Known: true, Trend: "filling", Full: 1, Left: 0.4, FullLimit: "max_age", Holds: 0.4},
			"full now, if it goes on like this: then the oldest readings reach max_age and the oldest batches are lost; an empty buffer holds an outage of less than a second at the present rate",
		},
		{
			console.Forecast{Known: true, Trend: "filling", Full: 1, Left: 90, FullLimit: "max_age", Holds: 150},
			"full at 2026-11-23 19:42 UTC, in 90 s, if it goes on like this: then the oldest readings reach max_age and the oldest batches are lost; an empty buffer holds an outage of 3 min at the present rate",
		},
		{
			console.Forecast{Known: true, Trend: "full", FullLimit: "memory", Holds: 60, HoldsLimit: "memory"},
			"full: the oldest batches are being lost, because the memory for readings is full, as the disk takes none; an empty buffer holds an outage of 60 s at the present rate, until the memory for readings is full, as the disk takes none",
		},
		{
			console.Forecast{Known: true, Trend: "draining", Drained: 7200, Holds: 864000, HoldsLimit: "max_age"},
			"empty at 2026-11-23 21:40 UTC, in 2 h, if the uplinks go on like this; an empty buffer holds an outage of 10 days at the present rate, until the oldest readings reach max_age",
		},
		{
			console.Forecast{Known: true, Trend: "standing", Holds: 7200, HoldsLimit: "disk_space"},
			"the backlog stands: the uplink takes as much as comes in, and no more; an empty buffer holds an outage of 2 h at the present rate, until the disk is full: it has less room than max_size",
		},
	} {
		l := bufferLook{Forecast: &c.f}
		if got := l.outlookText(now); got != c.want {
			t.Errorf("%+v: %s", c.f, got)
		}
	}
}

// allKinds is a schema with a tag of each kind of value, and two readings of
// each that are hard to write down.
func allKinds() (*protocols.Schema, []protocols.Batch) {
	values := []protocols.Value{
		protocols.Bool(true), protocols.Int(math.MinInt64), protocols.Uint(math.MaxUint64), protocols.Float32(0.1), protocols.Float64(1e-7),
		protocols.String("a \"b\", c\r\nd; ü"), protocols.Bytes([]byte{0, 1, 255}), protocols.Time(time.UnixMilli(1795462800123)),
		protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(-2)}), protocols.String(""), protocols.String(" x"),
	}
	s := &protocols.Schema{Device: "press, 1"}
	b := protocols.Batch{Schema: s}
	for i, v := range values {
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: fmt.Sprintf("tag \"%d\"", i), Unit: "°C"})
		b.Readings = append(b.Readings, protocols.Reading{Tag: int32(i), Value: v, Source: int64(min(i, 1)) * (1795462800123456789 - 456789*int64(i%3/2))})
	}
	second := protocols.Batch{Schema: s, Readings: slices.Clone(b.Readings)}
	second.Readings[0].SetBad(protocols.Timeout)
	second.Readings[3].SetGood(protocols.Float32(float32(math.NaN())))
	second.Readings[4].Quality, second.Readings[4].Reason = protocols.Uncertain, "UncertainLastUsableValue"
	return s, []protocols.Batch{b, second}
}

// filled makes a buffer with batches that wait for two uplinks.
func filled(t *testing.T, dir, stream string, n int) {
	t.Helper()
	b, err := buffer.Open(buffer.Options{Dir: dir, Stream: stream, Uplinks: []string{"platform", "archive"}})
	if err != nil {
		t.Fatal(err)
	}
	s, batches := allKinds()
	if err := b.PutSchema(s.ID(), protocols.AppendSchema(nil, s)); err != nil {
		t.Fatal(err)
	}
	if err := b.StatePut(aboutKey, []byte(`{"gateway":"gw-1","max_size":1073741824}`)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		batch := &batches[i%2]
		r := buffer.Record{Time: 1795462800123 + int64(i), Schema: s.ID(), Readings: len(batch.Readings), Data: protocols.EncodeBatch(nil, batch)}
		if _, err := b.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBufferStopped uses the verbs on the files of a stopped agent.
func TestBufferStopped(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 1000)
	filled(t, dir, "S2", 10)
	out, errOut, code := millrace(t, "buffer", "stat", dir)
	if code != exitDone || !strings.Contains(out, "of gateway gw-1") || !strings.Contains(out, "not running") || !strings.Contains(out, "1,010 batches") {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
	var look bufferLook
	if out, _, code = millrace(t, "buffer", "stat", dir, "--json"); code != exitDone || json.Unmarshal([]byte(out), &look) != nil || look.Batches != 1010 || look.MaxBytes != 1<<30 {
		t.Errorf("%d: %s", code, out)
	}
	if out, errOut, code = millrace(t, "buffer", "verify", dir); code != exitDone || !strings.Contains(out, "All is in order: 1,010 batches") || errOut != "" {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
	out, errOut, code = millrace(t, "buffer", "export", dir)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != exitDone || errOut != "" || len(lines) != 1010 {
		t.Fatalf("%d, %d lines: %s", code, len(lines), errOut)
	}
	for i, line := range lines {
		var m struct {
			Gateway, Stream, Device string
			Seq, TS                 uint64
			Values                  map[string]any
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Gateway != "gw-1" || m.Device != "press, 1" || len(m.Values) < 9 {
			t.Fatalf("line %d: %v: %s", i, err, line)
		}
		if want := uint64(i%1000) + 1; m.Seq != want || (m.Stream == "S2") != (i >= 1000) || strings.Contains(line, "historical") {
			t.Fatalf("line %d: %s", i, line)
		}
	}
	golden(t, "testdata/buffer/export.ndjson", lines[0]+"\n"+lines[1]+"\n")
}

// TestBufferCSV reads an export back with another reader of CSV.
func TestBufferCSV(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 100)
	file := filepath.Join(t.TempDir(), "out.csv")
	if _, errOut, code := millrace(t, "buffer", "export", "--out", file, dir); code != exitDone || !strings.Contains(errOut, "100 batches with 1,100 readings were written to "+file) {
		t.Fatalf("%d: %s", code, errOut)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil || len(rows) != 1101 || strings.Join(rows[0], ",") != csvHeader {
		t.Fatalf("%v, %d rows", err, len(rows))
	}
	s, batches := allKinds()
	for i, row := range rows[1:] {
		batch, n := &batches[i/11%2], i%11
		r, tag := &batch.Readings[n], s.Tags[n]
		want := []string{"S1", strconv.Itoa(i/11 + 1), strconv.FormatInt(1795462800123+int64(i/11), 10), row[3], "press, 1", tag.Name, row[6], "°C", row[8], row[9], row[10]}
		if diff := cmp.Diff(want, row); diff != "" {
			t.Fatalf("row %d: %s", i, diff)
		}
		if at, err := time.Parse(time.RFC3339Nano, row[3]); err != nil || at.UnixMilli() != 1795462800123+int64(i/11) {
			t.Errorf("time %q: %v", row[3], err)
		}
		// The reader makes LF of CR LF.
		if r.Value.Kind() == protocols.KindString && row[6] != strings.ReplaceAll(r.Value.AsString(), "\r\n", "\n") {
			t.Errorf("text %q", row[6])
		}
	}
	golden(t, "testdata/buffer/export.csv", strings.Join(strings.SplitAfter(string(data), "\r\n")[:23], ""))
	if _, errOut, code := millrace(t, "buffer", "export", dir, "--out", file); code != exitUsage || !strings.Contains(errOut, "is there already") {
		t.Errorf("%d: %s", code, errOut)
	}
	if _, errOut, code := millrace(t, "buffer", "export", dir, "--out", file, "--force"); code != exitDone {
		t.Errorf("%d: %s", code, errOut)
	}
	if _, errOut, code := millrace(t, "buffer", "export", dir, "--out", filepath.Join(dir, "x.csv")); code != exitUsage || !strings.Contains(errOut, "in the buffer itself") {
		t.Errorf("%d: %s", code, errOut)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

// TestBufferDamaged: the exit codes and the words with a damaged file.
func TestBufferDamaged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 1000)
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, _, code := millrace(t, "buffer", "verify", dir)
	if code != exitFailed || !strings.Contains(out, "DAMAGED: damaged file: no valid meta page; readable: batches 1 to 1000") || !strings.Contains(out, "--salvage") {
		t.Errorf("%d: %s", code, out)
	}
	var r buffer.Report
	if out, _, code = millrace(t, "buffer", "verify", "--json", dir); code != exitFailed || json.Unmarshal([]byte(out), &r) != nil || !r.Damaged || r.Batches != 1000 {
		t.Errorf("%d: %s", code, out)
	}
	out, errOut, code := millrace(t, "buffer", "export", dir)
	if code != exitFailed || out != "" || !strings.Contains(errOut, "was left out: damaged file: no valid meta page") || !strings.Contains(errOut, "--salvage") {
		t.Errorf("%d: %d bytes, %s", code, len(out), errOut)
	}
	for _, what := range []string{dir, files[0]} {
		out, errOut, code = millrace(t, "buffer", "export", "--salvage", what)
		if n := strings.Count(out, "\n"); code != exitDone || n != 1000 || errOut != "" {
			t.Errorf("%s: %d: %d lines, %s", what, code, n, errOut)
		}
	}
	if out, errOut, code = millrace(t, "buffer", "export", "--salvage", "--uplink", "platform", dir); code != exitDone || strings.Count(out, "\n") != 1000 {
		t.Errorf("%d: %s", code, errOut)
	}
	// What cannot be saved is said, and so is what to do with the rest.
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], bytes.ReplaceAll(data, []byte("MRCK"), []byte("????")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code = millrace(t, "buffer", "export", "--salvage", dir)
	lines := strings.Count(out, "\n")
	want := fmt.Sprintf("MISSING: batches %d to 1000 of S1 should be there and did not come", lines+1)
	if code != exitFailed || lines >= 1000 || !strings.Contains(errOut, want) {
		t.Errorf("%d: %d lines, want %q: %s", code, lines, want, errOut)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	out, errOut, code = millrace(t, "buffer", "stat", dir)
	if code != exitDone || !strings.Contains(out, "not known: 1 file is gone") || !strings.Contains(out, filepath.Base(files[0])+" is gone") {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
}

func TestBufferUsage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 1)
	empty := t.TempDir()
	file := filepath.Join(t.TempDir(), "note.txt")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	filled(t, filepath.Join(home, "data", "buffer"), "S1", 1)
	broken := filepath.Join(t.TempDir(), "buffer")
	filled(t, broken, "S1", 1)
	if err := os.WriteFile(filepath.Join(broken, "state.db"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	into := t.TempDir()
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing", nil, exitUsage, "millrace buffer stat DIR"},
		{"help", []string{"-h"}, exitDone, "millrace buffer stat DIR"},
		{"unknown", []string{"show", dir}, exitUsage, `there is no "show"`},
		{"no directory", []string{"stat"}, exitUsage, "say which buffer"},
		{"two", []string{"stat", dir, dir}, exitUsage, "is too much"},
		{"missing", []string{"stat", filepath.Join(empty, "x")}, exitUsage, "no buffer is here: there is nothing of that name"},
		{"empty", []string{"verify", empty}, exitUsage, "no buffer is here: it holds none of a buffer's files"},
		{"format", []string{"export", dir, "--format", "xml"}, exitUsage, "it is ndjson or csv"},
		{"uplink", []string{"export", dir, "--uplink", "x"}, exitUsage, "there is archive, platform"},
		{"where to", []string{"export", dir, "--out", filepath.Join(empty, "x", "y")}, exitUsage, "there is no directory " + filepath.Join(empty, "x")},
		{"missing, and an agent may be without a disk", []string{"stat", filepath.Join(empty, "x")}, exitUsage, "keeps its readings in memory"},
		{"below a file", []string{"stat", filepath.Join(file, "buffer")}, exitUsage, "no buffer is here: a part of that path is a file"},
		{"a file", []string{"stat", file}, exitUsage, "this is a file, and none that holds batches; name the buffer's directory"},
		{"above it", []string{"stat", home}, exitUsage, "Did you mean " + filepath.Join(home, "data", "buffer")},
		{"right above it", []string{"stat", filepath.Join(home, "data")}, exitUsage, "Did you mean " + filepath.Join(home, "data", "buffer")},
		{"a name forgotten", []string{"export", "--uplink", dir}, exitUsage, "--uplink took " + dir + " for its value"},
		{"other format", []string{"export", dir, "--out", filepath.Join(into, "x.xlsx")}, exitUsage, "not .xlsx: choose a name in .ndjson or .csv"},
		{"compressed", []string{"export", dir, "--out", filepath.Join(into, "x.csv.gz")}, exitUsage, "not .gz"},
		{"places lost", []string{"export", broken, "--uplink", "platform", "--out", filepath.Join(into, "x.csv")}, exitFailed, "leave out --uplink"},
		{"unknown option", []string{"stat", dir, "--all"}, exitUsage, "there is no option --all"},
		{"verb's help", []string{"export", "-h"}, exitDone, "-salvage"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out, errOut, code := millrace(t, append([]string{"buffer"}, tc.args...)...)
			if code != tc.code || !strings.Contains(out+errOut, tc.want) || (code == exitDone) != (errOut == "") {
				t.Errorf("exit %d, want %d and %q:\n%s%s", code, tc.code, tc.want, out, errOut)
			}
			if left, err := os.ReadDir(into); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// asNobody runs the program as a user who owns nothing.
func asNobody(t *testing.T, exe string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), beAgent+"=1")
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// TestBufferRights: without the right to write all works, without that to
// read it is said what to do.
func TestBufferRights(t *testing.T) {
	t.Parallel()
	top, err := os.MkdirTemp("", "millrace-rights-") //nolint:usetesting // nobody else may enter what t.TempDir makes
	if err != nil {
		t.Fatal(err)
	}
	dir, exe := filepath.Join(top, "buffer"), filepath.Join(top, "millrace")
	t.Cleanup(func() {
		_ = os.Chmod(dir, 0o700)
		_ = os.RemoveAll(top)
	})
	filled(t, dir, "S1", 10)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, program, 0o700); err != nil {
		t.Fatal(err)
	}
	mode := func(path string, m os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
	}
	mode(top, 0o755)
	mode(exe, 0o755)
	mode(dir, 0)
	for _, verb := range []string{"stat", "verify", "export"} {
		if out, code := asNobody(t, exe, "buffer", verb, dir); code != exitFailed || !strings.Contains(out, "run it as the user of the agent, or as root") {
			t.Errorf("%s: %d: %s", verb, code, out)
		}
	}
	mode(dir, 0o555)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		mode(f, 0o444)
	}
	for verb, want := range map[string]string{"stat": "10 batches", "verify": "All is in order", "export": `"seq":10,`} {
		if out, code := asNobody(t, exe, "buffer", verb, dir); code != exitDone || !strings.Contains(out, want) {
			t.Errorf("%s: %d: %s", verb, code, out)
		}
	}
}

// TestBufferLive asks a running agent: what it exports is what it sent, byte
// for byte.
func TestBufferLive(t *testing.T) {
	t.Parallel()
	plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	host, port, _ := strings.Cut(strings.TrimPrefix(broker.URL("mqtt"), "mqtt://"), ":")
	sub := exec.CommandContext(t.Context(), "mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-t", "millrace/plant/gw-1/+/data", "-t", "ready")
	heard := &syncBuffer{}
	sub.Stdout = heard
	if err := sub.Start(); err != nil {
		t.Fatalf("%v; run `make deps`", err)
	}
	t.Cleanup(func() { _ = sub.Process.Kill(); _ = sub.Wait() })
	mqtttest.WaitFor(t, "the subscription", func() bool {
		out, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", host, "-p", port, "-t", "ready", "-m", "{}").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Contains(heard.String(), "{}")
	})
	// A path longer than a socket's may be.
	deep := strings.Repeat("deep/", 30) + "buffer"
	config := configFor("200ms", map[string]string{"platform": broker.URL("mqtt"), "archive": "mqtt://" + mqtttest.FreeAddr(t)}, plc)
	a := newAgent(t, strings.Replace(config, "buffer: {", "buffer: {path: "+deep+", ", 1))
	dir := filepath.Join(filepath.Dir(a.config), deep)
	mqtttest.WaitFor(t, "100 batches", func() bool { return strings.Count(heard.String(), `"seq":`) > 100 })

	out, errOut, code := millrace(t, "buffer", "stat", dir)
	if code != exitDone || !strings.Contains(out, "running") || !strings.Contains(out, "not connected") || strings.Contains(out, "not running") {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
	if out, errOut, code = millrace(t, "buffer", "verify", dir); code != exitDone || !strings.Contains(out, "All is in order") || !strings.Contains(out, "being written") {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
	out, errOut, code = millrace(t, "buffer", "export", dir)
	if code != exitDone || errOut != "" {
		t.Errorf("%d: %s", code, errOut)
	}
	exportedLines := strings.Split(strings.TrimSpace(out), "\n")
	if len(exportedLines) < 100 {
		t.Fatalf("%d lines", len(exportedLines))
	}
	mqtttest.WaitFor(t, "what was exported to be sent", func() bool {
		return strings.Contains(heard.String(), exportedLines[len(exportedLines)-1]+"\n")
	})
	var sent []string
	for line := range strings.Lines(heard.String()) {
		if line != "{}\n" && len(sent) < len(exportedLines) {
			sent = append(sent, strings.Replace(strings.TrimSpace(line), `,"historical":true`, "", 1))
		}
	}
	if diff := cmp.Diff(sent, exportedLines); diff != "" {
		t.Errorf("exported is not what was sent (-sent +exported):\n%s", diff)
	}
	if _, errOut, code = millrace(t, "buffer", "export", "--uplink", "nobody", dir); code != exitUsage || !strings.Contains(errOut, "there is archive, platform") {
		t.Errorf("%d: %s", code, errOut)
	}
	a.signal(syscall.SIGHUP) // a reload leaves the socket alone
	mqtttest.WaitFor(t, "the reload", func() bool { return strings.Contains(a.output.String(), "the configuration was reloaded") })
	if _, errOut, code = millrace(t, "buffer", "export", "--format", "csv", "--uplink", "archive", dir); code != exitDone {
		t.Errorf("%d: %s", code, errOut)
	}

	a.kill() // leaves a socket that nobody serves
	if _, err := os.Stat(filepath.Join(dir, socketName)); err != nil {
		t.Error(err)
	}
	if out, errOut, code = millrace(t, "buffer", "stat", dir); code != exitDone || !strings.Contains(out, "not running") {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
	a.start()
	mqtttest.WaitFor(t, "the new agent's answer", func() bool {
		out, _, code = millrace(t, "buffer", "stat", dir)
		return code == exitDone && strings.Contains(out, "agent      running")
	})
	a.stop()
	if _, err := os.Stat(filepath.Join(dir, socketName)); err == nil {
		t.Error("the socket is left after a clean stop")
	}
	if out, errOut, code = millrace(t, "buffer", "verify", dir); code != exitDone {
		t.Errorf("%d: %s%s", code, out, errOut)
	}
}

// TestBufferAbandoned: who asked goes away, or takes nothing more; the agent
// goes on, answers the next one, and stops in time.
func TestBufferAbandoned(t *testing.T) {
	t.Parallel()
	plc := newCounterPLC(t)
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 20000) // more than a socket's buffers hold
	a := newAgent(t, strings.Replace(configFor("1s", map[string]string{"platform": "mqtt://" + mqtttest.FreeAddr(t)}, plc), "buffer: {", "buffer: {path: "+dir+", ", 1))
	ask := func() (leave func()) {
		t.Helper()
		mqtttest.WaitFor(t, "the agent", func() bool {
			conn, err := dialLocal(t.Context(), dir)
			if err != nil {
				return false
			}
			if _, err = conn.Write([]byte("GET /buffer/export?format=csv HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 100)
			if _, err := conn.Read(first); err != nil || !bytes.Contains(first, []byte("200 OK")) {
				_ = conn.Close()
				return false
			}
			leave = func() { _ = conn.Close() }
			return true
		})
		return leave
	}
	leave := ask()
	if _, errOut, code := millrace(t, "buffer", "export", dir); code != exitFailed || !strings.Contains(errOut, "busy with another verify or export") {
		t.Errorf("%d: %s", code, errOut)
	}
	if out, _, code := millrace(t, "buffer", "stat", dir); code != exitDone {
		t.Errorf("%d: %s", code, out)
	}
	leave()
	leave = ask() // the one before has ended
	before := plc.count.Load()
	mqtttest.WaitFor(t, "the PLC to be read on", func() bool { return plc.count.Load() > before+50 })
	a.stop() // while it waits for the client
	leave()
}

// TestBufferSocketAgain: a socket that somebody removed, and one whose
// directory was replaced, are made again, and the socket of another agent is
// left alone.
func TestBufferSocketAgain(t *testing.T) {
	t.Parallel()
	plc := newCounterPLC(t)
	a := newAgent(t, configFor("100ms", map[string]string{"platform": "mqtt://" + mqtttest.FreeAddr(t)}, plc))
	dir := filepath.Join(filepath.Dir(a.config), "data", "buffer")
	running := func(what string) {
		t.Helper()
		mqtttest.WaitFor(t, what, func() bool {
			out, _, code := millrace(t, "buffer", "stat", dir)
			return code == exitDone && strings.Contains(out, "agent      running")
		})
	}
	running("the agent's answer")
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil {
		t.Fatal(err)
	}
	running("the answer at a new socket")
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	if _, errOut, code := millrace(t, "buffer", "verify", files[0]); code != exitFailed || !strings.Contains(errOut, "an agent is using this file: name its directory instead, "+dir) {
		t.Errorf("%d: %s", code, errOut)
	}
	if err := os.Rename(dir, dir+".under"); err != nil {
		t.Fatal(err)
	}
	running("the answer in a new directory")
	if strings.Contains(a.output.String(), "nothing is lost") {
		t.Errorf("the log promises too much:\n%s", a.output.String())
	}
	l, err := listenLocal(t.Context(), dir)
	if !errors.Is(err, errSocketUsed) {
		t.Errorf("took the socket of another agent: %v %v", l, err)
	}
	a.stop()
	if _, err := os.Stat(filepath.Join(dir, socketName)); err == nil {
		t.Error("the socket is left after a clean stop")
	}
}

// TestSocketReason: the log says why there is no socket, and not the name
// that was tried.
func TestSocketReason(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	_, err := listenLocal(t.Context(), dir)
	if got := fmt.Sprint(socketReason(err)); got != "no such file or directory" {
		t.Errorf("%q of %v", got, err)
	}
}

// TestOtherGateway: a buffer that another gateway left goes out under the new
// name, and the log says so.
func TestOtherGateway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "buffer")
	filled(t, dir, "S1", 12) // of gw-1
	plc := newCounterPLC(t)
	config := configFor("1s", map[string]string{"platform": "mqtt://" + mqtttest.FreeAddr(t)}, plc)
	config = strings.Replace(config, "buffer: {", "buffer: {path: "+dir+", ", 1)
	const says = "the buffer is another gateway's"
	for _, c := range []struct {
		id   string
		want int
	}{{"gw-1", 0}, {"gw-2", 1}, {"gw-2", 0}} {
		a := newAgent(t, strings.Replace(config, "id: gw-1", "id: "+c.id, 1))
		mqtttest.WaitFor(t, "the agent", func() bool { return strings.Contains(a.output.String(), "millrace runs") })
		a.stop()
		log := a.output.String()
		if got := strings.Count(log, says); got != c.want || c.want > 0 && !strings.Contains(log, "was=gw-1 now=gw-2 batches=") {
			t.Errorf("%s: %d times, want %d:\n%s", c.id, got, c.want, log)
		}
	}
}

// TestExportUnknown: what could not be written does not count as written.
func TestExportUnknown(t *testing.T) {
	t.Parallel()
	out := exportTo(t.Context(), io.Discard, formatCSV, "gw-1", func(_ context.Context, put buffer.Put) (buffer.ExportResult, error) {
		return buffer.ExportResult{Records: 1, Readings: 11}, put(&buffer.Record{Readings: 11}, nil)
	})
	if out.Unknown != 1 || out.Readings != 0 || out.whole() {
		t.Errorf("%+v", out)
	}
}

// TestDiskInWords: an agent whose buffer cannot use its directory says in its
// log what to do, and the verbs say where the readings may be.
func TestDiskInWords(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(file, "buffer")
	config := configFor("1s", map[string]string{"platform": "mqtt://" + mqtttest.FreeAddr(t)}, newCounterPLC(t))
	a := newAgent(t, strings.Replace(config, "buffer: {", "buffer: {path: "+dir+", ", 1))
	mqtttest.WaitFor(t, "the agent", func() bool { return strings.Contains(a.output.String(), "takes no socket") })
	a.stop()
	log := a.output.String()
	for _, want := range []string{"readings stay in memory", "is no directory: a file stands there", `error="not a directory"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "/proc/self") {
		t.Errorf("the log has a name that nobody knows:\n%s", log)
	}
}
