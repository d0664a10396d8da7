package console

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics turns a Status into Prometheus metrics at each scrape, so that
// counting costs the data path nothing.
type metrics struct {
	source Source

	readings, scanDuration, scans, missed, lost, up *prometheus.Desc
	history, outages, outageSeconds                 *prometheus.Desc
	batches, bytes, dropped, droppedBatches         *prometheus.Desc
	maxBytes, growth, oldest, holds, full, empty    *prometheus.Desc
	uplinkUp, uplinkBatches, uplinkAside, uplinkLag *prometheus.Desc
	uplinkFallback                                  *prometheus.Desc
	buildInfo, configOK, bufferWritable, started    *prometheus.Desc
	startDelay, configured, monitored               *prometheus.Desc
	figure, figureOf                                *prometheus.Desc
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("millrace_"+name, help, labels, nil)
}

func metricsHandler(s Source) http.Handler {
	m := &metrics{
		source:         s,
		readings:       desc("readings_total", "Readings taken from the device.", "device", "quality"),
		scanDuration:   desc("scan_duration_seconds", "How long scans took.", "device"),
		scans:          desc("scans_total", "Scans made.", "device"),
		startDelay:     desc("scan_start_delay_seconds", "From when scans were due to their start, over all devices."),
		missed:         desc("scans_missed_total", "Scans that were due and not made: overrun, or no connection.", "device"),
		lost:           desc("values_lost_total", "Values that were dropped before they reached the agent, at the least: a full queue of the OPC UA server.", "device"),
		history:        desc("history_readings_total", "Readings that were missed at their time and read from the device's own memory; they are in readings_total, too.", "device"),
		outages:        desc("outages_total", "Times of which a device's values did not arrive when they were made.", "device"),
		outageSeconds:  desc("outage_seconds_total", "How long they were, by whether the device's own memory had their values.", "device", "filled"),
		configured:     desc("tags_configured", "Tags of the device that are to be subscribed. OPC UA subscriptions only.", "device"),
		monitored:      desc("tags_monitored", "Tags of the device that the server watches for changes; fewer than configured: see the device's reason.", "device"),
		up:             desc("device_up", "1 if the device is online or degraded, 0 if it is offline or disabled.", "device"),
		batches:        desc("buffer_batches", "Batches not yet acknowledged by all uplinks."),
		bytes:          desc("buffer_bytes", "Size of the buffer's files."),
		dropped:        desc("buffer_dropped_readings_total", "Readings that were given up, announced in gap notices.", "reason"),
		maxBytes:       desc("buffer_max_bytes", "What buffer_bytes is bounded by: max_size."),
		growth:         desc("buffer_outage_growth_bytes_per_second", "By how much the buffer grows while an uplink is away, at the present rate of readings. Absent in the first minute after the start."),
		oldest:         desc("buffer_oldest_timestamp_seconds", "When the oldest batch that waits arrived, in Unix seconds. Absent while none waits."),
		holds:          desc("buffer_holds_seconds", "How long an outage may last, from an empty buffer on, until the oldest batches are given up. Absent in the first minute after the start."),
		full:           desc("buffer_full_timestamp_seconds", "When the oldest batches will be given up if all goes on like this, in Unix seconds. Absent while the buffer does not fill."),
		empty:          desc("buffer_empty_timestamp_seconds", "When all uplinks will have everything if all goes on like this, in Unix seconds. Absent while no backlog gets less."),
		droppedBatches: desc("buffer_dropped_batches_total", "Batches that were given up, announced in gap notices.", "reason"),
		uplinkUp:       desc("uplink_up", "1 if the uplink is connected.", "uplink"),
		uplinkBatches:  desc("uplink_batches_total", "Batches the uplink's broker acknowledged.", "uplink"),
		uplinkAside:    desc("uplink_set_aside_batches_total", "Batches that the uplink's broker did not take, and that were announced as gaps.", "uplink"),
		uplinkFallback: desc("uplink_on_fallback", "1 if the uplink uses, or tried last, another broker than its first one.", "uplink"),
		uplinkLag:      desc("uplink_lag_batches", "Batches that wait for the uplink.", "uplink"),
		buildInfo:      desc("build_info", "Always 1; the labels say which build this is.", "version", "commit", "goversion"),
		configOK:       desc("config_last_reload_successful", "1 if the configuration file, when it was read last, was in order."),
		bufferWritable: desc("buffer_writable", "1 if the buffer can write to its disk."),
		figure:         desc("connectivity_numerator", "Numerators of the connectivity figures of the last 24 hours: machines, processes, seconds or readings.", "indicator"),
		figureOf:       desc("connectivity_denominator", "Their denominators; 0: there is nothing to measure.", "indicator"),
		started:        desc("start_time_seconds", "When the agent started, in Unix seconds."),
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Describe is for prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.readings, m.scanDuration, m.startDelay, m.scans, m.missed, m.lost, m.configured, m.monitored, m.up, m.batches, m.bytes, m.dropped, m.droppedBatches,
		m.history, m.outages, m.outageSeconds,
		m.maxBytes, m.growth, m.oldest, m.holds, m.full, m.empty,
		m.uplinkUp, m.uplinkBatches, m.uplinkAside, m.uplinkFallback, m.uplinkLag, m.buildInfo, m.configOK, m.bufferWritable, m.started,
		m.figure, m.figureOf,
	} {
		ch <- d
	}
}

