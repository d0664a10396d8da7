package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/buffer"
	"millrace/cmd/millrace/console"
	"millrace/collector"
	"millrace/protocols"
)

// source is the agent as the console sees it.
type source agent

// Status is for console.Source.
func (s *source) Status() console.Status {
	a := (*agent)(s)
	a.mu.Lock()
	st := console.Status{
		Gateway: a.cfg.Gateway.ID, Group: a.cfg.Gateway.Group,
		Version: version, Commit: commit, Go: runtime.Version(),
		Stream: a.stream, Started: a.present(a.started).UnixMilli(), Now: a.buf.Now().UnixMilli(),
		Config:  console.Config{Path: a.cfg.Path, Loaded: a.present(a.loaded).UnixMilli()},
		Uplinks: make([]console.Uplink, 0, len(a.uplinks)), Devices: []console.Device{},
	}
	if a.reload != nil {
		st.Config.Error = a.reload.Error()
	}
	dir := a.cfg.Buffer.Path
	all := make([]*uplink, 0, len(a.uplinks))
	for _, u := range a.uplinks {
		all = append(all, u)
	}
	a.mu.Unlock()

	bs := a.buf.Stats()
	st.Buffer = bufferStatus(&bs, dir)
	for _, u := range all {
		ms := u.mqtt.Stats()
		since := ms.Since
		if since.IsZero() {
			since = a.started
		}
		if ms.Connected && !u.mqtt.Refused() {
			ms.LastError = "" // of an earlier session
		}
		st.Uplinks = append(st.Uplinks, console.Uplink{
			Name: u.cfg.Name, Broker: ms.Broker, Fallback: ms.Fallback, Up: ms.Connected, Since: a.present(since).UnixMilli(), Reason: ms.LastError,
			Delivered: ms.Acked, SetAside: ms.SetAside, Lag: bs.Uplinks[u.cfg.Name].Lag, InFlight: ms.Inflight,
			Drained: bs.Uplinks[u.cfg.Name].Drained.Seconds(),
		})
	}
	slices.SortFunc(st.Uplinks, func(x, y console.Uplink) int { return cmp.Compare(x.Name, y.Name) })
	a.books.mu.Lock()
	if a.books.figures != nil {
		st.Connectivity = pageIndicators(a.books.figures)
	}
	a.books.mu.Unlock()
	for _, d := range a.coll.Status() {
		st.Devices = append(st.Devices, a.deviceStatus(&d))
	}
	return st
}

func bufferStatus(b *buffer.Stats, dir string) console.Buffer {
	out := console.Buffer{
		Batches: b.Batches, Bytes: b.DiskBytes, MaxBytes: b.MaxBytes, Memory: b.TailBytes, MemoryOnly: b.MemoryOnly, MemoryMax: b.MaxTailBytes,
		Error: diskWords(b.Trouble, dir, b.DiskError), Dropped: b.Dropped, DroppedBatches: b.DroppedBatches, Forecast: forecastStatus(&b.Forecast),
	}
	if !b.Oldest.IsZero() {
		out.Oldest = b.Oldest.UnixMilli()
	}
	return out
}

func forecastStatus(f *buffer.Forecast) console.Forecast {
	out := console.Forecast{
		Known: f.Known, Rate: f.Rate, Holds: f.Holds.Seconds(), HoldsLimit: string(f.HoldsLimit), Trend: string(f.Trend),
		Left: f.Left.Seconds(), FullLimit: string(f.FullLimit), Drained: f.Drained.Seconds(),
	}
	if !f.Full.IsZero() {
		out.Full = f.Full.UnixMilli()
	}
	if !f.Empty.IsZero() {
		out.Empty = f.Empty.UnixMilli()
	}
	return out
}

