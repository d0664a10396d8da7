package console

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser opens a page in a real, headless Chromium of the given size.
func browser(t *testing.T, width, height int, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed; run `make deps`")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(width, height))
	opts = append(opts, more...)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return ctx
}

// awaitText waits until the page's text has all of the wanted words.
func awaitText(ctx context.Context, t *testing.T, want ...string) {
	t.Helper()
	body := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		body = evaluate[string](ctx, t, "document.body.innerText")
		if !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(body, w) }) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	t.Fatalf("the page does not say all of %q:\n%s", want, body)
}

func evaluate[T any](ctx context.Context, t *testing.T, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	for _, size := range []struct {
		name          string
		width, height int
	}{{"desk", 1200, 900}, {"phone", 390, 844}} {
		t.Run(size.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeAgent{status: plantStatus()}
			url := startConsole(t, f)
			ctx := browser(t, size.width, size.height)
			if _, err := chromedp.Run(ctx, chromedp.EmulateViewport(int64(size.width), int64(size.height))); err != nil {
				t.Fatal(err)
			}
			if _, err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
				t.Fatal(err)
			}
			awaitText(ctx, t, "live", "plant-2 / gw-press-01", "platform", "connected", "press-1", "online", "meter-9", "tcp://192.0.2.6:502 unit 9", "38 of 40 monitored", "is unit id 9 right?", "refused the password")
			awaitText(ctx, t, "force", "1204.5", "kN", "bad (timeout)", "not read yet", "油温") // the first device is open
			saveScreenshot(ctx, t, size.name)
			if over := evaluate[int](ctx, t, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
				t.Errorf("the page is %d pixels wider than the screen", over)
			}
			if size.name == "desk" {
				holdColumns(ctx, t)
			}
			if evaluate[bool](ctx, t, "document.querySelector('main b') !== null") {
				t.Error("text from a device became markup")
			}
			f.change(func(s *Status) {
				s.Devices[1].State, s.Devices[1].Reason = "online", ""
				s.Buffer.Error = "the disk is full: make room (no space left on device)"
				s.Buffer.Forecast = Forecast{Known: true, Rate: 1, Holds: 720, HoldsLimit: "memory", Trend: "filling", Left: 600, Full: 1, FullLimit: "memory"}
			})
			awaitText(ctx, t, "2 online", "The buffer cannot write: the disk is full: make room", "kept in memory only", "in 10 min", "the memory for readings is full")
			if bar := warning(ctx, t); !strings.Contains(bar, "in memory only, which is full at ") || !strings.Contains(bar, ", in 10 min") {
				t.Errorf("the bar does not say when the memory is full: %s", bar)
			}
			saveScreenshot(ctx, t, size.name+"-disk-full")
			f.change(func(s *Status) { s.Buffer.Forecast = Forecast{Trend: "unknown"} })
			awaitText(ctx, t, "not known yet")
			if bar := warning(ctx, t); !strings.Contains(bar, "in memory only, up to 8.0 MiB: then the oldest are lost") {
				t.Errorf("the bar does not say how much goes into memory: %s", bar)
			}
			f.change(func(s *Status) { s.Buffer.Forecast = Forecast{Trend: "full", Full: 1, FullLimit: "memory"} })
			awaitText(ctx, t, "Full: the oldest readings are being lost")
			if bar := warning(ctx, t); !strings.Contains(bar, "it is full: the oldest are being lost") {
				t.Errorf("the bar does not say that readings are lost: %s", bar)
			}
		})
	}
}

func warning(ctx context.Context, t *testing.T) string {
	t.Helper()
	return evaluate[string](ctx, t, "document.getElementById('warning').innerText")
}

// holdColumns: beside a value of hundreds of letters, units and short values
// stand in one line, and addresses in two at most; the long value is cut, and
// whole in its title.
func holdColumns(ctx context.Context, t *testing.T) {
	t.Helper()
	for what, selector := range map[string]string{"unit": "td:nth-child(3)", "value": "td:nth-child(2):not(.long)", "address": "td:nth-child(6)"} {
		script := "Math.max(...[...document.querySelectorAll('" + selector + "')].map((c) => { const r = document.createRange(); r.selectNodeContents(c); return new Set([...r.getClientRects()].map((b) => b.top)).size; }))"
		if lines := evaluate[int](ctx, t, script); lines != 1 {
			t.Errorf("a cell of the column %s has %d lines", what, lines)
		}
	}
	if height := evaluate[float64](ctx, t, "document.querySelector('td.long').getBoundingClientRect().height"); height > 100 {
		t.Errorf("a long value is %g pixels high", height)
	}
	if n := evaluate[int](ctx, t, "document.querySelector('td.long').title.length"); n != 275 {
		t.Errorf("the title of a long value has %d letters of 275", n)
	}
}

