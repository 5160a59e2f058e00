package pgherd

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// A picture is the herd at one time: the [routing.View] that decisions are made
// on, and the servers that its indexes stand for. It is immutable once
// published, and an index means nothing in another picture.
type picture struct {
	routing.View
	servers []*server

	// rehearsal is the view that read_preference=shadow rehearses on; nil
	// otherwise.
	rehearsal *routing.View

	ejected bool // one of the servers is

	// lost reports that the primary does not answer, as opposed to answering
	// with an error: what must run there had better wait.
	lost bool

	late bool // a server has not answered in time, or starts

	answered []routing.Instant // when each server was last asked with success; zero for never
	since    []routing.Instant // names the life of each server that answered: see lagprobe.Sample.Since

	systemID uint64 // of the herd's cluster; zero if unknown
	timeline uint32 // of the primary, the last one if there is none; zero if unknown
}

var _ routing.Load = (*picture)(nil)

// InFlight implements [routing.Load].
func (p *picture) InFlight(server int) int64 { return p.servers[server].inFlight.Load() }

// Latency implements [routing.Load].
func (p *picture) Latency(server int) time.Duration {
	return time.Duration(p.servers[server].latency.Load())
}

// index returns where s is in the picture, or -1 if it left the herd.
func (p *picture) index(s *server) int { return slices.Index(p.servers, s) }

// role returns what s is, as far as the picture tells.
func (p *picture) role(s *server) routing.Role {
	if i := p.index(s); i >= 0 {
		return p.Servers[i].Role
	}
	return routing.Unknown
}

// learn takes what the probe found.
func (c *Connector) learn(snap lagprobe.Snapshot) {
	c.mu.Lock()
	old := c.mu.primary
	c.mu.primary, c.mu.systemID, c.mu.timeline = nil, snap.SystemID, snap.Timeline
	asked := make(map[string]*lagprobe.Status, len(snap.Servers))
	for i := range snap.Servers {
		asked[snap.Servers[i].Name] = &snap.Servers[i]
	}
	var silent []*server
	for _, s := range c.mu.servers {
		st := asked[s.name]
		if s.believed != routing.Unknown || st == nil {
			continue
		}
		s.noteAnswer(st)
		if snap.Primary >= 0 && snap.Servers[snap.Primary].Name == s.name {
			c.mu.primary = s
		}
		if isSilent(st) {
			silent = append(silent, s)
		}
	}
	primary := c.mu.primary
	c.republishLocked()
	c.mu.Unlock()

	for _, s := range silent {
		// What waits for a server that does not answer moves on. On the
		// primary those are the reads alone: nobody knows what became of a
		// write.
		if s == primary {
			s.sockets.cutReads(errSilent)
			s.dropIdle()
		} else {
			s.cut(errSilent)
		}
	}
	if old != nil && old != primary {
		// It was replaced, if only by one that no more is known of than that a
		// standby follows it: what is committed there from now on is lost.
		old.cut(errReplaced)
	}
}

// noteAnswer takes the probe's latest word. Connector.mu is held.
func (s *server) noteAnswer(st *lagprobe.Status) {
	switch {
	case !st.Asked.After(s.status.Asked): // it tells of another server
	case st.Failures > 0:
		s.checkFailures.Add(1)
	default:
		s.checks.Observe(st.Took)
	}
	s.status = *st
}

// isSilent reports whether a server left the last question unanswered. An error
// is an answer, too, such as having no connection left for the probe, or that
// somebody terminated the probe's.
func isSilent(st *lagprobe.Status) bool {
	if st.Failures == 0 {
		return false
	}
	var answer *pgconn.PgError
	return !errors.As(st.Err, &answer) || answer.Code == "57P03" // cannot_connect_now: it starts or stops
}

// isLate reports whether a server left the last question unanswered in a way that
// often passes by itself: it took too long, or starts or stops.
func isLate(st *lagprobe.Status) bool {
	var timeout net.Error
	var answer *pgconn.PgError
	return errors.Is(st.Err, context.DeadlineExceeded) ||
		errors.As(st.Err, &timeout) && timeout.Timeout() ||
		errors.As(st.Err, &answer) && answer.Code == "57P03" // cannot_connect_now
}

// suspect takes a server out of the choice for reads, because a statement met
// a failure of it, until the probe has asked it again, or for longer if that
// happens again and again.
func (c *Connector) suspect(s *server) {
	s.failures.Add(1)
	if s.believed != routing.Unknown {
		return // nobody would ever clear it
	}
	s.failed.Store(int64(c.now()))
	c.mu.Lock()
	if s.up { // else it is the failure that another statement has met
		c.strikeLocked(s, whyFailing)
	}
	c.republishLocked()
	c.mu.Unlock()
	c.refresh()
}

// refresh has the probe ask now. It does not wait and is cheap to call often.
func (c *Connector) refresh() {
	if p := c.prober.Load(); p != nil {
		p.Refresh()
	}
}

