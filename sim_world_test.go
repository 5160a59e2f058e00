package pgherd

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sort"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A simWorld is a herd of servers, and all that is true of it.
type simWorld struct {
	t    *testing.T
	seed uint64
	plan simPlan
	cfg  *Config

	mu      sync.Mutex // guards all below, the nodes and their connections
	rng     *rand.Rand // of what happens to servers; clients have their own
	noise   *rand.Rand // of latencies and the like, in no order that a seed fixes
	born    time.Time
	nodes   []*simNode
	addrs   map[string]*simNode
	lines   []*simLine // by timeline; lines[0] is unused
	ops     map[int64]*simOp
	lastOp  int64
	pids    uint32
	newest  *simNode       // the primary that was promoted last
	over    bool           // nothing more happens
	leavers sync.WaitGroup // members that are being removed or drained

	told   []simSince // which timeline the herd has been told of, since when
	lead   [8]simTold // the last answers of primaries, by their timelines modulo its length
	acked  []*simOp   // the latest writes that were acknowledged
	events []string   // the latest ones
	totals simTotals

	violated bool
}

// A simSince is a timeline of which the herd was told at a time.
type simSince struct {
	at       time.Time
	timeline uint32
}

// A simTold is an answer to a question of the probe.
type simTold struct {
	asked    time.Time
	standby  bool
	timeline uint32
}

// A simLine is a timeline: what was committed on it, in order.
type simLine struct {
	parent uint32
	fork   uint64
	marks  []simMark
}

// A simMark is the end of the log at a time. It is that of a commit, or of no
// value where the timeline begins.
type simMark struct {
	at    time.Time
	lsn   uint64
	value bool
}

// A simNode is a server, and the machine it runs on.
type simNode struct {
	id      int
	name    string
	host    Host
	cluster uint64

	standby  bool
	timeline uint32 // of the data it has
	control  uint32 // that its control file tells
	lsn      uint64 // of the primary: end of its last commit; of a standby: what it has replayed
	tail     uint64 // what the primary has logged behind that, and not flushed
	ended    int64  // how many transactions
	upstream *simNode

	life     simLife
	frozen   bool // no process of it runs
	failing  bool // statements of clients lose their connections; the probe gets answers
	isolated bool // the client's packets, and those to it, are lost
	cut      bool // it receives no log
	paused   bool // it replays nothing
	lag      time.Duration
	slow     time.Duration

	conns   map[*simConn]struct{}
	stalled []func() // what goes on when it is neither frozen nor isolated

	well time.Time // since when nothing has happened to it; zero if something is wrong

	member   bool
	leaving  time.Time // when its removal, or draining, was asked for; zero for never
	left     time.Time // when that was done, or given up
	empty    bool      // it was done: nothing runs there
	draining bool
}

type simLife uint8

const (
	simUp simLife = iota
	simDown
	simBooting
)

func (n *simNode) String() string { return n.name }

func (n *simNode) runs() bool { return n.life == simUp && !n.frozen }

// isWell reports whether there is nothing that keeps n from serving.
func (n *simNode) isWell() bool { return n.life == simUp && !n.frozen && !n.isolated && !n.failing }

const simCluster = 7

func newSimWorld(t *testing.T, seed uint64, plan simPlan, cfg *Config) *simWorld {
	w := &simWorld{
		t: t, seed: seed, plan: plan, cfg: cfg,
		rng:   rand.New(rand.NewPCG(seed, 1)),
		noise: rand.New(rand.NewPCG(seed, 2)),
		born:  time.Now(),
		addrs: make(map[string]*simNode),
		ops:   make(map[int64]*simOp),
		// Positions of commits are 4 modulo 8, so that none is where a page's
		// header ends: see lagprobe.endOfRecord.
		lines: []*simLine{nil, {fork: 4, marks: []simMark{{time.Now(), 1<<20 + 4, false}}}},
	}
	for range plan.servers {
		w.newNode()
	}
	w.newest = w.nodes[0]
	for i, n := range w.nodes {
		n.lsn, n.timeline, n.control = 1<<20+4, 1, 1
		if n.standby = i > 0; n.standby {
			n.upstream = w.newest
		}
		n.member, n.well = true, w.born.Add(-time.Hour)
	}
	return w
}

