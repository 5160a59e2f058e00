package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// inOrder sends reads to r1 first, and hedges them after d.
func inOrder(d pgherd.HedgeDelay) func(*pgherd.Config) {
	return func(c *pgherd.Config) { c.LoadBalanceHosts, c.HedgeAfter = routing.InOrder, d }
}

func (f *fake) statements() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.texts)
}

// timed returns how long a read took, and what came of it.
func (h *fakeHerd) timed(ctx context.Context, args ...any) (time.Duration, error) {
	begun := time.Now()
	err := h.db.QueryRowContext(ctx, "select n from t", args...).Scan(new(bool))
	return time.Since(begun), err
}

// A read that one replica is slow to answer is answered by another one after the
// delay, and the first is left with nothing to do.
func TestHedgedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 50 * time.Millisecond}))
		r1, r2 := h.replicas[0], h.replicas[1]
		if took, err := h.timed(t.Context()); took != 0 || err != nil {
			t.Errorf("a read that is answered at once took %v: %v", took, err)
		}
		r1.set(func(f *fake) { f.does = takes(time.Hour) })
		r2.set(func(f *fake) { f.does = takes(3 * time.Millisecond) })
		if took, err := h.timed(t.Context()); took != 53*time.Millisecond || err != nil {
			t.Errorf("it took %v: %v", took, err)
		}
		synctest.Wait()
		for _, s := range h.c.Stats().Servers {
			if s.InFlight != 0 || s.Pool.InUse > 1 { // the probe has one
				t.Errorf("%s: %d statements in flight, %d connections in use", s.Name, s.InFlight, s.Pool.InUse)
			}
		}
		// The first one may still be the sooner.
		r1.set(func(f *fake) { f.does = takes(60 * time.Millisecond) })
		r2.set(func(f *fake) { f.does = takes(time.Hour) })
		if took, err := h.timed(t.Context()); took != 60*time.Millisecond || err != nil {
			t.Errorf("it took %v: %v", took, err)
		}
		if s := h.c.Stats(); s.Hedges != 2 || s.HedgesWon != 1 || s.HedgesSuppressed != 0 {
			t.Errorf("%d hedges, %d won, %d suppressed", s.Hedges, s.HedgesWon, s.HedgesSuppressed)
		}
		if a, b := len(r1.statements()), len(r2.statements()); a != 3 || b != 2 {
			t.Errorf("%d and %d statements", a, b)
		}
	})
}

// Nothing but a read outside of transactions and session state goes to two servers.
func TestWriteIsNeverHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: time.Millisecond}), func(c *pgherd.Config) {
			c.Consistency = pgherd.ConsistencyEventual
		})
		all := append([]*fake{h.primary}, h.replicas...)
		for _, f := range all {
			f.set(func(f *fake) { f.does = takes(100 * time.Millisecond) })
		}
		ctx := t.Context()
		query := func(q queryer, text string) {
			t.Helper()
			if err := q.QueryRowContext(ctx, text).Scan(new(bool)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		query(h.db, "select 0")
		for _, text := range []string{
			"insert into t values (1) returning n", "update t set n = 2 returning n", "select n from t for update",
			"select nextval('s')", "select pg_advisory_lock(1)", "select f()", "with x as (delete from t returning n) select n from x",
		} {
			query(h.db, text)
		}
		mustExec(t, h.db, "insert into t values (2)")
		for _, ro := range []bool{false, true} {
			tx, err := h.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: ro})
			if err != nil {
				t.Fatal(err)
			}
			query(tx, fmt.Sprintf("select 1 as read_only_%v", ro))
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := h.db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, conn, "set work_mem = '8MB'")
		query(conn, "select 1 as pinned")
		conn.Close()
		query(h.db, "/* pgherd: primary */ select 1")

		sent := make(map[string]int)
		for _, f := range all {
			for _, text := range f.statements() {
				sent[text]++
			}
		}
		if len(sent) != 14 {
			t.Errorf("%d texts were sent: %v", len(sent), sent)
		}
		for text, n := range sent {
			if want := 1 + strings.Count(text, "select 0"); n != want {
				t.Errorf("%q was sent %d times, want %d", text, n, want)
			}
		}
	})
}

