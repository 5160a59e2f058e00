package integration

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

var (
	chaosSeed   = flag.Uint64("chaos.seed", 1, "what the faults of TestChaos are drawn from")
	chaosFaults = flag.Int("chaos.faults", 12, "how many faults TestChaos makes")
)

// TestChaos lets servers of a real herd, with a synchronous standby, freeze, die,
// be cut off and be replaced while an application reads and writes, and holds
// what the application saw to the promises:
//
//   - no acknowledged write is lost, and none is applied twice;
//   - no read fails;
//   - no read of a session is older than what the session has written or seen.
//
// What is checked are unique values, from the outside. The same seed makes the
// same faults, but not the same interleaving.
func TestChaos(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(2), pgherdtest.Settings(map[string]string{
		"synchronous_standby_names": "ANY 1 (*)",
		"synchronous_commit":        "on",
	}))
	open := func(params string) *sql.DB {
		db, err := sql.Open("pgherd", h.DSN()+"&lag_check_interval=200ms&lag_check_timeout=300ms&failover_timeout=30s"+params)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	db := open("")
	if _, err := db.Exec("create table w (v text not null); create table s (k text not null, n int not null)"); err != nil {
		t.Fatal(err)
	}

	// Nothing but its session lets a read of the other handle see a write.
	a := &application{db: db, eventual: open("&consistency=eventual"), acknowledged: make(map[string]bool), failed: make(map[string]error)}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { a.write(ctx, i) })
		wg.Go(func() { a.read(ctx) })
	}
	for i := range 2 {
		wg.Go(func() { a.session(ctx, i) })
	}
	f := &faults{t: t, h: h, rnd: rand.New(rand.NewPCG(*chaosSeed, 0))}
	for i := range *chaosFaults {
		f.next(i)
		time.Sleep(500 * time.Millisecond)
	}
	stop()
	wg.Wait()
	a.check(t)
}

// An application is the workload, with what it has seen.
type application struct {
	db, eventual *sql.DB

	reads, writes, sessions atomic.Int64
	slowest                 atomic.Int64 // read, in ns

	mu           sync.Mutex
	acknowledged map[string]bool  // guarded by mu
	failed       map[string]error // guarded by mu; the outcome may be unknown
	wrong        []error          // guarded by mu
}

func (a *application) fault(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong = append(a.wrong, err)
}

// patience is what callers give a statement. It is longer than any failover.
const patience = time.Minute

