package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pgherd/pgherd/internal/durations"
	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// FromDB returns the herd behind a handle that was opened by
// sql.Open("pgherd", dsn) or sql.OpenDB, for Explain, Stats and Health. It
// takes a virtual connection out of db for a moment. It looks into wrappers around
// the driver whose connections have a method Raw() driver.Conn, as otelsql's do. It
// is an error if db is not a herd's, if a wrapper hides it, or if there is none,
// since a recording is replayed.
func FromDB(ctx context.Context, db *sql.DB) (c *Connector, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	err = conn.Raw(func(dc any) error {
		cn, ok := unwrap(dc).(*Conn)
		if !ok {
			return fmt.Errorf("pgherd: FromDB: the handle's connections are %T, not *pgherd.Conn", dc)
		}
		c = cn.c
		return nil
	})
	return c, err
}

// unwrap returns the connection that wrappers are around.
func unwrap(dc any) any {
	for {
		switch w := dc.(type) {
		case interface{ Raw() driver.Conn }:
			dc = w.Raw()
		case sqlconn.Wrapper: // a recorder
			dc = w.Unwrap()
		default:
			return dc
		}
	}
}

// An Explanation says what becomes of a text, and why.
type Explanation struct {
	Class       string   `json:"class"`             // read, write, session, txn or unclassified
	Reason      string   `json:"reason"`            // why it has its class
	Because     string   `json:"because,omitempty"` // the name that decided, if one did, and what is behind it
	Pins        bool     `json:"pins,omitempty"`
	Functions   []string `json:"functions"`
	Relations   []string `json:"relations"`
	Server      string   `json:"server,omitempty"`  // what would be picked now; empty for none
	RouteReason string   `json:"route_reason"`      // why it would be picked, or why none is
	Ejected     []string `json:"ejected,omitempty"` // servers that serve badly and get no reads for now: see Health

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
	for i := range p.Servers {
		if p.Servers[i].Ejected {
			e.Ejected = append(e.Ejected, p.Servers[i].Name)
		}
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

	// Hedges counts, under hedge_after, reads for which a second server was
	// asked, and HedgesWon those that it answered first, or alone.
	// HedgesSuppressed counts reads that were slow, and for which there was no
	// second server: none was suitable or had room, or the budget was spent.
	Hedges, HedgesWon, HedgesSuppressed uint64

	// ConsistencyWaits counts reads that waited for a replica to hold what their
	// own session had written or seen, or for the primary to show what a replica
	// had, and ConsistencyTimeouts those of them that waited in vain.
	ConsistencyWaits, ConsistencyTimeouts uint64
	// PrimaryWaits counts what waited because no server could run it: the herd
	// had no primary, or nothing answered.
	PrimaryWaits uint64
	// Takeovers is the number of reads, of those that no replica can serve, that
	// run on the primary now: see replica_fallback_max_conns.
	Takeovers int
	// Listeners is the number of [Listener] that are open now, and Listening how many of
	// them have their LISTEN in force.
	Listeners, Listening int
	// ListenerGaps counts how often one of them lost its connection after LISTEN was in
	// force, so that notifications may be missing: each is a [Gap].
	ListenerGaps uint64

	// CacheMisses counts texts that had to be read, as their class was not in memory, and
	// CacheEntries is how many are there now. Misses that keep pace with statements come of
	// texts that have values in them, in place of parameters.
	CacheMisses  uint64
	CacheEntries int
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
	// Ejections counts how often the server was ejected as a replica that serves
	// badly, longer ejections after a trial that failed not included.
	Ejections uint64
	// RoleChanges counts how often the server was seen in another role than
	// before.
	RoleChanges uint64
	// Checks are the questions of the probe that were answered, and how long that
	// took; CheckFailures counts those that were not.
	Checks        Durations
	CheckFailures uint64
	// Connects are the connections that were opened for the pool, and how long that
	// took; ConnectFailures counts those that could not be. Both are of the hosts of
	// a DSN: nobody tells of a ready-made handle's.
	Connects        Durations
	ConnectFailures uint64
	// InFlight is the number of statements and transactions that use the
	// server or wait for one of its connections now.
	InFlight int64
	// Pool tells of the physical connections.
	Pool sql.DBStats
	// Credentials tells of [Config.Credentials]; nil without.
	Credentials *CredentialStats
}

// CredentialStats tell how a [CredentialProvider] answers for one server.
type CredentialStats struct {
	// Refreshes counts its answers, and Failures the calls without one that is of use.
	Refreshes, Failures uint64
	// Expires is when what there is ends. It is zero if there is nothing, or that is not
	// known.
	Expires time.Time
}

// Durations tell how often something was done, and how long that took.
type Durations struct {
	Count   uint64
	Sum     time.Duration
	Buckets []DurationBucket // by UpTo, the shortest first
}

// A DurationBucket tells how often something took no longer than UpTo.
type DurationBucket struct {
	UpTo  time.Duration
	Count uint64
}

func durationsOf(h *durations.Histogram) Durations {
	s := h.Snapshot()
	d := Durations{Count: s.Count, Sum: s.Sum, Buckets: make([]DurationBucket, len(s.UpTo))}
	for i, n := range s.UpTo {
		d.Buckets[i] = DurationBucket{durations.Bounds[i], n}
	}
	return d
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

		Hedges:           c.hedging.sent.Load(),
		HedgesWon:        c.hedging.won.Load(),
		HedgesSuppressed: c.hedging.suppressed.Load(),

		ConsistencyWaits:    c.waits.Load(),
		ConsistencyTimeouts: c.waitsFailed.Load(),
		PrimaryWaits:        c.primaryWaits.Load(),
		Takeovers:           len(c.takeovers),
	}
	st.Listeners, st.Listening = c.listeners.count()
	st.ListenerGaps = c.listeners.gaps.Load()
	st.CacheMisses, st.CacheEntries = c.classes.Stats()
	for i, s := range p.servers {
		ss := ServerStats{
			Name:      s.name,
			Role:      p.Servers[i].Role,
			Decisions: counted(&s.decisions),
			Failures:  s.failures.Load(),
			Ejections: s.ejections.Load(),
			InFlight:  s.inFlight.Load(),

			RoleChanges:     s.roleChanges.Load(),
			Checks:          durationsOf(&s.checks),
			CheckFailures:   s.checkFailures.Load(),
			Connects:        durationsOf(&s.connects.took),
			ConnectFailures: s.connects.failures.Load(),
			Credentials:     s.credentials.statistics(),
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

	// DiscoveryErr is why, with discovery=dns, the last lookups of host names
	// failed, or nil. The servers known from earlier ones stay.
	DiscoveryErr error
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

	// Ejected is why a replica that is up gets no reads while another one can
	// serve them; empty if that is not so. From Trial on a statement tries it
	// out, and ends that if it is answered.
	Ejected string
	Trial   time.Time

	// Eligible reports whether a replica may serve a read now that need not see
	// what was just written, and whether a primary may serve writes. Otherwise Why
	// says what speaks against it, in one word out of a closed set: "down",
	// "draining", "ejected", "lag", "lag-unknown", "read-preference" (replicas are
	// not read), "role-unknown", "replaced" (it was the primary, or takes itself for it) or "foreign"
	// (it is of another cluster).
	Eligible bool
	Why      string

	// Took is how long the last answer to the probe took; zero for none.
	Took time.Duration
	// Latency is what nearly all reads lately took at most on the replica until
	// they were answered: their 99th percentile. Zero means unknown.
	Latency time.Duration
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

// ineligible says why server i of p, of which h tells what the picture does not,
// serves nothing now; empty if it does.
func (p *picture) ineligible(i int, h *ServerHealth, now routing.Instant) string {
	s := &p.Servers[i]
	if p.Primary < 0 || !p.Servers[p.Primary].Up {
		now = p.Asked // as decisions have it: nothing newer can be known
	}
	switch {
	case errors.Is(h.Err, lagprobe.ErrForeignCluster):
		return "foreign"
	case errors.Is(h.Err, lagprobe.ErrStalePrimary):
		return "replaced"
	case !s.Up:
		return "down"
	case s.Draining:
		return "draining"
	case s.Role == routing.Primary:
		return ""
	case s.Role == routing.Unknown:
		return "role-unknown"
	case s.Ejected:
		return "ejected"
	case p.Preference == routing.OnlyPrimary || p.Preference == routing.Shadow:
		return "read-preference"
	case p.believes(i):
		return ""
	case !h.LagKnown && !p.LagUnknown && (p.MaxLag > 0 || p.MaxLagBytes > 0):
		return "lag-unknown"
	case p.MaxLag > 0 && h.LagKnown && now.Sub(s.Fresh) > p.MaxLag, p.MaxLagBytes > 0 && h.LagBytes > p.MaxLagBytes:
		return "lag"
	}
	return ""
}

// believes reports whether the role of server i is believed, and not asked for.
func (p *picture) believes(i int) bool { return p.servers[i].believed != routing.Unknown }

// Health returns what is known of the servers now. Before the first Connect
// nothing is.
func (c *Connector) Health() Health {
	c.mu.Lock()
	p := c.view.Load()
	status := make([]lagprobe.Status, len(p.servers))
	ejected := make([]string, len(p.servers))
	for i, s := range p.servers {
		status[i], ejected[i] = s.status, s.ejection.why
	}
	h := Health{DiscoveryErr: c.mu.discoveryErr}
	c.mu.Unlock()
	now := c.now()
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
			Latency:  p.servers[i].usual(),
		}
		if !st.Answered.IsZero() {
			sh.Took = st.Took
		}
		if rs.Ejected {
			sh.Ejected, sh.Trial = ejected[i], c.epoch.Add(time.Duration(p.servers[i].trial.Load()))
		}
		switch {
		case rs.Role == routing.Primary || p.servers[i].believed != routing.Unknown:
			sh.LagBytes, sh.LagKnown = 0, true
		case rs.Fresh > 0:
			sh.Lag, sh.LagKnown = max(now.Sub(rs.Fresh), 0), true
		}
		sh.Why = p.ineligible(i, &sh, now)
		sh.Eligible = sh.Why == ""
		h.Servers = append(h.Servers, sh)
	}
	return h
}
