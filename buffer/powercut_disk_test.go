package buffer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sector is what a disk writes as a whole, or not at all.
const sector = 512

// diskFile is a file, whatever its name, with all that was done to its
// content.
type diskFile struct {
	ops   []fileOp
	syncs []span2
	size  int64
}

// span2 is when a system call began and when it returned, in lines of the
// trace.
type span2 struct{ begin, end int }

// fileOp is a write, or with data nil a change of the size.
type fileOp struct {
	span2

	at   int64 // or the size
	data []byte
}

// nameOp is a change of a name: a file gets it, or with file nil it goes.
type nameOp struct {
	span2

	name, from string // from: a rename
	file       *diskFile
	dir        bool
}

// diskLog is what a traced process did to the files under a directory, and
// the lines that it printed in between.
type diskLog struct {
	base  string
	lines int
	names []nameOp // of all directories, in order
	syncs map[string][]span2
	notes []diskNote
}

type diskNote struct {
	line int
	text string
}

// traceReader makes a diskLog of what strace wrote.
type traceReader struct {
	log     *diskLog
	fds     map[string]*openFD
	present map[string]*diskFile // by name, at this line
	begun   map[string]begun     // by thread: a call that has not returned
}

type openFD struct {
	path string
	file *diskFile // nil: a directory
	pos  int64
	end  bool // writes go to the end
}

type begun struct {
	line int
	text string
}

