package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// shared is a primary with two replicas for the tests that break no server.
// Each uses a database of its own.
var shared struct {
	sync.Once
	herd *pgherdtest.Herd
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.herd != nil {
		if err := shared.herd.Close(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// sharedHerd returns the shared herd, started by the first test that asks.
func sharedHerd(t testing.TB) *pgherdtest.Herd {
	t.Helper()
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		shared.herd, shared.err = pgherdtest.Open(ctx, pgherdtest.Replicas(2))
	})
	switch {
	case errors.Is(shared.err, pgherdtest.ErrNoPostgres) && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skip(shared.err)
	case shared.err != nil:
		t.Fatal(shared.err)
	}
	return shared.herd
}

// openDB opens dsn with the parameters added, and checks at the end of the test
// that no lease was lost.
func openDB(t testing.TB, dsn string, params ...string) *sql.DB {
	t.Helper()
	for _, p := range params {
		dsn += "&" + p
	}
	db, err := sql.Open("pgherd", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer db.Close()
		if t.Failed() {
			return
		}
		eventually(t, "no lease and no connection is in use", func() bool {
			for _, s := range herdOf(t, db).Stats().Servers {
				if s.InFlight != 0 || s.Pool.InUse != 0 {
					return false
				}
			}
			return true
		})
	})
	return db
}

func herdOf(t testing.TB, db *sql.DB) *pgherd.Connector {
	t.Helper()
	c, err := pgherd.FromDB(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func mustExec(t testing.TB, db execer, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get[T any](t testing.TB, db queryer, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func onReplica(t testing.TB, db queryer) bool {
	t.Helper()
	return get[bool](t, db, "select pg_is_in_recovery()")
}

// eventually waits for what a background process brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for: %s", what)
		}
	}
}

func TestReadsAndWritesAreSplit(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	eventually(t, "both replicas serve reads", func() bool {
		get[int](t, db, "select count(*) from t")
		served := 0
		for _, s := range herdOf(t, db).Stats().Servers {
			if s.Role == routing.Replica && s.Decisions[routing.ReasonRead] > 0 {
				served++
			}
		}
		return served == 2
	})
	if got := get[bool](t, db, "insert into t values (1) returning pg_is_in_recovery()"); got {
		t.Error("a write ran on a standby")
	}
}

// Read-your-writes through the handle: each read follows the write at once, on
// whatever virtual connection comes.
func TestReadYourWrites(t *testing.T) {
	h := sharedHerd(t)
	// Replicas that lag a little make a wrong choice visible at once.
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).ApplyDelay(t.Context(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(i).ApplyDelay(context.Background(), 0)
	}
	d := h.CreateDatabase(t)

	t.Run("handle", func(t *testing.T) {
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table h (n int)")
		for i := 1; i <= 20; i++ {
			mustExec(t, db, "insert into h values ($1)", i)
			if n := get[int](t, db, "select count(*) from h"); n != i {
				t.Fatalf("after %d inserts a read sees %d", i, n)
			}
		}
		eventually(t, "reads return to the replicas", func() bool { return onReplica(t, db) })
		if n := get[int](t, db, "select count(*) from h"); n != 20 {
			t.Errorf("a replica was chosen that has %d of 20 rows", n)
		}
	})
	t.Run("returning", func(t *testing.T) {
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table r (n int)")
		for i := 1; i <= 20; i++ {
			get[int](t, db, "insert into r values ($1) returning n", i)
			if n := get[int](t, db, "select count(*) from r"); n != i {
				t.Fatalf("after %d inserts a read sees %d", i, n)
			}
		}
	})
	t.Run("returning, read slowly", func(t *testing.T) {
		// PostgreSQL commits after the last row is sent, which is long after
		// the first one if nobody reads.
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table slow (n int, s text)")
		rows, err := db.Query("insert into slow select n, repeat('x', 1000) from generate_series(1, 20000) n returning s")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		// Others commit meanwhile, or the log would not leave the primary.
		admin, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		eventually(t, "a replica is fresh as of the first row", func() bool {
			mustExec(t, admin, "select pg_logical_emit_message(true, '', '')")
			return onReplica(t, db)
		})
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		if n := get[int](t, db, "select count(*) from slow"); n != 20000 {
			t.Errorf("after 20000 rows were inserted a read sees %d", n)
		}
	})
	t.Run("transaction", func(t *testing.T) {
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table x (n int)")
		for i := 1; i <= 20; i++ {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, "insert into x values ($1)", i)
			if n := get[int](t, tx, "select count(*) from x"); n != i {
				t.Fatalf("the transaction of insert %d sees %d", i, n)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if n := get[int](t, db, "select count(*) from x"); n != i {
				t.Fatalf("after %d commits a read sees %d", i, n)
			}
		}
	})
	t.Run("text transaction", func(t *testing.T) {
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table tt (n int)")
		for i := 1; i <= 10; i++ {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, conn, "begin")
			mustExec(t, conn, "insert into tt values ($1)", i)
			mustExec(t, conn, "commit")
			if n := get[int](t, conn, "select count(*) from tt"); n != i {
				t.Fatalf("after %d commits a read sees %d", i, n)
			}
			conn.Close()
		}
	})
	t.Run("conn, eventual", func(t *testing.T) {
		db := openDB(t, d.DSN(), "consistency=eventual")
		mustExec(t, db, "create table c (n int)")
		for i := 1; i <= 20; i++ {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, conn, "insert into c values ($1)", i)
			if n := get[int](t, conn, "select count(*) from c"); n != i {
				t.Fatalf("after %d inserts the same sql.Conn sees %d", i, n)
			}
			conn.Close()
		}
	})
}

