package xlsx

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
)

// Style is how a cell looks: an index into the styles that Write writes.
type Style int

// The styles.
const (
	Plain   Style = iota
	Head          // bold on grey, wrapped
	Whole         // 1,234
	Percent       // 12.34%
	Title         // large and bold
	Wrapped       // text over several lines
	Decimal       // 1.5
)

// Cell is one cell of a sheet: a text, a number or a formula.
type Cell struct {
	text    string
	number  string
	formula string
	Style   Style
}

// Text returns a cell that shows s as it is, whatever it begins with.
func Text(s string) Cell { return Cell{text: s} }

// Styled returns a cell that shows s in a style.
func Styled(s string, style Style) Cell { return Cell{text: s, Style: style} }

// Int returns a cell with a whole number.
func Int(n int64) Cell { return Cell{number: strconv.FormatInt(n, 10), Style: Whole} }

// Number returns a cell with a number.
func Number(f float64, style Style) Cell {
	return Cell{number: strconv.FormatFloat(f, 'g', -1, 64), Style: style}
}

// Formula returns a cell that computes a number; f has no leading =, and value
// is what it gives now.
func Formula(f string, value float64, style Style) Cell {
	return Cell{formula: f, number: strconv.FormatFloat(value, 'g', -1, 64), Style: style}
}

// TextFormula returns a cell that computes a text.
func TextFormula(f, value string) Cell { return Cell{formula: f, text: value} }

// Sheet is one sheet of a workbook.
type Sheet struct {
	Name   string
	Widths []float64 // of the columns, in characters
	Frozen int       // rows at the top that stay in view
	Rows   [][]Cell
	// More, if not nil, makes the rows behind those: of long sheets, one at a
	// time.
	More iter.Seq[[]Cell]
}

// all returns the rows with their numbers, from 1.
func (s *Sheet) all() iter.Seq2[int, []Cell] {
	return func(yield func(int, []Cell) bool) {
		n := 0
		next := func(row []Cell) bool {
			n++
			return yield(n, row)
		}
		for _, row := range s.Rows {
			if !next(row) {
				return
			}
		}
		if s.More != nil {
			s.More(next)
		}
	}
}

// Write writes a workbook. Excel computes its formulas anew when it is opened.
func Write(w io.Writer, sheets []Sheet) error {
	z := zip.NewWriter(w)
	parts := []struct{ name, body string }{
		{"[Content_Types].xml", contentTypes(len(sheets))},
		{"_rels/.rels", xml.Header + `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>`},
		{"xl/workbook.xml", workbook(sheets)},
		{"xl/_rels/workbook.xml.rels", relations(len(sheets))},
		{"xl/styles.xml", styles},
	}
	for _, p := range parts {
		if err := put(z, p.name, func(w io.Writer) error {
			_, err := io.WriteString(w, p.body)
			return err
		}); err != nil {
			return err
		}
	}
	for i := range sheets {
		if err := put(z, fmt.Sprintf("xl/worksheets/sheet%d.xml", i+1), sheets[i].write); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("workbook: %w", err)
	}
	return nil
}

func put(z *zip.Writer, name string, write func(io.Writer) error) error {
	w, err := z.Create(name)
	if err == nil {
		err = write(w)
	}
	if err != nil {
		return fmt.Errorf("workbook, %s: %w", name, err)
	}
	return nil
}

func contentTypes(sheets int) string {
	var b strings.Builder
	b.WriteString(xml.Header + `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/><Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/>`)
	for i := range sheets {
		fmt.Fprintf(&b, `<Override PartName="/xl/worksheets/sheet%d.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>`, i+1)
	}
	b.WriteString(`</Types>`)
	return b.String()
}

func relations(sheets int) string {
	var b strings.Builder
	b.WriteString(xml.Header + `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">`)
	for i := range sheets {
		fmt.Fprintf(&b, `<Relationship Id="rId%d" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet%d.xml"/>`, i+1, i+1)
	}
	fmt.Fprintf(&b, `<Relationship Id="rId%d" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" Target="styles.xml"/></Relationships>`, sheets+1)
	return b.String()
}

