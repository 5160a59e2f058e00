package lagprobe_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/pgherdtest"
)

// slack is what a lag may be overrated in the steady state, beside the interval:
// answers, and a machine that has other things to do.
const slack = 500 * time.Millisecond

// A heart commits numbers, one after the other, and knows by the clock of this
// process when each was acknowledged.
type heart struct {
	t  *testing.T
	db *sql.DB // of the primary

	mu    sync.Mutex
	acked []time.Time // by number; zero where nobody knows whether it was committed; guarded by mu
}

func newHeart(t *testing.T, db *sql.DB) *heart {
	t.Helper()
	h := &heart{t: t, db: db, acked: []time.Time{time.Now()}}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE heart AS SELECT 0::bigint AS n`); err != nil {
		t.Fatal(err)
	}
	return h
}

// start makes the heart beat, with random pauses, until stop is called.
func (h *heart) start(pause time.Duration, async bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			h.beat(async)
			select {
			case <-ctx.Done():
			case <-time.After(rand.N(pause)):
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (h *heart) beat(async bool) {
	h.mu.Lock()
	n := len(h.acked)
	h.mu.Unlock()
	commit := "on"
	if async {
		commit = "off"
	}
	// One statement, so that the setting and the commit are of one transaction.
	_, err := h.db.ExecContext(context.Background(),
		`UPDATE heart SET n = $1 FROM set_config('synchronous_commit', $2, true)`, n, commit)
	at := time.Now()
	if err != nil {
		at = time.Time{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, at)
}

// by returns the last number that was acknowledged by t.
func (h *heart) by(t time.Time) (last int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := len(h.acked) - 1; n > 0; n-- {
		if at := h.acked[n]; !at.IsZero() && !at.After(t) {
			return int64(n)
		}
	}
	return 0
}

// lag returns for how long there has been something newer than n.
func (h *heart) lag(n int64, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n++; n < int64(len(h.acked)); n++ { // n itself may not be acknowledged yet
		if at := h.acked[n]; !at.IsZero() {
			return now.Sub(at)
		}
	}
	return 0
}

// A witness compares what a prober claims of a standby with what it shows.
type witness struct {
	*heart
	view *view
	of   *pgherdtest.Server
	db   *sql.DB // of the standby
}

// look takes a claim, and then looks at the standby. The claim must not say more
// than is to be seen there. It returns the claimed and the true lag; not ok if
// there is no claim, or nothing to be seen.
func (w *witness) look() (claim, truth time.Duration, ok bool) {
	w.t.Helper()
	st, found := w.view.server(w.of.Name())
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	var n int64
	if err := w.db.QueryRowContext(ctx, `SELECT n FROM heart`).Scan(&n); err != nil || !found || st.Fresh.IsZero() {
		return 0, 0, false
	}
	now := time.Now()
	claim, truth = now.Sub(st.Fresh), w.lag(n, now)
	if must := w.by(st.Fresh); n < must {
		w.t.Fatalf("%s shows %d and is claimed to be fresh as of %v ago, by when %d was committed\n%s",
			st.Name, n, claim, must, text(*w.view.last.Load()))
	}
	return claim, truth, true
}

// see looks until the true lag has been between least and most for a while, with
// the claimed one near it. It may not be near it all the time: the machine may
// be busy.
func (w *witness) see(what string, least, most time.Duration) {
	w.t.Helper()
	var claim, truth, worst time.Duration
	var looks, near int
	for end := time.Now().Add(time.Minute); near < 20; time.Sleep(interval / 5) {
		var ok bool
		claim, truth, ok = w.look()
		looks++
		if ok && truth >= least && truth <= most && claim <= truth+interval+slack {
			near++
			worst = max(worst, claim-truth)
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: near the truth in %d of %d looks; at last %v is claimed and %v is true\n%s",
				what, near, looks, claim, truth, text(*w.view.last.Load()))
		}
	}
	w.t.Logf("%s: %d looks, lag %v when it was %v, overrated by %v at most", what, looks, claim, truth, worst)
}

// lags sees a lag of at least least, fresh sees none to speak of.
func (w *witness) lags(what string, least time.Duration) { w.t.Helper(); w.see(what, least, time.Hour) }
func (w *witness) fresh(what string)                     { w.t.Helper(); w.see(what, 0, 300*time.Millisecond) }

// server returns what is known of a server.
func (v *view) server(name string) (lagprobe.Status, bool) {
	for _, st := range v.last.Load().Servers {
		if st.Name == name {
			return st, true
		}
	}
	return lagprobe.Status{}, false
}

// TestTruth holds the lag that is claimed to the lag that there is, in each of
// the ways in which there may be one. It takes its time, so several herds share
// them. A wrong clock is set in the environment, which all share: where clocks are
// wrong no other herd may start.
func TestTruth(t *testing.T) {
	t.Run("clocks", func(t *testing.T) { testTruth(t, 0) })
	for herd := 1; herd <= 2; herd++ {
		t.Run(fmt.Sprint("herd ", herd), func(t *testing.T) {
			t.Parallel()
			testTruth(t, herd)
		})
	}
}

// testTruth has one herd go through its cases.
func testTruth(t *testing.T, number int) {
	// The WAL writer is slow, so that commits which are acknowledged before they
	// are flushed stay so for long.
	herd := pgherdtest.Start(t, pgherdtest.Replicas(2), pgherdtest.Settings(map[string]string{"wal_writer_delay": "2s"}))
	primary, standby := herd.Primary(), herd.Replica(2)
	db := open(t, primary.DSN())
	h := newHeart(t, db)
	if _, err := db.ExecContext(t.Context(), `CREATE ROLE plain LOGIN; GRANT SELECT ON heart TO plain; CREATE TABLE filler (s text)`); err != nil {
		t.Fatal(err)
	}
	if err := herd.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := probe(t, herd, "plain")
	w := &witness{heart: h, view: v, of: standby, db: open(t, standby.DSN())}
	do := func(err error) {
		t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	const (
		quick  = 20 * time.Millisecond
		sparse = 2 * time.Second
	)
	paused := func() {
		do(standby.PauseReplay(t.Context()))
		w.lags("paused", 2*time.Second)
		do(standby.ResumeReplay(t.Context()))
		w.fresh("caught up")
	}
	for _, c := range []struct {
		herd  int
		name  string
		pause time.Duration // of the heart; 0 if the primary is idle
		async bool
		run   func()
	}{
		{1, "idle", 0, false, func() { w.fresh("idle") }},
		{1, "busy", quick, false, func() { w.fresh("busy") }},
		{2, "busy, commits not flushed", quick, true, func() { w.fresh("busy") }},
		{2, "commits not flushed", sparse, true, func() {
			// An open transaction writes beside them.
			stop := h.clutter(primary)
			defer stop()
			w.lags("not flushed", 500*time.Millisecond)
			w.fresh("flushed")
			w.lags("not flushed", 500*time.Millisecond)
		}},
		{1, "replay paused", quick, false, paused},
		{2, "replay paused, commits not flushed", sparse, true, paused},
		{1, "cut off", quick, false, func() {
			do(standby.PartitionReplication())
			w.lags("cut off", 2*time.Second)
			do(standby.Heal())
			w.fresh("caught up")
		}},
		{1, "cut off from an idle primary", 0, false, func() {
			do(standby.PartitionReplication())
			w.fresh("cut off")
			do(standby.Heal())
			w.fresh("caught up")
		}},
		{2, "delayed", quick, false, func() {
			do(standby.ApplyDelay(t.Context(), time.Second))
			w.lags("delayed", 900*time.Millisecond)
			do(standby.ApplyDelay(t.Context(), 0))
			w.fresh("caught up")
		}},
		{1, "created from an old copy", quick, false, func() {
			v.prober.Remove(standby.Name())
			do(standby.Stop())
			_, err := db.ExecContext(t.Context(), `INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 20000)`)
			do(err)
			// It replays what it lacks, and remains late.
			do(standby.ApplyDelay(t.Context(), time.Second))
			do(v.prober.Add(lagprobe.Target{Name: standby.Name(), DB: open(t, as(standby, "plain"))}))
			started := make(chan error, 1)
			go func() { started <- standby.Start() }()
			w.lags("catching up", 900*time.Millisecond)
			do(<-started)
			do(standby.ApplyDelay(t.Context(), 0))
			w.fresh("caught up")
		}},
		{2, "created anew", quick, false, func() {
			v.prober.Remove(standby.Name())
			do(standby.Kill())
			do(v.prober.Add(lagprobe.Target{Name: standby.Name(), DB: open(t, as(standby, "plain"))}))
			created := make(chan error, 1)
			go func() { created <- standby.Follow(t.Context(), primary) }()
			w.fresh("caught up")
			do(<-created)
		}},
		{1, "primary down", 0, false, func() {
			do(primary.Kill())
			down := time.Now()
			for time.Since(down) < 2*time.Second {
				claim, _, ok := w.look()
				if st, _ := v.server(standby.Name()); !ok || st.Fresh.After(down) {
					w.t.Fatalf("%v after the primary went down, %v is claimed (%t)\n%s", time.Since(down), claim, ok, text(*v.last.Load()))
				}
				time.Sleep(interval / 5)
			}
			do(primary.Start())
			w.fresh("up again")
		}},
		{0, "clock of the standby an hour ahead", quick, false, func() {
			skew(w.t, standby, time.Hour)
			w.fresh("busy")
			paused()
		}},
		{0, "clock of the standby an hour behind", quick, false, func() {
			skew(w.t, standby, -time.Hour)
			w.fresh("busy")
			paused()
		}},
		{0, "clock of the primary an hour ahead", quick, false, func() {
			skew(w.t, primary, time.Hour)
			w.fresh("busy")
			paused()
		}},
	} {
		if c.herd != number {
			continue
		}
		if !t.Run(c.name, func(t *testing.T) {
			v.t, w.t = t, t
			if c.pause > 0 {
				stop := h.start(c.pause, c.async)
				defer stop()
			}
			c.run()
		}) {
			break
		}
	}
}

// clutter has transactions on the primary write and not commit, until stop is
// called.
func (h *heart) clutter(primary *pgherdtest.Server) (stop func()) {
	h.t.Helper()
	db := open(h.t, primary.DSN())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			tx, err := db.BeginTx(ctx, nil)
			for range 10 {
				if err == nil {
					_, err = tx.ExecContext(ctx, `INSERT INTO filler VALUES ('not to be committed')`)
				}
				select {
				case <-ctx.Done():
				case <-time.After(rand.N(time.Second)):
				}
			}
			if err == nil {
				tx.Rollback()
			}
		}
	}()
	return func() { cancel(); <-done }
}

// skew starts a server again with a clock that is wrong.
func skew(t *testing.T, s *pgherdtest.Server, by time.Duration) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the server's clock is set wrong by LD_PRELOAD, which is Linux's")
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("the server's clock is set wrong by a library that is compiled here: ", err)
	}
	dir, err := os.MkdirTemp("", "pgherd-skew") // where the server's user may read it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(dir, "skew.so")
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-o", lib, filepath.Join("testdata", "skew.c"), "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	os.Setenv("LD_PRELOAD", lib)
	os.Setenv("CLOCK_SKEW", fmt.Sprint(int(by.Seconds())))
	err = s.Start()
	os.Unsetenv("LD_PRELOAD")
	os.Unsetenv("CLOCK_SKEW")
	if err != nil {
		t.Fatal(err)
	}
	var seconds float64
	db := open(t, s.DSN())
	if err := db.QueryRowContext(t.Context(), `SELECT extract(epoch FROM clock_timestamp())::float8`).Scan(&seconds); err != nil {
		t.Fatal(err)
	}
	if wrong := seconds - float64(time.Now().Unix()) - by.Seconds(); wrong < -60 || wrong > 60 {
		t.Fatalf("the clock of %s is not wrong by %v, but by %.0f s more", s.Name(), by, wrong)
	}
}
