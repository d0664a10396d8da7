package ledger

// outagesPerHour is how many outages of one device that began in one hour are
// kept. All are counted; a device that comes and goes must not fill the disk.
const outagesPerHour = 12

// Outage is a time in which a device did not answer.
type Outage struct {
	Device string `json:"device"`
	From   int64  `json:"from"`         // Unix ms: when it was heard last
	To     int64  `json:"to,omitempty"` // when it answered again; 0: it goes on
	Reason string `json:"reason"`       // in words for people
	// Cut says that the agent ended meanwhile: when the device came back is not
	// known.
	Cut bool `json:"cut,omitempty"`
}

// Pause is a time in which the agent did not run.
type Pause struct {
	From  int64 `json:"from"` // Unix ms: when it was known to run last
	To    int64 `json:"to"`   // when it ran again
	Ended Ended `json:"ended"`
}

// Ended is how a run of the agent ended.
type Ended string

// How a run ended. After all but a stop, what happened in the last minute
// before From is not counted.
const (
	EndedStopped Ended = "stopped"
	EndedKilled  Ended = "killed" // without a word: killed, or by a power cut
)

// events is the body of an events frame.
type events struct {
	Outages []Outage `json:"outages,omitempty"`
	Pauses  []Pause  `json:"pauses,omitempty"`
}

func (e *events) empty() bool { return len(e.Outages) == 0 && len(e.Pauses) == 0 }

// span returns the first and the last hour of the events.
func (e *events) span() (first, last int32) {
	first, last = 1<<30, -1<<30
	widen := func(from, to int64) {
		first, last = min(first, int32(hourOfMillis(from))), max(last, int32(hourOfMillis(max(from, to))))
	}
	for _, o := range e.Outages {
		widen(o.From, o.To)
	}
	for _, p := range e.Pauses {
		widen(p.From, p.To)
	}
	return first, last
}

// state is the body of a state frame: what the next run has to know of this
// one. It is kept in the journal alone.
type state struct {
	Alive   int64              `json:"alive"`           // Unix ms: up to here everything is counted
	Began   int64              `json:"began,omitempty"` // Unix ms: when the ledger was begun, in whatever run
	Stopped bool               `json:"stopped,omitempty"`
	Plan    map[string][]Group `json:"plan,omitempty"`    // by device; of those that are read
	Same    bool               `json:"same,omitempty"`    // the plan is the one of the state before
	Outages []Outage           `json:"outages,omitempty"` // that go on
}
