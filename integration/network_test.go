package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/integration/herds/containers"
	"github.com/pgherd/pgherd/routing"
)

// networkHerd starts a herd whose network can fail in part.
func networkHerd(t *testing.T) *containers.Herd {
	t.Helper()
	if backend != "containers" {
		t.Skip("one machine's own network does not fail: set PGHERD_TEST_BACKEND=containers")
	}
	return startHerd(t, herds.Options{Replicas: 2}).(*containers.Herd)
}

// noise is what busy machines add to times.
const noise = time.Second

// A traffic is what an application does while a network fails: it writes rows, each
// once; it reads; and a session sets a row of its own and reads it.
type traffic struct {
	t      *testing.T
	herd   *containers.Herd
	db     *sql.DB
	about  *pgherd.Connector
	cfg    *pgherd.Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	reads  *load

	written  atomic.Int64 // acknowledged
	observed atomic.Int64 // reads of the session

	// Without the primary, a session whose last write no replica is known to have
	// cannot read.
	noPrimary atomic.Bool

	mu      sync.Mutex
	rows    []error  // guarded by mu; what became of each row
	wrong   []string // guarded by mu
	refused int      // guarded by mu; reads of the session, while there was no primary
}

// writePatience is what a writer gives a statement.
const writePatience = 5 * time.Second

func startTraffic(t *testing.T, h *containers.Herd, params string) *traffic {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f := &traffic{t: t, herd: h}
	var err error
	f.cfg, err = pgherd.ParseDSN(h.DSN() + params)
	must(err)
	f.about, err = pgherd.NewConnector(f.cfg)
	must(err)
	f.db = sql.OpenDB(f.about)
	_, err = f.db.Exec("create table if not exists written (n int); truncate written; create table if not exists session (n int); truncate session; insert into session values (0)")
	must(err)
	must(h.WaitSync(t.Context()))
	must(f.about.ReadCatalog(t.Context(), "select pg_is_in_recovery()"))
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.reads = readLoad(f.db, 4)
	for range 2 {
		f.wg.Go(f.write)
	}
	f.wg.Go(f.session)
	t.Cleanup(func() {
		f.stop()
		f.db.Close()
	})
	until(t, "all servers serve", func() bool {
		served := 0
		for _, s := range f.about.Stats().Servers {
			if s.Total() > 10 {
				served++
			}
		}
		return served == 3 && f.written.Load() > 10 && f.observed.Load() > 10
	})
	return f
}

func (f *traffic) stop() {
	f.cancel()
	f.wg.Wait()
	f.reads.end()
}

func (f *traffic) write() {
	for f.ctx.Err() == nil {
		f.mu.Lock()
		n := len(f.rows)
		f.rows = append(f.rows, nil)
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), writePatience)
		_, err := f.db.ExecContext(ctx, "insert into written values ($1)", n)
		cancel()
		f.mu.Lock()
		f.rows[n] = err
		f.mu.Unlock()
		if err == nil {
			f.written.Add(1)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// session is one session all the time. It never reads less than it wrote, or read
// before.
func (f *traffic) session() {
	session := pgherd.NewSession(context.Background())
	seen := 0
	for n := 1; f.ctx.Err() == nil; n++ {
		ctx, cancel := context.WithTimeout(session, writePatience)
		if n%10 == 1 {
			var set int
			if err := f.db.QueryRowContext(ctx, "update session set n = n + 1 returning n").Scan(&set); err == nil {
				seen = set
			}
		}
		var got int
		err := f.db.QueryRowContext(ctx, "select n from session").Scan(&got)
		cancel()
		switch {
		case err != nil && f.noPrimary.Load() && tellsWhy(err):
			f.mu.Lock()
			f.refused++
			f.mu.Unlock()
		case err != nil:
			f.fault("a read of the session: %v", err)
		case got < seen:
			f.fault("the session reads %d after %d", got, seen)
		default:
			seen = got
		}
		f.observed.Add(1)
		time.Sleep(10 * time.Millisecond)
	}
}

// tellsWhy reports whether err says that there is no primary, or that the one there
// was does not answer.
func tellsWhy(err error) bool {
	var none *pgherd.RouteError
	return errors.As(err, &none) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded)
}

