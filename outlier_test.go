package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// A fake is a server without a socket, so that a test can have virtual time. It
// answers the probe as a server does that is up to date.
type fake struct {
	standby bool

	mu      sync.Mutex                      // guards what follows
	connect func() error                    // what a new connection meets; nil for nothing
	frozen  bool                            // nothing is answered, the probe's questions included
	does    func(ctx context.Context) error // a statement; nil for an answer at once
	came    []time.Time                     // when statements did
	lsn     int64                           // beyond that of others

	withArgs func(ctx context.Context, args []any) error // a statement, instead of does
	texts    []string                                    // of statements
}

var errReset = &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}

func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) arrivals() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.came)
}

func (f *fake) Driver() driver.Driver { return nil }

func (f *fake) Connect(context.Context) (driver.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.connect != nil {
		if err := f.connect(); err != nil {
			return nil, err
		}
	}
	return fakeConn{f}, nil
}

type fakeConn struct{ f *fake }

func (c fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c fakeConn) Begin() (driver.Tx, error)           { return fakeTx{}, nil }
func (c fakeConn) Close() error                        { return nil }

type fakeTx struct{}

func (fakeTx) Commit() error   { return nil }
func (fakeTx) Rollback() error { return nil }

func (c fakeConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return fakeTx{}, nil
}

func (c fakeConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	_, err := c.f.run(ctx, query, args)
	return driver.RowsAffected(1), err
}

func (c fakeConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.f.run(ctx, query, args)
}

// CheckNamedValue lets everything pass, as pgx does.
func (c fakeConn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (f *fake) run(ctx context.Context, query string, args []driver.NamedValue) (*fakeRows, error) {
	f.mu.Lock()
	frozen, does, lsn := f.frozen, f.does, f.lsn
	if f.withArgs != nil {
		withArgs := f.withArgs
		does = func(ctx context.Context) error {
			var values []any
			for _, a := range args {
				values = append(values, a.Value)
			}
			return withArgs(ctx, values)
		}
	}
	question := strings.Contains(query, "pg_is_in_recovery()")
	if !question {
		f.came = append(f.came, time.Now())
		f.texts = append(f.texts, query)
	}
	f.mu.Unlock()
	if frozen {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	switch {
	case question:
		// As lagprobe asks: the role, where its log is and on which timeline, then
		// what tells of open transactions.
		lsn += 1 << 24
		row := []driver.Value{f.standby, lsn, int64(1), int64(1), lsn, lsn, int64(200)}
		if strings.Contains(query, "system_identifier") {
			row = append(row, int64(7), int64(150018), int64(8192), int64(16<<20))
		}
		return &fakeRows{row: row}, nil
	case does != nil:
		if err := does(ctx); err != nil {
			return nil, err
		}
	}
	return &fakeRows{row: []driver.Value{f.standby}}, nil
}

type fakeRows struct{ row []driver.Value }

func (r *fakeRows) Columns() []string { return make([]string, len(r.row)) }
func (r *fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(dest []driver.Value) error {
	if r.row == nil {
		return io.EOF
	}
	copy(dest, r.row)
	r.row = nil
	return nil
}

// fails is what a statement meets on a server that breaks connections.
func fails(context.Context) error { return errReset }

// takes is a statement of that length.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A fakeHerd is a primary and replicas r1, r2, … that are asked for what they are.
type fakeHerd struct {
	db       *sql.DB
	c        *pgherd.Connector
	primary  *fake
	replicas []*fake
	handles  []*sql.DB
}

func newFakeHerd(t *testing.T, replicas int, change ...func(*pgherd.Config)) *fakeHerd {
	t.Helper()
	cfg := pgherd.NewConfig()
	cfg.CatalogOff, cfg.PoolMaxConns = true, 100
	for _, f := range change {
		f(cfg)
	}
	h := &fakeHerd{primary: new(fake)}
	member := func(name string, f *fake) pgherd.Member {
		db := sql.OpenDB(f)
		db.SetMaxOpenConns(cfg.PoolMaxConns)
		db.SetMaxIdleConns(cfg.PoolMaxConns)
		h.handles = append(h.handles, db)
		return pgherd.Member{Name: name, DB: db}
	}
	members := []pgherd.Member{member("primary", h.primary)}
	for i := range replicas {
		f := &fake{standby: true}
		h.replicas = append(h.replicas, f)
		members = append(members, member("r"+string(rune('1'+i)), f))
	}
	var err error
	if h.c, err = pgherd.NewConnector(cfg, members...); err != nil {
		t.Fatal(err)
	}
	h.db = sql.OpenDB(h.c)
	h.db.SetMaxIdleConns(100)
	t.Cleanup(func() {
		h.db.Close()
		for _, db := range h.handles {
			db.Close()
		}
	})
	if err := h.db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// read reads every few milliseconds for a time, by several readers, and fails the
// test if a read fails.
func (h *fakeHerd) read(t *testing.T, d time.Duration, readers int) {
	t.Helper()
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := h.db.QueryRowContext(t.Context(), "select n from t").Scan(new(bool)); err != nil {
					t.Errorf("a read failed: %v", err)
					return
				}
				time.Sleep(47 * time.Millisecond)
			}
		})
	}
	wg.Wait()
}

