package pgherd

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/jackc/pgservicefile"
)

// This file reads what surrounds a DSN: the environment, the service file and
// the defaults that libpq takes from the operating system.

const sourceEnv = "environment"

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

// serviceLink is how the value of an environment variable starts that Kubernetes
// makes for a Service, as it does for PG_PORT if the Service is called "pg".
const serviceLink = "tcp://"

// ConfigFromEnv makes a Config of the environment variables
//
//	PG_HOST PG_PORT PG_DATABASE PG_USERNAME PG_PASSWORD PG_PASSWORD_FILE
//	PG_SSLMODE PG_SSLCERT PG_SSLKEY PG_SSLROOTCERT PG_REPLICA_HOSTS
//	PG_POOL_MIN PG_POOL_MAX PG_ACQUIRE_TIMEOUT PG_QUERY_TIMEOUT
//	PG_SIMULATION_MODE PG_SIMULATION_FILE
//
// each with the values of its parameter in a DSN. Defaults are those of
// [ParseDSN], libpq's PG* variables included, but for PG_POOL_MIN, which is 5
// if PG_POOL_MAX allows it, and PG_QUERY_TIMEOUT, which is 30s. PG_PASSWORD_FILE names a file that
// holds the password, and is read again for each new connection; a line end after it
// is dropped.
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
		"PG_SIMULATION_FILE": "simulation_file",
	})
	if strings.HasPrefix(given["port"].value, serviceLink) {
		return nil, &ConfigError{Param: "PG_PORT", Source: sourceEnv, Reason: fmt.Sprintf(
			"%q at its start makes it a service link of Kubernetes, not a port; set enableServiceLinks: false in the pod, or rename the Service", serviceLink)}
	}
	if path := os.Getenv("PG_PASSWORD_FILE"); path != "" {
		password, err := secretFrom(path)
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
	if limit, ok := parseCount(given["pool_max_conns"].value); ok && limit > 0 {
		base.PoolMinConns = min(5, limit)
	}
	base.QueryTimeout = base.AcquireTimeout
	c, err := resolve(base, libpqEnv(), given)
	if path := os.Getenv("PG_PASSWORD_FILE"); err == nil && path != "" {
		c.passwordFile = passwordFile{path, c.Password}
	}
	return c, err
}

// readService returns what the service file says of the service that s asks for.
// https://www.postgresql.org/docs/current/libpq-pgservice.html
func readService(s settings) (settings, error) {
	path := s["servicefile"].value
	if path == "" {
		path = homeFiles()["servicefile"]
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

// homeFiles returns the parameters whose default is a file in the home directory,
// or in %APPDATA%\postgresql on Windows.
func homeFiles() map[string]string {
	dir, err := os.UserHomeDir()
	passfile, ssl := ".pgpass", ".postgresql"
	if runtime.GOOS == "windows" {
		dir, passfile, ssl = filepath.Join(os.Getenv("APPDATA"), "postgresql"), "pgpass.conf", ""
	} else if err != nil {
		return nil
	}
	files := map[string]string{
		"passfile":    filepath.Join(dir, passfile),
		"servicefile": filepath.Join(dir, ".pg_service.conf"),
	}
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	cert := filepath.Join(dir, ssl, "postgresql.crt")
	key := filepath.Join(dir, ssl, "postgresql.key")
	if exists(cert) && exists(key) {
		files["sslcert"], files["sslkey"] = cert, key
	}
	if root := filepath.Join(dir, ssl, "root.crt"); exists(root) {
		files["sslrootcert"] = root
	}
	return files
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

// defaultHost is pgx's: the directory where the socket probably is.
func defaultHost() string {
	if runtime.GOOS != "windows" {
		for _, dir := range []string{"/var/run/postgresql", "/private/tmp", "/tmp"} {
			if _, err := os.Stat(dir); err == nil {
				return dir
			}
		}
	}
	return "localhost"
}
