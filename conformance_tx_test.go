package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

var transactionCases = []conformanceCase{
	{"transactions/commit and rollback", commitAndRollback},
	{"transactions/isolation", isolationLevels},
	{"transactions/read only", readOnlyTx},
	{"transactions/failed", failedTx},
	{"transactions/savepoints", savepoints},
	{"transactions/open rows", openRowsInTx},
	{"transactions/ended", endedTx},
	{"transactions/context", txContext},
	{"transactions/serialization failure", serializationFailure},
	{"transactions/as text", textTx},
	{"transactions/two phase", twoPhase},
}

func commitAndRollback(s *script) {
	s.mustExec(s.db, "create table txs (n int)")
	s.ready()
	tx := s.begin(nil)
	s.exec(tx, "insert into txs values ($1)", 1)
	s.query(tx, "select n from txs")
	s.query(s.db, "select n from txs")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select n from txs")
	tx = s.begin(nil)
	s.exec(tx, "delete from txs")
	s.query(tx, "select count(*) from txs")
	s.printf("rollback %s", s.err(tx.Rollback()))
	s.query(s.db, "select count(*) from txs")
	tx = s.begin(nil)
	s.printf("empty commit %s", s.err(tx.Commit()))
	tx = s.begin(nil)
	s.exec(tx, "create table made_in_tx (n int)")
	s.exec(tx, "insert into made_in_tx values (1), (2)")
	s.query(tx, "select count(*) from made_in_tx")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select count(*) from made_in_tx")
	// The same now() and the same backend, all the time.
	tx = s.begin(nil)
	var first, second time.Time
	var backend, again int
	tx.QueryRowContext(s.ctx, "select now(), pg_backend_pid()").Scan(&first, &backend)
	tx.QueryRowContext(s.ctx, "select now(), pg_backend_pid()").Scan(&second, &again)
	s.printf("one transaction %t, one backend %t", !first.IsZero() && first.Equal(second), backend != 0 && backend == again)
	tx.Rollback()
}

