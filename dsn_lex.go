package pgherd

import (
	"errors"
	"strconv"
	"strings"
)

// A setting is one value as it was given, and where.
type setting struct {
	value  string
	name   string // as spelled in the source
	source string // see ConfigError.Source
	pos    int    // 1 for the first of its source; 0 where there is no order
}

// settings maps the names of parameters to what was given for them.
// Later layers, and later occurrences in one layer, replace earlier ones.
type settings map[string]setting

func (s settings) add(name string, v setting) {
	v.name = name
	switch name {
	case "database": // pgx's name for it
		name = "dbname"
	case "ssl": // JDBC's; libpq takes ssl=true in URLs
		if v.value == "true" {
			name, v.value = "sslmode", "require"
		}
	}
	// Servers compare the names of their settings without regard to case, so
	// TimeZone=UTC is customary.
	if lower := strings.ToLower(name); serverParams[lower] {
		name = lower
	}
	s[name] = v
}

const sourceDSN = "DSN"

func dsnError(reason string) error { return &ConfigError{Source: sourceDSN, Reason: reason} }

// lexDSN splits a DSN into its parameters, as libpq does
// (conninfo_uri_parse_options and conninfo_parse in
// https://github.com/postgres/postgres/blob/REL_18_STABLE/src/interfaces/libpq/fe-connect.c).
// Host and port are lists with elements in the same order; the brackets of
// IPv6 addresses are kept.
func lexDSN(dsn string) (settings, error) {
	if strings.IndexByte(dsn, 0) >= 0 {
		return nil, dsnError("a NUL byte is not allowed")
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			return lexURL(rest)
		}
	}
	return lexKeywords(dsn)
}

// lexURL reads what follows the scheme of a URL.
func lexURL(p string) (settings, error) {
	s := make(settings)
	// decode stores a decoded component, unless it is empty.
	var errs []error
	decode := func(name, raw string) {
		if raw == "" {
			return
		}
		v, reason := decodeURI(raw)
		if reason != "" {
			errs = append(errs, &ConfigError{Param: name, Source: sourceDSN, Reason: reason})
			return
		}
		s.add(name, setting{value: v, source: sourceDSN})
	}

	// As in libpq, only a "/" stops the search for the end of the user.
	if i := strings.IndexAny(p, "@/"); i >= 0 && p[i] == '@' {
		user, password, _ := strings.Cut(p[:i], ":")
		decode("user", user)
		decode("password", password)
		p = p[i+1:]
	}
	hosts, ports, p, reason := lexAuthority(p)
	if reason != "" {
		return nil, dsnError(reason)
	}
	decode("host", hosts)
	decode("port", ports)

	if strings.HasPrefix(p, "/") {
		end := strings.IndexByte(p, '?')
		if end < 0 {
			end = len(p)
		}
		if strings.Contains(p[:end], "@") {
			return nil, dsnError(`"@" after the first "/": write a "/" in a password as %2F, and an "@" in the name of a database as %40`)
		}
		decode("dbname", p[1:end])
		p = p[end:]
	}
	if query, ok := strings.CutPrefix(p, "?"); ok {
		errs = append(errs, lexQuery(query, s)...)
	}
	return s, errors.Join(errs...)
}

// lexAuthority reads host[:port],… up to the "/" or "?" that ends it. The
// lists are decoded by the caller after they were joined, as in libpq.
func lexAuthority(p string) (hosts, ports, rest, reason string) {
	cut := func(stop string) (word string) {
		i := strings.IndexAny(p, stop)
		if i < 0 {
			i = len(p)
		}
		word, p = p[:i], p[i:]
		return word
	}
	for {
		if strings.HasPrefix(p, "[") {
			end := strings.IndexByte(p, ']')
			if end < 0 {
				return "", "", "", `"[" without "]" around an IPv6 address`
			}
			hosts += p[:end+1]
			if p = p[end+1:]; p != "" && !strings.ContainsRune(":/?,", rune(p[0])) {
				return "", "", "", `want ":", "," or "/" after the "]" of an IPv6 address`
			}
		} else {
			hosts += cut(":/?,")
		}
		if strings.HasPrefix(p, ":") {
			p = p[1:]
			ports += cut("/?,")
		}
		if !strings.HasPrefix(p, ",") {
			return hosts, ports, p, ""
		}
		p = p[1:]
		// An empty list of ports is a list all the same: h1,h2 does not take
		// its ports from the environment.
		hosts += ","
		ports += ","
	}
}