// republishLocked makes the current picture anew, from what the probe found and
// from what statements have met since, and wakes those who wait for one.
func (c *Connector) republishLocked() {
	now := c.now()
	p := &picture{
		servers:  c.mu.servers,
		systemID: c.mu.systemID,
		timeline: c.mu.timeline,
		answered: make([]routing.Instant, len(c.mu.servers)),
		since:    make([]routing.Instant, len(c.mu.servers)),
		View: routing.View{
			Servers: make([]routing.Server, len(c.mu.servers)),
			Primary: -1,
			Policy: routing.Policy{
				Preference:  c.cfg.ReadPreference,
				Balance:     c.cfg.LoadBalanceHosts,
				MaxLag:      c.cfg.MaxLag,
				MaxLagBytes: c.cfg.MaxLagBytes,
				LagUnknown:  c.cfg.LagUnknown,
				NoFallback:  c.cfg.ReplicaFallback == FallbackError,
				Zone:        c.cfg.Zone,
			},
		},
	}
	if c.onlyPrimary() && p.Preference != routing.Shadow {
		p.Preference = routing.OnlyPrimary
	}
	for i, s := range p.servers {
		rs := &p.Servers[i]
		p.answered[i], p.since[i] = c.instant(s.status.Answered), c.instant(s.status.Since)
		*rs = routing.Server{Name: s.name, Zone: s.zone, Limit: int64(s.limit), Draining: s.draining.Load()}
		switch {
		case s.believed != routing.Unknown:
			rs.Role, rs.Up, rs.Fresh, rs.Shows = s.believed, true, math.MaxInt64, math.MaxInt64
			if s.believed == routing.Primary {
				p.Primary = i
			}
		case s == c.mu.primary:
			p.Primary = i
			c.mu.asked = p.answered[i]
			c.describe(rs, s, now)
			rs.Role = routing.Primary
			p.lost = !rs.Up && (isSilent(&s.status) || !s.askedSinceFailure(c))
		default:
			c.describe(rs, s, now)
		}
		p.late = p.late || s.believed == routing.Unknown && !rs.Draining && isLate(&s.status)
		rs.Weight = s.share(now, c.cfg.SlowStart)
		if rs.Role == routing.Primary {
			s.ejection = ejection{}
		}
		if rs.Role != routing.Unknown && rs.Role != s.role {
			if s.role != routing.Unknown {
				s.roleChanges.Add(1)
			}
			s.role = rs.Role
		}
	}
	p.markEjected()
	p.Asked = c.mu.asked
	if p.Preference == routing.Shadow {
		p.rehearsal = stage(&p.View, c.onlyPrimary())
		p.Balance = routing.Random // whose turn it is matters in the rehearsal
	}
	c.view.Store(p)
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
}

// describe fills in what the probe found out about s, and notes its return.
func (c *Connector) describe(rs *routing.Server, s *server, now routing.Instant) {
	st := &s.status
	rs.Up = !st.Asked.IsZero() && st.Err == nil && s.askedSinceFailure(c)
	if rs.Up && !s.up && s.wasUp {
		s.returned.Store(int64(now))
	}
	s.up, s.wasUp = rs.Up, s.wasUp || rs.Up
	rs.Fresh, rs.Shows = c.instant(st.Fresh), c.instant(st.Shows)
	rs.LSN, rs.LagBytes = st.Replayed, st.LagBytes
	switch {
	case errors.Is(st.Err, lagprobe.ErrForeignCluster):
		// Not down, which would leave it a last resort: it has other data.
	case !st.Answered.IsZero() && st.Standby:
		rs.Role = routing.Replica
	}
}

// askedSinceFailure reports whether the last question to s was sent after all
// failures that statements met. Connector.mu is held.
func (s *server) askedSinceFailure(c *Connector) bool {
	return int64(c.instant(s.status.Asked)) > s.failed.Load()
}

// onlyPrimary reports whether no read may run on a replica, whatever
// read_preference says. A standby refuses serializable transactions, and with
// this default every statement is one.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CAVEATS
func (c *Connector) onlyPrimary() bool {
	return c.cfg.Consistency == ConsistencyPrimary || strings.EqualFold(c.cfg.Params["default_transaction_isolation"], "serializable")
}

// impatience returns how often servers are asked while a statement waits for what
// they will say. A large herd is asked less often, as everybody waits when its
// primary is gone, and all servers are asked each time.
func impatience(servers int) time.Duration {
	return 25 * time.Millisecond * time.Duration(max(1, servers/10))
}

// await has the servers asked until the picture is as ok wants it, and reports
// whether it came to that. It gives up after d or, without one, when all
// servers have answered or failed to once more, and when ctx ends.
func (c *Connector) await(ctx context.Context, d time.Duration, ok func(*picture) bool) bool {
	if c.prober.Load() == nil {
		return ok(c.view.Load())
	}
	round := d <= 0
	if round {
		// A question takes no longer than its timeout, but may have to wait for
		// one that is under way.
		d = 3 * c.cfg.LagCheckTimeout
	}
	begun := time.Now()
	limit := time.NewTimer(d)
	defer limit.Stop()
	again := time.NewTicker(impatience(len(c.view.Load().servers)))
	defer again.Stop()
	c.refresh()
	for {
		c.mu.Lock()
		p, changed := c.view.Load(), c.mu.changed
		over := round && askedSince(c.mu.servers, begun)
		c.mu.Unlock()
		if ok(p) {
			return true
		}
		if over {
			return false
		}
		select {
		case <-changed:
		case <-again.C:
			c.refresh()
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// askedSince reports whether the last question to every server was sent after
// t. Connector.mu is held.
func askedSince(servers []*server, t time.Time) bool {
	for _, s := range servers {
		if s.believed == routing.Unknown && s.status.Asked.Before(t) {
			return false
		}
	}
	return true
}

// routeError says why there is no server for op, with what the servers said.
func (c *Connector) routeError(ctx context.Context, op op, why routing.Reason) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.closed.Load() {
		return ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routeErrorLocked(op.String(), why)
}

func (c *Connector) routeErrorLocked(op string, why routing.Reason) *RouteError {
	e := &RouteError{Op: op, Reason: why}
	for _, s := range c.mu.servers {
		if s.status.Err != nil {
			e.Causes = append(e.Causes, s.status.Err)
		}
	}
	return e
}
