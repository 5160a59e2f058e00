package expect_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd/replay"
	"github.com/pgherd/pgherd/replay/expect"
)

// recordStats is what the README of go-sqlmock tests.
func recordStats(db *sql.DB, userID, productID int64) (err error) {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() {
		switch err {
		case nil:
			err = tx.Commit()
		default:
			tx.Rollback()
		}
	}()
	if _, err = tx.Exec("UPDATE products SET views = views + 1"); err != nil {
		return err
	}
	_, err = tx.Exec("INSERT INTO product_viewers (user_id, product_id) VALUES ($1, $2)", userID, productID)
	return err
}

// A successful case of that README, and its case of a rollback after a failure.
func TestReadme(t *testing.T) {
	db, mock, err := expect.New(expect.QueryMatcherOption(expect.QueryMatcherRegexp))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mock.ExpectBegin()
	mock.ExpectExec("UPDATE products").WillReturnResult(expect.NewResult(1, 1))
	mock.ExpectExec("INSERT INTO product_viewers").WithArgs(2, 3).WillReturnResult(expect.NewResult(1, 1))
	mock.ExpectCommit()
	if err := recordStats(db, 2, 3); err != nil {
		t.Errorf("err %v", err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}

	failed := errors.New("some error")
	mock.ExpectBegin()
	mock.ExpectExec("UPDATE products").WillReturnResult(expect.NewResult(1, 1))
	mock.ExpectExec("INSERT INTO product_viewers").WithArgs(2, 3).WillReturnError(failed)
	mock.ExpectRollback()
	if err := recordStats(db, 2, 3); err != failed {
		t.Errorf("err %v, want that of the expectation itself", err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

type anyTime struct{}

func (anyTime) Match(v driver.Value) bool { _, ok := v.(time.Time); return ok }

// TestUses is what else people do with go-sqlmock.
func TestUses(t *testing.T) {
	errOops := errors.New("oops")
	for _, c := range []struct {
		name string
		opts []expect.Option
		set  func(*expect.Mock)
		do   func(*testing.T, *sql.DB) error
		fail string // of do; "" for none
		left string // of ExpectationsWereMet
	}{
		{"an argument that varies", nil, func(m *expect.Mock) {
			m.ExpectExec("insert into users (name, at) values ($1, $2)").WithArgs("john", anyTime{}).WillReturnResult(expect.NewResult(0, 1))
		}, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Exec("INSERT INTO users (name, at) VALUES ($1, $2)", "john", time.Now())
			return err
		}, "", ""},
		{"another argument", nil, func(m *expect.Mock) {
			m.ExpectExec("delete from users where id = $1").WithArgs(7)
		}, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Exec("delete from users where id = $1", 8)
			return err
		}, "7", "delete from users"},
		{"any argument", nil, func(m *expect.Mock) {
			m.ExpectExec("delete from users where id = $1").WithArgs(expect.AnyArg()).WillReturnResult(expect.NewResult(0, 3))
		}, func(t *testing.T, db *sql.DB) error {
			res, err := db.Exec("delete from users where id = $1", 8)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 3 || err != nil {
				t.Errorf("%d rows, err %v", n, err)
			}
			return nil
		}, "", ""},
		{"no arguments", nil, func(m *expect.Mock) { m.ExpectQuery("select $1").WithoutArgs() }, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Query("select $1", 1)
			return err
		}, "select $1", "select $1"},
		{"a literal with other spaces", nil, func(m *expect.Mock) { m.ExpectQuery("select 'a b'") }, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Query("select 'a  b'")
			return err
		}, "'a  b'", "'a b'"},
		{"rows", nil, func(m *expect.Mock) {
			m.ExpectQuery("select id, name from users").WillReturnRows(
				expect.NewRows([]string{"id", "name"}).AddRow(1, "a").AddRow(2, nil),
				expect.NewRows([]string{"n"}).AddRows([]driver.Value{1.5}),
			)
		}, func(t *testing.T, db *sql.DB) error {
			rows, err := db.Query("select id, name from users")
			if err != nil {
				return err
			}
			defer rows.Close()
			var got []string
			for rows.Next() {
				var id int
				var name sql.NullString
				if err := rows.Scan(&id, &name); err != nil {
					return err
				}
				got = append(got, fmt.Sprint(id, name))
			}
			for rows.NextResultSet() {
				for rows.Next() {
					var n float64
					if err := rows.Scan(&n); err != nil {
						return err
					}
					got = append(got, fmt.Sprint(n))
				}
			}
			if s := fmt.Sprint(got); s != "[1 {a true} 2 { false} 1.5]" {
				t.Errorf("got %s", s)
			}
			return rows.Err()
		}, "", ""},
		{"rows of CSV", nil, func(m *expect.Mock) {
			m.ExpectQuery("select").WillReturnRows(expect.NewRows([]string{"id", "name"}).FromCSVString("5,hello\n 6, NULL\n"))
		}, func(t *testing.T, db *sql.DB) error {
			var id int
			var name string
			err := db.QueryRow("select").Scan(&id, &name)
			if id != 5 || name != "hello" {
				t.Errorf("%d %s", id, name)
			}
			return err
		}, "", ""},
		{"a row that fails", nil, func(m *expect.Mock) {
			m.ExpectQuery("select").WillReturnRows(expect.NewRows([]string{"id"}).AddRow(1).AddRow(2).RowError(1, errOops))
		}, func(t *testing.T, db *sql.DB) error {
			rows, err := db.Query("select")
			if err != nil {
				return err
			}
			defer rows.Close()
			n := 0
			for rows.Next() {
				n++
			}
			if n != 1 || rows.Err() != errOops {
				t.Errorf("%d rows, err %v", n, rows.Err())
			}
			return rows.Err()
		}, "oops", ""},
		{"typed columns", nil, func(m *expect.Mock) {
			m.ExpectQuery("select").WillReturnRows(expect.NewRowsWithColumnDefinition(
				expect.NewColumn("id").OfType("int4", nil).Nullable(false),
				expect.NewColumn("price").OfType("numeric", "").WithPrecisionAndScale(10, 2),
			).AddRow(1, "1.50"))
		}, func(t *testing.T, db *sql.DB) error {
			rows, err := db.Query("select")
			if err != nil {
				return err
			}
			defer rows.Close()
			types, err := rows.ColumnTypes()
			if err != nil {
				return err
			}
			p, s, _ := types[1].DecimalSize()
			if got := fmt.Sprint(types[0].DatabaseTypeName(), types[1].DatabaseTypeName(), p, s); got != "INT4 NUMERIC 10 2" && got != "INT4NUMERIC10 2" {
				t.Errorf("got %q", got)
			}
			for rows.Next() {
			}
			return rows.Err()
		}, "", ""},
		{"a statement that is prepared", nil, func(m *expect.Mock) {
			p := m.ExpectPrepare("select $1::int")
			p.ExpectQuery().WithArgs(5).WillReturnRows(expect.NewRows([]string{"n"}).AddRow(5))
			p.ExpectQuery().WithArgs(6).WillReturnRows(expect.NewRows([]string{"n"}).AddRow(6))
		}, func(t *testing.T, db *sql.DB) error {
			st, err := db.Prepare("select $1::int")
			if err != nil {
				return err
			}
			defer st.Close()
			for _, want := range []int{5, 6} {
				var n int
				if err := st.QueryRow(want).Scan(&n); err != nil || n != want {
					t.Errorf("%d, err %v", n, err)
				}
			}
			return nil
		}, "", ""},
		{"the wrong order", nil, func(m *expect.Mock) {
			m.ExpectExec("one")
			m.ExpectExec("two")
		}, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Exec("two")
			return err
		}, "two", "two"},
		{"any order", nil, func(m *expect.Mock) {
			m.MatchExpectationsInOrder(false)
			m.ExpectExec("one")
			m.ExpectExec("two")
		}, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Exec("two")
			_, err2 := db.Exec("one")
			return errors.Join(err, err2)
		}, "", ""},
		{"several times, and not at all", nil, func(m *expect.Mock) {
			m.ExpectExec("one").Times(2)
			m.ExpectExec("two").Maybe()
			m.ExpectExec("three")
		}, func(_ *testing.T, db *sql.DB) error {
			for _, q := range []string{"one", "one", "three"} {
				if _, err := db.Exec(q); err != nil {
					return err
				}
			}
			return nil
		}, "", ""},
		{"a ping that fails", nil, func(m *expect.Mock) { m.ExpectPing().WillReturnError(errOops) }, func(_ *testing.T, db *sql.DB) error { return db.Ping() }, "oops", ""},
		{"a ping", nil, func(m *expect.Mock) { m.ExpectPing() }, func(_ *testing.T, db *sql.DB) error { return db.Ping() }, "", ""},
		{"a begin that fails", nil, func(m *expect.Mock) { m.ExpectBegin().WillReturnError(errOops) }, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Begin()
			return err
		}, "oops", ""},
		{"options of a transaction", nil, func(m *expect.Mock) {
			m.ExpectBegin().WithOptions(sql.TxOptions{Isolation: sql.LevelSerializable})
			m.ExpectRollback()
		}, func(_ *testing.T, db *sql.DB) error {
			_, err := db.Begin()
			return err
		}, "serializable", "serializable"},
		{"a close", nil, func(m *expect.Mock) { m.ExpectClose().WillReturnError(errOops) }, func(_ *testing.T, db *sql.DB) error { return db.Close() }, "oops", ""},
		{"no close", nil, func(m *expect.Mock) { m.ExpectClose() }, func(*testing.T, *sql.DB) error { return nil }, "", "Close"},
		{"nothing", nil, func(m *expect.Mock) { m.ExpectExec("one") }, func(*testing.T, *sql.DB) error { return nil }, "", "one"},
		{"a regular expression", []expect.Option{expect.QueryMatcherOption(expect.QueryMatcherRegexp)}, func(m *expect.Mock) {
			m.ExpectQuery("^SELECT .+ FROM users$").WithArgs(1).WillReturnRows(expect.NewRows([]string{"id"}))
		}, func(_ *testing.T, db *sql.DB) error {
			rows, err := db.Query("SELECT id,\n name  FROM users", 1)
			if err != nil {
				return err
			}
			return rows.Close()
		}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, mock, err := expect.New(c.opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			c.set(mock)
			if err := c.do(t, db); (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
				t.Errorf("err %v, want %q", err, c.fail)
			}
			if err := mock.ExpectationsWereMet(); (err != nil) != (c.left != "") || err != nil && !strings.Contains(err.Error(), c.left) {
				t.Errorf("left: %v, want %q", err, c.left)
			}
		})
	}
}