// The budget lets one in ten reads ask a second server, and a few more at first.
func TestHedgeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
		h.replicas[0].set(func(f *fake) { f.does = takes(30 * time.Millisecond) })
		const reads = 2000
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range reads / 10 {
					if _, err := h.timed(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		s := h.c.Stats()
		if s.Hedges < reads/10 || s.Hedges > reads/10+10 || s.Hedges+s.HedgesSuppressed != reads {
			t.Errorf("%d hedges and %d suppressed in %d slow reads", s.Hedges, s.HedgesSuppressed, reads)
		}
		if n := len(h.replicas[1].statements()); n != int(s.Hedges) {
			t.Errorf("the second server got %d statements", n)
		}
	})
}

// A second server must be one that the read may run on, works, and has room.
func TestHedgeNeedsAServer(t *testing.T) {
	slow := takes(100 * time.Millisecond)
	after := inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond})
	for name, tt := range map[string]struct {
		replicas int
		change   func(*pgherd.Config)
		prepare  func(t *testing.T, h *fakeHerd)
	}{
		"none": {replicas: 1},
		"ejected": {2, func(c *pgherd.Config) { c.LoadBalanceHosts = routing.RoundRobin }, func(t *testing.T, h *fakeHerd) {
			h.replicas[1].set(func(f *fake) { f.does = fails })
			h.read(t, 2*time.Second, 1)
			if got := h.ejected(); !slices.Equal(got, []string{"r2"}) {
				t.Fatalf("%v are ejected", got)
			}
		}},
		"down": {2, nil, func(_ *testing.T, h *fakeHerd) {
			h.replicas[1].set(func(f *fake) { f.frozen = true })
			time.Sleep(5 * time.Second)
		}},
		"down, and nobody else may": {2, func(c *pgherd.Config) { c.ReadPreference = routing.OnlyStandby }, func(_ *testing.T, h *fakeHerd) {
			h.replicas[1].set(func(f *fake) { f.frozen = true })
			time.Sleep(5 * time.Second)
		}},
		"late": {2, nil, func(_ *testing.T, h *fakeHerd) {
			h.primary.set(func(f *fake) { f.lsn++ })
			h.replicas[0].set(func(f *fake) { f.lsn++ })
			time.Sleep(15 * time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.change == nil {
					tt.change = func(*pgherd.Config) {}
				}
				h := newFakeHerd(t, tt.replicas, after, tt.change)
				if tt.prepare != nil {
					tt.prepare(t, h)
				}
				before := h.c.Stats().Hedges
				h.replicas[0].set(func(f *fake) { f.does = slow })
				if took, err := h.timed(t.Context()); took != 100*time.Millisecond || err != nil {
					t.Errorf("it took %v: %v", took, err)
				}
				if n := h.c.Stats().Hedges - before; n != 0 {
					t.Errorf("%d hedges", n)
				}
			})
		})
	}
	t.Run("full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHerd(t, 2, after, func(c *pgherd.Config) { c.PoolMaxConns = 2 }) // one is the probe's
			h.replicas[0].set(func(f *fake) { f.does = slow })
			h.replicas[1].set(func(f *fake) { f.does = slow })
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { h.timed(t.Context()) })
				synctest.Wait()
			}
			wg.Wait()
			if s := h.c.Stats(); s.Hedges != 0 || s.HedgesSuppressed != 2 {
				t.Errorf("%d hedges, %d suppressed", s.Hedges, s.HedgesSuppressed)
			}
		})
	})
	t.Run("one that is back soon", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 100 * time.Millisecond}))
			h.replicas[1].set(func(f *fake) { f.frozen = true })
			time.Sleep(5 * time.Second)
			h.replicas[0].set(func(f *fake) { f.does = takes(time.Hour) })
			h.replicas[1].set(func(f *fake) { f.does = takes(0) })
			time.AfterFunc(time.Second, func() { h.replicas[1].set(func(f *fake) { f.frozen = false }) })
			if took, err := h.timed(t.Context()); took < time.Second || took > 10*time.Second || err != nil {
				t.Errorf("it took %v: %v", took, err)
			}
		})
	})
	t.Run("the primary where it takes part", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHerd(t, 1, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}), func(c *pgherd.Config) {
				c.ReadPreference, c.LoadBalanceHosts = routing.AnyServer, routing.RoundRobin
			})
			h.replicas[0].set(func(f *fake) { f.does = slow })
			for range 2 {
				if took, err := h.timed(t.Context()); took > 10*time.Millisecond || err != nil {
					t.Errorf("it took %v: %v", took, err)
				}
			}
		})
	})
}

