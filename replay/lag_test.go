package replay_test

import (
	"database/sql"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd/replay"
)

// cart is a recording of a total that is read, written, and read again on the server
// of the given role.
func cart(role string) string {
	const total = `{"role": %q, "calls": [{"sql": "select total from carts where id = $1", "args": [%d], "cols": ["total int8"], "rows": [[%d]]}]}`
	return fmt.Sprintf(total, "replica", 1, 100) + "," + fmt.Sprintf(total, "replica", 2, 5) + `,
		{"unit": "tx", "role": "primary", "calls": [{"do": "begin"}, {"do": "exec", "sql": "update carts set total = 90 where id = 1", "affected": 1}, {"do": "commit"}]},` +
		fmt.Sprintf(total, role, 1, 90)
}

// addUp reads the total, writes it, and reads it again with read.
func addUp(t *testing.T, db *sql.DB, read func() string) (before, after string) {
	total := func(id int) string { return text(t, db, "select total from carts where id = $1", id) }
	before = total(1)
	total(2)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "update carts set total = 90 where id = 1")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return before, read()
}

// A program that reads on a replica right after its write does not find it, and one
// that has read-your-writes, and so was recorded on the primary, does.
func TestLag(t *testing.T) {
	for _, c := range []struct {
		role string
		lag  replay.Lag
		want string
	}{
		{"replica", replay.Lag{}, "100"},
		{"replica", replay.Lag{After: replay.Statement("update carts set total = 90 where id = 1"), For: time.Minute}, "100"},
		{"replica", replay.Lag{After: replay.Statement("update carts set total = 80 where id = 1")}, "90"},
		{"primary", replay.Lag{For: time.Minute}, "90"},
	} {
		db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(fixture(t, cart(c.role))), replay.WithLag(c.lag))
		before, after := addUp(t, db, func() string { return text(t, db, "select total from carts where id = $1", 1) })
		if before != "100" || after != c.want {
			t.Errorf("%s %v: %s, then %s, want %s", c.role, c.lag, before, after, c.want)
		}
	}
}

// Code that waits for its write finds it when the replica has caught up.
func TestLagEnds(t *testing.T) {
	for _, c := range []struct {
		lag  replay.Lag
		want time.Duration
	}{
		{replay.Lag{For: 2 * time.Second}, 2 * time.Second},
		{replay.Lag{Reads: 3}, 1500 * time.Millisecond},
		{replay.Lag{For: time.Hour, Reads: 1}, 500 * time.Millisecond},
	} {
		path := fixture(t, cart("replica"))
		synctest.Test(t, func(t *testing.T) {
			db := open(t, path, replay.WithLag(c.lag))
			defer db.Close()
			var start time.Time
			_, after := addUp(t, db, func() string {
				start = time.Now()
				for range 10 {
					if v := text(t, db, "select total from carts where id = $1", 1); v != "100" {
						return v
					}
					time.Sleep(500 * time.Millisecond)
				}
				return "never"
			})
			if took := time.Since(start); after != "90" || took != c.want {
				t.Errorf("%v: %s after %v, want %v", c.lag, after, took, c.want)
			}
		})
	}
}

// In a unit of several calls the late answer takes the place of the recorded one. What
// was rolled back makes nothing late.
func TestLagInUnits(t *testing.T) {
	read := func(v string) string {
		return fmt.Sprintf(`{"role": "replica", "sql": "select v from t", "cols": ["v text"], "rows": [[%q]]}`, v)
	}
	const write = `{"do": "begin"}, {"do": "exec", "sql": "update t set v = 1", "affected": 1}`
	path := fixture(t, `{"calls": [`+read("old")+`]}, {"unit": "tx", "calls": [`+write+`, {"do": "rollback"}]}, {"calls": [`+read("same")+`]},
		{"unit": "tx", "calls": [`+write+`, {"do": "commit"}]},
		{"unit": "tx", "calls": [{"do": "begin", "read_only": true}, `+read("new")+`, {"do": "commit"}]}`)
	db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(path), replay.WithLag(replay.Lag{For: time.Hour}))
	var got []string
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
		got = append(got, text(t, db, "select v from t"))
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, "update t set v = 1")
		if err := end(tx); err != nil {
			t.Fatal(err)
		}
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, text(t, tx, "select v from t"))
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if want := "[old same same]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
}
