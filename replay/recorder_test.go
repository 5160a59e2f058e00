package replay_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/replay"
)

// recorded runs a program over a recorder, and returns what was recorded.
func recorded(t *testing.T, live driver.Connector, program func(*sql.DB)) (*replay.Fixture, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.replay.json")
	c, err := replay.NewConnector(path, replay.WithMode(replay.Record), replay.WithLive(func() (driver.Connector, error) { return live, nil }))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	program(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := replay.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

// outline is what was recorded, in short.
func outline(f *replay.Fixture) string {
	var b strings.Builder
	for i, u := range f.Units {
		if i > 0 {
			b.WriteString("; ")
		}
		for j, c := range u.Calls {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString([]string{"query", "exec", "prepare", "begin", "commit", "rollback", "ping"}[c.Op])
			if c.SQL != "" {
				fmt.Fprintf(&b, " %s", c.SQL)
			}
			for _, r := range c.Results {
				if len(r.Columns) > 0 {
					fmt.Fprintf(&b, " %q", r.Rows)
				}
				if r.Left {
					b.WriteString(" left")
				}
				if r.Error != nil {
					fmt.Fprintf(&b, " then %s", r.Error.Text)
				}
			}
			if c.Error != nil {
				b.WriteString(" failed")
			}
		}
	}
	return b.String()
}

func rowsOf(values ...driver.Value) func(string, []driver.NamedValue) ([][]driver.Value, error) {
	return func(string, []driver.NamedValue) ([][]driver.Value, error) {
		var rows [][]driver.Value
		for _, v := range values {
			rows = append(rows, []driver.Value{v})
		}
		return rows, nil
	}
}

func TestRecord(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  func(string, []driver.NamedValue) ([][]driver.Value, error)
		program func(*sql.DB)
		want    string
	}{
		{"nothing", nil, func(db *sql.DB) { db.Ping() }, ""},
		{"one row of one", rowsOf("a"), func(db *sql.DB) { db.QueryRow("q").Scan(new(string)) }, `query q [["a"]]`},
		{"one row of two", rowsOf("a", "b"), func(db *sql.DB) { db.QueryRow("q").Scan(new(string)) }, `query q [["a"]] left`},
		{"no row", rowsOf(), func(db *sql.DB) { db.QueryRow("q").Scan(new(string)) }, `query q []`},
		{"buffers that are used again", rowsOf([]byte("ab"), []byte("cd")), func(db *sql.DB) {
			rows, _ := db.Query("q")
			for rows.Next() {
			}
		}, `query q [["ab"] ["cd"]]`},
		{"a transaction", nil, func(db *sql.DB) {
			tx, _ := db.Begin()
			tx.Exec("a")
			tx.Commit()
			tx, _ = db.Begin()
			tx.Rollback()
		}, "begin, exec a, commit; begin, rollback"},
		{"a connection", nil, func(db *sql.DB) {
			conn, _ := db.Conn(ctx)
			conn.ExecContext(ctx, "a")
			tx, _ := conn.BeginTx(ctx, nil)
			tx.Exec("b")
			tx.Commit()
			conn.ExecContext(ctx, "c")
			conn.Close()
			db.Exec("d")
		}, "exec a, begin, exec b, commit, exec c; exec d"},
		{"savepoints of GORM", nil, func(db *sql.DB) {
			tx, _ := db.Begin()
			tx.Exec("SAVEPOINT sp1234567890")
			tx.Exec("ROLLBACK TO SAVEPOINT sp1234567890")
			tx.Commit()
		}, "begin, exec SAVEPOINT sp1, exec ROLLBACK TO SAVEPOINT sp1, commit"},
		{"an error", func(string, []driver.NamedValue) ([][]driver.Value, error) { return nil, errors.New("no") },
			func(db *sql.DB) { db.Query("q"); db.Exec("e") }, "query q failed; exec e failed"},
		{"a failing prepare", nil, func(db *sql.DB) { db.Prepare("q") }, "prepare q failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := recorded(t, &fakeDB{answer: c.answer}, c.program)
			if got := outline(f); got != c.want {
				t.Errorf("recorded %s\nwant     %s", got, c.want)
			}
		})
	}
}

