package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"millrace/cmd/millrace/report"
	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/configs/xlsx"
	"millrace/protocols"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files anew")
	flag.Parse()
	os.Exit(m.Run())
}

type noDriver struct{}

func (noDriver) Check(*protocols.Device) []*protocols.FieldError { return nil }
func (noDriver) BusKey(d *protocols.Device) string               { return d.ID }

// site is two days of a small site with all that a report can show.
func site(tb testing.TB) *connectivity.Figures {
	tb.Helper()
	dir := tb.TempDir()
	head := "asset,name,workshop,process,key equipment,key process,digital,maker,model,serial,devices\n"
	rows := `SB-001,冲床 1#,冲压车间,冲压,yes,yes,,扬力,JH21,20230118,press-1
SB-002,Robot <b>7</b>,Welding,welding,yes,yes,,ABB,IRB 6700,,robot-7
SB-003,=1+1,Welding,welding,yes,no,,,,,robot-7
SB-004,Lathe,Turning,turning,no,no,no,,,,
SB-005,Mill with a name that is far longer than any that one would expect in a ledger of equipment,Turning,turning,no,yes,yes,,,,
`
	if err := os.WriteFile(filepath.Join(dir, "ledger.csv"), []byte(head+rows), 0o600); err != nil {
		tb.Fatal(err)
	}
	cfg, err := configs.Parse("millrace.yaml", []byte(`
gateway: {id: gw-press-01, group: plant-2, labels: {enterprise: "× × 机械有限公司", district: "苏州工业园区"}}
equipment: ledger.csv
connectivity: {timezone: Asia/Shanghai, shifts: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00"}]}
uplinks: [{name: platform, broker: "mqtt://127.0.0.1"}]
devices:
  - {id: press-1, driver: none, endpoint: "tcp://192.0.2.5:502", tags: [{name: t, address: a}]}
  - {id: robot-7, driver: none, endpoint: "opc.tcp://192.0.2.9:4840", tags: [{name: t, address: a}]}
`), dir, map[string]configs.Checker{"none": noDriver{}})
	if err != nil {
		tb.Fatal(err)
	}
	cfg.EquipmentLedger = "ledger.csv"
	zone := cfg.Connectivity.Calendar.Location()
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, zone)
	wall, mono := start, time.Duration(0)
	books := filepath.Join(dir, "books")
	l := ledger.New(ledger.Options{Dir: books, Keep: 9600 * time.Hour, Now: func() time.Time { return wall }, Elapsed: func() time.Duration { return mono }})
	pass := func(d time.Duration) { wall, mono = wall.Add(d), mono+d }
	press, robot := l.Device("press-1"), l.Device("robot-7")
	press.State(wall, ledger.Online, time.Time{}, "")
	robot.State(wall, ledger.Online, time.Time{}, "")
	for h := range 48 {
		press.Due(wall, time.Second, 3600, 10)
		press.Scanned(wall, ledger.Scan{Read: 36000, Good: 35990, Sent: 35990, Took: 12 * time.Millisecond})
		press.Delivered(wall.UnixMilli(), 35990, 0)
		robot.Due(wall, time.Second, 3600, 5)
		if h < 10 || h >= 16 {
			robot.Scanned(wall, ledger.Scan{Read: 18000, Good: 18000, Sent: 1800, Took: 40 * time.Millisecond})
			robot.Delivered(wall.UnixMilli(), 1700, 0)
			robot.Dropped(wall.UnixMilli(), ledger.BufferFull, 60)
		}
		if h == 10 {
			robot.State(wall, ledger.Offline, wall, "opc.tcp://192.0.2.9:4840 does not answer: check the cable <and> the address")
		}
		if h == 16 {
			robot.State(wall, ledger.Online, time.Time{}, "")
			robot.Connected(wall)
		}
		pass(time.Hour)
	}
	l.Flush(true)
	unit := uint8(3)
	f, err := connectivity.Compute(connectivity.Input{
		Config: cfg, From: start, To: start.AddDate(0, 0, 2), Now: start.AddDate(0, 0, 2),
		Source: func(from, to time.Time, v ledger.Visitor) (int64, error) { return ledger.Read(books, from, to, v) },
		Evidence: map[string]connectivity.Evidence{
			"press-1": {
				Driver: "modbus", Endpoint: "tcp://192.0.2.5:502", Unit: &unit, Tags: 10, State: "online", Identity: protocols.Identity{Maker: "Schneider Electric", Model: "JH21-160", Serial: "20230118", Version: "V2.1"},
				First: start.UnixMilli(), Last: start.Add(48 * time.Hour).UnixMilli(),
				Samples: []connectivity.Sample{{Name: "temp", Address: "holding:100", Value: "21.5", Unit: "℃", Quality: "good", Time: start.Add(47 * time.Hour).UnixMilli()}},
			},
			"robot-7": {Driver: "opcua", Endpoint: "opc.tcp://192.0.2.9:4840", State: "offline", Reason: "no answer"},
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func render(tb testing.TB, f *connectivity.Figures, format, lang string) string {
	tb.Helper()
	var b bytes.Buffer
	if err := report.Write(&b, f, format, lang); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	f := site(t)
	for _, format := range []string{report.HTML, report.CSV, report.JSON} {
		for _, lang := range []string{"en", "zh"} {
			got := render(t, f, format, lang)
			path := filepath.Join("testdata", "site."+lang+"."+format)
			if flag.Lookup("update").Value.String() == "true" {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
			}
		}
	}
}

// TestCSV: each row has all columns.
func TestCSV(t *testing.T) {
	t.Parallel()
	for _, lang := range []string{"en", "zh"} {
		rows, err := csv.NewReader(strings.NewReader(render(t, site(t), report.CSV, lang))).ReadAll() // it wants as many fields in each
		if err != nil || len(rows) < 10 {
			t.Errorf("%d rows, %v", len(rows), err)
		}
	}
}

// TestFormulas: no name becomes a formula in the CSV.
func TestFormulas(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"=2+2", "+2", "-2", "@y", "\ty", "＝2+2", "＋2", "－2", "＠y"} {
		f := site(t)
		f.Machines[0].Name, f.Machines[0].Maker = name, name
		if out := render(t, f, report.CSV, "zh"); strings.Count(out, "'"+name) != 2 {
			t.Errorf("%q: %d times kept from being one", name, strings.Count(out, "'"+name))
		}
	}
}

// TestFigures: what the golden files show is right.
func TestFigures(t *testing.T) {
	t.Parallel()
	var out struct {
		Indicators []struct {
			ID                     string
			Numerator, Denominator int64
			Rate                   *float64
		}
	}
	if err := json.Unmarshal([]byte(render(t, site(t), report.JSON, "en")), &out); err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int64{
		"equipment_digitalisation": {4, 5}, "equipment_networking": {1, 5}, "digital_equipment_networking": {1, 4}, "key_equipment_networking": {1, 3},
		"key_process_collection": {1, 3}, "availability": {2*24*3600 - 6*3600, 2 * 24 * 3600},
		"read_rate": {48*36000 + 42*18000, 48 * 54000}, "valid_rate": {48*35990 + 42*18000, 48*36000 + 42*18000}, "delivery_rate": {48*35990 + 42*1700, 48*35990 + 42*1800},
	}
	for _, x := range out.Indicators {
		if w := want[x.ID]; x.Numerator != w[0] || x.Denominator != w[1] || *x.Rate != float64(w[0])/float64(w[1]) {
			t.Errorf("%s: %d of %d, want %d of %d", x.ID, x.Numerator, x.Denominator, w[0], w[1])
		}
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	zone, _ := time.LoadLocation("Asia/Shanghai")
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, zone)
	f := &connectivity.Figures{From: now, To: now, Until: now, Made: now}
	for _, format := range []string{report.HTML, report.CSV, report.JSON, report.XLSX} {
		render(t, f, format, "zh")
	}
}

// TestWorkbook has gnumeric compute the formulas anew: as they are, and after
// an assessor has corrected a cell.
func TestWorkbook(t *testing.T) {
	t.Parallel()
	f := site(t)
	for lang, w := range map[string]struct{ yes, no, equipment string }{"en": {"yes", "no", "Equipment"}, "zh": {"是", "否", "设备台账"}} {
		dir := t.TempDir()
		book := filepath.Join(dir, "report.xlsx")
		if err := os.WriteFile(book, []byte(render(t, f, report.XLSX, lang)), 0o600); err != nil {
			t.Fatal(err)
		}
		check := func(book string, want [][4]string) {
			t.Helper()
			rows := recalculated(t, book)
			for i, w := range want {
				if got := rows[4+i]; !sameNumbers(got[2:6], w[:]) {
					t.Errorf("%s, %s: %q, want %q", lang, got[0], got[2:6], w)
				}
			}
		}
		want := [][4]string{
			{"4", "5", "0.8", "6"},
			{"1", "5", "0.2", "1.5"},
			{"1", "4", "0.25", ""},
			{"1", "3", "0.333333333333333", ""},
			{"1", "3", "0.333333333333333", ""},
			{"151200", "172800", "0.875", ""},
			{"2484000", "2592000", "0.958333333333333", ""},
			{"2483520", "2484000", "0.999806763285024", ""},
			{"1798920", "1803120", "0.997670704112871", ""},
		}
		check(book, want)
		// The assessor says that robot 7 is networked, and the lathe digital.
		changed := filepath.Join(dir, "changed.xlsx")
		edit(t, book, changed, w.equipment, map[string]string{"H3": w.yes, "G5": w.yes})
		want[0] = [4]string{"5", "5", "1", "6"}
		want[1] = [4]string{"2", "5", "0.4", "3"}
		want[2] = [4]string{"2", "5", "0.4", ""}
		want[3] = [4]string{"2", "3", "0.666666666666667", ""}
		want[4] = want[3]
		check(changed, want)
		// A process is no key process after all; or another one is.
		edit(t, book, changed, w.equipment, map[string]string{"F6": w.no})
		if got := recalculated(t, changed)[8]; !sameNumbers(got[2:6], []string{"1", "2", "0.5", ""}) {
			t.Errorf("%s: without a key process: %q", lang, got)
		}
		edit(t, book, changed, w.equipment, map[string]string{"F2": w.no, "F3": w.no, "F6": w.no, "F5": w.yes, "H5": w.yes})
		if got := recalculated(t, changed)[8]; !sameNumbers(got[2:6], []string{"1", "1", "1", ""}) {
			t.Errorf("%s: another key process: %q", lang, got)
		}
	}
}

func sameNumbers(got, want []string) bool {
	for i := range want {
		g, gerr := strconv.ParseFloat(got[i], 64)
		w, werr := strconv.ParseFloat(want[i], 64)
		if (gerr == nil) != (werr == nil) || math.Abs(g-w) > 1e-9 || gerr != nil && got[i] != want[i] {
			return false
		}
	}
	return true
}

// recalculated returns the first sheet of a workbook as gnumeric computes it.
func recalculated(t *testing.T, book string) [][]string {
	t.Helper()
	out := book + ".csv"
	cmd := exec.CommandContext(t.Context(), "ssconvert", "--recalc", "-O", "quoting-mode=auto format=raw", "-T", "Gnumeric_stf:stf_assistant", book, out)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s (.ci/deps installs gnumeric)", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		for len(rows[i]) < 7 {
			rows[i] = append(rows[i], "")
		}
	}
	return rows
}

