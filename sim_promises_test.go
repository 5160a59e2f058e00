package pgherd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// The promises, as what may not happen whatever happens to servers. They are
// judged by what is true of the servers, on their side and by what statements
// return, not by what the herd believes.

// A simOp is a statement of a client.
type simOp struct {
	id    int64
	kind  string
	write bool
	held  bool // it has to run on a connection that earlier statements hold
	ctx   context.Context
	begin time.Time
	end   time.Time

	sent      int  // how often it was
	committed int  // how often its write was
	cancelled bool // by a standby that had to replay

	shown simState // the last answer that arrived

	// Of its write.
	timeline uint32
	lsn      uint64
}

func (o *simOp) String() string { return fmt.Sprintf("%s %d", o.kind, o.id) }

// simTotals counts what happened, to see that a simulation is not vacuous.
type simTotals struct {
	Worlds                    int
	Reads, OnReplicas, Writes int // that succeeded
	FailedReads, FailedWrites int
	Doubtful                  int // writes that failed and were committed
	Promoted                  int
	OwnWrites, Seen, Bounded  int // reads that were held to these
	Needed                    int // statements that were not allowed to fail
	Waited                    int // writes that waited for a primary
	LongestRead, LongestWait  time.Duration
	Questions, Retries        int
	Ejections, Hedges         int
}

func (a *simTotals) add(b *simTotals) {
	a.Reads += b.Reads
	a.OnReplicas += b.OnReplicas
	a.Writes += b.Writes
	a.FailedReads += b.FailedReads
	a.FailedWrites += b.FailedWrites
	a.Doubtful += b.Doubtful
	a.Promoted += b.Promoted
	a.OwnWrites += b.OwnWrites
	a.Seen += b.Seen
	a.Bounded += b.Bounded
	a.Needed += b.Needed
	a.Waited += b.Waited
	a.LongestRead = max(a.LongestRead, b.LongestRead)
	a.LongestWait = max(a.LongestWait, b.LongestWait)
	a.Questions += b.Questions
	a.Retries += b.Retries
	a.Ejections += b.Ejections
	a.Hedges += b.Hedges
}

// check fails the test if there was too little of what simulations are about: far
// less than small worlds have, if all is well.
func (a *simTotals) check(t *testing.T) {
	for _, c := range []struct {
		what        string
		have, floor int
	}{
		{"reads", a.Reads, 100_000},
		{"reads on replicas", a.OnReplicas, 50_000},
		{"writes", a.Writes, 30_000},
		{"failed reads", a.FailedReads, 5000},
		{"failed writes", a.FailedWrites, 3000},
		{"writes that failed and were committed", a.Doubtful, 5},
		{"promotions", a.Promoted, 200},
		{"reads that had to show writes", a.OwnWrites, 100_000},
		{"reads that had to show what was seen", a.Seen, 80_000},
		{"reads with a bound", a.Bounded, 30_000},
		{"reads that had to succeed", a.Needed, 30_000},
		{"writes that waited for a primary", a.Waited, 500},
		{"retries", a.Retries, 5000},
		{"ejections", a.Ejections, 50},
		{"hedged reads", a.Hedges, 300},
	} {
		if c.have < c.floor {
			t.Errorf("%d %s, want at least %d", c.have, c.what, c.floor)
		}
	}
}

// known returns the newest timeline that the herd had been told of before a time.
func (w *simWorld) known(at time.Time) uint32 {
	for i := len(w.told) - 1; i >= 0; i-- {
		if w.told[i].at.Before(at) {
			return w.told[i].timeline
		}
	}
	return 0
}

// noteTold notes an answer to the probe when it reaches it.
func (w *simWorld) noteTold(n *simNode, a *simTold) {
	w.totals.Questions++
	if !n.member {
		return
	}
	if !a.standby {
		// A large herd does not publish each answer at once: see lagprobe.reportPause.
		time.AfterFunc(time.Duration(len(w.nodes))*10*time.Microsecond, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lead[a.timeline%uint32(len(w.lead))] = *a
		})
	}
	if len(w.told) == 0 || a.timeline > w.told[len(w.told)-1].timeline {
		w.told = append(w.told, simSince{time.Now(), a.timeline})
		w.note("the herd is told of timeline %d by %s", a.timeline, n)
	}
}

// isFenced reports whether n is a primary that was replaced, as the herd had been
// told before a time.
func (w *simWorld) isFenced(n *simNode, at time.Time) bool {
	return !n.standby && w.known(at) > n.timeline
}

