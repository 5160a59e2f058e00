package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgherd/pgherd"
)

var flockTable = pgx.Identifier{"Flock of \"sheep\""}

// openFlock returns a database with a table that has a column of every kind.
func openFlock(t testing.TB) *sql.DB {
	t.Helper()
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN(), "pool_max_conns=1")
	mustExec(t, db, `
		create type mood as enum ('calm', 'nervous');
		create domain weight as float8 check (value >= 0);
		create domain heavy as weight;
		create table `+flockTable.Sanitize()+` (
			id bigint primary key, age int, legs smallint, alive bool, wool heavy, ratio real,
			name text, breed varchar(10), sort mood, notes json, "more Notes" jsonb, photo bytea, tag uuid,
			born date, shorn timestamp, fed timestamptz, price numeric, lambs bigint[], twice bigint generated always as (id * 2) stored
		)`)
	return db
}

type mood string

type life struct {
	Age   int32 `db:"age"`
	Legs  int   `db:"legs"`
	Alive bool  `db:"alive"`
}

type flockSheep struct {
	ID int64
	*life
	Wool      *float64
	Ratio     float32
	Name      string
	Breed     sql.NullString
	Sort      mood
	Notes     map[string]int
	MoreNotes string `db:"more Notes,omitempty"`
	Photo     []byte
	Tag       [16]byte
	Born      time.Time
	Shorn     time.Time
	Fed       *time.Time
	Price     pgtype.Numeric
	Lambs     []int64
	Farm      string `db:"-"`
	_         int    // not a column
}

// String is there for what a row prints as, and not what it is.
func (s flockSheep) String() string { return s.Name }

func aFlock(n int) []flockSheep {
	zone := time.FixedZone("farm", 2*60*60)
	var flock []flockSheep
	for i := range n {
		wool, fed := float64(i)/4, time.Date(2024, 2, 29, 23, 30, 0, i*1000, zone)
		s := flockSheep{
			ID: int64(i), life: &life{int32(-i), 4, i%2 == 0}, Wool: &wool, Ratio: 0.5, Name: fmt.Sprintf("sheep\t%d\\", i), Sort: "calm",
			Breed: sql.NullString{String: "merino", Valid: i%3 != 0}, Notes: map[string]int{"n": i}, MoreNotes: `{"a": [1]}`,
			Photo: []byte{0, byte(i), 255}, Tag: [16]byte{1, 15: byte(i)}, Born: fed, Shorn: fed, Fed: &fed, Lambs: []int64{1, int64(i)},
		}
		s.Price.Scan("12.50")
		if i%5 == 4 {
			s = flockSheep{ID: int64(i), Sort: "nervous", MoreNotes: "null", Born: time.Date(-44, 3, 15, 0, 0, 0, 0, time.UTC), Shorn: time.Unix(0, 0)}
		}
		flock = append(flock, s)
	}
	return flock
}

const flockChecksum = `select md5(string_agg(f::text, ',' order by id)) from "Flock of ""sheep""" f`

// TestCopyRows stores structs by COPY, and compares the table with what single
// inserts of the same values make of it.
func TestCopyRows(t *testing.T) { overBoth(t, openFlock, testCopyRows) }