// Where one server fails the other one decides; where both do, the first.
func TestHedgeErrors(t *testing.T) {
	failsAfter := func(d time.Duration, err error) func(context.Context) error {
		return func(ctx context.Context) error { return errors.Join(takes(d)(ctx), err) }
	}
	first, second := errors.New("first"), errors.New("second")
	for name, tt := range map[string]struct {
		r1, r2 func(context.Context) error
		took   time.Duration
		err    error
	}{
		"before the delay": {failsAfter(5*time.Millisecond, first), nil, 5 * time.Millisecond, first},
		"the first":        {failsAfter(20*time.Millisecond, first), takes(20 * time.Millisecond), 30 * time.Millisecond, nil},
		"the second":       {takes(40 * time.Millisecond), failsAfter(20*time.Millisecond, second), 40 * time.Millisecond, nil},
		"both":             {failsAfter(20*time.Millisecond, first), failsAfter(20*time.Millisecond, second), 30 * time.Millisecond, first},
		"both, in turn":    {failsAfter(40*time.Millisecond, first), failsAfter(5*time.Millisecond, second), 40 * time.Millisecond, first},
		"both break":       {failsAfter(40*time.Millisecond, errReset), failsAfter(5*time.Millisecond, errReset), 40 * time.Millisecond, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
				h.replicas[0].set(func(f *fake) { f.does = tt.r1 })
				h.replicas[1].set(func(f *fake) { f.does = tt.r2 })
				if took, err := h.timed(t.Context()); took != tt.took || !errors.Is(err, tt.err) || tt.err == nil && err != nil {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A trial is hedged like any read. That another server was the first to answer
// ends no ejection.
func TestHedgedTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
		r1 := h.replicas[0]
		r1.set(func(f *fake) { f.does = fails })
		h.read(t, 3*time.Second, 1)
		if got := h.ejected(); !slices.Equal(got, []string{"r1"}) {
			t.Fatalf("%v are ejected", got)
		}
		r1.set(func(f *fake) { f.does, f.came = takes(time.Hour), nil })
		time.Sleep(5 * time.Second)
		for range 50 {
			if took, err := h.timed(t.Context()); took > 10*time.Millisecond || err != nil {
				t.Errorf("it took %v: %v", took, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(r1.arrivals()); n < 3 || n > 6 || len(h.ejected()) != 1 {
			t.Errorf("it was tried out %d times in five seconds, and %v are ejected", n, h.ejected())
		}
		r1.set(func(f *fake) { f.does = nil })
		h.read(t, 2*time.Second, 1)
		if got := h.ejected(); len(got) != 0 {
			t.Errorf("%v are ejected after a trial that was answered", got)
		}
	})
}

// The end of the caller's context ends both halves.
func TestHedgeEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
		for _, r := range h.replicas {
			r.set(func(f *fake) { f.does = takes(time.Hour) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if took, err := h.timed(ctx); took != 50*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
		synctest.Wait()
		for _, s := range h.c.Stats().Servers {
			if s.InFlight != 0 || s.Failures != 0 {
				t.Errorf("%s: %d in flight, %d failures", s.Name, s.InFlight, s.Failures)
			}
		}
	})
}

// The delay is the percentile of what reads take, and there is none before that is
// known.
func TestHedgePercentile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Percentile: 90}))
		r1 := h.replicas[0]
		r1.set(func(f *fake) { f.does = takes(200 * time.Millisecond) })
		if took, err := h.timed(t.Context()); took != 200*time.Millisecond || err != nil {
			t.Errorf("the first read took %v: %v", took, err)
		}
		r1.set(func(f *fake) { f.does = takes(4 * time.Millisecond) })
		h.read(t, 20*time.Second, 2)
		r1.set(func(f *fake) { f.does = takes(time.Second) })
		if took, err := h.timed(t.Context()); took < 4*time.Millisecond || took > 6*time.Millisecond || err != nil {
			t.Errorf("a slow read took %v: %v", took, err)
		}
		h.read(t, 10*time.Minute, 2) // if all are slow, that is the usual
		if took, err := h.timed(t.Context()); took < 500*time.Millisecond || err != nil {
			t.Errorf("a read that is as slow as all took %v: %v", took, err)
		}
	})
}

