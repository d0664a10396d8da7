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
func browser(t *testing.T, width, height int) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed; run `make deps`")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(width, height))
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
			awaitText(ctx, t, "live", "plant-2 / gw-press-01", "platform", "connected", "press-1", "online", "meter-9", "is unit id 9 right?", "refused the password")
			awaitText(ctx, t, "force", "1204.5", "kN", "bad (timeout)", "not read yet", "油温") // the first device is open
			saveScreenshot(ctx, t, size.name)
			if over := evaluate[int](ctx, t, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
				t.Errorf("the page is %d pixels wider than the screen", over)
			}
			if evaluate[bool](ctx, t, "document.querySelector('main b') !== null") {
				t.Error("text from a device became markup")
			}
			f.change(func(s *Status) {
				s.Devices[1].State, s.Devices[1].Reason = "online", ""
				s.Buffer.Error = "no space left on device"
			})
			awaitText(ctx, t, "2 online", "holds new readings in memory only: no space left on device")
		})
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
