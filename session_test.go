package pgherd_test

import (
	"database/sql"
	"fmt"
	"sync"
	"testing"

	"github.com/pgherd/pgherd"
)

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
	t.Run("lock in a pool of one", func(t *testing.T) {
		// What takes a lock once, as migrations do, must not keep the connection's
		// later reads from the replicas for as long as it lives.
		db := openDB(t, d.DSN())
		db.SetMaxOpenConns(1)
		if !get[bool](t, db, "select pg_try_advisory_lock(4)") {
			t.Fatal("the lock is taken")
		}
		eventually(t, "reads go to the replicas", func() bool { return onReplica(t, db) })
		if !get[bool](t, db, "select pg_advisory_unlock(4)") {
			t.Error("the lock was not where it was taken")
		}
		eventually(t, "reads go to the replicas", func() bool { return onReplica(t, db) })
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

// A statement survives DDL that changes its result: PostgreSQL refuses the old
// plan before it executes anything.
func TestPreparedSurvivesDDL(t *testing.T) {
	t.Parallel()
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
