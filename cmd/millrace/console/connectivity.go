package console

import (
	"net/http"
)

// Connectivity is the connectivity figures of a period, as the page and
// /api/connectivity show them. Times are Unix milliseconds.
type Connectivity struct {
	Period   string `json:"period"` // one of Periods
	From     int64  `json:"from"`
	To       int64  `json:"to"`
	Until    int64  `json:"until"`           // up to when it was counted
	Began    int64  `json:"began,omitempty"` // when counting began, if that is within the period
	StepMS   int64  `json:"step_ms"`         // of the series and the heat map: an hour or a day
	Timezone string `json:"timezone"`
	// Ledger is false where the devices stand for the equipment.
	Ledger       bool              `json:"ledger"`
	Hours        float64           `json:"hours"`        // the rule's least part of the planned time
	Completeness float64           `json:"completeness"` // and of an hour's readings
	Calendar     map[string]string `json:"calendar"`     // in words, by language
	Uplink       string            `json:"uplink"`
	Indicators   []Indicator       `json:"indicators"`
	Series       []ConnPoint       `json:"series"`
	Devices      []ConnDevice      `json:"devices"` // the worst first
	Outages      []ConnOutage      `json:"outages"` // the newest first; at most MaxConnOutages
	Pauses       []ConnPause       `json:"pauses"`  // in which the agent did not run
}

// MaxConnOutages is how many outages of a period are shown.
const MaxConnOutages = 100

// Periods are those that may be asked for: the last day, week and month.
func Periods() []string { return []string{"24h", "7d", "30d"} }

// Indicator is one figure.
type Indicator struct {
	ID          string   `json:"id"`
	Numerator   int64    `json:"numerator"`
	Denominator int64    `json:"denominator"`
	Unit        string   `json:"unit"`
	Rate        *float64 `json:"rate"` // null: there is nothing to measure
	Points      *float64 `json:"points,omitempty"`
}

// ConnPoint is one step of the networking rate.
type ConnPoint struct {
	From      int64 `json:"from"`
	Networked int   `json:"networked"`
	Machines  int   `json:"machines"`
	Planned   bool  `json:"planned"`
}

// ConnDevice is one device in the period.
type ConnDevice struct {
	ID        string `json:"id"`
	State     string `json:"state,omitempty"`
	Networked bool   `json:"networked"`
	Answering int64  `json:"answering_s"`
	Planned   int64  `json:"planned_s"`
	Expected  int64  `json:"expected"`
	Read      int64  `json:"read"`
	Good      int64  `json:"good"`
	Due       int64  `json:"due"`
	Delivered int64  `json:"delivered"`
	Outages   int64  `json:"outages"`
	// Heat has a letter for each step: 0 (never answered) to 5 (always), and -
	// where the agent did not run.
	Heat string `json:"heat"`
}

// ConnOutage is a time in which a device did not answer.
type ConnOutage struct {
	Device string `json:"device"`
	From   int64  `json:"from"`
	To     int64  `json:"to,omitempty"` // 0: it goes on
	Reason string `json:"reason"`
}

// ConnPause is a time in which the agent did not run.
type ConnPause struct {
	From  int64  `json:"from"`
	To    int64  `json:"to"`
	Ended string `json:"ended"` // stopped or killed
}

func (c *Console) connectivity(w http.ResponseWriter, r *http.Request) {
	period := r.URL.Query().Get("period")
	if period == "" {
		period = Periods()[0]
	}
	for _, p := range Periods() {
		if p != period {
			continue
		}
		f, err := c.opts.Source.Connectivity(period)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		c.json(w, f)
		return
	}
	http.Error(w, "period is 24h, 7d or 30d", http.StatusBadRequest)
}
