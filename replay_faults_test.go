package pgherd_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/replay"
)

// InTx tries again over a replay what a fault has ended, and gets the recorded answers.
func TestReplayFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.replay.json")
	const recorded = `{"format": 1, "units": [{"unit": "tx", "calls": [
		{"do": "begin", "iso": "serializable"},
		{"do": "query", "sql": "select wool from sheep where id = $1", "args": [1], "cols": ["wool int8"], "rows": [[6]]},
		{"do": "exec", "sql": "update sheep set wool = $1 where id = $2", "args": [7, 1], "affected": 1},
		{"do": "commit"}]}]}`
	if err := os.WriteFile(path, []byte(recorded), 0o644); err != nil {
		t.Fatal(err)
	}
	isCommit := func(c *replay.Call) bool { return c.Op == replay.OpCommit }
	shear := replay.Statement("update sheep set wool = $1 where id = $2")
	for _, c := range []struct {
		name   string
		faults []replay.Fault
		tries  int
	}{
		{"none", nil, 1},
		{"conflict", []replay.Fault{{On: shear, Error: replay.SQLState("40001")}}, 2},
		{"deadlocks", []replay.Fault{{On: shear, Error: replay.SQLState("40P01"), Times: 4}}, 5},
		{"at its end", []replay.Fault{{On: isCommit, Error: replay.SQLState("40001"), Times: 2}}, 3},
		{"shutdown", []replay.Fault{{On: shear, Error: replay.SQLState("57P01")}}, 2},
		{"all", []replay.Fault{{}, {On: shear, Error: replay.SQLState("40001")}, {On: isCommit, Error: replay.SQLState("40001")}}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := replay.Open(t, replay.WithMode(replay.Replay), replay.WithFile(path), replay.WithFaults(c.faults...))
			tries := 0
			err := pgherd.InTx(t.Context(), db, &pgherd.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
				tries++
				var wool int
				if err := tx.QueryRowContext(t.Context(), "select wool from sheep where id = $1", 1).Scan(&wool); err != nil {
					return err
				}
				_, err := tx.ExecContext(t.Context(), "update sheep set wool = $1 where id = $2", wool+1, 1)
				return err
			})
			if err != nil || tries != c.tries {
				t.Errorf("%v after %d tries, want %d", err, tries, c.tries)
			}
		})
	}
}
