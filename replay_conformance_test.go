package pgherd_test

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/replay"
)

// TestReplayConformance holds package replay to what database/sql does over plain
// pgx and over pgherd. Each case of TestConformance is recorded, and must see what it
// sees without a recorder; then all servers are stopped, and it must see the same of
// the recording.
func TestReplayConformance(t *testing.T) {
	herd := pgherdtest.Start(t)
	pgx := func(dsn string) (driver.Connector, error) {
		return stdlib.GetDefaultDriver().(driver.DriverContext).OpenConnector(dsn)
	}
	herds := func(dsn string) (driver.Connector, error) {
		cfg, err := pgherd.ParseDSN(dsn)
		if err != nil {
			return nil, err
		}
		return pgherd.NewConnector(cfg)
	}
	oracle := &contestant{name: "pgx", herd: herd, database: herd.CreateDatabase(t)}
	tapes := []*tape{
		newTape(t, "pgx", &contestant{herd: herd, database: herd.CreateDatabase(t)}, pgx),
		newTape(t, "pgherd", &contestant{herd: herd, database: herd.CreateDatabase(t)}, herds),
	}
	t.Cleanup(func() {
		if err := herd.Primary().Start(); err != nil { // to drop the databases
			t.Error(err)
		}
	})
	heard := make(map[string]string)
	t.Run("recorded", func(t *testing.T) {
		for _, c := range allCases() {
			if why := notRecorded[c.name]; why != "" {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				want := oracle.run(t, c)
				for _, tape := range tapes {
					t.Run(tape.name, func(t *testing.T) {
						got := tape.run(t, c, replay.Record)
						heard[tape.name+c.name] = got
						if got != want {
							t.Errorf("not as over plain pgx (-pgx +recorded):\n%s", difference(want, got))
						}
					})
				}
			})
		}
	})
	if err := herd.Primary().Stop(); err != nil {
		t.Fatal(err)
	}
	t.Run("replayed", func(t *testing.T) {
		for _, c := range allCases() {
			for _, tape := range tapes {
				want, ok := heard[tape.name+c.name]
				if !ok {
					continue
				}
				t.Run(c.name+"/"+tape.name, func(t *testing.T) {
					got := tape.run(t, c, replay.Replay)
					if want, got := untyped(want), untyped(got); got != want {
						t.Errorf("not as it was recorded (-recorded +replayed):\n%s", difference(want, got))
						if fixture, err := os.ReadFile(tape.file(c, 1)); err == nil && len(fixture) < 20e3 {
							t.Logf("%s", fixture)
						}
					}
				})
			}
		}
	})
}

// notRecorded are cases that need the servers themselves.
var notRecorded = map[string]string{
	"errors/connect":               "it opens handles of its own",
	"pool/close":                   "it opens a handle of its own",
	"pool/killed while idle":       "it kills sessions",
	"pool/killed in a transaction": "it kills sessions",
	"pool/killed with state":       "it kills sessions",
}

// untyped is a transcript without the types of errors but for those of the server: a
// recording holds what errors.Is and errors.As find in the others, and their texts.
func untyped(transcript string) string {
	return errorType.ReplaceAllStringFunc(transcript, func(s string) string {
		if strings.HasPrefix(s, "*pgconn.PgError") {
			return s
		}
		return `error "`
	})
}

var errorType = regexp.MustCompile(`\*?[a-zA-Z]+\.[A-Za-z]+ "`)

// A tape records cases, and replays them.
type tape struct {
	*contestant
	dir  string
	live func(dsn string) (driver.Connector, error)
}

func newTape(t *testing.T, name string, who *contestant, live func(dsn string) (driver.Connector, error)) *tape {
	who.name = name
	return &tape{who, filepath.Join(t.TempDir(), name), live}
}

func (p *tape) run(t *testing.T, c conformanceCase, mode replay.Mode) string {
	n := 0
	p.opens = func(t testing.TB, dsn string) *sql.DB {
		n++
		connector, err := replay.NewConnector(p.file(c, n), replay.WithMode(mode),
			replay.WithLive(func() (driver.Connector, error) { return p.live(dsn) }))
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return db
	}
	return p.contestant.run(t, c)
}

// file is the fixture of the nth handle of c.
func (p *tape) file(c conformanceCase, n int) string {
	return filepath.Join(p.dir, fmt.Sprintf("%s-%d.replay.json", c.name, n))
}
