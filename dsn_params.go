package pgherd

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgherd/pgherd/internal/edit"
	"github.com/pgherd/pgherd/routing"
)

// A param is a parameter that the router itself understands.
type param struct {
	name string
	want string // what a value looks like, for errors
	// set stores a value and reports whether it is one. It accepts what get returns,
	// unless the field holds what no value stands for.
	set func(*Config, string) bool
	get func(*Config) string
}

var routerParams = []param{
	enum("read_preference", func(c *Config) *routing.Preference { return &c.ReadPreference },
		routing.PreferStandby, routing.PreferPrimary, routing.OnlyPrimary, routing.OnlyStandby, routing.AnyServer, routing.Shadow),
	enum("load_balance_hosts", func(c *Config) *routing.Balance { return &c.LoadBalanceHosts },
		routing.Random, routing.RoundRobin, routing.LeastConns, routing.Latency, routing.InOrder),
	enum("consistency", func(c *Config) *Consistency { return &c.Consistency },
		ConsistencySession, ConsistencyEventual, ConsistencyPrimary),
	duration("max_lag", 0, func(c *Config) *time.Duration { return &c.MaxLag }),
	size("max_lag_bytes", func(c *Config) *int64 { return &c.MaxLagBytes }),
	either("lag_unknown", "exclude", "include", func(c *Config) *bool { return &c.LagUnknown }),
	enum("replica_fallback", func(c *Config) *ReplicaFallback { return &c.ReplicaFallback },
		FallbackPrimary, FallbackError),
	count("replica_fallback_max_conns", func(c *Config) *int { return &c.ReplicaFallbackMaxConns }),
	duration("consistency_timeout", 0, func(c *Config) *time.Duration { return &c.ConsistencyTimeout }),
	duration("failover_timeout", 0, func(c *Config) *time.Duration { return &c.FailoverTimeout }),
	duration("slow_start", 0, func(c *Config) *time.Duration { return &c.SlowStart }),
	{
		name: "hedge_after",
		want: `want a duration with a unit, such as "20ms", or a percentile of the latest reads from "p50" to "p99"`,
		set: func(c *Config, s string) (ok bool) {
			c.HedgeAfter, ok = parseHedgeDelay(s)
			return ok
		},
		get: func(c *Config) string { return c.HedgeAfter.String() },
	},
	{
		name: "zone",
		want: wantZone,
		set: func(c *Config, s string) bool {
			c.Zone = s
			return s == "" || validName(s)
		},
		get: func(c *Config) string { return c.Zone },
	},
	duration("lag_check_interval", 1, func(c *Config) *time.Duration { return &c.LagCheckInterval }),
	duration("lag_check_timeout", 1, func(c *Config) *time.Duration { return &c.LagCheckTimeout }),
	enum("discovery", func(c *Config) *Discovery { return &c.Discovery }, DiscoveryOff, DiscoveryDNS),
	duration("discovery_interval", 1, func(c *Config) *time.Duration { return &c.DiscoveryInterval }),
	count("pool_max_conns", func(c *Config) *int { return &c.PoolMaxConns }),
	count("pool_min_conns", func(c *Config) *int { return &c.PoolMinConns }),
	duration("pool_max_conn_lifetime", 0, func(c *Config) *time.Duration { return &c.PoolMaxConnLifetime }),
	duration("pool_max_conn_lifetime_jitter", 0, func(c *Config) *time.Duration { return &c.PoolMaxConnLifetimeJitter }),
	duration("pool_max_conn_idle_time", 0, func(c *Config) *time.Duration { return &c.PoolMaxConnIdleTime }),
	duration("pool_health_check_period", 1, func(c *Config) *time.Duration { return &c.PoolHealthCheckPeriod }),
	duration("acquire_timeout", 0, func(c *Config) *time.Duration { return &c.AcquireTimeout }),
	duration("query_timeout", 0, func(c *Config) *time.Duration { return &c.QueryTimeout }),
	milliseconds("tcp_user_timeout", func(c *Config) *time.Duration { return &c.TCPUserTimeout }),
	either("catalog", "on", "off", func(c *Config) *bool { return &c.CatalogOff }),
	either("tls_policy", "any", "verified", func(c *Config) *bool { return &c.TLSVerified }),
	sqlNames("read_only_functions", "functions without arguments", "total,shop.price", func(c *Config) *[]string { return &c.ReadOnlyFunctions }),
	sqlNames("load_types", "types", "mood,shop.address", func(c *Config) *[]string { return &c.LoadTypes }),
	enum("session_reset", func(c *Config) *SessionReset { return &c.SessionReset },
		SessionResetKeep, SessionResetDiscard),
	enum("simulation_mode", func(c *Config) *SimulationMode { return &c.SimulationMode },
		SimulationOff, SimulationReplay, SimulationRecord, SimulationVerify, SimulationRecordInCI),
	{
		name: "simulation_file",
		want: "want the path of a recording",
		set: func(c *Config, s string) bool {
			c.SimulationFile = s
			return strings.IndexByte(s, 0) < 0
		},
		get: func(c *Config) string { return c.SimulationFile },
	},
}

