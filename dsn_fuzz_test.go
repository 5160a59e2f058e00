package pgherd

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func seedDSNs(f *testing.F) {
	for _, tt := range testDSNs {
		f.Add(tt.dsn)
	}
	for _, tt := range testBadDSNs {
		f.Add(tt.dsn)
	}
}

// FuzzFormatDSN: what parses can be formatted, and that parses as the same.
func FuzzFormatDSN(f *testing.F) {
	cleanEnv(f)
	seedDSNs(f)
	f.Fuzz(func(t *testing.T, dsn string) {
		c, err := ParseDSN(dsn)
		if err != nil || c.Params["service"] != "" {
			return
		}
		if err := c.Clone().validate(); err != nil {
			t.Errorf("parsed, but not valid: %v", err)
		}
		checkRoundTrip(t, c)
	})
}

// FuzzKeywordForm: each URL means what its settings mean in keyword form.
func FuzzKeywordForm(f *testing.F) {
	cleanEnv(f)
	seedDSNs(f)
	f.Fuzz(func(t *testing.T, dsn string) {
		if !strings.HasPrefix(dsn, "postgres://") {
			return
		}
		s, err := lexDSN(dsn)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(s)) {
			if name == "" || strings.ContainsAny(name, space+"=") || strings.Contains(name, "://") {
				return // cannot be written as a keyword
			}
			b.WriteString(name + " = " + quoteValue(s[name].value) + "\n")
		}
		want, wantErr := ParseDSN(dsn)
		got, err := ParseDSN(b.String())
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q and %q: errors %v and %v", dsn, b.String(), wantErr, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q and %q:\n%s\n%s", dsn, b.String(), dump(want), dump(got))
		}
	})
}

// FuzzAgainstPgx: a DSN without settings of ours means what it means to pgx.
func FuzzAgainstPgx(f *testing.F) {
	cleanEnv(f)
	seedDSNs(f)
	f.Add("postgres://u:p@h1,h2:5433,[::1]/d?sslmode=allow&application_name=x")
	f.Add(`user=u password = 'a\'b' host=a,b port=1,`)
	f.Add("postgres:// @")
	f.Fuzz(func(t *testing.T, dsn string) {
		s, err := lexDSN(dsn)
		if err != nil {
			return
		}
		for name := range s {
			ours := slices.ContainsFunc(routerParams, func(p param) bool { return p.name == name }) ||
				slices.Contains(hostLists[2:], name) || name == "target_session_attrs"
			if ours || name == "service" || name == "servicefile" || name == "passfile" || strings.HasPrefix(name, "sslc") ||
				name == "sslkey" || name == "sslrootcert" {
				return
			}
		}
		if v := s["host"].value; strings.Contains(v, ":") && !strings.Contains(v, "[") {
			return // ports in the list, and IPv6 addresses without brackets, are read differently
		}
		keywords := !strings.HasPrefix(dsn, "postgres")
		if keywords && (strings.Contains(s["host"].value, "[") || strings.Contains(dsn, "ssl")) {
			return // brackets, and ssl=true, are for URLs in libpq
		}
		if v, ok := s["user"]; ok && v.value == "" {
			return // to pgx the empty name, which no server accepts; to us the default
		}
		c, err := ParseDSN(dsn)
		if err != nil {
			return // ours is stricter
		}
		want, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatalf("%q: pgx says %v", dsn, err)
		}
		if s["connect_timeout"].value == "0" {
			return
		}
		comparePgx(t, c, want)
	})
}

// FuzzErrors: no error shows a part of the DSN.
func FuzzErrors(f *testing.F) {
	cleanEnv(f)
	for _, place := range secretPlaces {
		before, after, _ := strings.Cut(place, "S")
		f.Add(before, after)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "tr0ub4dor"
		checkErrorShowsNothing(t, before+secret+after, secret)
	})
}
