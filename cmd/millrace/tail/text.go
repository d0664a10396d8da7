package tail

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Printer makes text for people of events.
type Printer struct {
	Zone  *time.Location // of the times it shows
	Color bool           // a terminal takes colours
	All   bool           // long batches and long values are not cut

	day     string // of the last time shown
	sources int    // the columns that sources took so far
}

const (
	shownReadings = 20  // of one message, unless All
	shownRunes    = 100 // of one value or name, unless All
	sourceColumns = 40  // sources longer than that do not widen the column
	nameColumns   = 32  // names longer than that do not widen the column
	valueColumns  = 24
)

// style is how a terminal is told to show something.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	yellow style = "33"
	cyan   style = "36"
)

func (p *Printer) styled(s style, text string) string {
	if !p.Color || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Text returns e as lines of text.
func (p *Printer) Text(e *Event) string {
	var b strings.Builder
	received := time.UnixMilli(e.Received).In(p.Zone)
	if day := received.Format("2006-01-02"); day != p.day {
		if p.day != "" {
			fmt.Fprintf(&b, "%s\n", p.styled(dim, "— "+day+" —"))
		}
		p.day = day
	}
	b.WriteString(p.styled(dim, received.Format("15:04:05.000")))
	source := p.source(e)
	p.sources = max(p.sources, min(width(source), sourceColumns))
	b.WriteString("  " + p.styled(bold, pad(source, p.sources)))
	for _, part := range p.head(e) {
		b.WriteString("  " + part)
	}
	b.WriteString("\n")
	p.body(&b, e)
	if e.Fault != "" {
		fmt.Fprintf(&b, "    %s\n", p.styled(red, "DAMAGED: "+p.short(e.Fault)))
	}
	for _, n := range e.Notes {
		fmt.Fprintf(&b, "    %s\n", p.styled(yellow, "! "+p.short(n)))
	}
	return b.String()
}

// source says who a message is of.
func (p *Printer) source(e *Event) string {
	switch {
	case e.Kind == KindHost:
		return p.short("host " + e.Host)
	case e.Gateway == "":
		return p.short(e.Topic)
	}
	text := e.Group + "/" + e.Gateway
	if e.Device != "" {
		text += "/" + e.Device
	}
	return p.short(text)
}

// head returns what stands in the first line behind the source.
func (p *Printer) head(e *Event) []string {
	var parts []string
	add := func(s style, text string) {
		if text != "" {
			parts = append(parts, p.styled(s, text))
		}
	}
	add(plain, e.Message)
	switch e.Kind {
	case KindState:
		p.stateHead(e, add)
	case KindStatus:
		p.statusHead(e, add)
	case KindHost:
		if e.Online != nil {
			add(onlineStyle(*e.Online), onlineWord(*e.Online))
		}
	case KindGap:
		add(plain, "GAP")
	case KindConnectivity:
		add(plain, "connectivity")
	case KindData, KindBirth, KindDeath, KindCommand, KindUnknown:
	}
	if e.Seq != nil {
		add(plain, "seq "+strconv.FormatUint(*e.Seq, 10))
	}
	if e.BdSeq != nil {
		add(plain, "bdSeq "+strconv.FormatUint(*e.BdSeq, 10))
	}
	if e.TS != nil {
		add(plain, "of "+p.moment(e.TS, e.Received))
	}
	if e.Kind == KindData || e.Kind == KindBirth || e.Kind == KindCommand {
		add(dim, p.content(e))
	}
	if e.Historical {
		add(cyan, "historical")
	}
	if e.Clock == "unset" {
		add(yellow, "clock never set")
	} else {
		add(yellow, p.short(e.Clock))
	}
	if e.Repeat {
		add(cyan, "repeat")
	}
	if e.Late {
		add(cyan, "was missing")
	}
	if e.Retained {
		add(dim, "retained")
	}
	if e.Kind == KindUnknown {
		add(dim, bytesWord(e.Size))
	}
	return parts
}

func (p *Printer) stateHead(e *Event, add func(style, string)) {
	if e.Cleared {
		add(yellow, "taken out of the configuration")
		return
	}
	s := yellow
	switch e.State {
	case "online", "disabled":
		s = plain
	case "offline":
		s = red
	}
	add(s, p.short(e.State))
	if e.Since != nil {
		add(plain, "since "+p.moment(e.Since, e.Received))
	}
}

func (p *Printer) statusHead(e *Event, add func(style, string)) {
	if e.Online != nil {
		add(onlineStyle(*e.Online), "gateway "+onlineWord(*e.Online))
	}
	if e.Version != "" {
		add(plain, "version "+p.short(e.Version))
	}
}

func onlineStyle(online bool) style {
	if online {
		return plain
	}
	return red
}

func onlineWord(online bool) string {
	if online {
		return "online"
	}
	return "offline"
}

func bytesWord(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}

// content says what is in a batch.
func (p *Printer) content(e *Event) string {
	n := len(e.Readings) + e.dropped
	text := fmt.Sprintf("%d values", n)
	if n == 1 {
		text = "1 value"
	}
	notGood := notGood(e.Readings)
	if notGood > 0 {
		text += fmt.Sprintf(", %d not good", notGood)
	}
	if e.dropped > 0 {
		text += fmt.Sprintf(", %d shown", len(e.Readings))
	}
	return text
}

func notGood(rs []Reading) (n int) {
	for i := range rs {
		if rs[i].Quality != Good {
			n++
		}
	}
	return n
}

// body writes what stands below the first line.
func (p *Printer) body(b *strings.Builder, e *Event) {
	p.readings(b, e)
	if g := e.Gap; g != nil && e.Fault == "" {
		text := fmt.Sprintf("batches %d to %d will never come: %d readings, reason %s", g.From, g.To, g.Readings, p.short(g.Reason))
		if g.From == g.To {
			text = fmt.Sprintf("batch %d will never come: %d readings, reason %s", g.From, g.Readings, p.short(g.Reason))
		}
		if g.Oldest != 0 || g.Newest != 0 {
			text += ", of " + p.moment(millis(g.Oldest), e.Received) + " to " + p.moment(millis(g.Newest), e.Received)
		}
		fmt.Fprintf(b, "    %s\n", p.styled(red, text))
	}
	if e.Reason != "" {
		fmt.Fprintf(b, "    %s\n", p.short(e.Reason))
	}
	if e.Kind == KindStatus && e.Body != nil {
		fmt.Fprintf(b, "    previous run: %s\n", p.short(string(e.Body)))
	} else if e.Body != nil {
		fmt.Fprintf(b, "    %s\n", p.short(string(e.Body)))
	}
	if e.Text != "" {
		for line := range strings.Lines(p.cut(e.Text, 2*shownRunes)) {
			fmt.Fprintf(b, "    %s\n", p.clean(strings.TrimRight(line, "\r\n")))
		}
	}
	if e.Hex != "" {
		more := ""
		if e.Size > maxHex {
			more = " …"
		}
		fmt.Fprintf(b, "    %s%s\n", spaced(e.Hex), more)
	}
}

// spaced puts a space between bytes in hexadecimal.
func spaced(h string) string {
	var b strings.Builder
	for i := 0; i+2 <= len(h); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(h[i : i+2])
	}
	return b.String()
}

