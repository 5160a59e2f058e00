package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// Read-your-writes through the handle: each read follows the write at once, on
// whatever virtual connection comes.
func TestReadYourWrites(t *testing.T) {
	h := sharedHerd(t)
	delayReplicas(t, 50*time.Millisecond)
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
	t.Run("replicas only", func(t *testing.T) {
		// The primary may not serve the read, so it waits for a replica.
		db := openDB(t, d.DSN(), "read_preference=standby")
		mustExec(t, db, "create table ro (n int)")
		eventually(t, "a replica has the table", func() bool {
			return db.QueryRow("select count(*) from ro").Scan(new(int)) == nil
		})
		if !onReplica(t, db) {
			t.Error("the primary served a read")
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

// Whoever has a lock sees what those who had it before have committed, through
// whatever connections: so do migrations that many processes start, of which each
// takes a lock on one connection and reads on another how far the last one came.
func TestLocksOrderReads(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	const read = "select count(*) from t"
	for _, lock := range []string{
		"select pg_advisory_lock(1)",
		"select pg_try_advisory_lock(1)",
		"select pg_advisory_xact_lock(1)",
		"lock table k in share row exclusive mode",
	} {
		t.Run(lock, func(t *testing.T) {
			former, db := openDB(t, d.DSN(), "max_lag=1h"), openDB(t, d.DSN(), "max_lag=1h")
			mustExec(t, former, "create table if not exists k ()")
			mustExec(t, former, "drop table if exists t")
			mustExec(t, former, "create table t (n int)")
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "reads go to the replicas", func() bool {
				get[int](t, db, read)
				return herdOf(t, db).Explain(t.Context(), read).RouteReason == "read"
			})
			for i := 1; i <= 2; i++ {
				if err := h.Replica(i).PauseReplay(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer h.Replica(i).ResumeReplay(context.Background())
			}
			mustExec(t, former, "insert into t values (1)")
			if n := get[int](t, db, read); n != 0 {
				t.Fatalf("without a lock a read sees %d: the replicas are not late", n)
			}

			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			mustExec(t, tx, lock)
			if n := get[int](t, db, read); n != 1 {
				t.Errorf("under the lock a read sees %d of 1 row", n)
			}
		})
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
	db := openDB(t, d.DSN(), "consistency=eventual", "max_lag=0", "catalog=off")
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

func openPlain(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A replica that has crashed shows less than before until it has replayed its
// log once more. A session that has read there does not go back with it: neither
// where the probe has seen it restart, nor before that.
func TestSessionOutlivesCrashOfItsReplica(t *testing.T) {
	t.Parallel()
	for _, interval := range []string{"100ms", "1h"} {
		t.Run("lag_check_interval="+interval, func(t *testing.T) {
			h := pgherdtest.Start(t, pgherdtest.Replicas(1))
			replica := h.Replica(1)
			admin := openPlain(t, h.Primary().DSN())
			mustExec(t, admin, "create table t (n int)")
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			db := openDB(t, h.DSN(), "consistency=eventual", "max_lag=0", "lag_check_interval="+interval)
			eventually(t, "reads go to the replica", func() bool { return onReplica(t, db) })

			// It will go on from here, which is beyond what the probe has heard
			// if it asks once an hour,
			mustExec(t, admin, "checkpoint")
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustExec(t, openPlain(t, replica.DSN()), "checkpoint")
			// and will not replay this again.
			for n := range 100 {
				mustExec(t, admin, "insert into t values ($1)", n)
			}
			ctx := pgherd.NewSession(t.Context())
			read := func() (n int, onReplica bool) {
				t.Helper()
				if err := db.QueryRowContext(ctx, "select count(*), pg_is_in_recovery() from t").Scan(&n, &onReplica); err != nil {
					t.Fatal(err)
				}
				return n, onReplica
			}
			eventually(t, "a replica shows the session all", func() bool { n, onReplica := read(); return n == 100 && onReplica })
			if err := replica.ApplyDelay(t.Context(), time.Hour); err != nil {
				t.Fatal(err)
			}
			if err := replica.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := replica.Start(); err != nil {
				t.Fatal(err)
			}
			if n := get[int](t, openPlain(t, replica.DSN()), "select count(*) from t"); n == 100 {
				t.Fatal("the replica has lost nothing")
			}
			if interval != "1h" {
				eventually(t, "reads go to the replica", func() bool { return onReplica(t, db) })
			}
			for range 10 {
				if n, onReplica := read(); n != 100 {
					t.Fatalf("the session saw 100 rows, and then %d (on a replica: %t)", n, onReplica)
				}
			}
			if interval == "1h" {
				return // nobody asks the replica again
			}
			if err := replica.ApplyDelay(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the session's reads return to the replica", func() bool {
				n, onReplica := read()
				return n == 100 && onReplica
			})
		})
	}
}
