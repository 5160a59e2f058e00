package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/internal/racedetector"
)

var resultCases = []conformanceCase{
	{"results/exec", execResults},
	{"results/several statements", severalStatements},
	{"results/empty statements", emptyStatements},
	{"results/rows", rowsLifeCycle},
	{"results/many rows", manyRows},
	{"results/arguments of pgx", pgxArguments},
	{"results/returning", returning},
}

func execResults(s *script) {
	s.exec(s.db, "create table results (id serial primary key, n int)")
	s.exec(s.db, "insert into results (n) select * from generate_series(1, 5)")
	s.exec(s.db, "insert into results (n) values ($1), ($2)", 6, 7)
	s.exec(s.db, "update results set n = n + $1 where id <= 3", 10)
	s.exec(s.db, "update results set n = 0 where false")
	s.exec(s.db, "delete from results where id = 1")
	s.exec(s.db, "select * from results")
	s.exec(s.db, "select * from results where id = $1", 2)
	s.exec(s.db, "with gone as (delete from results where id = 2 returning *) select * from gone")
	s.exec(s.db, "create temp table results_copy as select * from results")
	s.exec(s.db, "do $$ begin perform 1; end $$")
	s.exec(s.db, "explain select 1")
	s.exec(s.db, "show search_path")
	s.exec(s.db, "values (1), (2)")
	s.exec(s.db, "table results")
	s.exec(s.db, "alter table results add column c int")
	s.exec(s.db, "merge into results r using (values (3, 33)) v (id, n) on r.id = v.id when matched then update set n = v.n")
	res, err := s.db.ExecContext(s.ctx, "insert into results (n) values (1)")
	if err != nil {
		s.Fatal(err)
	}
	id, err := res.LastInsertId()
	s.printf("LastInsertId %d %s", id, s.err(err))
	s.exec(s.db, "truncate results")
	s.exec(s.db, "drop table results")
}

func severalStatements(s *script) {
	s.exec(s.db, "create table several (n int); insert into several values (1), (2); insert into several values (3)")
	s.exec(s.db, "insert into several values (4); select * from several; delete from several where n = 1")
	s.exec(s.db, "insert into several values (5); select 1/0; insert into several values (6)")
	s.exec(s.db, "begin; insert into several values (7); commit; insert into several values (8)")
	s.exec(s.db, "begin; insert into several values (9); rollback")
	s.exec(s.db, "select 1; insert into several values (10)")
	s.exec(s.db, "insert into several values ($1); insert into several values ($1)", 11)
	s.query(s.db, "select n from several order by n")
	s.query(s.db, "select 1; select 2")
	s.query(s.db, "select 1; insert into several values (12)", pgx.QueryExecModeSimpleProtocol)
	s.query(s.db, "select count(*) from several")

	rows, err := s.db.QueryContext(s.ctx, "select 1")
	if err != nil {
		s.Fatal(err)
	}
	s.printf("next %t, next result set %t, next %t, err %s", rows.Next(), rows.NextResultSet(), rows.Next(), s.err(rows.Err()))
	rows.Close()
}

func emptyStatements(s *script) {
	for _, text := range []string{"", " \n\t", ";", ";;", "-- nothing", "/* nothing */", "/* a /* nested */ one */;", "select", "select 1;", "-- hint\nselect 1", "select 1 -- end"} {
		s.exec(s.db, text)
		s.query(s.db, text)
		s.scan(s.db, []any{new(int)}, text)
		stmt, err := s.db.PrepareContext(s.ctx, text)
		s.printf("prepare %q %s", text, s.err(err))
		if err == nil {
			s.rows(stmt.QueryContext(s.ctx))
			s.printf("%s", s.result(stmt.ExecContext(s.ctx)))
			stmt.Close()
		}
	}
}

