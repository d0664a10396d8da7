package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/cmd/millrace/report"
	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/configs/xlsx"
)

const reportHelp = `Makes the connectivity report of a gateway, for a day, a week, a month or any range of days.
A running agent is asked to write what it has counted up to now; the report is made from its files, also when it is stopped.
--template writes an empty equipment ledger (设备台账) to be filled in: millrace report --template equipment.xlsx`

// reportOptions are what was typed.
type reportOptions struct {
	file, from, to, period, format, lang, out, template string
}

func cmdReport(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "report", "report -c FILE [--from 2026-11-01 --to 2026-11-30] [options]", reportHelp)
	var o reportOptions
	fs.StringVar(&o.file, "c", "", "the configuration `file` (required)")
	fs.StringVar(&o.from, "from", "", "the first `day`, such as 2026-11-01")
	fs.StringVar(&o.to, "to", "", "the last `day`; it is included")
	fs.StringVar(&o.period, "period", "", "instead of from and to: `today`, yesterday, week, last-week, month, last-month, year (default: month)")
	fs.StringVar(&o.format, "format", "", "`html`, csv, xlsx or json (default: by the name of the output, or html)")
	fs.StringVar(&o.lang, "lang", "", "`en` or zh (default: by the environment)")
	fs.StringVar(&o.out, "o", "", "the output `file` (default: connectivity-GATEWAY-FROM-TO.FORMAT; -: standard output)")
	fs.StringVar(&o.template, "template", "", "write an empty equipment ledger to this .xlsx or .csv `file`, and nothing else")
	asJSON := fs.Bool("json", false, "the same as --format json -o -")
	if code, ok := parse(t, fs, args); !ok {
		return code
	}
	if *asJSON {
		o.format, o.out = report.JSON, "-"
	}
	if err := o.fill(); err != nil {
		t.errorf("millrace report: %v\n", err)
		return exitUsage
	}
	if o.template != "" {
		return writeTemplate(t, o.template, o.lang)
	}
	cfg, code := loadConfig(t, "report", o.file)
	if cfg == nil {
		return code
	}
	from, to, err := o.span(time.Now().In(cfg.Connectivity.Calendar.Location()))
	if err != nil {
		t.errorf("millrace report: %v\n", err)
		return exitUsage
	}
	keepSmall()
	f, err := reportFigures(ctx, cfg, from, to)
	if err != nil {
		t.errorf("millrace report: %v\n", err)
		return exitFailed
	}
	return writeReport(t, &o, f)
}

// fill completes the options, or says what is wrong with them.
func (o *reportOptions) fill() error {
	switch o.lang {
	case "":
		o.lang = "en"
		for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
			if v := os.Getenv(name); v != "" {
				if strings.HasPrefix(v, "zh") {
					o.lang = "zh"
				}
				break
			}
		}
	case "en", "zh":
	default:
		return fmt.Errorf("--lang %q: it is en or zh", o.lang)
	}
	formats := []string{report.HTML, report.CSV, report.XLSX, report.JSON}
	if o.format == "" {
		o.format = report.HTML
		if ext := strings.TrimPrefix(strings.ToLower(filepath.Ext(o.out)), "."); slices.Contains(formats, ext) {
			o.format = ext
		}
	}
	if !slices.Contains(formats, o.format) {
		return fmt.Errorf("--format %q: it is html, csv, xlsx or json", o.format)
	}
	if o.period != "" && (o.from != "" || o.to != "") {
		return errors.New("--period stands instead of --from and --to: use one or the other")
	}
	return nil
}

// span returns the beginning and the end of the period.
func (o *reportOptions) span(now time.Time) (from, to time.Time, err error) {
	today, _ := connectivity.DayOf(now)
	if o.from == "" && o.to == "" {
		return namedPeriod(o.period, today)
	}
	day := func(name, text string, otherwise time.Time) (time.Time, error) {
		if text == "" {
			return otherwise, nil
		}
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return t, fmt.Errorf("--%s %q: expected a day such as %s", name, text, now.Format(time.DateOnly))
		}
		return configs.StartOfDay(t.Year(), t.Month(), t.Day(), now.Location()), nil
	}
	if to, err = day("to", o.to, today); err != nil {
		return from, to, err
	}
	if from, err = day("from", o.from, to); err != nil {
		return from, to, err
	}
	if to.Before(from) {
		return from, to, fmt.Errorf("--from %s is after --to %s", from.Format(time.DateOnly), to.Format(time.DateOnly))
	}
	if from.After(now) {
		return from, to, fmt.Errorf("--from %s has not come yet", from.Format(time.DateOnly))
	}
	_, to = connectivity.DayOf(to)
	if to.Sub(from) > 3*366*24*time.Hour {
		return from, to, errors.New("a report is of three years at most")
	}
	return from, to, nil
}

func namedPeriod(name string, today time.Time) (from, to time.Time, err error) {
	on := func(month time.Month, day int) time.Time {
		return configs.StartOfDay(today.Year(), month, day, today.Location())
	}
	month, day := today.Month(), today.Day()
	tomorrow, monday := on(month, day+1), day-(int(today.Weekday())+6)%7
	switch name {
	case "today":
		return today, tomorrow, nil
	case "yesterday":
		return on(month, day-1), today, nil
	case "week":
		return on(month, monday), tomorrow, nil
	case "last-week":
		return on(month, monday-7), on(month, monday), nil
	case "", "month":
		return on(month, 1), tomorrow, nil
	case "last-month":
		return on(month-1, 1), on(month, 1), nil
	case "year":
		return on(time.January, 1), tomorrow, nil
	}
	return from, to, fmt.Errorf("--period %q: it is today, yesterday, week, last-week, month, last-month or year", name)
}

