package opcua

import "strings"

const (
	profileAuto = "auto"
	profileNone = "none"
)

// profiles are makes of servers that do best with fewer nodes at once than
// they say, and how many. A SIMATIC S7-1200 says 1000 and does best with 100:
// that is what users of it have found. The 300 of an S7-1500 is a cautious
// guess after it; max_per_call says otherwise.
func profiles() map[string]int {
	return map[string]int{profileNone: 0, "s7-1200": 100, "s7-1500": 300}
}

// profileOf is the configured profile, or the one that a server's names give
// away.
func (c *connConf) profileOf(product, maker string) string {
	if c.profile != "" && c.profile != profileAuto {
		return c.profile
	}
	said := strings.ToLower(maker + " " + product)
	for _, p := range []struct{ name, mark string }{{"s7-1200", "s7-1200"}, {"s7-1500", "s7-1500"}, {"s7-1500", "et 200sp"}} {
		if strings.Contains(said, p.mark) {
			return p.name
		}
	}
	return profileNone
}
