package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
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