func (w *simWorld) newNode() *simNode {
	id := len(w.nodes)
	n := &simNode{
		id:      id,
		name:    fmt.Sprint("pg", id),
		cluster: simCluster,
		conns:   make(map[*simConn]struct{}),
	}
	n.host = Host{Name: n.name, Host: fmt.Sprintf("10.0.%d.%d", id/250, id%250+1), Port: 5432, Weight: 1}
	w.nodes = append(w.nodes, n)
	w.addrs[n.host.Host+":5432"] = n
	return n
}

func (w *simWorld) chance(p float64) bool { return p > 0 && w.noise.Float64() < p }

// latency is the way to a node, or the way back.
func (w *simWorld) latency(n *simNode) time.Duration {
	return 100*time.Microsecond + rand2(w.noise, time.Millisecond) + rand2(w.noise, n.slow)
}

// rand2 returns a duration in [0, d].
func rand2(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d) + 1))
}

// Positions.

// on reports whether position lsn of timeline tl is in the history of timeline
// of.
func (w *simWorld) on(of, tl uint32, lsn uint64) bool { return lsn <= w.leaves(of, tl) }

// leaves returns up to where the history of timeline of is that of timeline tl.
func (w *simWorld) leaves(of, tl uint32) uint64 {
	limit := ^uint64(0)
	for of != tl {
		if of > tl {
			limit = min(limit, w.lines[of].fork)
			of = w.lines[of].parent
		} else {
			limit = min(limit, w.lines[tl].fork)
			tl = w.lines[tl].parent
		}
	}
	return limit
}

// A simState is what a server holds: the history of a timeline up to a position.
type simState struct {
	node     int
	timeline uint32
	lsn      uint64
}

func (s simState) String() string { return fmt.Sprintf("%d/%d on pg%d", s.timeline, s.lsn, s.node) }

// data returns the last position of s, and its timeline, at which something was
// committed.
func (w *simWorld) data(s simState) (uint32, uint64) { return w.last(s.timeline, s.lsn, time.Time{}) }

// last returns the last commit on a timeline, or those that it comes from, up to
// a position and, if it is not zero, a time.
func (w *simWorld) last(tl uint32, lsn uint64, by time.Time) (uint32, uint64) {
	for {
		l := w.lines[tl]
		i := sort.Search(len(l.marks), func(i int) bool {
			return l.marks[i].lsn > lsn || !by.IsZero() && l.marks[i].at.After(by)
		})
		for i--; i >= 0; i-- {
			if l.marks[i].value {
				return tl, l.marks[i].lsn
			}
		}
		if l.parent == 0 {
			return tl, 0
		}
		tl, lsn = l.parent, min(lsn, l.fork)
	}
}

// misses reports whether s lacks what was committed at a position, other than by
// a failover that has cost it.
func (w *simWorld) misses(s simState, tl uint32, lsn uint64) bool {
	common := w.leaves(s.timeline, tl)
	if lsn <= common {
		return s.lsn < lsn
	}
	return s.timeline < tl || s.lsn < common
}

// streams reports whether a standby receives the log of its upstream.
func (w *simWorld) streams(n *simNode) bool {
	up := n.upstream
	return n.standby && n.runs() && !n.cut && up.runs() && !up.standby &&
		up.lsn >= n.lsn && w.on(up.timeline, n.timeline, n.lsn)
}

// tells returns the timeline that a node tells of itself: a standby's WAL receiver
// knows it, as long as there is one. None starts on a log that left the upstream's.
func (w *simWorld) tells(n *simNode) uint32 {
	switch {
	case !n.standby:
		return n.timeline
	case w.streams(n):
		return n.upstream.timeline
	}
	return n.control
}