func rowsLifeCycle(s *script) {
	query := "select n from generate_series(1, 1000) n"
	rows, err := s.db.QueryContext(s.ctx, query)
	if err != nil {
		s.Fatal(err)
	}
	s.printf("scan before Next: %s", s.err(rows.Scan(new(int))))
	s.printf("next %t", rows.Next())
	s.printf("closed early: %s, again: %s", s.err(rows.Close()), s.err(rows.Close()))
	s.printf("next %t, scan %s, err %s", rows.Next(), s.err(rows.Scan(new(int))), s.err(rows.Err()))

	for range 30 { // more than any pool has, if they leaked
		row := s.db.QueryRowContext(s.ctx, query)
		if row.Err() != nil {
			s.Fatal(row.Err())
		}
		row.Scan(new(int))
	}
	row := s.db.QueryRowContext(s.ctx, "select 1 where false")
	s.printf("no row: err %s, scan %s", s.err(row.Err()), s.err(row.Scan(new(int))))
	row = s.db.QueryRowContext(s.ctx, "select nothing")
	s.printf("a bad query: err %s, scan %s", s.err(row.Err()), s.err(row.Scan(new(int))))

	// An error after the first rows.
	rows, err = s.db.QueryContext(s.ctx, "select 10 / (3 - n) from generate_series(1, 5) n")
	s.rows(rows, err)
	s.scan(s.db, []any{new(int)}, "select 10 / (3 - n) from generate_series(1, 5) n")

	// RawBytes live until the next call.
	rows, err = s.db.QueryContext(s.ctx, "select repeat(n::text, 3) from generate_series(1, 3) n")
	if err != nil {
		s.Fatal(err)
	}
	for rows.Next() {
		var raw sql.RawBytes
		err := rows.Scan(&raw)
		s.printf("%q %s", raw, s.err(err))
	}
	rows.Close()

	// Several open at a time.
	var open []*sql.Rows
	for i := range 3 {
		rows, err := s.db.QueryContext(s.ctx, "select $1::int + n from generate_series(1, 3) n", 10*i)
		if err != nil {
			s.Fatal(err)
		}
		open = append(open, rows)
	}
	for range 4 {
		for i, rows := range open {
			var n int
			if rows.Next() {
				rows.Scan(&n)
			}
			s.printf("rows %d: %d", i, n)
		}
	}
	for _, rows := range open {
		s.printf("%s", s.err(rows.Close()))
	}
	s.printf("in use: %d", s.db.Stats().InUse)
}

func manyRows(s *script) {
	rows, err := s.db.QueryContext(s.ctx, "select n, repeat('x', n % 100), case when n % 3 = 0 then null else n end from generate_series(1, 50000) n")
	if err != nil {
		s.Fatal(err)
	}
	defer rows.Close()
	var count, length, sum int64
	for rows.Next() {
		var (
			n    int64
			text string
			null sql.NullInt64
		)
		if err := rows.Scan(&n, &text, &null); err != nil {
			s.Fatal(err)
		}
		count++
		length += int64(len(text))
		sum += null.Int64
	}
	s.printf("%d rows, %d bytes, sum %d, err %s", count, length, sum, s.err(rows.Err()))

	// The widest row there is.
	s.query(s.db, "select "+strings.TrimSuffix(strings.Repeat("1,", 1664), ","))
	s.query(s.db, "select "+strings.TrimSuffix(strings.Repeat("1,", 1665), ","))
}

// pgxArguments are arguments that are none to the server.
func pgxArguments(s *script) {
	s.mustExec(s.db, "create table pgxargs (id int, name text)")
	s.exec(s.db, "insert into pgxargs values (@id, @name)", pgx.NamedArgs{"id": 1, "name": "named"})
	s.exec(s.db, "insert into pgxargs values (@id, @name)", pgx.StrictNamedArgs{"id": 1})
	s.exec(s.db, "insert into pgxargs values ($1, $2)", pgx.QueryExecModeSimpleProtocol, 2, "simple's")
	s.exec(s.db, "insert into pgxargs values ($1, $2)", sql.Named("one", 3), sql.Named("two", "by position"))
	s.exec(s.db, "insert into pgxargs values (@one, @two)", sql.Named("one", 3), sql.Named("two", "by name"))
	s.exec(s.db, "insert into pgxargs values ($1, $2)", sql.Named("", 3), 4)
	s.exec(s.db, "insert into pgxargs values ($1, $2)", sql.Named("1x", 3), 4)
	s.exec(s.db, "insert into pgxargs values ($1, $2)", sql.Out{}, 4)
	s.ready()
	s.query(s.db, "select * from pgxargs where id = @id", pgx.NamedArgs{"id": 1, "other": 2})
	s.query(s.db, "select * from pgxargs where name like @like", pgx.QueryExecModeExec, pgx.NamedArgs{"like": "%s"})
	s.query(s.db, "select id from pgxargs where id = $1", pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.TextFormatCode}, 2)
	s.query(s.db, "select 1", pgx.QueryExecMode(99))
	s.query(s.db, "select $1", pgx.QueryExecModeSimpleProtocol)
	s.query(s.db, "select @missing::int", pgx.NamedArgs{})
	stmt, err := s.db.PrepareContext(s.ctx, "select $1::int")
	if err != nil {
		s.Fatal(err)
	}
	defer stmt.Close()
	s.rows(stmt.QueryContext(s.ctx, pgx.QueryExecModeSimpleProtocol, 1))
	s.rows(stmt.QueryContext(s.ctx, sql.Named("n", 1)))
}

