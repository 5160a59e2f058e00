package replay_test

import (
	"database/sql"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/replay"
)

var update = flag.Bool("update", false, "write the golden files")

// lineNumber is where a test makes a call; golden files stay when that moves.
var lineNumber = regexp.MustCompile(`_test\.go:\d+`)

// save is the application of TestMismatchText.
func save(db *sql.DB, state string, statement string) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var id int
	if err := tx.QueryRow("SELECT id FROM orders WHERE number = $1 FOR UPDATE", "A-17").Scan(&id); err != nil {
		return err
	}
	if _, err := tx.Exec(statement, state, id); err != nil {
		return err
	}
	return tx.Commit()
}

const ordersFixture = `{
  "format": 1,
  "units": [
    {"unit": "tx", "role": "primary", "calls": [
      {"do": "begin"},
      {"do": "query", "sql": "SELECT id FROM orders WHERE number = $1 FOR UPDATE", "args": ["A-17"], "cols": ["id int8"], "rows": [[7]]},
      {"sql": "UPDATE orders SET state = $1 WHERE id = $2", "args": ["paid", 7], "affected": 1},
      {"do": "commit"}
    ]},
    {"role": "replica", "calls": [
      {"do": "query", "sql": "SELECT id, state FROM orders WHERE id = $1", "args": [7], "cols": ["id int8", "state text"], "rows": [[7, "paid"]]}
    ]},
    {"calls": [
      {"sql": "UPDATE customers SET state = $1 WHERE id = $2", "args": ["paid", 7], "affected": 1, "optional": true}
    ]}
  ]
}
`

// TestMismatchText holds what a changed program is told to golden files, and to one
// failure for one change.
func TestMismatchText(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(db *sql.DB) error
	}{
		{"sql", func(db *sql.DB) error {
			return save(db, "paid", "UPDATE orders\nSET state = $1, at = now()\nWHERE id = $2")
		}},
		{"arguments", func(db *sql.DB) error { return save(db, "payed", "update orders set state = $1 where id = $2") }},
		{"used up", func(db *sql.DB) error {
			if err := save(db, "paid", "UPDATE orders SET state = $1 WHERE id = $2"); err != nil {
				return err
			}
			for range 2 {
				if err := db.QueryRow("SELECT id, state FROM orders WHERE id = $1", 7).Scan(new(int), new(string)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"elsewhere", func(db *sql.DB) error {
			_, err := db.Exec("UPDATE orders SET state = $1 WHERE id = $2", "paid", 7)
			return err
		}},
		{"nothing like it", func(db *sql.DB) error {
			_, err := db.Exec("REFRESH MATERIALIZED VIEW totals")
			return err
		}},
		{"a transaction's options", func(db *sql.DB) error {
			_, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden, err := filepath.Abs(filepath.Join("testdata", "mismatch", strings.ReplaceAll(c.name, " ", "_")+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			inDir(t)
			write(t, "testdata/TestSave.replay.json", ordersFixture)
			var err2 error
			ft := &fakeT{name: "TestSave"}
			errs := ft.run(func(ft *fakeT) { err2 = c.test(replay.Open(ft)) })
			if len(errs) != 1 {
				t.Fatalf("%d failures of one change:\n%s", len(errs), strings.Join(errs, "\n"))
			}
			if err2 == nil || errs[0] != err2.Error() {
				t.Errorf("the program is told %v, the test %s", err2, errs[0])
			}
			got := lineNumber.ReplaceAllString(errs[0], "_test.go:N") + "\n"
			if *update {
				write(t, golden, got)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
