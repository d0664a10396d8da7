package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"millrace/configs"
	"millrace/protocols"
	"millrace/protocols/opcua"
)

const scanHelp = `Browses the address space of an OPC UA server and writes a tag map.

Use: millrace scan opc.tcp://HOST:PORT [GLOB...] [options]
     millrace scan DEVICE -c FILE [GLOB...] [options]   with that device's endpoint, security and user

A GLOB selects variables by their browse paths: /Objects/Line*/**/Temperature. In a name,
* stands for any characters, ? for one, [a-z] for one of these and {a,b} for one of these
texts; ** for any number of names. Put it in quotes. Left out: all below /Objects but what
the server says of itself. A password is taken from --password-file or from the variable
MILLRACE_PASSWORD.
`

// passwordVariable holds the password for scan --user.
const passwordVariable = "MILLRACE_PASSWORD"

// scanTimeout is how long one answer may take, where no device says it.
const scanTimeout = 10 * time.Second

// scanJob is what the command line of scan asks for.
type scanJob struct {
	what, file   string // an endpoint or a device's id; the configuration
	out          string
	policy, mode string
	user, secret string // the secret's file
	pki          string
	exclude      listFlag
	timeout      time.Duration
	properties   bool
	noRanges     bool
	byIndex      bool
	force        bool
	asJSON       bool
	most         int
	browse       opcua.BrowseOptions
}

// listFlag is an option that may be given several times.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, " ") }

// Set adds a value.
func (l *listFlag) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func (job *scanJob) flags(t terminal) *flag.FlagSet {
	fs := flags(t, "scan", "scan opc.tcp://HOST:PORT [GLOB...] [options] | scan DEVICE -c FILE [GLOB...] [options]", strings.SplitN(scanHelp, "\n\n", 3)[2])
	fs.StringVar(&job.file, "c", "", "the configuration `file` that has the device")
	fs.StringVar(&job.out, "o", "", "the tag map to write, a .csv `file`; default: standard output")
	fs.BoolVar(&job.force, "force", false, "write over the file of -o if it is there")
	fs.StringVar(&job.policy, "policy", "", "the security `policy`: auto, None, Basic256Sha256 ...; default: auto, the strongest offered")
	fs.StringVar(&job.mode, "mode", "", "Sign or SignAndEncrypt; default: the stronger one offered")
	fs.StringVar(&job.user, "user", "", "the user `name`; default: anonymous")
	fs.StringVar(&job.secret, "password-file", "", "the `file` with the user's password")
	fs.StringVar(&job.pki, "pki", "pki", "the `directory` of certificates, for an endpoint")
	fs.Var(&job.exclude, "exclude", "a `glob` of nodes to leave out, with all below them; may be given again")
	fs.DurationVar(&job.timeout, "timeout", scanTimeout, "how long an answer may take, for an endpoint")
	fs.BoolVar(&job.properties, "properties", false, "write properties too")
	fs.BoolVar(&job.noRanges, "no-ranges", false, "write no min and max")
	fs.BoolVar(&job.byIndex, "ns-index", false, "write ns=2 instead of nsu=URI; a server may number its namespaces anew")
	fs.IntVar(&job.most, "max", 0, fmt.Sprintf("stop after so `many` nodes; default: %d", opcua.DefaultMaxNodes))
	fs.BoolVar(&job.asJSON, "json", false, "write JSON instead of a tag map")
	return fs
}

func cmdScan(ctx context.Context, t terminal, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var job scanJob
	fs := job.flags(t)
	words, code, ok := parseWords(t, fs, args)
	if !ok {
		return code
	}
	if len(words) == 0 {
		t.errorf("%s", scanHelp)
		return exitUsage
	}
	job.what = words[0]
	if err := job.check(words[1:]); err != nil {
		t.errorf("millrace scan: %v\n", err)
		return exitUsage
	}
	dev, driver, code := job.device(t)
	if dev == nil {
		return code
	}
	return job.runWith(ctx, t, dev, driver, func(int) {})
}

