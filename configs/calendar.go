package configs

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // many a gateway has no time zones of its own
)

// Calendar says when production is planned. The zero Calendar is around the
// clock, in the machine's time zone.
type Calendar struct {
	zone     *time.Location
	shifts   []Shift
	holidays map[string]bool         // by date
	workdays map[string]time.Weekday // dates that are planned like another day
}

// Shift is planned production time of some days of the week.
type Shift struct {
	Days     [7]bool // by time.Weekday: the days on which it begins
	From, To int     // minutes after midnight; To is before From for one that ends on the next day, and may be 24:00
}

// Equal says that c and o are the same.
func (c Calendar) Equal(o Calendar) bool { return reflect.DeepEqual(c, o) }

// Location returns the time zone of days and shifts.
func (c *Calendar) Location() *time.Location {
	if c.zone == nil {
		return time.Local
	}
	return c.zone
}

// Zone returns the name of that time zone, or where the machine does not say
// it, how far it is from UTC, such as +08:00.
func (c *Calendar) Zone() string {
	if zone := c.Location(); zone != time.Local {
		return zone.String()
	}
	if name := os.Getenv("TZ"); name != "" {
		if _, err := time.LoadLocation(name); err == nil {
			return name
		}
	}
	if path, err := os.Readlink("/etc/localtime"); err == nil {
		if _, name, ok := strings.Cut(path, "zoneinfo/"); ok {
			return name
		}
	}
	return time.Now().Format("-07:00")
}

// AlwaysOn says that production is planned around the clock, but for holidays.
func (c *Calendar) AlwaysOn() bool { return len(c.shifts) == 0 }

// Planned returns how many seconds of [from, to) are planned. Where shifts
// overlap it counts once.
func (c *Calendar) Planned(from, to time.Time) int64 {
	if !from.Before(to) {
		return 0
	}
	if c.AlwaysOn() && len(c.holidays) == 0 {
		return int64(to.Sub(from) / time.Second)
	}
	var spans [][2]int64
	zone := c.Location()
	first := from.In(zone)
	// A shift of the day before may end within.
	for day := StartOfDay(first.Year(), first.Month(), first.Day()-1, zone); day.Before(to); day = nextDay(day) {
		spans = c.appendDay(spans, day)
	}
	slices.SortFunc(spans, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	at, end, sum := from.Unix(), to.Unix(), int64(0)
	for _, s := range spans {
		s[0], s[1] = max(s[0], at), min(s[1], end)
		if s[0] < s[1] {
			sum += s[1] - s[0]
			at = s[1]
		}
	}
	return sum
}

// StartOfDay returns the first moment of a day; month and day may be outside
// their ranges, as for time.Date. That is midnight, but where the clock is put
// forward at midnight (Havana, Santiago): there time.Date would return a time
// of the day before.
func StartOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	date := time.Date(year, month, day, 12, 0, 0, 0, zone)
	at := time.Date(year, month, day, 0, 0, 0, 0, zone)
	for at.Day() != date.Day() {
		at = at.Add(15 * time.Minute)
	}
	return at
}

func nextDay(day time.Time) time.Time {
	return StartOfDay(day.Year(), day.Month(), day.Day()+1, day.Location())
}

// appendDay appends the planned spans, in Unix seconds, that begin on a day.
func (c *Calendar) appendDay(spans [][2]int64, day time.Time) [][2]int64 {
	weekday := day.Weekday()
	if c.holidays != nil || c.workdays != nil {
		date := day.Format(time.DateOnly)
		like, moved := c.workdays[date]
		switch {
		case moved:
			weekday = like
		case c.holidays[date]:
			return spans
		}
	}
	if c.AlwaysOn() {
		return append(spans, [2]int64{day.Unix(), nextDay(day).Unix()})
	}
	at := func(minutes int) int64 {
		return max(time.Date(day.Year(), day.Month(), day.Day(), 0, minutes, 0, 0, day.Location()).Unix(), day.Unix())
	}
	for i := range c.shifts {
		if s := &c.shifts[i]; s.Days[weekday] {
			to := s.To
			if to <= s.From {
				to += 24 * 60
			}
			spans = append(spans, [2]int64{at(s.From), at(to)})
		}
	}
	return spans
}

// weekdays are the names of the days, as they are written and in Chinese, from
// Monday on.
func weekdays() (days [7]time.Weekday, names, chinese [7]string) {
	return [7]time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday, time.Saturday, time.Sunday},
		[7]string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"},
		[7]string{"一", "二", "三", "四", "五", "六", "日"}
}

