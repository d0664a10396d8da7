package report

import (
	"fmt"
	"html"
	"strings"
	"time"

	"millrace/collector/connectivity"
)

// Charts are drawn as SVG, in a width of chartWidth units that fills the page.
const (
	chartWidth = 700
	nameWidth  = 110
	rowHeight  = 11
	// rowsEach is how many devices a piece of the heat map has: pieces are not
	// cut by the end of a page.
	rowsEach = 50
)

// svg builds one chart.
type svg struct{ strings.Builder }

func (s *svg) open(height int, label string) {
	fmt.Fprintf(s, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg">`, chartWidth, height, html.EscapeString(label))
}

func (s *svg) rect(x, y, w, h float64, class, title string) {
	fmt.Fprintf(s, `<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" class="%s">`, x, y, w, h, class)
	if title != "" {
		fmt.Fprintf(s, `<title>%s</title>`, html.EscapeString(title))
	}
	s.WriteString(`</rect>`)
}

func (s *svg) text(x, y float64, anchor, text string) {
	fmt.Fprintf(s, `<text x="%.2f" y="%.2f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(text))
}

func (s *svg) done() string {
	s.WriteString(`</svg>`)
	return s.String()
}

func stepText(at time.Time, step time.Duration) string {
	if step > time.Hour {
		return at.Format("01-02")
	}
	return at.Format("02 15h")
}

// labels writes some of the steps' times below a chart.
func (s *svg) labels(f *connectivity.Figures, left, width, y float64) {
	n := len(f.Series)
	every := max((n+9)/10, 1)
	for i := 0; i < n; i += every {
		s.text(left+width*(float64(i)+0.5)/float64(n), y, "middle", stepText(f.Series[i].From, f.Step))
	}
}

// overTime draws the networking rate of each step.
func overTime(f *connectivity.Figures, t *text) string {
	const height, left, base = 170, 34.0, 145.0
	var s svg
	s.open(height, t.S("over"))
	for _, p := range []int{0, 20, 40, 60, 80, 100} {
		y := base - float64(p)*1.3
		fmt.Fprintf(&s, `<line x1="%.0f" x2="%d" y1="%.1f" y2="%.1f" class="grid"/>`, left, chartWidth, y, y)
		s.text(left-4, y+3, "end", fmt.Sprintf("%d %%", p))
	}
	width := chartWidth - left
	n := float64(max(len(f.Series), 1))
	for i := range f.Series {
		p := &f.Series[i]
		x, w := left+width*float64(i)/n, max(width/n-min(1, width/n*0.2), 0.3)
		when := stepText(p.From, f.Step)
		switch {
		case !p.Planned:
			s.rect(x, base-130, w, 130, "none", when)
		case p.Machines > 0:
			h := 130 * float64(p.Networked) / float64(p.Machines)
			s.rect(x, base-h, w, h, "bar", fmt.Sprintf("%s: %d / %d", when, p.Networked, p.Machines))
		}
	}
	s.labels(f, left, width, base+14)
	return s.done()
}

// level returns the class of a cell of the heat map.
func level(part float32) string {
	switch {
	case part < 0:
		return "none"
	case part >= 0.999:
		return "h5"
	case part >= 0.95:
		return "h4"
	case part >= 0.75:
		return "h3"
	case part > 0.25:
		return "h2"
	case part > 0:
		return "h1"
	}
	return "h0"
}

// heatMaps draws a row for each device. Equal neighbours are one rectangle, so
// that a year of hundreds of devices stays small.
func heatMaps(f *connectivity.Figures, t *text) (pieces []string) {
	n := len(f.Series)
	if n == 0 {
		return nil
	}
	width := float64(chartWidth-nameWidth) / float64(n)
	for first := 0; first < len(f.Devices); first += rowsEach {
		last := min(first+rowsEach, len(f.Devices))
		var s svg
		height := (last-first)*rowHeight + 18
		s.open(height, t.S("heat"))
		for row, i := 0, first; i < last; row, i = row+1, i+1 {
			d := &f.Devices[i]
			y := float64(row * rowHeight)
			s.text(nameWidth-4, y+8.5, "end", short(d.ID, 22))
			for a := 0; a < n; {
				class, b := level(d.Heat[a]), a+1
				for b < n && level(d.Heat[b]) == class {
					b++
				}
				s.rect(nameWidth+width*float64(a), y+0.5, width*float64(b-a), rowHeight-1, class, "")
				a = b
			}
		}
		s.labels(f, nameWidth, chartWidth-nameWidth, float64(height-4))
		pieces = append(pieces, s.done())
	}
	return pieces
}

func short(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// timeLines draws the outages of the devices that were away longest.
func timeLines(f *connectivity.Figures, t *text) string {
	var rows []*connectivity.Device
	for _, i := range f.Worst() {
		if d := &f.Devices[i]; awayTime(d, f.Until) > 0 && len(rows) < maxAway {
			rows = append(rows, d)
		}
	}
	if len(rows) == 0 {
		return ""
	}
	var s svg
	height := len(rows)*rowHeight + 18
	s.open(height, t.S("outages"))
	from, all := f.From.UnixMilli(), float64(f.To.UnixMilli()-f.From.UnixMilli())
	width := float64(chartWidth - nameWidth)
	at := func(ms int64) float64 { return nameWidth + width*min(max(float64(ms-from)/all, 0), 1) }
	for i, d := range rows {
		y := float64(i * rowHeight)
		s.text(nameWidth-4, y+8.5, "end", short(d.ID, 22))
		s.rect(nameWidth, y+0.5, width, rowHeight-1, "track", "")
		end := -1.0 // outages that are too near to be told apart are one rectangle
		start := 0.0
		flush := func() {
			if end >= 0 {
				s.rect(start, y+0.5, max(end-start, 0.8), rowHeight-1, "out", "")
			}
		}
		for j := range d.Outage {
			o := &d.Outage[j]
			a, b := at(o.From), at(o.From+outageLength(o, f.Until))
			if end >= 0 && a-end < 0.5 {
				end = max(end, b)
				continue
			}
			flush()
			start, end = a, b
		}
		flush()
	}
	s.labels(f, nameWidth, width, float64(height-4))
	return s.done()
}