func (h *fakeHerd) health(t *testing.T, name string) pgherd.ServerHealth {
	t.Helper()
	for _, s := range h.c.Health().Servers {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no server %s", name)
	return pgherd.ServerHealth{}
}

func (h *fakeHerd) ejected() []string {
	return h.c.Explain(context.Background(), "select n from t").Ejected
}

// A replica that answers the probe and breaks the connections of statements is
// tried ever more seldom, and no read fails for it.
func TestFailingReplicaIsEjected(t *testing.T) {
	refuse := func(f *fake) {
		f.does = fails
		f.connect = func() error { return &pgconn.PgError{Code: "53300", Message: "sorry, too many clients already"} }
	}
	for name, breaks := range map[string]func(*fake){
		"resets":  func(f *fake) { f.does = fails },
		"refuses": refuse,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHerd(t, 2)
				r1 := h.replicas[0]
				h.read(t, time.Second, 4)
				r1.set(breaks)
				broke := len(r1.arrivals())
				h.read(t, 5*time.Minute, 2)
				var gaps []time.Duration
				came := r1.arrivals()[broke:]
				for i := 1; i < len(came); i++ {
					gaps = append(gaps, came[i].Sub(came[i-1]))
				}
				t.Logf("tried again after %v", gaps)
				time.Sleep(2 * time.Second) // the last trial may have just failed, and the probe has to ask then
				if n := len(gaps); name == "resets" && (n < 8 || n > 14) {
					t.Errorf("it got %d statements in five minutes", n)
				}
				if s := h.health(t, "r1"); !s.Up || !strings.Contains(s.Ejected, "connection failures") || time.Until(s.Trial) > 91*time.Second {
					t.Errorf("health: %+v", s)
				}
				if got := h.ejected(); !slices.Equal(got, []string{"r1"}) {
					t.Errorf("Explain has %v for ejected", got)
				}
				if n := h.c.Stats().Servers[1].Ejections; n != 1 {
					t.Errorf("%d ejections, want one", n)
				}
			})
		})
	}
}

// The time out doubles with each trial that fails, up to a bound, and by chance
// is longer by up to a half.
func TestEjectionTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2)
		r1 := h.replicas[0]
		r1.set(func(f *fake) { f.does = fails })
		h.read(t, 6*time.Minute, 1)
		came := r1.arrivals()
		least := time.Second
		for i := 2; i < len(came); i++ {
			gap := came[i].Sub(came[i-1])
			if gap < least || gap > least*3/2+100*time.Millisecond {
				t.Errorf("trial %d came after %v, want %v and up to a half more", i-1, gap, least)
			}
			least = min(2*least, time.Minute)
		}
		if len(came) < 9 {
			t.Errorf("only %d statements", len(came))
		}
	})
}

