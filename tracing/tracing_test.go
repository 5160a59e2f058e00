package tracing

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// A recorder is a TracerProvider that keeps what it is told, without the weight of
// the SDK, which package integration tests with.
type recorder struct {
	noop.TracerProvider
	spans []*span
}

func (r *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return recorderTracer{recorder: r}
}

type recorderTracer struct {
	noop.Tracer
	*recorder
}

func (r recorderTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	cfg := trace.NewSpanStartConfig(opts...)
	s := &span{name: name, kind: cfg.SpanKind(), attributes: cfg.Attributes()}
	s.parent, _ = trace.SpanFromContext(ctx).(*span)
	r.spans = append(r.spans, s)
	return trace.ContextWithSpan(ctx, s), s
}

type span struct {
	noop.Span
	name       string
	kind       trace.SpanKind
	parent     *span
	attributes []attribute.KeyValue
	events     []string
	status     codes.Code
	ended      int
}

func (s *span) IsRecording() bool                     { return true }
func (s *span) SetAttributes(a ...attribute.KeyValue) { s.attributes = append(s.attributes, a...) }
func (s *span) SetStatus(c codes.Code, _ string)      { s.status = c }
func (s *span) End(...trace.SpanEndOption)            { s.ended++ }
func (s *span) AddEvent(name string, o ...trace.EventOption) {
	cfg := trace.NewEventConfig(o...)
	s.events = append(s.events, name+" "+list(cfg.Attributes()))
}

func list(all []attribute.KeyValue) string {
	var texts []string
	for _, a := range all {
		if a.Key != "pgherd.acquire" {
			texts = append(texts, fmt.Sprintf("%s=%v", a.Key, a.Value.String()))
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

func TestSpans(t *testing.T) {
	var dbs []*sql.DB
	var mocks []sqlmock.Sqlmock
	for range 2 {
		db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		mock.ExpectClose()
		mock.MatchExpectationsInOrder(false)
		dbs, mocks = append(dbs, db), append(mocks, mock)
	}
	herd, err := pgherd.NewConnector(nil,
		pgherd.Member{Name: "pg1", DB: dbs[0], Role: routing.Primary},
		pgherd.Member{Name: "pg2", DB: dbs[1], Role: routing.Replica})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	defer db.Close()
	r := new(recorder)
	stop := New(herd, Options{Provider: r, QueryText: true})
	ctx, parent := r.Tracer("").Start(t.Context(), "request")

	mocks[1].ExpectQuery("select n from orders where id = 7").WillReturnError(&pgconn.PgError{Code: "42P01", Message: "secret"})
	mocks[0].ExpectQuery("select n from orders where id = 7").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
	mocks[0].ExpectExec("insert into orders values (8)").WillReturnError(&pgconn.PgError{Code: "23505", Detail: "secret"})
	var n int
	if err := db.QueryRowContext(ctx, "select n from orders where id = 7").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, "insert into orders values (8)"); err == nil {
		t.Fatal("no error")
	}
	stop()
	mocks[1].ExpectQuery("select 1").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
	if err := db.QueryRowContext(ctx, "select 1").Scan(&n); err != nil {
		t.Fatal(err)
	}

	for i, want := range []struct {
		name, attributes string
		events           []string
		status           codes.Code
	}{
		{
			"SELECT orders",
			"db.query.summary=SELECT orders db.query.text=select n from orders where id = ? db.response.returned_rows=1 db.system.name=postgresql pgherd.attempts=2 pgherd.operation=query pgherd.reason=hint pgherd.role=primary pgherd.server=pg1",
			[]string{"pgherd.retry error.type=42P01 pgherd.role=replica pgherd.server=pg2"},
			codes.Unset,
		},
		{
			"INSERT orders",
			"db.query.summary=INSERT orders db.query.text=insert into orders values (?) db.response.status_code=23505 db.system.name=postgresql error.type=23505 pgherd.operation=exec pgherd.reason=write pgherd.role=primary pgherd.server=pg1",
			nil,
			codes.Error,
		},
	} {
		got := r.spans[i+1]
		if got.name != want.name || got.kind != trace.SpanKindClient || got.status != want.status || got.ended != 1 || got.parent != parent.(*span) {
			t.Errorf("span %d is %+v", i, got)
		}
		if l := list(got.attributes); l != want.attributes {
			t.Errorf("%s has\n%s\nwant\n%s", got.name, l, want.attributes)
		}
		if !slices.Equal(got.events, want.events) {
			t.Errorf("%s has events %q, want %q", got.name, got.events, want.events)
		}
	}
	if len(r.spans) != 3 {
		t.Errorf("%d spans, one of them after stop", len(r.spans))
	}
}

func TestServerAddress(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u@pg1/shop":                                  "db.namespace=shop db.system.name=postgresql server.address=pg1",
		"postgres://u@pg1:5433/shop":                             "db.namespace=shop db.system.name=postgresql server.address=pg1 server.port=5433",
		"postgres://u@pg1,pg2:5433/shop":                         "db.namespace=shop db.system.name=postgresql server.address=pg1,pg2:5433",
		"postgres://u@a/shop?replica_hosts=b,c,d,e,f":            "db.namespace=shop db.system.name=postgresql server.address=a,b,c,d,e",
		"postgres://u:secret@pg1/shop?replica_hosts=pg2&port=77": "db.namespace=shop db.system.name=postgresql server.address=pg1:77,pg2:77",
	} {
		cfg, err := pgherd.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := list(newTracer(cfg, Options{Provider: new(recorder)}).fixed); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", dsn, got, want)
		}
	}
}
