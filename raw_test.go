package pgherd_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// TestRaw copies through every handle that gives or is a connection. What a
// transaction copied is gone when it is rolled back, and there when it is not.
func TestRaw(t *testing.T) {
	db := copyDB(t)
	x := sqlx.NewDb(db, "pgherd")
	ctx := t.Context()
	const rows = 10
	copyIn := func(t *testing.T, target any) {
		t.Helper()
		n, err := pgherd.CopyIn(ctx, target, "copy sheep from stdin (format csv)", bytes.NewReader(sheepCSV(rows)))
		if err != nil || n != rows {
			t.Fatalf("%d rows, err %v", n, err)
		}
	}
	stored := func(t *testing.T, want int) {
		t.Helper()
		if n := get[int](t, db, "select count(*) from sheep"); n != want {
			t.Errorf("%d rows are stored, want %d", n, want)
		}
		mustExec(t, db, "truncate sheep")
	}

	t.Run("DB", func(t *testing.T) {
		copyIn(t, db)
		copyIn(t, x)
		stored(t, 2*rows)
	})
	t.Run("Conn", func(t *testing.T) {
		conn, err := x.Connx(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustExec(t, conn, "create temp table flock (like sheep)")
		for _, target := range []any{conn, conn.Conn} {
			n, err := pgherd.CopyIn(ctx, target, "copy flock from stdin (format csv)", bytes.NewReader(sheepCSV(rows)))
			if err != nil || n != rows {
				t.Fatalf("%d rows, err %v", n, err)
			}
		}
		if n := get[int](t, conn, "select count(*) from flock"); n != 2*rows {
			t.Errorf("%d rows in the temporary table", n)
		}
		err = conn.Raw(func(dc any) error {
			_, err := dc.(*pgherd.Conn).CopyIn(ctx, "copy flock from stdin (format csv)", bytes.NewReader(sheepCSV(rows)))
			return err
		})
		if n := get[int](t, conn, "select count(*) from flock"); err != nil || n != 3*rows {
			t.Errorf("%d rows in the temporary table, err %v", n, err)
		}
	})
	t.Run("Tx", func(t *testing.T) {
		tx, err := x.Beginx()
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range []any{tx, tx.Tx} {
			copyIn(t, target)
		}
		var out bytes.Buffer
		if n, err := pgherd.CopyOut(ctx, tx, "copy sheep to stdout", &out); err != nil || n != 2*rows {
			t.Errorf("%d rows, err %v: the transaction does not see its rows", n, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		stored(t, 0)

		tx = x.MustBegin()
		copyIn(t, tx)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		stored(t, rows)
	})
	t.Run("failed Tx", func(t *testing.T) {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		copyIn(t, tx)
		src := &failing{bytes.NewReader(sheepCSV(rows)), errSource}
		if _, err := pgherd.CopyIn(ctx, tx, "copy sheep from stdin (format csv)", src); !errors.Is(err, errSource) {
			t.Errorf("err %v", err)
		}
		if err := tx.Commit(); !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Errorf("Commit after a failed COPY: %v", err)
		}
		stored(t, 0)
	})
	t.Run("an error of the caller's", func(t *testing.T) {
		// database/sql would try again with a DB, and close the connection of a Conn
		// or a Tx.
		check := func(target queryer) {
			t.Helper()
			calls := 0
			err := pgherd.Raw(ctx, target, func(*pgherd.Conn) error { calls++; return driver.ErrBadConn })
			if err != driver.ErrBadConn || calls != 1 {
				t.Errorf("%T: err %v after %d calls", target, err, calls)
			}
			calls = 0
			err = pgherd.Raw(ctx, target, func(cn *pgherd.Conn) error {
				return cn.PgxConn(ctx, routing.Primary, func(*pgx.Conn) error { calls++; return driver.ErrBadConn })
			})
			if err != driver.ErrBadConn || calls != 1 {
				t.Errorf("%T: PgxConn: err %v after %d calls", target, err, calls)
			}
			if get[int](t, target, "select 1") != 1 {
				t.Errorf("%T is of no use any more", target)
			}
		}
		check(db)
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		check(conn)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		check(tx)
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	})
}

// TestRawIsForHerds gives Raw what is no handle of pgherd.
func TestRawIsForHerds(t *testing.T) {
	h := sharedHerd(t)
	foreign, err := sql.Open("pgx", h.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	mock, _, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer mock.Close()
	fn := func(*pgherd.Conn) error { t.Error("called"); return nil }
	for _, target := range []any{nil, "a DSN", foreign, mock} {
		if err := pgherd.Raw(t.Context(), target, fn); !errors.Is(err, pgherd.ErrNotHerd) {
			t.Errorf("%T: err %v", target, err)
		}
	}

	db := openDB(t, h.CreateDatabase(t).DSN())
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	tx.Rollback()
	if err := pgherd.Raw(t.Context(), tx, fn); !errors.Is(err, sql.ErrTxDone) || errors.Is(err, pgherd.ErrNotHerd) {
		t.Errorf("a transaction that is over: %v", err)
	}
}

// TestRawOfReadyMade shows that COPY works where servers are handles of pgx, and
// says why it does not where they are others.
func TestRawOfReadyMade(t *testing.T) {
	h := sharedHerd(t)
	config, err := pgx.ParseConfig(h.CreateDatabase(t).ServerDSN(h.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	mock, _, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer mock.Close()
	ready := stdlib.OpenDB(*config)
	defer ready.Close()
	mustExec(t, ready, "create table sheep (id bigint, name text, wool float8, born timestamptz)")
	for _, member := range []*sql.DB{ready, mock} {
		c, err := pgherd.NewConnector(nil, pgherd.Member{Name: "only", DB: member, Role: routing.Primary})
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		n, err := pgherd.CopyIn(t.Context(), db, "copy sheep from stdin (format csv)", bytes.NewReader(sheepCSV(10)))
		switch member {
		case ready:
			if err != nil || n != 10 {
				t.Errorf("%d rows, err %v", n, err)
			}
		case mock:
			if err == nil || !strings.Contains(err.Error(), "another driver than pgx") {
				t.Errorf("err %v", err)
			}
		}
		db.Close()
	}
}

// TestCopyIsRouted checks where COPY runs, and that it counts as what it is.
func TestCopyIsRouted(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "consistency=eventual")
	ctx := t.Context()
	mustExec(t, db, "create table sheep (id bigint, name text, wool float8, born timestamptz)")
	where := func(ctx context.Context, target any) string {
		t.Helper()
		var out bytes.Buffer
		if _, err := pgherd.CopyOut(ctx, target, "copy (select pg_is_in_recovery(), count(*) from sheep) to stdout", &out); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	eventually(t, "a replica serves COPY", func() bool { return where(ctx, db) == "t\t0" })
	if got := where(pgherd.WithPrimary(ctx), db); got != "f\t0" {
		t.Errorf("under WithPrimary: %s", got)
	}
	if err := pgherd.Raw(ctx, db, func(cn *pgherd.Conn) error {
		var out bytes.Buffer
		_, err := cn.CopyOut(ctx, "copy (delete from sheep returning pg_is_in_recovery()) to stdout", &out)
		return err
	}); err != nil {
		t.Errorf("a COPY that writes: %v", err)
	}

	// A COPY in is a write to the session that it is in, and on its connection.
	delayReplicas(t, 2*time.Second)
	session := pgherd.NewSession(ctx)
	if _, err := pgherd.CopyIn(session, db, "copy sheep from stdin (format csv)", bytes.NewReader(sheepCSV(10))); err != nil {
		t.Fatal(err)
	}
	if !pgherd.SessionFromContext(session).Wrote() {
		t.Error("the session does not know of the COPY")
	}
	if got := where(session, db); !strings.HasSuffix(got, "\t10") {
		t.Errorf("the session does not see its COPY: %s", got)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pgherd.CopyIn(ctx, conn, "copy sheep from stdin (format csv)", bytes.NewReader(sheepCSV(10))); err != nil {
		t.Fatal(err)
	}
	if got := where(ctx, conn); got != "f\t20" {
		t.Errorf("the connection does not see its COPY: %s", got)
	}
}

// TestPgxConn leaves connections of pgx in every state.
func TestPgxConn(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1", "consistency=eventual")
	ctx := t.Context()
	mustExec(t, db, "create table sheep (id bigint)")
	pgxConn := func(t *testing.T, target any, role routing.Role, fn func(*pgx.Conn) error) {
		t.Helper()
		if err := pgherd.Raw(ctx, target, func(cn *pgherd.Conn) error { return cn.PgxConn(ctx, role, fn) }); err != nil {
			t.Fatal(err)
		}
	}
	exec := func(text string) func(*pgx.Conn) error {
		return func(c *pgx.Conn) error { _, err := c.Exec(ctx, text); return err }
	}
	inRecovery := func(c *pgx.Conn) (in bool) {
		if err := c.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&in); err != nil {
			t.Error(err)
		}
		return in
	}

	t.Run("roles", func(t *testing.T) {
		pgxConn(t, db, routing.Primary, func(c *pgx.Conn) error {
			if inRecovery(c) {
				t.Error("the primary is a replica")
			}
			return nil
		})
		eventually(t, "a replica is lent", func() (in bool) {
			pgxConn(t, db, routing.Replica, func(c *pgx.Conn) error { in = inRecovery(c); return nil })
			return in
		})
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if !onReplica(t, tx) {
			t.Fatal("the transaction is not on a replica")
		}
		err = pgherd.Raw(ctx, tx, func(cn *pgherd.Conn) error {
			return cn.PgxConn(ctx, routing.Primary, func(*pgx.Conn) error { t.Error("called"); return nil })
		})
		if err == nil {
			t.Error("a transaction on a replica gave a connection of the primary")
		}
	})
	t.Run("its error", func(t *testing.T) {
		err := pgherd.Raw(ctx, db, func(cn *pgherd.Conn) error {
			return cn.PgxConn(ctx, routing.Primary, func(*pgx.Conn) error { return errSource })
		})
		if err != errSource {
			t.Errorf("err %v", err)
		}
	})
	t.Run("a write", func(t *testing.T) {
		session := pgherd.NewSession(ctx)
		err := pgherd.Raw(session, db, func(cn *pgherd.Conn) error {
			return cn.PgxConn(session, routing.Primary, exec("insert into sheep values (1)"))
		})
		if err != nil || !pgherd.SessionFromContext(session).Wrote() {
			t.Errorf("the session does not know of the write; err %v", err)
		}
	})
	t.Run("a transaction is left open", func(t *testing.T) {
		pgxConn(t, db, routing.Primary, exec("begin; insert into sheep values (2)"))
		if n := get[int](t, db, "/* pgherd: primary */ select count(*) from sheep where id = 2"); n != 0 {
			t.Error("what was left open was taken for committed, or goes on")
		}
		pgxConn(t, db, routing.Replica, exec("begin"))
		mustExec(t, db, "insert into sheep values (3)")
	})
	t.Run("settings", func(t *testing.T) {
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pgxConn(t, conn, routing.Primary, exec("set application_name = 'sheep'"))
		if got := get[string](t, conn, "show application_name"); got != "sheep" {
			t.Errorf("the setting is lost within the checkout: %q", got)
		}
		conn.Close()
		pgxConn(t, db, routing.Replica, exec("set application_name = 'goat'"))
		for range 4 { // both replicas
			pgxConn(t, db, routing.Replica, func(c *pgx.Conn) error {
				var name string
				if err := c.QueryRow(ctx, "show application_name").Scan(&name); name == "goat" {
					t.Errorf("a setting is left on a replica; err %v", err)
				}
				return nil
			})
		}
	})
	t.Run("notifications", func(t *testing.T) {
		pgxConn(t, db, routing.Primary, exec("listen wolves; notify wolves, 'one'"))
		pgxConn(t, db, routing.Primary, func(c *pgx.Conn) error {
			var n int
			if err := c.QueryRow(ctx, "select count(*) from pg_listening_channels()").Scan(&n); err != nil || n != 0 {
				t.Errorf("%d channels are listened to, err %v", n, err)
			}
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if n, _ := c.WaitForNotification(short); n != nil {
				t.Error("a notification went to the next user of the connection")
			}
			return nil
		})
	})
	t.Run("closed", func(t *testing.T) {
		pgxConn(t, db, routing.Primary, func(c *pgx.Conn) error { return c.Close(ctx) })
		mustExec(t, db, "insert into sheep values (4)")
	})
	t.Run("panic", func(t *testing.T) {
		func() {
			defer func() {
				if v := recover(); v != errSource {
					t.Errorf("recovered %v", v)
				}
			}()
			pgxConn(t, db, routing.Primary, func(c *pgx.Conn) error { panic(errSource) })
		}()
		mustExec(t, db, "insert into sheep values (5)")
	})
}

// TestConnListens waits for notifications on a connection of a pool.
func TestConnListens(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	ctx := t.Context()
	const channel = `Wolf "grey"`
	err := pgherd.Raw(ctx, db, func(cn *pgherd.Conn) error {
		if err := cn.Listen(ctx, strings.Repeat("w", 64)); err == nil {
			t.Error("a name that PostgreSQL cuts was accepted")
		}
		if _, err := cn.WaitForNotification(ctx); err == nil {
			t.Error("waited without a channel")
		}
		if err := cn.Listen(ctx, channel); err != nil {
			return err
		}
		for range 3 { // the end of a wait harms nothing
			short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			_, err := cn.WaitForNotification(short)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("err %v", err)
			}
		}
		mustExec(t, db, "select pg_notify($1, 'at the gate')", channel)
		long, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		n, err := cn.WaitForNotification(long)
		if err != nil {
			return err
		}
		if n.Channel != channel || n.Payload != "at the gate" {
			t.Errorf("notified of %+v", n)
		}
		return cn.Unlisten(ctx, channel)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// firstWrite calls a function before the first Write.
type firstWrite struct {
	bytes.Buffer
	do func()
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return w.Buffer.Write(p)
}

// TestCopyOutMoves ends connections under a COPY. Until something was written it
// goes to another server, and then no more.
func TestCopyOutMoves(t *testing.T) {
	t.Parallel()
	h := sharedHerd(t)
	database := h.CreateDatabase(t)
	db := openDB(t, database.DSN())
	ctx := t.Context()
	const late = "copy (select i from generate_series(1, 3000000) i) to stdout"
	const early = "copy (select pg_is_in_recovery(), case when pg_is_in_recovery() then pg_sleep(300) end) to stdout"
	if err := herdOf(t, db).ReadCatalog(ctx, late, early); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{late, early} {
		eventually(t, "replicas serve COPY", func() bool {
			return herdOf(t, db).Explain(ctx, text).RouteReason == routing.ReasonRead.String()
		})
	}
	var replicas []*sql.DB
	for i := 1; i <= 2; i++ {
		r, err := sql.Open("pgx", database.ServerDSN(h.Replica(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		replicas = append(replicas, r)
	}
	terminate := func(text string) (ended int) {
		for _, r := range replicas {
			var n int
			if err := r.QueryRow("select count(pg_terminate_backend(pid)) from pg_stat_activity where query = $1 and state = 'active'", text).Scan(&n); err != nil {
				t.Error(err)
			}
			ended += n
		}
		return ended
	}

	w := &firstWrite{}
	w.do = func() { terminate(late) }
	n, err := pgherd.CopyOut(ctx, db, late, w)
	if err == nil || n != 0 {
		t.Errorf("%d rows, err %v of a COPY that was ended on its way", n, err)
	}
	if lines := strings.SplitN(w.String(), "\n", 3); lines[0] != "1" || strings.Count(w.String(), "\n1\n") > 0 {
		t.Errorf("a COPY was begun again: %q", lines[:2])
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		var out bytes.Buffer
		n, err := pgherd.CopyOut(ctx, db, early, &out)
		if err != nil || n != 1 || !strings.HasPrefix(out.String(), "f") {
			t.Errorf("%d rows, %q, err %v, want a row of the primary", n, out.String(), err)
		}
	}()
	ended := 0
	eventually(t, "the COPY is over", func() bool {
		ended += terminate(early)
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	if ended < 2 { // one that ends may be counted twice
		t.Errorf("%d connections were ended, want one on each replica", ended)
	}
}