// either takes one of two words, the first of which stands for false.
func either(name, no, yes string, field func(*Config) *bool) param {
	return param{
		name: name,
		want: "want " + no + " or " + yes,
		set: func(c *Config, s string) bool {
			*field(c) = s == yes
			return s == yes || s == no
		},
		get: func(c *Config) string {
			if *field(c) {
				return yes
			}
			return no
		},
	}
}

// sqlNames takes a list of names of things, as statements spell them.
func sqlNames(name, things, example string, field func(*Config) *[]string) param {
	return param{
		name: name,
		want: fmt.Sprintf("want a list of %s, such as %q", things, example),
		set: func(c *Config, s string) bool {
			var list []string
			if s != "" {
				list = strings.Split(s, ",")
			}
			for i, f := range list {
				list[i] = strings.TrimSpace(f)
				if list[i] == "" || strings.ContainsAny(list[i], " \t\n()") {
					return false
				}
			}
			*field(c) = list
			return true
		},
		get: func(c *Config) string { return strings.Join(*field(c), ",") },
	}
}

func enum[T fmt.Stringer](name string, field func(*Config) *T, values ...T) param {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = v.String()
	}
	last := len(names) - 1
	return param{
		name: name,
		want: "want " + strings.Join(names[:last], ", ") + " or " + names[last],
		set: func(c *Config, s string) bool {
			i := slices.Index(names, s)
			if i >= 0 {
				*field(c) = values[i]
			}
			return i >= 0
		},
		get: func(c *Config) string { return (*field(c)).String() },
	}
}

// duration takes durations of at least least. It insists on a unit: libpq's
// timeouts are in seconds and PostgreSQL's in milliseconds, so that a bare
// number would be misread by somebody.
func duration(name string, least time.Duration, field func(*Config) *time.Duration) param {
	want := `want a duration with a unit, such as "500ms" or "10s"`
	if least > 0 {
		want += ", more than 0"
	}
	return param{
		name: name,
		want: want,
		set: func(c *Config, s string) bool {
			d, err := time.ParseDuration(s)
			if err != nil || d < least {
				return false
			}
			*field(c) = d
			return true
		},
		get: func(c *Config) string { return field(c).String() },
	}
}

// milliseconds takes a parameter of libpq's, which has no unit.
func milliseconds(name string, field func(*Config) *time.Duration) param {
	return param{
		name: name,
		want: "want a whole number of milliseconds, without a unit",
		set: func(c *Config, s string) bool {
			n, ok := parseCount(s)
			if ok {
				*field(c) = time.Duration(n) * time.Millisecond
			}
			return ok
		},
		get: func(c *Config) string { return strconv.FormatInt(wholeMilliseconds(*field(c)), 10) },
	}
}

// wholeMilliseconds rounds away from 0, which stands for something else.
func wholeMilliseconds(d time.Duration) int64 {
	n := d.Milliseconds()
	switch rest := d % time.Millisecond; {
	case rest > 0:
		n++
	case rest < 0:
		n--
	}
	return n
}

func count(name string, field func(*Config) *int) param {
	return param{
		name: name,
		want: "want a whole number, 0 or more",
		set: func(c *Config, s string) bool {
			n, ok := parseCount(s)
			if ok {
				*field(c) = n
			}
			return ok
		},
		get: func(c *Config) string { return strconv.Itoa(*field(c)) },
	}
}

