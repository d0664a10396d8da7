package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/buffer"
)

const bufferHelp = `Looks into a buffer, also while its agent is stopped.

Use: millrace buffer stat DIR [--json]      what is in it, and what waits for whom
     millrace buffer verify DIR [--json]    reads all of it and says what is damaged
     millrace buffer export DIR [options]   writes its batches as NDJSON or CSV

DIR is the directory that buffer.path names; verify and export also take a single
.seg file. A running agent is asked through the socket in DIR; the files of a
stopped one are only read.
`

func cmdBuffer(ctx context.Context, t terminal, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 0 {
		t.errorf("%s", bufferHelp)
		return exitUsage
	}
	switch args[0] {
	case "stat":
		return bufferStat(ctx, t, args[1:])
	case "verify":
		return bufferVerify(ctx, t, args[1:])
	case "export":
		return bufferExport(ctx, t, args[1:])
	case "help", "-h", "-help", "--help":
		t.printf("%s", bufferHelp)
		return exitDone
	}
	t.errorf("millrace buffer: there is no %q.\n\n%s", args[0], bufferHelp)
	return exitUsage
}

// parseDir reads the options of a verb that takes a directory, before or
// after them.
func parseDir(t terminal, fs *flag.FlagSet, args []string) (dir string, code int, ok bool) {
	if code, ok := parseSome(t, fs, args); !ok {
		return "", code, false
	}
	if fs.NArg() == 0 {
		t.errorf("millrace %s: say which buffer: millrace %s DIR (what buffer.path names in the configuration)%s\n", fs.Name(), fs.Name(), swallowed(fs))
		return "", exitUsage, false
	}
	dir = fs.Arg(0)
	code, ok = parse(t, fs, fs.Args()[1:])
	return dir, code, ok
}

// swallowed says which option may have taken the directory for its value.
func swallowed(fs *flag.FlagSet) (text string) {
	fs.Visit(func(f *flag.Flag) {
		if info, err := os.Stat(f.Value.String()); err == nil && info.IsDir() {
			text = fmt.Sprintf(". --%s took %s for its value: does that have none?", f.Name, f.Value)
		}
	})
	return text
}

func bufferStat(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "buffer stat", "buffer stat DIR [--json]", "Says what is in a buffer, and what waits for whom.")
	asJSON := fs.Bool("json", false, "for programs")
	dir, code, ok := parseDir(t, fs, args)
	if !ok {
		return code
	}
	look, err := statBuffer(ctx, dir)
	if err != nil {
		return bufferFailed(t, fs.Name(), err)
	}
	if *asJSON {
		return printJSON(t, fs.Name(), look)
	}
	t.printf("%s", look.text(time.Now()))
	return exitDone
}

func statBuffer(ctx context.Context, dir string) (*bufferLook, error) {
	res, d, err := agentOrFiles(ctx, dir, "/buffer/stat", nil)
	switch {
	case err != nil:
		return nil, err
	case d != nil:
		return lookIntoDir(dir, d), nil
	}
	defer res.Body.Close()
	look := &bufferLook{}
	if err := json.NewDecoder(res.Body).Decode(look); err != nil {
		return nil, fmt.Errorf("the agent's answer: %w", err)
	}
	look.Dir = dir // as the one who asks calls it
	return look, nil
}

func bufferVerify(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "buffer verify", "buffer verify DIR [--json]",
		"Reads all that is in a buffer and says what is damaged. Exit code 1: damage was found, or it could not be read.")
	asJSON := fs.Bool("json", false, "for programs")
	dir, code, ok := parseDir(t, fs, args)
	if !ok {
		return code
	}
	p := newProgress(t, "verified")
	report, err := verifyBuffer(ctx, dir, p.bytes)
	p.end()
	if err != nil {
		return bufferFailed(t, fs.Name(), err)
	}
	if *asJSON {
		code = printJSON(t, fs.Name(), report)
	} else {
		t.printf("%s", reportText(dir, report))
	}
	if report.Damaged {
		return exitFailed
	}
	return code
}

func verifyBuffer(ctx context.Context, dir string, progress func(done, total int64)) (*buffer.Report, error) {
	res, d, err := agentOrFiles(ctx, dir, "/buffer/verify", nil)
	switch {
	case err != nil:
		return nil, err
	case d != nil:
		return d.Verify(ctx, progress)
	}
	defer res.Body.Close()
	for dec := json.NewDecoder(res.Body); ; {
		var line verifyLine
		switch err := dec.Decode(&line); {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, errAgentEnded
		case line.Error != "":
			return nil, errors.New(line.Error)
		case line.Report != nil:
			return line.Report, nil
		}
		progress(line.Done, line.Total)
	}
}

// exportRequest is what millrace buffer export was asked for.
type exportRequest struct {
	dir, format, uplink, out string
	salvage, force           bool
}

