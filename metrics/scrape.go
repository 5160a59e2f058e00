package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/durations"
	"github.com/pgherd/pgherd/routing"
)

// descriptions are those of all metrics.
type descriptions struct {
	all []*prometheus.Desc

	decisions, shadow, operation, acquire, errors, attemptErrors *prometheus.Desc
	retries, misroutes, unknowns, unclassified, shadowFailed     *prometheus.Desc
	hedges, consistencyWaits, primaryWaits, takeovers, listeners *prometheus.Desc
	catalogUp, discoveryUp                                       *prometheus.Desc
	up, eligible, ineligible, roleChanges, failures, ejections   *prometheus.Desc
	inFlight, lag, lagBytes, asked, checks, checkFailures        *prometheus.Desc
	connections, maxConnections, poolWaits, poolWait, poolClosed *prometheus.Desc
	connects, connectFailures, buildInfo                         *prometheus.Desc
	credentials, credentialsExpire, cacheMisses, cacheEntries    *prometheus.Desc
	listenerGaps                                                 *prometheus.Desc
}

func describe(db string) (d descriptions) {
	constant := prometheus.Labels{"db": db}
	for _, m := range []struct {
		desc   **prometheus.Desc
		name   string
		help   string
		labels []string
	}{
		{&d.decisions, "decisions_total", "Statements run, by the reason for choosing the server.", []string{"server", "reason"}},
		{&d.shadow, "shadow_decisions_total", "What pgherd_decisions_total would be under prefer-standby.", []string{"server", "reason"}},
		{&d.operation, "operation_duration_seconds", "Time until an operation was over, for a query until its rows were closed.", []string{"role", "operation", "outcome"}},
		{&d.acquire, "acquire_duration_seconds", "Time until an operation had a physical connection.", []string{"server"}},
		{&d.errors, "errors_total", "Errors that callers saw, by class of SQLSTATE.", []string{"server", "class"}},
		{&d.attemptErrors, "attempt_errors_total", "Errors that another attempt followed, by class of SQLSTATE.", []string{"server", "class"}},
		{&d.retries, "retries_total", "Attempts after the first.", nil},
		{&d.misroutes, "misroutes_total", "Statements that looked like reads and that a standby refused.", nil},
		{&d.unknowns, "unknown_names_total", "Reads that named something a replica did not know.", nil},
		{&d.unclassified, "unclassified_total", "Statements that ran although their text could not be read.", nil},
		{&d.shadowFailed, "shadow_failures_total", "Statements that would have failed for want of a server under prefer-standby.", nil},
		{&d.hedges, "hedges_total", "Slow reads for which a second server was asked, or was not (suppressed).", []string{"result"}},
		{&d.consistencyWaits, "consistency_waits_total", "Reads that waited for a replica to hold what their session had written or seen.", []string{"result"}},
		{&d.primaryWaits, "primary_waits_total", "Operations that waited for a primary.", nil},
		{&d.takeovers, "takeovers", "Reads that run on the primary because no replica can serve them.", nil},
		{&d.listeners, "listeners", "Open listeners.", []string{"state"}},
		{&d.listenerGaps, "listener_gaps_total", "Connections that listeners lost, so that notifications may be missing.", nil},
		{&d.cacheMisses, "classifier_cache_misses_total", "Texts that had to be read, as their class was not in memory.", nil},
		{&d.cacheEntries, "classifier_cache_entries", "Texts whose class is in memory.", nil},
		{&d.catalogUp, "catalog_up", "Whether the catalogue could be read when that was last tried.", nil},
		{&d.discoveryUp, "discovery_up", "Whether all host names could be looked up when that was last tried.", nil},
		{&d.up, "server_up", "Whether the server answered the probe.", []string{"server", "role"}},
		{&d.eligible, "server_eligible", "Whether a replica may serve reads, or the primary writes.", []string{"server", "role"}},
		{&d.ineligible, "server_ineligible", "What keeps a server from serving.", []string{"server", "why"}},
		{&d.roleChanges, "server_role_changes_total", "How often the server was seen in another role than before.", []string{"server"}},
		{&d.failures, "server_failures_total", "Connection failures that statements met.", []string{"server"}},
		{&d.ejections, "server_ejections_total", "How often the server was ejected as a replica that serves badly.", []string{"server"}},
		{&d.inFlight, "server_in_flight", "Statements and transactions that use the server, or wait for one of its connections.", []string{"server"}},
		{&d.lag, "replication_lag_seconds", "How stale a read on the replica can be at most.", []string{"server"}},
		{&d.lagBytes, "replication_lag_bytes", "Log that the replica had not replayed when it was last asked.", []string{"server"}},
		{&d.asked, "lag_check_timestamp_seconds", "Unix time at which the probe asked the server last.", []string{"server"}},
		{&d.checks, "lag_check_duration_seconds", "Time until the server answered the probe.", []string{"server"}},
		{&d.checkFailures, "lag_check_failures_total", "Questions of the probe without an answer.", []string{"server"}},
		{&d.connections, "pool_connections", "Physical connections of the pool.", []string{"server", "state"}},
		{&d.maxConnections, "pool_max_connections", "Physical connections that the pool may open.", []string{"server"}},
		{&d.poolWaits, "pool_waits_total", "Leases that waited for a connection.", []string{"server"}},
		{&d.poolWait, "pool_wait_seconds_total", "Time that all leases waited for a connection.", []string{"server"}},
		{&d.poolClosed, "pool_connections_closed_total", "Connections that the pool closed for being idle or old.", []string{"server", "reason"}},
		{&d.connects, "connect_duration_seconds", "Time until a connection of the pool was opened.", []string{"server"}},
		{&d.connectFailures, "connect_failures_total", "Connections of the pool that could not be opened.", []string{"server"}},
		{&d.credentials, "credential_refreshes_total", "Questions to the credential provider, by whether it had an answer.", []string{"server", "result"}},
		{&d.credentialsExpire, "credentials_expiry_timestamp_seconds", "Unix time at which the credentials for the server end.", []string{"server"}},
		{&d.buildInfo, "build_info", "Versions of pgherd and what it is built with.", []string{"version", "go_version", "pgx_version"}},
	} {
		*m.desc = prometheus.NewDesc("pgherd_"+m.name, m.help, m.labels, constant)
		d.all = append(d.all, *m.desc)
	}
	return d
}

