package main

import (
	"cmp"
	"encoding/json"
	"strings"

	"millrace/buffer"
	"millrace/cmd/millrace/console"
	"millrace/configs"
)

// aboutKey is where the buffer keeps what its files do not say by themselves.
const aboutKey = "about"

// about is what the verbs want to know of a buffer whose agent is stopped.
type about struct {
	Gateway string `json:"gateway"`
	MaxSize int64  `json:"max_size"`
}

// sayAbout keeps in the buffer whose it is, and says if it was another
// gateway's: the batches do not say which gateway read them.
func (a *agent) sayAbout(cfg *configs.Config) {
	var old about
	if json.Unmarshal(a.buf.StateGet(aboutKey), &old) == nil && old.Gateway != "" && old.Gateway != cfg.Gateway.ID {
		if n := a.buf.Stats().Batches; n > 0 {
			a.log.Warn("the buffer is another gateway's, or gateway.id was changed: the batches that wait in it go out under the new name",
				"was", old.Gateway, "now", cfg.Gateway.ID, "batches", n, "dir", cfg.Buffer.Path)
		}
	}
	text, err := json.Marshal(about{cfg.Gateway.ID, cfg.Buffer.MaxSize})
	if err == nil && string(text) != string(a.buf.StateGet(aboutKey)) {
		err = a.buf.StatePut(aboutKey, text)
	}
	if err != nil {
		a.log.Debug("whose buffer it is could not be saved", "error", err)
	}
}

// bufferLook is the answer of millrace buffer stat.
type bufferLook struct {
	Dir     string `json:"dir"`
	Gateway string `json:"gateway,omitempty"`
	buffer.Look
	// Forecast is what only a running agent knows.
	Forecast *console.Forecast `json:"forecast,omitempty"`
}

// lookIntoBuffer is the look of a running agent.
func (a *agent) lookIntoBuffer() *bufferLook {
	cfg, stats := a.config(), a.buf.Stats()
	forecast := forecastStatus(&stats.Forecast)
	l := &bufferLook{Dir: cfg.Buffer.Path, Gateway: cfg.Gateway.ID, Look: a.buf.Look(), Forecast: &forecast}
	l.Memory.DiskError = diskWords(stats.Trouble, cfg.Buffer.Path, stats.DiskError)
	return l
}

// lookIntoDir is the look at the files of a stopped one.
func lookIntoDir(path string, d *buffer.Dir) *bufferLook {
	l := &bufferLook{Dir: path, Look: d.Look()}
	var ab about
	if json.Unmarshal(d.Value(aboutKey), &ab) == nil { // an older version kept nothing
		l.Gateway, l.MaxBytes = ab.Gateway, ab.MaxSize
	}
	return l
}

func (l *bufferLook) uplink(name string) *buffer.UplinkLook {
	for i := range l.Uplinks {
		if l.Uplinks[i].Name == name {
			return &l.Uplinks[i]
		}
	}
	return nil
}

func (l *bufferLook) uplinkNames() string {
	names := make([]string, len(l.Uplinks))
	for i := range l.Uplinks {
		names[i] = l.Uplinks[i].Name
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

// lines returns about how many lines an export will have.
func (l *bufferLook) lines(format, uplink string) uint64 {
	batches, readings := uint64(0), uint64(0)
	for _, s := range l.Streams {
		batches += s.Last - s.First + 1
		readings += s.Readings
	}
	if l.Memory != nil {
		batches += uint64(l.Memory.Batches) // some may be in the files, too
	}
	all := batches
	if u := l.uplink(uplink); u != nil {
		batches = u.Batches
	}
	if format == formatNDJSON || all == 0 {
		return batches
	}
	return uint64(float64(readings) * float64(batches) / float64(all))
}
