package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
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
		if pgconn.Timeout(err) {
			t.Error("pgconn.Timeout knows the error, which doc.go denies")
		}
	}
	// briefly runs a statement under a deadline that it meets once the server has
	// begun with it, which on a busy machine may take a while.
	briefly := func(run func(ctx context.Context) error) (err error) {
		for d := 50 * time.Millisecond; d < 10*time.Second; d *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			err = run(ctx)
			cancel()
			if pgErr := (*pgconn.PgError)(nil); err == nil || errors.As(err, &pgErr) {
				break
			}
		}
		return err
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
		cancelled(t, briefly(run))
		if got := get[int](t, conn, "select pg_backend_pid()"); got != pid {
			t.Fatalf("backend %d, then %d", pid, got)
		}
	}
	if got := get[string](t, conn, "show application_name"); got != "sheep" {
		t.Errorf("application_name = %q", got)
	}
	conn.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
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
	t.Parallel()
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

// A statement that succeeds although it was cancelled has succeeded.
func TestLateSuccessIsSuccess(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, d.DSN())
	mustExec(t, db, "create table c (n int)")
	createStubborn(t, db)
	side, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close()
	insertLate(t, side, func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "insert into c select stubborn()")
		return err
	})
	insertLate(t, side, func(ctx context.Context) error { return execPrepared(ctx, db, "insert into c select stubborn()") })
}

// createStubborn creates a function that returns as soon as it is cancelled.
func createStubborn(t *testing.T, db execer) {
	mustExec(t, db, `create function stubborn() returns int language plpgsql as $$begin
		perform pg_sleep(60); return 0;
		exception when query_canceled then return 1;
		end$$`)
}

// insertLate has insert call stubborn for a row of c and cancels it, until it has
// succeeded. side leads to the primary.
func insertLate(t *testing.T, side *sql.DB, insert func(context.Context) error) {
	t.Helper()
	rows := func() int { return get[int](t, side, "select count(*) from c") }
	before := rows()
	var err error
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- insert(ctx) }()
		eventually(t, "the statement sleeps", func() bool {
			return get[int](t, side, "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'") == 1
		})
		cancel()
		if err = <-done; err == nil {
			if rows() == before {
				t.Error("the row is not there")
			}
			return
		}
		// On a busy machine a second request to cancel may meet it behind the
		// function, or the answer take longer than the herd waits.
	}
	t.Errorf("the last of many attempts: %v", err)
}

func execPrepared(ctx context.Context, db *sql.DB, query string) error {
	stmt, err := db.PrepareContext(ctx, query)
	if err != nil {
		return err
	}
	defer stmt.Close()
	_, err = stmt.ExecContext(ctx)
	return err
}

// A server that is asked to cancel a statement that waits for a synchronous
// standby says that it was committed. The standby may not have it, and the caller
// hears of that, unless it was somebody else who cancelled.
func TestWaitForSynchronousStandbyIsCancelled(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t)
	db := openDB(t, h.DSN(), "pool_max_conns=1")
	mustExec(t, db, "create table c (n int)")
	side, err := sql.Open("pgx", h.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close()
	mustExec(t, side, "alter system set synchronous_standby_names = 'replica1'")
	mustExec(t, side, "select pg_reload_conf()")
	eventually(t, "the standby is synchronous", func() bool {
		return get[string](t, side, "select coalesce(max(sync_state), '') from pg_stat_replication") == "sync"
	})
	if err := h.Replica(1).PartitionReplication(); err != nil {
		t.Fatal(err)
	}
	const waits = " from pg_stat_activity where wait_event = 'SyncRep'"
	// Sessions wait once the checkpointer has read the settings, too, which none
	// can see.
	eventually(t, "commits wait for the standby", func() bool {
		done := make(chan struct{})
		go func() {
			defer close(done)
			mustExec(t, side, "insert into c values (0)")
		}()
		for {
			select {
			case <-done:
				return false
			default:
			}
			if get[int](t, side, "select count(pg_cancel_backend(pid))"+waits) == 1 {
				<-done
				return true
			}
		}
	})
	// during runs a write, and end while it waits for the standby.
	during := func(write func(ctx context.Context) error, end func(cancel context.CancelFunc)) error {
		eventually(t, "nothing waits any more", func() bool { return get[int](t, side, "select count(*)"+waits) == 0 })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- write(ctx) }()
		eventually(t, "the write waits for the standby", func() bool { return get[int](t, side, "select count(*)"+waits) == 1 })
		end(cancel)
		return <-done
	}
	text := func(ctx context.Context) error {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		mustExec(t, conn, "begin")
		mustExec(t, conn, "insert into c values (1)")
		_, err = conn.ExecContext(ctx, "commit")
		return err
	}
	exec := func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "insert into c values (1)")
		return err
	}
	writes := map[string]func(ctx context.Context) error{
		"exec":     exec,
		"prepared": func(ctx context.Context) error { return execPrepared(ctx, db, "insert into c values (1)") },
		"returning": func(ctx context.Context) error {
			return db.QueryRowContext(ctx, "insert into c values (1) returning n").Scan(new(int))
		},
		"commit as text": text,
		"copy": func(ctx context.Context) error {
			_, err := pgherd.CopyIn(ctx, db, "copy c from stdin", strings.NewReader("1\n"))
			return err
		},
	}
	written := 0
	for name, write := range writes {
		// On a busy machine the answer may take longer than the herd waits, and
		// database/sql may see the end of the context before that of the rows.
		told := false
		for attempt := 0; !told && attempt < 20; attempt++ {
			err = during(write, func(cancel context.CancelFunc) { cancel() })
			written++
			if err == nil && name == "returning" {
				continue // the row was read when database/sql closed the rows, and it keeps their error
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("%s: %v, want the caller's cancellation", name, err)
			}
			var notice *pgconn.PgError
			told = errors.As(err, &notice) && notice.Code == "01000" || name == "returning"
		}
		if !told {
			t.Errorf("%s: %v does not tell what the server said", name, err)
		}
	}
	eventually(t, "nothing waits any more", func() bool { return get[int](t, side, "select count(*)"+waits) == 0 })
	if n := get[int](t, side, "select sum(n) from c"); n != written {
		t.Errorf("%d rows are there, want %d", n, written)
	}
	err = during(exec, func(context.CancelFunc) { mustExec(t, side, "select pg_cancel_backend(pid)"+waits) })
	if err != nil {
		t.Errorf("after an administrator has ended the wait: %v", err)
	}
	// What a connection was told once does not count for what it does next.
	mustExec(t, side, "alter system reset synchronous_standby_names")
	mustExec(t, side, "select pg_reload_conf()")
	eventually(t, "no standby is synchronous", func() bool { return get[string](t, side, "show synchronous_standby_names") == "" })
	createStubborn(t, side)
	insertLate(t, side, func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "insert into c select stubborn()")
		return err
	})
}
