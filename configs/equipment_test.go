package configs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"millrace/configs"
	"millrace/configs/xlsx"
)

func loadGood(t *testing.T, name string) *configs.Config {
	t.Helper()
	c, err := configs.Load(filepath.Join("testdata", name), drivers())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEquipment reads a ledger as a factory has it: with a title above, other
// columns, numbers for texts, and a hidden sheet before it. Python's openpyxl
// wrote it (testdata/ledgers/make.py).
func TestEquipment(t *testing.T) {
	t.Parallel()
	c := loadGood(t, "equipment.good.yaml")
	want := []configs.Equipment{
		{Asset: "SB-001", Name: "冲床 1#", Workshop: "冲压车间", Process: "冲压", Key: true, KeyProcess: true, Digital: true, Maker: "扬力", Model: "JH21-160", Serial: "20230118", Devices: []string{"press-1"}},
		{Asset: "SB-002", Name: "机器人 7#", Workshop: "焊装车间", Process: "焊接", Key: true, KeyProcess: true, Digital: true, Maker: "ABB", Model: "IRB 6700", Devices: []string{"robot-7"}},
		{Asset: "SB-003", Name: "普通车床", Workshop: "机加车间", Process: "车削", Maker: "沈阳机床", Model: "CA6140"},
		{Asset: "1004", Name: "铣床", Workshop: "机加车间", Process: "铣削", KeyProcess: true, Digital: true, Maker: "北京一机", Model: "XK714", Serial: "123456789012"},
		{Asset: "SB-005", Name: "焊接站", Workshop: "焊装车间", Process: "焊接", Key: true, KeyProcess: true, Digital: true, Devices: []string{"robot-7", "press-1"}},
	}
	if diff := cmp.Diff(want, c.Equipment, cmpopts.IgnoreFields(configs.Equipment{}, "Source")); diff != "" {
		t.Error(diff)
	}
	if p := c.Equipment[0].Source; p.Line != 3 {
		t.Errorf("the first machine stands in row %d", p.Line)
	}
	n := c.Connectivity
	if n.Path != filepath.Join(c.Dir, "ledger") || n.Keep != 800*time.Hour || n.NetworkedHours != 0.8 || n.NetworkedCompleteness != 0.95 {
		t.Errorf("%+v", n)
	}
	tags := c.Devices[0].Tags
	if len(tags) != 3 || tags[0].Scale != 0.1 || tags[0].Unit != "℃" || tags[1].Address != "40001" || tags[2].Source.Line != 5 {
		t.Errorf("%+v", tags)
	}
}

// TestWithoutLedger: the devices are the equipment.
func TestWithoutLedger(t *testing.T) {
	t.Parallel()
	c, err := configs.Parse("millrace.yaml", []byte(`
gateway: {id: gw-1}
devices:
  - id: press-1
    driver: modbus
    endpoint: tcp://192.0.2.5:502
    critical: true
    labels: {asset: A-7, name: "Press 1", line: L3, process: stamping, key_process: "yes", maker: ACME, model: P1, serial: "77"}
    tags: [{name: temp, address: "holding:1"}]
  - id: press-2
    driver: modbus
    endpoint: tcp://192.0.2.6:502
    enabled: false
    labels: {asset: A-7}
    tags: [{name: temp, address: "holding:1"}]
`), ".", drivers())
	if err != nil {
		t.Fatal(err)
	}
	want := []configs.Equipment{
		{Asset: "A-7", Name: "Press 1", Workshop: "L3", Process: "stamping", Key: true, KeyProcess: true, Digital: true, Maker: "ACME", Model: "P1", Serial: "77", Devices: []string{"press-1"}},
		{Asset: "press-2", Name: "press-2", Digital: true, Devices: []string{"press-2"}},
	}
	if diff := cmp.Diff(want, c.Equipment); diff != "" {
		t.Error(diff)
	}
}

// TestTemplateColumns: the names of all columns, in either language, are read.
func TestTemplateColumns(t *testing.T) {
	t.Parallel()
	for lang := range 2 {
		var head, row []string
		for _, c := range configs.EquipmentColumns() {
			head = append(head, c.Names[lang])
			switch c.Names[0] {
			case "devices":
				row = append(row, "press-1")
			case "key equipment", "key process", "digital":
				row = append(row, "是")
			default:
				row = append(row, c.Names[0]+"!")
			}
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "l.csv"), []byte(strings.Join(head, ",")+"\n"+strings.Join(row, ",")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := configs.Parse("millrace.yaml", []byte("gateway: {id: gw-1}\nequipment: l.csv\ndevices: [{id: press-1, driver: modbus, endpoint: \"tcp://192.0.2.5:502\", tags: [{name: t, address: \"holding:1\"}]}]\n"), dir, drivers())
		if err != nil {
			t.Fatal(err)
		}
		want := []configs.Equipment{{Asset: "asset!", Name: "name!", Workshop: "workshop!", Process: "process!", Key: true, KeyProcess: true, Digital: true, Maker: "maker!", Model: "model!", Serial: "serial!", Devices: []string{"press-1"}}}
		if diff := cmp.Diff(want, c.Equipment, cmpopts.IgnoreFields(configs.Equipment{}, "Source")); diff != "" {
			t.Error(diff)
		}
	}
}

func calendarOf(tb testing.TB, keys string) *configs.Calendar {
	tb.Helper()
	c, err := configs.Parse("millrace.yaml", []byte("gateway: {id: gw-1}\nconnectivity: {"+keys+"}\ndevices: [{id: d, driver: modbus, endpoint: \"tcp://192.0.2.5:502\", tags: [{name: t, address: \"holding:1\"}]}]\n"), ".", drivers())
	if err != nil {
		tb.Fatal(err)
	}
	return &c.Connectivity.Calendar
}

func TestPlanned(t *testing.T) {
	t.Parallel()
	const week = `timezone: Asia/Shanghai, shifts: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00"}, {days: [sat], from: "20:00", to: "04:30"}, {days: [mon], from: "19:00", to: "21:00"}]`
	for _, test := range []struct {
		name, keys, from, to string
		want                 time.Duration
	}{
		{"around the clock", `timezone: Asia/Shanghai`, "2026-03-02", "2026-03-09", 7 * 24 * time.Hour},
		{"a week", week, "2026-03-02", "2026-03-09", 60*time.Hour + time.Hour + 8*time.Hour + 30*time.Minute},
		{"overlapping shifts count once", week, "2026-03-02", "2026-03-03", 13 * time.Hour},
		{"a night shift ends on Sunday", week, "2026-03-08", "2026-03-09", 4*time.Hour + 30*time.Minute},
		{"holidays", week + `, holidays: ["2026-03-03..2026-03-04"]`, "2026-03-02", "2026-03-06", 13*time.Hour + 12*time.Hour},
		{"holidays around the clock", `timezone: Asia/Shanghai, holidays: "2026-03-03"`, "2026-03-02", "2026-03-05", 48 * time.Hour},
		{"a Sunday is a Friday", week + `, workdays: {"2026-03-08": fri}`, "2026-03-08", "2026-03-09", 16*time.Hour + 30*time.Minute},
		{"a holiday is a workday", week + `, holidays: ["2026-03-03"], workdays: {"2026-03-03": tue}`, "2026-03-03", "2026-03-04", 12 * time.Hour},
		{"the night of the clock change", `timezone: Europe/Berlin, shifts: [{days: sun, from: "00:00", to: "24:00"}]`, "2026-03-29", "2026-03-30", 23 * time.Hour},
		{"a day without a midnight", `timezone: America/Havana, shifts: [{days: sun, from: "00:00", to: "24:00"}]`, "2026-03-05", "2026-03-12", 23 * time.Hour},
		{"around the clock over it", `timezone: America/Santiago, holidays: "2026-09-07"`, "2026-09-04", "2026-09-09", 95 * time.Hour},
		{"the night of the other", `timezone: Europe/Berlin, shifts: [{days: sun, from: "00:00", to: "24:00"}]`, "2026-10-25", "2026-10-26", 25 * time.Hour},
	} {
		c := calendarOf(t, test.keys)
		from, _ := time.ParseInLocation(time.DateOnly, test.from, c.Location())
		to, _ := time.ParseInLocation(time.DateOnly, test.to, c.Location())
		if got := time.Duration(c.Planned(from, to)) * time.Second; got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		// Hour by hour it is the same.
		sum := int64(0)
		for at := from; at.Before(to); at = at.Add(time.Hour) {
			sum += c.Planned(at, at.Add(time.Hour))
		}
		if time.Duration(sum)*time.Second != test.want {
			t.Errorf("%s: by hours %ds, want %s", test.name, sum, test.want)
		}
	}
}

// TestPlannedModel compares the calendar with one that looks at each minute.
func TestPlannedModel(t *testing.T) {
	t.Parallel()
	days := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	rapid.Check(t, func(rt *rapid.T) {
		type shift struct{ day, from, to int }
		var shifts []shift
		var text []string
		for range rapid.IntRange(1, 4).Draw(rt, "shifts") {
			s := shift{rapid.IntRange(0, 6).Draw(rt, "day"), rapid.IntRange(0, 1439).Draw(rt, "from"), rapid.IntRange(1, 1440).Draw(rt, "to")}
			if s.from == s.to {
				s.to = 1440
			}
			shifts = append(shifts, s)
			text = append(text, fmt.Sprintf(`{days: %s, from: "%02d:%02d", to: "%02d:%02d"}`, days[s.day], s.from/60, s.from%60, s.to/60, s.to%60))
		}
		c := calendarOf(t, "timezone: Asia/Shanghai, shifts: ["+strings.Join(text, ", ")+"]")
		from := time.Date(2026, 3, 1, 0, rapid.IntRange(0, 20000).Draw(rt, "start"), 0, 0, c.Location())
		to := from.Add(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "minutes")) * time.Minute)
		want := int64(0)
		for at := from; at.Before(to); at = at.Add(time.Minute) {
			minute, day := at.Hour()*60+at.Minute(), int(at.Weekday())
			for _, s := range shifts {
				today := s.day == day && minute >= s.from && (minute < s.to || s.to <= s.from)
				late := s.to <= s.from && s.day == (day+6)%7 && minute < s.to
				if today || late {
					want += 60
					break
				}
			}
		}
		if got := c.Planned(from, to); got != want {
			rt.Fatalf("%v from %s to %s: %d, want %d", text, from, to, got, want)
		}
	})
}

