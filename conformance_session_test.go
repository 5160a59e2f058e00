package pgherd_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"sync"
	"time"
)

var sessionCases = []conformanceCase{
	{"sessions/settings", settings},
	{"sessions/temporary tables", temporaryTables},
	{"sessions/advisory locks", advisoryLocks},
	{"sessions/prepare as text", prepareAsText},
	{"sessions/cursors", cursors},
	{"sessions/listen", listening},
	{"sessions/sequences", sequences},
	{"sessions/role", roles},
	{"sessions/pool of one", poolOfOne},
	{"sessions/closed conn", closedConn},
	{"sessions/many conns", manyConns},
	{"sessions/large objects", largeObjects},
	{"sessions/copy as text", copyAsText},
}

func settings(s *script) {
	conn := s.conn()
	s.query(conn, "show application_name")
	s.exec(conn, "set application_name = 'conformance'")
	s.query(conn, "show application_name")
	s.query(conn, "select current_setting('application_name')")
	s.query(conn, "select set_config('my.setting', $1, false)", "mine")
	for range 5 {
		s.query(conn, "select current_setting('my.setting')")
	}
	s.exec(conn, "set search_path to elsewhere")
	s.query(conn, "select * from t")
	s.exec(conn, "reset search_path")
	s.exec(conn, "set timezone to 'Asia/Tokyo'")
	s.query(conn, "select '2024-02-29 00:00:00Z'::timestamptz::text")
	s.exec(conn, "set statement_timeout to '20ms'")
	s.query(conn, "select pg_sleep(5)")
	s.exec(conn, "reset statement_timeout")
	s.exec(conn, "set default_transaction_read_only to on")
	s.exec(conn, "create table refused_by_setting (n int)")
	s.exec(conn, "reset all")
	s.query(conn, "show application_name")
	tx, err := conn.BeginTx(s.ctx, nil)
	if err != nil {
		s.Fatal(err)
	}
	s.exec(tx, "set local application_name = 'local'")
	s.query(tx, "show application_name")
	s.exec(tx, "set application_name = 'rolled back'")
	s.printf("rollback %s", s.err(tx.Rollback()))
	s.query(conn, "show application_name")
	s.exec(conn, "set session characteristics as transaction isolation level serializable")
	s.query(conn, "show default_transaction_isolation")
	s.exec(conn, "discard all")
	s.query(conn, "show default_transaction_isolation")
	s.query(conn, "select current_setting('my.setting', true)")
}

func temporaryTables(s *script) {
	// The temporary table hides one that every replica has.
	s.mustExec(s.db, "create table hidden (n int)")
	s.mustExec(s.db, "insert into hidden values (0)")
	s.ready()
	conn := s.conn()
	s.query(conn, "select n from hidden")
	s.exec(conn, "create temp table hidden (n int)")
	s.exec(conn, "insert into hidden values (1), (2)")
	for range 5 {
		s.query(conn, "select n from hidden order by n")
	}
	s.query(s.db, "select n from hidden")
	s.exec(conn, "select n + 1 as n into temp into_temp from hidden")
	s.query(conn, "select n from into_temp order by n")
	s.exec(conn, "create temp view temp_view as select 7 as seven")
	s.query(conn, "select * from temp_view")
	s.exec(conn, "create function pg_temp.five() returns int language sql as 'select 5'")
	s.query(conn, "select pg_temp.five()")
	s.exec(conn, "drop table pg_temp.hidden")
	s.query(conn, "select n from hidden")
	tx := s.begin(nil)
	s.exec(tx, "create temp table dropped on commit drop as select 1 as n")
	s.query(tx, "select n from dropped")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select n from dropped")
}

