package pgherdtest

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestPauseReplay(t *testing.T) {
	h := Start(t, Replicas(1))
	r := h.Replica(1)
	must(t, r.PauseReplay(timeout(t)))
	run(t, connect(t, h.Primary().DSN()), "CREATE TABLE t ()")
	lsn, err := h.Primary().LSN(timeout(t))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	if err := h.WaitSync(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a paused replica ends with %v, want a deadline exceeded", err)
	}
	received := query[uint64](t, connect(t, r.DSN()), "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')::bigint")
	if received < lsn {
		t.Errorf("the replica has received the log up to %X, want %X", received, lsn)
	}
	must(t, r.ResumeReplay(timeout(t)))
	must(t, h.WaitSync(timeout(t)))

	if err := h.Primary().PauseReplay(timeout(t)); err == nil {
		t.Error("a primary pauses replay")
	}
}

func TestApplyDelay(t *testing.T) {
	h := Start(t, Replicas(1))
	r := h.Replica(1)
	primary := connect(t, h.Primary().DSN())
	run(t, primary, "CREATE TABLE t ()")
	const delay = 400 * time.Millisecond
	took := func() time.Duration {
		t.Helper()
		began := time.Now()
		run(t, primary, "INSERT INTO t DEFAULT VALUES")
		must(t, h.WaitSync(timeout(t)))
		return time.Since(began)
	}
	must(t, r.ApplyDelay(timeout(t), delay))
	if d := took(); d < delay-20*time.Millisecond {
		t.Errorf("replayed after %v, want %v", d, delay)
	}
	must(t, r.Restart())
	if d := took(); d < delay-20*time.Millisecond {
		t.Errorf("replayed %v after a restart, want %v", d, delay)
	}
	must(t, r.ApplyDelay(timeout(t), 0))
	if got := query[string](t, connect(t, r.DSN()), "SHOW recovery_min_apply_delay"); got != "0" {
		t.Errorf("the delay is %s, want 0", got)
	}
	took() // ends
}

func TestPromoteFollow(t *testing.T) {
	h := Start(t, Replicas(2))
	p, r1, r2 := h.Primary(), h.Replica(1), h.Replica(2)
	run(t, connect(t, p.DSN()), "CREATE TABLE t (n int)")
	must(t, h.WaitSync(timeout(t)))

	must(t, p.Kill())
	must(t, r1.Promote(timeout(t)))
	if h.Primary() != r1 {
		t.Errorf("the primary is %s, want the promoted replica1", h.Primary().Name())
	}
	run(t, connect(t, r1.DSN()), "INSERT INTO t VALUES (1)")

	// A replica that has nothing more than the new primary keeps its sessions.
	session := connect(t, r2.DSN())
	must(t, r2.Follow(timeout(t), r1))
	must(t, h.WaitSync(timeout(t)))
	if n := query[int](t, session, "SELECT count(*) FROM t"); n != 1 {
		t.Errorf("%d rows on replica2, want 1", n)
	}

	// The old primary comes back with a write that nobody else has, and loses it.
	must(t, p.Start())
	run(t, connect(t, p.DSN()), "INSERT INTO t VALUES (2), (3)")
	must(t, p.Follow(timeout(t), r1))
	must(t, h.WaitSync(timeout(t)))
	old := connect(t, p.DSN())
	if n := query[int](t, old, "SELECT count(*) FROM t"); n != 1 {
		t.Errorf("%d rows on the old primary, want 1", n)
	}
	if !query[bool](t, old, "SELECT pg_is_in_recovery()") {
		t.Error("the old primary is no replica")
	}
	if got := query[string](t, old, "SELECT current_setting('cluster_name')"); got != "primary" {
		t.Errorf("cluster_name %q, want the server's own", got)
	}

	// And back: it is promoted, and one that is down follows.
	must(t, r1.Stop())
	must(t, p.Promote(timeout(t)))
	must(t, r1.Follow(timeout(t), p))
	must(t, r2.Follow(timeout(t), p))
	run(t, connect(t, p.DSN()), "INSERT INTO t VALUES (4)")
	must(t, h.WaitSync(timeout(t)))
	for _, r := range []*Server{r1, r2} {
		if n := query[int](t, connect(t, r.DSN()), "SELECT count(*) FROM t"); n != 2 {
			t.Errorf("%d rows on %s, want 2", n, r.Name())
		}
	}
	if err := p.Follow(timeout(t), p); err == nil {
		t.Error("a server follows itself")
	}
}

// TestFollowDiverged has a replica that received more of the old primary's log
// than the one that is promoted.
func TestFollowDiverged(t *testing.T) {
	h := Start(t, Replicas(2))
	p, r1, r2 := h.Primary(), h.Replica(1), h.Replica(2)
	primary := connect(t, p.DSN())
	run(t, primary, "CREATE TABLE t (n int)")
	must(t, h.WaitSync(timeout(t)))
	must(t, r1.PartitionReplication())
	run(t, primary, "INSERT INTO t VALUES (1)")
	lsn, err := p.LSN(timeout(t))
	must(t, err)
	must(t, r2.WaitLSN(timeout(t), lsn))
	must(t, p.Kill())
	must(t, r1.Promote(timeout(t)))
	must(t, r1.Heal())

	must(t, r2.Follow(timeout(t), r1))
	run(t, connect(t, r1.DSN()), "INSERT INTO t VALUES (2)")
	must(t, h.WaitSync(timeout(t)))
	if n := query[int](t, connect(t, r2.DSN()), "SELECT n FROM t"); n != 2 {
		t.Errorf("replica2 has row %d, want row 2 of the new primary", n)
	}
}

// TestFollowSplitBrain moves a replica between two primaries that were promoted
// apart.
func TestFollowSplitBrain(t *testing.T) {
	h := Start(t, Replicas(2))
	r1, r2 := h.Replica(1), h.Replica(2)
	for _, s := range []*Server{r1, r2} {
		must(t, s.Promote(timeout(t)))
		run(t, connect(t, s.DSN()), "CREATE TABLE "+s.Name()+" ()")
	}
	for _, s := range []*Server{r1, r2} {
		must(t, h.Servers()[0].Follow(timeout(t), s))
		run(t, connect(t, s.DSN()), "CREATE TABLE followed ()")
		lsn, err := s.LSN(timeout(t))
		must(t, err)
		must(t, h.Servers()[0].WaitLSN(timeout(t), lsn))
		run(t, connect(t, h.Servers()[0].DSN()), "SELECT FROM followed, "+s.Name())
	}
}