// lexQuery reads name=value&… into s.
func lexQuery(query string, s settings) (errs []error) {
	for pos := 1; query != ""; pos++ {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		fail := func(reason string) {
			errs = append(errs, dsnError("parameter "+strconv.Itoa(pos)+` after the "?": `+reason))
		}
		rawName, rawValue, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(rawValue, "=") {
			fail(`want name=value with one "="; write an "=" in a value as %3D, and an "&" as %26`)
			continue
		}
		name, reason := decodeURI(rawName)
		if reason != "" {
			fail(reason)
			continue
		}
		value, reason := decodeURI(rawValue)
		if reason != "" {
			fail(reason)
			continue
		}
		s.add(name, setting{value: value, source: sourceDSN, pos: pos})
	}
	return errs
}

// decodeURI resolves percent-encoding as libpq does: "+" is itself, spaces
// around are dropped and those within are errors.
func decodeURI(raw string) (value, reason string) {
	raw = strings.Trim(raw, " ")
	if strings.Contains(raw, " ") {
		return "", "write a space as %20"
	}
	if !strings.Contains(raw, "%") {
		return raw, ""
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			b = append(b, raw[i])
			continue
		}
		if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
			return "", `want two hexadecimal digits after "%"; write a "%" as %25`
		}
		n, _ := strconv.ParseUint(raw[i+1:i+3], 16, 8)
		if n == 0 {
			return "", "%00 is not allowed"
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// encodeURI is the inverse of decodeURI. It leaves letters, digits, -._~ and
// the characters of keep as they are.
func encodeURI(s, keep string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0, strings.IndexByte(keep, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

const space = " \t\n\r\v\f"

// lexKeywords reads keyword = value pairs.
func lexKeywords(p string) (settings, error) {
	s := make(settings)
	p = strings.TrimLeft(p, space)
	for pos := 1; p != ""; pos++ {
		fail := func(reason string) (settings, error) {
			return nil, dsnError("parameter " + strconv.Itoa(pos) + ": " + reason)
		}
		name, rest, ok := strings.Cut(p, "=")
		if strings.Contains(name, "://") {
			return nil, dsnError(`want "postgres://" or "postgresql://", in lower case and with nothing before it, or keyword=value pairs`)
		}
		name = strings.Trim(name, space)
		if !ok || name == "" || strings.ContainsAny(name, space) {
			return fail(`want keyword=value; quote a value that holds spaces: 'a b'`)
		}
		value, rest, ok := lexValue(strings.TrimLeft(rest, space))
		if !ok {
			return fail(`the quoted value has no end; write a quote in it as \'`)
		}
		p = strings.TrimLeft(rest, space)
		if name == "user" && value == "" {
			continue // as in pgx: the default, not the empty name
		}
		s.add(name, setting{value: value, source: sourceDSN, pos: pos})
	}
	return s, nil
}

// lexValue reads one value. A backslash makes any character stand for itself.
func lexValue(p string) (value, rest string, ok bool) {
	quoted := strings.HasPrefix(p, "'")
	if quoted {
		p = p[1:]
	}
	var b []byte
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case quoted && c == '\'':
			return string(b), p[i+1:], true
		case !quoted && strings.IndexByte(space, c) >= 0:
			return string(b), p[i:], true
		case c == '\\':
			if i++; i < len(p) {
				b = append(b, p[i])
			}
		default:
			b = append(b, c)
		}
	}
	return string(b), "", !quoted
}

// inQuery are the characters that mean nothing in the query of a URL.
const inQuery = ":,/[]"

// quoteValue is the inverse of lexValue.
func quoteValue(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