func testCopyRows(t *testing.T, db *sql.DB) {
	ctx := t.Context()
	flock := aFlock(500)
	for _, s := range flock {
		var age, legs, alive any
		if s.life != nil {
			age, legs, alive = s.Age, s.Legs, s.Alive
		}
		mustExec(t, db, "insert into "+flockTable.Sanitize()+" values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
			s.ID, age, legs, alive, s.Wool, s.Ratio, s.Name, s.Breed, s.Sort, s.Notes, s.MoreNotes, s.Photo, s.Tag, s.Born, s.Shorn, s.Fed, s.Price, s.Lambs)
	}
	want := get[string](t, db, flockChecksum)
	check := func(t *testing.T, n int64, err error) {
		t.Helper()
		if err != nil || n != int64(len(flock)) {
			t.Fatalf("%d rows, err %v", n, err)
		}
		if got := get[string](t, db, flockChecksum); got != want {
			t.Errorf("the table differs from what inserts make")
			rows, _ := db.Query(`select f::text from "Flock of ""sheep""" f order by id limit 5`)
			for rows.Next() {
				var s string
				rows.Scan(&s)
				t.Log(s)
			}
			rows.Close()
		}
		mustExec(t, db, "truncate "+flockTable.Sanitize())
	}
	mustExec(t, db, "truncate "+flockTable.Sanitize())

	t.Run("slice", func(t *testing.T) {
		n, err := pgherd.CopyRows[flockSheep](ctx, db, flockTable, nil, flock)
		check(t, n, err)
	})
	t.Run("pointers", func(t *testing.T) {
		var pointers []*flockSheep
		for i := range flock {
			pointers = append(pointers, &flock[i])
		}
		n, err := pgherd.CopyRows[*flockSheep](ctx, db, flockTable, nil, slices.Values(pointers))
		check(t, n, err)
	})
	t.Run("values", func(t *testing.T) {
		rows := iter.Seq2[[]any, error](func(yield func([]any, error) bool) {
			for _, s := range flock {
				row := []any{s.ID, nil, nil, nil, s.Wool, s.Ratio, s.Name, s.Breed, string(s.Sort), s.Notes, s.MoreNotes, s.Photo, s.Tag, s.Born, s.Shorn, s.Fed, s.Price, s.Lambs}
				if s.life != nil {
					row[1], row[2], row[3] = int64(s.Age), s.Legs, s.Alive
				}
				if !yield(row, nil) {
					return
				}
			}
		})
		n, err := pgherd.CopyRows[[]any](ctx, db, flockTable, nil, rows)
		check(t, n, err)
	})
	t.Run("typed", func(t *testing.T) {
		columns := []string{"id", "age", "legs", "alive", "wool", "ratio", "name", "breed", "sort", "notes", "more Notes", "photo", "tag", "born", "shorn", "fed", "price", "lambs"}
		n, err := pgherd.CopyWrite(ctx, db, flockTable, columns, func(w *pgherd.RowWriter) error {
			if !slices.Equal(w.Columns(), columns) {
				t.Errorf("the columns are %q", w.Columns())
			}
			for _, s := range flock {
				w.Int8(s.ID)
				if s.life != nil {
					w.Int4(s.Age)
					w.Int2(int16(s.Legs))
					w.Bool(s.Alive)
				} else {
					w.Null()
					w.Null()
					w.Null()
				}
				if s.Wool != nil {
					w.Float8(*s.Wool)
				} else {
					w.Null()
				}
				w.Float4(s.Ratio)
				w.Text(s.Name)
				if s.Breed.Valid {
					w.Text(s.Breed.String)
				} else {
					w.Null()
				}
				w.Text(string(s.Sort))
				w.Value(s.Notes)
				w.Text(s.MoreNotes)
				if s.Photo != nil {
					w.Bytea(s.Photo)
				} else {
					w.Null()
				}
				w.UUID(s.Tag)
				w.Time(s.Born)
				w.Time(s.Shorn)
				if s.Fed != nil {
					w.Time(*s.Fed)
				} else {
					w.Null()
				}
				w.Value(s.Price)
				w.Value(s.Lambs)
				if err := w.EndRow(); err != nil {
					return err
				}
			}
			return nil
		})
		check(t, n, err)
	})
	t.Run("CopyFrom", func(t *testing.T) {
		var n int64
		err := pgherd.Raw(ctx, db, func(cn *pgherd.Conn) (err error) {
			n, err = cn.CopyFrom(ctx, flockTable, []string{"id", "name"}, pgx.CopyFromRows([][]any{{1, "one"}, {int64(2), nil}}))
			return err
		})
		if err != nil || n != 2 {
			t.Errorf("%d rows, err %v", n, err)
		}
		mustExec(t, db, "truncate "+flockTable.Sanitize())
	})
	t.Run("single column", func(t *testing.T) {
		n, err := pgherd.CopyRows[int](ctx, db, flockTable, []string{"id"}, []int{3, 1, 2})
		if sum := get[int](t, db, "select sum(id) from "+flockTable.Sanitize()); err != nil || n != 3 || sum != 6 {
			t.Errorf("%d rows, sum %d, err %v", n, sum, err)
		}
	})
}

