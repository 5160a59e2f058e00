package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/pgherdtest"
)

var cancellationCases = []conformanceCase{
	{"cancellation/before", cancelledBefore},
	{"cancellation/during", cancelledDuring},
	{"cancellation/while rows are read", cancelledMidRows},
	{"cancellation/under load", cancelledUnderLoad},
}

func cancelledBefore(s *script) {
	s.mustExec(s.db, "create table cancelled (n int)")
	stmt := s.prepare(s.db, "select 1")
	conn := s.conn()
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	expired, cancel := context.WithTimeout(s.ctx, -time.Second)
	defer cancel()
	for _, ctx := range []context.Context{cancelled, expired} {
		_, err := s.db.ExecContext(ctx, "insert into cancelled values (1)")
		s.printf("exec %s", s.err(err))
		_, err = s.db.QueryContext(ctx, "select 1")
		s.printf("query %s", s.err(err))
		s.printf("row %s", s.err(s.db.QueryRowContext(ctx, "select 1").Scan(new(int))))
		_, err = s.db.PrepareContext(ctx, "select 1")
		s.printf("prepare %s", s.err(err))
		_, err = stmt.QueryContext(ctx)
		s.printf("stmt %s", s.err(err))
		_, err = s.db.BeginTx(ctx, nil)
		s.printf("begin %s", s.err(err))
		_, err = s.db.Conn(ctx)
		s.printf("conn %s", s.err(err))
		s.printf("ping %s", s.err(s.db.PingContext(ctx)))
		// Plain pgx calls the connection bad, which closes the sql.Conn for good.
		// pgherd says what was wrong, and keeps it.
		_, err = conn.ExecContext(ctx, "insert into cancelled values (1)")
		s.printf("exec on a conn failed %t", err != nil)
		if s.who.pgherd {
			if !errors.Is(err, ctx.Err()) {
				s.Errorf("exec on a conn: %v, want %v", err, ctx.Err())
			}
			get[int](s, conn, "select 1")
		}
	}
	s.query(s.db, "select count(*) from cancelled")
}

func cancelledDuring(s *script) {
	for _, query := range []string{"select pg_sleep(10)", "select 1 from pg_sleep(10)", "do $$ begin perform pg_sleep(10); end $$"} {
		// A connection is there, so that no time is spent on making one.
		s.mustExec(s.db, "select 1")
		ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
		_, err := s.db.ExecContext(ctx, query)
		s.printf("exec: is the deadline's %t", errors.Is(err, context.DeadlineExceeded))
		cancel()
		s.mustExec(s.db, "select 1")
		ctx, cancel = context.WithCancel(s.ctx)
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err = s.db.ExecContext(ctx, query)
		s.printf("exec: is the cancellation %t", errors.Is(err, context.Canceled))
		s.mustExec(s.db, "select 1")
		ctx, cancel = context.WithTimeout(s.ctx, 100*time.Millisecond)
		begun := time.Now()
		err = s.db.QueryRowContext(ctx, query).Scan(new(any))
		cancel()
		s.printf("row: is the deadline's %t, at once %t", errors.Is(err, context.DeadlineExceeded), time.Since(begun) < 5*time.Second)
	}
	s.query(s.db, "select 1")
	// What becomes of the connection differs: see TestCancelKeepsTheConnection.
}

func cancelledMidRows(s *script) {
	s.ready()
	ctx, cancel := context.WithCancel(s.ctx)
	// More than sockets and buffers hold, so that the server is still sending.
	rows, err := s.db.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 200000)")
	if err != nil {
		s.Fatal(err)
	}
	for range 10 {
		rows.Next()
	}
	cancel()
	eventually(s, "the rows end", func() bool { return !rows.Next() })
	s.printf("err is Canceled %t", errors.Is(rows.Err(), context.Canceled))
	rows.Close()
	s.query(s.db, "select 1")

	ctx, cancel = context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	rows, err = s.db.QueryContext(ctx, "select n, case when n > 100 then pg_sleep(10) end from generate_series(1, 1000) n")
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
		rows.Close()
	}
	s.printf("deadline %t", errors.Is(err, context.DeadlineExceeded))
	s.query(s.db, "select 1")

	// A transaction outlives rows that were cancelled before they were read, or
	// it does not; its end tells.
	tx := s.begin(nil)
	ctx, cancel = context.WithCancel(s.ctx)
	rows, err = tx.QueryContext(ctx, "select n from generate_series(1, 10) n")
	if err != nil {
		s.Fatal(err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	cancel()
	rows.Close()
	s.printf("%d rows, err %s", n, s.err(rows.Err()))
	s.query(tx, "select 1")
	s.printf("commit %s", s.err(tx.Commit()))
}

// cancelledUnderLoad: no cancellation reaches another's statement.
func cancelledUnderLoad(s *script) {
	s.ready()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 15 {
				if g%2 == 0 {
					ctx, cancel := context.WithTimeout(s.ctx, 5*time.Millisecond)
					_, err := s.db.ExecContext(ctx, "select pg_sleep(1)")
					if err == nil { // a dial that is cut short says only that it timed out
						s.Error("no error after the deadline")
					}
					cancel()
					continue
				}
				var n int
				if err := s.db.QueryRowContext(s.ctx, "select $1::int", g).Scan(&n); err != nil || n != g {
					s.Errorf("got %d, %v; want %d", n, err, g)
				}
			}
		})
	}
	wg.Wait()
	s.printf("each one's end was its own: %t", !s.Failed())
	if s.who.pgherd {
		for _, server := range herdOf(s, s.db).Stats().Servers {
			if server.Failures != 0 {
				s.Errorf("%s: %d failures counted for the callers' deadlines", server.Name, server.Failures)
			}
		}
	}
	s.query(s.db, "select 1")
}