// parseWords reads options and the words between them.
func parseWords(t terminal, fs *flag.FlagSet, args []string) (words []string, code int, ok bool) {
	for {
		if code, ok := parseSome(t, fs, args); !ok {
			return nil, code, false
		}
		if fs.NArg() == 0 {
			return words, exitDone, true
		}
		words = append(words, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// check reads the globs and looks at what can be seen without a server.
func (job *scanJob) check(words []string) error {
	for _, list := range []struct {
		texts []string
		to    *[]*opcua.Glob
	}{{words, &job.browse.Include}, {job.exclude, &job.browse.Exclude}} {
		for _, text := range list.texts {
			g, err := opcua.ParseGlob(text)
			if err != nil {
				return err
			}
			*list.to = append(*list.to, g)
		}
	}
	job.browse.Properties, job.browse.ByIndex, job.browse.MaxNodes, job.browse.Details = job.properties, job.byIndex, job.most, job.asJSON
	switch {
	case job.most < 0:
		return fmt.Errorf("--max %d: a number of nodes is 1 or more", job.most)
	case job.out == "":
		return nil
	case !job.asJSON && !strings.EqualFold(filepath.Ext(job.out), ".csv"):
		return fmt.Errorf("-o %s: a tag map is a .csv file", job.out)
	case !job.force:
		if _, err := os.Stat(job.out); err == nil {
			return fmt.Errorf("-o %s: it is there already; --force writes over it", job.out)
		}
	}
	return nil
}

// device returns what to connect to; nil: it was said what is wrong.
func (job *scanJob) device(t terminal) (*protocols.Device, *opcua.Driver, int) {
	if job.file == "" {
		dev, err := job.endpoint()
		if err != nil {
			t.errorf("millrace scan: %v\n", err)
			return nil, nil, exitUsage
		}
		return dev, newScanDriver(job.pki, ""), exitDone
	}
	cfg, dev, err := configs.LoadDevice(job.file, job.what, checkers())
	if err != nil {
		t.errorf("%v\n", err)
		return nil, nil, exitUsage
	}
	if dev.Driver != "opcua" {
		t.errorf("millrace scan: %s is a %s device; scanning Modbus is not in this version of Millrace\n", dev.ID, dev.Driver)
		return nil, nil, exitUsage
	}
	return dev, newScanDriver(filepath.Join(cfg.Dir, "pki"), cfg.Gateway.ID), exitDone
}

func newScanDriver(pki, name string) *opcua.Driver {
	return opcua.New(opcua.Options{Log: slog.New(slog.DiscardHandler), PKIDir: pki, ApplicationName: name})
}

// endpoint makes a device of the options.
func (job *scanJob) endpoint() (*protocols.Device, error) {
	scheme, _, found := strings.Cut(job.what, "://")
	switch {
	case !found && !strings.Contains(job.what, ":"):
		return nil, fmt.Errorf("%q is no endpoint such as opc.tcp://192.0.2.9:4840; for a device of a configuration say which: millrace scan %s -c FILE", job.what, job.what)
	case !found:
		return nil, fmt.Errorf("write opc.tcp://%s", job.what)
	case scheme == "tcp" || scheme == "rtu" || scheme == "rtu+tcp":
		return nil, fmt.Errorf("%s:// is Modbus: scanning Modbus is not in this version of Millrace", scheme)
	}
	dev := &protocols.Device{
		ID: "scan", Driver: "opcua", Endpoint: job.what, Enabled: true, Timeout: job.timeout, Interval: time.Second,
		OPCUA: protocols.OPCUAOptions{SecurityPolicy: cmp.Or(job.policy, "auto"), SecurityMode: job.mode, Username: job.user},
	}
	if job.user != "" {
		var err error
		if dev.OPCUA.Password, err = job.password(); err != nil {
			return nil, err
		}
	}
	for _, wrong := range newScanDriver(job.pki, "").Check(dev) {
		return nil, errors.New(strings.ReplaceAll(wrong.Text, "policy: None", "--policy None"))
	}
	return dev, nil
}

func (job *scanJob) password() (string, error) {
	if job.secret == "" {
		if p, ok := os.LookupEnv(passwordVariable); ok {
			return p, nil
		}
		return "", fmt.Errorf("--user %s wants a password: name its file with --password-file, or set %s", job.user, passwordVariable)
	}
	const most = 64 << 10
	f, err := os.Open(job.secret)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// runWith browses and writes what was found, also if it ends too early. each is
// told how many tags there are after each answer.
func (job *scanJob) runWith(ctx context.Context, t terminal, dev *protocols.Device, driver *opcua.Driver, each func(found int)) int {
	began := time.Now()
	p := newProgress(t, "browsed")
	job.browse.Progress = func(s opcua.BrowseSummary) {
		p.nodes(s.Nodes, s.Found)
		each(s.Found)
	}
	m := &scanMap{noRanges: job.noRanges, paths: job.asJSON}
	sum, err := driver.Browse(ctx, dev, job.browse, m.add)
	p.end()
	interrupted := ctx.Err() != nil
	if err != nil && len(m.tags) == 0 && !interrupted {
		t.errorf("millrace scan: %s\n", printable(job.advice(err)))
		return exitFailed
	}
	m.finish()
	result := &scanResult{
		Endpoint: dev.Endpoint, Complete: err == nil && (!sum.Stopped || job.most > 0), Tags: m.tags,
		Summary: scanSummary{
			Nodes: sum.Nodes, Variables: sum.Variables, Tags: len(m.tags), Ranges: m.ranges, Refused: sum.Refused, RefusedAt: sum.RefusedAt,
			Unreadable: sum.Unreadable, Unwritable: sum.Unwritable, Requests: sum.Calls, Seconds: float64(time.Since(began).Milliseconds()) / 1000,
		},
	}
	switch {
	case interrupted:
		result.Error = "interrupted"
	case err != nil:
		result.Error = err.Error()
	}
	if len(m.tags) > 0 || job.asJSON {
		if err := job.write(t, m, result); err != nil {
			t.errorf("millrace scan: %v\n", err)
			return exitFailed
		}
	}
	t.errorf("%s", job.summary(result, &sum))
	if !result.Complete || len(m.tags) == 0 {
		return exitFailed
	}
	return exitDone
}

// advice is why nothing could be browsed, and what to do.
func (job *scanJob) advice(err error) string {
	text := err.Error()
	if job.file != "" {
		return text
	}
	// What is a key of a configuration is an option here.
	text = strings.NewReplacer(
		"auth.username and auth.password", "--user and the password",
		"auth: {username: …, password: …}", "--user NAME, and the password with --password-file FILE or in "+passwordVariable,
		"leave auth out", "leave --user out",
		"raise the device's timeout", "give a longer --timeout",
		"security: {policy: Basic256Sha256, mode: SignAndEncrypt}", "--policy Basic256Sha256 --mode SignAndEncrypt",
	).Replace(text)
	switch {
	case strings.Contains(text, "certificate is not trusted"):
		text += fmt.Sprintf("; or say: millrace trust %s --pki %s", job.what, job.pki)
	case strings.Contains(text, "it offers: None") && !strings.Contains(text, "--policy None"):
		text += "; if the network is trusted, add --policy None: nothing is encrypted then, and the server's identity is not checked"
	}
	return text
}

// write writes the tags to where they are wanted.
func (job *scanJob) write(t terminal, m *scanMap, r *scanResult) error {
	put := func(w io.Writer) error {
		if job.asJSON {
			return writeScanJSON(w, r)
		}
		return m.writeCSV(w)
	}
	if job.out == "" {
		return put(t.out)
	}
	// The old file stays until the new one is whole.
	f, err := os.CreateTemp(filepath.Dir(job.out), filepath.Base(job.out)+".*.tmp")
	if err != nil {
		return err
	}
	err = errors.Join(put(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), job.out)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// summary says, on standard error, what became of the scan.
func (job *scanJob) summary(r *scanResult, sum *opcua.BrowseSummary) string {
	var b strings.Builder
	s := &r.Summary
	where := ""
	if job.out != "" && s.Tags > 0 {
		where = " in " + job.out
	}
	fmt.Fprintf(&b, "%s%s: %s walked, %s, %s.\n", amount(uint64(s.Tags), "tag", "tags"), where, amount(uint64(s.Nodes), "node", "nodes"),
		amount(uint64(s.Requests), "request", "requests"), (time.Duration(s.Seconds*1000) * time.Millisecond).String())
	if s.Refused > 0 {
		fmt.Fprintf(&b, "%s refused to be looked at, with what is below: %s%s. Another user may see more: --user.\n",
			amount(uint64(s.Refused), "node", "nodes"), printable(strings.Join(s.RefusedAt, ", ")), dots(s.Refused > len(s.RefusedAt)))
	}
	if s.Unreadable > 0 {
		fmt.Fprintf(&b, "%s left out: this user must not read them.\n", amount(uint64(s.Unreadable), "variable", "variables"))
	}
	if s.Unwritable > 0 {
		fmt.Fprintf(&b, "%s left out: no tag map can hold their NodeIds (control characters, or no text at all).\n", amount(uint64(s.Unwritable), "variable", "variables"))
	}
	if sum.Deep > 0 {
		fmt.Fprintf(&b, "%s left out: more than 100 names deep.\n", amount(uint64(sum.Deep), "node", "nodes"))
	}
	if s.Ranges > 0 {
		fmt.Fprintf(&b, "%s min and max, from the server's ranges: values outside go out as bad (out_of_range). To have them all, use --no-ranges or empty the two columns.\n",
			amount(uint64(s.Ranges), "tag has", "tags have"))
	}
	switch {
	case r.Error != "" && s.Tags > 0:
		fmt.Fprintf(&b, "It is not all: %s. What was found until then was written.\n", printable(r.Error))
	case r.Error != "":
		fmt.Fprintf(&b, "It is not all: %s.\n", printable(r.Error))
	case sum.Stopped:
		fmt.Fprintf(&b, "It is not all: stopped after %d nodes; narrow it with a glob, or raise --max.\n", s.Nodes)
	case s.Tags == 0 && sum.Objects > 0 && len(job.browse.Include) > 0:
		b.WriteString("What the glob selects is no variable but has some below it, perhaps: put /** behind it.\n")
	case s.Tags == 0 && len(job.browse.Include) > 0:
		b.WriteString("No variable matches. Names are compared in full, upper and lower case apart; /** at the end selects all that is below.\n")
	case s.Tags == 0:
		b.WriteString("There is no variable to read below /Objects. A user who is logged in may see more: --user.\n")
	}
	return b.String()
}

func dots(more bool) string {
	if more {
		return " …"
	}
	return ""
}
