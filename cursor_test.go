package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

func numbers(seq func(func(int, error) bool)) ([]int, error) {
	var all []int
	for n, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, n)
	}
	return all, nil
}

func upTo(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

func TestCursor(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	ctx := t.Context()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	xdb := sqlx.NewDb(db, "pgherd")
	for name, db := range map[string]pgherd.QueryExecer{"DB": db, "Conn": conn, "Tx": tx, "sqlx.DB": xdb} {
		for _, rows := range []int{0, 1, 9, 10, 11, 100} {
			got, err := numbers(pgherd.Cursor[int](ctx, db, 10, "select generate_series(1, $1::int)", rows))
			if err != nil || !slices.Equal(got, upTo(rows)) {
				t.Errorf("%s: %d rows: %v, err = %v", name, rows, got, err)
			}
		}
		// An error, at once or in a later batch, comes last.
		for _, tt := range []struct {
			query string
			rows  int
			state string
		}{
			{"select nothing", 0, "42703"},
			{"select 1 / (15 - i) from generate_series(1, 20) i", 10, "22012"},
		} {
			sp := func() (err error) {
				got, err := numbers(pgherd.Cursor[int](ctx, db, 10, tt.query))
				if len(got) != tt.rows {
					t.Errorf("%s: %s: %d rows", name, tt.query, len(got))
				}
				return err
			}
			var err error
			if name == "Tx" {
				err = pgherd.Savepoint(ctx, tx, sp)
			} else {
				err = sp()
			}
			if sqlState(err) != tt.state {
				t.Errorf("%s: %s: err = %v", name, tt.query, err)
			}
		}
	}
}

// A loop that is left early keeps its connection, and a transaction of the
// caller's.
func TestCursorStopsEarly(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1", "read_preference=primary")
	mustExec(t, db, "create table seen (n int)")
	ctx := t.Context()
	pid := get[int](t, db, "select pg_backend_pid()")
	stopAt := func(db pgherd.QueryExecer, at int) {
		t.Helper()
		n := 0
		for _, err := range pgherd.Cursor[struct {
			I    int
			Name string
		}](ctx, db, 10, endless) {
			if err != nil {
				t.Error(err)
			}
			if n++; n == at {
				break
			}
		}
	}
	for _, at := range []int{1, 10, 11, 25} {
		stopAt(db, at)
		func() {
			defer func() { recover() }()
			for range pgherd.Cursor[int](ctx, db, 10, "select generate_series(1, 1000)") {
				panic("wolf")
			}
		}()
		if got := get[int](t, db, "select pg_backend_pid()"); got != pid {
			t.Errorf("backend %d, then %d", pid, got)
		}
	}
	err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		stopAt(tx, 25)
		if n := get[int](t, tx, "select count(*) from pg_cursors where name <> ''"); n != 0 {
			t.Errorf("%d cursors are open", n)
		}
		// The loop can use the transaction, cursors included.
		for n, err := range pgherd.Cursor[int](ctx, tx, 10, "select generate_series(1, 25)") {
			if err != nil {
				return err
			}
			mustExec(t, tx, "insert into seen values ($1)", n)
			if got, err := numbers(pgherd.Cursor[int](ctx, tx, 2, "select generate_series(1, 3)")); err != nil || len(got) != 3 {
				t.Errorf("within: %v, %v", got, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := get[int](t, db, "select count(*) from seen"); n != 25 {
		t.Errorf("%d rows", n)
	}
}

// The effects of a query are there when its cursor has come to the end, and not
// before.
func TestCursorEffects(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	mustExec(t, db, "create function note(n int) returns int language sql as 'insert into t values (n) returning n'")
	query := "select note(i) from generate_series(1, 25) i"
	for range pgherd.Cursor[int](t.Context(), db, 10, query) {
		break
	}
	if n := get[int](t, db, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows of a loop that was left", n)
	}
	if got, err := numbers(pgherd.Cursor[int](t.Context(), db, 10, query)); err != nil || len(got) != 25 {
		t.Errorf("%v, err = %v", got, err)
	}
	if n := get[int](t, db, "select count(*) from t"); n != 25 {
		t.Errorf("%d rows", n)
	}
}

// A cursor of its own is where reads are, and goes elsewhere while there are no
// rows yet.
func TestCursorOnReplica(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "consistency=eventual")
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica serves", func() bool { return onReplica(t, db) })
	where := func(query string) bool {
		t.Helper()
		for standby, err := range pgherd.Cursor[bool](t.Context(), db, 0, query) {
			if err != nil {
				t.Error(err)
			}
			return standby
		}
		t.Error("no row")
		return false
	}
	if !where("select pg_is_in_recovery()") {
		t.Error("a cursor is not on the replica")
	}
	if err := h.Replica(1).PauseReplay(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "create table later (n int)")
	mustExec(t, db, "insert into later values (1)")
	if where("select pg_is_in_recovery() from later") {
		t.Error("the replica has a table that it does not have")
	}
	if err := h.Replica(1).ResumeReplay(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// No more is fetched than the loop at work and the next batch.
func TestCursorIsBounded(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create sequence fetched")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const size = 10
	n := 0
	for _, err := range pgherd.Cursor[int](ctx, db, size, "select nextval('fetched') from generate_series(1, 200)") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == size+1 {
			// Sequences count what is rolled back, and while it runs.
			fetched := func() int { return get[int](t, db, "/* pgherd: primary */ select last_value from fetched") }
			eventually(t, "the next batch is fetched", func() bool { return fetched() >= 3*size })
			for range 100 {
				if f := fetched(); f > 3*size {
					t.Fatalf("%d rows are fetched at row %d", f, n)
				}
			}
			break
		}
	}
}

func TestCursorCancelled(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	for _, at := range []int{1, 10, 15} {
		ctx, cancel := context.WithCancel(t.Context())
		n, last := 0, error(nil)
		for _, err := range pgherd.Cursor[int](ctx, db, 10, "select generate_series(1, 1000)") {
			if n++; n == at {
				cancel()
			}
			last = err
		}
		cancel()
		if n > 40 || !errors.Is(last, context.Canceled) {
			t.Errorf("cancelled at row %d: %d rows, err = %v", at, n, last)
		}
	}
	// A server that dies under a loop is an error, not the end.
	_, err := numbers(pgherd.Cursor[int](t.Context(), db, 10, "select case when i > 15 then pg_terminate_backend(pg_backend_pid())::int else i end from generate_series(1, 1000) i"))
	if sqlState(err) != "57P01" {
		t.Errorf("terminated: %v", err)
	}
}
