package healthhttp_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/healthhttp"
	"github.com/pgherd/pgherd/pgherdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(h http.Handler, target string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLive(t *testing.T) {
	if r := get(healthhttp.Live(), "/livez"); r.StatusCode != 200 {
		t.Errorf("status %d", r.StatusCode)
	}
	w := httptest.NewRecorder()
	healthhttp.Live().ServeHTTP(w, httptest.NewRequest("POST", "/livez", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

// What is ready when is asked of a real herd, whose servers fail one by one.
func TestReady(t *testing.T) {
	servers := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db, err := sql.Open("pgherd", servers.DSN()+"&lag_check_interval=50ms&lag_check_timeout=200ms")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	herd, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	want := func(status string, codes map[healthhttp.When]int) {
		t.Helper()
		var last string
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			ok := true
			for when, code := range codes {
				r := get(healthhttp.Ready(herd, healthhttp.Options{When: when}), "/readyz")
				last = body(t, r)
				ok = ok && r.StatusCode == code && (when != healthhttp.WhenPrimary || strings.Contains(last, `"status":"`+status+`"`))
			}
			if ok {
				return
			}
		}
		t.Fatalf("want %s, %v; last answer %s", status, codes, last)
	}
	const yes, no = 200, 503
	want("ready", map[healthhttp.When]int{healthhttp.WhenPrimary: yes, healthhttp.WhenAny: yes, healthhttp.WhenReplica: yes})
	if err := servers.Replica(1).Kill(); err != nil {
		t.Fatal(err)
	}
	want("degraded", map[healthhttp.When]int{healthhttp.WhenPrimary: yes, healthhttp.WhenAny: yes, healthhttp.WhenReplica: no})
	if err := servers.Replica(1).Start(); err != nil {
		t.Fatal(err)
	}
	want("ready", map[healthhttp.When]int{healthhttp.WhenPrimary: yes, healthhttp.WhenReplica: yes})
	if err := servers.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	want("unready", map[healthhttp.When]int{healthhttp.WhenPrimary: no, healthhttp.WhenAny: yes, healthhttp.WhenReplica: yes})
	if r := get(healthhttp.Live(), "/livez"); r.StatusCode != 200 {
		t.Error("not live without a database")
	}
}

// A request that comes while no server has answered yet is answered in time.
func TestReadyIsBounded(t *testing.T) {
	servers := pgherdtest.Start(t)
	if err := servers.Primary().Freeze(); err != nil {
		t.Fatal(err)
	}
	defer servers.Primary().Thaw()
	cfg, err := pgherd.ParseDSN(servers.DSN() + "&lag_check_timeout=10s")
	if err != nil {
		t.Fatal(err)
	}
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer herd.Close()
	begun := time.Now()
	r := get(healthhttp.Ready(herd, healthhttp.Options{Timeout: 100 * time.Millisecond}), "/readyz")
	if took := time.Since(begun); r.StatusCode != 503 || took > 5*time.Second {
		t.Errorf("status %d after %v", r.StatusCode, took)
	}
}

func TestStatus(t *testing.T) {
	servers := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db, err := sql.Open("pgherd", servers.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	herd, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	h := healthhttp.Status(herd)
	var r struct {
		Status  string
		Servers []struct {
			Name, Role  string
			Up          bool
			Lag_Seconds *float64
			Statements  int
			Decisions   map[string]int
		}
		History []struct {
			Servers map[string]struct{ Statements int }
		}
	}
	if err := json.Unmarshal([]byte(body(t, get(h, "/debug/pgherd/?format=json"))), &r); err != nil {
		t.Fatal(err)
	}
	if r.Status != "ready" || len(r.Servers) != 2 || r.Servers[0].Role != "primary" || r.Servers[0].Decisions["ddl"] != 1 || r.Servers[1].Lag_Seconds == nil {
		t.Errorf("the JSON tells %+v", r)
	}
	if len(r.History) != 1 || r.History[0].Servers[r.Servers[0].Name].Statements != 1 {
		t.Errorf("the history is %+v", r.History)
	}
	p := get(h, "/debug/pgherd/")
	csp := p.Header.Get("Content-Security-Policy")
	if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'") || strings.Count(csp, "sha256-") != 2 {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
}

// TestPageIsSelfContained holds the page to what its policy allows.
func TestPageIsSelfContained(t *testing.T) {
	page, err := os.ReadFile("page.html")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, bad := range []string{`\son\w+=`, `\sstyle=`, `\ssrc=`, `<link`, `innerHTML`, `eval\(`, `https?://(?:[^w]|w[^w])`} {
		if m := regexp.MustCompile(bad).Find(page); m != nil {
			t.Errorf("the page has %q", m)
		}
	}
}