var poolCases = []conformanceCase{
	{"pool/raw bad conn", rawBadConn},
	{"pool/limits", poolLimits},
	{"pool/close", closeInFlight},
	{"pool/killed while idle", killedWhileIdle},
	{"pool/killed in a transaction", killedInTx},
	{"pool/killed with state", killedWithState},
	{"pool/rows block the next statement", blockedByRows},
	{"pool/lifetime", lifetimes},
}

func rawBadConn(s *script) {
	conn := s.conn()
	s.printf("raw %s", s.err(conn.Raw(func(any) error { return driver.ErrBadConn })))
	s.query(conn, "select 1")
	s.printf("close %s", s.err(conn.Close()))
	s.query(s.db, "select 1")
}

func poolLimits(s *script) {
	s.db.SetMaxOpenConns(2)
	one, two := s.begin(nil), s.begin(nil)
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := s.db.ExecContext(ctx, "select 1")
	s.printf("a third: %s", s.err(err))
	s.printf("in use %d", s.db.Stats().InUse)
	waiting := make(chan error)
	go func() {
		_, err := s.db.ExecContext(s.ctx, "select 1")
		waiting <- err
	}()
	s.printf("commit %s", s.err(one.Commit()))
	s.printf("the waiting one: %s", s.err(<-waiting))
	s.printf("rollback %s", s.err(two.Rollback()))
	s.db.SetMaxIdleConns(0)
	s.query(s.db, "select 1")
	s.printf("open %d, in use %d", s.db.Stats().OpenConnections, s.db.Stats().InUse)
	s.db.SetMaxIdleConns(2)
	s.db.SetMaxOpenConns(0)
	s.query(s.db, "select 1")
}