func advisoryLocks(s *script) {
	one, two := s.conn(), s.conn()
	s.query(one, "select pg_try_advisory_lock($1)", 77)
	s.query(two, "select pg_try_advisory_lock($1)", 77)
	s.query(two, "select pg_advisory_unlock($1)", 77)
	s.query(one, "select pg_try_advisory_lock($1)", 77)
	s.query(one, "select pg_advisory_unlock($1)", 77)
	s.query(two, "select pg_try_advisory_lock($1)", 77)
	s.query(one, "select pg_advisory_unlock($1)", 77)
	s.query(two, "select pg_try_advisory_lock($1)", 77)
	s.query(two, "select pg_advisory_unlock_all()")
	s.query(two, "select pg_try_advisory_lock($1, $2)", 7, 7)
	tx := s.begin(nil)
	s.query(tx, "select pg_try_advisory_xact_lock(78)")
	s.query(one, "select pg_try_advisory_lock(78)")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(one, "select pg_try_advisory_lock(78)")
	s.query(one, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
	s.query(one, "select pg_advisory_unlock_all()")
	s.query(two, "select pg_advisory_unlock_all()")
}

func prepareAsText(s *script) {
	conn := s.conn()
	s.exec(conn, "prepare plan (int) as select $1 + 1")
	for i := range 3 {
		s.query(conn, fmt.Sprintf("execute plan(%d)", i))
	}
	s.query(conn, "select name, statement from pg_prepared_statements where from_sql")
	s.exec(conn, "deallocate plan")
	s.query(conn, "execute plan(1)")
	s.exec(conn, "prepare plan as select 1; execute plan")
	s.exec(conn, "deallocate all")
	s.query(conn, "select count(*) from pg_prepared_statements where from_sql")
}

func cursors(s *script) {
	conn := s.conn()
	s.exec(conn, "declare held cursor with hold for select n from generate_series(1, 5) n")
	s.query(conn, "fetch 2 from held")
	s.query(conn, "fetch next from held")
	s.exec(conn, "move 1 in held")
	s.query(conn, "fetch all in held")
	s.query(conn, "select name, is_holdable from pg_cursors where name = 'held'")
	s.exec(conn, "close held")
	s.query(conn, "fetch 1 from held")
	s.exec(conn, "declare outside cursor for select 1")
	for _, opts := range []*sql.TxOptions{nil, {ReadOnly: true}} {
		tx := s.begin(opts)
		s.exec(tx, "declare inside scroll cursor for select n from generate_series(1, 5) n")
		s.query(tx, "fetch last from inside")
		s.query(tx, "fetch backward 2 from inside")
		s.printf("commit %s", s.err(tx.Commit()))
	}
}

func listening(s *script) {
	conn := s.conn()
	s.exec(conn, "listen sheep")
	s.query(conn, "select pg_listening_channels()")
	s.exec(s.db, "notify sheep, 'bah'")
	s.query(s.db, "select pg_notify('sheep', $1)", "bah")
	s.exec(conn, "unlisten sheep")
	s.query(conn, "select count(*) from pg_listening_channels()")
	s.exec(conn, "unlisten *")
}

func sequences(s *script) {
	s.mustExec(s.db, "create sequence numbers; create table numbered (id int default nextval('numbers'))")
	s.ready()
	conn := s.conn()
	s.query(conn, "select currval('numbers')")
	s.query(conn, "select nextval('numbers')")
	for range 3 {
		s.query(conn, "select currval('numbers')")
		s.query(conn, "select lastval()")
	}
	s.exec(conn, "insert into numbered default values")
	s.query(conn, "select currval('numbers'), lastval()")
	s.query(conn, "select setval('numbers', 100)")
	s.query(s.db, "select nextval('numbers')")
	s.query(s.db, "select last_value, is_called from numbers")
	s.query(conn, "select currval('numbers')")
}

func roles(s *script) {
	// Roles are the whole herd's: one for each contestant.
	role := "role_" + s.who.database.Name
	s.mustExec(s.db, "create role "+role)
	s.Cleanup(func() {
		db := s.who.open(s)
		db.Exec("drop owned by " + role + "; drop role " + role)
	})
	s.mustExec(s.db, "create table forbidden (n int); create table allowed (n int); grant select on allowed to "+role)
	s.ready()
	conn := s.conn()
	s.mustExec(conn, "set role "+role)
	s.query(conn, "select * from forbidden")
	s.query(conn, "select * from allowed")
	s.exec(conn, "insert into allowed values (1)")
	s.exec(conn, "reset role")
	s.query(conn, "select * from forbidden")
	s.mustExec(conn, "set session authorization "+role)
	s.query(conn, "select * from forbidden")
	s.exec(conn, "reset session authorization")
}

// poolOfOne: programs written for one connection keep state on it without a
// sql.Conn.
func poolOfOne(s *script) {
	s.mustExec(s.db, "create table one (n int)")
	s.ready()
	s.db.SetMaxOpenConns(1)
	s.exec(s.db, "insert into one values (1)")
	s.query(s.db, "select n from one")
	s.exec(s.db, "set application_name = 'one'")
	s.query(s.db, "show application_name")
	s.exec(s.db, "create temp table one_temp as select 5 as n")
	s.query(s.db, "select n from one_temp")
	// It hides the table that replicas have, also when they are fresh again.
	s.exec(s.db, "create temp table one as select 99 as n")
	s.ready()
	s.query(s.db, "select n from one")
	s.exec(s.db, "drop table pg_temp.one")
	s.query(s.db, "select pg_try_advisory_lock(79)")
	s.query(s.db, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
	s.query(s.db, "select pg_advisory_unlock(79)")
	tx := s.begin(nil)
	s.exec(tx, "insert into one_temp values (6)")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select n from one_temp order by n")
	stmt := s.prepare(s.db, "select n from one_temp where n > $1")
	s.rows(stmt.QueryContext(s.ctx, 5))
	s.exec(s.db, "prepare mine as select 'prepared'")
	s.query(s.db, "execute mine")
	s.exec(s.db, "discard all")
	s.query(s.db, "show application_name")
	// The statements that DISCARD ALL took are prepared again.
	for range 3 {
		s.db.QueryRowContext(s.ctx, "select n from one").Scan(new(int))
	}
	s.query(s.db, "select n from one")

	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.db.ExecContext(s.ctx, "update one set n = n + 1"); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	s.query(s.db, "select n from one")
	s.printf("open %d", s.db.Stats().OpenConnections)
}

func closedConn(s *script) {
	conn := s.conn()
	s.printf("ping %s", s.err(conn.PingContext(s.ctx)))
	s.exec(conn, "set application_name = 'closed'")
	s.printf("close %s, again %s", s.err(conn.Close()), s.err(conn.Close()))
	s.exec(conn, "select 1")
	s.query(conn, "select 1")
	s.printf("ping %s", s.err(conn.PingContext(s.ctx)))
	_, err := conn.BeginTx(s.ctx, nil)
	s.printf("begin %s", s.err(err))
	s.printf("raw %s", s.err(conn.Raw(func(any) error { return nil })))

	// Raw: what the function returns, and what becomes of the connection.
	conn = s.conn()
	s.printf("raw %s", s.err(conn.Raw(func(any) error { return nil })))
	s.printf("raw %s", s.err(conn.Raw(func(any) error { return io.ErrUnexpectedEOF })))
	s.query(conn, "select 1")
	func() {
		defer func() { s.printf("recovered %v", recover()) }()
		conn.Raw(func(any) error { panic("in raw") })
	}()
	s.query(conn, "select 1")
	s.printf("close %s", s.err(conn.Close()))
	s.query(s.db, "select 1")
}

func manyConns(s *script) {
	s.mustExec(s.db, "create table many (id int primary key, n int)")
	s.mustExec(s.db, "insert into many select n, 0 from generate_series(0, 4) n")
	var conns []*sql.Conn
	for i := range 5 {
		conn := s.conn()
		conns = append(conns, conn)
		s.mustExec(conn, fmt.Sprintf("set application_name = 'conn%d'", i))
	}
	for range 3 {
		for i, conn := range conns {
			s.query(conn, "show application_name")
			s.exec(conn, "update many set n = n + 1 where id = $1", i)
			s.query(conn, "select n from many where id = $1", i)
		}
	}
	s.printf("in use %d", s.db.Stats().InUse)
	for _, conn := range conns {
		conn.Close()
	}
	s.printf("in use %d", s.db.Stats().InUse)
}

func largeObjects(s *script) {
	tx := s.begin(nil)
	var oid int64
	if err := tx.QueryRowContext(s.ctx, "select lo_create(0)").Scan(&oid); err != nil {
		s.Fatal(err)
	}
	var fd int
	err := tx.QueryRowContext(s.ctx, "select lo_open($1, 393216)", oid).Scan(&fd)
	s.printf("open %d %s", fd, s.err(err))
	s.query(tx, "select lowrite($1, $2)", fd, []byte("content"))
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select lo_get($1)", oid)
	var unlinked int
	err = s.db.QueryRowContext(s.ctx, "select lo_unlink($1)", oid).Scan(&unlinked)
	s.printf("unlink %d %s", unlinked, s.err(err))
	var made int64
	err = s.db.QueryRowContext(s.ctx, "select lo_create(0)").Scan(&made)
	s.printf("create %t %s", made != 0, s.err(err))
}

// copyAsText: COPY through Exec has nobody to talk to, but says so.
func copyAsText(s *script) {
	s.mustExec(s.db, "create table copied (n int)")
	// The server waits for rows that nobody sends.
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	_, err := s.db.ExecContext(ctx, "copy copied from stdin")
	cancel()
	s.printf("copy from stdin: %s", s.err(err))
	s.exec(s.db, "copy (select 1) to stdout")
	s.query(s.db, "copy (select 1) to stdout")
	s.query(s.db, "select count(*) from copied")
}