// readTrace adds the trace of one process to the log. The files that are
// there go by the names that the last one left them.
func (l *diskLog) readTrace(r io.Reader, present map[string]*diskFile) error {
	t := &traceReader{log: l, fds: map[string]*openFD{}, present: present, begun: map[string]begun{}}
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			if err := t.line(strings.TrimSuffix(line, "\n")); err != nil {
				return fmt.Errorf("%w in the trace's line %.300s", err, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one line: PID CALL(ARGS) = RESULT, or one of its halves where
// another thread came in between.
func (t *traceReader) line(line string) error {
	t.log.lines++
	pid, call, ok := strings.Cut(line, " ")
	call = strings.TrimLeft(call, " ")
	if !ok || strings.HasPrefix(call, "+++") || strings.HasPrefix(call, "---") {
		return nil
	}
	at := begun{t.log.lines, call}
	if text, unfinished := strings.CutSuffix(call, " <unfinished ...>"); unfinished {
		t.begun[pid] = begun{at.line, text}
		if fd, ok := strings.CutPrefix(text, "close("); ok { // its number may be given out before it returns
			delete(t.fds, strings.TrimRight(fd, ") "))
			delete(t.begun, pid)
		}
		return nil
	}
	if rest, resumed := strings.CutPrefix(call, "<... "); resumed {
		_, rest, _ = strings.Cut(rest, " resumed>")
		if at, ok = t.begun[pid]; !ok {
			return nil // a close
		}
		at.text += rest
		delete(t.begun, pid)
	}
	// No string holds a bare " = ", as all of them are in hexadecimal.
	i := strings.LastIndex(at.text, " = ")
	open := strings.IndexByte(at.text, '(')
	if i < 0 || open < 0 {
		return nil // ended by the kill
	}
	result, _, _ := strings.Cut(at.text[i+3:], " ")
	args := strings.TrimRight(strings.TrimRight(at.text[open+1:i], " "), ")")
	return t.call(at.text[:open], strings.Split(args, ", "), result, span2{at.line, t.log.lines})
}

func (t *traceReader) call(name string, args []string, result string, s span2) error {
	n, err := strconv.ParseInt(result, 0, 64)
	if err != nil || n < 0 {
		return nil //nolint:nilerr // it failed, or was begun again: it did nothing
	}
	switch name {
	case "openat":
		t.open(unhex(args[1]), args[2], result, s)
	case "close":
		delete(t.fds, args[0])
	case "write":
		if args[0] == "1" {
			t.note(unhex(args[1]), s)
		} else if f := t.fds[args[0]]; f != nil && f.file != nil {
			if f.end {
				f.pos = f.file.size
			}
			t.write(f.file, f.pos, unhex(args[1])[:n], s)
			f.pos += n
		}
	case "pwrite64":
		if f := t.fds[args[0]]; f != nil {
			at, err := strconv.ParseInt(args[3], 0, 64)
			if err != nil {
				return err
			}
			t.write(f.file, at, unhex(args[1])[:n], s)
		}
	case "ftruncate":
		if f := t.fds[args[0]]; f != nil {
			return t.resize(f.file, args[1], s)
		}
	case "truncate":
		return t.resize(t.present[t.inside(unhex(args[0]))], args[1], s)
	case "fsync", "fdatasync":
		switch f := t.fds[args[0]]; {
		case f == nil:
		case f.file == nil:
			t.log.syncs[f.path] = append(t.log.syncs[f.path], s)
		default:
			f.file.syncs = append(f.file.syncs, s)
		}
	case "renameat", "renameat2":
		t.rename(t.inside(unhex(args[1])), t.inside(unhex(args[3])), s)
	case "unlinkat":
		t.unlink(t.inside(unhex(args[1])), s)
	case "mkdirat":
		if name := t.inside(unhex(args[1])); name != "" {
			t.log.names = append(t.log.names, nameOp{span2: s, name: name, dir: true})
		}
	default:
		return fmt.Errorf("the system call %s is not understood", name)
	}
	return nil
}

// inside returns the path below the base; "" if it is elsewhere.
func (t *traceReader) inside(path string) string {
	if path == t.log.base {
		return "."
	}
	name, ok := strings.CutPrefix(path, t.log.base+"/")
	if !ok {
		return ""
	}
	return name
}

func (t *traceReader) open(path, flags, fd string, s span2) {
	name := t.inside(path)
	if name == "" {
		delete(t.fds, fd)
		return
	}
	f := t.present[name]
	switch {
	case f == nil && strings.Contains(flags, "O_CREAT"):
		f = &diskFile{}
		t.present[name] = f
		t.log.names = append(t.log.names, nameOp{span2: s, name: name, file: f})
	case f != nil && strings.Contains(flags, "O_TRUNC"):
		f.ops = append(f.ops, fileOp{span2: s})
		f.size = 0
	}
	t.fds[fd] = &openFD{path: name, file: f, end: strings.Contains(flags, "O_APPEND")}
}

func (t *traceReader) write(f *diskFile, at int64, data string, s span2) {
	f.ops = append(f.ops, fileOp{span2: s, at: at, data: []byte(data)})
	f.size = max(f.size, at+int64(len(data)))
}

func (t *traceReader) resize(f *diskFile, size string, s span2) error {
	n, err := strconv.ParseInt(size, 0, 64)
	if f != nil && err == nil {
		f.ops = append(f.ops, fileOp{span2: s, at: n})
		f.size = n
	}
	return err
}

func (t *traceReader) rename(from, to string, s span2) {
	if from == "" || to == "" {
		return
	}
	f := t.present[from]
	delete(t.present, from)
	t.present[to] = f
	t.log.names = append(t.log.names, nameOp{span2: s, name: to, from: from, file: f})
}

func (t *traceReader) unlink(name string, s span2) {
	if name == "" || t.present[name] == nil {
		return
	}
	delete(t.present, name)
	t.log.names = append(t.log.names, nameOp{span2: s, name: name})
}

func (t *traceReader) note(text string, s span2) {
	for line := range strings.Lines(text) {
		t.log.notes = append(t.log.notes, diskNote{s.end, strings.TrimSuffix(line, "\n")})
	}
}

// unhex returns the string that strace -xx wrote as "\x41\x42". One that it
// cut short ends in dots, and then is none.
func unhex(s string) string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	out := make([]byte, len(s)/4)
	for i := range out {
		b, err := strconv.ParseUint(s[4*i+2:4*i+4], 16, 8)
		if err != nil {
			return ""
		}
		out[i] = byte(b)
	}
	return string(out)
}

// settledUpTo returns the beginning of the newest sync that was over at the
// cut: what returned before it is on the disk for good.
func settledUpTo(syncs []span2, cut int) (begin int) {
	for _, s := range syncs {
		if s.end <= cut {
			begin = max(begin, s.begin)
		}
	}
	return begin
}

// image makes in dir what a disk may hold if the power goes after the given
// line of the trace. Names change in the order in which they were changed, as
// with every journal, but how much of that is there after the last sync of
// the directory is chance; of what was written to a file after its last sync,
// any sectors are there, in any order, or hold something else.
func (l *diskLog) image(dir string, cut int, rng *rand.Rand) error {
	files := map[string]*diskFile{}
	dirs := map[string]bool{".": true}
	stopped := map[string]bool{} // directories of which no later change is there
	for _, op := range l.names {
		if op.begin > cut {
			break
		}
		parent := filepath.Dir(op.name)
		if op.end >= settledUpTo(l.syncs[parent], cut) && (stopped[parent] || rng.IntN(3) == 0) {
			stopped[parent] = true
			continue
		}
		switch {
		case !dirs[parent]:
		case op.dir:
			dirs[op.name] = true
		case op.file == nil:
			delete(files, op.name)
		default:
			delete(files, op.from)
			files[op.name] = op.file
		}
	}
	for name := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, name), dirMode); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(files) {
		if err := os.WriteFile(filepath.Join(dir, name), files[name].content(cut, rng), fileMode); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// content is what a disk may hold of the file.
func (f *diskFile) content(cut int, rng *rand.Rand) []byte {
	settled := settledUpTo(f.syncs, cut)
	var b []byte
	var pending []fileOp
	for _, op := range f.ops {
		switch {
		case op.end < settled:
			b = op.apply(b, nil)
		case op.begin <= cut:
			pending = append(pending, op)
		}
	}
	// How many sectors get lost is different each time: from none to all.
	share := rng.Float64()
	switch rng.IntN(4) {
	case 0:
		share = 0
	case 1:
		share = 1
	}
	if rng.IntN(2) == 0 {
		rng.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	}
	spoil := rng.IntN(4) == 0
	for _, op := range pending {
		if op.data == nil && rng.Float64() < share {
			continue
		}
		b = op.apply(b, func(old, data []byte) {
			if rng.Float64() >= share {
				copy(old, data)
			} else if spoil {
				garble(old, rng)
			}
		})
	}
	return b
}

// garble is what some disks do to a sector that they were writing.
func garble(b []byte, rng *rand.Rand) {
	switch rng.IntN(8) {
	case 0:
		clear(b)
	case 1:
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
}

// apply does op to the content b, sector by sector; put nil: all of them.
func (op *fileOp) apply(b []byte, put func(old, data []byte)) []byte {
	if op.data == nil {
		return resized(b, op.at)
	}
	end := op.at + int64(len(op.data))
	size := int64(len(b))
	if end > size {
		b = resized(b, end)
	}
	if put == nil {
		copy(b[op.at:], op.data)
		return b
	}
	before := bytes.Clone(b[op.at:end])
	for at := op.at; at < end; {
		next := min(end, (at/sector+1)*sector)
		put(b[at:next], op.data[at-op.at:next-op.at])
		at = next
	}
	if end > size && bytes.Equal(before, b[op.at:end]) {
		return b[:size] // nothing of it is there: then the file has not grown
	}
	return b
}

func resized(b []byte, size int64) []byte {
	if int64(len(b)) >= size {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}
