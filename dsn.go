package pgherd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A Config describes a herd: its servers, how to log in, and how statements
// are routed. It is made by [ParseDSN], [ConfigFromEnv] or [NewConfig] and may
// be changed until a [Connector] is made of it; the connector keeps a copy. It
// is not safe for concurrent use while it is changed.
//
// Printed by fmt, log/slog or encoding/json it shows its [Config.Redacted] DSN.
type Config struct {
	// Hosts are the members of the herd, in the order of the DSN: those of
	// the authority, or of host=, and then those of replica_hosts.
	Hosts []Host

	User     string
	Password Secret // empty: looked up in ~/.pgpass for each server
	Database string // empty: the server's default, which is the user's name

	// ReadPreference says which servers reads prefer, and LoadBalanceHosts
	// how one of several suitable servers is picked.
	ReadPreference   routing.Preference
	LoadBalanceHosts routing.Balance

	// MaxLag bounds how stale a replica may be to serve reads; 0 means any.
	MaxLag time.Duration
	// MaxLagBytes bounds how much log a replica may have to replay; 0 means any.
	MaxLagBytes int64
	// LagUnknown lets a replica of unknown lag serve reads under a bound.
	LagUnknown bool
	// ReplicaFallback says what becomes of a read that no replica may serve.
	ReplicaFallback ReplicaFallback
	// ReplicaFallbackMaxConns bounds how many of the reads that no replica can
	// serve, because all are down or late, the primary serves at a time, so that
	// there is room for writes; the others wait. 0 means any number.
	ReplicaFallbackMaxConns int
	// Consistency says which reads see which writes.
	Consistency Consistency
	// ConsistencyTimeout is how long a read waits for a replica to hold what
	// its own session has written or seen before the primary serves it, and for the
	// primary to show what a replica has shown. 0 means not at all. What others
	// write through the same handle it never waits for.
	ConsistencyTimeout time.Duration
	// FailoverTimeout is how long a statement that no server may run now waits
	// for one, first of all what only a primary may run: while a replica answers
	// that may become it, or servers are late with their answers or starting.
	// Nothing of it has been sent by then. 0 means that it fails at once.
	FailoverTimeout time.Duration
	// SlowStart is the time in which a server that comes back gets from a tenth
	// of its share of reads to all of it. 0 means that it gets all at once.
	SlowStart time.Duration
	// HedgeAfter is how long a read may take on a replica before a second server
	// is asked, too, and the first answer counts. It is for reads outside of
	// transactions, whose arguments can be copied, and for a tenth of them at
	// most. The zero value means never.
	HedgeAfter HedgeDelay
	// Zone is where this process runs, in the words of the hosts' Zone. Reads
	// prefer the suitable replicas of the same zone. Empty means no preference.
	Zone string

	// LagCheckInterval is the time between two questions to one server, and
	// LagCheckTimeout the time it has for an answer. Both are positive.
	LagCheckInterval time.Duration
	LagCheckTimeout  time.Duration

	// Discovery says which servers a host name among Hosts stands for. With
	// DiscoveryDNS names are looked up about every DiscoveryInterval, which is
	// positive; see Discovery in the documentation of the package.
	Discovery         Discovery
	DiscoveryInterval time.Duration
	// LookupHost looks a host name up, for Discovery and whenever a server is
	// dialled; nil means the resolver of package net. It returns addresses,
	// each with a port if it is not that of the Host ("10.0.0.1:5433"). It must
	// heed its context and be safe for concurrent use.
	LookupHost func(ctx context.Context, host string) ([]string, error)

	// The pool of physical connections that each server has.
	PoolMaxConns              int           // 0 means no limit
	PoolMinConns              int           // kept open
	PoolMaxConnLifetime       time.Duration // 0 means for ever
	PoolMaxConnLifetimeJitter time.Duration // up to this much is added to each lifetime
	PoolMaxConnIdleTime       time.Duration // 0 means for ever
	PoolHealthCheckPeriod     time.Duration // between two looks at PoolMinConns; positive

	// AcquireTimeout bounds how long a statement waits for a physical
	// connection when the pool is at its limit; 0 means as long as the
	// context allows.
	AcquireTimeout time.Duration
	// QueryTimeout bounds each statement, from the call until its rows are
	// closed, beside what its context allows; 0 means no bound.
	QueryTimeout time.Duration

	// TCPUserTimeout is how long the other machine may leave unacknowledged what
	// was sent, or unread if its buffers are full, before the connection is given
	// up; 0 means what the system has, a quarter of an hour as a rule. It is how
	// soon a write notices that its primary is cut off, if no other server is
	// promoted: reads are moved by the probe. But it also ends a COPY, or another
	// statement with much data, that waits so long for a lock, and so is off by
	// default, as in libpq. It counts in milliseconds, and has an effect on Linux
	// only, and none on Unix sockets.
	TCPUserTimeout time.Duration

	// CatalogOff keeps the herd from reading the primary's catalogue. What a
	// statement's text cannot tell is then unknown: a user's function may write,
	// and a view does not.
	CatalogOff bool
	// ReadOnlyFunctions are functions that do not write, whatever the catalogue
	// says, named as statements call them: "total", "shop.price", in lower
	// case unless they are quoted in SQL.
	ReadOnlyFunctions []string

	// LoadTypes are user-defined types that every connection of the pools is to
	// know, named as SQL names them ("mood", "shop.address"), each with its
	// arrays, its fields and whatever else it is made of: enums, composite types,
	// domains, ranges, and the types of extensions. pgx then takes Go values for
	// them and hands them out as it does those of its own. A type that does not
	// exist is looked for each time that a connection is taken from its pool; DDL
	// that runs through the herd has all types looked up again. Otherwise it is
	// two round trips for each new connection.
	LoadTypes []string
	// AfterConnect, if it is not nil, is called with each new connection of the
	// pools of the Hosts, before anything else uses it: to register types in its
	// TypeMap, for one. It may be called concurrently. Its error is that of
	// connecting; it must not keep the connection. The connection of a [Listener]
	// is of no pool, and runs nothing that a session's settings or types would
	// change: AfterConnect does not meet it.
	AfterConnect func(context.Context, *pgx.Conn) error

	// Tracer, if it is not nil, is that of pgx for the connections of the pools of the
	// Hosts: it is told what each server is sent, under the context of the statement.
	// It may implement pgx's other tracers, too. The probe's connections have none.
	Tracer pgx.QueryTracer

	// SessionReset says what happens to the state that a session leaves on
	// its physical connection.
	SessionReset SessionReset

	// SimulationMode has the handle that [OpenDB], or [database/sql.Open] with a
	// DSN, returns record what servers say in SimulationFile, or answer from it
	// without a server. The program must import package replay.
	SimulationMode SimulationMode
	SimulationFile string

	// Logger gets what the herd has to say on its own: see Logging in the
	// documentation of the package. With nil it says nothing.
	Logger *slog.Logger

	// Params are the settings that each server's connection gets as they
	// are: those of libpq and pgx (sslmode, connect_timeout,
	// default_query_exec_mode, …) and those of the server
	// (application_name, search_path, …, in lower case). It may hold secrets
	// (sslpassword, options): print the Config, not the map.
	Params map[string]string

	// Credentials, if it is not nil, has user and password instead of User and
	// Password, for each server: see [CredentialProvider].
	Credentials CredentialProvider

	// TLSVerified refuses servers on other machines unless somebody verifies that
	// it is they who answer (sslmode verify-full, or verify-ca). Without it there is
	// a warning.
	TLSVerified bool

	// DialFunc, if it is not nil, makes the connections to the servers: through a
	// tunnel, or a cloud vendor's connector. sslmode counts for what it returns. It
	// must be safe for concurrent use. TCPUserTimeout is then for it to set.
	DialFunc pgconn.DialFunc

	passwordFile passwordFile
}

