package tail

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// shownGateways is how many gateways a summary lists, unless All.
const shownGateways = 15

// Summary returns s as lines of text.
func (p *Printer) Summary(s *Summary) string {
	var b strings.Builder
	ago := time.Duration(s.Seconds * float64(time.Second)).Round(time.Second)
	fmt.Fprintf(&b, "%s\n", p.styled(bold, fmt.Sprintf("── %v: %s messages (%s/s), %s readings (%s/s)",
		ago, grouped(s.Total.Messages), rate(s.Total.MessagesPerSecond), grouped(s.Total.Readings), rate(s.Total.ReadingsPerSecond))))
	shown := s.Gateways
	if !p.All && len(shown) > shownGateways+1 {
		shown = shown[:shownGateways]
	}
	if len(shown) == 0 {
		return b.String()
	}
	rows := [][]string{{"gateway", "format", "messages/s", "readings/s", "not good", "historical", "repeats", "missing", "gap notices", "damaged"}}
	for i := range shown {
		g := &shown[i]
		notices := grouped(g.GapNotices)
		if g.GivenUp > 0 {
			notices += " (" + grouped(g.GivenUp) + " batches)"
		}
		rows = append(rows, []string{
			p.short(g.Group + "/" + g.Gateway), g.Format, rate(g.MessagesPerSecond), rate(g.ReadingsPerSecond),
			grouped(g.NotGood), grouped(g.Historical), grouped(g.Repeats), grouped(g.Missing), notices, grouped(g.Damaged),
		})
	}
	p.table(&b, rows)
	if n := len(s.Gateways) - len(shown); n > 0 {
		fmt.Fprintf(&b, "   %s\n", p.styled(dim, fmt.Sprintf("… and %d more gateways (--all shows them)", n)))
	}
	return b.String()
}

// table writes rows in columns: texts to the left, numbers to the right.
func (p *Printer) table(b *strings.Builder, rows [][]string) {
	const texts = 2
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	for n, row := range rows {
		line := "  "
		for i, cell := range row {
			cell = strings.TrimRight(cell, " ")
			if i < texts {
				line += " " + pad(cell, widths[i]) + " "
			} else {
				line += " " + strings.Repeat(" ", widths[i]-width(cell)) + cell + " "
			}
		}
		line = strings.TrimRight(line, " ")
		if n == 0 {
			line = p.styled(dim, line)
		}
		b.WriteString(line + "\n")
	}
}

// rate is a number a second, with a decimal where it is small.
func rate(f float64) string {
	if f < 100 {
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return grouped(uint64(f + 0.5))
}

// grouped is a number with commas between its thousands.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
