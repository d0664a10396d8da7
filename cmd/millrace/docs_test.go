package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"millrace/configs"
)

// TestDocs loads each configuration that the documents show: users copy
// them. A tag map that one names is the CSV block of the same document.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?s)\n```(yaml|csv)\n(.*?)```")
	tagMap := regexp.MustCompile(`tags: ([\w/.-]+\.csv)`)
	shown := 0
	for _, file := range append(files, "../../README.md", "../../README.zh-CN.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var blocks, maps []string
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			switch {
			case m[1] == "csv":
				maps = append(maps, m[2])
			case strings.HasPrefix(m[2], "gateway:") || strings.HasPrefix(m[2], "# "):
				blocks = append(blocks, m[2])
			}
		}
		for _, block := range blocks {
			dir := t.TempDir()
			if m := tagMap.FindStringSubmatch(block); m != nil && len(maps) > 0 {
				path := filepath.Join(dir, m[1])
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(maps[0]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			shown++
			if _, err := configs.Parse(filepath.Base(file), []byte(block), dir, checkers()); err != nil {
				t.Errorf("%v\nin:\n%s", err, block)
			}
		}
	}
	if shown == 0 {
		t.Error("the documents show no configuration")
	}
}

// TestBufferTable: docs/buffer.md says of each thing that may happen which
// test shows what it says. They are all there.
func TestBufferTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/buffer.md")
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t)
	name := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	rows, inTable := 0, false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasSuffix(line, "| tested by |\n"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable && !strings.HasPrefix(line, "|---"):
			rows++
			named := name.FindAllStringSubmatch(line, -1)
			if len(named) == 0 {
				t.Errorf("a row names no test: %s", line)
			}
			for _, m := range named {
				if !there[m[1]] {
					t.Errorf("there is no test %s", m[1])
				}
			}
		}
	}
	if rows < 10 {
		t.Errorf("the table has %d rows", rows)
	}
}

// testNames returns the tests of the buffer and of the agent.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(t \*testing\.T\)`)
	names := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "../../buffer/*_test.go", "../../buffer/internal/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declared.FindAllSubmatch(text, -1) {
				names[string(m[1])] = true
			}
		}
	}
	return names
}
