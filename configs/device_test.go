package configs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/configs"
)

// TestLoadDevice: a device can be named before its tag map is there, and all
// else must be in order.
func TestLoadDevice(t *testing.T) {
	t.Parallel()
	const good = `gateway: {id: gw}
uplinks:
  - {name: p, broker: "mqtt://127.0.0.1"}
devices:
  - {id: press, driver: modbus, endpoint: "tcp://127.0.0.1:1502", tags: none.csv}
  - {id: robot, driver: opcua, endpoint: "opc.tcp://127.0.0.1", security: {policy: None}, tags: none.csv}
  - {id: oven, driver: opcua, endpoint: "opc.tcp://127.0.0.2", security: {policy: None}}
`
	for name, c := range map[string]struct{ text, id, want string }{
		"tag map missing":   {good, "robot", ""},
		"tags missing":      {good, "oven", ""},
		"modbus":            {good, "press", ""},
		"no such device":    {good, "robbot", `did you mean "robot"?`},
		"none that is like": {good, "x", "there are: press, robot, oven"},
		"another mistake":   {strings.Replace(good, "policy: None", "policy: Nine", 1), "robot", "policy"},
		"no devices":        {"gateway: {id: gw}\n", "robot", "devices"},
		"not YAML":          {"gateway: {", "robot", ""},
	} {
		file := filepath.Join(t.TempDir(), "gw.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, dev, err := configs.LoadDevice(file, c.id, drivers())
		switch {
		case c.want == "" && c.text == good && (err != nil || dev.ID != c.id || cfg.Gateway.ID != "gw"):
			t.Errorf("%s: %v", name, err)
		case (c.want != "" || c.text != good) && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := configs.LoadDevice(filepath.Join(t.TempDir(), "none.yaml"), "x", drivers()); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Error(err)
	}
}
