package replay

import (
	"slices"
	"time"
)

// A Lag is replicas that come later than they did when it was recorded: after a write,
// a read that a replica answers has the result that it had before. That is the one of
// the same statement with the same arguments that comes last before the write in the
// fixture, from whatever server. A read that was recorded on the primary, or where
// that is not known, is answered as ever, and so is one whose result before the write
// is not recorded.
//
//	db := replay.Open(t, replay.WithLag(replay.Lag{
//		After: replay.Statement("UPDATE carts SET total = $1 WHERE id = $2"),
//		For:   2 * time.Second,
//	}))
//
// What a late replica answers is not what was recorded: a read on its own may be made
// again to get that, as code does that waits for its write, and need not be.
type Lag struct {
	// After tells which writes begin it; nil means an exec, and COPY FROM STDIN. It
	// is called as the On of a [Fault] is. A write in a transaction begins it with
	// the commit.
	After func(*Call) bool
	// For is how long it lasts from then on. It is the time of the bubble in one of
	// testing/synctest.
	For time.Duration
	// Reads is how many reads are answered late. Where For is zero they alone end it,
	// and zero means one; else zero means any number.
	Reads int
}

// WithLag has replicas be late when the fixture is replayed. One that is never seen, as
// nothing was read that it could make late, is no error.
func WithLag(lags ...Lag) Option {
	return func(c *config) { c.lags = append(c.lags, lags...) }
}

// A lag is a Lag, and how it goes on. It is guarded by the matcher's mu.
type lag struct {
	Lag
	write *Call // that it is of; nil before
	begun time.Time
	reads int // that it has made late
}

func (g *lag) begin(write *Call) { g.write, g.begun, g.reads = write, time.Now(), 0 }

// lasts reports whether g makes the next read late.
func (g *lag) lasts() bool {
	limit := g.Reads
	if g.For <= 0 {
		limit = max(limit, 1)
	}
	return g.write != nil && (limit == 0 || g.reads < limit) && (g.For <= 0 || time.Since(g.begun) < g.For)
}

// A pending is a write of an open transaction that begins a lag.
type pending struct {
	lag   *lag
	write *Call
}

// noteWrite begins the lags that are after c, which l has just made.
func (m *matcher) noteWrite(l *live, c *Call) {
	if len(m.lags) == 0 {
		return
	}
	if !l.inTx {
		if c.Op == OpCommit && c.Error == nil {
			for _, p := range l.pending {
				p.lag.begin(p.write)
			}
		}
		l.pending = nil
	}
	if c.fails() || c.Error != nil {
		return
	}
	for _, g := range m.lags {
		switch {
		case g.After == nil && c.Op != OpExec && c.Op != OpCopyIn, g.After != nil && !g.After(c):
		case l.inTx:
			l.pending = append(l.pending, pending{g, c})
		default:
			g.begin(c)
		}
	}
}

// late returns what a replica that lags answers to a in place of the step s; nil if it
// has that by now.
func (m *matcher) late(s *step, a *ask) *Call {
	c := s.call
	if c.Op != OpQuery || c.Served.Role != "replica" || c.Error != nil {
		return nil
	}
	for _, g := range m.lags {
		if !g.lasts() || !m.precedes(g.write, c) {
			continue
		}
		before := m.lastBefore(g.write, s, a)
		if before == nil {
			continue
		}
		g.reads++
		was := *c
		was.Results, was.Line = before.Results, before.Line
		return &was
	}
	return nil
}

// each calls yield with all recorded calls in the order of the file.
func (m *matcher) each(yield func(*recorded, *step) bool) {
	for _, r := range m.recorded {
		for i := range r.steps {
			if !yield(r, &r.steps[i]) {
				return
			}
		}
	}
}

// precedes reports whether a comes before b in the file.
func (m *matcher) precedes(a, b *Call) bool {
	for _, s := range m.each {
		switch s.call {
		case a:
			return true
		case b:
			return false
		}
	}
	return false
}

// lastBefore returns the last recorded call before write that answers a, which s does
// too; nil if there is none.
func (m *matcher) lastBefore(write *Call, s *step, a *ask) *Call {
	var last *Call
	for _, o := range m.each {
		if o.call == write {
			break
		}
		if o.call != s.call && o.call.Op == OpQuery && o.call.Error == nil && o.alike(a) && m.accepts(o, a) {
			last = o.call
		}
	}
	return last
}

// sayLate answers a, which is the step at p of l's home, with what a replica that lags
// has, or returns nil.
func (m *matcher) sayLate(l *live, p place, a *ask) *Call {
	if len(m.lags) == 0 {
		return nil
	}
	r := l.home
	s := &r.steps[p.step]
	c := m.late(s, a)
	if c == nil {
		return nil
	}
	if len(r.steps) > 1 {
		m.say(l, p, a)
		return c
	}
	// It may come again, and need not.
	s.min = 0
	if len(l.said) == 0 {
		m.leave(l)
	}
	return c
}

// forgetWrites forgets writes that were taken back.
func (l *live) forgetWrites() {
	l.pending = slices.DeleteFunc(l.pending, func(p pending) bool {
		return !slices.ContainsFunc(l.said, func(s said) bool { return s.answer == p.write })
	})
}
