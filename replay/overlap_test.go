package replay_test

import (
	"database/sql/driver"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/replay"
)

// Units that overlap and see different things are told of; those that do not, or see
// the same, are not.
func TestOverlaps(t *testing.T) {
	for name, c := range map[string]struct{ overlap, differ bool }{
		"both": {true, true}, "the same": {true, false}, "one after the other": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := int64(0)
			fake := &fakeDB{answer: func(string, []driver.NamedValue) ([][]driver.Value, error) {
				if c.differ {
					n++
				}
				return [][]driver.Value{{n}}, nil
			}}
			f := &fakeT{TB: t, name: t.Name()}
			errs := f.run(func(f *fakeT) {
				db := replay.Open(f, replay.WithMode(replay.Record), fake.live(), replay.WithFile(filepath.Join(t.TempDir(), "x.replay.json")))
				a, err := db.Begin()
				if err != nil {
					t.Fatal(err)
				}
				text(t, a, "select n from t")
				if !c.overlap {
					a.Commit()
				}
				b, err := db.Begin()
				if err != nil {
					t.Fatal(err)
				}
				text(t, b, "select n from t")
				b.Commit()
				if c.overlap {
					a.Commit()
				}
			})
			logs := strings.Join(f.logs, "\n")
			if told := strings.Contains(logs, "select n from t"); len(errs) > 0 || told != (c.overlap && c.differ) {
				t.Errorf("errors %s, logs %s", errs, logs)
			}
		})
	}
}
