package report

import (
	"fmt"
	"html"
	"strconv"
	"strings"
)

// builder writes HTML. (html/template would do it, and makes the program 2 MB
// larger: its reflection keeps every method of every type.)
type builder struct {
	strings.Builder

	t *text
}

// raw writes marks of our own.
func (b *builder) raw(s string) { b.WriteString(s) }

// f writes marks of our own with texts in them, which are escaped.
func (b *builder) f(format string, texts ...string) {
	args := make([]any, len(texts))
	for i, s := range texts {
		args[i] = html.EscapeString(s)
	}
	fmt.Fprintf(b, format, args...)
}

// s returns a phrase.
func (b *builder) s(key string) string { return b.t.S(key) }

// fact writes one line of a list of facts.
func (b *builder) fact(key, value string) { b.f("<dt>%s</dt><dd>%s</dd>\n", b.s(key), value) }

// verdict writes yes or no, in their colours.
func (b *builder) verdict(mark string, yes bool) {
	class := "no"
	if yes {
		class = "yes"
	}
	b.f("<"+mark+` class="%s">%s</`+mark+">", class, b.t.Yes(yes))
}

// head begins a table: the keys of its columns, those of numbers with a dot
// before them.
func (b *builder) head(keys ...string) {
	b.raw("<table><thead><tr>")
	for _, k := range keys {
		if k, number := strings.CutPrefix(k, "."); number {
			b.f(`<th class="n">%s</th>`, b.s(k))
		} else {
			b.f("<th>%s</th>", b.s(k))
		}
	}
	b.raw("</tr></thead><tbody>\n")
}

func (b *builder) endTable() { b.raw("</tbody></table>\n") }

func orDash(s string) string {
	if s == "" {
		return "—"
	}
	return s
}

func (p *page) write(b *builder) {
	b.f(`<!DOCTYPE html>
<html lang="%s">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s – %s</title>
<style>
`, p.Lang, b.s("title"), p.F.Gateway)
	b.raw(style)
	b.raw("</style>\n</head>\n<body>\n")
	p.cover(b)
	p.charts(b)
	p.lists(b)
	p.machines(b)
	p.evidence(b)
	b.f("<footer>%s</footer>\n</body>\n</html>\n", b.s("foot"))
}

func (p *page) cover(b *builder) {
	const second = "2006-01-02 15:04:05"
	b.f("<h1>%s</h1>\n<dl class=\"facts\">\n", b.s("title"))
	b.fact("gateway", p.F.Gateway)
	b.fact("group", p.F.Group)
	for _, l := range p.Labels {
		b.f("<dt>%s</dt><dd>%s</dd>\n", l[0], l[1])
	}
	b.fact("period", p.Period+" ("+p.F.Rule.Timezone+")")
	b.fact("counted", p.F.Until.Format(second))
	b.fact("made", p.F.Made.Format(second))
	if p.F.LedgerFile != "" {
		b.fact("ledger", p.F.LedgerFile)
	}
	b.raw("</dl>\n")
	if p.F.LedgerFile == "" {
		b.f("<div class=\"box warn\">%s</div>\n", b.s("noledger"))
	}
	b.f("<table class=\"big\"><thead><tr><th>%s</th><th>%s</th><th class=\"n\">%s / %s</th><th class=\"n\">%s</th><th class=\"n\">%s</th></tr></thead><tbody>\n",
		b.s("indicator"), b.s("formula"), b.s("num"), b.s("den"), b.s("rate"), b.s("points"))
	for _, r := range p.Indicators {
		b.f("<tr><td><b>%s</b><br><span class=\"soft\">%s</span></td><td>%s<br><span class=\"soft\">%s</span></td><td class=\"n\">%s<br>/ %s</td><td class=\"n rate\">%s</td><td class=\"n\">%s</td></tr>\n",
			r.Name, r.Other, r.Definition, r.Family, r.Num, r.Den, r.Rate, r.Points)
	}
	b.endTable()
	b.f("<p class=\"soft\">%s</p>\n", b.s("bands"))
	b.f("<div class=\"box\"><b>%s</b><p>%s</p>\n<p>%s: %s; %s %s. %s <b>%s</b>.</p>\n<p class=\"soft\">%s</p></div>\n",
		b.s("rule"), p.Rule, b.s("calendar"), p.Calendar, b.s("planned"), b.t.Span(p.F.Rule.PlannedSec), b.s("uplink"), orDash(p.F.Rule.Uplink), b.s("parts"))
	b.f("<div class=\"box\"><b>%s</b><ul>", b.s("weak"))
	for _, w := range p.Weak {
		b.f("<li>%s</li>", w)
	}
	b.raw("</ul></div>\n")
}

func (p *page) charts(b *builder) {
	b.f("<h2>%s</h2>\n<p class=\"soft\">%s</p>\n", b.s("over"), b.s("over.what"))
	b.raw(p.Over)
	b.f("\n<h2>%s</h2>\n<p class=\"soft\">%s</p>\n<div class=\"legend\">", b.s("heat"), b.s("heat.what"))
	for _, l := range [][2]string{{"h5", "≥ 99.9 %"}, {"h4", "≥ 95 %"}, {"h3", "≥ 75 %"}, {"h2", "> 25 %"}, {"h1", "> 0 %"}, {"h0", "0 %"}, {"none", b.s("heat.gone")}} {
		b.f(`<span><svg viewBox="0 0 10 10"><rect width="10" height="10" class="%s"/></svg>%s</span>`, l[0], l[1])
	}
	b.raw("</div>\n")
	for _, h := range p.Heat {
		b.raw(h + "\n")
	}
	b.f("<h2>%s</h2>\n", b.s("outages"))
	if len(p.Away) == 0 {
		b.f("<p>%s</p>\n", b.s("outages.no"))
		return
	}
	b.f("<p class=\"soft\">%s</p>\n", b.s("outage.top"))
	b.raw(p.Lines)
	b.head("device", ".length", ".times")
	for _, a := range p.Away {
		b.f("<tr><td>%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td></tr>\n", a.Device, a.Length, a.Times)
	}
	b.endTable()
}

