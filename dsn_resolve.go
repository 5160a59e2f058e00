package pgherd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/jackc/pgservicefile"

	"github.com/pgherd/pgherd/routing"
)

// resolve completes base with what was given, env being the weaker source.
func resolve(base *Config, env, given settings) (*Config, error) {
	s := maps.Clone(env)
	maps.Copy(s, given)
	if _, ok := s["service"]; ok {
		service, err := readService(s)
		if err != nil {
			return nil, err
		}
		s = maps.Clone(env)
		maps.Copy(s, service)
		maps.Copy(s, given)
	}

	c := base
	c.Params = make(map[string]string)
	var errs []error
	fail := func(v setting, reason string) {
		errs = append(errs, &ConfigError{Param: v.name, Source: v.source, Reason: reason})
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		v := s[name]
		if i := slices.IndexFunc(routerParams, func(p param) bool { return p.name == name }); i >= 0 {
			if p := routerParams[i]; !p.set(c, v.value) {
				fail(v, p.want)
			}
			continue
		}
		if check, ok := clientParams[name]; ok {
			if want := check(v.value); want != "" {
				fail(v, want)
			}
			c.Params[name] = v.value
			continue
		}
		switch reason := refused[name]; {
		case reason != "":
			fail(v, reason)
		case serverParams[name]:
			c.Params[name] = v.value
		case loginParams[name], slices.Contains(hostLists, name), name == "target_session_attrs":
		default:
			errs = append(errs, unknownParam(v))
		}
	}
	c.User = s["user"].value
	c.Password = Secret(s["password"].value)
	c.Database = s["dbname"].value
	if v, ok := s["target_session_attrs"]; ok {
		p, ok := preferenceFor(v.value)
		switch _, both := s["read_preference"]; {
		case !ok:
			fail(v, "want any, read-write, read-only, primary, standby or prefer-standby")
		case both && p != c.ReadPreference:
			fail(v, "contradicts read_preference, which is the one to use")
		default:
			c.ReadPreference = p
		}
	}
	var hostErrs []error
	c.Hosts, hostErrs = parseHosts(s)
	if errs = append(errs, hostErrs...); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	err := c.check(func(name string) setting {
		if v, ok := s[name]; ok {
			return v
		}
		return setting{name: name, source: sourceDSN}
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// preferenceFor is the read preference that comes nearest to what libpq's
// target_session_attrs says of one connection.
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-TARGET-SESSION-ATTRS
func preferenceFor(attrs string) (routing.Preference, bool) {
	switch attrs {
	case "read-write":
		return routing.OnlyPrimary, true
	case "read-only":
		return routing.OnlyStandby, true
	case "prefer-primary": // not libpq's
		return 0, false
	}
	return routing.ParsePreference(attrs)
}

// check completes hosts and user and reports every problem of c. origin tells
// where a parameter came from.
func (c *Config) check(origin func(name string) setting) error {
	var errs []error
	fail := func(name, reason string) {
		v := origin(name)
		errs = append(errs, &ConfigError{Param: v.name, Source: v.source, Reason: reason})
	}
	if c.User == "" {
		c.User = osUser()
	}
	completeHosts(c.Hosts)
	checkHosts(c.Hosts, fail)

	var scratch Config
	for _, p := range routerParams {
		if !p.set(&scratch, p.get(c)) {
			fail(p.name, p.want)
		}
	}
	if c.PoolMaxConns > 0 && c.PoolMinConns > c.PoolMaxConns {
		fail("pool_min_conns", "want no more than pool_max_conns")
	}
	if strings.ContainsRune(c.User+string(c.Password)+c.Database, 0) {
		fail("", "a NUL byte in user, password or database is not allowed")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Params)) {
		check, known := clientParams[name]
		switch value := c.Params[name]; {
		case !known && !serverParams[name]:
			errs = append(errs, unknownParam(origin(name)))
		case strings.ContainsRune(value, 0):
			fail(name, "a NUL byte is not allowed")
		case known && check(value) != "":
			fail(name, check(value))
		}
	}
	if c.Params["min_protocol_version"] > "3.0" && c.Params["max_protocol_version"] == "3.0" {
		fail("min_protocol_version", "want no more than max_protocol_version")
	}
	return errors.Join(errs...)
}

// validate completes what Hosts and User leave open (the default port, a name
// for each server, the name of the operating system's user) and reports every
// problem.
func (c *Config) validate() error {
	return c.check(func(name string) setting { return setting{name: name, source: "Config"} })
}

// osUser is the default of the user's name. It is looked up only where nothing
// else is given, because the lookup can be slow, or crash, in containers
// without a user database.
func osUser() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username[strings.LastIndexByte(u.Username, '\\')+1:] // Windows: DOMAIN\user
}

// readService returns what the service file says of the service that s asks for.
// https://www.postgresql.org/docs/current/libpq-pgservice.html
func readService(s settings) (settings, error) {
	path := s["servicefile"].value
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, &ConfigError{Param: "service", Source: s["service"].source, Reason: "no home directory to look for the service file in; set PGSERVICEFILE"}
		}
		path = filepath.Join(home, ".pg_service.conf")
		if runtime.GOOS == "windows" {
			path = filepath.Join(os.Getenv("APPDATA"), "postgresql", ".pg_service.conf")
		}
	}
	fail := func(reason string) (settings, error) {
		v := s["service"]
		return nil, &ConfigError{Param: v.name, Source: v.source, Reason: reason}
	}
	file, err := pgservicefile.ReadServicefile(path)
	if pe := new(os.PathError); errors.As(err, &pe) {
		return fail("cannot " + pe.Op + " the service file: " + pe.Err.Error())
	} else if err != nil {
		return fail("the service file is not in the form of pg_service.conf")
	}
	service, err := file.GetService(s["service"].value)
	if err != nil {
		return fail("the service file has no such service")
	}
	found := make(settings)
	for name, value := range service.Settings {
		found.add(name, setting{value: value, source: "service file"})
	}
	return found, nil
}