func TestMisrouteHeals(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create sequence s")
	mustExec(t, db, "create view v as select nextval('s') as n")
	mustExec(t, db, "create unlogged table u (n int)")
	mustExec(t, db, "insert into u values (7)")
	eventually(t, "reads go to the replicas", func() bool { return onReplica(t, db) })

	for want := 1; want <= 3; want++ {
		if n := get[int](t, db, "select n from v"); n != want {
			t.Errorf("read %d of a view over nextval gave %d", want, n)
		}
	}
	if n := get[int](t, db, "select n from u"); n != 7 {
		t.Errorf("an unlogged table gave %d, want 7", n)
	}
	if n := herdOf(t, db).Stats().Misroutes; n > 2 {
		t.Errorf("%d misroutes; each text should be tried on a standby once", n)
	}
}

// DDL is visible to the next statement, although no replica has replayed it:
// with consistency=eventual only the healing of 42P01 sees to that.
func TestUnreplayedTableIsAskedOfThePrimary(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(i).ResumeReplay(context.Background())
	}
	db := openDB(t, d.DSN(), "consistency=eventual", "max_lag=0")
	mustExec(t, db, "create table late (n int)")
	if n := get[int](t, db, "select count(*) from late"); n != 0 {
		t.Errorf("count = %d", n)
	}
	if n := herdOf(t, db).Stats().Unknowns; n != 1 {
		t.Errorf("Unknowns = %d, want 1", n)
	}
	var pgErr *pgconn.PgError
	if err := db.QueryRow("select count(*) from never").Scan(new(int)); !errors.As(err, &pgErr) || pgErr.Code != "42P01" {
		t.Errorf("a table that exists nowhere: err = %v, want 42P01", err)
	}
}

func TestStaleReplicaIsNotRead(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, d.DSN(), "consistency=eventual", "max_lag=500ms")
	mustExec(t, db, "create table t (n int)")
	eventually(t, "reads go to the replicas", func() bool { return onReplica(t, db) })
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(i).ResumeReplay(context.Background())
	}
	mustExec(t, db, "insert into t values (1)")
	wrote := time.Now()
	for time.Since(wrote) < 2*time.Second {
		asked := time.Since(wrote)
		n := get[int](t, db, "select count(*) from t")
		if n == 0 && asked > 500*time.Millisecond {
			t.Fatalf("%v after the write a read did not see it, with max_lag=500ms", asked)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if e := herdOf(t, db).Explain(t.Context(), "select 1"); e.RouteReason != "lag" {
		t.Errorf("reads go to %s because of %s, want lag", e.Server, e.RouteReason)
	}
	if err := db.QueryRowContext(pgherd.WithMaxLag(t.Context(), time.Hour), "select count(*) from t").Scan(new(int)); err != nil {
		t.Error(err)
	}
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).ResumeReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "reads return to the replicas", func() bool { return onReplica(t, db) })
}

// An idle primary is not lag.
func TestIdlePrimaryIsNotLag(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "max_lag=1s")
	eventually(t, "reads go to the replicas", func() bool { return onReplica(t, db) })
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !onReplica(t, db) {
			e := herdOf(t, db).Explain(t.Context(), "select 1")
			t.Fatalf("a read went to the primary; now the reason is %s", e.RouteReason)
		}
	}
}

// reader reads all the time and counts what it gets.
type reader struct {
	reads, replica atomic.Int64
	mu             sync.Mutex
	errs           []error       // guarded by mu
	slowest        time.Duration // guarded by mu
	stop           context.CancelFunc
	wg             sync.WaitGroup
}