// A server that works again gets one statement. If that is answered, others follow,
// few at first.
func TestEjectedReplicaIsTriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2)
		r1 := h.replicas[0]
		h.read(t, time.Second, 4)
		r1.set(func(f *fake) { f.does = fails })
		h.read(t, 5*time.Second, 8)
		if len(h.ejected()) == 0 {
			t.Fatal("nobody is ejected")
		}
		r1.set(func(f *fake) { f.does, f.came = takes(900*time.Millisecond), nil })
		var readers sync.WaitGroup
		readers.Go(func() { h.read(t, 10*time.Second, 8) })
		for len(r1.arrivals()) == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(800 * time.Millisecond)
		if n := len(r1.arrivals()); n != 1 {
			t.Errorf("%d statements try it out, want one", n)
		}
		r1.set(func(f *fake) { f.does = nil })
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if got := h.ejected(); len(got) != 0 {
			t.Errorf("%v are ejected after the trial", got)
		}
		r1.set(func(f *fake) { f.came = nil })
		time.Sleep(time.Second)
		first := len(r1.arrivals())
		readers.Wait()
		h.read(t, 10*time.Second, 8)
		r1.set(func(f *fake) { f.came = nil })
		h.read(t, time.Second, 8)
		if last := len(r1.arrivals()); first == 0 || first > last/2 {
			t.Errorf("%d statements in the first second after its return, and %d in a later one", first, last)
		}
	})
}

// A trial that takes long, or that its caller cancels, keeps nobody from trying
// again, and says nothing about the server.
func TestTrialWithoutVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2)
		r1 := h.replicas[0]
		r1.set(func(f *fake) { f.does = fails })
		h.read(t, 5*time.Second, 2)
		r1.set(func(f *fake) { f.does, f.came = takes(time.Hour), nil })
		cancelled := 0
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if err := h.db.QueryRowContext(ctx, "select n from t").Scan(new(bool)); err != nil {
				cancelled++
			}
			cancel()
			time.Sleep(20 * time.Millisecond)
		}
		if n := len(r1.arrivals()); n < 3 || n != cancelled {
			t.Errorf("it was tried %d times, and %d callers waited for it in vain", n, cancelled)
		}
		if s := h.health(t, "r1"); s.Ejected == "" || time.Until(s.Trial) > time.Second {
			t.Errorf("its callers' ends count: %+v", s)
		}
	})
}

// Callers that do not wait are no evidence, however many they are.
func TestCancellationsEjectNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2)
		h.replicas[0].set(func(f *fake) { f.does = takes(time.Hour) })
		for range 3000 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			h.db.QueryRowContext(ctx, "select n from t").Scan(new(bool))
			cancel()
		}
		if s := h.c.Stats().Servers[1]; s.Ejections != 0 || s.Failures != 0 {
			t.Errorf("%d ejections, %d failures", s.Ejections, s.Failures)
		}
	})
}

// No more than half of the replicas are ejected, and never the last one, whatever
// becomes of the others.
func TestEjectionIsBounded(t *testing.T) {
	for replicas, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 5: 2} {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHerd(t, replicas, func(c *pgherd.Config) { c.LoadBalanceHosts = routing.RoundRobin })
			for _, r := range h.replicas {
				r.set(func(f *fake) { f.does = fails })
			}
			ejected := 0
			for range 20 {
				h.read(t, time.Second, 2)
				time.Sleep(time.Second) // they are asked, and are up
				ejected = max(ejected, len(h.ejected()))
			}
			if ejected != most {
				t.Errorf("up to %d of %d failing replicas are ejected, want %d", ejected, replicas, most)
			}
		})
	}
	t.Run("the other one goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHerd(t, 2)
			h.replicas[0].set(func(f *fake) { f.does = fails })
			h.read(t, 2*time.Second, 2)
			if got := h.ejected(); len(got) != 1 {
				t.Fatalf("%v are ejected", got)
			}
			h.replicas[0].set(func(f *fake) { f.does, f.came = nil, nil })
			h.replicas[1].set(func(f *fake) { f.frozen = true })
			time.Sleep(3 * time.Second)
			if got := h.ejected(); len(got) != 0 {
				t.Errorf("%v are ejected while no other replica answers", got)
			}
			h.read(t, time.Second, 2)
			if n := len(h.replicas[0].arrivals()); n < 30 {
				t.Errorf("the only replica that answers got %d reads", n)
			}
		})
	})
}

