package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/catalog"
	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// A Connector is a herd: its servers, each with a pool of physical connections,
// the probe that asks them who and how fresh they are, and the current
// [routing.View] of it all. Give it to [sql.OpenDB], which closes it with the
// DB. It is safe for concurrent use.
//
// It starts nothing until the first Connect or Listen, and leaves nothing running
// after Close.
type Connector struct {
	cfg *Config // immutable, private copy
	drv driver.Driver

	view     atomic.Pointer[picture]
	classes  *routing.Cache
	prepared preparedTexts
	types    *typeLoader
	epoch    time.Time     // of the Instants
	turn     atomic.Uint64 // for routing.RoundRobin
	wrote    atomic.Int64  // Instant of the last write through the herd

	retries      atomic.Uint64
	misroutes    atomic.Uint64
	unknowns     atomic.Uint64 // what a replica did not know
	unclassified atomic.Uint64
	waits        atomic.Uint64 // see Stats.ConsistencyWaits
	waitsFailed  atomic.Uint64
	primaryWaits atomic.Uint64

	observers atomic.Pointer[[]*observer] // nil for none; replaced, never changed, while mu is held

	notices   noticeLimit
	rehearsal rehearsal

	members sync.Mutex // held while the set of members is changed; before mu

	closed     atomic.Bool
	start      sync.Once
	startNames sync.Once                       // see startCatalog
	begun      atomic.Bool                     // start is done: the servers' pools are there
	prober     atomic.Pointer[lagprobe.Prober] // nil before start, and if no server is asked
	names      atomic.Pointer[catalog.Keeper]  // nil before startCatalog, without prober, and with CatalogOff
	listeners  listeners
	stop       context.CancelFunc // ends background; nil before start
	background sync.WaitGroup     // goroutines of the Connector's own

	discovery *discovery    // nil where no names are looked up
	found     chan struct{} // closed when discovery has been round once, and the pools are there

	hedges  bool // hedge_after is set
	hedging hedging
	strays  sync.WaitGroup // the slower halves of hedged reads that still run

	// takeovers has room for as many reads as the primary may take over from
	// replicas at a time; nil for any number.
	takeovers chan struct{}

	mu struct {
		sync.Mutex
		servers  []*server       // the members; replaced, never changed
		primary  *server         // as the probe has it; nil for none
		asked    routing.Instant // when it last answered or, without one, when the last one did
		systemID uint64          // of the cluster; zero if unknown
		timeline uint32          // of the primary, or the last one
		changed  chan struct{}   // closed when view is replaced

		discoveryErr error // of the last round of lookups

		atClose []func() // end what WatchSlow began; may be called twice
	}
}

var (
	_ driver.Connector = (*Connector)(nil)
	_ io.Closer        = (*Connector)(nil)
)

// A Member is a ready-made handle that takes part in a herd as a server:
// one that an instrumented or a cloud vendor's connector was opened with, or
// a mock. Its pool limits must be set before, and should not be shared with
// other users of the handle. The herd does not close it.
type Member struct {
	Name string // in statistics, errors and Explain; must be unique
	DB   *sql.DB

	// Role is routing.Unknown, the zero value, for a PostgreSQL server that is
	// to be asked, as those of a DSN are. It then needs room for two more
	// connections, the probe's and one that reads its catalogue. Any other role is believed for good, the server is never asked
	// anything, its catalogue included, and as a replica it passes for one
	// without lag.
	Role routing.Role

	// Weight is the replica's share of reads; 0 means 1.
	Weight int

	// Zone is where the server is: see [Config.Zone].
	Zone string
}

