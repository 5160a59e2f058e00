package pgherd

import (
	"cmp"
	"errors"
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
	{"postgres://u@h?simulation_mode=replay&simulation_file=testdata/a.replay.json", func(c *Config) {
		c.SimulationMode, c.SimulationFile = SimulationReplay, "testdata/a.replay.json"
	}},
	{"postgres://u@h?catalog=off&read_only_functions=total,shop.price", func(c *Config) {
		c.CatalogOff, c.ReadOnlyFunctions = true, []string{"total", "shop.price"}
	}},
	{"host=h user=u catalog=on read_only_functions=' total, shop.price'", func(c *Config) {
		c.ReadOnlyFunctions = []string{"total", "shop.price"}
	}},
	{"postgres://u@h?read_preference=any&load_balance_hosts=disable", func(c *Config) {
		c.ReadPreference, c.LoadBalanceHosts = routing.AnyServer, routing.InOrder
	}},
	{"postgres://u@h?discovery=dns&discovery_interval=30s", func(c *Config) {
		c.Discovery, c.DiscoveryInterval = DiscoveryDNS, 30*time.Second
	}},
	{"postgres://u@h?read_preference=shadow", func(c *Config) { c.ReadPreference = routing.Shadow }},
	{"postgres://u@h?target_session_attrs=read-write", func(c *Config) { c.ReadPreference = routing.OnlyPrimary }},
	{"postgres://u@h?target_session_attrs=standby&read_preference=standby", func(c *Config) { c.ReadPreference = routing.OnlyStandby }},
	{"host=h user=u pool_max_conns=5 pool_min_conns=5 pool_max_conn_lifetime=2h pool_max_conn_lifetime_jitter=1m" +
		" pool_max_conn_idle_time=0s pool_health_check_period=5s acquire_timeout=0 query_timeout=1m30s" +
		" lag_check_interval=250ms lag_check_timeout=1.5s tcp_user_timeout=2500", func(c *Config) {
		c.TCPUserTimeout = 2500 * time.Millisecond
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

// testBadDSNs are the DSNs that do not parse, and all of what is said of them.
var testBadDSNs = []struct {
	dsn  string
	want []string
}{
	{"pgherd://u:p@h/d?sslmode=disable", []string{
		`pgherd: DSN: want "postgres://" or "postgresql://", in lower case and with nothing before it, or keyword=value pairs`}},
	{"mysql://u:p@h/d", []string{
		`pgherd: DSN: want "postgres://" or "postgresql://", in lower case and with nothing before it, or keyword=value pairs`}},
	{" postgres://u:p@h/d?sslmode=disable", []string{
		`pgherd: DSN: want "postgres://" or "postgresql://", in lower case and with nothing before it, or keyword=value pairs`}},
	{"host=h\x00", []string{`pgherd: DSN: a NUL byte is not allowed`}},
	{"postgres://u:%zz@h/%", []string{
		`pgherd: parameter "password" in DSN: want two hexadecimal digits after "%"; write a "%" as %25`,
		`pgherd: parameter "dbname" in DSN: want two hexadecimal digits after "%"; write a "%" as %25`}},
	{"postgres://u@h?password=a%00b&max_lag=%4", []string{
		`pgherd: DSN: parameter 1 after the "?": %00 is not allowed`,
		`pgherd: DSN: parameter 2 after the "?": want two hexadecimal digits after "%"; write a "%" as %25`}},
	{"postgres://u:a/b@h/d", []string{
		`pgherd: DSN: "@" after the first "/": write a "/" in a password as %2F, and an "@" in the name of a database as %40`}},
	{"postgres://u@h/d?password=a b&x", []string{
		`pgherd: DSN: parameter 1 after the "?": write a space as %20`,
		`pgherd: DSN: parameter 2 after the "?": want name=value with one "="; write an "=" in a value as %3D, and an "&" as %26`}},
	{"postgres://u@h/d?password=a=b", []string{
		`pgherd: DSN: parameter 1 after the "?": want name=value with one "="; write an "=" in a value as %3D, and an "&" as %26`}},
	{"postgres://u@[::1/d", []string{`pgherd: DSN: "[" without "]" around an IPv6 address`}},
	{"postgres://u@[::1]x/d", []string{`pgherd: DSN: want ":", "," or "/" after the "]" of an IPv6 address`}},
	{"host=h password=a b user=u", []string{`pgherd: DSN: parameter 3: want keyword=value; quote a value that holds spaces: 'a b'`}},
	{"host=h password='a", []string{`pgherd: DSN: parameter 2: the quoted value has no end; write a quote in it as \'`}},

	// All at once.
	{"postgres://u@h?max_lag=10&consistency=strong&max_lag_bytes=1mb&lag_unknown=yes&pool_max_conns=-1&sslmode=on&connect_timeout=5s", []string{
		`pgherd: parameter "connect_timeout" in DSN: want a whole number of seconds, without a unit`,
		`pgherd: parameter "consistency" in DSN: want session, eventual or primary`,
		`pgherd: parameter "lag_unknown" in DSN: want exclude or include`,
		`pgherd: parameter "max_lag" in DSN: want a duration with a unit, such as "500ms" or "10s"`,
		`pgherd: parameter "max_lag_bytes" in DSN: want a size such as "512kB", "16MB" or "1GB"`,
		`pgherd: parameter "pool_max_conns" in DSN: want a whole number, 0 or more`,
		`pgherd: parameter "sslmode" in DSN: want one of: disable, allow, prefer, require, verify-ca, verify-full`}},
	{"postgres://u@h?lag_check_interval=0s&query_timeout=-1s&require_auth=md5,!none&max_lag_bytes=9999999TB&simulation_mode=on", []string{
		`pgherd: parameter "lag_check_interval" in DSN: want a duration with a unit, such as "500ms" or "10s", more than 0`,
		`pgherd: parameter "max_lag_bytes" in DSN: want a size such as "512kB", "16MB" or "1GB"`,
		`pgherd: parameter "query_timeout" in DSN: want a duration with a unit, such as "500ms" or "10s"`,
		`pgherd: parameter "require_auth" in DSN: want a list of password, md5, gss, sspi, scram-sha-256, oauth, none, or of these with "!" before each`,
		`pgherd: parameter "simulation_mode" in DSN: want off, replay, record, verify or record!`}},
	{"postgres://u@h?simulation_mode=record", []string{
		`pgherd: parameter "simulation_mode" in DSN: want simulation_file with it, the path of the recording`}},
	{"postgres://u@h?tcp_user_timeout=5s", []string{
		`pgherd: parameter "tcp_user_timeout" in DSN: want a whole number of milliseconds, without a unit`}},
	{"postgres://u@h?catalog=true&read_only_functions=total(int)", []string{
		`pgherd: parameter "catalog" in DSN: want on or off`,
		`pgherd: parameter "read_only_functions" in DSN: want a list of functions without arguments, such as "total,shop.price"`}},
	{"postgres://u@h?pool_max_conns=5&pool_min_conns=6&min_protocol_version=3.2&max_protocol_version=3.0", []string{
		`pgherd: parameter "pool_min_conns" in DSN: want no more than pool_max_conns`,
		`pgherd: parameter "min_protocol_version" in DSN: want no more than max_protocol_version`}},

	// Names.
	{"postgres://u@h?max_lga=2s&pool-max-conns=1&MaxLag=1s&shost=x", []string{
		`pgherd: parameter "MaxLag" in DSN: unknown; did you mean "max_lag"?`,
		`pgherd: parameter "max_lga" in DSN: unknown; did you mean "max_lag"?`,
		`pgherd: parameter "pool-max-conns" in DSN: unknown; did you mean "pool_max_conns"?`,
		`pgherd: parameter "shost" in DSN: unknown; did you mean "host"?`}},
	{"host=h user=u geqo=off", []string{
		`pgherd: DSN: unknown parameter, number 3 of those in name=value form; other settings of the server go into options, as in options='-c geqo=off'`}},
	{"postgres://u@h?pgherd.max_lag=2s", []string{
		`pgherd: DSN: parameter with a dot in its name, number 1 of those in name=value form; put it into options, as in options='-c my.setting=1'`}},
	{"postgres://u@h?keepalives=1&hostaddr=10.0.0.1&ssl=1", []string{
		`pgherd: parameter "hostaddr" in DSN: not supported by pgx; write the address as the host`,
		`pgherd: parameter "keepalives" in DSN: not supported by pgx`,
		`pgherd: parameter "ssl" in DSN: want true; or use sslmode`}},
	{"postgres://u@h?target_session_attrs=read-write&read_preference=standby", []string{
		`pgherd: parameter "target_session_attrs" in DSN: contradicts read_preference, which is the one to use`}},
	{"postgres://u@h?target_session_attrs=prefer-primary", []string{
		`pgherd: parameter "target_session_attrs" in DSN: want any, read-write, read-only, primary, standby or prefer-standby`}},
	{"postgres://u@h?service=x", []string{
		`pgherd: parameter "service" in DSN: cannot open the service file: no such file or directory`}},

	// Hosts.
	{"host=a,b,c port=1,2 user=u", []string{`pgherd: parameter "port" in DSN: could not match 2 port numbers to 3 hosts`}},
	{"postgres://u@a:0,b:x,c:65536", []string{
		`pgherd: parameter "port" in DSN: element 1: want a port number from 1 to 65535`,
		`pgherd: parameter "port" in DSN: element 2: want a port number from 1 to 65535`,
		`pgherd: parameter "port" in DSN: element 3: want a port number from 1 to 65535`}},
	{"host=a:1,b port=1,2 user=u", []string{`pgherd: parameter "host" in DSN: element 1: want host, host:port or [IPv6]:port`}},
	{"postgres://u@h?replica_hosts=,a:x,[::1,b:", []string{
		`pgherd: parameter "replica_hosts" in DSN: element 1: want host, host:port or [IPv6]:port`,
		`pgherd: parameter "replica_hosts" in DSN: element 2: want a port number from 1 to 65535`,
		`pgherd: parameter "replica_hosts" in DSN: element 3: want host, host:port or [IPv6]:port`,
		`pgherd: parameter "replica_hosts" in DSN: element 4: want host, host:port or [IPv6]:port`}},
	{"postgres://u@h,H:5432?replica_hosts=r,h", []string{
		`pgherd: parameter "host" in DSN: element 2: is in the herd already: want each host and port once`,
		`pgherd: parameter "replica_hosts" in DSN: element 2: is in the herd already: want each host and port once`}},
	{"postgres://u@h?replica_hosts=a,b,c&replica_names=a,b&replica_weights=1", []string{
		`pgherd: parameter "replica_names" in DSN: could not match 2 elements to 3 replica hosts`,
		`pgherd: parameter "replica_weights" in DSN: could not match 1 elements to 3 replica hosts`}},
	{"postgres://u@h?replica_hosts=a,b&replica_names=a/,b&replica_weights=1,-2", []string{
		`pgherd: parameter "replica_names" in DSN: element 1: want a name of 1 to 63 letters, digits and ._:-, no two alike`,
		`pgherd: parameter "replica_weights" in DSN: element 2: want a whole number from 0 to 65535`}},
	{"postgres://u@h?replica_hosts=a,b&replica_names=a,a", []string{
		`pgherd: parameter "replica_names" in DSN: element 2: want a name of 1 to 63 letters, digits and ._:-, no two alike`}},
	{"host='a b' user=u", []string{
		`pgherd: parameter "host" in DSN: element 1: want a DNS name, an IP address or the absolute path of a socket's directory, without a port`}},
}

func TestParseDSNErrors(t *testing.T) {
	cleanEnv(t)
	for _, tt := range testBadDSNs {
		c, err := ParseDSN(tt.dsn)
		if err == nil {
			t.Errorf("%s: parsed as %s", tt.dsn, dump(c))
			continue
		}
		if got, want := err.Error(), strings.Join(tt.want, "\n"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.dsn, got, want)
		}
		if ce := new(ConfigError); !errors.As(err, &ce) || ce.Source != sourceDSN {
			t.Errorf("%s: no *ConfigError about a DSN", tt.dsn)
		}
	}
}

func TestValidate(t *testing.T) {
	ok := func() *Config {
		c := NewConfig()
		c.Hosts = []Host{{Host: "a"}, {Host: "b", Port: 5433, Replica: true}}
		c.User = "u"
		return c
	}
	c := ok()
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	want := []Host{{Name: "a", Host: "a", Port: 5432}, {Name: "b:5433", Host: "b", Port: 5433, Replica: true}}
	if !reflect.DeepEqual(c.Hosts, want) {
		t.Errorf("hosts are completed to %+v, want %+v", c.Hosts, want)
	}

	for _, tt := range []struct {
		spoil func(*Config)
		want  string // the parameters that are complained of
	}{
		{func(c *Config) { c.Hosts = nil }, "host"},
		{func(c *Config) { c.Hosts[0].Replica = true }, "host"},
		{func(c *Config) { c.Hosts[0].Host = "" }, "host"},
		{func(c *Config) { c.Hosts[1].Host = "a:1" }, "replica_hosts"},
		{func(c *Config) { c.Hosts[1].Host = "u:p@a" }, "replica_hosts"},
		{func(c *Config) { c.Hosts[1].Host = "/a:1" }, "replica_hosts"},
		{func(c *Config) { c.Hosts[1] = Host{Host: "A", Replica: true} }, "replica_hosts"},
		{func(c *Config) { c.Hosts[0].Name, c.Hosts[1].Name = "b", "b" }, "replica_names"},
		{func(c *Config) { c.Hosts[0].Name = "ä" }, "host_names"},
		{func(c *Config) { c.Hosts[0].Weight = -1 }, "host_weights"},
		{func(c *Config) { c.MaxLag = -1 }, "max_lag"},
		{func(c *Config) { c.MaxLagBytes = -1 }, "max_lag_bytes"},
		{func(c *Config) { c.TCPUserTimeout = -1 }, "tcp_user_timeout"},
		{func(c *Config) { c.ReadPreference, c.LoadBalanceHosts = 99, 99 }, "read_preference load_balance_hosts"},
		{func(c *Config) { c.Consistency, c.SessionReset, c.ReplicaFallback = 9, 9, 9 }, "consistency replica_fallback session_reset"},
		{func(c *Config) { c.LagCheckInterval, c.PoolHealthCheckPeriod = 0, 0 }, "lag_check_interval pool_health_check_period"},
		{func(c *Config) { c.Discovery, c.DiscoveryInterval = 2, 0 }, "discovery discovery_interval"},
		{func(c *Config) { c.PoolMaxConns, c.PoolMinConns = 0, -1 }, "pool_min_conns"},
		{func(c *Config) { c.PoolMaxConns, c.PoolMinConns = 0, 100 }, ""},
		{func(c *Config) { c.Password = "a\x00" }, "-"},
		{func(c *Config) { c.Params = map[string]string{"max_lga": "1s", "port": "1", "sslmode": "x"} }, "max_lga port sslmode"},
		{func(c *Config) { c.Params = map[string]string{"role": "a\x00"} }, "role"},
	} {
		c := ok()
		tt.spoil(c)
		var got []string
		if err := c.validate(); err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				got = append(got, cmp.Or(e.(*ConfigError).Param, "-"))
			}
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("complaints about %q, want %q", s, tt.want)
		}
	}
}