// A scrape is one call of Collect.
type scrape struct {
	out chan<- prometheus.Metric
	d   *descriptions
}

func (s scrape) counter(d *prometheus.Desc, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (s scrape) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s scrape) is(d *prometheus.Desc, ok bool, labels ...string) {
	v := 0.0
	if ok {
		v = 1
	}
	s.gauge(d, v, labels...)
}

func (s scrape) histogram(d *prometheus.Desc, h pgherd.Durations, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Buckets))
	for _, b := range h.Buckets {
		buckets[b.UpTo.Seconds()] = b.Count
	}
	s.out <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum.Seconds(), buckets, labels...)
}

// measured exports a histogram that has counted something.
func (s scrape) measured(d *prometheus.Desc, h *durations.Histogram, labels ...string) {
	snap := h.Snapshot()
	if snap.Count == 0 {
		return
	}
	p := pgherd.Durations{Count: snap.Count, Sum: snap.Sum}
	for i, n := range snap.UpTo {
		p.Buckets = append(p.Buckets, pgherd.DurationBucket{UpTo: durations.Bounds[i], Count: n})
	}
	s.histogram(d, p, labels...)
}

func (s scrape) herd(st pgherd.Stats) {
	d := s.d
	s.counter(d.retries, float64(st.Retries))
	s.counter(d.misroutes, float64(st.Misroutes))
	s.counter(d.unknowns, float64(st.Unknowns))
	s.counter(d.unclassified, float64(st.Unclassified))
	s.counter(d.shadowFailed, float64(st.ShadowFailed))
	s.counter(d.hedges, float64(st.HedgesWon), "won")
	s.counter(d.hedges, float64(st.Hedges-min(st.Hedges, st.HedgesWon)), "lost")
	s.counter(d.hedges, float64(st.HedgesSuppressed), "suppressed")
	s.counter(d.consistencyWaits, float64(st.ConsistencyWaits-min(st.ConsistencyWaits, st.ConsistencyTimeouts)), "met")
	s.counter(d.consistencyWaits, float64(st.ConsistencyTimeouts), "timeout")
	s.counter(d.primaryWaits, float64(st.PrimaryWaits))
	s.gauge(d.takeovers, float64(st.Takeovers))
	s.gauge(d.listeners, float64(st.Listening), "listening")
	s.gauge(d.listeners, float64(max(0, st.Listeners-st.Listening)), "connecting")
	s.counter(d.listenerGaps, float64(st.ListenerGaps))
	s.counter(d.cacheMisses, float64(st.CacheMisses))
	s.gauge(d.cacheEntries, float64(st.CacheEntries))
}

