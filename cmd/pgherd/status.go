package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// A serverStatus is what status says of one server.
type serverStatus struct {
	Server   string   `json:"server"`
	Role     string   `json:"role"`
	Up       bool     `json:"up"`
	Lag      *float64 `json:"lag_seconds"` // null if unknown
	LagBytes *int64   `json:"lag_bytes"`   // null if unknown
	Version  string   `json:"version,omitempty"`
	Pool     struct {
		Open int `json:"open"`
		Max  int `json:"max"` // 0 for no limit
	} `json:"pool"`
	Error string `json:"error,omitempty"`
}

func status(std stdio, args []string) error {
	fs := newFlags(std, "status", `Lists the servers of a herd. The exit status is 1 if no primary is up.

Without -dsn, the herd is that of PGHERD_DSN or of the variables PG_HOST,
PG_REPLICA_HOSTS and so on.`)
	dsn := fs.String("dsn", "", "the `DSN` of the herd")
	asJSON := fs.Bool("json", false, "write one JSON object instead of a table")
	if err := parse(fs, args); err != nil {
		return err
	}
	db, err := openHerd(cmp.Or(*dsn, os.Getenv("PGHERD_DSN")))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	herd, err := pgherd.FromDB(ctx, db)
	if err != nil {
		return err
	}
	health := settle(herd)
	servers := describe(health, herd.Stats())
	if *asJSON {
		err = json.NewEncoder(std.out).Encode(map[string]any{"servers": servers})
	} else {
		err = writeTable(std.out, servers)
	}
	if err != nil {
		return err
	}
	if health.Ready() != nil {
		return errors.New("no primary is up") // the table has the causes
	}
	return nil
}

// openHerd opens the herd of a DSN, or of the environment if it is empty.
func openHerd(dsn string) (*sql.DB, error) {
	if dsn != "" {
		return sql.Open("pgherd", dsn)
	}
	cfg, err := pgherd.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// settle returns the health of a herd when the lag of all replicas that are up
// is known, or does not become known: that takes two questions where the
// primary is busy.
func settle(herd *pgherd.Connector) pgherd.Health {
	deadline := time.Now().Add(3 * time.Second)
	for {
		health, unknown := herd.Health(), false
		for _, s := range health.Servers {
			unknown = unknown || s.Up && s.Role == routing.Replica && !s.LagKnown
		}
		if !unknown || time.Now().After(deadline) {
			return health
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func describe(health pgherd.Health, stats pgherd.Stats) []serverStatus {
	var all []serverStatus
	for i, h := range health.Servers {
		s := serverStatus{Server: h.Name, Role: h.Role.String(), Up: h.Up}
		if h.LagKnown {
			lag := h.Lag.Seconds()
			s.Lag = &lag
		}
		if h.LagBytes >= 0 {
			s.LagBytes = &h.LagBytes
		}
		if h.Version > 0 {
			s.Version = fmt.Sprintf("%d.%d", h.Version/10000, h.Version%10000)
		}
		pool := stats.Servers[i].Pool
		s.Pool.Open, s.Pool.Max = pool.OpenConnections, pool.MaxOpenConnections
		if h.Err != nil {
			s.Error = h.Err.Error()
		}
		all = append(all, s)
	}
	return all
}

func writeTable(out io.Writer, servers []serverStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tROLE\tUP\tLAG\tLAG BYTES\tVERSION\tPOOL\tERROR")
	for _, s := range servers {
		up, lag, lagBytes, version := "no", "unknown", "unknown", "unknown"
		if s.Up {
			up = "yes"
		}
		if s.Lag != nil {
			lag = seconds(*s.Lag)
		}
		if s.LagBytes != nil {
			lagBytes = fmt.Sprint(*s.LagBytes)
		}
		if s.Role == routing.Primary.String() {
			lag, lagBytes = "-", "-"
		}
		if s.Version != "" {
			version = s.Version
		}
		pool := fmt.Sprintf("%d/%d", s.Pool.Open, s.Pool.Max)
		if s.Pool.Max == 0 {
			pool = fmt.Sprint(s.Pool.Open)
		}
		// The errors of several addresses come on several lines.
		text := strings.Join(strings.Fields(s.Error), " ")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Server, s.Role, up, lag, lagBytes, version, pool, text)
	}
	return w.Flush()
}

// seconds prints a time span short enough for a table.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}