// A restart is no series of failures: a replica that comes back is not ejected.
func TestOneFailureEjectsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2)
		for range 3 {
			h.replicas[0].set(func(f *fake) { f.does = fails })
			var wg sync.WaitGroup
			for range 40 { // at once
				wg.Go(func() {
					if err := h.db.QueryRowContext(t.Context(), "select n from t").Scan(new(bool)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			h.replicas[0].set(func(f *fake) { f.does = nil })
			h.read(t, 2*time.Minute, 1)
		}
		if s := h.c.Stats().Servers[1]; s.Ejections != 0 || s.Failures == 0 {
			t.Errorf("%d ejections after %d failures", s.Ejections, s.Failures)
		}
	})
}

// A replica that is much slower than its peers is ejected. Statements that take
// long wherever they run eject nobody.
func TestSlowReplicaIsEjected(t *testing.T) {
	// A quarter of the statements is long: by chance the third quartile is either.
	mixed := func(ctx context.Context) error {
		if rand.IntN(4) == 0 {
			return takes(300 * time.Millisecond)(ctx)
		}
		return takes(time.Millisecond)(ctx)
	}
	all := func(ms int) func(context.Context) error { return takes(time.Duration(ms) * time.Millisecond) }
	for name, tt := range map[string]struct {
		r1, r2  func(context.Context) error
		ejected bool
	}{
		"slow":                      {all(100), all(1), true},
		"further away":              {all(15), all(1), false},
		"twice as slow":             {all(200), all(100), false},
		"long and short statements": {mixed, mixed, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHerd(t, 2)
				h.replicas[0].set(func(f *fake) { f.does = tt.r1 })
				h.replicas[1].set(func(f *fake) { f.does = tt.r2 })
				h.read(t, time.Minute, 8)
				s := h.c.Stats()
				if got := s.Servers[1].Ejections > 0; got != tt.ejected || s.Servers[2].Ejections > 0 {
					t.Errorf("ejections: %d and %d", s.Servers[1].Ejections, s.Servers[2].Ejections)
				}
				if why := h.health(t, "r1").Ejected; why != "" && !strings.Contains(why, "longer than on other replicas") {
					t.Errorf("ejected for that %s", why)
				}
			})
		})
	}
}

// A server on which reads hang is asked long before its turn.
func TestStallIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 2, func(c *pgherd.Config) { c.LagCheckInterval, c.MaxLag = time.Hour, 0 })
		h.read(t, 10*time.Second, 4)
		for _, r := range h.replicas {
			r.set(func(f *fake) { f.frozen = true })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { h.db.QueryRowContext(ctx, "select n from t").Scan(new(bool)) })
		time.Sleep(3 * time.Second)
		for _, name := range []string{"r1", "r2"} {
			if s := h.health(t, name); s.Up {
				t.Errorf("%s is believed to be up, last asked %v ago", name, time.Since(s.Asked))
			}
		}
		cancel()
		wg.Wait()
	})
}

// Reads on a replica that freezes between two questions move on without waiting for
// the next one.
func TestStalledReadsMove(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN(), "lag_check_interval=1h", "max_lag=0s")
	r := startReaders(db, 4)
	eventually(t, "reads on replicas", func() bool { return r.replica.Load() > 50 })
	if err := h.Replica(1).Freeze(); err != nil {
		t.Fatal(err)
	}
	c := herdOf(t, db)
	eventually(t, "it is noticed", func() bool { return !c.Health().Servers[1].Up })
	r.end(t) // waits for all of them
	if limit := 30 * time.Second; r.slowest > limit {
		t.Errorf("the slowest read took %v", r.slowest)
	}
	if err := h.Replica(1).Thaw(); err != nil {
		t.Fatal(err)
	}
}