func (p *page) lists(b *builder) {
	b.f("<h2>%s</h2>\n", b.s("lists"))
	for _, l := range p.Lists {
		b.f("<h3>%s</h3>\n", l.Name)
		for side, all := range [][]string{l.In, l.Out} {
			more := ""
			if l.More[side] > 0 {
				more = fmt.Sprintf(" … + %d", l.More[side])
			}
			b.f("<p class=\"chips\"><b>%s (%s):</b> %s</p>\n", b.s([]string{"list.in", "list.out"}[side]), strconv.Itoa(len(all)+l.More[side]), orDash(strings.Join(all, ", "))+more)
		}
	}
}

func (p *page) machines(b *builder) {
	b.f("<h2>%s</h2>\n", b.s("machines"))
	b.raw("<div class=\"tight\">")
	b.head("asset", "name", "workshop", "process", "key", "keyproc", "digital", "networked", ".share", "maker", "devices")
	for i := range p.Machines {
		m := &p.Machines[i]
		b.f("<tr><td class=\"any\">%s</td><td class=\"name\">%s</td><td class=\"any\">%s</td><td class=\"any\">%s</td><td>%s</td><td>%s</td><td>%s</td>",
			m.Asset, m.Name, m.Workshop, m.Process, b.t.Yes(m.Key), b.t.Yes(m.KeyProcess), b.t.Yes(m.Digital))
		b.verdict("td", m.Networked)
		b.f("<td class=\"n\">%s</td><td class=\"name\">%s", m.ShareText, strings.TrimSpace(m.Maker+" "+m.Model+" "+m.Serial))
		for _, n := range m.NoteTexts {
			b.f("<br><span class=\"no\">%s</span>", n)
		}
		b.f("</td><td class=\"any\">%s</td></tr>\n", strings.Join(m.Devices, ", "))
	}
	b.endTable()
	b.raw("</div>\n")
}

func (p *page) evidence(b *builder) {
	if p.EachPage {
		b.raw("<section class=\"own\">\n")
	} else {
		b.f("<section>\n<h2 class=\"pagebreak\">%s</h2>\n", b.s("evidence"))
	}
	for i := range p.Sheets {
		p.Sheets[i].write(b, p.EachPage)
	}
	b.raw("</section>\n")
}

func (s *sheet) write(b *builder, own bool) {
	title := s.ID
	if own {
		title = b.s("evidence") + ": " + s.ID
	}
	b.f("<div class=\"sheet\"><h2>%s</h2>\n<dl class=\"facts\">\n", title)
	b.fact("assets", orDash(strings.Join(s.Assets, ", ")))
	b.fact("protocol", orDash(s.Evidence.Driver))
	b.fact("address", orDash(s.Address))
	for _, f := range [][2]string{
		{"maker", s.Evidence.Maker},
		{"model", s.Evidence.Model},
		{"product", s.Evidence.Product},
		{"serial", s.Evidence.Serial},
		{"firmware", s.Evidence.Version},
		{"software", s.Evidence.Software},
	} {
		if f[1] != "" {
			b.fact(f[0], f[1])
		}
	}
	b.f("<dt>%s</dt>", b.s("networked"))
	b.verdict("dd", s.Networked)
	b.raw("\n")
	b.fact("first", s.First)
	b.fact("last", s.Last)
	if s.State != "" {
		b.fact("state", strings.TrimSuffix(s.State+" – "+s.Evidence.Reason, " – "))
	}
	b.fact("available", s.Available)
	b.fact("answer", s.Answer)
	b.fact("reconnect", thousands(s.Reconnects))
	b.raw("</dl>\n")
	b.head(".expected", ".read", ".good", ".due", ".delivered", ".dropped")
	b.f("<tr><td class=\"n\">%s</td><td class=\"n\">%s<br>%s</td><td class=\"n\">%s<br>%s</td><td class=\"n\">%s</td><td class=\"n\">%s<br>%s</td><td class=\"n\">%s</td></tr>\n",
		thousands(s.Expected), thousands(s.Read), s.Rates[0], thousands(s.Good), s.Rates[1], thousands(s.Due), thousands(s.Delivered), s.Rates[2], s.Lost)
	b.endTable()
	if len(s.Samples) > 0 {
		b.f("<h3>%s</h3>\n", b.s("samples"))
		b.head("tag", "address", "value", "time")
		for _, x := range s.Samples {
			b.f("<tr><td>%s</td><td>%s</td><td class=\"name\">%s</td><td class=\"d\">%s</td></tr>\n", x.Name, x.Address, x.Value, x.Time)
		}
		b.endTable()
	}
	if len(s.Outages) > 0 {
		title := b.s("outages")
		if s.More > 0 {
			title += fmt.Sprintf(" (%d + %d)", len(s.Outages), s.More)
		}
		b.f("<h3>%s</h3>\n", title)
		b.head("from", "to", ".length", "reason")
		for _, o := range s.Outages {
			b.f("<tr><td class=\"d\">%s</td><td class=\"d\">%s</td><td class=\"n\">%s</td><td>%s</td></tr>\n", o.From, o.To, o.Length, o.Reason)
		}
		b.endTable()
	}
	b.raw("</div>\n")
}