func bufferExport(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "buffer export", "buffer export DIR [options]",
		`Writes all batches that are in a buffer, the oldest first. NDJSON: each line is a
batch, as it goes to the platform. CSV: each line is a reading.`)
	var r exportRequest
	fs.StringVar(&r.format, "format", "", "ndjson or csv; left out: what the name of --out says, or ndjson")
	fs.StringVar(&r.out, "out", "", "write to this `file` instead of standard output")
	fs.BoolVar(&r.force, "force", false, "overwrite the file")
	fs.StringVar(&r.uplink, "uplink", "", "only what waits for the uplink of this `name`")
	fs.BoolVar(&r.salvage, "salvage", false, "also what is readable in damaged files, and in those that were set aside")
	var code int
	var ok bool
	if r.dir, code, ok = parseDir(t, fs, args); !ok {
		return code
	}
	if err := r.check(); err != nil {
		t.errorf("millrace buffer export: %v\n", err)
		return exitUsage
	}
	p := newProgress(t, "exported")
	out, err := r.run(ctx, t, p)
	p.end()
	if err != nil {
		return bufferFailed(t, fs.Name(), err)
	}
	return r.tell(ctx, t, out)
}

// check completes the request, or says what is wrong with it.
func (r *exportRequest) check() error {
	if r.format == "" {
		var err error
		if r.format, err = formatOf(r.out); err != nil {
			return err
		}
	}
	if r.format != formatNDJSON && r.format != formatCSV {
		return fmt.Errorf("format %q: it is ndjson or csv", r.format)
	}
	if r.out == "" {
		return nil
	}
	if _, err := os.Lstat(r.out); err == nil && !r.force {
		return fmt.Errorf("%s is there already: choose another name, or --force", r.out)
	}
	into, err1 := os.Stat(filepath.Dir(r.out))
	if err1 != nil || !into.IsDir() {
		return fmt.Errorf("--out %s: there is no directory %s", r.out, filepath.Dir(r.out))
	}
	dir, err2 := os.Stat(r.dir)
	if err2 == nil && os.SameFile(into, dir) {
		return errors.New("--out is in the buffer itself: choose a place outside of it")
	}
	return nil
}

// formatOf is the format that the name of a file asks for.
func formatOf(name string) (string, error) {
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case ".csv":
		return formatCSV, nil
	case "", ".ndjson", ".jsonl", ".json", ".txt":
		return formatNDJSON, nil
	default:
		return "", fmt.Errorf("an export is NDJSON or CSV, and not %s: choose a name in .ndjson or .csv, or say which with --format", ext)
	}
}

// partSuffix is of the file that is being written; it gets its name when it
// is whole.
const partSuffix = ".part"

func (r *exportRequest) run(ctx context.Context, t terminal, p *progress) (*exportOutcome, error) {
	if r.out == "" {
		return r.write(ctx, t.out, p)
	}
	f, err := os.OpenFile(r.out+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	out, err := r.write(ctx, f, p)
	if err != nil || out.Error != "" {
		_ = f.Close()
		if out == nil || out.Records == 0 { // a header at the most
			_ = os.Remove(f.Name())
		} else {
			t.errorf("What was written so far is in %s.\n", f.Name())
		}
		return out, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return out, os.Rename(f.Name(), r.out)
}

// write exports to w.
func (r *exportRequest) write(ctx context.Context, w io.Writer, p *progress) (*exportOutcome, error) {
	q := url.Values{"format": {r.format}, "uplink": {r.uplink}, "salvage": {strconv.FormatBool(r.salvage)}}
	res, d, err := agentOrFiles(ctx, r.dir, "/buffer/export", q)
	switch {
	case err != nil:
		return nil, err
	case res != nil:
		defer res.Body.Close()
		return copyExport(ctx, w, res, p)
	}
	o := buffer.ExportOptions{Uplink: r.uplink, Salvage: r.salvage, Progress: p.bytes}
	var failed error
	out := exportTo(ctx, w, r.format, lookIntoDir(r.dir, d).Gateway, func(ctx context.Context, put buffer.Put) (buffer.ExportResult, error) {
		var res buffer.ExportResult
		res, failed = d.Export(ctx, o, put)
		return res, failed
	})
	switch {
	case errors.Is(failed, buffer.ErrUnknownUplink):
		return nil, failed
	case errors.Is(failed, buffer.ErrPlaceUnknown):
		return nil, fmt.Errorf("%w; leave out --uplink to get all that is readable", failed)
	}
	return &out, nil
}

// copyExport copies the agent's answer.
func copyExport(ctx context.Context, w io.Writer, res *http.Response, p *progress) (*exportOutcome, error) {
	total, _ := strconv.ParseUint(res.Header.Get(headerTotal), 10, 64) // 0: not known
	out := &exportOutcome{}
	lines := &lineCounter{w: w, total: int64(total), tell: p.lines}
	if _, err := io.Copy(lines, res.Body); err != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case lines.err == nil:
			err = errAgentEnded
		}
		out.Error = err.Error()
		return out, nil
	}
	if err := json.Unmarshal([]byte(res.Trailer.Get(trailerOutcome)), out); err != nil {
		out.Error = errAgentEnded.Error()
	}
	return out, nil
}

