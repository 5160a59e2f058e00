package integration

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pgherd/pgherd/integration/herds"
)

// A fault is something that happens to one server, and ends.
type fault struct {
	name   string
	victim victim
	silent bool // no connection ends: nothing but a question without an answer tells of it
	fail   func(context.Context, herds.Server) error
	mend   func(context.Context, herds.Server) error

	// What the schedule decides.
	replica int           // which one, of those there are at the time
	lasts   time.Duration // from fail to mend
	early   bool          // a replaced primary is back before the application has moved
}

func (f fault) String() string {
	s := fmt.Sprintf("%s for %v", f.name, f.lasts)
	switch {
	case f.victim == aReplica:
		s += fmt.Sprintf(" (replica %d)", f.replica)
	case f.victim == replacedPrimary && f.early:
		s += " (which is back at once)"
	}
	return s
}

// A victim says whom a fault happens to.
type victim int

const (
	aReplica        victim = iota
	thePrimary             // which remains the primary
	replacedPrimary        // a replica is promoted meanwhile, and the old primary comes back as one
)

// longDelay is more than what any reader accepts: see the bounds in
// startApplication.
const longDelay = 5 * time.Second

var faults = []fault{
	{name: "stop a replica", victim: aReplica, fail: do(herds.Server.Stop), mend: do(herds.Server.Start)},
	{name: "kill a replica", victim: aReplica, fail: do(herds.Server.Kill), mend: do(herds.Server.Start)},
	{name: "freeze a replica", victim: aReplica, silent: true, fail: do(herds.Server.Freeze), mend: do(herds.Server.Thaw)},
	{name: "partition a replica", victim: aReplica, silent: true, fail: do(herds.Server.Partition), mend: do(herds.Server.Heal)},
	{name: "cut the stream of a replica", victim: aReplica, fail: do(herds.Server.PartitionReplication), mend: do(herds.Server.Heal)},
	{name: "pause the replay of a replica", victim: aReplica, fail: on(herds.Server.PauseReplay), mend: on(herds.Server.ResumeReplay)},
	{name: "delay the replay of a replica", victim: aReplica, fail: delay(longDelay), mend: delay(0)},

	{name: "stop the primary", victim: thePrimary, fail: do(herds.Server.Stop), mend: do(herds.Server.Start)},
	{name: "kill the primary", victim: thePrimary, fail: do(herds.Server.Kill), mend: do(herds.Server.Start)},
	{name: "freeze the primary", victim: thePrimary, silent: true, fail: do(herds.Server.Freeze), mend: do(herds.Server.Thaw)},
	{name: "partition the primary", victim: thePrimary, silent: true, fail: do(herds.Server.Partition), mend: do(herds.Server.Heal)},

	{name: "fail over from a stopped primary", victim: replacedPrimary, fail: do(herds.Server.Stop), mend: do(herds.Server.Start)},
	{name: "fail over from a killed primary", victim: replacedPrimary, fail: do(herds.Server.Kill), mend: do(herds.Server.Start)},
	{name: "fail over from a frozen primary", victim: replacedPrimary, silent: true, fail: do(herds.Server.Freeze), mend: do(herds.Server.Thaw)},
	{name: "fail over from a partitioned primary", victim: replacedPrimary, silent: true, fail: do(herds.Server.Partition), mend: do(herds.Server.Heal)},
}

func do(f func(herds.Server) error) func(context.Context, herds.Server) error {
	return func(_ context.Context, s herds.Server) error { return f(s) }
}

func on(f func(herds.Server, context.Context) error) func(context.Context, herds.Server) error {
	return func(ctx context.Context, s herds.Server) error { return f(s, ctx) }
}

func delay(d time.Duration) func(context.Context, herds.Server) error {
	return func(ctx context.Context, s herds.Server) error { return s.ApplyDelay(ctx, d) }
}