func parseCount(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

// sizeUnits are PostgreSQL's, whose case matters
// (https://www.postgresql.org/docs/current/config-setting.html).
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}, {"B", 1}}

func size(name string, field func(*Config) *int64) param {
	return param{
		name: name,
		want: `want a size such as "512kB", "16MB" or "1GB"`,
		set: func(c *Config, s string) bool {
			unit := int64(1)
			for _, u := range sizeUnits {
				if t, ok := strings.CutSuffix(s, u.name); ok {
					s, unit = strings.TrimRight(t, " "), u.bytes
					break
				}
			}
			n, err := strconv.ParseUint(s, 10, 63)
			if err != nil || int64(n) > math.MaxInt64/unit {
				return false
			}
			*field(c) = int64(n) * unit
			return true
		},
		get: func(c *Config) string {
			n := *field(c)
			for _, u := range sizeUnits {
				if n != 0 && n%u.bytes == 0 {
					return strconv.FormatInt(n/u.bytes, 10) + u.name
				}
			}
			return strconv.FormatInt(n, 10)
		},
	}
}

// A check reports what a value should be, or "".
type check func(value string) (want string)

func anything(string) string { return "" }

func notEmpty(s string) string {
	if s == "" {
		return "must not be empty"
	}
	return ""
}

func oneOf(values ...string) check {
	return func(s string) string {
		if slices.Contains(values, s) {
			return ""
		}
		return "want one of: " + strings.TrimPrefix(strings.Join(values, ", "), ", ")
	}
}

func wholeNumber(s string) string {
	if _, ok := parseCount(s); ok {
		return ""
	}
	return "want a whole number, 0 or more"
}

func seconds(s string) string {
	if _, ok := parseCount(s); ok {
		return ""
	}
	return `want a whole number of seconds, without a unit`
}

// authMethods takes the value of require_auth: names, all of them or none
// after a "!".
func authMethods(s string) string {
	if s == "" {
		return ""
	}
	methods := []string{"password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"}
	negated := strings.HasPrefix(strings.TrimSpace(s), "!")
	seen := make(map[string]bool)
	for m := range strings.SplitSeq(s, ",") {
		m, not := strings.CutPrefix(strings.TrimSpace(m), "!")
		if not != negated || seen[m] || !slices.Contains(methods, m) {
			return `want a list of ` + strings.Join(methods, ", ") + `, or of these with "!" before each`
		}
		seen[m] = true
	}
	return ""
}

