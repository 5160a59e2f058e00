package lagprobe

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var simSeed = flag.Uint64("sim.seed", 0, "run only the simulation with this seed")

// TestSimulation lets herds live through crashes, freezes, cut streams,
// promotions, rebuilt servers and members that come and go, with transactions
// that commit, stay open, or are flushed late, and holds each snapshot to what
// the simulation knows to be true.
func TestSimulation(t *testing.T) {
	herds := []struct {
		number, servers int
		lifetime        time.Duration
	}{
		{150, 5, 30 * time.Second},
		{1, 300, 5 * time.Second},
		{1, 4, time.Hour},
	}
	var total simTotals
	for _, h := range herds {
		for n := range h.number {
			seed := uint64(h.servers*10000 + n)
			if *simSeed != 0 && seed != *simSeed {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed, h.servers)
				w.live(h.lifetime)
				w.settle()
				total.add(w.totals)
			})
			if t.Failed() {
				t.Fatalf("reproduce with -run Simulation -sim.seed=%d", seed)
			}
		}
	}
	t.Logf("%+v", total)
	if *simSeed == 0 && (total.Proven < 10_000 || total.Promoted < 500 || total.Stale < 1000 || total.Lost < 1000 || total.Members < 1000 || total.Open < 1000) {
		t.Errorf("the simulation shows too little: %+v", total)
	}
}

// simTotals counts what happened, to see that the simulation is not vacuous.
type simTotals struct {
	Proven   int // claims of freshness that were found true
	Hidden   int // claims about a standby that has left the timeline and cannot say so
	Promoted int
	Stale    int // verdicts
	Lost     int // positions that went backwards
	Members  int // that came or went
	Open     int // claims of freshness for less than all that was inserted
}

func (a *simTotals) add(b simTotals) {
	a.Proven += b.Proven
	a.Hidden += b.Hidden
	a.Promoted += b.Promoted
	a.Stale += b.Stale
	a.Lost += b.Lost
	a.Members += b.Members
	a.Open += b.Open
}

// A world is a herd and all that is true of it.
type world struct {
	t    *testing.T
	seed uint64

	mu     sync.Mutex // guards all below, and the nodes
	rng    *rand.Rand
	nodes  []*node
	byName map[string]*node
	lines  []*line // by timeline; lines[0] is unused
	totals simTotals

	bench     *bench
	elected   uint32 // highest timeline that was elected
	following uint32 // timeline that claims of freshness are about
	lives     map[life]int
}

// A life is what a Since stands for.
type life struct {
	*node
	since time.Time
}

// A line is the truth about a timeline: where its last commit ended when, and
// what standbys had replayed.
type line struct {
	parent uint32
	fork   uint64
	marks  []mark
	shown  []mark
}

// A node is a server.
type node struct {
	standby       bool
	timeline      uint32 // that it is really on
	control       uint32 // that its control file tells
	inserted, lsn uint64 // primary: inserted, and flushed; standby: lsn is what it replayed
	upstream      *node
	cut           bool
	down, frozen  bool
	delay         time.Duration
	answers       []truth // the latest ones
	privilege     bool

	xid        int64     // transactions that have ended
	flushedXID int64     // those of which the log is flushed
	async      time.Time // since when a commit is not flushed; zero if all are
	life       int       // counts restarts

	fake   *fake
	member bool
}

// A truth is what was true when a node answered.
type truth struct {
	asked          time.Time
	timeline, told uint32
	lsn            uint64
	life           int
}

func newWorld(t *testing.T, seed uint64, servers int) *world {
	w := &world{
		t: t, seed: seed,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		lines:  []*line{nil, {marks: []mark{{time.Now(), mb}}}},
		byName: make(map[string]*node),
		lives:  make(map[life]int),
	}
	privilege := w.chance(0.5)
	var fakes []*fake
	for i := range servers {
		n := &node{timeline: 1, control: 1, lsn: mb, inserted: mb, privilege: privilege, member: true}
		if n.standby = i > 0; n.standby {
			n.upstream = w.nodes[0]
		}
		n.fake = &fake{name: fmt.Sprint("pg", i+1), state: func() fakeState { return w.state(n) },
			answer: func(asked time.Time) fakeState { return w.answer(n, asked) }}
		w.nodes = append(w.nodes, n)
		w.byName[n.fake.name] = n
		fakes = append(fakes, n.fake)
	}
	w.bench = start(t, Options{}, fakes...)
	w.bench.check.Store(&[]func(Snapshot){w.check}[0])
	return w
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) pick() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// upto returns a number in [0, n].
func (w *world) upto(n uint64) uint64 { return w.rng.Uint64N(n + 1) }