func (s scrape) health(h pgherd.Health) {
	d := s.d
	s.is(d.catalogUp, h.CatalogErr == nil)
	s.is(d.discoveryUp, h.DiscoveryErr == nil)
	for _, v := range h.Servers {
		role := v.Role.String()
		s.is(d.up, v.Up, v.Name, role)
		s.is(d.eligible, v.Eligible, v.Name, role)
		if v.Why != "" {
			s.gauge(d.ineligible, 1, v.Name, v.Why)
		}
		if v.Role == routing.Replica && v.LagKnown {
			s.gauge(d.lag, v.Lag.Seconds(), v.Name)
		}
		if v.Role == routing.Replica && v.LagBytes >= 0 {
			s.gauge(d.lagBytes, float64(v.LagBytes), v.Name)
		}
		if !v.Asked.IsZero() {
			s.gauge(d.asked, unix(v.Asked), v.Name)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func (s scrape) server(st *pgherd.ServerStats) {
	d, name := s.d, st.Name
	// No role: it would change with a promotion, and take the counts with it.
	for why, n := range st.Decisions {
		s.counter(d.decisions, float64(n), name, why.String())
	}
	for why, n := range st.Shadow {
		s.counter(d.shadow, float64(n), name, why.String())
	}
	s.counter(d.roleChanges, float64(st.RoleChanges), name)
	s.counter(d.failures, float64(st.Failures), name)
	s.counter(d.ejections, float64(st.Ejections), name)
	s.gauge(d.inFlight, float64(st.InFlight), name)
	s.histogram(d.checks, st.Checks, name)
	s.counter(d.checkFailures, float64(st.CheckFailures), name)
	s.histogram(d.connects, st.Connects, name)
	s.counter(d.connectFailures, float64(st.ConnectFailures), name)

	if k := st.Credentials; k != nil {
		s.counter(d.credentials, float64(k.Refreshes), name, "ok")
		s.counter(d.credentials, float64(k.Failures), name, "error")
		if !k.Expires.IsZero() {
			s.gauge(d.credentialsExpire, unix(k.Expires), name)
		}
	}

	p := &st.Pool
	s.gauge(d.connections, float64(p.Idle), name, "idle")
	s.gauge(d.connections, float64(p.InUse), name, "in_use")
	if p.MaxOpenConnections > 0 {
		s.gauge(d.maxConnections, float64(p.MaxOpenConnections), name)
	}
	s.counter(d.poolWaits, float64(p.WaitCount), name)
	s.counter(d.poolWait, p.WaitDuration.Seconds(), name)
	s.counter(d.poolClosed, float64(p.MaxIdleClosed), name, "idle")
	s.counter(d.poolClosed, float64(p.MaxIdleTimeClosed), name, "idle_time")
	s.counter(d.poolClosed, float64(p.MaxLifetimeClosed), name, "lifetime")
}

func (s scrape) operations(c *Collector) {
	d := s.d
	for role := range c.operations {
		for kind := range c.operations[role] {
			for outcome := range c.operations[role][kind] {
				s.measured(d.operation, &c.operations[role][kind][outcome],
					routing.Role(role).String(), pgherd.OperationKind(kind).String(), pgherd.Outcome(outcome).String())
			}
		}
	}
	for name, m := range *c.servers.Load() {
		s.measured(d.acquire, &m.acquire, name)
		m.mu.Lock()
		for class, n := range m.errors {
			s.counter(d.errors, float64(n), name, class)
		}
		for class, n := range m.attempts {
			s.counter(d.attemptErrors, float64(n), name, class)
		}
		m.mu.Unlock()
	}
}