// A passwordFile is where a Config has its password from. It is read again for each
// new connection, while Password is what was read first.
type passwordFile struct {
	path string // empty for a password from elsewhere
	read Secret
}

// A Host is one member of the herd.
type Host struct {
	// Name stands for the server in logs, metrics and errors. Empty means
	// Host, with the port unless it is 5432.
	Name string
	// Host is a DNS name, an IP address, or the absolute path of the
	// directory that the server's socket is in.
	Host string
	Port uint16 // 0 means 5432
	// Weight is the share of reads that the server gets beside the others.
	// A server of weight 0 is used when no other is suitable. In a DSN the
	// default is 1.
	Weight int
	// Zone is where the server is, such as the name of an availability zone;
	// see [Config.Zone]. Empty means unknown.
	Zone string
	// Replica tells that the server was listed in replica_hosts. It is a
	// first guess: the servers themselves are asked what they are.
	Replica bool
}

// A Consistency says which reads see which writes. Reads in a transaction, on
// one [database/sql.Conn], or in a session that a context carries see their own writes
// under each of them. The zero value is [ConsistencySession].
type Consistency uint8

const (
	ConsistencySession  Consistency = iota // all reads through a handle see all writes acknowledged through it
	ConsistencyEventual                    // reads outside of sessions see what is at most MaxLag old
	ConsistencyPrimary                     // all reads run on the primary
)