// Text returns the calendar in words, in English or ("zh") Chinese.
func (c *Calendar) Text(lang string) string {
	zh := lang == "zh"
	var parts []string
	if c.AlwaysOn() {
		parts = append(parts, pick(zh, "around the clock", "全天 24 小时"))
	}
	days, names, chinese := weekdays()
	for _, s := range c.shifts {
		var of []string
		for i, d := range days {
			if s.Days[d] {
				of = append(of, pick(zh, strings.ToUpper(names[i][:1])+names[i][1:], "周"+chinese[i]))
			}
		}
		parts = append(parts, fmt.Sprintf("%s %s–%s", strings.Join(of, pick(zh, " ", "、")), clockText(s.From), clockText(s.To)))
	}
	text := strings.Join(parts, pick(zh, "; ", "；"))
	if n := len(c.holidays); n > 0 {
		text += pick(zh, fmt.Sprintf("; without %d holidays", n), fmt.Sprintf("；不含 %d 天节假日", n))
	}
	if n := len(c.workdays); n > 0 {
		text += pick(zh, fmt.Sprintf("; %d days planned like another weekday", n), fmt.Sprintf("；%d 天按其他工作日排产（调休）", n))
	}
	return text + pick(zh, " (", "（") + c.Zone() + pick(zh, ")", "）")
}

func pick(zh bool, en, cn string) string {
	if zh {
		return cn
	}
	return en
}

func clockText(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }

// clockTime is a time of day.
func clockTime() form[int] {
	return form[int]{
		want:   `a time of day such as "08:00"`,
		quotes: onlyText,
		parse: func(s string) (int, error) {
			h, m, ok := strings.Cut(s, ":")
			hours, err1 := strconv.Atoi(h)
			minutes, err2 := strconv.Atoi(m)
			if !ok || err1 != nil || err2 != nil || len(m) != 2 || hours < 0 || minutes < 0 || minutes > 59 || hours*60+minutes > 24*60 {
				return 0, errForm
			}
			return hours*60 + minutes, nil
		},
		spec: schema{"type": "string", "pattern": `^([01]?[0-9]|2[0-4]):[0-5][0-9]$`},
	}
}

// dates is a date, or a first and a last one.
func dates() form[[]string] {
	return form[[]string]{
		want:   `a date such as "2026-10-01", or a first and a last one such as "2026-10-01..2026-10-07"`,
		quotes: onlyText,
		parse: func(s string) ([]string, error) {
			a, b, some := strings.Cut(s, "..")
			if !some {
				b = a
			}
			first, err1 := time.Parse(time.DateOnly, a)
			last, err2 := time.Parse(time.DateOnly, b)
			switch {
			case err1 != nil || err2 != nil:
				return nil, errForm
			case last.Before(first):
				return nil, hint("the first one comes first")
			case last.Sub(first) > 366*24*time.Hour:
				return nil, hint("that is more than a year")
			}
			var all []string
			for ; !first.After(last); first = first.AddDate(0, 0, 1) {
				all = append(all, first.Format(time.DateOnly))
			}
			return all, nil
		},
		spec: schema{"type": "string", "pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.\.[0-9]{4}-[0-9]{2}-[0-9]{2})?$`},
	}
}

func weekday() form[time.Weekday] {
	days, names, _ := weekdays()
	c := choice(nil, names[:]...)
	return form[time.Weekday]{
		want:   c.want,
		quotes: onlyText,
		parse: func(s string) (time.Weekday, error) {
			w, err := c.parse(s)
			if err != nil {
				return 0, err
			}
			return days[slices.Index(names[:], w)], nil
		},
		spec: c.spec,
	}
}

func timezone() form[*time.Location] {
	return form[*time.Location]{
		want:   "the name of a time zone such as Asia/Shanghai",
		quotes: onlyText,
		parse: func(s string) (*time.Location, error) {
			zone, err := time.LoadLocation(s)
			if err != nil || s == "" {
				return nil, errForm
			}
			return zone, nil
		},
		spec: schema{"type": "string", "minLength": 1},
	}
}

// part is a part of a whole: 90% or 0.9.
func part() form[float64] {
	return form[float64]{
		want: "a part of a whole such as 90% or 0.9",
		parse: func(s string) (float64, error) {
			text, percent := strings.CutSuffix(s, "%")
			f, err := parseNumber(strings.TrimSpace(text))
			if err != nil {
				return 0, err
			}
			if percent {
				f /= 100
			}
			if f < 0 || f > 1 {
				return 0, errForm
			}
			return f, nil
		},
		spec: schema{"anyOf": []schema{
			{"type": "number", "minimum": 0, "maximum": 1},
			{"type": "string", "pattern": `^[0-9.]+ *%?$`},
		}},
	}
}