// noteSent judges where a statement is sent.
func (w *simWorld) noteSent(c *simConn, f *simFlight) {
	n, op := c.node, f.op
	op.sent++
	c.runs = op
	if !op.write && w.isFenced(n, f.sent) {
		w.violate("%v was sent to %s, on timeline %d, after the herd was told of timeline %d", op, n, n.timeline, w.known(f.sent))
	}
	if op.write && op.sent > 1 {
		w.violate("%v was sent %d times, now to %s", op, op.sent, n)
	}
	if n.standby && !n.leaving.IsZero() && !op.held && op.begin.After(n.leaving) {
		w.violate("%v was sent to %s, which had begun to leave at %v", op, n, n.leaving.Sub(w.born))
	}
	if n.standby && n.empty && f.sent.After(n.left) {
		w.violate("%v was sent to %s, which had left at %v", op, n, n.left.Sub(w.born))
	}
}

// noteClosed judges that the client gives a connection up.
func (w *simWorld) noteClosed(c *simConn) {
	op, n := c.runs, c.node
	if op == nil || op.ctx.Err() != nil || c.broken != nil || c.aborted {
		return
	}
	if w.isServing(n, time.Now()) && !w.isFenced(n, time.Now().Add(1)) {
		w.violate("%v was cut off on %s, which is well since %v", op, n, n.well.Sub(w.born))
	}
}

// noteStart judges how many connections there are.
func (w *simWorld) noteStart(n *simNode) {
	open := 0
	for c := range n.conns {
		if c.state == simReady && !c.closed && !c.aborted && c.deadline.IsZero() {
			open++
		}
	}
	if limit := w.cfg.PoolMaxConns + 1; open > limit { // and the probe's
		w.violate("%d connections to %s are open, of %d: %v", open, n, limit, slices.Collect(maps.Keys(n.conns)))
	}
}

// commit makes values durable on c's node, and judges that.
func (w *simWorld) commit(c *simConn, f *simFlight, values []int64) {
	n := c.node
	n.lsn += n.tail + 8*uint64(1+w.noise.IntN(50))
	n.tail = 0
	n.ended++
	w.mark(n, true)
	for _, v := range values {
		op := w.ops[v]
		op.timeline, op.lsn = n.timeline, n.lsn
		if op.committed++; op.committed > 1 {
			w.violate("%v was committed %d times", op, op.committed)
		}
		if w.isFenced(n, f.sent) {
			w.violate("%v was committed on %s, on timeline %d, after the herd was told of timeline %d", op, n, n.timeline, w.known(f.sent))
		}
	}
}

// patience is the time after which the herd must have noticed what has become of
// a server: two questions, each over a new connection, and the pause between.
func (w *simWorld) patience() time.Duration {
	return 2*(w.cfg.LagCheckInterval+w.cfg.LagCheckTimeout) + time.Second
}

// isServing reports whether n is well and a member, for long enough that the
// herd must have known it at a time.
func (w *simWorld) isServing(n *simNode, at time.Time) bool {
	return n.member && n.leaving.IsZero() && n.slow == 0 && !n.well.IsZero() && at.Sub(n.well) > w.patience()
}

// hasPrimary reports whether there was a primary at op's begin, known to the
// herd, that has served until now.
func (w *simWorld) hasPrimary(op *simOp) bool {
	return w.isServing(w.newest, op.begin) && w.known(op.begin) == w.newest.timeline
}

// hasReplica is hasPrimary for replicas.
func (w *simWorld) hasReplica(op *simOp) bool {
	for _, n := range w.nodes {
		if n.standby && w.isServing(n, op.begin) {
			return true
		}
	}
	return false
}

// begin begins an op. simWorld.mu is held.
func (w *simWorld) begin(ctx context.Context, kind string) *simOp {
	w.lastOp++
	op := &simOp{id: w.lastOp, kind: kind, ctx: ctx, begin: time.Now()}
	w.ops[op.id] = op
	return op
}

// failed judges the error of an op. simple tells that nothing but the op's
// result was asked for: no bound, no session.
func (w *simWorld) failed(op *simOp, err error, simple bool) {
	if op.write {
		w.totals.FailedWrites++
		if op.committed > 0 {
			w.totals.Doubtful++
		}
	} else {
		w.totals.FailedReads++
	}
	w.note("%v failed after %v: %v", op, op.end.Sub(op.begin), err)
	var acquire *AcquireError
	if op.ctx.Err() != nil || op.held || errors.As(err, &acquire) {
		return
	}
	strict := w.cfg.ReplicaFallback == FallbackError
	switch {
	case w.hasPrimary(op) && (op.write || !strict):
		w.violate("%v failed although %s could have served it: %v", op, w.newest, err)
	case !op.write && simple && !strict && !op.cancelled && w.hasReplica(op):
		w.violate("%v failed although a replica could have served it: %v", op, err)
	}
	var route *RouteError
	if !errors.As(err, &route) || !op.write && route.Reason != routing.ReasonNoPrimary {
		return
	}
	waited := op.end.Sub(op.begin)
	w.totals.LongestWait = max(w.totals.LongestWait, waited)
	if waited < w.cfg.FailoverTimeout && op.write && w.hasReplica(op) {
		w.violate("%v waited only %v for a primary: %v", op, waited, err)
	}
	if limit := w.cfg.FailoverTimeout + 3*w.cfg.LagCheckTimeout + 3*simConnectTimeout; waited > limit {
		w.violate("%v waited %v for a primary, more than %v: %v", op, waited, limit, err)
	}
}

