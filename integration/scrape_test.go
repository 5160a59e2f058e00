package integration

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promapi "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/pgherd/pgherd/pgherdtest"
)

var scrapeDuration = flag.Duration("scrape.duration", 12*time.Second, "for how long Prometheus watches a healthy herd in TestScrape, with 12 scrapes; from a minute on at the interval that is deployed")

// scrapeUser is whom the application logs in as: the servers' statistics tell what it
// ran from what the test does.
const scrapeUser = "shop"

// TestScrape has Prometheus, configured as it is deployed, watch the application that
// is deployed and its servers: while all is well, while nothing moves, and while the
// servers fail. Every query of the dashboard and every alert then has something to
// show, and what was counted is what the application and the servers have counted.
func TestScrape(t *testing.T) {
	interval := min(*scrapeDuration/12, 5*time.Second)
	needsStatements(t)
	h := pgherdtest.Start(t, pgherdtest.Replicas(2), pgherdtest.Settings(map[string]string{"shared_preload_libraries": "pg_stat_statements"}))
	primary := openServer(t, h.Primary())
	for _, s := range []string{"create extension pg_stat_statements", "create role " + scrapeUser + " superuser login"} {
		if _, err := primary.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(t.TempDir(), "password") // nobody asks for it
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Whatever the workload is stuck at, a pool of two is full: it has four clients, and
	// there are three servers.
	app := startApp(t, h, "PG_POOL_MAX=2", "PG_QUERY_TIMEOUT=2s", "PG_PASSWORD_FILE="+password)
	w := startPrometheus(t, app.addr, interval)

	t.Run("healthy", func(t *testing.T) {
		until(t, "Prometheus has scraped the application", func() bool { return len(w.query(t, `pgherd_server_up == 1`)) == 3 })
		w.since = time.Now()
		time.Sleep(*scrapeDuration) // what it is to see is time that passes
		want := []string{           // that there are none is what a healthy herd shows
			"Errors by class", "Errors by class", "Promotions and demotions", "What keeps servers from serving",
		}
		if empty := w.unanswered(t); !slices.Equal(empty, want) {
			t.Errorf("without data are %q, want %q", empty, want)
		}
		for name, state := range w.alerts(t) {
			if state != promapi.AlertStateInactive && name != "PgherdPoolFull" { // a pool of two is full now and then
				t.Errorf("%s is %s", name, state)
			}
		}
		for _, r := range deployedAlerts(t) {
			for _, selector := range regexp.MustCompile(`pgherd_\w+(\{[^}]*\})?`).FindAllString(r.Expr, -1) {
				if strings.HasPrefix(selector, "pgherd_errors_total") || strings.HasPrefix(selector, "pgherd_server_ineligible") {
					continue // there are none
				}
				if len(w.query(t, selector)) == 0 {
					t.Errorf("%s: there is no %s", r.Alert, selector)
				}
			}
		}
		for _, s := range w.query(t, "time() - pgherd_lag_check_timestamp_seconds") {
			if age := time.Duration(float64(s.Value) * float64(time.Second)); age < 0 || age > interval+5*time.Second {
				t.Errorf("%s was asked %v ago", s.Metric["server"], age)
			}
		}
	})

	t.Run("standstill", func(t *testing.T) {
		tx, err := primary.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(t.Context(), "lock table visits in access exclusive mode"); err != nil {
			t.Fatal(err)
		}
		var servers []*sql.DB
		for _, s := range h.Servers() {
			servers = append(servers, openServer(t, s))
		}
		until(t, "all clients wait", func() bool { return app.waiting(t, servers) == 4 })
		compareCounts(t, w, h, app, tx)
		w.untilActive(t, "PgherdPoolFull")
		if err := h.Replica(1).PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := openServer(t, h.Primary()).ExecContext(t.Context(), "create table missed ()"); err != nil {
			t.Fatal(err)
		}
		w.untilActive(t, "PgherdErrors") // query_timeout has passed
		w.untilActive(t, "PgherdReplicaLate")
		compareCounts(t, w, h, app, tx)
	})

	t.Run("failing", func(t *testing.T) {
		if err := h.Replica(2).Kill(); err != nil {
			t.Fatal(err)
		}
		w.untilActive(t, "PgherdServerDown")
		w.untilActive(t, "PgherdNoReplica")
		if err := h.Primary().Kill(); err != nil {
			t.Fatal(err)
		}
		w.untilActive(t, "PgherdNoPrimary")
		old := h.Primary()
		if err := h.Replica(1).ResumeReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.Replica(1).Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.untilActive(t, "PgherdRoleChanged")
		if err := old.Start(); err != nil {
			t.Fatal(err)
		}
		w.untilActive(t, "PgherdTwoPrimaries")
		w.untilInactive(t, "PgherdNoPrimary")
	})
	if empty := w.unanswered(t); empty != nil {
		t.Errorf("never with data: %q", empty)
	}
}

// needsStatements skips the test where PostgreSQL came without its contributed modules.
func needsStatements(t *testing.T) {
	t.Helper()
	var there bool
	if err := openHerd(t).QueryRowContext(t.Context(), "select exists (select from pg_available_extensions where name = 'pg_stat_statements')").Scan(&there); err != nil {
		t.Fatal(err)
	}
	switch {
	case there:
	case os.Getenv("PGHERD_TEST_REQUIRE") == "1":
		t.Fatal("pg_stat_statements is not installed")
	default:
		t.Skip("pg_stat_statements is not installed")
	}
}

// compareCounts compares what Prometheus has scraped with what the application and its
// servers tell, while nothing succeeds.
func compareCounts(t *testing.T, w *prometheusServer, h *pgherdtest.Herd, app *app, tx *sql.Tx) {
	t.Helper()
	told := make(map[string]uint64) // by server and reason
	for _, s := range app.status(t).Servers {
		for why, n := range s.Decisions {
			told[s.Name+" "+why] = n
		}
	}
	scraped := make(map[string]uint64)
	until(t, "Prometheus has scraped what is told", func() bool {
		clear(scraped)
		for _, s := range w.query(t, "pgherd_decisions_total") {
			scraped[string(s.Metric["server"]+" "+s.Metric["reason"])] = uint64(s.Value)
		}
		return maps.Equal(scraped, told)
	})
	var all uint64
	for _, s := range h.Servers() {
		var counted uint64
		for what, n := range scraped {
			if strings.HasPrefix(what, s.Addr()+" ") {
				counted += n
			}
		}
		all += counted
		// What the herd asks on its own account names no table of the application.
		const calls = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements where userid = $1::regrole and query like '%visits%'"
		var ran uint64
		if err := openServer(t, s).QueryRowContext(t.Context(), calls, scrapeUser).Scan(&ran); err != nil {
			t.Fatal(err)
		}
		if counted != ran || ran == 0 {
			t.Errorf("%s: pgherd_decisions_total is %d, and the server has run %d statements", s.Name(), counted, ran)
		}
		t.Logf("%s: pgherd_decisions_total %d, pg_stat_statements %d", s.Name(), counted, ran)
	}
	one := func(query string) uint64 {
		t.Helper()
		v := w.query(t, query)
		if len(v) != 1 {
			t.Fatalf("%s: %v", query, v)
		}
		return uint64(v[0].Value)
	}
	if n := one(`sum(pgherd_operation_duration_seconds_count{outcome="ok"})`); n != all {
		t.Errorf("%d operations have succeeded, and %d were decided on", n, all)
	}
	var rows uint64
	if err := tx.QueryRowContext(t.Context(), "select count(*) from visits").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	// One of them has made the table.
	if n := one(`sum(pgherd_operation_duration_seconds_count{operation="exec", outcome="ok"})`); n != rows+1 {
		t.Errorf("%d statements were run by Exec, and the table has %d rows", n, rows)
	}
	t.Logf("%d operations, %d rows", all, rows)
}

// An app is the application that is deployed, as a process.
type app struct{ addr string }

// An appStatus is the part of its status page that is compared.
type appStatus struct {
	Servers []struct {
		Name      string
		Decisions map[string]uint64
		InFlight  int `json:"in_flight"`
		Pool      struct {
			InUse int `json:"in_use"`
		}
	}
}

func startApp(t *testing.T, h *pgherdtest.Herd, env ...string) *app {
	t.Helper()
	program := filepath.Join(t.TempDir(), "app")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/pgherd/pgherd/deploy/app").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var replicas []string
	for _, s := range h.Servers()[1:] {
		replicas = append(replicas, s.Addr())
	}
	a := &app{freeAddr(t)}
	startProcess(t, append(env, "PG_HOST="+h.Primary().Host(), "PG_PORT="+strconv.Itoa(h.Primary().Port()), "PG_REPLICA_HOSTS="+strings.Join(replicas, ","),
		"PG_DATABASE=postgres", "PG_USERNAME="+scrapeUser), program, "-listen", a.addr, "-work")
	untilServes(t, "http://"+a.addr+"/readyz")
	return a
}

func (a *app) status(t *testing.T) (s appStatus) {
	t.Helper()
	resp, err := http.Get("http://" + a.addr + "/pgherd/?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// waiting returns how many clients wait for a lock that is there on all servers, or for
// a connection of which those have all.
func (a *app) waiting(t *testing.T, servers []*sql.DB) (n int) {
	t.Helper()
	for _, s := range a.status(t).Servers {
		n += max(0, s.InFlight-s.Pool.InUse)
	}
	for _, s := range servers {
		var waiting, locked int
		const locks = "select count(*) filter (where not granted), count(*) filter (where granted and mode = 'AccessExclusiveLock') from pg_locks where relation = 'visits'::regclass"
		if err := s.QueryRowContext(t.Context(), locks).Scan(&waiting, &locked); err != nil {
			t.Fatal(err)
		}
		if locked == 0 {
			return 0 // the replica has not come to that yet
		}
		n += waiting
	}
	return n
}

// A prometheusServer is a Prometheus that scrapes one application.
type prometheusServer struct {
	api      promapi.API
	interval time.Duration
	since    time.Time // when what the dashboard is asked for begins
	app      string    // its name as an instance
}

// startWatch starts Prometheus with the configuration that is deployed, but for the
// application's address and how often it is scraped.
func startPrometheus(t *testing.T, target string, interval time.Duration) *prometheusServer {
	t.Helper()
	if _, err := exec.LookPath("prometheus"); err != nil && os.Getenv("PGHERD_TEST_REQUIRE") == "" {
		t.Skip("Prometheus is not installed")
	}
	dir := t.TempDir()
	config := string(readDeployed(t, "prometheus/prometheus.yml"))
	for old, now := range map[string]string{"app:8080": target, "_interval: 5s": "_interval: " + interval.String()} {
		if !strings.Contains(config, old) {
			t.Fatalf("prometheus.yml has no %s", old)
		}
		config = strings.ReplaceAll(config, old, now)
	}
	for name, text := range map[string][]byte{"prometheus.yml": []byte(config), "alerts.yml": readDeployed(t, "prometheus/alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := freeAddr(t)
	startProcess(t, nil, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	untilServes(t, "http://"+addr+"/-/ready")
	client, err := api.NewClient(api.Config{Address: "http://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	return &prometheusServer{api: promapi.NewAPI(client), interval: interval, app: target, since: time.Now()}
}

// query answers a query as of now.
func (w *prometheusServer) query(t *testing.T, query string) model.Vector {
	t.Helper()
	v, warnings, _, err := w.api.Query(t.Context(), query, time.Now())
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%s: %v %q", query, err, warnings)
	}
	return v.(model.Vector)
}

// unanswered returns the names of the dashboard's queries that have no number to show
// for the time since w.since. They are sent as Grafana sends them.
func (w *prometheusServer) unanswered(t *testing.T) (names []string) {
	t.Helper()
	choices := make(map[string]string) // what "All" stands for, by the variable
	for _, label := range []string{"db", "instance"} {
		values, _, _, err := w.api.LabelValues(t.Context(), label, []string{"pgherd_build_info"}, w.since, time.Now())
		if err != nil || len(values) != 1 {
			t.Fatalf("%s: %v, %v", label, values, err)
		}
		choices[label] = strings.ReplaceAll(regexp.QuoteMeta(string(values[0])), `\`, `\\`)
	}
	if choices["db"] != "shop" || !strings.HasSuffix(choices["instance"], w.app[strings.LastIndexByte(w.app, ':'):]) {
		t.Errorf("the dashboard offers %q", choices)
	}
	expand := strings.NewReplacer("$db", choices["db"], "$instance", choices["instance"], "$__rate_interval", (4 * w.interval).String())
	for _, q := range dashboardQueries(t) {
		v, warnings, _, err := w.api.QueryRange(t.Context(), expand.Replace(q.Expr), promapi.Range{Start: w.since, End: time.Now(), Step: w.interval})
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v %q", q.Name, err, warnings)
		}
		if !slices.ContainsFunc(v.(model.Matrix), func(s *model.SampleStream) bool {
			return slices.ContainsFunc(s.Values, func(p model.SamplePair) bool { return !math.IsNaN(float64(p.Value)) })
		}) {
			names = append(names, q.Name)
		}
	}
	slices.Sort(names)
	return names
}

// alerts returns the state of each alert. It fails the test if Prometheus cannot
// evaluate one.
func (w *prometheusServer) alerts(t *testing.T) map[string]promapi.AlertState {
	t.Helper()
	r, err := w.api.Rules(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[string]promapi.AlertState)
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			a := rule.(promapi.AlertingRule)
			states[a.Name] = promapi.AlertState(a.State)
			if a.Health != promapi.RuleHealthGood || a.LastError != "" {
				t.Errorf("%s is %s: %s", a.Name, a.Health, a.LastError)
			}
		}
	}
	return states
}

// untilActive waits until an alert is pending, or firing.
func (w *prometheusServer) untilActive(t *testing.T, name string) {
	t.Helper()
	until(t, name+" is active", func() bool {
		s, ok := w.alerts(t)[name]
		return ok && s != promapi.AlertStateInactive
	})
}

func (w *prometheusServer) untilInactive(t *testing.T, name string) {
	t.Helper()
	until(t, name+" is not active", func() bool { return w.alerts(t)[name] == promapi.AlertStateInactive })
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startProcess starts a program, which is told to end when the test does. Its output is
// shown if the test fails.
func startProcess(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	out := new(sink)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", program, err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", program, out)
		}
	})
}

// untilServes waits until a URL answers.
func untilServes(t *testing.T, url string) {
	t.Helper()
	until(t, url+" answers", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	})
}
