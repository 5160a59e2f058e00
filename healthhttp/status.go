package healthhttp

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// Status returns a handler that shows a herd to people: the page, at whatever path
// it is served, and JSON with ?format=json. It is safe for concurrent use.
func Status(herd *pgherd.Connector) http.Handler {
	s := &status{herd: herd}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(w, r) {
			return
		}
		if r.URL.Query().Get("format") != "json" {
			servePage(w)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		begin(ctx, herd)
		reply(w, http.StatusOK, s.report(time.Now()))
	})
}

const (
	statusTimeout = 2 * time.Second // for the probe's first answers

	historyLength = 300 // samples
	historyStep   = time.Second
)

// A status is what the page shows of one herd.
type status struct {
	herd *pgherd.Connector

	mu      sync.Mutex
	history []sample // the oldest first; guarded by mu
}

// A sample is what the charts show of one time. It is taken when somebody looks, so
// that nothing runs where nobody does.
type sample struct {
	Time    time.Time               `json:"time"`
	Servers map[string]sampleServer `json:"servers"`
}

type sampleServer struct {
	Lag        *float64 `json:"lag"` // in seconds; null if it is not known
	Statements uint64   `json:"statements"`
	InUse      int      `json:"in_use"`
}

// A report is the JSON.
type report struct {
	Time         time.Time      `json:"time"`
	Status       string         `json:"status"`
	MaxLag       float64        `json:"max_lag_seconds"` // 0 for no bound
	Servers      []server       `json:"servers"`
	CatalogErr   string         `json:"catalog_error,omitempty"`
	DiscoveryErr string         `json:"discovery_error,omitempty"`
	Counters     map[string]any `json:"counters"`
	History      []sample       `json:"history"`
}

type server struct {
	serverState
	Lag         *float64          `json:"lag_seconds"`
	LagBytes    *int64            `json:"lag_bytes"`
	Asked       *time.Time        `json:"asked"`
	Took        float64           `json:"check_seconds"`
	Latency     float64           `json:"p99_seconds"` // of reads; 0 if it is not known
	Version     int               `json:"version,omitempty"`
	Err         string            `json:"error,omitempty"`
	Ejected     string            `json:"ejected,omitempty"`
	Statements  uint64            `json:"statements"`
	Decisions   map[string]uint64 `json:"decisions"`
	InFlight    int64             `json:"in_flight"`
	Failures    uint64            `json:"failures"`
	Ejections   uint64            `json:"ejections"`
	RoleChanges uint64            `json:"role_changes"`
	Pool        pool              `json:"pool"`
}

type pool struct {
	Max         int     `json:"max"` // 0 means no limit
	Open        int     `json:"open"`
	InUse       int     `json:"in_use"`
	Waits       int64   `json:"waits"`
	WaitSeconds float64 `json:"wait_seconds"`
}

// report gathers what is known now, and adds it to the history.
func (s *status) report(now time.Time) report {
	st, h := s.herd.Stats(), s.herd.Health()
	sum := judge(h, WhenPrimary)
	r := report{
		Time:         now,
		Status:       sum.Status,
		MaxLag:       s.herd.Config().MaxLag.Seconds(),
		CatalogErr:   text(h.CatalogErr),
		DiscoveryErr: text(h.DiscoveryErr),
		Counters: map[string]any{
			"retries":            st.Retries,
			"misroutes":          st.Misroutes,
			"unknown names":      st.Unknowns,
			"unclassified":       st.Unclassified,
			"hedged reads":       st.Hedges,
			"waits for replicas": st.ConsistencyWaits,
			"waits for primary":  st.PrimaryWaits,
			"takeovers":          st.Takeovers,
			"listeners":          st.Listeners,
		},
	}
	stats := make(map[string]*pgherd.ServerStats)
	for i := range st.Servers {
		stats[st.Servers[i].Name] = &st.Servers[i]
	}
	for i, v := range h.Servers {
		ss := stats[v.Name]
		if ss == nil { // it joined between the two questions
			continue
		}
		r.Servers = append(r.Servers, describe(sum.Servers[i], v, ss))
	}
	r.History = s.remember(now, r.Servers)
	return r
}

func describe(state serverState, v pgherd.ServerHealth, ss *pgherd.ServerStats) server {
	d := server{
		serverState: state,
		Took:        v.Took.Seconds(),
		Latency:     v.Latency.Seconds(),
		Version:     v.Version,
		Err:         text(v.Err),
		Ejected:     v.Ejected,
		Statements:  ss.Total(),
		Decisions:   make(map[string]uint64),
		InFlight:    ss.InFlight,
		Failures:    ss.Failures,
		Ejections:   ss.Ejections,
		RoleChanges: ss.RoleChanges,
		Pool: pool{
			Max:         ss.Pool.MaxOpenConnections,
			Open:        ss.Pool.OpenConnections,
			InUse:       ss.Pool.InUse,
			Waits:       ss.Pool.WaitCount,
			WaitSeconds: ss.Pool.WaitDuration.Seconds(),
		},
	}
	for why, n := range ss.Decisions {
		d.Decisions[why.String()] = n
	}
	if v.Role == routing.Replica {
		if v.LagKnown {
			lag := v.Lag.Seconds()
			d.Lag = &lag
		}
		if v.LagBytes >= 0 {
			d.LagBytes = &v.LagBytes
		}
	}
	if !v.Asked.IsZero() {
		d.Asked = &v.Asked
	}
	return d
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// remember adds to the history, and returns it.
func (s *status) remember(now time.Time, servers []server) []sample {
	one := sample{Time: now, Servers: make(map[string]sampleServer)}
	for _, v := range servers {
		one.Servers[v.Name] = sampleServer{Lag: v.Lag, Statements: v.Statements, InUse: v.Pool.InUse}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.history); n == 0 || now.Sub(s.history[n-1].Time) >= historyStep*9/10 {
		s.history = append(s.history, one)
	}
	for len(s.history) > historyLength || now.Sub(s.history[0].Time) > historyLength*historyStep {
		s.history = s.history[1:]
	}
	return append([]sample(nil), s.history...)
}

//go:embed page.html
var page []byte

// policy is the Content-Security-Policy of the page: its own script and style, known
// by their hashes, may ask for the JSON, and nothing else may be done.
var policy = "default-src 'none'; script-src " + hashOf("script") + "; style-src " + hashOf("style") +
	"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// hashOf returns the hash of the only element of a kind in the page.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(page, []byte("<"+element+">"))
	content, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(content)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func servePage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.Write(page)
}