// readings writes a line for each reading, in columns.
func (p *Printer) readings(b *strings.Builder, e *Event) {
	shown := e.Readings
	if !p.All && len(shown) > shownReadings+1 {
		shown = shown[:shownReadings]
	}
	names, values := make([]string, len(shown)), make([]string, len(shown))
	nameWidth, valueWidth := 0, 0
	for i := range shown {
		names[i], values[i] = p.cut(p.clean(shown[i].Tag), shownRunes), p.value(&shown[i])
		nameWidth = max(nameWidth, min(width(names[i]), nameColumns))
		valueWidth = max(valueWidth, min(width(values[i]), valueColumns))
	}
	for i := range shown {
		r := &shown[i]
		tail := p.remarks(e, r)
		line := "    " + pad(names[i], nameWidth) + "  "
		value := values[i]
		if tail != "" {
			value = pad(value, valueWidth)
		}
		s := plain
		switch r.Quality {
		case Bad:
			s = red
		case Uncertain, Stale:
			s = yellow
		}
		b.WriteString(strings.TrimRight(line+p.styled(s, value)+tail, " ") + "\n")
	}
	if hidden := e.Readings[len(shown):]; len(hidden) > 0 {
		text := fmt.Sprintf("… and %d more", len(hidden))
		if n := notGood(hidden); n > 0 {
			text += fmt.Sprintf(", %d of them not good", n)
		}
		fmt.Fprintf(b, "    %s\n", p.styled(dim, text+" (--all shows them)"))
	}
}