func TestCalendarText(t *testing.T) {
	t.Parallel()
	c := calendarOf(t, `timezone: Asia/Shanghai, shifts: [{days: [mon, fri], from: "08:00", to: "20:00"}, {days: [sat], from: "20:00", to: "04:30"}], holidays: ["2026-10-01..2026-10-07"], workdays: {"2026-10-10": fri}`)
	for lang, want := range map[string]string{
		"en": "Mon Fri 08:00–20:00; Sat 20:00–04:30; without 7 holidays; 1 days planned like another weekday (Asia/Shanghai)",
		"zh": "周一、周五 08:00–20:00；周六 20:00–04:30；不含 7 天节假日；1 天按其他工作日排产（调休）（Asia/Shanghai）",
	} {
		if got := c.Text(lang); got != want {
			t.Errorf("%s", got)
		}
	}
}

func BenchmarkPlanned(b *testing.B) {
	c := calendarOf(b, `timezone: Asia/Shanghai, shifts: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00"}], holidays: ["2026-10-01..2026-10-07"]`)
	from := time.Date(2026, 3, 4, 9, 0, 0, 0, c.Location())
	for b.Loop() {
		c.Planned(from, from.Add(time.Hour))
	}
}

// TestSpreadsheet reads what gnumeric, which is none of our writing, makes of a
// table.
func TestWorkbook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	csv := filepath.Join(dir, "in.csv")
	if err := os.WriteFile(csv, []byte("name,address,scale\n温度,holding:100,0.1\n\n\"a, \"\"b\"\"\",40001,1e-7\nbig,123456789012345,TRUE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.xlsx")
	if text, err := exec.CommandContext(t.Context(), "ssconvert", csv, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s (.ci/deps installs gnumeric)", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := xlsx.Read(data, func(row int, cells []string) bool {
		got = append(got, fmt.Sprintf("%d %s", row, strings.Join(cells, "|")))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"1 name|address|scale", "2 温度|holding:100|0.1", `4 a, "b"|40001|0.0000001`, "5 big|123456789012345|true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzXLSX(f *testing.F) {
	for _, name := range glob2(f, "testdata/*/*.xlsx") {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		last := 0
		_ = xlsx.Read(data, func(row int, cells []string) bool {
			if row <= last || len(cells) == 0 {
				t.Fatalf("row %d after %d", row, last)
			}
			last = row
			return true
		})
	})
}

func glob2(f *testing.F, pattern string) []string {
	f.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

// TestLargeLedger: 20,000 machines are read in a moment.
func TestLargeLedger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	b.WriteString("资产编号,设备名称,关键设备,采集设备\n")
	for i := range 20000 {
		fmt.Fprintf(&b, "SB-%05d,设备 %d,是,d\n", i, i)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "l.csv"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Parse("millrace.yaml", []byte("gateway: {id: gw-1}\nequipment: l.csv\ndevices: [{id: d, driver: modbus, endpoint: \"tcp://192.0.2.5:502\", tags: [{name: t, address: \"holding:1\"}]}]\n"), dir, drivers())
	if err != nil || len(c.Equipment) != 20000 {
		t.Fatalf("%v", err)
	}
}
