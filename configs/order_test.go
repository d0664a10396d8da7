package configs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"millrace/protocols"
)

func TestOrders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]protocols.Order{
		"ABCD":     protocols.ABCD,
		"CDAB":     protocols.CDAB,
		"BADC":     protocols.BADC,
		"DCBA":     protocols.DCBA,
		"ABCDEFGH": protocols.ABCD,
		"GHEFCDAB": protocols.CDAB,
		"BADCFEHG": protocols.BADC,
		"HGFEDCBA": protocols.DCBA,
		"EFGHABCD": protocols.EFGHABCD,
		"CDABGHEF": protocols.CDABGHEF,
		"FEHGBADC": protocols.FEHGBADC,
		"DCBAHGFE": protocols.DCBAHGFE,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			yaml := fmt.Sprintf(`
gateway: {id: gw-1}
devices:
  - id: d
    driver: modbus
    endpoint: tcp://127.0.0.1
    order: %s
    tags: [{name: a, address: "holding:1"}, {name: b, address: "holding:5", order: %s}]
`, text, text)
			dir := t.TempDir()
			cfg := parse(t, dir, yaml)
			file := filepath.Join(dir, "order.yaml")
			if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			validates(t, file)
			d := cfg.Devices[0]
			same(t, "the device's order", d.Modbus.Order, want)
			same(t, "the order of a tag without one", d.Tags[0].Order, want)
			same(t, "a tag's order", d.Tags[1].Order, want)
		})
	}
}