// edit changes cells of a workbook with Python's openpyxl, which reads all of
// it first.
func edit(t *testing.T, from, to, sheet string, cells map[string]string) {
	t.Helper()
	args, err := json.Marshal(cells)
	if err != nil {
		t.Fatal(err)
	}
	const script = `import sys, json, warnings, openpyxl
warnings.simplefilter("error")
book = openpyxl.load_workbook(sys.argv[1])
for ref, value in json.loads(sys.argv[4]).items():
    book[sys.argv[3]][ref] = value
book.save(sys.argv[2])`
	if text, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", script, from, to, sheet, string(args)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s (.ci/deps installs python3-openpyxl)", err, text)
	}
}

// TestPrint prints the page in a real browser: it fits the paper, and each
// device has a page of its own.
func TestPrint(t *testing.T) {
	t.Parallel()
	f := site(t)
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed; run `make deps`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox)
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	defer stop()
	ctx, cancel := chromedp.NewContext(ctx)
	defer cancel()
	for _, lang := range []string{"en", "zh"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "report.html")
		if err := os.WriteFile(path, []byte(render(t, f, report.HTML, lang)), 0o600); err != nil {
			t.Fatal(err)
		}
		// A4 at 96 dpi.
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(794, 1123), chromedp.Navigate("file://"+path)); err != nil {
			t.Fatal(err)
		}
		over, err := chromedp.Run(ctx, chromedp.Evaluate[int]("document.documentElement.scrollWidth - window.innerWidth"))
		if err != nil || over > 0 {
			t.Errorf("%s: the page is %d pixels wider than the paper, %v", lang, over, err)
		}
		markup, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("[...document.querySelectorAll('td b')].some(b => b.textContent == '7')"))
		if err != nil || markup {
			t.Errorf("a name became markup, %v", err)
		}
		pdf := filepath.Join(dir, "report.pdf")
		cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-pdf-header-footer",
			"--user-data-dir="+filepath.Join(dir, "profile"), "--print-to-pdf="+pdf, "file://"+path)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		data, err := os.ReadFile(pdf)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(regexp.MustCompile(`/Type /Page\b`).FindAll(data, -1)); n < 4 || n > 6 {
			t.Errorf("%s: %d pages", lang, n)
		}
	}
}

