package pgherd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// clientDefaults are written out for every server, as are the homeFiles, so
// that neither the environment nor a service file decides what the Config
// leaves open: those were read when the DSN was.
//
// They are pgx's, but for connect_timeout: without one, a statement that meets
// a server whose packets are lost would wait for minutes.
var clientDefaults = map[string]string{
	"sslmode":                    "prefer",
	"sslnegotiation":             "",
	"sslcertmode":                "allow",
	"sslsni":                     "1",
	"sslpassword":                "",
	"sslcert":                    "",
	"sslkey":                     "",
	"sslrootcert":                "",
	"passfile":                   "",
	"krbsrvname":                 "",
	"krbspn":                     "",
	"connect_timeout":            "5",
	"channel_binding":            "prefer",
	"require_auth":               "",
	"min_protocol_version":       "",
	"max_protocol_version":       "",
	"target_session_attrs":       "any",
	"default_query_exec_mode":    "cache_statement",
	"statement_cache_capacity":   "512",
	"description_cache_capacity": "512",
}

// A serverConfig is how connections to one server are made.
type serverConfig struct {
	*pgx.ConnConfig
	keys *keyring // nil where TLS needs no files
}

// serverConfigs validates c and returns the configuration of each host, in
// order. It reads the certificates and the password file that c names. Each is
// parsed on its own: pgx would make one connection with fallbacks of a list of
// hosts, with one password for all.
func (c *Config) serverConfigs() ([]*serverConfig, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	files := homeFiles()
	delete(files, "servicefile")
	configs := make([]*serverConfig, len(c.Hosts))
	var errs []error
	for i, h := range c.Hosts {
		given := maps.Clone(clientDefaults)
		maps.Copy(given, files)
		runtime := make(map[string]string)
		for name, value := range c.Params {
			if serverParams[name] {
				runtime[name] = value
			} else {
				given[name] = value
			}
		}
		given["host"] = h.Host
		given["port"] = strconv.Itoa(int(h.Port))
		given["user"] = c.User
		given["dbname"] = c.Database
		// The password is set below, so that it is in no text that pgx keeps.
		// Without one, pgx looks it up in the password file.
		given["password"] = ""
		crl := given["sslcrl"]
		delete(given, "sslcrl") // ours: pgx would take it for a setting of the server

		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(given)) {
			b.WriteString(name + "=" + quoteValue(given[name]) + " ")
		}
		pc, err := pgx.ParseConfig(b.String())
		if err != nil {
			return nil, c.withoutSecrets(err)
		}
		if err := c.checkLink(h, pc, crl); err != nil {
			errs = append(errs, err)
			continue
		}
		keys, err := newKeyring(h.Name, pc, given, crl, c.Logger)
		if err != nil {
			return nil, c.withoutSecrets(err)
		}
		if c.Password != "" {
			pc.Password = string(c.Password)
		}
		if c.LookupHost != nil {
			pc.LookupFunc = c.LookupHost
		}
		if c.TCPUserTimeout > 0 {
			// As pgx makes it, but for Control.
			d := &net.Dialer{Timeout: pc.ConnectTimeout, Control: tcpUserTimeout(c.TCPUserTimeout)}
			pc.DialFunc = d.DialContext
		}
		if c.DialFunc != nil {
			pc.DialFunc = c.DialFunc
		}
		// Only ours: pgx adds those of PGOPTIONS, PGTZ, PGAPPNAME and of
		// a service.
		pc.RuntimeParams = runtime
		configs[i] = &serverConfig{pc, keys}
	}
	return configs, errors.Join(errs...)
}

// checkLink returns an error if the link to a server is protected less than c asks
// for.
func (c *Config) checkLink(h Host, pc *pgx.ConnConfig, crl string) error {
	got := protectionOf(pc)
	fail := func(param, reason string) error {
		return &ConfigError{Param: param, Source: "Config", Reason: reason}
	}
	switch {
	case crl != "" && got != verified:
		return fail("sslcrl", "nothing is verified that could be revoked; want sslmode verify-ca or verify-full")
	case !isRemote(h.Host):
	case c.TLSVerified && got != verified:
		return fail("tls_policy", fmt.Sprintf("does not allow the link to %s, where nobody verifies who answers; want sslmode verify-full", h.Name))
	case c.Credentials != nil && c.DialFunc == nil && got == plaintext:
		return fail("sslmode", fmt.Sprintf("the link to %s may be plaintext, which the credentials of a provider do not go over; want require, verify-ca or verify-full", h.Name))
	}
	return nil
}

// provider returns what knows the credentials, or nil if they do not change.
func (c *Config) provider() CredentialProvider {
	f := c.passwordFile
	if c.Credentials != nil || f.path == "" || f.read != c.Password {
		return c.Credentials
	}
	return CredentialFunc(func(context.Context, Login) (Credentials, error) {
		if text, err := secretFrom(f.path); err == nil {
			return Credentials{Password: Secret(text)}, nil
		}
		return Credentials{Password: f.read}, nil // some remove the file once it was read
	})
}

// withoutSecrets turns an error of pgx's parser, which holds the whole
// connection string, into one that holds no part of it.
func (c *Config) withoutSecrets(err error) error {
	e := &ConfigError{Source: "Config", Reason: "pgx does not accept these settings"}
	if pe := new(os.PathError); errors.As(err, &pe) {
		e.Reason = "cannot " + pe.Op + " the file: " + pe.Err.Error()
		for _, name := range tlsFiles {
			if c.Params[name] == pe.Path {
				e.Param = name
				return e
			}
		}
		e.Reason = "cannot " + pe.Op + " " + pe.Path + ": " + pe.Err.Error() // a default, not from the Config
		return e
	}
	pe := new(pgconn.ParseConfigError)
	if !errors.As(err, &pe) || pe.Unwrap() == nil {
		return e
	}
	reason := pe.Unwrap().Error()
	for _, value := range c.Params {
		if value != "" && strings.Contains(reason, value) {
			return e
		}
	}
	e.Reason = reason
	return e
}
