package metrics_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/metrics"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A mockHerd is a primary and a replica of go-sqlmock, with a collector.
type mockHerd struct {
	db          *sql.DB
	herd        *pgherd.Connector
	primary, r1 sqlmock.Sqlmock
	collector   *metrics.Collector
	registry    *prometheus.Registry
}

func newMockHerd(t testing.TB) *mockHerd {
	t.Helper()
	h := new(mockHerd)
	open := func() (*sql.DB, sqlmock.Sqlmock) {
		db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { mock.ExpectClose(); db.Close() })
		return db, mock
	}
	var p, r *sql.DB
	p, h.primary = open()
	r, h.r1 = open()
	var err error
	h.herd, err = pgherd.NewConnector(nil,
		pgherd.Member{Name: "pg1", DB: p, Role: routing.Primary},
		pgherd.Member{Name: "pg2", DB: r, Role: routing.Replica},
	)
	if err != nil {
		t.Fatal(err)
	}
	h.db = sql.OpenDB(h.herd)
	t.Cleanup(func() { h.db.Close() })
	h.collector = metrics.New(h.herd, "shop")
	h.registry = prometheus.NewPedanticRegistry()
	h.registry.MustRegister(h.collector)
	return h
}

func (h *mockHerd) wantMetrics(t *testing.T, want string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(h.registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestOperations(t *testing.T) {
	h := newMockHerd(t)
	ctx := t.Context()
	refused := &pgconn.PgError{Code: "25006", Message: "cannot execute INSERT in a read-only transaction"}
	h.r1.ExpectQuery("select n from v").WillReturnError(refused)
	h.primary.ExpectQuery("select n from v").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
	h.r1.ExpectQuery("select 1").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
	h.primary.ExpectExec("insert into t values ($1)").WithArgs(1).WillReturnError(&pgconn.PgError{Code: "23505"})
	h.primary.ExpectExec("select raise()").WillReturnError(&pgconn.PgError{Code: "ZZ999"})

	var n int
	for _, q := range []string{"select n from v", "select 1"} {
		if err := h.db.QueryRowContext(ctx, q).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []string{"insert into t values ($1)", "select raise()"} {
		var args []any
		if strings.Contains(q, "$1") {
			args = []any{1}
		}
		if _, err := h.db.ExecContext(ctx, q, args...); err == nil {
			t.Fatalf("%s succeeded", q)
		}
	}
	h.wantMetrics(t, `
# HELP pgherd_errors_total Errors that callers saw, by class of SQLSTATE.
# TYPE pgherd_errors_total counter
pgherd_errors_total{class="23",db="shop",server="pg1"} 1
pgherd_errors_total{class="other",db="shop",server="pg1"} 1
# HELP pgherd_attempt_errors_total Errors that another attempt followed, by class of SQLSTATE.
# TYPE pgherd_attempt_errors_total counter
pgherd_attempt_errors_total{class="25",db="shop",server="pg2"} 1
# HELP pgherd_misroutes_total Statements that looked like reads and that a standby refused.
# TYPE pgherd_misroutes_total counter
pgherd_misroutes_total{db="shop"} 1
# HELP pgherd_decisions_total Statements run, by the reason for choosing the server.
# TYPE pgherd_decisions_total counter
pgherd_decisions_total{db="shop",reason="misroute",server="pg1"} 1
pgherd_decisions_total{db="shop",reason="read",server="pg2"} 1
`, "pgherd_errors_total", "pgherd_attempt_errors_total", "pgherd_misroutes_total", "pgherd_decisions_total")
	if got := h.durations(t); !slices.Equal(got, []string{
		"primary exec error 2",
		"primary query ok 1",
		"replica query ok 1",
	}) {
		t.Errorf("operations: %q", got)
	}
}

// durations returns the counts of pgherd_operation_duration_seconds.
func (h *mockHerd) durations(t *testing.T) (counts []string) {
	t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "pgherd_operation_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			label := make(map[string]string)
			for _, l := range m.GetLabel() {
				label[l.GetName()] = l.GetValue()
			}
			counts = append(counts, strings.Join([]string{label["role"], label["operation"], label["outcome"], strconv.FormatUint(m.GetHistogram().GetSampleCount(), 10)}, " "))
		}
	}
	slices.Sort(counts)
	return counts
}

// No server, no label; and the end of a caller's context is told from an error.
func TestOutcomes(t *testing.T) {
	h := newMockHerd(t)
	cancelled, cancel := context.WithCancel(t.Context())
	h.r1.ExpectQuery("select 1").WillReturnError(context.Canceled)
	cancel()
	conn, err := h.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(dc any) error {
		_, err := dc.(*pgherd.Conn).QueryContext(cancelled, "select 1", nil)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	got := h.durations(t)
	if len(got) != 1 || !strings.HasSuffix(got[0], "query canceled 1") {
		t.Errorf("operations: %q", got)
	}
}

func TestStop(t *testing.T) {
	h := newMockHerd(t)
	h.collector.Stop()
	h.r1.ExpectQuery("select 1").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
	var n int
	if err := h.db.QueryRow("select 1").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if got := h.durations(t); got != nil {
		t.Errorf("a collector that was stopped has counted %q", got)
	}
}

func TestTwoHerds(t *testing.T) {
	h := newMockHerd(t)
	if err := h.registry.Register(metrics.New(h.herd, "blog")); err != nil {
		t.Error(err)
	}
	if err := h.registry.Register(metrics.New(h.herd, "shop")); err == nil {
		t.Error("two herds of one name were registered")
	}
}

// TestRealHerd scrapes a herd that was opened by its DSN: the names are good,
// there are not too many series, and those of a server leave with it.
func TestRealHerd(t *testing.T) {
	servers := pgherdtest.Start(t, pgherdtest.Replicas(2))
	ctx := t.Context()
	var refused atomic.Bool
	expires := time.Now().Add(time.Hour)
	cfg, err := pgherd.ParseDSN(servers.DSN() + "&consistency=eventual")
	if err != nil {
		t.Fatal(err)
	}
	// No password is asked for.
	cfg.Credentials = pgherd.CredentialFunc(func(_ context.Context, l pgherd.Login) (pgherd.Credentials, error) {
		if l.Server == servers.Replica(2).Addr() && !refused.Swap(true) {
			return pgherd.Credentials{}, errors.New("not yet")
		}
		return pgherd.Credentials{Expires: expires}, nil
	})
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	defer db.Close()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics.New(herd, "shop"))
	if _, err := db.ExecContext(ctx, "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "insert into t values ($1)", i)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.QueryRowContext(pgherd.WithReplica(ctx), "select count(*) from t").Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); !allServe(herd); {
		if time.Now().After(end) {
			t.Fatalf("some server runs nothing: %+v", herd.Stats().Servers)
		}
		if _, err := db.ExecContext(ctx, "select count(*) from t"); err != nil {
			t.Fatal(err)
		}
	}
	loseListener(t, herd, db)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	series, of, err := gather(reg)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]func(v float64) bool{
		"pgherd_credential_refreshes_total ok " + servers.Primary().Addr():        func(v float64) bool { return v == 1 },
		"pgherd_credential_refreshes_total error " + servers.Primary().Addr():     func(v float64) bool { return v == 0 },
		"pgherd_credential_refreshes_total error " + servers.Replica(2).Addr():    func(v float64) bool { return v == 1 },
		"pgherd_credentials_expiry_timestamp_seconds " + servers.Primary().Addr(): func(v float64) bool { return time.UnixMicro(int64(v*1e6)).Sub(expires).Abs() < time.Second },
		"pgherd_listener_gaps_total":                                              func(v float64) bool { return v == 1 },
		"pgherd_classifier_cache_entries":                                         func(v float64) bool { return v == texts },
		"pgherd_classifier_cache_misses_total":                                    func(v float64) bool { return v == texts },
	} {
		if v, ok := value(t, reg, name); !ok || !want(v) {
			t.Errorf("%s is %v", name, v)
		}
	}
	if series > 400 {
		t.Errorf("%d series for three servers, want at most 400", series)
	}
	for _, s := range servers.Servers() {
		if of[s.Addr()] == 0 {
			t.Errorf("no series of %s: %v", s.Addr(), of)
		}
	}
	t.Logf("%d series: %v", series, of)

	if err := herd.Remove(ctx, servers.Replica(2).Addr()); err != nil {
		t.Fatal(err)
	}
	if _, of, err = gather(reg); err != nil {
		t.Fatal(err)
	}
	if n := of[servers.Replica(2).Addr()]; n != 0 {
		t.Errorf("%d series of a server that was removed", n)
	}
}

