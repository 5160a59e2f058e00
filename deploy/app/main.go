// Command app is an application as it is deployed: configured by the environment
// (PG_HOST and the others of pgherd.ConfigFromEnv), with metrics for Prometheus, probes
// for Kubernetes and a status page. The Compose file and the manifests beside it run it.
//
//	go run ./deploy/app -listen localhost:8080 -work
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/healthhttp"
	"github.com/pgherd/pgherd/metrics"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "the address to serve HTTP on")
	discovery := flag.String("discovery", "off", `"dns" if host names stand for several servers`)
	work := flag.Bool("work", false, "keep the database busy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen, *discovery == "dns", *work); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, listen string, discover, work bool) error {
	cfg, err := pgherd.ConfigFromEnv()
	if err != nil {
		return err
	}
	if discover {
		cfg.Discovery = pgherd.DiscoveryDNS
	}
	cfg.Logger = slog.Default()
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		return err
	}
	db := sql.OpenDB(herd)
	defer db.Close()

	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(herd, "shop"), collectors.NewGoCollector())

	mux := http.NewServeMux()
	mux.Handle("GET /livez", healthhttp.Live())
	mux.Handle("GET /readyz", healthhttp.Ready(herd, healthhttp.Options{}))
	mux.Handle("GET /pgherd/", healthhttp.Status(herd))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /visits", func(w http.ResponseWriter, r *http.Request) { visits(w, r, db) })

	var background sync.WaitGroup
	defer background.Wait()
	if work {
		background.Go(func() { keepBusy(ctx, db) })
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	log.Printf("serving on http://%s", l.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stopped := context.AfterFunc(ctx, func() {
		// What is being answered is answered.
		bye, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Shutdown(bye)
	})
	defer stopped()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

const schema = "create table if not exists visits (id bigint generated always as identity, page text not null, at timestamptz not null default now())"

// visits answers with how many there were, as a replica has it.
func visits(w http.ResponseWriter, r *http.Request, db *sql.DB) {
	n, err := pgherd.Scalar[int](pgherd.WithMaxLag(r.Context(), time.Minute), db, "select count(*) from visits")
	if err != nil {
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		slog.ErrorContext(r.Context(), "visits", "error", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]int{"visits": n})
}

// keepBusy writes a little and reads more.
func keepBusy(ctx context.Context, db *sql.DB) {
	for ctx.Err() == nil {
		if _, err := db.ExecContext(ctx, schema); err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				var err error
				if rand.IntN(10) == 0 {
					_, err = db.ExecContext(ctx, "insert into visits (page) values ($1)", "/")
				} else {
					_, err = pgherd.Collect[int64](ctx, db, "select id from visits order by at desc limit 10")
				}
				if err != nil && ctx.Err() == nil {
					slog.ErrorContext(ctx, "work", "error", err)
				}
				select {
				case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
}
