// Package xlsx reads and writes the part of Excel's workbooks that Millrace
// needs (ISO/IEC 29500-1, SpreadsheetML): tables of texts and numbers, and
// formulas that Excel computes. Why it is not a library: docs/decisions/0031.
package xlsx

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What is read of a workbook is bounded: a file of some kB may unpack to
// gigabytes.
const (
	maxUnpacked = 256 << 20
	maxColumns  = 1024
	maxRows     = 1 << 20
)

// ErrFormat says that the file is not a workbook that can be read.
var ErrFormat = errors.New("it is not an Excel workbook (.xlsx), or it is damaged or has a password")

// Read calls visit with each row of the first sheet that is not hidden which
// has cells, until it returns false. Rows count from 1, as Excel shows them. A
// cell is the text that it shows, but for numbers, which have up to 15 digits,
// dates (2026-03-01, 2026-03-01 08:00:00) and truths (true, false). The row is
// valid during the call.
func Read(data []byte, visit func(row int, cells []string) bool) error {
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return ErrFormat
	}
	b := &book{files: map[string]*zip.File{}, left: maxUnpacked}
	for _, f := range archive.File {
		b.files[strings.TrimPrefix(path.Clean(f.Name), "/")] = f
	}
	sheet, err := b.firstSheet()
	if err != nil {
		return err
	}
	if err := b.readStrings(); err != nil {
		return err
	}
	if err := b.readStyles(); err != nil {
		return err
	}
	return b.readSheet(sheet, visit)
}

// book is one workbook that is read.
type book struct {
	files   map[string]*zip.File
	left    int64 // bytes that may still be unpacked
	strings []string
	dates   []bool // by cell style: it shows a date
}

// parse calls visit with each element of a part of the book, with the decoder
// behind its start. A part that is not there has none.
func (b *book) parse(name string, visit func(d *xml.Decoder, e xml.StartElement) error) error {
	f := b.files[name]
	if f == nil {
		return nil
	}
	r, err := f.Open()
	if err != nil {
		return ErrFormat
	}
	defer r.Close()
	d := xml.NewDecoder(&bounded{r, &b.left})
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return formatError(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			if err := visit(d, e); err != nil {
				return formatError(err)
			}
		}
	}
}

// errStop ends a parse.
var errStop = errors.New("enough")

// errTooLarge: see maxUnpacked.
var errTooLarge = fmt.Errorf("it unpacks to more than %d MiB", maxUnpacked>>20)

func formatError(err error) error {
	if errors.Is(err, errStop) || errors.Is(err, errTooLarge) || errors.Is(err, ErrFormat) {
		return err
	}
	return ErrFormat
}

// bounded reads until left is used up.
type bounded struct {
	r    io.Reader
	left *int64
}

// Read is for io.Reader.
func (r *bounded) Read(p []byte) (int, error) {
	if *r.left <= 0 {
		return 0, errTooLarge
	}
	n, err := r.r.Read(p[:min(int64(len(p)), *r.left)])
	*r.left -= int64(n)
	return n, err
}

