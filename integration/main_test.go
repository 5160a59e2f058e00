package integration

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"testing"
	"time"

	_ "github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/integration/herds/containers"
	"github.com/pgherd/pgherd/pgherdtest"
)

// openTimeout is for the start of a herd.
const openTimeout = 3 * time.Minute

// shared is a primary with two replicas for the tests that break no server.
// Each uses a database of its own.
var shared struct {
	sync.Once
	herd herds.Herd
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.herd != nil {
		if err := shared.herd.Close(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// backend says what herds run in: "local" is the programs of this machine, and
// "containers" is package containers.
var backend = cmp.Or(os.Getenv("PGHERD_TEST_BACKEND"), "local")

func open(ctx context.Context, opts herds.Options) (herds.Herd, error) {
	switch backend {
	case "local":
		return herds.Local(ctx, opts)
	case "containers":
		h, err := containers.Open(ctx, opts)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	return nil, fmt.Errorf("PGHERD_TEST_BACKEND is %q: want local or containers", backend)
}

// startHerd starts a herd that ends with the test.
func startHerd(t *testing.T, opts herds.Options) herds.Herd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), openTimeout)
	defer cancel()
	h, err := open(ctx, opts)
	mustOpen(t, err)
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

// mustOpen ends the test if a herd could not be opened. Where that is because
// PostgreSQL is not installed, the test is skipped, unless that must not be.
func mustOpen(t *testing.T, err error) {
	t.Helper()
	switch {
	case errors.Is(err, pgherdtest.ErrNoPostgres) && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}

// herdDatabase returns an empty database in the shared herd.
func herdDatabase(t *testing.T) *herds.Database {
	t.Helper()
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		shared.herd, shared.err = open(ctx, herds.Options{Replicas: 2})
	})
	mustOpen(t, shared.err)
	return herds.CreateDatabase(t, shared.herd)
}

// openHerd opens an empty database of the shared herd.
func openHerd(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgherd", herdDatabase(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
