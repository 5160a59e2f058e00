package catalog

import (
	"slices"
	"strings"
)

// A searchPath is the schemas that bare names are looked for in, in order.
type searchPath []string

// parsePath reads the value of the setting search_path, for a function that
// has one of its own. user stands for "$user".
// https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-SEARCH-PATH
func parsePath(value, user string) searchPath {
	var p searchPath
	for len(value) > 0 {
		value = strings.TrimLeft(value, " \t\n\r\f\v")
		var name string
		if rest, quoted := strings.CutPrefix(value, `"`); quoted {
			name, rest = closeQuote(rest)
			_, value, _ = strings.Cut(rest, ",")
		} else {
			name, value, _ = strings.Cut(value, ",")
			name = strings.ToLower(strings.TrimSpace(name))
		}
		switch name {
		case "", "pg_temp":
			continue
		case "$user":
			name = user
		}
		p = append(p, name)
	}
	if !slices.Contains(p, "pg_catalog") {
		p = slices.Insert(p, 0, "pg_catalog")
	}
	return p
}

// closeQuote returns what stands before the quote that closes an identifier, in
// which quotes are doubled, and what stands behind it.
func closeQuote(s string) (name, rest string) {
	var b strings.Builder
	for {
		part, after, ok := strings.Cut(s, `"`)
		b.WriteString(part)
		if !ok || !strings.HasPrefix(after, `"`) {
			return b.String(), after
		}
		b.WriteByte('"')
		s = after[1:]
	}
}

// key tells paths apart.
func (p searchPath) key() string { return strings.Join(p, "\x00") }

// splitName takes a name as texts write it apart: s.f is f in schema s. A part that
// holds a dot or a quote is quoted in such a name.
func splitName(name string) (schema, bare string) {
	parts := make([]string, 0, 3)
	for len(name) > 0 {
		if rest, quoted := strings.CutPrefix(name, `"`); quoted {
			part, rest := closeQuote(rest)
			parts = append(parts, part)
			name = strings.TrimPrefix(rest, ".")
			continue
		}
		part, rest, _ := strings.Cut(name, ".")
		parts = append(parts, part)
		name = rest
	}
	switch n := len(parts); n {
	case 0:
		return "", ""
	case 1:
		return "", parts[0]
	default: // database.schema.name
		return parts[n-2], parts[n-1]
	}
}