// wrote judges the success of a write.
func (w *simWorld) wrote(op *simOp) {
	w.totals.Writes++
	if op.committed != 1 {
		w.violate("%v was acknowledged, and was committed %d times", op, op.committed)
		return
	}
	if op.end.Sub(op.begin) > time.Second {
		w.totals.Waited++
	}
	w.acked = append(w.acked, op)
	if len(w.acked) > 4 {
		w.acked = append(w.acked[:0], w.acked[1:]...)
	}
}

// A simPast is what a session, or a checkout, has done.
type simPast struct {
	writes []*simOp   // the latest ones
	seen   []simState // the latest ones
}

func (p *simPast) isEmpty() bool { return len(p.writes) == 0 && len(p.seen) == 0 }

func (p *simPast) clone() simPast {
	return simPast{slices.Clone(p.writes), slices.Clone(p.seen)}
}

func (p *simPast) write(op *simOp) {
	if p.writes = append(p.writes, op); len(p.writes) > 3 {
		p.writes = p.writes[1:]
	}
}

func (p *simPast) see(s simState) {
	if p.seen = append(p.seen, s); len(p.seen) > 3 {
		p.seen = p.seen[1:]
	}
}

// read judges what a read has shown. past is what its session had done before it
// began, and acked what had been acknowledged to anybody by then.
func (w *simWorld) read(op *simOp, s simState, past simPast, acked []*simOp, maxLag time.Duration) {
	w.totals.Reads++
	if n := w.nodes[s.node]; n.standby {
		w.totals.OnReplicas++
	}
	took := op.end.Sub(op.begin)
	w.totals.LongestRead = max(w.totals.LongestRead, took)
	if simple := past.isEmpty() && maxLag == 0 && !op.held && w.cfg.ReplicaFallback != FallbackError; simple && w.hasReplica(op) && took > 2*w.patience() {
		w.violate("%v took %v although a replica could have served it", op, took)
	}
	for _, wr := range past.writes {
		w.totals.OwnWrites++
		if w.misses(s, wr.timeline, wr.lsn) {
			w.violate("%v shows %v, without its session's %v at %d/%d", op, s, wr, wr.timeline, wr.lsn)
		}
	}
	for _, seen := range past.seen {
		w.totals.Seen++
		if tl, lsn := w.data(seen); w.misses(s, tl, lsn) {
			w.violate("%v shows %v, less than %v that its session has seen", op, s, seen)
		}
	}
	primary := w.hasPrimary(op)
	if primary {
		w.totals.Needed++
	}
	if w.cfg.Consistency == ConsistencySession && primary {
		for _, wr := range acked {
			w.totals.OwnWrites++
			if w.misses(s, wr.timeline, wr.lsn) {
				w.violate("%v shows %v, without %v at %d/%d, which was acknowledged before", op, s, wr, wr.timeline, wr.lsn)
			}
		}
	}
	if op.held {
		return
	}
	if w.cfg.MaxLag > 0 && (primary || w.cfg.ReplicaFallback == FallbackError) {
		w.bound(op, s, w.cfg.MaxLag, primary)
	}
	if maxLag > 0 {
		w.bound(op, s, maxLag, primary)
	}
}

// bound judges how stale a read was. Where the primary does not serve, that is
// counted from its last answer. The herd may have learned of another primary
// while the read was under way.
func (w *simWorld) bound(op *simOp, s simState, d time.Duration, primary bool) {
	w.totals.Bounded++
	stale := func(timeline uint32) bool {
		asOf := op.begin
		if a := w.lead[timeline%uint32(len(w.lead))]; !primary && a.timeline == timeline && a.asked.Before(asOf) {
			asOf = a.asked
		}
		tl, lsn := w.last(timeline, ^uint64(0), asOf.Add(-d))
		return w.misses(s, tl, lsn)
	}
	before, after := w.known(op.begin), w.known(op.end.Add(1))
	if before == 0 || stale(before) && (after == before || stale(after)) {
		tl, lsn := w.last(after, ^uint64(0), op.begin.Add(-d))
		w.violate("%v shows %v, staler than %v: %d/%d was committed by then", op, s, d, tl, lsn)
	}
}