// TestCopyFirstColumn checks that a row may begin with a column of any type.
func TestCopyFirstColumn(t *testing.T) {
	db := openFlock(t)
	ctx := t.Context()
	for typ, v := range map[string]any{
		"text": "Dolly", "varchar(10)": "Dolly", "jsonb": `{}`, "bool": true, "int4": 1, "int8": int64(1), "numeric": 1, "float4": float32(1.5),
		"float8": 1.5, "date": time.Now(), "timestamp": time.Now(), "timestamptz": time.Now(), "bytea": []byte("wool"), "uuid": [16]byte{1}, "text[]": []string{"a"},
	} {
		mustExec(t, db, "create table first (a "+typ+", b "+typ+")")
		for name, rows := range map[string][][]any{"a": {{v}, {nil}}, "a, b": {{v, v}, {nil, v}, {v, nil}}} {
			n, err := pgherd.CopyRows[[]any](ctx, db, pgx.Identifier{"first"}, strings.Split(name, ", "), rows)
			if err != nil || n != int64(len(rows)) {
				t.Errorf("%s as %s: %d rows, err %v", name, typ, n, err)
			}
		}
		if n := get[int](t, db, "select count(a) from first"); n != 3 {
			t.Errorf("%s: %d of 3 values", typ, n)
		}
		mustExec(t, db, "drop table first")
	}
}

