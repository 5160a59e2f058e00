package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

var statementCases = []conformanceCase{
	{"statements/prepared", preparedStatements},
	{"statements/many goroutines", preparedConcurrently},
	{"statements/refused", refusedStatements},
	{"statements/in a transaction", preparedInTx},
	{"statements/on a connection", preparedOnConn},
	{"statements/across DDL", preparedAcrossDDL},
	{"statements/modes", preparedInEveryMode},
}

func (s *script) prepare(h handle, query string) *sql.Stmt {
	s.Helper()
	stmt, err := h.PrepareContext(s.ctx, query)
	if err != nil {
		s.Fatalf("%s: %v", query, err)
	}
	s.ends = append(s.ends, func() { stmt.Close() })
	return stmt
}

func preparedStatements(s *script) {
	s.mustExec(s.db, "create table prepared (id int primary key, name text)")
	insert := s.prepare(s.db, "insert into prepared values ($1, $2)")
	for i := range 5 {
		s.printf("%s", s.result(insert.ExecContext(s.ctx, i, fmt.Sprint("name", i))))
	}
	s.printf("%s", s.result(insert.ExecContext(s.ctx, 1, "again")))
	s.ready()
	query := s.prepare(s.db, "select name from prepared where id >= $1 order by id limit $2")
	s.rows(query.QueryContext(s.ctx, 2, 2))
	s.rows(query.QueryContext(s.ctx, int64(100), nil))
	s.rows(query.QueryContext(s.ctx, "3", 10))
	var name string
	s.printf("scan %s %q", s.err(query.QueryRowContext(s.ctx, 4, 1).Scan(&name)), name)
	s.printf("scan %s", s.err(query.QueryRowContext(s.ctx, 40, 1).Scan(&name)))
	update := s.prepare(s.db, "update prepared set name = $1 where id = $2 returning id, name")
	s.rows(update.QueryContext(s.ctx, "new", 1))
	s.printf("%s", s.result(update.ExecContext(s.ctx, "newer", 1)))

	// Two at once on the same text.
	twin := s.prepare(s.db, "select name from prepared where id >= $1 order by id limit $2")
	s.printf("close %s", s.err(query.Close()))
	s.rows(twin.QueryContext(s.ctx, 1, 1))
	s.printf("close again %s", s.err(query.Close()))
	s.rows(query.QueryContext(s.ctx, 1, 1))

	// Rows that outlive their statement.
	rows, err := twin.QueryContext(s.ctx, 0, 100)
	if err != nil {
		s.Fatal(err)
	}
	s.printf("next %t, close the statement %s", rows.Next(), s.err(twin.Close()))
	n := 1
	for rows.Next() {
		n++
	}
	s.printf("%d rows, err %s", n, s.err(rows.Err()))
}

