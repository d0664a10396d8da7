package configs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"millrace/configs"
)

// check fails if the outcome of a load is neither a configuration nor
// problems that have a place and a text.
func check(t *testing.T, c *configs.Config, err error) {
	t.Helper()
	var ps configs.Problems
	switch {
	case err == nil && c == nil, err != nil && c != nil:
		t.Fatalf("%v and %v", c, err)
	case err == nil:
		return
	case !errors.As(err, &ps) || len(ps) == 0:
		t.Fatalf("%T %v", err, err)
	}
	for _, p := range ps {
		if p.Pos.File == "" || p.Text == "" || p.Pos.Line < 0 || p.Pos.Col < 0 {
			t.Errorf("%+v", p)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := configs.Parse("millrace.yaml", data, dir, drivers())
		check(t, c, err)
	})
}

func FuzzTagMap(f *testing.F) {
	files, err := filepath.Glob("testdata/tags/*.csv")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	dir := f.TempDir()
	text := []byte("gateway: {id: gw-1}\ndevices:\n  - {id: a, driver: modbus, endpoint: \"tcp://192.0.2.5:502\", tags: a.csv}\n")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "a.csv"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := configs.Parse("millrace.yaml", text, dir, drivers())
		check(t, c, err)
	})
}
