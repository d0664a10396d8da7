package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"

	"millrace/protocols/opcua"
)

// scanTag is one row of a tag map.
type scanTag struct {
	Name        string   `json:"name"`
	Address     string   `json:"address"`
	Path        string   `json:"path"`
	Type        string   `json:"type,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Min         *float64 `json:"min,omitempty"`
	Max         *float64 `json:"max,omitempty"`
	Description string   `json:"description,omitempty"`
	Writable    bool     `json:"writable"`
	Historizing bool     `json:"historizing"`
	SamplingMS  *float64 `json:"minimum_sampling_ms,omitempty"`

	names []string
}

// scanMap collects what a scan finds.
type scanMap struct {
	tags     []scanTag
	paths    bool // their browse paths are wanted
	noRanges bool
	ranges   int // tags with a range
}

func (m *scanMap) add(v *opcua.Variable) error {
	t := scanTag{
		Address: v.Address, Type: v.Type, Unit: v.Unit, Description: v.Description,
		Writable: v.Writable, Historizing: v.Historizing, names: make([]string, len(v.Path)),
	}
	for i, n := range v.Path {
		t.names[i] = n.Name
	}
	if m.paths {
		t.Path = v.PathText()
	}
	if !m.noRanges && v.Min != nil {
		t.Min, t.Max = v.Min, v.Max
		m.ranges++
	}
	if v.Sampling >= 0 {
		ms := float64(v.Sampling.Microseconds()) / 1000
		t.SamplingMS = &ms
	}
	m.tags = append(m.tags, t)
	return nil
}

// finish orders and names the tags.
func (m *scanMap) finish() {
	slices.SortStableFunc(m.tags, func(a, b scanTag) int {
		if c := byPath(a.names, b.names); c != 0 {
			return c
		}
		return strings.Compare(a.Address, b.Address)
	})
	paths := make([][]string, len(m.tags))
	for i := range m.tags {
		paths[i] = m.tags[i].names
	}
	for i, name := range tagNames(paths) {
		m.tags[i].Name = name
	}
}

// mapColumns are the columns of the tag map that a scan writes.
func mapColumns() []string {
	return []string{"name", "address", "type", "unit", "min", "max", "description"}
}

// writeCSV writes the tag map, with the mark by which Excel knows UTF-8.
func (m *scanMap) writeCSV(w io.Writer) error {
	out := bufio.NewWriter(w)
	_, _ = out.WriteString("\uFEFF") // the writer keeps its first error
	c := csv.NewWriter(out)
	c.UseCRLF = true
	_ = c.Write(mapColumns()) // so does this one
	for i := range m.tags {
		t := &m.tags[i]
		_ = c.Write([]string{
			mapCell(t.Name), mapCell(t.Address), mapCell(t.Type), textCell(t.Unit), numberCell(t.Min), numberCell(t.Max), textCell(t.Description),
		})
	}
	c.Flush()
	if err := c.Error(); err != nil {
		return err
	}
	return out.Flush()
}

// mapCell writes text so that a tag map has it as it is: ${ would begin a
// reference.
func mapCell(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// textCell is mapCell for text that a server chose and nothing depends on: a
// spreadsheet must not take it for a formula.
func textCell(s string) string {
	if startsFormula(s) {
		s = "'" + s
	}
	return mapCell(s)
}

func numberCell(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'g', -1, 64)
}

// scanResult is what scan --json prints.
type scanResult struct {
	Endpoint string      `json:"endpoint"`
	Complete bool        `json:"complete"`
	Error    string      `json:"error,omitempty"`
	Tags     []scanTag   `json:"tags"`
	Summary  scanSummary `json:"summary"`
}

type scanSummary struct {
	Nodes      int      `json:"nodes"`
	Variables  int      `json:"variables"`
	Tags       int      `json:"tags"`
	Ranges     int      `json:"ranges"`
	Refused    int      `json:"refused"`
	RefusedAt  []string `json:"refused_at,omitempty"`
	Unreadable int      `json:"unreadable"`
	Unwritable int      `json:"unwritable"`
	Requests   int      `json:"requests"`
	Seconds    float64  `json:"seconds"`
}

func writeScanJSON(w io.Writer, r *scanResult) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return out.Flush()
}