// state is what a node answers now.
func (w *world) state(n *node) fakeState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := fakeState{standby: n.standby, systemID: 7, lsn: n.inserted, timeline: n.timeline,
		backend: int64(n.life), snapshot: n.xid + 1, flushed: n.lsn,
		down: n.down, frozen: n.frozen, delay: n.delay}
	if n.standby {
		s.lsn, s.timeline = n.lsn, n.control
		if n.privilege && !n.cut && n.upstream.runs() {
			s.timeline = n.timeline
		}
	}
	return s
}

// answer is state, for the record.
func (w *world) answer(n *node, asked time.Time) fakeState {
	s := w.state(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	n.answers = append(n.answers, truth{asked, n.timeline, s.timeline, s.lsn, n.life})
	if len(n.answers) > 8 {
		n.answers = n.answers[1:]
	}
	return s
}

func (n *node) runs() bool { return !n.down && !n.frozen }

// live lets things happen for a while.
func (w *world) live(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.mu.Lock()
		nap := time.Duration(w.upto(uint64(300 * time.Millisecond)))
		for range 1 + len(w.nodes)/5 {
			w.happen(w.pick())
		}
		w.flow()
		refresh, change := w.chance(0.2), w.chance(0.1)
		n := w.pick()
		w.mu.Unlock()
		if refresh {
			w.bench.Refresh()
		}
		if change {
			w.change(n)
		}
		time.Sleep(nap)
	}
}

// change makes a node a member, or no member any more. Some always remain, as an
// emptied herd knows nothing. It is called without the lock, which snapshots take.
func (w *world) change(n *node) {
	members := 0
	for _, o := range w.nodes {
		if o.member {
			members++
		}
	}
	switch {
	case !n.member:
		if err := w.bench.Add(n.fake.target(w.t)); err != nil {
			w.t.Error(err)
		}
	case members > 2:
		w.bench.Remove(n.fake.name)
	default:
		return
	}
	n.member = !n.member
	w.totals.Members++
}

// happen makes something happen to a node.
func (w *world) happen(n *node) {
	switch x := w.rng.IntN(100); {
	case x < 6:
		n.frozen = !n.frozen
	case x < 12:
		n.down = !n.down
		w.crash(n)
	case x < 18:
		n.cut = !n.cut
	case x < 24:
		n.delay = time.Duration(w.upto(uint64(400 * time.Millisecond)))
	case x < 28:
		n.delay = 0
	case x < 34:
		n.control = n.timeline // a restartpoint
	case x < 36 && n.standby && n.runs():
		w.promote(n)
	case x < 50:
		if up := w.pick(); up != n && !up.standby && up.runs() && !n.down {
			w.follow(n, up)
		}
	default: // recover, so that most nodes run most of the time
		n.frozen, n.down, n.cut = false, false, false
	}
}

// crash costs a primary what it had not flushed, and makes a standby replay
// from its last restartpoint.
func (w *world) crash(n *node) {
	was := n.inserted
	if n.standby {
		was = n.lsn
		n.lsn -= w.upto(n.lsn - max(mb, w.lines[n.timeline].fork))
	}
	n.inserted = n.lsn
	n.life++
	if n.inserted < was {
		w.totals.Lost++
	}
	if !n.standby {
		n.xid, n.async = n.flushedXID, time.Time{} // the next ones get the same IDs
		marks := w.lines[n.timeline].marks
		for i := range marks {
			marks[i].lsn = min(marks[i].lsn, n.lsn)
		}
	}
}

func (w *world) promote(n *node) {
	w.totals.Promoted++
	w.lines = append(w.lines, &line{parent: n.timeline, fork: n.lsn})
	n.standby, n.upstream = false, nil
	n.timeline = uint32(len(w.lines) - 1)
	n.lsn += 48 // the end-of-recovery record
	n.inserted = n.lsn
	w.commit(n)
	n.flush()
}