// TestOutlookInBrowser: what the page says of the buffer's future, in the
// time zone of who looks at it.
func TestOutlookInBrowser(t *testing.T) {
	t.Parallel()
	f := &fakeAgent{status: plantStatus()}
	url := startConsole(t, f)
	ctx := browser(t, 1200, 900, chromedp.Env("TZ=Asia/Shanghai"))
	if _, err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	const day = 86400
	half := time.Now().Truncate(time.Hour).Add(90 * time.Minute) // not near a full hour
	for _, c := range []struct {
		name string
		f    Forecast
		want []string
	}{
		{"not known", Forecast{Trend: "unknown"}, []string{"not known yet"}},
		{
			"empty",
			Forecast{Known: true, Holds: 31 * 3600, HoldsLimit: "max_size", Trend: "empty"},
			[]string{"Holds an outage of 31 h at the present rate, until its files reach max_size (1.0 GiB)."},
		},
		{"for ever", Forecast{Known: true, Holds: 3650 * day, Trend: "empty"}, []string{"Holds an outage of more than a year at the present rate."}},
		{
			"filling",
			Forecast{Known: true, Holds: 31 * 3600, HoldsLimit: "max_size", Trend: "filling", Left: time.Until(half).Seconds(), Full: 1, FullLimit: "max_size"},
			[]string{"Full at ", half.In(shanghai).Format("15:") + "3", " min, if it goes on like this", "holds an outage of 31 h at the present rate"},
		},
		{
			"filling for days",
			Forecast{Known: true, Holds: 30 * day, HoldsLimit: "max_age", Trend: "filling", Left: 29 * day, Full: 1, FullLimit: "max_age"},
			[]string{"Full at " + time.Now().Add(29*24*time.Hour).In(shanghai).Format("Mon"), "in 29 days", "the oldest readings reach max_age"},
		},
		{
			"full soon",
			Forecast{Known: true, Holds: 90, HoldsLimit: "max_size", Trend: "filling", Left: 44.6, Full: 1, FullLimit: "max_size"},
			[]string{"Full at ", ", in 45 s, if it goes on like this", "holds an outage of 90 s at the present rate"},
		},
		{"full now", Forecast{Known: true, Holds: 0.3, Trend: "filling", Left: 0.3, Full: 1, FullLimit: "max_size"}, []string{"Full now, if it goes on like this", "an outage of less than a second"}},
		{"full in the first minute", Forecast{Trend: "full", Full: 1, FullLimit: "max_size"}, []string{"Full: the oldest readings are being lost, because its files reach max_size"}},
		{"slowly", Forecast{Known: true, Holds: 3650 * day, Trend: "filling"}, []string{"no limit is near"}},
		{
			"full",
			Forecast{Known: true, Holds: 3600, HoldsLimit: "disk_space", Trend: "full", Full: 1, FullLimit: "disk_space"},
			[]string{"Full: the oldest readings are being lost, because the disk is full: it has less room than max_size"},
		},
		{
			"draining",
			Forecast{Known: true, Holds: 31 * 3600, HoldsLimit: "max_size", Trend: "draining", Drained: 720, Empty: 1},
			[]string{"Empty in 12 min, at "},
		},
		{"standing", Forecast{Known: true, Holds: 31 * 3600, Trend: "standing"}, []string{"The backlog stands"}},
		{"just back", Forecast{Known: true, Holds: 31 * 3600, Trend: "unknown"}, []string{"An uplink is just back"}},
	} {
		f.change(func(s *Status) { s.Buffer.Forecast = c.f })
		awaitText(ctx, t, c.want...)
		if c.name == "draining" {
			f.change(func(s *Status) { s.Uplinks[1].Drained = 720 })
			awaitText(ctx, t, "900 waiting, all sent in 12 min")
			saveScreenshot(ctx, t, c.name)
		}
	}
}

// saveScreenshot writes a picture of the page into the directory that
// MILLRACE_SCREENSHOTS names, for people.
func saveScreenshot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("MILLRACE_SCREENSHOTS")
	if dir == "" {
		return
	}
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "console-"+name+".png"), shot, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestConnectivityInBrowser looks at the connectivity view in both languages.
func TestConnectivityInBrowser(t *testing.T) {
	t.Parallel()
	for _, size := range []struct {
		name          string
		width, height int
	}{{"desk", 1200, 1100}, {"phone", 390, 844}} {
		t.Run(size.name, func(t *testing.T) {
			t.Parallel()
			url := startConsole(t, &fakeAgent{status: plantStatus()})
			ctx := browser(t, size.width, size.height)
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(int64(size.width), int64(size.height)), chromedp.Navigate(url+"/connectivity.html")); err != nil {
				t.Fatal(err)
			}
			awaitText(ctx, t, "Equipment networking", "20.00 %", "1 / 5 machines", "1.5 points", "nothing to measure", "99.99 %", "robot-7 <b>x</b>", "75.00 %", "offline",
				"no answer <i>at all</i>", "goes on", "6 h 0 min", "The agent ended without a word", "at least 90 % of the planned time", "around the clock")
			saveScreenshot(ctx, t, "connectivity-"+size.name)
			if n := evaluate[int](ctx, t, "document.querySelectorAll('#heat rect').length"); n != 6+3 {
				t.Errorf("the heat map has %d rectangles", n)
			}
			if evaluate[bool](ctx, t, "document.querySelector('main b, main i') !== null") {
				t.Error("text from a device became markup")
			}
			evaluate[bool](ctx, t, "[...document.querySelectorAll('#tabs button')].find(b => b.textContent === '中文').click() === undefined")
			awaitText(ctx, t, "生产设备联网率", "1 / 5 台", "1.5 分", "无可统计对象", "离线", "持续中", "全天 24 小时", "此前最后一分钟未计入")
			saveScreenshot(ctx, t, "connectivity-zh-"+size.name)
			if over := evaluate[int](ctx, t, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
				t.Errorf("the page is %d pixels wider than the screen", over)
			}
		})
	}
}
