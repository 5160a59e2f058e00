package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
)

// endless is a query that makes its rows as they are read, more than anybody
// would wait for, and is known to be a read.
const endless = "select generate_series(1, 1000000000) as i, 'row' as name"

// A loop that is left early neither reads the rest nor costs the connection.
func TestStreamStopsEarly(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1", "read_preference=primary")
	pid := get[int](t, db, "select pg_backend_pid()")
	var took []time.Duration
	for range rounds(50) {
		n := 0
		var left time.Time
		for r, err := range pgherd.Stream[struct {
			I    int
			Name string
		}](t.Context(), db, endless) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; r.I != n {
				t.Fatalf("row %d is %+v", n, r)
			}
			if n == 100 {
				left = time.Now()
				break
			}
		}
		took = append(took, time.Since(left))
		if got := get[int](t, db, "select pg_backend_pid()"); got != pid {
			t.Fatalf("backend %d, then %d", pid, got)
		}
	}
	slices.Sort(took)
	t.Logf("to stop: median %v, longest %v", took[len(took)/2], took[len(took)-1])
}

// What must not be cancelled is read to its end.
func TestStreamStopsNoEffect(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	ctx := t.Context()
	const insert = "insert into t select generate_series(1, 100000) returning n"
	stopAt := func(q pgherd.Queryer, query string) {
		t.Helper()
		for _, err := range pgherd.Stream[int](ctx, q, query) {
			if err != nil {
				t.Error(err)
			}
			break
		}
	}
	stopAt(db, insert)
	if n := get[int](t, db, "select count(*) from t"); n != 100000 {
		t.Errorf("%d rows are there", n)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	mustExec(t, tx, "delete from t")
	stopAt(tx, "select generate_series(1, 100000)")
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "begin")
	mustExec(t, conn, "insert into t values (1)")
	stopAt(conn, "select generate_series(1, 100000)")
	mustExec(t, conn, "commit")
	if n := get[int](t, conn, "select count(*) from t"); n != 1 {
		t.Errorf("%d rows are there", n)
	}
}

// Neighbours on the same connections meet no cancellation.
func TestStreamStopsNoNeighbour(t *testing.T) {
	t.Parallel()
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=2")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range rounds(40) {
				if w%2 == 0 {
					for n, err := range pgherd.Stream[int](t.Context(), db, "select generate_series(1, 20000)") {
						if err != nil {
							t.Errorf("a stream: %v", err)
						}
						if n > i*20000/rounds(40)/2 {
							break
						}
					}
				} else if err := db.QueryRowContext(t.Context(), "select 1").Scan(new(int)); err != nil {
					t.Errorf("a neighbour's statement: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestStreamErrors(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := func(seq func(func(int, error) bool)) (n int, err error) {
		for _, e := range seq {
			if err != nil {
				t.Error("the sequence goes on after an error")
			}
			if err = e; err == nil {
				n++
			}
		}
		return n, err
	}
	if _, err := last(pgherd.Stream[int](ctx, db, "select nothing")); sqlState(err) != "42703" {
		t.Errorf("no query: %v", err)
	}
	if n, err := last(pgherd.Stream[int](ctx, db, "select 1 / (3 - i) from generate_series(1, 5) i")); n != 2 || sqlState(err) != "22012" {
		t.Errorf("error after %d rows: %v", n, err)
	}
	if _, err := last(pgherd.Stream[int](ctx, db, "select 1 as a, 2 as b")); err == nil || !strings.Contains(err.Error(), "2 columns (a, b)") {
		t.Errorf("two columns: %v", err)
	}
	if _, err := last(pgherd.Stream[int](ctx, db, "select 'hay'")); err == nil {
		t.Error("hay is an int")
	}
	n := 0
	for _, err := range pgherd.Stream[int](ctx, db, "select generate_series(1, 1000000)") {
		if n++; n == 10 {
			cancel()
		}
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			break
		}
	}
	if n == 1000000 {
		t.Error("the sequence does not end with its context")
	}
}

func TestOne(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	xdb := sqlx.NewDb(db, "pgherd")
	xtx, err := xdb.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer xtx.Rollback()
	ctx := t.Context()
	type ewe struct {
		ID   int
		Name string `db:"called"`
		Born *time.Time
	}
	const query = "select i as id, 'ewe ' || i as called, null::timestamptz as born from generate_series(1, $1::int) i"
	for name, db := range map[string]pgherd.Queryer{"DB": db, "Conn": conn, "Tx": tx, "sqlx.DB": xdb, "sqlx.Tx": xtx} {
		t.Run(name, func(t *testing.T) {
			if v, err := pgherd.One[ewe](ctx, db, query, 1); err != nil || v != (ewe{1, "ewe 1", nil}) {
				t.Errorf("struct: %+v, %v", v, err)
			}
			if v, err := pgherd.One[*ewe](ctx, db, query, 1); err != nil || *v != (ewe{1, "ewe 1", nil}) {
				t.Errorf("pointer: %+v, %v", v, err)
			}
			v, err := pgherd.One[map[string]any](ctx, db, query, 1)
			if err != nil || !maps.Equal(v, map[string]any{"id": int64(1), "called": "ewe 1", "born": nil}) {
				t.Errorf("map: %#v, %v", v, err)
			}
			if _, err := pgherd.One[ewe](ctx, db, query, 0); err != sql.ErrNoRows {
				t.Errorf("no row: %v", err)
			}
			if v, err := pgherd.One[ewe](ctx, db, query, 2); err != pgherd.ErrTooManyRows || v != (ewe{}) {
				t.Errorf("two rows: %+v, %v", v, err)
			}
			if _, err := pgherd.One[ewe](ctx, db, "select 1 as id, 2 as wool"); err == nil || !strings.Contains(err.Error(), "wool") {
				t.Errorf("no field: %v", err)
			}
			if v, ok, err := pgherd.Optional[string](ctx, db, "select 'hay' where $1", true); v != "hay" || !ok || err != nil {
				t.Errorf("Optional: %q, %v, %v", v, ok, err)
			}
			if v, ok, err := pgherd.Optional[string](ctx, db, "select 'hay' where $1", false); v != "" || ok || err != nil {
				t.Errorf("Optional, none: %q, %v, %v", v, ok, err)
			}
			if v, err := pgherd.Scalar[pgtype.Int4](ctx, db, "select 7"); err != nil || v.Int32 != 7 {
				t.Errorf("Scalar: %v, %v", v, err)
			}
			if v, err := pgherd.Scalar[*int](ctx, db, "select null::int"); err != nil || v != nil {
				t.Errorf("Scalar, null: %v, %v", v, err)
			}
			if v, err := pgherd.One[time.Time](ctx, db, "select '2026-01-02'::timestamptz"); err != nil || v.Year() != 2026 {
				t.Errorf("time: %v, %v", v, err)
			}
			for _, want := range []bool{true, false} {
				if ok, err := pgherd.Exists(ctx, db, "select from generate_series(1, 1000) where $1", want); ok != want || err != nil {
					t.Errorf("Exists: %v, %v", ok, err)
				}
			}
			if all, err := pgherd.Collect[ewe](ctx, db, query, 3); err != nil || len(all) != 3 || all[2] != (ewe{3, "ewe 3", nil}) {
				t.Errorf("Collect: %+v, %v", all, err)
			}
		})
	}
}
