package replay_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/replay"
)

// orders is a recording of a list, and of a statement for each of its n rows.
func orders(n int, arg func(i int) int) string {
	units := []string{query("select id from orders", "1")}
	for i := range n {
		units = append(units, fmt.Sprintf(`
{"calls": [{"sql": "select v from lines where id = $1", "args": [%d], "cols": ["v text"], "rows": [["x"]]}]}`, arg(i)))
	}
	return strings.Join(units, ",")
}

func itself(i int) int { return i }
func zero(int) int     { return 0 }

func readOrders(t testing.TB, db *sql.DB, n int, arg func(i int) int) {
	text(t, db, "select id from orders")
	for i := range n {
		text(t, db, "SELECT v FROM lines WHERE id = $1", arg(i))
	}
}

func TestMaxRepeats(t *testing.T) {
	for _, c := range []struct {
		n, most int
		arg     func(int) int
		fails   bool
	}{
		{3, 3, itself, false},
		{4, 3, itself, true},
		{9, 3, itself, true},
		{9, 3, zero, false},
	} {
		path := fixture(t, orders(c.n, c.arg))
		errs := (&fakeT{TB: t, name: t.Name()}).run(func(f *fakeT) {
			db := replay.Open(f, replay.WithMode(replay.Replay), replay.WithFile(path), replay.MaxRepeats(c.most))
			readOrders(t, db, c.n, c.arg)
		})
		if !c.fails {
			if len(errs) > 0 {
				t.Errorf("%v: %s", c, errs)
			}
			continue
		}
		if len(errs) != 1 {
			t.Fatalf("%v: %d errors, want 1: %s", c, len(errs), errs)
		}
		for _, want := range []string{"more than 3 times in a row", "_test.go:", "SELECT v FROM lines", "x.replay.json:2\n", "x.replay.json:5\n"} {
			if !strings.Contains(strings.ToLower(errs[0]), strings.ToLower(want)) {
				t.Errorf("%q is not in\n%s", want, errs[0])
			}
		}
		err := closes(t, func(db *sql.DB) { readOrders(t, db, c.n, c.arg) }, path, replay.MaxRepeats(c.most))
		if err == nil || !strings.Contains(err.Error(), "more than 3 times in a row") {
			t.Error(err)
		}
	}
}

func TestRepeats(t *testing.T) {
	f, err := replay.Read(fixture(t, orders(4, itself)+","+orders(3, itself)+","+orders(9, zero)))
	if err != nil {
		t.Fatal(err)
	}
	for least, want := range map[int]string{3: "4 from 2, 3 from 6", 4: "4 from 2", 5: ""} {
		var got []string
		for _, r := range f.Repeats(least) {
			if r.SQL != "select v from lines where id = $1" {
				t.Error(r.SQL)
			}
			got = append(got, fmt.Sprintf("%d from %d", r.Times, r.First.Line))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%d: %v, want %s", least, got, want)
		}
	}
}
