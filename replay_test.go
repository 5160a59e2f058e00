package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/replay"
	"github.com/pgherd/pgherd/routing"
)

// A farm is an application that writes down what it sees.
type farm struct {
	*testing.T
	db  *sql.DB
	ctx context.Context
	// caughtUp waits until replicas have what was written.
	caughtUp func()
	said     strings.Builder
}

func (f *farm) say(format string, args ...any) { fmt.Fprintf(&f.said, format+"\n", args...) }

// farms are applications of all that goes through database/sql, and past it.
var farms = []struct {
	name string
	run  func(*farm)
}{
	{"sqlx", func(f *farm) {
		db := sqlx.NewDb(f.db, "pgx")
		f.say("%v", db.Get(new(sheep), "select * from sheep where name = $1", "Nobody"))
		var all []sheep
		f.say("%v %v", db.Select(&all, "select * from sheep order by id"), all)
		tx := db.MustBegin()
		_, err := tx.NamedExec("insert into sheep (name, wool) values (:name, :wool)", []map[string]any{{"name": "Ewe", "wool": 7}, {"name": "Ram", "wool": 8}})
		f.say("%v %v", err, tx.Commit())
		_, err = db.Exec("insert into sheep (name) values ('Ram')")
		var pgErr *pgconn.PgError
		f.say("%v %t %s", err, errors.As(err, &pgErr), pgErr.ConstraintName)
		f.say("%v %v", db.Select(&all, "select * from sheep where name = any($1) order by id", []string{"Ram", "Ewe"}), all)
	}},
	{"transactions", func(f *farm) {
		err := pgherd.InTx(f.ctx, f.db, nil, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(f.ctx, "update sheep set wool = wool + 1"); err != nil {
				return err
			}
			err := pgherd.Savepoint(f.ctx, tx, func() error {
				_, err := tx.ExecContext(f.ctx, "insert into sheep (name) values ('Dolly')")
				return err
			})
			f.say("within: %v", err)
			var sum float64
			err = tx.QueryRowContext(f.ctx, "select sum(wool) from sheep").Scan(&sum)
			f.say("sum %v", sum)
			return err
		})
		f.say("%v", err)
	}},
	{"copy", func(f *farm) {
		n, err := pgherd.CopyIn(f.ctx, f.db, "copy sheep (name, wool) from stdin (format csv)", strings.NewReader("Copied,3\nOther,4\n"))
		f.say("in %d %v", n, err)
		_, err = pgherd.CopyIn(f.ctx, f.db, "copy sheep (name, wool) from stdin (format csv)", strings.NewReader("Third,3\nFourth,x\n"))
		var ce *pgherd.CopyError
		f.say("in %t %v", errors.As(err, &ce), err)
		var out strings.Builder
		n, err = pgherd.CopyOut(f.ctx, f.db, "copy (select name, wool from sheep where wool > 2 order by name) to stdout", &out)
		f.say("out %d %v %q", n, err, out.String())
		type row struct {
			Name string
			Wool float64
		}
		n, err = pgherd.CopyRows[row](f.ctx, f.db, pgx.Identifier{"sheep"}, nil, []row{{"Rows", 1}, {"More", 2}})
		f.say("rows %d %v", n, err)
	}},
	{"notifications", func(f *farm) {
		err := pgherd.Raw(f.ctx, f.db, func(cn *pgherd.Conn) error {
			if err := cn.Listen(f.ctx, "news"); err != nil {
				return err
			}
			for _, payload := range []string{"one", "two"} {
				if err := pgherd.Notify(f.ctx, f.db, "news", payload); err != nil {
					return err
				}
			}
			for range 3 {
				ctx, cancel := context.WithTimeout(f.ctx, 200*time.Millisecond)
				n, err := cn.WaitForNotification(ctx)
				cancel()
				if n == nil {
					n = &pgconn.Notification{}
				}
				f.say("%s %s %t", n.Channel, n.Payload, errors.Is(err, context.DeadlineExceeded))
			}
			return nil
		})
		f.say("%v", err)
	}},
	{"job queue", func(f *farm) {
		var mu sync.Mutex
		var done []int
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					more, err := takeJob(f.ctx, f.db, func(id int) {
						mu.Lock()
						defer mu.Unlock()
						done = append(done, id)
					})
					if err != nil {
						f.Error(err)
					}
					if !more {
						return
					}
				}
			})
		}
		wg.Wait()
		slices.Sort(done)
		f.say("%v", done)
	}},
	{"reads", func(f *farm) {
		f.caughtUp()
		var n int
		for range 3 {
			f.say("%v %d", f.db.QueryRowContext(f.ctx, "select count(*) from sheep").Scan(&n), n)
		}
	}},
}