// Collect is for prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.source.Status()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.buildInfo, 1, s.Version, s.Commit, s.Go)
	gauge(m.started, float64(s.Started)/1000)
	gauge(m.configOK, truth(s.Config.Error == ""))
	gauge(m.bufferWritable, truth(s.Buffer.Error == ""))
	gauge(m.batches, float64(s.Buffer.Batches))
	gauge(m.bytes, float64(s.Buffer.Bytes))
	gauge(m.maxBytes, float64(s.Buffer.MaxBytes))
	m.forecast(&s.Buffer, gauge)
	for _, reason := range []string{"buffer_full", "too_old", "damaged", "disk_error", "crash"} {
		// From 0 on, so that an alarm can be written before the first loss.
		counter(m.dropped, s.Buffer.Dropped[reason], reason)
		counter(m.droppedBatches, s.Buffer.DroppedBatches[reason], reason)
	}
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		gauge(m.uplinkUp, truth(u.Up), u.Name)
		counter(m.uplinkBatches, u.Delivered, u.Name)
		counter(m.uplinkAside, u.SetAside, u.Name)
		gauge(m.uplinkFallback, truth(u.Fallback), u.Name)
		gauge(m.uplinkLag, float64(u.Lag), u.Name)
	}
	for _, x := range s.Connectivity {
		gauge(m.figure, float64(x.Numerator), x.ID)
		gauge(m.figureOf, float64(x.Denominator), x.ID)
	}
	var delay Histogram
	for i := range s.Devices {
		d := &s.Devices[i]
		delay.add(&d.StartDelay)
		counter(m.readings, d.Good, d.ID, "good")
		counter(m.readings, d.Uncertain, d.ID, "uncertain")
		counter(m.readings, d.Bad, d.ID, "bad")
		counter(m.scans, d.Scans, d.ID)
		counter(m.missed, d.Missed, d.ID)
		counter(m.lost, d.Lost, d.ID)
		m.collectOutages(ch, d)
		if d.Monitored != nil {
			gauge(m.configured, float64(d.Tags), d.ID)
			gauge(m.monitored, float64(*d.Monitored), d.ID)
		}
		gauge(m.up, truth(d.State == "online" || d.State == "degraded"), d.ID)
		ch <- prometheus.MustNewConstHistogram(m.scanDuration, d.ScanHistogram.Count, d.ScanHistogram.Sum.Seconds(), seconds(d.ScanHistogram.Buckets), d.ID)
	}
	ch <- prometheus.MustNewConstHistogram(m.startDelay, delay.Count, delay.Sum.Seconds(), seconds(delay.Buckets))
}

// collectOutages tells of a device that reports by itself, from 0 on.
func (m *metrics) collectOutages(ch chan<- prometheus.Metric, d *Device) {
	count, seconds := uint64(0), map[string]float64{}
	if d.Outages != nil {
		count, seconds = d.Outages.Count, d.Outages.Seconds
	}
	ch <- prometheus.MustNewConstMetric(m.history, prometheus.CounterValue, float64(d.Backfilled), d.ID)
	ch <- prometheus.MustNewConstMetric(m.outages, prometheus.CounterValue, float64(count), d.ID)
	for _, filled := range []string{"yes", "part", "no"} {
		ch <- prometheus.MustNewConstMetric(m.outageSeconds, prometheus.CounterValue, seconds[filled], d.ID, filled)
	}
}

// add counts what o counted, too.
func (h *Histogram) add(o *Histogram) {
	if h.Buckets == nil {
		h.Buckets = make(map[time.Duration]uint64, len(o.Buckets))
	}
	h.Count += o.Count
	h.Sum += o.Sum
	for bound, n := range o.Buckets {
		h.Buckets[bound] += n
	}
}

// forecast gives what there is of the buffer's times: an alarm on one that is
// not there is silent.
func (m *metrics) forecast(b *Buffer, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	f := &b.Forecast
	if f.Known {
		gauge(m.growth, f.Rate)
		gauge(m.holds, f.Holds)
	}
	for d, ms := range map[*prometheus.Desc]int64{m.oldest: b.Oldest, m.full: f.Full, m.empty: f.Empty} {
		if ms != 0 {
			gauge(d, float64(ms)/1000)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(in map[time.Duration]uint64) map[float64]uint64 {
	out := make(map[float64]uint64, len(in))
	for bound, n := range in {
		out[bound.Seconds()] = n
	}
	return out
}
