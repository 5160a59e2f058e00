package metrics

import (
	"context"
	"maps"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/durations"
	"github.com/pgherd/pgherd/routing"
)

// A Collector exports one herd. It is safe for concurrent use.
type Collector struct {
	herd *pgherd.Connector
	stop func()

	operations [numRoles][pgherd.NumOperationKinds][pgherd.NumOutcomes]durations.Histogram

	// What is measured of each server, by its name; replaced, never changed, while
	// mu is held. The empty name stands for no server.
	servers atomic.Pointer[map[string]*measured]
	mu      sync.Mutex

	descs descriptions
}

var (
	_ prometheus.Collector = (*Collector)(nil)
	_ pgherd.Observer      = (*Collector)(nil)
)

// numRoles is one more than the greatest role.
const numRoles = int(max(routing.Unknown, routing.Primary, routing.Replica)) + 1

// measured is what is measured of one server.
type measured struct {
	acquire durations.Histogram

	mu       sync.Mutex
	errors   map[string]uint64 // by class; guarded by mu
	attempts map[string]uint64 // as errors, of attempts that were followed by another one; guarded by mu
}

// New returns a collector for a herd, which it observes from now on, until
// [Collector.Stop]. name is the value of the label db, and tells the herds of a
// process apart.
func New(herd *pgherd.Connector, name string) *Collector {
	c := &Collector{herd: herd, descs: describe(name)}
	c.servers.Store(new(map[string]*measured))
	c.stop = herd.Observe(c)
	return c
}

// Stop ends the observation. What was counted stays.
func (c *Collector) Stop() { c.stop() }

// Begin implements [pgherd.Observer].
func (c *Collector) Begin(ctx context.Context, _ *pgherd.Operation) context.Context { return ctx }

// End implements [pgherd.Observer].
func (c *Collector) End(_ context.Context, op *pgherd.Operation) {
	outcome := pgherd.OutcomeOK
	if op.Err != nil {
		outcome = op.Outcome()
	}
	if int(op.Role) < numRoles && int(op.Kind) < pgherd.NumOperationKinds {
		c.operations[op.Role][op.Kind][outcome].Observe(op.Duration)
	}
	if op.Acquire == 0 && op.Err == nil && op.Failed == nil {
		return
	}
	m := c.server(op.Server)
	if op.Acquire > 0 {
		m.acquire.Observe(op.Acquire)
	}
	if op.Err != nil {
		m.count(&m.errors, op.ErrorClass())
	}
	for _, a := range op.Failed {
		m := c.server(a.Server)
		m.count(&m.attempts, (&pgherd.Operation{Err: a.Err}).ErrorClass())
	}
}

// server returns what is measured of a server.
func (c *Collector) server(name string) *measured {
	if m := (*c.servers.Load())[name]; m != nil {
		return m
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.servers.Load()
	if m := old[name]; m != nil {
		return m
	}
	m, all := new(measured), maps.Clone(old)
	if all == nil {
		all = make(map[string]*measured)
	}
	all[name] = m
	c.servers.Store(&all)
	return m
}

// count counts an error in one of the maps of m.
func (m *measured) count(counts *map[string]uint64, class string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *counts == nil {
		*counts = make(map[string]uint64)
	}
	(*counts)[class]++
}

// forget drops what was measured of servers that are no more.
func (c *Collector) forget(known map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(*c.servers.Load())
	maps.DeleteFunc(all, func(name string, _ *measured) bool { return name != "" && !known[name] })
	c.servers.Store(&all)
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs.all {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := scrape{out: out, d: &c.descs}
	st := c.herd.Stats()
	s.herd(st)
	s.health(c.herd.Health())
	known := make(map[string]bool, len(st.Servers))
	for i := range st.Servers {
		known[st.Servers[i].Name] = true
		s.server(&st.Servers[i])
	}
	c.forget(known)
	s.operations(c)
	s.gauge(c.descs.buildInfo, 1, versions()...)
}

// versions returns the values of the labels of pgherd_build_info.
var versions = sync.OnceValue(func() []string {
	pgherdVersion, pgx := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			switch m.Path {
			case "github.com/pgherd/pgherd":
				pgherdVersion = m.Version
			case "github.com/jackc/pgx/v5":
				pgx = m.Version
			}
		}
	}
	return []string{pgherdVersion, runtime.Version(), pgx}
})