// clientParams are the parameters that pgx understands, with what a value has
// to be. Where the empty value is in a list it means the default, as in pgx.
// https://pkg.go.dev/github.com/jackc/pgx/v5/pgconn#ParseConfig
var clientParams = map[string]check{
	"sslmode":              oneOf("", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
	"sslnegotiation":       oneOf("", "postgres", "direct"),
	"sslcertmode":          oneOf("disable", "allow", "require"),
	"sslsni":               oneOf("", "0", "1"),
	"sslcert":              anything,
	"sslkey":               anything,
	"sslpassword":          anything,
	"sslrootcert":          anything,
	"sslcrl":               anything,
	"passfile":             anything,
	"service":              notEmpty,
	"servicefile":          notEmpty,
	"krbsrvname":           anything,
	"krbspn":               anything,
	"connect_timeout":      seconds,
	"channel_binding":      oneOf("", "disable", "prefer", "require"),
	"require_auth":         authMethods,
	"min_protocol_version": oneOf("", "3.0", "3.2", "latest"),
	"max_protocol_version": oneOf("", "3.0", "3.2", "latest"),

	"default_query_exec_mode":    oneOf("cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"),
	"statement_cache_capacity":   wholeNumber,
	"description_cache_capacity": wholeNumber,
}

// serverParams are the settings of the server that a DSN may hold by name.
// https://www.postgresql.org/docs/current/runtime-config-client.html
var serverParams = setOf(
	"application_name", "bytea_output", "client_encoding", "client_min_messages",
	"datestyle", "default_tablespace", "default_transaction_deferrable", "default_transaction_isolation",
	"default_transaction_read_only", "extra_float_digits", "idle_in_transaction_session_timeout",
	"idle_session_timeout", "intervalstyle", "jit", "lc_messages", "lc_monetary", "lc_numeric", "lc_time",
	"lock_timeout", "maintenance_work_mem", "max_parallel_workers_per_gather", "options", "plan_cache_mode",
	"role", "row_security", "search_path", "statement_timeout", "synchronous_commit", "temp_buffers",
	"temp_tablespaces", "timezone", "transaction_timeout", "work_mem",
)

// secretParams hold, or may hold, what nobody should read in a log.
var secretParams = setOf("sslpassword", "options")

// loginParams name the database and who wants it.
var loginParams = setOf("user", "password", "dbname")

// hostLists are lists with one element for each server. FormatDSN writes them
// in this order.
var hostLists = []string{"host", "port", "host_names", "host_weights", "host_zones", "replica_hosts", "replica_names", "replica_weights", "replica_zones"}

func setOf(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

const notByPgx = "not supported by pgx"

// refused are the names that somebody may well try, and what to do instead.
// pgx would send those of libpq to the server, which would refuse them when
// the first connection is made.
var refused = map[string]string{
	"hostaddr":                  notByPgx + "; write the address as the host",
	"keepalives":                notByPgx,
	"keepalives_idle":           notByPgx,
	"keepalives_interval":       notByPgx,
	"keepalives_count":          notByPgx,
	"fallback_application_name": notByPgx + "; use application_name",
	"gssencmode":                notByPgx,
	"gsslib":                    notByPgx,
	"gssdelegation":             notByPgx,
	"requirepeer":               notByPgx,
	"requiressl":                notByPgx + "; use sslmode",
	"scram_client_key":          notByPgx,
	"scram_server_key":          notByPgx,
	"sslcompression":            notByPgx,
	"sslcrldir":                 notByPgx,
	"sslkeylogfile":             notByPgx,
	"ssl_min_protocol_version":  notByPgx,
	"ssl_max_protocol_version":  notByPgx,
	"oauth_issuer":              notByPgx,
	"oauth_client_id":           notByPgx,
	"oauth_client_secret":       notByPgx,
	"oauth_scope":               notByPgx,

	"ssl":                         "want true; or use sslmode",
	"replication":                 "a replication connection is to one server; open it with pgconn",
	"standard_conforming_strings": "must stay on: routing reads SQL by that rule",
	"pool_min_idle_conns":         "not supported; use pool_min_conns",
	"pool_ping_timeout":           "not supported; use lag_check_timeout",
}

// unknownParam is the error for a name that means nothing here. The name is
// shown only if it resembles a known one: else it may be part of a password
// that was not quoted.
func unknownParam(s setting) error {
	e := &ConfigError{Source: s.source}
	if near := nearest(s.name); near != "" {
		e.Param = s.name
		e.Reason = fmt.Sprintf("unknown; did you mean %q?", near)
		return e
	}
	where := ""
	if s.pos > 0 {
		where = fmt.Sprintf(", number %d of those in name=value form", s.pos)
	}
	e.Reason = "unknown parameter" + where + `; other settings of the server go into options, as in options='-c geqo=off'`
	if strings.Contains(s.name, ".") {
		e.Reason = "parameter with a dot in its name" + where + `; put it into options, as in options='-c my.setting=1'`
	}
	return e
}

// nearest returns the known name that name was probably meant to be, or "".
func nearest(name string) string {
	squeeze := func(s string) string {
		return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
	}
	name = squeeze(name)
	if len(name) > 40 { // no known one is as long
		return ""
	}
	best, bestDistance := "", min(2, len(name)/3)
	for _, known := range knownNames {
		if d := edit.Distance(name, squeeze(known)); d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = known, d
		}
	}
	return best
}

var knownNames = func() []string {
	names := slices.Concat(hostLists, []string{"target_session_attrs"})
	for _, p := range routerParams {
		names = append(names, p.name)
	}
	for _, m := range []map[string]bool{loginParams, serverParams} {
		for n := range m {
			names = append(names, n)
		}
	}
	for n := range clientParams {
		names = append(names, n)
	}
	slices.Sort(names) // the same one of two that are equally near, each time
	return names
}()
