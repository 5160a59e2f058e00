package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// A quickStart is what the first pages of a library have their readers write,
// unchanged but for the lines that open the database. It does all of it on an
// empty database, checks what comes of it, and returns the reads alone, to be
// done again.
type quickStart func(t *testing.T, db *sql.DB) (reads func(context.Context) error)

var quickStarts = []struct {
	name string
	run  quickStart
}{
	{"ent", entQuickStart},
	{"bun", bunQuickStart},
	{"sqlc", sqlcQuickStart},
	{"goose", gooseQuickStart},
}

// Code that was written for one server runs on a herd, and its reads reach the
// replicas. Nothing of it was sent to a replica that refused it.
func TestQuickStarts(t *testing.T) {
	for _, q := range quickStarts {
		t.Run(q.name, func(t *testing.T) {
			db := openHerd(t)
			reads := q.run(t, db)
			onReplicas(t, db, reads)
			nothingAstray(t, db)
		})
	}
}

// lateDatabase is a database of which the replicas have nothing that was done since it was
// opened, and which several processes have open, whose reads take no replica for
// too late.
type lateDatabase struct {
	*pgherdtest.Database
	dbs []*sql.DB
}

// openLate returns a database that n processes have opened, after before was done,
// if there is something. They know what read names, and have replicas serve it.
func openLate(t *testing.T, h *pgherdtest.Herd, n int, read string, before func(*sql.DB) error) lateDatabase {
	t.Helper()
	ctx := t.Context()
	replicas := h.Servers()[1:]
	for _, s := range replicas {
		if err := s.ResumeReplay(ctx); err != nil {
			t.Fatal(err)
		}
	}
	l := lateDatabase{h.CreateDatabase(t), make([]*sql.DB, n)}
	for i := range l.dbs {
		db, err := sql.Open("pgherd", l.DSN()+"&max_lag=1h&lag_check_timeout=10s")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		l.dbs[i] = db
	}
	if before != nil {
		if err := before(l.dbs[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.WaitSync(ctx); err != nil {
		t.Fatal(err)
	}
	for _, db := range l.dbs {
		onReplicas(t, db, func(ctx context.Context) error {
			return db.QueryRowContext(ctx, read).Scan(new(int))
		})
	}
	for _, s := range replicas {
		if err := s.PauseReplay(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// onReplicas does reads again and again, until one time all of what it sends is
// served by replicas: they must have replayed what the reads need, and pgherd must
// have looked up the names in them.
func onReplicas(t *testing.T, db *sql.DB, reads func(context.Context) error) {
	t.Helper()
	r := record(t, db)
	for deadline := time.Now().Add(20 * time.Second); ; {
		r.reset()
		if err := reads(t.Context()); err != nil {
			t.Fatal(err)
		}
		replica, others := r.split()
		if len(replica) > 0 && len(others) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("reads do not reach the replicas:\n%s", strings.Join(others, "\n"))
		}
	}
}

// A recorder is told of what a herd does.
type recorder struct {
	mu  sync.Mutex
	ops []pgherd.Operation // guarded by mu
}

func record(t *testing.T, db *sql.DB) *recorder {
	t.Helper()
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	r := new(recorder)
	t.Cleanup(c.Observe(r))
	return r
}

func (r *recorder) Begin(ctx context.Context, _ *pgherd.Operation) context.Context { return ctx }

func (r *recorder) End(_ context.Context, op *pgherd.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, *op)
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = nil
}

// split returns what ran on replicas, and what did not.
func (r *recorder) split() (replicas, others []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range r.ops {
		s := fmt.Sprintf("%s: %s", op, op.Statement())
		if op.Role == routing.Replica {
			replicas = append(replicas, s)
		} else {
			others = append(others, s)
		}
	}
	return replicas, others
}

// nothingAstray checks that no replica refused a statement, that every text was
// understood, and that nothing is held any more.
func nothingAstray(t *testing.T, db *sql.DB) {
	t.Helper()
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	s := c.Stats()
	if s.Misroutes != 0 || s.Unclassified != 0 {
		t.Errorf("%d statements were refused by replicas, %d not understood", s.Misroutes, s.Unclassified)
	}
	for _, s := range s.Servers {
		if s.InFlight != 0 || s.Pool.InUse != 0 {
			t.Errorf("%s: %d leases, %d connections in use at the end", s.Name, s.InFlight, s.Pool.InUse)
		}
	}
}

var errRollBack = errors.New("roll back")