func attr(e *xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// firstSheet returns the name of the part that is the first sheet which is not
// hidden.
func (b *book) firstSheet() (string, error) {
	target := map[string]string{}
	err := b.parse("xl/_rels/workbook.xml.rels", func(_ *xml.Decoder, e xml.StartElement) error {
		if e.Name.Local == "Relationship" {
			target[attr(&e, "Id")] = attr(&e, "Target")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	id := ""
	err = b.parse("xl/workbook.xml", func(_ *xml.Decoder, e xml.StartElement) error {
		if e.Name.Local == "sheet" && id == "" && attr(&e, "state") == "" || e.Name.Local == "sheet" && id == "" && attr(&e, "state") == "visible" {
			for _, a := range e.Attr {
				if a.Name.Local == "id" && a.Name.Space != "" {
					id = a.Value
				}
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	name := target[id]
	if strings.HasPrefix(name, "/") {
		name = strings.TrimPrefix(path.Clean(name), "/")
	} else {
		name = path.Join("xl", name)
	}
	if id == "" || b.files[name] == nil {
		return "", ErrFormat
	}
	return name, nil
}

func (b *book) readStrings() error {
	return b.parse("xl/sharedStrings.xml", func(d *xml.Decoder, e xml.StartElement) error {
		if e.Name.Local != "si" {
			return nil
		}
		s, err := text(d)
		b.strings = append(b.strings, s)
		return err
	})
}

// text returns the text of an element that may have parts of different looks,
// and without the pronunciation that Japanese ones have. The decoder is behind
// its start, and then behind its end.
func text(d *xml.Decoder) (string, error) {
	var s strings.Builder
	depth, inText := 1, false
	for depth > 0 {
		token, err := d.Token()
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if t.Name.Local == "rPh" {
				if err := d.Skip(); err != nil {
					return "", err
				}
				continue
			}
			depth++
			inText = t.Name.Local == "t"
		case xml.EndElement:
			depth--
			inText = false
		case xml.CharData:
			if inText {
				s.Write(t)
			}
		}
	}
	return s.String(), nil
}

// readStyles finds out which styles of cells show dates.
func (b *book) readStyles() error {
	custom := map[string]bool{}
	inCells := false
	return b.parse("xl/styles.xml", func(_ *xml.Decoder, e xml.StartElement) error {
		switch e.Name.Local {
		case "numFmt":
			custom[attr(&e, "numFmtId")] = showsDate(attr(&e, "formatCode"))
		case "cellXfs":
			inCells = true
		case "cellStyles", "dxfs":
			inCells = false
		case "xf":
			if inCells {
				id := attr(&e, "numFmtId")
				n, err := strconv.Atoi(id)
				b.dates = append(b.dates, custom[id] || err == nil && (n >= 14 && n <= 22 || n >= 45 && n <= 47))
			}
		}
		return nil
	})
}

// showsDate says whether a number format is one of dates or times.
func showsDate(code string) bool {
	var plain strings.Builder
	quoted, bracket := false, false
	for _, r := range strings.ToLower(code) {
		switch {
		case r == '"':
			quoted = !quoted
		case r == '[':
			bracket = true
		case r == ']':
			bracket = false
		case !quoted && !bracket:
			plain.WriteRune(r)
		}
	}
	s := strings.ReplaceAll(plain.String(), "general", "")
	return strings.ContainsAny(s, "yd") || strings.Contains(s, "h:") || strings.Contains(s, "mm:")
}

func (b *book) readSheet(name string, visit func(row int, cells []string) bool) error {
	r := rowReader{b: b, visit: visit}
	err := b.parse(name, r.element)
	if err == nil {
		err = r.flush()
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// rowReader gathers the cells of one row after the other.
type rowReader struct {
	b      *book
	visit  func(row int, cells []string) bool
	row    int
	column int // of the next cell
	cells  []string
}

// flush hands over the row that was gathered.
func (r *rowReader) flush() error {
	some := slices.ContainsFunc(r.cells, func(s string) bool { return s != "" })
	if some && !r.visit(r.row, r.cells) {
		return errStop
	}
	r.cells, r.column = r.cells[:0], 0
	return nil
}

func (r *rowReader) element(d *xml.Decoder, e xml.StartElement) error {
	switch e.Name.Local {
	case "row":
		if err := r.flush(); err != nil {
			return err
		}
		r.row++
		if n, err := strconv.Atoi(attr(&e, "r")); err == nil && n >= r.row {
			r.row = n
		}
		if r.row > maxRows {
			return ErrFormat
		}
	case "c":
		return r.cell(d, &e)
	}
	return nil
}

func (r *rowReader) cell(d *xml.Decoder, e *xml.StartElement) error {
	if at := columnOf(attr(e, "r")); at >= 0 {
		r.column = at
	}
	if r.column >= maxColumns {
		return d.Skip()
	}
	value, err := r.b.cell(d, e)
	if err != nil {
		return err
	}
	if value != "" {
		for len(r.cells) <= r.column {
			r.cells = append(r.cells, "")
		}
		r.cells[r.column] = value
	}
	r.column++
	return nil
}

// columnOf returns the index of the column of a reference such as AB12; -1: it
// has none.
func columnOf(ref string) int {
	n := 0
	for _, r := range ref {
		if r < 'A' || r > 'Z' || n > 1<<20 {
			break
		}
		n = n*26 + int(r-'A') + 1
	}
	return n - 1
}

// cell returns what a cell holds. The decoder is behind its start, and then
// behind its end.
func (b *book) cell(d *xml.Decoder, c *xml.StartElement) (string, error) {
	kind, value := attr(c, "t"), ""
	for {
		token, err := d.Token()
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "v":
				var s string
				if err := d.DecodeElement(&s, &t); err != nil {
					return "", err
				}
				value = s
			case "is":
				if value, err = text(d); err != nil {
					return "", err
				}
			default:
				if err := d.Skip(); err != nil {
					return "", err
				}
			}
		case xml.EndElement:
			return b.value(kind, attr(c, "s"), value), nil
		}
	}
}

func (b *book) value(kind, style, value string) string {
	switch kind {
	case "s":
		if i, err := strconv.Atoi(value); err == nil && i >= 0 && i < len(b.strings) {
			return b.strings[i]
		}
		return ""
	case "b":
		return strconv.FormatBool(value == "1")
	case "", "n":
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return value
		}
		if s, err := strconv.Atoi(style); err == nil && s >= 0 && s < len(b.dates) && b.dates[s] {
			return date(f)
		}
		return number(f)
	}
	return value
}

// number writes a number as Excel shows it in a wide cell: with 15 digits,
// which hide what binary fractions leave over.
func number(f float64) string {
	s := strconv.FormatFloat(f, 'g', 15, 64)
	if strings.Contains(s, "e") {
		if g, err := strconv.ParseFloat(s, 64); err == nil && g < 1e15 && g > -1e15 {
			s = strconv.FormatFloat(g, 'f', -1, 64)
		}
	}
	return s
}

// date writes a number of days since 1899-12-30, as Excel counts them.
func date(days float64) string {
	if days < 0 || days > 2958466 { // the year 10000
		return number(days)
	}
	whole := math.Floor(days)
	at := time.Date(1899, 12, 30+int(whole), 0, 0, 0, 0, time.UTC).Add(time.Duration((days - whole) * 86400 * float64(time.Second))).Round(time.Second)
	if at.Equal(at.Truncate(24 * time.Hour)) {
		return at.Format(time.DateOnly)
	}
	return at.Format(time.DateTime)
}
