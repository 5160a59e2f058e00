package integration

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"os"
	"sync"
	"testing"
	"time"

	_ "github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// shared is a primary with two replicas for the tests that break no server.
// Each uses a database of its own.
var shared struct {
	sync.Once
	herd *pgherdtest.Herd
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

// herdDatabase returns an empty database in the shared herd.
func herdDatabase(t *testing.T) *pgherdtest.Database {
	t.Helper()
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		shared.herd, shared.err = pgherdtest.Open(ctx, pgherdtest.Replicas(2))
	})
	switch {
	case errors.Is(shared.err, pgherdtest.ErrNoPostgres) && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skip(shared.err)
	case shared.err != nil:
		t.Fatal(shared.err)
	}
	return shared.herd.CreateDatabase(t)
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