// TestYearOfMany: a report of many devices over a year stays small.
func TestYearOfMany(t *testing.T) {
	t.Parallel()
	zone := time.UTC
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
	f := &connectivity.Figures{From: start, To: start.AddDate(1, 0, 0), Until: start.AddDate(1, 0, 0), Step: 24 * time.Hour}
	for d := range 365 {
		f.Series = append(f.Series, connectivity.Point{From: start.AddDate(0, 0, d), Networked: d % 200, Machines: 200, Planned: d%7 < 5})
	}
	for i := range 200 {
		dev := connectivity.Device{ID: strings.Repeat("d", 1+i%60), Heat: make([]float32, 365)}
		for d := range dev.Heat {
			dev.Heat[d] = float32(d*i%100) / 100
			dev.Outage = append(dev.Outage, ledger.Outage{From: start.AddDate(0, 0, d).UnixMilli(), To: start.AddDate(0, 0, d).UnixMilli() + int64(i)*60000, Reason: "no answer"})
		}
		f.Devices = append(f.Devices, dev)
	}
	if n := len(render(t, f, report.HTML, "zh")); n > 5<<20 {
		t.Errorf("%d bytes", n)
	}
}

// TestPercentFormat: a spreadsheet shows no rate as 100 % that is not.
func TestPercentFormat(t *testing.T) {
	t.Parallel()
	sheet := xlsx.Sheet{Name: "rates"}
	want := []string{"100.00%", "> 99.99%", "> 99.99%", "99.99%", "50.00%", "0.00%"}
	for _, rate := range []float64{1, 0.99999, 0.999951, 0.99994, 0.5, 0} {
		sheet.Rows = append(sheet.Rows, []xlsx.Cell{xlsx.Number(rate, xlsx.Percent)})
	}
	book := filepath.Join(t.TempDir(), "rates.xlsx")
	f, err := os.Create(book)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(xlsx.Write(f, []xlsx.Sheet{sheet}), f.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ssconvert", "-O", "format=preserve", "-T", "Gnumeric_stf:stf_assistant", book, book+".csv")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s (.ci/deps installs gnumeric)", err, text)
	}
	data, err := os.ReadFile(book + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	if shown := strings.Fields(strings.NewReplacer(`"`, "", "> ", ">").Replace(string(data))); strings.Join(shown, " ") != strings.ReplaceAll(strings.Join(want, " "), "> ", ">") {
		t.Errorf("shown as %q, want %q", shown, want)
	}
}

// TestUnfinished: a period that is not over says so.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	f := site(t)
	for lang, text := range map[string]string{"en": "The period is not over: these are the figures up to ", "zh": "统计周期尚未结束：以下为截至 "} {
		if strings.Contains(render(t, f, report.HTML, lang), text) {
			t.Errorf("%s: it is over", lang)
		}
		india := *f
		india.From = f.From.In(time.FixedZone("+05:30", 5*3600+1800))
		if want := map[string]string{"en": "Counts are kept by hours of UTC.", "zh": "统计数据按 UTC 整点小时保存"}[lang]; !strings.Contains(render(t, &india, report.HTML, lang), want) {
			t.Errorf("%s: it does not say %q", lang, want)
		}
		early := *f
		early.Until = f.To.Add(-time.Hour)
		if want := text + early.Until.Format("2006-01-02 15:04"); !strings.Contains(render(t, &early, report.HTML, lang), want) {
			t.Errorf("%s: it does not say %q", lang, want)
		}
	}
}
