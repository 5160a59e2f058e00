package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// FromDB returns the herd behind a handle that was opened by
// sql.Open("pgherd", dsn) or sql.OpenDB, for Explain, Stats and Health. It
// takes a virtual connection out of db for a moment. It is an error if db is
// not a herd's, or if a wrapper around the driver hides it.
func FromDB(ctx context.Context, db *sql.DB) (*Connector, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var c *Connector
	err = conn.Raw(func(dc any) error {
		cn, ok := dc.(*Conn)
		if !ok {
			return fmt.Errorf("pgherd: FromDB: the handle's connections are %T, not *pgherd.Conn", dc)
		}
		c = cn.c
		return nil
	})
	return c, err
}

// An Explanation says what becomes of a text, and why.
type Explanation struct {
	Class       string   `json:"class"`             // read, write, session, txn or unclassified
	Reason      string   `json:"reason"`            // why it has its class
	Because     string   `json:"because,omitempty"` // the name that decided, if one did, and what is behind it
	Pins        bool     `json:"pins,omitempty"`
	Functions   []string `json:"functions"`
	Relations   []string `json:"relations"`
	Server      string   `json:"server,omitempty"` // what would be picked now; empty for none
	RouteReason string   `json:"route_reason"`     // why it would be picked, or why none is

	// With read_preference=shadow: what would be picked under prefer-standby.
	Shadow       string `json:"shadow,omitempty"`
	ShadowReason string `json:"shadow_reason,omitempty"`
}

// Explain says how sql would be routed now, outside a transaction and under
// the hints of ctx. It sends nothing, and before the first Connect it knows
// nothing of the servers. What the names in sql stand for it knows only after
// sql, or another text with these names, was run or given to
// [Connector.ReadCatalog].
func (c *Connector) Explain(ctx context.Context, sql string) Explanation {
	st := c.classify(sql)
	p := c.view.Load()
	cn := &Conn{c: c}
	cn.enter(ctx)
	k := &call{st: st}
	t := cn.trip(ctx, k)
	d := cn.plan(k, &t, p)
	e := Explanation{
		Class:       st.Class.String(),
		Reason:      st.Reason.String(),
		Because:     st.Because,
		Pins:        st.Pins,
		Functions:   append([]string{}, st.Functions...),
		Relations:   append([]string{}, st.Relations...),
		RouteReason: d.Reason.String(),
	}
	if s := p.chosen(d); s != nil {
		e.Server = s.name
	}
	if p.rehearsal != nil {
		d := cn.decide(st, &t, p.rehearsed())
		e.ShadowReason = d.Reason.String()
		if s := p.chosen(d); s != nil {
			e.Shadow = s.name
		}
	}
	return e
}

// Stats are the counters of a herd since it was made.
type Stats struct {
	Servers []ServerStats

	// Retries counts attempts after the first: on another connection, on
	// another server.
	Retries uint64
	// Misroutes counts statements that looked like reads and that a standby
	// refused. Those outside a transaction, of which no row had been delivered,
	// then ran on the primary; the others failed. Each text, whatever its
	// values, is remembered: a count that grows for long means texts that
	// differ.
	Misroutes uint64
	// Unclassified counts statements that ran, on the primary, although their
	// text could not be read.
	Unclassified uint64
	// ShadowFailed counts, under read_preference=shadow, statements that would
	// have failed for want of a server, because of replica_fallback=error.
	ShadowFailed uint64
	// Unknowns counts reads that named something a replica did not know, and
	// that then ran on the primary.
	Unknowns uint64
}

// ServerStats are the counters of one server.
type ServerStats struct {
	Name string
	Role routing.Role // as of now

	// Decisions counts statements run on the server, BEGIN among them, by the
	// reason for choosing it.
	Decisions map[routing.Reason]uint64
	// Shadow counts, under read_preference=shadow, what Decisions would count
	// under prefer-standby. It is nil otherwise.
	Shadow map[routing.Reason]uint64
	// Failures counts connection failures that statements met.
	Failures uint64
	// InFlight is the number of statements and transactions that use the
	// server or wait for one of its connections now.
	InFlight int64
	// Pool tells of the physical connections.
	Pool sql.DBStats
}

