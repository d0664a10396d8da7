package configs

import (
	"fmt"
	"slices"
	"time"

	"millrace/protocols"
)

// Connectivity says how the connectivity figures are counted.
type Connectivity struct {
	Path   string        // the directory of the completeness ledger; absolute
	Keep   time.Duration // how long it is kept
	Uplink string        // whose acknowledgements count as delivered; empty: there is no uplink
	// A machine is networked if data of it was delivered in this part of the
	// planned hours, and an hour counts if this part of what was to be delivered
	// was, and at least one reading; both from 0 to 1.
	NetworkedHours        float64
	NetworkedCompleteness float64
	Calendar              Calendar
}

// shiftDraft is a shift while it is being read.
type shiftDraft struct {
	Shift

	node *node
}

// connectivityDraft is the connectivity key while it is being read.
type connectivityDraft struct {
	Connectivity

	node   *node
	shifts []*shiftDraft
}

// valid makes a form that leaves a text as it is.
func valid[V any](f form[V]) form[string] {
	return form[string]{want: f.want, quotes: f.quotes, spec: f.spec, parse: func(s string) (string, error) {
		_, err := f.parse(s)
		return s, err
	}}
}

func connectivityTable() table[connectivityDraft] {
	return table[connectivityDraft]{where: "connectivity", keys: []key[connectivityDraft]{
		{
			name: "path", def: "data/ledger",
			doc: "The directory of the completeness ledger, relative to this file.",
			val: as(filled("a directory"), func(c *connectivityDraft, v string) { c.Path = v }),
		},
		{
			// A year, and what of the next one the report of the first is asked in.
			name: "keep", def: "9600h",
			doc: "How long the completeness ledger is kept: 9600h is 400 days.",
			val: as(duration(48*time.Hour, 10*366*24*time.Hour, false), func(c *connectivityDraft, v time.Duration) { c.Keep = v }),
		},
		{
			name: "uplink",
			doc:  "The uplink whose acknowledgements count as delivered. Default: the first one.",
			val:  as(id(), func(c *connectivityDraft, v string) { c.Uplink = v }),
		},
		{
			name: "networked",
			doc:  "What makes a machine count as networked.",
			val: object[connectivityDraft, Connectivity]{
				table: networkedTable(),
				hint:  "write networked: {hours: 90%}",
				at:    func(c *connectivityDraft, _ *node) *Connectivity { return &c.Connectivity },
			},
		},
		{
			name: "timezone",
			doc:  "The time zone of days and shifts, such as Asia/Shanghai. Default: the machine's.",
			val:  as(timezone(), func(c *connectivityDraft, v *time.Location) { c.Calendar.zone = v }),
		},
		{
			name: "shifts",
			doc:  "When production is planned, one entry for each shift. Left out: around the clock.",
			val: list[connectivityDraft, shiftDraft]{
				table: shiftTable(),
				hint:  `each shift is an entry: - {days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00"}`,
				add: func(c *connectivityDraft, n *node) *shiftDraft {
					s := &shiftDraft{node: n}
					c.shifts = append(c.shifts, s)
					return s
				},
			},
		},
		{
			name: "holidays",
			doc:  "Dates on which nothing is planned: one such as \"2027-01-01\", or a first and a last one such as \"2026-10-01..2026-10-07\".",
			val: words[connectivityDraft]{
				form: valid(dates()), hint: `write holidays: ["2026-10-01..2026-10-07"]`, single: true,
				put: func(c *connectivityDraft, all []string) {
					c.Calendar.holidays = map[string]bool{}
					for _, text := range all {
						days, _ := dates().parse(text)
						for _, day := range days {
							c.Calendar.holidays[day] = true
						}
					}
				},
			},
		},
		{
			name: "workdays",
			doc:  "Dates that are planned like another day of the week, although they are holidays or weekends (调休): {\"2026-10-10\": fri}.",
			val:  workdaysValue{},
		},
	}}
}

func networkedTable() table[Connectivity] {
	return table[Connectivity]{where: "networked", keys: []key[Connectivity]{
		{
			name: "hours", def: "90%",
			doc: "The part of the planned production hours of a period in which data of the machine has to be delivered.",
			val: as(part(), func(c *Connectivity, v float64) { c.NetworkedHours = v }),
		},
		{
			name: "completeness", def: "0%",
			doc: "The part of an hour's readings that has to be delivered for the hour to count. 0%: any reading at all.",
			val: as(part(), func(c *Connectivity, v float64) { c.NetworkedCompleteness = v }),
		},
	}}
}