func startReaders(db *sql.DB, n int) *reader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{stop: cancel}
	for range n {
		r.wg.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				var standby bool
				err := db.QueryRowContext(context.Background(), "select pg_is_in_recovery()").Scan(&standby)
				took := time.Since(begun)
				r.reads.Add(1)
				if standby {
					r.replica.Add(1)
				}
				r.mu.Lock()
				if err != nil {
					r.errs = append(r.errs, err)
				}
				r.slowest = max(r.slowest, took)
				r.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return r
}

func (r *reader) end(t *testing.T) {
	t.Helper()
	r.stop()
	r.wg.Wait()
	t.Logf("%d reads, %d of them on replicas, slowest %v", r.reads.Load(), r.replica.Load(), r.slowest)
	if len(r.errs) > 0 {
		t.Errorf("%d of %d reads failed; the first: %v", len(r.errs), r.reads.Load(), r.errs[0])
	}
}

func TestReplicaDies(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN())
	r := startReaders(db, 4)
	defer r.end(t)
	eventually(t, "reads on replicas", func() bool { return r.replica.Load() > 50 })

	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).Kill(); err != nil {
			t.Fatal(err)
		}
		n := r.reads.Load()
		eventually(t, "reads go on", func() bool { return r.reads.Load() > n+100 })
	}
	n := r.replica.Load()
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).Start(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "reads return to the replicas", func() bool { return r.replica.Load() > n+50 })
}

func TestReplicaFreezes(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN(), "lag_check_interval=200ms", "lag_check_timeout=300ms")
	r := startReaders(db, 4)
	eventually(t, "reads on replicas", func() bool { return r.replica.Load() > 50 })

	if err := h.Replica(1).Freeze(); err != nil {
		t.Fatal(err)
	}
	n := r.reads.Load()
	eventually(t, "reads go on", func() bool { return r.reads.Load() > n+500 })
	if err := h.Replica(1).Thaw(); err != nil {
		t.Fatal(err)
	}
	c := herdOf(t, db)
	eventually(t, "the thawed replica is back", func() bool { return c.Health().Servers[1].Up && c.Health().Servers[2].Up })
	r.end(t)
	// Two questions unanswered, an interval between them, and the machine's noise.
	if limit := 3 * time.Second; r.slowest > limit {
		t.Errorf("the slowest read took %v, want at most %v", r.slowest, limit)
	}
}

// A write on its way when the primary dies is an error; later ones are not
// doubled.
func TestPrimaryRestarts(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN())
	mustExec(t, db, "create table t (n int primary key)")
	acknowledged := make(map[int]bool)
	write := func(i int) {
		if _, err := db.Exec("insert into t values ($1)", i); err == nil {
			acknowledged[i] = true
		} else if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "23505" {
			t.Errorf("write %d was sent twice: %v", i, err)
		}
	}
	for i := range 50 {
		write(i)
	}
	if err := h.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	for i := 50; i < 60; i++ {
		write(i)
		get[int](t, db, "select count(*) from t")
	}
	if err := h.Primary().Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes resume", func() bool { write(60 + len(acknowledged)); return len(acknowledged) > 60 })
	for i := range acknowledged {
		if n := get[int](t, db, "select count(*) from t where n = $1", i); n != 1 {
			t.Errorf("acknowledged write %d is there %d times", i, n)
		}
	}
}