func (a *agent) deviceStatus(d *collector.DeviceStatus) console.Device {
	cfg := d.Config
	out := console.Device{
		ID: cfg.ID, Driver: cfg.Driver, Endpoint: cfg.Endpoint, Critical: cfg.Critical, Tags: len(cfg.Tags),
		State: string(d.State.State), Since: a.present(d.State.Since).UnixMilli(), Reason: d.State.Reason,
		ScanMS: float64(d.LastScan.Microseconds()) / 1000, IntervalMS: cfg.Interval.Milliseconds(),
		BadTags: d.BadTags, Scans: d.Scans, Missed: d.Missed, Lost: d.Lost, Backfilled: d.Backfilled, Outages: outages(&d.Outages), Good: d.Good, Uncertain: d.Uncertain, Bad: d.Bad,
		Advice: d.Advice, ScanHistogram: histogram(&d.ScanDuration), StartDelay: histogram(&d.StartDelay),
	}
	if d.Identity != (protocols.Identity{}) {
		out.Identity = &d.Identity
	}
	if m := d.Monitoring; m != nil {
		out.Monitored = &m.Monitored
	}
	if cfg.Driver == "modbus" {
		out.Unit = &cfg.Modbus.Unit
	}
	if !d.LastTime.IsZero() {
		out.LastTime = a.present(d.LastTime).UnixMilli()
	}
	return out
}

// outages is what the page shows of a device's outages.
func outages(o *collector.Outages) *console.Outages {
	if o.Count == 0 {
		return nil
	}
	out := &console.Outages{Count: o.Count, Seconds: o.Seconds}
	for _, each := range o.Last[max(0, len(o.Last)-console.MaxOutages):] {
		out.Last = append(out.Last, console.Outage{
			From: each.From.UnixMilli(), To: each.To.UnixMilli(), Cause: string(each.Cause), Filled: each.Filled(),
			Values: each.Values, Tags: each.Tags, NoHistory: each.NoHistory, Partly: each.Partly, Why: each.Why,
		})
	}
	return out
}

func histogram(h *collector.HistogramCounts) console.Histogram {
	out := console.Histogram{Count: h.Count, Sum: h.Sum, Buckets: make(map[time.Duration]uint64, len(h.Bounds))}
	for i, bound := range h.Bounds {
		out.Buckets[bound] = h.Buckets[i]
	}
	return out
}

// Values is for console.Source.
func (s *source) Values(device string) []console.Value {
	vs := s.coll.Values(device)
	if vs == nil {
		return nil
	}
	out := make([]console.Value, len(vs))
	for i, v := range vs {
		out[i] = console.Value{
			Name: v.Tag.Name, Address: v.Tag.Address, Unit: v.Tag.Unit, Description: v.Tag.Description,
			Quality: qualityWord(v), Reason: string(v.Reading.Reason), Time: v.Time,
		}
		if v.Time != 0 && v.Reading.Quality != protocols.Bad {
			out[i].Value = cmp.Or(valueText(v.Reading.Value), `""`)
		}
	}
	return out
}

func qualityWord(v collector.TagValue) string {
	switch {
	case v.Time == 0:
		return "none"
	case v.Reading.Quality == protocols.Good:
		return "good"
	case v.Reading.Quality == protocols.Uncertain:
		return "uncertain"
	}
	return "bad"
}

// valueText is a value as people read it.
func valueText(v protocols.Value) string {
	switch v.Kind() {
	case protocols.KindBool:
		return strconv.FormatBool(v.AsBool())
	case protocols.KindInt:
		return strconv.FormatInt(v.AsInt(), 10)
	case protocols.KindUint:
		return strconv.FormatUint(v.AsUint(), 10)
	case protocols.KindFloat32:
		return strconv.FormatFloat(float64(v.AsFloat32()), 'g', -1, 32)
	case protocols.KindFloat64:
		// A scaled number has digits that are only the binary system's.
		return strconv.FormatFloat(v.AsFloat64(), 'g', 10, 64)
	case protocols.KindString:
		return v.AsString()
	case protocols.KindBytes:
		return base64.StdEncoding.EncodeToString([]byte(v.AsString()))
	case protocols.KindTime:
		return v.AsTime().Format(time.RFC3339Nano)
	case protocols.KindArray:
		parts := make([]string, len(v.Elems()))
		for i, e := range v.Elems() {
			parts[i] = valueText(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case protocols.KindObject:
		parts := make([]string, v.Len())
		for i := range parts {
			name, e := v.Field(i)
			parts[i] = name + ": " + valueText(e)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case protocols.KindNone:
	}
	return ""
}

// Ready is for console.Source.
func (s *source) Ready() error {
	bs := s.buf.Stats()
	if bs.Trouble == buffer.TroubleNone {
		return nil
	}
	text := diskWords(bs.Trouble, (*agent)(s).config().Buffer.Path, bs.DiskError)
	return errors.New("the buffer cannot write to its disk, new readings are in memory only: " + text)
}
