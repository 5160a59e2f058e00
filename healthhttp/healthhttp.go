// Package healthhttp shows how a herd is, over HTTP: to Kubernetes, which wants
// to know whether to send requests, and to people.
//
//	mux.Handle("/livez", healthhttp.Live())
//	mux.Handle("/readyz", healthhttp.Ready(herd, healthhttp.Options{}))
//	mux.Handle("/debug/pgherd/", healthhttp.Status(herd))
//
// [pgherd.FromDB] gives the herd behind a *sql.DB.
//
// # Liveness
//
// [Live] says that the process serves requests, and asks no database: an outage of
// that is not mended by a restart of everything that uses it.
//
// # Readiness
//
// [Ready] answers 200 if the herd can do what [Options.When] asks for, and 503
// otherwise, from what the probe knows: no request asks a server anything. A replica
// that lags or is down makes the herd degraded, which is 200 as well, because the
// primary serves in its place. The body is JSON, with a state for each server.
//
//	{"status":"degraded","servers":[{"name":"pg1","role":"primary","up":true,"eligible":true}, …]}
//
// It tells names and roles, and no error text. Until the first statement nothing is
// known of the servers; the first request starts the probe and waits for its first
// answers, up to [Options.Timeout].
//
// # Status page
//
// [Status] is for people, like the pages of net/http/pprof, and belongs where they
// are: not on a public address. It shows each server with its role, what keeps it
// from serving, its lag, pool and latency, and draws lag, routing and pools over the
// last five minutes, as far as somebody looked. With ?format=json it
// answers with all of that as JSON. The page needs nothing from elsewhere, and its
// Content-Security-Policy allows it nothing else.
package healthhttp

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// A When says what a herd must be able to do to be ready. The zero value is
// WhenPrimary.
type When uint8

const (
	WhenPrimary When = iota // to write: the primary answers
	WhenAny                 // to serve anything: the primary or an eligible replica does
	WhenReplica             // to read from a replica: one is eligible
)

// String returns "primary", "any" or "replica".
func (w When) String() string {
	switch w {
	case WhenPrimary:
		return "primary"
	case WhenAny:
		return "any"
	case WhenReplica:
		return "replica"
	}
	return "invalid"
}

// Options are the settings of [Ready]. The zero value has the defaults.
type Options struct {
	// When says what the herd must be able to do.
	When When
	// Timeout bounds a request that comes before the probe has answers. 0 means 800
	// milliseconds, less than the second that Kubernetes waits by default.
	Timeout time.Duration
}

// Live returns a handler that answers 200.
func Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if allowed(w, r) {
			reply(w, http.StatusOK, map[string]string{"status": "live"})
		}
	})
}

// Ready returns a handler that tells whether a herd can do its work. It is safe for
// concurrent use.
func Ready(herd *pgherd.Connector, o Options) http.Handler {
	if o.Timeout <= 0 {
		o.Timeout = 800 * time.Millisecond
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(w, r) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), o.Timeout)
		defer cancel()
		begin(ctx, herd)
		s := judge(herd.Health(), o.When)
		code := http.StatusOK
		if s.Status == unready {
			code = http.StatusServiceUnavailable
		}
		reply(w, code, s)
	})
}

// begin starts the probe, if nothing has yet, and waits for its first answers until
// ctx ends.
func begin(ctx context.Context, herd *pgherd.Connector) {
	if c, err := herd.Connect(ctx); err == nil {
		c.Close()
	}
}

const (
	ready    = "ready"
	degraded = "degraded" // it does what is asked for, without one of its servers
	unready  = "unready"
)

// A summary is the body of a readiness probe.
type summary struct {
	Status  string        `json:"status"`
	Servers []serverState `json:"servers"`
}

type serverState struct {
	Name     string `json:"name"`
	Role     string `json:"role"`
	Up       bool   `json:"up"`
	Eligible bool   `json:"eligible"`
	Why      string `json:"why,omitempty"` // what keeps it from being eligible
}

// judge says how a herd is that h is known of.
func judge(h pgherd.Health, when When) summary {
	s := summary{Servers: []serverState{}}
	var primary, replica, lacking bool
	for _, v := range h.Servers {
		s.Servers = append(s.Servers, serverState{v.Name, v.Role.String(), v.Up, v.Eligible, v.Why})
		primary = primary || v.Role == routing.Primary && v.Up
		replica = replica || v.Role == routing.Replica && v.Eligible
		// Reads may be kept from replicas on purpose.
		lacking = lacking || !v.Eligible && v.Why != "read-preference"
	}
	can := primary
	switch when {
	case WhenAny:
		can = primary || replica
	case WhenReplica:
		can = replica
	}
	switch {
	case !can:
		s.Status = unready
	case lacking:
		s.Status = degraded
	default:
		s.Status = ready
	}
	return s
}

// allowed reports whether r is one that a handler answers; otherwise it has.
func allowed(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	return false
}

func reply(w http.ResponseWriter, code int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}
