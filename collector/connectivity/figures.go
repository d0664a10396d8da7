// Package connectivity makes the connectivity figures of a period from the
// completeness ledger, the ledger of the site's equipment and the shift
// calendar: how much of the equipment is digital and networked, and how much
// of its data arrives. Each figure is a numerator and a denominator, with the
// list behind both, so that the figures of many gateways can be added up.
//
// The indicators and their sources are in docs/connectivity.md.
package connectivity

import (
	"time"

	"millrace/collector/ledger"
	"millrace/protocols"
)

// Figures are the connectivity figures of a period.
type Figures struct {
	Gateway string            `json:"gateway"`
	Group   string            `json:"group"`
	Labels  map[string]string `json:"labels,omitempty"`

	// From and To are the period that was asked for; Until is up to when it was
	// counted: To, or earlier if that is not over. Began is when the ledger
	// begins, if that is within the period.
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Until time.Time `json:"until"`
	Began time.Time `json:"began,omitzero"`
	Made  time.Time `json:"made"` // when this was computed

	Rule Rule `json:"rule"`
	// LedgerFile is the file of the equipment ledger; empty: there is none, and
	// each configured device counts as one machine.
	LedgerFile string `json:"ledger_file,omitempty"`

	Indicators []Indicator `json:"indicators"`
	Machines   []Machine   `json:"machines"`
	Devices    []Device    `json:"devices"`
	Series     []Point     `json:"series"`
	// Step is how long the time of one Point, and one cell of Device.Heat, is: an
	// hour or a day. Days are those of the time zone, whatever their length.
	Step   time.Duration  `json:"-"`
	Totals Totals         `json:"totals"`
	Pauses []ledger.Pause `json:"pauses"` // in which the agent did not run
}

// Rule is what makes a machine count as networked.
type Rule struct {
	// Hours is the part of the planned production time in which data of the
	// machine has to be delivered, at least; an hour counts as a whole.
	Hours float64 `json:"hours"`
	// Completeness is the part of an hour's readings that has to be delivered for
	// the hour to count; 0: any.
	Completeness float64 `json:"completeness"`
	// Calendar is the planned production time in words, in English and Chinese.
	Calendar   map[string]string `json:"calendar"`
	AlwaysOn   bool              `json:"always_on"` // around the clock
	Timezone   string            `json:"timezone"`
	Uplink     string            `json:"uplink"`              // whose acknowledgements count as delivered
	Unplanned  bool              `json:"unplanned,omitempty"` // nothing was planned in the period: all of it counts
	PlannedSec int64             `json:"planned_s"`           // of the period, up to Until
}

// IndicatorID names an indicator; programs may test it.
type IndicatorID string

// The indicators.
const (
	Digitalisation    IndicatorID = "equipment_digitalisation"     // 生产设备数字化率
	Networking        IndicatorID = "equipment_networking"         // 生产设备联网率
	DigitalNetworking IndicatorID = "digital_equipment_networking" // 数字化生产设备联网率
	KeyNetworking     IndicatorID = "key_equipment_networking"     // 关键设备联网率
	KeyProcesses      IndicatorID = "key_process_collection"       // 关键工序数据采集率
	Availability      IndicatorID = "availability"                 // 设备在线率
	ReadRate          IndicatorID = "read_rate"                    // 实采率 = 实采 / 应采
	ValidRate         IndicatorID = "valid_rate"                   // 有效率 = 有效 / 实采
	DeliveryRate      IndicatorID = "delivery_rate"                // 送达率 = 送达 / 应送
)

// Indicator is one figure.
type Indicator struct {
	ID          IndicatorID `json:"id"`
	Numerator   int64       `json:"numerator"`
	Denominator int64       `json:"denominator"` // 0: there is nothing to measure, and no rate
	Unit        string      `json:"unit"`        // machines, processes, seconds or readings
	// Points are those of the 2024 indicators for small and medium enterprises;
	// nil: the indicator has none.
	Points *float64 `json:"points,omitempty"`
	// In are the assets or processes of the numerator, Out those of the
	// denominator that are not in it; of figures of seconds and readings, which
	// are sums over the devices, there are none.
	In  []string `json:"in,omitempty"`
	Out []string `json:"out,omitempty"`
}

// Rate returns the figure; false: there is none.
func (i *Indicator) Rate() (float64, bool) {
	if i.Denominator == 0 {
		return 0, false
	}
	return float64(i.Numerator) / float64(i.Denominator), true
}