// reportFigures computes the figures from the files of the ledger, which a
// running agent is asked to bring up to the present.
func reportFigures(ctx context.Context, cfg *configs.Config, from, to time.Time) (*connectivity.Figures, error) {
	live, err := flushAgent(ctx, cfg.Buffer.Path)
	if err != nil {
		return nil, err
	}
	dir := cfg.Connectivity.Path
	if _, err := os.Stat(dir); err != nil {
		if live {
			return nil, fmt.Errorf("the agent that runs writes no ledger to %s: see its log", dir)
		}
		return nil, fmt.Errorf("there is no completeness ledger in %s: has an agent with this configuration ever run here? (connectivity.path)", dir)
	}
	f, err := connectivity.Compute(connectivity.Input{
		Config: cfg, Evidence: loadEvidence(dir), From: from, To: to, Now: time.Now(),
		Source: func(from, to time.Time, v ledger.Visitor) (int64, error) { return ledger.Read(dir, from, to, v) },
	})
	if err != nil {
		return nil, fmt.Errorf("reading the completeness ledger in %s: %w", dir, err)
	}
	return f, nil
}

// flushAgent has the agent that uses a buffer write what it has counted; false:
// none runs.
func flushAgent(ctx context.Context, dir string) (live bool, err error) {
	res, err := askAgent(ctx, dir, "/ledger/flush", nil)
	if err != nil {
		return true, fmt.Errorf("asking the agent to write what it has counted: %w", err)
	}
	if res == nil {
		return false, nil
	}
	res.Body.Close()
	return true, nil
}

func writeReport(t terminal, o *reportOptions, f *connectivity.Figures) int {
	if o.out == "-" {
		w := bufio.NewWriter(t.out)
		if err := errors.Join(report.Write(w, f, o.format, o.lang), w.Flush()); err != nil {
			t.errorf("millrace report: %v\n", err)
			return exitFailed
		}
		return exitDone
	}
	name := o.out
	if name == "" {
		name = fmt.Sprintf("connectivity-%s-%s-%s.%s", f.Gateway, f.From.Format("20060102"), f.To.Add(-time.Second).Format("20060102"), o.format)
	}
	if err := writeWhole(name, func(w io.Writer) error { return report.Write(w, f, o.format, o.lang) }); err != nil {
		t.errorf("millrace report: %v\n", err)
		return exitFailed
	}
	t.printf("%s: %s\n", name, reportSummary(f))
	return exitDone
}

// reportSummary is the main figure in words.
func reportSummary(f *connectivity.Figures) string {
	for i := range f.Indicators {
		if x := &f.Indicators[i]; x.ID == connectivity.Networking {
			return fmt.Sprintf("%d of %d machines networked, %s to %s", x.Numerator, x.Denominator, f.From.Format(time.DateOnly), f.To.Add(-time.Second).Format(time.DateOnly))
		}
	}
	return ""
}

// writeWhole writes a file that is there whole or not at all.
func writeWhole(name string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, errors.Unwrap(err))
	}
	w := bufio.NewWriter(file)
	err = errors.Join(write(w), w.Flush(), file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// writeTemplate writes an empty equipment ledger: its columns, and what they
// mean.
func writeTemplate(t terminal, name, lang string) int {
	at := 0
	if lang == "zh" {
		at = 1
	}
	if _, err := os.Stat(name); err == nil {
		t.errorf("millrace report: %s is there already: move it away, or give another name\n", name)
		return exitFailed
	}
	var write func(w io.Writer) error
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		write = func(w io.Writer) error { return templateCSV(w, at) }
	case ".xlsx":
		write = func(w io.Writer) error { return templateXLSX(w, at) }
	default:
		t.errorf("millrace report: --template %q: expected a file that ends in .xlsx or .csv\n", name)
		return exitUsage
	}
	if err := writeWhole(name, write); err != nil {
		t.errorf("millrace report: %v\n", err)
		return exitFailed
	}
	t.printf("%s: fill in one row for each machine of the site, connected or not, and add to the configuration: equipment: %s\n", name, name)
	return exitDone
}

func templateCSV(w io.Writer, at int) error {
	var head []string
	for _, c := range configs.EquipmentColumns() {
		head = append(head, c.Names[at])
	}
	c := csv.NewWriter(w)
	if _, err := io.WriteString(w, "\xef\xbb\xbf"); err != nil { // Excel takes it for UTF-8
		return fmt.Errorf("template: %w", err)
	}
	_ = c.Write(head) // Flush has its error
	c.Flush()
	if err := c.Error(); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	return nil
}

func templateXLSX(w io.Writer, at int) error {
	ledgerSheet := xlsx.Sheet{Name: [2]string{"Equipment", "设备台账"}[at], Frozen: 1, Rows: [][]xlsx.Cell{{}}}
	help := xlsx.Sheet{Name: [2]string{"Columns", "填写说明"}[at], Widths: []float64{20, 100}, Rows: [][]xlsx.Cell{
		{xlsx.Styled([2]string{"Column", "列名"}[at], xlsx.Head), xlsx.Styled([2]string{"What to write", "填写内容"}[at], xlsx.Head)},
	}}
	for _, c := range configs.EquipmentColumns() {
		ledgerSheet.Widths = append(ledgerSheet.Widths, 16)
		ledgerSheet.Rows[0] = append(ledgerSheet.Rows[0], xlsx.Styled(c.Names[at], xlsx.Head))
		doc := c.Doc[at]
		if c.Required {
			doc += [2]string{" Required.", "必填。"}[at]
		}
		help.Rows = append(help.Rows, []xlsx.Cell{xlsx.Text(c.Names[at]), xlsx.Styled(doc, xlsx.Wrapped)})
	}
	return xlsx.Write(w, []xlsx.Sheet{ledgerSheet, help})
}
