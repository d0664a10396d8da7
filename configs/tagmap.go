package configs

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"millrace/protocols"
)

// maxTagMap is the size up to which a tag map is read: half a million rows.
const maxTagMap = 64 << 20

// csvFile reads the CSV file that n names into the device's tags.
func (l *loader) csvFile(n *node, dev *deviceDraft) {
	path := l.abs(n.text)
	shown := l.display(n.raw)
	data, err := readFile(path, maxTagMap)
	if err != nil {
		suggestion := ""
		if c := nearFile(path); c != "" && !n.referred() {
			suggestion = fmt.Sprintf("; did you mean %q?", strings.TrimSuffix(n.text, filepath.Base(n.text))+c)
		}
		l.problem(n.pos, "tags: the tag map %s cannot be read: %v%s", shown, err, suggestion)
		return
	}
	m := tagMap{l: l, dev: dev, file: shown}
	m.read(data)
}

// tagMap is one CSV file while it is being read.
type tagMap struct {
	l    *loader
	dev  *deviceDraft
	file string // as messages name it

	row     int      // the present one, as a spreadsheet counts
	columns []string // the keys that the columns hold; empty: none, or one that was refused
	noName  []bool   // columns whose name is empty; cleared when that was reported
	cells   []node   // used again for each row
	line    node
}

func (m *tagMap) pos(column string) protocols.Position {
	return protocols.Position{File: m.file, Line: m.row, Name: column}
}

func (m *tagMap) problem(column, format string, args ...any) {
	m.l.problem(m.pos(column), format, args...)
}

func (m *tagMap) read(data []byte) {
	if !m.isText(data) {
		return
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	r := csv.NewReader(bytes.NewReader(data))
	r.Comma = separator(data)
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	r.TrimLeadingSpace = r.Comma != '\t'
	for {
		// The reader passes over blank lines in silence; a spreadsheet counts
		// them.
		m.row += 1 + blankLines(data[r.InputOffset():])
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			m.problem("", "%s", plainCSV(err))
			return
		}
		if !m.record(record) {
			return
		}
	}
	if len(m.dev.Tags) == 0 && m.columns != nil {
		m.l.problem(protocols.Position{File: m.file}, "the tag map has no rows below its header: add a tag")
	}
	if m.columns == nil {
		m.l.problem(protocols.Position{File: m.file}, "the tag map is empty: its first row names the columns, name and address at the least")
	}
}

// isText refuses what is not UTF-8 text.
func (m *tagMap) isText(data []byte) bool {
	file := protocols.Position{File: m.file}
	switch {
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		m.l.problem(file, `this is an Excel workbook, not a CSV file: save it as "CSV UTF-8"`)
		return false
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		m.l.problem(file, `this is UTF-16 text: save it as "CSV UTF-8"`)
		return false
	case utf8.Valid(data):
		return true
	}
	m.row = 1
	for s := range bytes.SplitSeq(data, []byte("\n")) {
		if !utf8.Valid(s) {
			break
		}
		m.row++
	}
	m.problem("", `this row is not UTF-8 text (Excel saves in the language's own encoding, such as GBK, unless told otherwise): save the file as "CSV UTF-8"`)
	return false
}

// separator returns what separates the cells of the header: Excel writes a
// semicolon where the decimal separator is a comma.
func separator(data []byte) rune {
	header, _, _ := bytes.Cut(bytes.TrimLeft(data, "\r\n"), []byte("\n"))
	best, most := ',', 0
	for _, c := range []rune{',', ';', '\t'} {
		if n := bytes.Count(header, []byte(string(c))); n > most {
			best, most = c, n
		}
	}
	return best
}

func blankLines(data []byte) int {
	n := 0
	for {
		switch {
		case bytes.HasPrefix(data, []byte("\n")):
			data = data[1:]
		case bytes.HasPrefix(data, []byte("\r\n")):
			data = data[2:]
		default:
			return n
		}
		n++
	}
}

func plainCSV(err error) string {
	if pe, ok := errors.AsType[*csv.ParseError](err); ok {
		err = pe.Err
	}
	switch {
	case errors.Is(err, csv.ErrQuote):
		return `a quote is not closed, or a cell goes on after its closing quote; a quote within a cell is written twice: "5"" pipe"`
	case errors.Is(err, csv.ErrBareQuote):
		return `a quote within a cell: put the whole cell in quotes, and write the quote twice: "5"" pipe"`
	}
	return err.Error()
}

// record reads one record, and says whether the rest is worth reading.
func (m *tagMap) record(record []string) bool {
	if !slices.ContainsFunc(record, func(s string) bool { return strings.TrimSpace(s) != "" }) {
		return true
	}
	if m.columns == nil {
		return m.header(record)
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