// advance has a standby replay what it has by now. It is called before its
// position matters, and before what it depends on changes.
func (w *simWorld) advance(n *simNode) {
	if n.paused || !w.streams(n) {
		return
	}
	up := n.upstream
	l := w.lines[up.timeline]
	by := time.Now().Add(-n.lag)
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].at.After(by) })
	lsn := l.fork
	if i > 0 {
		lsn = l.marks[i-1].lsn
	}
	if lsn > n.lsn {
		n.lsn, n.timeline = lsn, up.timeline
		for l.parent > 0 && lsn <= l.fork {
			n.timeline, l = l.parent, w.lines[l.parent]
		}
	}
}

// change does something to a node, which may matter to all.
func (w *simWorld) change(n *simNode, what string, change func()) {
	for _, o := range w.nodes {
		w.advance(o)
	}
	w.note("%s (%d/%d): %s", n, n.timeline, n.lsn, what)
	change()
	w.rate(n)
}

// rate notes since when n is well.
func (w *simWorld) rate(n *simNode) {
	n.well = time.Time{}
	if n.isWell() {
		n.well = time.Now()
	}
	if n.frozen || n.isolated {
		return
	}
	stalled := n.stalled
	n.stalled = nil
	for _, f := range stalled {
		time.AfterFunc(w.latency(n), f)
	}
}

// What happens to servers.

// stop ends a server's processes. A clean shutdown tells the clients.
func (w *simWorld) stop(n *simNode, clean bool) {
	n.life, n.tail = simDown, 0
	for c := range n.conns {
		w.drop(c, clean)
	}
}

// drop ends the process behind a connection.
func (w *simWorld) drop(c *simConn, clean bool) {
	n := c.node
	if clean && !n.frozen && c.state == simReady {
		var b simAnswer
		b.err(terminated())
		c.out = append(c.out, b.bytes...)
	}
	c.end()
	broken := error(syscall.ECONNRESET)
	if clean {
		broken = io.EOF
	}
	if n.isolated {
		n.stalled = append(n.stalled, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			c.reset(broken)
		})
		return
	}
	c.reset(broken)
}

// boot starts a server, which refuses connections until it is consistent.
func (w *simWorld) boot(n *simNode, d time.Duration) {
	n.life = simBooting
	w.after(d, func() {
		if n.life == simBooting {
			w.change(n, "is consistent", func() { n.life = simUp })
		}
	})
}

// after calls f, under the lock, after a time.
func (w *simWorld) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			f()
		}
	})
}

// promote begins a timeline.
func (w *simWorld) promote(n *simNode) {
	w.totals.Promoted++
	w.lines = append(w.lines, &simLine{parent: n.timeline, fork: n.lsn})
	n.standby, n.upstream, n.paused, n.cut = false, nil, false, false
	n.timeline = uint32(len(w.lines) - 1)
	n.control = n.timeline
	n.lsn += 40
	w.newest = n
	w.mark(n, false)
}

func (w *simWorld) mark(n *simNode, value bool) {
	l := w.lines[n.timeline]
	l.marks = append(l.marks, simMark{time.Now(), n.lsn, value})
}

// flush has a primary write out what no commit has.
func (w *simWorld) flush(n *simNode) {
	n.lsn += n.tail
	n.tail = 0
	w.mark(n, false)
}

// follow makes n a standby of the newest primary: by a reload where its log is
// one with that one's, else as a new copy.
func (w *simWorld) follow(n *simNode) {
	up := w.newest
	if n == up {
		return
	}
	w.advance(n)
	if n.standby && w.on(up.timeline, n.timeline, n.lsn) && n.lsn <= up.lsn {
		w.change(n, "follows "+up.name, func() { n.upstream = up })
		return
	}
	w.change(n, "is rebuilt from "+up.name, func() {
		w.stop(n, true)
		w.advance(up)
		n.standby, n.upstream, n.cut, n.paused, n.frozen = true, up, false, false, false
		n.timeline, n.lsn, n.control = up.timeline, up.lsn, up.timeline
		w.boot(n, w.soon(2*time.Second))
	})
}