// takeJob does a job that no other worker has.
func takeJob(ctx context.Context, db *sql.DB, do func(id int)) (more bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	var id int
	switch err := tx.QueryRowContext(ctx, "select id from jobs where not done order by id for update skip locked limit 1").Scan(&id); {
	case err == sql.ErrNoRows:
		return false, nil
	case err != nil:
		return false, err
	}
	if _, err := tx.ExecContext(ctx, "update jobs set done = true where id = $1", id); err != nil {
		return false, err
	}
	do(id)
	return true, tx.Commit()
}

// TestReplayHerd records applications on a herd with a replica, and replays them
// when its servers are stopped.
func TestReplayHerd(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(1))
	database := herd.CreateDatabase(t)
	t.Cleanup(func() {
		if err := herd.Primary().Start(); err != nil { // to drop the database
			t.Error(err)
		}
	})
	var opened *pgherd.Connector
	live := func() (driver.Connector, error) {
		cfg, err := pgherd.ParseDSN(database.DSN())
		if err != nil {
			return nil, err
		}
		opened, err = pgherd.NewConnector(cfg)
		return opened, err
	}
	dir := t.TempDir()
	run := func(t *testing.T, mode replay.Mode, name string, program func(*farm), caughtUp func()) (string, []string) {
		var mu sync.Mutex
		var served []string
		db := replay.Open(t, replay.WithFile(filepath.Join(dir, name+".replay.json")), replay.WithMode(mode), replay.WithLive(live),
			replay.OnCall(func(c *replay.Call) {
				mu.Lock()
				defer mu.Unlock()
				served = append(served, fmt.Sprint(c.SQL, " ", c.Served.Role, " ", c.Served.Reason))
			}))
		f := &farm{T: t, db: db, ctx: t.Context(), caughtUp: caughtUp}
		program(f)
		return f.said.String(), served
	}
	reset := func(t *testing.T) {
		t.Helper()
		db, err := sql.Open("pgx", database.ServerDSN(herd.Primary()))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		mustExec(t, db, `drop table if exists sheep, jobs;
			create table sheep (id bigint generated always as identity primary key, name text unique not null, flock text, wool float8 not null default 0);
			insert into sheep (name, flock, wool) values ('Dolly', 'Roslin', 1.5), ('Shaun', null, 2.5), ('Lanolin', 'Roslin', 3);
			create table jobs (id int primary key, done bool default false); insert into jobs select generate_series(1, 20)`)
		if err := herd.WaitSync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	type heard struct {
		said   string
		served []string
	}
	all := make(map[string]heard)
	for _, app := range farms {
		t.Run("recorded/"+app.name, func(t *testing.T) {
			reset(t)
			caughtUp := func() {
				// It asks sooner when a read waits for the answer. These are not recorded.
				beside := sql.OpenDB(struct{ driver.Connector }{opened})
				defer beside.Close()
				eventually(t, "reads go to the replica", func() bool {
					get[int](t, beside, "select 1 as ready")
					return opened.Explain(t.Context(), "select count(*) from sheep").RouteReason == routing.ReasonRead.String()
				})
			}
			said, served := run(t, replay.Record, app.name, app.run, caughtUp)
			t.Logf("%s", said)
			all[app.name] = heard{said, served}
		})
	}
	// Recorded again, what happens the same way again is written the same.
	for _, app := range farms {
		if app.name == "job queue" || app.name == "reads" {
			continue
		}
		t.Run("recorded again/"+app.name, func(t *testing.T) {
			path := filepath.Join(dir, app.name+".replay.json")
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(was), `"engine": "postgres/`) {
				t.Errorf("the engine is not told:\n%.200s", was)
			}
			reset(t)
			t.Run("run", func(t *testing.T) { run(t, replay.Record, app.name, app.run, func() {}) })
			is, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(was) != string(is) {
				t.Errorf("the file has changed:\n%s", difference(string(was), string(is)))
			}
		})
	}
	for _, s := range herd.Servers() {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, app := range farms {
		t.Run("replayed/"+app.name, func(t *testing.T) {
			for range 3 {
				t.Run("run", func(t *testing.T) {
					said, served := run(t, replay.Replay, app.name, app.run, func() {})
					want := all[app.name]
					if said != want.said {
						t.Errorf("not as it was recorded:\n%s", difference(want.said, said))
					}
					if app.name != "job queue" && !slices.Equal(served, want.served) {
						t.Errorf("not served as it was recorded:\n%s", difference(strings.Join(want.served, "\n"), strings.Join(served, "\n")))
					}
					if app.name == "reads" && served[0] != "select count(*) from sheep replica read" {
						t.Errorf("a read was served as %q", served[0])
					}
				})
			}
		})
	}
}