func workbook(sheets []Sheet) string {
	var b strings.Builder
	b.WriteString(xml.Header + `<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>`)
	for i, s := range sheets {
		fmt.Fprintf(&b, `<sheet name="%s" sheetId="%d" r:id="rId%d"/>`, escape(s.Name), i+1, i+1)
	}
	b.WriteString(`</sheets><calcPr fullCalcOnLoad="1"/></workbook>`)
	return b.String()
}

// percentFormat never shows as 100.00 % what is not all: a rate of 99.996 %
// has missed something.
const percentFormat = `[=1]0.00%;[&gt;=0.99995]&quot;&gt; 99.99%&quot;;0.00%`

// styles has the cell formats in the order of the Style constants.
const styles = xml.Header + `<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">` +
	`<numFmts count="2"><numFmt numFmtId="164" formatCode="0.0"/><numFmt numFmtId="165" formatCode="` + percentFormat + `"/></numFmts>` +
	`<fonts count="3"><font><sz val="11"/><name val="Calibri"/></font><font><b/><sz val="11"/><name val="Calibri"/></font><font><b/><sz val="16"/><name val="Calibri"/></font></fonts>` +
	`<fills count="3"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill><fill><patternFill patternType="solid"><fgColor rgb="FFE8EDF2"/><bgColor indexed="64"/></patternFill></fill></fills>` +
	`<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>` +
	`<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>` +
	`<cellXfs count="7">` +
	`<xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>` +
	`<xf numFmtId="0" fontId="1" fillId="2" borderId="0" xfId="0" applyFont="1" applyFill="1" applyAlignment="1"><alignment vertical="center" wrapText="1"/></xf>` +
	`<xf numFmtId="3" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>` +
	`<xf numFmtId="165" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>` +
	`<xf numFmtId="0" fontId="2" fillId="0" borderId="0" xfId="0" applyFont="1"/>` +
	`<xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0" applyAlignment="1"><alignment vertical="top" wrapText="1"/></xf>` +
	`<xf numFmtId="164" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>` +
	`</cellXfs><cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>`

func (s *Sheet) write(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(xml.Header + `<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">`)
	if s.Frozen > 0 {
		fmt.Fprintf(&b, `<sheetViews><sheetView workbookViewId="0"><pane ySplit="%d" topLeftCell="A%d" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>`, s.Frozen, s.Frozen+1)
	}
	if len(s.Widths) > 0 {
		b.WriteString(`<cols>`)
		for i, width := range s.Widths {
			fmt.Fprintf(&b, `<col min="%d" max="%d" width="%g" customWidth="1"/>`, i+1, i+1, width)
		}
		b.WriteString(`</cols>`)
	}
	b.WriteString(`<sheetData>`)
	for r, row := range s.all() {
		fmt.Fprintf(&b, `<row r="%d">`, r)
		for c := range row {
			row[c].write(&b, Ref(c, r))
		}
		b.WriteString(`</row>`)
		if b.Len() > 64<<10 {
			if _, err := b.WriteTo(w); err != nil {
				return err
			}
		}
	}
	b.WriteString(`</sheetData></worksheet>`)
	_, err := b.WriteTo(w)
	return err
}

func (c *Cell) write(b *bytes.Buffer, ref string) {
	switch {
	case c.formula != "" && c.number != "":
		fmt.Fprintf(b, `<c r="%s" s="%d"><f>%s</f><v>%s</v></c>`, ref, c.Style, escape(c.formula), c.number)
	case c.formula != "":
		fmt.Fprintf(b, `<c r="%s" s="%d" t="str"><f>%s</f><v>%s</v></c>`, ref, c.Style, escape(c.formula), escape(c.text))
	case c.number != "":
		fmt.Fprintf(b, `<c r="%s" s="%d"><v>%s</v></c>`, ref, c.Style, c.number)
	case c.text != "" || c.Style != Plain:
		fmt.Fprintf(b, `<c r="%s" s="%d" t="inlineStr"><is><t xml:space="preserve">%s</t></is></c>`, ref, c.Style, escape(c.text))
	}
}

// Ref returns the reference of a cell, such as AB12: the column counts from 0,
// the row from 1.
func Ref(column, row int) string {
	name := ""
	for column++; column > 0; column = (column - 1) / 26 {
		name = string(rune('A'+(column-1)%26)) + name
	}
	return name + strconv.Itoa(row)
}

// escape escapes what XML does not take as it is; what it does not take at all
// becomes U+FFFD.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