func (f *traffic) fault(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

// lastError returns that of the latest row that failed.
func (f *traffic) lastError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.rows) - 1; i >= 0; i-- {
		if f.rows[i] != nil {
			return f.rows[i]
		}
	}
	return nil
}

// limit is how long finding out about one server, and then another connection to it,
// may take.
func (f *traffic) limit() time.Duration {
	return 2*(f.cfg.LagCheckInterval+f.cfg.LagCheckTimeout) + noise
}

func (f *traffic) total(server int) uint64 { return f.about.Stats().Servers[server].Total() }

func (f *traffic) up(server int) bool { return f.about.Health().Servers[server].Up }

// endure makes a fault of one server's network, lets during look at what happens,
// and mends it. Reads and writes go on everywhere then.
func (f *traffic) endure(s *containers.Server, fail func() error, during func()) {
	f.t.Helper()
	f.t.Cleanup(func() { s.Heal() })
	f.noPrimary.Store(s == f.herd.Primary())
	if err := fail(); err != nil {
		f.t.Fatal(err)
	}
	during()
	if err := s.Heal(); err != nil {
		f.t.Fatal(err)
	}
	written := f.written.Load()
	until(f.t, "writes go on", func() bool { return f.written.Load() > written+10 })
	for i := range 3 {
		until(f.t, "the server is up", func() bool { return f.up(i) })
	}
	until(f.t, "both replicas serve", func() func() bool {
		first, second := f.total(1), f.total(2)
		return func() bool { return f.total(1) > first && f.total(2) > second }
	}())
	f.noPrimary.Store(false)
}

// check ends the traffic and judges it: no read failed, the session never saw less
// than before, and each row that was acknowledged is there, none twice.
func (f *traffic) check() {
	f.t.Helper()
	f.stop()
	for i, wrong := range f.wrong {
		if i < 10 {
			f.t.Error(wrong)
		}
	}
	if n := f.reads.failed.Load(); n > 0 {
		f.t.Errorf("%d of %d reads failed, the last with %v", n, f.reads.reads.Load(), f.reads.last.Load())
	}
	stored, err := herds.Ask[int](f.t.Context(), f.herd.Primary(), "select n from written")
	if err != nil {
		f.t.Fatal(err)
	}
	times := make(map[int]int)
	for _, n := range stored {
		times[n]++
	}
	failed, applied := 0, 0
	for n, err := range f.rows {
		switch {
		case times[n] > 1:
			f.t.Errorf("row %d is there %d times", n, times[n])
		case err == nil && times[n] == 0:
			f.t.Errorf("row %d was acknowledged, and is not there", n)
		case err != nil:
			failed++
			applied += times[n]
		}
	}
	f.t.Logf("%d reads, the slowest took %v; %d rows acknowledged, %d failed, of which %d are there; %d reads of the session, %d in vain",
		f.reads.reads.Load(), time.Duration(f.reads.slowest.Load()).Round(time.Millisecond), f.written.Load(), failed, applied, f.observed.Load(), f.refused)
}

// lostMore waits until the network of a server has lost some packets.
func (f *traffic) lostMore(s *containers.Server, n int) {
	f.t.Helper()
	until(f.t, fmt.Sprintf("%d packets are lost", n), func() bool {
		lost, err := s.Lost()
		if err != nil {
			f.t.Fatal(err)
		}
		return lost >= n
	})
}