// value is a reading's value with its unit.
func (p *Printer) value(r *Reading) string {
	switch {
	case r.Value == nil && r.Quality == Bad:
		return strings.TrimRight("BAD "+p.short(r.Reason), " ")
	case r.Value == nil:
		return "null"
	}
	text := p.cut(p.quoted(r.Value), shownRunes)
	if r.Unit != "" {
		text += " " + p.cut(p.clean(r.Unit), shownRunes)
	}
	return text
}

// remarks is what stands behind a value: its quality, its own time.
func (p *Printer) remarks(e *Event, r *Reading) string {
	text := ""
	why := p.short(r.Reason)
	switch {
	case r.Quality == Uncertain:
		text += "  " + p.styled(yellow, strings.TrimRight("uncertain "+why, " "))
	case r.Quality == Stale:
		text += "  " + p.styled(yellow, strings.TrimRight("stale "+why, " "))
	case r.Quality == Bad && r.Value != nil:
		text += "  " + p.styled(red, strings.TrimRight("BAD "+why, " "))
	}
	if e.Format == FormatSparkplug && e.Kind == KindData && r.Type == "" && r.Value != nil {
		text += "  " + p.styled(dim, "type not known")
	}
	if r.TS != nil && (p.All || apart(r.TS, e.TS)) {
		text += "  " + p.styled(dim, "of "+p.moment(r.TS, e.Received))
	}
	if r.Historical && !e.Historical {
		text += "  " + p.styled(cyan, "historical")
	}
	return text
}

// apart says that two times in ms are a second or more from one another.
func apart(a, b json.RawMessage) bool {
	x, err := strconv.ParseFloat(string(a), 64)
	y, err2 := strconv.ParseFloat(string(b), 64)
	return err != nil || err2 != nil || math.Abs(x-y) >= 1000
}

// moment is a time in ms since 1970, with its date if that is another day
// than that of received.
func (p *Printer) moment(ms json.RawMessage, received int64) string {
	f, err := strconv.ParseFloat(string(ms), 64)
	// From the year 1 to the year 9999.
	if err != nil || f < -62135596800000 || f > 253402300799999 {
		return p.short(string(ms)) + " ms"
	}
	t := time.UnixMilli(int64(f)).In(p.Zone)
	if t.Format(time.DateOnly) == time.UnixMilli(received).In(p.Zone).Format(time.DateOnly) {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}

// quoted is a value in JSON as people read it: texts with their own letters
// instead of escapes.
func (p *Printer) quoted(raw json.RawMessage) string {
	var s string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return `"` + p.clean(s) + `"`
	}
	return p.clean(string(raw))
}

// clean takes out of a text what a terminal would obey, and what would turn
// the order of letters around.
func (p *Printer) clean(s string) string {
	ok := true
	for i := 0; i < len(s) && ok; i++ {
		ok = s[i] >= ' ' && s[i] < 0x7f
	}
	if ok {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.Is(unicode.Zs, r):
			b.WriteByte(' ')
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += size
	}
	return b.String()
}

// short is what stands in a line beside other things.
func (p *Printer) short(s string) string { return p.cut(p.clean(s), 2*shownRunes) }

// cut shortens a text.
func (p *Printer) cut(s string, runes int) string {
	if p.All || len(s) <= runes {
		return s
	}
	n := 0
	for i := range s {
		n++
		if n > runes {
			return s[:i] + "…"
		}
	}
	return s
}