// Machine is one piece of equipment.
type Machine struct {
	Asset      string   `json:"asset"`
	Name       string   `json:"name"`
	Workshop   string   `json:"workshop,omitempty"`
	Process    string   `json:"process,omitempty"`
	Maker      string   `json:"maker,omitempty"`
	Model      string   `json:"model,omitempty"`
	Serial     string   `json:"serial,omitempty"`
	Key        bool     `json:"key"`
	KeyProcess bool     `json:"key_process"`
	Digital    bool     `json:"digital"`
	Networked  bool     `json:"networked"`
	Devices    []string `json:"devices"`
	// DeliveredSec is the planned time, in seconds, in whose hours data of the
	// machine was delivered; Share is its part of the planned time.
	DeliveredSec int64   `json:"delivered_s"`
	Share        float64 `json:"share"`
	// Notes say, in English and Chinese, where the device itself says something
	// else than the ledger.
	Notes []Note `json:"notes,omitempty"`
}

// Note is a difference between the ledger and a device.
type Note struct {
	Field  string `json:"field"` // maker, model or serial
	Ledger string `json:"ledger"`
	Device string `json:"device"` // what the device says
	By     string `json:"by"`     // the device's id
}

// Totals are sums of readings, and of seconds.
type Totals struct {
	Expected  int64 `json:"expected"`  // 应采
	Read      int64 `json:"read"`      // 实采
	Good      int64 `json:"good"`      // 有效
	Due       int64 `json:"due"`       // 应送: of Good, those that were to be delivered: not those that had not changed
	Delivered int64 `json:"delivered"` // 送达
	// Dropped are those that will never come, by the reason of the gap notice.
	Dropped map[string]int64 `json:"dropped,omitempty"`

	// AnsweringSec and PlannedSec are the planned time in which the device
	// answered, and all of it.
	AnsweringSec int64 `json:"answering_s"`
	PlannedSec   int64 `json:"planned_s"`
	// OnlineSec to DisabledSec are the times in each state, planned or not.
	OnlineSec   int64 `json:"online_s"`
	DegradedSec int64 `json:"degraded_s"`
	OfflineSec  int64 `json:"offline_s"`
	DisabledSec int64 `json:"disabled_s"`
	Outages     int64 `json:"outages"`
	Reconnects  int64 `json:"reconnects"`
}

// Waiting is how many readings were neither delivered nor dropped.
func (t *Totals) Waiting() int64 {
	n := t.Due - t.Delivered
	for _, d := range t.Dropped {
		n -= d
	}
	return max(n, 0)
}

// Device is what is known of one device in the period.
type Device struct {
	ID string `json:"device"`
	Totals
	P50 time.Duration `json:"-"` // of the answer times
	P95 time.Duration `json:"-"`
	// P50MS and P95MS are the same in milliseconds; 0: not known.
	P50MS float64 `json:"answer_p50_ms,omitempty"`
	P95MS float64 `json:"answer_p95_ms,omitempty"`

	Networked    bool    `json:"networked"`
	DeliveredSec int64   `json:"delivered_s"`
	Share        float64 `json:"share"`

	Outage   []ledger.Outage `json:"outage_list,omitempty"`
	Assets   []string        `json:"assets,omitempty"` // the machines that it connects
	Evidence Evidence        `json:"evidence"`
	// Heat is, for each step of the period, the part of the observed time in
	// which the device answered; below 0: the agent did not run.
	Heat []float32 `json:"-"`
}

// Evidence is what shows that a device is connected.
type Evidence struct {
	Driver   string `json:"driver,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Unit     *uint8 `json:"unit,omitempty"` // of Modbus
	Tags     int    `json:"tags,omitempty"`
	State    string `json:"state,omitempty"` // when the agent wrote this
	Since    int64  `json:"since,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// What the device says of itself.
	protocols.Identity
	// First and Last are when good readings came, ever, in Unix ms.
	First   int64    `json:"first,omitempty"`
	Last    int64    `json:"last,omitempty"`
	Samples []Sample `json:"samples,omitempty"`
}

// Sample is the newest reading of a tag.
type Sample struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Value   string `json:"value"`
	Unit    string `json:"unit,omitempty"`
	Quality string `json:"quality"`
	Reason  string `json:"reason,omitempty"`
	Time    int64  `json:"time"` // Unix ms
}

// Point is the figures of one step of the period.
type Point struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Networked of Machines had data delivered as the rule says, in this time
	// alone. Planned is false where nothing was planned.
	Networked int  `json:"networked"`
	Machines  int  `json:"machines"`
	Planned   bool `json:"planned"`
	Totals
}
