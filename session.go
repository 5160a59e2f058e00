package pgherd

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A Session is what its statements have written and read, as far as later ones
// must know it: under its context, through whatever connections of whatever
// handles, a read sees every write that was acknowledged in the session before
// the read began, and never less than an earlier read showed.
//
// Such a read runs on a replica that is known to be as far, or else waits up to
// consistency_timeout for one, or else runs on the primary. The writes pay
// nothing for that: a replica holds a write once it has replayed a position of
// the primary that was asked for after it.
//
// A Session is safe for concurrent use. One that lives long costs nothing; one
// for each request of a user is what it is made for.
type Session struct {
	resumed resumption // immutable

	mu    sync.Mutex
	pasts []*past // guarded by mu; one for each herd that a statement ran on
}

// NewSession returns a context under which statements are a [Session] of their
// own, whether or not ctx has one.
//
//	ctx = pgherd.NewSession(ctx)
func NewSession(ctx context.Context) context.Context {
	return withHints(ctx, func(h *hints) { h.session = new(Session) })
}

// ResumeSession returns a context under which statements go on with the session
// that token was made in, by this or another process: see [Session.Token]. An
// empty token begins a new session.
//
// The session's reads are the primary's alone if the token is of another
// cluster, or if another server was promoted since: the writes that it stands
// for may be lost, and only the primary tells. The same holds if the token
// cannot be read, which is an error; the context is of use all the same.
func ResumeSession(ctx context.Context, token string) (context.Context, error) {
	r, err := parseToken(token)
	return withHints(ctx, func(h *hints) { h.session = &Session{resumed: r} }), err
}

// SessionFromContext returns the session of ctx, or nil if it has none.
func SessionFromContext(ctx context.Context) *Session { return hintsOf(ctx).session }

// Token returns what another process needs to go on with the session by
// [ResumeSession]: the position in the log that its writes and reads have
// reached, with the cluster and the timeline that it is one of. It is short,
// holds letters, digits, "-" and "_" only, and is empty while there is nothing
// to see. It tells no data, and whoever makes one up can only make reads slower;
// package sessionhttp signs it all the same.
//
// Token does not wait. As long as the position of the last write is not known,
// which takes the next question of the probe, the token stands for all that was
// committed when it is resumed. That is no less than the session must see.
//
// A nil Session has an empty token.
func (s *Session) Token() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	pasts := s.pasts
	s.mu.Unlock()
	var marks []mark
	for _, p := range pasts {
		if m, ok := p.mark(); ok {
			marks = append(marks, m)
		}
	}
	if len(pasts) == 0 {
		marks = s.resumed.marks // nothing has happened to them
	}
	return formatToken(marks)
}

// Wrote reports whether a statement of the session may have written anything, or
// has taken a lock, since it was begun or resumed. It is false for a nil Session.
func (s *Session) Wrote() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pasts {
		if p.hasWritten() {
			return true
		}
	}
	return false
}

// on returns what the session knows of a herd.
func (s *Session) on(c *Connector) *past {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pasts {
		if p.c == c {
			return p
		}
	}
	p := s.resumed.past(c)
	s.pasts = append(s.pasts, p)
	return p
}

// A sight is what a read has shown: all that a server held at a time.
type sight struct {
	on   *server         // nil for the primary, or several servers
	life routing.Instant // of on, when it was chosen: picture.since
	at   routing.Instant // zero for none

	// early says that a standby has shown it, and that the primary need not have
	// done so since: see shown.go.
	early bool
}

// sight puts s into the terms of p.
func (p *picture) sight(s sight) routing.Sight {
	r := routing.Sight{At: s.at}
	if s.on == nil {
		return r
	}
	i := p.index(s.on)
	if i < 0 || p.since[i] != s.life {
		return r // it may have lost some of what it had
	}
	r.Server = i + 1
	if p.answered[i] > s.at {
		r.LSN = p.Servers[i].LSN // it had come no further when it was read
	}
	return r
}

// A past is what has happened in a session on one herd.
type past struct {
	c *Connector

	mu      sync.Mutex
	written bool            // since the session was begun or resumed
	wrote   routing.Instant // the last write's; routing.Unreachable where only the primary can tell
	lsn     uint64          // of what wrote stands for; zero where it is not known
	of      lineage         // of the log that wrote is in
	saw     sight           // what reads have shown
	version uint64          // counts the changes of saw
}

// A lineage names a log: a cluster and one of its timelines. Positions of
// different ones cannot be compared.
type lineage struct {
	systemID uint64
	timeline uint32
}