// TestDelay ends a context in a delay, on virtual time.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, mock, err := expect.New()
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		mock.ExpectExec("slow").WillDelayFor(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := db.ExecContext(ctx, "slow"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("err %v after %v", err, time.Since(start))
		}
	})
}

// failures is a test that may fail.
type failures struct {
	*testing.T
	texts   []string
	cleanup []func()
}

func (f *failures) Errorf(format string, args ...any) {
	f.texts = append(f.texts, fmt.Sprintf(format, args...))
}
func (f *failures) Failed() bool      { return len(f.texts) > 0 }
func (f *failures) Cleanup(fn func()) { f.cleanup = append(f.cleanup, fn) }

// TestNewT has a test fail by itself, whatever the program makes of errors.
func TestNewT(t *testing.T) {
	f := &failures{T: t}
	db, _ := expect.NewT(f)
	db.Exec("insert into t values (1)")
	if len(f.texts) != 1 || !strings.Contains(f.texts[0], "insert into t") {
		t.Errorf("an unexpected call: %q", f.texts)
	}
	f.cleanup[0]()

	f = &failures{T: t}
	_, mock := expect.NewT(f)
	mock.ExpectExec("insert into t values (1)")
	f.cleanup[0]()
	if len(f.texts) != 1 || !strings.Contains(f.texts[0], "insert into t") {
		t.Errorf("a call that was not made: %q", f.texts)
	}
}