func isolationLevels(s *script) {
	for level := sql.LevelDefault; level <= sql.LevelLinearizable+1; level++ {
		for _, readOnly := range []bool{false, true} {
			tx, err := s.db.BeginTx(s.ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			s.printf("%s, read-only %t: %s", level, readOnly, s.err(err))
			if err != nil {
				continue
			}
			s.query(tx, "show transaction_isolation")
			s.query(tx, "show transaction_read_only")
			s.query(tx, "select current_setting('transaction_isolation')")
			s.printf("commit %s", s.err(tx.Commit()))
		}
	}
	conn := s.conn()
	tx, err := conn.BeginTx(s.ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	if err != nil {
		s.Fatal(err)
	}
	s.query(tx, "show transaction_isolation")
	s.printf("rollback %s", s.err(tx.Rollback()))
}

func readOnlyTx(s *script) {
	s.mustExec(s.db, "create table read_only (n int)")
	s.mustExec(s.db, "insert into read_only values (1)")
	s.ready()
	for _, query := range []string{
		"insert into read_only values (2)", "delete from read_only", "create table refused (n int)",
		"select * from read_only for update", "select nextval('none')", "set transaction read write",
		"with gone as (delete from read_only returning n) select n from gone", "truncate read_only",
		"listen refused", "lock table read_only in row exclusive mode", "vacuum", "analyze read_only",
	} {
		tx := s.begin(&sql.TxOptions{ReadOnly: true})
		s.query(tx, "select n from read_only")
		// A server that is read-only and one that is asked to be so say the same,
		// but for a few statements that a standby refuses for being one.
		_, err := tx.ExecContext(s.ctx, query)
		if query == "set transaction read write" || query == "select nextval('none')" || query == "listen refused" || query == "vacuum" || query == "analyze read_only" ||
			query == "lock table read_only in row exclusive mode" {
			err = nil
		}
		s.printf("%s %s", query, s.err(err))
		s.printf("rollback %s", s.err(tx.Rollback()))
	}
	// One that follows a write sees it.
	for i := range 20 {
		s.mustExec(s.db, "update read_only set n = $1", i)
		tx := s.begin(&sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
		s.query(tx, "select n from read_only")
		s.printf("commit %s", s.err(tx.Commit()))
	}
}

func failedTx(s *script) {
	s.mustExec(s.db, "create table failed (n int primary key)")
	tx := s.begin(nil)
	s.exec(tx, "insert into failed values (1)")
	s.exec(tx, "insert into failed values (1)")
	s.exec(tx, "insert into failed values (2)")
	s.query(tx, "select n from failed")
	_, err := tx.PrepareContext(s.ctx, "select n from failed where n = 7")
	s.printf("prepare %s", s.err(err))
	s.printf("commit %s", s.err(tx.Commit()))
	s.printf("rollback %s", s.err(tx.Rollback()))
	s.query(s.db, "select n from failed")

	// A replica does not know the table; nor does the primary.
	tx = s.begin(&sql.TxOptions{ReadOnly: true})
	s.query(tx, "select * from nowhere")
	s.query(tx, "select 'after'")
	s.printf("commit %s", s.err(tx.Commit()))

	// Refused at COMMIT.
	s.mustExec(s.db, "create table deferred (n int unique deferrable initially deferred)")
	tx = s.begin(nil)
	s.exec(tx, "insert into deferred values (1), (1)")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select count(*) from deferred")
}

func savepoints(s *script) {
	s.mustExec(s.db, "create table savepoints (n int primary key)")
	tx := s.begin(nil)
	s.exec(tx, "insert into savepoints values (1)")
	s.exec(tx, "savepoint one")
	s.exec(tx, "insert into savepoints values (2)")
	s.exec(tx, "savepoint two")
	s.exec(tx, "insert into savepoints values (2)")
	s.exec(tx, "rollback to savepoint two")
	s.query(tx, "select n from savepoints order by n")
	s.exec(tx, "rollback to one")
	s.exec(tx, "insert into savepoints values (3)")
	s.exec(tx, "release one")
	s.exec(tx, "release one")
	s.printf("commit %s", s.err(tx.Commit()))
	tx = s.begin(nil)
	s.exec(tx, "savepoint a; insert into savepoints values (4); release a")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select n from savepoints order by n")
}

func openRowsInTx(s *script) {
	s.mustExec(s.db, "create table open_rows (n int)")
	s.mustExec(s.db, "insert into open_rows select * from generate_series(1, 100)")
	for _, opts := range []*sql.TxOptions{nil, {ReadOnly: true}} {
		s.ready()
		tx := s.begin(opts)
		rows, err := tx.QueryContext(s.ctx, "select n from open_rows order by n")
		if err != nil {
			s.Fatal(err)
		}
		s.printf("next %t", rows.Next())
		s.query(tx, "select 1")
		s.exec(tx, "select 2")
		_, err = tx.PrepareContext(s.ctx, "select 3")
		s.printf("prepare %s", s.err(err))
		s.printf("next %t, err %s, close %s", rows.Next(), s.err(rows.Err()), s.err(rows.Close()))
		s.query(tx, "select count(*) from open_rows")
		s.printf("commit %s", s.err(tx.Commit()))

		// A text that the connection has prepared before fails in another way.
		tx = s.begin(opts)
		s.query(tx, "select 4")
		rows, err = tx.QueryContext(s.ctx, "select n from open_rows order by n")
		if err != nil {
			s.Fatal(err)
		}
		s.printf("next %t", rows.Next())
		s.query(tx, "select 4")
		s.printf("next %t, err %s, close %s", rows.Next(), s.err(rows.Err()), s.err(rows.Close()))
		s.printf("rollback %s", s.err(tx.Rollback()))

		// Rows that the end of the transaction closes.
		tx = s.begin(opts)
		rows, err = tx.QueryContext(s.ctx, "select n from open_rows order by n")
		if err != nil {
			s.Fatal(err)
		}
		s.printf("next %t", rows.Next())
		s.printf("rollback %s", s.err(tx.Rollback()))
		s.printf("next %t, err %s", rows.Next(), s.err(rows.Err()))
		tx = s.begin(opts)
		rows, err = tx.QueryContext(s.ctx, "select n from open_rows order by n")
		if err != nil {
			s.Fatal(err)
		}
		s.printf("next %t", rows.Next())
		s.printf("commit %s", s.err(tx.Commit()))
		s.printf("next %t, err %s, close %s", rows.Next(), s.err(rows.Err()), s.err(rows.Close()))
	}
}

func endedTx(s *script) {
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		tx := s.begin(nil)
		s.printf("end %s", s.err(end(tx)))
		s.printf("commit %s, rollback %s", s.err(tx.Commit()), s.err(tx.Rollback()))
		s.exec(tx, "select 1")
		s.query(tx, "select 1")
		s.scan(tx, []any{new(int)}, "select 1")
		_, err := tx.PrepareContext(s.ctx, "select 1")
		s.printf("prepare %s", s.err(err))
	}
}

func txContext(s *script) {
	s.mustExec(s.db, "create table tx_context (n int)")
	// The end of the transaction's context rolls back.
	ctx, cancel := context.WithCancel(s.ctx)
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		s.Fatal(err)
	}
	s.exec(tx, "insert into tx_context values (1)")
	cancel()
	eventually(s, "the transaction is rolled back", func() bool {
		_, err := tx.ExecContext(s.ctx, "insert into tx_context values (2)")
		return err == sql.ErrTxDone
	})
	s.printf("commit %s, rollback %s", s.err(tx.Commit()), s.err(tx.Rollback()))
	s.query(s.db, "select count(*) from tx_context")

	// That of a statement ends the transaction, with its connection or without.
	tx = s.begin(nil)
	s.exec(tx, "insert into tx_context values (3)")
	ctx, cancel = context.WithTimeout(s.ctx, 100*time.Millisecond)
	_, err = tx.ExecContext(ctx, "select pg_sleep(10)")
	cancel()
	s.printf("timeout %t", errors.Is(err, context.DeadlineExceeded))
	_, err = tx.ExecContext(s.ctx, "insert into tx_context values (4)")
	s.printf("goes on %t, is committed %t", err == nil, tx.Commit() == nil)
	s.query(s.db, "select count(*) from tx_context")

	// One that has ended before.
	_, err = s.db.BeginTx(ctx, nil)
	s.printf("begin %s", s.err(err))
	tx = s.begin(nil)
	_, err = tx.ExecContext(ctx, "insert into tx_context values (5)")
	s.printf("exec %s", s.err(err))
	s.exec(tx, "insert into tx_context values (6)")
	s.printf("commit %s", s.err(tx.Commit()))
	s.query(s.db, "select n from tx_context")
}

func serializationFailure(s *script) {
	s.mustExec(s.db, "create table serial (n int)")
	s.mustExec(s.db, "insert into serial values (0)")
	one := s.begin(&sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	s.query(one, "select n from serial")
	s.exec(s.db, "update serial set n = n + 1")
	s.query(one, "select n from serial")
	s.exec(one, "update serial set n = n + 10")
	s.printf("commit %s", s.err(one.Commit()))
	s.query(s.db, "select n from serial")

	one, two := s.begin(&sql.TxOptions{Isolation: sql.LevelSerializable}), s.begin(&sql.TxOptions{Isolation: sql.LevelSerializable})
	s.query(one, "select count(*) from serial")
	s.query(two, "select count(*) from serial")
	s.exec(one, "insert into serial values (1)")
	s.exec(two, "insert into serial values (2)")
	s.printf("commit %s", s.err(one.Commit()))
	err := two.Commit()
	s.printf("commit %s", s.err(err))
}

func textTx(s *script) {
	s.mustExec(s.db, "create table text_tx (n int)")
	conn := s.conn()
	s.exec(conn, "begin")
	s.exec(conn, "insert into text_tx values (1)")
	s.query(conn, "select count(*) from text_tx")
	s.query(s.db, "select count(*) from text_tx")
	s.exec(conn, "commit")
	s.query(s.db, "select count(*) from text_tx")
	s.exec(conn, "start transaction isolation level repeatable read, read only")
	s.query(conn, "show transaction_isolation")
	s.exec(conn, "insert into text_tx values (2)")
	s.exec(conn, "rollback")
	s.exec(conn, "begin")
	s.query(conn, "select 1/0")
	s.query(conn, "select 1")
	s.exec(conn, "commit and chain")
	s.exec(conn, "insert into text_tx values (3)")
	s.exec(conn, "end")
	s.query(conn, "select n from text_tx order by n")
	// BeginTx inside a transaction that was begun as text is only a warning of
	// the server.
	s.exec(conn, "begin")
	s.exec(conn, "insert into text_tx values (4)")
	tx, err := conn.BeginTx(s.ctx, nil)
	s.printf("begin %s", s.err(err))
	if err == nil {
		s.exec(tx, "insert into text_tx values (5)")
		s.printf("rollback %s", s.err(tx.Rollback()))
	}
	s.query(conn, "select n from text_tx order by n")
}

func twoPhase(s *script) {
	s.mustExec(s.db, "create table two_phase (n int)")
	name := s.who.database.Name // a transaction is prepared for the whole server
	conn := s.conn()
	s.mustExec(conn, "begin")
	s.exec(conn, "insert into two_phase values (1)")
	s.mustExec(conn, "prepare transaction '"+name+"'")
	s.query(conn, "select count(*) from two_phase")
	s.mustExec(s.db, "commit prepared '"+name+"'")
	s.query(s.db, "select count(*) from two_phase")
	_, err := s.db.ExecContext(s.ctx, "rollback prepared '"+name+"'")
	s.printf("again %s", s.err(err))
}