// lineCounter counts the lines that go through it.
type lineCounter struct {
	w           io.Writer
	err         error // of w
	done, total int64
	tell        func(done, total int64)
}

func (l *lineCounter) Write(b []byte) (int, error) {
	n, err := l.w.Write(b)
	l.err = err
	for _, c := range b[:n] {
		if c == '\n' {
			l.done++
		}
	}
	l.tell(l.done, l.total)
	return n, err
}

// tell says on standard error how the export ended.
func (r *exportRequest) tell(ctx context.Context, t terminal, out *exportOutcome) int {
	where := ""
	if r.out != "" {
		where = " to " + r.out
		if out.Error != "" {
			where += partSuffix
		}
	}
	if ctx.Err() != nil {
		out.Error = "it was interrupted"
	}
	if r.out != "" || !out.whole() {
		t.errorf("%s with %s were written%s.\n", amount(out.Records-min(out.Records, out.Unknown), "batch", "batches"), amount(out.Readings, "reading", "readings"), where)
	}
	for _, line := range out.problems() {
		t.errorf("%s\n", line)
	}
	if len(out.Skipped)+out.Damaged > 0 && !r.salvage {
		t.errorf("What is readable in damaged files comes with --salvage.\n")
	}
	if out.Error != "" {
		t.errorf("millrace buffer export: %s\n", out.Error)
	}
	if !out.whole() {
		return exitFailed
	}
	return exitDone
}

// errAgentEnded: the answer was cut off.
var errAgentEnded = errors.New("the agent has ended meanwhile; ask again: without it, the files are read")

// askAgent asks the agent that uses dir; nil: there is none, or dir is a file.
func askAgent(ctx context.Context, dir, path string, query url.Values) (*http.Response, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, nil // opening it says more
	}
	conn, err := dialLocal(ctx, dir)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	u := url.URL{Scheme: "http", Host: "agent", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, errAgentEnded
	case res.StatusCode == http.StatusOK:
		return res, nil
	}
	defer res.Body.Close()
	text, _ := bufio.NewReader(res.Body).ReadString('\n') // what there is of it
	err = errors.New(strings.TrimSpace(text))
	if res.StatusCode == http.StatusNotFound {
		err = wrongUsageError{err}
	}
	return nil, err
}

// agentOrFiles asks the agent that uses dir; where there is none, it opens the
// files instead. Without an error, one of the two is not nil.
func agentOrFiles(ctx context.Context, dir, path string, query url.Values) (res *http.Response, d *buffer.Dir, err error) {
	if res, err = askAgent(ctx, dir, path, query); err == nil && res == nil {
		d, err = openStopped(dir)
	}
	return res, d, err
}

// openStopped opens the files of a stopped agent.
func openStopped(dir string) (*buffer.Dir, error) {
	d, err := buffer.OpenDir(dir)
	info, serr := os.Stat(dir)
	isFile := serr == nil && !info.IsDir()
	switch {
	case errors.Is(err, buffer.ErrInUse) && isFile:
		return nil, fmt.Errorf("an agent is using this file: name its directory instead, %s", filepath.Dir(dir))
	case errors.Is(err, buffer.ErrInUse):
		return nil, fmt.Errorf("%w, which does not answer at its socket %s. It may be in the middle of its start or end, or of an older version: try again, or stop it",
			err, filepath.Join(dir, socketName))
	case errors.Is(err, buffer.ErrNoBuffer) && isFile:
		return nil, fmt.Errorf("%w; name the buffer's directory, what buffer.path says in the configuration", err)
	case errors.Is(err, buffer.ErrNoBuffer):
		return nil, fmt.Errorf("%w. %s", err, bufferElsewhere(dir))
	}
	return d, err
}

// bufferElsewhere says where a buffer may be that is not in dir.
func bufferElsewhere(dir string) string {
	for _, below := range []string{"data/buffer", "buffer"} {
		if _, err := os.Stat(filepath.Join(dir, below, "state.db")); err == nil {
			return "Did you mean " + filepath.Join(dir, below) + "?"
		}
	}
	return "Name what buffer.path says in the configuration. An agent that cannot write there keeps its readings in memory: its page and /readyz say so"
}

// wrongUsageError is one of the person who typed the command.
type wrongUsageError struct{ error }

// bufferFailed says why a verb came to nothing, and returns the exit code.
func bufferFailed(t terminal, name string, err error) int {
	var wrong wrongUsageError
	switch {
	case errors.Is(err, context.Canceled):
		t.errorf("millrace %s: it was interrupted\n", name)
		return exitFailed
	case errors.Is(err, os.ErrPermission):
		t.errorf("millrace %s: %v: run it as the user of the agent, or as root\n", name, err)
		return exitFailed
	}
	t.errorf("millrace %s: %v\n", name, err)
	if errors.As(err, &wrong) || errors.Is(err, buffer.ErrNoBuffer) || errors.Is(err, buffer.ErrUnknownUplink) {
		return exitUsage
	}
	return exitFailed
}

func printJSON(t terminal, name string, v any) int {
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.errorf("millrace %s: %v\n", name, err)
		return exitFailed
	}
	return exitDone
}
