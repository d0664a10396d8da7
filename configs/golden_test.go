package configs_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/configs"
)

const testSecret = "hunter2-resolved"

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files anew")
	flag.Parse()
	for name, value := range map[string]string{
		"MILLRACE_TEST_SECRET":   testSecret,
		"MILLRACE_TEST_ENDPOINT": "rtu+tcp://192.0.2.8:4001",
		"ROBOT_PASSWORD":         "secret",
	} {
		if err := os.Setenv(name, value); err != nil { // t.Setenv is not for parallel tests
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

// golden compares got with the file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; go test -update writes it anew):\n%s", path, diff)
	}
}

func TestBad(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "testdata/*.bad.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c, err := configs.Load(file, drivers())
			var ps configs.Problems
			if !errors.As(err, &ps) || c != nil {
				t.Fatalf("expected problems and no configuration, got %v and %v", err, c)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is shown:\n%v", err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

func TestGood(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "testdata/*.good.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c, err := configs.Load(file, drivers())
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Devices) == 0 {
				t.Error("no devices")
			}
		})
	}
}
