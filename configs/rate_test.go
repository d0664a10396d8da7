package configs_test

import (
	"fmt"
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
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			cfg := parse(t, t.TempDir(), fmt.Sprintf(`
gateway: {id: gw-1}
uplinks:
  - {name: p, broker: "mqtt://127.0.0.1", catch_up: live_first, catch_up_rate: %s}
devices: []
`, c.text))
			got := cfg.Uplinks[0].CatchUpRate
			same(t, "rate", got, c.want)
			same(t, "as text", got.String(), c.show)
		})
	}
	same(t, "no rate as text", configs.Rate{}.String(), "")
}
