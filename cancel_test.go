package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// The end of a context ends its statement, and costs no connection: backend,
// session state and transaction's neighbours stay.
func TestCancelKeepsTheConnection(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1")
	mustExec(t, db, "create table c (n int)")
	const slow = "select pg_sleep(60)"

	// cancelled checks the error of a statement that met its deadline.
	cancelled := func(t *testing.T, err error) {
		t.Helper()
		var pgErr *pgconn.PgError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &pgErr) || pgErr.Code != "57014" {
			t.Errorf("err = %v, want the context's and SQLSTATE 57014", err)
		}
	}
	brief := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "set application_name = 'sheep'")
	pid := get[int](t, conn, "select pg_backend_pid()")
	for _, run := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := conn.ExecContext(ctx, slow); return err },
		func(ctx context.Context) error { return conn.QueryRowContext(ctx, slow).Scan(new(any)) },
		func(ctx context.Context) error {
			_, err := conn.ExecContext(ctx, "insert into c select 1 from pg_sleep(60)")
			return err
		},
	} {
		ctx, cancel := brief()
		cancelled(t, run(ctx))
		cancel()
		if got := get[int](t, conn, "select pg_backend_pid()"); got != pid {
			t.Fatalf("backend %d, then %d", pid, got)
		}
	}
	if got := get[string](t, conn, "show application_name"); got != "sheep" {
		t.Errorf("application_name = %q", got)
	}
	conn.Close()

	ctx, cancel := brief()
	defer cancel()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into c values (1)")
	_, err = tx.ExecContext(ctx, slow)
	cancelled(t, err)
	eventually(t, "the transaction is rolled back", func() bool { return errors.Is(tx.Commit(), sql.ErrTxDone) })
	conn, err = db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "set application_name = 'sheep'") // goes to the primary
	if got := get[int](t, conn, "select pg_backend_pid()"); got != pid {
		t.Errorf("the transaction cost its connection: backend %d, then %d", pid, got)
	}
	if n := get[int](t, conn, "select count(*) from c"); n != 0 {
		t.Errorf("%d rows of what was cancelled", n)
	}
}

// A server may answer although it was asked to cancel. The caller has gone, and
// the connection is fit for the next one.
func TestCancelIsNotHeeded(t *testing.T) {
	h := sharedHerd(t)
	for _, mode := range []string{"cache_statement", "exec"} {
		db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1", "default_query_exec_mode="+mode)
		mustExec(t, db, "create table c (n int)")
		mustExec(t, db, `create function stubborn() returns int language plpgsql as $$begin
			perform pg_sleep(60); return 0;
			exception when query_canceled then insert into c values (1); return 1;
			end$$`)
		stmt, err := db.Prepare("select stubborn()")
		if err != nil {
			t.Fatal(err)
		}
		defer stmt.Close()
		pid := get[int](t, db, "/* pgherd: primary */ select pg_backend_pid()")
		for _, query := range []func(context.Context) *sql.Row{
			func(ctx context.Context) *sql.Row { return db.QueryRowContext(ctx, "select stubborn()") },
			func(ctx context.Context) *sql.Row { return stmt.QueryRowContext(ctx) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			// database/sql closes rows whose context has ended, unless they are read first.
			if err := query(ctx).Scan(new(int)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: err = %v, want the deadline's or the row", mode, err)
			}
			cancel()
			if got := get[int](t, db, "/* pgherd: primary */ select pg_backend_pid()"); got != pid {
				t.Errorf("%s: backend %d, then %d", mode, pid, got)
			}
		}
		if n := herdOf(t, db).Stats().Retries; n != 0 {
			t.Errorf("%s: %d statements met a connection in use", mode, n)
		}
	}
}

// database/sql looks at the context before it calls Commit. One that ends between
// the two has the transaction rolled back.
func TestCommitAfterTheEnd(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table c (n int)")
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "set application_name = 'sheep'")
	pid := get[int](t, conn, "select pg_backend_pid()")
	err = conn.Raw(func(dc any) error {
		cn := dc.(*pgherd.Conn)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tx, err := cn.BeginTx(ctx, driver.TxOptions{})
		if err != nil {
			return err
		}
		if _, err := cn.ExecContext(t.Context(), "insert into c values (1)", nil); err != nil {
			return err
		}
		cancel()
		if err := tx.Commit(); !errors.Is(err, context.Canceled) {
			t.Errorf("Commit: %v, want Canceled", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := get[int](t, conn, "select count(*) from c"); n != 0 {
		t.Error("the transaction goes on")
	}
	if got := get[int](t, conn, "select pg_backend_pid()"); got != pid {
		t.Errorf("backend %d, then %d", pid, got)
	}
}

// A request to cancel never meets the statement after the one it was meant for.
func TestCancelMeetsNoNeighbour(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=2")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 150 {
				if w%2 == 0 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%20)*200*time.Microsecond)
					db.QueryRowContext(ctx, "select count(*) from generate_series(1, 20000)").Scan(new(int))
					cancel()
				} else if err := db.QueryRowContext(t.Context(), "select 1").Scan(new(int)); err != nil {
					t.Errorf("a neighbour's statement: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// A server that does not answer holds nobody beyond the deadline for long.
func TestCancelOnFrozenServer(t *testing.T) {
	h := pgherdtest.Start(t)
	db := openDB(t, h.DSN())
	mustExec(t, db, "create table c (n int)")
	if err := h.Primary().Freeze(); err != nil {
		t.Fatal(err)
	}
	defer h.Primary().Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := db.ExecContext(ctx, "insert into c values (1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline's", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the call returned after %v", took)
	}
}