// schedule yields faults without end: all kinds in some order, then all kinds
// in another one, and so on. It depends on the seed alone.
func schedule(seed uint64) iter.Seq[fault] {
	return func(yield func(fault) bool) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		for {
			for _, kind := range rnd.Perm(len(faults)) {
				f := faults[kind]
				f.replica = 1 + rnd.IntN(2)
				f.lasts = time.Duration(1000+rnd.IntN(2000)) * time.Millisecond
				if f.silent {
					f.lasts += probeTimeout
				}
				f.early = rnd.IntN(2) == 0 && f.silent
				if !yield(f) {
					return
				}
			}
		}
	}
}

// A breaker makes faults, one after the other. Each is mended before the next
// one: both replicas have all that the primary has. So there is always a replica
// with whatever was acknowledged, or shown to anybody, that can be promoted.
type breaker struct {
	t    *testing.T
	herd herds.Herd
	app  *application
}

func (b *breaker) make(f fault) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*patience)
	defer cancel()
	switch f.victim {
	case aReplica:
		b.endure(ctx, f, b.replicas()[f.replica-1])
	case thePrimary:
		b.endure(ctx, f, b.herd.Primary())
	case replacedPrimary:
		b.failOver(ctx, f)
	}
	b.must(b.herd.WaitSync(ctx))
}

func (b *breaker) endure(ctx context.Context, f fault, s herds.Server) {
	b.t.Helper()
	b.must(f.fail(ctx, s))
	time.Sleep(f.lasts)
	b.must(f.mend(ctx, s))
}

// failOver replaces the primary. Once the application is known to have moved to
// the new one, the old one, which is a primary too, is let commit without a
// standby, so that whatever is still sent to it is acknowledged. What it then
// has is kept for checkReplaced, before it becomes a replica.
//
// A primary that was down is not back earlier: PostgreSQL then shows what was
// waiting for a standby when it went down, though it may be lost, and whoever has
// not heard of the new primary may read that.
func (b *breaker) failOver(ctx context.Context, f fault) {
	b.t.Helper()
	old := b.herd.Primary()
	replicas := b.replicas()
	b.must(f.fail(ctx, old))
	next, other := b.furthest(ctx, replicas)
	b.must(next.Promote(ctx))
	promoted := b.app.now()
	b.must(other.Follow(ctx, next))
	if f.early {
		b.must(f.mend(ctx, old))
	}
	moved := b.app.awaitMove(b.t, next.Name(), promoted)
	b.t.Logf("%s was promoted at %v, and is in use since %v", next.Name(), promoted.Round(time.Millisecond), moved.Round(time.Millisecond))
	if !f.early {
		b.must(f.mend(ctx, old))
	}
	b.must(herds.Exec(ctx, old, "alter system set synchronous_standby_names = ''"))
	b.must(herds.Exec(ctx, old, "select pg_reload_conf()"))
	time.Sleep(f.lasts)
	b.app.replaced = append(b.app.replaced, replaced{server: old.Name(), moved: moved, values: b.lastTimeline(ctx, old)})
	b.must(old.Follow(ctx, next))
}

func (b *breaker) replicas() (replicas []herds.Server) {
	for _, s := range b.herd.Servers() {
		if s != b.herd.Primary() {
			replicas = append(replicas, s)
		}
	}
	return replicas
}

// furthest returns the replica that has received more log, and the other one.
// What was on its way when the primary failed may still arrive, so it asks until
// nothing changes.
func (b *breaker) furthest(ctx context.Context, replicas []herds.Server) (first, second herds.Server) {
	b.t.Helper()
	var received, before []int64
	for before == nil || !slices.Equal(received, before) {
		before, received = received, nil
		time.Sleep(200 * time.Millisecond)
		for _, s := range replicas {
			received = append(received, ask[int64](ctx, b, s,
				"select (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint")...)
		}
	}
	if received[1] > received[0] {
		return replicas[1], replicas[0]
	}
	return replicas[0], replicas[1]
}

// lastTimeline returns what a primary has written on its timeline.
func (b *breaker) lastTimeline(ctx context.Context, s herds.Server) []string {
	b.t.Helper()
	return ask[string](ctx, b, s, "select value from journal where timeline = "+currentTimeline)
}

func ask[T any](ctx context.Context, b *breaker, s herds.Server, query string) []T {
	b.t.Helper()
	answer, err := herds.Ask[T](ctx, s, query)
	b.must(err)
	return answer
}

func (b *breaker) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}
