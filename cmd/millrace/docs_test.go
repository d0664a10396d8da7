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