// follow makes n a standby of up: by a restart if its log is one with up's,
// else as a new copy.
func (w *world) follow(n, up *node) {
	if !n.standby || !w.on(up.timeline, n.timeline, n.lsn) {
		was := n.lsn
		n.lsn = up.lsn - w.upto(up.lsn-max(mb, w.lines[up.timeline].fork))
		n.timeline = up.timeline
		n.control = up.timeline
		n.life++
		if n.lsn < was {
			w.totals.Lost++
		}
	}
	n.standby, n.upstream, n.cut = true, up, false
}

// on reports whether position lsn of timeline tl is in the history of timeline
// of.
func (w *world) on(of, tl uint32, lsn uint64) bool {
	return of == tl || w.descends(of, tl) && lsn <= w.fork(of, tl)
}

// descends reports whether timeline of was forked from tl, at any remove.
func (w *world) descends(of, tl uint32) bool {
	for of > tl {
		of = w.lines[of].parent
	}
	return of == tl
}

// fork returns where the history of timeline of left timeline tl, its ancestor.
func (w *world) fork(of, tl uint32) uint64 {
	for w.lines[of].parent != tl {
		of = w.lines[of].parent
	}
	return w.lines[of].fork
}

// commit ends a transaction, whose log is inserted.
func (w *world) commit(n *node) {
	l := w.lines[n.timeline]
	l.marks = append(l.marks, mark{time.Now(), n.inserted})
	n.xid++
	if n.async.IsZero() {
		n.async = time.Now()
	}
}

// flush flushes all that is inserted.
func (n *node) flush() { n.lsn, n.flushedXID, n.async = n.inserted, n.xid, time.Time{} }

// flow writes on the primaries, and lets the standbys replay.
func (w *world) flow() {
	for _, n := range w.nodes {
		if n.standby || !n.runs() {
			continue
		}
		switch x := w.rng.IntN(10); {
		case x < 3: // idle
		case x < 6: // open transactions
			n.inserted += w.upto(100_000)
		default:
			n.inserted += w.upto(100_000)
			w.commit(n)
			if w.chance(0.6) {
				n.flush()
			}
		}
		// The WAL writer flushes commits in time, and all else when it likes to.
		if !n.async.IsZero() && time.Since(n.async) > 300*time.Millisecond || w.chance(0.1) {
			n.flush()
		}
	}
	for _, n := range w.nodes {
		if !n.standby || !n.runs() || n.cut {
			continue
		}
		up := n.upstream
		if up.standby || !up.runs() || !w.on(up.timeline, n.timeline, n.lsn) || up.lsn < n.lsn {
			continue
		}
		before := n.lsn
		if n.lsn += w.upto(up.lsn - n.lsn); w.chance(0.8) {
			n.lsn = up.lsn
		}
		if n.lsn > before && n.lsn > w.lines[up.timeline].fork {
			n.timeline = up.timeline
		}
		l := w.lines[n.timeline]
		if last := len(l.shown) - 1; n.lsn > before && (last < 0 || n.lsn > l.shown[last].lsn) {
			l.shown = append(l.shown, mark{time.Now(), n.lsn})
		}
	}
}

// before returns the position of the last mark before t, of marks of a timeline.
func (w *world) before(tl uint32, marks []mark, t time.Time) uint64 {
	for i := len(marks) - 1; i >= 0; i-- {
		if marks[i].at.Before(t) {
			return marks[i].lsn
		}
	}
	return w.lines[tl].fork
}

