package replay_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/replay"
)

const transfer = `{"unit": "tx", "role": "primary", "calls": [
	{"do": "begin"},
	{"do": "exec", "sql": "update a set n = n - 1", "affected": 1},
	{"do": "exec", "sql": "insert into log values ($1)", "args": [{"bind": "id", "was": 7}], "affected": 1},
	{"do": "commit"}]}`

// move is the transaction of transfer.
func move(db *sql.DB, id int) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("update a set n = n - 1"); err != nil {
		return err
	}
	if _, err := tx.Exec("insert into log values ($1)", id); err != nil {
		// Nothing else can be done in it.
		if _, after := tx.Exec("select 1"); state(after) != "25P02" && !errors.Is(after, driver.ErrBadConn) {
			return errors.Join(err, errors.New("the transaction goes on"), after)
		}
		return err
	}
	return tx.Commit()
}

func state(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// A transaction that a fault has ended is still to come, wherever it was hit.
func TestFaultInTransaction(t *testing.T) {
	isOp := func(op replay.Op) func(*replay.Call) bool { return func(c *replay.Call) bool { return c.Op == op } }
	for name, on := range map[string]func(*replay.Call) bool{
		"first":  replay.Statement("UPDATE a SET n = n - 1 -- one less"),
		"second": replay.Statement("insert into log values ($1)"),
		"commit": isOp(replay.OpCommit),
	} {
		for _, fault := range []error{replay.SQLState("40001"), replay.SQLState("57P01"), io.ErrUnexpectedEOF} {
			t.Run(name+" "+fault.Error(), func(t *testing.T) {
				db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(fixture(t, transfer)),
					replay.WithFaults(replay.Fault{On: on, Error: fault, Times: 2}))
				for id := range 2 { // which are bound anew
					err := move(db, id)
					if state(err) != state(fault) || !errors.Is(err, fault) && state(fault) == "" {
						t.Fatalf("%v, want %v", err, fault)
					}
				}
				if err := move(db, 5); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// database/sql takes another connection for one that is gone before anything is sent.
func TestFaultBadConn(t *testing.T) {
	db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(fixture(t, query("select 1", "one")+","+transfer)),
		replay.WithFaults(replay.Fault{Times: 1}, replay.Fault{On: func(c *replay.Call) bool { return c.Op == replay.OpBegin }}))
	if got := text(t, db, "select 1"); got != "one" {
		t.Error(got)
	}
	if err := move(db, 1); err != nil {
		t.Error(err)
	}
}

// Nth, Times, one fault after the other, and those that go by the role.
func TestFaultCounts(t *testing.T) {
	db := open(t, fixture(t, `{"role": "replica", "calls": [{"sql": "select 1", "cols": ["v int8"], "rows": [[1]], "times": "*"}]},
		{"role": "primary", "calls": [{"sql": "select 2", "cols": ["v int8"], "rows": [[2]], "times": "*"}]}`),
		replay.WithFaults(
			replay.Fault{On: replay.Statement("select 1"), Nth: 2, Error: replay.SQLState("40001")},
			replay.Fault{On: replay.Statement("select 1"), Nth: 2, Times: 2, Error: replay.SQLState("53300")},
			replay.Fault{On: func(c *replay.Call) bool { return c.Served.Role == "primary" }, Times: replay.Always, Error: replay.SQLState("57P03")}))
	var states []string
	for range 5 {
		_, err := db.Exec("select 3")
		mismatch(t, err, replay.SQLDiffers)
		var n int
		states = append(states, state(db.QueryRow("select 1").Scan(&n)), state(db.QueryRow("select 2").Scan(&n)))
	}
	if got, want := strings.Join(states, " "), " 57P03 40001 57P03 53300 57P03 53300 57P03  57P03"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A fault after the call: to do it again is to do it twice.
func TestFaultAfter(t *testing.T) {
	path := fixture(t, `{"calls": [{"sql": "delete from a", "affected": 1}]},`+transfer)
	db := open(t, path, replay.WithFaults(
		replay.Fault{On: replay.Statement("delete from a"), Error: io.ErrUnexpectedEOF, After: true},
		replay.Fault{On: func(c *replay.Call) bool { return c.Op == replay.OpCommit }, Error: io.ErrUnexpectedEOF, After: true}))
	if _, err := db.Exec("delete from a"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	_, err := db.Exec("delete from a")
	mismatch(t, err, replay.UsedUp)
	if err := move(db, 1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	mismatch(t, move(db, 1), replay.UsedUp)
}

// A savepoint is there to go back to.
func TestFaultSavepoint(t *testing.T) {
	path := fixture(t, `{"unit": "tx", "calls": [{"do": "begin"}, {"do": "exec", "sql": "savepoint sp1"},
		{"do": "exec", "sql": "insert into a values (1)", "affected": 1}, {"do": "exec", "sql": "release savepoint sp1"}, {"do": "commit"}]}`)
	db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(path),
		replay.WithFaults(replay.Fault{On: replay.Statement("insert into a values (1)"), Error: replay.SQLState("55P03")}))
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "SAVEPOINT mine")
	if _, err := tx.Exec("insert into a values (1)"); state(err) != "55P03" {
		t.Error(err)
	}
	if _, err := tx.Exec("insert into a values (1)"); state(err) != "25P02" {
		t.Error(err)
	}
	exec(t, tx, "ROLLBACK TO mine")
	exec(t, tx, "insert into a values (1)")
	exec(t, tx, "RELEASE SAVEPOINT mine")
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
}

// A deadline is waited for, on the clock of the bubble.
func TestFaultDeadline(t *testing.T) {
	path := fixture(t, query("select 1", "one"))
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path, replay.WithFaults(replay.Fault{Error: context.DeadlineExceeded}))
		defer db.Close()
		start := time.Now()
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := db.QueryContext(short, "select 1")
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if got := text(t, db, "select 1"); got != "one" {
			t.Error(got)
		}
	})
}

// Code that does not try again has not made the call; a fault that is for nothing is a
// mistake.
func TestFaultUnused(t *testing.T) {
	path := fixture(t, query("select 1", "one"))
	err := closes(t, func(db *sql.DB) { db.Exec("select 1"); db.Query("select 1") }, path,
		replay.WithFaults(replay.Fault{Error: replay.SQLState("40001")}))
	if err != nil {
		// The exec is none of the recorded calls, and was told.
		t.Error(err)
	}
	err = closes(t, func(db *sql.DB) { db.Query("select 1") }, path, replay.WithFaults(replay.Fault{Error: replay.SQLState("40001")}))
	if err == nil || !strings.Contains(err.Error(), "not made") {
		t.Error(err)
	}
	err = closes(t, func(db *sql.DB) { text(t, db, "select 1") }, path,
		replay.WithFaults(replay.Fault{On: replay.Statement("select 2"), Error: replay.SQLState("40001")}))
	if err == nil || !strings.Contains(err.Error(), "fault 1 of 1 (ERROR: could not serialize access due to concurrent update (SQLSTATE 40001)) has not happened") {
		t.Error(err)
	}
}
