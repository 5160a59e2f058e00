package pgherd

import (
	"errors"
	"maps"
	"slices"
	"strings"

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
		case !known && slices.Contains(knownNames, name) && !serverParams[name]:
			fail(name, "has a field of its own in Config; want it there, not in Params")
		case !known && !serverParams[name]:
			errs = append(errs, unknownParam(origin(name)))
		case strings.ContainsRune(value, 0):
			fail(name, "a NUL byte is not allowed")
		case known && check(value) != "":
			fail(name, check(value))
		}
	}
	if c.SimulationMode != SimulationOff && c.SimulationFile == "" {
		fail("simulation_mode", "want simulation_file with it, the path of the recording")
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