// TestFailedCopyRows checks that errors of rows name the row and the column, and
// leave nothing behind.
func TestFailedCopyRows(t *testing.T) {
	db := openFlock(t)
	ctx := t.Context()
	pid := backend(t, db)
	const bad = 2000
	typed := func(columns []string, put func(w *pgherd.RowWriter)) func() error {
		return func() error {
			_, err := pgherd.CopyWrite(ctx, db, flockTable, columns, func(w *pgherd.RowWriter) error {
				for i := range bad + 2000 {
					w.Int8(int64(i))
					if i == bad-1 {
						put(w)
					} else {
						w.Text("calm")
					}
					if err := w.EndRow(); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		}
	}
	values := func(columns []string, good, wrong []any) func() error {
		return func() error {
			_, err := pgherd.CopyRows[[]any](ctx, db, flockTable, columns, iter.Seq2[[]any, error](func(yield func([]any, error) bool) {
				for i := range bad + 2000 {
					row := slices.Clone(good)
					row[0] = i
					if i == bad-1 {
						row = wrong
					}
					if !yield(row, nil) {
						return
					}
				}
			}))
			return err
		}
	}
	idName := []string{"id", "name"}
	for _, c := range []struct {
		name   string
		run    func() error
		column string
		says   string
		server string // SQLSTATE
	}{
		{"a value of another type", typed(idName, func(w *pgherd.RowWriter) { w.Int8(7) }), "name", "Int8 for a column of type text", ""},
		{"a NULL that may not be", values(idName, []any{0, "a"}, []any{nil, "a"}), "id", "null value", "23502"},
		{"too few values", typed(idName, func(*pgherd.RowWriter) {}), "name", "1 values for 2 columns", ""},
		{"too many values", typed(idName, func(w *pgherd.RowWriter) { w.Text("a"); w.Text("b") }), "", "more values", ""},
		{"too narrow a row", values(idName, []any{0, "a"}, []any{bad}), "", "1 values for 2 columns", ""},
		{"too wide a row", values(idName, []any{0, "a"}, []any{bad, "a", "b"}), "", "3 values for 2 columns", ""},
		{"out of range", values([]string{"id", "legs"}, []any{0, 4}, []any{bad, math.MaxInt16 + 1}), "legs", "out of range for smallint", ""},
		{"not to be encoded", values([]string{"id", "born"}, []any{0, nil}, []any{bad, "tomorrow's secret"}), "born", "a string for a column of type date", ""},
		{"no such label of an enum", values([]string{"id", "sort"}, []any{0, "calm"}, []any{bad, "angry"}), "sort", "enum", "22P02"},
		{"a check of a domain", values([]string{"id", "wool"}, []any{0, 1.5}, []any{bad, -1.5}), "wool", "check constraint", "23514"},
		{"a type that pgx does not know", values([]string{"id", "moods"}, []any{0, nil}, []any{bad, []string{"calm"}}), "moods", "load_types", ""},
		{"text with a zero in it", values(idName, []any{0, "a"}, []any{bad, "a\x00b"}), "name", "", "22021"},
		{"a source that fails", func() error {
			_, err := pgherd.CopyRows[int](ctx, db, flockTable, []string{"id"}, iter.Seq2[int, error](func(yield func(int, error) bool) {
				for i := range bad - 1 {
					if !yield(i, nil) {
						return
					}
				}
				yield(0, errSource)
			}))
			if !errors.Is(err, errSource) {
				t.Errorf("the source's error is lost: %v", err)
			}
			return err
		}, "", errSource.Error(), ""},
		{"a pointer that is nil", func() error {
			rows := make([]*struct{ ID int }, bad)
			for i := range bad - 1 {
				rows[i] = &struct{ ID int }{i}
			}
			_, err := pgherd.CopyRows[*struct{ ID int }](ctx, db, flockTable, nil, rows)
			return err
		}, "id", "nil", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.column == "moods" {
				mustExec(t, db, "alter table "+flockTable.Sanitize()+" add moods mood[]")
			}
			err := c.run()
			var ce *pgherd.CopyError
			if !errors.As(err, &ce) {
				t.Fatalf("err %v", err)
			}
			if ce.Row != bad || ce.Column != c.column || !strings.Contains(err.Error(), c.says) {
				t.Errorf("row %d, column %q: %v, want row %d, column %q: …%s", ce.Row, ce.Column, err, bad, c.column, c.says)
			}
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) && pgErr.Code != c.server || pgErr == nil && c.server != "" {
				t.Errorf("err %v, want SQLSTATE %q", err, c.server)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a value: %v", err)
			}
			if n := get[int](t, db, "select count(*) from "+flockTable.Sanitize()); n != 0 {
				t.Errorf("%d rows are in the table", n)
			}
			if now := backend(t, db); now != pid {
				t.Error("the connection was lost")
			}
		})
	}
	for name, run := range map[string]func() error{
		"no such table": func() error {
			_, err := pgherd.CopyRows[int](ctx, db, pgx.Identifier{"goats"}, []string{"id"}, []int{1})
			return err
		},
		"no such column": func() error {
			_, err := pgherd.CopyRows[int](ctx, db, flockTable, []string{"horns"}, []int{1})
			return err
		},
		"no such field": func() error {
			_, err := pgherd.CopyRows[life](ctx, db, flockTable, []string{"id"}, []life{{}})
			return err
		},
	} {
		var ce *pgherd.CopyError
		if err := run(); err == nil || errors.As(err, &ce) {
			t.Errorf("%s: err %v", name, err)
		}
	}
}

// TestCopyRowsBlocks has an iterator wait for what never comes.
func TestCopyRowsBlocks(t *testing.T) {
	db := openFlock(t)
	pid := backend(t, db)
	never := make(chan struct{})
	returned := make(chan struct{})
	// Its context ends while it waits: a deadline might pass before it has begun,
	// and then it never would.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := pgherd.CopyRows[int](ctx, db, flockTable, []string{"id"}, iter.Seq[int](func(yield func(int) bool) {
		defer close(returned)
		for i := range 10 {
			yield(i)
		}
		cancel()
		<-never
		if yield(10) {
			t.Error("a row was taken after the end")
		}
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	if n := get[int](t, db, "select count(*) from "+flockTable.Sanitize()); n != 0 {
		t.Errorf("%d rows are in the table", n)
	}
	if now := backend(t, db); now != pid {
		t.Error("the connection was lost")
	}
	close(never)
	<-returned
}
