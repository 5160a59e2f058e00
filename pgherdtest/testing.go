package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd/internal/pgcontrol"
)

// testTimeout bounds what is done for a test that has no context of its own.
const testTimeout = 5 * time.Minute

// Start starts a herd that ends with the test. Where PostgreSQL is not
// installed the test is skipped; where CI is set in the environment, or
// PGHERD_TEST_REQUIRE=1, it fails. When the test fails, the ends of the
// servers' logs are part of its output.
func Start(t testing.TB, opts ...Option) *Herd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	h, err := Open(ctx, opts...)
	switch {
	case errors.Is(err, ErrNoPostgres) && !required():
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range h.Servers() {
				t.Logf("the log of %s ends:\n%s", s.Name(), s.LogTail(20))
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// required reports whether a missing PostgreSQL is a failure.
func required() bool {
	return os.Getenv("CI") != "" || os.Getenv("PGHERD_TEST_REQUIRE") == "1"
}

// A Database is a database of its own in a herd that tests share.
type Database struct {
	Name string

	herd *Herd
}

// databases counts the databases of this process, for their names.
var databases atomic.Int64

// CreateDatabase creates an empty database, which is dropped when the test
// ends, and returns when all running replicas have it. It is how tests share a
// herd that TestMain opened.
func (h *Herd) CreateDatabase(t testing.TB) *Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	db := &Database{Name: fmt.Sprintf("test%d", databases.Add(1)), herd: h}
	name := pgx.Identifier{db.Name}.Sanitize()
	if err := pgcontrol.Exec(ctx, h.Primary().DirectDSN(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("pgherdtest: create a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := pgcontrol.Exec(ctx, h.Primary().DirectDSN(), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Logf("pgherdtest: drop a database: %v", err) // the test may have ended the primary
		}
	})
	if err := h.WaitSync(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

// DSN is [Herd.DSN] for this database.
func (d *Database) DSN() string { return d.herd.dsn(d.Name) }

// ServerDSN is [Server.DSN] for this database on one server of its herd.
func (d *Database) ServerDSN(s *Server) string { return s.dsn(s.Addr(), d.Name) }
