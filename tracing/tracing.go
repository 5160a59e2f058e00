// Package tracing makes OpenTelemetry spans of what a herd does.
//
//	stop := tracing.New(herd, tracing.Options{})
//
// [pgherd.FromDB] gives the herd behind a *sql.DB.
//
// Each operation is a span of kind client, by the [conventions for databases]. It
// covers all attempts, and for a query the reading of its rows. Statements run under
// its context, so that spans of pgx on each server are its children: set
// [pgherd.Config.Tracer] to that of otelpgx, for one. A wrapper around the driver,
// such as otelsql, makes its parent. Spans begin in
// this package only where statements go through a herd: the probe has none.
//
// # Attributes
//
//	db.system.name             postgresql
//	db.namespace               the database of the DSN
//	db.query.summary           the first word and the tables, such as "SELECT orders"; also the span's name
//	db.query.text              the text without values; only with Options.QueryText
//	db.response.status_code    SQLSTATE, if the server answered with an error
//	db.response.returned_rows  rows that were read, of a query
//	error.type                 SQLSTATE, or one of the classes of pgherd.Operation.ErrorClass
//	server.address             the hosts of the DSN, the first five: where it was sent, whatever server was chosen
//	server.port                if there is one host, and it is not 5432
//	network.peer.address, network.peer.port   the host of the server that it ran on, if the DSN has it
//	pgherd.operation           query, exec, prepare, begin, commit, rollback, ping, copy or pgx
//	pgherd.server, pgherd.role where it ran
//	pgherd.reason              why there
//	pgherd.attempts            if there was more than one
//	pgherd.lag                 how stale a read on the replica can have been, in seconds
//	pgherd.acquire             until there was a connection, in seconds
//
// An event pgherd.retry tells of each attempt that another one followed, with its
// server, role and error.type. No attribute, event or status has the text of an error,
// which may quote values, or an argument.
//
// No comment is added to statements: one that is different for each trace would make
// each execution a new statement to pgx's and the server's caches.
//
// [conventions for databases]: https://opentelemetry.io/docs/specs/semconv/database/postgresql/
package tracing

import (
	"context"
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgherd/pgherd"
)

// Options are the settings of [New]. The zero value has the defaults.
type Options struct {
	// Provider makes the spans; nil means the global one.
	Provider trace.TracerProvider
	// QueryText adds the text of statements, as routing.Normalize makes it: names and
	// no values. It takes some microseconds for each span that is recorded.
	QueryText bool
}

// New makes spans of all operations of a herd that begin from now on, until stop is
// called. It may be called at any time, from any goroutine.
func New(herd *pgherd.Connector, o Options) (stop func()) {
	if o.Provider == nil {
		o.Provider = otel.GetTracerProvider()
	}
	return herd.Observe(newTracer(herd.Config(), o))
}

// A tracer is the observer. It is the key of its span in a context, too: there may be
// several.
type tracer struct {
	tracer trace.Tracer
	text   bool
	fixed  []attribute.KeyValue            // of every span
	peers  map[string][]attribute.KeyValue // of the servers that the DSN names
}

const (
	scope       = "github.com/pgherd/pgherd/tracing"
	maxHosts    = 5
	defaultPort = 5432
)

func newTracer(cfg *pgherd.Config, o Options) *tracer {
	t := &tracer{
		tracer: o.Provider.Tracer(scope),
		text:   o.QueryText,
		fixed:  []attribute.KeyValue{attribute.String("db.system.name", "postgresql")},
		peers:  make(map[string][]attribute.KeyValue),
	}
	if cfg.Database != "" {
		t.fixed = append(t.fixed, attribute.String("db.namespace", cfg.Database))
	}
	var hosts []string
	for _, h := range cfg.Hosts {
		port := int(h.Port)
		if port == 0 {
			port = defaultPort
		}
		address := h.Host
		if port != defaultPort {
			address = net.JoinHostPort(h.Host, strconv.Itoa(port))
		}
		if len(hosts) < maxHosts {
			hosts = append(hosts, address)
		}
		name := h.Name
		if name == "" {
			name = address
		}
		t.peers[name] = []attribute.KeyValue{
			attribute.String("network.peer.address", h.Host),
			attribute.Int("network.peer.port", port),
		}
		if len(cfg.Hosts) == 1 && port != defaultPort {
			hosts[0] = h.Host
			t.fixed = append(t.fixed, attribute.Int("server.port", port))
		}
	}
	if hosts != nil {
		t.fixed = append(t.fixed, attribute.String("server.address", strings.Join(hosts, ",")))
	}
	return t
}

// Begin implements [pgherd.Observer].
func (t *tracer) Begin(ctx context.Context, op *pgherd.Operation) context.Context {
	summary := op.Summary()
	ctx, span := t.tracer.Start(ctx, summary,
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(t.fixed...),
		trace.WithAttributes(attribute.String("db.query.summary", summary), attribute.String("pgherd.operation", op.Kind.String())))
	if span.IsRecording() && t.text {
		if text := op.Statement(); text != "" {
			span.SetAttributes(attribute.String("db.query.text", text))
		}
	}
	return context.WithValue(ctx, t, span)
}

// End implements [pgherd.Observer].
func (t *tracer) End(ctx context.Context, op *pgherd.Operation) {
	span, ok := ctx.Value(t).(trace.Span)
	if !ok {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	for _, a := range op.Failed {
		span.AddEvent("pgherd.retry", trace.WithTimestamp(a.End), trace.WithAttributes(
			attribute.String("pgherd.server", a.Server),
			attribute.String("pgherd.role", a.Role.String()),
			attribute.String("error.type", errorType(&pgherd.Operation{Err: a.Err})),
		))
	}
	all := make([]attribute.KeyValue, 0, 12)
	all = append(all, attribute.String("pgherd.reason", op.Reason.String()), attribute.String("pgherd.role", op.Role.String()))
	if op.Server != "" {
		all = append(all, attribute.String("pgherd.server", op.Server))
		all = append(all, t.peers[op.Server]...)
	}
	if n := op.Attempts(); n > 1 {
		all = append(all, attribute.Int("pgherd.attempts", n))
	}
	if op.LagKnown {
		all = append(all, attribute.Float64("pgherd.lag", op.Lag.Seconds()))
	}
	if op.Acquire > 0 {
		all = append(all, attribute.Float64("pgherd.acquire", op.Acquire.Seconds()))
	}
	if op.Kind == pgherd.KindQuery && op.Rows >= 0 {
		all = append(all, attribute.Int64("db.response.returned_rows", op.Rows))
	}
	if op.Err != nil {
		all = append(all, attribute.String("error.type", errorType(op)))
		if state := op.SQLState(); state != "" {
			all = append(all, attribute.String("db.response.status_code", state))
		}
		span.SetStatus(codes.Error, op.ErrorClass())
	}
	span.SetAttributes(all...)
}

func errorType(op *pgherd.Operation) string {
	if state := op.SQLState(); state != "" && op.Outcome() == pgherd.OutcomeError {
		return state
	}
	return op.ErrorClass()
}