// What a program does with an argument once it has passed it is its own affair.
func TestRecordArguments(t *testing.T) {
	b := []byte("ab")
	f, _ := recorded(t, &fakeDB{}, func(db *sql.DB) {
		db.Exec("e", b, 1, sql.NullString{})
		b[0] = 'X'
	})
	var got []any
	for _, a := range f.Units[0].Calls[0].Args {
		got = append(got, a.Value)
	}
	if want := []any{[]byte("ab"), int64(1), nil}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestUnrecordable: a value that cannot be held is an error of the recording, and none
// of the program's.
func TestUnrecordable(t *testing.T) {
	inDir(t)
	errs := (&fakeT{name: "TestX"}).run(func(ft *fakeT) {
		db := replay.Open(ft, mode(replay.Record, (&fakeDB{}).live())...)
		if _, err := db.Exec("e", make(chan int)); err != nil {
			t.Error(err)
		}
	})
	if len(errs) != 1 || !strings.Contains(errs[0], "an argument of type chan int cannot be recorded") || !strings.Contains(errs[0], ", of e") {
		t.Errorf("%q", errs)
	}
}

// pooled connections have what database/sql asks for when it takes them and gives them
// back.
type (
	resetConn struct{ *fakeConn }
	validConn struct{ *fakeConn }
	bothConn  struct{ *fakeConn }
)

func (c resetConn) ResetSession(context.Context) error { c.resets++; return nil }
func (c validConn) IsValid() bool                      { return true }
func (c bothConn) ResetSession(context.Context) error  { c.resets++; return nil }
func (c bothConn) IsValid() bool                       { return true }

type connector func() driver.Conn

func (c connector) Connect(context.Context) (driver.Conn, error) { return c(), nil }
func (c connector) Driver() driver.Driver                        { return nil }

// TestPoolInterfaces: whether a connection has both of two interfaces decides what
// becomes of it when a transaction's context ends.
func TestPoolInterfaces(t *testing.T) {
	for _, c := range []struct {
		conn  driver.Conn
		keeps bool
	}{
		{&fakeConn{f: &fakeDB{}}, false},
		{resetConn{&fakeConn{f: &fakeDB{}}}, false},
		{validConn{&fakeConn{f: &fakeDB{}}}, false},
		{bothConn{&fakeConn{f: &fakeDB{}}}, true},
	} {
		t.Run(fmt.Sprintf("%T", c.conn), func(t *testing.T) {
			f, _ := recorded(t, connector(func() driver.Conn { return c.conn }), func(db *sql.DB) {
				db.SetMaxOpenConns(1)
				db.Exec("a")
				db.Exec("b")
				conn, err := db.Conn(ctx)
				if err != nil {
					t.Fatal(err)
				}
				conn.Raw(func(dc any) error {
					_, resets := dc.(driver.SessionResetter)
					_, validates := dc.(driver.Validator)
					if keeps := resets && validates; keeps != c.keeps {
						t.Errorf("keeps its connections %t, want %t", keeps, c.keeps)
					}
					return nil
				})
				conn.ExecContext(ctx, "c")
				conn.ExecContext(ctx, "d")
				conn.Close()
			})
			if got, want := outline(f), "exec a; exec b; exec c, exec d"; got != want {
				t.Errorf("recorded %s, want %s", got, want)
			}
		})
	}
}

// An oldConn has nothing but what every connection has.
type oldConn struct{}

func (c *oldConn) Close() error              { return nil }
func (c *oldConn) Begin() (driver.Tx, error) { return nil, driver.ErrBadConn }
func (c *oldConn) Prepare(query string) (driver.Stmt, error) {
	return oldStmt{}, nil
}

type oldStmt struct{}

func (oldStmt) Close() error                               { return nil }
func (oldStmt) NumInput() int                              { return -1 }
func (oldStmt) Exec([]driver.Value) (driver.Result, error) { return driver.ResultNoRows, nil }
func (oldStmt) Query([]driver.Value) (driver.Rows, error) {
	return &setRows{fakeRows: fakeRows{rows: [][]driver.Value{{int64(1)}, {int64(2)}}}, more: 1}, nil
}

// setRows have several result sets, the last one of which fails.
type setRows struct {
	fakeRows
	more int
}

func (r *setRows) HasNextResultSet() bool { return r.more > 0 }
func (r *setRows) NextResultSet() error {
	if r.more == 0 {
		return io.EOF
	}
	r.more--
	r.rows = [][]driver.Value{{int64(3)}}
	return nil
}

func (r *setRows) Next(dest []driver.Value) error {
	err := r.fakeRows.Next(dest)
	if err == io.EOF && r.more == 0 {
		return errors.New("broken")
	}
	return err
}

// TestOldDriver records a driver that has no more than it must, and replays it.
func TestOldDriver(t *testing.T) {
	program := func(said *strings.Builder) func(db *sql.DB) {
		return func(db *sql.DB) {
			res, err := db.Exec("ddl", 1)
			if err != nil {
				t.Fatal(err)
			}
			_, err = res.RowsAffected()
			fmt.Fprintln(said, err)
			_, err = res.LastInsertId()
			fmt.Fprintln(said, err)
			rows, err := db.Query("q", 2)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for more := true; more; more = rows.NextResultSet() {
				for rows.Next() {
					var n int
					fmt.Fprintln(said, rows.Scan(&n), n)
				}
			}
			fmt.Fprintln(said, rows.Err())
			_, err = db.Begin()
			fmt.Fprintln(said, err == driver.ErrBadConn)
		}
	}
	var live, replayed strings.Builder
	f, path := recorded(t, connector(func() driver.Conn { return &oldConn{} }), program(&live))
	if got, want := outline(f), `exec ddl; query q [['\x01'] ['\x02']] [['\x03']] then broken; begin failed; begin failed; begin failed`; got != want {
		t.Errorf("recorded %s\nwant     %s", got, want)
	}
	if err := closes(t, program(&replayed), path); err != nil {
		t.Error(err)
	}
	if live.String() != replayed.String() || !strings.Contains(live.String(), "broken") {
		t.Errorf("live\n%s\nreplayed\n%s", &live, &replayed)
	}
}

// TestArrange: what is recorded again stays where it was, with what hands have written.
func TestArrange(t *testing.T) {
	inDir(t)
	record := func(statements ...string) string {
		errs := (&fakeT{name: "TestX"}).run(func(ft *fakeT) {
			db := replay.Open(ft, mode(replay.Record, (&fakeDB{}).live())...)
			for i, s := range statements {
				if _, err := db.Exec(s, i*1000); err != nil {
					t.Error(err)
				}
			}
		})
		if errs != nil {
			t.Fatal(errs)
		}
		f, err := replay.Read("testdata/TestX.replay.json")
		if err != nil {
			t.Fatal(err)
		}
		return outline(f)
	}
	record("a", "b", "c")
	file := strings.NewReplacer(`[0]`, `[{"match": "any"}]`, `[1000]`, `[{"match": "any"}]`, `[2000]`, `[{"match": "any"}]`).Replace(read(t, "testdata/TestX.replay.json"))
	write(t, "testdata/TestX.replay.json", file)
	// Goroutines have come in another order.
	if got, want := record("c", "a", "b"), "exec a; exec b; exec c"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := read(t, "testdata/TestX.replay.json"); got != file {
		t.Errorf("the file has changed to\n%s", got)
	}
	if got, want := record("a", "new", "b", "last"), "exec a; exec new; exec b; exec last"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