// String returns the value of the parameter consistency that c stands for.
func (c Consistency) String() string {
	return nameOf(c, "session", "eventual", "primary")
}

// A ReplicaFallback says what becomes of a read that no replica may serve. The
// zero value is [FallbackPrimary].
type ReplicaFallback uint8

const (
	FallbackPrimary ReplicaFallback = iota // the primary serves it
	FallbackError                          // it fails
)

// String returns the value of the parameter replica_fallback that f stands for.
func (f ReplicaFallback) String() string { return nameOf(f, "primary", "error") }

// A SessionReset says what happens to the state, such as a SET, that a session
// leaves on its physical connection. The zero value is [SessionResetKeep].
type SessionReset uint8

const (
	SessionResetKeep    SessionReset = iota // it stays, as with plain pgx
	SessionResetDiscard                     // DISCARD ALL
)

// String returns the value of the parameter session_reset that s stands for.
func (s SessionReset) String() string { return nameOf(s, "keep", "discard") }

func nameOf[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "invalid"
}

// NewConfig returns the defaults of a DSN, without hosts and without regard to
// the environment.
func NewConfig() *Config {
	return &Config{
		MaxLag:                  10 * time.Second,
		ReplicaFallbackMaxConns: 10,
		ConsistencyTimeout:      200 * time.Millisecond,
		FailoverTimeout:         10 * time.Second,
		SlowStart:               10 * time.Second,
		LagCheckInterval:        time.Second,
		LagCheckTimeout:         time.Second,
		DiscoveryInterval:       10 * time.Second,
		PoolMaxConns:            20,
		PoolMaxConnLifetime:     time.Hour,
		PoolMaxConnIdleTime:     30 * time.Minute,
		PoolHealthCheckPeriod:   time.Minute,
		AcquireTimeout:          30 * time.Second,
	}
}

