package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

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
	t.Parallel()
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
	t.Parallel()
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
	// Two questions unanswered, an interval between them, and much noise.
	if limit := 10 * time.Second; r.slowest > limit {
		t.Errorf("the slowest read took %v, want at most %v", r.slowest, limit)
	}
}

// Servers that are late with their answers are waited for, by reads and writes
// alike; servers that refuse connections are not.
func TestLateHerdIsWaitedFor(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "lag_check_interval=100ms", "lag_check_timeout=300ms", "failover_timeout=10m")
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	servers := []*pgherdtest.Server{h.Primary(), h.Replica(1)}
	c := herdOf(t, db)
	allUp := func(up bool) func() bool {
		return func() bool {
			s := c.Health().Servers
			return s[0].Up == up && s[1].Up == up
		}
	}
	for _, s := range servers {
		if err := s.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no server answers", allUp(false))
	done := make(chan error, 2)
	go func() {
		var n int
		done <- db.QueryRow("select count(*) from t").Scan(&n)
	}()
	go func() {
		_, err := db.Exec("insert into t values (1)")
		done <- err
	}()
	eventually(t, "both wait", func() bool { return c.Stats().PrimaryWaits >= 2 })
	failures := func() uint64 { return c.Stats().Servers[0].CheckFailures }
	before := failures()
	eventually(t, "they wait for longer than a question takes", func() bool { return failures() >= before+5 })
	for _, s := range servers {
		if err := s.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}

	for _, s := range servers {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no server answers", allUp(false))
	eventually(t, "connections are refused", func() bool {
		_, err := db.Exec("insert into t values (2)")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// A replica that refuses the probe's connection does answer: what runs on it
// goes on.
func TestRefusedProbeCutsNothing(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	admin, err := sql.Open("pgx", h.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	replica, err := sql.Open("pgx", h.Replica(1).DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	mustExec(t, admin, "create role shepherd login")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}

	db := openDB(t, strings.Replace(h.DSN(), "postgres@", "shepherd@", 1), "lag_check_interval=50ms")
	const read = "select pg_is_in_recovery() from pg_sleep(1.5)"
	if err := herdOf(t, db).ReadCatalog(t.Context(), read); err != nil {
		t.Fatal(err)
	}
	var standby bool
	slept := make(chan error)
	go func() { slept <- db.QueryRow(read).Scan(&standby) }()
	const sleeping = "usename = 'shepherd' and query like '%pg_sleep%'"
	eventually(t, "the read runs on the replica", func() bool {
		return get[int](t, replica, "select count(*) from pg_stat_activity where "+sleeping) == 1
	})
	mustExec(t, admin, "alter role shepherd connection limit 1")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, replica, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'shepherd' and not ("+sleeping+")")
	c := herdOf(t, db)
	eventually(t, "the probe is refused", func() bool { return !c.Health().Servers[1].Up })
	if err := <-slept; err != nil || !standby {
		t.Errorf("on standby %v, err %v", standby, err)
	}
	if n := c.Stats().Retries; n != 0 {
		t.Errorf("the read was moved: %d retries", n)
	}
}

// A write on its way when the primary dies is an error; later ones are not
// doubled.
func TestPrimaryRestarts(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "failover_timeout=100ms") // nobody is promoted meanwhile
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

// A read that only the primary may serve waits for it as writes do, and is not
// left waiting for another one when the primary is back.
func TestReadWaitsForItsPrimary(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "failover_timeout=1h", "lag_check_timeout=1m")
	c := herdOf(t, db)
	ctx := pgherd.WithPrimary(t.Context())
	for range 3 {
		get[int](t, db, "select 1")
		if err := db.QueryRowContext(ctx, "select 1").Scan(new(int)); err != nil {
			t.Fatal(err)
		}
		if err := h.Primary().Stop(); err != nil {
			t.Fatal(err)
		}
		retries := c.Stats().Retries
		read := make(chan error, 1)
		go func() { read <- db.QueryRowContext(ctx, "select 1").Scan(new(int)) }()
		eventually(t, "the read has met the loss", func() bool {
			return c.Stats().Retries > retries || !c.Health().Servers[0].Up
		})
		if err := h.Primary().Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-read:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the read hangs, and the primary is back")
		}
	}
}

func TestPromotedReplicaTakesTheWrites(t *testing.T) {
	t.Parallel()
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

// What is still open on a primary when another server is promoted would be lost
// if it were committed there.
func TestReplacedPrimaryCommitsNothing(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN())
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	mustExec(t, tx, "insert into t values (1)")
	if err := h.Replica(1).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := herdOf(t, db)
	eventually(t, "the promotion is noticed", func() bool { return c.Health().Servers[1].Role == routing.Primary })
	// The picture is there a moment before the connections are cut.
	eventually(t, "nothing of the old primary is in use", func() bool {
		_, err := tx.ExecContext(t.Context(), "insert into t values (2)")
		return err != nil
	})
	if err := tx.Commit(); err == nil {
		t.Error("a transaction on the replaced primary was committed")
	}
	if n := get[int](t, db, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows of it", n)
	}
}

// What a standby gets silently wrong must not reach a demoted primary either,
// even when the probe has not noticed yet.
func TestDemotedPrimaryGetsNothing(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	old := h.Primary()
	db := openDB(t, h.DSN(), "lag_check_interval=1h", "lag_check_timeout=30s", "max_lag=0")
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

func TestNoServer(t *testing.T) {
	t.Parallel()
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
