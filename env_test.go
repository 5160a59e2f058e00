package pgherd

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func setEnv(t *testing.T, vars ...string) {
	t.Helper()
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a DSN leaves open comes from where plain pgx takes it.
func TestEnvironmentAsInPgx(t *testing.T) {
	cleanEnv(t)
	service := write(t, filepath.Join(t.TempDir(), "services"), "[s]\nhost=service\ndbname=service\nwork_mem=1MB\nsslmode=disable\n")
	for _, tt := range []struct {
		dsn string
		env []string
	}{
		{"", nil},
		{"", []string{"PGHOST=a", "PGPORT=6000", "PGUSER=u", "PGPASSWORD=p", "PGDATABASE=d", "PGAPPNAME=app", "PGTZ=UTC", "PGOPTIONS=-c geqo=off"}},
		{"", []string{"PGHOST=a,b", "PGPORT=1,2", "PGSSLMODE=require", "PGCONNECT_TIMEOUT=3"}},
		{"", []string{"PGHOST=a,b", "PGPORT=6000"}},
		{"postgres://x:y@z:1/w?application_name=v", []string{"PGHOST=a", "PGPORT=6000", "PGUSER=u", "PGPASSWORD=p", "PGDATABASE=d", "PGAPPNAME=app"}},
		{"postgres://x@z", []string{"PGPORT=6000", "PGPASSWORD=p"}},
		{"postgres://x@y,z", []string{"PGPORT=6000"}},
		{"host='' password='' dbname=''", []string{"PGHOST=a", "PGPASSWORD=p", "PGDATABASE=d"}},
		{"user=''", []string{"PGUSER=u"}},
		{"TimeZone=CET", []string{"PGTZ=UTC"}},
		{"service=s user=u", []string{"PGSERVICEFILE=" + service, "PGHOST=a", "PGPORT=6000"}},
		{"dbname=d", []string{"PGSERVICEFILE=" + service, "PGSERVICE=s", "PGDATABASE=e", "PGSSLMODE=require"}},
		{"service=s servicefile=" + service + " sslmode=prefer", []string{"PGSERVICE=other"}},
	} {
		t.Run("", func(t *testing.T) {
			setEnv(t, tt.env...)
			c, err := ParseDSN(tt.dsn)
			if err != nil {
				t.Fatalf("%q %q: %v", tt.dsn, tt.env, err)
			}
			want, err := pgx.ParseConfig(tt.dsn)
			if err != nil {
				t.Fatal(err)
			}
			comparePgx(t, c, want)
			if c.Password != "" || os.Getenv("PGPASSWORD") == "" { // an empty password is one that is looked up
				checkRoundTrip(t, c)
			}
		})
	}
}

// comparePgx compares our configurations for each server with the one that pgx
// makes of the same DSN.
func comparePgx(t *testing.T, c *Config, want *pgx.ConnConfig) {
	t.Helper()
	type server struct {
		host   string
		port   uint16
		secure bool
	}
	list := func(pc *pgx.ConnConfig) []server {
		s := []server{{pc.Host, pc.Port, pc.TLSConfig != nil}}
		for _, f := range pc.Fallbacks {
			s = append(s, server{f.Host, f.Port, f.TLSConfig != nil})
		}
		return s
	}
	configs, err := c.serverConfigs()
	if err != nil {
		t.Fatal(err)
	}
	var got []server
	for _, pc := range configs {
		got = append(got, list(pc.ConnConfig)...)
		if pc.User != want.User || pc.Password != want.Password || pc.Database != want.Database {
			t.Errorf("user, password, database %q %q %q, want %q %q %q", pc.User, pc.Password, pc.Database, want.User, want.Password, want.Database)
		}
		runtime := make(map[string]string)
		for k, v := range want.RuntimeParams {
			if _, both := want.RuntimeParams["TimeZone"]; k == "timezone" && both {
				continue // pgx sends both
			}
			if serverParams[strings.ToLower(k)] {
				k = strings.ToLower(k)
			}
			runtime[k] = v
		}
		if !maps.Equal(pc.RuntimeParams, runtime) {
			t.Errorf("runtime parameters %q, want %q", pc.RuntimeParams, runtime)
		}
		if pc.ConnectTimeout != want.ConnectTimeout && (want.ConnectTimeout != 0 || pc.ConnectTimeout != 5*time.Second) {
			t.Errorf("connect timeout %v, want %v", pc.ConnectTimeout, want.ConnectTimeout)
		}
	}
	if servers := list(want); !slices.Equal(got, servers) {
		t.Errorf("servers %v, want %v", got, servers)
	}
}

// Once a Config is made, the environment does not reach its servers.
func TestServerConfigsIgnoreEnvironment(t *testing.T) {
	cleanEnv(t)
	c, err := ParseDSN("postgres://u@h?replica_hosts=r:6000&work_mem=1MB")
	if err != nil {
		t.Fatal(err)
	}
	serverConfigs := func(t *testing.T) []any {
		configs, err := c.serverConfigs()
		if err != nil {
			t.Fatal(err)
		}
		var shown []any
		for _, pc := range configs {
			if pc.ValidateConnect != nil {
				t.Error("a server's configuration checks what the server is")
			}
			// What can be compared: functions and certificate pools cannot.
			certs := -1
			name := ""
			roots := false
			if pc.TLSConfig != nil {
				certs, name, roots = len(pc.TLSConfig.Certificates), pc.TLSConfig.ServerName, pc.TLSConfig.RootCAs != nil
			}
			shown = append(shown, []any{pc.Host, pc.Port, pc.User, pc.Password, pc.Database, pc.RuntimeParams, pc.ConnectTimeout,
				len(pc.Fallbacks), certs, name, roots, pc.SSLNegotiation, pc.SSLCertMode, pc.KerberosSrvName, pc.MinProtocolVersion,
				pc.MaxProtocolVersion, pc.ChannelBinding, pc.RequireAuth, pc.DefaultQueryExecMode, pc.StatementCacheCapacity})
		}
		return shown
	}
	before := serverConfigs(t)
	dir := t.TempDir()
	service := write(t, filepath.Join(dir, "services"), "[s]\nhost=x\nport=1\nuser=x\npassword=x\ndbname=x\nsslmode=disable\ngeqo=off\n"+
		"connect_timeout=9\nkrbsrvname=x\ntarget_session_attrs=standby\ndefault_query_exec_mode=exec\n")
	passfile := write(t, filepath.Join(dir, "pass"), "*:*:*:*:x\n")
	for _, env := range [][]string{
		{"PGHOST=x"}, {"PGPORT=1"}, {"PGPORT=1,2,3"}, {"PGUSER=x"}, {"PGPASSWORD=x"}, {"PGDATABASE=x"}, {"PGPASSFILE=" + passfile},
		{"PGAPPNAME=x"}, {"PGTZ=CET"}, {"PGOPTIONS=-c geqo=off"}, {"PGTARGETSESSIONATTRS=read-write"}, {"PGTARGETSESSIONATTRS=bad"},
		{"PGCONNECT_TIMEOUT=99"}, {"PGCONNECT_TIMEOUT=x"}, {"PGSSLMODE=disable"}, {"PGSSLMODE=verify-full"}, {"PGSSLMODE=bad"},
		{"PGSSLCERT=/none", "PGSSLKEY=/none"}, {"PGSSLROOTCERT=/none"}, {"PGSSLROOTCERT=system"}, {"PGSSLPASSWORD=x"}, {"PGSSLSNI=0"},
		{"PGSSLNEGOTIATION=direct"}, {"PGSSLCERTMODE=disable"}, {"PGMINPROTOCOLVERSION=3.2"}, {"PGMAXPROTOCOLVERSION=3.2"},
		{"PGCHANNELBINDING=require"}, {"PGREQUIREAUTH=md5"}, {"PGSERVICE=s", "PGSERVICEFILE=" + service},
	} {
		t.Run(env[0], func(t *testing.T) {
			setEnv(t, env...)
			if after := serverConfigs(t); !reflect.DeepEqual(after, before) {
				t.Errorf("%q changes a server:\n got %v\nwant %v", env, after, before)
			}
		})
	}
}

// A preference for one kind of connection in the environment is not a
// preference of the herd's reads.
func TestTargetSessionAttrsOfEnvironment(t *testing.T) {
	cleanEnv(t)
	t.Setenv("PGTARGETSESSIONATTRS", "primary")
	c, err := ParseDSN("postgres://u@h?replica_hosts=r")
	if err != nil {
		t.Fatal(err)
	}
	if c.ReadPreference != NewConfig().ReadPreference {
		t.Errorf("read preference %v", c.ReadPreference)
	}
}

func TestPasswordFile(t *testing.T) {
	cleanEnv(t)
	write(t, filepath.Join(os.Getenv("HOME"), ".pgpass"), "h:5432:*:u:one\nr:6000:d:u:two\nlocalhost:5432:*:u:three\n")
	c, err := ParseDSN("postgres://u@h/d?replica_hosts=r:6000,/tmp:5432,other")
	if err != nil {
		t.Fatal(err)
	}
	passwords := func() (s []string) {
		configs, err := c.serverConfigs()
		if err != nil {
			t.Fatal(err)
		}
		for _, pc := range configs {
			s = append(s, pc.Password)
		}
		return s
	}
	if got, want := passwords(), []string{"one", "two", "three", ""}; !slices.Equal(got, want) {
		t.Errorf("passwords %q, want %q", got, want)
	}
	c.Password = "given"
	if got, want := passwords(), []string{"given", "given", "given", "given"}; !slices.Equal(got, want) {
		t.Errorf("passwords %q, want %q", got, want)
	}
	c.Password = ""
	c.Params["passfile"] = write(t, filepath.Join(t.TempDir(), "pass"), "*:*:*:*:four\n")
	if got, want := passwords(), []string{"four", "four", "four", "four"}; !slices.Equal(got, want) {
		t.Errorf("passwords %q, want %q", got, want)
	}
}

func TestServerConfigsErrors(t *testing.T) {
	cleanEnv(t)
	notCert := write(t, filepath.Join(t.TempDir(), "ca"), "not a certificate")
	for dsn, want := range map[string]string{
		"sslrootcert=/none":                           `pgherd: parameter "sslrootcert" in Config: cannot open the file: no such file or directory`,
		"sslcert=/none":                               `pgherd: Config: both "sslcert" and "sslkey" are required`,
		"sslcert=/none/crt sslkey=/none/key":          `pgherd: parameter "sslkey" in Config: cannot open the file: no such file or directory`,
		"sslrootcert=" + notCert:                      `pgherd: Config: unable to add CA to cert pool`,
		"sslcert=" + notCert + " sslkey=" + notCert:   `pgherd: Config: failed to decode sslkey`,
		"sslmode=verify-full sslrootcert='" + `\\'`:   `pgherd: parameter "sslrootcert" in Config: cannot open the file: no such file or directory`,
		"application_name=required sslcert=/none/crt": `pgherd: Config: pgx does not accept these settings`, // the text would hold a value
	} {
		c, err := ParseDSN("host=h user=u password=secret " + dsn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.serverConfigs()
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", dsn, err, want)
		}
	}
	write(t, filepath.Join(os.Getenv("HOME"), ".postgresql", "root.crt"), "not a certificate")
	c, err := ParseDSN("host=h user=u")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.serverConfigs(); err == nil {
		t.Error("~/.postgresql/root.crt is not read")
	}
}

func TestConfigFromEnv(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, " from a file \r\n")
	for _, tt := range []struct {
		name string
		env  []string
		want func(*Config)
		err  string
	}{
		{"defaults", nil, func(c *Config) {}, ""},
		{
			"all", []string{
				"PG_HOST=pg1", "PG_PORT=6000", "PG_DATABASE=d", "PG_USERNAME=me", "PG_PASSWORD=p", "PG_SSLMODE=require", "PG_SSLCERT=/c",
				"PG_SSLKEY=/k", "PG_SSLROOTCERT=/r", "PG_POOL_MIN=1", "PG_POOL_MAX=2", "PG_ACQUIRE_TIMEOUT=3s", "PG_QUERY_TIMEOUT=4s",
				"PG_REPLICA_HOSTS=pg2,pg3:5432", "PG_SIMULATION_MODE=verify", "PG_SIMULATION_FILE=f",
			}, func(c *Config) {
				c.Hosts = []Host{
					{Name: "pg1:6000", Host: "pg1", Port: 6000, Weight: 1},
					{Name: "pg2:6000", Host: "pg2", Port: 6000, Weight: 1, Replica: true},
					{Name: "pg3", Host: "pg3", Port: 5432, Weight: 1, Replica: true},
				}
				c.User, c.Password, c.Database = "me", "p", "d"
				c.SimulationMode, c.SimulationFile = SimulationVerify, "f"
				c.Params = map[string]string{"sslmode": "require", "sslcert": "/c", "sslkey": "/k", "sslrootcert": "/r"}
				c.PoolMinConns, c.PoolMaxConns, c.AcquireTimeout, c.QueryTimeout = 1, 2, 3*time.Second, 4*time.Second
			}, "",
		},
		{"beside libpq's", []string{"PG_HOST=pg1", "PGHOST=x", "PGUSER=y", "PGAPPNAME=app", "PG_USERNAME="}, func(c *Config) {
			c.Hosts, c.User, c.Params["application_name"] = hosts("pg1"), "y", "app"
		}, ""},
		{"password file", []string{"PG_PASSWORD_FILE=" + password, "PGPASSWORD=x"}, func(c *Config) {
			c.Password, c.passwordFile = " from a file ", passwordFile{path: password, read: " from a file "}
		}, ""},
		{"no password file", []string{"PG_PASSWORD_FILE=/none"}, nil,
			`pgherd: parameter "PG_PASSWORD_FILE" in environment: cannot open the file: no such file or directory`},
		{"two passwords", []string{"PG_PASSWORD_FILE=" + password, "PG_PASSWORD=x"}, nil,
			`pgherd: parameter "PG_PASSWORD_FILE" in environment: set either this or PG_PASSWORD`},
		{"Kubernetes", []string{"PG_PORT=tcp://10.0.0.7:5432", "PG_SERVICE_HOST=10.0.0.7"}, nil,
			`pgherd: parameter "PG_PORT" in environment: "tcp://" at its start makes it a service link of Kubernetes, not a port; set enableServiceLinks: false in the pod, or rename the Service`},
		{"bad", []string{"PG_POOL_MAX=many", "PG_QUERY_TIMEOUT=30", "PG_PORT=x", "PG_SIMULATION_MODE=on", "PGSSLMODE=maybe"}, nil,
			`pgherd: parameter "PG_POOL_MAX" in environment: want a whole number, 0 or more
pgherd: parameter "PG_QUERY_TIMEOUT" in environment: want a duration with a unit, such as "500ms" or "10s"
pgherd: parameter "PG_SIMULATION_MODE" in environment: want off, replay, record, verify or record!
pgherd: parameter "PGSSLMODE" in environment: want one of: disable, allow, prefer, require, verify-ca, verify-full
pgherd: parameter "PG_PORT" in environment: element 1: want a port number from 1 to 65535`},
		{"small pool", []string{"PG_POOL_MAX=2"}, func(c *Config) { c.PoolMaxConns, c.PoolMinConns = 2, 2 }, ""},
		{"contradiction", []string{"PG_POOL_MAX=2", "PG_POOL_MIN=3"}, nil,
			`pgherd: parameter "PG_POOL_MIN" in environment: want no more than pool_max_conns`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cleanEnv(t)
			t.Setenv("PGHOST", "h")
			t.Setenv("PGUSER", "u")
			setEnv(t, tt.env...)
			got, err := ConfigFromEnv()
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("error\n%v\nwant\n%s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := NewConfig()
			want.Hosts, want.User, want.Params = hosts("h"), "u", map[string]string{}
			want.PoolMinConns, want.QueryTimeout = 5, 30*time.Second
			tt.want(want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf(" got %s\nwant %s", dump(got), dump(want))
			}
		})
	}
}