func TestClone(t *testing.T) {
	cleanEnv(t)
	c, err := ParseDSN("postgres://u@h?replica_hosts=r&sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	d := c.Clone()
	if !reflect.DeepEqual(c, d) {
		t.Errorf("got %s, want %s", dump(d), dump(c))
	}
	d.Hosts[0].Host, d.Params["sslmode"] = "x", "require"
	if c.Hosts[0].Host != "h" || c.Params["sslmode"] != "disable" {
		t.Error("the clone shares its hosts or parameters")
	}
}

func ExampleParseDSN() {
	c, err := ParseDSN("postgres://app:secret@pg1/shop?replica_hosts=pg2,pg3:5433&max_lag=2s&sslmode=require")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, h := range c.Hosts {
		fmt.Println(h.Name, h.Replica)
	}
	fmt.Println(c)

	_, err = ParseDSN("postgres://app:secret@pg1/shop?max_lga=2s&read_preference=slave")
	fmt.Println(err)
	// Output:
	// pg1 false
	// pg2 true
	// pg3:5433 true
	// postgres://app:xxxxx@pg1:5432/shop?replica_hosts=pg2:5432,pg3:5433&max_lag=2s&sslmode=require
	// pgherd: parameter "max_lga" in DSN: unknown; did you mean "max_lag"?
	// pgherd: parameter "read_preference" in DSN: want prefer-standby, prefer-primary, primary, standby, any or shadow
}
