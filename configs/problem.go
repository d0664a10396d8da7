package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"millrace/protocols"
)

// maxProblems is how many problems of one file are shown. More than a screen
// full helps nobody, and a map with a wrong separator has one in every row.
const maxProblems = 50

// Problem is one mistake in the configuration: where it is, and what to do
// about it.
type Problem struct { //nolint:errname // what users and callers call it; it is shown, never compared
	Pos  protocols.Position
	Text string
}

// Error returns the problem as it is shown: millrace.yaml:12:5: text, or in
// a tag map tags/press-1.csv: row 7, column "type": text.
func (p Problem) Error() string { return place(p.Pos) + ": " + p.Text }

func place(pos protocols.Position) string {
	switch {
	case pos.Line == 0:
		return pos.File
	case pos.Col > 0:
		return fmt.Sprintf("%s:%d:%d", pos.File, pos.Line, pos.Col)
	case pos.Name != "":
		return fmt.Sprintf("%s: row %d, column %q", pos.File, pos.Line, pos.Name)
	}
	return fmt.Sprintf("%s: row %d", pos.File, pos.Line)
}

// line names a place in a message that is already about that file.
func line(pos protocols.Position) string {
	if pos.Col > 0 {
		return fmt.Sprintf("line %d", pos.Line)
	}
	return fmt.Sprintf("row %d", pos.Line)
}

// Problems is everything that is wrong with a configuration: the YAML file's
// problems first, then those of each tag map, each file from top to bottom.
type Problems []Problem //nolint:errname // see Problem

// Error returns all problems, one a line.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
	}
	return b.String()
}

// sorted returns the problems in the order of their files and positions, one
// of each, and no more than maxProblems of each file.
func (ps Problems) sorted(first string) Problems {
	files := map[string]int{first: 0}
	// What stands behind an anchor is read at each of its aliases, a tag map
	// for each of its devices.
	seen := make(map[Problem]bool, len(ps))
	ps = slices.DeleteFunc(ps, func(p Problem) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
	for _, p := range ps {
		if _, ok := files[p.Pos.File]; !ok {
			files[p.Pos.File] = len(files)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(files[a.Pos.File], files[b.Pos.File]),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col),
		)
	})
	return ps.capped()
}

func (ps Problems) capped() Problems {
	var out Problems
	for len(ps) > 0 {
		file := ps[0].Pos.File
		n := slices.IndexFunc(ps, func(p Problem) bool { return p.Pos.File != file })
		if n < 0 {
			n = len(ps)
		}
		out = append(out, ps[:min(n, maxProblems)]...)
		if n > maxProblems {
			out = append(out, Problem{
				Pos:  protocols.Position{File: file},
				Text: fmt.Sprintf("and %d more problems", n-maxProblems),
			})
		}
		ps = ps[n:]
	}
	return out
}