// TestDump serves what was written without this package.
func TestDump(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.replay.json")
	use := func(db *sql.DB) error {
		if err := recordStats(db, 2, 3); err != nil {
			return err
		}
		var n int
		if err := db.QueryRow("select count(*) from products").Scan(&n); err != nil || n != 7 {
			return fmt.Errorf("%d products, err %w", n, err)
		}
		return nil
	}
	db, mock, err := expect.New()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mock.ExpectBegin()
	mock.ExpectExec("UPDATE products SET views = views + 1").WithoutArgs().WillReturnResult(expect.NewResult(1, 1))
	mock.ExpectExec("INSERT INTO product_viewers (user_id, product_id) VALUES ($1, $2)").WithArgs(2, expect.AnyArg()).WillReturnResult(expect.NewResult(1, 1))
	mock.ExpectCommit()
	mock.ExpectQuery("select count(*) from products").WithoutArgs().WillReturnRows(expect.NewRows([]string{"count"}).AddRow(7))
	if err := mock.Dump(file); err == nil {
		t.Error("what is to come was known")
	}
	if err := use(db); err != nil {
		t.Error(err)
	}
	if err := mock.Dump(file); err != nil {
		t.Fatal(err)
	}
	c, err := replay.NewConnector(file, replay.WithMode(replay.Replay))
	if err != nil {
		t.Fatal(err)
	}
	again := sql.OpenDB(c)
	if err := use(again); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
