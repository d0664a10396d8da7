// Package report renders the connectivity figures of a period: as a page for
// an assessor (HTML that prints on A4), as a workbook whose formulas are alive,
// as a table, and as JSON; in English and Chinese.
package report

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/collector/connectivity"
)

// The formats of a report.
const (
	HTML = "html"
	CSV  = "csv"
	XLSX = "xlsx"
	JSON = "json"
)

// Write renders f. lang is en or zh.
func Write(w io.Writer, f *connectivity.Figures, format, lang string) error {
	t := texts(lang)
	switch format {
	case HTML:
		return writeHTML(w, f, t)
	case CSV:
		return writeCSV(w, f, t)
	case XLSX:
		return writeXLSX(w, f, t)
	case JSON:
		return writeJSON(w, f)
	}
	return fmt.Errorf("format %q: it is html, csv, xlsx or json", format)
}

// rated is an indicator with its rate.
type rated struct {
	connectivity.Indicator

	Rate *float64 `json:"rate"` // null: there is nothing to measure
}

func writeJSON(w io.Writer, f *connectivity.Figures) error {
	out := struct {
		*connectivity.Figures

		Indicators []rated               `json:"indicators"`
		Devices    []connectivity.Device `json:"devices"`
	}{Figures: f, Devices: []connectivity.Device{}}
	for i := range f.Indicators {
		r := rated{Indicator: f.Indicators[i]}
		if rate, ok := r.Indicator.Rate(); ok {
			r.Rate = &rate
		}
		out.Indicators = append(out.Indicators, r)
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	// The devices' outages may be many MB: they are written one device at a time.
	const devices = "\n \"devices\": []"
	before, after, _ := bytes.Cut(data, []byte(devices))
	put := func(err error, parts ...[]byte) error {
		for _, p := range parts {
			if err == nil {
				_, err = w.Write(p)
			}
		}
		return err
	}
	err = put(nil, before, []byte(strings.TrimSuffix(devices, "]")))
	for i := range f.Devices {
		one, failed := json.MarshalIndent(&f.Devices[i], "  ", " ")
		if failed != nil {
			return fmt.Errorf("report: %w", failed)
		}
		mark := "\n  "
		if i > 0 {
			mark = ",\n  "
		}
		err = put(err, []byte(mark), one)
	}
	end := "]"
	if len(f.Devices) > 0 {
		end = "\n ]"
	}
	if err = put(err, []byte(end), after, []byte("\n")); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// writeCSV writes one row for each indicator, each machine and each device,
// told apart by their first column. Excel takes it for UTF-8 by the mark at
// its beginning.
func writeCSV(w io.Writer, f *connectivity.Figures, t *text) error {
	if _, err := io.WriteString(w, "\xef\xbb\xbf"); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	c := csv.NewWriter(w)
	c.UseCRLF = true
	head := []string{
		"kind", "id", "name", "numerator", "denominator", "rate", "points", "workshop", "process", "key", "key_process", "digital", "networked",
		"delivered_s", "devices", "expected", "read", "good", "due", "delivered", "dropped", "answering_s", "planned_s", "online_s", "degraded_s", "offline_s",
		"outages", "reconnects", "answer_p50_ms", "answer_p95_ms", "maker", "model", "serial",
	}
	if t.lang == "zh" {
		head = []string{
			"类别", "编号", "名称", "分子", "分母", "比率", "得分", "车间", "工序", "关键设备", "关键工序", "数字化", "联网",
			"有数据秒数", "采集设备", "应采", "实采", "有效", "应送", "送达", "丢弃", "应答秒数", "计划秒数", "在线秒数", "降级秒数", "离线秒数",
			"离线次数", "重连次数", "响应时间P50毫秒", "响应时间P95毫秒", "制造商", "型号", "出厂编号",
		}
	}
	rows := [][]string{head}
	for i := range f.Indicators {
		x := &f.Indicators[i]
		row := make([]string, len(head))
		row[0], row[1], row[2] = t.csvKind("indicator"), string(x.ID), t.S("ind."+string(x.ID))
		row[3], row[4] = number(x.Numerator), number(x.Denominator)
		if r, ok := x.Rate(); ok {
			row[5] = decimal(r)
		}
		if x.Points != nil {
			row[6] = decimal(*x.Points)
		}
		rows = append(rows, row)
	}
	for i := range f.Machines {
		m := &f.Machines[i]
		row := make([]string, len(head))
		copy(row, []string{
			t.csvKind("machine"), plain(m.Asset), plain(m.Name), "", "", decimal(m.Share), "", plain(m.Workshop), plain(m.Process),
			t.Yes(m.Key), t.Yes(m.KeyProcess), t.Yes(m.Digital), t.Yes(m.Networked), number(m.DeliveredSec), strings.Join(m.Devices, " "),
		})
		row[22] = number(f.Rule.PlannedSec)
		copy(row[len(row)-3:], []string{plain(m.Maker), plain(m.Model), plain(m.Serial)})
		rows = append(rows, row)
	}
	for i := range f.Devices {
		d := &f.Devices[i]
		lost := int64(0)
		for _, n := range d.Dropped {
			lost += n
		}
		row := make([]string, 12, len(head))
		row[0], row[1] = t.csvKind("device"), d.ID
		row = append(row, t.Yes(d.Networked), number(d.DeliveredSec), d.ID, number(d.Expected), number(d.Read), number(d.Good), number(d.Due), number(d.Delivered), number(lost),
			number(d.AnsweringSec), number(d.PlannedSec), number(d.OnlineSec), number(d.DegradedSec), number(d.OfflineSec), number(d.Totals.Outages), number(d.Reconnects),
			decimal(d.P50MS), decimal(d.P95MS), plain(d.Evidence.Maker), plain(cmp.Or(d.Evidence.Model, d.Evidence.Product)), plain(d.Evidence.Serial))
		rows = append(rows, row)
	}
	if err := c.WriteAll(rows); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// plain keeps a spreadsheet from taking a name for a formula.
func plain(s string) string {
	// Those for East Asian languages know the wide signs, too.
	if r, _ := utf8.DecodeRuneInString(s); s != "" && strings.ContainsRune("=+-@\t\r＝＋－＠", r) {
		return "'" + s
	}
	return s
}

func number(n int64) string    { return strconv.FormatInt(n, 10) }
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// percent writes a rate with two decimals. What is not all is never shown as
// 100.00 %, and what is something never as 0.00 %.
func percent(n, of int64) string {
	if of == 0 {
		return "—"
	}
	hundredths := (n*10000 + of/2) / of // exact up to 9e14
	if n > 9e14/1 {
		hundredths = int64(float64(n) / float64(of) * 10000)
	}
	switch {
	case n < of && hundredths >= 10000:
		hundredths = 9999
	case n > 0 && hundredths == 0:
		return "< 0.01 %"
	}
	return fmt.Sprintf("%d.%02d %%", hundredths/100, hundredths%100)
}

// thousands groups the digits of a number.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Span writes a time as people say it.
func (t *text) Span(seconds int64) string {
	d, h, m, s := seconds/86400, seconds/3600%24, seconds/60%60, seconds%60
	zh := t.lang == "zh"
	switch {
	case d > 0 && zh:
		return fmt.Sprintf("%d 天 %d 小时", d, h)
	case d > 0:
		return fmt.Sprintf("%d d %d h", d, h)
	case h > 0 && zh:
		return fmt.Sprintf("%d 小时 %d 分", h, m)
	case h > 0:
		return fmt.Sprintf("%d h %d min", h, m)
	case m > 0 && zh:
		return fmt.Sprintf("%d 分 %d 秒", m, s)
	case m > 0:
		return fmt.Sprintf("%d min %d s", m, s)
	case zh:
		return fmt.Sprintf("%d 秒", s)
	}
	return fmt.Sprintf("%d s", s)
}

const minute = "2006-01-02 15:04"

func stamp(ms int64, zone *time.Location) string {
	if ms == 0 {
		return "—"
	}
	return time.UnixMilli(ms).In(zone).Format("2006-01-02 15:04:05")
}