// texts are those of the statements of TestRealHerd.
const texts = 4

// loseListener has a listener lose its connection, and listen again.
func loseListener(t *testing.T, herd *pgherd.Connector, db *sql.DB) {
	t.Helper()
	l, err := herd.Listen(pgherd.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Subscribe(t.Context(), nil, "sheep")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'"); err != nil {
		t.Fatal(err)
	}
	for ev, err := range s.Events(t.Context()) {
		if _, ok := ev.(pgherd.Gap); ok {
			return
		}
		t.Fatalf("%v, %v", ev, err)
	}
}

// value returns the value of a series, given as the name and the values of the labels
// but db, sorted by the labels' names.
func value(t *testing.T, reg *prometheus.Registry, series string) (v float64, ok bool) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "db" {
					name += " " + l.GetValue()
				}
			}
			if name == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

func allServe(herd *pgherd.Connector) bool {
	for _, s := range herd.Stats().Servers {
		if s.Total() == 0 {
			return false
		}
	}
	return true
}

// gather counts all series, buckets included, and those of each server.
func gather(reg *prometheus.Registry) (all int, of map[string]int, err error) {
	families, err := reg.Gather()
	of = make(map[string]int)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			n := 1
			if h := m.GetHistogram(); h != nil {
				n = len(h.GetBucket()) + 3
			}
			all += n
			for _, l := range m.GetLabel() {
				if l.GetName() == "server" {
					of[l.GetValue()] += n
				}
			}
		}
	}
	return all, of, err
}

// TestTable holds the table in the package's documentation to what is exported.
func TestTable(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(pgherd_\w+)(?:\{([\w,]+)\})?\s`).FindAllStringSubmatch(string(doc), -1) {
		told = append(told, m[1]+"{"+m[2]+"}")
	}
	h := newMockHerd(t)
	descs := make(chan *prometheus.Desc)
	go func() { h.collector.Describe(descs); close(descs) }()
	var exported []string
	for d := range descs {
		m := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		exported = append(exported, m[1]+"{"+m[2]+"}")
	}
	slices.Sort(told)
	slices.Sort(exported)
	for _, name := range told {
		if !slices.Contains(exported, name) {
			t.Errorf("the documentation has %s, which is not exported", name)
		}
	}
	for _, name := range exported {
		if !slices.Contains(told, name) {
			t.Errorf("%s is exported, and not in the documentation", name)
		}
	}
}
