package configs_test

import (
	"strings"
	"testing"

	"millrace/configs"
)

const hashBase = `
gateway: {id: gw-1}
devices:
  - id: a
    driver: modbus
    endpoint: tcp://192.0.2.5:502
    unit: 2
    tags:
      - {name: temp, address: "holding:1", min: 1}
      - {name: level, address: "holding:2"}
`

func TestHash(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		old, by string
		same    bool
	}{
		{"nothing", "", "", true},
		{"another line", "\ngateway:", "# a comment\n\ngateway:", true},
		{"a default written", "unit: 2", "unit: 2\n    interval: 1000ms", true},
		{"a key", "unit: 2", "unit: 3", false},
		{"a tag", "min: 1", "min: 2", false},
		{"the order of tags", "name: temp", "name: other", false},
	}
	dir := t.TempDir()
	before := configs.Hash(parse(t, dir, hashBase).Devices[0])
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			after := configs.Hash(parse(t, dir, strings.Replace(hashBase, tc.old, tc.by, 1)).Devices[0])
			if (before == after) != tc.same {
				t.Errorf("the same hash: %v", before == after)
			}
		})
	}
}