// ParseDSN reads a DSN in either of libpq's forms, a URL or keywords and
// values:
//
//	postgres://user:password@host1:port1,host2:port2/database?replica_hosts=host3,host4:port4&name=value
//	host=host1,host2 port=5432 user=user password='…' dbname=database replica_hosts=host3 name=value
//
// Lexical rules are libpq's
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING),
// the list of parameters is in the README. What the DSN leaves open comes from
// the service file that it names, then from the PG* variables of the
// environment, then from libpq's defaults, so that the empty DSN means what it
// means to psql. They are read here, once; later changes of the environment
// change nothing.
//
// Deliberate differences from libpq and pgx: a host list may hold the ports
// ("h1:p1,h2:p2") in the keyword form too. One port number applies to all
// hosts that name none, replicas included. PGTARGETSESSIONATTRS is
// ignored: it is about one connection to one server. Unknown parameters are
// errors, as are a foreign scheme and a raw "@" in the name of the
// database, which is what a "/" in a password makes of the rest.
//
// All problems are reported at once, each a [*ConfigError] that errors.As
// finds. No error holds a value or any other part of the DSN.
func ParseDSN(dsn string) (*Config, error) {
	given, err := lexDSN(dsn)
	if err != nil {
		return nil, err
	}
	return resolve(NewConfig(), libpqEnv(), given)
}

// FormatDSN returns a DSN, password included, that [ParseDSN] reads as c. What
// c leaves empty is left to the environment that it is read in.
func (c *Config) FormatDSN() string { return c.format(false) }

// Redacted is [Config.FormatDSN] with "xxxxx" in place of what may be secret:
// password, sslpassword and options.
func (c *Config) Redacted() string { return c.format(true) }

// mask stands where a secret was, as in net/url and pgx.
const mask = "xxxxx"

func (c *Config) format(redact bool) string {
	var b strings.Builder
	b.WriteString("postgres://")
	if c.User != "" || c.Password != "" {
		b.WriteString(encodeURI(c.User, ""))
		if c.Password != "" {
			password := string(c.Password)
			if redact {
				password = mask
			}
			b.WriteString(":" + encodeURI(password, ""))
		}
		b.WriteByte('@')
	}
	authority, lists := formatHosts(c.Hosts)
	b.WriteString(authority)
	b.WriteByte('/')
	b.WriteString(encodeURI(c.Database, ""))

	sep := byte('?')
	add := func(name, value string) {
		b.WriteByte(sep)
		b.WriteString(encodeURI(name, "") + "=" + encodeURI(value, inQuery))
		sep = '&'
	}
	for _, name := range hostLists {
		if v := lists[name]; v != "" {
			add(name, v)
		}
	}
	defaults := NewConfig()
	for _, p := range routerParams {
		if v := p.get(c); v != p.get(defaults) {
			add(p.name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Params)) {
		v := c.Params[name]
		if redact && secretParams[name] && v != "" {
			v = mask
		}
		add(name, v)
	}
	return b.String()
}

// Clone returns a deep copy.
func (c *Config) Clone() *Config {
	d := *c
	d.Hosts = slices.Clone(c.Hosts)
	d.ReadOnlyFunctions = slices.Clone(c.ReadOnlyFunctions)
	d.LoadTypes = slices.Clone(c.LoadTypes)
	d.Params = maps.Clone(c.Params)
	return &d
}

// String returns [Config.Redacted].
func (c Config) String() string { return c.Redacted() }

// GoString returns [Config.Redacted].
func (c Config) GoString() string { return c.Redacted() }

// Format writes [Config.Redacted] for every verb.
func (c Config) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.Redacted()) }

// MarshalText returns [Config.Redacted].
func (c Config) MarshalText() ([]byte, error) { return []byte(c.Redacted()), nil }

// LogValue returns [Config.Redacted].
func (c Config) LogValue() slog.Value { return slog.StringValue(c.Redacted()) }

// A ConfigError is one problem of a configuration. Neither it nor its text
// holds the value that was given, since that may be a secret, or part of one
// that was split by mistake.
type ConfigError struct {
	Param  string // the parameter or environment variable; empty where the problem is not of one
	Source string // "DSN", "service file", "environment" or "Config"
	Reason string // what is wanted, or what is wrong
}

func (e *ConfigError) Error() string {
	if e.Param == "" {
		return "pgherd: " + e.Source + ": " + e.Reason
	}
	return fmt.Sprintf("pgherd: parameter %q in %s: %s", e.Param, e.Source, e.Reason)
}