// closeInFlight: DB.Close waits for nothing, and what is in flight ends as it
// would have.
//
// A sql.Conn that holds no transaction and no state has nothing in flight: with
// pgherd its next statement says that the herd is closed, with plain pgx it
// runs.
func closeInFlight(s *script) {
	name := "pgx"
	if s.who.pgherd {
		name = "pgherd"
	}
	s.mustExec(s.db, "create table closing (n int)")
	s.ready()
	db, err := sql.Open(name, s.who.dsn())
	if err != nil {
		s.Fatal(err)
	}
	tx, err := db.BeginTx(s.ctx, nil)
	if err != nil {
		s.Fatal(err)
	}
	rows, err := db.QueryContext(s.ctx, "select n from generate_series(1, 100000) n")
	if err != nil {
		s.Fatal(err)
	}
	held, err := db.Conn(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.mustExec(held, "set application_name = 'held'")
	slow := make(chan string)
	go func() {
		res, err := db.ExecContext(s.ctx, "select pg_sleep(0.3)")
		slow <- s.result(res, err)
	}()
	eventually(s, "it sleeps", func() bool {
		return get[int](s, s.db, "select count(*) from pg_stat_activity where datname = current_database() and query = 'select pg_sleep(0.3)'") == 1 ||
			s.who.replicas > 0 && db.Stats().InUse >= 4
	})
	s.printf("close %s, again %s", s.err(db.Close()), s.err(db.Close()))
	s.printf("slow %s", <-slow)
	n := 0
	for rows.Next() {
		n++
	}
	s.printf("%d rows, err %s", n, s.err(rows.Err()))
	s.exec(tx, "insert into closing values (1)")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(held, "show application_name")
	s.printf("close %s", s.err(held.Close()))
	s.exec(db, "select 1")
	s.query(db, "select 1")
	s.printf("ping %s", s.err(db.PingContext(s.ctx)))
	_, err = db.BeginTx(s.ctx, nil)
	s.printf("begin %s", s.err(err))
	s.printf("in use %d, open %d", db.Stats().InUse, db.Stats().OpenConnections)
	// What another handle wrote may be on no replica yet.
	s.query(s.db, "/* pgherd: primary */ select n from closing")
}

// killBackends ends all other sessions of the case's database, on all servers,
// and waits until they are gone.
func (s *script) killBackends() {
	s.Helper()
	for _, server := range s.who.herd.Servers() {
		s.kill(server, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	}
}

func (s *script) kill(server *pgherdtest.Server, query string, args ...any) {
	s.Helper()
	conn, err := pgx.Connect(s.ctx, s.who.database.ServerDSN(server))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(s.ctx)
	if _, err := conn.Exec(s.ctx, query, args...); err != nil {
		s.Fatal(err)
	}
}

// killedWhileIdle: whether the end of an idle connection is noticed before the
// statement is on its way is a race. Then a read of plain pgx fails now and
// then, and a write has the outcome that its error says; pgherd's reads never
// fail.
func killedWhileIdle(s *script) {
	s.mustExec(s.db, "create table killed (n int)")
	s.ready()
	for i := range 3 {
		s.killBackends()
		if err := s.db.QueryRowContext(s.ctx, "select count(*) from killed").Scan(new(int)); err != nil && s.who.pgherd {
			s.Errorf("a read failed: %v", err)
		}
		s.killBackends()
		for {
			_, err := s.db.ExecContext(s.ctx, "insert into killed values ($1)", i)
			if err == nil {
				break
			}
			// 57P01 is what a backend says that was idle; it has not run the insert.
			if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "57P01" {
				if !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
					s.Fatalf("insert: %s", s.err(err))
				}
			}
		}
	}
	s.query(s.db, "select n from killed order by n")
}

func killedInTx(s *script) {
	s.mustExec(s.db, "create table killed_in_tx (n int)")
	for _, query := range []string{"insert into killed_in_tx values (2)", "select 1"} {
		tx := s.begin(nil)
		s.exec(tx, "insert into killed_in_tx values (1)")
		var pid int
		if err := tx.QueryRowContext(s.ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
			s.Fatal(err)
		}
		s.kill(s.who.herd.Primary(), "select pg_terminate_backend($1, 5000)", pid)
		_, err := tx.ExecContext(s.ctx, query)
		s.printf("failed %t", err != nil)
		_, err = tx.ExecContext(s.ctx, query)
		s.printf("then %s", s.err(err))
		s.printf("commit failed %t", tx.Commit() != nil)
		s.query(s.db, "select count(*) from killed_in_tx")
	}
}

func killedWithState(s *script) {
	conn := s.conn()
	s.mustExec(conn, "set application_name = 'lost'")
	var pid int
	if err := conn.QueryRowContext(s.ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
		s.Fatal(err)
	}
	s.kill(s.who.herd.Primary(), "select pg_terminate_backend($1, 5000)", pid)
	// Never an answer from a session without the setting.
	for i := range 4 {
		var name string
		err := conn.QueryRowContext(s.ctx, "show application_name").Scan(&name)
		s.printf("failed %t %q", err != nil, name)
		if i == 3 {
			s.printf("in the end %s", s.err(err))
		}
	}
	s.printf("close %s", s.err(conn.Close()))
	s.query(s.db, "select 1")
}

// blockedByRows: database/sql lets the next statement of a sql.Conn wait until
// rows are closed.
func blockedByRows(s *script) {
	conn := s.conn()
	rows, err := conn.QueryContext(s.ctx, "select n from generate_series(1, 3) n")
	if err != nil {
		s.Fatal(err)
	}
	s.printf("next %t", rows.Next())
	done := make(chan error)
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	go func() {
		_, err := conn.ExecContext(ctx, "select 1")
		done <- err
	}()
	// With plain pgx the statement waits for the rows, then fails; with pgherd
	// it waits, or runs on another connection.
	time.AfterFunc(200*time.Millisecond, func() { rows.Close() })
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		s.Fatal("the statement hangs")
	}
	rows.Close()
	s.printf("rows err is about the rows %t", rows.Err() == nil)
	conn.Close()
	s.query(s.db, "select 1")
}

func lifetimes(s *script) {
	s.db.SetConnMaxLifetime(time.Millisecond)
	s.db.SetConnMaxIdleTime(time.Millisecond)
	for range 10 {
		var n int
		if err := s.db.QueryRowContext(s.ctx, "select 1").Scan(&n); err != nil || n != 1 {
			s.Errorf("%d, %v", n, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	s.db.SetConnMaxLifetime(0)
	s.db.SetConnMaxIdleTime(0)
	s.query(s.db, "select 1")
}