// What the caller does with its memory after the answer does not reach the slower
// server. The race detector sees to that.
func TestHedgeOwnsItsArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
		late := make(chan string, 2)
		h.replicas[0].set(func(f *fake) {
			f.withArgs = func(ctx context.Context, args []any) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				late <- fmt.Sprintf("%s %v", args[0], args[1])
				return ctx.Err()
			}
		})
		a, b := []byte("a"), []int64{1}
		if took, err := h.timed(t.Context(), a, b); took != 10*time.Millisecond || err != nil {
			t.Errorf("it took %v: %v", took, err)
		}
		a[0], b[0] = 'b', 2
		if got := <-late; got != "a [1]" {
			t.Errorf("the slower server was sent %s", got)
		}
		// What cannot be copied waits for its one server.
		n := 1
		h.replicas[0].set(func(f *fake) { f.withArgs, f.does = nil, takes(time.Second) })
		if took, err := h.timed(t.Context(), &n); took != time.Second || err != nil {
			t.Errorf("with a pointer it took %v: %v", took, err)
		}
	})
}

// Close waits for what a hedged read has left running.
func TestCloseWaitsForHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, inOrder(pgherd.HedgeDelay{Fixed: 10 * time.Millisecond}))
		ended := false
		h.replicas[0].set(func(f *fake) {
			f.does = func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				ended = true
				return ctx.Err()
			}
		})
		if _, err := h.timed(t.Context()); err != nil {
			t.Error(err)
		}
		if err := h.db.Close(); err != nil {
			t.Error(err)
		}
		if !ended {
			t.Error("a statement still runs")
		}
	})
}

// On real servers: the answer comes after about the delay, and the slower server's
// connection is there for the next statement.
func TestHedgeKeepsTheConnection(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, d.DSN(), "load_balance_hosts=disable", "hedge_after=50ms", "application_name=hedger", "pool_max_conns=1",
		"read_only_functions=who")
	mustExec(t, db, `create function who(awake bool) returns text language sql as
		$$ select current_setting('cluster_name') from pg_sleep(case when $1 or current_setting('cluster_name') = 'replica2' then 0 else 60 end) $$`)
	const read = "select who($1)"
	admin, err := sql.Open("pgx", d.ServerDSN(h.Replica(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	const backends = "from pg_stat_activity where application_name = 'hedger' and query = 'select who($1)'"
	eventually(t, "the first replica serves reads", func() bool { return get[string](t, db, read, true) == "replica1" })
	pid := get[int](t, admin, "select pid "+backends)
	c := herdOf(t, db)
	for range 5 {
		begun := time.Now()
		if s := get[string](t, db, read, false); s != "replica2" {
			t.Fatalf("it ran on %s", s)
		}
		t.Logf("answered after %v", time.Since(begun))
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		eventually(t, "the slower server is idle", func() bool {
			return get[string](t, admin, "select string_agg(pid || ' ' || state, ',') "+backends) == fmt.Sprintf("%d idle", pid) &&
				c.Stats().Servers[1].InFlight == 0
		})
	}
	if s := c.Stats(); s.Hedges < 5 || s.HedgesWon < 5 || s.Retries != 0 {
		t.Errorf("%d hedges, %d won, %d retries", s.Hedges, s.HedgesWon, s.Retries)
	}
	for _, s := range c.Stats().Servers {
		if s.Failures != 0 {
			t.Errorf("%s: %d failures", s.Name, s.Failures)
		}
	}
}

// Reads do not wait for the probe to find out that a replica is frozen.
func TestHedgePassesFrozenReplica(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN(), "load_balance_hosts=disable", "hedge_after=20ms", "lag_check_interval=1h", "lag_check_timeout=10m", "max_lag=0s",
		"read_only_functions=who", "consistency=eventual") // else the other replica may not be known to hold the function, for an hour
	mustExec(t, db, "create function who() returns text language sql as $$ select current_setting('cluster_name') $$")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	const read = "select who() from generate_series(1, 100)"
	eventually(t, "the first replica serves reads", func() bool { return get[string](t, db, read) == "replica1" })
	if err := h.Replica(1).Freeze(); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query(read)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var s string
		if err := rows.Scan(&s); err != nil || s != "replica2" {
			t.Fatalf("row %d is of %s: %v", n, s, err)
		}
	}
	if err := rows.Err(); n != 100 || err != nil {
		t.Errorf("%d rows: %v", n, err)
	}
	if err := h.Replica(1).Thaw(); err != nil {
		t.Fatal(err)
	}
}