// Total returns the number of statements run on the server.
func (s ServerStats) Total() uint64 {
	var n uint64
	for _, d := range s.Decisions {
		n += d
	}
	return n
}

// Stats returns the counters. They are read one after the other, while
// statements run.
func (c *Connector) Stats() Stats {
	p := c.view.Load()
	st := Stats{
		Retries:      c.retries.Load(),
		Misroutes:    c.misroutes.Load(),
		Unclassified: c.unclassified.Load(),
		ShadowFailed: c.rehearsal.failed.Load(),
		Unknowns:     c.unknowns.Load(),
	}
	for i, s := range p.servers {
		ss := ServerStats{
			Name:      s.name,
			Role:      p.Servers[i].Role,
			Decisions: counted(&s.decisions),
			Failures:  s.failures.Load(),
			InFlight:  s.inFlight.Load(),
		}
		if c.begun.Load() {
			ss.Pool = s.db.Stats()
		}
		if p.rehearsal != nil {
			ss.Shadow = counted(&s.shadow)
		}
		st.Servers = append(st.Servers, ss)
	}
	return st
}

// counted returns the counters that are not zero.
func counted(counters *[routing.NumReasons]atomic.Uint64) map[routing.Reason]uint64 {
	m := make(map[routing.Reason]uint64)
	for r := range counters {
		if n := counters[r].Load(); n > 0 {
			m[routing.Reason(r)] = n
		}
	}
	return m
}

// Health is what is known of the servers. It is gathered in the background:
// asking for it costs no round trip.
type Health struct {
	Servers []ServerHealth

	// CatalogErr is why the catalogue could not be read lately, or nil. Until it
	// can, statements with names that are not known run on the primary.
	CatalogErr error
}

// ServerHealth is what is known of one server.
type ServerHealth struct {
	Name string
	Role routing.Role
	Up   bool // it answered when it was last asked

	// Lag is how stale a read on the replica can be at most, the age of the
	// last question included; LagKnown is false where nothing is known. A
	// primary has none.
	Lag      time.Duration
	LagBytes int64 // log not yet replayed when last asked; -1 if unknown
	LagKnown bool

	Asked   time.Time // when it was last asked; zero for never
	Version int       // server_version_num; 0 if unknown
	Err     error     // why it is not up
}

// Ready returns nil if the herd can serve reads and writes: the primary
// answers. Replicas that are missing do not make it less ready, since the
// primary serves in their place.
func (h Health) Ready() error {
	var errs []error
	for _, s := range h.Servers {
		if s.Role == routing.Primary && s.Up {
			return nil
		}
		if s.Err != nil {
			errs = append(errs, s.Err)
		}
	}
	return fmt.Errorf("pgherd: no primary answers: %w", errors.Join(errs...))
}

// Health returns what is known of the servers now. Before the first Connect
// nothing is.
func (c *Connector) Health() Health {
	c.mu.Lock()
	p := c.view.Load()
	status := make([]lagprobe.Status, len(p.servers))
	for i, s := range p.servers {
		status[i] = s.status
	}
	c.mu.Unlock()
	now := c.now()
	var h Health
	if k := c.names.Load(); k != nil {
		h.CatalogErr = k.Err()
	}
	for i, rs := range p.Servers {
		st := &status[i]
		sh := ServerHealth{
			Name:     rs.Name,
			Role:     rs.Role,
			Up:       rs.Up,
			LagBytes: rs.LagBytes,
			Asked:    st.Asked,
			Version:  st.Version,
			Err:      st.Err,
		}
		switch {
		case rs.Role == routing.Primary || p.servers[i].believed != routing.Unknown:
			sh.LagBytes, sh.LagKnown = 0, true
		case rs.Fresh > 0:
			sh.Lag, sh.LagKnown = max(now.Sub(rs.Fresh), 0), true
		}
		h.Servers = append(h.Servers, sh)
	}
	return h
}
