package pgherd_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd"
)

// What becomes of servers is logged once, when it changes, and blips are not.
func TestServersAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := newFakeHerd(t, 2, func(c *pgherd.Config) {
			c.MaxLag = 5 * time.Second
			c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				switch a.Key {
				case slog.TimeKey, "error", "after", "lag":
					return slog.Attr{} // they vary
				}
				return a
			}}))
		})
		expect := func(what string, lines ...string) {
			t.Helper()
			synctest.Wait()
			want := strings.Join(lines, "\n")
			if got := strings.TrimSpace(log.String()); got != want {
				t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
			}
			log.Reset()
		}
		time.Sleep(time.Minute)
		expect("all is well")

		h.replicas[0].set(func(f *fake) { f.frozen = true })
		time.Sleep(time.Minute)
		expect("frozen", `level=WARN msg="pgherd: a server does not serve" server=r1 role=replica why=down`)
		h.replicas[0].set(func(f *fake) { f.frozen = false })
		time.Sleep(time.Minute)
		expect("thawed", `level=INFO msg="pgherd: a server serves again" server=r1 role=replica was=down`)

		h.primary.set(func(f *fake) { f.lsn += 100 })
		h.replicas[0].set(func(f *fake) { f.lsn += 100 })
		time.Sleep(time.Minute)
		expect("late", `level=WARN msg="pgherd: a server does not serve" server=r2 role=replica why=lag`)
		h.replicas[1].set(func(f *fake) { f.lsn += 100 })
		time.Sleep(time.Minute)
		expect("caught up", `level=INFO msg="pgherd: a server serves again" server=r2 role=replica was=lag`)

		if err := h.c.Drain(t.Context(), "r2"); err != nil {
			t.Fatal(err)
		}
		if err := h.c.Undrain("r2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		expect("a blip")

		h.primary.set(func(f *fake) { f.frozen = true })
		h.replicas[0].set(func(f *fake) { f.standby = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		out := log.String()
		for _, line := range []string{`a server has another role now" server=r1 role=primary`, `a server does not serve" server=primary role=`} {
			if strings.Count(out, line) != 1 {
				t.Errorf("promoted: want one line with %q in\n%s", line, out)
			}
		}
	})
}