func (p *picture) lineage() lineage { return lineage{p.systemID, p.timeline} }

// recall tells t what its decisions must know.
func (h *past) recall(t *trip, p *picture) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkLocked(p)
	if h.wrote > t.Wrote {
		t.Wrote, t.WroteLSN = h.wrote, h.lsn
	}
	t.seen[0], t.version = h.saw, h.version
}

// checkLocked gives up on a position once its log has come to its end.
func (h *past) checkLocked(p *picture) {
	if h.lsn != 0 && h.of != p.lineage() {
		h.wrote, h.lsn = routing.Unreachable, 0
	}
}

// noteWrite notes a write that was acknowledged by the time at.
func (h *past) noteWrite(at routing.Instant, p *picture) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.written = true
	h.checkLocked(p)
	if at > h.wrote {
		h.wrote, h.lsn, h.of = at, 0, p.lineage()
	}
}

// unordered is no version of a past: nobody knows what was read since the server
// of a read was chosen.
const unordered = math.MaxUint64

// noteRead notes a read whose server was chosen at version.
//
// What it showed is no less than what reads had shown before its server was
// chosen, and so stands for them too. Not so with reads since then: a transaction
// may be on a replica that another one has overtaken.
func (h *past) noteRead(s sight, version uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if version != h.version {
		if h.saw.on != s.on || h.saw.life != s.life {
			s.on = nil
		}
		s.early = s.early || h.saw.early
	}
	s.at = max(s.at, h.saw.at)
	h.saw = s
	h.version++
}

func (h *past) hasWritten() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.written
}

// mark returns what a token holds of h.
func (h *past) mark() (mark, bool) {
	p := h.c.view.Load()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkLocked(p)
	m := mark{lineage: h.of}
	switch {
	case h.wrote == 0 && h.saw.at == 0:
		return m, false
	case h.wrote == 0:
		m.lineage = p.lineage()
	case h.wrote == routing.Unreachable:
		return m, true // of no log: the next process cannot tell either
	case h.lsn == 0 && p.Primary >= 0 && p.answered[p.Primary] > h.wrote && h.of == p.lineage():
		h.lsn = p.Servers[p.Primary].LSN
		m.lsn = h.lsn
	default:
		m.lsn = h.lsn
	}
	m.wrote = h.wrote != 0
	if m.wrote && m.lsn == 0 {
		h.c.refresh() // the next token can have it
	}
	m.read = h.saw.at != 0
	if h.saw.on != nil {
		m.server = h.saw.on.name
	}
	return m, true
}

// enter has the statements of this checkout belong to the session of ctx.
func (cn *Conn) enter(ctx context.Context) {
	if s := hintsOf(ctx).session; s != nil {
		cn.past = s.on(cn.c)
	} else if !cn.holds() {
		cn.past = nil
	}
}

// noteRead remembers what k, which server i of p has answered, has shown; a
// negative i stands for one that left the herd. version is that of the session
// when k's server was chosen, or unordered.
func (cn *Conn) noteRead(k *call, p *picture, i int, version uint64) {
	onReplica := i >= 0 && p.Servers[i].Role == routing.Replica
	if k.op == opPrepare || k.op == opPing || !onReplica && k.st.Class != routing.Read {
		return
	}
	var s sight
	if onReplica {
		// When it was read is not asked for: the checkout may well end with it,
		// and the next trip has a time that is late enough.
		s = sight{on: p.servers[i], life: p.since[i], early: true}
		cn.saw = s
		if cn.past == nil {
			return
		}
	}
	s.at = cn.c.now()
	if !onReplica {
		cn.saw = s
	}
	if cn.past != nil {
		cn.past.noteRead(s, version)
	}
}

// A resumption is what a token tells, and when it was told.
type resumption struct {
	marks []mark
	at    time.Time // zero for a new session
}

// past returns what r tells of a herd.
func (r *resumption) past(c *Connector) *past {
	h := &past{c: c}
	if r.at.IsZero() {
		return h
	}
	p, at := c.view.Load(), c.instant(r.at)
	for _, m := range r.marks {
		if m.lineage != p.lineage() || m.timeline == 0 {
			continue
		}
		if m.wrote {
			h.wrote, h.lsn, h.of = at, m.lsn, m.lineage
		}
		if m.read {
			h.saw.at, h.saw.early = at, true
			for i, s := range p.servers {
				if s.name == m.server && p.Servers[i].Role == routing.Replica {
					h.saw.on, h.saw.life = s, p.since[i]
				}
			}
		}
		return h
	}
	h.wrote = routing.Unreachable
	return h
}