func returning(s *script) {
	s.mustExec(s.db, "create table returned (id int generated always as identity, n int)")
	for i := range 3 {
		s.query(s.db, "insert into returned (n) values ($1) returning id, n", i)
	}
	s.query(s.db, "update returned set n = n + 1 returning n")
	s.query(s.db, "with moved as (delete from returned where n = 1 returning n) select n from moved")
	s.scan(s.db, []any{new(int)}, "insert into returned (n) values (9) returning id")

	// The caller who does not read what it asked for has written nonetheless.
	rows, err := s.db.QueryContext(s.ctx, "insert into returned (n) select * from generate_series(100, 200) returning n")
	if err != nil {
		s.Fatal(err)
	}
	rows.Close()
	s.db.QueryRowContext(s.ctx, "delete from returned where n = 100 returning n").Scan()
	s.query(s.db, "select count(*), min(n), max(n) from returned")
}

var errorCases = []conformanceCase{
	{"errors/server", serverErrors},
	{"errors/arguments", argumentErrors},
	{"errors/connect", connectErrors},
	{"errors/limits", parameterLimits},
}

func serverErrors(s *script) {
	s.mustExec(s.db, `create table parents (id int primary key);
		create table errs (id int primary key, parent int references parents, n int not null default 0 check (n >= 0), name text unique,
			during int4range, exclude using gist (during with &&));
		insert into errs (id, name) values (1, 'taken')`)
	s.ready()
	for _, query := range []string{
		"insert into errs (id) values (1)",
		"insert into errs (id, name) values (2, 'taken')",
		"insert into errs (id, parent) values (2, 99)",
		"insert into errs (id, n) values (2, null)",
		"insert into errs (id, n) values (2, -1)",
		"insert into errs (id, during) values (2, '[1,5)'), (3, '[2,3)')",
		"insert into errs (id) values ('x')",
		"insert into errs (id) values (99999999999)",
		"insert into nowhere values (1)",
		"select nothing from errs",
		"select * from nowhere",
		"select nofunction(1)",
		"select * from noschema.t",
		"select 1::notype",
		"selec 1",
		"select 'unfinished",
		"select 1/0",
		"select 'x'::int",
		"select $1",
		"raise",
		"do $$ begin raise exception using errcode = 'P4242', message = 'own', detail = 'details', hint = 'hints'; end $$",
		"do $$ begin raise warning 'only a warning'; end $$",
		"commit", "rollback",
		"savepoint outside",
		"drop table parents",
		"set nonsense.x to 'fine'", "set nonsense to 'not fine'",
		"execute never_prepared", "deallocate never_prepared", "fetch from no_cursor", "close no_cursor",
		"select currval('no_sequence')", "select lastval()",
		"vacuum nowhere", "lock table errs", "listen", "copy errs to '/nowhere/x'",
		"select pg_advisory_unlock(1)", "notify",
		"select set_config('nonsense', 'x', false)",
		"set transaction isolation level nonsense",
	} {
		s.exec(s.db, query)
		s.query(s.db, query)
		_, err := s.db.PrepareContext(s.ctx, query)
		if err != nil { // those that are fine are tested elsewhere
			s.printf("prepare → %s", s.err(err))
		}
	}
	s.exec(s.db, "insert into errs (id, name) values ($1, $2)", 1, "x")
	s.query(s.db, "insert into errs (id, name) values ($1, $2) returning id", 2, "taken")
	s.query(s.db, "select 10 / $1::int", 0)
	s.query(s.db, "select $1::int", "not a number")

	var pgErr *pgconn.PgError
	_, err := s.db.ExecContext(s.ctx, "insert into errs (id) values (1)")
	s.printf("errors.As %t %s.%s.%s", errors.As(err, &pgErr), pgErr.SchemaName, pgErr.TableName, pgErr.ConstraintName)
	s.query(s.db, "select count(*) from errs")
}

