package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"log"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// shared is a primary with two replicas for the tests that break no server.
// Each uses a database of its own.
var shared struct {
	sync.Once
	herd *pgherdtest.Herd
	err  error
}

func TestMain(m *testing.M) {
	flag.Parse()
	runMoreInParallel()
	code := m.Run()
	if shared.herd != nil {
		if err := shared.herd.Close(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	if code == 0 {
		// pgx asks a server to cancel what it has given up, for up to 15 s. That is
		// long where the server's machine went with its herd.
		cancelling := goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgconn.(*PgConn).asyncClose.func1")
		if err := goleak.Find(cancelling); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// runMoreInParallel has more tests run at the same time than there are
// processors, if -parallel does not say how many: those that may do so mostly
// wait for servers.
func runMoreInParallel() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0)))
	}
}

// sharedHerd returns the shared herd, started by the first test that asks.
func sharedHerd(t testing.TB) *pgherdtest.Herd {
	t.Helper()
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		shared.herd, shared.err = pgherdtest.Open(ctx, pgherdtest.Replicas(2))
	})
	switch {
	case errors.Is(shared.err, pgherdtest.ErrNoPostgres) && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skip(shared.err)
	case shared.err != nil:
		t.Fatal(shared.err)
	}
	return shared.herd
}

// openDB opens dsn with the parameters added, and checks at the end of the test
// that no lease was lost.
func openDB(t testing.TB, dsn string, params ...string) *sql.DB {
	t.Helper()
	for _, p := range params {
		dsn += "&" + p
	}
	db, err := sql.Open("pgherd", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer db.Close()
		if t.Failed() {
			return
		}
		eventually(t, "no lease and no connection is in use", func() bool {
			for _, s := range herdOf(t, db).Stats().Servers {
				if s.InFlight != 0 || s.Pool.InUse != 0 {
					return false
				}
			}
			return true
		})
	})
	return db
}

// delayReplicas makes the replicas of the shared herd lag a little until the end
// of the test: a wrong choice is then visible at once.
func delayReplicas(t *testing.T, d time.Duration) {
	t.Helper()
	h := sharedHerd(t)
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).ApplyDelay(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Replica(i).ApplyDelay(context.Background(), 0) })
	}
}

func herdOf(t testing.TB, db *sql.DB) *pgherd.Connector {
	t.Helper()
	c, err := pgherd.FromDB(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func mustExec(t testing.TB, db execer, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get[T any](t testing.TB, db queryer, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func onReplica(t testing.TB, db queryer) bool {
	t.Helper()
	return get[bool](t, db, "select pg_is_in_recovery()")
}

// lockTable locks the table t until the transaction that it returns, or the
// test, ends.
func lockTable(t testing.TB, dsn string) pgx.Tx {
	t.Helper()
	side, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { side.Close(context.Background()) })
	lock, err := side.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), "lock table t"); err != nil {
		t.Fatal(err)
	}
	return lock
}

// eventually waits for what a background process brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
	}
}

func TestReadsAndWritesAreSplit(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	eventually(t, "both replicas serve reads", func() bool {
		get[int](t, db, "select count(*) from t")
		served := 0
		for _, s := range herdOf(t, db).Stats().Servers {
			if s.Role == routing.Replica && s.Decisions[routing.ReasonRead] > 0 {
				served++
			}
		}
		return served == 2
	})
	if got := get[bool](t, db, "insert into t values (1) returning pg_is_in_recovery()"); got {
		t.Error("a write ran on a standby")
	}
}