func shiftTable() table[shiftDraft] {
	return table[shiftDraft]{where: "a shift", keys: []key[shiftDraft]{
		{
			name: "days", required: true,
			doc: "The days of the week on which the shift begins: mon, tue, wed, thu, fri, sat, sun.",
			val: words[shiftDraft]{
				form: valid(weekday()), hint: "write days: [mon, tue, wed, thu, fri]", single: true,
				put: func(s *shiftDraft, all []string) {
					for _, text := range all {
						if d, err := weekday().parse(text); err == nil {
							s.Days[d] = true
						}
					}
				},
			},
		},
		{
			name: "from", required: true,
			doc: "When it begins, such as \"08:00\".",
			val: as(clockTime(), func(s *shiftDraft, v int) { s.From = v }),
		},
		{
			name: "to", required: true,
			doc: "When it ends, such as \"20:00\"; before from: on the next day. \"24:00\" is midnight.",
			val: as(clockTime(), func(s *shiftDraft, v int) { s.To = v }),
		},
	}}
}

// workdaysValue is a mapping of dates to days of the week.
type workdaysValue struct{}

func (workdaysValue) read(l *loader, name string, n *node, c *connectivityDraft) {
	if n.kind != mapNode {
		l.problem(n.pos, "%s: expected dates with days of the week, got %s; write workdays: {\"2026-10-10\": fri}", name, n.describe())
		return
	}
	c.Calendar.workdays = map[string]time.Weekday{}
	one := as(weekday(), func(d *time.Weekday, v time.Weekday) { *d = v })
	for _, e := range n.entries {
		if _, err := time.Parse(time.DateOnly, e.name); err != nil {
			l.problem(e.pos, "%s: expected a date such as \"2026-10-10\", got %q", name, e.name)
			continue
		}
		var day time.Weekday
		one.read(l, fmt.Sprintf("%s.%s", name, e.name), e.value, &day)
		c.Calendar.workdays[e.name] = day
	}
}

func (workdaysValue) schema() schema {
	return schema{
		"type":                 "object",
		"propertyNames":        schema{"pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}$`},
		"additionalProperties": weekday().schema(),
	}
}

// ledgerValue is the path of the equipment ledger.
type ledgerValue struct{}

func (ledgerValue) read(l *loader, name string, n *node, d *draft) {
	if n.kind != textNode {
		l.problem(n.pos, "%s: expected the path of the equipment ledger, got %s; write equipment: equipment.xlsx, and see millrace report --template", name, n.describe())
		n.bad = true
	}
	d.ledger = n
}

func (ledgerValue) schema() schema {
	return schema{"type": "string", "pattern": `(\.[cC][sS][vV]|\.[xX][lL][sS][xX]|\})$`}
}

// checkConnectivity completes what belongs to the connectivity figures.
func (l *loader) checkConnectivity(d *draft) {
	c := &d.connectivity
	c.Path = l.abs(c.Path)
	if c.node == nil || c.node.get("networked") == nil {
		table := networkedTable()
		table.read(l, &node{kind: mapNode}, &c.Connectivity, "")
	}
	for _, s := range c.shifts {
		from, to := s.node.get("from"), s.node.get("to")
		if s.From == s.To && from != nil && to != nil && !from.bad && !to.bad {
			l.problem(s.node.pos, "the shift begins and ends at the same time; a whole day is from \"00:00\" to \"24:00\"")
		}
		c.Calendar.shifts = append(c.Calendar.shifts, s.Shift)
	}
	var names []string
	for _, u := range d.uplinks {
		names = append(names, u.Name)
	}
	switch {
	case c.Uplink == "" && len(names) > 0:
		c.Uplink = names[0]
	case c.Uplink != "" && !slices.Contains(names, c.Uplink):
		pos := protocols.Position{File: l.name}
		if c.node != nil {
			pos = c.node.at("uplink")
		}
		l.problem(pos, "uplink: there is no uplink %q%s", c.Uplink, didYouMean(c.Uplink, names))
	}
	d.Connectivity = c.Connectivity
	l.readEquipment(d)
}
