package integration

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/XSAM/otelsql"
	"github.com/exaring/otelpgx"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/tracing"
)

const (
	scopeHerd    = "github.com/pgherd/pgherd/tracing"
	scopeOtelsql = "github.com/XSAM/otelsql"
	scopeOtelpgx = "github.com/exaring/otelpgx"
)

// openTraced opens a herd with spans of otelsql around, and of otelpgx beneath,
// those of package tracing, and returns what records them.
func openTraced(t *testing.T) (*sql.DB, *pgherd.Connector, *sdk.TracerProvider, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder))
	t.Cleanup(func() { provider.Shutdown(context.Background()) })
	cfg, err := pgherd.ParseDSN(herdDatabase(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(provider))
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := otelsql.OpenDB(herd, otelsql.WithTracerProvider(provider))
	t.Cleanup(func() { db.Close() })
	tracing.New(herd, tracing.Options{Provider: provider})
	return db, herd, provider, recorder
}

// TestTraceIsOneTree follows a query and a statement in a transaction through all
// three: the application's span is above otelsql's, that above ours, and ours above
// otelpgx's, which was sent to the server that ours names.
func TestTraceIsOneTree(t *testing.T) {
	db, herd, provider, recorder := openTraced(t)
	if found, err := pgherd.FromDB(t.Context(), db); err != nil || found != herd {
		t.Errorf("FromDB through otelsql: %p, %v; want %p", found, err, herd)
	}
	if _, err := db.Exec("create table orders (n int)"); err != nil {
		t.Fatal(err)
	}
	run := map[string]func(ctx context.Context) error{
		"SELECT": func(ctx context.Context) error {
			var n int
			return db.QueryRowContext(ctx, "select count(*) from orders where n = $1", 1).Scan(&n)
		},
		"INSERT": func(ctx context.Context) error {
			return pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "insert into orders values ($1)", 1)
				return err
			})
		},
	}
	for verb, f := range run {
		t.Run(verb, func(t *testing.T) {
			ctx, root := provider.Tracer("application").Start(t.Context(), "request")
			if err := f(ctx); err != nil {
				t.Fatal(err)
			}
			root.End()
			spans := make(map[trace.SpanID]sdk.ReadOnlySpan)
			var ours, beneath sdk.ReadOnlySpan
			for _, s := range recorder.Ended() {
				if s.SpanContext().TraceID() != root.SpanContext().TraceID() {
					continue
				}
				spans[s.SpanContext().SpanID()] = s
				if s.InstrumentationScope().Name == scopeHerd && s.Name() == verb+" orders" {
					ours = s
				}
			}
			if ours == nil {
				t.Fatalf("no span %s orders among %d", verb, len(spans))
			}
			for _, s := range spans {
				if s.InstrumentationScope().Name == scopeOtelpgx && s.Parent().SpanID() == ours.SpanContext().SpanID() {
					beneath = s
				}
			}
			above := spans[ours.Parent().SpanID()]
			if above == nil || above.InstrumentationScope().Name != scopeOtelsql {
				t.Errorf("above ours is %v, want a span of otelsql", above)
			}
			if beneath == nil {
				t.Error("no span of otelpgx beneath ours")
			} else if beneath.EndTime().After(ours.EndTime().Add(time.Second)) {
				t.Errorf("ours ended %v before that of otelpgx", beneath.EndTime().Sub(ours.EndTime()))
			}
			for s := above; ; {
				if s == nil {
					t.Error("no way from ours to the application's span")
					break
				}
				if s.SpanContext().SpanID() == root.SpanContext().SpanID() {
					break
				}
				s = spans[s.Parent().SpanID()]
			}
		})
	}
}