func argumentErrors(s *script) {
	for _, args := range [][]any{nil, {1}, {1, 2}, {1, 2, 3}, {"x", 2}, {nil, nil}, {1, (func())(nil)}, {1, (chan int)(nil)}, {struct{}{}, 1}, {[]any{1}, 1}} {
		s.printf("%d arguments", len(args))
		query := "select $1::int + $2::int"
		s.query(s.db, query, args...)
		s.exec(s.db, query, args...)
		s.query(s.db, query, append([]any{pgx.QueryExecModeExec}, args...)...)
		stmt, err := s.db.PrepareContext(s.ctx, query)
		if err != nil {
			s.Fatal(err)
		}
		s.rows(stmt.QueryContext(s.ctx, args...))
		s.printf("%s", s.result(stmt.ExecContext(s.ctx, args...)))
		stmt.Close()
	}
	s.query(s.db, "select 1", 1)
	s.exec(s.db, "create table nothing_to_bind (n int default $1)", 1)
	s.query(s.db, "select $3::int", 1, 2, 3)
	s.query(s.db, "select $0")
}

// connectErrors: the error of a server that refuses a connection is pgx's, and
// is reached with errors.As; pgherd says before it which statement wanted the
// connection and why there is none.
func connectErrors(s *script) {
	for _, c := range []struct{ old, new string }{
		{s.who.database.Name, "no_such_database"},
		{s.who.herd.Primary().Addr(), "127.0.0.1:1"},
		{"postgres@", "no_such_user@"},
	} {
		dsn := strings.Replace(s.who.database.ServerDSN(s.who.herd.Primary()), c.old, c.new, 1)
		name := "pgx"
		if s.who.pgherd {
			name = "pgherd"
		}
		db, err := sql.Open(name, dsn)
		if err != nil {
			s.Fatal(err)
		}
		tried := []error{db.PingContext(s.ctx)}
		_, err = db.ExecContext(s.ctx, "select 1")
		tried = append(tried, err)
		_, err = db.BeginTx(s.ctx, nil)
		tried = append(tried, err)
		for _, err := range tried {
			var connectErr *pgconn.ConnectError
			var pgErr *pgconn.PgError
			code := ""
			if errors.As(err, &pgErr) {
				code = pgErr.Code
			}
			s.printf("connect with %s: ConnectError %t SQLSTATE %q", c.new, errors.As(err, &connectErr), code)
		}
		s.printf("close %s", s.err(db.Close()))
	}
	ctx, cancel := context.WithTimeout(s.ctx, -time.Second)
	defer cancel()
	s.printf("ping too late: %s", s.err(s.db.PingContext(ctx)))
	s.printf("ping: %s", s.err(s.db.PingContext(s.ctx)))
}

func parameterLimits(s *script) {
	for _, n := range []int{65535, 65536} {
		args := make([]any, n)
		var text strings.Builder
		for i := range args {
			args[i] = i
			if i > 0 {
				text.WriteString("),(")
			}
			fmt.Fprintf(&text, "$%d::int", i+1)
		}
		s.query(s.db, "select count(*), sum(n) from (values ("+text.String()+")) v (n)", args...)
		if n > 65535 || !racedetector.Enabled { // it takes long, and may not fail
			s.exec(s.db, "select count(*) from (values ("+text.String()+")) v (n)", args...)
		}
	}
}
