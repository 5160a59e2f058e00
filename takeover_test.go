package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// When all replicas are gone, their reads come down on the primary a few at a
// time. The others wait, no longer than acquire_timeout and their context, and
// the writes do not.
func TestReadsOfLostReplicasAreBounded(t *testing.T) {
	t.Parallel()
	const bound, readers = 3, 12
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN(), fmt.Sprintf("replica_fallback_max_conns=%d", bound), "pool_max_conns=20")
	impatient := openDB(t, h.DSN(), "replica_fallback_max_conns=1", "acquire_timeout=100ms")
	mustExec(t, db, "create table t (n int)")
	mustExec(t, db, "create table w (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	const read = "select count(*) from t"
	for _, db := range []*sql.DB{db, impatient} {
		if err := herdOf(t, db).ReadCatalog(t.Context(), read); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, db := range []*sql.DB{db, impatient} {
		c := herdOf(t, db)
		eventually(t, "both replicas are missed", func() bool { s := c.Health().Servers; return !s[1].Up && !s[2].Up })
	}

	// A lock on the table holds the reads that have reached the primary.
	lock := lockTable(t, h.Primary().DSN())
	waiting := func() (n int) {
		const q = "select count(*) from pg_locks where not granted and relation = 't'::regclass"
		if err := lock.QueryRow(t.Context(), q).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	results := make(chan error, readers)
	for range readers {
		go func() { results <- db.QueryRowContext(context.Background(), read).Scan(new(int)) }()
	}
	eventually(t, "as many reads as may are on the primary", func() bool { return waiting() == bound })

	for i := range 20 {
		mustExec(t, db, "insert into w values ($1)", i)
		if n := waiting(); n > bound {
			t.Fatalf("%d reads are on the primary, want at most %d", n, bound)
		}
	}
	if n := herdOf(t, db).Stats().Servers[0].Pool.OpenConnections; n >= readers {
		t.Errorf("%d connections to the primary", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- db.QueryRowContext(ctx, read).Scan(new(int)) }()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("a read whose context ends while it waits: %v", err)
	}
	first := make(chan error, 1)
	go func() { first <- impatient.QueryRowContext(context.Background(), read).Scan(new(int)) }()
	eventually(t, "the other handle has its read there", func() bool { return waiting() == bound+1 })
	minute, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var full *pgherd.AcquireError
	if err := impatient.QueryRowContext(minute, read).Scan(new(int)); !errors.As(err, &full) || !full.Takeover || full.Max != 1 {
		t.Errorf("a read that waits for acquire_timeout: %v", err)
	}

	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range readers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := h.Replica(1).Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica serves again", func() bool { return onReplica(t, db) })
}

// A replica that comes back gets its share of the reads bit by bit, unless
// slow_start is 0.
func TestReturningReplicaStartsSlowly(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	slow := openDB(t, h.DSN(), "slow_start=1m")
	atOnce := openDB(t, h.DSN(), "slow_start=0")

	// served has 300 reads made and returns how many of them replica 2 had.
	served := func(db *sql.DB) int {
		total := func() uint64 { return herdOf(t, db).Stats().Servers[2].Total() }
		before := total()
		for range 300 {
			get[int](t, db, "select 1")
		}
		return int(total() - before)
	}
	both := []*sql.DB{slow, atOnce}
	for _, db := range both {
		if n := served(db); n < 100 {
			t.Errorf("%d of 300 reads before anything happened", n)
		}
	}
	if err := h.Replica(2).Kill(); err != nil {
		t.Fatal(err)
	}
	for _, db := range both {
		eventually(t, "the replica is missed", func() bool { return !herdOf(t, db).Health().Servers[2].Up })
	}
	if err := h.Replica(2).Start(); err != nil {
		t.Fatal(err)
	}
	for _, db := range both {
		eventually(t, "the replica is back", func() bool { return herdOf(t, db).Health().Servers[2].Up })
	}
	// A tenth of its weight, and less than a half for the next 27 seconds.
	first := served(slow)
	if first == 0 || first > 100 {
		t.Errorf("%d of the first 300 reads with slow_start", first)
	}
	if n := served(atOnce); n < 100 {
		t.Errorf("%d of the first 300 reads without slow_start", n)
	}
	n := 0
	eventually(t, "its share grows", func() bool {
		time.Sleep(time.Second) // to leave the processor to others
		n = served(slow)
		return n > first+30
	})
	t.Logf("%d of 300 reads at first, then %d", first, n)
}

// A read that has failed on a replica, and then finds no room on the primary, gives
// back what it had there once.
func TestNoRoomToTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHerd(t, 1, func(c *pgherd.Config) { c.ReplicaFallbackMaxConns, c.AcquireTimeout = 1, time.Second })
		h.replicas[0].set(func(f *fake) { f.does = fails })
		h.primary.set(func(f *fake) { f.does = takes(time.Minute) })
		done := make(chan error, 1)
		go func() { _, err := h.timed(t.Context()); done <- err }()
		time.Sleep(10 * time.Second)
		var full *pgherd.AcquireError
		for range 3 {
			if _, err := h.timed(t.Context()); !errors.As(err, &full) {
				t.Errorf("with no room on the primary: %v", err)
			}
			time.Sleep(5 * time.Second)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, s := range h.c.Stats().Servers {
			if s.InFlight != 0 {
				t.Errorf("%s: %d in flight", s.Name, s.InFlight)
			}
		}
	})
}
