package integration

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/audit"
	"github.com/pgherd/pgherd/healthhttp"
	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/metrics"
	"github.com/pgherd/pgherd/tracing"
)

// A sink keeps what is written to it. Safe for concurrent use.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// TestNoSecretIsTold plants secrets wherever an application has them, lets
// statements fail in ways that make servers quote them, with a server that goes
// down, and searches all that is logged, audited, exported, traced and shown.
func TestNoSecretIsTold(t *testing.T) {
	const mark = "pl4nted"
	secret := func(where string) string { return mark + "-" + where }
	t.Setenv("PGPASSWORD", secret("environment"))

	servers := startHerd(t, herds.Options{Replicas: 1})
	dsn := strings.Replace(servers.DSN(), "postgres@", "postgres:"+secret("password")+"@", 1)
	if !strings.Contains(dsn, secret("password")) {
		t.Fatalf("no user to give a password to in %s", dsn)
	}
	cfg, err := pgherd.ParseDSN(dsn + "&sslpassword=" + secret("sslpassword") + "&lag_check_interval=100ms&lag_check_timeout=200ms")
	if err != nil {
		t.Fatal(err)
	}
	wanted := []string{"traces", "audit", "metrics", "operations", "plans", "status", "readiness", "configuration"}
	sinks := make(map[string]*sink)
	for _, name := range append(wanted, "log", "default log") {
		sinks[name] = new(sink)
	}
	into := func(name string) *sink { return sinks[name] }
	everything := &slog.HandlerOptions{Level: slog.LevelDebug}
	cfg.Logger = slog.New(slog.NewTextHandler(into("log"), everything))
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(into("default log"), everything)))
	defer slog.SetDefault(old)

	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	defer db.Close()
	exporter, err := stdouttrace.New(stdouttrace.WithWriter(into("traces")))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	defer provider.Shutdown(context.Background())
	tracing.New(herd, tracing.Options{Provider: provider, QueryText: true})
	audit.New(herd, slog.New(slog.NewJSONHandler(into("audit"), everything)), audit.Options{Statement: true, Reads: true})
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(herd, "shop"))
	herd.Observe(printer{into("operations")})
	herd.WatchSlow(pgherd.SlowOptions{
		Threshold: time.Nanosecond,
		Plan:      true,
		Func: func(q pgherd.SlowQuery) {
			b, _ := json.Marshal(q)
			fmt.Fprintf(into("operations"), "%v %+v %#v %s %s %s\n", q, q, &q, b, q.Statement(), q.Summary())
			if q.Plan != nil {
				fmt.Fprintf(into("plans"), "%s %+v\n", q.Plan, q.Plan)
			}
		},
	})

	ctx := t.Context()
	for _, s := range []string{
		"create table accounts (id int primary key, name text unique check (name <> 'x'))",
		"create function refuse(v text) returns int language plpgsql as $$ begin raise exception 'refused %', v using detail = v, hint = v, errcode = 'P4242'; end $$",
		"create function sly(v text) returns text language plpgsql stable as $$ begin perform pg_advisory_xact_lock(1); raise notice '%', v; return v; end $$",
		"insert into accounts values (1, 'first')",
	} {
		if _, err := db.ExecContext(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for _, s := range []struct {
		sql  string
		args []any
	}{
		{"insert into accounts values ($1, $2)", []any{2, secret("argument")}},
		{"insert into accounts values ($1, $2)", []any{3, secret("argument")}}, // the detail quotes it
		{"select id from accounts where name = '" + secret("literal") + "'", nil},
		{"select id from accounts where id = $1", []any{secret("type")}}, // cannot be encoded
		{"select '" + secret("syntax") + "'::int", nil},                  // the message quotes it
		{"select refuse($1)", []any{secret("message")}},
		{"select sly($1)", []any{secret("notice")}},
		{"select '" + secret("unterminated"), nil},
		{"select pg_notify('c', $1)", []any{secret("payload")}},
		{"/* " + secret("comment") + " */ select 1", nil},
		{"set application_name = '" + secret("setting") + "'", nil},
	} {
		rows, err := db.QueryContext(ctx, s.sql, s.args...)
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
			rows.Close()
		}
		if err != nil {
			failed++
		}
	}
	if failed < 5 {
		t.Errorf("%d statements failed, so little can have been told", failed)
	}
	if _, err := pgherd.CopyIn(ctx, db, "copy accounts from stdin", strings.NewReader(secret("copied")+"\tx\n")); err == nil {
		t.Error("COPY took what is no number")
	}

	for n := 0; into("plans").String() == "" && n < 200; n++ { // one in a second
		time.Sleep(50 * time.Millisecond)
		query := fmt.Sprintf("select %s from accounts where name = '%s' and id = $1", strings.Repeat("id,", n)+"id", secret("literal"))
		if _, err := db.ExecContext(ctx, query, 1); err != nil {
			t.Fatal(err)
		}
	}
	into("status").Write(body(t, healthhttp.Status(herd), "/?format=json"))
	if err := servers.Replica(1).Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if h := herd.Health(); len(h.Servers) == 2 && !h.Servers[1].Up {
			break
		}
	}
	db.QueryRowContext(ctx, "select id from accounts where name = $1", secret("argument")).Scan(new(int))
	into("status").Write(body(t, healthhttp.Status(herd), "/?format=json"))
	into("readiness").Write(body(t, healthhttp.Ready(herd, healthhttp.Options{}), "/"))
	into("metrics").Write(body(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "/"))
	fmt.Fprintf(into("configuration"), "%v %+v %#v", herd.Config(), herd.Config(), *herd.Config())
	db.Close()

	for _, name := range wanted {
		if into(name).String() == "" {
			t.Errorf("nothing in %s", name)
		}
	}
	for name, s := range sinks {
		text := s.String()
		for rest := text; ; {
			i := strings.Index(rest, mark)
			if i < 0 {
				break
			}
			t.Errorf("%s has a secret: …%s…", name, rest[max(0, i-80):min(len(rest), i+40)])
			rest = rest[i+len(mark):]
		}
	}
}

// A printer prints all that fmt and encoding/json show of operations.
type printer struct{ w io.Writer }

func (p printer) Begin(ctx context.Context, _ *pgherd.Operation) context.Context { return ctx }

func (p printer) End(_ context.Context, op *pgherd.Operation) {
	b, _ := json.Marshal(op)
	fmt.Fprintf(p.w, "%v %+v %#v %q %s %s %s %s %s\n", op, *op, op, *op, b, op.Statement(), op.Fingerprint(), op.ErrorClass(), op.SQLState())
}

func body(t *testing.T, h http.Handler, target string) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w.Body.Bytes()
}