// NewConnector returns the herd that cfg describes. It copies cfg, and dials
// nothing.
//
// With members, those are the servers. cfg.Hosts must then be empty, what
// cfg says of connections does not matter, and a nil cfg stands for the
// defaults.
func NewConnector(cfg *Config, members ...Member) (*Connector, error) {
	if cfg == nil {
		cfg = NewConfig()
	}
	if cfg.SimulationMode != SimulationOff {
		return nil, errSimulated
	}
	c := &Connector{
		cfg:     cfg.Clone(),
		classes: routing.NewCache(classCacheSize, cfg.ReadOnlyFunctions...),
		hedges:  cfg.HedgeAfter != HedgeDelay{},
		epoch:   time.Now().Add(-time.Nanosecond), // no Instant is zero
	}
	c.types = newTypeLoader(c.cfg.LoadTypes)
	if c.cfg.ReadPreference == routing.Shadow {
		c.rehearsal.logged = routing.NewTextSet(maxRehearsed)
	}
	c.hedging.init(cfg.HedgeAfter)
	c.mu.changed = make(chan struct{})
	var err error
	if len(members) > 0 {
		err = c.addMembers(members)
	} else {
		err = c.addHosts()
	}
	if err != nil {
		return nil, err
	}
	if n := c.cfg.ReplicaFallbackMaxConns; n > 0 {
		c.takeovers = make(chan struct{}, n)
	}
	c.discovery, c.found = newDiscovery(c), make(chan struct{})
	c.mu.Lock()
	c.republishLocked()
	c.mu.Unlock()
	return c, nil
}

// classCacheSize is how many texts are remembered with their class.
const classCacheSize = 4096

func (c *Connector) addHosts() error {
	configs, err := c.cfg.serverConfigs()
	if err != nil {
		return err
	}
	c.drv = stdlib.GetDefaultDriver()
	for i, pc := range configs {
		s := newServer(c.cfg.Hosts[i], pc, c.cfg)
		s.order = i
		c.mu.servers = append(c.mu.servers, s)
	}
	return nil
}

func (c *Connector) addMembers(members []Member) error {
	if len(c.cfg.Hosts) > 0 {
		return errors.New("pgherd: NewConnector: a Config with Hosts and members cannot be used together")
	}
	var errs []error
	names := make(map[string]bool)
	for i, m := range members {
		if m.Name == "" || m.DB == nil || names[m.Name] {
			errs = append(errs, fmt.Errorf("pgherd: NewConnector: member %d (%q) needs a DB and a name of its own", i, m.Name))
			continue
		}
		names[m.Name] = true
		s, err := c.newMember(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("pgherd: NewConnector: %w", err))
		}
		c.mu.servers = append(c.mu.servers, s)
	}
	if len(errs) == 0 {
		c.drv = members[0].DB.Driver()
	}
	return errors.Join(errs...)
}

func (c *Connector) newMember(m Member) (*server, error) {
	limit := m.DB.Stats().MaxOpenConnections
	s := &server{
		name:           m.Name,
		zone:           m.Zone,
		weight:         max(m.Weight, 1),
		believed:       m.Role,
		db:             m.DB,
		limit:          limit,
		acquireTimeout: c.cfg.AcquireTimeout,
	}
	if m.Role == routing.Unknown {
		s.asked, s.catalog = m.DB, m.DB
		own := 2 // connections of the herd's
		if c.cfg.CatalogOff {
			own = 1
		}
		if limit > 0 && limit <= own {
			return s, fmt.Errorf("member %q: its handle has room for %d connections, and the probe and the reading of the catalogue need %d; allow more, or give the member a Role", m.Name, limit, own)
		}
		s.limit = max(limit-own, 0)
	}
	return s, nil
}

// Connect returns a virtual connection. The first call starts the probe, and
// every call waits until each server has answered once or failed to, so that
// the first statement is routed as well as the thousandth. That no server
// answers is not an error here: the statement tells.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	return c.connect(ctx)
}