func (a *application) write(ctx context.Context, w int) {
	for i := 0; ctx.Err() == nil; i++ {
		v := fmt.Sprintf("%d-%d", w, i)
		call, cancel := context.WithTimeout(context.Background(), patience)
		_, err := a.db.ExecContext(call, "insert into w values ($1)", v)
		cancel()
		a.writes.Add(1)
		a.mu.Lock()
		if err != nil {
			a.failed[v] = err
		} else {
			a.acknowledged[v] = true
		}
		a.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

func (a *application) read(ctx context.Context) {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(context.Background(), patience)
		begun := time.Now()
		err := a.db.QueryRowContext(call, "select count(*) from generate_series(1, 10)").Scan(new(int))
		cancel()
		a.reads.Add(1)
		if took := int64(time.Since(begun)); took > a.slowest.Load() {
			a.slowest.Store(took)
		}
		if err != nil {
			a.fault(fmt.Errorf("a read failed: %w", err))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// session runs one session after the other, half of them resumed by a token.
func (a *application) session(ctx context.Context, w int) {
	for i := 0; ctx.Err() == nil; i++ {
		k := fmt.Sprintf("%d-%d", w, i)
		session := pgherd.NewSession(context.Background())
		floor := 0
		for n := 1; n <= 10; n++ {
			call, cancel := context.WithTimeout(session, patience)
			if n%3 == 1 {
				if _, err := a.eventual.ExecContext(call, "insert into s values ($1, $2)", k, n); err == nil {
					floor = n
				}
			}
			var seen int
			err := a.eventual.QueryRowContext(call, "select coalesce(max(n), 0) from s where k = $1", k).Scan(&seen)
			cancel()
			a.sessions.Add(1)
			switch {
			case err != nil:
				a.fault(fmt.Errorf("a read of a session failed: %w", err))
			case seen < floor:
				a.fault(fmt.Errorf("session %s reads %d after %d", k, seen, floor))
			}
			floor = max(floor, seen)
			if n == 5 && i%2 == 0 {
				session, err = pgherd.ResumeSession(context.Background(), pgherd.SessionFromContext(session).Token())
				if err != nil {
					a.fault(err)
				}
			}
		}
	}
}

// check compares what was acknowledged with what is there.
func (a *application) check(t *testing.T) {
	ctx, cancel := context.WithTimeout(pgherd.WithPrimary(context.Background()), patience)
	defer cancel()
	rows, err := a.db.QueryContext(ctx, "select v, count(*) from w group by v")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	there := make(map[string]int)
	for rows.Next() {
		var v string
		var n int
		if err := rows.Scan(&v, &n); err != nil {
			t.Fatal(err)
		}
		if there[v] = n; n > 1 {
			t.Errorf("write %s was applied %d times", v, n)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for v := range a.acknowledged {
		if there[v] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(a.acknowledged))
	}
	kinds := make(map[string]int)
	for _, err := range a.failed {
		var route *pgherd.RouteError
		if errors.As(err, &route) {
			kinds["no primary in time"]++
		} else {
			kinds["outcome unknown"]++
		}
	}
	t.Logf("%d writes (failed: %v), %d reads (slowest %v), %d reads of sessions", a.writes.Load(), kinds,
		a.reads.Load(), time.Duration(a.slowest.Load()).Round(time.Millisecond), a.sessions.Load())
	for i, err := range a.wrong {
		if i == 10 {
			t.Errorf("and %d more", len(a.wrong)-i)
			break
		}
		t.Error(err)
	}
	if a.writes.Load() < 300 || a.reads.Load() < 1000 || a.sessions.Load() < 100 {
		t.Error("the application did too little to show anything")
	}
}

// faults makes one fault after the other, and mends each before the next.
type faults struct {
	t   *testing.T
	h   *pgherdtest.Herd
	rnd *rand.Rand
}

func (f *faults) next(i int) {
	f.t.Helper()
	var replicas []*pgherdtest.Server
	for _, s := range f.h.Servers() {
		if s != f.h.Primary() {
			replicas = append(replicas, s)
		}
	}
	s := replicas[f.rnd.IntN(len(replicas))]
	d := time.Duration(500+f.rnd.IntN(1500)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	do := func(errs ...error) {
		f.t.Helper()
		if err := errors.Join(errs...); err != nil {
			f.t.Fatal(err)
		}
	}
	kind := f.rnd.IntN(7)
	f.t.Logf("fault %d: %s, %s", i, []string{"kill", "freeze", "partition", "pause replay", "freeze primary", "fail over", "fail over from a frozen primary"}[kind], s.Name())
	switch kind {
	case 0:
		do(s.Kill())
		time.Sleep(d)
		do(s.Start())
	case 1:
		do(s.Freeze())
		time.Sleep(d)
		do(s.Thaw())
	case 2:
		do(s.Partition())
		time.Sleep(d)
		do(s.Heal())
	case 3:
		do(s.PauseReplay(ctx))
		time.Sleep(d)
		do(s.ResumeReplay(ctx))
	case 4:
		do(f.h.Primary().Freeze())
		time.Sleep(d)
		do(f.h.Primary().Thaw())
	default:
		old := f.h.Primary()
		if kind == 5 {
			do(old.Kill())
		} else {
			do(old.Freeze())
		}
		time.Sleep(d / 4)
		next, other := furthest(f.t, replicas)
		do(next.Promote(ctx))
		do(other.Follow(ctx, next))
		time.Sleep(d)
		if kind == 5 {
			do(old.Start()) // as the primary that it was
		} else {
			do(old.Thaw())
		}
		time.Sleep(d)
		do(old.Follow(ctx, next))
	}
}

// furthest returns the replica that has received more log, and the other one.
func furthest(t *testing.T, replicas []*pgherdtest.Server) (first, second *pgherdtest.Server) {
	t.Helper()
	var received []int64
	for _, s := range replicas {
		conn, err := pgx.Connect(t.Context(), s.DirectDSN())
		if err != nil {
			t.Fatal(err)
		}
		var lsn int64
		err = conn.QueryRow(t.Context(), "select (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint").Scan(&lsn)
		conn.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		received = append(received, lsn)
	}
	if received[1] > received[0] {
		return replicas[1], replicas[0]
	}
	return replicas[0], replicas[1]
}
