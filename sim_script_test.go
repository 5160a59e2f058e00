package pgherd

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What simulations have found, each as a world in which nothing happens but what
// the test says.

// script runs a test over the herd of four servers, of which pg0 is the primary.
// The client's statements are held to all promises, as in any simulation.
func script(t *testing.T, change func(*Config), test func(t *testing.T, w *simWorld, cl *simClient)) {
	synctest.Test(t, func(t *testing.T) {
		cfg := NewConfig()
		change(cfg)
		w := newSimWorld(t, 1, simPlan{servers: 4}, cfg)
		herd, db := w.open()
		test(t, w, &simClient{w: w, herd: herd, db: db, rng: rand.New(rand.NewPCG(1, 1)), session: w.newSession(), patient: true})
		for _, n := range w.nodes {
			w.is(n, "is well", func() { n.isolated, n.frozen = false, false })
		}
		w.close(db)
	})
}

// is makes something happen to a server, and lets the herd notice.
func (w *simWorld) is(n *simNode, what string, change func()) {
	w.mu.Lock()
	w.change(n, what, change)
	w.mu.Unlock()
	time.Sleep(w.patience())
}

// replaceUnseen promotes pg1 where the client cannot see that: others tell of it,
// which follow it.
func (w *simWorld) replaceUnseen(followers ...int) {
	pg1 := w.nodes[1]
	w.is(pg1, "is cut off from the client", func() { pg1.isolated = true })
	w.is(pg1, "is promoted", func() { w.promote(pg1) })
	for _, i := range followers {
		n := w.nodes[i]
		w.is(n, "follows pg1", func() { n.upstream = pg1 })
	}
}

func TestTransactionOfReplacedPrimaryIsLost(t *testing.T) {
	script(t, func(*Config) {}, func(t *testing.T, w *simWorld, cl *simClient) {
		tx, err := cl.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		op := cl.write(t.Context(), tx, simInsertText, true, nil)
		w.replaceUnseen(2)
		if err := tx.Commit(); err == nil || op.committed > 0 {
			t.Errorf("a transaction was committed on the replaced primary: %v", err)
		}
	})
}

// A write that waits for a connection of the primary gets a new one when those
// that were there are cut.
func TestWaitForConnectionOutlastsThePrimary(t *testing.T) {
	limit := func(cfg *Config) {
		cfg.PoolMaxConns = 1
		cfg.AcquireTimeout, cfg.FailoverTimeout = time.Hour, time.Hour
	}
	script(t, limit, func(t *testing.T, w *simWorld, cl *simClient) {
		tx, err := cl.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		cl.write(t.Context(), tx, simInsertText, true, nil)
		wrote := make(chan *simOp)
		go func() { wrote <- cl.write(context.Background(), cl.db, simInsertText, false, nil) }()
		w.replaceUnseen(2)
		tx.Rollback()
		time.Sleep(time.Second)
		w.is(w.nodes[1], "is reachable", func() { w.nodes[1].isolated = false })
		if op := <-wrote; op == nil || op.timeline != 2 {
			t.Errorf("%+v, want a write on the new primary", op)
		}
	})
}

// Nothing is known of the log since the primary was replaced. What is older than
// the bound by the last that is known stays so.
func TestLagBoundHoldsWithoutPrimary(t *testing.T) {
	eventual := func(cfg *Config) { cfg.Consistency, cfg.MaxLag = ConsistencyEventual, 0 }
	script(t, eventual, func(t *testing.T, w *simWorld, cl *simClient) {
		pg3 := w.nodes[3]
		w.is(pg3, "pauses replay", func() { pg3.paused = true })
		for range 5 {
			cl.write(t.Context(), cl.db, simInsertText, false, nil)
			time.Sleep(time.Second)
		}
		w.replaceUnseen(2)
		if cl.read(WithMaxLag(t.Context(), time.Second), cl.db, readOptions{maxLag: time.Second}) {
			t.Error("a read that may be a second stale was served by a server that lags five")
		}
		if !cl.read(t.Context(), cl.db, readOptions{}) {
			t.Error("a read without a bound failed")
		}
	})
}

// With the primary goes the only server that is known to hold what was written.
// Of the others even the lag is unknown, since none has followed it yet.
func TestReadsOfUnknownLagWithoutPrimary(t *testing.T) {
	script(t, func(cfg *Config) { cfg.FailoverTimeout = time.Minute }, func(t *testing.T, w *simWorld, cl *simClient) {
		pg1 := w.nodes[1]
		w.is(pg1, "is promoted", func() { w.promote(pg1) })
		cl.write(t.Context(), cl.db, simInsertText, false, nil)
		w.is(pg1, "freezes", func() { pg1.frozen = true })
		if !cl.read(t.Context(), cl.db, readOptions{}) {
			t.Error("no replica was read")
		}
	})
}

// The primary returns as a standby before the probe has asked again, and while a
// read waits for a new connection. What that was sent to the primary for, a standby
// may not have.
func TestReadOfPrimaryThatReturnsAsStandby(t *testing.T) {
	seldom := func(cfg *Config) {
		cfg.MaxLag, cfg.LagCheckInterval, cfg.PoolMaxConnIdleTime = 0, time.Minute, time.Second
	}
	script(t, seldom, func(t *testing.T, w *simWorld, cl *simClient) {
		time.Sleep(30 * time.Second) // no idle connection is left
		pg0, pg1 := w.nodes[0], w.nodes[1]
		w.mu.Lock()
		w.change(pg1, "is promoted", func() { w.promote(pg1) })
		w.change(pg0, "is a standby", func() { pg0.standby, pg0.upstream = true, pg1 })
		w.mu.Unlock()
		before := w.totals.OnReplicas
		if !cl.read(WithPrimary(t.Context()), cl.db, readOptions{}) || w.totals.OnReplicas > before {
			t.Error("the new primary was not read")
		}
	})
}

// A server that shuts down tells the probe so. That may be the last that it says
// until it is back.
func TestWriteWaitsForPrimaryThatToldItsEnd(t *testing.T) {
	seldom := func(cfg *Config) {
		cfg.MaxLag, cfg.LagCheckInterval, cfg.FailoverTimeout = 0, time.Minute, time.Hour
	}
	script(t, seldom, func(t *testing.T, w *simWorld, cl *simClient) {
		pg0 := w.nodes[0]
		w.mu.Lock()
		w.change(pg0, "stops", func() { w.stop(pg0, true) })
		w.mu.Unlock()
		cl.herd.refresh()
		time.Sleep(time.Second)
		var answer *pgconn.PgError
		if err := cl.herd.Health().Servers[0].Err; !errors.As(err, &answer) || answer.Code != "57P01" {
			t.Errorf("the probe heard %v", err)
		}
		wrote := make(chan *simOp)
		go func() { wrote <- cl.write(context.Background(), cl.db, simInsertText, false, nil) }()
		time.Sleep(time.Second)
		w.is(pg0, "starts", func() { pg0.life = simUp })
		if <-wrote == nil {
			t.Error("the write has not waited for the primary")
		}
	})
}