func (c *Connector) connect(ctx context.Context) (*Conn, error) {
	c.start.Do(c.begin)
	if c.closed.Load() {
		return nil, ErrClosed
	}
	if c.discovery != nil {
		select {
		case <-c.found:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p := c.prober.Load(); p != nil {
		if err := p.Wait(ctx); err != nil {
			return nil, err
		}
	}
	return &Conn{c: c}, nil
}

// begin starts what runs in the background.
func (c *Connector) begin() {
	if c.closed.Load() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	if c.discovery == nil {
		c.open(ctx)
		return
	}
	c.background.Go(func() {
		c.discovery.run(ctx, func() {
			if ctx.Err() == nil {
				c.open(ctx)
			}
			close(c.found)
		})
	})
}

// open makes the pools of the servers and begins to ask them.
func (c *Connector) open(ctx context.Context) {
	// What changes the members later finds begun set, and does the same itself.
	c.members.Lock()
	defer c.members.Unlock()
	var targets []lagprobe.Target
	servers := c.view.Load().servers
	for _, s := range servers {
		s.open(c.cfg, c.types)
		if s.asked != nil {
			targets = append(targets, lagprobe.Target{Name: s.name, DB: s.asked})
		}
	}
	if len(targets) > 0 {
		c.prober.Store(c.startProbe(targets))
	}
	c.begun.Store(true)
	if len(servers) > 1 {
		c.startCatalog() // with one there is nothing to decide, unless somebody asks
	}
	c.background.Go(func() { c.watch(ctx) })
	if n := c.cfg.PoolMinConns; n > 0 && len(targets) > 0 {
		c.background.Go(func() { c.keepWarm(ctx, n) })
	}
}

// probeInterval is lag_check_interval, or less where max_lag needs that: a bound
// is only as good as the question it is measured by is recent.
func (c *Connector) probeInterval() time.Duration {
	d := c.cfg.LagCheckInterval
	if c.cfg.MaxLag > 0 {
		d = min(d, max(c.cfg.MaxLag/4, 10*time.Millisecond))
	}
	return d
}

func (c *Connector) keepWarm(ctx context.Context, n int) {
	if err := c.prober.Load().Wait(ctx); err != nil {
		return
	}
	t := time.NewTicker(c.cfg.PoolHealthCheckPeriod)
	defer t.Stop()
	for {
		p := c.view.Load()
		for i, s := range p.servers {
			if p.Servers[i].Up && !s.draining.Load() && s.config != nil {
				s.keepWarm(ctx, n)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Config returns a copy of the configuration, with the password in it: print it by
// its own methods, which mask that.
func (c *Connector) Config() *Config { return c.cfg.Clone() }

// Driver returns the driver of the servers' connections, pgx's for a DSN, so
// that code which looks at [sql.DB.Driver] to learn what it talks to finds it.
func (c *Connector) Driver() driver.Driver { return c.drv }

// Close stops the probe and closes the pools. Connections in use are closed
// when they are given back. [sql.DB.Close] calls it.
func (c *Connector) Close() error {
	c.mu.Lock() // whoever leaves a stray later sees that c is closed
	closed := c.closed.Swap(true)
	atClose := c.mu.atClose
	c.mu.Unlock()
	if closed {
		return nil
	}
	for _, f := range atClose {
		f()
	}
	c.listeners.close()
	c.start.Do(func() {}) // begin has run, or never will
	if c.stop != nil {
		c.stop()
		c.background.Wait()
	}
	c.strays.Wait()
	c.startNames.Do(func() {}) // as above
	if k := c.names.Load(); k != nil {
		k.Close()
	}
	if p := c.prober.Load(); p != nil {
		p.Close()
	}
	c.members.Lock() // a server that is being added is closed by whoever adds it
	defer c.members.Unlock()
	var errs []error
	for _, s := range c.view.Load().servers {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// classify returns what is known of a text.
func (c *Connector) classify(sql string) *routing.Statement { return c.classes.Classify(sql) }

// now returns the present as an Instant. Unlike [time.Now] it reads only the
// monotonic clock.
func (c *Connector) now() routing.Instant { return routing.Instant(time.Since(c.epoch)) }

func (c *Connector) instant(t time.Time) routing.Instant {
	if t.IsZero() {
		return 0
	}
	return routing.Instant(max(t.Sub(c.epoch), 1))
}

// noteWrite remembers the latest write through the herd.
func (c *Connector) noteWrite(at routing.Instant) {
	for {
		old := c.wrote.Load()
		if old >= int64(at) || c.wrote.CompareAndSwap(old, int64(at)) {
			return
		}
	}
}

// ownWrites returns as of when reads must see the herd's own writes.
func (c *Connector) ownWrites() routing.Instant {
	if c.cfg.Consistency != ConsistencySession {
		return 0
	}
	return routing.Instant(c.wrote.Load())
}

// queryContext bounds ctx by query_timeout. cancel is nil if there is none.
func (c *Connector) queryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.cfg.QueryTimeout <= 0 {
		return ctx, nil
	}
	return context.WithTimeout(ctx, c.cfg.QueryTimeout)
}
