package configs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"millrace/configs"
)

func TestSchemaFile(t *testing.T) {
	t.Parallel()
	s, err := configs.Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "schema.json", string(s))
}

var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	s, err := configs.Schema()
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(s))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("millrace.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("millrace.json")
})

// bySchema checks a file as an editor would.
func bySchema(t *testing.T, file string) error {
	t.Helper()
	s, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err = yaml.YAMLToJSON(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func validates(t *testing.T, file string) {
	t.Helper()
	if err := bySchema(t, file); err != nil {
		t.Errorf("%s is good, but not by the schema: %v", file, err)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "testdata/*.good.yaml") {
		validates(t, file)
	}
	// What it takes files and other keys to know, a schema cannot say.
	for _, name := range []string{
		"typical-02-wrong-key", "typical-03-wrong-type", "typical-04-unknown-driver", "typical-09-bad-interval", "typical-10-bad-url",
		"misplaced", "missing-keys", "modbus", "modbus-link", "opcua", "later", "ids", "buffer", "buffer-limits", "uplinks", "catch-up", "tags", "scalar", "list", "no-sections",
	} {
		file := filepath.Join("testdata", name+".bad.yaml")
		if err := bySchema(t, file); err == nil {
			t.Errorf("%s is bad, but not by the schema", file)
		} else if name == "typical-02-wrong-key" && !strings.Contains(err.Error(), "intervall") {
			t.Errorf("the schema does not say which key is wrong: %v", err)
		}
	}
}