// check holds a snapshot to the truth.
func (w *world) check(s Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if told, all := told(s.Servers); all {
		w.elected = min(w.elected, told) // nobody is left who has heard of a later one
	}
	if s.Primary >= 0 {
		p := s.Servers[s.Primary]
		if p.Standby || p.Timeline < w.elected {
			w.t.Errorf("timeline %d elected after timeline %d", p.Timeline, w.elected)
		}
		w.elected, w.following = p.Timeline, p.Timeline
	}
	for i, st := range s.Servers {
		n := w.byName[st.Name]
		if st.Err == nil && !st.Answered.IsZero() {
			key, is := life{n, st.Since}, n.said(st.Answered).life
			if was, known := w.lives[key]; known && was != is {
				w.t.Errorf("%s has restarted, and is said to have run since %v", st.Name, st.Since)
			}
			w.lives[key] = is
		}
		if st.Err == nil && !st.Standby && i != s.Primary && !st.Answered.IsZero() && s.Primary >= 0 {
			w.t.Errorf("%s claims to be a primary, is not elected, and has no error", st.Name)
		}
		if st.Err != nil && st.Failures == 0 {
			w.totals.Stale++
		}
		if st.Fresh.IsZero() || i == s.Primary {
			continue
		}
		if st.Fresh.After(time.Now()) || !st.Standby {
			w.t.Errorf("%s is fresh as of %v", st.Name, st.Fresh)
		}
		tr, l := n.said(st.Answered), w.lines[w.following]
		if l == nil {
			continue // the only primary so far left before all had answered: no snapshot has named it
		}
		need := w.before(w.following, l.marks, st.Fresh)
		if st.Shows.After(st.Fresh) {
			w.t.Errorf("%s shows all of a later time than it is fresh as of", st.Name)
		}
		if !st.Shows.IsZero() {
			need = max(need, w.before(w.following, l.shown, st.Shows))
		}
		switch {
		case w.on(w.following, tr.timeline, tr.lsn) && tr.lsn >= need:
			w.totals.Proven++
			if s.Primary >= 0 && s.Servers[s.Primary].Committed < s.Servers[s.Primary].LSN && time.Since(st.Fresh) < time.Second {
				w.totals.Open++
			}
		case w.on(tr.timeline, w.following, need) && tr.lsn >= need:
			w.totals.Proven++ // gone on to a later timeline that has it all
		case tr.told < tr.timeline && tr.told == w.following:
			w.totals.Hidden++
		default:
			w.t.Errorf("%s, at %d on timeline %d (it says %d), is called fresh as of %v and shows all of %v: timeline %d had got to %d",
				st.Name, tr.lsn, tr.timeline, tr.told, st.Fresh, st.Shows, w.following, need)
		}
	}
}

// told returns the highest timeline that servers tell, and whether all of them
// answer.
func told(servers []Status) (highest uint32, all bool) {
	for _, st := range servers {
		if st.Failures > 0 || st.Answered.IsZero() {
			return 0, false
		}
		highest = max(highest, st.Timeline)
	}
	return highest, true
}

// said returns the truth about the answer to the question sent at a time.
func (n *node) said(asked time.Time) truth {
	for _, tr := range n.answers {
		if tr.asked.Equal(asked) {
			return tr
		}
	}
	panic("an answer that was never given")
}

// settle repairs all and sees that the prober finds it out: the one primary of
// the highest timeline, and the others fresh.
func (w *world) settle() {
	w.mu.Lock()
	last := uint32(len(w.lines) - 1)
	var primary *node
	for _, n := range w.nodes {
		n.frozen, n.down, n.cut, n.delay = false, false, false, 0
		if !n.standby && n.timeline == last {
			primary = n
		}
	}
	if primary == nil { // rebuilt since: what it wrote is lost for good
		for _, n := range w.nodes {
			if n.standby {
				w.promote(n)
				primary = n
				break
			}
		}
	}
	if primary == nil {
		w.mu.Unlock()
		return
	}
	primary.flush()
	for i, n := range w.nodes {
		// Some of the old primaries go on as if nothing had happened.
		if n.standby || i%2 == 0 && n != primary {
			w.follow(n, primary)
			n.timeline, n.control, n.lsn = primary.timeline, primary.timeline, primary.lsn
		}
	}
	w.mu.Unlock()
	for _, n := range w.nodes {
		if !n.member {
			w.change(n)
		}
	}

	s := w.bench.after(4 * time.Second)
	if len(s.Servers) != len(w.nodes) || s.Primary < 0 || w.byName[s.Servers[s.Primary].Name] != primary {
		w.t.Fatalf("primary is %d, want %s: %+v", s.Primary, primary.fake.name, s.Servers)
	}
	for i, st := range s.Servers {
		switch {
		case w.byName[st.Name].standby:
			if age := time.Since(st.Fresh); st.Err != nil || age > time.Second || st.LagBytes != 0 {
				w.t.Errorf("%s is %v old, lag %d, error %v", st.Name, age, st.LagBytes, st.Err)
			}
		case i != s.Primary && st.Err == nil:
			w.t.Errorf("%s claims to be a primary and has no error", st.Name)
		}
	}
}
