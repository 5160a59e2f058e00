package pgherd

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// learn takes what the probe found. Snapshots of the probe have only the
// servers that it asks; those whose role is believed come in between.
func (c *Connector) learn(asked lagprobe.Snapshot) {
	snap := lagprobe.Snapshot{Servers: make([]lagprobe.Status, len(c.servers)), Primary: -1}
	n := 0
	for i, s := range c.servers {
		if s.believed != routing.Unknown {
			continue
		}
		if n == asked.Primary {
			snap.Primary = i
		}
		snap.Servers[i] = asked.Servers[n]
		n++
	}
	c.publish(snap)
	for i, s := range c.servers {
		// What waits for a server that does not answer moves on. Not from the
		// primary: a write that waits could not. An error is an answer, too,
		// such as having no connection left for the probe.
		var answer *pgconn.PgError
		if i != snap.Primary && snap.Servers[i].Failures > 0 && !errors.As(snap.Servers[i].Err, &answer) {
			s.sockets.cut()
		}
	}
}

// publish makes a view of a snapshot and replaces the current one.
func (c *Connector) publish(snap lagprobe.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.snapshot = snap
	c.republishLocked()
}

// suspect takes a server out of the choice for reads, because a statement met
// a failure of it, until the probe has asked it again.
func (c *Connector) suspect(server int) {
	s := c.servers[server]
	s.failures.Add(1)
	if s.believed != routing.Unknown {
		return // nobody would ever clear it
	}
	s.failed.Store(int64(c.now()))
	if c.view.Load().Servers[server].Up {
		c.mu.Lock()
		c.republishLocked()
		c.mu.Unlock()
	}
	c.refresh()
}

// refresh has the probe ask now. It does not wait and is cheap to call often.
func (c *Connector) refresh() {
	if p := c.prober.Load(); p != nil {
		p.Refresh()
	}
}

// republishLocked makes the current view anew, from the last snapshot and from
// what statements have met since, and wakes those who wait for one.
func (c *Connector) republishLocked() {
	snap := c.mu.snapshot
	v := &routing.View{
		Servers: make([]routing.Server, len(c.servers)),
		Primary: snap.Primary,
		Policy: routing.Policy{
			Preference:  c.cfg.ReadPreference,
			Balance:     c.cfg.LoadBalanceHosts,
			MaxLag:      c.cfg.MaxLag,
			MaxLagBytes: c.cfg.MaxLagBytes,
			LagUnknown:  c.cfg.LagUnknown,
			NoFallback:  c.cfg.ReplicaFallback == FallbackError,
		},
	}
	if c.onlyPrimary() && v.Preference != routing.Shadow {
		v.Preference = routing.OnlyPrimary
	}
	for i, s := range c.servers {
		if s.believed != routing.Unknown {
			v.Servers[i] = s.asBelieved()
			if s.believed == routing.Primary {
				v.Primary = i
			}
			continue
		}
		v.Servers[i] = c.asAsked(s, &snap.Servers[i], i == snap.Primary)
	}
	if v.Primary >= 0 && snap.Primary == v.Primary {
		v.Asked = c.instant(snap.Servers[v.Primary].Answered)
	}
	if v.Preference == routing.Shadow {
		c.rehearsal.stage(v, c.onlyPrimary())
		v.Balance = routing.Random // whose turn it is matters in the rehearsal
	}
	c.view.Store(v)
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
}

// onlyPrimary reports whether no read may run on a replica, whatever
// read_preference says. A standby refuses serializable transactions, and with
// this default every statement is one.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CAVEATS
func (c *Connector) onlyPrimary() bool {
	return c.cfg.Consistency == ConsistencyPrimary || strings.EqualFold(c.cfg.Params["default_transaction_isolation"], "serializable")
}

func (s *server) asBelieved() routing.Server {
	return routing.Server{Name: s.name, Role: s.believed, Up: true, Fresh: math.MaxInt64, Weight: s.weight}
}

func (c *Connector) asAsked(s *server, st *lagprobe.Status, primary bool) routing.Server {
	rs := routing.Server{
		Name:     s.name,
		Up:       !st.Asked.IsZero() && st.Err == nil && int64(c.instant(st.Asked)) > s.failed.Load(),
		Fresh:    c.instant(st.Fresh),
		LagBytes: st.LagBytes,
		Weight:   s.weight,
	}
	switch {
	case primary:
		rs.Role = routing.Primary
	case errors.Is(st.Err, lagprobe.ErrForeignCluster):
		// Not down, which would leave it a last resort: it has other data.
	case !st.Answered.IsZero() && st.Standby:
		rs.Role = routing.Replica
	}
	return rs
}

// await asks the servers and waits until the view is as ok wants it, or until
// all of them have answered or failed to. It reports whether ok was satisfied.
func (c *Connector) await(ctx context.Context, ok func(*routing.View) bool) bool {
	if c.prober.Load() == nil {
		return ok(c.view.Load())
	}
	begun := time.Now()
	c.refresh()
	// A question takes no longer than its timeout, but may have to wait for
	// one that is under way.
	limit := time.NewTimer(3 * c.cfg.LagCheckTimeout)
	defer limit.Stop()
	for {
		c.mu.Lock()
		snap, changed := c.mu.snapshot, c.mu.changed
		c.mu.Unlock()
		if ok(c.view.Load()) {
			return true
		}
		if allAsked(c.servers, snap, begun) {
			return false
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// allAsked reports whether the last question to every server was sent after t.
func allAsked(servers []*server, snap lagprobe.Snapshot, t time.Time) bool {
	for i, s := range servers {
		if s.believed == routing.Unknown && snap.Servers[i].Asked.Before(t) {
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
	snap := c.mu.snapshot
	c.mu.Unlock()
	e := &RouteError{Op: op.String(), Reason: why}
	for i := range snap.Servers {
		if err := snap.Servers[i].Err; err != nil {
			e.Causes = append(e.Causes, err)
		}
	}
	return e
}
