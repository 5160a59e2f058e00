package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
)

type lamb struct {
	ID   int64   `db:"id"`
	Name string  `db:"Lamb name"`
	Wool float64 `db:"wool"`
	Sort *mood   `db:"sort"`
}

type taggedLamb struct {
	lamb
	Tags []string `db:"tags"`
}

var lambs = pgx.Identifier{"farm", "Lambs"}

const countLambs = `/* pgherd: primary */ select count(*) from farm."Lambs"`

func openLambs(t testing.TB) *sql.DB {
	t.Helper()
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN(), "pool_max_conns=1")
	mustExec(t, db, `
		create schema farm;
		create type farm.mood as enum ('calm', 'nervous');
		create domain farm.wool as float8 check (value >= 0);
		create table farm."Lambs" (
			serial bigint generated always as identity,
			id bigint primary key, "Lamb name" text default 'Dolly', wool farm.wool, sort farm.mood, tags text[]
		)`)
	return db
}

// aLambs returns n lambs from the first on.
func aLambs(first, n int) []lamb {
	calm := mood("calm")
	out := make([]lamb, n)
	for i := range out {
		out[i] = lamb{int64(first + i), fmt.Sprint("lamb ", first+i), float64(i % 7), &calm}
		if i%3 == 0 {
			out[i].Sort = nil
		}
	}
	return out
}

func tagged(list []lamb) []taggedLamb {
	var out []taggedLamb
	for _, l := range list {
		out = append(out, taggedLamb{l, []string{l.Name, "sheep"}})
	}
	return out
}

// TestBatchInsert inserts in each of the ways, in chunks that divide the rows
// and in such that do not, outside and inside a transaction.
func TestBatchInsert(t *testing.T) { overBoth(t, openLambs, testBatchInsert) }

func testBatchInsert(t *testing.T, db *sql.DB) {
	ctx := t.Context()
	keep := &pgherd.Conflict{}
	update := &pgherd.Conflict{Columns: []string{"id"}, Update: []string{"Lamb name", "wool"}}
	for _, conflict := range []*pgherd.Conflict{nil, keep, update} {
		for _, arrays := range []bool{false, true} {
			for _, n := range []int{0, 1, 250, 700, 1000} {
				for _, inTx := range []bool{false, true} {
					name := fmt.Sprintf("conflict %+v, arrays %v, rows %d, tx %v", conflict, arrays, n, inTx)
					mustExec(t, db, `truncate farm."Lambs"`)
					mustExec(t, db, `insert into farm."Lambs" (id, "Lamb name", wool) select i, 'old', 99 from generate_series(1, $1) i`, 10)
					rows := aLambs(11, n)
					inserted := n
					if conflict != nil {
						rows = append(aLambs(6, 5), rows...) // there already
						if conflict == update {
							inserted += 5
						}
					}
					var target any = db
					if inTx {
						tx, err := db.Begin()
						if err != nil {
							t.Fatal(err)
						}
						defer tx.Rollback()
						target = tx
					}
					var progress []int64
					b := &pgherd.Batch{Conflict: conflict, ChunkRows: 250, Progress: func(n int64) { progress = append(progress, n) }}
					var got int64
					var err error
					if arrays {
						got, err = pgherd.BatchInsert[taggedLamb](ctx, target, lambs, tagged(rows), b)
					} else {
						got, err = pgherd.BatchInsert[lamb](ctx, target, lambs, rows, b)
					}
					if err != nil || got != int64(inserted) {
						t.Fatalf("%s: %d rows, want %d, err %v", name, got, inserted, err)
					}
					if tx, ok := target.(*sql.Tx); ok {
						if err := tx.Commit(); err != nil {
							t.Fatal(err)
						}
					}
					if len(rows) > 0 && (!slices.IsSorted(progress) || progress[len(progress)-1] != int64(len(rows))) {
						t.Errorf("%s: the progress was %v", name, progress)
					}
					old := 10
					if conflict == update {
						old = 5
					}
					state := get[string](t, db, `/* pgherd: primary */
						select format('%s rows, %s old, %s as they should be', count(*), count(*) filter (where "Lamb name" = 'old'),
							count(*) filter (where "Lamb name" = 'lamb ' || id and (tags is null or tags = array["Lamb name", 'sheep'])))
						from farm."Lambs"`)
					if want := fmt.Sprintf("%d rows, %d old, %d as they should be", n+10, old, n+10-old); state != want {
						t.Errorf("%s: %s, want %s", name, state, want)
					}
				}
			}
		}
	}
}