// live lets things happen until the world's time is over.
func (w *simWorld) live(ctx context.Context, herd *Connector) {
	for {
		w.mu.Lock()
		nap := rand2(w.rng, w.plan.nap)
		w.mu.Unlock()
		select {
		case <-time.After(nap):
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		w.happen(herd)
		w.mu.Unlock()
	}
}

// soon returns a time up to d, in the measure of the world.
func (w *simWorld) soon(d time.Duration) time.Duration {
	return rand2(w.rng, d*time.Duration(w.plan.pace))
}

// happen makes something happen to a node.
func (w *simWorld) happen(herd *Connector) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.rng.IntN(4) == 0 {
		n = w.newest
	}
	r := w.rng
	soon := w.soon
	switch x := r.IntN(100); {
	case x < 10:
		w.change(n, "freezes", func() { n.frozen = true })
		w.after(soon(5*time.Second), func() {
			w.change(n, "thaws", func() { n.frozen = false })
		})
	case x < 18:
		w.change(n, "is cut off from the client", func() { n.isolated = true })
		w.after(soon(8*time.Second), func() {
			w.change(n, "is reachable", func() { n.isolated = false })
		})
	case x < 28 && n.life == simUp && !n.frozen:
		clean := r.IntN(2) == 0
		w.change(n, fmt.Sprint("stops, clean ", clean), func() { w.stop(n, clean) })
		w.after(soon(6*time.Second), func() {
			if n.life == simDown {
				w.change(n, "starts", func() { w.boot(n, soon(time.Second)) })
			}
		})
	case x < 34 && n.standby:
		w.change(n, "receives nothing", func() { n.cut = true })
		w.after(soon(20*time.Second), func() {
			w.change(n, "receives", func() { n.cut = false })
		})
	case x < 40 && n.standby:
		w.change(n, "pauses replay", func() { n.paused = true })
		w.after(soon(20*time.Second), func() {
			w.change(n, "resumes replay", func() { n.paused = false })
		})
	case x < 48:
		w.change(n, "lags otherwise", func() { n.lag = rand2(r, w.plan.lag) })
	case x < 52:
		w.change(n, "is slow", func() { n.slow = rand2(r, 300*time.Millisecond) })
		w.after(soon(5*time.Second), func() {
			w.change(n, "is fast", func() { n.slow = 0 })
		})
	case x < 58 && n.isWell():
		clean := r.IntN(2) == 0
		w.change(n, fmt.Sprint("loses connections, clean ", clean), func() {
			for c := range n.conns {
				if w.chance(0.5) {
					w.drop(c, clean)
				}
			}
		})
	case x < 66:
		w.failOver(n)
	case x < 72:
		w.follow(n)
	case x < 76 && n.standby:
		w.change(n, "makes a restartpoint", func() { n.control = n.timeline })
	case x < 84:
		w.administer(herd, n)
	case x < 90:
		w.change(n, "fails statements", func() { n.failing = true })
		w.after(soon(10*time.Second), func() {
			w.change(n, "fails no statements", func() { n.failing = false })
		})
	}
}

