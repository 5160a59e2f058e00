package pgherd

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// cleanEnv takes from the test everything that libpq's defaults depend on.
func cleanEnv(tb testing.TB) {
	tb.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			tb.Setenv(name, "") // so that it comes back
			os.Unsetenv(name)
		}
	}
	tb.Setenv("HOME", tb.TempDir())
}

func hosts(names ...string) (hs []Host) {
	for _, n := range names {
		name, replica := strings.CutSuffix(n, " replica")
		hs = append(hs, Host{Name: name, Host: name, Port: 5432, Weight: 1, Replica: replica})
	}
	return hs
}

// testDSNs are the DSNs that parse: a table of what they mean, and the seed of
// the fuzz tests. Each want changes the Config of postgres://u@h.
var testDSNs = []struct {
	dsn  string
	want func(*Config)
}{
	{"postgres://u@h", func(*Config) {}},
	{"postgresql://u@h/", func(*Config) {}},
	{"host=h user=u", func(*Config) {}},
	{" host = h user=\n'u' ", func(*Config) {}},
	{"postgres://u:p@h/d", func(c *Config) { c.Password, c.Database = "p", "d" }},
	{"postgres://u:s%3a%2F+%25@h/d%20d", func(c *Config) { c.Password, c.Database = "s:/+%", "d d" }},
	{"postgres://u:a:b?c@h", func(c *Config) { c.Password = "a:b?c" }},
	{`host=h user=u password='it\'s \\ here' dbname=d`, func(c *Config) { c.Password, c.Database = `it's \ here`, "d" }},
	{`host=h user=u password=a\ b`, func(c *Config) { c.Password = "a b" }},
	{"postgres://u@h/d?password=last&password=wins&dbname=e", func(c *Config) { c.Password, c.Database = "wins", "e" }},
	{"postgres:///d?host=h&user=u", func(c *Config) { c.Database = "d" }},

	// Hosts.
	{"postgres://u@a,b:5433,c", func(c *Config) {
		c.Hosts = hosts("a", "b:5433", "c")
		c.Hosts[1].Host, c.Hosts[1].Port = "b", 5433
	}},
	{"host=a,b:5433 user=u", func(c *Config) {
		c.Hosts = hosts("a", "b:5433")
		c.Hosts[1].Host, c.Hosts[1].Port = "b", 5433
	}},
	{"host=a,b port=5432,5433 user=u", func(c *Config) {
		c.Hosts = hosts("a", "b:5433")
		c.Hosts[1].Host, c.Hosts[1].Port = "b", 5433
	}},
	{"postgres://u@h?replica_hosts=r1,r2", func(c *Config) { c.Hosts = hosts("h", "r1 replica", "r2 replica") }},
	{"host=h user=u replica_hosts='r1, r2'", func(c *Config) { c.Hosts = hosts("h", "r1 replica", "r2 replica") }},
	{"postgres://u@h:6432?replica_hosts=r1,r2:5432", func(c *Config) {
		c.Hosts = hosts("h:6432", "r1:6432 replica", "r2 replica")
		c.Hosts[0].Host, c.Hosts[0].Port = "h", 6432
		c.Hosts[1].Host, c.Hosts[1].Port = "r1", 6432
	}},
	{"postgres://u@[::1]:6000,[fe80::1%25eth0]?replica_hosts=[::2]:5432,%5B::3%5D", func(c *Config) {
		c.Hosts = hosts("::1:6000", "fe80::1-eth0", "::2 replica", "::3 replica")
		c.Hosts[0].Host, c.Hosts[0].Port = "::1", 6000
		c.Hosts[1].Host = "fe80::1%eth0"
	}},
	{"host=::1 user=u replica_hosts=::2", func(c *Config) { c.Hosts = hosts("::1", "::2 replica") }},
	{"postgres://u@%2Fvar%2Frun:6000/?replica_hosts=/tmp/a", func(c *Config) {
		c.Hosts = []Host{
			{Name: "var-run:6000", Host: "/var/run", Port: 6000, Weight: 1},
			{Name: "tmp-a:6000", Host: "/tmp/a", Port: 6000, Weight: 1, Replica: true},
		}
	}},
	{"postgres://u@h?replica_hosts=h:1,h:2&replica_names=r1,r.2&replica_weights=3,0", func(c *Config) {
		c.Hosts = append(c.Hosts,
			Host{Name: "r1", Host: "h", Port: 1, Weight: 3, Replica: true},
			Host{Name: "r.2", Host: "h", Port: 2, Weight: 0, Replica: true})
	}},
	{"postgres://u@a,b?host_names=x,y&host_weights=1,2", func(c *Config) {
		c.Hosts = hosts("a", "b")
		c.Hosts[0].Name, c.Hosts[1].Name, c.Hosts[1].Weight = "x", "y", 2
	}},
	{"postgres://u@h:1,H-1,h-1:1", func(c *Config) { // names that would be alike, or nearly
		c.Hosts = []Host{
			{Name: "h:1", Host: "h", Port: 1, Weight: 1},
			{Name: "H-1", Host: "H-1", Port: 5432, Weight: 1},
			{Name: "h-1:1", Host: "h-1", Port: 1, Weight: 1},
		}
	}},
	{"host=/a/b,/a-b user=u", func(c *Config) {
		c.Hosts = []Host{
			{Name: "a-b", Host: "/a/b", Port: 5432, Weight: 1},
			{Name: "a-b-2", Host: "/a-b", Port: 5432, Weight: 1},
		}
	}},
	{"host=" + strings.Repeat("long.", 20) + "example user=u", func(c *Config) {
		c.Hosts = hosts(strings.Repeat("long.", 20) + "example")
		c.Hosts[0].Name = c.Hosts[0].Name[:63]
	}},

	// Routing and pools.
	{"postgres://u@h?max_lag=500ms&max_lag_bytes=16MB&lag_unknown=include&replica_fallback=error", func(c *Config) {
		c.MaxLag, c.MaxLagBytes, c.LagUnknown, c.ReplicaFallback = 500*time.Millisecond, 16<<20, true, FallbackError
	}},
	{"postgres://u@h?max_lag=0&max_lag_bytes=1000&consistency=eventual&session_reset=discard", func(c *Config) {
		c.MaxLag, c.MaxLagBytes, c.Consistency, c.SessionReset = 0, 1000, ConsistencyEventual, SessionResetDiscard
	}},
	{"host=h user=u max_lag_bytes='8 kB' consistency=primary lag_unknown=exclude simulation_mode=off", func(c *Config) {
		c.MaxLagBytes, c.Consistency = 8<<10, ConsistencyPrimary
	}},
	{"postgres://u@h?read_preference=any&load_balance_hosts=disable", func(c *Config) {
		c.ReadPreference, c.LoadBalanceHosts = routing.AnyServer, routing.InOrder
	}},
	{"postgres://u@h?target_session_attrs=read-write", func(c *Config) { c.ReadPreference = routing.OnlyPrimary }},
	{"postgres://u@h?target_session_attrs=standby&read_preference=standby", func(c *Config) { c.ReadPreference = routing.OnlyStandby }},
	{"host=h user=u pool_max_conns=5 pool_min_conns=5 pool_max_conn_lifetime=2h pool_max_conn_lifetime_jitter=1m" +
		" pool_max_conn_idle_time=0s pool_health_check_period=5s acquire_timeout=0 query_timeout=1m30s" +
		" lag_check_interval=250ms lag_check_timeout=1.5s", func(c *Config) {
		c.PoolMaxConns, c.PoolMinConns = 5, 5
		c.PoolMaxConnLifetime, c.PoolMaxConnLifetimeJitter, c.PoolMaxConnIdleTime = 2*time.Hour, time.Minute, 0
		c.PoolHealthCheckPeriod, c.AcquireTimeout, c.QueryTimeout = 5*time.Second, 0, 90*time.Second
		c.LagCheckInterval, c.LagCheckTimeout = 250*time.Millisecond, 1500*time.Millisecond
	}},

	// Passed on.
	{"postgres://u@h?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3&TimeZone=UTC&options=-c%20geqo%3Doff", func(c *Config) {
		c.Params = map[string]string{
			"sslmode": "verify-full", "sslrootcert": "/ca.pem", "connect_timeout": "3", "timezone": "UTC", "options": "-c geqo=off",
		}
	}},
	{"postgres://u@h?sslmode=disable&ssl=true", func(c *Config) { c.Params["sslmode"] = "require" }},
	{"postgres://u@h?ssl=true&sslmode=disable", func(c *Config) { c.Params["sslmode"] = "disable" }},
	{"postgres://u@h?default_query_exec_mode=exec&statement_cache_capacity=0&application_name=a%26b&", func(c *Config) {
		c.Params = map[string]string{"default_query_exec_mode": "exec", "statement_cache_capacity": "0", "application_name": "a&b"}
	}},
	{"host=h user=u require_auth='!password, !md5' search_path='a, \"B\"' sslmode=''", func(c *Config) {
		c.Params = map[string]string{"require_auth": "!password, !md5", "search_path": `a, "B"`, "sslmode": ""}
	}},
}

