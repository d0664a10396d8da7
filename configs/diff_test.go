package configs_test

import (
	"strings"
	"testing"

	"millrace/configs"
)

const diffBase = `
gateway: {id: gw-1, labels: {a: "1"}}
uplinks:
  - {name: p, broker: "mqtt://127.0.0.1", username: u, password: one}
  - {name: q, broker: "mqtt://127.0.0.2"}
devices:
  - &a
    id: a
    driver: modbus
    endpoint: tcp://192.0.2.5:502
    tags:
      - {name: temp, address: "holding:1", min: 1}
      - {name: level, address: "holding:2"}
  - {<<: *a, id: b, unit: 2}
  - {<<: *a, id: c, unit: 3}
`

func TestDiff(t *testing.T) {
	t.Parallel()
	all := []string{"a", "b", "c"}
	both := []string{"p", "q"}
	tests := []struct {
		name    string
		old, by string
		want    configs.Changes
	}{
		{"nothing", "", "", configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: both}}},
		{"another line", "\ngateway:", "# a comment\n\ngateway:", configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: both}}},
		{"a default written", "unit: 2", "unit: 2, interval: 1000ms", configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: both}}},
		{
			"a device", "unit: 3", "unit: 4",
			configs.Changes{Devices: configs.Names{Same: []string{"a", "b"}, Changed: []string{"c"}}, Uplinks: configs.Names{Same: both}},
		},
		{
			"another device", "id: b", "id: d",
			configs.Changes{Devices: configs.Names{Same: []string{"a", "c"}, Added: []string{"d"}, Removed: []string{"b"}}, Uplinks: configs.Names{Same: both}},
		},
		{"a tag", "min: 1", "min: 2", configs.Changes{Devices: configs.Names{Changed: all}, Uplinks: configs.Names{Same: both}}},
		{
			"a password", "password: one", "password: two",
			configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: []string{"q"}, Changed: []string{"p"}}},
		},
		{
			"a label", `a: "1"`, `a: "2"`,
			configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: both}, Gateway: true},
		},
		{
			"the rest", "gateway:", "console: {listen: \"\"}\nbuffer: {max_age: 0}\ngateway:",
			configs.Changes{Devices: configs.Names{Same: all}, Uplinks: configs.Names{Same: both}, Console: true, Buffer: true},
		},
	}
	dir := t.TempDir()
	before := parse(t, dir, diffBase)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			after := parse(t, dir, strings.Replace(diffBase, tc.old, tc.by, 1))
			got := configs.Diff(before, after)
			same(t, "changes", got, tc.want)
			same(t, "none", got.None(), len(got.Devices.Same) == 3 && len(got.Uplinks.Same) == 2 && !got.Gateway && !got.Buffer && !got.Console)
		})
	}
}