// failOver promotes a standby, with the old primary dead, unreachable, or, in
// worlds that may lose what was committed, still at work.
func (w *simWorld) failOver(n *simNode) {
	old := w.newest
	up := w.lines[old.timeline]
	if !n.member || n.draining || !n.standby || !n.runs() || n.upstream != old || !w.on(old.timeline, n.timeline, n.lsn) || n.timeline < up.parent {
		return
	}
	if len(w.lines) > 200 {
		return
	}
	lossless := w.plan.lossless || w.rng.IntN(2) == 0
	if lossless {
		if !w.streams(n) || n.paused {
			return
		}
		w.change(old, "shuts down for a switchover", func() { w.stop(old, true) })
		n.lsn = max(n.lsn, old.lsn)
		if n.lsn > up.fork {
			n.timeline = old.timeline
		}
	} else if w.rng.IntN(2) == 0 && old.runs() {
		w.change(old, "crashes", func() { w.stop(old, false) })
	}
	promote := func() {
		if n.member && n.standby && n.runs() && w.newest == old {
			w.change(n, "is promoted", func() { w.promote(n) })
			for _, o := range w.nodes {
				if o != n && o.standby {
					w.after(w.soon(3*time.Second), func() {
						if o.standby {
							w.follow(o)
						}
					})
				}
			}
		}
	}
	if d := rand2(w.rng, 2*w.cfg.FailoverTimeout); !lossless && w.rng.IntN(2) == 0 {
		w.after(d, promote)
	} else {
		promote()
	}
	w.after(w.soon(10*time.Second), func() {
		switch {
		case w.newest == old:
			if old.life == simDown {
				w.change(old, "starts", func() { w.boot(old, 0) })
			}
		case w.rng.IntN(3) > 0:
			w.follow(old)
		case old.life == simDown:
			w.change(old, "returns as if nothing had happened", func() { w.boot(old, w.soon(time.Second)) })
		}
	})
}

// administer removes, adds, drains and undrains members of the herd.
func (w *simWorld) administer(herd *Connector, n *simNode) {
	if !w.plan.members || n == w.newest {
		return
	}
	d := w.soon(5 * time.Second)
	switch {
	case !n.leaving.IsZero() && n.left.IsZero(): // one thing after the other
	case !n.member:
		w.note("%s is added", n)
		n.member, n.leaving, n.left, n.empty = true, time.Time{}, time.Time{}, false
		w.rate(n)
		go func() {
			if err := herd.AddReplica(n.host); err != nil {
				w.t.Errorf("AddReplica: %v", err)
			}
		}()
	case n.draining:
		w.note("%s is not drained any more", n)
		n.draining, n.leaving, n.left, n.empty = false, time.Time{}, time.Time{}, false
		w.rate(n)
		go func() {
			if err := herd.Undrain(n.name); err != nil {
				w.t.Errorf("Undrain: %v", err)
			}
		}()
	case w.rng.IntN(2) == 0:
		w.note("%s is drained", n)
		n.draining, n.leaving = true, time.Now()
		w.leavers.Go(func() { w.leave(herd.Drain, n, d) })
	default:
		w.note("%s is removed", n)
		n.member, n.leaving = false, time.Now()
		w.leavers.Go(func() { w.leave(herd.Remove, n, d) })
	}
}

func (w *simWorld) leave(leave func(context.Context, string) error, n *simNode, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	err := leave(ctx, n.name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("%s has left: %v", n, err)
	n.left, n.empty = time.Now(), err == nil
	if err != nil && ctx.Err() == nil {
		w.violate("leaving: %v", err)
	}
	for c := range n.conns {
		if n.empty && c.runs != nil && !c.closed && !c.aborted && c.runs.ctx.Err() == nil {
			w.violate("%s has left while %v runs there", n, c.runs)
		}
	}
}

// note keeps an event for the report of a violation.
func (w *simWorld) note(format string, args ...any) {
	text := fmt.Sprintf("%12v  ", time.Since(w.born)) + fmt.Sprintf(format, args...)
	if w.plan.verbose {
		fmt.Println(text)
	}
	if w.events = append(w.events, text); len(w.events) > 200 {
		w.events = append(w.events[:0], w.events[120:]...)
	}
}

// violate reports a broken promise.
func (w *simWorld) violate(format string, args ...any) {
	w.violated = true
	text := fmt.Sprintf(format, args...)
	w.note("VIOLATION: %s", text)
	w.t.Errorf("seed %d, after %v: %s", w.seed, time.Since(w.born), text)
}