// A replica that hears nothing from the primary, while the application reaches both,
// gets no read that has a bound. Others go on there, and none is staler than its bound.
func TestReplicaIsCutFromPrimary(t *testing.T) {
	h := networkHerd(t)
	f := startTraffic(t, h, "&lag_check_interval=200ms&consistency=eventual&max_lag=0")
	const bound = time.Second
	db, err := sql.Open("pgherd", h.DSN()+"&lag_check_interval=200ms&consistency=eventual&max_lag=1s")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("create table beat (at timestamptz); insert into beat values (clock_timestamp())"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := func(server int) uint64 { return c.Stats().Servers[server].Decisions[routing.ReasonRead] }
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := f.db.Exec("update beat set at = clock_timestamp()"); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	var stalest atomic.Int64
	wg.Go(func() {
		for ctx.Err() == nil {
			var age float64 // the clocks of containers are one
			if err := db.QueryRow("select extract(epoch from clock_timestamp() - at) from beat").Scan(&age); err != nil {
				t.Error(err)
			}
			stalest.Store(max(stalest.Load(), int64(age*float64(time.Second))))
			time.Sleep(5 * time.Millisecond)
		}
	})
	until(t, "both replicas serve reads with a bound", func() bool { return served(1) > 0 && served(2) > 0 })
	cut := h.Server(1)
	f.endure(cut, func() error { return cut.Cut(h.Server(0).Peer()) }, func() {
		until(t, "its lag is too long", func() bool { return c.Health().Servers[1].Lag > bound })
		bounded, others, unbounded := served(1), served(2), f.total(1)
		until(t, "the other replica serves", func() bool { return served(2) > others+100 })
		if n := served(1) - bounded; n > 0 {
			t.Errorf("it serves %d reads with a bound", n)
		}
		until(t, "it serves reads without a bound", func() bool { return f.total(1) > unbounded+10 })
	})
	back := served(1)
	until(t, "it serves reads with a bound again", func() bool { return served(1) > back })
	cancel()
	wg.Wait()
	f.check()
	t.Logf("with a bound of %v, the stalest read was stale by %v", bound, time.Duration(stalest.Load()))
	if limit := bound + f.cfg.LagCheckInterval + noise; time.Duration(stalest.Load()) > limit {
		t.Errorf("a read is stale by %v, with a bound of %v", time.Duration(stalest.Load()), bound)
	}
}

// The application does not reach the primary, which goes on to write for others and
// to stream: reads go on, writers are told why they cannot, and who may wait does so.
func TestApplicationIsCutFromPrimary(t *testing.T) {
	h := networkHerd(t)
	f := startTraffic(t, h, "&lag_check_interval=200ms&failover_timeout=1s")
	patient, err := sql.Open("pgherd", h.DSN()+"&lag_check_interval=200ms&failover_timeout=2m")
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	if err := patient.Ping(); err != nil {
		t.Fatal(err)
	}
	// A session whose write is known to be on a replica.
	ctx := pgherd.NewSession(t.Context())
	if _, err := f.db.Exec("create table settled (n int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.db.ExecContext(ctx, "insert into settled values (0)"); err != nil {
		t.Fatal(err)
	}
	until(t, "a replica has what the session wrote", func() bool {
		var standby bool
		err := f.db.QueryRowContext(ctx, "select pg_is_in_recovery() from settled").Scan(&standby)
		return err == nil && standby
	})
	primary := h.Server(0)
	waited := make(chan error, 1)
	f.endure(primary, func() error { return primary.Cut(h.Application()) }, func() {
		until(t, "the primary is noticed to be gone", func() bool { return !f.up(0) })
		var refused *pgherd.RouteError
		until(t, "writers are told", func() bool { return errors.As(f.lastError(), &refused) })
		if refused.Reason != routing.ReasonNoPrimary || len(refused.Causes) == 0 || !strings.Contains(refused.Error(), "timeout") {
			t.Errorf("writers are told %q, with the causes %v", refused, refused.Causes)
		}
		go func() {
			_, err := patient.Exec("insert into written values (-1)")
			waited <- err
		}()
		// Others write, and the replicas have it: the session sees that.
		for want := 1; want < 10; want++ {
			if err := herds.Exec(t.Context(), primary, fmt.Sprintf("update settled set n = %d", want)); err != nil {
				t.Fatal(err)
			}
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got int
			if err := f.db.QueryRowContext(ctx, "select n from settled").Scan(&got); err != nil || got != want {
				t.Errorf("a session reads %d, want %d: %v", got, want, err)
			}
		}
		n := f.reads.reads.Load()
		until(t, "reads go on", func() bool { return f.reads.reads.Load() > n+200 })
		select {
		case err := <-waited:
			t.Errorf("a writer who may wait does not: %v", err)
		default:
		}
	})
	if err := <-waited; err != nil {
		t.Errorf("a writer who waited: %v", err)
	}
	f.check()
	if slowest := time.Duration(f.reads.slowest.Load()); slowest > f.limit() {
		t.Errorf("the slowest read took %v, want at most %v", slowest, f.limit())
	}
	if rows, err := herds.Ask[int](t.Context(), primary, "select count(*)::int from written where n = -1"); err != nil || rows[0] != 1 {
		t.Errorf("what waited was written %v times: %v", rows, err)
	}
}

// A third of the packets of one direction, of the primary or of a replica, are lost.
func TestAsymmetricLoss(t *testing.T) {
	h := networkHerd(t)
	f := startTraffic(t, h, "")
	for i, name := range []string{"primary", "replica"} {
		for _, direction := range []containers.Direction{containers.In, containers.Out} {
			s := h.Server(i)
			f.endure(s, func() error { return s.Lose(h.Application(), direction, 0.3) }, func() {
				reads := f.reads.reads.Load()
				f.lostMore(s, 50)
				until(t, "reads go on", func() bool { return f.reads.reads.Load() > reads+200 })
			})
			t.Logf("%s, direction %d: the slowest read took %v so far", name, direction, time.Duration(f.reads.slowest.Load()).Round(time.Millisecond))
		}
	}
	f.check()
}

// A replica that is 50 ms further away than the other one costs no read, one that is
// half a second away gets few, and one that is 2 s away does not
// answer the probe in time. A primary that is far away is the
// only one to write to.
func TestDelay(t *testing.T) {
	h := networkHerd(t)
	app := h.Application()

	t.Run("replica", func(t *testing.T) {
		f := startTraffic(t, h, "")
		replica := h.Server(1)
		f.endure(replica, func() error { return replica.Delay(app, 50*time.Millisecond) }, func() {
			isFar(t, replica, 50*time.Millisecond)
			n := f.reads.reads.Load()
			until(t, "reads go on", func() bool { return f.reads.reads.Load() > n+500 })
		})
		f.endure(replica, func() error { return replica.Delay(app, 500*time.Millisecond) }, func() {
			isFar(t, replica, 500*time.Millisecond)
			far, near := f.total(1), f.total(2)
			until(t, "the other one serves", func() bool { return f.total(2) > near+400 })
			far, near = f.total(1)-far, f.total(2)-near
			t.Logf("%d reads half a second away, and %d on the other replica", far, near)
			if far > near/4 {
				t.Errorf("%d reads half a second away, and %d on the other replica", far, near)
			}
		})
		f.endure(replica, func() error { return replica.Delay(app, 2*time.Second) }, func() {
			until(t, "it is noticed", func() bool { return !f.up(1) })
			n := f.reads.reads.Load()
			until(t, "reads go on", func() bool { return f.reads.reads.Load() > n+200 })
		})
		f.check()
		if slowest := time.Duration(f.reads.slowest.Load()); slowest > f.limit() {
			t.Errorf("the slowest read took %v, want at most %v", slowest, f.limit())
		}
	})
	t.Run("primary", func(t *testing.T) {
		f := startTraffic(t, h, "&lag_check_timeout=10s&connect_timeout=15")
		primary := h.Server(0)
		for _, d := range []time.Duration{50 * time.Millisecond, 2 * time.Second} {
			f.endure(primary, func() error { return primary.Delay(app, d) }, func() {
				begun := time.Now()
				if _, err := f.db.Exec("insert into written values (-1)"); err != nil || time.Since(begun) < d {
					t.Errorf("a write by way of %v took %v: %v", d, time.Since(begun), err)
				}
				n := f.written.Load()
				until(t, "writes go on", func() bool { return f.written.Load() > n+2 })
			})
		}
		f.check()
	})
}

// isFar fails the test unless a server's answers take d.
func isFar(t *testing.T, s herds.Server, d time.Duration) {
	t.Helper()
	begun := time.Now()
	conn, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	if took := time.Since(begun); took < 2*d { // the handshake of TCP, and that of PostgreSQL
		t.Errorf("a connection to %s takes %v, want %v or more", s.Name(), took, 2*d)
	}
}

// A server, and then the other, is behind a hole from which nothing comes back, no
// reset either, and returns.
func TestBlackHole(t *testing.T) {
	h := networkHerd(t)
	f := startTraffic(t, h, "&failover_timeout=1s")
	for i := range 2 {
		s := h.Server(i)
		f.endure(s, s.Partition, func() {
			until(t, "it is noticed", func() bool { return !f.up(i) })
			f.lostMore(s, 10)
			n := f.reads.reads.Load()
			until(t, "reads go on", func() bool { return f.reads.reads.Load() > n+200 })
		})
	}
	f.check()
	if slowest := time.Duration(f.reads.slowest.Load()); slowest > f.limit() {
		t.Errorf("the slowest read took %v, want at most %v", slowest, f.limit())
	}
}