// serviceLink is how the value of an environment variable starts that Kubernetes
// makes for a Service, as it does for PG_PORT if the Service is called "pg".
const serviceLink = "tcp://"

// fromEnv returns the settings that the environment holds under the given
// names. Empty variables count as not set, as in libpq.
func fromEnv(names map[string]string) settings {
	s := make(settings)
	for env, name := range names {
		if value := os.Getenv(env); value != "" {
			s[name] = setting{value: value, name: env, source: sourceEnv}
		}
	}
	return s
}

const sourceEnv = "environment"

// libpqEnv returns the settings in the environment that libpq would use.
// PGTARGETSESSIONATTRS is not one of them: it tells which one of several
// servers a connection should end at, and here each has connections of its own.
// https://www.postgresql.org/docs/current/libpq-envars.html
func libpqEnv() settings {
	return fromEnv(map[string]string{
		"PGHOST":               "host",
		"PGPORT":               "port",
		"PGDATABASE":           "dbname",
		"PGUSER":               "user",
		"PGPASSWORD":           "password",
		"PGPASSFILE":           "passfile",
		"PGSERVICE":            "service",
		"PGSERVICEFILE":        "servicefile",
		"PGOPTIONS":            "options",
		"PGAPPNAME":            "application_name",
		"PGTZ":                 "timezone",
		"PGCONNECT_TIMEOUT":    "connect_timeout",
		"PGSSLMODE":            "sslmode",
		"PGSSLNEGOTIATION":     "sslnegotiation",
		"PGSSLCERT":            "sslcert",
		"PGSSLCERTMODE":        "sslcertmode",
		"PGSSLKEY":             "sslkey",
		"PGSSLPASSWORD":        "sslpassword",
		"PGSSLROOTCERT":        "sslrootcert",
		"PGSSLSNI":             "sslsni",
		"PGREQUIREAUTH":        "require_auth",
		"PGCHANNELBINDING":     "channel_binding",
		"PGMINPROTOCOLVERSION": "min_protocol_version",
		"PGMAXPROTOCOLVERSION": "max_protocol_version",
	})
}

// ConfigFromEnv makes a Config of the environment variables
//
//	PG_HOST PG_PORT PG_DATABASE PG_USERNAME PG_PASSWORD PG_PASSWORD_FILE
//	PG_SSLMODE PG_SSLCERT PG_SSLKEY PG_SSLROOTCERT PG_REPLICA_HOSTS
//	PG_POOL_MIN PG_POOL_MAX PG_ACQUIRE_TIMEOUT PG_QUERY_TIMEOUT PG_SIMULATION_MODE
//
// each with the values of its parameter in a DSN. Defaults are those of
// [ParseDSN], libpq's PG* variables included, but for PG_POOL_MIN, which is 5,
// and PG_QUERY_TIMEOUT, which is 30s. PG_PASSWORD_FILE names a file that
// holds the password; a line end after it is dropped.
func ConfigFromEnv() (*Config, error) {
	given := fromEnv(map[string]string{
		"PG_HOST":            "host",
		"PG_PORT":            "port",
		"PG_DATABASE":        "dbname",
		"PG_USERNAME":        "user",
		"PG_PASSWORD":        "password",
		"PG_SSLMODE":         "sslmode",
		"PG_SSLCERT":         "sslcert",
		"PG_SSLKEY":          "sslkey",
		"PG_SSLROOTCERT":     "sslrootcert",
		"PG_REPLICA_HOSTS":   "replica_hosts",
		"PG_POOL_MIN":        "pool_min_conns",
		"PG_POOL_MAX":        "pool_max_conns",
		"PG_ACQUIRE_TIMEOUT": "acquire_timeout",
		"PG_QUERY_TIMEOUT":   "query_timeout",
		"PG_SIMULATION_MODE": "simulation_mode",
	})
	if strings.HasPrefix(given["port"].value, serviceLink) {
		return nil, &ConfigError{Param: "PG_PORT", Source: sourceEnv, Reason: fmt.Sprintf(
			"%q at its start makes it a service link of Kubernetes, not a port; set enableServiceLinks: false in the pod, or rename the Service", serviceLink)}
	}
	if path := os.Getenv("PG_PASSWORD_FILE"); path != "" {
		password, err := passwordFrom(path)
		if _, both := given["password"]; both {
			err = errors.New("set either this or PG_PASSWORD")
		}
		if err != nil {
			return nil, &ConfigError{Param: "PG_PASSWORD_FILE", Source: sourceEnv, Reason: err.Error()}
		}
		given["password"] = setting{value: password, name: "PG_PASSWORD_FILE", source: sourceEnv}
	}
	base := NewConfig()
	base.PoolMinConns = 5
	base.QueryTimeout = base.AcquireTimeout
	return resolve(base, libpqEnv(), given)
}

func passwordFrom(path string) (string, error) {
	b, err := os.ReadFile(path)
	if pe := new(os.PathError); errors.As(err, &pe) {
		return "", fmt.Errorf("cannot %s the file: %w", pe.Op, pe.Err)
	} else if err != nil {
		return "", errors.New("cannot read the file")
	}
	password, _ := strings.CutSuffix(string(b), "\n")
	password, _ = strings.CutSuffix(password, "\r")
	return password, nil
}
