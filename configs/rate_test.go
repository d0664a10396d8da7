package configs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/configs"
)

func TestCatchUpRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want configs.Rate
		show string
	}{
		{"200/s", configs.Rate{PerSecond: 200}, "200/s"},
		{"200 /s", configs.Rate{PerSecond: 200}, "200/s"},
		{"0.5/s", configs.Rate{PerSecond: 0.5}, "0.5/s"},
		{"200", configs.Rate{PerSecond: 200}, "200/s"},
		{`"200"`, configs.Rate{PerSecond: 200}, "200/s"},
		{"25%", configs.Rate{Share: 0.25}, "25%"},
		{"12.5 %", configs.Rate{Share: 0.125}, "12.5%"},
		{"1%", configs.Rate{Share: 0.01}, "1%"},
		{"100%", configs.Rate{Share: 1}, "100%"},
		{"1e3/s", configs.Rate{PerSecond: 1000}, "1000/s"},
		{".25/s", configs.Rate{PerSecond: 0.25}, "0.25/s"},
		{"25, catch_up: in_order", configs.Rate{PerSecond: 25}, "25/s"},
		{"25%, catch_up: in_order", configs.Rate{Share: 0.25}, "25%"},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			how := "catch_up: live_first, "
			if strings.Contains(c.text, "catch_up") {
				how = ""
			}
			text := fmt.Sprintf(`
gateway: {id: gw-1}
uplinks:
  - {name: p, broker: "mqtt://127.0.0.1", %scatch_up_rate: %s}
devices: []
`, how, c.text)
			dir := t.TempDir()
			cfg := parse(t, dir, text)
			file := filepath.Join(dir, "rate.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			validates(t, file)
			got := cfg.Uplinks[0].CatchUpRate
			same(t, "rate", got, c.want)
			same(t, "as text", got.String(), c.show)
		})
	}
	same(t, "no rate as text", configs.Rate{}.String(), "")
}
