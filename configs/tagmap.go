package configs

import (
	"slices"
	"strings"

	"millrace/protocols"
)

// tagFile reads the tag map that n names into the device's tags.
func (l *loader) tagFile(n *node, dev *deviceDraft) {
	if !l.isTable(n, "tags", ", or a list of tags") {
		return
	}
	m := tagMap{l: l, dev: dev}
	file, ok := l.tableFile(n, "tags", "tag map", func(file string) func(int, []string) bool {
		m.file = file
		return m.record
	})
	if !ok {
		return
	}
	if len(m.dev.Tags) == 0 && m.columns != nil && !m.refused {
		l.problem(protocols.Position{File: file}, "the tag map has no rows below its header: add a tag")
	}
	if m.columns == nil {
		l.problem(protocols.Position{File: file}, "the tag map is empty: its first row names the columns, name and address at the least")
	}
}

// tagMap is one tag map while it is being read.
type tagMap struct {
	l    *loader
	dev  *deviceDraft
	file string // as messages name it

	row     int      // the present one, as a spreadsheet counts
	columns []string // the keys that the columns hold; empty: none, or one that was refused
	noName  []bool   // columns whose name is empty; cleared when that was reported
	refused bool     // the header makes no sense
	cells   []node   // used again for each row
	line    node
}

func (m *tagMap) pos(column string) protocols.Position {
	return protocols.Position{File: m.file, Line: m.row, Name: column}
}

func (m *tagMap) problem(column, format string, args ...any) {
	m.l.problem(m.pos(column), format, args...)
}

// record reads one record, and says whether the rest is worth reading.
func (m *tagMap) record(row int, record []string) bool {
	m.row = row
	if m.columns == nil {
		m.refused = !m.header(record)
		return !m.refused
	}
	m.tag(record)
	return true
}

// header reads the columns' names.
func (m *tagMap) header(record []string) bool {
	known := m.l.tags.names()
	m.columns = make([]string, len(record))
	m.cells = make([]node, len(record))
	m.noName = make([]bool, len(record))
	var meant []string // by the names that are written wrong
	ok := true
	for i, cell := range record {
		name := strings.ToLower(strings.TrimSpace(cell))
		switch {
		case name == "":
			m.noName[i] = true
		case slices.Contains(m.columns[:i], name):
			m.problem(name, "this column is there twice: remove one of them")
			ok = false
		case !slices.Contains(known, name):
			meant = append(meant, nearest(name, known))
			suggestion := didYouMean(name, known)
			if suggestion == "" {
				suggestion = "; the columns are: " + strings.Join(known, ", ")
			}
			m.problem(strings.TrimSpace(cell), "there is no such column%s", suggestion)
			name = "" // and go on
		}
		m.columns[i] = name
	}
	for _, name := range []string{"name", "address"} {
		if slices.Contains(m.columns, name) {
			continue
		}
		ok = false
		if !slices.Contains(meant, name) {
			m.problem("", "the column %q is missing: the first row names the columns, name and address at the least", name)
		}
	}
	return ok
}

// tag reads one row.
func (m *tagMap) tag(record []string) {
	m.line = node{kind: mapNode, pos: m.pos(""), entries: m.line.entries[:0]}
	for i, cell := range record {
		cell = strings.TrimSpace(cell)
		switch {
		case cell == "":
			continue
		case i >= len(m.columns):
			m.problem("", `the row has more cells than the header, from %q on: a cell that contains the separator must be in quotes`, cell)
			return
		case m.columns[i] == "":
			m.nameless(cell, i)
			continue
		}
		n := &m.cells[i]
		*n = node{kind: textNode, pos: m.pos(m.columns[i]), text: cell}
		m.l.resolve(n)
		m.line.entries = append(m.line.entries, entry{name: m.columns[i], pos: n.pos, value: n})
	}
	t := newTag(m.line.pos)
	m.l.readTag(&m.line, m.dev, &t)
}

// nameless reports, once, a column that has cells and no name.
func (m *tagMap) nameless(cell string, i int) {
	if m.noName[i] {
		m.noName[i] = false
		m.problem("", "the cell %q stands in a column that has no name in the header: name the column, or empty it", cell)
	}
}