func TestPromotedReplicaTakesTheWrites(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	old := h.Primary()
	db := openDB(t, h.DSN())
	mustExec(t, db, "create table t (n int)")
	mustExec(t, db, "insert into t values (1)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	if n := get[int](t, db, "select count(*) from t"); n != 1 {
		t.Errorf("count = %d while there is no primary", n)
	}
	if err := h.Replica(1).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write succeeds", func() bool {
		_, err := db.Exec("insert into t values (2)")
		return err == nil
	})
	// The old primary returns and still takes itself for one.
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if s := get[string](t, db, "insert into t values ($1) returning current_setting('cluster_name')", i); s != "replica1" {
			t.Fatalf("write %d ran on %s", i, s)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// What a standby gets silently wrong must not reach a demoted primary either,
// even when the probe has not noticed yet.
func TestDemotedPrimaryGetsNothing(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	old := h.Primary()
	db := openDB(t, h.DSN(), "lag_check_interval=1h", "max_lag=0")
	const lock = "select pg_try_advisory_lock(1) and pg_is_in_recovery()"
	if get[bool](t, db, lock) {
		t.Fatal("the primary is in recovery")
	}
	if err := h.Replica(1).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Follow(t.Context(), h.Replica(1)); err != nil {
		t.Fatal(err)
	}
	if get[bool](t, db, lock) {
		t.Error("a lock was taken on a standby")
	}
}

func TestSessionState(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)

	t.Run("one sql.Conn", func(t *testing.T) {
		db := openDB(t, d.DSN())
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustExec(t, conn, "set application_name = 'sheep'")
		pid := get[int](t, conn, "select pg_backend_pid()")
		for range 5 {
			if got := get[string](t, conn, "show application_name"); got != "sheep" {
				t.Fatalf("application_name = %q", got)
			}
			if got := get[int](t, conn, "select pg_backend_pid()"); got != pid {
				t.Fatalf("backend %d, then %d", pid, got)
			}
		}
	})
	t.Run("lastval", func(t *testing.T) {
		db := openDB(t, d.DSN())
		mustExec(t, db, "create table lv (id serial, n int)")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				conn, err := db.Conn(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				for range 5 {
					id := get[int](t, conn, "insert into lv (n) values ($1) returning id", i)
					if got := get[int](t, conn, "select lastval()"); got != id {
						t.Errorf("inserted %d, lastval is %d", id, got)
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("advisory lock", func(t *testing.T) {
		db := openDB(t, d.DSN())
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if !get[bool](t, conn, "select pg_try_advisory_lock($1)", 42) {
			t.Fatal("lock is taken")
		}
		if get[bool](t, db, "select pg_try_advisory_lock($1)", 42) {
			t.Error("two sessions have the lock: it is not the primary's")
		}
		if !get[bool](t, conn, "select pg_advisory_unlock($1)", 42) {
			t.Error("unlock ran in another session than lock")
		}
	})
	t.Run("advisory lock in a transaction on a replica", func(t *testing.T) {
		db := openDB(t, d.DSN())
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if !onReplica(t, tx) {
			t.Fatal("the transaction is not on a replica")
		}
		if err := tx.QueryRow("select pg_try_advisory_lock(43)").Scan(new(bool)); err != pgherd.ErrLockOnReplica {
			t.Errorf("err = %v, want ErrLockOnReplica", err)
		}
	})
	t.Run("temporary table in a pool of one", func(t *testing.T) {
		// Nothing but the temporary table keeps the reads from the replicas.
		db := openDB(t, d.DSN(), "consistency=eventual")
		db.SetMaxOpenConns(1)
		// A table of the same name that the replicas have, to be hidden by the
		// temporary one.
		mustExec(t, db, "create table tt (n int)")
		if err := h.WaitSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db, "create temp table tt (n int)")
		for i := 1; i <= 5; i++ {
			mustExec(t, db, "insert into tt values ($1)", i)
			if n := get[int](t, db, "select count(*) from tt"); n != i {
				t.Fatalf("after %d inserts: %d", i, n)
			}
		}
	})
	t.Run("session_reset=discard", func(t *testing.T) {
		db := openDB(t, d.DSN(), "session_reset=discard")
		db.SetMaxOpenConns(1)
		mustExec(t, db, "set application_name = 'sheep'")
		for range 3 { // statements that pgx has prepared before must survive
			if got := get[string](t, db, "show application_name"); got == "sheep" {
				t.Error("the setting outlived its checkout")
			}
			mustExec(t, db, "set application_name = 'sheep'")
		}
	})
	t.Run("text transaction", func(t *testing.T) {
		db := openDB(t, d.DSN())
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, conn, "create table txt (n int)")
		mustExec(t, conn, "begin")
		mustExec(t, conn, "insert into txt values (1)")
		if n := get[int](t, db, "select count(*) from txt"); n != 0 {
			t.Errorf("another session sees %d rows of an open transaction", n)
		}
		mustExec(t, conn, "rollback")
		if n := get[int](t, conn, "select count(*) from txt"); n != 0 {
			t.Errorf("%d rows after rollback", n)
		}
		// One that is left open ends with the checkout.
		mustExec(t, conn, "begin; insert into txt values (2)")
		conn.Close()
		admin, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		eventually(t, "no backend is left in the transaction", func() bool {
			return get[int](t, admin, "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'") == 0
		})
		if n := get[int](t, db, "select count(*) from txt"); n != 0 {
			t.Errorf("%d rows of a transaction that nobody committed", n)
		}
	})
}

func TestPoolLimits(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	t.Run("exhausted", func(t *testing.T) {
		db := openDB(t, d.DSN(), "pool_max_conns=2", "acquire_timeout=200ms")
		var txs []*sql.Tx
		for range 2 {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			txs = append(txs, tx)
		}
		_, err := db.BeginTx(t.Context(), nil)
		var ae *pgherd.AcquireError
		if !errors.As(err, &ae) || ae.InUse != 2 || ae.Max != 2 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want an AcquireError that tells 2 of 2 in use", err)
		}
		for _, tx := range txs {
			tx.Rollback()
		}
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		tx.Rollback()
	})
	t.Run("10000 goroutines", func(t *testing.T) {
		if testing.Short() {
			t.Skip("a load of some seconds")
		}
		db := openDB(t, d.DSN(), "pool_max_conns=10", "acquire_timeout=5m")
		mustExec(t, db, "create table g (n int)")
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range 10_000 {
			wg.Go(func() {
				if _, err := db.Exec("insert into g values ($1)", i); err != nil {
					failed.Add(1)
					t.Log(err)
				}
				if err := db.QueryRow("select count(*) from g").Scan(new(int)); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d statements failed", n)
		}
		if n := get[int](t, db, "select count(*) from g"); n != 10_000 {
			t.Errorf("%d rows", n)
		}
		for _, s := range herdOf(t, db).Stats().Servers {
			if s.Pool.OpenConnections > 10 {
				t.Errorf("%s has %d connections", s.Name, s.Pool.OpenConnections)
			}
		}
	})
	t.Run("kept warm", func(t *testing.T) {
		db := openDB(t, d.DSN(), "pool_min_conns=3")
		c := herdOf(t, db)
		eventually(t, "3 connections to each server", func() bool {
			for _, s := range c.Stats().Servers {
				if s.Pool.OpenConnections != 3 {
					return false
				}
			}
			return true
		})
	})
}

func TestCancellationIsTheCallers(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := db.ExecContext(ctx, "select pg_sleep(10)")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the deadline", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.ExecContext(ctx, "select 1"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want Canceled", err)
	}
	c := herdOf(t, db)
	if n := c.Stats().Retries; n != 0 {
		t.Errorf("%d statements were tried again after their callers had gone", n)
	}
	for _, s := range c.Stats().Servers {
		if s.Failures != 0 {
			t.Errorf("%s: %d failures counted for the caller's cancellations", s.Name, s.Failures)
		}
	}
	for _, s := range c.Health().Servers {
		if !s.Up {
			t.Errorf("%s is down: %v", s.Name, s.Err)
		}
	}
}

func TestQueryTimeout(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "query_timeout=50ms")
	if _, err := db.Exec("select pg_sleep(10)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
	rows, err := db.Query("select n from generate_series(1, 3) n")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	if err := rows.Err(); n != 3 || err != nil {
		t.Errorf("%d rows, err %v", n, err)
	}
}

// A statement survives DDL that changes its result: PostgreSQL refuses the old
// plan before it executes anything.
func TestPreparedSurvivesDDL(t *testing.T) {
	h := sharedHerd(t)
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			db := openDB(t, h.CreateDatabase(t).DSN(), "default_query_exec_mode="+mode)
			mustExec(t, db, "create table t (n int)")
			mustExec(t, db, "insert into t values (1)")
			st, err := db.Prepare("select * from t where n = $1")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for i := range 3 {
				rows, err := st.Query(1)
				if err != nil {
					t.Fatal(err)
				}
				cols, err := rows.Columns()
				if err != nil || len(cols) != i+1 {
					t.Errorf("columns %v, err %v; want %d", cols, err, i+1)
				}
				rows.Close()
				mustExec(t, db, fmt.Sprintf("alter table t add column c%d int", i))
			}
			if _, err := st.Query(); err == nil {
				t.Error("a missing argument was not noticed")
			}
			if _, err := db.Prepare("selec 1"); err == nil {
				t.Error("a bad statement was prepared")
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	db, err := sql.Open("pgherd", "postgres://u:s3cr3t@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable&connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{"select 1", "delete from t"} {
		_, err := db.Exec(query)
		var ce *pgconn.ConnectError
		if !errors.As(err, &ce) {
			t.Errorf("%s: err = %v (%T), want pgx's ConnectError within", query, err, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	if err := db.Ping(); err == nil {
		t.Error("Ping found a server")
	}
}

func TestNothingStartsBeforeConnect(t *testing.T) {
	before := goleak.IgnoreCurrent()
	c, err := (&pgherd.Driver{}).OpenConnector("postgres://127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	if err := c.(*pgherd.Connector).Close(); err != nil {
		t.Error(err)
	}
}
