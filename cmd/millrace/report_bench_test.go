package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/collector/ledger"
)

const benchDevices = 200

// noisyYear writes the ledger of a year in which nothing is regular: scans are
// missed, readings are bad, answers take their time, each device falls silent
// about once a day, and what was read is delivered in two portions.
func noisyYear(b *testing.B, dir string) (start, end time.Time) {
	b.Helper()
	start = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	end = start.AddDate(1, 0, 0)
	rng := rand.New(rand.NewPCG(1, 2))
	now, began := start, start
	l := ledger.New(ledger.Options{
		Dir: dir, Keep: 400 * 24 * time.Hour,
		Now: func() time.Time { return now }, Elapsed: func() time.Duration { return now.Sub(began) },
	})
	var ids []string
	var devs []*ledger.Device
	for i := range benchDevices {
		ids = append(ids, fmt.Sprintf("press-%03d", i))
		d := l.Device(ids[i])
		d.State(now, ledger.Online, time.Time{}, "")
		d.Plan([]ledger.Group{{Tags: 10, Interval: time.Second}})
		devs = append(devs, d)
	}
	l.SetDevices(now, ids)
	for ; now.Before(end); l.Flush(false) {
		from := now
		for _, d := range devs {
			d.Due(from, time.Second, 3600, 10)
			sent := 0
			for range 8 { // as many different answer times
				n := rng.IntN(450)
				bad := rng.IntN(n + 1)
				sent += 10*n - bad
				d.Scanned(from, ledger.Scan{Read: 10 * n, Good: 10*n - bad, Sent: 10*n - bad, Took: time.Duration(rng.ExpFloat64() * float64(20*time.Millisecond))})
			}
			part := rng.IntN(sent + 1)
			d.Delivered(from.UnixMilli(), part, rng.IntN(100))
			d.Delivered(from.UnixMilli(), sent-part, 0)
		}
		away := from.Add(time.Duration(rng.IntN(3000)) * time.Second)
		for now = away; now.Before(away.Add(10 * time.Minute)); now = now.Add(time.Minute) {
			for i, d := range devs {
				switch {
				case now.Equal(away) && rng.IntN(24) == 0:
					d.State(now, ledger.Offline, now, fmt.Sprintf("tcp://192.0.2.%d:502, unit 1: no answer within 1s: is it switched on, and is its cable plugged in?", i))
				case rng.IntN(4) == 0:
					d.State(now, ledger.Online, time.Time{}, "")
					d.Connected(now)
				}
			}
		}
		for _, d := range devs {
			d.State(now, ledger.Online, time.Time{}, "")
		}
		now = from.Add(time.Hour)
	}
	l.Flush(true)
	return start, end
}

// BenchmarkReport makes a report of a noisy year of 200 devices, by the program
// itself: seconds and peak memory of the process, and the size of the ledger.
func BenchmarkReport(b *testing.B) {
	dir := b.TempDir()
	var config strings.Builder
	config.WriteString("gateway: {id: gw-1, group: plant}\nconnectivity: {timezone: UTC}\nuplinks: [{name: platform, broker: mqtt://127.0.0.1:1883}]\ndevices:\n")
	for i := range benchDevices {
		fmt.Fprintf(&config, "  - {id: press-%03d, driver: modbus, endpoint: \"tcp://192.0.2.%d:502\", tags: [{name: a, address: \"holding:0\"}]}\n", i, i)
	}
	file := filepath.Join(dir, "millrace.yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	books := filepath.Join(dir, "data", "ledger")
	start, end := noisyYear(b, books)
	size := int64(0)
	if err := filepath.WalkDir(books, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	}); err != nil {
		b.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"html", "xlsx", "csv", "json"} {
		b.Run(format, func(b *testing.B) {
			out := filepath.Join(dir, "report."+format)
			peak := 0
			for b.Loop() {
				cmd := exec.Command(exe, "report", "-c", file, "--from", start.Format(time.DateOnly), "--to", end.AddDate(0, 0, -1).Format(time.DateOnly), "-o", out)
				cmd.Env = append(os.Environ(), beAgent+"=1", peakFile+"="+out+".peak")
				if text, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, text)
				}
				peak = max(peak, peakOf(b, out+".peak"))
			}
			info, err := os.Stat(out)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(peak)/1024, "peak-MiB")
			b.ReportMetric(float64(size)/(1<<20), "ledger-MiB")
			b.ReportMetric(float64(info.Size())/(1<<20), "report-MiB")
		})
	}
}

// peakOf returns the peak of the memory in a copy of /proc/PID/status, in KiB.
func peakOf(b *testing.B, file string) int {
	b.Helper()
	status, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(text)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}
