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

	"millrace/configs/xlsx"
	"millrace/protocols"
)

// maxTable is the size up to which a table is read: half a million rows.
const maxTable = 64 << 20

// tableFile reads the file that n names, a table in CSV or Excel's form, and
// calls visit with each row that is not empty. what is what messages call it.
func (l *loader) tableFile(n *node, key, what string, visit func(file string) func(row int, cells []string) bool) (file string, ok bool) {
	path := l.abs(n.text)
	shown := l.display(n.raw)
	data, err := readFile(path, maxTable)
	if err != nil {
		suggestion := ""
		if c := nearFile(path); c != "" && !n.referred() {
			suggestion = fmt.Sprintf("; did you mean %q?", strings.TrimSuffix(n.text, filepath.Base(n.text))+c)
		}
		l.problem(n.pos, "%s: the %s %s cannot be read: %v%s", key, what, shown, err, suggestion)
		return shown, false
	}
	t := tableReader{l: l, file: shown, visit: visit(shown)}
	if strings.EqualFold(filepath.Ext(path), ".xlsx") {
		return shown, t.readXLSX(data)
	}
	return shown, t.readCSV(data)
}

// isTable says whether a path is one of a table that can be read; for others
// it reports what to write.
func (l *loader) isTable(n *node, key, or string) bool {
	switch ext := strings.ToLower(filepath.Ext(n.text)); ext {
	case ".csv", ".xlsx":
		return true
	case ".xls":
		l.problem(n.pos, "%s: .xls files cannot be read: save it as an Excel workbook (.xlsx), or as CSV UTF-8 (.csv)", key)
	default:
		l.problem(n.pos, "%s: expected a path that ends in .csv or .xlsx%s, got %s", key, or, n.describe())
	}
	return false
}

// tableReader is one file while it is being read.
type tableReader struct {
	l     *loader
	file  string
	row   int // the present one, as a spreadsheet counts
	visit func(row int, cells []string) bool
}

func (t *tableReader) problem(format string, args ...any) bool {
	t.l.problem(protocols.Position{File: t.file, Line: t.row}, format, args...)
	return false
}

func (t *tableReader) readXLSX(data []byte) bool {
	err := xlsx.Read(data, t.visit)
	if err != nil {
		return t.problem("%v: save it again from Excel, or as CSV UTF-8 (.csv)", err)
	}
	return true
}

// readCSV says whether the file could be read to its end, or as far as visit
// wanted.
func (t *tableReader) readCSV(data []byte) bool {
	if !t.isText(data) {
		return false
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
		t.row += 1 + blankLines(data[r.InputOffset():])
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return t.problem("%s", plainCSV(err))
		}
		if !slices.ContainsFunc(record, func(s string) bool { return strings.TrimSpace(s) != "" }) {
			continue
		}
		if !t.visit(t.row, record) {
			return true
		}
	}
}

// isText refuses what is not UTF-8 text.
func (t *tableReader) isText(data []byte) bool {
	switch {
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return t.problem(`this is an Excel workbook, not a CSV file: name it .xlsx, or save it as "CSV UTF-8"`)
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return t.problem(`this is UTF-16 text: save it as "CSV UTF-8"`)
	case utf8.Valid(data):
		return true
	}
	t.row = 1
	for s := range bytes.SplitSeq(data, []byte("\n")) {
		if !utf8.Valid(s) {
			break
		}
		t.row++
	}
	return t.problem(`this row is not UTF-8 text (Excel saves in the language's own encoding, such as GBK, unless told otherwise): save the file as "CSV UTF-8", or as an Excel workbook (.xlsx)`)
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