// TestBatchInsertLastCounts upserts rows with the same key, within and across
// chunks, and such whose key is NULL.
func TestBatchInsertLastCounts(t *testing.T) { overBoth(t, openLambs, testBatchInsertLastCounts) }

func testBatchInsertLastCounts(t *testing.T, db *sql.DB) {
	mustExec(t, db, "create table farm.weights (a int, b text, kg int, unique (a, b))")
	type weight struct {
		A  int
		B  *string
		Kg int
	}
	for _, n := range []int{90, 1000} {
		mustExec(t, db, "truncate farm.weights")
		var rows []weight
		x := "x"
		for i := range n {
			w := weight{i % 10, &x, i}
			if i%10 == 9 {
				w.B = nil
			}
			rows = append(rows, w)
		}
		_, err := pgherd.BatchInsert[weight](t.Context(), db, pgx.Identifier{"farm", "weights"}, rows, &pgherd.Batch{
			Conflict:  &pgherd.Conflict{Columns: []string{"a", "b"}, Update: []string{"kg"}},
			ChunkRows: 100,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := get[string](t, db, `/* pgherd: primary */ select format('%s rows, %s last', count(*), count(*) filter (where b is not null and kg between $1 and $2)) from farm.weights`, n-10, n-2)
		if want := fmt.Sprintf("%d rows, 9 last", 9+n/10); got != want {
			t.Errorf("%d rows: %s, want %s", n, got, want)
		}
	}
}

// TestBatchInsertReturning returns keys in the order of rows.
func TestBatchInsertReturning(t *testing.T) { overBoth(t, openLambs, testBatchInsertReturning) }

func testBatchInsertReturning(t *testing.T, db *sql.DB) {
	ctx := t.Context()
	type key struct {
		Serial int64
		ID     int64
	}
	rows := aLambs(1, 1100)
	slices.Reverse(rows)
	keys, err := pgherd.BatchInsertReturning[lamb, key](ctx, db, lambs, []string{"serial", "id"}, rows, &pgherd.Batch{ChunkRows: 250})
	if err != nil || len(keys) != len(rows) {
		t.Fatalf("%d rows, err %v", len(keys), err)
	}
	for i, k := range keys {
		if k.ID != rows[i].ID || k.Serial != keys[0].Serial+int64(i) {
			t.Fatalf("row %d: %+v", i, k)
		}
	}
	ids, err := pgherd.BatchInsertReturning[taggedLamb, int64](ctx, db, lambs, []string{"id"}, tagged(aLambs(1099, 3)), &pgherd.Batch{Conflict: &pgherd.Conflict{}})
	if err != nil || !slices.Equal(ids, []int64{1101}) {
		t.Errorf("ids %v, err %v: want what was inserted", ids, err)
	}
}

// TestFailedBatchInsert checks what is left of a batch that fails: nothing, or
// the chunks before.
func TestFailedBatchInsert(t *testing.T) {
	db := openLambs(t)
	ctx := t.Context()
	pid := backend(t, db)
	for _, c := range []struct {
		name  string
		spoil func(rows []lamb) iter.Seq2[lamb, error]
		code  string // SQLSTATE, or the source's error
	}{
		{"a check fails", func(rows []lamb) iter.Seq2[lamb, error] {
			rows[620].Wool = -1
			return seq2(rows, nil)
		}, "23514"},
		{"the source fails", func(rows []lamb) iter.Seq2[lamb, error] { return seq2(rows[:620], errSource) }, ""},
		{"the source panics", func(rows []lamb) iter.Seq2[lamb, error] {
			return func(yield func(lamb, error) bool) {
				for v := range seq2(rows[:620], nil) {
					if !yield(v, nil) {
						return
					}
				}
				panic(errSource)
			}
		}, "panic"},
	} {
		for _, way := range []string{"copy", "stage", "stage arrays", "returning", "chunked copy", "chunked unnest"} {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				mustExec(t, db, `truncate farm."Lambs"`)
				b := &pgherd.Batch{ChunkRows: 250}
				if way == "stage" || way == "stage arrays" || way == "chunked unnest" {
					b.Conflict = &pgherd.Conflict{}
				}
				rows := c.spoil(aLambs(1, 1000))
				kept := 0
				var n int64
				var err error
				func() {
					defer func() {
						if v := recover(); v != nil {
							if c.code != "panic" || v != errSource {
								t.Errorf("recovered %v", v)
							}
							err = errSource
						}
					}()
					switch way {
					case "returning":
						_, err = pgherd.BatchInsertReturning[lamb, int64](ctx, db, lambs, []string{"id"}, rows, b)
					case "chunked copy", "chunked unnest":
						kept = 500
						n, err = pgherd.BatchInsertChunked[lamb](ctx, db, lambs, rows, b)
					case "stage arrays":
						n, err = pgherd.BatchInsert[taggedLamb](ctx, db, lambs, iter.Seq2[taggedLamb, error](func(yield func(taggedLamb, error) bool) {
							for l, err := range rows {
								if !yield(taggedLamb{lamb: l}, err) {
									return
								}
							}
						}), b)
					default:
						n, err = pgherd.BatchInsert[lamb](ctx, db, lambs, rows, b)
					}
				}()
				var pgErr *pgconn.PgError
				if c.code == "23514" && (!errors.As(err, &pgErr) || pgErr.Code != c.code) || c.code == "" && !errors.Is(err, errSource) || err == nil {
					t.Errorf("err %v", err)
				}
				var ce *pgherd.CopyError
				if c.code == "" && (!errors.As(err, &ce) || ce.Row != 621) {
					t.Errorf("err %v, want one of row 621", err)
				}
				if stored := get[int](t, db, countLambs); stored != kept || c.code != "panic" && n != int64(kept) {
					t.Errorf("%d rows are in the table, %d are said to be, want %d", stored, n, kept)
				}
				if now := backend(t, db); now != pid {
					t.Error("the connection was lost")
				}
			})
		}
	}
	t.Run("the source blocks", func(t *testing.T) {
		mustExec(t, db, `truncate farm."Lambs"`)
		never := make(chan struct{})
		returned := make(chan struct{})
		short, cancel := context.WithCancel(ctx)
		defer cancel()
		_, err := pgherd.BatchInsert[lamb](short, db, lambs, iter.Seq[lamb](func(yield func(lamb) bool) {
			defer close(returned)
			for _, l := range aLambs(1, 600) {
				if !yield(l) {
					return
				}
			}
			cancel()
			<-never
		}), &pgherd.Batch{ChunkRows: 250, Conflict: &pgherd.Conflict{}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err %v", err)
		}
		if stored := get[int](t, db, countLambs); stored != 0 {
			t.Errorf("%d rows are in the table", stored)
		}
		close(never)
		<-returned
	})
}

// seq2 yields rows and then, if it is not nil, err.
func seq2(rows []lamb, err error) iter.Seq2[lamb, error] {
	return func(yield func(lamb, error) bool) {
		for _, l := range rows {
			if !yield(l, nil) {
				return
			}
		}
		if err != nil {
			yield(lamb{}, err)
		}
	}
}