func preparedConcurrently(s *script) {
	s.mustExec(s.db, "create table concurrent (g int, i int, primary key (g, i))")
	insert := s.prepare(s.db, "insert into concurrent values ($1, $2)")
	query := s.prepare(s.db, "select $1::int * 1000 + $2::int")
	s.ready()
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			for i := range 20 {
				var n int
				if err := query.QueryRowContext(s.ctx, g, i).Scan(&n); err != nil || n != g*1000+i {
					s.Errorf("goroutine %d: %d, %v", g, n, err)
					wrong.Add(1)
				}
				if _, err := insert.ExecContext(s.ctx, g, i); err != nil {
					s.Errorf("goroutine %d: %v", g, err)
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.printf("%d wrong answers", wrong.Load())
	s.query(s.db, "select count(*), sum(i) from concurrent")
}

func refusedStatements(s *script) {
	for _, query := range []string{"selec 1", "select * from nowhere", "select $1", "select 1; select 2", "select $1::int, $1::text",
		"insert into nowhere values ($1)", "select $2::int", "begin", "create table made_by_prepare (n int)"} {
		stmt, err := s.db.PrepareContext(s.ctx, query)
		s.printf("prepare %s %s", query, s.err(err))
		if err != nil {
			continue
		}
		s.rows(stmt.QueryContext(s.ctx))
		s.rows(stmt.QueryContext(s.ctx, 1, 2))
		s.printf("close %s", s.err(stmt.Close()))
	}
	// A text that becomes good is not refused any more.
	_, err := s.db.PrepareContext(s.ctx, "select n from appears")
	s.printf("before %s", s.err(err))
	s.mustExec(s.db, "create table appears (n int)")
	stmt, err := s.db.PrepareContext(s.ctx, "select n from appears")
	s.printf("after %s", s.err(err))
	s.rows(stmt.QueryContext(s.ctx))
	stmt.Close()
}

func preparedInTx(s *script) {
	s.mustExec(s.db, "create table prepared_tx (n int)")
	insert := s.prepare(s.db, "insert into prepared_tx values ($1)")
	count := s.prepare(s.db, "select count(*) from prepared_tx")
	s.ready()
	tx := s.begin(nil)
	s.printf("%s", s.result(tx.StmtContext(s.ctx, insert).ExecContext(s.ctx, 1)))
	s.printf("%s", s.result(tx.StmtContext(s.ctx, insert).ExecContext(s.ctx, 2)))
	s.rows(tx.StmtContext(s.ctx, count).QueryContext(s.ctx))
	s.rows(count.QueryContext(s.ctx)) // outside: sees nothing of it
	own := s.prepare(tx, "select n from prepared_tx order by n")
	s.rows(own.QueryContext(s.ctx))
	s.printf("rollback %s", s.err(tx.Rollback()))
	s.rows(own.QueryContext(s.ctx))
	s.rows(tx.StmtContext(s.ctx, count).QueryContext(s.ctx))
	s.rows(count.QueryContext(s.ctx))

	tx = s.begin(nil)
	_, err := tx.PrepareContext(s.ctx, "selec")
	s.printf("prepare %s", s.err(err))
	s.exec(tx, "insert into prepared_tx values (3)") // the transaction is lost
	s.printf("commit %s", s.err(tx.Commit()))

	tx = s.begin(&sql.TxOptions{ReadOnly: true})
	s.rows(tx.StmtContext(s.ctx, count).QueryContext(s.ctx))
	s.printf("%s", s.result(tx.StmtContext(s.ctx, insert).ExecContext(s.ctx, 4)))
	s.printf("commit %s", s.err(tx.Commit()))
	s.rows(count.QueryContext(s.ctx))
}

func preparedOnConn(s *script) {
	conn := s.conn()
	s.mustExec(conn, "create temp table prepared_conn (n int)")
	insert := s.prepare(conn, "insert into prepared_conn values ($1) returning n")
	for i := range 3 {
		s.rows(insert.QueryContext(s.ctx, i))
	}
	s.query(conn, "select count(*) from prepared_conn")
	s.printf("close %s", s.err(conn.Close()))
	s.rows(insert.QueryContext(s.ctx, 9))
	s.printf("close %s", s.err(insert.Close()))
}

// preparedAcrossDDL: a statement of plain pgx whose result DDL has changed is
// refused, for ever where it is a sql.Stmt. PostgreSQL says so before it
// executes anything, so pgherd plans and runs it again.
func preparedAcrossDDL(s *script) {
	stale := func(err error) bool {
		var pgErr *pgconn.PgError
		return errors.As(err, &pgErr) && pgErr.Message == "cached plan must not change result type"
	}
	s.mustExec(s.db, "create table ddl (id int)")
	s.mustExec(s.db, "insert into ddl values (1)")
	star := s.prepare(s.db, "select * from ddl")
	id := s.prepare(s.db, "select id from ddl")
	s.rows(star.QueryContext(s.ctx))
	s.rows(id.QueryContext(s.ctx))
	s.mustExec(s.db, "alter table ddl add column name text default 'x'")
	rows, err := star.QueryContext(s.ctx)
	if err == nil {
		cols, _ := rows.Columns()
		if rows.Close(); len(cols) != 2 {
			s.Errorf("columns %v of a table that has two", cols)
		}
	} else if s.who.pgherd || !stale(err) {
		s.Error(err)
	}
	star.Close()
	s.rows(id.QueryContext(s.ctx)) // not touched by the DDL
	for range 10 {
		if rows, err = s.db.QueryContext(s.ctx, "select * from ddl"); !stale(err) {
			break
		}
	}
	s.rows(rows, err)

	s.mustExec(s.db, "drop table ddl")
	_, err = id.QueryContext(s.ctx)
	s.printf("dropped: %s", s.err(err))
	s.mustExec(s.db, "create table ddl (id int)")
	s.mustExec(s.db, "insert into ddl values (2)")
	s.rows(id.QueryContext(s.ctx))
}

func preparedInEveryMode(s *script) {
	s.mustExec(s.db, "create table modes (n int primary key, t text)")
	s.mustExec(s.db, "insert into modes values (1, 'one')")
	s.ready()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		s.printf("%s", mode)
		db := s.who.open(s, "default_query_exec_mode="+mode)
		s.query(db, "select * from modes where n = $1", 1)
		s.query(db, "select $1::jsonb, $2::text[], $3::timestamptz", map[string]int{"a": 1}, []string{"x"}, "2024-02-29 00:00:00Z")
		s.query(db, "select $1", 5)
		s.query(db, "select $1::int", "5")
		s.exec(db, "insert into modes values ($1, $2)", 1, "again")
		s.exec(db, "update modes set t = $1 where n = $2", "uno", 1)
		s.query(db, "select nothing from modes where n = $1", 1)
		stmt, err := db.PrepareContext(s.ctx, "select * from modes where n = $1")
		if err != nil {
			s.Fatal(err)
		}
		for range 2 {
			s.rows(stmt.QueryContext(s.ctx, 1))
		}
		s.rows(stmt.QueryContext(s.ctx))
		s.rows(stmt.QueryContext(s.ctx, "x"))
		stmt.Close()
		tx, err := db.BeginTx(context.Background(), nil)
		if err != nil {
			s.Fatal(err)
		}
		s.query(tx, "select t from modes where n = $1", 1)
		s.printf("commit %s", s.err(tx.Commit()))
	}
}