func TestParseDSN(t *testing.T) {
	cleanEnv(t)
	for _, tt := range testDSNs {
		want := NewConfig()
		want.Hosts, want.User, want.Params = hosts("h"), "u", map[string]string{}
		tt.want(want)
		got, err := ParseDSN(tt.dsn)
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.dsn, dump(got), dump(want))
		}
	}
}

// TestFormatDSN formats what was parsed and parses that again.
func TestFormatDSN(t *testing.T) {
	cleanEnv(t)
	for _, tt := range testDSNs {
		c, err := ParseDSN(tt.dsn)
		if err != nil {
			t.Fatal(err)
		}
		checkRoundTrip(t, c)
	}
}

// A herd that was opened with the environment's help is the same where the
// environment names other hosts and ports.
func TestFormatDSNElsewhere(t *testing.T) {
	cleanEnv(t)
	c, err := ParseDSN("postgres://u@h/d?replica_hosts=r")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"PGHOST=x", "PGPORT=6000", "PGUSER=x", "PGDATABASE=x", "PGSERVICE="} {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	checkRoundTrip(t, c)
}

func checkRoundTrip(t *testing.T, c *Config) {
	t.Helper()
	dsn := c.FormatDSN()
	again, err := ParseDSN(dsn)
	if err != nil {
		t.Fatalf("%q does not parse: %v", dsn, err)
	}
	if !reflect.DeepEqual(again, c) {
		t.Errorf("%q:\n got %s\nwant %s", dsn, dump(again), dump(c))
	}
	if s := again.FormatDSN(); s != dsn {
		t.Errorf("formatted again:\n got %q\nwant %q", s, dsn)
	}
}

// dump shows a Config field by field, past its own methods.
func dump(c *Config) string {
	type plain Config
	return strings.ReplaceAll(fmt.Sprintf("%+v", plain(*c)), mask, string(c.Password))
}

func TestFormatDSNCanonical(t *testing.T) {
	cleanEnv(t)
	for dsn, want := range map[string]string{
		"host=h user=u": "postgres://u@h:5432/",
		"host=h,::1 port=1,2 user=u password='a b' dbname=d replica_hosts=r,[::2]:7 replica_weights=1,2 sslmode=disable max_lag=2s": "postgres://u:a%20b@h:1,[::1]:2/d?replica_hosts=r:5432,[::2]:7&replica_weights=1,2&max_lag=2s&sslmode=disable",
	} {
		c, err := ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.FormatDSN(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", dsn, got, want)
		}
	}
}
